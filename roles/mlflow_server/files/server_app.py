"""The application that gunicorn serves: MLflow with its login, and what a site says of its artifact store.

MLflow lets the errors of a store's library through, which a client sees as a page that says "Internal Server Error".
Here each gets a status of its own, chosen by what MLflow's client does with it (mlflow.utils.request_utils): 503 for a
store that is away or busy is tried again; 507 for a full disk and 424 for a store that refuses (both RFC 4918) are told
at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import json
import logging
import math
import os
import posixpath
import re
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import server_access
import server_login
import server_speed
import server_store
from server_login import Message, Receive, Send

logger = logging.getLogger("mlflow.artifacts")

# Of a refused request, how many bytes of the body are read and how many seconds are waited before the refusal is sent.
BODY_READ = 64 * 1024 * 1024
ANSWER_HELD = 30.0

OF_CONNECTIONS = (ConnectionError, TimeoutError, socket.gaierror)
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What the libraries of the stores raise, by the scheme of the store: only the one in use is imported.
LIBRARIES = {
    "s3": {"botocore.exceptions": ["BotoCoreError", "ClientError"], "boto3.exceptions": ["Boto3Error"]},
    "wasbs": {"azure.core.exceptions": ["AzureError"]},
    "gs": {
        "google.api_core.exceptions": ["GoogleAPIError"],
        "google.auth.exceptions": ["GoogleAuthError"],
        "google.resumable_media": ["InvalidResponse", "DataCorruption"],
    },
}
# Where MLflow reads and writes artifacts and traces. Elsewhere the same errors are about something else: the calls of
# the AI gateway end with errors of requests, which are OSErrors too.
PATHS = re.compile(
    r"/(get-artifact|model-versions/get-artifact|v1/traces|(ajax-)?api/\d\.\d/"
    r"(mlflow-artifacts|mlflow/(artifacts|upload-artifact|logged-models|get-trace-artifact|get-online-trace-details"
    r"|traces|unified-traces)))(/|$)"
)
# With what a store says that it does not know the login, or that it may not do this. A status alone says less: S3
# answers 403 for an object in an archive, and 400 for a token that has expired. Where a store tells no code, to HEAD
# and at Google, the status is all there is.
LOGIN_CODES = {
    "401",
    "403",
    # S3
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    # Azure
    "AuthenticationFailed",
    "AuthorizationFailure",
    "AuthorizationPermissionMismatch",
    "InsufficientAccountPermissions",
    "InvalidAuthenticationInfo",
    "NoAuthenticationInformation",
}
# S3's word, with status 400, for an upload that came too slowly.
SLOW_CODES = {"RequestTimeout"}
UNAFFECTED = "what is logged to runs is not affected"


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status with which a store answered.

    Args:
        error: What its library raised.

    Returns:
        The status, or None when there was no answer.
    """
    answer = getattr(error, "response", None)
    candidates = [
        getattr(error, "status_code", None),
        getattr(error, "code", None),
        getattr(answer, "status_code", None),
        answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None,
    ]
    return next((int(found) for found in candidates if isinstance(found, int)), None)


def code_of(error: BaseException) -> str:
    """Return the store's own word for an error, or the status if it tells none."""
    answer = getattr(error, "response", None)
    told = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else getattr(error, "error_code", None)
    # Azure's is of an enumeration, whose text is another than the string that it is.
    return told if isinstance(told, str) else str(status_of(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Return an error and what it came from: boto3 wraps what S3 said in an error of its own."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def answer(error: BaseException) -> tuple[int, str]:
    """Return status and sentence for an error of the store or of the disk.

    Args:
        error: What was raised while an artifact was handled.

    Returns:
        The HTTP status, and a sentence for the client. It holds nothing of the error's own text, which can name hosts
        and keys; that goes to the journal.
    """
    if any(isinstance(cause, OSError) and cause.errno in NO_SPACE for cause in causes(error)):
        return 507, f"The server has no room left for artifacts; {UNAFFECTED}."
    told = next((cause for cause in causes(error) if status_of(cause)), None)
    status, code = (status_of(told), code_of(told)) if told else (None, "")
    if status == 404:
        return 404, "The artifact store has no such artifact, or no such bucket."
    if code in LOGIN_CODES:
        return 424, f"The artifact store refuses the server's login; {UNAFFECTED}."
    if status and 300 <= status < 500 and status not in (408, 429) and code not in SLOW_CODES:
        return 424, f"The artifact store refuses this request; {UNAFFECTED}."
    if isinstance(error, OSError) and not isinstance(error, OF_CONNECTIONS) and error.errno and status is None:
        return 500, f"The artifact store failed ({os.strerror(error.errno)}); {UNAFFECTED}."
    return 503, f"The artifact store cannot be reached, or is busy; {UNAFFECTED}."


def as_json(error: BaseException) -> tuple[int, str]:
    """Return status and body as MLflow's own errors have them, and tell the journal what happened."""
    status, sentence = answer(error)
    logger.error("%s [%s: %s]", sentence, type(error).__name__, " ".join(str(error).split()), exc_info=error)
    codes = {503: "TEMPORARILY_UNAVAILABLE", 404: "RESOURCE_DOES_NOT_EXIST"}
    return status, json.dumps({"error_code": codes.get(status, "INTERNAL_ERROR"), "message": sentence})


def errors_of_the_store() -> list[type[BaseException]]:
    """Return the classes of errors that the configured store's library raises, and those of the disk."""
    scheme = os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"].partition("://")[0]
    names = LIBRARIES.get(scheme, {}).items()
    return [OSError, *(getattr(importlib.import_module(module), name) for module, classes in names for name in classes)]


def keep_clients_from_the_store() -> None:
    """Say that the server hands out no addresses in the store: clients ask for them as soon as it says it could."""
    from mlflow.server import handlers, server_info_api
    from mlflow.utils.server_info import (
        SERVER_INFO_MULTIPART_DOWNLOADS_ENABLED,
        SERVER_INFO_MULTIPART_UPLOADS_ENABLED,
    )

    no = {SERVER_INFO_MULTIPART_DOWNLOADS_ENABLED: False, SERVER_INFO_MULTIPART_UPLOADS_ENABLED: False}
    upstream = handlers.build_server_info_payload
    handlers.build_server_info_payload = server_info_api.build_server_info_payload = lambda: upstream() | no


def as_absent(error: Exception, repository: Any, artifact_path: str) -> Exception | None:
    """Return the error for a file that is not there, or None when something else was wrong with it.

    AWS says 403 instead of 404 when the permission to list is one for a prefix, as it is for a site with a prefix. What
    it then allows is to list the key itself.
    """
    status = status_of(error)
    if status != 403 or not hasattr(repository, "parse_s3_compliant_uri"):
        return error if status == 404 else None
    bucket, root = repository.parse_s3_compliant_uri(repository.artifact_uri)
    key = posixpath.join(root, artifact_path)
    try:
        listed = repository._get_s3_client().list_objects_v2(
            Bucket=bucket, Prefix=key, MaxKeys=1, **repository._bucket_owner_params
        )
    except type(error):
        return None
    if any(entry["Key"] == key for entry in listed.get("Contents", [])):
        return None
    told = {"Error": {"Code": "NoSuchKey"}, "ResponseMetadata": {"HTTPStatusCode": 404}}
    return type(error)(told, "GetObject")


def let_errors_of_a_file_through() -> None:
    """Let the download of a file end with what the store's library raised.

    MLflow looks first whether a directory is meant, collects the errors of a download in a text, and answers 500 for
    all of them, which its client tries again for minutes: even for a file that is not there.
    """
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    upstream = ArtifactRepository.download_artifacts

    def download_artifacts(repository: Any, artifact_path: str, dst_path: str | None = None) -> str:
        if not artifact_path or not dst_path:
            return str(upstream(repository, artifact_path, dst_path))
        destination = Path(repository._create_download_destination(artifact_path, dst_path))
        try:
            repository._download_file(artifact_path, str(destination))
        except Exception as error:
            absent = as_absent(error, repository, artifact_path)
            if not absent:
                raise
            if not repository._is_directory(artifact_path):
                raise absent from None
            destination.unlink(missing_ok=True)
            return str(upstream(repository, artifact_path, dst_path))
        return str(destination)

    ArtifactRepository.download_artifacts = download_artifacts


def tell_errors_of_the_store(application: Any, flask_app: Any) -> None:
    """Answer errors of the store in this module's words, where they are about artifacts.

    Args:
        application: MLflow's FastAPI application, which answers part of the routes.
        flask_app: The Flask application inside of it, which answers the others.
    """
    import flask
    from fastapi import Request
    from fastapi.responses import Response

    async def respond(request: Request, error: Exception) -> Response:
        if not PATHS.match(request.url.path):
            raise error
        status, body = as_json(error)
        return Response(body, status, media_type="application/json")

    def respond_from_flask(error: Exception) -> tuple[str, int, dict[str, str]]:
        if not PATHS.match(flask.request.path):
            raise error
        status, body = as_json(error)
        return body, status, {"Content-Type": "application/json"}

    for kind in errors_of_the_store():
        application.add_exception_handler(kind, respond)
        flask_app.register_error_handler(kind, respond_from_flask)


@dataclass(frozen=True)
class ReadTheRest:
    """Reads a request's body before a refusal is sent, and the rest of it before the connection is closed.

    MLflow refuses without a look at the body, and uvicorn closes the connection with the answer. nginx hands an answer
    on as it comes and closes as well, so that the client that still sends finds a broken connection; or nginx fails to
    pass a piece on and says 502. MLflow's client tries either again for minutes. Of a body that is larger than
    BODY_READ, no more is sent than is on its way when the answer has come.

    Args:
        app: The application to call.
    """

    app: Callable[[Message, Receive, Send], Awaitable[None]]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request with the application, and keep the answer back until the body was read."""
        ended = scope["type"] != "http"

        async def receive_and_look() -> Message:
            nonlocal ended
            message = await receive()
            ended = ended or not message.get("more_body", False)
            return message

        async def read(most: float) -> None:
            left = most
            while not ended and left > 0:
                left -= len((await receive_and_look()).get("body", b""))

        async def send_and_read(message: Message) -> None:
            if message["type"] == "http.response.start" and not ended:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(read(BODY_READ), ANSWER_HELD)
            if message["type"] == "http.response.body" and not message.get("more_body", False) and not ended:
                await send(message | {"more_body": True})
                await read(math.inf)
                message = {"type": "http.response.body"}
            await send(message)

        await self.app(scope, receive_and_look, send_and_read)


def create_app(presigned: bool, remembered_seconds: float) -> Any:
    """Return MLflow's application; gunicorn calls this in each worker.

    Args:
        presigned: Whether clients may be sent to the store for the bytes of artifacts.
        remembered_seconds: How long a worker remembers who is an administrator.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
    from mlflow.server import app as flask_app
    from mlflow.server.auth import create_app as create_login_app

    server_access.hold_versions_to_what_they_name()
    server_access.hold_traces_to_their_experiment()
    server_access.keep_traces_in_their_experiment()
    server_access.reserve_locations_for_administrators()
    let_errors_of_a_file_through()
    if not presigned:
        keep_clients_from_the_store()
    server_speed.look_before_asking_the_database()
    server_speed.forget_what_was_read_without_a_look_at_it()
    server_speed.answer_in_compact_json()
    server_store.write_and_read_without_objects()
    server_store.find_runs_for_permissions_by_their_ids()
    application = create_login_app()
    server_speed.remember_administrators(remembered_seconds)
    server_speed.serve_flask_directly(application, flask_app)
    tell_errors_of_the_store(application, flask_app)
    application.add_middleware(server_login.CheckHeaders, has_workspaces=MLFLOW_ENABLE_WORKSPACES.get())
    # Outermost, so that the other one's answers come after the body as well.
    application.add_middleware(ReadTheRest)
    return application
