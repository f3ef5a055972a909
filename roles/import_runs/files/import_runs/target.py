"""The server's database: what its columns take, and rows written by COPY."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

import psycopg2
from psycopg2 import sql

from parts import MOST, BadError, ImportFailure, Latest, Point, Row

# Parents first: what is written at once is written in this order, and removed in the opposite one.
TABLES = (
    "experiments",
    "experiment_tags",
    "datasets",
    "runs",
    "params",
    "tags",
    "metrics",
    "latest_metrics",
    "inputs",
    "input_tags",
    "logged_models",
    "logged_model_params",
    "logged_model_tags",
    "logged_model_metrics",
    "trace_info",
    "trace_tags",
    "trace_request_metadata",
    "trace_metrics",
    "spans",
    "span_metrics",
    "assessments",
    "entity_associations",
    "registered_models",
    "registered_model_tags",
    "model_versions",
    "model_version_tags",
    "registered_model_aliases",
)
# Columns that MLflow adds up again by itself, and values that a check of the database would refuse.
ALLOWED = {
    ("experiments", "lifecycle_stage"): {"active", "deleted"},
    ("runs", "lifecycle_stage"): {"active", "deleted"},
    ("logged_models", "lifecycle_stage"): {"active", "deleted"},
    ("runs", "status"): {"SCHEDULED", "FAILED", "FINISHED", "RUNNING", "KILLED"},
    ("runs", "source_type"): {"NOTEBOOK", "JOB", "LOCAL", "UNKNOWN", "PROJECT"},
}
WORKSPACE = "default"
# Characters, or thereabouts, that are held before they are written.
HELD = 8_000_000
ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
POINT_COLUMNS = ("key", "value", "timestamp", "step", "is_nan", "run_uuid")


def connect(service: str) -> Any:
    """Open a connection by a section of the libpq service file.

    Raises:
        ImportFailure: The database cannot be reached.
    """
    try:
        return psycopg2.connect(service=service, application_name="import_runs")
    except psycopg2.Error as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ImportFailure(f"The database '{service}' cannot be used: {reason}.") from error


@contextlib.contextmanager
def told_of(service: str) -> Iterator[None]:
    """Tell what PostgreSQL says in one sentence."""
    try:
        yield
    except psycopg2.Error as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ImportFailure(f"The database '{service}' refused: {reason}.") from error


class Column:
    """What a column takes."""

    def __init__(self, kind: str, width: int | None, nullable: bool) -> None:
        """Keep it as information_schema has it."""
        self.kind, self.width, self.nullable = kind, width, nullable

    def fitted(self, value: Any) -> Any:
        """Return a value as the column takes it.

        Raises:
            BadError: It does not.
        """
        if value is None:
            if not self.nullable:
                raise BadError("is missing")
            return None
        if self.kind in {"integer", "bigint"}:
            if isinstance(value, bool) or not isinstance(value, int):
                raise BadError(f"is {str(value)[:60]!r} and no whole number")
            most = 2**31 - 1 if self.kind == "integer" else MOST
            if not -most - 1 <= value <= most:
                raise BadError(f"is {value}, which is too large")
            return value
        if self.kind == "boolean":
            return bool(value)
        if self.kind == "double precision":
            return float(value)
        if isinstance(value, (dict, list, bytes)):
            raise BadError("is no text")
        text = str(value)
        if "\0" in text:
            raise BadError("has a NUL byte, which PostgreSQL refuses")
        if self.width is not None and len(text) > self.width:
            raise BadError(f"has {len(text)} characters, and the server takes {self.width}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadError("is no UTF-8 text") from error
        return text


class Schema:
    """The tables of the database as it has them."""

    def __init__(self, cursor: Any) -> None:
        """Read them; a column that the database computes is not written."""
        cursor.execute(
            "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable = 'YES' "
            "FROM information_schema.columns WHERE table_schema = 'public' AND table_name = ANY(%s) "
            "AND is_generated = 'NEVER' ORDER BY table_name, ordinal_position",
            (list(TABLES),),
        )
        self.tables: dict[str, dict[str, Column]] = {table: {} for table in TABLES}
        for table, column, kind, width, nullable in cursor.fetchall():
            self.tables[table][column] = Column(kind, width, nullable)
        missing = [table for table in TABLES if not self.tables[table]]
        if missing:
            raise ImportFailure(f"The database has no table {missing[0]}; it takes one that MLflow 3.17 has made.")

    def fitted(self, table: str, row: Row) -> list[Any]:
        """Return the values of a row in the order of the table's columns.

        Raises:
            BadError: The table would not take it.
        """
        values = []
        for name, column in self.tables[table].items():
            value = row.get(name, WORKSPACE if name == "workspace" else None)
            try:
                value = column.fitted(value)
                if (allowed := ALLOWED.get((table, name))) and value not in allowed:
                    raise BadError(f"is {value!r}, and the server knows only {', '.join(sorted(allowed))}")
            except BadError as error:
                raise BadError(f"its {name} {error}") from error
            values.append(value)
        return values


def inserted(cursor: Any, table: str, row: Row, conflict: str = "") -> bool:
    """Insert one row; say whether it was.

    Args:
        cursor: Of the transaction.
        table: The table.
        row: Its values by column.
        conflict: What to do if there is one of its key.
    """
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) {}").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.Placeholder() * len(row)),
        sql.SQL(conflict),
    )
    cursor.execute(statement, list(row.values()))
    return bool(cursor.rowcount)


def encoded(values: Iterable[Any]) -> str:
    """Return a row as COPY reads it."""
    return "\t".join(_field(value) for value in values) + "\n"


def _field(value: Any) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, str):
        return value.translate(ESCAPES)
    return repr(value)


class Writer:
    """Writes rows in one transaction, a few megabytes at a time.

    Args:
        cursor: Of the transaction.
        schema: The tables.
    """

    def __init__(self, cursor: Any, schema: Schema) -> None:
        """Begin with nothing."""
        self.cursor, self.schema = cursor, schema
        self.held: dict[str, list[str]] = {table: [] for table in TABLES}
        self.again: list[str] = []
        self.size = 0
        self.repeated = 0
        self._staged = False

    def row(self, table: str, values: list[Any]) -> None:
        """Write a row that was fitted."""
        line = encoded(values)
        self.held[table].append(line)
        self._grown(len(line))

    def point(self, run: str, point: Point, first: bool) -> None:
        """Write a point of a metric.

        Args:
            run: The run's id.
            point: The point.
            first: Whether it is known to be no repetition of another.
        """
        key, value, timestamp, step, is_nan = point
        line = f"{key.translate(ESCAPES)}\t{value!r}\t{timestamp}\t{step}\t{'t' if is_nan else 'f'}\t{run}\n"
        (self.held["metrics"] if first else self.again).append(line)
        self._grown(len(line))

    def _grown(self, size: int) -> None:
        self.size += size
        if self.size > HELD:
            self.flush()

    def flush(self) -> None:
        """Hand over what is held."""
        for table in TABLES:
            if self.held[table]:
                columns = POINT_COLUMNS if table == "metrics" else tuple(self.schema.tables[table])
                self._copy(table, columns, self.held[table])
                self.held[table] = []
        if self.again:
            if not self._staged:
                self.cursor.execute("CREATE TEMPORARY TABLE import_points (LIKE metrics) ON COMMIT DROP")
                self._staged = True
            self._copy("import_points", POINT_COLUMNS, self.again)
            names = sql.SQL(", ").join(map(sql.Identifier, POINT_COLUMNS))
            self.cursor.execute(
                sql.SQL("INSERT INTO metrics ({0}) SELECT {0} FROM import_points ON CONFLICT DO NOTHING").format(names)
            )
            self.repeated += len(self.again) - self.cursor.rowcount
            self.cursor.execute("TRUNCATE import_points")
            self.again = []
        self.size = 0

    def _copy(self, table: str, columns: Iterable[str], lines: list[str]) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        self.cursor.copy_expert(statement, io.BytesIO("".join(lines).encode()))


def written_points(writer: Writer | None, run: str, points: Iterable[Point]) -> tuple[int, list[Point]]:
    """Write the points of a run.

    Args:
        writer: Where to; None to only look at them.
        run: The run's id.
        points: Those of a key one after the other.

    Returns:
        Their number, and the latest of each key.
    """
    latest = Latest()
    count, key, rising = 0, "", True
    for point in points:
        count += 1
        if point[0] != key:
            key, rising = point[0], True
        # As long as step and time rise, no point of a key can be a repetition, which the table would refuse.
        rising = latest.add(point) and rising
        if writer is not None:
            writer.point(run, point, rising)
    return count, list(latest.points.values())
