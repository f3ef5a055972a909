#!/usr/bin/python
"""Ansible module: secrets kept as files that only their owner can read."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TextIO

if TYPE_CHECKING:
    from plugins.module_utils import secret_store as base
    from plugins.module_utils.secret_store import main
else:
    from ansible.module_utils import secret_store as base

    # Mitogen knows a module written for Ansible by an import like this one.
    from ansible.module_utils.secret_store import main

DOCUMENTATION = r"""
module: secret_store_generated
short_description: The store of secrets that is files on the control node
description:
  - Keeps each secret in a file of its own, mode 0600, in a directory with mode 0700. What the operations do is said in
    the action plugin C(secret_store), which calls this module.
  - C(<name>) is current, C(<name>.pending) waits for the end of a rotation, C(<name>.previous) was replaced by the last
    one. C(.lock) is the record of who holds the lock.
  - A file appears whole or not at all, so that a run that was cut off can be started again; of two runs at
    once, both get the value of the one that was first.
options:
  options:
    description: C(directory), the absolute path of the directory that holds the files.
    type: dict
    required: true
author: MLflow on VMs contributors
"""

EXAMPLES = r"""
- name: Read the secrets
  secret_store:
    provider: generated
    options:
      directory: /srv/site/.generated/secrets
    operation: read
    names:
      admin_password: {}
  register: __site_store
  no_log: true
"""


def version_of(path: Path, value: str | None = None) -> base.Version:
    """Return a file's content as a version, which is called by the time of its last change."""
    changed = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    return base.Version(changed.strftime("%Y%m%dT%H%M%S.%fZ"), changed, value)


def value_of(path: Path) -> str:
    """Return the secret that a file holds."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise base.Refused(f"{path} is not a regular file; remove it to have a secret made.")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise base.Refused(f"{path} is open to others than its owner; run `chmod 600 {path}`.")
        content = file.read().decode("utf-8", "replace").rstrip("\r\n")
    if wrong := base.fault(content):
        raise base.Refused(f"{path} {wrong}")
    return content


@contextlib.contextmanager
def new_file(path: Path, value: str) -> Iterator[Path]:
    """Yield a file beside `path` with a secret in it, which is gone afterwards under the name that is yielded."""
    # mkstemp gives mode 0600.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{value}\n")
            file.flush()
            # The kernel's own stamps are too coarse to tell two versions apart.
            os.utime(file.fileno(), ns=(time.time_ns(), time.time_ns()))
            os.fsync(file.fileno())
        yield Path(temporary)
    finally:
        Path(temporary).unlink(missing_ok=True)


class Files(base.Store):
    """Secrets in a directory of the control node."""

    PROVIDER = "generated"
    OPTIONS: ClassVar = {
        "directory": base.Option("the absolute path of a directory on the control node", r"/.*", required=True),
    }

    def __init__(self, options: Mapping[str, str]) -> None:
        """Refuse a directory that lets others in; tightening it could break what else it is used for."""
        super().__init__(options)
        self.directory = Path(options["directory"])
        self._held: base.Claim | None = None

    @property
    def place(self) -> str:
        """The directory."""
        return str(self.directory)

    def _check(self) -> None:
        directory = self.directory
        if directory.exists() and not directory.is_dir():
            raise base.Refused(f"{directory} is not a directory; remove it or name another.")
        if directory.exists() and stat.S_IMODE(directory.stat().st_mode) & 0o077:
            raise base.Refused(f"{directory} is open to others than its owner; run `chmod 700 {directory}`.")

    def _make(self) -> None:
        """Create the directory for its owner alone, kept out of whatever Git repository it lies in."""
        if not self.directory.exists():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.directory / ".gitignore").write_text("*\n")

    def _pending(self, name: str) -> Path:
        return self.directory / f"{name}.pending"

    def _previous(self, name: str) -> Path:
        return self.directory / f"{name}.previous"

    def _secret(self, name: str) -> base.Secret:
        current = self._version(self.directory / name, value_of)
        previous = self._previous(name)
        # A promotion that was cut off has left the current file under this name too.
        same = previous.exists() and current and previous.samefile(self.directory / name)
        return base.Secret(
            current=current,
            pending=self._version(self._pending(name), value_of),
            previous=None if same else self._version(previous, lambda _: None),
        )

    def _version(self, path: Path, content: Callable[[Path], str | None]) -> base.Version | None:
        try:
            return version_of(path, content(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise base.Refused(f"{path} cannot be read: {error.strerror}.") from error

    def read(self, names: Iterable[str], *, history: bool) -> dict[str, base.Secret]:
        """Return the stages of each name, which costs the same with and without history."""
        self._check()
        found: dict[str, base.Secret] = {}
        problems: list[str] = []
        for name in sorted(names):
            try:
                found[name] = self._secret(name)
            except base.Refused as refused:
                problems += refused.args
        if problems:
            raise base.Refused(*problems)
        return found

    def create(self, values: Mapping[str, str]) -> None:
        """Put secrets into new files, each in one step; an existing file stays as it is."""
        with self._writing():
            self._make()
            for name, value in values.items():
                path = self.directory / name
                # The link makes the whole file visible, and fails where another was faster.
                with new_file(path, value) as file, contextlib.suppress(FileExistsError):
                    path.hardlink_to(file)

    def pend(self, name: str, value: str) -> None:
        """Put a secret into a file beside the current one."""
        with self._writing(), new_file(self._pending(name), value) as file, contextlib.suppress(FileExistsError):
            self._pending(name).hardlink_to(file)

    def promote(self, name: str, secret: base.Secret) -> None:
        """Keep the current file under another name, then let the pending one take its place."""
        with self._writing():
            if secret.current:
                # A link cannot replace a file, so it is made beside it and renamed.
                with new_file(self._previous(name), "") as kept:
                    kept.unlink()
                    kept.hardlink_to(self.directory / name)
                    kept.replace(self._previous(name))
            self._pending(name).replace(self.directory / name)

    def discard(self, name: str, secret: base.Secret) -> None:
        """Remove the pending file."""
        with self._writing():
            self._pending(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = error.filename or self.directory
            raise base.Refused(f"{path} cannot be written: {error.strerror}.") from error

    @contextlib.contextmanager
    def _record(self) -> Iterator[TextIO]:
        """Yield the lock's record, which nobody else touches meanwhile."""
        # Opened in place, never renamed over: all who ask for the kernel's lock must ask for that of one file.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(self.directory / ".lock", flags, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    @staticmethod
    def _parse(text: str) -> base.Claim | None:
        """Return the claim in a record; one that is half written is of a process that ended over it."""
        try:
            return base.Claim.from_record(json.loads(text))
        except ValueError:
            return None

    def held(self) -> base.Claim | None:
        """Return the claim in the record."""
        self._check()
        try:
            self._held = self._parse((self.directory / ".lock").read_text())
        except FileNotFoundError:
            self._held = None
        except OSError as error:
            raise base.Refused(f"{self.directory}/.lock cannot be read: {error.strerror}.") from error
        return self._held

    def claim(self, claim: base.Claim) -> bool:
        """Write the record, unless it has changed since it was read."""
        return self._swap(json.dumps(claim.as_record()))

    def release(self) -> bool:
        """Empty the record, unless it has changed since it was read."""
        return self._swap("")

    def _swap(self, text: str) -> bool:
        with self._writing():
            self._make()
            with self._record() as file:
                if self._parse(file.read()) != self._held:
                    return False
                file.seek(0)
                file.truncate()
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                return True


if __name__ == "__main__":
    main(Files)
