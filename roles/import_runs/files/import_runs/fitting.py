"""Makes of a part's rows what the server's tables take: new ids and locations, and no value that they would refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from parts import Bad, BadError, Part, Row
from places import Moves, below
from target import Schema
from tree import MODELS_TAG, models_of

# What is counted, and what a table's rows are counted as.
COUNTS = (
    *("experiments", "runs", "params", "tags", "metrics", "datasets", "inputs", "models", "traces", "assessments"),
    *("registered_models", "versions", "aliases", "artifacts"),
)
COUNTED = {
    "experiments": "experiments",
    "runs": "runs",
    "params": "params",
    "tags": "tags",
    "datasets": "datasets",
    "inputs": "inputs",
    "logged_models": "models",
    "trace_info": "traces",
    "assessments": "assessments",
    "registered_models": "registered_models",
    "model_versions": "versions",
    "registered_model_aliases": "aliases",
}
# Without its first row, a part is none.
HEADS = {"runs", "logged_models", "trace_info", "registered_models", "experiments"}
# What identifies a row among those of its table and part, and names it in a report.
KEYS = {
    "experiment_tags": ("key",),
    "datasets": ("name", "digest"),
    "params": ("key",),
    "tags": ("key",),
    "latest_metrics": ("key",),
    "inputs": ("source_type", "source_id", "destination_type", "destination_id"),
    "input_tags": ("input_uuid", "name"),
    "logged_model_params": ("param_key",),
    "logged_model_tags": ("tag_key",),
    "logged_model_metrics": ("metric_name", "metric_timestamp_ms", "metric_step", "run_id"),
    "trace_tags": ("key",),
    "trace_request_metadata": ("key",),
    "trace_metrics": ("key",),
    "spans": ("span_id",),
    "span_metrics": ("span_id", "key"),
    "assessments": ("assessment_id",),
    "entity_associations": ("source_type", "source_id", "destination_type", "destination_id"),
    "registered_model_tags": ("key",),
    "registered_model_aliases": ("alias",),
    "model_versions": ("version",),
    "model_version_tags": ("version", "key"),
}
# Rows that go with another one: its table, its column, and their own.
PARENTS = {
    "input_tags": ("inputs", "input_uuid", "input_uuid"),
    "inputs": ("datasets", "dataset_uuid", "source_id"),
    "span_metrics": ("spans", "span_id", "span_id"),
    "model_version_tags": ("model_versions", "version", "version"),
    "registered_model_aliases": ("model_versions", "version", "version"),
}
LOCATION_TAG = "mlflow.artifactLocation"


def filled_in(run: Row) -> Row:
    """Return values for what a run lacks and the API needs to return it.

    MLflow's entity RunInfo refuses None for these, and one such run makes every page of runs/search that has it fail.
    A run without a start began, as far as is known, when it ended.
    """
    wanted = {"user_id": "", "start_time": run.get("end_time") or 0, "status": "RUNNING"}
    return {name: value for name, value in wanted.items() if run.get(name) is None}


# A row that its table takes: the table, and the values of its columns.
Fitted = tuple[str, list[Any]]


@dataclass
class Goal:
    """Where an experiment goes."""

    new: int
    name: str
    location: str
    # Whether the server has it already, and not from this import.
    merged: bool
    # Its name in the source.
    former: str


class Fitter:
    """Fits rows.

    Args:
        schema: The server's tables.
        note: Told of what does not fit.
    """

    def __init__(self, schema: Schema, note: Callable[[Bad], None]) -> None:
        """Begin with no experiment known."""
        self.schema, self.note = schema, note
        self.moves = Moves()
        # Runs that are there or come, which metrics of logged models may name.
        self.runs: set[str] = set()
        # Id of a dataset of the source, and of the same one that the server has.
        self.datasets: dict[str, str] = {}
        # New names of prompts whose versions keep their numbers.
        self.prompts: dict[str, str] = {}
        self.refused: dict[str, set[Any]] = {}

    def location(self, part: Part, goal: Goal) -> str:
        """Return where a part's artifacts are to be, as the server would have put them."""
        between = {"run": (part.key,), "model": ("models", part.key), "trace": ("traces", part.key)}[part.kind]
        return below(goal.location, *between, "artifacts")

    def part(self, part: Part, goal: Goal) -> list[Fitted]:
        """Return the rows of a part of an experiment.

        Raises:
            BadError: It cannot come at all.
        """
        location = self.location(part, goal)
        return list(
            self._fitted(part.path, ((table, self._moved(table, row, goal, location)) for table, row in part.rows()))
        )

    def own(self, path: str, rows: Iterable[tuple[str, Row]], goal: Goal) -> list[Fitted]:
        """Return the rows of an experiment itself.

        Raises:
            BadError: It cannot come at all.
        """
        return list(self._fitted(path, ((table, self._moved(table, row, goal, goal.location)) for table, row in rows)))

    def registered(self, part: Part, change: Callable[[str, Row], Row | None]) -> list[Fitted]:
        """Return the rows of a registered model.

        Args:
            part: The model.
            change: Returns a row as it is to be, or None where it is not to come.

        Raises:
            BadError: It cannot come at all.
        """
        changed = ((table, change(table, row)) for table, row in part.rows())
        return list(self._fitted(part.path, ((table, row) for table, row in changed if row is not None)))

    def _fitted(self, path: str, rows: Iterable[tuple[str, Row]]) -> Iterator[Fitted]:
        seen: set[tuple[Any, ...]] = set()
        # Datasets are the experiment's, and inputs that name them its runs'.
        self.refused = {"datasets": self.refused.get("datasets", set())}
        for table, row in rows:
            parent, _, own = PARENTS.get(table, ("", "", ""))
            if parent and row.get(own) in self.refused.get(parent, set()):
                continue
            key = tuple(row.get(name) for name in KEYS.get(table, ()))
            try:
                if key and (table, *key) in seen:
                    raise BadError("it is there twice")
                if table == "logged_model_metrics" and row["run_id"] not in self.runs:
                    raise BadError(f"it names the run {row['run_id']}, which is not there")
                if table == "entity_associations" and str(row["destination_id"]).startswith("None/"):
                    raise BadError("it names a prompt whose versions have other numbers on the server")
                values = self.schema.fitted(table, row)
            except BadError as error:
                if table in HEADS:
                    raise
                for of, column, _ in PARENTS.values():
                    if of == table:
                        self.refused.setdefault(table, set()).add(row.get(column))
                name = "/".join(str(each) for each in key)
                self.note(Bad(f"{path}/{table}/{name}".replace("\0", "\\0"), str(error), "entry"))
                continue
            seen.add((table, *key))
            yield table, values

    def _moved(self, table: str, row: Row, goal: Goal, location: str) -> Row:
        """Return a row with the experiment's new id, and locations as the server has them."""
        changed = dict(row)
        if "experiment_id" in row:
            changed["experiment_id"] = goal.new
        if table == "experiments":
            changed |= {"name": goal.name, "artifact_location": goal.location}
        elif table == "runs":
            changed |= {"artifact_uri": location} | filled_in(row)
        elif table == "logged_models":
            changed["artifact_location"] = location
        elif table == "trace_tags" and row["key"] == LOCATION_TAG:
            changed["value"] = location
        elif table == "tags" and row["key"] == MODELS_TAG and isinstance(row["value"], str):
            changed["value"] = self._history(row["value"])
        elif table == "entity_associations" and row["destination_type"] == "prompt_version":
            prompt, _, version = str(row["destination_id"]).rpartition("/")
            changed["destination_id"] = f"{self.prompts.get(prompt)}/{version}"
        elif table == "inputs":
            changed["source_id"] = self.datasets.get(row["source_id"], row["source_id"])
        return changed

    def _history(self, text: str) -> str:
        models = models_of(text)
        changed = False
        for model in models:
            path = model.get("artifact_path")
            if isinstance(path, str) and (new := self.moves.new(path)):
                model["artifact_path"], changed = new, True
        return json.dumps(models) if changed else text
