"""Runs a role or tasks once, from this machine, for a host that is this machine as well."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.project import PROJECT


@dataclass(frozen=True)
class Played:
    """What a run said.

    Args:
        words: All of it, with single spaces for whatever was between two words.
        changed: How many tasks changed something.
    """

    words: str
    changed: int


def play(role: str, variables: Mapping[str, Any], *options: str, status: int = 0) -> Played:
    """Run a role for one host.

    Args:
        role: The role.
        variables: Its variables.
        options: Further options of ansible-playbook.
        status: How it has to end.

    Returns:
        What it said.
    """
    return play_plays([{"roles": [role]}], variables, *options, status=status)


def play_tasks(tasks: Sequence[Mapping[str, Any]], *options: str, status: int = 0) -> Played:
    """Run tasks for one host.

    Args:
        tasks: The tasks.
        options: Further options of ansible-playbook.
        status: How it has to end.

    Returns:
        What it said.
    """
    return play_plays([{"tasks": tasks}], {}, *options, status=status)


def play_plays(
    plays: Sequence[Mapping[str, Any]], variables: Mapping[str, Any], *options: str, status: int = 0
) -> Played:
    """Run plays for one host, of which they need not speak."""
    host = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    with tempfile.TemporaryDirectory() as directory:
        playbook, inventory = Path(directory, "play.yml"), Path(directory, "inventory.json")
        playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, **each} for each in plays]))
        inventory.write_text(json.dumps({"all": {"hosts": {"server": {**host, **variables}}}}))
        result = subprocess.run(
            ["ansible-playbook", "--inventory", str(inventory), *options, str(playbook)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ
            | {
                "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
                "ANSIBLE_ROLES_PATH": str(PROJECT / "roles"),
                "NO_COLOR": "1",
            },
        )
    # Words that YAML has folded, with the quotation mark that it doubles.
    words = re.sub(r"\s+", " ", result.stdout + result.stderr).replace("''", "'")
    assert result.returncode == status, words
    found = re.search(r"changed=(\d+)", words)
    assert found, words
    return Played(words, int(found[1]))
