"""Prove that the server can use its artifact store: write, read, list, upload in parts and delete.

It runs as the server does: `systemd-run` gives it the same user and credentials, and the settings of the colour, which
it reads, the same environment. On success it prints nothing. Otherwise the last line on stderr says what is missing.

usage: prove_store.py SETTINGS        the gunicorn.conf.py of a colour
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
import urllib.parse
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

CONTENT = b"written by the MLflow server to prove that it can\n"
PROBES = ".mlflow-probe"
STEPS = ("write", "read", "list", "write in parts", "delete")
SECONDS = 10
ATTEMPTS = 2


class Failed(Exception):
    """A step did not succeed; the argument says why, in half a sentence."""


class Store(ABC):
    """A store as the proof needs it.

    Args:
        destination: Its address, as MLflow takes it.
    """

    # What each step needs, as the provider's documentation calls it.
    permissions: ClassVar[dict[str, str]]

    def __init__(self, destination: str) -> None:
        """Take the address apart."""
        self.address = urllib.parse.urlsplit(destination)
        prefix = self.address.path.strip("/")
        name = f"{socket.gethostname()}-{uuid.uuid4().hex}"
        self.folder = "/".join(part for part in (prefix, PROBES) if part)
        self.key = f"{self.folder}/{name}"

    @abstractmethod
    def write(self) -> None:
        """Write CONTENT."""

    @abstractmethod
    def read(self) -> bytes:
        """Return what was written."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the keys in the folder."""

    @abstractmethod
    def write_in_parts(self) -> None:
        """Write CONTENT as large artifacts are written."""

    @abstractmethod
    def delete(self) -> None:
        """Delete what was written."""

    @abstractmethod
    def reason(self, error: Exception) -> str:
        """Return why a step failed, in half a sentence without a secret."""


class Directory(Store):
    """A directory, perhaps on a file system that others share."""

    permissions: ClassVar[dict[str, str]] = dict.fromkeys(STEPS, "to own the directory")

    def __init__(self, destination: str) -> None:
        """Name a file."""
        super().__init__(destination)
        self.file = Path("/", self.key)

    def write(self) -> None:
        """Write the file, and make sure that it is on the disk."""
        self.file.parent.mkdir(exist_ok=True)
        with self.file.open("wb") as file:
            file.write(CONTENT)
            os.fsync(file.fileno())

    def read(self) -> bytes:
        """Return its content."""
        return self.file.read_bytes()

    def names(self) -> list[str]:
        """Return the paths of the directory, as keys."""
        return [str(path).lstrip("/") for path in self.file.parent.iterdir()]

    def write_in_parts(self) -> None:
        """Do nothing: a file has no parts."""

    def delete(self) -> None:
        """Delete the file. The folder stays: another host that shares the directory may be about to write there."""
        self.file.unlink()

    def reason(self, error: Exception) -> str:
        """Return the system's word for it."""
        return str(getattr(error, "strerror", None) or type(error).__name__)


class S3(Store):
    """A bucket of S3, or of what speaks like it."""

    permissions: ClassVar[dict[str, str]] = {
        "write": "s3:PutObject",
        "read": "s3:GetObject",
        "list": "s3:ListBucket",
        "write in parts": "s3:PutObject and s3:AbortMultipartUpload",
        "delete": "s3:DeleteObject",
    }

    def __init__(self, destination: str) -> None:
        """Make a client like MLflow's."""
        import boto3
        from botocore.config import Config

        super().__init__(destination)
        retries: Any = {"mode": "standard", "total_max_attempts": ATTEMPTS}
        config = Config(signature_version="s3v4", connect_timeout=SECONDS, read_timeout=SECONDS, retries=retries)
        endpoint = os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None
        self.client: Any = boto3.client("s3", endpoint_url=endpoint, config=config)
        self.object = {"Bucket": self.address.netloc, "Key": self.key}

    def write(self) -> None:
        """Put the object."""
        self.client.put_object(**self.object, Body=CONTENT)

    def read(self) -> bytes:
        """Get the object."""
        return bytes(self.client.get_object(**self.object)["Body"].read())

    def names(self) -> list[str]:
        """List the folder."""
        found = self.client.list_objects_v2(Bucket=self.address.netloc, Prefix=self.key)
        return [entry["Key"] for entry in found.get("Contents", [])]

    def write_in_parts(self) -> None:
        """Upload one part and complete it, and abort another upload, as MLflow does when a client is gone."""
        upload = self.client.create_multipart_upload(**self.object)["UploadId"]
        part = self.client.upload_part(**self.object, UploadId=upload, PartNumber=1, Body=CONTENT)
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        self.client.complete_multipart_upload(**self.object, UploadId=upload, MultipartUpload=parts)
        upload = self.client.create_multipart_upload(**self.object)["UploadId"]
        self.client.abort_multipart_upload(**self.object, UploadId=upload)

    def delete(self) -> None:
        """Delete the object."""
        self.client.delete_object(**self.object)

    def reason(self, error: Exception) -> str:
        """Return S3's code, or the kind of failure of the connection."""
        from botocore import exceptions

        if isinstance(error, exceptions.ClientError):
            return str(error.response.get("Error", {}).get("Code", "unknown"))
        if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
            return "no credentials: the instance has no role that it may use, and no key is given"
        return reason_of_connection(error)


class Azure(Store):
    """A container of Azure Blob Storage."""

    permissions: ClassVar[dict[str, str]] = {
        "write": "Microsoft.Storage/…/blobs/write",
        "read": "Microsoft.Storage/…/blobs/read",
        "list": "Microsoft.Storage/…/blobs/read",
        "write in parts": "Microsoft.Storage/…/blobs/write",
        "delete": "Microsoft.Storage/…/blobs/delete",
    }

    def __init__(self, destination: str) -> None:
        """Make a client like MLflow's."""
        from azure.identity import DefaultAzureCredential
        from azure.storage.blob import ContainerClient

        super().__init__(destination)
        container, _, host = self.address.netloc.rpartition("@")
        login: Any = os.environ.get("AZURE_STORAGE_ACCESS_KEY") or DefaultAzureCredential()
        limits: Any = {"connection_timeout": SECONDS, "read_timeout": SECONDS, "retry_total": ATTEMPTS - 1}
        self.container = ContainerClient(f"https://{host}", container, credential=login, **limits)
        self.blob = self.container.get_blob_client(self.key)

    def write(self) -> None:
        """Upload the blob."""
        self.blob.upload_blob(CONTENT, overwrite=True)

    def read(self) -> bytes:
        """Download the blob."""
        return bytes(self.blob.download_blob().readall())

    def names(self) -> list[str]:
        """List the folder."""
        return [blob.name for blob in self.container.list_blobs(name_starts_with=self.key)]

    def write_in_parts(self) -> None:
        """Stage a block and commit it."""
        from azure.storage.blob import BlobBlock

        self.blob.stage_block("mlflow", CONTENT)
        self.blob.commit_block_list([BlobBlock("mlflow")])

    def delete(self) -> None:
        """Delete the blob."""
        self.blob.delete_blob()

    def reason(self, error: Exception) -> str:
        """Return Azure's code, or the kind of failure."""
        from azure.core import exceptions

        if isinstance(error, exceptions.ClientAuthenticationError) and not error.response:
            return "no credentials: the instance has no identity that it may use, and no key is given"
        if isinstance(error, exceptions.HttpResponseError) and error.response:
            return str(getattr(error, "error_code", None) or f"status {error.status_code}")
        return reason_of_connection(error)


class Google(Store):
    """A bucket of Google Cloud Storage."""

    permissions: ClassVar[dict[str, str]] = {
        "write": "storage.objects.create",
        "read": "storage.objects.get",
        "list": "storage.objects.list",
        "write in parts": "storage.objects.create and storage.objects.delete, to overwrite",
        "delete": "storage.objects.delete",
    }

    def __init__(self, destination: str) -> None:
        """Make a client like MLflow's."""
        from google.cloud import storage

        super().__init__(destination)
        self.bucket: Any = storage.Client().bucket(self.address.netloc)
        self.options: dict[str, Any] = {"timeout": SECONDS, "retry": None}

    def write(self) -> None:
        """Upload the object at once."""
        self.bucket.blob(self.key).upload_from_string(CONTENT, **self.options)

    def read(self) -> bytes:
        """Download the object."""
        return bytes(self.bucket.blob(self.key).download_as_bytes(**self.options))

    def names(self) -> list[str]:
        """List the folder."""
        return [blob.name for blob in self.bucket.list_blobs(prefix=self.key, **self.options)]

    def write_in_parts(self) -> None:
        """Upload in a session, which is what an object with a chunk size is."""
        blob = self.bucket.blob(self.key, chunk_size=256 * 1024)
        blob.upload_from_string(CONTENT, **self.options)

    def delete(self) -> None:
        """Delete the object."""
        self.bucket.blob(self.key).delete(**self.options)

    def reason(self, error: Exception) -> str:
        """Return Google's status, or the kind of failure."""
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import DefaultCredentialsError, RefreshError

        if isinstance(error, DefaultCredentialsError):
            return "no credentials: the instance has no service account, and no key is given"
        if isinstance(error, RefreshError):
            return "the service account's key is not accepted"
        if isinstance(error, GoogleAPICallError):
            return f"status {error.code}"
        return reason_of_connection(error)


def reason_of_connection(error: Exception) -> str:
    """Return why a connection failed, in half a sentence."""
    text = f"{type(error).__name__} {error}".lower()
    if "certificate" in text or "ssl" in text:
        return "its certificate is not trusted; site_ca_certificates takes the authority that signed it"
    if any(word in text for word in ("connect", "resolve", "timeout", "timed out", "reset", "unreachable")):
        return "it cannot be reached"
    return type(error).__name__


STORES: dict[str, type[Store]] = {"s3": S3, "wasbs": Azure, "gs": Google, "": Directory}


def prove(destination: str) -> None:
    """Do each step.

    Args:
        destination: Address of the store, as MLflow takes it.

    Raises:
        Failed: With the sentence that says which step failed, why, and which permission it needs.
    """
    kind = STORES[urllib.parse.urlsplit(destination).scheme]
    found: Store | None = None

    def do(step: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:
            why = found.reason(error) if found else reason_of_connection(error)
            needs = kind.permissions.get(step)
            raise Failed(f"{destination}: cannot {step} ({why})" + (f"; it takes {needs}." if needs else ".")) from None

    found = do("log in", lambda: kind(destination))
    do("write", found.write)
    try:
        if do("read", found.read) != CONTENT:
            raise Failed(f"{destination}: what is read is not what was written.")
        if found.key not in do("list", found.names):
            raise Failed(f"{destination}: what was written is not listed.")
        do("write in parts", found.write_in_parts)
    finally:
        do("delete", found.delete)


def main() -> int:
    """Prove the store of the colour whose settings are named. Returns the exit status."""
    runpy.run_path(sys.argv[1])
    try:
        prove(os.environ["_MLFLOW_SERVER_ARTIFACT_DESTINATION"])
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
