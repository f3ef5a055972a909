"""Tell at the end of a run what it changed, by host, so that nobody has to read the log for it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: changes
    type: aggregate
    short_description: Names the tasks that changed something
    description:
      - After the recap, prints for each host the tasks that reported a change, or that nothing changed.
    requirements:
      - enabled in the configuration, C(callbacks_enabled = changes)
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Collect the names of changed tasks and print them after the recap."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "changes"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        """Start with nothing changed."""
        super().__init__()
        self._changed: dict[str, list[str]] = defaultdict(list)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Remember a task that changed something; Ansible calls this after each success on a host."""
        if result.is_changed():
            name = result.task.get_name()
            host = result.host.get_name()
            if name not in self._changed[host]:
                self._changed[host].append(name)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print what was remembered; Ansible calls this once, at the end.

        Args:
            stats: Counts by host, of which only the hosts' names are of use here.
        """
        self._display.banner("CHANGES")
        for host in sorted(stats.processed):
            names = self._changed.get(host)
            self._display.display(f"{host}: " + ("nothing" if not names else ""))
            for name in names or []:
                self._display.display(f"  {name}")
