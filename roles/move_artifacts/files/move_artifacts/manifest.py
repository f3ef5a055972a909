"""What a move has done, kept in a file so that a run that was cut off goes on from there."""

from __future__ import annotations

import fcntl
import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stores import Item, Store

# listing: what the stores had when they were listed last. Keys are kept as bytes, since a file's name may be any.
# moved: an object of the source that this move has written to the target or found there; from_version is empty while it
#        is being written, and again when it has to be.
# uploads: uploads in several requests that have begun and not ended.
SCHEMA = """
CREATE TABLE IF NOT EXISTS moved (
    key BLOB PRIMARY KEY, size INTEGER, from_version TEXT, to_version TEXT, sha256 TEXT, written INTEGER, how TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads (upload TEXT PRIMARY KEY, key BLOB);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TEMP TABLE listing (
    side TEXT, key BLOB, size INTEGER, version TEXT, modified REAL, PRIMARY KEY (side, key)
) WITHOUT ROWID;
"""

# The next keys that one of the two stores or the manifest knows, with what each knows of them.
STATES = """
SELECT k.key, s.size, s.version, s.modified, t.size, t.version, t.modified,
       m.size, m.from_version, m.to_version, m.sha256, m.written
FROM (SELECT key FROM listing WHERE side = 'from' AND key > :last
      UNION SELECT key FROM listing WHERE side = 'to' AND key > :last
      UNION SELECT key FROM moved WHERE key > :last
      ORDER BY key LIMIT 1000) k
LEFT JOIN listing s ON s.side = 'from' AND s.key = k.key
LEFT JOIN listing t ON t.side = 'to' AND t.key = k.key
LEFT JOIN moved m ON m.key = k.key
ORDER BY k.key
"""


@dataclass(frozen=True)
class Moved:
    """What was moved under a key: which version became which, and its SHA-256."""

    size: int
    from_version: str
    to_version: str
    sha256: str
    written: bool


@dataclass(frozen=True)
class State:
    """What is known of a key: at the source, at the target, and of its move."""

    key: str
    source: Item | None
    target: Item | None
    moved: Moved | None

    @property
    def current(self) -> bool:
        """Say whether the source's object is the one that was moved."""
        return self.source is not None and self.moved is not None and self.source.version == self.moved.from_version

    @property
    def untouched(self) -> bool:
        """Say whether the target's object is the one that was moved."""
        return self.target is not None and self.moved is not None and self.target.version == self.moved.to_version


def encode(key: str) -> bytes:
    """Return a key as bytes; names of files need not be text."""
    return key.encode("utf-8", "surrogateescape")


def decode(key: bytes) -> str:
    """Return a key from bytes."""
    return key.decode("utf-8", "surrogateescape")


def name_of(source: Store, target: Store) -> str:
    """Return the name of the move from one store to another, always the same for the same two."""
    return hashlib.sha256(repr((source.place, target.place)).encode()).hexdigest()[:12]


class Manifest:
    """The manifest of one move.

    Args:
        directory: Its directory; None for one that is nowhere, as a plan needs it.
        known: The manifest file to start from, for one that is nowhere.
    """

    def __init__(self, directory: Path | None, known: Path | None = None) -> None:
        """Open it, and make what is missing."""
        self._lock = threading.Lock()
        if directory:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Without a name SQLite keeps it in a temporary file of its own.
        self._base = sqlite3.connect(
            directory / "manifest.sqlite" if directory else "", check_same_thread=False, isolation_level=None
        )
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=NORMAL")
        self._base.executescript(SCHEMA)
        if known and known.exists():
            self._base.execute("ATTACH ? AS known", (str(known),))
            for table in ("moved", "facts"):
                self._base.execute(f"INSERT INTO {table} SELECT * FROM known.{table}")  # noqa: S608 - of this line

    def learn(self, opposite: Path) -> None:
        """Take over what a move in the opposite direction knew to be the same in both stores.

        So the way back copies what has changed since, and nothing else.

        Args:
            opposite: The manifest file of that move; there need not be one.
        """
        if opposite.exists():
            self._do("ATTACH ? AS opposite", str(opposite))
            self._do(
                "INSERT OR IGNORE INTO moved SELECT key, size, to_version, from_version, sha256, 0, how "
                "FROM opposite.moved WHERE from_version <> '' AND to_version <> ''"
            )
            self._do("DETACH opposite")

    def close(self) -> None:
        """Close it."""
        self._base.close()

    def _do(self, statement: str, *values: object) -> None:
        with self._lock:
            self._base.execute(statement, values)

    def note(self, side: str, items: Iterable[Item]) -> tuple[int, int]:
        """Keep what a store lists.

        Args:
            side: "from" or "to".
            items: The listing.

        Returns:
            The number of objects, and of their bytes.
        """
        objects = size = 0
        self._do("DELETE FROM listing WHERE side = ?", side)
        self._do("BEGIN")
        try:
            for item in items:
                row = (side, encode(item.key), item.size, item.version, item.modified)
                self._base.execute("INSERT OR REPLACE INTO listing VALUES (?, ?, ?, ?, ?)", row)
                objects, size = objects + 1, size + item.size
        finally:
            self._do("COMMIT")
        return objects, size

    def states(self) -> Iterator[State]:
        """Return what is known of every key, in the order of keys."""
        # A cursor of its own sees the manifest as it is written meanwhile; so the keys are taken in slices.
        last = b""
        while True:
            with self._lock:
                rows = self._base.execute(STATES, {"last": last}).fetchall()
            if not rows:
                return
            for row in rows:
                last, key = row[0], decode(row[0])
                yield State(
                    key,
                    Item(key, *row[1:4]) if row[2] is not None else None,
                    Item(key, *row[4:7]) if row[5] is not None else None,
                    Moved(row[7], row[8], row[9], row[10], bool(row[11])) if row[8] is not None else None,
                )

    def writing(self, key: str, size: int) -> None:
        """Note that an object is about to be written, so that it is known for this move's own if the run is cut off."""
        self._do(
            "INSERT INTO moved VALUES (?, ?, '', '', '', 1, '') "
            "ON CONFLICT (key) DO UPDATE SET from_version = '', size = excluded.size",
            encode(key),
            size,
        )

    def done(self, source: Item, to_version: str, sha256: str, how: str, *, written: bool) -> None:
        """Note that an object is at the target.

        Args:
            source: The object at the source.
            to_version: Its version at the target.
            sha256: Its SHA-256 in hexadecimal digits.
            how: How it was verified.
            written: Whether this move wrote it; else it was there.
        """
        self._do(
            "INSERT INTO moved VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET size = excluded.size, "
            "from_version = excluded.from_version, to_version = excluded.to_version, sha256 = excluded.sha256, "
            "written = max(written, excluded.written), how = excluded.how",
            encode(source.key),
            source.size,
            source.version,
            to_version,
            sha256,
            int(written),
            how,
        )

    def again(self, key: str, to_version: str | None = None) -> None:
        """Note that an object has to be copied again.

        Args:
            key: Its key.
            to_version: Its version at the target, where this move has just written it.
        """
        self._do(
            "UPDATE moved SET from_version = '', to_version = coalesce(?, to_version) WHERE key = ?",
            to_version,
            encode(key),
        )

    def kept(self, source: Item) -> None:
        """Note that the target has something newer than this object of the source."""
        self._do("UPDATE moved SET from_version = ?, to_version = '' WHERE key = ?", source.version, encode(source.key))

    def restore(self, key: str, moved: Moved | None, target: Item | None) -> None:
        """Note that an object was not written after all, and what the target has instead.

        Args:
            key: Its key.
            moved: What had been noted before it was to be written.
            target: What the target has.
        """
        if moved is None:
            self._do("DELETE FROM moved WHERE key = ?", encode(key))
        else:
            self._do(
                "UPDATE moved SET from_version = ?, size = ? WHERE key = ?", moved.from_version, moved.size, encode(key)
            )
        if target is None:
            self._do("DELETE FROM listing WHERE side = 'to' AND key = ?", encode(key))
        else:
            self.arrived(target)

    def forget(self, key: str) -> None:
        """Note that an object is no longer at the target."""
        self._do("DELETE FROM moved WHERE key = ?", encode(key))
        self._do("DELETE FROM listing WHERE side = 'to' AND key = ?", encode(key))

    def arrived(self, item: Item) -> None:
        """Note what the target has now, without listing all of it."""
        self._do(
            "INSERT OR REPLACE INTO listing VALUES ('to', ?, ?, ?, ?)",
            encode(item.key),
            item.size,
            item.version,
            item.modified,
        )

    def listed(self, side: str) -> int:
        """Return how many objects a store listed last."""
        return int(self._base.execute("SELECT count(*) FROM listing WHERE side = ?", (side,)).fetchone()[0])

    def written(self) -> int:
        """Return how many objects this move has written."""
        return int(self._base.execute("SELECT count(*) FROM moved WHERE written").fetchone()[0])

    def upload_begun(self, key: str, upload: str) -> None:
        """Note an upload in several requests."""
        self._do("INSERT INTO uploads VALUES (?, ?)", upload, encode(key))

    def upload_ended(self, upload: str) -> None:
        """Note that it was completed or given up."""
        self._do("DELETE FROM uploads WHERE upload = ?", upload)

    def uploads(self) -> list[tuple[str, str]]:
        """Return key and name of the uploads that did not end."""
        rows = self._base.execute("SELECT key, upload FROM uploads").fetchall()
        return [(decode(key), upload) for key, upload in rows]

    def fact(self, name: str) -> str:
        """Return what was noted under a name, or nothing."""
        row = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def set_fact(self, name: str, value: str) -> None:
        """Note something under a name."""
        self._do("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)


class Turn:
    """Keeps two runs of one move apart: the second waits.

    Args:
        directory: The directory of the move.
    """

    def __init__(self, directory: Path) -> None:
        """Make the directory and wait for the turn; it ends with the process at the latest."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = (directory / "lock").open("w")
        self.waited = 0.0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            begun = time.monotonic()
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self.waited = time.monotonic() - begun

    def end(self) -> None:
        """Let the next run begin."""
        self._file.close()
