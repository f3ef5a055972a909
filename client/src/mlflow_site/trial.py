"""A run that is made, filled, read back and deleted, to see what a job with this login may do."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import uuid
from pathlib import Path

import mlflow
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.rest_utils import http_request

from mlflow_site.credentials import NO_LOGIN, PASSWORD, USERNAME
from mlflow_site.errors import CheckFailedError
from mlflow_site.network import get_default_host_creds

ARTIFACT_BYTES = 64 * 1024
EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"
FORBIDDEN = 403


class Trial:
    """What is tried with MLflow's own client, in an experiment of its own, which `clean_up` deletes.

    Args:
        uri: Where runs are kept.
        kind: What that is; `server` for a server of one's own.
        credentials: Where the login comes from.
    """

    def __init__(self, uri: str, kind: str, credentials: str) -> None:
        """Make the client."""
        mlflow.set_tracking_uri(uri)
        self._client = mlflow.MlflowClient()
        self._uri, self._kind, self._credentials = uri, kind, credentials
        self._experiment_id = ""
        self._run_id = ""
        self._artifact_uri = ""

    @property
    def user(self) -> str:
        """Whom messages name."""
        return os.environ.get(USERNAME) or "this login"

    def open_store(self) -> str:
        """Look into a store on this machine, which is made if there is none."""
        try:
            self._client.search_experiments(max_results=1)
        except Exception as error:
            raise CheckFailedError(f"The store {self._uri} cannot be opened: {_sentence(error)}") from None
        return f"runs are kept in {self._uri}, on this machine"

    def log_in(self) -> str:
        """Ask for something that takes a login."""
        try:
            self._client.search_experiments(max_results=1)
        except Exception as error:
            raise CheckFailedError(self._of_login(error)) from None
        if self._credentials == NO_LOGIN:
            return "none is asked for"
        return f"by {self._credentials}"

    def _of_login(self, error: Exception) -> str:
        """Return what to mend when the login is refused."""
        match _status(error):
            case 401 if self._credentials == NO_LOGIN:
                return f"The server asks for a login and none is set: set {USERNAME} and {PASSWORD}."
            case 401:
                return f"The server refuses the login of {self.user}: mend or renew {self._credentials}."
            case 403:
                return f"The server lets {self.user} do nothing, or nobody at this address: ask its administrator."
            case 429:
                return "The server has seen too many failed logins from here: wait a minute, then mend the password."
            case 502 | 503 | 504:
                return f"The server answers {_status(error)}: it is being started or is broken; try in a minute."
        if self._kind == "databricks" and "credential" in str(error):
            return "No login for Databricks works: set DATABRICKS_HOST and DATABRICKS_TOKEN, or mend ~/.databrickscfg."
        return f"Experiments cannot be listed: {_sentence(error)}"

    def ask_permission(self) -> str:
        """Look whether a job may write to its experiment, or make one.

        The experiment that MLFLOW_EXPERIMENT_NAME names gets no run: who may write to it may not always delete there.
        """
        named = self._named_experiment()
        may_write = f"{self.user} may write to the experiment {named.name!r}" if named else ""
        try:
            self._experiment_id = self._client.create_experiment(f"mlflow-site-check-{uuid.uuid4().hex}")
            run = self._client.create_run(self._experiment_id)
        except MlflowException as error:
            if _status(error) != FORBIDDEN:
                raise CheckFailedError(f"No experiment can be made: {_sentence(error)}") from None
            if may_write:
                return may_write
            raise CheckFailedError(
                f"The server does not let {self.user} make experiments: name one that it may write to in {EXPERIMENT}, "
                f"or ask the administrator."
            ) from None
        self._run_id, self._artifact_uri = run.info.run_id, str(run.info.artifact_uri)
        return may_write or f"{self.user} may make experiments and runs"

    def _named_experiment(self) -> Experiment | None:
        """Return the job's experiment, if it is named and exists; it has been seen to take runs."""
        name = os.environ.get(EXPERIMENT)
        if not name:
            return None
        try:
            found = self._client.get_experiment_by_name(name)
            refused = found is not None and self._is_refused(found.experiment_id)
        except MlflowException as error:
            if _status(error) != FORBIDDEN:
                raise CheckFailedError(f"The experiment {name!r} cannot be read: {_sentence(error)}") from None
            raise CheckFailedError(
                f"The server does not let {self.user} read the experiment {name!r}: ask the administrator for EDIT."
            ) from None
        if found is not None and found.lifecycle_stage == "deleted":
            raise CheckFailedError(
                f"The experiment {name!r} is deleted: restore it, or name another one in {EXPERIMENT}."
            )
        if refused:
            raise CheckFailedError(
                f"The server lets {self.user} read the experiment {name!r} but not write to it: ask the administrator "
                f"for EDIT."
            )
        return found

    def _is_refused(self, experiment_id: str) -> bool:
        """Ask for a run that no server can make, as its start is no time; permissions are looked at before that."""
        if self._kind != "server":
            return False
        body = {"experiment_id": experiment_id, "start_time": "never"}
        credentials = get_default_host_creds(self._uri)
        return bool(
            http_request(credentials, "/api/2.0/mlflow/runs/create", "POST", json=body).status_code == FORBIDDEN
        )

    def exchange(self) -> str | None:
        """Upload an artifact and download it again. Returns nothing if there is no run to do it in."""
        if not self._run_id:
            return None
        content = os.urandom(ARTIFACT_BYTES)
        step = "uploaded"
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, "check.bin")
            file.write_bytes(content)
            try:
                self._client.log_artifact(self._run_id, str(file))
                step = "downloaded"
                fetched = self._client.download_artifacts(self._run_id, file.name, _made(directory, "fetched"))
                equal = Path(fetched).read_bytes() == content
            except Exception as error:
                raise CheckFailedError(f"An artifact cannot be {step}: {_sentence(error)}") from None
        if not equal:
            raise CheckFailedError(
                "An artifact came back changed: look at what is between here and the artifact store."
            )
        return f"{ARTIFACT_BYTES // 1024} kB uploaded, downloaded and compared"

    def clean_up(self) -> str:
        """Delete what was made. Returns what was done.

        Raises:
            CheckFailedError: Something could not be deleted; the message says what is left.
        """
        left = []
        if self._artifact_uri:
            # Without an artifact there is nothing to delete, which some stores call an error.
            with contextlib.suppress(Exception):
                get_artifact_repository(self._artifact_uri).delete_artifacts()
            if self._lists_artifacts():
                left.append(f"the artifact of the run {self._run_id}")
        for what, identity, delete in (
            ("run", self._run_id, self._client.delete_run),
            ("experiment", self._experiment_id, self._client.delete_experiment),
        ):
            try:
                if identity:
                    delete(identity)
            except MlflowException:
                left.append(f"the {what} {identity}")
        if left:
            raise CheckFailedError(f"Not all that this test made could be deleted: delete {' and '.join(left)}.")
        return "what was made is deleted"

    def _lists_artifacts(self) -> bool:
        try:
            return bool(self._client.list_artifacts(self._run_id))
        except Exception:
            return False


def _made(directory: str, name: str) -> str:
    path = Path(directory, name)
    path.mkdir()
    return str(path)


def _status(error: Exception) -> int:
    """Return the status of HTTP that an error stands for."""
    # What MLflow tries again, and gives up in the end, it tells in words alone.
    if given_up := re.search(r"too many (\d{3}) error responses", str(error)):
        return int(given_up[1])
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", 0) or 0)


def _sentence(error: Exception) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())[:300].rstrip(".") + "."
