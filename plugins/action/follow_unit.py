"""Action plugin: wait for a unit of systemd, and show meanwhile how far its program is."""

from __future__ import annotations

import re
import shlex
import sys
import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

DOCUMENTATION = r"""
module: follow_unit
short_description: Wait for a unit of systemd, and show meanwhile how far its program is
description:
  - Waits until a unit with C(RemainAfterExit=yes) has ended, and shows the last line that its program wrote to a file.
    On a terminal that is one line, written over again and again; elsewhere each new line is another.
  - A connection that is lost meanwhile is made again; the unit does not need it.
options:
  unit:
    description: Name of the unit.
    required: true
  progress:
    description: File on the host to which the program writes lines.
    required: true
  prefix:
    description: What a line begins with that is shown, without it; another one is no news of the program.
    default: ""
  output:
    description: File on the host whose last line is returned when the unit has ended.
    required: true
  interval:
    description: Seconds between two looks at most; it begins with less, for what does not take long.
    type: float
    default: 3
  patience:
    description: Seconds that the host may be out of reach.
    type: float
    default: 300
author: MLflow on VMs contributors
"""

RETURN = r"""
state:
  description: C(exited) when the program ended well, C(failed) when it did not, C(dead) when there is no such unit.
  type: str
  returned: always
result:
  description: Why it ended, as systemd says it, such as C(success), C(exit-code), C(signal) or C(timeout).
  type: str
  returned: always
status:
  description: Exit status of the program, or the number of the signal that ended it.
  type: int
  returned: always
last:
  description: Last line of C(progress).
  type: str
  returned: always
output:
  description: Last line of C(output).
  type: str
  returned: always
"""

ENDED = ("exited", "failed", "dead")
# Ansible loads a plugin in its main process. The worker that runs it has no terminal any more.
TERMINAL = sys.stdout.isatty()
# How much of it is done, in words: "12 of 300 runs", "1.2 G of 3.4 GB".
SHARE = re.compile(r"([\d.]+) ?([kMG]?) of ([\d.]+) ?([kMG]?)")
FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
BAR = 20
PROPERTIES = ("SubState", "Result", "ExecMainStatus")


def parse(output: str) -> tuple[dict[str, str], list[str]]:
    """Return what systemd said of a unit, by property, and the last lines of its program.

    Args:
        output: Output of the command that `look` makes.
    """
    # A connection that has a terminal ends lines in its own way.
    lines = output.splitlines()
    parts = lines.index("") if "" in lines else len(lines)
    said = dict(line.split("=", 1) for line in lines[:parts] if "=" in line)
    return said, [line.strip() for line in lines[parts:] if line.strip()]


def tail(file: str) -> str:
    """Return a command for the host's shell that tells the last line of a file, if there is one."""
    return f"tail --lines=1 {shlex.quote(file)} 2>/dev/null || true"


def look(unit: str, progress: str) -> str:
    """Return a command for the host's shell that tells of a unit, and then its program's last lines."""
    properties = [f"--property={name}" for name in PROPERTIES]
    show = shlex.join(["systemctl", "show", *properties, unit])
    # What a program writes over and over again on one line ends with a carriage return.
    return f"{show}; echo; tail --bytes=2000 {shlex.quote(progress)} 2>/dev/null | tr '\\r' '\\n'"


def bar(line: str) -> str:
    """Return a line with a bar before it, if it says how much of how much is done."""
    found = SHARE.search(line)
    if not found or not float(found[3]):
        return line
    share = float(found[1]) * FACTORS[found[2]] / (float(found[3]) * FACTORS[found[4]])
    return f"[{'#' * int(min(share, 1) * BAR):.<{BAR}}] {line}"


class ActionModule(ActionBase):  # type: ignore[misc]
    """Look again and again until the unit has ended."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"unit", "progress", "output", "prefix", "interval", "patience"})
    _shown = ""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Follow the unit.

        Args:
            tmp: Unused; Ansible passes it.
            task_vars: Variables of the task.

        Returns:
            How it ended.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        interval, patience = float(arguments.get("interval", 3)), float(arguments.get("patience", 300))
        command = look(arguments["unit"], arguments["progress"])
        begun = reached = time.monotonic()
        while True:
            try:
                output = self._low_level_execute_command(command)["stdout"]
            except AnsibleConnectionFailure:
                if time.monotonic() - reached > patience:
                    raise
                self._display.warning("The host cannot be reached; what runs there goes on, and this tries again.")
                time.sleep(interval)
                self._connection.reset()
                continue
            reached = time.monotonic()
            said, lines = parse(output)
            state = said.get("SubState", "dead")
            prefix = arguments.get("prefix", "")
            news = [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]
            self._show(news[-1] if news else "", ended=state in ENDED)
            if state in ENDED:
                status = int(said.get("ExecMainStatus") or 0)
                output = self._low_level_execute_command(tail(arguments["output"]))["stdout"]
                return result | {
                    "changed": False,
                    "state": state,
                    "result": said.get("Result", ""),
                    "status": status,
                    "last": lines[-1] if lines else "",
                    "output": output.strip(),
                }
            time.sleep(min(interval, 0.5 + (time.monotonic() - begun) / 10))

    def _show(self, line: str, *, ended: bool) -> None:
        """Show a line of the program if it is another one than before."""
        if not TERMINAL:
            if line and line != self._shown:
                self._display.display(f"  {line}")
        elif line or self._shown:
            width = self._display.columns - 1
            text = f"  {bar(line)}"[:width].ljust(width)
            self._display.display(f"\r{text}", newline=ended, screen_only=True)
        self._shown = line
