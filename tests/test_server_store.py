"""That MLflow's store keeps the same rows and says the same: each replacement beside what it replaces."""

import json
import math
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelInput,
    LoggedModelOutput,
    Metric,
    Param,
    RunStatus,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.server import auth
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import event, text

import server_store

Functions = dict[str, Callable[..., Any]]
# Upstream's, whatever a test has replaced since.
UPSTREAM: Functions = {
    name: vars(SqlAlchemyStore)[name]
    for name in (
        "create_run",
        "log_batch",
        "_log_metrics_once",
        "get_run",
        "get_metric_history",
        "get_metric_history_bulk",
    )
}
OURS: Functions = {
    "log_batch": server_store.log_batch,
    "_log_metrics_once": server_store.log_metrics,
}
TABLES = {
    "metrics": "key, value, timestamp, step, is_nan",
    "latest_metrics": "key, value, timestamp, step, is_nan",
    "params": "key, value",
    "tags": "key, value",
    "logged_model_metrics": "model_id, metric_name, metric_timestamp_ms, metric_step, metric_value, run_id IS NULL",
}
VALUES = [0.5, -0.0, 0.0, 3, 0.1, 1e300, 5e-324, 1.7976931348623157e308, math.nan, math.inf, -math.inf, -12.25]
TIMES = [0, 1, 1_760_000_000_000]
STEPS = [0, 1, 2, 2, 3, -5, 2**63 - 1, -(2**63)]
KEYS = ["loss", "Loss", "a/b c", "größe-模型", "z" * 250, "_x", "x"]


@pytest.fixture(scope="module")
def store(postgresql: Path) -> Iterator[Any]:
    """Return MLflow's own store on a PostgreSQL."""
    store = SqlAlchemyStore(f"postgresql+psycopg2://mlflow@/postgres?host={postgresql}", "mlflow-artifacts:/")
    yield store
    store._dispose_engine()


@pytest.fixture
def experiment(store: Any) -> str:
    """Return the id of a new experiment."""
    return str(store.create_experiment(uuid.uuid4().hex))


def new_run(store: Any, experiment: str) -> str:
    """Return the id of a new run with the same name as all others."""
    return str(store.create_run(experiment, "user", 1, [], "run").info.run_id)


def rows(store: Any, run_id: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that tables have of a run."""
    column = {"logged_model_metrics": "run_id"}
    with store.engine.connect() as connection:
        return {
            table: sorted((tuple(row) for row in connection.execute(text(query), {"run_id": run_id})), key=repr)
            for table, columns in TABLES.items()
            for query in [f"SELECT {columns} FROM {table} WHERE {column.get(table, 'run_uuid')} = :run_id"]  # noqa: S608 - constants
        }


def outcome(write: Callable[..., Any], store: Any, run_id: str, *arguments: Any) -> tuple[str, str] | None:
    """Return code and first line of the error with which a write to a run ends, if it does."""
    try:
        write(store, run_id, *arguments)
    except MlflowException as error:
        return error.error_code, str(error).splitlines()[0].replace(run_id, "<run>")
    return None


def random_metrics(chance: random.Random, most: int) -> list[Metric]:
    """Return metrics with many equal keys, steps and values."""
    return [
        Metric(chance.choice(KEYS), chance.choice(VALUES), chance.choice(TIMES), chance.choice(STEPS))
        for _ in range(chance.randrange(most + 1))
    ]


def random_call(chance: random.Random) -> tuple[str, list[Any]]:
    """Return the name and the arguments of a write."""
    if chance.random() < 0.3:
        return "_log_metrics_once", [random_metrics(chance, 3)]
    names = chance.sample(["p1", "p2", "größe", "q" * 250], chance.randrange(4))
    params = [Param(name, chance.choice(["1", "1", "1", "two", "", "x" * 6000, "x" * 8001])) for name in names]
    tags = [
        RunTag(chance.choice(["t1", "t2", "mlflow.runName"]), chance.choice("ab")) for _ in range(chance.randrange(3))
    ]
    return "log_batch", [random_metrics(chance, 12), params, tags]


@pytest.mark.parametrize("seed", range(40))
def test_writes_leave_the_same_rows_and_end_with_the_same_errors(store: Any, experiment: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - nothing is kept secret with it
    upstream, ours = new_run(store, experiment), new_run(store, experiment)
    for _ in range(6):
        name, arguments = random_call(chance)
        told = [outcome(way[name], store, run, *arguments) for way, run in ((UPSTREAM, upstream), (OURS, ours))]
        assert told[0] == told[1], (name, arguments)
        assert rows(store, upstream) == rows(store, ours), (name, arguments)
    assert rows(store, ours)["metrics"]


@pytest.mark.parametrize("values", [[math.nan, 0.0], [0.0, math.nan], [-0.0, 0.0, math.nan]])
def test_the_latest_of_equals_is_the_first(store: Any, experiment: str, values: list[float]) -> None:
    found = []
    for way in (UPSTREAM, OURS):
        run = new_run(store, experiment)
        way["log_batch"](store, run, *batch([Metric("a", value, 1, 1) for value in values]))
        found.append(rows(store, run))
    assert found[0] == found[1]
    assert found[1]["latest_metrics"][0][-1] == math.isnan(values[0])


def batch(metrics: Sequence[Metric] = (), params: Sequence[Param] = (), tags: Sequence[RunTag] = ()) -> list[list[Any]]:
    """Return the arguments of a batch."""
    return [list(metrics), list(params), list(tags)]


BAD = {
    "a key with a line break": batch([Metric("a\nb", 1.0, 1, 1)]),
    "a value that is none": batch([Metric("a", "1", 1, 1)]),
    "a time before all": batch([Metric("a", 1.0, -1, 1)]),
    "a step that no column holds": batch([Metric("a", 1.0, 1, 2**63)]),
    "a param twice": batch(params=[Param("p", "1"), Param("p", "1")]),
    "a param with a zero byte": batch([Metric("a", 1.0, 1, 1)], [Param("p", "1\0")]),
    "a key too long": batch([Metric("k" * 251, 1.0, 1, 1)]),
    "too many metrics": batch([Metric("a", 1.0, 1, step) for step in range(1001)]),
    "too many params": batch(params=[Param(f"p{number}", "1") for number in range(101)]),
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD)
def test_what_cannot_be_stored_is_refused_with_the_same_words(
    store: Any, experiment: str, arguments: list[list[Any]]
) -> None:
    upstream, ours = new_run(store, experiment), new_run(store, experiment)
    told = outcome(OURS["log_batch"], store, ours, *arguments)
    before = outcome(UPSTREAM["log_batch"], store, upstream, *arguments)
    assert told and before and told[0] == before[0]
    assert rows(store, ours) == rows(store, upstream)
    assert not rows(store, ours)["metrics"]


@pytest.mark.parametrize("name", ["log_batch", "_log_metrics_once"])
def test_a_run_that_is_deleted_or_absent_is_not_written_to(store: Any, experiment: str, name: str) -> None:
    deleted, absent = new_run(store, experiment), uuid.uuid4().hex
    store.delete_run(deleted)
    arguments = batch([Metric("a", 1.0, 1, 1)], [Param("p", "1")])[: 1 if name == "_log_metrics_once" else 3]
    for run in (deleted, absent):
        told = [outcome(way[name], store, run, *arguments) for way in (UPSTREAM, OURS)]
        assert told[0] == told[1] is not None
        assert not rows(store, run)["metrics"]


@pytest.mark.parametrize("way", [UPSTREAM, OURS], ids=["MLflow's own", "ours"])
@pytest.mark.parametrize("step", ["_set_tags", "_log_model_metrics"])
def test_another_error_of_a_batch_is_wrapped(
    store: Any, experiment: str, monkeypatch: pytest.MonkeyPatch, way: Functions, step: str
) -> None:
    def fail(*arguments: Any, **more: Any) -> None:
        raise ValueError("not foreseen")

    monkeypatch.setattr(store, step, fail)
    arguments = batch([Metric("m", 1.0, 1, 1)], [], [RunTag("t", "1")])
    error = outcome(way["log_batch"], store, new_run(store, experiment), *arguments)
    assert error == ("INTERNAL_ERROR", "not foreseen")


def test_a_changed_param_is_refused_and_nothing_of_its_batch_stays(store: Any, experiment: str) -> None:
    run = new_run(store, experiment)
    server_store.log_batch(store, run, *batch(params=[Param("p", "1")]))
    before = rows(store, run)
    with pytest.raises(MlflowException, match=r"Changing param values is not allowed.*'p'.*'old_value': '1'"):
        server_store.log_batch(store, run, *batch([Metric("a", 1.0, 1, 1)], [Param("new", "1"), Param("p", "2")]))
    assert rows(store, run) == before


def test_metrics_of_a_logged_model_are_kept_with_it_too(store: Any, experiment: str) -> None:
    found = []
    for way in (UPSTREAM, OURS):
        run = new_run(store, experiment)
        model = store.create_logged_model(experiment, "model", run).model_id
        metrics = [Metric("a", 1.0, 1, step, model_id=model) for step in (1, 2)] + [Metric("a", 5.0, 1, 3)]
        way["log_batch"](store, run, *batch(metrics))
        way["log_batch"](store, run, *batch(metrics))
        found.append(
            {table: [row[1:] if "model" in table else row for row in kept] for table, kept in rows(store, run).items()}
        )
    assert found[0] == found[1]
    assert len(found[1]["logged_model_metrics"]) == 2


@pytest.mark.parametrize("others", [OURS, UPSTREAM], ids=["alike", "beside MLflow's own"])
def test_many_writers_of_one_run_lose_nothing(store: Any, experiment: str, others: Functions) -> None:
    run, keys = new_run(store, experiment), [f"key {number}" for number in range(12)]

    def write(writer: int) -> None:
        chance = random.Random(writer)  # noqa: S311 - nothing is kept secret with it
        for step in range(15):
            metrics = [Metric(key, float(writer), 1, step) for key in chance.sample(keys, len(keys))]
            way = others if writer % 2 else OURS
            store._run_with_deadlock_retry(way["log_batch"], store, run, *batch(metrics, [Param(f"p{writer}", "1")]))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    kept = rows(store, run)
    assert len(kept["metrics"]) == 6 * 15 * len(keys)
    assert sorted(kept["latest_metrics"]) == sorted((key, 5.0, 1, 14, False) for key in keys)
    assert len(kept["params"]) == 6


def told(entity: Any) -> Any:
    """Return what an entity says, whatever the order of its parts, and with NaN like NaN."""
    if isinstance(entity, dict):
        return {name: told(value) for name, value in entity.items()}
    if isinstance(entity, list):
        return sorted((told(each) for each in entity), key=repr)
    return repr(entity) if isinstance(entity, float) else entity


@pytest.mark.parametrize("seed", range(10))
def test_a_run_is_read_as_mlflow_reads_it(store: Any, experiment: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - nothing is kept secret with it
    run = new_run(store, experiment)
    tags = [RunTag("t", "1"), RunTag("größe", "模型")]
    store.log_batch(run, random_metrics(chance, 10), [Param("p", "1"), Param("empty", "")], tags)
    if seed % 2:
        model = store.create_logged_model(experiment, "model", run).model_id
        dataset = Dataset(f"data {seed}", "digest", "local", "source")
        store.log_inputs(run, [DatasetInput(dataset, [InputTag("k", "v")])])
        if seed % 3:
            store.log_inputs(run, [], [LoggedModelInput(model)])
        if seed % 3 != 1:
            store.log_outputs(run, [LoggedModelOutput(model, 3)])
    if seed > 4:
        store.update_run_info(run, RunStatus.FINISHED, 5, "another name")
        store.delete_run(run)
    ours, upstream = server_store.get_run(store, run), UPSTREAM["get_run"](store, run)
    assert told(message_to_dict(ours)) == told(message_to_dict(upstream))
    found = bool(ours.inputs.dataset_inputs), bool(ours.inputs.model_inputs), bool(ours.outputs.model_outputs)
    assert found == ((True, bool(seed % 3), seed % 3 != 1) if seed % 2 else (False, False, False))


def message_to_dict(run: Any) -> Any:
    """Return what the API makes of a run."""
    return MessageToDict(run.to_proto())


def test_a_run_that_is_not_there_is_not_read(store: Any) -> None:
    absent = uuid.uuid4().hex
    assert outcome(server_store.get_run, store, absent) == outcome(UPSTREAM["get_run"], store, absent) is not None


@pytest.mark.parametrize("most", [None, 1, 3, 7, 8, 100])
def test_a_history_is_read_as_mlflow_reads_it(store: Any, experiment: str, most: int | None) -> None:
    run = new_run(store, experiment)
    values = [1.0, math.nan, math.inf, -0.5, 1e300, 3.0, 3.0]
    metrics = [Metric("a", value, 100 - step, step // 2) for step, value in enumerate(values)]
    store.log_batch(run, *batch([*metrics, Metric("another", 1.0, 1, 1)]))
    pages: list[Any] = []
    token = None
    while not pages or token:
        ours = server_store.get_metric_history(store, run, "a", most, token)
        upstream = UPSTREAM["get_metric_history"](store, run, "a", most, token)
        assert [repr(dict(each)) for each in ours] == [repr(dict(each)) for each in upstream]
        assert ours.token == upstream.token
        pages.append(ours)
        token = ours.token
    assert sum(map(len, pages)) == 7
    assert len(pages) == math.ceil(7 / (most or 7))


@pytest.mark.parametrize("most", [2, 5, 100])
def test_histories_of_several_runs_are_read_as_mlflow_reads_them(store: Any, experiment: str, most: int) -> None:
    runs = [new_run(store, experiment) for _ in range(3)]
    for place, run in enumerate(runs):
        metrics = [Metric("a", value, 9 - step, step) for step, value in enumerate([1.0, math.nan, -place])]
        store.log_batch(run, *batch([*metrics, Metric("another", 1.0, 1, 1)]))
    asked = [runs[2], uuid.uuid4().hex, runs[0]]
    ours = server_store.get_metric_history_bulk(store, asked, "a", most)
    assert [repr(each.to_dict()) for each in ours] == [
        repr(each.to_dict()) for each in UPSTREAM["get_metric_history_bulk"](store, asked, "a", most)
    ]
    assert len(ours) == min(most, 6)
    assert not server_store.get_metric_history_bulk(store, [], "a", most)


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace MLflow's functions for a test."""
    for name, upstream in UPSTREAM.items():
        monkeypatch.setattr(SqlAlchemyStore, name, upstream)
    server_store.write_and_read_without_objects()


NEW_RUNS: dict[str, tuple[str, list[RunTag]]] = {
    "a name": ("name", []),
    "a name and tags": ("name", [RunTag("t", "1"), RunTag("größe", "模型")]),
    "a name as a tag": ("", [RunTag("mlflow.runName", "tagged")]),
    "two names": ("name", [RunTag("mlflow.runName", "another")]),
}


def created(store: Any, create: Callable[..., Any], experiment: str, name: str, tags: list[RunTag]) -> Any:
    """Return what comes of a new run: what is told of it, and its rows, but for its id."""
    try:
        run = create(store, experiment, "user", 12345, tags, name)
    except MlflowException as error:
        return error.error_code, str(error)
    run_id = run.info.run_id
    with store.engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM runs WHERE run_uuid = :run_id"), {"run_id": run_id}).one()
    said = json.dumps([told(message_to_dict(run)), row._asdict(), rows(store, run_id)], default=str, sort_keys=True)
    return said.replace(run_id, "<run>")


@pytest.mark.usefixtures("replaced")
@pytest.mark.parametrize("named", NEW_RUNS.values(), ids=NEW_RUNS)
def test_a_run_is_made_as_mlflow_makes_it(store: Any, experiment: str, named: tuple[str, list[RunTag]]) -> None:
    deleted = str(store.create_experiment(uuid.uuid4().hex))
    store.delete_experiment(deleted)
    for where in (experiment, deleted, "987654321", "no number"):
        said = created(store, SqlAlchemyStore.create_run, where, *named)
        assert said == created(store, UPSTREAM["create_run"], where, *named)
        assert ("<run>" in said) == (where == experiment and named != NEW_RUNS["two names"])


@pytest.mark.usefixtures("replaced")
def test_a_run_is_made_with_one_connection(store: Any, experiment: str) -> None:
    began: list[Any] = []
    count = began.append
    event.listen(store.engine, "begin", count)
    try:
        store.create_run(experiment, "user", 1, [RunTag("t", "1")], "name")
        ours, began[:] = len(began), []
        UPSTREAM["create_run"](store, experiment, "user", 1, [RunTag("t", "1")], "name")
    finally:
        event.remove(store.engine, "begin", count)
    assert (ours, len(began)) == (1, 2)


@pytest.mark.usefixtures("replaced")
def test_mlflow_writes_and_reads_by_it(store: Any, experiment: str) -> None:
    assert SqlAlchemyStore._log_metrics_once is server_store.log_metrics
    run = new_run(store, experiment)
    store.log_metric(run, Metric("a", 1.0, 1, 1))
    store.log_batch(run, *batch([Metric("a", 2.0, 1, 2)]))
    assert store.get_run(run).data.metrics == {"a": 2.0}
    assert [each.value for each in store.get_metric_history(run, "a")] == [1.0, 2.0]
    assert not [name for name, upstream in UPSTREAM.items() if vars(SqlAlchemyStore)[name] is upstream]


@pytest.fixture
def login(store: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return MLflow's login, which asks the store."""
    monkeypatch.setattr(auth, "_get_tracking_store", lambda: store)
    return auth


def test_permissions_of_a_run_are_decided_by_the_same(store: Any, experiment: str, login: Any) -> None:
    run, deleted, absent = new_run(store, experiment), new_run(store, experiment), uuid.uuid4().hex
    store.delete_run(deleted)
    before = [login._run_requirement(each, "update") for each in (run, deleted, absent)]
    server_store.find_runs_for_permissions_by_their_ids()
    assert [login._run_requirement(each, "update") for each in (run, deleted, absent)] == before
    assert before[0][0] == ("experiment", experiment)
    assert before[2] is None


def test_what_a_login_reads_of_a_run_is_one_row(store: Any, experiment: str, login: Any) -> None:
    run = new_run(store, experiment)
    server_store.find_runs_for_permissions_by_their_ids()
    light = login._get_tracking_store()
    assert vars(light.get_run(run)) == {"info": light.get_run(run).info}
    assert vars(light.get_run(run).info) == {"experiment_id": experiment}
    with pytest.raises(MlflowException, match="not found") as refusal:
        light.get_run(uuid.uuid4().hex)
    assert refusal.value.error_code == ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


def test_all_else_of_the_store_is_as_it_was(store: Any, experiment: str, login: Any) -> None:
    server_store.find_runs_for_permissions_by_their_ids()
    light = login._get_tracking_store()
    assert light.get_experiment(experiment).experiment_id == experiment
    assert experiment in [each.experiment_id for each in light.search_experiments(view_type=ViewType.ALL)]
    with pytest.raises(AttributeError):
        _ = light.nothing_of_the_kind
