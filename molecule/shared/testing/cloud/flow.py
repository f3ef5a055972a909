"""The bodies of one request and its answer, which can be made to break off on their way."""

from __future__ import annotations

import io
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from testing.cloud.connection import BLOCK, BODY, SOCKET

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import WSGIEnvironment


def reset(connection: socket.socket) -> None:
    """End a connection the hard way.

    Raises:
        ConnectionResetError: Always, so that whoever serves it lets go of it.
    """
    # Lingering for no time makes the system send a reset instead of an orderly end.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionResetError


class Flow(io.RawIOBase):
    """Body of a request, and the watch over that of its answer.

    Args:
        environ: The request; gets this in place of its body.
        broken: Tells whether the service has gone meanwhile.
    """

    def __init__(self, environ: WSGIEnvironment, broken: Callable[[], bool]) -> None:
        """Take the place of the body."""
        super().__init__()
        self._body: io.RawIOBase = environ[BODY]
        self._socket: socket.socket = environ[SOCKET]
        self._broken = broken
        self._limit: int | None = None
        self.tripped = False
        length = environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH") or 0
        self._length = int(length)
        self._has_body = self._length > 0 or "HTTP_TRANSFER_ENCODING" in environ
        environ["wsgi.input"] = io.BufferedReader(self, BLOCK)

    def cut(self) -> None:
        """Let the body break off in its middle, and the answer's when the request has none or nobody reads it."""
        self._limit = self._length // 2 if self._has_body else None

    def drain(self) -> None:
        """Read what the client has still to say."""
        buffer = bytearray(BLOCK)
        while self._body.readinto(buffer):
            pass

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill a buffer from the body."""
        view = memoryview(buffer).cast("B")
        if self._limit == 0 or self._broken():
            self._trip()
        if self._limit is not None:
            view = view[: self._limit]
        count = self._body.readinto(view) or 0
        if self._limit is not None:
            self._limit -= count
        return count

    def answer(self, blocks: Iterator[bytes], length: int | None, cut: bool) -> Iterator[bytes]:
        """Pass an answer's body on.

        Args:
            blocks: The body.
            length: Its length, if that is known.
            cut: Break off in the middle.
        """
        left = (length or 0) // 2
        try:
            for block in blocks:
                if self._broken():
                    self._trip()
                if cut:
                    yield block[:left]
                    left -= len(block)
                    if left <= 0:
                        # What the client has not read by then is lost in the reset: let it see the beginning.
                        time.sleep(0.2)
                        self._trip()
                else:
                    yield block
            if cut:
                self._trip()
        finally:
            getattr(blocks, "close", lambda: None)()

    def _trip(self) -> None:
        self.tripped = True
        reset(self._socket)
