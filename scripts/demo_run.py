"""Log a run to the MLflow server that the environment names, read it back, and fail if anything differs."""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

import mlflow
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

POINTS = 100


def main() -> int:
    """Log and read back one run. Returns the exit status."""
    mlflow.set_experiment("demo")
    params = {"learning_rate": "0.01", "layers": "3"}
    losses = [math.exp(-step / 25) for step in range(POINTS)]
    text = "A model could be here.\n"

    with mlflow.start_run() as run, tempfile.TemporaryDirectory() as directory:
        mlflow.log_params(params)
        MlflowClient().log_batch(run.info.run_id, [Metric("loss", loss, 0, step) for step, loss in enumerate(losses)])
        artifact = Path(directory, "model.txt")
        artifact.write_text(text, encoding="utf-8")
        mlflow.log_artifact(str(artifact))

    client = MlflowClient()
    stored = client.get_run(run.info.run_id)
    history = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda metric: metric.step)
    fetched = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="model.txt"))
    read_back = {
        "params": stored.data.params == params,
        "metrics": [metric.value for metric in history] == losses,
        "artifact": fetched.read_text(encoding="utf-8") == text,
    }
    wrong = [what for what, same in read_back.items() if not same]
    if wrong:
        print(f"Run {run.info.run_id} was not read back as logged: {', '.join(wrong)}", file=sys.stderr)
        return 1
    print(f"Run {run.info.run_id}: {len(params)} params, {len(history)} metrics and 1 artifact logged and read back")
    return 0


if __name__ == "__main__":
    sys.exit(main())
