"""Access controls that MLflow lacks: a user reaches nothing of another by what that user may name.

MLflow reads and writes artifacts for its users with the server's own login to the store, and takes ids and locations
that clients choose.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Collection
from typing import Any

# What MLflow itself makes trace ids of, and imported ones have. A slash would lead to the artifacts of another trace.
TRACE_ID = re.compile(r"[\w:-][\w.:-]*")


def hold_versions_to_what_they_name() -> None:
    """Refuse a model version whose source is not within the run or logged model that it names.

    MLflow asks whether the caller may read that run or model, and whether the source is within it, but the latter only
    for sources that it serves itself. For any other, such as s3://, it would read whatever its own login can.
    """
    from mlflow.server import handlers

    upstream = handlers._is_mlflow_artifact_source

    def must_be_within(source: str) -> bool:
        # MLflow has looked at these two by then.
        return upstream(source) or urllib.parse.urlsplit(source).scheme not in {"runs", "models"}

    handlers._is_mlflow_artifact_source = must_be_within


def hold_traces_to_their_experiment() -> None:
    """Read the artifacts of a trace from nowhere but its own place within its experiment.

    MLflow reads them from where a tag of the trace says, which clients may set, and by default that is made of an id
    that clients choose.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.server import handlers
    from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION
    from mlflow.utils.uri import append_to_uri_path

    upstream = handlers._get_trace_artifact_repo

    def repository_of(trace: Any) -> Any:
        experiment = handlers._get_tracking_store().get_experiment(trace.experiment_id)
        own = append_to_uri_path(experiment.artifact_location, "traces", trace.trace_id, "artifacts")
        if not TRACE_ID.fullmatch(trace.trace_id) or trace.tags.get(MLFLOW_ARTIFACT_LOCATION, own) != own:
            raise MlflowException.invalid_parameter_value("The trace names artifacts that are not its own.")
        return upstream(trace)

    handlers._get_trace_artifact_repo = repository_of


def keep_traces_in_their_experiment() -> None:
    """Reject a trace or spans whose trace id exists in another experiment.

    MLflow asks whether the caller may write to the experiment that the request names. If the id exists, it moves that
    trace there, or adds the spans to it, whoever it belongs to.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    start_trace, log_spans = SqlAlchemyStore.start_trace, SqlAlchemyStore.log_spans

    def start_own_trace(store: Any, trace_info: Any) -> Any:
        _reject_other_experiments(store, trace_info.experiment_id, {trace_info.trace_id})
        return start_trace(store, trace_info)

    def log_own_spans(store: Any, location: str, spans: Any, *rest: Any, **more: Any) -> Any:
        _reject_other_experiments(store, location, {span.trace_id for span in spans})
        return log_spans(store, location, spans, *rest, **more)

    SqlAlchemyStore.start_trace, SqlAlchemyStore.log_spans = start_own_trace, log_own_spans


def _reject_other_experiments(store: Any, experiment_id: str, trace_ids: Collection[str]) -> None:
    """Check that no trace exists in another experiment.

    Raises:
        MlflowException: One does.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS
    from mlflow.store.tracking.dbmodels.models import SqlTraceInfo

    with store.ManagedSessionMaker(read_only=True) as session:
        query = session.query(SqlTraceInfo.request_id).filter(
            SqlTraceInfo.request_id.in_(trace_ids), SqlTraceInfo.experiment_id != int(experiment_id)
        )
        found = query.first()
    if found:
        raise MlflowException(
            f"The trace ID '{found[0]}' exists in another experiment.", error_code=RESOURCE_ALREADY_EXISTS
        )


def reserve_locations_for_administrators() -> None:
    """Reject the artifact location of a new experiment, unless an administrator chooses it.

    MLflow takes any location that it can write to, such as the directory of another experiment.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
    from mlflow.protos.service_pb2 import CreateExperiment
    from mlflow.server import auth

    upstream = auth.validate_can_create_experiment

    # MLflow asks validators about users who are not administrators.
    def validate() -> bool:
        if auth._get_request_message(CreateExperiment()).artifact_location:
            raise MlflowException(
                "Only an administrator can choose the artifact location of an experiment.",
                error_code=PERMISSION_DENIED,
            )
        return bool(upstream())

    validators = auth.BEFORE_REQUEST_VALIDATORS
    routes = [route for route, validator in validators.items() if validator is upstream]
    # Without a route this control would be gone unnoticed.
    assert routes, "MLflow has no route that creates experiments"
    validators.update(dict.fromkeys(routes, validate))
