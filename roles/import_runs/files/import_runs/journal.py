"""What each import has brought, in a schema of its own in the server's database.

It is written in the transactions that bring the rows, so that both are there or none. MLflow's migrations know nothing
of it, and it goes with the last import that is undone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from psycopg2.extras import execute_values

from parts import ImportFailure

# Held by the one import that works on a database: the bytes of "import".
LOCK_KEY = int.from_bytes(b"import", "big")
# As prepare_databases.py holds it while it migrates.
MIGRATION_KEY = int.from_bytes(b"mlflow", "big")

DEFINITION = """
CREATE SCHEMA IF NOT EXISTS import_runs;
CREATE TABLE IF NOT EXISTS import_runs.imports (
    id text PRIMARY KEY, source text NOT NULL, options json NOT NULL, state text NOT NULL,
    begun timestamptz NOT NULL DEFAULT now(), ended timestamptz);
CREATE TABLE IF NOT EXISTS import_runs.experiments (
    import text NOT NULL REFERENCES import_runs.imports, old text NOT NULL, new integer NOT NULL, name text NOT NULL,
    location text NOT NULL, merged boolean NOT NULL, former text NOT NULL, PRIMARY KEY (import, old));
CREATE TABLE IF NOT EXISTS import_runs.brought (
    import text NOT NULL REFERENCES import_runs.imports, kind text NOT NULL, key text NOT NULL,
    detail json, PRIMARY KEY (import, kind, key));
"""


class Mapped(NamedTuple):
    """Where an experiment goes: new id, name and location, whether it was there before, and its name in the source."""

    new: int
    name: str
    location: str
    merged: bool
    former: str


class Journal:
    """The journal of one import.

    Args:
        connection: To the server's database; the caller commits.
        identity: The import's id.
    """

    def __init__(self, connection: Any, identity: str) -> None:
        """Look whether there is one."""
        self.connection, self.identity = connection, identity
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('import_runs.imports') IS NOT NULL")
            self.made = bool(cursor.fetchone()[0])

    def lock(self) -> None:
        """Keep others from importing into this database as long as the connection lasts.

        Raises:
            ImportFailure: One is at it.
        """
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (LOCK_KEY,))
            if not cursor.fetchone()[0]:
                raise ImportFailure(
                    "Another import into this server, or its undoing, is at work; wait until it is done."
                )

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the journal; none if there is no journal."""
        if not self.made:
            return []
        with self.connection.cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall())

    def state(self) -> str:
        """Return "", "importing", "complete" or "undoing"."""
        found = self.rows("SELECT state FROM import_runs.imports WHERE id = %s", self.identity)
        return str(found[0][0]) if found else ""

    def adopt(self, runs: list[str]) -> None:
        """Go on with the import that has brought the source's runs: it may be elsewhere now.

        And do not go on with one of another source that was at the same place.

        Args:
            runs: All runs of the source.
        """
        found = self.rows(
            "SELECT import, count(*), count(*) FILTER (WHERE key = ANY(%s)) FROM import_runs.brought "
            "WHERE kind = 'run' GROUP BY import ORDER BY 3 DESC",
            runs,
        )
        if found and found[0][2] * 2 >= found[0][1]:
            self.identity = str(found[0][0])
        elif self.identity in {identity for identity, *_ in found}:
            self.identity = hashlib.sha256("".join([self.identity, *sorted(runs)]).encode()).hexdigest()[:8]

    def options(self) -> dict[str, Any]:
        """Return how the import was last started."""
        found = self.rows("SELECT options FROM import_runs.imports WHERE id = %s", self.identity)
        return dict(found[0][0]) if found else {}

    def begin(self, source: str, options: dict[str, Any]) -> None:
        """Make the journal, or go on with it."""
        with self.connection.cursor() as cursor:
            cursor.execute(DEFINITION)
            cursor.execute(
                "INSERT INTO import_runs.imports (id, source, options, state) VALUES (%s, %s, %s, 'importing') "
                "ON CONFLICT (id) DO UPDATE SET state = 'importing', options = excluded.options",
                (self.identity, source, json.dumps(options)),
            )
        self.made = True

    def set_state(self, state: str) -> None:
        """Note how far the import is."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                "UPDATE import_runs.imports SET state = %s, ended = now() WHERE id = %s", (state, self.identity)
            )

    def experiments(self) -> dict[str, Mapped]:
        """Return where experiments go, by old id."""
        query = "SELECT old, new, name, location, merged, former FROM import_runs.experiments WHERE import = %s"
        return {old: Mapped(*mapped) for old, *mapped in self.rows(query, self.identity)}

    def map(self, old: str, mapped: Mapped) -> None:
        """Note where an experiment goes."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO import_runs.experiments (import, old, new, name, location, merged, former) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (import, old) DO UPDATE SET "
                "new = excluded.new, name = excluded.name, location = excluded.location, merged = excluded.merged, "
                "former = excluded.former",
                (self.identity, old, *mapped),
            )

    def brought(self, kind: str) -> dict[str, Any]:
        """Return what has been brought of a kind, with what was noted of it."""
        return dict(
            self.rows(
                "SELECT key, detail FROM import_runs.brought WHERE import = %s AND kind = %s", self.identity, kind
            )
        )

    def note(self, kind: str, entries: Iterable[tuple[str, Any]]) -> None:
        """Note what is brought by the transaction."""
        rows = [(self.identity, kind, key, json.dumps(detail)) for key, detail in entries]
        if rows:
            with self.connection.cursor() as cursor:
                execute_values(
                    cursor,
                    "INSERT INTO import_runs.brought VALUES %s ON CONFLICT (import, kind, key) "
                    "DO UPDATE SET detail = excluded.detail",
                    rows,
                )

    def forget(self) -> None:
        """Remove the import from the journal, and the journal if it was the last."""
        with self.connection.cursor() as cursor:
            for table in ("brought", "experiments"):
                cursor.execute(f"DELETE FROM import_runs.{table} WHERE import = %s", (self.identity,))  # noqa: S608
            cursor.execute("DELETE FROM import_runs.imports WHERE id = %s", (self.identity,))
            cursor.execute("SELECT count(*) FROM import_runs.imports")
            if cursor.fetchone()[0] == 0:
                cursor.execute("DROP SCHEMA import_runs CASCADE")
                self.made = False
