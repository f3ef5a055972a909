"""Imports that are killed, that meet what is there already, or clients at work; and what undoing leaves."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from moto.server import ThreadedMotoServer

from testing.sampling import pick
from tests.importing import Site, plant, put, run_id
from tests.kills import kill_in_the_middle, kill_when
from tests.moving import REGION, Bucket

IDENTITY = "import_id"


@pytest.fixture(scope="module")
def made(postgresql: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Make a site."""
    return Site.made(postgresql, tmp_path_factory.mktemp("site"))


@pytest.fixture
def site(made: Site) -> Site:
    """Return a site without anything in it."""
    made.reset()
    return made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a tree of two experiments, and a registered model of two versions."""
    root = plant(tmp_path / "mlruns", {"one": 3, "two": 2})
    register(root, "classifier", 2)
    return root


def register(root: Path, name: str, versions: int) -> None:
    """Write a registered model into a tree; its versions are of the first run."""
    put(root / "models" / name / "meta.yaml", f"name: {name}\ncreation_timestamp: 1\nlast_updated_timestamp: 1\n")
    put(root / "models" / name / "aliases" / "champion", "1")
    put(root / "models" / name / "tags" / "team", "theirs")
    for version in range(1, versions + 1):
        source = f"/gone/mlruns/10/{run_id(1)}/artifacts/file 0.txt"
        put(
            root / "models" / name / f"version-{version}" / "meta.yaml",
            f"name: {name}\nversion: '{version}'\nsource: {source}\nrun_id: {run_id(1)}\ncurrent_stage: None\n"
            "creation_timestamp: 1\nlast_updated_timestamp: 1\nstatus: READY\n",
        )


def experiment(site: Site, name: str, key: int | None = None) -> int:
    """Make an experiment as a client does."""
    number = key if key is not None else site.sql("SELECT nextval('experiments_experiment_id_seq')")[0][0]
    site.sql(
        "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, "
        "last_update_time) VALUES (%s, %s, %s, 'active', 1, 1)",
        *(number, name, f"mlflow-artifacts:/{number}"),
    )
    return int(number)


def run(site: Site, key: int, identity: str) -> None:
    """Make a run as a client does."""
    site.sql(
        "INSERT INTO runs (run_uuid, name, status, lifecycle_stage, experiment_id, source_type) "
        "VALUES (%s, 'theirs', 'RUNNING', 'active', %s, 'LOCAL')",
        *(identity, key),
    )
    site.sql("INSERT INTO params (key, value, run_uuid) VALUES ('p', 'v', %s)", identity)


def without_journal(dump: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return a dump without what imports keep for themselves, and without ids and times that differ each time."""
    return {name: rows for name, rows in dump.items() if ":import_runs." not in name}


def test_kills_at_any_moment_leave_nothing_twice_and_nothing_missing(site: Site, tmp_path: Path) -> None:
    tree = plant(tmp_path / "mlruns", {f"e{number}": 6 for number in range(6)}, points=2000, artifacts=3)
    register(tree, "classifier", 3)
    empty = site.dump()
    whole = site.run("import", source=tree).report
    wanted, files = without_journal(site.dump()), site.files()
    site.run("undo", "--import-id", whole[IDENTITY])
    assert site.dump() == empty
    # Ids are given out anew.
    site.reset()

    def count(what: str) -> int:
        return int(site.sql(f"SELECT count(*) FROM {what}")[0][0])  # noqa: S608

    moments: list[tuple[Callable[[], bool], float]] = [
        (lambda: count("import_runs.imports") > 0, 0),
        (lambda: count("import_runs.experiments") > 0, 0.01),
        (lambda: any(site.store.rglob("file*")), 0.005),
        (lambda: count("pg_stat_activity WHERE query LIKE 'COPY%%'") > 0, 0),
        (lambda: count("runs") > 6, 0.02),
        (lambda: count("runs") == 36, 0.001),
    ]

    def undo_import() -> None:
        site.run("undo", "--import-id", whole[IDENTITY])
        site.reset()

    for moment, delay in pick(moments[1::2], moments):
        kill_in_the_middle(lambda: site.start("import", source=tree), moment, undo_import, delay)
        # What is visible is whole: each run has all of its points and files.
        points_of = "SELECT count(*) FROM metrics m WHERE m.run_uuid = r.run_uuid"
        for identity, key, points in site.sql(f"SELECT r.run_uuid, r.experiment_id, ({points_of}) FROM runs r"):  # noqa: S608
            assert points == 4000
            assert len(list((site.store / str(key) / identity / "artifacts").iterdir())) == 3
    last = site.run("import", source=tree)
    assert last.report["complete"]
    assert without_journal(site.dump()) == wanted
    assert site.files() == files
    # The same for undoing.
    undo = ("--import-id", whole[IDENTITY])
    kill_in_the_middle(
        lambda: site.start("undo", *undo),
        lambda: count("import_runs.imports WHERE state = 'undoing'") > 0,
        lambda: site.run("import", source=tree),
    )
    refused = site.run("import", source=tree, well=False)
    assert "being undone" in refused.error
    # The last step is short: it may be over before the kill, and the undo then was whole.
    kill_when(site.start("undo", *undo), lambda: count("experiments") == 1, 0.001)
    if site.run("list").report["imports"]:
        site.run("undo", *undo)
    assert site.dump() == empty
    assert site.files() == {}


def test_ids_that_fit_are_kept_and_the_next_ones_are_free(site: Site, tmp_path: Path) -> None:
    tree = plant(tmp_path / "mlruns", {"one": 1, "two": 1})
    long = 812345678901234567
    (tree / "11").rename(tree / str(long))
    for path in (tree / str(long)).rglob("meta.yaml"):
        path.write_text(path.read_text().replace("'11'", f"'{long}'").replace("/11/", f"/{long}/"))
    report = site.run("import", source=tree).report
    ids = report["experiment_ids"]
    assert ids["10"] == 10
    assert 0 < ids[str(long)] < 100
    run_of_two = site.sql("SELECT experiment_id, artifact_uri FROM runs WHERE run_uuid = %s", run_id(2))
    assert run_of_two == [(ids[str(long)], f"mlflow-artifacts:/{ids[str(long)]}/{run_id(2)}/artifacts")]
    assert experiment(site, "next") > max(ids.values())
    assert json.loads((site.state / report[IDENTITY] / "report.json").read_text())["experiment_ids"] == ids


def test_an_id_that_is_taken_is_mapped(site: Site, tree: Path) -> None:
    experiment(site, "theirs", 10)
    put(tree / "models" / "classifier" / "tags" / "_mlflow_experiment_ids", ",10,999,11,")
    ids = site.run("import", source=tree).report["experiment_ids"]
    assert ids["11"] == 11
    assert ids["10"] not in {10, 11}
    assert site.sql("SELECT name FROM experiments WHERE experiment_id = %s", ids["10"]) == [("one",)]
    used_by = site.sql("SELECT value FROM registered_model_tags WHERE key = '_mlflow_experiment_ids'")
    assert used_by == [(f",{ids['10']},11,",)]


def test_a_conflict_is_refused_before_anything_changes(site: Site, tree: Path) -> None:
    key = experiment(site, "one")
    run(site, key, run_id(5))
    site.sql("INSERT INTO registered_models (name) VALUES ('classifier')")
    before = site.dump()
    for command in ("plan", "import"):
        result = site.run(command, source=tree, well=False)
        conflicts = result.report["conflicts"]
        assert len(conflicts) == 3
        assert "'one'" in conflicts[0]
        assert "'classifier'" in conflicts[1]
        assert run_id(5) in conflicts[2]
        assert "3 in conflict" in result.error
        # No option lets a run come twice.
        assert "on_conflict" not in result.error
    for how in ("merge", "rename"):
        result = site.run("import", "--on-conflict", how, source=tree, well=False)
        assert len(result.report["conflicts"]) == 1
        assert run_id(5) in result.error
    assert site.dump() == before
    assert site.files() == {}
    site.sql("DELETE FROM params")
    site.sql("DELETE FROM runs")
    result = site.run("import", source=tree, well=False)
    assert result.error.endswith("Set on_conflict=merge or on_conflict=rename to import it all the same.")


def test_merge_adds_to_what_is_there_and_undo_takes_only_that(site: Site, tree: Path) -> None:
    key = experiment(site, "one")
    run(site, key, "theirs")
    site.sql("INSERT INTO experiment_tags (key, value, experiment_id) VALUES ('kind', 'theirs', %s)", key)
    site.sql("INSERT INTO registered_models (name, description) VALUES ('classifier', 'theirs')")
    site.sql("INSERT INTO model_versions (name, version, source) VALUES ('classifier', 4, 'x')")
    site.sql("INSERT INTO registered_model_aliases (name, alias, version) VALUES ('classifier', 'champion', 4)")
    put(site.store / str(key) / "theirs" / "artifacts" / "a", "theirs")
    before, files = site.dump(), site.files()
    result = site.run("import", "--on-conflict", "merge", source=tree)
    assert result.report["experiment_ids"]["10"] == key
    assert any("champion" in each for each in result.report["left"])
    assert site.sql("SELECT count(*) FROM runs WHERE experiment_id = %s", key) == [(4,)]
    assert site.sql("SELECT value FROM experiment_tags WHERE experiment_id = %s", key) == [("theirs",)]
    versions = site.sql("SELECT version, source FROM model_versions ORDER BY version")
    source = f"mlflow-artifacts:/{key}/{run_id(1)}/artifacts/file 0.txt"
    assert versions == [(4, "x"), (5, source), (6, source)]
    assert site.sql("SELECT version FROM registered_model_aliases") == [(4,)]
    again = site.run("import", "--on-conflict", "merge", source=tree)
    assert not any(again.report["imported"].values())
    assert site.sql("SELECT count(*) FROM model_versions") == [(3,)]
    site.run("undo", "--import-id", result.report[IDENTITY])
    assert site.dump() == before
    assert site.files() == files


def test_rename_leaves_what_is_there_alone(site: Site, tree: Path) -> None:
    experiment(site, "one")
    site.sql("INSERT INTO registered_models (name) VALUES ('classifier')")
    report = site.run("import", "--on-conflict", "rename", source=tree).report
    renamed = report["renamed"]
    assert renamed["one"].startswith("one (imported 2")
    assert renamed["classifier"] == f"classifier-imported-{report[IDENTITY]}"
    assert {name for (name,) in site.sql("SELECT name FROM experiments")} >= {"one", renamed["one"], "two"}
    assert site.sql("SELECT name, count(*) FROM model_versions GROUP BY name") == [(renamed["classifier"], 2)]
    assert site.run("import", "--on-conflict", "rename", source=tree).report["renamed"] == renamed


def test_what_is_new_in_a_source_comes_and_what_grew_is_told(site: Site, tree: Path) -> None:
    site.run("import", source=tree)
    first = tree / "10"
    with (first / run_id(1) / "metrics" / "loss").open("a") as file:
        file.write("1 1 1\n")
    shutil.copytree(first / run_id(2), first / "new")
    put(first / "new" / "meta.yaml", (first / "new" / "meta.yaml").read_text().replace(run_id(2), "new"))
    register(tree, "classifier", 3)
    result = site.run("import", source=tree)
    assert result.report["grown"] == [f"run {run_id(1)}"]
    assert result.report["imported"]["runs"] == 1
    assert result.report["imported"]["versions"] == 1
    assert site.sql("SELECT count(*) FROM metrics WHERE run_uuid = %s AND key = 'loss'", run_id(1)) == [(5,)]
    assert site.sql("SELECT max(version) FROM model_versions") == [(3,)]


def test_a_source_that_has_moved_is_known_again(site: Site, tree: Path, tmp_path: Path) -> None:
    first = site.run("import", source=tree).report
    tree.rename(tmp_path / "elsewhere")
    again = site.run("import", source=tmp_path / "elsewhere").report
    assert again[IDENTITY] == first[IDENTITY]
    assert not any(again["imported"].values())


def test_another_source_at_the_same_place_is_another_import(site: Site, tree: Path, tmp_path: Path) -> None:
    first = site.run("import", source=tree).report
    shutil.rmtree(tree)
    plant(tree, {"three": 1})
    for path in [*tree.rglob("meta.yaml"), tree / "10" / run_id(1)]:
        if path.is_dir():
            path.rename(path.with_name("other"))
        else:
            path.write_text(path.read_text().replace(run_id(1), "other"))
    second = site.run("import", source=tree).report
    assert second[IDENTITY] != first[IDENTITY]
    assert second["experiment_ids"]["10"] not in first["experiment_ids"].values()
    assert site.sql("SELECT name FROM experiments WHERE experiment_id = %s", second["experiment_ids"]["10"]) == [
        ("three",)
    ]
    site.run("undo", "--import-id", first[IDENTITY])
    assert site.sql("SELECT run_uuid FROM runs") == [("other",)]
    assert [each["import_id"] for each in site.run("list").report["imports"]] == [second[IDENTITY]]


def test_undo_leaves_what_others_did(site: Site, tree: Path) -> None:
    report = site.run("import", source=tree).report
    key = report["experiment_ids"]["11"]
    run(site, key, "theirs")
    source = f"mlflow-artifacts:/10/{run_id(2)}/artifacts/file 0.txt"
    site.sql("INSERT INTO registered_models (name) VALUES ('theirs')")
    site.sql(
        "INSERT INTO model_versions (name, version, source, run_id) VALUES ('theirs', 1, %s, %s)", source, run_id(2)
    )
    site.sql("INSERT INTO model_versions (name, version, source) VALUES ('classifier', 3, 'x')")
    planned = site.run("plan", "--import-id", report[IDENTITY]).report
    assert planned["counts"]["runs"] == 5
    undone = site.run("undo", "--import-id", report[IDENTITY]).report
    kept = " ".join(undone["kept"])
    assert f"experiment {key} ('two') stays" in kept
    assert run_id(2) in kept
    assert "'classifier' stays" in kept
    assert sorted(each for (each,) in site.sql("SELECT run_uuid FROM runs")) == sorted([run_id(2), "theirs"])
    assert site.sql("SELECT name, version FROM model_versions ORDER BY name") == [("classifier", 3), ("theirs", 1)]
    assert list(site.files()) == [f"10/{run_id(2)}/artifacts/file 0.txt"]
    assert site.sql("SELECT to_regnamespace('import_runs')") == [(None,)]


def test_the_owner_may_manage_it_and_no_more_once_undone(site: Site, tree: Path) -> None:
    user = "INSERT INTO users (username, password_hash, is_admin) VALUES (%s, 'x', false)"
    result = site.run("import", "--owner", "alice", source=tree, well=False)
    assert "no user 'alice'" in result.error
    assert site.sql("SELECT count(*) FROM runs") == [(0,)]
    site.sql(user, "alice", database="mlflow_auth")
    report = site.run("import", "--owner", "alice", source=tree).report
    grants = "SELECT resource_type, resource_pattern, permission FROM role_permissions ORDER BY 1, 2"
    assert site.sql(grants, database="mlflow_auth") == [
        ("experiment", "10", "MANAGE"),
        ("experiment", "11", "MANAGE"),
        ("registered_model", "classifier", "MANAGE"),
    ]
    site.run("import", "--owner", "alice", source=tree)
    site.run("undo", "--import-id", report[IDENTITY])
    assert site.sql(grants, database="mlflow_auth") == []


def test_two_at_once_are_refused(site: Site, tree: Path) -> None:
    with holding(site) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (int.from_bytes(b"import", "big"),))
        for command in ("import", "undo"):
            result = site.run(command, source=tree, well=False)
            assert "Another import" in result.error
    site.run("import", source=tree)


@contextlib.contextmanager
def holding(site: Site) -> Iterator[Any]:
    """Open a connection in which a transaction may stay open."""
    with contextlib.closing(psycopg2.connect(host=str(site.socket), user="mlflow", dbname="mlflow")) as connection:
        yield connection


def test_clients_write_meanwhile(site: Site, tmp_path: Path) -> None:
    tree = plant(tmp_path / "mlruns", {"one": 40, "two": 40}, points=1000)
    register(tree, "classifier", 20)
    key = experiment(site, "one")
    site.sql("INSERT INTO registered_models (name) VALUES ('classifier')")
    done, slowest, stop = [], [0.0], threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            begun = time.monotonic()
            run(site, key, f"theirs{number}")
            experiment(site, f"theirs{number}")
            # MLflow tries again when another has the number.
            while True:
                with contextlib.suppress(psycopg2.errors.UniqueViolation):
                    site.sql(
                        "INSERT INTO model_versions (name, version, source) "
                        "SELECT 'classifier', coalesce(max(version), 0) + 1, 'theirs' FROM model_versions"
                    )
                    break
            slowest[0] = max(slowest[0], time.monotonic() - begun)
            done.append(number)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        site.run("import", "--on-conflict", "merge", source=tree)
    finally:
        stop.set()
        writer.join()
    assert len(done) > 5
    assert site.sql("SELECT count(*) FROM runs WHERE name = 'theirs'") == [(len(done),)]
    assert site.sql("SELECT count(*) FROM runs WHERE experiment_id = %s", key) == [(len(done) + 40,)]
    assert site.sql("SELECT count(*) FROM model_versions WHERE source <> 'theirs'") == [(20,)]
    assert site.sql("SELECT count(*) FROM model_versions WHERE source = 'theirs'") == [(len(done),)]


def test_a_name_that_a_client_takes_meanwhile_is_met_by_the_next_start(site: Site, tree: Path) -> None:
    # Cut off after the experiments were noted, before the second one came.
    site.sql("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$")
    when = "BEFORE INSERT ON experiments FOR EACH ROW WHEN (NEW.name = 'two')"
    site.sql(f"CREATE TRIGGER refuse {when} EXECUTE FUNCTION refuse()")
    assert "refused" in site.run("import", source=tree, well=False).error
    site.sql("DROP TRIGGER refuse ON experiments")
    experiment(site, "two")
    assert "'two'" in site.run("import", source=tree, well=False).error
    report = site.run("import", "--on-conflict", "rename", source=tree).report
    assert report["renamed"]["two"].startswith("two (imported")
    assert site.sql("SELECT count(*) FROM runs") == [(5,)]


def test_a_full_or_closed_store_ends_in_a_sentence(site: Site, tree: Path) -> None:
    put(site.store / "10", "a file in the way")
    result = site.run("import", source=tree, well=False)
    assert result.error.startswith("The directory")
    assert site.sql("SELECT count(*) FROM runs") == [(0,)]
    (site.store / "10").unlink()
    site.run("import", source=tree)


@pytest.fixture
def bucket(tmp_path: Path, site: Site) -> Iterator[Bucket]:
    """Give the site a bucket, which its server's settings name."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    made = Bucket(f"http://{host}:{port}", "a-bucket")
    credentials = tmp_path / "credentials"
    put(credentials / "server_credentials_artifact_key", "secret")
    put(
        credentials / "server_gunicorn.conf.py",
        "import os, pathlib\n"
        "os.environ['AWS_SECRET_ACCESS_KEY'] = "
        "pathlib.Path(os.environ['CREDENTIALS_DIRECTORY'], 'mlflow_artifact_key').read_text()\n"
        f"os.environ |= {{'MLFLOW_S3_ENDPOINT_URL': 'http://{host}:{port}', 'AWS_ACCESS_KEY_ID': 'key',"
        f" 'AWS_DEFAULT_REGION': '{REGION}', '_MLFLOW_SERVER_ARTIFACT_ROOT': 'mlflow-artifacts:/',"
        " '_MLFLOW_SERVER_ARTIFACT_DESTINATION': 's3://a-bucket/some/prefix'}\n",
    )
    site.variables = {"CREDENTIALS_DIRECTORY": str(credentials)}
    yield made
    site.variables = {}
    server.stop()


def test_artifacts_go_to_a_bucket_and_are_removed_from_it(site: Site, tree: Path, bucket: Bucket) -> None:
    bucket.put("some/prefix/10/theirs", b"theirs")
    wanted = [f"some/prefix/{10 if number < 4 else 11}/{run_id(number)}/artifacts/file 0.txt" for number in range(1, 6)]
    bucket.put(wanted[0], b"1 0")
    bucket.put(wanted[1], b"2 1")
    report = site.run("import", source=tree).report
    assert sorted(bucket.keys()) == sorted([*wanted, "some/prefix/10/theirs"])
    assert [bucket.get(key) for key in wanted] == [f"{number} 0".encode() for number in range(1, 6)]
    # What was there as it has to be is not written again.
    assert bucket.writes().count(wanted[0]) == 1
    assert bucket.writes().count(wanted[1]) == 2
    site.run("undo", "--import-id", report[IDENTITY])
    assert bucket.keys() == ["some/prefix/10/theirs"]


def test_locations_of_a_store_that_clients_reach_themselves(site: Site, tree: Path) -> None:
    site.run("import", "--artifact-root", str(site.store), source=tree)
    assert site.sql("SELECT artifact_location FROM experiments WHERE name = 'one'") == [(f"{site.store}/10",)]
    place = Path(site.sql("SELECT artifact_uri FROM runs WHERE run_uuid = %s", run_id(1))[0][0])
    assert (place / "file 0.txt").read_text() == "1 0"
