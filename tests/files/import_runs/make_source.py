"""Makes a source to import: a directory mlruns/ or a file mlflow.db, with the MLflow that runs this.

usage: python make_source.py tree|file       in the directory to make it in
"""

from __future__ import annotations

import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

VERSION = tuple(int(part) for part in mlflow.__version__.split(".")[:2])


def fill_run(client: MlflowClient, run: str, number: int) -> None:
    """Log a bit of everything that MLflow has known since 2.9."""
    now = int(time.time() * 1000)
    points = [Metric("loss", 1 / (step + 1), now + step, step) for step in range(50)]
    points += [Metric("deep/nested name", float(step), now, step) for step in range(3)]
    points += [Metric("odd", value, now, 7) for value in (float("nan"), float("inf"), float("-inf"), 1e-300)]
    # Out of order, and twice the same.
    points += [Metric("back", 1.0, now, 5), Metric("back", 2.0, now, 3), Metric("back", 1.0, now, 5)]
    params = [
        Param("lr", "0.1"),
        Param("long", "x" * 500),
        Param("quote", "a\\b\t'\"ü日本\nnext"),
        Param("n", str(number)),
    ]
    tags = [RunTag("team", "ümläut"), RunTag("mlflow.note.content", "# Note\n\ttext"), RunTag("empty", "")]
    client.log_batch(run, points, params, tags)
    client.log_text(run, f"run {number}", "notes/with space.txt")
    client.log_text(run, "ü", "plain.txt")
    client.log_text(run, "", "empty")
    for name in ("hash#question?percent%20plus+.txt", "quote'\"&<>.txt", "ümläut/日本語.bin", "tab\tname"):
        # Not by the client, which does not take all of them.
        path = Path(
            urllib.parse.unquote(urllib.parse.urlsplit(client.get_run(run).info.artifact_uri).path), "odd", name
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def fill(client: MlflowClient, artifacts: str | None) -> None:
    """Fill a store."""
    first = client.create_experiment(
        "first", tags={"kind": "test"}, artifact_location=artifacts and f"{artifacts}/first"
    )
    trashed = client.create_experiment("trashed", artifact_location=artifacts and f"{artifacts}/trashed")
    runs = []
    for number, experiment in enumerate(["0", first, first, first, trashed]):
        run = client.create_run(experiment, run_name=f"run {number}").info.run_id
        fill_run(client, run, number)
        client.set_terminated(run, "FAILED" if number == 2 else "FINISHED")
        runs.append(run)
    client.delete_run(runs[3])
    client.delete_experiment(trashed)
    with mlflow.start_run(experiment_id=first) as run:
        import pandas

        dataset = mlflow.data.from_pandas(pandas.DataFrame({"a": [1, 2]}), name="numbers")
        mlflow.log_input(dataset, context="training")
        mlflow.pyfunc.log_model("model", python_model=Model())
    client.create_registered_model("classifier", tags={"owner": "me"}, description="A model.")
    source = (
        f"{run.info.artifact_uri}/model" if VERSION < (3, 0) else mlflow.get_run(run.info.run_id).outputs.model_outputs
    )
    if isinstance(source, list):
        source = f"models:/{source[0].model_id}"
    for number in (1, 2, 3):
        client.create_model_version(
            "classifier", source, run.info.run_id, tags={"number": str(number)}, description="V"
        )
    client.delete_model_version("classifier", "2")
    client.set_registered_model_alias("classifier", "champion", "3")
    client.transition_model_version_stage("classifier", "1", "Staging")
    if VERSION >= (3, 0):
        fill_3(client, first)


def fill_3(client: MlflowClient, experiment: str) -> None:
    """Add what MLflow has known since 3."""
    mlflow.set_experiment(experiment_id=experiment)
    model = mlflow.initialize_logged_model(name="logged", params={"depth": "3"}, tags={"phase": "one"})
    mlflow.finalize_logged_model(model.model_id, "READY")
    with mlflow.start_run() as run:
        mlflow.log_metric("accuracy", 0.9, step=1, model_id=model.model_id)
        client.log_inputs(run.info.run_id, models=[mlflow.entities.LoggedModelInput(model.model_id)])

    @mlflow.trace  # type: ignore[untyped-decorator]
    def question(text: str) -> str:
        with mlflow.start_span("inner") as span:
            span.set_inputs({"text": text})
            return text.upper()

    question("why")
    trace = mlflow.get_last_active_trace_id()
    mlflow.flush_trace_async_logging()
    client.set_trace_tag(trace, "reviewed", "yes")
    mlflow.log_feedback(trace_id=trace, name="right", value=True, rationale="so it is")
    mlflow.log_expectation(trace_id=trace, name="expected", value={"answer": ["WHY"]})
    mlflow.genai.register_prompt("greeting", "Hello {{name}}", tags={"tone": "kind"})
    mlflow.genai.set_prompt_alias("greeting", "production", 1)


class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Does nothing."""

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Return what came."""
        return model_input


if __name__ == "__main__":
    kind = sys.argv[1]
    uri = Path("mlruns").absolute().as_uri() if kind == "tree" else f"sqlite:///{Path('mlflow.db').absolute()}"
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    fill(MlflowClient(), None)
