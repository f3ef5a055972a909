"""Ask MLflow through its proxy, again and again, and count the answers that were not right.

Run by systemd as a unit of type notify. The credential `settings` is JSON: `name` and `port` of the proxy on this host,
`authority` (PEM, may be empty), `username`, and `passwords`, the one in use first. Each request is a connection of its
own, verified as a client's, and reads both databases. On SIGTERM it prints one line of JSON: `requests`, `failed`,
`longest` (seconds) and `reasons`, {reason: how often}.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from pathlib import Path

PATH = "/api/2.0/mlflow/experiments/search?max_results=1"
PAUSE_SECONDS = 0.2
TIMEOUT_SECONDS = 60


class LocalConnection(http.client.HTTPSConnection):
    """A verified connection to a name, made to this host whatever the name resolves to."""

    def connect(self) -> None:
        """Open it."""
        plain = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_SECONDS)
        self.sock = self.context.wrap_socket(plain, server_hostname=self.host)

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        """Prepare it.

        Args:
            host: Name that the certificate is to be for.
            port: Port on this host.
            context: How to verify.
        """
        super().__init__(host, port, timeout=TIMEOUT_SECONDS, context=context)
        self.context = context


class Probe:
    """Asks and counts.

    Args:
        settings: What the module says.
    """

    def __init__(self, settings: dict[str, object]) -> None:
        """Remember the settings."""
        self.name, self.port = str(settings["name"]), int(str(settings["port"]))
        self.username = str(settings["username"])
        passwords = settings["passwords"]
        assert isinstance(passwords, list)
        self.passwords: list[str] = passwords
        self.context = ssl.create_default_context(cadata=str(settings["authority"]) or None)
        self.requests = self.failed = 0
        self.longest = 0.0
        self.reasons: Counter[str] = Counter()

    def ask(self, password: str) -> int:
        """Return the status of one request."""
        login = base64.b64encode(f"{self.username}:{password}".encode()).decode()
        connection = LocalConnection(self.name, self.port, self.context)
        try:
            connection.request("GET", PATH, headers={"Authorization": f"Basic {login}"})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def probe(self) -> None:
        """Ask once, and count."""
        self.requests += 1
        started = time.monotonic()
        try:
            status = self.ask(self.passwords[0])
            if status != http.client.OK and len(self.passwords) > 1:
                # Perhaps renewed a moment ago, or taken back: then it is the other one from now on. Not only after
                # a 401, since MLflow answers 500 when it forgets a former password in the middle of a request.
                status = self.ask(self.passwords[1])
                if status == http.client.OK:
                    self.passwords.reverse()
            if status != http.client.OK:
                self.failed += 1
                self.reasons[f"status {status}"] += 1
        except (OSError, http.client.HTTPException) as error:
            self.failed += 1
            self.reasons[type(error).__name__] += 1
        self.longest = max(self.longest, time.monotonic() - started)

    def result(self) -> str:
        """Return what was seen, as a line of JSON."""
        seen = {"requests": self.requests, "failed": self.failed, "longest": round(self.longest, 3)}
        return json.dumps(seen | {"reasons": dict(self.reasons)})


def main() -> int:
    """Probe until told to stop. Returns the exit status."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    probe = Probe(json.loads((Path(os.environ["CREDENTIALS_DIRECTORY"]) / "settings").read_text(encoding="utf-8")))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        address = os.environ["NOTIFY_SOCKET"]
        notify.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        notify.send(b"READY=1")
    while not stopped.wait(PAUSE_SECONDS):
        probe.probe()
    print(probe.result(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
