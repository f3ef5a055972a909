"""Imports what MLflow's own client has made into a real server, proves it, and takes it back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from testing.sampling import pick
from tests.importing import Result, Site, former_python, make, served

ODD = "hash#question?percent%20plus+.txt"
KINDS = ("tree", "file")
VERSIONS = ("3", "2.9")
# Each kind and each version once; all pairs of them in an exhaustive run.
EACH = pick([("tree", "3"), ("file", "2.9")], [(kind, version) for version in VERSIONS for kind in KINDS])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Make a source of each kind by each version of MLflow."""

    def made(each: tuple[str, str]) -> Path:
        kind, version = each
        directory = tmp_path_factory.mktemp(f"{kind}{version}")
        make(kind, directory, former_python() if version == "2.9" else sys.executable)
        return directory / ("mlruns" if kind == "tree" else "mlflow.db")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(EACH, pool.map(made, EACH), strict=True))


@pytest.fixture(scope="module")
def site(postgresql: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Make a site."""
    return Site.made(postgresql, tmp_path_factory.mktemp("site"))


class Round:
    """All that is seen when a source is imported, and taken back."""

    def __init__(self, site: Site, api: str, source: Path, version: str) -> None:
        """Do it."""
        self.version = version
        before, files = site.dump(), site.files()
        self.plan = site.run("plan", source=source)
        self.changed_by_plan = site.dump() != before or site.files() != files
        self.imported = site.run("import", source=source)
        self.after = site.dump()
        self.files = site.files()
        self.again = site.run("import", source=source)
        self.changed_again = [name for name, rows in site.dump().items() if rows != self.after[name]]
        self.proof = site.run("prove", "--api", api, source=source)
        self.read = self._read(api)
        # A lie about one point, one byte and one tag.
        site.sql("UPDATE metrics SET value = 5 WHERE key = 'loss' AND step = 3")
        site.sql("DELETE FROM tags WHERE key = 'team'")
        next(path for path in sorted(site.store.rglob("plain.txt"))).write_text("x")
        self.lie = site.run("prove", "--api", api, source=source, well=False)
        site.sql("UPDATE metrics SET value = 0.25 WHERE key = 'loss' AND step = 3")
        self.listed = site.run("list")
        self.undone = site.run("undo", "--import-id", self.imported.report["import_id"])
        self.exact = {name: rows for name, rows in site.dump().items() if rows != before.get(name)}
        self.files_left = {name for name in site.files() if name not in files}

    def _read(self, api: str) -> dict[str, Any]:
        """Read what is worth a look by MLflow's client."""
        client = MlflowClient(api, api)
        ids = self.imported.report["experiment_ids"]
        experiments = {each.name: each for each in client.search_experiments(view_type=3)}
        first = experiments["first"]
        runs = client.search_runs([first.experiment_id], run_view_type=3)
        trained = next(run for run in runs if run.inputs.dataset_inputs)
        return {
            "ids": {key: str(value) for key, value in ids.items()},
            "experiments": experiments,
            "runs": {run.info.run_name: run for run in runs},
            "trained": trained,
            "versions": {each.version: each for each in client.search_model_versions("name = 'classifier'")},
            "model": client.get_registered_model("classifier"),
            "odd": [metric.value for metric in client.get_metric_history(runs[-1].info.run_id, "odd")],
        }


@pytest.fixture(scope="module")
def api(site: Site) -> Iterator[str]:
    """Run a server."""
    with served(site) as address:
        yield address


@pytest.fixture(scope="module", params=EACH, ids=[f"{kind} of {version}" for kind, version in EACH])
def done(request: pytest.FixtureRequest, site: Site, api: str, sources: dict[tuple[str, str], Path]) -> Round:
    """Import a source, with a server at work."""
    return Round(site, api, sources[request.param], request.param[1])


def test_a_plan_changes_nothing_and_says_what_comes(done: Round) -> None:
    assert not done.changed_by_plan
    report = done.plan.report
    assert report["conflicts"] == report["malformed"] == []
    assert report["counts"] == done.imported.report["counts"]
    imported = done.imported.report["imported"]
    # The experiment Default is there.
    assert {**imported, "experiments": imported["experiments"] + 1} == report["counts"]
    assert report["counts"]["experiments"] == 3
    assert report["counts"]["runs"] == (6 if done.version == "2.9" else 7)
    assert report["counts"]["traces"] == (0 if done.version == "2.9" else 1)
    assert report["bytes"] > 1000


def test_all_of_it_comes_and_is_proved(done: Round) -> None:
    report = done.proof.report
    assert report["complete"], report
    assert report["different"] == []
    proof = report["proof"]
    assert all(each["equal"] and each["source"] == each["server"] for each in proof.values())
    counts = done.imported.report["counts"]
    for kind in ("experiments", "runs", "params", "tags", "models", "traces", "assessments", "aliases", "artifacts"):
        assert proof[kind]["source"] == counts[kind], kind
    # Each of five runs has a point twice in a tree, and once in a database.
    assert proof["metrics"]["server"] == counts["metrics"] - done.imported.report["repeated"]
    assert done.imported.report["repeated"] in {0, 5}
    # The server gives neither versions that are deleted nor artifacts of such names.
    assert {name.rpartition("/")[2] for name in report["refused_names"]} == {"tab\tname", ODD}
    assert report["not_by_api"] == {"versions": 1, "artifacts": 10}


def test_a_lie_is_found(done: Round) -> None:
    assert not done.lie.report["complete"]
    proof = done.lie.report["proof"]
    assert {kind for kind, each in proof.items() if not each["equal"]} == {"metrics", "tags", "artifacts"}
    assert done.lie.error


def test_what_clients_read_is_as_it_was(done: Round) -> None:
    read = done.read
    first, trashed = read["experiments"]["first"], read["experiments"]["trashed"]
    assert first.tags["kind"] == "test"
    assert first.artifact_location == f"mlflow-artifacts:/{first.experiment_id}"
    assert trashed.lifecycle_stage == "deleted"
    run = read["runs"]["run 1"]
    assert run.info.artifact_uri == f"{first.artifact_location}/{run.info.run_id}/artifacts"
    assert run.data.params["quote"] == "a\\b\t'\"ü日本\nnext"
    assert run.data.tags["empty"] == ""
    assert run.data.metrics["back"] == 1.0
    assert read["runs"]["run 3"].info.lifecycle_stage == "deleted"
    assert read["runs"]["run 2"].info.status == "FAILED"
    assert any(value != value for value in read["odd"])
    trained = read["trained"]
    assert trained.inputs.dataset_inputs[0].dataset.name == "numbers"
    assert trained.inputs.dataset_inputs[0].tags[0].value == "training"


def test_versions_lead_to_artifacts_of_the_server(done: Round) -> None:
    versions, trained = done.read["versions"], done.read["trained"]
    assert sorted(versions) == [1, 3] or sorted(versions) == ["1", "3"]
    for version in versions.values():
        assert version.run_id == trained.info.run_id
        if done.version == "2.9":
            assert version.source == f"{trained.info.artifact_uri}/model"
        else:
            assert version.source == f"models:/{trained.outputs.model_outputs[0].model_id}"
    assert {alias: int(version) for alias, version in done.read["model"].aliases.items()} == {"champion": 3}
    assert any(name.endswith("/MLmodel") for name in done.files)


def test_history_of_models_names_their_new_place(done: Round) -> None:
    history = json.loads(done.read["trained"].data.tags.get("mlflow.log-model.history", "[]"))
    assert not any("file:" in entry["artifact_path"] or "/tmp" in entry["artifact_path"] for entry in history)  # noqa: S108


def test_once_more_changes_nothing(done: Round) -> None:
    assert done.changed_again == [] or done.changed_again == ["mlflow:import_runs.imports"]
    assert not any(done.again.report["imported"].values())
    assert done.again.report["already"]["run"] == done.again.report["counts"]["runs"]
    assert done.again.report["grown"] == []


def test_undone_all_is_as_before(done: Round) -> None:
    assert done.exact == {}
    assert done.files_left == set()
    assert done.undone.report["kept"] == []
    assert [each["state"] for each in done.listed.report["imports"]] == ["complete"]


def test_artifacts_are_nobody_elses(site: Site, sources: dict[tuple[str, str], Path]) -> None:
    site.reset()
    site.run("import", source=sources["tree", "3"])
    paths = [path for path in site.store.rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o700}
    assert not (site.store / ".mlflow-import").exists()


def test_a_tree_that_was_moved_has_its_artifacts(
    site: Site, sources: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    site.reset()
    for kind in [kind for kind, version in EACH if version == "2.9"]:
        moved = tmp_path / kind
        sources[kind, "2.9"].parent.rename(moved)
        try:
            source = moved / sources[kind, "2.9"].name
            assert _artifacts(site.run("plan", source=source)) == 40
            if kind == "file":
                (moved / "mlruns").rename(tmp_path / "elsewhere")
                assert site.run("plan", source=source, well=False).report["malformed"]
                assert _artifacts(site.run("plan", "--artifacts", str(tmp_path / "elsewhere"), source=source)) == 40
                (tmp_path / "elsewhere").rename(moved / "mlruns")
        finally:
            moved.rename(sources[kind, "2.9"].parent)


def _artifacts(result: Result) -> int:
    return int(result.report["counts"]["artifacts"])
