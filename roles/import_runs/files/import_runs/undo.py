"""Removes what one import has brought, and nothing else."""

from __future__ import annotations

from typing import Any

from psycopg2 import sql

from artifacts import Destination
from grants import Grants
from journal import Journal
from parts import ImportFailure
from said import Progress
from target import told_of

# Parts that are removed in one transaction.
BATCH = 500
# Statements that remove parts by their ids, children first.
RUN = (
    "DELETE FROM input_tags WHERE input_uuid IN (SELECT input_uuid FROM inputs WHERE {edges})",
    "DELETE FROM inputs WHERE {edges}",
    "DELETE FROM logged_model_metrics WHERE run_id = ANY(%(keys)s)",
    "DELETE FROM metrics WHERE run_uuid = ANY(%(keys)s)",
    "DELETE FROM latest_metrics WHERE run_uuid = ANY(%(keys)s)",
    "DELETE FROM params WHERE run_uuid = ANY(%(keys)s)",
    "DELETE FROM tags WHERE run_uuid = ANY(%(keys)s)",
    "DELETE FROM runs WHERE run_uuid = ANY(%(keys)s)",
)
EDGES = {
    "run": (
        "(destination_type = 'RUN' AND destination_id = ANY(%(keys)s)) "
        "OR (source_type IN ('RUN_INPUT', 'RUN_OUTPUT') AND source_id = ANY(%(keys)s))"
    ),
    "model": "destination_type IN ('MODEL_INPUT', 'MODEL_OUTPUT') AND destination_id = ANY(%(keys)s)",
}
MODEL = (
    "DELETE FROM input_tags WHERE input_uuid IN (SELECT input_uuid FROM inputs WHERE {edges})",
    "DELETE FROM inputs WHERE {edges}",
    "DELETE FROM logged_model_metrics WHERE model_id = ANY(%(keys)s)",
    "DELETE FROM logged_model_params WHERE model_id = ANY(%(keys)s)",
    "DELETE FROM logged_model_tags WHERE model_id = ANY(%(keys)s)",
    "DELETE FROM logged_models WHERE model_id = ANY(%(keys)s)",
)
TRACE = (
    "DELETE FROM entity_associations WHERE (source_type = 'trace' AND source_id = ANY(%(keys)s)) "
    "OR (destination_type = 'trace' AND destination_id = ANY(%(keys)s))",
    "DELETE FROM assessments WHERE trace_id = ANY(%(keys)s)",
    "DELETE FROM span_metrics WHERE trace_id = ANY(%(keys)s)",
    "DELETE FROM spans WHERE trace_id = ANY(%(keys)s)",
    "DELETE FROM trace_metrics WHERE request_id = ANY(%(keys)s)",
    "DELETE FROM trace_request_metadata WHERE request_id = ANY(%(keys)s)",
    "DELETE FROM trace_tags WHERE request_id = ANY(%(keys)s)",
    "DELETE FROM trace_info WHERE request_id = ANY(%(keys)s)",
)
STATEMENTS = {"trace": TRACE, "model": MODEL, "run": RUN}
# What others have made of an import: versions that name its runs and logged models, which then stay.
NAMED = {
    "run": "SELECT DISTINCT run_id FROM model_versions WHERE run_id = ANY(%(keys)s)",
    "model": (
        "SELECT DISTINCT substr(source, 9) FROM model_versions WHERE source LIKE 'models:/%%' "
        "AND split_part(substr(source, 9), '/', 1) = ANY(%(keys)s)"
    ),
    "trace": "SELECT NULL::text WHERE %(keys)s IS NULL",
}
REFERENCES = """
SELECT c.conrelid::regclass::text, a.attname FROM pg_constraint c
JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
WHERE c.contype = 'f' AND c.confrelid = 'experiments'::regclass
"""


class Undo:
    """The undoing of one import. One that was cut off is gone on with by another.

    Args:
        connection: To the server's database.
        journal: The import's.
        destination: Where its artifacts are.
    """

    def __init__(self, connection: Any, journal: Journal, destination: Destination) -> None:
        """Keep what is needed."""
        self.connection, self.journal, self.destination = connection, journal, destination
        self.kept: list[str] = []
        self.removed: dict[str, int] = {}

    def run(self) -> None:
        """Remove all of it.

        Raises:
            ImportFailure: Something is in the way; what is done stays done, and another run goes on.
        """
        with told_of("mlflow"):
            self.plan()
            self.journal.set_state("undoing")
            self.connection.commit()
            self._revoke()
            self._models()
            self._parts()
            self._experiments()
        self._artifacts()
        with told_of("mlflow"):
            self.journal.forget()
            self.connection.commit()

    def plan(self) -> dict[str, int]:
        """Count what would be removed, by kind.

        Raises:
            ImportFailure: There is no such import.
        """
        if not self.journal.state():
            raise ImportFailure(f"The server knows no import {self.journal.identity}; `list` shows those it knows.")
        kinds = ("experiment", "run", "model", "trace", "registered_model", "version")
        return {f"{kind}s": len(self.journal.brought(kind)) for kind in kinds}

    def _execute(self, statement: str, **values: Any) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return int(cursor.rowcount)

    def _forgotten(self, kind: str, keys: list[str]) -> None:
        self._execute(
            "DELETE FROM import_runs.brought WHERE import = %(identity)s AND kind = %(kind)s AND key = ANY(%(keys)s)",
            identity=self.journal.identity,
            kind=kind,
            keys=keys,
        )

    def _count(self, what: str, number: int) -> None:
        if number:
            self.removed[what] = self.removed.get(what, 0) + number

    def _revoke(self) -> None:
        grants = Grants("")
        for key, (owner, kind, name) in self.journal.brought("grant").items():
            grants.revoke(owner, kind, name)
            self._forgotten("grant", [key])
            self.connection.commit()

    def _models(self) -> None:
        """Remove versions, and registered models that have no others; all in one transaction."""
        for kind, table, column in (
            ("registered_model_aliases", "registered_model_aliases", "alias"),
            ("registered_model_tags", "registered_model_tags", "key"),
        ):
            for key, (name, value) in self.journal.brought(kind).items():
                statement = f"DELETE FROM {table} WHERE name = %(name)s AND {column} = %(value)s"  # noqa: S608
                self._execute(statement, name=name, value=value)
                self._forgotten(kind, [key])
        for key, detail in self.journal.brought("version").items():
            for table in ("registered_model_aliases", "model_version_tags", "model_versions"):
                number = self._execute(
                    f"DELETE FROM {table} WHERE workspace = 'default' AND name = %(name)s AND version = %(version)s",  # noqa: S608
                    name=detail["name"],
                    version=detail["version"],
                )
            self._count("versions", number)
            self._forgotten("version", [key])
        for key, detail in self.journal.brought("registered_model").items():
            if not detail["merged"]:
                with self.connection.cursor() as cursor:
                    cursor.execute("SELECT count(*) FROM model_versions WHERE name = %s", (detail["name"],))
                    others = cursor.fetchone()[0]
                if others:
                    self.kept.append(
                        f"The registered model {detail['name']!r} stays: others gave it {others} versions."
                    )
                else:
                    for table in ("registered_model_aliases", "registered_model_tags", "registered_models"):
                        number = self._execute(f"DELETE FROM {table} WHERE name = %(name)s", name=detail["name"])  # noqa: S608
                    self._count("registered_models", number)
            self._forgotten("registered_model", [key])
        self.connection.commit()

    def _parts(self) -> None:
        found = {kind: sorted(self.journal.brought(kind)) for kind in STATEMENTS}
        progress = Progress("undo", {f"{kind}s": len(keys) for kind, keys in found.items()})
        for kind, statements in STATEMENTS.items():
            while found[kind]:
                keys, found[kind] = found[kind][:BATCH], found[kind][BATCH:]
                with self.connection.cursor() as cursor:
                    cursor.execute(NAMED[kind], {"keys": keys})
                    named = {key for (key,) in cursor.fetchall()}
                self.kept += [f"The {kind} {key} stays: others made a version of it." for key in sorted(named)]
                gone = [key for key in keys if key not in named]
                for statement in statements:
                    number = self._execute(statement.format(edges=EDGES.get(kind, "")), keys=gone)
                self._count(f"{kind}s", number)
                for key in sorted(named):
                    self._execute(
                        "DELETE FROM import_runs.brought WHERE import = %(identity)s AND kind = 'artifacts' "
                        "AND key LIKE %(like)s",
                        identity=self.journal.identity,
                        like=f"%/{key}/artifacts",
                    )
                self._forgotten(kind, keys)
                self.connection.commit()
                progress.add(f"{kind}s", len(keys))
        progress.end()

    def _experiments(self) -> None:
        """Remove experiments in which nobody else has anything, and what came to others."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM datasets d USING import_runs.brought b WHERE b.import = %s AND b.kind = 'dataset' "
                "AND b.key = d.dataset_uuid AND NOT EXISTS (SELECT FROM inputs i WHERE i.source_type = 'DATASET' "
                "AND i.source_id = d.dataset_uuid)",
                (self.journal.identity,),
            )
            cursor.execute(REFERENCES)
            references = [each for each in cursor.fetchall() if each[0] != "experiment_tags"]
        mapped = self.journal.experiments()
        brought = self.journal.brought("experiment")
        mine = {mapped[key].new for key in brought}
        for key, (experiment, name) in self.journal.brought("experiment_tag").items():
            if experiment not in mine:
                self._execute(
                    "DELETE FROM experiment_tags WHERE experiment_id = %(id)s AND key = %(key)s",
                    id=experiment,
                    key=name,
                )
            self._forgotten("experiment_tag", [key])
        for key in brought:
            new, name, *_ = mapped[key]
            others = self._others(references, new)
            if others:
                self.kept.append(f"The experiment {new} ({name!r}) stays: others have {others} in it.")
            else:
                self._execute("DELETE FROM experiment_tags WHERE experiment_id = %(id)s", id=new)
                self._count(
                    "experiments", self._execute("DELETE FROM experiments WHERE experiment_id = %(id)s", id=new)
                )
            self._forgotten("experiment", [key])
        self.connection.commit()

    def _others(self, references: list[tuple[str, str]], experiment: int) -> str:
        found = []
        for table, column in references:
            with self.connection.cursor() as cursor:
                cursor.execute(
                    sql.SQL("SELECT count(*) FROM {} WHERE {} = %s").format(
                        sql.Identifier(table), sql.Identifier(column)
                    ),
                    (experiment,),
                )
                number = cursor.fetchone()[0]
            if number:
                found.append(f"{number} {table}")
        return ", ".join(found)

    def _artifacts(self) -> None:
        self.destination.begin()
        with told_of("mlflow"):
            locations = sorted(self.journal.brought("artifacts"))
        progress = Progress("undo", {"directories of artifacts": len(locations)})
        for location in locations:
            self.destination.remove(location)
            with told_of("mlflow"):
                self._forgotten("artifacts", [location])
                self.connection.commit()
            progress.add("directories of artifacts")
        progress.end()
