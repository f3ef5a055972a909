"""Folders of real teams hold more than MLflow wrote: none of it stops an import, and every imported run can be read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from tests.importing import Result, Site, plant, put, run_id
from tree import MODELS_TAG, TABLES_TAG, names_artifacts

FOREIGN = ("params/.gitkeep", "params/.ipynb_checkpoints/lr", "metrics/.DS_Store", "tags/._team", "tags/Thumbs.db")
# As a client writes it that knows none of these.
SPARSE = "experiment_id: '10'\nlifecycle_stage: active\nrun_id: {0}\nrun_uuid: {0}\nuser_id: null\nstatus: null\n"


@pytest.fixture(scope="module")
def site(postgresql: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Make a site."""
    return Site.made(postgresql, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tree of five runs: the first is as MLflow writes it, but for the others' sake."""
    root = plant(tmp_path_factory.mktemp("tree") / "mlruns", {"one": 5})
    for name in FOREIGN:
        put(root / "10" / run_id(1) / name, b"\x00\x01Mac OS X")
    put(root / "10" / run_id(2) / "meta.yaml", SPARSE.format(run_id(2)) + "end_time: 1700000001000\n")
    put(root / "10" / run_id(3) / "metrics" / "loss", "1700000000000.0 0.5 0.0\n1700000000001 0.25 3.0\n")
    shutil.rmtree(root / "10" / run_id(4) / "artifacts")
    put(root / "10" / run_id(5) / "meta.yaml", SPARSE.format(run_id(5)))
    put(root / "10" / run_id(5) / "tags" / "mlflow.user", "somebody")
    return root


@pytest.fixture(scope="module")
def imported(site: Site, tree: Path) -> Result:
    """Import it, with nothing set aside."""
    return site.run("import", source=tree)


@pytest.fixture(scope="module")
def runs(site: Site, imported: Result) -> Iterator[dict[str, Run]]:
    """Read all runs as the server reads them for a client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGSERVICEFILE", str(site.service))
        client = MlflowClient("postgresql+psycopg2:///?service=mlflow")
        found = client.search_runs([str(imported.report["experiment_ids"]["10"])], run_view_type=ViewType.ALL)
        yield {run.info.run_id: run for run in found}


def test_no_entry_is_malformed(imported: Result) -> None:
    assert imported.report["malformed"] == []
    assert imported.report["imported"]["runs"] == 5


def test_every_run_can_be_read(runs: dict[str, Run]) -> None:
    assert set(runs) == {run_id(number) for number in range(1, 6)}


def test_files_of_other_programs_become_no_entries(site: Site, runs: dict[str, Run]) -> None:
    run = runs[run_id(1)]
    assert set(run.data.params) == {"lr"}
    assert set(run.data.metrics) == {"loss", "acc/top"}
    assert set(run.data.tags) == {"mlflow.runName"}


def test_values_that_the_api_requires_are_filled_in(runs: dict[str, Run]) -> None:
    info = runs[run_id(2)].info
    assert (info.user_id, info.status, info.start_time) == ("", "RUNNING", 1700000001000)
    info = runs[run_id(5)].info
    assert (info.user_id, info.status, info.start_time) == ("somebody", "RUNNING", 0)


def test_steps_and_times_written_as_floats_are_integers(site: Site, imported: Result) -> None:
    query = "SELECT timestamp, value, step FROM metrics WHERE run_uuid = %s AND key = 'loss' ORDER BY step"
    assert site.sql(query, run_id(3)) == [(1700000000000, 0.5, 0), (1700000000001, 0.25, 3)]


def test_runs_without_artifacts_are_counted(imported: Result) -> None:
    assert imported.report["runs_without_artifacts"] == 1


@pytest.mark.parametrize(
    ("tag", "text", "expected"),
    [
        (MODELS_TAG, '[{"artifact_path": "model"}]', True),
        (MODELS_TAG, '[{"artifact_path": "file:///mlruns/1/models/m-1/artifacts"}]', False),
        (MODELS_TAG, '[{"artifact_path": "models:/m-1"}]', False),
        (MODELS_TAG, '[{"run_id": "1"}]', False),
        (TABLES_TAG, '[{"path": "table.json", "type": "table"}]', True),
        (TABLES_TAG, "[]", False),
        (TABLES_TAG, "not JSON", False),
    ],
)
def test_a_tag_names_artifacts_of_its_run(tag: str, text: str, expected: bool) -> None:
    assert names_artifacts(tag, text) is expected


def test_a_deleted_default_experiment_joins_no_active_one(site: Site, tmp_path: Path, imported: Result) -> None:
    del imported
    site.reset()
    root = plant(tmp_path / "mlruns", {"one": 1})
    default = root / ".trash" / "0"
    put(default / "meta.yaml", "experiment_id: '0'\nname: Default\nlifecycle_stage: deleted\n")
    assert site.run("plan", source=root).report["conflicts"] == []
    shutil.copytree(root / "10" / run_id(1), default / run_id(2))
    meta = default / run_id(2) / "meta.yaml"
    meta.write_text(meta.read_text().replace(run_id(1), run_id(2)).replace("'10'", "'0'"))
    refused = site.run("plan", source=root, well=False)
    assert refused.report["conflicts"] == ["The server has an experiment 'Default', of the id 0."]
    renamed = site.run("import", "--on-conflict", "rename", source=root).report["renamed"]["Default"]
    assert site.sql("SELECT lifecycle_stage FROM experiments WHERE name = %s", renamed) == [("deleted",)]


@pytest.fixture
def repeated(site: Site, tmp_path: Path, imported: Result) -> Path:
    """Make a tree with an active and a deleted experiment of the same name, and one without a meta.yaml."""
    del imported
    site.reset()
    root = plant(tmp_path / "mlruns", {"one": 1, "two": 2, "three": 3})
    meta = root / "11" / "meta.yaml"
    meta.write_text(meta.read_text().replace("two", "one").replace("active", "deleted"))
    (root / ".trash").mkdir()
    (root / "11").rename(root / ".trash" / "11")
    (root / "12" / "meta.yaml").unlink()
    return root


def test_runs_of_an_experiment_that_is_set_aside_are_counted(site: Site, repeated: Path) -> None:
    reasons = {
        each["path"]: each["reason"] for each in site.run("plan", source=repeated, well=False).report["malformed"]
    }
    assert reasons[".trash/11"] == (
        "its name is that of the experiment 10, which on_conflict=rename resolves; 2 runs go with it"
    )
    assert reasons["12/meta.yaml"].endswith("; 3 runs go with it")


def test_a_name_that_a_source_has_twice_can_be_renamed(site: Site, repeated: Path) -> None:
    options = ("--on-conflict", "rename", "--malformed", "set-aside")
    report = site.run("import", *options, source=repeated).report
    name = report["renamed"]["one in .trash/11"]
    query = (
        "SELECT e.name, e.lifecycle_stage, count(*) FROM experiments e JOIN runs USING (experiment_id) GROUP BY 1, 2"
    )
    assert set(site.sql(query)) == {("one", "active", 1), (name, "deleted", 2)}
    before = site.dump()
    again = site.run("import", *options, source=repeated).report
    assert not any(again["imported"].values())
    assert {table for table, rows in site.dump().items() if rows != before[table]} <= {"mlflow:import_runs.imports"}
