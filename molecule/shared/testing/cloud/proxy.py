"""The way into the cloud: an HTTP proxy that ends at the services, under the names that they have in public."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wrappers import Request, Response

from testing.cloud.ledger import Ledger, Operation

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HANG_SECONDS = 120


class Service(Protocol):
    """What each service of the cloud can do."""

    def operation(self, request: Request) -> Operation:
        """Tell what a request asks for."""

    def refusal(self, request: Request) -> Response | None:
        """Return the answer to a client that is not who it says, None to one that is."""

    def failure(self, kind: str, operation: Operation) -> Response:
        """Return the answer that the real service gives when it is denied, throttled, busy or in error."""

    def answer(self, request: Request, operation: Operation) -> Response:
        """Do what is asked for."""

    def reset(self) -> None:
        """Forget all that is stored."""


class Gateway:
    """WSGI application that hands each request to the service of its host.

    Args:
        find: Returns the service for a host name, None when there is no such host.
        ledger: Holds the faults and takes the calls.
    """

    def __init__(self, find: Callable[[str], Service | None], ledger: Ledger) -> None:
        """Keep what it is made of."""
        self.find = find
        self.ledger = ledger

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        request = Request(environ)
        service = self.find(request.host.partition(":")[0])
        if service is None:
            return Response("no such host here", 421)(environ, start_response)
        operation = service.operation(request)
        response = service.refusal(request)
        if response is None:
            kind = self.ledger.fault(operation)
            if kind in ("hang", "reset"):
                self.ledger.record(operation, 0)
                _give_no_answer(kind, environ["werkzeug.socket"])
            response = service.failure(kind, operation) if kind else service.answer(request, operation)
        self.ledger.record(operation, response.status_code)
        return response(environ, start_response)


def _give_no_answer(kind: str, connection: socket.socket) -> None:
    if kind == "hang":
        # Readable means gone: a client that waits for an answer has nothing more to say.
        select.select([connection], [], [], HANG_SECONDS)
    else:
        # Lingering for no time makes the system send a reset instead of an orderly end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionResetError


class Proxy(ThreadedWSGIServer):
    """HTTP proxy whose tunnels end in this process, so that no name is resolved and nothing leaves the machine.

    Args:
        gateway: Answers what comes through the tunnels.
        tls: Has the certificate of the services.
        missing: Tells whether a name looks like a service and does not exist.
    """

    def __init__(self, gateway: Gateway, tls: ssl.SSLContext, missing: Callable[[str], bool]) -> None:
        """Listen on a port that the system chooses."""
        super().__init__("127.0.0.1", 0, gateway, handler=_ProxyHandler)
        self.gateway = gateway
        self.missing = missing
        # Not handed to the constructor: it is not the proxy that speaks TLS, but what is behind it.
        self.ssl_context = tls


class _TunnelHandler(WSGIRequestHandler):
    # One request for each connection: after one that gets no answer, the connection has to end.
    protocol_version = "HTTP/1.0"


class _ProxyHandler(WSGIRequestHandler):
    server: Proxy

    def do_CONNECT(self) -> None:
        name, _, port = self.path.lower().partition(":")
        self.close_connection = True
        if port == "443" and self.server.gateway.find(name):
            self.send_response_only(200, "Connection established")
            self.end_headers()
            self._serve_tunnel()
        else:
            self._refuse(502 if port == "443" and self.server.missing(name) else 403)

    def run_wsgi(self) -> None:
        """Drop a request over plain http: no service has that, and none looks like a metadata service's absence."""
        self.close_connection = True
        self.server.gateway.ledger.record(Operation("proxy", self.command, self.command, self.path, None), 0)

    def _refuse(self, status: int) -> None:
        self.server.gateway.ledger.record(Operation("proxy", "CONNECT", "CONNECT", self.path, None), status)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve_tunnel(self) -> None:
        assert isinstance(self.server.ssl_context, ssl.SSLContext)
        # A client that does not trust the certificate leaves in the middle of the handshake.
        with (
            contextlib.suppress(OSError),
            self.server.ssl_context.wrap_socket(self.connection, server_side=True) as tunnel,
        ):
            _TunnelHandler(tunnel, self.client_address, self.server)


def json_response(body: Any, status: int = 200, **headers: str) -> Response:
    """Return an answer in JSON; underscores in the names of headers become hyphens."""
    response = Response(json.dumps(body), status, content_type="application/json; charset=utf-8")
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response
