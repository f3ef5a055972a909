"""What is malformed in a source, or the server could not hold, is told, and stops the import or is set aside."""

from __future__ import annotations

import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.importing import Result, Site, plant, put, run_id

RUN = f"10/{run_id(1)}"
MODEL = "models/classifier"


@dataclass(frozen=True)
class Case:
    """Something malformed.

    Args:
        path: The file that is written.
        text: What into it; None to remove it.
        told: What the report calls it, if not by its path.
        reason: A part of the reason that it gives.
        takes: What goes with it.
    """

    path: str
    text: str | bytes | None
    reason: str
    takes: str
    told: str = ""


def run(number: int, name: str) -> str:
    """Return the path of a file of a run."""
    return f"10/{run_id(number)}/{name}"


META = (
    "artifact_uri: file:///x\nexperiment_id: '10'\nlifecycle_stage: active\nrun_id: {0}\nrun_uuid: {0}\nstatus: {1}\n"
)
VERSION = "name: classifier\nversion: '{0}'\nsource: {1}\ncurrent_stage: None\n"
CASES = {
    "a metric cut off": Case(run(2, "metrics/loss"), "1 1 1\n2 2 2\n3 3", "cut off", "line", run(2, "metrics/loss:3")),
    "a metric of letters": Case(
        run(2, "metrics/m"), "1 1 1\nx y z\n3 3 3\n", "malformed", "line", run(2, "metrics/m:2")
    ),
    "a metric of one field": Case(run(2, "metrics/n"), "1 1 1\n7\n", "1 fields", "line", run(2, "metrics/n:2")),
    "a step too large": Case(run(2, "metrics/o"), f"1 1 {2**70}\n1 1 1\n", "too large", "line", run(2, "metrics/o:1")),
    "a step between two": Case(run(2, "metrics/p"), "1 1 0.5\n1 1 1\n", "malformed", "line", run(2, "metrics/p:1")),
    "an empty metric": Case(run(2, "metrics/empty"), "", "empty", "file"),
    "a metric's bad name": Case(run(2, "metrics/a*b"), "1 1 1\n", "Invalid value", "file"),
    "a param too long": Case(run(3, "params/long"), "x" * 8001, "8001 characters", "entry", run(3, "params/long")),
    "a param with NUL": Case(run(3, "params/nul"), "a\0b", "NUL", "entry", run(3, "params/nul")),
    "a param of bytes": Case(run(3, "params/bytes"), b"\xff\xfe", "UTF-8", "file"),
    "a tag too long": Case(run(3, "tags/long"), "x" * 8001, "8001 characters", "entry", run(3, "tags/long")),
    "a tag's bad name": Case(run(3, "tags/bad#name"), "x", "Invalid value", "file"),
    "a run's bad YAML": Case(run(4, "meta.yaml"), "a: [", "no YAML", "run"),
    "a run without YAML": Case(run(5, "meta.yaml"), None, "cannot be read", "run"),
    "a run of another id": Case(run(6, "meta.yaml"), META.format("e" * 32, 3), "of the run eeee", "run"),
    "a run of no status": Case(run(7, "meta.yaml"), META.format(run_id(7), 77), "status 77", "run", f"10/{run_id(7)}"),
    "a time of letters": Case(
        run(8, "meta.yaml"),
        META.format(run_id(8), 3) + "start_time: soon\n",
        "no whole number",
        "run",
        f"10/{run_id(8)}",
    ),
    "no artifacts": Case(run(9, "artifacts/file 0.txt"), None, "missing", "artifacts", run(9, "artifacts")),
    "a pointer of Git LFS": Case(
        run(10, "artifacts/model.bin"),
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n",
        "git lfs pull",
        "file",
    ),
    "a link to nowhere": Case(run(10, "artifacts/nowhere"), "link:/nonexistent", "outside", "file"),
    "a link to outside": Case(run(10, "artifacts/secret"), "link:/etc/hostname", "outside", "file"),
    "a link around": Case(run(10, "artifacts/around"), "link:.", "around it", "file"),
    "a socket": Case(run(10, "artifacts/socket"), "socket:", "neither a file nor", "file"),
    "an input of nothing": Case(
        run(11, "inputs/abc/meta.yaml"), "source_type: DATASET\nsource_id: gone\n", "dataset gone", "file"
    ),
    "an experiment's bad YAML": Case("11/meta.yaml", "\t", "no YAML", "experiment"),
    "an experiment of another id": Case("12/meta.yaml", "experiment_id: '9'\nname: z\n", "experiment 9", "experiment"),
    "an experiment without a name": Case("13/meta.yaml", "experiment_id: '13'\n", "no name", "experiment"),
    "an experiment of no stage": Case(
        "17/meta.yaml", "experiment_id: '17'\nname: s\nlifecycle_stage: odd\n", "active, deleted", "experiment", "17"
    ),
    "an experiment of a name": Case("named/meta.yaml", "name: x\n", "no id", "experiment", "named"),
    "a name that is there": Case(
        "14/meta.yaml", "experiment_id: '14'\nname: one\n", "the experiment 10", "experiment", "14"
    ),
    "a name too long": Case("15/meta.yaml", f"experiment_id: '15'\nname: {'n' * 501}\n", "exceeds", "experiment", "15"),
    "a run that is there": Case(
        f"16/{run_id(1)}/meta.yaml",
        META.format(run_id(1), 3),
        f"id is that of 10/{run_id(1)}",
        "run",
        f"16/{run_id(1)}",
    ),
    "a version of another number": Case(f"{MODEL}/version-2/meta.yaml", VERSION.format(7, "x"), "version 7", "version"),
    "a version of no number": Case(
        f"{MODEL}/version-3/meta.yaml", VERSION.format("a", "x"), "invalid literal", "version"
    ),
    "a version from nowhere": Case(
        f"{MODEL}/version-4/meta.yaml",
        VERSION.format(4, "/gone/model"),
        "is not there",
        "artifacts",
        f"{MODEL}/version-4",
    ),
    "an alias of nothing": Case(f"{MODEL}/aliases/best", "9", "no version", "file"),
    "a model's bad YAML": Case("models/bad/meta.yaml", "- a\n", "no mapping", "registered_model"),
    "a description too long": Case(
        "models/long/meta.yaml", f"name: long\ndescription: {'d' * 5001}\n", "5001", "registered_model", "models/long"
    ),
    "a logged model's bad YAML": Case("10/models/m-1/meta.yaml", "text", "no mapping", "model"),
    "a logged model of no status": Case(
        "10/models/m-2/meta.yaml", "model_id: m-2\nname: n\nstatus: ODD\n", "ODD", "model"
    ),
    "a metric of no run": Case(
        "10/models/m-3/metrics/acc", f"1 1 1 {'e' * 32}\n", "which is not there", "entry", "10/models/m-3"
    ),
    "a trace's bad YAML": Case("10/traces/tr-1/trace_info.yaml", "trace_id: x\n", "no trace", "trace"),
}


def spoil(tree: Path) -> None:
    """Write all of it into a tree that is whole."""
    put(tree / "16" / "meta.yaml", "experiment_id: '16'\nname: sixteen\n")
    (tree / "16" / run_id(1) / "artifacts").mkdir(parents=True)
    put(tree / run(9, "tags/mlflow.loggedArtifacts"), '[{"path": "table.json", "type": "table"}]')
    put(tree / MODEL / "meta.yaml", "name: classifier\ncreation_timestamp: 1\nlast_updated_timestamp: 1\n")
    put(
        tree / "10/models/m-3/meta.yaml",
        "model_id: m-3\nname: n\nstatus: 2\nexperiment_id: '10'\nartifact_location: x\ncreation_timestamp: 1\n"
        "last_updated_timestamp: 1\n",
    )
    for case in CASES.values():
        path = tree / case.path
        if case.text is None:
            shutil.rmtree(path.parent) if "artifacts" in case.path else path.unlink()
        elif isinstance(case.text, str) and case.text.startswith("link:"):
            path.symlink_to(case.text.removeprefix("link:"))
        elif case.text == "socket:":
            here = Path.cwd()
            os.chdir(path.parent)  # its path may be too long for a socket's address
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
            os.chdir(here)
        else:
            put(path, case.text)


@pytest.fixture(scope="module")
def site(postgresql: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Make a site."""
    return Site.made(postgresql, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tree with all that can be malformed."""
    made = plant(tmp_path_factory.mktemp("tree") / "mlruns", {"one": 11})
    spoil(made)
    return made


@pytest.fixture(scope="module")
def stopped(site: Site, tree: Path) -> Result:
    """Try to import it."""
    before = site.dump()
    result = site.run("import", source=tree, well=False)
    assert site.dump() == before
    assert site.files() == {}
    return result


@pytest.fixture(scope="module")
def imported(site: Site, tree: Path, stopped: Result) -> Result:
    """Import what can be imported of it."""
    return site.run("import", "--malformed", "set-aside", source=tree)


def told(result: Result, path: str) -> list[dict[str, Any]]:
    """Return what a report says of a path."""
    return [each for each in result.report["malformed"] if each["path"] == path or each["path"].startswith(f"{path}/")]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_told(stopped: Result, case: Case) -> None:
    found = told(stopped, case.told or case.path)
    if "params/" in case.path or "tags/" in case.path:
        # Both are tables, and directories.
        found = found or told(stopped, case.path)
    assert [each["set_aside"] for each in found] == [case.takes], (found, stopped.report["malformed"])
    assert case.reason in found[0]["reason"]


def test_nothing_else_is_told(stopped: Result, imported: Result) -> None:
    known = [case.told or case.path for case in CASES.values()]
    for result in (stopped, imported):
        others = [
            each
            for each in result.report["malformed"]
            if not any(each["path"] == path or each["path"].startswith(f"{path}/") for path in known)
        ]
        assert others == []
        assert len(result.report["malformed"]) == len(CASES)
    assert f"{len(CASES)} malformed" in stopped.error
    assert stopped.error.endswith("or set malformed=set_aside to import the rest.")
    assert imported.report["set_aside"] == len(CASES)


def test_the_rest_is_there(site: Site, imported: Result) -> None:
    runs = {run for (run,) in site.sql("SELECT run_uuid FROM runs")}
    assert runs == {run_id(number) for number in (1, 2, 3, 9, 10, 11)}
    assert site.sql("SELECT count(*) FROM experiments") == [(3,)]
    points = site.sql("SELECT key, count(*) FROM metrics WHERE run_uuid = %s GROUP BY key ORDER BY key", run_id(2))
    assert points == [("acc/top", 5), ("loss", 2), ("m", 2), ("n", 1), ("o", 1), ("p", 1)]
    assert site.sql("SELECT key FROM params WHERE run_uuid = %s", run_id(3)) == [("lr",)]
    assert site.sql("SELECT version, source FROM model_versions") == [(4, "/gone/model")]
    assert sorted(name.rpartition("/")[2] for name in site.files() if run_id(10) in name) == ["file 0.txt"]
    assert not any(run_id(9) in name for name in site.files())


def test_nothing_of_the_host_has_come_along(site: Site, imported: Result) -> None:
    hostname = Path("/etc/hostname").read_bytes()
    assert hostname not in site.files().values()


def test_what_came_is_counted(site: Site, imported: Result) -> None:
    for kind, table in (("runs", "runs"), ("params", "params"), ("metrics", "metrics"), ("models", "logged_models")):
        assert site.sql(f"SELECT count(*) FROM {table}") == [(imported.report["counts"][kind],)]  # noqa: S608


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: put(path, b"no database at all" * 100), "cannot be read as a SQLite file"),
        (lambda path: put(path, b""), "is no database of MLflow's"),
        (lambda path: None, "is not there"),
        (lambda path: path.mkdir(parents=True), "has no experiment"),
    ],
    ids=["other bytes", "empty", "none", "an empty directory"],
)
def test_what_is_no_source_is_refused(site: Site, tmp_path: Path, make: Any, error: str) -> None:
    make(tmp_path / "mlflow.db")
    result = site.run("plan", source=tmp_path / "mlflow.db", well=False)
    assert error in result.error
    assert result.error.endswith(".")
