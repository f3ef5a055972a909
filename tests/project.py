"""What the project's YAML says, for tests of rules that every role and play must keep."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
import yaml

PROJECT = Path(__file__).parents[1]
OWN_MODULES = {path.stem for kind in ("modules", "action") for path in (PROJECT / "plugins" / kind).glob("*.py")}
ROLES = sorted(path for path in (PROJECT / "roles").iterdir() if path.is_dir())

# Names that hold secrets, beside the options that a spec marks with no_log.
SECRET_NAME = re.compile(r"(password|passwords|passphrase|secret|secret_key|signing_key|token|secrets_values)$")

# Keywords whose strings are expressions without braces.
EXPRESSIONS = {"when", "that", "until", "changed_when", "failed_when", "var"}
BLOCKS = ("block", "rescue", "always")

Mapping = dict[str, Any]


class Loader(yaml.SafeLoader):
    """Reads Ansible's own tags as plain values."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: loader.construct_scalar(node))


@functools.cache
def load(path: Path) -> Any:
    """Return what a YAML file holds."""
    return yaml.load(path.read_text(), Loader=Loader)  # noqa: S506 - a SafeLoader


@dataclass(frozen=True)
class Task:
    """A task with the file it is in and the keywords that it has from the blocks around it."""

    path: Path
    keywords: Mapping

    @property
    def name(self) -> str:
        """Return its name, for the messages of tests."""
        return f"{self.path.relative_to(PROJECT)}: {self.keywords.get('name', '(no name)')}"

    @property
    def module(self) -> str:
        """Return the name of its module, or nothing for a block."""
        return next((key for key in self.keywords if "." in key or key in OWN_MODULES), "")

    @property
    def arguments(self) -> Mapping:
        """Return the arguments of its module."""
        arguments = self.keywords.get(self.module)
        return arguments if isinstance(arguments, dict) else {"_": arguments}


def tasks_in(path: Path, entries: list[Mapping], inherited: Mapping | None = None) -> Iterator[Task]:
    """Return all tasks of a list, those inside blocks and the blocks themselves included."""
    for entry in entries or []:
        own = {key: value for key, value in entry.items() if key not in BLOCKS}
        yield from checks_in(Task(path, (inherited or {}) | own))
        # What a block passes on.
        passed_on = (inherited or {}) | {key: own[key] for key in ("no_log", "diff") if key in own}
        for block in BLOCKS:
            yield from tasks_in(path, entry.get(block, []), passed_on)


def checks_in(task: Task) -> list[Task]:
    """Return the assertions of which a task of `check_values` is made, each as a task; any other task as it is."""
    if task.module != "check_values":
        return [task]
    head = task.keywords["name"].partition(" | ")[0]
    shared = {key: value for key, value in task.keywords.items() if key != task.module}
    assertions = []
    for check in task.arguments["checks"]:
        arguments = {key: check[key] for key in ("that", "fail_msg")}
        own = {key: value for key, value in check.items() if key not in arguments}
        own |= {"name": f"{head} | {check['name']}", "ansible.builtin.assert": arguments | {"quiet": True}}
        assertions.append(Task(task.path, shared | own))
    return assertions


@functools.cache
def tasks_of(role: Path) -> list[Task]:
    """Return the tasks and handlers of a role."""
    paths = [*sorted(role.glob("tasks/*.yml")), *sorted(role.glob("handlers/*.yml"))]
    return [task for path in paths for task in tasks_in(path, load(path))]


def plays() -> list[tuple[Path, Mapping]]:
    """Return the plays of the project, without imports of other playbooks."""
    paths = sorted((PROJECT / "playbooks").glob("*.yml"))
    return [(path, play) for path in paths for play in load(path) if "hosts" in play]


def tasks_of_plays() -> list[Task]:
    """Return the tasks that stand in playbooks."""
    return [
        task
        for path, play in plays()
        for part in ("pre_tasks", "tasks", "post_tasks", "handlers")
        for task in tasks_in(path, play.get(part, []))
    ]


def spec_of(role: Path) -> Mapping:
    """Return the options of the role's main entry point."""
    options: Mapping = load(role / "meta" / "argument_specs.yml")["argument_specs"]["main"].get("options", {})
    return options


class AnyPlugin(dict[str, Any]):
    """Knows every filter and test: here templates are parsed, never filled in."""

    def get(self, key: str, default: object = None) -> object:
        """Return what Jinja takes for a filter or test."""
        return super().get(key, str)


def parser() -> jinja2.Environment:
    """Return an environment that parses Ansible's templates."""
    environment = jinja2.Environment(trim_blocks=True, extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"])  # noqa: S701
    environment.filters = AnyPlugin()
    environment.tests = AnyPlugin()
    return environment


@functools.cache
def names_in_text(text: str) -> frozenset[str]:
    """Return the variables that a template uses."""
    return frozenset(jinja2.meta.find_undeclared_variables(parser().parse(text)))


def names_in(value: object, *, keyword: str = "") -> set[str]:
    """Return the variables that a value of a YAML file uses."""
    if isinstance(value, dict):
        return {name for key, inner in value.items() for name in names_in(inner, keyword=str(key))} | {
            name for key in value for name in names_in(str(key))
        }
    if isinstance(value, list):
        return {name for inner in value for name in names_in(inner, keyword=keyword)}
    if not isinstance(value, str):
        return set()
    return set(names_in_text(f"{{{{ {value} }}}}" if keyword in EXPRESSIONS and "{{" not in value else value))


def names_of_template(path: Path) -> set[str]:
    """Return the variables that a template file uses."""
    return set(names_in_text(path.read_text()))


def is_literal(value: object) -> bool:
    """Say whether a default is a value and not an expression."""
    return "{{" not in str(value)
