"""Registered models on their way: numbers of versions, and where those have their artifacts."""

from __future__ import annotations

import hashlib
import re
import urllib.parse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifacts import Found
from fitting import COUNTED, Fitted
from parts import Bad, Part, Row
from places import below, path_of
from target import Writer, inserted

if TYPE_CHECKING:
    from planning import Plan

# The stage of a version that was deleted.
DELETED = "Deleted_Internal"
# In this tag MLflow notes which experiments have used a prompt, as ",1,5," (mlflow.prompt.constants), and who loads one
# adds to it.
USED_BY = "_mlflow_experiment_ids"


def experiments_of(tag: str) -> list[str]:
    """Return the ids of experiments in the value of a tag USED_BY."""
    return [each for each in tag.split(",") if each]


class Registered:
    """One registered model on its way.

    Args:
        plan: The import.
        cursor: To ask the database by.
        part: The model.
        copies: Told of artifacts of its versions that no run and no logged model has.
        again: Whether what has been brought already is wanted, to be compared.
    """

    def __init__(
        self, plan: Plan, cursor: Any, part: Part, copies: list[tuple[str, Found]], *, again: bool = False
    ) -> None:
        """Find out what the server has of it."""
        self.plan, self.part, self.copies, self.again = plan, part, copies, again
        self.name, self.merged = plan.survey.models[part.key]
        self.there = self.merged or part.key in plan.brought["registered_model"]
        self.versions: dict[int, int] = {}
        self.known = {
            int(key.rpartition("/")[2]): detail["version"]
            for key, detail in plan.brought["version"].items()
            if key.rpartition("/")[0] == part.key
        }
        self.aliases = plan.journal.brought("registered_model_aliases")
        self.prompt = False
        cursor.execute("SELECT coalesce(max(version), 0) FROM model_versions WHERE name = %s", (self.name,))
        self.last = int(cursor.fetchone()[0])

    def rows(self) -> list[Fitted]:
        """Return its rows as they are to be."""
        return self.plan.fitter.registered(self.part, self._changed)

    def _changed(self, table: str, row: Row) -> Row | None:
        changed = dict(row) | {"name": self.name, "workspace": "default"}
        if table == "registered_model_tags" and row["key"] == "mlflow.prompt.is_prompt":
            self.prompt = str(row["value"]).lower() == "true"
        if table == "registered_model_tags" and row["key"] == USED_BY:
            goals = self.plan.survey.goals
            used_by = [str(goals[each].new) for each in experiments_of(str(row["value"])) if each in goals]
            changed["value"] = f",{','.join(used_by)},"
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
            new = self.plan.fitter.moves.new(old)
            # MLflow keeps the number of a version that was deleted, and little else.
            if row.get("current_stage") != DELETED:
                new = self._there(old, new, version)
            if new is not None:
                found[column] = new
        return found

    def _there(self, old: str, new: str | None, version: int) -> str | None:
        """Return the new location of a version; what it has elsewhere than in a run is copied."""
        directory = self.plan.places.find(old)
        path = f"{self.part.path}/version-{version}"
        if directory is None:
            # What is no path at all is that of a prompt.
            if "/" in (path_of(old) or ""):
                self.plan.note(Bad(path, f"its source {old} is not there", "artifacts"))
            return new
        if new is not None:
            return new
        # As it can be part of a URL.
        name = re.sub(r"[^\w.-]", "_", self.part.key, flags=re.ASCII)
        if name != self.part.key:
            name += f"-{hashlib.sha256(self.part.key.encode()).hexdigest()[:8]}"
        own = f"imported-{self.plan.journal.identity}"
        location = below(self.plan.destination.root, own, name, str(version))
        found = Found(directory, self.plan.places, path)
        for bad in found.bad:
            self.plan.note(bad)
        self.copies.append((location, found))
        return location if Path(directory).is_dir() else below(location, Path(directory).name)

    def bring(self, writer: Writer, rows: list[Fitted], imported: Counter[str], left: list[str]) -> None:
        """Write the rows; of what the server has already, its own wins.

        Args:
            writer: To write by.
            rows: The rows.
            imported: Counts what has been written.
            left: Told of what stays as it was.
        """
        journal, schema = self.plan.journal, self.plan.schema
        # Numbers as they were planned, and as they came to be.
        given: dict[int, int] = {}
        for table, values in rows:
            named = dict(zip(schema.tables[table], values, strict=True))
            if table == "registered_models":
                if not self.there:
                    inserted(writer.cursor, table, named)
                    imported["registered_models"] += 1
                detail = {"name": self.name, "merged": self.merged, "prompt": self.prompt}
                journal.note("registered_model", [(self.part.key, detail)])
                continue
            number = named.get("version")
            if number is not None:
                named["version"] = given.get(number, number)
            while not inserted(writer.cursor, table, named, "ON CONFLICT DO NOTHING"):
                if table != "model_versions":
                    if table == "registered_model_aliases" and f"{self.name}/{named['alias']}" not in self.aliases:
                        left.append(f"The alias {named['alias']!r} of {self.name!r} stays as the server has it.")
                    break
                # A client has got this number since.
                named["version"] += 1
            else:
                imported[COUNTED.get(table, "")] += 1
                self._note(table, named, number)
            if table == "model_versions" and number is not None:
                given[number] = named["version"]

    def _note(self, table: str, named: Row, number: int | None) -> None:
        """Note a row that has been written, so that it can be undone."""
        journal = self.plan.journal
        if table == "model_versions":
            old = next(old for old, new in self.versions.items() if new == number)
            journal.note("version", [(f"{self.part.key}/{old}", {"name": self.name, "version": named["version"]})])
        elif table != "model_version_tags":
            column = "alias" if table == "registered_model_aliases" else "key"
            journal.note(table, [(f"{self.name}/{named[column]}", [self.name, named[column]])])
