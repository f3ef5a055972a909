"""What a training job gets over, and what it is told: a minute without the server costs it nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import train
from mlflow_site import LostWritesError, get_mlflow_config, require_all_logged
from testing.limits import limit
from testing.sampling import pick
from tests.client import SOURCE
from tests.client_server import Server

# The client's settings are made for an outage of a minute. A shorter one takes the same way through the client.
AWAY_SECONDS = pick(10, 60)
EPOCHS = pick(60, 90)
PAUSE_SECONDS = 0.5
ENOUGH_TO_SEE = 10


def history(server: Server, run_id: str) -> dict[int, float]:
    """Return the loss of a run by its step."""
    path = f"/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=loss"
    return {int(point["step"]): point["value"] for point in json.loads(server.ask("GET", path)).get("metrics", [])}


def expected() -> dict[int, float]:
    """Return the loss of each epoch as the example computes it."""
    data, weights = train.patients(seed=1), [0.0] * len(train.FEATURES)
    return {epoch: train.train_epoch(weights, data, 0.5)["loss"] for epoch in range(EPOCHS)}


@contextmanager
def failing(status: int, times: int) -> Iterator[tuple[str, list[str]]]:
    """Answer with a status, 0 being no answer at all, for some times, then well. Yields address and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = status if len(asked) <= times else 200
            if answer:
                self.send_response(answer)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")
            else:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{httpd.server_port}", asked
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def log_a_metric(uri: str) -> None:
    """Log a metric as a job does, but without waiting between the tries."""
    import mlflow

    os.environ.update(MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR="0")
    os.environ.update(MLFLOW_HTTP_REQUEST_BACKOFF_JITTER="0", MLFLOW_TRACKING_TOKEN="token")
    get_mlflow_config()
    mlflow.set_tracking_uri(uri)
    mlflow.MlflowClient().log_metric("0" * 32, "loss", 1, synchronous=False)
    mlflow.flush_async_logging()


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503, 504])
def test_it_is_tried_as_often_as_the_settings_say(job: Path, status: int) -> None:
    with failing(status, times=9) as (uri, asked):
        log_a_metric(uri)
    require_all_logged()
    assert len(asked) == 10


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_not_tried_again_but_told(job: Path, status: int) -> None:
    with failing(status, times=1) as (uri, asked):
        log_a_metric(uri)
    assert len(asked) == 1
    with pytest.raises(LostWritesError, match="1 writes did not reach the server"):
        require_all_logged()


def test_a_longer_outage_is_told(job: Path) -> None:
    with failing(503, times=10) as (uri, asked):
        log_a_metric(uri)
    assert len(asked) == 10
    with pytest.raises(LostWritesError):
        require_all_logged()


def test_a_wrong_authority_is_tried_as_often_too(
    job: Path, mlflow_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    log_a_metric(mlflow_server.uri)
    assert len([record for record in caplog.records if record.getMessage().startswith("Retrying")]) == 9
    with pytest.raises(LostWritesError, match="CERTIFICATE_VERIFY_FAILED"):
        require_all_logged()


def test_a_job_loses_nothing_while_the_server_is_away(job: Path, mlflow_server: Server) -> None:
    mlflow_server.add_user("trainer", "trainers-long-password")
    variables = mlflow_server.environment("trainer", "trainers-long-password")
    environment = {**os.environ, **variables, "MLFLOW_ENV": "production", "PYTHONPATH": str(SOURCE / "src")}
    command = [sys.executable, str(SOURCE / "examples" / "train.py")]
    command += [f"--epochs={EPOCHS}", f"--pause={PAUSE_SECONDS}", "--learning-rate=0.5"]
    output = job / "train.log"
    with output.open("w") as log:
        training = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        run_id = ""
        while not run_id or len(history(mlflow_server, run_id)) < ENOUGH_TO_SEE:
            assert training.poll() is None, output.read_text()
            run_id = next((line.split()[1] for line in output.read_text().splitlines() if line.startswith("Run ")), "")
            time.sleep(0.2)

        mlflow_server.kill()
        killed = time.monotonic()
        # Imported before it may listen, it is back when the time is over and not some seconds later.
        mlflow_server.prepare()
        time.sleep(AWAY_SECONDS)
        assert not mlflow_server.answers()
        mlflow_server.listen()
        assert time.monotonic() - killed >= AWAY_SECONDS
        logged_before = len(history(mlflow_server, run_id))
        assert logged_before < EPOCHS

        assert training.wait(timeout=limit(300)) == 0, output.read_text()
    finally:
        training.kill()
    assert history(mlflow_server, run_id) == expected()
    run = json.loads(mlflow_server.ask("GET", f"/api/2.0/mlflow/runs/get?run_id={run_id}"))["run"]
    assert run["info"]["status"] == "FINISHED"
    assert {param["key"]: param["value"] for param in run["data"]["params"]}["epochs"] == str(EPOCHS)
    assert [path.name for path in mlflow_server.artifacts.rglob("*.json")] == ["model.json"]
    assert f"{EPOCHS} epochs trained, logged and kept" in output.read_text()
