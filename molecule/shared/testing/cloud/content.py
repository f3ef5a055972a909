"""What is stored in an object: in memory when it is small, in files when it is not, never copied.

The emulators of S3 and of Google Cloud Storage keep objects as bytes, and make several copies of them on the way. They
get this in place of bytes: it can be sliced, joined and measured, and gives its bytes only to who iterates over it.
"""

from __future__ import annotations

import hashlib
import secrets
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import google_crc32c

from testing.cloud.connection import BLOCK

IN_MEMORY = 64 * 1024


class Hash(Protocol):
    """As hashlib has it."""

    def update(self, data: bytes, /) -> None:
        """Take more."""

    def digest(self) -> bytes:
        """Return the result so far."""


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


# CRC64NVME is missing: nothing here computes it.
HASHES: dict[str, Callable[[], Hash]] = {
    "crc32": _Crc32,
    "crc32c": google_crc32c.Checksum,
    "md5": lambda: hashlib.md5(usedforsecurity=False),
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
}


class _File:
    """A file that goes when the last content with a part of it goes."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / secrets.token_hex(16)
        self.handle = self.path.open("xb", buffering=0)
        self._remove = weakref.finalize(self, self.path.unlink, missing_ok=True)


@dataclass(frozen=True)
class _Piece:
    """Part of a file, or bytes."""

    source: _File | bytes
    start: int
    stop: int

    def blocks(self) -> Iterator[bytes]:
        if isinstance(self.source, bytes):
            yield self.source[self.start : self.stop]
            return
        with self.source.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            left = self.stop - self.start
            while left and (block := file.read(min(BLOCK, left))):
                left -= len(block)
                yield block


class Content:
    """Bytes of any number that cannot be changed."""

    def __init__(self, data: bytes = b"", *, pieces: tuple[_Piece, ...] = ()) -> None:
        """Take bytes, or parts of others."""
        self.pieces = pieces or ((_Piece(bytes(data), 0, len(data)),) if data else ())
        self._digests: dict[str, bytes] = {}

    @classmethod
    def of(cls, value: Any) -> Content:
        """Return the content that a value is."""
        return value if isinstance(value, Content) else cls(value.encode() if isinstance(value, str) else bytes(value))

    @classmethod
    def receive(cls, stream: Any, directory: Path, algorithms: tuple[str, ...] = ()) -> Content:
        """Take all that a stream has.

        Args:
            stream: Has `read`.
            directory: Where files are kept.
            algorithms: Names in HASHES of what will be asked for; computed on the way.
        """
        hashes = {name: HASHES[name]() for name in algorithms}
        start = stream.read(IN_MEMORY + 1)
        for each in hashes.values():
            each.update(start)
        if len(start) <= IN_MEMORY:
            content = cls(start)
        else:
            file = _File(directory)
            with file.handle:
                size = file.handle.write(start)
                while block := stream.read(BLOCK):
                    for each in hashes.values():
                        each.update(block)
                    size += file.handle.write(block)
            content = cls(pieces=(_Piece(file, 0, size),))
        content._digests = {name: each.digest() for name, each in hashes.items()}
        return content

    def digest(self, algorithm: str) -> bytes:
        """Return a hash of all of it; `algorithm` is one of HASHES."""
        if algorithm not in self._digests:
            computed = HASHES[algorithm]()
            for block in self:
                computed.update(block)
            self._digests[algorithm] = computed.digest()
        return self._digests[algorithm]

    def __len__(self) -> int:
        """Return the number of bytes."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    def __iter__(self) -> Iterator[bytes]:
        """Give the bytes in blocks."""
        for piece in self.pieces:
            yield from piece.blocks()

    def __bytes__(self) -> bytes:
        """Return all of them: for what is known to be small."""
        return b"".join(self)

    def __getitem__(self, part: slice) -> Content:
        """Return a part of it."""
        start, stop, _ = part.indices(len(self))
        pieces = []
        offset = 0
        for piece in self.pieces:
            first, last = max(start - offset, 0), min(stop - offset, piece.stop - piece.start)
            if first < last:
                pieces.append(_Piece(piece.source, piece.start + first, piece.start + last))
            offset += piece.stop - piece.start
        return Content(pieces=tuple(pieces))

    def __add__(self, other: Content | bytes) -> Content:
        """Return both, one after the other."""
        return Content(pieces=self.pieces + Content.of(other).pieces)

    def __radd__(self, other: bytes) -> Content:
        """Return both, one after the other."""
        return Content(other) + self
