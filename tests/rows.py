"""Runs a role for many sets of values at once: each row is one host, and every host is this machine.

Every task costs a process for each row, so the plays have none that a row does not need. A callback keeps why the role
refused a row (tests/callback/refusals.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.project import PROJECT, load, names_in

FAKED_FACTS = (
    "distribution",
    "distribution_major_version",
    "distribution_version",
    "service_mgr",
    "python_version",
    "memtotal_mb",
    "all_ipv4_addresses",
    "all_ipv6_addresses",
)
FAKE_FACTS = {
    "name": "Fake the facts of the row",
    # Only cacheable ones are facts, such as ansible_facts['distribution'].
    "ansible.builtin.set_fact": {"cacheable": True, **{name: f"{{{{ faked_facts.{name} }}}}" for name in FAKED_FACTS}},
}
# With run_once, the facts of one row are those of all.
GATHER_FACTS = {
    "name": "Gather the facts that defaults are computed from",
    "ansible.builtin.setup": {"gather_subset": ["!all", "hardware", "network"]},
    "run_once": True,
}
COMMON = {
    "ansible_connection": "local",
    "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    "project": str(PROJECT),
}
FIND_FAKED_PROGRAMS = {
    "PATH": "{{ faked_programs | default('/usr/bin') }}:{{ lookup('ansible.builtin.env', 'PATH') }}",
}


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
    faked: dict[str, Any] = {name: {} for name, values in rows.items() if "faked_facts" in values}
    hosts = {"all": {"hosts": rows, "vars": COMMON, "children": {"faked": {"hosts": faked}}}}
    # A spec is checked with all of the role's defaults, some of which are computed from facts.
    needs_facts = "ansible_facts" in names_in(load(PROJECT / "roles" / role / "defaults" / "main.yml"))
    run_role = {"name": "Run the role", "ansible.builtin.import_role": {"name": role, "tasks_from": entry}}
    tasks = [*([GATHER_FACTS] if needs_facts else []), run_role]
    plays = [
        {"hosts": "faked", "gather_facts": False, "tasks": [FAKE_FACTS]},
        {"hosts": "all", "gather_facts": False, "environment": FIND_FAKED_PROGRAMS, "tasks": tasks},
    ]
    with tempfile.TemporaryDirectory() as directory:
        inventory, playbook, refusals = (Path(directory, name) for name in ("inventory.json", "play.yml", "refusals"))
        inventory.write_text(json.dumps(hosts))
        playbook.write_text(json.dumps(plays))
        # How the tester came to this machine is none of the role's business.
        inherited = {name: value for name, value in os.environ.items() if name != "SSH_CONNECTION"}
        own = {
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(PROJECT / "tests" / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "refusals",
            "ANSIBLE_FORKS": "8",
            "NO_COLOR": "1",
            "REFUSALS_FILE": str(refusals),
        }
        result = subprocess.run(
            ["ansible-playbook", "-vvv", "--diff", "--inventory", str(inventory), str(playbook)],
            capture_output=True,
            text=True,
            check=False,
            env=inherited | own | dict(environment or {}),
        )
        output = result.stdout + result.stderr
        assert refusals.exists(), output[-4000:]
        said: dict[str, str] = {name: "" for name in rows} | json.loads(refusals.read_text())
    return said, output
