"""The way into the cloud for hosts that have its names in /etc/hosts: TLS at an address of this machine."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from socketserver import BaseRequestHandler, ThreadingTCPServer

from testing.cloud.connection import Connection
from testing.cloud.proxy import Gateway

HANDSHAKE_SECONDS = 30
HELLO = 16 * 1024


class Listener(ThreadingTCPServer):
    """TLS server that finds the service by the name that the client asks for.

    Args:
        address: Address and port, as 10.89.64.1:443.
        gateway: Answers the requests.
        tls: Has the certificate of the services.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: str, gateway: Gateway, tls: ssl.SSLContext) -> None:
        """Listen."""
        host, _, port = address.rpartition(":")
        super().__init__((host, int(port)), _Handler)
        self.gateway = gateway
        self.tls = tls

    @property
    def address(self) -> str:
        """Where it listens: with the port that the system chose when none (0) was asked for."""
        host, port = self.server_address[:2]
        return f"{host!s}:{port}"


class _Handler(BaseRequestHandler):
    server: Listener
    request: socket.socket

    def handle(self) -> None:
        gateway = self.server.gateway
        self.request.settimeout(HANDSHAKE_SECONDS)
        # A client that does not trust the certificate leaves in the middle of the handshake.
        with contextlib.suppress(OSError):
            name = _asked_for(self.request)
            service = gateway.find(name)
            if service and gateway.ledger.down(service.name, count=True):
                gateway.refuse(service, name)
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.request.close()
                return
            with self.server.tls.wrap_socket(self.request, server_side=True) as connected:
                Connection(connected, self.client_address[0], gateway).serve()


def _asked_for(connection: socket.socket) -> str:
    """Return the name in a client's first message, and leave the message where it is: nothing is answered yet."""
    names: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: names.append(name or "")
    deadline = time.monotonic() + HANDSHAKE_SECONDS
    while hello := connection.recv(HELLO, socket.MSG_PEEK):
        incoming = ssl.MemoryBIO()
        incoming.write(hello)
        try:
            context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
        except ssl.SSLWantReadError:
            if time.monotonic() > deadline:
                break
            time.sleep(0.01)
        except ssl.SSLError:
            # It has no certificate to go on with; and what is not TLS has no name either.
            break
    return names[0].lower() if names else ""
