"""Azure Blob Storage."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.identity import ClientSecretCredential, DefaultAzureCredential
from azure.storage.blob import BlobBlock, BlobServiceClient

from stores import PART, ChangedError, Item, MoveError, NoStoreError, ObjectError, Receipt, Store, Wanted

# A blob has 50,000 blocks at most.
BLOCKS_MAX = 45_000
# The role that lets an identity do each operation, for messages.
ROLES = {
    "list": "Storage Blob Data Reader",
    "read": "Storage Blob Data Reader",
    "write": "Storage Blob Data Contributor",
    "remove": "Storage Blob Data Contributor",
}
MISSING = {"ContainerNotFound", "AccountNotFound"}


class Azure(Store):
    """A container, or what is under a prefix of it."""

    def __init__(self, uri: str, environment: Mapping[str, str], names: Mapping[str, str]) -> None:
        """Prepare a client with the credentials of this store, which may not be those of the other."""
        super().__init__(uri, environment, names)
        self.account, self.container = names["account"], names["container"]
        options: dict[str, Any] = {"max_single_put_size": PART, "max_single_get_size": PART, "max_chunk_get_size": PART}
        if environment.get("REQUESTS_CA_BUNDLE"):
            options["connection_verify"] = environment["REQUESTS_CA_BUNDLE"]
        if environment.get("AZURE_STORAGE_CONNECTION_STRING"):
            service = BlobServiceClient.from_connection_string(
                environment["AZURE_STORAGE_CONNECTION_STRING"], **options
            )
        else:
            service = BlobServiceClient(
                f"https://{self.account}.{names['suffix']}", credential=self._credential(), **options
            )
        self.client = service.get_container_client(self.container)

    def _credential(self) -> Any:
        given = self.environment
        if given.get("AZURE_STORAGE_ACCESS_KEY"):
            return given["AZURE_STORAGE_ACCESS_KEY"]
        if given.get("AZURE_CLIENT_SECRET"):
            return ClientSecretCredential(
                given["AZURE_TENANT_ID"], given["AZURE_CLIENT_ID"], given["AZURE_CLIENT_SECRET"]
            )
        return DefaultAzureCredential(managed_identity_client_id=given.get("AZURE_CLIENT_ID"))

    @property
    def place(self) -> tuple[str, ...]:
        """Return account, container and the parts of the prefix."""
        return ("azure", self.account, self.container, *filter(None, self.prefix.split("/")))

    @property
    def removal(self) -> str:
        """Return the command that removes all of it."""
        return shlex.join(
            [
                *("az", "storage", "blob", "delete-batch", "--account-name", self.account, "--source", self.container),
                *(["--pattern", f"{self.prefix}*"] if self.prefix else []),
            ]
        )

    def _fail(self, operation: str, error: AzureError, *, whole: bool = False) -> NoReturn:
        """Say in one sentence what the store refused, and what it takes."""
        code = str(getattr(error, "error_code", "") or "")
        status = getattr(error, "status_code", None)
        refused = isinstance(error, ClientAuthenticationError) or status in {401, 403}
        if refused:
            sentence = (
                f"The store {self.uri} refuses to {operation} ({code or status or 'no credential'}); it takes the role "
                f"{ROLES[operation]}."
            )
        elif code in MISSING:
            raise NoStoreError(f"The store {self.uri} does not exist ({code}).") from error
        else:
            text = str(getattr(error, "reason", "") or error).splitlines()[0].rstrip(".")
            sentence = f"The store {self.uri} failed to {operation}: {code or text}."
        if whole:
            raise MoveError(sentence) from error
        raise ObjectError(sentence, lasting=refused) from error

    def items(self) -> Iterator[Item]:
        """List all blobs but directories, which accounts with a hierarchical namespace list as well."""
        try:
            for blob in self.client.list_blobs(name_starts_with=self.prefix or None, include=["metadata"]):
                folder = (blob.metadata or {}).get("hdi_isfolder") == "true"
                if folder or (blob.name.endswith("/") and blob.size == 0):
                    continue
                yield self._item(blob.name.removeprefix(self.prefix), blob)
        except AzureError as error:
            self._fail("list", error, whole=True)

    @staticmethod
    def _item(key: str, properties: Any) -> Item:
        # A listing leaves out the quotes that other answers have.
        return Item(key, properties.size, properties.etag.strip('"'), properties.last_modified.timestamp())

    def find(self, key: str) -> Item | None:
        """Return a blob, or None where there is none."""
        try:
            return self._item(key, self.client.get_blob_client(self.prefix + key).get_blob_properties())
        except ResourceNotFoundError as error:
            if getattr(error, "error_code", "") in MISSING:
                self._fail("read", error)
            return None
        except AzureError as error:
            self._fail("read", error)

    def read(self, item: Item, offset: int, length: int) -> bytes:
        """Return a part of a blob, if it is still the same."""
        try:
            stream = self.client.get_blob_client(self.prefix + item.key).download_blob(
                offset,
                length,
                etag=f'"{item.version}"',
                match_condition=MatchConditions.IfNotModified,
                max_concurrency=1,
            )
            data: bytes = stream.readall()
        except (ResourceNotFoundError, ResourceModifiedError) as error:
            raise ChangedError(item.key) from error
        except HttpResponseError as error:
            if error.status_code in {412, 416}:
                raise ChangedError(item.key) from error
            self._fail("read", error)
        except AzureError as error:
            self._fail("read", error)
        return data

    def part_size(self, size: int) -> int:
        """Return the size of the blocks: larger ones where there would be too many."""
        return max(PART, -(-size // BLOCKS_MAX // PART) * PART)

    def write(self, key: str, size: int, parts: Iterator[bytes], wanted: Wanted) -> Receipt | None:
        """Store a blob; the store refuses a piece whose MD5 differs, and returns its own MD5 of a blob in one piece."""
        if "\\" in key:
            raise ObjectError("its key has a backslash, which Azure takes for a slash", lasting=True)
        blob = self.client.get_blob_client(self.prefix + key)
        try:
            if size <= PART:
                data = b"".join(parts)
                if not wanted():
                    return None
                answer = blob.upload_blob(data, length=len(data), overwrite=True, validate_content=True)
                digest = answer.get("content_md5")
                return Receipt(answer["etag"].strip('"'), ("md5", bytes(digest).hex()) if digest else None)
            blocks = []
            for number, part in enumerate(parts):
                name = base64.b64encode(f"move{number:06}".encode()).decode()
                blob.stage_block(name, part, length=len(part), validate_content=True)
                blocks.append(BlobBlock(name))
            if not wanted():
                return None  # blocks that belong to no blob are gone after a week
            return Receipt(str(blob.commit_block_list(blocks)["etag"]).strip('"'))
        except AzureError as error:
            self._fail("write", error)

    def remove(self, key: str) -> None:
        """Remove a blob."""
        try:
            self.client.delete_blob(self.prefix + key)
        except ResourceNotFoundError:
            return
        except AzureError as error:
            self._fail("remove", error)
