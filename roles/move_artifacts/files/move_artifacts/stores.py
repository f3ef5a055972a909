"""What the mover knows of a store: a few operations, which each kind of store does in its own way."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shlex
import shutil
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# What is read, held and sent at once. An object that is larger goes in parts of this size.
PART = 8 * 1024 * 1024
# Where a directory holds what is not whole yet; on the file system of the final place, so that a rename puts it there.
TEMPORARY = ".mlflow-move"

# Whether the object is still to be put in place, asked right before it is.
Wanted = Callable[[], bool]


class MoveError(Exception):
    """Something that the operator has to mend, and no other object would fare better; its text is one sentence."""


class NoStoreError(MoveError):
    """There is no store of this name."""


class ObjectError(Exception):
    """One object cannot be moved; its text is one sentence."""

    def __init__(self, sentence: str, *, lasting: bool = False) -> None:
        """Keep the sentence.

        Args:
            sentence: What is wrong.
            lasting: Whether another try would end the same way.
        """
        super().__init__(sentence)
        self.lasting = lasting


class ChangedError(Exception):
    """The object is gone, or is another than was listed. The next pass lists it anew."""


@dataclass(frozen=True)
class Item:
    """An object as a store lists it. Its version is another one for each content at least."""

    key: str
    size: int
    version: str
    modified: float

    def not_before(self, other: Item) -> bool:
        """Say whether this was written when the other was, or later: most stores know whole seconds only."""
        return int(self.modified) >= int(other.modified)


@dataclass(frozen=True)
class Receipt:
    """What a store says of an object that it has just taken: its version, and a checksum of its own if it made one."""

    version: str
    checksum: tuple[str, str] | None = None


class Store(ABC):
    """A place for objects by key.

    Args:
        uri: As MLflow writes it, without a slash at the end.
        environment: Variables that say how to reach it and by which credentials.
        names: What the URI names, such as bucket and prefix.
    """

    # Whether an unchanged version proves unchanged content.
    versions_prove_content = True

    def __init__(self, uri: str, environment: Mapping[str, str], names: Mapping[str, str]) -> None:
        """Prepare; nothing is asked of the store yet."""
        self.uri = uri
        self.environment = environment
        self.prefix = f"{names['prefix']}/" if names.get("prefix") else ""
        # Told of an upload in several requests when it begins and when it has ended, so that clean() can end one that
        # was cut off.
        self.begun: Callable[[str, str], None] = lambda key, upload: None
        self.ended: Callable[[str], None] = lambda upload: None

    @property
    @abstractmethod
    def place(self) -> tuple[str, ...]:
        """Return what tells this store from others: where it is, then the parts of its path."""

    @property
    @abstractmethod
    def removal(self) -> str:
        """Return the command by which the operator removes all of it, some day."""

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """List all objects."""

    @abstractmethod
    def find(self, key: str) -> Item | None:
        """Return an object, or None where there is none."""

    @abstractmethod
    def read(self, item: Item, offset: int, length: int) -> bytes:
        """Return a part of an object.

        Raises:
            ChangedError: It is gone, or is another by now.
        """

    @abstractmethod
    def write(self, key: str, size: int, parts: Iterator[bytes], wanted: Wanted) -> Receipt | None:
        """Store an object. Readers see the former one, or none, until it is whole.

        Args:
            key: Its key.
            size: Its size.
            parts: Its bytes, each part but the last of part_size().
            wanted: Asked once all of it has been sent; if it says no, nothing is put in place.

        Returns:
            What the store says of it, or None if it was not put in place.
        """

    @abstractmethod
    def remove(self, key: str) -> None:
        """Remove an object; none is no error."""

    def checksum(self, item: Item) -> tuple[str, str] | None:
        """Return the algorithm and checksum that the store made of an object, for those that let one ask."""
        return None

    def part_size(self, size: int) -> int:
        """Return the size of the parts to write an object in."""
        return PART

    def clean(self, uploads: Iterable[tuple[str, str]]) -> None:
        """Remove what an earlier run left unfinished here.

        Args:
            uploads: Key and name of uploads that began and did not end.
        """
        return


def parts_of(store: Store, item: Item, size: int) -> Iterator[bytes]:
    """Read an object in parts.

    Args:
        store: Where it is.
        item: The object.
        size: Size of a part.

    Raises:
        ChangedError: It is gone, or is another by now.
    """
    for offset in range(0, item.size, size):
        wanted = min(size, item.size - offset)
        # A store may be asked for less than a part is: what it sends is held twice for a moment.
        pieces = [store.read(item, offset + start, min(PART, wanted - start)) for start in range(0, wanted, PART)]
        part = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if len(part) != wanted:
            raise ChangedError(item.key)
        yield part


class Directory(Store):
    """A directory of this host."""

    # Who writes into a file may set its times as well.
    versions_prove_content = False

    def __init__(self, uri: str, environment: Mapping[str, str], names: Mapping[str, str]) -> None:
        """Prepare; the directory need not exist."""
        super().__init__(uri, environment, names)
        self.root = Path(uri)
        self.temporary = self.root / TEMPORARY

    @property
    def place(self) -> tuple[str, ...]:
        """Return the parts of its path, links resolved."""
        return ("directory", *self.root.resolve().parts)

    @property
    def removal(self) -> str:
        """Return the command that removes all of it."""
        return shlex.join(["find", str(self.root), "-mindepth", "1", "-delete"])

    def items(self) -> Iterator[Item]:
        """List all files, those behind links too, since MLflow reads them as well."""
        if not self.root.is_dir():
            raise NoStoreError(f"The directory {self.uri} does not exist, or user {os.getuid()} may not enter it.")
        yield from self._below(self.root, "", frozenset())

    def _below(self, directory: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[Item]:
        try:
            status = directory.stat()
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except FileNotFoundError:
            return  # removed since its parent was listed
        except PermissionError as error:
            raise MoveError(f"The directory {directory} cannot be listed by user {os.getuid()}.") from error
        here = (status.st_dev, status.st_ino)
        if here in above:
            return  # a link to a directory around it
        for entry in entries:
            if not prefix and entry.name == TEMPORARY:
                continue
            try:
                if entry.is_dir():
                    yield from self._below(Path(entry.path), f"{prefix}{entry.name}/", above | {here})
                elif entry.is_file():
                    yield self._item(f"{prefix}{entry.name}", entry.stat())
            except FileNotFoundError:
                continue

    @staticmethod
    def _item(key: str, status: os.stat_result) -> Item:
        version = f"{status.st_mtime_ns}.{status.st_size}.{status.st_ino}"
        return Item(key, status.st_size, version, status.st_mtime)

    def _path(self, key: str) -> Path:
        if "\0" in key or any(part in {"", ".", ".."} for part in key.split("/")):
            raise ObjectError("its key cannot be the path of a file", lasting=True)
        return self.root / key

    def find(self, key: str) -> Item | None:
        """Return a file, or None where there is none."""
        try:
            status = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return self._item(key, status) if stat.S_ISREG(status.st_mode) else None

    def read(self, item: Item, offset: int, length: int) -> bytes:
        """Return a part of a file; one that is written into meanwhile is another file by its times."""
        try:
            with self._path(item.key).open("rb") as file:
                if self._item(item.key, os.fstat(file.fileno())).version != item.version:
                    raise ChangedError(item.key)
                file.seek(offset)
                data = file.read(length)
                if self._item(item.key, os.fstat(file.fileno())).version != item.version:
                    raise ChangedError(item.key)
                return data
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ChangedError(item.key) from error
        except OSError as error:
            raise ObjectError(f"its file cannot be read: {error.strerror}") from error

    def write(self, key: str, size: int, parts: Iterator[bytes], wanted: Wanted) -> Receipt | None:
        """Write a file under another name, and rename it once it is on the disk."""
        final = self._path(key)
        unfinished = self.temporary / uuid.uuid4().hex
        try:
            self.temporary.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
                version = self._item(key, os.fstat(file.fileno())).version
            if not wanted():
                return None
            final.parent.mkdir(parents=True, exist_ok=True)
            unfinished.replace(final)
            descriptor = os.open(final.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            # A full disk and a directory that is not ours spoil every other object too.
            if error.errno not in {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EILSEQ}:
                raise MoveError(f"The directory {self.uri} cannot be written to: {error.strerror}.") from error
            raise ObjectError(f"its key cannot be the path of a file here: {error.strerror}", lasting=True) from error
        finally:
            unfinished.unlink(missing_ok=True)
        return Receipt(version)

    def remove(self, key: str) -> None:
        """Remove a file. The directory that it leaves empty stays: the server may be about to write into it."""
        self._path(key).unlink(missing_ok=True)

    def clean(self, uploads: Iterable[tuple[str, str]]) -> None:
        """Remove the files that were not whole."""
        shutil.rmtree(self.temporary, ignore_errors=True)


# Module and class of each kind of store, and what its URI looks like. Only those that are used are imported.
KINDS = {
    "s3": ("store_s3", "S3", r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])"),
    "wasbs": (
        "store_azure",
        "Azure",
        r"wasbs://(?P<container>[a-z0-9-]{3,63}|\$root)@(?P<account>[a-z0-9]{3,24})\.(?P<suffix>blob\.core\."
        r"(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net))",
    ),
    "gs": ("store_gcs", "Gcs", r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]{1,220}[a-z0-9])"),
}
PREFIX = r"(?:/(?P<prefix>[^\s?#]+))?"
TAKES = (
    "an absolute directory, s3://<bucket>[/<prefix>], wasbs://<container>@<account>.blob.core.windows.net[/<prefix>]"
)
TAKES += " or gs://<bucket>[/<prefix>]"


def open_store(uri: str, environment: Mapping[str, str]) -> Store:
    """Return the store that a URI names.

    Args:
        uri: As in site_artifact_store.
        environment: Variables that say how to reach it and by which credentials.

    Raises:
        ValueError: The URI is malformed.
        MoveError: What reaches such a store is not installed.
    """
    trimmed = uri.rstrip("/")
    path_parts = trimmed.partition("://")[2].split("/")[1:] if "://" in trimmed else trimmed.split("/")[1:]
    if any(part in {"", ".", ".."} for part in path_parts):
        raise ValueError(f"{uri!r} is not a store; it takes {TAKES}.")
    if re.fullmatch(r"/[^\s\0]+", trimmed):
        return Directory(trimmed, environment, {})
    module, name, pattern = KINDS.get(trimmed.partition("://")[0], ("", "", "(?!)"))
    match = re.fullmatch(pattern + PREFIX, trimmed)
    if match is None:
        raise ValueError(f"{uri!r} is not a store; it takes {TAKES}.")
    try:
        kind: type[Store] = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise MoveError(f"The release has no {error.name}, which the store {trimmed} needs.") from error
    return kind(trimmed, environment, {name: value or "" for name, value in match.groupdict().items()})
