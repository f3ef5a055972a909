"""Run playbooks from within a test, as an operator does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testing.limits import limit

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Run:
    """A finished run of a playbook.

    Args:
        returned: Its exit status.
        output: All that it printed.
    """

    returned: int
    output: str

    @property
    def changed(self) -> int:
        """Number of changed tasks, over all hosts."""
        return sum(int(number) for number in re.findall(r"\bchanged=(\d+)", self.output))


def run_playbook(playbook: str, *options: str, **variables: Any) -> Run:
    """Run a playbook against the scenario's hosts.

    Args:
        playbook: Path below the project.
        options: Further command-line options.
        variables: Extra variables.

    Returns:
        The run, successful or not.
    """
    command, environment = playbook_command(playbook, *options, **variables)
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=limit(TIMEOUT_SECONDS),
    )
    return Run(done.returncode, done.stdout)


@dataclass
class StartedRun:
    """A playbook run that the test does not wait for.

    Args:
        process: Its process, the leader of its own process group.
        log: File with what it prints.
    """

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """Kill the run with all its workers, as a power cut on the control node would."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def is_killed_after(self, seconds: float) -> bool:
        """Kill the run after some seconds. Return whether it was still running then."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self.process.wait()
            return True
        return False

    def finish(self) -> Run:
        """Wait for the end of the run and return it."""
        returned = self.process.wait(limit(TIMEOUT_SECONDS))
        return Run(returned, self.log.read_text(encoding="utf-8", errors="replace"))


def start_playbook(log: Path, playbook: str, *options: str, **variables: Any) -> StartedRun:
    """Start a playbook against the scenario's hosts.

    Args:
        log: File for what it prints.
        playbook: Path below the project.
        options: Further command-line options.
        variables: Extra variables.
    """
    command, environment = playbook_command(playbook, *options, **variables)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    return StartedRun(process, log)


def playbook_command(playbook: str, *options: str, **variables: Any) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs a playbook, and its environment. Takes what `run_playbook` takes."""
    command = ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], str(PROJECT / playbook)]
    command += [*options, "--extra-vars", json.dumps(variables)]
    # In the project's directory, so that its ansible.cfg counts and not the one that Molecule writes.
    inherited = {name: value for name, value in os.environ.items() if name != "ANSIBLE_CONFIG"}
    # What is searched in the output must not be broken up by colours, which Molecule may ask for.
    return command, {**inherited, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}
