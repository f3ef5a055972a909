"""The promise to a training job: a minute without the server costs it nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import train
from tests.client import SOURCE
from tests.client_server import Server

EPOCHS = 90
PAUSE_SECONDS = 0.5
AWAY_SECONDS = 60
ENOUGH_TO_SEE = 10


def history(server: Server, run_id: str) -> dict[int, float]:
    """Return the loss of a run by its step."""
    path = f"/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=loss"
    return {int(point["step"]): point["value"] for point in json.loads(server.ask("GET", path)).get("metrics", [])}


def expected() -> dict[int, float]:
    """Return the loss of each epoch as the example computes it."""
    data, weights = train.patients(seed=1), [0.0] * len(train.FEATURES)
    return {epoch: train.train_epoch(weights, data, 0.5)["loss"] for epoch in range(EPOCHS)}


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

        assert training.wait(timeout=300) == 0, output.read_text()
    finally:
        training.kill()
    assert history(mlflow_server, run_id) == expected()
    run = json.loads(mlflow_server.ask("GET", f"/api/2.0/mlflow/runs/get?run_id={run_id}"))["run"]
    assert run["info"]["status"] == "FINISHED"
    assert {param["key"]: param["value"] for param in run["data"]["params"]}["epochs"] == str(EPOCHS)
    assert [path.name for path in mlflow_server.artifacts.rglob("*.json")] == ["model.json"]
    assert f"{EPOCHS} epochs trained, logged and kept" in output.read_text()
