"""Imports what was planned: experiment by experiment, then the registered models."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

from artifacts import Found
from fitting import COUNTED, Fitted, Goal
from journal import MIGRATION_KEY, Mapped
from parts import Bad, BadError, Experiment, Part
from places import below
from planning import TABLES, Plan
from said import Progress
from target import Writer, inserted, told_of, written_points

# Parts whose artifacts are noted before they are copied.
BATCH = 500


class Importer(Plan):
    """One import."""

    def run(self) -> None:
        """Import what is not there yet.

        Raises:
            ImportFailure: Something is in the way; what is done stays, and another run goes on.
        """
        survey = self.survey
        with told_of("mlflow"):
            self._reserve()
        self.progress = Progress("import", {unit: survey.todo[unit] for unit in ("runs", "metric points", "B")})
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
        given: set[int] = set()
        for key, goal in self.survey.goals.items():
            wanted = Mapped(goal.new, goal.name, goal.location, goal.merged, goal.former)
            if mapped.get(key) == wanted:
                continue
            if not goal.merged and goal.new > self.given_out:
                while self._last_id() < goal.new:
                    given.add(self._next_id())
                # A client may have got it since it was chosen.
                if goal.new not in given:
                    goal.new = self._next_id()
                    goal.location = below(self.destination.root, str(goal.new))
            self.journal.map(key, wanted._replace(new=goal.new, location=goal.location))
        self.connection.commit()
        # Locations have their ids.
        self._know_parts()
        self.connection.rollback()

    def _next_id(self) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT nextval('experiments_experiment_id_seq')")
            return int(cursor.fetchone()[0])

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
            fitted = self.fitted(part, goal)
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
            notes[part.kind].append((part.key, {"rows": len(fitted), "points": count, "files": number, "bytes": size}))
            self.imported["metrics"] += count
            self.progress.add("metric points", count)
            if part.kind == "run":
                self.progress.add("runs")
            parts += 1
        writer.flush()
        self.imported["repeated"] += writer.repeated
        for kind, entries in notes.items():
            self.journal.note(kind, entries)
        self.connection.commit()

    def _own(self, writer: Writer, experiment: Experiment, goal: Goal, rows: list[Fitted]) -> None:
        """Bring the rows of an experiment itself; those that the server has win."""
        there = goal.merged or experiment.key in self.brought["experiment"]
        for table, values in rows:
            named = dict(zip(self.schema.tables[table], values, strict=True))
            if table == "experiments":
                if not there:
                    inserted(writer.cursor, table, named, "")
                    self.journal.note("experiment", [(experiment.key, {"id": goal.new})])
                    self.imported["experiments"] += 1
            elif table == "experiment_tags":
                if inserted(writer.cursor, table, named, "ON CONFLICT DO NOTHING"):
                    self.journal.note("experiment_tag", [(f"{goal.new}/{named['key']}", [goal.new, named["key"]])])
            elif table == "datasets":
                if inserted(writer.cursor, table, named, "ON CONFLICT DO NOTHING"):
                    self.journal.note("dataset", [(named["dataset_uuid"], None)])
                    self.imported["datasets"] += 1
                else:
                    writer.cursor.execute(
                        "SELECT dataset_uuid FROM datasets WHERE experiment_id = %s AND name = %s AND digest = %s",
                        (goal.new, named["name"], named["digest"]),
                    )
                    self.fitter.datasets[named["dataset_uuid"]] = writer.cursor.fetchone()[0]

    def _bring_models(self) -> None:
        """Bring the registered models, all in one transaction."""
        copies: list[tuple[str, Found]] = []
        self._fitted_models(copies)
        self.journal.note("artifacts", ((location, None) for location, _ in copies))
        # What versions have of their own is noted before it is copied, and the rows come last.
        self.connection.commit()
        for location, found in copies:
            for size in self.destination.copy(location, found):
                self.imported["artifacts"] += 1
                self.progress.add("B", size)
        writer = self._transaction()
        for plan, rows in self._fitted_models([]):
            plan.bring(writer, rows, self.imported, self.left)
        self.connection.commit()

    def _grant(self) -> None:
        if not self.options.owner:
            return
        wanted = [("experiment", str(goal.new)) for goal in self.survey.goals.values() if not goal.merged]
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
