"""Histories of metrics are asked for of many runs at once, within what one answer of the server holds."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

import histories
from histories import Histories

Points = dict[tuple[str, str], list[tuple[float, int, int]]]


class Server:
    """What answers instead of a server, and keeps what was asked.

    Args:
        points: What it has, by run and key, each as value, timestamp and step.
    """

    def __init__(self, points: Points) -> None:
        """Begin."""
        self.points = points
        self.asked: list[list[str]] = []
        self.asked_alone: list[str] = []

    def http_request(self, _: Any, path: str, method: str, params: dict[str, Any]) -> Any:
        """Answer a request for many runs as MLflow does."""
        assert (path, method) == ("/ajax-api/2.0/mlflow/metrics/get-history-bulk", "GET")
        self.asked.append(params["run_id"])
        names = ("value", "timestamp", "step")
        found = [
            {"run_id": run, "key": params["metric_key"]} | dict(zip(names, point, strict=True))
            for run in params["run_id"]
            for point in self.points.get((run, params["metric_key"]), [])
        ]
        return SimpleNamespace(json=lambda: {"metrics": found[: histories.POINTS_MAX]})

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        """Answer as MLflow's client does."""
        self.asked_alone.append(run_id)
        return [
            SimpleNamespace(value=value, timestamp=timestamp, step=step)
            for value, timestamp, step in self.points.get((run_id, key), [])
        ]


def compared(server: Server, expected: Points, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return of which runs and metrics the server has something else than was expected."""
    monkeypatch.setattr(histories, "http_request", server.http_request)
    monkeypatch.setattr(histories, "augmented_raise_for_status", lambda answer: answer)
    client: Any = server
    collected = Histories(client, "http://localhost")
    jobs = []
    for (run, key), points in expected.items():
        jobs += list(collected.add(run, key, [histories.told(run, key, *point) for point in points]))
    jobs += list(collected.rest())
    assert len(jobs) == len(expected)
    return [name for name, items, ask in jobs if ask() != items]


def history(points: int) -> list[tuple[float, int, int]]:
    """Return a history of some points, the first of which is no number."""
    return [(math.nan, 1, 0), *((step / 3, 1, step) for step in range(1, points))]


def test_many_runs_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {(f"run {run}", key): history(3) for run in range(250) for key in ("a", "b")}
    server = Server(points)
    assert not compared(server, points, monkeypatch)
    assert not server.asked_alone
    assert sorted(map(len, server.asked)) == [50, 50, 100, 100, 100, 100]


def test_what_differs_is_named_by_its_run_and_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {(f"run {run}", "a"): history(3) for run in range(5)}
    server = Server(expected | {("run 1", "a"): history(4), ("run 3", "a"): []})
    assert compared(server, expected, monkeypatch) == ["run run 1, metric a", "run run 3, metric a"]
    assert not server.asked_alone


def test_no_more_points_are_asked_for_than_one_answer_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {(f"run {run}", "a"): history(9000) for run in range(6)}
    server = Server(expected)
    assert not compared(server, expected, monkeypatch)
    assert max(sum(len(expected[run, "a"]) for run in runs) for runs in server.asked) < histories.POINTS_MAX


def test_a_full_answer_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {(f"run {run}", "a"): history(10) for run in range(3)}
    server = Server(expected | {("run 0", "a"): history(histories.POINTS_MAX)})
    assert compared(server, expected, monkeypatch) == ["run run 0, metric a"]
    assert sorted(server.asked_alone) == ["run 0", "run 1", "run 2"]


def test_a_single_run_is_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {("run", "a"): history(30_000)}
    server = Server(expected)
    assert not compared(server, expected, monkeypatch)
    assert (server.asked, server.asked_alone) == ([], ["run"])
