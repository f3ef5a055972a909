"""`python -m mlflow_site` against real servers: what works, and each failure told by a sentence of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme

from mlflow_site import trial
from mlflow_site.__main__ import main
from mlflow_site.errors import CheckFailedError
from tests.client import SOURCE
from tests.client_server import ADMIN_PASSWORD, Server, free_port

PASSWORDS = {"alice": "alices-long-password", "reader": "readers-long-password"}
Check = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def server(mlflow_server: Server) -> Server:
    """A server with two users, and an experiment that one may read and the other may not."""
    for user, password in PASSWORDS.items():
        mlflow_server.add_user(user, password)
    made = json.loads(mlflow_server.ask("POST", "/api/2.0/mlflow/experiments/create", name="admins"))
    mlflow_server.grant("reader", made["experiment_id"], "READ")
    return mlflow_server


@pytest.fixture
def check(job: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> Check:
    """Test the connection as alice, but for what is given; return what failed by name of the test."""

    def checked(**variables: str) -> dict[str, str]:
        os.environ.update({**server.environment("alice", PASSWORDS["alice"]), **variables})
        status = main(["--json"])
        shown = capsys.readouterr()
        told = json.loads(shown.out)
        failed = {result["name"]: result["message"] for result in told["results"] if result["outcome"] == "FAILED"}
        assert (status, told["ok"]) == ((1, False) if failed else (0, True))
        assert len(failed) <= 1
        for secret in (*PASSWORDS.values(), ADMIN_PASSWORD, "a-wrong-password"):
            assert secret not in shown.out + shown.err
        for message in failed.values():
            assert message.endswith(".")
            assert "Traceback" not in message
        return failed

    return checked


@contextmanager
def answering(answers: dict[str, tuple[int, str]]) -> Iterator[str]:
    """Serve fixed answers by path, 404 for the rest. Yields the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = answers.get(self.path, (404, "<html>not here</html>"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{httpd.server_port}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def experiments(server: Server) -> list[str]:
    """Return the names of the experiments that are not deleted."""
    found = json.loads(server.ask("GET", "/api/2.0/mlflow/experiments/search?max_results=100"))
    return sorted(experiment["name"] for experiment in found["experiments"])


def files(server: Server) -> list[Path]:
    """Return all artifacts."""
    return [path for path in server.artifacts.rglob("*") if path.is_file()]


def test_all_of_it_works_and_nothing_is_left(job: Path, server: Server) -> None:
    before = experiments(server)
    environment = {**os.environ, **server.environment("alice", PASSWORDS["alice"]), "PYTHONPATH": str(SOURCE / "src")}
    command = [sys.executable, "-m", "mlflow_site"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0] == f"{server.uri} (production)"
    assert [line.split()[:2] for line in lines[1:-1]] == [
        [name, "ok"] for name in ("name", "port", "tls", "version", "login", "permission", "artifacts")
    ]
    assert "alice may make experiments and runs" in done.stdout
    assert "64 kB uploaded, downloaded and compared" in done.stdout
    assert lines[-1] == "All of it works."
    assert PASSWORDS["alice"] not in done.stdout
    assert experiments(server) == before
    assert files(server) == []


def test_a_wrong_authority(check: Check, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.crt"))
    failed = check(MLFLOW_TRACKING_SERVER_CERT_PATH=str(tmp_path / "other.crt"))
    assert f"is not from an authority in {tmp_path / 'other.crt'}: set MLFLOW_TRACKING_SERVER_CERT" in failed["tls"]


def test_no_authority(check: Check) -> None:
    assert "is not from a public authority" in check(MLFLOW_TRACKING_SERVER_CERT_PATH="")["tls"]


def test_a_certificate_for_another_name(check: Check, server: Server) -> None:
    assert "is for another" in check(MLFLOW_TRACKING_URI=f"https://127.0.0.1:{server.port}")["tls"]


def test_a_wrong_password(check: Check) -> None:
    failed = check(MLFLOW_TRACKING_PASSWORD="a-wrong-password")
    assert failed["login"].startswith("The server refuses the login of alice: mend or renew MLFLOW_TRACKING_USERNAME")


def test_no_login(check: Check) -> None:
    failed = check(MLFLOW_TRACKING_USERNAME="", MLFLOW_TRACKING_PASSWORD="")
    assert failed["login"].startswith("The server asks for a login and none is set")


def test_a_closed_port(check: Check) -> None:
    port = free_port()
    failed = check(MLFLOW_TRACKING_URI=f"https://localhost:{port}")
    assert failed["port"].startswith(f"Nothing listens on port {port} of localhost")


def test_an_unknown_host(check: Check) -> None:
    failed = check(MLFLOW_TRACKING_URI="https://mlflow.invalid")
    assert failed["name"].startswith("The name mlflow.invalid is not known here")


def test_http_where_tls_is_spoken(check: Check, server: Server) -> None:
    failed = check(MLFLOW_TRACKING_URI=f"http://localhost:{server.port}")
    assert "take https:// in MLFLOW_TRACKING_URI" in failed["tls"]


def test_https_where_no_tls_is_spoken(check: Check) -> None:
    with answering({}) as uri:
        assert "does not speak TLS" in check(MLFLOW_TRACKING_URI=uri.replace("http:", "https:"))["tls"]


def test_an_old_server(check: Check) -> None:
    with answering({"/version": (200, "2.1.0")}) as uri:
        failed = check(MLFLOW_TRACKING_URI=uri)
    assert failed["version"].startswith("The server runs MLflow 2.1.0, too old for the client 3.")
    assert "pip install 'mlflow<3' here" in failed["version"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((502, "Bad Gateway"), "The server answers 502"),
        ((404, "<html>not here</html>"), "What answers is not MLflow"),
        ((200, "<html>a page</html>"), "What answers is not MLflow"),
    ],
)
def test_what_is_no_mlflow(check: Check, answer: tuple[int, str], says: str) -> None:
    with answering({"/version": answer}) as uri:
        assert says in check(MLFLOW_TRACKING_URI=uri)["version"]


@pytest.mark.parametrize(
    ("status", "says"),
    [(403, "lets alice do nothing"), (429, "too many failed logins"), (503, "answers 503"), (500, "cannot be listed")],
)
def test_a_login_that_is_not_let_in(check: Check, status: int, says: str) -> None:
    path = "/api/2.0/mlflow/experiments/search"
    with answering({"/version": (200, "3.17.2"), path: (status, "no")}) as uri:
        assert says in check(MLFLOW_TRACKING_URI=uri)["login"]


def test_an_experiment_of_somebody_else(check: Check) -> None:
    failed = check(MLFLOW_EXPERIMENT_NAME="admins")
    assert failed["permission"].startswith("The server does not let alice read the experiment 'admins'")


def test_an_experiment_that_can_only_be_read(check: Check, server: Server) -> None:
    failed = check(**server.environment("reader", PASSWORDS["reader"]), MLFLOW_EXPERIMENT_NAME="admins")
    assert "lets reader read the experiment 'admins' but not write to it" in failed["permission"]
    found = json.loads(server.ask("POST", "/api/2.0/mlflow/runs/search", experiment_ids=["1", "2"], max_results=9))
    assert found.get("runs", []) == []


def test_an_experiment_that_can_be_written_to(check: Check, server: Server) -> None:
    before = experiments(server)
    assert check(**server.environment(), MLFLOW_EXPERIMENT_NAME="admins") == {}
    assert check(MLFLOW_EXPERIMENT_NAME="not made yet") == {}
    assert experiments(server) == before
    assert files(server) == []


def test_a_service_user_needs_edit_on_its_experiment_alone(check: Check, server: Server) -> None:
    server.add_user("ci", "cis-long-password")
    made = json.loads(server.ask("POST", "/api/2.0/mlflow/experiments/create", name="of ci"))
    server.grant("ci", made["experiment_id"], "EDIT")
    variables = {**server.environment("ci", "cis-long-password"), "MLFLOW_EXPERIMENT_NAME": "of ci"}
    assert check(**variables) == {}
    environment = {**os.environ, **variables, "PYTHONPATH": str(SOURCE / "src"), "MLFLOW_ENABLE_ASYNC_LOGGING": "true"}
    command = [sys.executable, str(SOURCE / "examples" / "train.py"), "--epochs=2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (kept,) = files(server)
    assert kept.name == "model.json"
    kept.unlink()


def test_an_experiment_that_is_deleted(check: Check, server: Server) -> None:
    made = server.ask("POST", "/api/2.0/mlflow/experiments/create", name="gone")
    server.ask("POST", "/api/2.0/mlflow/experiments/delete", experiment_id=json.loads(made)["experiment_id"])
    failed = check(**server.environment(), MLFLOW_EXPERIMENT_NAME="gone")
    assert failed["permission"].startswith("The experiment 'gone' is deleted")


def test_an_artifact_store_that_takes_nothing(check: Check, server: Server) -> None:
    before = experiments(server)
    kept = server.artifacts.rename(server.artifacts.with_name("kept")) if server.artifacts.exists() else None
    server.artifacts.write_text("no directory")
    try:
        failed = check()
    finally:
        server.artifacts.unlink()
        if kept:
            kept.rename(server.artifacts)
    assert failed["artifacts"].startswith("An artifact cannot be uploaded")
    assert experiments(server) == before


def test_what_cannot_be_deleted_is_named(check: Check, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def keep(self: trial.Trial) -> str:
        made.append(self._experiment_id)
        raise CheckFailedError("Not all of it.")

    with monkeypatch.context() as patch:
        patch.setattr(trial.Trial, "clean_up", keep)
        assert check() == {"clean-up": "Not all of it."}
    server.ask("POST", "/api/2.0/mlflow/experiments/delete", experiment_id=made[0])


def test_a_store_on_this_machine(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "sqlite:///mlflow.db (development)",
        "  store       ok         runs are kept in sqlite:///mlflow.db, on this machine",
        "All of it works.",
    ]


def test_a_login_of_databricks_that_is_missing(check: Check) -> None:
    failed = check(MLFLOW_TRACKING_URI="databricks")
    assert failed["login"].startswith("No login for Databricks works: set DATABRICKS_HOST and DATABRICKS_TOKEN")


def test_a_proxy_that_is_not_there(check: Check) -> None:
    port = free_port()
    failed = check(MLFLOW_TRACKING_URI="https://mlflow.invalid", https_proxy=f"http://localhost:{port}")
    assert (
        failed["port"] == f"Nothing listens on port {port} of localhost: mend it in https_proxy, or start the server."
    )


def test_a_refused_configuration_as_json(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["MLFLOW_ENV"] = "production"
    assert main(["--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"].startswith("MLFLOW_TRACKING_URI is not set")
