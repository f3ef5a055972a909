"""Filters for the list of a site's service users: what is wrong with it, their secrets, and what a server is told."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: service_users
short_description: The list of a site's service users
description:
  - C(service_user_problems) says what is wrong with a list, C(service_user_secrets) returns the name of the secret that
    is the password of each user that is present, and C(service_user_entries) what the module C(mlflow_users) takes.
  - A list has for each user C(name), and C(experiments) and C(state) where they are given.
options: {}
"""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")
# MLflow takes no longer ones.
EXPERIMENT = re.compile(r"[^\x00-\x1f\x7f]{1,500}")
KEYS = ("name", "experiments", "state")
STATES = ("present", "absent")
PERMISSIONS = ("READ", "USE", "EDIT", "MANAGE")

Account = Mapping[str, Any]


def is_present(account: Account) -> bool:
    """Say whether a user is to be there."""
    return account.get("state") != "absent"


def form_problems(account: Account) -> list[str]:
    """Return a sentence for each thing of one user that cannot even be read."""
    told = json.dumps(account, default=str)
    if not isinstance(account.get("name"), str):
        return [f"has {told}; it takes users with a name."]
    if unknown := sorted(map(str, account.keys() - KEYS)):
        return [f"has {told}; it takes users with {', '.join(KEYS)}, and nothing called {', '.join(unknown)}."]
    if account.get("state", "present") not in STATES:
        return [f"gives {account['name']} the state {json.dumps(account['state'])}; it takes {' or '.join(STATES)}."]
    if not isinstance(account.get("experiments") or {}, Mapping):
        return [f"has {told}; it takes experiments as a dictionary of permissions by name."]
    return []


def service_user_problems(accounts: Iterable[Account], administrator: str) -> list[str]:
    """Return a sentence for each thing that is wrong, without the name of the variable that it begins with.

    Args:
        accounts: The list.
        administrator: Name of the administrator.
    """
    accounts = list(accounts)
    problems = [problem for account in accounts for problem in form_problems(account)]
    if problems:
        return problems
    for name, number in Counter(account["name"] for account in accounts).items():
        if not NAME.fullmatch(name):
            takes = "at most 50 lower-case letters, digits and dashes, the first no dash"
            problems.append(f"has the name {json.dumps(name)}; it takes {takes}.")
        if number > 1:
            problems.append(f"has the name {name} {number} times; it takes each name once.")
        if name == administrator:
            problems.append(f"has the name {name}, which is the administrator's; it takes other names.")
    for account in accounts:
        for experiment, permission in (account.get("experiments") or {}).items():
            if not isinstance(experiment, str) or not EXPERIMENT.fullmatch(experiment):
                told = f"the experiment {json.dumps(experiment)}; it takes names, of 1 to 500 characters, as strings"
                problems.append(f"gives {account['name']} {told}.")
            if permission not in PERMISSIONS:
                told = f"{json.dumps(permission)} on {json.dumps(experiment)}; it takes {', '.join(PERMISSIONS)}"
                problems.append(f"gives {account['name']} {told}.")
    return problems


def service_user_secrets(accounts: Iterable[Account]) -> dict[str, str]:
    """Return, for each user that is present, the name of the secret that is the password."""
    return {
        account["name"]: f"service_user_{account['name'].replace('-', '_')}"
        for account in accounts
        if is_present(account)
    }


def service_user_entries(accounts: Iterable[Account], passwords: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the list as the module `mlflow_users` takes it.

    Args:
        accounts: The list.
        passwords: The password of each user that is present, by name.
    """
    return [
        {
            "name": account["name"],
            "state": "present",
            "password": passwords[account["name"]],
            "experiments": dict(account.get("experiments") or {}),
        }
        if is_present(account)
        else {"name": account["name"], "state": "absent"}
        for account in accounts
    ]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Return the filters by name."""
        return {
            "service_user_entries": service_user_entries,
            "service_user_problems": service_user_problems,
            "service_user_secrets": service_user_secrets,
        }
