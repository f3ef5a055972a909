"""The way into the cloud: an HTTP proxy that ends at the services, under the names that they have in public."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wrappers import Request, Response

from testing.cloud.connection import SOCKET, Connection
from testing.cloud.flow import Flow, reset
from testing.cloud.ledger import Ledger, Operation

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

HANG_SECONDS = 120


class Service(Protocol):
    """What each service of the cloud can do."""

    @property
    def name(self) -> str:
        """What the ledger calls it."""

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
        host = environ.get("HTTP_HOST", "").partition(":")[0]
        service = self.find(host)
        if service is None:
            return Response("no such host here", 421)(environ, start_response)
        if self.ledger.down(service.name, count=True):
            # Known already, from before.
            self.refuse(service, host)
            reset(environ[SOCKET])
        flow = Flow(environ, lambda: self.ledger.down(service.name))
        request = Request(environ)
        operation = service.operation(request)
        response = service.refusal(request)
        kind = None
        if response is None:
            kind = self.ledger.fault(operation)
            if kind in ("hang", "reset"):
                self.ledger.record(operation, 0)
                _give_no_answer(kind, flow, environ[SOCKET])
            response = self._respond(service, request, operation, kind, flow)
        self.ledger.record(operation, 0 if kind == "cut" else response.status_code)
        blocks = iter(response(environ, start_response))
        return flow.answer(blocks, response.content_length, kind == "cut")

    def refuse(self, service: Service, host: str) -> None:
        """Note that somebody did not reach a service."""
        self.ledger.record(Operation(service.name, "connect", "connect", host, None), 0)

    def _respond(
        self, service: Service, request: Request, operation: Operation, kind: str | None, flow: Flow
    ) -> Response:
        if kind not in (None, "cut"):
            return service.failure(str(kind), operation)
        if kind == "cut":
            flow.cut()
        try:
            return service.answer(request, operation)
        except Exception:
            if not flow.tripped:
                raise
            # Whatever the service and the emulator behind it make of a body that broke off.
            self.ledger.record(operation, 0)
            raise ConnectionResetError from None


def _give_no_answer(kind: str, flow: Flow, connection: socket.socket) -> None:
    if kind == "hang":
        flow.drain()
        # Readable means gone: a client that waits for an answer has nothing more to say.
        select.select([connection], [], [], HANG_SECONDS)
        raise ConnectionResetError
    reset(connection)


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


class _ProxyHandler(WSGIRequestHandler):
    server: Proxy

    def do_CONNECT(self) -> None:
        name, _, port = self.path.lower().partition(":")
        self.close_connection = True
        service = self.server.gateway.find(name) if port == "443" else None
        if service and self.server.gateway.ledger.down(service.name, count=True):
            self.server.gateway.refuse(service, name)
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif service:
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
            Connection(tunnel, self.client_address[0], self.server.gateway).serve()


def json_response(body: Any, status: int = 200, **headers: str) -> Response:
    """Return an answer in JSON; underscores in the names of headers become hyphens."""
    response = Response(json.dumps(body), status, content_type="application/json; charset=utf-8")
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response
