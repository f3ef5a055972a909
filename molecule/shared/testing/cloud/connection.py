"""HTTP/1.1 on one connection that is there already, for a WSGI application.

The protocol is h11's; what is here moves the bytes. Werkzeug's own server ends the connection after each answer, and
SDKs of object stores keep theirs: they ask `Expect: 100-continue`, send bodies of any length in chunks, and are
refused before they have sent them. Bodies are never held as a whole, neither way.
"""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import h11

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

BLOCK = 256 * 1024
# Longer than any client of ours is slow, and short enough that forgotten connections do not pile up.
IDLE_SECONDS = 300
# What an application finds beside what PEP 3333 says: the connection, and the headers as they came.
SOCKET = "cloud.socket"
HEADERS = "cloud.headers"
BODY = "cloud.body"


class _Body(io.RawIOBase):
    """Body of the request that is being answered."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        while not self._rest:
            data = self._connection.receive_body()
            if data is None:
                return 0
            self._rest = memoryview(data)
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class Connection:
    """One client's connection.

    Args:
        connected: The connection.
        address: Where the client is.
        application: Answers the requests.
    """

    def __init__(self, connected: socket.socket, address: str, application: WSGIApplication) -> None:
        """Keep what it is made of."""
        self._socket = connected
        self._address = address
        self._application = application
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)

    def serve(self) -> None:
        """Answer requests until one side has had enough, or the connection breaks."""
        self._socket.settimeout(IDLE_SECONDS)
        # Head and body are two packets, and the second would wait until the client has acknowledged the first: 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            while isinstance(request := self._event(), h11.Request):
                self._answer(request)
                # What nobody wanted to read: a client may look for its answer only when it has said all.
                while self.receive_body() is not None:
                    pass
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    break
                self._http.start_next_cycle()

    def receive_body(self) -> bytes | None:
        """Return the next part of the body of the request, None at its end.

        Raises:
            ConnectionResetError: The client has gone.
        """
        if self._http.their_state is not h11.SEND_BODY:
            return None
        event = self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    def _event(self) -> Any:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                self._http.receive_data(self._socket.recv(BLOCK))
        except h11.RemoteProtocolError as error:
            raise ConnectionResetError(str(error)) from error
        return event

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._socket.sendall(data)

    def _answer(self, request: h11.Request) -> None:
        head: list[Any] = []
        blocks: Iterable[bytes] = ()

        def start_response(status: str, headers: list[tuple[str, str]], _error: Any = None) -> Any:
            head[:] = [status, headers]

        try:
            blocks = self._application(self._environment(request), start_response)
            for block in blocks:
                self._send_head(head)
                if block and request.method != b"HEAD":
                    self._send(h11.Data(data=block))
            self._send_head(head)
        except OSError:
            raise
        except Exception:
            traceback.print_exc(file=sys.stderr)
            if self._http.our_state is not h11.SEND_RESPONSE:
                raise ConnectionResetError from None
            head[:] = ["500 Internal Server Error", [("Content-Length", "0"), ("Connection", "close")]]
            self._send_head(head)
        finally:
            getattr(blocks, "close", lambda: None)()
        self._send(h11.EndOfMessage())

    def _send_head(self, head: list[Any]) -> None:
        if self._http.our_state is not h11.SEND_RESPONSE:
            return
        code, _, reason = head[0].partition(" ")
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head[1]]
        if self._http.they_are_waiting_for_100_continue:
            # It may send the body or may not, now that it knows; who reads on could not tell that from a request.
            headers.append((b"Connection", b"close"))
        self._send(h11.Response(status_code=int(code), headers=headers, reason=reason.encode("latin-1")))

    def _environment(self, request: h11.Request) -> WSGIEnvironment:
        path, _, query = request.target.decode("latin-1").partition("?")
        body = _Body(self)
        environ: WSGIEnvironment = {
            "REQUEST_METHOD": request.method.decode("ascii"),
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "RAW_URI": request.target.decode("latin-1"),
            "REQUEST_URI": request.target.decode("latin-1"),
            "SERVER_NAME": "cloud",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": self._address,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.input": io.BufferedReader(body, BLOCK),
            # The end of the body is the end of the file, whether the client has told its length or not.
            "wsgi.input_terminated": True,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            SOCKET: self._socket,
            BODY: body,
            HEADERS: [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw_items()],
        }
        for header, value in request.headers:
            name = header.decode("ascii").upper().replace("-", "_")
            name = name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"
            text = value.decode("latin-1")
            environ[name] = f"{environ[name]},{text}" if name in environ else text
        return environ
