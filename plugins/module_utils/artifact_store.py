"""What the modules `artifact_store_<provider>` share: compare a store with what is wanted, say it, put it right.

A module gives `main` a subclass of `Store`, whose steps each compare one thing of the store and know how to put it
right. What is found is told in the same words whether it is put right, only looked at, or foreseen by check mode.
"""

from __future__ import annotations

import abc
import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

# A service that gives no answer is given up after half a minute.
CONNECT_SECONDS = 5
READ_SECONDS = 10
ATTEMPTS = 3

# What the rules that these modules write are named after.
OWN = "mlflow-artifacts"
CORS_SECONDS = 3600


class Refused(Exception):
    """The store cannot be compared or put right; the argument is the sentence that says why and what to do."""


class Unsupported(Exception):
    """A store that only speaks the same protocol does not know a setting."""


@dataclass(frozen=True)
class Difference:
    """A setting that is not as it is wanted; None is one that is missing, or has to be."""

    setting: str
    found: Any
    wanted: Any

    def __str__(self) -> str:
        """Return the difference in words."""
        return f"{self.setting} is {said(self.found)} and should be {said(self.wanted)}"


@dataclass(frozen=True)
class Step:
    """What was compared at once, and is put right at once."""

    differences: list[Difference]
    apply: Callable[[], None]


class Store(abc.ABC):
    """A place for artifacts, and what is wanted of it."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Keep what is wanted.

        Args:
            given: The options of the module.
        """
        self.given = given
        # What somebody who reads the run's log should know.
        self.warnings: list[str] = []

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """Return what the store is called in sentences."""

    @abc.abstractmethod
    def steps(self) -> Iterator[Step]:
        """Compare the store, one thing after the other; a step is applied before the next one is looked at.

        Raises:
            Refused: The store cannot be looked at, or is none that can be put right.
        """


def said(value: Any) -> str:
    """Return a value as a sentence shows it."""
    return "missing" if value is None else json.dumps(value, sort_keys=True, default=str)


def compare(setting: str, found: Any, wanted: Any) -> list[Difference]:
    """Return the difference of a setting, if there is one."""
    return [] if found == wanted else [Difference(setting, found, wanted)]


def compare_tags(what: str, found: Mapping[str, str], wanted: Mapping[str, Any]) -> list[Difference]:
    """Return the differences of those tags that are wanted; others may be there."""
    return [
        Difference(f"{what} {name}", found.get(name), str(value))
        for name, value in sorted(wanted.items())
        if found.get(name) != str(value)
    ]


def compare_named(
    what: str, found: Mapping[str, Any], wanted: Mapping[str, Any], owned: Callable[[str], bool]
) -> list[Difference]:
    """Return the differences of named rules.

    Args:
        what: What a rule is called in sentences.
        found: Rules by name, those of others among them.
        wanted: Rules that have to be there.
        owned: Says whether a name is of those that have to go when they are not wanted.
    """
    stale = [name for name in found if owned(name) and name not in wanted]
    return [
        Difference(f"{what} {name}", found.get(name), wanted.get(name))
        for name in [*wanted, *stale]
        if found.get(name) != wanted.get(name)
    ]


def covered(effects: Mapping[str, Any], prefix: str, others: Iterable[tuple[str, Mapping[str, Any]]]) -> bool:
    """Say whether rules of others do already what a rule would do.

    Args:
        effects: What it does.
        prefix: Where it does that.
        others: The same of their rules.
    """
    here = [theirs for where, theirs in others if prefix.startswith(where)]
    return all(any(theirs.get(name) == value for theirs in here) for name, value in effects.items())


def one_or_more(value: Any) -> list[Any]:
    """Return what a document of AWS may write alone or as a list."""
    return value if isinstance(value, list) else [value]


def statement(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a statement of a policy in one of the ways in which it can be written."""
    unordered = ("Action", "NotAction", "Resource", "NotResource")
    result: dict[str, Any] = {
        key: sorted(one_or_more(inner)) if key in unordered else inner for key, inner in value.items()
    }
    if result.get("Principal") == {"AWS": "*"}:
        result["Principal"] = "*"
    if isinstance(result.get("Condition"), dict):
        result["Condition"] = {
            operator: {key: sorted(str(one) for one in one_or_more(inner)) for key, inner in keys.items()}
            for operator, keys in result["Condition"].items()
        }
    return result


def same_statement(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether two statements are the same but for their names."""
    return {**statement(one), "Sid": ""} == {**statement(other), "Sid": ""}


def same_policy(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> bool:
    """Say whether two documents of AWS grant the same."""
    return [statement(each) for each in (one or {}).get("Statement", [])] == [
        statement(each) for each in (other or {}).get("Statement", [])
    ]


def merge_named(found: Iterable[Any], wanted: Mapping[str, Any], name: Callable[[Any], str]) -> list[Any]:
    """Return what is there, with what is wanted in the place of what has its name, or at the end."""
    kept = [one for one in found if name(one) not in wanted]
    return [*kept, *wanted.values()]


def settle(store: Store, *, check_mode: bool) -> dict[str, Any]:
    """Compare a store, and put it right unless this is check mode.

    Args:
        store: The store.
        check_mode: Only compare.

    Returns:
        What the module returns: `changed`, `differences` in words, and `diff` as Ansible shows it.
    """
    found: list[Difference] = []
    for step in store.steps():
        if not step.differences:
            continue
        try:
            if not check_mode:
                step.apply()
        except Unsupported as setting:
            store.warnings.append(f"{store.place} does not know {setting}, which is left as it is.")
            continue
        found += step.differences
    return {
        "changed": bool(found),
        "differences": [str(difference) for difference in found],
        "diff": {
            "before_header": store.place,
            "after_header": store.place,
            "before": "".join(f"{each.setting}: {said(each.found)}\n" for each in found),
            "after": "".join(f"{each.setting}: {said(each.wanted)}\n" for each in found),
        },
    }


def main(store: type[Store], options: Mapping[str, Any]) -> None:
    """Run a provider's module.

    Args:
        store: The provider's class.
        options: The module's options.
    """
    module = AnsibleModule(argument_spec=dict(options), supports_check_mode=True)
    subject: Store | None = None
    try:
        subject = store(module.params)
        result = settle(subject, check_mode=module.check_mode)
    except Refused as refused:
        module.fail_json(msg=str(refused))
    except Exception as error:
        # No traceback: its kind and place are what somebody who mends it needs.
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        name = subject.place if subject else "The artifact store"
        module.fail_json(msg=f"{name} cannot be prepared: {type(error).__name__} in {place}.")
    for warning in subject.warnings if subject else []:
        module.warn(warning)
    module.exit_json(**result)
