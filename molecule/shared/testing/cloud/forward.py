"""Hands a request on to an emulator on this machine and its answer back, both as they come."""

from __future__ import annotations

import ssl

import urllib3
from werkzeug.wrappers import Request, Response

from testing.cloud.connection import BLOCK, HEADERS

# Of the connection, not of the request (RFC 9110, 7.6.1); Expect has been answered already.
OF_THE_CONNECTION = {
    "connection",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
SECONDS = 600


class Emulator:
    """An emulator that listens on this machine.

    Args:
        port: Where.
        tls: Trusts its certificate, whose name is localhost.
    """

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        """Connect to it when there is something to ask."""
        self._pool = urllib3.HTTPSConnectionPool(
            "127.0.0.1",
            port,
            ssl_context=tls,
            server_hostname="localhost",
            assert_hostname="localhost",
            maxsize=64,
            retries=False,
            timeout=SECONDS,
            blocksize=BLOCK,
        )

    def forward(self, request: Request) -> Response:
        """Return its answer to a client's request."""
        headers = urllib3.HTTPHeaderDict()
        for name, value in request.environ[HEADERS]:
            if name.lower() not in OF_THE_CONNECTION:
                headers.add(name, value)
        has_body = (request.content_length or 0) > 0 or "Transfer-Encoding" in request.headers
        return self.ask(str(request.method), request.environ["RAW_URI"], headers, request if has_body else None)

    def ask(
        self, method: str, target: str, headers: urllib3.HTTPHeaderDict | dict[str, str], body: Request | None = None
    ) -> Response:
        """Ask something of it.

        Args:
            method: HTTP method.
            target: Path and query, as they are sent.
            headers: All of them, Host included.
            body: The request whose body it gets.
        """
        given = self._pool.urlopen(
            method,
            target,
            body=body.environ["wsgi.input"] if body else None,
            headers=headers,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        kept = [(name, value) for name, value in given.headers.items() if name.lower() not in OF_THE_CONNECTION]
        if method == "HEAD" or given.status in (204, 304):
            given.drain_conn()
            response = Response(status=given.status, headers=kept)
            response.automatically_set_content_length = False
        else:
            response = Response(given.stream(BLOCK), status=given.status, headers=kept)
            # One that has been read to its end is back in the pool by then.
            response.call_on_close(given.close)
        if "Content-Type" not in given.headers:
            del response.headers["Content-Type"]
        return response
