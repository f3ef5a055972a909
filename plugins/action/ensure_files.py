"""Action plugin: reads what the module `ensure_files` puts in place, which is documented there."""

from __future__ import annotations

import base64
import posixpath
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

SOURCES = ("src", "template", "content")
OF_ALL = ("owner", "group", "mode")


class ActionModule(ActionBase):  # type: ignore[misc]
    """Hand the content of all files to the module."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module on the host.

        Args:
            tmp: Not used.
            task_vars: Variables of the host.

        Returns:
            The result of the module.
        """
        result: dict[str, Any] = super().run(tmp, task_vars)
        files = [self._completed(wanted, task_vars or {}) for wanted in self._task.args["files"]]
        result |= self._execute_module(module_name="ensure_files", module_args={"files": files}, task_vars=task_vars)
        return result

    def _completed(self, wanted: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Return what the module takes of one file: what holds for all, and its content in place of where that is."""
        if sum(name in wanted for name in SOURCES) > 1:
            raise AnsibleActionFail(f"{wanted.get('path')} takes its content from one of {', '.join(SOURCES)}.")
        of_all = {name: self._task.args[name] for name in OF_ALL if name in self._task.args}
        rest = {name: value for name, value in wanted.items() if name not in (*SOURCES, "vars")}
        path = posixpath.join(self._task.args.get("directory", "/"), wanted["path"])
        content = self._content(wanted, variables)
        encoded = {} if content is None else {"content": base64.b64encode(content).decode()}
        return of_all | rest | {"path": path} | encoded

    def _content(self, wanted: dict[str, Any], variables: dict[str, Any]) -> bytes | None:
        """Return the content of a file, or None for a directory."""
        if "src" in wanted:
            return Path(self._find_needle("files", wanted["src"])).read_bytes()
        if "template" in wanted:
            path = Path(self._find_needle("templates", wanted["template"]))
            templar = self._templar.copy_with_new_env(available_variables={**variables, **wanted.get("vars", {})})
            return str(templar.template(trust_as_template(path.read_text()), escape_backslashes=False)).encode()
        return str(wanted["content"]).encode() if "content" in wanted else None
