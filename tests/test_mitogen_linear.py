"""The strategy that keeps one Python on each host for all tasks, where Mitogen is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import PROJECT

ASK_TWICE = """
- hosts: localhost
  connection: local
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  gather_facts: false
  tasks:
    - name: Ask who runs the module
      ansible.builtin.command:
        argv: [sh, -c, "echo $PPID"]
      register: first
    - name: Ask again
      ansible.builtin.command:
        argv: [sh, -c, "echo $PPID"]
      register: second
    - name: Tell
      ansible.builtin.copy:
        dest: "{{ playbook_dir }}/seen"
        content: "{{ [first.stdout, second.stdout] }}"
        mode: "0600"
"""
START = "import sys; sys.modules.update({hidden}); from ansible.cli.playbook import main; main(sys.argv[1:])"


@pytest.fixture
def playbook(tmp_path: Path) -> Path:
    """A playbook that writes which processes ran two of its modules to the file `seen` beside it."""
    path = tmp_path / "playbook.yml"
    path.write_text(ASK_TWICE, encoding="utf-8")
    return path


def parents(playbook: Path, hidden: dict[str, None], **environment: str) -> tuple[str, str]:
    """Run the playbook and return the processes that ran its modules.

    Args:
        playbook: The playbook.
        hidden: Python modules that it does not find.
        environment: Further variables.
    """
    command = [sys.executable, "-c", START.format(hidden=hidden), "ansible-playbook", "-i", "localhost,", str(playbook)]
    variables = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), **environment}
    subprocess.run(command, env=variables, check=True, capture_output=True, text=True, cwd=PROJECT)
    seen = (playbook.parent / "seen").read_text(encoding="utf-8")
    first, second = json.loads(seen)
    return first, second


def test_one_process_runs_all_modules(playbook: Path) -> None:
    """What makes a run quick is in use."""
    first, second = parents(playbook, {})
    assert first == second


@pytest.mark.system
def test_root_needs_no_sudo_on_this_machine(playbook: Path) -> None:
    """Who is root already becomes nobody else."""
    first, second = parents(playbook, {}, ANSIBLE_BECOME="true", ANSIBLE_BECOME_EXE="/no/such/sudo")
    assert first == second


def test_without_mitogen_it_is_linear(playbook: Path) -> None:
    """Who has Ansible alone deploys all the same."""
    first, second = parents(playbook, {"ansible_mitogen": None})
    assert first != second


def test_linear_can_be_asked_for(playbook: Path) -> None:
    """Mitogen can be left out without uninstalling it."""
    first, second = parents(playbook, {}, ANSIBLE_STRATEGY="linear")
    assert first != second


def test_modules_may_use_every_cpu(playbook: Path) -> None:
    """Mitogen's own policy would pin what modules start, container hosts included, to one of two CPUs."""
    playbook.write_text(ASK_TWICE.replace("echo $PPID", "grep Cpus_allowed_list /proc/self/status"), encoding="utf-8")
    (own,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "Cpus_allowed_list" in line]
    assert parents(playbook, {}) == (own, own)


def test_filters_are_loaded_once_for_all_tasks(playbook: Path, tmp_path: Path) -> None:
    """Each task has a process of its own, which inherits the filters of the main process."""
    loads = tmp_path / "loads"
    (tmp_path / "filters").mkdir()
    (tmp_path / "filters" / "counted.py").write_text(
        f"open({str(loads)!r}, 'a').write('loaded ')\nclass FilterModule:\n    filters = staticmethod(dict)\n"
    )
    playbook.write_text(ASK_TWICE.replace('"echo $PPID"', "\"{{ 'true' | string }}\""), encoding="utf-8")
    parents(playbook, {}, ANSIBLE_FILTER_PLUGINS=str(tmp_path / "filters"))
    assert loads.read_text() == "loaded "
