"""Action plugin: one task for the operations of every store of secrets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

DOCUMENTATION = r"""
module: secret_store
short_description: Read, make, rotate and lock the secrets of a site, wherever they are kept
description:
  - Runs C(secret_store_<provider>), a module of the control node; a file in C(plugins/modules) is a provider.
  - A secret is never an argument. Values are made within the module, of random letters and digits.
  - What stands in the way is told in C(problems), and the task succeeds, for its caller sets C(no_log), which would
    hide the reason of a failure.
options:
  provider:
    description: Where the secrets are kept.
    required: true
  options:
    description: What that provider takes.
    type: dict
    required: true
  operation:
    description:
      - C(validate) checks the options and names, and asks nothing of the store.
      - C(read) returns what there is.
      - C(create) makes a current version of each name that has none; one that is there is never changed. In check mode
        the missing ones get values that last for this run. A missing one with C(given) is a problem.
      - C(pend) makes a pending version of each name that has none. Readers still get the current one.
      - C(promote) makes the pending version current, and the current one previous. C(discard) drops the pending one.
        Without a pending version they change nothing.
      - C(lock) keeps other runs out, C(unlock) lets them in. A lock ends with its time, and with its process as far as
        that was one of this machine. C(look) refuses only while another holds the lock, for who may not write.
    choices: [validate, read, create, pend, promote, discard, lock, unlock, look]
    required: true
  names:
    description: By name of a secret, C(length) and C(prefix) of what is made, or C(given) for what never is.
    type: dict
    default: {}
  history:
    description: With C(read), tell of pending and previous versions even where that needs a further permission.
    type: bool
    default: false
  ttl:
    description: With C(lock), for how many minutes.
    type: int
    default: 60
  break:
    description: With C(lock), take it even if another holds it.
    type: bool
    default: false
author: MLflow on VMs contributors
"""

RETURN = r"""
secrets:
  description: >-
    By name, C(current), C(pending) and C(previous), each null or with C(version) and C(created), the first two with
    C(value) as well; empty when there are problems.
  type: dict
  returned: always
versions:
  description: By name, C(version) and C(created) of the current version, and C(previous); no values.
  type: dict
  returned: always
created:
  description: Names of the secrets that were made, or would be in check mode.
  type: list
  elements: str
  returned: always
lock:
  description: Who holds the lock, C(owner), C(since) and C(expires); null when nobody does, or nobody asked.
  type: dict
  returned: always
problems:
  description: One sentence for each thing that stands in the way, with its remedy.
  type: list
  elements: str
  returned: always
"""

MODULES = Path(__file__).resolve().parents[1] / "modules"
PREFIX = "secret_store_"


def providers() -> list[str]:
    """Return the names of the providers that there are."""
    return sorted(path.stem.removeprefix(PREFIX) for path in MODULES.glob(f"{PREFIX}*.py"))


class ActionModule(ActionBase):  # type: ignore[misc]
    """Find the provider's module, and tell it which process asks."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module.

        Args:
            tmp: Unused; Ansible passes it.
            task_vars: Variables of the task.

        Returns:
            What the module returned.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        provider = arguments.pop("provider", "")
        if provider not in providers():
            known = ", ".join(providers())
            sentence = f"secrets_provider is {json.dumps(provider, default=str)}; it takes one of: {known}."
            nothing: dict[str, Any] = {"secrets": {}, "versions": {}, "created": [], "lock": None}
            return {**result, **nothing, "changed": False, "problems": [sentence]}
        # A worker of ansible-playbook runs this and ends with its task; its parent is the run that holds the lock.
        arguments["process"] = os.getppid()
        module = f"{PREFIX}{provider}"
        return {**result, **self._execute_module(module_name=module, module_args=arguments, task_vars=task_vars)}
