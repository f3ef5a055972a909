"""Callback that writes why each host of a run was refused, for tests that run a role for many sets of values.

REFUSALS_FILE names the file: JSON with the message of the first failed task of each host that failed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: refusals
type: aggregate
short_description: Write the message of the first failed task of each host
description:
  - Writes JSON to the file that the environment variable REFUSALS_FILE names. Only for tests.
options: {}
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible has no types
    """Collects messages and writes them at the end of the run."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "refusals"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        """Start with no message."""
        super().__init__()
        self.messages: dict[str, str] = {}

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Remember the message of a task, or of the first failed item of its loop."""
        content = result._result
        failed = [item for item in content.get("results", [content]) if item.get("failed")]
        self.messages.setdefault(result._host.get_name(), str(failed[0]["msg"] if failed else content["msg"]))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write the messages."""
        Path(os.environ["REFUSALS_FILE"]).write_text(json.dumps(self.messages), encoding="utf-8")
