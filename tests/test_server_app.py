"""What a client is told when the artifact store fails: errors as the stores' own libraries raise them."""

import errno
import importlib.util
import json
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import azure.core.exceptions
import boto3.exceptions
import botocore.exceptions
import google.api_core.exceptions
import google.auth.exceptions
import pytest
import requests
import uvicorn
from azure.storage.blob import StorageErrorCode
from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.testclient import TestClient
from flask import Flask
from google.resumable_media import InvalidResponse
from mlflow.entities import FileInfo
from mlflow.server import app as mlflow_app
from mlflow.store.artifact.artifact_repo import ArtifactRepository

from tests.project import PROJECT

FILES = PROJECT / "roles" / "mlflow_server" / "files"


def load(name: str) -> ModuleType:
    """Return a script of the role as a module."""
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


server_app = load("server_app")


def of_s3(status: int, code: str) -> botocore.exceptions.ClientError:
    answer = {"Error": {"Code": code, "Message": "key AKIASECRET"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(answer, "PutObject")


def of_azure(status: int, code: str) -> azure.core.exceptions.HttpResponseError:
    error = azure.core.exceptions.HttpResponseError("of mlflowtest")
    error.status_code = status
    error.error_code = StorageErrorCode(code)  # type: ignore[attr-defined]
    return error


def wrapped(cause: Exception) -> Exception:
    """Return what boto3's upload makes of an error of S3."""
    error: Exception = boto3.exceptions.S3UploadFailedError("Failed to upload weights.bin to bucket/key")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 507, "no room left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 507, "no room left"),
        (PermissionError(errno.EACCES, "Permission denied"), 500, "Permission denied"),
        (of_s3(403, "AccessDenied"), 424, "refuses the server's login"),
        (wrapped(of_s3(403, "AccessDenied")), 424, "refuses the server's login"),
        (wrapped(of_s3(503, "SlowDown")), 503, "cannot be reached, or is busy"),
        (of_s3(404, "NoSuchBucket"), 404, "no such bucket"),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="https://s3"), 503, "cannot be reached"),
        (of_s3(403, "403"), 424, "refuses the server's login"),
        (of_s3(400, "ExpiredToken"), 424, "refuses the server's login"),
        (of_s3(403, "InvalidObjectState"), 424, "refuses this request"),
        (of_s3(400, "KMS.DisabledException"), 424, "refuses this request"),
        (of_s3(400, "KeyTooLongError"), 424, "refuses this request"),
        (of_s3(301, "PermanentRedirect"), 424, "refuses this request"),
        (of_s3(400, "RequestTimeout"), 503, "or is busy"),
        (of_s3(429, "TooManyRequests"), 503, "or is busy"),
        # S3 completes an upload in parts with a status of 200 before it knows.
        (of_s3(200, "InternalError"), 503, "or is busy"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 503, "cannot be reached"),
        (of_azure(403, "AuthenticationFailed"), 424, "refuses the server's login"),
        (of_azure(409, "BlobArchived"), 424, "refuses this request"),
        (of_azure(503, "ServerBusy"), 503, "or is busy"),
        (azure.core.exceptions.ServiceRequestError("no route"), 503, "cannot be reached"),
        (google.api_core.exceptions.Forbidden("no"), 424, "refuses the server's login"),
        (InvalidResponse(SimpleNamespace(status_code=403), "no"), 424, "refuses the server's login"),
        (google.api_core.exceptions.PreconditionFailed("no"), 424, "refuses this request"),
        (google.api_core.exceptions.ServiceUnavailable("busy"), 503, "or is busy"),
        (google.auth.exceptions.TransportError("no route"), 503, "cannot be reached"),
        (requests.ConnectionError("no route"), 503, "cannot be reached"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_each_failure_has_a_status_and_a_sentence(error: Exception, status: int, sentence: str) -> None:
    told, body = server_app.as_json(error)
    assert told == status
    assert sentence in json.loads(body)["message"]
    assert "AKIASECRET" not in body
    assert "bucket/key" not in body


@pytest.fixture(params=[FastAPI, Flask], ids=["fastapi", "flask"])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return what asks an application, which fails to reach something wherever it is asked."""
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", "/srv")
    asynchronous, synchronous = FastAPI(), Flask("test")

    def fail(path: str) -> str:
        raise requests.ConnectionError("no route")

    asynchronous.add_api_route("/{path:path}", fail)
    synchronous.add_url_rule("/<path:path>", view_func=fail)
    server_app.tell_errors_of_the_store(asynchronous, synchronous)
    client = TestClient(asynchronous, raise_server_exceptions=False) if request.param is FastAPI else None
    return client.get if client else synchronous.test_client().get


def of_artifacts() -> list[str]:
    """Return the paths under which MLflow's Flask application answers about artifacts and traces."""
    paths = {rule.rule.replace("<path:", "<") for rule in mlflow_app.url_map.iter_rules()}
    return sorted(path for path in paths if "artifact" in path or "trace" in path)


@pytest.mark.parametrize(
    "path", [*of_artifacts(), "/api/2.0/mlflow-artifacts/artifacts/1/x", "/ajax-api/2.0/mlflow-artifacts/artifacts/1"]
)
def test_what_fails_about_artifacts_is_told_as_the_store_s(ask: Callable[[str], Any], path: str) -> None:
    answer = ask(path)
    assert answer.status_code == 503
    assert "artifact store" in answer.text


@pytest.mark.parametrize("path", ["/gateway/artifacts/invocations", "/api/2.0/mlflow/runs/create", "/graphql"])
def test_what_fails_elsewhere_is_not(ask: Callable[[str], Any], path: str) -> None:
    answer = ask(path)
    assert answer.status_code == 500
    assert "artifact store" not in answer.text


def test_the_journal_says_where_it_failed(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    except OSError as error:
        server_app.as_json(error)
    assert "test_the_journal_says_where_it_failed" in caplog.text


@pytest.mark.parametrize(("destination", "count"), [("/srv", 1), ("s3://b", 4), ("wasbs://c@a", 2), ("gs://b", 5)])
def test_only_the_library_of_the_store_in_use_is_asked(
    monkeypatch: pytest.MonkeyPatch, destination: str, count: int
) -> None:
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", destination)
    kinds = server_app.errors_of_the_store()
    assert len(kinds) == count
    assert all(issubclass(kind, Exception) for kind in kinds)


class Repository(ArtifactRepository):  # type: ignore[misc]
    """A store that has one file in a folder, and can be busy."""

    busy = False

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Not asked for."""

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Not asked for."""

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return the folder, or the file in it."""
        listed = {None: FileInfo("folder", True, None), "folder": FileInfo("folder/there.txt", False, 5)}
        return [listed[path or None]] if (path or None) in listed else []

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        if self.busy:
            raise of_s3(503, "SlowDown")
        # As the store of Azure does it.
        Path(local_path).touch()
        if remote_file_path != "folder/there.txt":
            raise of_s3(404, "NoSuchKey")
        Path(local_path).write_text("there")


def test_the_download_of_a_file_ends_with_what_the_store_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ArtifactRepository, "download_artifacts", ArtifactRepository.download_artifacts)
    repository = Repository("s3://bucket")
    server_app.let_errors_of_a_file_through()
    assert Path(repository.download_artifacts("folder/there.txt", str(tmp_path))).read_text() == "there"
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        repository.download_artifacts("nothing.txt", str(tmp_path))
    assert server_app.as_json(raised.value)[0] == 404
    repository.busy = True
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        repository.download_artifacts("folder", str(tmp_path))
    assert server_app.as_json(raised.value)[0] == 503


class Client:
    """S3 as AWS has it for who may list a prefix alone.

    Args:
        refused: What reading objects ends with.
        listing: Whether listing is allowed.
    """

    def __init__(self, refused: Exception | None = None, listing: bool = True) -> None:
        """Keep what is refused."""
        self.refused, self.listing = refused, listing

    def list_objects_v2(self, Prefix: str, MaxKeys: int, **_bucket: str) -> dict[str, Any]:
        """Return the first keys, in order."""
        if not self.listing:
            raise of_s3(403, "AccessDenied")
        keys = sorted(["site/folder/there.txt", "site/folder/there.txt.old"])
        return {"Contents": [{"Key": key} for key in keys if key.startswith(Prefix)][:MaxKeys]}


class BehindAPrefix(Repository):
    """The same store, in a bucket that is not told about as a whole."""

    client = Client()
    _bucket_owner_params: dict[str, str] = {}  # noqa: RUF012 - as MLflow has it

    def parse_s3_compliant_uri(self, uri: str) -> tuple[str, str]:
        """Return bucket and prefix."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        return bucket, prefix

    def _get_s3_client(self) -> Client:
        return self.client

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        if self.client.refused:
            raise self.client.refused
        try:
            super()._download_file(remote_file_path, local_path)
        except botocore.exceptions.ClientError:
            raise of_s3(403, "403") from None


def test_what_aws_hides_behind_a_refusal_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArtifactRepository, "download_artifacts", ArtifactRepository.download_artifacts)
    server_app.let_errors_of_a_file_through()
    repository = BehindAPrefix("s3://bucket/site")
    whole = Path(repository.download_artifacts("folder", str(tmp_path)))
    assert [file.name for file in whole.rglob("*") if file.is_file()] == ["there.txt"]

    def told(path: str) -> int:
        with pytest.raises(botocore.exceptions.ClientError) as raised:
            repository.download_artifacts(path, str(tmp_path))
        return int(server_app.as_json(raised.value)[0])

    assert told("nothing.txt") == 404
    # Its name is how another's begins.
    assert told("folder/there") == 404
    repository.client = Client(listing=False)
    assert told("nothing.txt") == 424
    repository.client = Client(refused=of_s3(403, "InvalidObjectState"))
    assert told("folder/there.txt") == 424


@pytest.mark.parametrize("path", ["", "folder"])
def test_the_download_of_a_directory_is_all_that_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(ArtifactRepository, "download_artifacts", ArtifactRepository.download_artifacts)
    server_app.let_errors_of_a_file_through()
    whole = Path(Repository("s3://bucket").download_artifacts(path, str(tmp_path)))
    assert [file.name for file in whole.rglob("*") if file.is_file()] == ["there.txt"]


def test_a_directory_is_proved_and_left_as_it_was(tmp_path: Path) -> None:
    prove_store = load("prove_store")
    (tmp_path / "1").mkdir()
    for _ in range(2):
        prove_store.prove(str(tmp_path))
        assert {path.name for path in tmp_path.rglob("*")} == {"1", prove_store.PROBES}
    with pytest.raises(prove_store.Failed, match=r"/nowhere: cannot write \(No such file or directory\)"):
        prove_store.prove(str(tmp_path / "nowhere"))


def test_two_hosts_prove_a_shared_directory_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prove_store = load("prove_store")
    first, second = (prove_store.Directory(str(tmp_path)) for _ in range(2))
    first.write()
    upstream = Path.mkdir

    def mkdir(path: Path, exist_ok: bool = False) -> None:
        upstream(path, exist_ok=exist_ok)
        first.delete()

    # The first is done between two calls of the second.
    monkeypatch.setattr(Path, "mkdir", mkdir)
    second.write()
    assert second.names() == [second.key]


REFUSED = b"Not for you.\n"
PIECE = b"x" * 1_000_000


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Path]:
    """Yield the socket of a server that refuses a path without reading the body, and tells the length of others."""
    application = FastAPI()

    @application.put("/refused")
    @application.get("/refused")
    async def refuse() -> Response:
        return Response(REFUSED, 403)

    @application.put("/read")
    async def read(request: Request) -> Response:
        return Response(str(len(await request.body())))

    application.add_middleware(server_app.ReadTheRest)
    path = tmp_path / "socket"
    server = uvicorn.Server(uvicorn.Config(application, uds=str(path), log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield path
    server.should_exit = True
    thread.join()


def begin(path: Path, request: str, length: int = 0) -> socket.socket:
    """Send the head of a request on a connection of its own, as nginx does."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(path))
    head = f"{request} HTTP/1.1\r\nHost: mlflow\r\nConnection: close\r\n"
    connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() if length else f"{head}\r\n".encode())
    return connection


def answered(connection: socket.socket, until: bytes = b"") -> bytes:
    """Return what comes until it ends so, or until the connection is closed."""
    received = b""
    while not until or not received.endswith(until):
        piece = connection.recv(65536)
        if not piece:
            break
        received += piece
    return received


def test_a_refusal_comes_after_the_body(refusing: Path) -> None:
    with begin(refusing, "PUT /refused", 3 * len(PIECE)) as connection:
        connection.sendall(2 * PIECE)
        assert select.select([connection], [], [], 1) == ([], [], []), "a client that still sends gets no answer"
        connection.sendall(PIECE)
        assert answered(connection).startswith(b"HTTP/1.1 403 ")


def test_a_large_body_may_go_on_after_the_answer(refusing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_app, "BODY_READ", len(PIECE))
    with begin(refusing, "PUT /refused", 3 * len(PIECE)) as connection:
        connection.sendall(PIECE)
        assert answered(connection, REFUSED).startswith(b"HTTP/1.1 403 ")
        for _ in range(2):
            connection.sendall(PIECE)
        assert answered(connection) == b""


def test_a_body_that_was_announced_and_never_comes_holds_up_nobody(
    refusing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_app, "ANSWER_HELD", 0.1)
    with begin(refusing, "PUT /refused", len(PIECE)) as gone:
        assert answered(gone, REFUSED).startswith(b"HTTP/1.1 403 ")
    with begin(refusing, "PUT /read", len(PIECE)) as connection:
        connection.sendall(PIECE)
        assert answered(connection).endswith(b"1000000")


def test_a_request_without_a_body_is_over_with_the_answer(refusing: Path) -> None:
    with begin(refusing, "GET /refused") as connection:
        assert answered(connection).endswith(REFUSED)
