"""An MLflow server with a login, over TLS, in a process that can be killed and started again on the same port."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

from testing.limits import limit, wait_until
from tests.project import PROJECT

ADMIN_PASSWORD = "the-administrators-password"
START_SECONDS = 90


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """MLflow at https://localhost:<port>, with a database and artifacts in a directory.

    Args:
        directory: Where all that it keeps is.
    """

    def __init__(self, directory: Path) -> None:
        """Make the certificate and choose the port."""
        self.directory = directory
        self.port = free_port()
        self.uri = f"https://localhost:{self.port}"
        self.ca = directory / "ca.crt"
        self.artifacts = directory / "artifacts"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(str(directory / "tls.key"))
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(directory / "tls.crt"), append=True)
        (directory / "auth.ini").write_text(
            "[mlflow]\ndefault_permission = NO_PERMISSIONS\nadmin_username = admin\nauth_cache_ttl_seconds = 600\n"
            f"database_uri = sqlite:///{directory}/auth.db\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        self._process: subprocess.Popen[str] | None = None

    def prepare(self) -> None:
        """Start the process, up to where it would listen: from then on `listen` takes no time."""
        own = ("PATH", "HOME", "LANG")
        environment = {name: value for name, value in os.environ.items() if name in own} | {
            "PYTHONPATH": f"{PROJECT}:{PROJECT}/molecule/shared",
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{self.directory}/mlflow.db",
            "_MLFLOW_SERVER_REGISTRY_STORE": f"sqlite:///{self.directory}/mlflow.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.artifacts),
            "_MLFLOW_SGI_NAME": "uvicorn",
            "_MLFLOW_SERVER_BOOT_ID": "test",
            "_MLFLOW_IN_JOB_EXECUTOR": "false",
            "_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN": "of-the-test",
            "_MLFLOW_ASSISTANT_DELEGATION_SIGNING_KEY": "of-the-test",
            "MLFLOW_AUTH_CONFIG_PATH": str(self.directory / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-test",
            "MLFLOW_CRYPTO_KEK_PASSPHRASE": "of-the-test",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with (self.directory / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(self.port), str(self.directory)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def listen(self) -> None:
        """Let the process listen, and wait until it answers."""
        assert self._process and self._process.stdin and self._process.stdout
        assert self._process.stdout.readline() == "prepared\n", (self.directory / "server.log").read_text()
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        wait_until(self.answers, START_SECONDS, (self.directory / "server.log").read_text, pause=0.1)

    def answers(self) -> bool:
        """Say whether it answers."""
        try:
            self.ask("GET", "/health")
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """End the process at once, whatever it is doing."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def ask(self, method: str, path: str, **body: object) -> str:
        """Ask something as the administrator. Returns the answer."""
        login = b64encode(f"admin:{ADMIN_PASSWORD}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - the scheme is https
            self.uri + path,
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        context = ssl.create_default_context(cafile=str(self.ca))
        with urllib.request.urlopen(request, context=context, timeout=limit(30)) as answer:  # noqa: S310
            return str(answer.read().decode())

    def add_user(self, name: str, password: str) -> None:
        """Add a user who may nothing yet but what everybody may."""
        self.ask("POST", "/api/2.0/mlflow/users/create", username=name, password=password)

    def grant(self, user: str, experiment_id: str, permission: str) -> None:
        """Let a user do something with an experiment: READ, EDIT or MANAGE."""
        path = "/api/3.0/mlflow/users/permissions/grant"
        of = {"resource_type": "experiment", "resource_id": experiment_id}
        self.ask("POST", path, username=user, permission=permission, **of)

    def environment(self, user: str = "admin", password: str = ADMIN_PASSWORD) -> dict[str, str]:
        """Return the variables by which a client reaches it."""
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": password,
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(self.ca),
        }


@contextmanager
def running(directory: Path) -> Iterator[Server]:
    """Run a server.

    Args:
        directory: An empty directory for it.
    """
    server = Server(directory)
    try:
        server.prepare()
        server.listen()
        yield server
    finally:
        server.kill()


def serve(port: int, directory: str) -> None:
    """Be the server: import MLflow, say so, wait for a line, and listen."""
    import uvicorn
    from mlflow.server.auth import create_app

    app = create_app()
    print("prepared", flush=True)
    if sys.stdin.readline():
        tls = {"ssl_keyfile": f"{directory}/tls.key", "ssl_certfile": f"{directory}/tls.crt"}
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", **tls)  # type: ignore[arg-type]


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
