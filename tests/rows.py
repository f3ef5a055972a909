"""Runs a role for many sets of values at once: each row is a host of its own, which is this machine."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.project import PROJECT, load, names_in


def run_rows(
    role: str,
    rows: Mapping[str, Mapping[str, Any]],
    *,
    entry: str = "validate",
    environment: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], str]:
    """Run one file of a role's tasks for every row.

    Args:
        role: The role.
        rows: Variables by name of the row. `faked_facts` among them stand in for gathered ones, and `faked_programs`
            is a directory of programs to find before the real ones.
        entry: The file of tasks.
        environment: Variables of the environment in which Ansible runs.

    Returns:
        The refusal of each row, which is empty where the role had none, and all that was printed.
    """
    common = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "role_under_test": role,
        "entry_under_test": entry,
        "project": str(PROJECT),
    }
    with tempfile.TemporaryDirectory() as directory:
        inventory, refusals = Path(directory, "inventory.json"), Path(directory, "refusals.json")
        inventory.write_text(json.dumps({"all": {"hosts": rows, "vars": common}}))
        options = ["-vvv", "--diff", "--inventory", str(inventory)]
        # A spec is checked with all of the role's defaults, some of which are computed from facts.
        needs_facts = "ansible_facts" in names_in(load(PROJECT / "roles" / role / "defaults" / "main.yml"))
        extra = ["--extra-vars", json.dumps({"refusals_file": str(refusals), "needs_facts": needs_facts})]
        # How the tester came to this machine is none of the role's business.
        inherited = {name: value for name, value in os.environ.items() if name != "SSH_CONNECTION"}
        own = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_FORKS": "8", "NO_COLOR": "1"}
        result = subprocess.run(
            ["ansible-playbook", *options, *extra, str(PROJECT / "tests" / "files" / "rows.yml")],
            capture_output=True,
            text=True,
            check=False,
            env=inherited | own | dict(environment or {}),
        )
        output = result.stdout + result.stderr
        assert refusals.exists(), output[-4000:]
        said: dict[str, str] = json.loads(refusals.read_text())
    return said, output
