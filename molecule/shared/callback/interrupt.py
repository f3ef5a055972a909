"""Callback that kills the run of Ansible it is part of, as a power cut would, once for each task that changes anything.

INTERRUPT_NOTES names a file with a line for each task after which a run was killed already. After the first task that
has changed something and is not in it, its line is added and the run killed. A task that changes nothing leaves the
hosts as they were after the one before it. INTERRUPT_AT names the one task to be killed after, so that no other counts;
with INTERRUPT_EVERY=4 only every fourth line stands for a run that was killed.
Without INTERRUPT_NOTES nothing happens. Only for tests.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: interrupt
type: aggregate
short_description: Kill the run after a task that changed something
description:
  - Kills the process of C(ansible-playbook) with SIGKILL when a task has changed something on all its hosts, and the
    file that INTERRUPT_NOTES names does not have it yet.
options: {}
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Kills the run."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "interrupt"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        """Read what was done already."""
        super().__init__()
        named = os.environ.get("INTERRUPT_NOTES")
        self.notes = Path(named) if named else None
        self.only = os.environ.get("INTERRUPT_AT", "")
        self.every = int(os.environ.get("INTERRUPT_EVERY", "1"))
        self.play = ""
        self.changed = ""

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Remember the play: the same task can be part of several."""
        self.kill_if_due()
        self.play = play.get_name()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Take note that the task before is over on all hosts."""
        self.kill_if_due()

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Take note that the task before is over on all hosts."""
        self.kill_if_due()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Remember a task that has changed something."""
        if result.is_changed():
            self.changed = f"{self.play}: {result.task.get_name()}"

    def kill_if_due(self) -> None:
        """Kill the run if the task that is over has changed something, and no run was killed after it yet."""
        changed, self.changed = self.changed, ""
        if self.notes is None or not changed or self.only not in changed:
            return
        known = self.notes.read_text(encoding="utf-8").splitlines() if self.notes.exists() else []
        if changed in known:
            return
        known.append(changed)
        self.notes.write_text("\n".join([*known, ""]), encoding="utf-8")
        if len(known) % self.every == 0:
            os.kill(os.getpid(), signal.SIGKILL)
