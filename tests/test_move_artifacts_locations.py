"""Locations in MLflow's database are rewritten: all of the server's own, none of users, and none of another root."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
from psycopg2 import sql

from locations import COLUMNS, HISTORY, MENTIONS, Locations, rewrites_of, rewritten, rewritten_history
from stores import MoveError
from tests.moving import PROGRAM, Result
from tests.project import PROJECT

OLD, NEW = "s3://old/some/prefix", "s3://a-new-bucket/prefix"
DIRECTORY, PROXIED = "artifacts", "mlflow-artifacts:/"
# Roots that begin like others.
NEIGHBOURS = ("s3://old/some/prefix2", "s3://old/some/pre_ix", "mlflow-artifacts://another.example.com:5000/")
PER_ROOT = {
    "experiments.artifact_location": 1,
    "runs.artifact_uri": 1,
    "logged_models.artifact_location": 1,
    "model_versions.source": 1,
    "model_versions.storage_location": 2,
    "trace_tags.value[mlflow.artifactLocation,mlflow.trace.archiveLocation]": 2,
    "workspaces.default_artifact_root": 1,
    "workspaces.trace_archival_location": 1,
    "tags.value[mlflow.log-model.history]": 1,
}


def section(directory: Path, name: str) -> Path:
    """Write a service file for a database; return it."""
    path = directory / f"{name}.conf"
    path.write_text(f"[mlflow]\nhost={directory}\nuser=mlflow\ndbname={name}\n")
    return path


def execute(postgresql: Path, statement: str) -> None:
    with contextlib.closing(psycopg2.connect(host=str(postgresql), user="mlflow", dbname="postgres")) as connection:
        connection.autocommit = True
        connection.cursor().execute(statement)


@pytest.fixture(scope="module")
def filled(postgresql: Path) -> str:
    """Make a database with rows by MLflow itself; return the directory that is its first root."""
    execute(postgresql, "CREATE DATABASE filled")
    environment = os.environ | {"PGSERVICEFILE": str(section(postgresql, "filled")), "PYTHONDONTWRITEBYTECODE": "1"}
    # A user's directory beside the server's: MLflow writes there.
    root = str(postgresql / DIRECTORY)
    if os.getuid() == 0:
        postgresql.chmod(0o711)
    upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", "postgresql+psycopg2:///?service=mlflow"]
    program = str(PROJECT / "tests" / "files" / "artifact_locations.py")
    for command in (upgrade, [sys.executable, program, root, f"file://{root}", OLD, PROXIED, *NEIGHBOURS]):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=postgresql)
        assert done.returncode == 0, done.stderr[-3000:]
    return root


@pytest.fixture
def database(postgresql: Path, filled: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the service file of a copy of the filled database."""
    execute(postgresql, "CREATE DATABASE copied TEMPLATE filled")
    monkeypatch.setenv("PGSERVICEFILE", str(path := section(postgresql, "copied")))
    yield path
    execute(postgresql, "DROP DATABASE copied WITH (FORCE)")


def texts(*, without: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Return the texts of all columns of all tables."""
    with contextlib.closing(psycopg2.connect(service="mlflow")) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' "
            "AND data_type IN ('text', 'character varying', 'json', 'jsonb')"
        )
        found = {}
        for table, column in cursor.fetchall():
            if f"{table}.{column}" not in without:
                query = "SELECT {column}::text FROM {table} WHERE {column} IS NOT NULL ORDER BY 1"
                cursor.execute(sql.SQL(query).format(column=sql.Identifier(column), table=sql.Identifier(table)))
                found[f"{table}.{column}"] = [row[0] for row in cursor.fetchall()]
        return found


def naming(root: str) -> set[str]:
    """Return the columns in which a root stands somewhere."""
    found = texts().items()
    return {column for column, values in found if any(value == root or f"{root}/" in value for value in values)}


def rewrite(service: Path, *options: str) -> Result:
    return Result.of(
        subprocess.Popen(
            [sys.executable, str(PROGRAM), "rewrite", "--state", str(service.parent / service.stem), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PGSERVICEFILE": str(service), "PYTHONDONTWRITEBYTECODE": "1"},
        )
    )


def test_every_column_in_which_mlflow_keeps_locations_is_known(database: Path, filled: str) -> None:
    """A new version of MLflow may have further ones; then this fails."""
    known = {f"{column.table}.{column.name}" for column in (*COLUMNS, HISTORY)}
    users = {f"{column.table}.{column.name}" for column in MENTIONS}
    # The name of an experiment is the test's own.
    assert naming(filled) - {"experiments.name"} <= known | users
    assert naming(OLD) == known | {"params.value", "trace_tags.value"}
    assert known <= set(texts()), "a column that MLflow does not have"


def test_counting_changes_nothing(database: Path) -> None:
    before = texts()
    result = rewrite(database, "--root", OLD, NEW)
    assert result.status == 0, result
    assert result.report["to_rewrite"] == PER_ROOT
    assert result.report["mentioned"] == {"params.value": 1, "trace_tags.value": 1}
    assert result.report["active_runs"] == 1
    assert texts() == before


def test_locations_are_rewritten_and_back(database: Path) -> None:
    before = texts()
    result = rewrite(database, "--root", OLD, NEW, "--apply")
    assert result.status == 0, result
    assert result.report["rewritten"] == PER_ROOT
    assert naming(OLD) == {"params.value", "trace_tags.value"}
    assert f"{NEW}/experiment" in texts()["experiments.artifact_location"]
    for root in NEIGHBOURS:
        assert f"{root.rstrip('/')}/experiment" in texts()["experiments.artifact_location"]
    again = rewrite(database, "--root", OLD, NEW, "--apply")
    assert set(again.report["rewritten"].values()) == {0}
    assert rewrite(database, "--root", NEW, OLD, "--apply").report["rewritten"] == PER_ROOT
    assert texts() == before


def test_from_direct_to_proxied_access_and_back(database: Path) -> None:
    """A database of one kind of access comes back as it was."""
    assert rewrite(database, "--root", PROXIED, NEW, "--apply").report["rewritten"] == PER_ROOT
    before = texts()
    result = rewrite(database, "--root", NEW, PROXIED, "--apply")
    assert result.report["rewritten"] == PER_ROOT
    locations = texts()["experiments.artifact_location"]
    assert "mlflow-artifacts:/experiment" in locations
    assert "mlflow-artifacts://another.example.com:5000/experiment" in locations, "another server's are not ours"
    assert "mlflow-artifacts:/" in texts()["workspaces.default_artifact_root"]
    rewrite(database, "--root", PROXIED, NEW, "--apply")
    # Only a root as such may have got a slash at its end.
    column = "workspaces.default_artifact_root"
    after = texts()
    assert [text.rstrip("/") for text in after.pop(column)] == [text.rstrip("/") for text in before.pop(column)]
    assert after == before


def test_a_run_whose_client_was_told_the_former_location_is_known_until_it_ends(database: Path) -> None:
    with (
        contextlib.closing(psycopg2.connect(service="mlflow")) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        query = (
            "UPDATE runs SET status = %s WHERE run_uuid = (SELECT min(run_uuid) FROM runs WHERE artifact_uri LIKE %s)"
        )
        cursor.execute("UPDATE runs SET status = 'FINISHED'")
        cursor.execute(query, ("RUNNING", f"{OLD}/%"))
    first = rewrite(database, "--root", OLD, NEW, "--apply")
    assert first.report["active_runs"] == 1
    # Its location is the next one by now.
    assert rewrite(database, "--root", OLD, NEW, "--apply").report["active_runs"] == 1
    with (
        contextlib.closing(psycopg2.connect(service="mlflow")) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("UPDATE runs SET status = 'FINISHED'")
    assert rewrite(database, "--root", OLD, NEW, "--apply").report["active_runs"] == 0


def test_a_directory_is_known_as_path_and_as_uri(database: Path, filled: str) -> None:
    result = rewrite(database, "--root", filled, PROXIED, "--apply")
    assert result.report["rewritten"]["experiments.artifact_location"] == 2 + 1 + 1  # the default one, the client's
    assert naming(filled) <= {"experiments.name", "params.value", "trace_tags.value"} | {
        f"{column.table}.{column.name}" for column in MENTIONS
    }


def test_several_roots_are_rewritten_at_once(database: Path, filled: str) -> None:
    result = rewrite(database, "--root", OLD, "s3://n/a", "--root", NEIGHBOURS[0], "s3://n/b", "--apply")
    assert result.report["rewritten"] == {column: 2 * number for column, number in PER_ROOT.items()}


def test_what_a_column_cannot_hold_is_refused_and_nothing_is_rewritten(database: Path) -> None:
    before = texts()
    result = rewrite(database, "--root", OLD, "s3://new/" + "long/" * 40, "--apply")
    assert result.status == 1
    assert "locations in runs.artifact_uri would be longer than the 200 characters of it" in result.error
    assert "use a shorter prefix" in result.error
    assert rewrite(database, "--root", OLD, "s3://new/" + "long/" * 40).error == result.error
    assert texts() == before


def test_a_rewrite_waits_for_others_and_gives_up_whole(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that update a run must not wait for a rewrite that waits itself."""
    monkeypatch.setattr("locations.LOCK_SECONDS", 0.2)
    monkeypatch.setattr("locations.TRIES", 2)
    before = texts()
    with contextlib.closing(psycopg2.connect(service="mlflow")) as other:
        other.cursor().execute("UPDATE logged_models SET status = status")
        with pytest.raises(MoveError, match="nothing has been rewritten"):
            Locations("mlflow", [(OLD, NEW)]).apply()
    assert texts() == before
    assert Locations("mlflow", [(OLD, NEW)]).apply()["rewritten"] == PER_ROOT


def test_mlflow_finds_its_artifacts_under_the_new_root(database: Path, filled: str, postgresql: Path) -> None:
    """The client reads by what the database says."""
    moved = str(postgresql / "elsewhere")
    shutil.copytree(filled, moved, dirs_exist_ok=True)
    assert rewrite(database, "--root", filled, moved, "--apply").status == 0
    program = (
        "import mlflow, sys; mlflow.set_tracking_uri('postgresql+psycopg2:///?service=mlflow'); "
        "model = mlflow.pyfunc.load_model('models:/echo/1'); print(model.predict(['well']), mlflow.search_runs("
        "search_all_experiments=True, filter_string='attributes.status = \"FINISHED\"').artifact_uri[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ | {"A": ""}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "['well']" in done.stdout
    assert moved in done.stdout


def test_a_database_that_cannot_be_reached_is_one_sentence(postgresql: Path) -> None:
    result = rewrite(section(postgresql, "nowhere"), "--root", OLD, NEW)
    assert result.status == 1
    assert result.error.startswith("The database 'mlflow' cannot be used: ")
    assert result.error.endswith('database "nowhere" does not exist.')


# What needs no database


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (f"{OLD}/1/run/artifacts", f"{NEW}/1/run/artifacts"),
        (OLD, NEW),
        (f"{OLD}2/1", f"{OLD}2/1"),
        (f"{OLD}?x/1", f"{OLD}?x/1"),
        ("runs:/abc/model", "runs:/abc/model"),
        ("", ""),
    ],
)
def test_a_location_is_rewritten_below_its_root_alone(location: str, expected: str) -> None:
    assert rewritten(location, rewrites_of([(OLD, NEW)])[0]) == expected


def test_a_history_that_is_not_ours_is_left_as_it_is() -> None:
    change = rewrites_of([(OLD, NEW)])[0]
    for text in ("no JSON", "{}", '[1, {"artifact_path":  "relative"}]', '[{"artifact_path": 5}]'):
        assert rewritten_history(text, change) == text
    models = [{"artifact_path": f"{OLD}/m", "flavors": {"x": f"{OLD}/theirs"}}]
    assert json.loads(rewritten_history(json.dumps(models), change)) == [models[0] | {"artifact_path": f"{NEW}/m"}]


@pytest.mark.parametrize(
    ("pairs", "error"),
    [
        ([("s3://a", "s3://a/b")], "lie inside each other"),
        ([("s3://a/b", "s3://a")], "lie inside each other"),
        ([("s3://a", "mlflow-artifacts:/"), ("mlflow-artifacts:/", "s3://b")], "lie inside each other"),
        ([("relative", "s3://b")], "is no root of locations"),
        ([("mlflow-artifacts://host/", "s3://b")], "names a server"),
    ],
)
def test_roots_that_cannot_be_are_refused(pairs: list[tuple[str, str]], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        rewrites_of(pairs)
