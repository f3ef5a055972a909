"""Copies artifacts to where the server has its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from parts import Bad, ImportFailure
from places import PROXIED, Places, below

PIECE = 8 * 1024 * 1024
# Where a directory holds what is not whole yet; on its file system, so that a rename puts it in place.
TEMPORARY = ".mlflow-import"
# A working tree has a pointer in place of each file that Git LFS did not fetch, of less than 1024 bytes.
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_POINTER_BYTES = 1024
REMOTE = re.compile(r"(s3|wasbs|gs)://")


def sha256_of(path: str | Path) -> str:
    """Return the checksum of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_lfs_pointer(path: str) -> bool:
    """Return whether a file is a pointer of Git LFS."""
    with Path(path).open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


class Found:
    """The files of one directory of artifacts, and what is wrong with others.

    Args:
        directory: The directory, or a file that is all of it.
        places: What may be read.
        path: Its name in the source, for reports.
    """

    def __init__(self, directory: str, places: Places, path: str) -> None:
        """Look at all of them."""
        self.files: list[tuple[str, str, int]] = []
        self.bad: list[Bad] = []
        self.places, self.path = places, path
        if Path(directory).is_dir():
            self._below(directory, "", frozenset())
        else:
            self._file(directory, Path(directory).name)

    def _below(self, directory: str, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        try:
            status = Path(directory).stat()
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError as error:
            self._wrong(prefix, f"it cannot be read: {error.strerror}")
            return
        here = (status.st_dev, status.st_ino)
        if here in above:
            self._wrong(prefix, "it is a link to a directory around it")
            return
        for entry in entries:
            name = prefix + entry.name
            if entry.is_symlink() and not self.places.inside(Path(entry.path)):
                self._wrong(name, "it is a link to outside of the source")
            elif entry.is_dir():
                self._below(entry.path, f"{name}/", above | {here})
            else:
                self._file(entry.path, name)

    def _file(self, path: str, name: str) -> None:
        try:
            name.encode()
            status = Path(path).stat()
            if not stat.S_ISREG(status.st_mode):
                self._wrong(name, "it is neither a file nor a directory")
            elif not os.access(path, os.R_OK):
                self._wrong(name, "it cannot be read: Permission denied")
            elif len(LFS_POINTER) < status.st_size < LFS_POINTER_BYTES and is_lfs_pointer(path):
                self._wrong(name, "it is a pointer of Git LFS and not the file; run `git lfs pull` in the source")
            else:
                self.files.append((name, path, status.st_size))
        except UnicodeEncodeError:
            self._wrong(name.encode(errors="surrogateescape").decode(errors="replace"), "its name is no UTF-8 text")
        except OSError as error:
            self._wrong(name, f"it cannot be read: {error.strerror}")

    def _wrong(self, name: str, reason: str) -> None:
        self.bad.append(Bad(f"{self.path}/artifacts/{name}".rstrip("/"), reason, "file"))

    @property
    def size(self) -> int:
        """Return the sum of their sizes, in bytes."""
        return sum(size for _, _, size in self.files)


class Destination:
    """The server's store of artifacts.

    Args:
        root: What locations begin with that the server writes: mlflow-artifacts:/ or the store's own URI.
        uri: A directory, or the URI of a store that MLflow has a repository for.
        threads: Files that are copied at once.
    """

    def __init__(self, root: str, uri: str, threads: int) -> None:
        """Keep it.

        Raises:
            ImportFailure: It is of no kind that is known.
        """
        self.root, self.uri = root, uri.removeprefix("file://").rstrip("/")
        if not self.uri.startswith("/") and not REMOTE.match(self.uri):
            raise ImportFailure(f"The artifact destination is {uri!r}; it takes a directory, s3://, wasbs:// or gs://.")
        self.threads = ThreadPoolExecutor(threads)

    def place(self, location: str) -> str:
        """Return the directory or URI in which the server has what is at a location."""
        if location.startswith(PROXIED):
            path = location.removeprefix(PROXIED).strip("/")
            return f"{self.uri}/{path}" if self.uri.startswith("/") else below(self.uri, path)
        return location.removeprefix("file://")

    def begin(self) -> None:
        """Remove what an import that was cut off left unfinished."""
        if self.uri.startswith("/"):
            shutil.rmtree(Path(self.uri, TEMPORARY), ignore_errors=True)

    end = begin

    def copy(self, location: str, found: Found) -> Iterator[int]:
        """Copy files; what is there is kept if it is the same.

        Args:
            location: The new location of the directory that they are in.
            found: The files.

        Yields:
            The size of each file that is there, in bytes.

        Raises:
            ImportFailure: One cannot be written.
        """
        place = self.place(location)
        if not place.startswith("/"):
            yield from self._send(place, found)
            return
        for parent in {Path(place, name).parent for name, _, _ in found.files}:
            self._made(parent)
        yield from self.threads.map(lambda each: self._file(place, *each), found.files)

    @staticmethod
    def _made(directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImportFailure(f"The directory {directory} cannot be made: {error.strerror}.") from error

    def _file(self, place: str, name: str, path: str, size: int) -> int:
        final = Path(place, name)
        try:
            if final.is_file() and final.stat().st_size == size and sha256_of(final) == sha256_of(path):
                return size
            unfinished = Path(self.uri if place.startswith(f"{self.uri}/") else place, TEMPORARY, uuid.uuid4().hex)
            unfinished.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, unfinished)
            unfinished.replace(final)
        except OSError as error:
            raise ImportFailure(f"The artifact {path} cannot be copied to {final}: {error.strerror}.") from error
        return size

    def _send(self, place: str, found: Found) -> Iterator[int]:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        def send(each: tuple[str, str, int]) -> int:
            name, path, size = each
            folder = name.rpartition("/")[0]
            if folder not in known:
                with contextlib.suppress(KeyError):
                    known[folder] = {entry.path: entry.file_size for entry in repository.list_artifacts(folder or None)}
            if known.get(folder, {}).get(name) == size and self._same(repository, name, path):
                return size
            repository.log_artifact(path, folder or None)
            return size

        try:
            repository: Any = get_artifact_repository(place)
            known: dict[str, dict[str, int]] = {}
            yield from self.threads.map(send, found.files)
        except ImportFailure:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ImportFailure(f"Artifacts cannot be written to {place}: {reason}.") from error

    def has(self, location: str, name: str, path: str) -> bool:
        """Say whether the store has the same at a location as a file has."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        place = self.place(location)
        if place.startswith("/"):
            return Path(place, name).is_file() and sha256_of(Path(place, name)) == sha256_of(path)
        return self._same(get_artifact_repository(place), name, path)

    @staticmethod
    def _same(repository: Any, name: str, path: str) -> bool:
        with tempfile.TemporaryDirectory() as directory:
            return sha256_of(repository.download_artifacts(name, directory)) == sha256_of(path)

    def remove(self, location: str) -> None:
        """Remove all that is at a location, and the directories that this leaves empty; none is no error.

        Raises:
            ImportFailure: It cannot be removed.
        """
        place = self.place(location)
        try:
            if place.startswith("/"):
                path = Path(place)
                if path.exists():
                    shutil.rmtree(path)
                while (path := path.parent) != Path(self.uri) and path.is_relative_to(self.uri):
                    with contextlib.suppress(FileNotFoundError):
                        path.rmdir()
                return
            from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

            get_artifact_repository(place).delete_artifacts()
        except OSError as error:
            if error.strerror != "Directory not empty":
                raise ImportFailure(f"The artifacts at {place} cannot be removed: {error.strerror}.") from error
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise ImportFailure(f"The artifacts at {place} cannot be removed: {reason}.") from error
