"""Artifacts are moved to Azure Blob Storage and Google Cloud Storage, and from there."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import AzureError
from azure.storage.blob import BlobServiceClient, ContainerClient
from gcp_storage_emulator.server import create_server

from testing.cloud.azurite import install
from testing.limits import wait_until
from tests.moving import ODD_NAMES, Move, files_of, fill

LARGE = 20 * 1024 * 1024 + 17


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    """Run an emulator of Google Cloud Storage; return a bucket."""
    server: Any = create_server("127.0.0.1", port := free_port(), in_memory=True, default_bucket="mlflow-artifacts")
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        yield "gs://mlflow-artifacts"
    server.stop()


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Azurite; return a connection string."""
    key, port = base64.b64encode(os.urandom(32)).decode(), free_port()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent", "--skipApiVersionCheck"]
    process = subprocess.Popen(
        ["node", str(install()), *options, "--disableTelemetry", "--location", str(tmp_path_factory.mktemp("azurite"))],
        env=os.environ | {"AZURITE_ACCOUNTS": f"mlflowtest:{key}"},
    )
    endpoint = f"http://127.0.0.1:{port}/mlflowtest"
    yield f"DefaultEndpointsProtocol=http;AccountName=mlflowtest;AccountKey={key};BlobEndpoint={endpoint};"
    process.terminate()
    process.wait()


@pytest.fixture
def container(connection: str) -> ContainerClient:
    client = BlobServiceClient.from_connection_string(connection, retry_total=0).get_container_client("artifacts")

    def is_ready() -> bool:
        with contextlib.suppress(AzureError):
            return client.exists() or bool(client.create_container())
        return False

    wait_until(is_ready, 60, "Azurite does not answer")
    return client


def filled(directory: Path, names: tuple[str, ...] = ODD_NAMES) -> dict[str, bytes]:
    """Fill a directory, with a file that goes in parts among the others."""
    content = fill(directory, names) | {"large": os.urandom(LARGE)}
    (directory / "large").write_bytes(content["large"])
    return content


def test_google_cloud_storage_there_and_back(google: str, tmp_path: Path) -> None:
    content = filled(tmp_path / "source")
    there = Move(str(tmp_path / "source"), f"{google}/some/prefix", tmp_path / "state")
    # Of an upload in several requests too, the store says the MD5.
    assert there("copy").report["verified_by"] == {"checksum of the store": len(content)}
    assert there("verify", "--read-back").report["verified_by"] == {"reading back": len(content)}
    assert there("copy").report["copied"]["objects"] == 0
    back = Move(f"{google}/some/prefix", str(tmp_path / "back"), tmp_path / "state")
    assert back("copy").status == 0
    assert files_of(tmp_path / "back") == content
    missing = Move(str(tmp_path / "source"), "gs://there-is-none", tmp_path / "state")("copy")
    assert missing.error == "The store gs://there-is-none does not exist: there is no bucket there-is-none."


def test_azure_blob_storage_there_and_back(connection: str, container: ContainerClient, tmp_path: Path) -> None:
    content = filled(tmp_path / "source", tuple(name for name in ODD_NAMES if "\\" not in name))
    (tmp_path / "source" / "back\\slash").write_bytes(b"a directory and a file, for Azure")
    store = "wasbs://artifacts@mlflowtest.blob.core.windows.net/some/prefix"
    environment = {"AZURE_STORAGE_CONNECTION_STRING": connection}
    there = Move(str(tmp_path / "source"), store, tmp_path / "state", {"to": environment})
    copied = there("copy")
    assert copied.report["failed"]["keys"] == ["back\\slash: its key has a backslash, which Azure takes for a slash"]
    assert copied.report["verified_by"] == {"checksum of the store": len(content) - 1, "reading back": 1}
    (tmp_path / "source" / "back\\slash").unlink()
    assert there("verify", "--read-back").report["verified_by"] == {"reading back": len(content)}
    container.upload_blob("some/prefix/1/run/artifacts/plain.txt", b"corrupted", overwrite=True)
    assert there("verify").report["mismatches"]["keys"] == ["1/run/artifacts/plain.txt"]
    assert there("copy").report["copied"]["objects"] == 1
    back = Move(store, str(tmp_path / "back"), tmp_path / "state", {"from": environment})
    assert back("copy").status == 0
    assert files_of(tmp_path / "back") == content
    missing = Move(str(tmp_path / "source"), store.replace("artifacts@", "none@"), tmp_path / "s", {"to": environment})
    assert "does not exist (ContainerNotFound)" in missing("copy").error
