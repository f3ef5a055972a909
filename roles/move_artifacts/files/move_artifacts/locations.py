"""Artifact locations in MLflow's database: counted, and rewritten from one root to another in one transaction."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import psycopg2
from psycopg2 import sql
from psycopg2.errors import DeadlockDetected, LockNotAvailable

from stores import MoveError

# The same as in prepare_databases.py: a migration and a rewrite wait for each other.
LOCK_KEY = int.from_bytes(b"mlflow", "big")
# A rewrite rather waits for running transactions than makes requests wait that wait for it; then it is tried again.
LOCK_SECONDS, TRIES = 5, 5
PROXIED = "mlflow-artifacts:"


@dataclass(frozen=True)
class Column:
    """A column that holds locations: in every row, or in those of some keys."""

    table: str
    name: str
    keys: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Return its name for reports."""
        return f"{self.table}.{self.name}" + (f"[{','.join(self.keys)}]" if self.keys else "")


# All columns of MLflow 3's tables in which the server itself keeps where artifacts are.
COLUMNS = (
    Column("experiments", "artifact_location"),
    Column("runs", "artifact_uri"),
    Column("logged_models", "artifact_location"),
    Column("model_versions", "source"),
    Column("model_versions", "storage_location"),
    Column("trace_tags", "value", ("mlflow.artifactLocation", "mlflow.trace.archiveLocation")),
    Column("workspaces", "default_artifact_root"),
    Column("workspaces", "trace_archival_location"),
)
# The models of a run as JSON: a list whose entries have an artifact_path, which is a location since MLflow 3.
HISTORY = Column("tags", "value", ("mlflow.log-model.history",))
# What users write is theirs: a location in it is reported and left alone.
MENTIONS = (
    Column("params", "value"),
    Column("tags", "value"),
    Column("experiment_tags", "value"),
    Column("logged_model_params", "param_value"),
    Column("logged_model_tags", "tag_value"),
    Column("registered_model_tags", "value"),
    Column("model_version_tags", "value"),
    Column("model_versions", "run_link"),
    Column("datasets", "dataset_source"),
    Column("trace_tags", "value"),
    Column("trace_request_metadata", "value"),
)


@dataclass(frozen=True)
class Rewrite:
    """One root of locations that becomes another. A stem is a root without the slash that follows."""

    stem: str
    to: str
    to_root: str


def stem_of(root: str) -> str:
    """Return what locations under a root begin with, without the slash that follows.

    Args:
        root: URI of a store, or mlflow-artifacts:/ for what is reached through the server.

    Raises:
        ValueError: It is neither.
    """
    if root.startswith(PROXIED):
        if root.startswith(f"{PROXIED}//"):
            raise ValueError(f"{root!r} names a server; it takes mlflow-artifacts:/ with a path at most.")
        return root.rstrip("/")
    if not root.startswith("/") and "://" not in root:
        raise ValueError(f"{root!r} is no root of locations; it takes the URI of a store, or mlflow-artifacts:/.")
    return root.rstrip("/")


def rewrites_of(pairs: Sequence[tuple[str, str]]) -> list[Rewrite]:
    """Return what is to be rewritten.

    Args:
        pairs: Roots as they are and as they shall be.

    Raises:
        ValueError: A root is malformed, or what one pair writes is what another looks for.
    """
    stems = [(stem_of(old), stem_of(new)) for old, new in pairs]
    for _, new in stems:
        for old, _ in stems:
            if f"{new}/".startswith(f"{old}/") or f"{old}/".startswith(f"{new}/"):
                raise ValueError(f"{old}/ and {new}/ lie inside each other; locations would be rewritten twice.")
    found = []
    for old, new in stems:
        # What equals the root stays a root: mlflow-artifacts: alone would be no URI.
        root = f"{new}/" if new == PROXIED else new
        found.append(Rewrite(old, new, root))
        if old.startswith("/"):
            # MLflow writes a directory as a path, or as the URI of one.
            found.append(Rewrite(f"file://{quote(old)}", new, root))
    return found


def _matches(column: Column, *, keys: bool = True) -> sql.Composable:
    """Return the condition that a row's location is under a root; a bucket's name is no prefix of a longer one."""
    text = "({column} = %(stem)s OR (starts_with({column}, %(stem)s || '/') AND NOT starts_with({column}, %(server)s)))"
    if keys and column.keys:
        text += " AND key = ANY(%(keys)s)"
    return sql.SQL(text).format(column=sql.Identifier(column.name))


def _values(column: Column, rewrite: Rewrite) -> dict[str, Any]:
    return {
        "stem": rewrite.stem,
        "to": rewrite.to,
        "root": rewrite.to_root,
        # mlflow-artifacts://host/… names a server, which need not be this one.
        "server": f"{PROXIED}//",
        "keys": list(column.keys),
    }


class Locations:
    """The locations in one database.

    Args:
        service: Section of the libpq service file.
        pairs: Roots as they are and as they shall be.
    """

    def __init__(self, service: str, pairs: Sequence[tuple[str, str]]) -> None:
        """Keep what to do; nothing is asked of the database yet."""
        self.service = service
        self.rewrites = rewrites_of(pairs)

    def count(self) -> dict[str, Any]:
        """Count by column what would be rewritten, and what mentions a root and would be left."""
        with self._connected() as connection, connection.cursor() as cursor:
            widths = self._widths(cursor)
            columns = [column for column in COLUMNS if (column.table, column.name) in widths]
            self._check_widths(cursor, widths, columns)
            counts = {column.title: self._count(cursor, column) for column in columns}
            if (HISTORY.table, HISTORY.name) in widths:
                counts[HISTORY.title] = len(self._histories(cursor))
            mentions = {
                column.title: number
                for column in MENTIONS
                if (column.table, column.name) in widths and (number := self._count_mentions(cursor, column))
            }
            return {"to_rewrite": counts, "mentioned": mentions, "active_runs": len(self._active(cursor))}

    def apply(self, former: Sequence[str] = ()) -> dict[str, Any]:
        """Rewrite all of it, or nothing.

        Args:
            former: Runs whose clients were told the former location, as an earlier rewrite has found them.

        Raises:
            MoveError: The database refuses, or others hold its rows for too long.
        """
        for attempt in range(1, TRIES + 1):
            try:
                with self._connected() as connection, connection.cursor() as cursor:
                    return self._apply(cursor, former)
            except (LockNotAvailable, DeadlockDetected) as error:
                if attempt == TRIES:
                    raise MoveError(
                        f"The database '{self.service}' holds rows to be rewritten for longer than {LOCK_SECONDS} s, "
                        f"in {TRIES} tries; nothing has been rewritten."
                    ) from error
                time.sleep(attempt)
        raise AssertionError

    def _apply(self, cursor: Any, former: Sequence[str]) -> dict[str, Any]:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_SECONDS}s",))
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
        widths = self._widths(cursor)
        columns = [column for column in COLUMNS if (column.table, column.name) in widths]
        self._check_widths(cursor, widths, columns)
        active = self._active(cursor, former)
        counts = {}
        for column in columns:
            statement = sql.SQL(
                "UPDATE {table} SET {column} = CASE WHEN {column} = %(stem)s THEN %(root)s "
                "ELSE %(to)s || substr({column}, length(%(stem)s) + 1) END WHERE {matches}"
            ).format(table=sql.Identifier(column.table), column=sql.Identifier(column.name), matches=_matches(column))
            counts[column.title] = 0
            for rewrite in self.rewrites:
                cursor.execute(statement, _values(column, rewrite))
                counts[column.title] += cursor.rowcount
        if (HISTORY.table, HISTORY.name) in widths:
            histories = self._histories(cursor, lock=True)
            for run, text in histories:
                cursor.execute(
                    "UPDATE tags SET value = %s WHERE run_uuid = %s AND key = ANY(%s)", (text, run, list(HISTORY.keys))
                )
            counts[HISTORY.title] = len(histories)
        return {"rewritten": counts, "active_runs": len(active), "active": active}

    @contextlib.contextmanager
    def _connected(self) -> Any:
        """Open a transaction, which ends with the block: kept if it succeeds."""
        try:
            with contextlib.closing(psycopg2.connect(service=self.service)) as connection, connection:
                yield connection
        except (LockNotAvailable, DeadlockDetected):
            raise
        except psycopg2.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise MoveError(f"The database '{self.service}' cannot be used: {reason}.") from error

    @staticmethod
    def _widths(cursor: Any) -> dict[tuple[str, str], int | None]:
        """Return the columns that this release's schema has, with the number of characters that each takes."""
        cursor.execute(
            "SELECT table_name, column_name, character_maximum_length FROM information_schema.columns "
            "WHERE table_schema = ANY(current_schemas(false))"
        )
        return {(table, name): width for table, name, width in cursor.fetchall()}

    def _check_widths(self, cursor: Any, widths: dict[tuple[str, str], int | None], columns: Sequence[Column]) -> None:
        """Refuse a root that makes locations longer than their column takes."""
        for column in columns:
            width = widths[column.table, column.name]
            for rewrite in self.rewrites:
                more = len(rewrite.to) - len(rewrite.stem)
                if width is None or more <= 0:
                    continue
                statement = sql.SQL("SELECT count(*) FROM {} WHERE length({}) > %(fits)s AND {}").format(
                    sql.Identifier(column.table), sql.Identifier(column.name), _matches(column)
                )
                cursor.execute(statement, _values(column, rewrite) | {"fits": width - more})
                number = cursor.fetchone()[0]
                if number:
                    raise MoveError(
                        f"{number} locations in {column.title} would be longer than the {width} characters of it; "
                        f"{rewrite.to} is {more} characters longer than {rewrite.stem}: use a shorter prefix."
                    )

    def _count(self, cursor: Any, column: Column) -> int:
        statement = sql.SQL("SELECT count(*) FROM {} WHERE {}").format(sql.Identifier(column.table), _matches(column))
        number = 0
        for rewrite in self.rewrites:
            cursor.execute(statement, _values(column, rewrite))
            number += cursor.fetchone()[0]
        return number

    def _count_mentions(self, cursor: Any, column: Column) -> int:
        # Keys that are the server's own have been counted with the locations.
        own = [key for each in (*COLUMNS, HISTORY) if each.table == column.table for key in each.keys]
        condition = sql.SQL(" AND key <> ALL(%s)") if own else sql.SQL(" AND %s IS NOT NULL")
        statement = sql.SQL("SELECT count(*) FROM {} WHERE strpos({}, %s) > 0").format(
            sql.Identifier(column.table), sql.Identifier(column.name)
        )
        number = 0
        for rewrite in self.rewrites:
            cursor.execute(statement + condition, (f"{rewrite.stem}/", own))
            number += cursor.fetchone()[0]
        return number

    def _histories(self, cursor: Any, *, lock: bool = False) -> list[tuple[str, str]]:
        """Return the run and the new text of each history that names a location to be rewritten."""
        query = (
            "SELECT run_uuid, value FROM tags WHERE key = ANY(%s) "
            "AND EXISTS (SELECT FROM unnest(%s) AS stem WHERE strpos(value, stem) > 0) ORDER BY run_uuid"
        )
        # As JSON has them.
        stems = [json.dumps(f"{rewrite.stem}/")[:-1] for rewrite in self.rewrites]
        cursor.execute(f"{query} FOR UPDATE" if lock else query, (list(HISTORY.keys), stems))
        found = []
        for run, text in cursor.fetchall():
            changed = text
            for rewrite in self.rewrites:
                changed = rewritten_history(changed, rewrite)
            if changed != text:
                found.append((run, changed))
        return found

    def _active(self, cursor: Any, former: Sequence[str] = ()) -> list[str]:
        """Return the runs that are running: their clients keep the location that they were told at the start."""
        statement = sql.SQL("SELECT run_uuid FROM runs WHERE status = 'RUNNING' AND {}").format(
            _matches(Column("runs", "artifact_uri"))
        )
        cursor.execute("SELECT run_uuid FROM runs WHERE status = 'RUNNING' AND run_uuid = ANY(%s)", (list(former),))
        found = {run for (run,) in cursor.fetchall()}
        for rewrite in self.rewrites:
            cursor.execute(statement, _values(COLUMNS[1], rewrite))
            found |= {run for (run,) in cursor.fetchall()}
        return sorted(found)


def rewritten(location: str, rewrite: Rewrite) -> str:
    """Return a location under its new root, or unchanged if it is not under the former one."""
    if location == rewrite.stem:
        return rewrite.to_root
    if location.startswith(f"{rewrite.stem}/") and not location.startswith(f"{PROXIED}//"):
        return rewrite.to + location[len(rewrite.stem) :]
    return location


def rewritten_history(text: str, rewrite: Rewrite) -> str:
    """Return the tag mlflow.log-model.history with its locations rewritten, and everything else as it was."""
    try:
        models = json.loads(text)
    except ValueError:
        return text
    changed = False
    for model in models if isinstance(models, list) else []:
        path = model.get("artifact_path") if isinstance(model, dict) else None
        if isinstance(path, str) and (new := rewritten(path, rewrite)) != path:
            model["artifact_path"], changed = new, True
    return json.dumps(models) if changed else text
