"""Looks at a source and at the server: what would come, where to, and what is in the way."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from artifacts import Destination, Found
from fitting import COUNTED, Fitted, Fitter, Goal
from grants import Grants
from journal import Journal, Mapped
from parts import Bad, BadError, Experiment, ImportFailure, Part, Source, name_fault
from places import below
from registered import Registered
from said import Progress
from target import Schema, connect, told_of, written_points

TABLES = {"run": ("runs", "run_uuid"), "model": ("logged_models", "model_id"), "trace": ("trace_info", "request_id")}
# How far an id may be beyond those that the server has given out: all before it are given up.
REACH = 100_000


@dataclass
class Options:
    """How to import."""

    on_conflict: str
    set_aside: bool
    owner: str
    # When it began, for names of what is renamed.
    begun: datetime


@dataclass
class Survey:
    """What a look at the source and the server has found."""

    goals: dict[str, Goal] = field(default_factory=dict)
    models: dict[str, tuple[str, bool]] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    # How many of them are names, which on_conflict resolves.
    names_taken: int = 0
    renamed: dict[str, str] = field(default_factory=dict)
    grown: list[str] = field(default_factory=list)
    already: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    runs_without_artifacts: int = 0
    # What is not there yet: runs, metric points and bytes of artifacts.
    todo: Counter[str] = field(default_factory=Counter)


class Plan:
    """What an import would do.

    Args:
        source: What to import.
        destination: Where they are to be.
        options: How.
        identity: Its id, if none of its runs has come by another one.
    """

    def __init__(self, source: Source, destination: Destination, options: Options, identity: str) -> None:
        """Connect to the server's database; nothing is changed yet."""
        self.source, self.places, self.destination, self.options = source, source.places, destination, options
        self.bad: dict[tuple[str, str], Bad] = {}
        self.looked = False
        source.note = self.note
        self.connection = connect("mlflow")
        self.journal = Journal(self.connection, identity)
        with told_of("mlflow"), self.connection.cursor() as cursor:
            runs = [part.key for each in source.experiments() for part in each.parts() if part.kind == "run"]
            self.journal.adopt(runs)
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
        """Note a malformed entry, once.

        Raises:
            ImportFailure: It was not there when the import began, and is to stop it.
        """
        if self.looked and not self.options.set_aside and (bad.path, bad.reason) not in self.bad:
            raise ImportFailure(f"The source has changed since the import began: {bad.path}: {bad.reason}.")
        self.bad.setdefault((bad.path, bad.reason), bad)

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
            self._count_experiments()
            self._know_parts()
            self.connection.rollback()
        self.progress = Progress("read", {"runs": -1})
        for experiment in self.experiments():
            for part in self.parts(experiment):
                self._look_at(part, self.goal(experiment))
        copies: list[tuple[str, Found]] = []
        with told_of("mlflow"):
            for _, rows in self._fitted_models(copies, again=True):
                self._count(rows)
            self.connection.rollback()
        for _, found in copies:
            self.survey.counts["artifacts"] += len(found.files)
            self.survey.bytes += found.size
        self.looked = True
        self.progress.end()
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

    def _fitted(self, part: Part, fit: Callable[[], list[Fitted]]) -> list[Fitted] | None:
        """Return the rows of a part, or None if it cannot come."""
        try:
            return fit()
        except BadError as error:
            self.note(Bad(part.path, str(error), part.kind))
            return None

    def fitted(self, part: Part, goal: Goal) -> list[Fitted] | None:
        """Return the rows of a part of an experiment, or None if it cannot come."""
        return self._fitted(part, lambda: self.fitter.part(part, goal))

    def _count(self, rows: Iterable[Fitted]) -> None:
        for table, _ in rows:
            if table in COUNTED:
                self.survey.counts[COUNTED[table]] += 1

    def _look_at(self, part: Part, goal: Goal) -> None:
        rows = self.fitted(part, goal)
        if rows is None:
            return
        count, _ = written_points(None, part.key, part.points())
        found = self.found(part)
        size = found.size if found else 0
        number = len(found.files) if found else 0
        print_of = {"rows": len(rows), "points": count, "files": number, "bytes": size}
        self._count(rows)
        self.survey.counts["metrics"] += count
        self.survey.counts["artifacts"] += number
        self.survey.bytes += size
        known = self.brought[part.kind].get(part.key)
        if part.kind == "run":
            self.progress.add("runs")
            self.survey.runs_without_artifacts += number == 0
        if not known:
            self.survey.todo.update({"runs": int(part.kind == "run"), "metric points": count, "B": size})
        else:
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
        given_out = self._last_id()
        self.given_out = given_out
        mapped = self.journal.experiments()
        claimed: dict[str, str] = {}
        free = itertools.count(given_out + 1)
        keep = {goal.new for goal in mapped.values()}
        wanted = {}
        for experiment in self.source.experiments():
            name = experiment.name
            if fault := name_fault("experiment", name):
                self.note(Bad(experiment.path, f"{fault}{self._set_aside_with(experiment)}", "experiment"))
                continue
            is_repeated = name in claimed
            if experiment.key in mapped and not self._displaced(experiment, mapped[experiment.key], names, taken):
                self.survey.goals[experiment.key] = Goal(*mapped[experiment.key])
                if mapped[experiment.key].name != name and not mapped[experiment.key].merged:
                    self.survey.renamed[name] = mapped[experiment.key].name
                claimed.setdefault(name, experiment.key)
                continue
            if is_repeated:
                # The file store allows it, if one of the two is deleted; the server does not.
                if self.options.on_conflict != "rename":
                    fault = f"its name is that of the experiment {claimed[name]}, which on_conflict=rename resolves"
                    self.note(Bad(experiment.path, f"{fault}{self._set_aside_with(experiment)}", "experiment"))
                    continue
                name = self._free(self._name_when_renamed(name), {*names, *claimed})
                self.survey.renamed[f"{experiment.name} in {experiment.path}"] = name
            claimed[name] = experiment.key
            is_default = experiment.key == "0" and name == "Default"
            if is_default and experiment.is_deleted and next(experiment.parts(), None) is None:
                # MLflow makes this experiment by itself; there is nothing to import.
                continue
            if name in names:
                # A deleted one is not merged unless the operator asks for it, since its runs would join an active one.
                joins = is_default and names[name][0] == 0 and not experiment.is_deleted
                if joins or self.options.on_conflict == "merge":
                    self.survey.goals[experiment.key] = Goal(
                        names[name][0], name, names[name][1], merged=True, former=name
                    )
                    continue
                if self.options.on_conflict == "fail":
                    self.survey.conflicts.append(f"The server has an experiment {name!r}, of the id {names[name][0]}.")
                    self.survey.names_taken += 1
                else:
                    self.survey.renamed[name] = name = self._free(self._name_when_renamed(name), {*names, *claimed})
                    claimed[name] = experiment.key
            wanted[experiment.key] = (name, experiment.name)
        # Ids that can stay are kept, the others get the next ones.
        kept = {
            key: int(key)
            for key in wanted
            if key.isdecimal() and 0 < int(key) <= min(given_out + REACH, 2**31 - 1) and int(key) not in taken | keep
        }
        used = taken | keep | set(kept.values())
        for key, (name, former) in wanted.items():
            new = kept[key] if key in kept else next(each for each in free if each not in used)
            self.survey.goals[key] = Goal(new, name, below(self.destination.root, str(new)), False, former)

    def _name_when_renamed(self, name: str) -> str:
        """Return the name of an experiment whose own is taken."""
        return f"{name} (imported {self.options.begun:%Y-%m-%d})"

    @staticmethod
    def _set_aside_with(experiment: Experiment) -> str:
        """Say how many runs go with an experiment that cannot be imported."""
        number = sum(part.kind == "run" for part in experiment.parts())
        return f"; {number} runs go with it" if number else ""

    def _last_id(self) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT last_value FROM experiments_experiment_id_seq")
            return int(cursor.fetchone()[0])

    def _displaced(
        self, experiment: Experiment, mapped: Mapped, names: dict[str, tuple[int, str]], taken: set[int]
    ) -> bool:
        """Say whether what an earlier start chose for an experiment, before its rows came, is no more to be had."""
        if experiment.key in self.brought["experiment"]:
            return False
        if mapped.former != experiment.name:
            # Another source was at this place.
            return True
        if mapped.merged:
            return mapped.new not in taken
        return mapped.name in names or mapped.new in taken

    @staticmethod
    def _free(name: str, names: Iterable[str]) -> str:
        others = (f"{name} {number}" for number in itertools.count(2))
        return next(each for each in itertools.chain([name], others) if each not in names)

    def _count_experiments(self) -> None:
        for experiment in list(self.experiments()):
            try:
                self._count(self.fitter.own(experiment.path, experiment.rows(), self.goal(experiment)))
            except BadError as error:
                self.note(Bad(experiment.path, str(error), "experiment"))
                del self.survey.goals[experiment.key]

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
                if known["name"] != part.key:
                    self.survey.renamed[part.key] = known["name"]
                continue
            name, merged = part.key, part.key in names
            if merged and self.options.on_conflict == "fail":
                self.survey.conflicts.append(f"The server has a registered model {name!r}.")
                self.survey.names_taken += 1
            elif merged and self.options.on_conflict == "rename":
                name, merged = self._free(f"{name}-imported-{self.journal.identity}", names), False
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
        models = self.survey.models.items()
        self.fitter.prompts = {former: name for former, (name, merged) in models if not merged}
        for kind, (table, column) in TABLES.items():
            others = iter(key for key in seen[kind] if key not in self.brought[kind])
            while batch := list(itertools.islice(others, 10_000)):
                with self.connection.cursor() as cursor:
                    cursor.execute(f"SELECT {column} FROM {table} WHERE {column} = ANY(%s)", (batch,))  # noqa: S608
                    self.survey.conflicts += [
                        f"The server has a {kind} {key}, which this import has not brought."
                        for (key,) in cursor.fetchall()
                    ]

    def _fitted_models(
        self, copies: list[tuple[str, Found]], *, again: bool = False
    ) -> list[tuple[Registered, list[Fitted]]]:
        fitted = []
        for part in self.source.registry():
            if part.key in self.survey.models:
                with self.connection.cursor() as cursor:
                    plan = Registered(self, cursor, part, copies, again=again)
                fitted.append((plan, self._fitted(part, plan.rows) or []))
        return fitted

    def registered_rows(self, part: Part) -> tuple[list[Fitted], list[tuple[str, Found]]]:
        """Return the rows of a registered model as they have been brought, and the artifacts of its own."""
        copies: list[tuple[str, Found]] = []
        with self.connection.cursor() as cursor:
            rows = Registered(self, cursor, part, copies, again=True).rows()
        self.connection.rollback()
        return rows, copies
