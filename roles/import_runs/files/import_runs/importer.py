"""Plans an import, and does it: experiment by experiment, then the registered models."""

from __future__ import annotations

import contextlib
import itertools
import os
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from artifacts import Destination, Found
from fitting import Fitter, Goal
from grants import Grants
from journal import MIGRATION_KEY, Journal
from parts import Bad, BadError, Experiment, ImportFailure, Part, Row, Source, name_fault
from places import PROXIED, Places, below, path_of
from said import Progress
from target import Schema, Writer, connect, told_of, written_points

COUNTS = (
    "experiments runs params tags metrics datasets inputs models traces assessments registered_models versions aliases artifacts"
).split()
# What a table's rows are counted as.
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
TABLES = {"run": ("runs", "run_uuid"), "model": ("logged_models", "model_id"), "trace": ("trace_info", "request_id")}
# How far an id may be beyond those that the server has given out: all before it are given up.
REACH = 100_000
# Parts whose artifacts are noted before they are copied.
BATCH = 500
SHOWN = "(imported {:%Y-%m-%d})"


@dataclass
class Options:
    """How to import."""

    on_conflict: str
    set_aside: bool
    owner: str
    identity: str
    # Suffixes for experiments and registered models that are renamed.
    suffixes: tuple[str, str]


@dataclass
class Survey:
    """What a look at the source and the server has found."""

    goals: dict[str, Goal] = field(default_factory=dict)
    models: dict[str, tuple[str, bool]] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    grown: list[str] = field(default_factory=list)
    already: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


class Importer:
    """One import.

    Args:
        source: What to import.
        places: Where its artifacts are.
        destination: Where they are to be.
        options: How.
    """

    def __init__(self, source: Source, places: Places, destination: Destination, options: Options) -> None:
        """Connect to the server's database; nothing is changed yet."""
        self.source, self.places, self.destination, self.options = source, places, destination, options
        self.bad: dict[tuple[str, str], Bad] = {}
        source.note = self.note
        self.connection = connect("mlflow")
        self.journal = Journal(self.connection, options.identity)
        with self.connection.cursor() as cursor:
            self.schema = Schema(cursor)
        self.fitter = Fitter(self.schema, self.note)
        self.grants = Grants(options.owner)
        self.survey = Survey()
        # Parts that another part of the source has the id of.
        self.twice: set[tuple[str, str]] = set()
        self.left: list[str] = []
        self.imported: Counter[str] = Counter()
        self.brought: dict[str, dict[str, Any]] = {}

    def note(self, bad: Bad) -> None:
        """Note a malformed entry, once."""
        self.bad.setdefault((bad.path, bad.reason), bad)

    # --- A look at all of it ---

    def look(self) -> Survey:
        """Read all of the source, and ask the server for what is there.

        Raises:
            ImportFailure: The server cannot be used.
        """
        self.grants.check()
        with told_of("mlflow"):
            for kind in ("experiment", "run", "model", "trace", "registered_model", "version"):
                self.brought[kind] = self.journal.brought(kind)
            self._place_experiments()
            self._place_models()
            self._know_parts()
            self.connection.rollback()
        for experiment in self.experiments():
            with contextlib.suppress(BadError):
                self._count(experiment.path, self.fitter.own(experiment.path, experiment.rows(), self.goal(experiment)))
            for part in self.parts(experiment):
                self._look_at(part, self.goal(experiment))
        for part in self.source.registry():
            rows = self._fitted(part, lambda part=part: self.fitter.registered(part, lambda table, row: row))
            self._count(part.path, rows or [])
        return self.survey

    def goal(self, experiment: Experiment) -> Goal:
        """Return where an experiment goes."""
        return self.survey.goals[experiment.key]

    def experiments(self) -> Iterator[Experiment]:
        """Return the experiments that can come."""
        for experiment in self.source.experiments():
            if experiment.key in self.survey.goals:
                yield experiment

    def parts(self, experiment: Experiment) -> Iterator[Part]:
        """Return the parts of an experiment, each once in the whole source."""
        for part in experiment.parts():
            if (part.kind, part.path) not in self.twice:
                yield part

    def _fitted(self, part: Part, fit: Callable[[], list[tuple[str, list[Any]]]]) -> list[tuple[str, list[Any]]] | None:
        """Return the rows of a part, or None if it cannot come."""
        try:
            return fit()
        except BadError as error:
            self.note(Bad(part.path, str(error), part.kind))
            return None

    def _count(self, path: str, rows: Iterable[tuple[str, list[Any]]]) -> None:
        for table, _ in rows:
            if table in COUNTED:
                self.survey.counts[COUNTED[table]] += 1

    def _look_at(self, part: Part, goal: Goal) -> None:
        rows = self._fitted(part, lambda: self.fitter.part(part, goal))
        if rows is None:
            return
        count, _ = written_points(None, part.key, part.points())
        found = self.found(part)
        size = found.size if found else 0
        number = len(found.files) if found else 0
        print_of = {"rows": len(rows), "points": count, "files": number, "bytes": size}
        self._count(part.path, rows)
        self.survey.counts["metrics"] += count
        self.survey.counts["artifacts"] += number
        self.survey.bytes += size
        known = self.brought[part.kind].get(part.key)
        if known:
            self.survey.already[part.kind] += 1
            if known != print_of:
                self.survey.grown.append(f"{part.kind} {part.key}")

    def found(self, part: Part) -> Found | None:
        """Return the files of a part's artifacts."""
        if part.directory is None:
            return None
        found = Found(part.directory, self.places, part.path)
        for bad in found.bad:
            self.note(bad)
        return found

    def _place_experiments(self) -> None:
        """Decide where each experiment goes, and what of it is in conflict."""
        cursor = self.connection.cursor()
        cursor.execute("SELECT name, experiment_id, artifact_location FROM experiments WHERE workspace = 'default'")
        names = {name: (key, location) for name, key, location in cursor.fetchall()}
        taken = {key for key, _ in names.values()}
        cursor.execute("SELECT last_value FROM experiments_experiment_id_seq")
        given_out = int(cursor.fetchone()[0])
        mapped = self.journal.experiments()
        claimed: dict[str, str] = {}
        free = itertools.count(given_out + 1)
        keep = {goal[0] for goal in mapped.values()}
        wanted = {}
        for experiment in self.source.experiments():
            name = experiment.name
            if (fault := name_fault("experiment", name)) or name in claimed:
                fault = fault or f"its name is that of the experiment {claimed[name]}"
                self.note(Bad(experiment.path, fault, "experiment"))
                continue
            claimed[name] = experiment.key
            if experiment.key in mapped:
                self.survey.goals[experiment.key] = Goal(*mapped[experiment.key])
                if mapped[experiment.key][1] != name:
                    self.survey.renamed[name] = mapped[experiment.key][1]
                continue
            if name in names:
                default = experiment.key == "0" and name == "Default" and names[name][0] == 0
                if default or self.options.on_conflict == "merge":
                    self.survey.goals[experiment.key] = Goal(names[name][0], name, names[name][1], merged=True)
                    continue
                if self.options.on_conflict == "fail":
                    self.survey.conflicts.append(f"The server has an experiment {name!r}, of the id {names[name][0]}.")
                else:
                    self.survey.renamed[name] = name = self._free(f"{name} {self.options.suffixes[0]}", names)
            wanted[experiment.key] = name
        # Ids that can stay are kept, the others get the next ones.
        kept = {
            key: int(key)
            for key in wanted
            if key.isdecimal() and 0 < int(key) <= min(given_out + REACH, 2**31 - 1) and int(key) not in taken | keep
        }
        used = taken | keep | set(kept.values())
        for key, name in wanted.items():
            new = kept[key] if key in kept else next(each for each in free if each not in used)
            self.survey.goals[key] = Goal(new, name, below(self.destination.root, str(new)), merged=False)

    @staticmethod
    def _free(name: str, names: Iterable[str]) -> str:
        others = (f"{name} {number}" for number in itertools.count(2))
        return next(each for each in itertools.chain([name], others) if each not in names)

    def _place_models(self) -> None:
        cursor = self.connection.cursor()
        cursor.execute("SELECT name FROM registered_models WHERE workspace = 'default'")
        names = {name for (name,) in cursor.fetchall()}
        for part in self.source.registry():
            if fault := name_fault("model", part.key):
                self.note(Bad(part.path, fault, part.kind))
                continue
            known = self.brought["registered_model"].get(part.key)
            if known:
                self.survey.models[part.key] = (known["name"], known["merged"])
                continue
            name, merged = part.key, part.key in names
            if merged and self.options.on_conflict == "fail":
                self.survey.conflicts.append(f"The server has a registered model {name!r}.")
            elif merged and self.options.on_conflict == "rename":
                name, merged = self._free(f"{name}-{self.options.suffixes[1]}", names), False
                self.survey.renamed[part.key] = name
            self.survey.models[part.key] = (name, merged)

    def _know_parts(self) -> None:
        """Learn all ids and locations of the source, and which ids the server has otherwise."""
        seen: dict[str, dict[str, str]] = {kind: {} for kind in TABLES}
        for experiment in self.experiments():
            goal = self.goal(experiment)
            self.fitter.moves.add(experiment.location, goal.location)
            for part in experiment.parts():
                if part.key in seen[part.kind]:
                    self.twice.add((part.kind, part.path))
                    self.note(Bad(part.path, f"its id is that of {seen[part.kind][part.key]}", part.kind))
                    continue
                seen[part.kind][part.key] = part.path
                self.fitter.moves.add(part.location, self.fitter.location(part, goal))
        self.fitter.runs = set(seen["run"])
        for kind, (table, column) in TABLES.items():
            others = iter(key for key in seen[kind] if key not in self.brought[kind])
            while batch := list(itertools.islice(others, 10_000)):
                with self.connection.cursor() as cursor:
                    cursor.execute(f"SELECT {column} FROM {table} WHERE {column} = ANY(%s)", (batch,))  # noqa: S608
                    self.survey.conflicts += [
                        f"The server has a {kind} {key}, which this import has not brought." for (key,) in cursor.fetchall()
                    ]

    # --- The import ---

    def run(self) -> None:
        """Import what is not there yet.

        Raises:
            ImportFailure: Something is in the way; what is done stays, and another run goes on.
        """
        survey = self.survey
        with told_of("mlflow"):
            self._reserve()
        self.progress = Progress(
            "import",
            {"runs": survey.counts["runs"], "metric points": survey.counts["metrics"], "B": survey.bytes},
        )
        self.destination.begin()
        for experiment in self.experiments():
            self._copy(experiment)
            with told_of("mlflow"):
                self._bring(experiment)
        with told_of("mlflow"):
            self._bring_models()
            self._grant()
            self.journal.set_state("complete")
            self.connection.commit()
        self.destination.end()
        self.progress.end()

    def _reserve(self) -> None:
        """Note where each experiment goes, by ids that the server gives to nobody else."""
        mapped = self.journal.experiments()
        given: list[int] = []

        def next_id() -> int:
            with self.connection.cursor() as cursor:
                cursor.execute("SELECT nextval('experiments_experiment_id_seq')")
                return int(cursor.fetchone()[0])

        for key, goal in self.survey.goals.items():
            if key in mapped:
                continue
            if not goal.merged:
                # What the sequence has passed is nobody's if no row has it.
                with self.connection.cursor() as cursor:
                    cursor.execute("SELECT last_value FROM experiments_experiment_id_seq")
                    last = int(cursor.fetchone()[0])
                while last < goal.new:
                    last = next_id()
                    given.append(last)
            self.journal.map(key, goal.new, goal.name, goal.location, goal.merged)
        self.connection.commit()

    def _new(self, experiment: Experiment) -> Iterator[Part]:
        for part in self.parts(experiment):
            if part.key not in self.brought[part.kind]:
                yield part

    def _copy(self, experiment: Experiment) -> None:
        """Copy the artifacts of an experiment's parts, each batch noted before, so that they can be undone."""
        parts, goal, copied = self._new(experiment), self.goal(experiment), False
        while batch := list(itertools.islice(parts, BATCH)):
            located = [(self.fitter.location(part, goal), found) for part in batch if (found := self.found(part))]
            with told_of("mlflow"):
                self.journal.note("artifacts", ((location, None) for location, _ in located))
                self.connection.commit()
            for location, found in located:
                for size in self.destination.copy(location, found):
                    copied = True
                    self.imported["artifacts"] += 1
                    self.progress.add("B", size)
        if copied:
            # Before rows say that they are there.
            os.sync()

    def _transaction(self) -> Writer:
        cursor = self.connection.cursor()
        cursor.execute("SELECT pg_advisory_xact_lock_shared(%s)", (MIGRATION_KEY,))
        return Writer(cursor, self.schema)

    def _bring(self, experiment: Experiment) -> None:
        """Bring the rows of an experiment in one transaction."""
        goal = self.goal(experiment)
        writer = self._transaction()
        try:
            rows = self.fitter.own(experiment.path, experiment.rows(), goal)
        except BadError as error:
            self.note(Bad(experiment.path, str(error), "experiment"))
            return
        self._own(writer, experiment, goal, rows)
        parts = 0
        notes: dict[str, list[tuple[str, Any]]] = {kind: [] for kind in TABLES}
        for part in self._new(experiment):
            fitted = self._fitted(part, lambda part=part: self.fitter.part(part, goal))
            if fitted is None:
                continue
            for table, values in fitted:
                writer.row(table, values)
                self.imported[COUNTED.get(table, "")] += 1
            count, latest = written_points(writer, part.key, part.points())
            for point in latest:
                key, value, timestamp, step, is_nan = point
                row = {"key": key, "value": value, "timestamp": timestamp, "step": step, "is_nan": is_nan}
                writer.row("latest_metrics", self.schema.fitted("latest_metrics", row | {"run_uuid": part.key}))
            found = self.found(part)
            size, number = (found.size, len(found.files)) if found else (0, 0)
            notes[part.kind].append(
                (part.key, {"rows": len(fitted), "points": count, "files": number, "bytes": size})
            )
            self.imported["metrics"] += count
            self.progress.add("metric points", count)
            if part.kind == "run":
                self.progress.add("runs")
            parts += 1
        writer.flush()
        for kind, entries in notes.items():
            self.journal.note(kind, entries)
        self.connection.commit()

    def _own(self, writer: Writer, experiment: Experiment, goal: Goal, rows: list[tuple[str, list[Any]]]) -> None:
        """Bring the rows of an experiment itself; those that the server has win."""
        there = goal.merged or experiment.key in self.brought["experiment"]
        for table, values in rows:
            named = dict(zip(self.schema.tables[table], values, strict=True))
            if table == "experiments":
                if not there:
                    self._insert(writer, table, named, "")
                    self.journal.note("experiment", [(experiment.key, {"id": goal.new})])
                    self.imported["experiments"] += 1
            elif table == "experiment_tags":
                if self._insert(writer, table, named, "ON CONFLICT DO NOTHING"):
                    self.journal.note("experiment_tag", [(f"{goal.new}/{named['key']}", [goal.new, named["key"]])])
            elif table == "datasets":
                if self._insert(writer, table, named, "ON CONFLICT DO NOTHING"):
                    self.journal.note("dataset", [(named["dataset_uuid"], None)])
                    self.imported["datasets"] += 1
                else:
                    writer.cursor.execute(
                        "SELECT dataset_uuid FROM datasets WHERE experiment_id = %s AND name = %s AND digest = %s",
                        (goal.new, named["name"], named["digest"]),
                    )
                    self.fitter.datasets[named["dataset_uuid"]] = writer.cursor.fetchone()[0]

    @staticmethod
    def _insert(writer: Writer, table: str, named: Row, conflict: str) -> bool:
        from psycopg2 import sql

        statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) {}").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, named)),
            sql.SQL(", ").join(sql.Placeholder() * len(named)),
            sql.SQL(conflict),
        )
        writer.cursor.execute(statement, list(named.values()))
        return bool(writer.cursor.rowcount)

    # --- Registered models ---

    def _bring_models(self) -> None:
        """Bring the registered models, all in one transaction."""
        copies: list[tuple[str, Found]] = []
        fitted = []
        writer = self._transaction()
        for part in self.source.registry():
            if part.key in self.survey.models:
                plan = Registered(self, writer.cursor, part, copies)
                rows = self._fitted(part, plan.rows)
                fitted.append((plan, rows or []))
        self.journal.note("artifacts", ((location, None) for location, _ in copies))
        # What versions have of their own is noted before it is copied, and the rows come last.
        self.connection.commit()
        for location, found in copies:
            for size in self.destination.copy(location, found):
                self.imported["artifacts"] += 1
                self.progress.add("B", size)
        writer = self._transaction()
        for plan, rows in fitted:
            plan.bring(writer, rows)
        self.connection.commit()

    def registered_rows(self, part: Part) -> tuple[list[tuple[str, list[Any]]], list[tuple[str, Found]]]:
        """Return the rows of a registered model as they have been brought, and the artifacts of its own."""
        copies: list[tuple[str, Found]] = []
        with self.connection.cursor() as cursor:
            rows = Registered(self, cursor, part, copies, again=True).rows()
        self.connection.rollback()
        return rows, copies

    def _grant(self) -> None:
        if not self.options.owner:
            return
        wanted = [
            ("experiment", str(goal.new)) for goal in self.survey.goals.values() if not goal.merged
        ]
        models = self.journal.brought("registered_model")
        wanted += [
            ("prompt" if detail.get("prompt") else "registered_model", detail["name"])
            for detail in models.values()
            if not detail["merged"]
        ]
        made = self.journal.brought("grant")
        new = [(kind, name) for kind, name in wanted if f"{kind}:{name}" not in made]
        new = [each for each in new if not self.grants.has(*each)]
        # Noted before, since it is another database: what is noted and not made is made by the next run.
        self.journal.note("grant", ((f"{kind}:{name}", [self.options.owner, kind, name]) for kind, name in new))
        self.connection.commit()
        for owner, kind, name in self.journal.brought("grant").values():
            self.grants.ensure(owner, kind, name)


class Registered:
    """One registered model on its way.

    Args:
        importer: The import.
        cursor: To ask the database by.
        part: The model.
        copies: Told of artifacts of its versions that no run and no logged model has.
        again: Whether what has been brought already is wanted, to be compared.
    """

    def __init__(
        self, importer: Importer, cursor: Any, part: Part, copies: list[tuple[str, Found]], *, again: bool = False
    ) -> None:
        """Find out what the server has of it."""
        self.importer, self.part, self.copies, self.again = importer, part, copies, again
        self.name, self.merged = importer.survey.models[part.key]
        self.there = self.merged or part.key in importer.brought["registered_model"]
        self.versions: dict[int, int] = {}
        self.known = {
            int(key.rpartition("/")[2]): detail["version"]
            for key, detail in importer.brought["version"].items()
            if key.rpartition("/")[0] == part.key
        }
        self.prompt = False
        cursor.execute("SELECT coalesce(max(version), 0) FROM model_versions WHERE name = %s", (self.name,))
        self.last = int(cursor.fetchone()[0])

    def rows(self) -> list[tuple[str, list[Any]]]:
        """Return its rows as they are to be."""
        return self.importer.fitter.registered(self.part, self._changed)

    def _changed(self, table: str, row: Row) -> Row | None:
        changed = dict(row) | {"name": self.name, "workspace": "default"}
        if table == "registered_model_tags" and row["key"] == "mlflow.prompt.is_prompt":
            self.prompt = str(row["value"]).lower() == "true"
        if "version" not in row:
            return changed
        old = int(row["version"])
        if old in self.known:
            self.versions[old] = self.known[old]
            if table == "registered_model_aliases" or self.again:
                located = self._located(row, old) if table == "model_versions" else {}
                return changed | {"version": self.known[old]} | located
            return None
        if table == "model_versions":
            # A model that is not there yet keeps its numbers.
            self.versions[old] = old if not self.there and old > self.last else self.last + 1
            self.last = max(self.last, self.versions[old])
            changed |= self._located(row, old)
        return changed | {"version": self.versions[old]}

    def _located(self, row: Row, version: int) -> Row:
        """Return source and location of a version as the server has them."""
        found: Row = {}
        for column in ("source", "storage_location"):
            old = row.get(column)
            if not old or urllib.parse.urlsplit(old).scheme in {"models", "runs"} or path_of(old) is None:
                continue
            new = self.importer.fitter.moves.new(old)
            if new is None:
                new = self._own(old, version)
            if new is not None:
                found[column] = new
        return found

    def _own(self, old: str, version: int) -> str | None:
        """Copy what a version has elsewhere than in a run."""
        directory = self.importer.places.find(old)
        path = f"{self.part.path}/version-{version}"
        if directory is None:
            self.importer.note(Bad(path, f"its source {old} is not there", "artifacts"))
            return None
        options, root = self.importer.options, self.importer.destination.root
        name = urllib.parse.quote(self.part.key, safe="")
        location = below(root, f"imported-{options.identity}", name, str(version))
        self.copies.append((location, Found(directory, self.importer.places, path)))
        return location

    def bring(self, writer: Writer, rows: list[tuple[str, list[Any]]]) -> None:
        """Write the rows; of what the server has already, its own wins."""
        importer, journal = self.importer, self.importer.journal
        for table, values in rows:
            named = dict(zip(importer.schema.tables[table], values, strict=True))
            if table == "registered_models":
                if not self.there:
                    importer._insert(writer, table, named, "")
                    importer.imported["registered_models"] += 1
                detail = {"name": self.name, "merged": self.merged, "prompt": self.prompt}
                journal.note("registered_model", [(self.part.key, detail)])
                continue
            if not importer._insert(writer, table, named, "ON CONFLICT DO NOTHING"):
                if table == "registered_model_aliases" and self.merged:
                    importer.left.append(f"The alias {named['alias']!r} of {self.name!r} stays as the server has it.")
                continue
            importer.imported[COUNTED.get(table, "")] += 1
            if table == "model_versions":
                old = next(old for old, new in self.versions.items() if new == named["version"])
                detail = {"name": self.name, "version": named["version"]}
                journal.note("version", [(f"{self.part.key}/{old}", detail)])
            elif table != "model_version_tags":
                column = "alias" if table == "registered_model_aliases" else "key"
                journal.note(table, [(f"{self.name}/{named[column]}", [self.name, named[column]])])


__all__ = ["COUNTS", "PROXIED", "Experiment", "ImportFailure", "Importer", "Options"]
