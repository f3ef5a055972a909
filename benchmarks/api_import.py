"""Brings a directory mlruns/ to a server by MLflow's client, each run read and written once; times and steps are kept.

usage: python -m benchmarks.api_import DIRECTORY

The server is the one of MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run

THREADS = 8
# As many as the server takes at once (mlflow.utils.validation).
METRICS_AT_ONCE = 1000


def bring(source: MlflowClient, target: MlflowClient, experiment: str, run: Run) -> None:
    """Bring one run."""
    made = target.create_run(experiment, run.info.start_time, run.data.tags, run.info.run_name).info.run_id
    points = itertools.chain.from_iterable(
        source.get_metric_history(run.info.run_id, key) for key in sorted(run.data.metrics)
    )
    params = [Param(key, value) for key, value in run.data.params.items()]
    while batch := list(itertools.islice(points, METRICS_AT_ONCE)):
        target.log_batch(made, metrics=[copied(point) for point in batch], params=params)
        params = []
    target.set_terminated(made, run.info.status, run.info.end_time)


def copied(point: Metric) -> Metric:
    """Return a point without what ties it to its source."""
    return Metric(point.key, point.value, point.timestamp, point.step)


def main() -> int:
    """Bring all runs of all experiments. Returns the exit status."""
    source, target = MlflowClient(Path(sys.argv[1]).resolve().as_uri()), MlflowClient()
    with ThreadPoolExecutor(THREADS) as pool:
        for experiment in source.search_experiments():
            made = target.create_experiment(experiment.name)
            page = None
            while page is None or page.token:
                page = source.search_runs(
                    [experiment.experiment_id], max_results=1000, page_token=page.token if page else None
                )
                list(pool.map(lambda run, made=made: bring(source, target, made, run), page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
