"""Filters that put the state of a site's secrets into words; only `next_values` returns values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

DOCUMENTATION = r"""
name: rotation
short_description: The state of secrets in words
description:
  - C(rotation_lines) says what a rotation would do, C(renewal_lines) what it did, C(status_lines) how things are, and
    C(status_problems) what is wrong. C(next_values) returns the values that count once a rotation is done.
  - A state is a dictionary of C(current), C(pending) and C(previous) for each name; each of them is nothing or has
    C(version) and C(created), an ISO 8601 time.
options: {}
"""

# A deployment renews a self-signed certificate earlier than that; what is shorter was forgotten.
CERTIFICATE_DAYS_MIN = 14

State = dict[str, dict[str, dict[str, Any] | None]]


def age(stage: dict[str, Any]) -> int:
    """Return the age of a version in whole days."""
    return (datetime.now(UTC) - datetime.fromisoformat(stage["created"])).days


def described(stage: dict[str, Any] | None) -> str:
    """Return a version and its age in words."""
    if stage is None:
        return "none"
    days = age(stage)
    return f"version {stage['version']}, {days} {'day' if days == 1 else 'days'} old"


def next_values(state: State, chosen: Iterable[str], rollback: bool = False) -> dict[str, Any]:
    """Return the value of each secret that shall count: the pending one of those chosen, the current one of all others.

    Args:
        state: What the store holds.
        chosen: Names of the secrets that are being renewed.
        rollback: The current one is to count of those chosen too.
    """
    pending = set() if rollback else {name for name in chosen if state[name]["pending"]}
    stages = {name: stages["pending" if name in pending else "current"] for name, stages in state.items()}
    return {name: stage["value"] for name, stage in stages.items() if stage is not None}


def rotation_lines(names: Iterable[str], state: State, rollback: bool = False) -> list[str]:
    """Say for each secret what a rotation, or its way back, would do."""
    lines = []
    for name in names:
        stages = state[name]
        if rollback:
            deed = f"back to it from {described(stages['pending'])}"
        elif stages["pending"]:
            deed = f"to be finished: {described(stages['pending'])} was not yet promoted"
        else:
            deed = "to be renewed"
        lines.append(f"{name}: {described(stages['current'])}; {deed}")
    return lines


def renewal_lines(names: Iterable[str], before: State, after: State) -> list[str]:
    """Say for each secret from which version to which it went."""
    lines = []
    for name in names:
        old, new = before[name]["current"], after[name]["current"]
        assert old is not None
        assert new is not None
        kept = old["version"] == new["version"]
        deed = f"stays at version {old['version']}" if kept else f"from version {old['version']} to {new['version']}"
        lines.append(f"{name}: {deed}")
    return lines


def days_left(certificate: dict[str, Any]) -> int:
    """Return for how many whole days a certificate is still valid."""
    return (datetime.fromisoformat(certificate["not_after"]) - datetime.now(UTC)).days


def status_lines(
    state: State, disagreements: dict[str, list[str]], certificates: dict[str, dict[str, Any]] | None = None
) -> list[str]:
    """Say for each secret its version, its age, and which hosts have it otherwise; and how long certificates last.

    Args:
        state: What the store holds.
        disagreements: For each host, the names of the secrets that it has otherwise than the store.
        certificates: For each host, `not_before` and `not_after` of its certificate.
    """
    lines = []
    for name, stages in sorted(state.items()):
        line = f"{name}: {described(stages['current'])}"
        if stages["pending"]:
            line += f"; a rotation to version {stages['pending']['version']} was cut off"
        hosts = sorted(host for host, names in disagreements.items() if name in names)
        lines.append(line + (f"; differs on {', '.join(hosts)}" if hosts else "; hosts agree"))
    for host, certificate in sorted((certificates or {}).items()):
        made = age({"created": certificate["not_before"]})
        lines.append(f"certificate of {host}: {made} days old, valid for {days_left(certificate)} more")
    return lines


def status_problems(
    state: State,
    disagreements: dict[str, list[str]],
    age_max_days: int,
    certificates: dict[str, dict[str, Any]] | None = None,
) -> list[str]:
    """Return a sentence for each thing that an operator has to mend.

    Args:
        state: What the store holds.
        disagreements: For each host, the names of the secrets that it has otherwise than the store.
        age_max_days: Days after which a secret is too old.
        certificates: For each host, `not_after` of its certificate, and whether it `agrees` with what is served.
    """
    problems = []
    for name, stages in sorted(state.items()):
        current = stages["current"]
        if current is None:
            problems.append(f"{name} is missing from the store.")
        elif age(current) > age_max_days:
            problems.append(f"{name} is {age(current)} days old, more than {age_max_days}; rotate it.")
        if stages["pending"]:
            problems.append(f"{name} has a rotation that was cut off; run playbooks/rotate_secrets.yml again.")
    for host, names in sorted(disagreements.items()):
        problems += [f"{name} differs between {host} and the store; deploy the host." for name in sorted(names)]
    for host, certificate in sorted((certificates or {}).items()):
        if days_left(certificate) < CERTIFICATE_DAYS_MIN:
            problems.append(f"The certificate of {host} is valid for {days_left(certificate)} more days; renew it.")
        if not certificate["agrees"]:
            problems.append(f"{host} serves another certificate than it has; deploy the host.")
    return problems


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Return the filters by name."""
        return {
            "next_values": next_values,
            "renewal_lines": renewal_lines,
            "rotation_lines": rotation_lines,
            "status_lines": status_lines,
            "status_problems": status_problems,
        }
