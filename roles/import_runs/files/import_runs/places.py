"""Where artifacts are: directories of the source, and their new locations."""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path, PurePosixPath

from parts import BadError

PROXIED = "mlflow-artifacts:"


def path_of(location: str) -> str | None:
    """Return the path that a location names, with / between its parts, or None if it is of another kind.

    Args:
        location: A path, a file: URI, or mlflow-artifacts:/ for a server that is no more.
    """
    parsed = urllib.parse.urlsplit(location)
    # C:\… has a scheme of one letter.
    if parsed.scheme == "" or re.match(r"[A-Za-z]:[\\/]", location):
        return location.replace("\\", "/") if re.match(r"[A-Za-z]:[\\/]|.*\\", location) else location
    if parsed.scheme == "file":
        return urllib.parse.unquote(parsed.path)
    if parsed.scheme == "mlflow-artifacts":
        return urllib.parse.unquote(parsed.path)
    return None


def normal(location: str) -> str:
    """Return a location in the one form by which two spellings of it are known to be the same."""
    path = path_of(location)
    if path is None:
        return location.rstrip("/")
    return (PROXIED if location.startswith(PROXIED) else "") + os.path.normpath(path)


class Places:
    """Finds directories of artifacts. A tree is found where it is now, even if it was moved since it was written.

    Nothing outside of the given directories is read, whatever the source says: it may be a stranger's, and this runs as
    a user who may read secrets.

    Args:
        roots: Directories in which artifacts may be; the first that has one counts.
        base: What relative locations are relative to.
    """

    def __init__(self, roots: list[Path], base: Path) -> None:
        """Keep where to look."""
        self.roots = [root.resolve() for root in roots]
        self.base = base.resolve()

    def inside(self, path: Path) -> bool:
        """Say whether a path is in one of the directories, links resolved."""
        resolved = path.resolve()
        return any(resolved.is_relative_to(root) for root in self.roots)

    def find(self, location: str, least: int = 2) -> str | None:
        """Return the directory or file that a location means, or None if there is none.

        Args:
            location: As the source has it.
            least: How many of its last names identify it in a tree that was moved.

        Raises:
            BadError: It is a store that is not read here.
        """
        path = path_of(location)
        if path is None:
            raise BadError(f"its artifacts are at {location}, which is no directory of this host")
        given = self.base / path
        if not location.startswith(PROXIED) and given.exists() and self.inside(given):
            return str(given)
        names = [name for name in PurePosixPath(path).parts if name not in {"/", ".", ".."}]
        for root in self.roots:
            for start in range(max(len(names) - least + 1, 0)):
                found = root.joinpath(*names[start:])
                if found.exists() and self.inside(found):
                    return str(found)
        return None


def below(location: str, *names: str) -> str:
    """Return a location below another, as the server writes it."""
    from mlflow.utils.uri import append_to_uri_path

    return str(append_to_uri_path(location, *names))


class Moves:
    """Says where an old location is now."""

    def __init__(self) -> None:
        """Begin with none."""
        self.known: dict[str, str] = {}

    def add(self, old: str, new: str) -> None:
        """Note that what was at one location is at another."""
        if old:
            self.known[normal(old)] = new

    def new(self, location: str) -> str | None:
        """Return the new location of what was at an old one, or None if it was not moved."""
        path, rest = normal(location), ""
        while path:
            if path in self.known:
                return self.known[path] + rest
            head, slash, tail = path.rpartition("/")
            if not slash:
                return None
            path, rest = head, f"/{tail}{rest}"
        return None
