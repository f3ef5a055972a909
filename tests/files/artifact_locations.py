"""Make rows with artifact locations of every kind in the database of PGSERVICEFILE's section mlflow, by MLflow itself.

usage: artifact_locations.py ROOT...     for each root an experiment, a run, a model, a model version, a trace

Of the first root, which is a directory, a model is logged by MLflow's client as users do.
"""

import os
import sys

URI = "postgresql+psycopg2:///?service=mlflow"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = sys.argv[1]

import mlflow  # noqa: E402
import pandas as pd  # noqa: E402
import psycopg2  # noqa: E402
from mlflow.entities import Experiment, Run  # noqa: E402
from mlflow.models import Model  # noqa: E402

mlflow.set_tracking_uri(URI)
client = mlflow.MlflowClient()


class Echo(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model that returns what it gets."""

    def predict(self, context: object, model_input: list[str]) -> list[str]:
        """Return the input."""
        return model_input


def experiment(root: str) -> Experiment:
    """Make an experiment whose artifacts are below a root."""
    return client.get_experiment(client.create_experiment(f"at {root}", f"{root.rstrip('/')}/experiment"))


def log(root: str) -> None:
    """Make a row of each kind whose artifacts are below a root."""
    identifier = experiment(root).experiment_id
    run: Run = client.create_run(identifier)
    model = client.create_logged_model(identifier, name="model", source_run_id=run.info.run_id)
    client.create_registered_model(name := f"model at {identifier}")
    client.create_model_version(name, f"models:/{model.model_id}")
    client.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    trace = client.start_trace("trace", experiment_id=identifier)
    client.end_trace(trace.trace_id)
    mlflow.flush_trace_async_logging()
    client.set_trace_tag(trace.trace_id, "of the user", f"{run.info.artifact_uri}/mine")
    for path in (model.artifact_location, "relative"):
        client._record_logged_model(run.info.run_id, Model(artifact_path=path, run_id=run.info.run_id))
    client.log_param(run.info.run_id, "location", run.info.artifact_uri)
    with psycopg2.connect(service="mlflow") as connection, connection.cursor() as cursor:
        archive = (trace.trace_id, "mlflow.trace.archiveLocation", f"{root.rstrip('/')}/archive/{trace.trace_id}")
        cursor.execute("INSERT INTO trace_tags (request_id, key, value) VALUES (%s, %s, %s)", archive)
        cursor.execute(
            "INSERT INTO workspaces (name, default_artifact_root, trace_archival_location) VALUES (%s, %s, %s)",
            (f"w{identifier}", root, f"{root.rstrip('/')}/archive"),
        )


for place in sys.argv[1:]:
    log(place)

mlflow.set_experiment(experiment_id=experiment(f"{sys.argv[1]}/client").experiment_id)
with mlflow.start_run():
    mlflow.log_text("text", "text.txt")
    mlflow.log_table(pd.DataFrame({"a": [1.0]}), "table.json")
    mlflow.log_input(mlflow.data.from_pandas(pd.DataFrame({"a": [1.0]}), source=f"{sys.argv[1]}/own.csv"))
    mlflow.pyfunc.log_model(name="echo", python_model=Echo(), pip_requirements=["mlflow"], registered_model_name="echo")
    with mlflow.start_span("span"):
        pass
mlflow.flush_trace_async_logging()
