"""Reads histories of metrics through the server's API: short ones of many runs by one request."""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import mlflow
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import augmented_raise_for_status, http_request

# The server's own limits of one answer (mlflow.server.handlers.get_metric_history_bulk_handler).
RUNS_MAX, POINTS_MAX = 100, 25_000
# So many points of the source are held until they are compared. Fewer than fill an answer, so that one which is full
# has points that the source has not.
POINTS_HELD = 20_000
PATH = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"

Items = dict[str, list[Any]]
Job = tuple[str, Items, Callable[[], Items]]


class Histories:
    """Collects what is to be asked about histories.

    Args:
        client: MLflow's.
        api: Address of the server.
    """

    def __init__(self, client: mlflow.MlflowClient, api: str) -> None:
        """Begin with none."""
        self.client, self.api = client, api
        self._begin()

    def _begin(self) -> None:
        self._held = 0
        self._jobs: list[Job] = []
        self._of_keys: defaultdict[str, OfManyRuns] = defaultdict(self._of_many_runs)

    def _of_many_runs(self) -> OfManyRuns:
        return OfManyRuns(self.client, self.api)

    def add(self, run_id: str, key: str, points: list[Any]) -> Iterator[Job]:
        """Add the history of a metric in a run. Yields the former ones when enough have come together.

        Args:
            run_id: Id of the run.
            key: Key of the metric.
            points: What the server is to have of it, as told() has it.
        """
        if self._held + len(points) > POINTS_HELD or len(self._of_keys[key].runs) == RUNS_MAX:
            yield from self.rest()
        histories = self._of_keys[key]
        histories.runs.append(run_id)
        self._jobs.append((f"run {run_id}, metric {key}", {"metrics": points}, lambda: histories.ask(run_id, key)))
        self._held += len(points)

    def rest(self) -> Iterator[Job]:
        """Yield what was added and did not come yet."""
        jobs = self._jobs
        self._begin()
        yield from jobs


class OfManyRuns:
    """Histories of one metric in some runs, which are asked for when the first of them is.

    Args:
        client: MLflow's.
        api: Address of the server.
    """

    def __init__(self, client: mlflow.MlflowClient, api: str) -> None:
        """Begin with no run."""
        self.client, self.api = client, api
        self.runs: list[str] = []
        self._lock = threading.Lock()
        self._asked = False
        self._answer: defaultdict[str, list[Any]] | None = None

    def ask(self, run_id: str, key: str) -> Items:
        """Return the history in one of the runs.

        Raises:
            mlflow.exceptions.MlflowException: The server does not give it.
        """
        with self._lock:
            if len(self.runs) > 1 and not self._asked:
                self._answer = self._ask_for_all(key)
                self._asked = True
            if self._answer is not None:
                return {"metrics": self._answer.pop(run_id, [])}
        history = self.client.get_metric_history(run_id, key)
        return {"metrics": [told(run_id, key, each.value, each.timestamp, each.step) for each in history]}

    def _ask_for_all(self, key: str) -> defaultdict[str, list[Any]] | None:
        """Return the points by run, or None if there are more than one answer holds."""
        given = {"run_id": self.runs, "metric_key": key}
        answer = http_request(get_default_host_creds(self.api), PATH, "GET", params=given)
        augmented_raise_for_status(answer)
        points = answer.json()["metrics"]
        if len(points) >= POINTS_MAX:
            return None
        found: defaultdict[str, list[Any]] = defaultdict(list)
        for each in points:
            run_id = each["run_id"]
            found[run_id].append(told(run_id, each["key"], each["value"], each["timestamp"], each["step"]))
        return found


def told(run_id: str, key: str, value: float, timestamp: int, step: int) -> list[Any]:
    """Return a point as the proof compares it.

    Args:
        run_id: Id of the run.
        key: Key of the metric.
        value: Value, which may be no number.
        timestamp: Milliseconds since the epoch.
        step: Step.
    """
    return [run_id, key, "nan" if math.isnan(value) else repr(float(value)), timestamp, step]
