"""Action plugin: many assertions in one task.

A task costs a process of its own and the templating of all its arguments, however little it does, and the checks of all
roles were a third of the tasks of a run that changes nothing. A check reads as a task of `ansible.builtin.assert` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

DOCUMENTATION = r"""
module: check_values
short_description: Refuse wrong values, with one sentence
description:
  - Looks at one check after the other, and fails with the sentence of the first that does not hold.
  - Changes nothing, and asks nothing of the host.
options:
  checks:
    description:
      - C(name) says what is checked, C(that) is what must hold, one expression or a list, C(fail_msg) the sentence.
      - C(loop), C(index_var), C(vars) and C(when) mean what they mean for a task; the variable of a loop is C(item).
    type: list
    elements: dict
    required: true
author: MLflow on VMs contributors
"""

KEYS = {"name", "that", "fail_msg", "loop", "index_var", "vars", "when"}
NEEDED = {"name", "that", "fail_msg"}


def listed(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as a list of one."""
    return value if isinstance(value, list) else [value]


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Look at checks until one does not hold."""

    _requires_connection = False
    _supports_check_mode = True

    @classmethod
    def finalize_task_arg(cls, name: str, value: Any, templar: Any, context: Any) -> Any:
        """Leave the checks as they are written: each is filled in when its turn comes, with what its loop has then."""
        return value if name == "checks" else super().finalize_task_arg(name, value, templar, context)

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Look at the checks.

        Args:
            tmp: Not used.
            task_vars: Variables of the host.

        Returns:
            The result of the task: with `msg` of the check that does not hold, and its name as `check`.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        for check in self._task.args["checks"]:
            if not NEEDED <= check.keys() <= KEYS:
                raise AnsibleActionFail(f"a check has {sorted(check)}; it takes {sorted(NEEDED)} and of {sorted(KEYS)}")
            for variables in self._turns(check, task_vars or {}):
                refusal = self._refusal(check, variables)
                if refusal is not None:
                    return result | {"failed": True, "msg": refusal, "check": check["name"]}
        return result | {"changed": False}

    def _turns(self, check: Mapping[str, Any], variables: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the variables of each turn of a check's loop."""
        own = {**variables, **check.get("vars", {})}
        if "loop" not in check:
            yield own
            return
        items = self._templar.copy_with_new_env(available_variables=own).template(check["loop"])
        for index, item in enumerate(items):
            yield {**own, "item": item, check.get("index_var", "ansible_index"): index}

    def _refusal(self, check: Mapping[str, Any], variables: dict[str, Any]) -> str | None:
        """Return what a check has to say, or None if it holds."""
        templar = self._templar.copy_with_new_env(available_variables=variables)
        if not all(templar.evaluate_conditional(when) for when in listed(check.get("when", True))):
            return None
        if all(templar.evaluate_conditional(that) for that in listed(check["that"])):
            return None
        return str(templar.template(check["fail_msg"]))
