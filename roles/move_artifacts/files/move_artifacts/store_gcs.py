"""Google Cloud Storage."""

from __future__ import annotations

import base64
import mimetypes
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import google.auth
import requests
from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, PreconditionFailed, Unauthorized
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.fileio import BlobWriter
from google.cloud.storage.retry import DEFAULT_RETRY

from stores import PART, ChangedError, Item, MoveError, NoStoreError, ObjectError, Receipt, Store, Wanted

# What the identity needs for each operation, for messages.
PERMISSIONS = {
    "list": "storage.objects.list",
    "read": "storage.objects.get",
    "write": "storage.objects.create, and storage.objects.delete to replace one",
    "remove": "storage.objects.delete",
}
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
ERRORS = (GoogleAPIError, GoogleAuthError, requests.RequestException)


class Gcs(Store):
    """A bucket, or what is under a prefix of it."""

    def __init__(self, uri: str, environment: Mapping[str, str], names: Mapping[str, str]) -> None:
        """Prepare a client with the credentials of this store, which may not be those of the other."""
        super().__init__(uri, environment, names)
        # The credential file; without it, the identity of the instance.
        file = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
        try:
            credentials = google.auth.load_credentials_from_file(file, scopes=[SCOPE])[0] if file else None
            client = storage.Client(
                project=environment.get("GOOGLE_CLOUD_PROJECT") or "mlflow", credentials=credentials
            )
        except (GoogleAuthError, OSError, ValueError) as error:
            raise MoveError(f"The store {uri} cannot be reached: there is no credential that can be used.") from error
        self.bucket = client.bucket(names["bucket"])

    @property
    def place(self) -> tuple[str, ...]:
        """Return bucket and the parts of the prefix."""
        return ("gcs", str(self.bucket.name), *filter(None, self.prefix.split("/")))

    @property
    def removal(self) -> str:
        """Return the command that removes all of it."""
        return shlex.join(["gcloud", "storage", "rm", "--recursive", f"gs://{self.bucket.name}/{self.prefix}**"])

    def _fail(self, operation: str, error: Exception, *, whole: bool = False) -> NoReturn:
        """Say in one sentence what the store refused, and what it takes."""
        refused = isinstance(error, (Forbidden, Unauthorized, GoogleAuthError))
        if refused:
            sentence = f"The store {self.uri} refuses to {operation}; it takes {PERMISSIONS[operation]}."
        elif isinstance(error, NotFound):
            raise NoStoreError(
                f"The store {self.uri} does not exist: there is no bucket {self.bucket.name}."
            ) from error
        else:
            text = " ".join(str(getattr(error, "message", "") or error).split()).rstrip(".")
            sentence = f"The store {self.uri} failed to {operation}: {text}."
        if whole:
            raise MoveError(sentence) from error
        raise ObjectError(sentence, lasting=refused) from error

    def items(self) -> Iterator[Item]:
        """List all objects but directory markers."""
        try:
            for blob in self.bucket.list_blobs(prefix=self.prefix or None):
                if not (blob.name.endswith("/") and blob.size == 0):
                    yield self._item(blob)
        except ERRORS as error:
            self._fail("list", error, whole=True)

    def _item(self, blob: Any) -> Item:
        key = blob.name.removeprefix(self.prefix)
        return Item(key, blob.size, str(blob.generation), blob.updated.timestamp())

    def _blob(self, key: str) -> Any:
        return self.bucket.blob(self.prefix + key, chunk_size=PART)

    def find(self, key: str) -> Item | None:
        """Return an object, or None where there is none."""
        try:
            blob = self.bucket.get_blob(self.prefix + key)
        except ERRORS as error:
            self._fail("read", error)
        return self._item(blob) if blob else None

    def checksum(self, item: Item) -> tuple[str, str] | None:
        """Return the MD5 that the store made of an object; of a composed one it has none."""
        try:
            blob = self.bucket.get_blob(self.prefix + item.key)
        except ERRORS as error:
            self._fail("read", error)
        return self._checksum_of(blob) if blob and str(blob.generation) == item.version else None

    @staticmethod
    def _checksum_of(blob: Any) -> tuple[str, str] | None:
        return ("md5", base64.b64decode(blob.md5_hash).hex()) if blob.md5_hash else None

    def read(self, item: Item, offset: int, length: int) -> bytes:
        """Return a part of an object as it is stored, if it is still the same."""
        try:
            data: bytes = self.bucket.blob(self.prefix + item.key).download_as_bytes(
                start=offset,
                end=offset + length - 1,
                raw_download=True,
                if_generation_match=int(item.version),
                checksum=None,
            )
        except (NotFound, PreconditionFailed) as error:
            raise ChangedError(item.key) from error
        except ERRORS as error:
            self._fail("read", error)
        return data

    def write(self, key: str, size: int, parts: Iterator[bytes], wanted: Wanted) -> Receipt | None:
        """Store an object, a large one by an upload of several requests; the store says its MD5."""
        blob = self._blob(key)
        kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
        try:
            if size <= PART:
                data = b"".join(parts)
                if not wanted():
                    return None
                blob.upload_from_string(data, content_type=kind, checksum=None, retry=DEFAULT_RETRY)
            else:
                writer = BlobWriter(
                    blob, chunk_size=PART, ignore_flush=True, retry=DEFAULT_RETRY, content_type=kind, checksum=None
                )
                try:
                    for part in parts:
                        writer.write(part)
                except BaseException:
                    writer.terminate()
                    raise
                if not wanted():
                    writer.terminate()
                    return None
                writer.close()
                blob.reload()
        except ERRORS as error:
            self._fail("write", error)
        return Receipt(str(blob.generation), self._checksum_of(blob))

    def remove(self, key: str) -> None:
        """Remove an object."""
        try:
            self._blob(key).delete()
        except NotFound:
            return
        except ERRORS as error:
            self._fail("remove", error)
