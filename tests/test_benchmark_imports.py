"""The source that the benchmark imports is one that MLflow reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from benchmarks import imports
from benchmarks.api_import import bring


def test_mlflow_reads_what_is_written_and_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    imports.fill(tmp_path / "mlruns", "past", 3, 20)
    source = MlflowClient((tmp_path / "mlruns").as_uri())
    target = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [each for each in source.search_experiments() if each.name == "past"]
    runs = source.search_runs([experiment.experiment_id])
    assert len(runs) == 3
    made = target.create_experiment("past")
    for run in runs:
        bring(source, target, made, run)

    brought = target.search_runs([made])
    assert len(brought) == 3
    for former, run in zip(
        sorted(runs, key=lambda run: run.info.run_name), sorted(brought, key=lambda run: run.info.run_name), strict=True
    ):
        assert run.info.status == former.info.status == "FINISHED"
        assert (run.info.start_time, run.info.end_time) == (former.info.start_time, former.info.end_time)
        assert len(run.data.params) == imports.PARAMS
        assert (run.data.params, run.data.metrics) == (former.data.params, former.data.metrics)
        assert run.data.tags["mlflow.user"] == "seed"
        for key in former.data.metrics:
            history = target.get_metric_history(run.info.run_id, key)
            assert len(history) == 20 / imports.METRICS
            wanted = [
                (point.step, point.timestamp, point.value)
                for point in source.get_metric_history(former.info.run_id, key)
            ]
            assert [(point.step, point.timestamp, point.value) for point in history] == wanted
