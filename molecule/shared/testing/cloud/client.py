"""The cloud as a test has it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import requests

from testing.limits import limit

# Of the AWS account.
REGION = "eu-central-1"
# Of the Azure tenant.
SUBSCRIPTION = "7c5d2f0e-3f0b-4a5e-9d53-0a6b6b1f9d11"
RESOURCE_GROUP = "mlflow"
# Files in the cloud's directory.
CLIENT = "client.env"
CONTROL = "control"
LISTENER = "listener"
NAMES = "names"
PID = "pid"
GOOGLE_KEY = "google.json"
READY = "ready"
STORAGE = "storage.json"
CA = "ca.pem"
LOG = "log"

START_SECONDS = 60
STOP_SECONDS = 20
SHARED = Path(__file__).resolve().parents[2]


def bucket_names(bucket: str) -> list[str]:
    """Return the names under which an S3 bucket is found host-style."""
    return [f"{bucket}.s3.{REGION}.amazonaws.com", f"{bucket}.s3.amazonaws.com"]


@dataclass
class Cloud:
    """A running cloud; a context manager that stops it.

    Args:
        directory: Where it tells how to reach it.
        process: Its process; None when somebody else has started it.
    """

    directory: Path
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, directory: Path, *options: str) -> Cloud:
        """Start a cloud and wait until it is ready.

        Args:
            directory: Where it tells how to reach it; made when missing.
            options: Further options of `python -m testing.cloud`.

        Raises:
            RuntimeError: It did not become ready; the message ends with its log.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / READY).unlink(missing_ok=True)
        command = [sys.executable, "-m", "testing.cloud", "--directory", str(directory), *options]
        with (directory / LOG).open("wb") as log:
            environment = os.environ | {"PYTHONPATH": str(SHARED)}
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + limit(START_SECONDS)
        while not (directory / READY).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise RuntimeError(f"The cloud is not ready: {(directory / LOG).read_text(encoding='utf-8')}")
            time.sleep(0.05)
        return cls(directory, process)

    @classmethod
    def attach(cls, directory: Path) -> Cloud:
        """Use a cloud that runs already.

        Raises:
            RuntimeError: None is ready there.
        """
        cloud = cls(directory)
        if not cloud._answers():
            raise RuntimeError(f"No cloud is ready in {directory}")
        return cloud

    def stop(self) -> None:
        """End it, whoever has started it."""
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(limit(STOP_SECONDS))
            finally:
                self.process.kill()
        elif self._answers():
            # Only of one that answers is the id still that of a cloud.
            os.kill(int((self.directory / PID).read_text(encoding="utf-8")), signal.SIGTERM)
            deadline = time.monotonic() + limit(STOP_SECONDS)
            while self._answers() and time.monotonic() < deadline:
                time.sleep(0.05)

    def __enter__(self) -> Cloud:
        """Return the cloud."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it."""
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """All that a client has to have in its environment."""
        lines = (self.directory / CLIENT).read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def storage(self) -> dict[str, dict[str, str]]:
        """What a client of a store of objects has to have in its environment to be known there.

        Returns:
            Variables by kind of credentials: s3, azure_key, azure_identity, gcs (a file's name). The way there and the
            certificate come on top: for the control node they are in `environment`.
        """
        return dict(json.loads((self.directory / STORAGE).read_text(encoding="utf-8")))

    @property
    def listener(self) -> str:
        """Address and port where hosts reach it, when it was started with --listen."""
        return (self.directory / LISTENER).read_text(encoding="utf-8").strip()

    def names(self, *buckets: str) -> list[str]:
        """Return all names that a host without a proxy has to find at the listener's address, as in /etc/hosts.

        Args:
            buckets: S3 buckets whose names are among them.
        """
        fixed = (self.directory / NAMES).read_text(encoding="utf-8").split()
        return fixed + [name for bucket in buckets for name in bucket_names(bucket)]

    def fail(
        self,
        service: str,
        kind: str,
        operation: str | None = None,
        *,
        target: str | None = None,
        times: int | None = None,
    ) -> None:
        """Let something go wrong from now on; of several that fit, the first planned happens.

        Args:
            service: ssm, keyvault, entra, s3, iam, sts, blob, arm, gcs, google-oauth or google-iam.
            kind: denied, throttled, busy (another writes the same thing), error (of the server), hang (no answer
                for two minutes), reset (of the connection), cut (the connection is reset in the middle of the body,
                of the request if it has one, else of the answer), down (nobody there: of the whole service, for
                transfers under way as well) or revoked (of a store of objects: the credentials hold no more).
            operation: Befall only this one: its permission (ssm:GetParameters, s3:PutObject) or the name that the
                client library has for it (GetParameters, set_secret, token, upload_part).
            target: Befall only what has this in its name.
            times: How often; None for ever.
        """
        self._ask("POST", "faults", service=service, kind=kind, operation=operation, target=target, times=times)

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        self._ask("DELETE", "faults")

    def calls(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return what was asked of the cloud since `forget_calls`, in the order in which it was answered.

        Args:
            service: Only this one: as for `fail`, or proxy for names that it does not serve.

        Returns:
            For each call `service`, `operation` (the permission that it takes), `method` (the client library's name
            of it), `target` (names, separated by commas), `status` (0: no answer) and `identity` (None: not logged
            in, as the first request to a Key Vault always is).
        """
        return [call for call in self._ask("GET", "calls") if service in (None, call["service"])]

    def forget_calls(self) -> None:
        """Forget the calls."""
        self._ask("DELETE", "calls")

    def reset(self) -> None:
        """Empty the stores, and forget faults and calls."""
        self._ask("POST", "reset")
        self.heal()
        self.forget_calls()

    def _answers(self) -> bool:
        if not (self.directory / READY).exists():
            return False
        try:
            self._ask("GET", "calls")
        except requests.RequestException:
            # Refused, or broken off because it is just ending.
            return False
        return True

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        url = (self.directory / CONTROL).read_text(encoding="utf-8").strip()
        with requests.Session() as session:
            # Whatever proxy the test's own environment names: this one is on this machine.
            session.trust_env = False
            response = session.request(method, f"{url}/{path}", json=body or None, timeout=limit(10))
        if not response.ok:
            raise ValueError(response.text)
        return response.json()
