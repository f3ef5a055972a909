"""Reads a SQLite file of MLflow 2.9 or newer: a copy of it, which MLflow itself migrates to this release's schema."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from parts import Bad, BadError, Experiment, ImportFailure, Part, Point, Row, name_fault
from places import Places
from target import TABLES

# What belongs to a part, by its table: the column that names the part, and a condition.
OF_RUN = {
    "params": "run_uuid = :key",
    "tags": "run_uuid = :key",
    "inputs": (
        "(destination_type = 'RUN' AND destination_id = :key) "
        "OR (source_type IN ('RUN_INPUT', 'RUN_OUTPUT') AND source_id = :key)"
    ),
}
OF_MODEL = {table: "model_id = :key" for table in TABLES if table.startswith("logged_model")}
OF_TRACE = {
    "trace_info": "request_id = :key",
    "trace_tags": "request_id = :key",
    "trace_request_metadata": "request_id = :key",
    "trace_metrics": "request_id = :key",
    "spans": "trace_id = :key",
    "span_metrics": "trace_id = :key",
    "assessments": "trace_id = :key",
    "entity_associations": (
        "source_type = 'trace' AND source_id = :key AND destination_type IN ('run', 'prompt_version')"
    ),
}
OF_REGISTERED = [
    "registered_models",
    "registered_model_tags",
    "model_versions",
    "model_version_tags",
    "registered_model_aliases",
]
# Rows whose parent is not there are no part's.
ORPHANS = {
    "params": ("run_uuid", "runs", "run_uuid"),
    "tags": ("run_uuid", "runs", "run_uuid"),
    "metrics": ("run_uuid", "runs", "run_uuid"),
    "experiment_tags": ("experiment_id", "experiments", "experiment_id"),
    "runs": ("experiment_id", "experiments", "experiment_id"),
    "logged_models": ("experiment_id", "experiments", "experiment_id"),
    "trace_info": ("experiment_id", "experiments", "experiment_id"),
    "trace_tags": ("request_id", "trace_info", "request_id"),
    "assessments": ("trace_id", "trace_info", "request_id"),
    "model_versions": ("name", "registered_models", "name"),
    "registered_model_aliases": ("name", "registered_models", "name"),
}
# What is made anew by the server, or is nobody's work.
UNCOUNTED = ("alembic_version", "sqlite_", "sql_", "job_locks", "scheduler_leases", "workspaces", "latest_metrics")


def migrated(file: Path, directory: Path) -> Path:
    """Return a copy of a SQLite file in this release's schema; one that was made before of the same file is used.

    Args:
        file: The file, which is only read.
        directory: Where copies are kept.

    Raises:
        ImportFailure: It is none of MLflow's.
    """
    copy, mark = directory / "source.db", directory / "source.json"
    parts = [Path(f"{file}{suffix}") for suffix in ("", "-wal")]
    state = [[part.stat().st_size, part.stat().st_mtime_ns] for part in parts if part.exists()]
    if copy.exists() and mark.exists() and json.loads(mark.read_text()) == state:
        return copy
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    mark.unlink(missing_ok=True)
    copy.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(copy)) as target:
            _copy(file, copy, target)
            found = target.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    except sqlite3.Error as error:
        raise ImportFailure(f"{file} cannot be read as a SQLite file: {error}.") from error
    if not found:
        raise ImportFailure(f"{file} is no database of MLflow's; it takes one that MLflow 2.9 or newer has made.")
    _migrate(file, copy)
    mark.write_text(json.dumps(state))
    return copy


def _copy(file: Path, copy: Path, target: sqlite3.Connection) -> None:
    try:
        with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as source:
            source.backup(target)
    except sqlite3.OperationalError:
        # With a write-ahead log, SQLite has to write beside it, which is not for a source that is only read.
        for suffix in ("", "-wal"):
            if Path(f"{file}{suffix}").exists():
                shutil.copyfile(f"{file}{suffix}", f"{copy}{suffix}")


def _migrate(file: Path, copy: Path) -> None:
    import sqlalchemy
    from mlflow.store.db.utils import _upgrade_db

    engine = sqlalchemy.create_engine(f"sqlite:///{copy}")
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        _upgrade_db(engine)
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")[:300]
        raise ImportFailure(f"MLflow's migration of a copy of {file} failed: {reason}.") from error
    finally:
        engine.dispose()


class DatabaseFile:
    """The source that is a SQLite file.

    Args:
        file: As it was given.
        copy: The copy in this release's schema.
        artifacts: A directory in which its artifacts are, if they are not where it says.
    """

    def __init__(self, file: Path, copy: Path, artifacts: Path | None) -> None:
        """Open the copy."""
        self.file = file
        self.note: Callable[[Bad], None] = lambda bad: None
        self.places = Places([artifacts, file.parent] if artifacts else [file.parent], file.parent)
        self.connection = sqlite3.connect(copy)
        self.connection.row_factory = sqlite3.Row
        # What is no UTF-8 is told as such, and not by an exception in the middle.
        self.connection.text_factory = lambda text: text.decode(errors="surrogateescape")

    def _rows(self, query: str, **values: Any) -> Iterator[Row]:
        for row in self.connection.execute(query, values):
            yield dict(row)

    def _table(self, table: str, condition: str, **values: Any) -> Iterator[tuple[str, Row]]:
        for row in self._rows(f"SELECT * FROM {table} WHERE {condition}", **values):  # noqa: S608 - constants
            yield table, row

    def experiments(self) -> Iterator[Experiment]:
        """Return the experiments."""
        self._tell_orphans()
        found = list(self._rows("SELECT * FROM experiments ORDER BY experiment_id"))
        self._tell_lost([row["artifact_location"] or "" for row in found])
        for row in found:
            path = f"experiments/{row['experiment_id']}"
            if row.get("workspace", "default") != "default":
                self.note(Bad(path, f"it is of the workspace {row['workspace']!r}, not the default one", "experiment"))
                continue
            yield self._experiment(path, row)

    def _tell_orphans(self) -> None:
        for table, (column, parent, key) in ORPHANS.items():
            query = f"SELECT count(*) FROM {table} WHERE {column} NOT IN (SELECT {key} FROM {parent})"  # noqa: S608
            (number,) = self.connection.execute(query).fetchone()
            if number:
                self.note(Bad(table, f"{number} of its rows name {parent} that are not there", "entry"))

    def _tell_lost(self, locations: list[str]) -> None:
        """Tell if nothing is where it says: a run without artifacts has no directory, but hardly all of them."""
        (number,) = self.connection.execute("SELECT count(*) FROM runs").fetchone()
        with contextlib.suppress(BadError):
            if number and not any(self.places.find(location, least=1) for location in locations if location):
                reason = f"there is no directory of artifacts where it says, such as {locations[-1]}"
                self.note(Bad(self.file.name, reason, "artifacts"))

    def _experiment(self, path: str, row: Row) -> Experiment:
        key = row["experiment_id"]

        def rows() -> Iterator[tuple[str, Row]]:
            yield "experiments", row
            for table in ("experiment_tags", "datasets"):
                yield from self._table(table, "experiment_id = :key", key=key)

        return Experiment(
            str(key),
            str(row["name"]),
            path,
            row["artifact_location"] or "",
            rows,
            lambda: self._parts(key),
            is_deleted=row["lifecycle_stage"] == "deleted",
        )

    def _parts(self, experiment: int) -> Iterator[Part]:
        runs = "SELECT * FROM runs WHERE experiment_id = :key ORDER BY run_uuid"
        for row in list(self._rows(runs, key=experiment)):
            yield self._run(row)
        models = "SELECT model_id, artifact_location FROM logged_models WHERE experiment_id = :key ORDER BY model_id"
        for row in list(self._rows(models, key=experiment)):
            yield self._part("model", row["model_id"], row["artifact_location"] or "", OF_MODEL)
        traces = (
            "SELECT i.request_id, t.value FROM trace_info i LEFT JOIN trace_tags t ON t.request_id = i.request_id "
            "AND t.key = 'mlflow.artifactLocation' WHERE i.experiment_id = :key ORDER BY i.request_id"
        )
        for row in list(self._rows(traces, key=experiment)):
            yield self._part("trace", row["request_id"], row["value"] or "", OF_TRACE)

    def _run(self, row: Row) -> Part:
        key = row["run_uuid"]
        part = self._part("run", key, row["artifact_uri"] or "", OF_RUN)
        others = part.rows

        def rows() -> Iterator[tuple[str, Row]]:
            yield "runs", row
            inputs = []
            for table, each in others():
                if table in {"params", "tags"} and (fault := name_fault(table[:-1], each["key"])):
                    self.note(Bad(f"{part.path}/{table}/{each['key']}", fault, "entry"))
                    continue
                if table == "inputs":
                    inputs.append(each["input_uuid"])
                yield table, each
            for uuid in inputs:
                yield from self._table("input_tags", "input_uuid = :key", key=uuid)

        part.rows = rows
        part.points = lambda: self._points(part)
        return part

    def _part(self, kind: str, key: str, location: str, tables: dict[str, str]) -> Part:
        def rows() -> Iterator[tuple[str, Row]]:
            for table, condition in tables.items():
                yield from self._table(table, condition, key=key)

        path = f"{kind}s/{key}"
        try:
            directory = self.places.find(location) if location else None
        except BadError as error:
            self.note(Bad(path, str(error), "artifacts"))
            directory = None
        return Part(kind, key, path, rows, location=location, directory=directory)

    def _points(self, part: Part) -> Iterator[Point]:
        query = (
            "SELECT key, value, timestamp, step, is_nan FROM metrics WHERE run_uuid = :key "
            "ORDER BY key, step, timestamp, value"
        )
        refused = set()
        # A cursor of its own: other parts may be read meanwhile.
        for key, value, timestamp, step, is_nan in self.connection.execute(query, {"key": part.key}):
            if fault := name_fault("metric", key):
                if key not in refused:
                    refused.add(key)
                    self.note(Bad(f"{part.path}/metrics/{key}", fault, "entry"))
                continue
            yield key, float(value), timestamp, step, bool(is_nan)

    def registry(self) -> Iterator[Part]:
        """Return the registered models."""
        for row in list(self._rows("SELECT name, workspace FROM registered_models ORDER BY workspace, name")):
            name, path = row["name"], f"registered_models/{row['name']}"
            if row["workspace"] != "default":
                reason = f"it is of the workspace {row['workspace']!r}, not the default one"
                self.note(Bad(path, reason, "registered_model"))
                continue

            def rows(name: str = name) -> Iterator[tuple[str, Row]]:
                for table in OF_REGISTERED:
                    order = " ORDER BY version" if table == "model_versions" else ""
                    yield from self._table(table, f"name = :key AND workspace = 'default'{order}", key=name)

            yield Part("registered_model", name, path, rows)

    def left(self) -> dict[str, int]:
        """Count the rows of tables that are not imported."""
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
        tables = [name for (name,) in self.connection.execute(query) if name not in TABLES]
        found = {}
        for table in tables:
            if not table.startswith(UNCOUNTED):
                (number,) = self.connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608
                if number:
                    found[table] = number
        kinds = "SELECT source_type || ' to ' || destination_type, count(*) FROM entity_associations GROUP BY 1"
        own = {"trace to run", "trace to prompt_version"}
        found |= {
            f"associations of {kind}": number for kind, number in self.connection.execute(kinds) if kind not in own
        }
        return found
