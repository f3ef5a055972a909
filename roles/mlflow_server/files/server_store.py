"""What MLflow's store for runs writes and reads most, without an object for each row.

MLflow makes an object of each row that knows what was changed in it, and a transaction of each of a batch's parts. Here
PostgreSQL gets the rows of a batch as arrays, in one transaction, and keeps to MLflow's rules itself; and what is read
becomes MLflow's entities straight away. docs/performance.md has what this gains.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

# A point that is there is left alone. The latest of a key is the one with the greatest step, of these that with the
# greatest timestamp, of these that with the greatest value, and the first of equals
# (mlflow.store.tracking.sqlalchemy_store.SqlAlchemyStore._update_latest_metrics_if_necessary). Rows are locked in the
# order of their keys, so that two batches for one run do not wait for each other.
ADD_METRICS = """
WITH given AS (
    SELECT *
    FROM unnest(
        CAST(%(keys)s AS varchar[]), CAST(%(values)s AS double precision[]), CAST(%(timestamps)s AS bigint[]),
        CAST(%(steps)s AS bigint[]), CAST(%(nans)s AS boolean[])
    ) WITH ORDINALITY AS given (key, value, timestamp, step, is_nan, place)
), added AS (
    INSERT INTO metrics (run_uuid, key, value, timestamp, step, is_nan)
    SELECT %(run_id)s, key, value, timestamp, step, is_nan FROM given
    ON CONFLICT DO NOTHING
)
INSERT INTO latest_metrics AS latest (run_uuid, key, value, timestamp, step, is_nan)
SELECT DISTINCT ON (key) %(run_id)s, key, value, timestamp, step, is_nan
FROM given
ORDER BY key, step DESC, timestamp DESC, value DESC, place
ON CONFLICT (key, run_uuid) DO UPDATE
SET value = excluded.value, timestamp = excluded.timestamp, step = excluded.step, is_nan = excluded.is_nan
WHERE (excluded.step, excluded.timestamp, excluded.value) > (latest.step, latest.timestamp, latest.value)
"""
FIND_PARAMS = "SELECT key, value FROM params WHERE run_uuid = %(run_id)s AND key = ANY(CAST(%(keys)s AS varchar[]))"
ADD_PARAMS = """
INSERT INTO params (run_uuid, key, value)
SELECT %(run_id)s, key, value
FROM unnest(CAST(%(keys)s AS varchar[]), CAST(%(values)s AS varchar[])) AS given (key, value)
"""
COLUMNS_OF_RUN = (
    "run_uuid",
    "name",
    "experiment_id",
    "user_id",
    "status",
    "start_time",
    "end_time",
    "lifecycle_stage",
    "artifact_uri",
)
LATEST_OF_RUN = "SELECT key, value, timestamp, step, is_nan FROM latest_metrics WHERE run_uuid = %(run_id)s"
PARAMS_OF_RUN = "SELECT key, value FROM params WHERE run_uuid = %(run_id)s"
TAGS_OF_RUN = "SELECT key, value FROM tags WHERE run_uuid = %(run_id)s"
HISTORY = """
SELECT key, value, timestamp, step, is_nan
FROM metrics
WHERE run_uuid = %(run_id)s AND key = %(key)s
ORDER BY timestamp, step, value
OFFSET %(offset)s LIMIT %(most)s
"""
HISTORIES = """
SELECT run_uuid, key, value, timestamp, step, is_nan
FROM metrics
WHERE run_uuid = ANY(CAST(%(run_ids)s AS varchar[])) AND key = %(key)s
ORDER BY run_uuid, timestamp, step, value
LIMIT %(most)s
"""
HAS_INPUTS = """
SELECT
    EXISTS (SELECT FROM inputs WHERE destination_type = 'RUN' AND destination_id = %(run_id)s) AS datasets,
    EXISTS (SELECT FROM inputs WHERE source_type IN ('RUN_INPUT', 'RUN_OUTPUT') AND source_id = %(run_id)s) AS models
"""


def write_and_read_without_objects() -> None:
    """Have MLflow write metrics and batches, and read runs and histories of metrics, by the functions below."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    of_runs: Any = SqlAlchemyStore
    upstream = of_runs.create_run
    of_runs.create_run = lambda store, *given, **named: upstream(StoreForNewRun(store), *given, **named)
    of_runs._log_metrics_once = log_metrics
    of_runs.log_batch = log_batch
    of_runs.get_run = get_run
    of_runs.get_metric_history = get_metric_history
    of_runs.get_metric_history_bulk = get_metric_history_bulk


def find_runs_for_permissions_by_their_ids() -> None:
    """Have MLflow's login read of a run which experiment it is in, which is all that it decides by.

    It reads the run as a client would get it, with all its metrics, params and tags, before each write of a user who is
    no administrator.
    """
    from mlflow.server import auth

    upstream = auth._get_tracking_store
    auth._get_tracking_store = lambda: StoreForPermissions(upstream())


class InFrontOf:
    """MLflow's store, but for what a class of this one answers itself.

    Args:
        store: The store.
    """

    def __init__(self, store: Any) -> None:
        """Keep the store."""
        self._store = store

    def __getattr__(self, name: str) -> Any:
        """Return what the store has."""
        return getattr(self._store, name)


class StoreForPermissions(InFrontOf):
    """MLflow's store, as its login asks it."""

    def get_run(self, run_id: str) -> Any:
        """Return a run with nothing but the id of its experiment.

        Raises:
            mlflow.exceptions.MlflowException: There is no such run.
        """
        from mlflow.store.tracking.dbmodels.models import SqlRun

        with self._store.ManagedSessionMaker() as session:
            run = find_run(self._store, session, run_id, SqlRun.experiment_id)
        return SimpleNamespace(info=SimpleNamespace(experiment_id=str(run.experiment_id)))


class StoreForNewRun(InFrontOf):
    """MLflow's store, as it makes a run.

    Left alone, that looks for the experiment with a second connection, its tags included, and for the inputs of a run
    that has just been made.
    """

    _session: Any = None

    @contextlib.contextmanager
    def ManagedSessionMaker(self, *, read_only: bool) -> Iterator[Any]:
        """Yield a session of the store."""
        with self._store.ManagedSessionMaker(read_only=read_only) as self._session:
            yield self._session

    def get_experiment(self, experiment_id: str) -> Any:
        """Return an experiment, which is read in that session.

        Raises:
            mlflow.exceptions.MlflowException: There is no such experiment.
        """
        from mlflow.entities import ViewType

        return self._store._get_experiment(self._session, experiment_id, ViewType.ALL)

    def _get_run_inputs(self, _: Any, run_uuids: Sequence[str]) -> list[list[Any]]:
        return [[] for _ in run_uuids]


def find_run(store: Any, session: Any, run_id: str, *columns: Any) -> Any:
    """Return some columns of a run.

    Args:
        store: MLflow's SqlAlchemyStore.
        session: One of its sessions.
        run_id: Id of the run.
        columns: Columns of SqlRun.

    Raises:
        mlflow.exceptions.MlflowException: There is no such run.
    """
    from mlflow.store.tracking.dbmodels.models import SqlRun

    query = store._get_query(session, SqlRun).filter(SqlRun.run_uuid == run_id)
    # Where there is none, MLflow's own way says so.
    return query.with_entities(*columns).one_or_none() or store._get_run(session, run_id)


def find_run_to_write_to(store: Any, session: Any, run_id: str) -> str:
    """Return the experiment of a run.

    Args:
        store: MLflow's SqlAlchemyStore.
        session: One of its sessions.
        run_id: Id of the run.

    Raises:
        mlflow.exceptions.MlflowException: There is no such run, or it was deleted.
    """
    from mlflow.store.tracking.dbmodels.models import SqlRun

    run = find_run(store, session, run_id, SqlRun.run_uuid, SqlRun.experiment_id, SqlRun.lifecycle_stage)
    store._check_run_is_active(run)
    return str(run.experiment_id)


def log_metrics(store: Any, run_id: str, metrics: Sequence[Any]) -> None:
    """Add metrics to a run, as SqlAlchemyStore._log_metrics_once does.

    Args:
        store: MLflow's SqlAlchemyStore.
        run_id: Id of the run.
        metrics: Entities of MLflow.

    Raises:
        mlflow.exceptions.MlflowException: A metric cannot be stored, or the run cannot be written to.
    """
    from mlflow.store.tracking.sqlalchemy_store import _validate_metric

    for place, metric in enumerate(metrics):
        path = "" if len(metrics) == 1 else f"metrics[{place}]"
        _validate_metric(metric.key, metric.value, metric.timestamp, metric.step, path=path)
    with store.ManagedSessionMaker(read_only=False) as session:
        find_run_to_write_to(store, session, run_id)
        add_metrics(store, session, run_id, metrics)


def log_batch(store: Any, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]) -> None:
    """Add metrics, params and tags to a run, as SqlAlchemyStore.log_batch does.

    Args:
        store: MLflow's SqlAlchemyStore.
        run_id: Id of the run.
        metrics: Entities of MLflow.
        params: Entities of MLflow.
        tags: Entities of MLflow.

    Raises:
        mlflow.exceptions.MlflowException: One of them cannot be stored, or the run cannot be written to. Any other
            error is wrapped with the code INTERNAL_ERROR.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR
    from mlflow.store.tracking import sqlalchemy_store as upstream

    upstream._validate_run_id(run_id)
    metrics, params, tags = upstream._validate_batch_log_data(metrics, params, tags)
    upstream._validate_batch_log_limits(metrics, params, tags)
    upstream._validate_param_keys_unique(params)

    def write() -> str:
        with store.ManagedSessionMaker(read_only=False) as session:
            experiment_id = find_run_to_write_to(store, session, run_id)
            add_params(session, run_id, params)
            add_metrics(store, session, run_id, metrics)
        return experiment_id

    try:
        experiment_id = store._run_with_deadlock_retry(write)
        store._log_model_metrics(run_id, metrics, experiment_id=experiment_id)
        store._set_tags(run_id, tags)
    except MlflowException:
        raise
    except Exception as error:
        raise MlflowException(error, INTERNAL_ERROR) from error


def add_metrics(store: Any, session: Any, run_id: str, metrics: Sequence[Any]) -> None:
    """Write valid metrics."""
    if not metrics:
        return
    nans, values = zip(*(store.sanitize_metric_value(metric.value) for metric in metrics), strict=True)
    columns = {
        "keys": [metric.key for metric in metrics],
        "values": list(values),
        "timestamps": [metric.timestamp for metric in metrics],
        "steps": [metric.step for metric in metrics],
        "nans": list(nans),
    }
    session.connection().exec_driver_sql(ADD_METRICS, {"run_id": run_id, **columns})


def add_params(session: Any, run_id: str, params: Sequence[Any]) -> None:
    """Write params with different keys, those that are there already aside.

    Raises:
        mlflow.exceptions.MlflowException: One is there with another value.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    if not params:
        return
    keys = {"run_id": run_id, "keys": [param.key for param in params]}
    present = dict(session.connection().exec_driver_sql(FIND_PARAMS, keys).all())
    changed = [
        {"key": param.key, "old_value": present[param.key], "new_value": param.value}
        for param in params
        if param.key in present and present[param.key] != param.value
    ]
    if changed:
        raise MlflowException(
            f"Changing param values is not allowed. Params were already logged='{changed}' for run ID='{run_id}'.",
            INVALID_PARAMETER_VALUE,
        )
    new = [param for param in params if param.key not in present]
    if new:
        columns = {"keys": [param.key for param in new], "values": [param.value for param in new]}
        session.connection().exec_driver_sql(ADD_PARAMS, {"run_id": run_id, **columns})


@dataclass(frozen=True)
class Readable:
    """A row that becomes an entity as an object of MLflow's does.

    Args:
        kind: Class of the object.
        row: What was read, by the same names.
    """

    kind: Any
    row: Any

    def to_mlflow_entity(self) -> Any:
        """Return the entity."""
        return self.kind.to_mlflow_entity(self.row)


def get_run(store: Any, run_id: str) -> Any:
    """Return a run, as SqlAlchemyStore.get_run does.

    Args:
        store: MLflow's SqlAlchemyStore.
        run_id: Id of the run.

    Raises:
        mlflow.exceptions.MlflowException: There is no such run.
    """
    from mlflow.entities import Run, RunInputs, RunOutputs
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlRun, SqlTag

    with store.ManagedSessionMaker() as session:
        own = find_run(store, session, run_id, *(getattr(SqlRun, name) for name in COLUMNS_OF_RUN))
        ask = session.connection().exec_driver_sql
        parts = {
            name: [Readable(kind, row) for row in ask(query, {"run_id": run_id})]
            for name, kind, query in (
                ("latest_metrics", SqlLatestMetric, LATEST_OF_RUN),
                ("params", SqlParam, PARAMS_OF_RUN),
                ("tags", SqlTag, TAGS_OF_RUN),
            )
        }
        named = {name: getattr(own, name) for name in COLUMNS_OF_RUN}
        run = SqlRun.to_mlflow_entity(SimpleNamespace(**named, **parts))
        has = ask(HAS_INPUTS, {"run_id": run_id}).one()
        datasets = store._get_run_inputs(run_uuids=[run_id], session=session)[0] if has.datasets else []
        models = store._get_model_inputs(run_id, session) if has.models else []
        outputs = store._get_model_outputs(run_id, session) if has.models else []
    inputs = RunInputs(dataset_inputs=datasets, model_inputs=models)
    return Run(run.info, run.data, inputs, RunOutputs(outputs))


def get_metric_history(
    store: Any, run_id: str, metric_key: str, max_results: int | None = None, page_token: str | None = None
) -> Any:
    """Return the points of a metric, as SqlAlchemyStore.get_metric_history does.

    Args:
        store: MLflow's SqlAlchemyStore.
        run_id: Id of the run.
        metric_key: Key of the metric.
        max_results: How many at most; all if it is None.
        page_token: Where to go on, as a former answer told it.
    """
    from mlflow.store.entities.paged_list import PagedList
    from mlflow.store.tracking.dbmodels.models import SqlMetric
    from mlflow.utils.search_utils import SearchUtils

    offset = SearchUtils.parse_start_offset_from_page_token(page_token)
    given = {"run_id": run_id, "key": metric_key, "offset": offset}
    with store.ManagedSessionMaker() as session:
        store._validate_run_accessible(session, run_id)
        most = None if max_results is None else max_results + 1
        rows = session.connection().exec_driver_sql(HISTORY, given | {"most": most}).all()
    token = None
    if len(rows) == most:
        rows.pop()
        token = SearchUtils.create_page_token(offset + len(rows))
    return PagedList([SqlMetric.to_mlflow_entity(row) for row in rows], token)


def get_metric_history_bulk(store: Any, run_ids: Sequence[str], metric_key: str, max_results: int) -> list[Any]:
    """Return the points of a metric in several runs, as SqlAlchemyStore.get_metric_history_bulk does.

    Args:
        store: MLflow's SqlAlchemyStore.
        run_ids: Ids of the runs.
        metric_key: Key of the metric.
        max_results: How many at most.
    """
    from mlflow.entities.metric import MetricWithRunId
    from mlflow.store.tracking import sqlalchemy_store as upstream
    from mlflow.store.tracking.dbmodels.models import SqlMetric

    with store.ManagedSessionMaker() as session:
        known = store._filter_entity_ids(session, upstream.EntityAssociationType.RUN, list(run_ids))
        given = {"run_ids": list(known), "key": metric_key, "most": max_results}
        rows = session.connection().exec_driver_sql(HISTORIES, given).all()
    return [MetricWithRunId(SqlMetric.to_mlflow_entity(row), row.run_uuid) for row in rows]
