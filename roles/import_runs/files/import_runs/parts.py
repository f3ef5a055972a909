"""What a source of any kind is made of: parts, which come whole or not at all, and what is wrong with them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

# A row of a table of MLflow's, as the source has it: ids and locations are the source's.
Row = dict[str, Any]
# Key, value, timestamp in ms, step and whether the value is none (NaN), as MLflow's tables have them.
Point = tuple[str, float, int, int, bool]

LEAST, MOST = -(2**63), 2**63 - 1


class ImportFailure(Exception):
    """Something that the operator has to mend; its text is one sentence."""


class BadError(Exception):
    """A part of the source that cannot be read, or that the server could not hold; its text says why."""


@dataclass(frozen=True)
class Bad:
    """An entry of the source that is malformed. Its size says what of the source it takes along."""

    path: str
    reason: str
    takes: str

    def told(self) -> dict[str, str]:
        """Return it for a report."""
        return {"path": self.path, "reason": self.reason, "set_aside": self.takes}


@dataclass
class Part:
    """A run, logged model, trace or registered model with all that belongs to it.

    Args:
        kind: "run", "model", "trace" or "registered_model".
        key: Its id, which stays what it is.
        path: Where it is in the source, for reports.
        rows: Its rows but for the points of metrics, parents first. Read when they are asked for.
        points: The points of its metrics, those of a key one after the other.
        location: Where the source says that its artifacts are.
        directory: Where they are, or None if there is no such directory.
    """

    kind: str
    key: str
    path: str
    rows: Callable[[], Iterator[tuple[str, Row]]]
    points: Callable[[], Iterator[Point]] = field(default=lambda: iter(()))
    location: str = ""
    directory: str | None = None


@dataclass
class Experiment:
    """An experiment: its own rows, and its parts in an order in which parents come first."""

    key: str
    name: str
    path: str
    location: str
    rows: Callable[[], Iterator[tuple[str, Row]]]
    parts: Callable[[], Iterator[Part]]
    is_deleted: bool = False


class Source(Protocol):
    """What can be imported."""

    # Told of each malformed entry that is met.
    note: Callable[[Bad], None]
    # Where its artifacts are.
    places: Any

    def experiments(self) -> Iterator[Experiment]:
        """Return the experiments."""

    def registry(self) -> Iterator[Part]:
        """Return the registered models."""

    def left(self) -> dict[str, int]:
        """Count what is in the source and is not imported, by the name of its table."""


@functools.lru_cache(maxsize=10_000)
def name_fault(kind: str, name: str) -> str:
    """Return what MLflow has against a name, or nothing.

    Args:
        kind: What it names: "param", "tag", "metric", "experiment", "model", "alias" or "run".
        name: The name.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils import validation

    checks = {
        "param": validation._validate_param_name,
        "tag": validation._validate_tag_name,
        "metric": validation._validate_metric_name,
        "experiment": validation._validate_experiment_name,
        "model": validation._validate_model_name,
        "alias": validation._validate_model_alias_name,
        "run": validation._validate_run_id,
    }
    try:
        checks[kind](name)
    except MlflowException as error:
        return " ".join(str(error.message).split()).rstrip(".")
    return ""


def to_integer(text: bytes) -> int:
    """Return a whole number, which some clients wrote as a float: `3.0`.

    Raises:
        ValueError: It is not a whole number.
    """
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer():
            raise
        return int(number)


def point_of(fields: list[bytes]) -> tuple[int, float, int, bool]:
    """Return timestamp, value, step and whether it is NaN, as MLflow's database holds them.

    Args:
        fields: Timestamp, value and, since MLflow 1.0, step of a line of a file of metrics.

    Raises:
        ValueError: They are no such numbers.
    """
    timestamp, value = to_integer(fields[0]), float(fields[1])
    step = to_integer(fields[2]) if len(fields) > 2 else 0
    if not (LEAST <= timestamp <= MOST and LEAST <= step <= MOST):
        raise ValueError("a number is too large")
    if value != value:
        return timestamp, 0.0, step, True
    if value in (float("inf"), float("-inf")):
        return timestamp, 1.7976931348623157e308 if value > 0 else -1.7976931348623157e308, step, False
    return timestamp, value, step, False


class Latest:
    """Finds the latest point of each key as MLflow does: of the highest step, then timestamp, then value."""

    def __init__(self) -> None:
        """Begin with none."""
        self.points: dict[str, Point] = {}

    def add(self, point: Point) -> bool:
        """Note a point; say whether it is later than all of its key before it."""
        known = self.points.get(point[0])
        if known is None or (point[3], point[2], point[1]) > (known[3], known[2], known[1]):
            self.points[point[0]] = point
            return known is None or (point[3], point[2]) > (known[3], known[2])
        return False
