"""Cut a run off after a task, as a control node does that loses its power."""

from __future__ import annotations

import os
import signal
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: cut_off
    type: aggregate
    short_description: Kills the run after a task
    description:
      - Kills C(ansible-playbook) after as many tasks as the environment variable E(CUT_OFF_AFTER) says, of which the
        first is the first that changed something. Without the variable it does nothing.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Count the tasks that were run, from the first change on."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "cut_off"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        """Start with nothing changed."""
        super().__init__()
        self._after = int(os.environ.get("CUT_OFF_AFTER", "0"))
        self._count = 0

    def v2_runner_on_ok(self, result: Any) -> None:
        """Count a task, and end it all if it was the one; Ansible calls this after each success on a host."""
        self._count += self._count > 0 or result.is_changed()
        if self._after and self._count == self._after:
            # Straight to the file: nothing flushes what a killed process has not written.
            os.write(1, f"\ncut off after {result.task.get_name()}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
