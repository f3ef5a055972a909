"""Access controls that MLflow lacks: what a user names leads to nothing of another user."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flask
import pytest
from mlflow.entities import Span, TraceInfo, TraceLocation, TraceState
from mlflow.entities.span import create_mlflow_span
from mlflow.exceptions import MlflowException
from mlflow.server import auth, handlers
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

import server_access

OWN = SimpleNamespace(info=SimpleNamespace(artifact_uri="s3://bucket/site/1/own/artifacts"))
OWN_MODEL = SimpleNamespace(artifact_location="mlflow-artifacts:/1/models/m-own/artifacts")
FOREIGN = [
    "s3://bucket/site/2/other/artifacts/model",
    "S3://bucket/site/2/other/artifacts/model",
    "s3://bucket/site/1/own/artifacts-of-another",
    "gs://bucket/site/2/other/artifacts/model",
    "wasbs://container@account.blob.core.windows.net/2/other/artifacts/model",
    "mlflow-artifacts:/2/other/artifacts/model",
    "dbfs:/2/other",
]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MLflow check sources as the server does, with a run and a logged model in its store."""
    store = SimpleNamespace(get_run=lambda _run: OWN, get_logged_model=lambda _model: OWN_MODEL)
    monkeypatch.setattr(handlers, "_get_tracking_store", lambda: store)
    monkeypatch.setattr(handlers, "_is_mlflow_artifact_source", handlers._is_mlflow_artifact_source)
    server_access.hold_versions_to_what_they_name()


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("source", FOREIGN)
@pytest.mark.parametrize("named", ["own", ""])
def test_a_version_is_not_of_what_it_does_not_name(source: str, named: str) -> None:
    for check in (handlers._validate_source_run, handlers._validate_source_model):
        with pytest.raises(MlflowException, match="must identify the resource that contains the source"):
            check(source, named)


@pytest.mark.usefixtures("registry")
def test_a_version_is_of_what_it_names() -> None:
    handlers._validate_source_run("s3://bucket/site/1/own/artifacts/model", "own")
    handlers._validate_source_run("runs:/own/model", "own")
    handlers._validate_source_run("models:/another/1", "")
    handlers._validate_source_model("mlflow-artifacts:/1/models/m-own/artifacts", "m-own")
    handlers._validate_source_model("models:/m-0123456789abcdef0123456789abcdef", "m-0123456789abcdef0123456789abcdef")
    handlers._validate_source_model("models:/another/1", "m-own")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return what says where the artifacts of a trace are read."""
    # Anybody may make an experiment with the location of another.
    store = SimpleNamespace(get_experiment=lambda _id: SimpleNamespace(artifact_location="s3://bucket/site/2"))
    monkeypatch.setattr(handlers, "_get_tracking_store", lambda: store)
    monkeypatch.setattr(handlers, "_get_trace_repo_from_uri", lambda uri: uri)
    monkeypatch.setattr(handlers, "_get_trace_artifact_repo", handlers._get_trace_artifact_repo)
    server_access.hold_traces_to_their_experiment()

    def location(trace: str, tagged: str) -> str:
        tags = {"mlflow.artifactLocation": tagged}
        return str(handlers._get_trace_artifact_repo(SimpleNamespace(trace_id=trace, experiment_id="1", tags=tags)))

    return location


@pytest.mark.parametrize(
    ("trace", "tagged"),
    [
        ("tr-own", "s3://bucket/site/2/traces/tr-other/artifacts"),
        ("tr-own", "mlflow-artifacts:/2/traces/tr-other/artifacts"),
        ("/tr-other", "s3://bucket/site/2/traces/tr-other/artifacts"),
        ("tr-other/", "s3://bucket/site/2/traces/tr-other/artifacts"),
        ("./tr-other", "s3://bucket/site/2/traces/./tr-other/artifacts"),
        ("../../3/traces/tr-other", "s3://bucket/site/2/traces/../../3/traces/tr-other/artifacts"),
        ("tr-other?", "s3://bucket/site/2/traces/tr-other?/artifacts"),
    ],
)
def test_a_trace_is_not_read_where_another_is(read: Callable[..., str], trace: str, tagged: str) -> None:
    with pytest.raises(MlflowException, match="artifacts that are not its own"):
        read(trace, tagged)


@pytest.mark.parametrize("trace", ["tr-0123456789abcdef0123456789abcdef", "0123456789abcdef", "imported.from:x_1"])
def test_a_trace_is_read_within_its_experiment(read: Callable[..., str], trace: str) -> None:
    own = f"s3://bucket/site/2/traces/{trace}/artifacts"
    assert read(trace, own) == own


# Traces that exist


@pytest.fixture(scope="module")
def store(postgresql: Path) -> Iterator[Any]:
    """Yield a store as the server has it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("start_trace", "log_spans"):
            patch.setattr(SqlAlchemyStore, name, getattr(SqlAlchemyStore, name))
        server_access.keep_traces_in_their_experiment()
        made = SqlAlchemyStore(f"postgresql+psycopg2://mlflow@/postgres?host={postgresql}", "mlflow-artifacts:/")
        yield made
        made._dispose_engine()


def trace_in(experiment: str, trace: str) -> TraceInfo:
    """Return a trace of an experiment."""
    location = TraceLocation.from_experiment_id(experiment)
    return TraceInfo(trace_id=trace, trace_location=location, request_time=1, state=TraceState.OK, tags={})


def span_of(number: int) -> Span:
    """Return a span of the trace with a number for its id."""
    trace = f"tr-{number:032x}"
    context = SpanContext(number, 1, is_remote=False)
    attributes = {"mlflow.traceRequestId": f'"{trace}"'}
    span = ReadableSpan("span", context, start_time=1, end_time=2, attributes=attributes)
    return create_mlflow_span(span, trace)


def test_a_trace_of_another_experiment_is_not_taken_over(store: Any) -> None:
    own, other = (store.create_experiment(uuid.uuid4().hex) for _ in range(2))
    number = uuid.uuid4().int
    trace = f"tr-{number:032x}"
    store.start_trace(trace_in(own, trace))
    attempts: list[Callable[[], object]] = [
        lambda: store.start_trace(trace_in(other, trace)),
        lambda: store.log_spans(other, [span_of(number)]),
    ]
    for attempt in attempts:
        with pytest.raises(MlflowException, match="exists in another experiment"):
            attempt()
    assert store.get_trace_info(trace).experiment_id == own
    # As a client does that writes its spans and then the trace, or either again.
    store.log_spans(own, [span_of(number)])
    store.start_trace(trace_in(own, trace))
    assert store.get_trace_info(trace).experiment_id == own


# Locations


@pytest.fixture
def create(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], bool]:
    """Return what asks whether a user who is no administrator may create an experiment."""
    path = "/api/2.0/mlflow/experiments/create"

    def upstream() -> bool:
        return True

    monkeypatch.setattr(auth, "validate_can_create_experiment", upstream)
    monkeypatch.setattr(auth, "BEFORE_REQUEST_VALIDATORS", {(path, "POST"): upstream})
    server_access.reserve_locations_for_administrators()

    def ask(body: dict[str, str]) -> bool:
        with flask.Flask("test").test_request_context(path, method="POST", json=body):
            return bool(auth.BEFORE_REQUEST_VALIDATORS[path, "POST"]())

    return ask


@pytest.mark.parametrize("location", ["mlflow-artifacts:/1", "s3://bucket/site", "/var/lib/mlflow/tmp", "file:///x"])
@pytest.mark.parametrize("name", ["artifact_location", "artifactLocation"])
def test_a_user_chooses_no_location(create: Callable[[dict[str, str]], bool], name: str, location: str) -> None:
    with pytest.raises(MlflowException, match="Only an administrator") as error:
        create({"name": "x", name: location})
    assert error.value.get_http_status_code() == 403


@pytest.mark.parametrize("body", [{"name": "x"}, {"name": "x", "artifact_location": ""}])
def test_an_experiment_without_a_location_is_created(
    create: Callable[[dict[str, str]], bool], body: dict[str, str]
) -> None:
    assert create(body)


def test_every_route_that_creates_experiments_is_checked() -> None:
    validators = auth.BEFORE_REQUEST_VALIDATORS.items()
    routes = {path for (path, _), validator in validators if validator is auth.validate_can_create_experiment}
    assert routes == {f"/{api}/2.0/mlflow/experiments/create" for api in ("api", "ajax-api")}
