"""Stands for MLflow behind the proxy: checks a password, and tells what reached it.

usage: stub.py NAME SOCKET
"""

import base64
import http.server
import json
import socketserver
import sys
import threading
from pathlib import Path

NAME, SOCKET = sys.argv[1:]
USERS = {"alice": "correct horse", "bob": "battery staple"}
RECEIVED = 0
RELEASED = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by path."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        """Name a client that has no address."""
        return "socket"

    def authenticated(self) -> bool:
        """Say whether the request carries a right password."""
        _, _, encoded = self.headers.get("Authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(encoded).decode().partition(":")
        except ValueError:
            return False
        return USERS.get(user) == password

    def take_body(self) -> int:
        """Read the body and count its bytes as they come."""
        global RECEIVED
        RECEIVED = 0
        left = int(self.headers.get("Content-Length", "0"))
        while left and (data := self.rfile.read1(min(left, 1 << 20))):
            left -= len(data)
            RECEIVED += len(data)
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
                RECEIVED += size
            self.rfile.readline()
        return RECEIVED

    def answer(self, status: int, content: object, kind: str = "application/json", **headers: str) -> None:
        """Send an answer whole."""
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_in_two(self) -> None:
        """Send a first word, and the second when told to."""
        RELEASED.clear()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"data: first\n\n")
        if RELEASED.wait(120):
            self.wfile.write(b"data: second\n\n")

    def handle_request(self) -> None:
        """Answer any request."""
        path = self.path.partition("?")[0]
        if path == "/progress":
            self.answer(200, RECEIVED)
        elif path == "/release":
            RELEASED.set()
            self.answer(200, "")
        elif path.startswith("/static-files/"):
            self.answer(200, f"from {NAME}", "text/plain", Cache_Control="max-age=5")
        elif not self.authenticated():
            self.answer(401, "You are not authenticated.", "text/plain", WWW_Authenticate='Basic realm="mlflow"')
        elif path.endswith("/stream"):
            self.answer_in_two()
        elif path == "/framed":
            self.answer(200, "", "text/html", X_Frame_Options="DENY")
        elif path == "/closing":
            self.answer(503, {"error_code": "FROM_UPSTREAM"})
        elif path in {"/api/2.0/mlflow/long", "/long"}:
            self.answer(200, {"metrics": [0.125] * 10000})
        elif path == "/":
            self.answer(200, f"<p>{NAME}</p>" + " " * 2000, "text/html", Cache_Control="max-age=5")
        else:
            size = self.take_body()
            headers = [[name.lower(), value] for name, value in self.headers.items()]
            self.answer(
                200, {"name": NAME, "path": self.path, "method": self.command, "bytes": size, "headers": headers}
            )

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_request


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 128


Path(SOCKET).unlink(missing_ok=True)
Server(SOCKET, Handler).serve_forever()
