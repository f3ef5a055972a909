"""Make the past of a team: experiments, runs, models and traces, logged by MLflow's own client without a server.

usage: past.py DIRECTORY file|sqlite NAME [--long]

DIRECTORY gets mlruns/ (file), or mlflow.db with its artifacts in mlruns/ (sqlite). NAME is what its names begin with.
With --long, mlruns/ gets experiments too whose import takes a while.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from testing.limits import limit

KINDS = ("file", "sqlite")
TIMEOUT_SECONDS = limit(300)
METRIC_POINTS = 40
# Of the experiments whose runs are long, one each: there is time to cut an import off in the middle.
LONG_EXPERIMENTS = 5
LONG_POINTS = 15_000
LONG_ARTIFACT_BYTES = 2_000_000


def make(directory: Path, kind: str, name: str, *options: str) -> Path:
    """Make a past in a process of its own, since MLflow's client has settings that count for the whole process.

    Args:
        directory: Where; it is made.
        kind: "file" or "sqlite".
        name: What names begin with.
        options: Of the program that this file is.

    Returns:
        The source: a directory mlruns/, or a database mlflow.db.
    """
    directory.mkdir(parents=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment |= {
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, __file__, str(directory), kind, name, *options]
    # Where relative locations of artifacts begin.
    subprocess.run(command, cwd=directory, env=environment, check=True, timeout=TIMEOUT_SECONDS)
    return directory / ("mlruns" if kind == "file" else "mlflow.db")


def client_uri(source: Path) -> str:
    """Return the tracking URI under which MLflow's own client reads a source."""
    return f"sqlite:///{source}" if source.is_file() else source.as_uri()


def log_runs(name: str) -> None:
    """Log experiments with runs of every kind."""
    import mlflow
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient()
    experiment = client.create_experiment(f"{name}-vision", tags={"team": "vision", "mlflow.note.content": "Größe"})
    mlflow.set_experiment(experiment_id=experiment)
    for number in range(3):
        with mlflow.start_run(run_name=f"{name}-run-{number}", tags={"kind": "training"}, description="a run"):
            mlflow.log_params({"learning_rate": 0.1 * number, "optimizer": "adam", "deep/param": "x" * 400})
            mlflow.log_metric("best", float("nan"))
            for step in range(METRIC_POINTS):
                mlflow.log_metric("loss", 1.0 / (step + 1), step=step)
                mlflow.log_metric("validation/accuracy", step / METRIC_POINTS, step=step)
            mlflow.log_text(f"artifact of run {number}\n", "notes/read me.txt")
            mlflow.log_dict({"number": number}, "config.json")
            mlflow.log_input(
                mlflow.data.from_pandas(pd.DataFrame({"a": [1.0, 2.0, float(number)]}), name=f"{name}-data"),
                context="training",
            )
            if number == 0:
                for child in range(2):
                    with mlflow.start_run(run_name=f"{name}-child-{child}", nested=True):
                        mlflow.log_metric("loss", child)

    removed = client.create_run(experiment, tags={"kind": "mistake"})
    client.log_batch(removed.info.run_id, [Metric("loss", 5.0, 1, 0)], [Param("p", "1")], [RunTag("t", "1")])
    client.set_terminated(removed.info.run_id, "FAILED")
    client.delete_run(removed.info.run_id)
    open_run = client.create_run(experiment, run_name=f"{name}-never-ended")
    client.log_metric(open_run.info.run_id, "loss", 1e30)

    deleted = client.create_experiment(f"{name}-abandoned")
    gone = client.create_run(deleted)
    client.log_param(gone.info.run_id, "p", "of an abandoned experiment")
    client.delete_experiment(deleted)


def log_long_runs(name: str) -> None:
    """Log runs with many points of a metric, written as MLflow's file store writes them, but at once."""
    import mlflow
    from mlflow import MlflowClient

    client = MlflowClient()
    for number in range(LONG_EXPERIMENTS):
        experiment = client.create_experiment(f"{name}-long-{number}")
        run = client.create_run(experiment, run_name=f"{name}-long-run-{number}")
        client.log_metric(run.info.run_id, "loss", 0.0, timestamp=0, step=0)
        there = Path(mlflow.get_tracking_uri().removeprefix("file://"), experiment, run.info.run_id)
        points = (f"{1_700_000_000_000 + step} {1 / step} {step}\n" for step in range(1, LONG_POINTS))
        with (there / "metrics" / "loss").open("a") as file:
            file.writelines(points)
        (there / "artifacts" / "weights.bin").write_bytes(os.urandom(LONG_ARTIFACT_BYTES))
        client.set_terminated(run.info.run_id)


def log_models(name: str) -> None:
    """Log a model, and register it in two versions with a prompt beside."""
    import mlflow
    from mlflow import MlflowClient

    client = MlflowClient()
    with tempfile.TemporaryDirectory() as directory:
        code = Path(directory, "model.py")
        code.write_text(
            "from mlflow.models import set_model\nfrom mlflow.pyfunc import PythonModel\n\n\n"
            "class Doubler(PythonModel):\n    def predict(self, context, model_input: list[float]) -> list[float]:\n"
            "        return [2 * value for value in model_input]\n\n\nset_model(Doubler())\n"
        )
        with mlflow.start_run(run_name=f"{name}-model"):
            logged = mlflow.pyfunc.log_model(
                name="model", python_model=str(code), params={"depth": 3}, tags={"kind": "doubler"}
            )
            mlflow.log_metric("quality", 0.9, model_id=logged.model_id)
    client.create_registered_model(f"{name}-doubler", tags={"owner": "vision"}, description="doubles")
    for number in range(2):
        mlflow.register_model(logged.model_uri, f"{name}-doubler", tags={"number": str(number)})
    client.transition_model_version_stage(f"{name}-doubler", "1", "Archived")
    client.transition_model_version_stage(f"{name}-doubler", "2", "Production")
    client.set_registered_model_alias(f"{name}-doubler", "champion", "2")
    mlflow.genai.register_prompt(
        f"{name}-prompt", "Say {{word}} politely.", commit_message="first", tags={"tone": "polite"}
    )


def log_traces(name: str) -> None:
    """Log traces, one of them judged."""
    import mlflow
    from mlflow.entities import AssessmentSource

    for number in range(3):
        with mlflow.start_span(f"{name}-question") as span:
            span.set_inputs({"question": number})
            with mlflow.start_span("search", span_type="RETRIEVER") as inner:
                inner.set_attribute("found", number)
            span.set_outputs({"answer": number * 2})
        if number == 0:
            source = AssessmentSource(source_type="HUMAN", source_id="reviewer@example.com")
            mlflow.log_feedback(trace_id=span.trace_id, name="correct", value=True, source=source, rationale="it is")
            mlflow.log_expectation(trace_id=span.trace_id, name="expected", value={"answer": 0}, source=source)
            mlflow.set_trace_tag(span.trace_id, "reviewed", "yes")


def main() -> None:
    """Make what the arguments name."""
    import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    directory, kind, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    source = directory / ("mlruns" if kind == "file" else "mlflow.db")
    mlflow.set_tracking_uri(source.as_uri() if kind == "file" else f"sqlite:///{source}")
    log_runs(name)
    log_models(name)
    log_traces(name)
    if kind == "file" and "--long" in sys.argv:
        log_long_runs(name)


if __name__ == "__main__":
    main()
