"""MLflow's own client, over verified TLS, set up as a data scientist has it: everything is logged and read back."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from testing.deployment import Site

MEGABYTE = 1 << 20
# A model as code: it needs neither a pickle nor a library to be loaded.
MODEL = """
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Doubler(PythonModel):
    def predict(self, context, model_input: list[float]) -> list[float]:
        return [2 * value for value in model_input]


set_model(Doubler())
"""


@pytest.fixture
def client(client_environment: None) -> MlflowClient:
    """Return a client of the administrator."""
    return MlflowClient()


@pytest.fixture
def experiment(client: MlflowClient) -> Iterator[str]:
    """Yield the id of an experiment of the test's own, the one that MLflow logs to by default."""
    experiment_id = client.create_experiment(f"client-{uuid.uuid4().hex}")
    mlflow.set_experiment(experiment_id=experiment_id)
    yield experiment_id
    client.delete_experiment(experiment_id)


@pytest.fixture
def run_id(client: MlflowClient, experiment: str) -> str:
    """Return the id of a run in that experiment."""
    return str(client.create_run(experiment).info.run_id)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def active_experiments(client: MlflowClient) -> list[str]:
    return [found.experiment_id for found in client.search_experiments()]


def test_experiments(client: MlflowClient) -> None:
    name = f"client-{uuid.uuid4().hex}"
    experiment_id = client.create_experiment(name, tags={"team": "vision"})
    client.rename_experiment(experiment_id, f"{name}-renamed")
    found = client.search_experiments(filter_string=f"name = '{name}-renamed' AND tags.team = 'vision'")
    assert [(one.experiment_id, one.lifecycle_stage) for one in found] == [(experiment_id, "active")]

    client.delete_experiment(experiment_id)
    assert experiment_id not in active_experiments(client)
    deleted = client.search_experiments(ViewType.DELETED_ONLY, filter_string=f"name = '{name}-renamed'")
    assert [one.experiment_id for one in deleted] == [experiment_id]

    client.restore_experiment(experiment_id)
    assert experiment_id in active_experiments(client)
    client.delete_experiment(experiment_id)


def test_params_metrics_and_tags(client: MlflowClient, run_id: str) -> None:
    losses = [1 / (step + 1) for step in range(100)]
    client.log_param(run_id, "learning_rate", 0.01)
    for step, loss in enumerate(losses):
        client.log_metric(run_id, "loss", loss, timestamp=1_700_000_000_000 + step, step=step)
    client.set_tag(run_id, "stage", "first try")
    client.set_tag(run_id, "stage", "überarbeitet")
    client.set_terminated(run_id)

    run = client.get_run(run_id)
    assert run.data.params == {"learning_rate": "0.01"}
    assert run.data.metrics == {"loss": losses[-1]}
    assert run.data.tags["stage"] == "überarbeitet"
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run_id, "loss")
    assert [(point.step, point.timestamp, point.value) for point in sorted(history, key=lambda point: point.step)] == [
        (step, 1_700_000_000_000 + step, loss) for step, loss in enumerate(losses)
    ]


def test_batch_and_search(client: MlflowClient, experiment: str) -> None:
    runs = {}
    for layers, accuracy in ((1, 0.7), (2, 0.9), (3, 0.8)):
        run_id = client.create_run(experiment).info.run_id
        client.log_batch(
            run_id,
            metrics=[Metric("accuracy", accuracy, 0, 0)],
            params=[Param("layers", str(layers)), Param("optimizer", "adam")],
            tags=[RunTag("kind", "search")],
        )
        runs[layers] = run_id

    found = client.search_runs(
        [experiment],
        filter_string="metrics.accuracy > 0.75 AND params.optimizer = 'adam' AND tags.kind = 'search'",
        order_by=["metrics.accuracy DESC"],
    )
    assert [run.info.run_id for run in found] == [runs[2], runs[3]]
    assert [run.data.params["layers"] for run in found] == ["2", "3"]


def test_large_artifact(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    original = tmp_path / "weights.bin"
    with original.open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(MEGABYTE))
    client.log_artifact(run_id, str(original), "model")
    assert [(found.path, found.file_size) for found in client.list_artifacts(run_id, "model")] == [
        ("model/weights.bin", 200 * MEGABYTE)
    ]

    fetched = client.download_artifacts(run_id, "model/weights.bin", str(tmp_path / "fetched"))
    assert sha256(Path(fetched)) == sha256(original)


@pytest.mark.usefixtures("experiment")
def test_registered_model(client: MlflowClient, tmp_path: Path) -> None:
    name = f"client-{uuid.uuid4().hex}"
    source = tmp_path / "doubler.py"
    source.write_text(MODEL, encoding="utf-8")
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(name="doubler", python_model=str(source), pip_requirements=["mlflow"])
    version = mlflow.register_model(logged.model_uri, name).version
    client.set_registered_model_alias(name, "champion", version)
    client.set_model_version_tag(name, version, "validated", "yes")

    champion = client.get_model_version_by_alias(name, "champion")
    assert (champion.version, champion.status, champion.tags) == (version, "READY", {"validated": "yes"})
    assert mlflow.pyfunc.load_model(f"models:/{name}@champion").predict([1.0, 2.5]) == [2.0, 5.0]

    client.delete_registered_model(name)
    with pytest.raises(MlflowException, match="not found"):
        client.get_registered_model(name)


def test_opentelemetry_trace(client: MlflowClient, site: Site, admin: requests.Session, experiment: str) -> None:
    trace_id, now = os.urandom(16), time.time_ns()
    span = Span(
        trace_id=trace_id,
        span_id=os.urandom(8),
        name="answer a question",
        start_time_unix_nano=now - 1_000_000,
        end_time_unix_nano=now,
    )
    export = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[span])])])
    answer = admin.post(
        f"{site.url}/v1/traces",
        data=export.SerializeToString(),
        headers={"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": experiment},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text

    traces = client.search_traces(locations=[experiment])
    assert [trace.info.trace_id for trace in traces] == [f"tr-{trace_id.hex()}"]
    assert [found.name for found in traces[0].data.spans] == ["answer a question"]


def test_traced_span(client: MlflowClient, experiment: str) -> None:
    with mlflow.start_span("retrieve") as outer:
        outer.set_inputs({"question": "Where?"})
        with mlflow.start_span("rank"):
            pass
        outer.set_outputs({"answer": "Here."})
    mlflow.flush_trace_async_logging()

    traces = client.search_traces(locations=[experiment])
    assert [trace.info.trace_id for trace in traces] == [outer.trace_id]
    assert {span.name for span in traces[0].data.spans} == {"retrieve", "rank"}
    root = next(span for span in traces[0].data.spans if span.name == "retrieve")
    assert (root.inputs, root.outputs) == ({"question": "Where?"}, {"answer": "Here."})


def test_user_sees_what_was_granted_and_nothing_else(
    client: MlflowClient,
    site: Site,
    admin: requests.Session,
    user: tuple[str, str],
    experiment: str,
    run_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client.log_text(run_id, "secret recipe", "notes.txt")
    grant = {"username": user[0], "resource_type": "experiment", "resource_id": experiment, "permission": "READ"}
    refused: list[Callable[[], object]] = [
        lambda: client.get_experiment(experiment),
        lambda: client.get_run(run_id),
        lambda: client.list_artifacts(run_id),
        lambda: client.set_tag(run_id, "seen", "yes"),
    ]
    with monkeypatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_USERNAME", user[0])
        environment.setenv("MLFLOW_TRACKING_PASSWORD", user[1])
        assert active_experiments(client) == []
        for request in refused:
            with pytest.raises(MlflowException, match="Permission denied"):
                request()

        admin.post(f"{site.url}/api/3.0/mlflow/users/permissions/grant", json=grant, timeout=60).raise_for_status()
        assert active_experiments(client) == [experiment]
        assert [run.info.run_id for run in client.search_runs([experiment])] == [run_id]
        fetched = client.download_artifacts(run_id, "notes.txt", str(tmp_path))
        assert Path(fetched).read_text(encoding="utf-8") == "secret recipe"
        with pytest.raises(MlflowException, match="Permission denied"):
            client.set_tag(run_id, "seen", "yes")
