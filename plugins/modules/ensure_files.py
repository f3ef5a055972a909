#!/usr/bin/python
"""Module: many files and directories in one call."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: ensure_files
short_description: Ensure the content, owner and mode of many files and directories
description:
  - Does what C(ansible.builtin.file), C(ansible.builtin.copy) and C(ansible.builtin.template) do in a loop, by one call
    of a module, which costs as much as each turn of that loop.
  - Files are replaced in one moment, in the order of the list.
options:
  directory:
    description: Where paths begin that are not absolute.
    type: str
  owner:
    description: Name of the owner, where a file names none.
    type: str
    default: root
  group:
    description: Name of the group, where a file names none.
    type: str
    default: root
  mode:
    description: Mode, such as "0644", where a file names none.
    type: str
  files:
    description: What is to be there. Without C(src), C(template) and C(content), a directory.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Its path.
        type: path
        required: true
      src:
        description: The content is a file of the control node, below C(files) of a role.
        type: str
      template:
        description: The content is a template, below C(templates) of a role; C(vars) are variables for it alone.
        type: str
      content:
        description: The content; from the action plugin to the module, in base64.
        type: str
      owner:
        description: Name of the owner.
        type: str
      group:
        description: Name of the group.
        type: str
      mode:
        description: Mode.
        type: str
author: MLflow on VMs contributors
"""

RETURN = r"""
paths:
  description: Paths of what was changed, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

FILE = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "no_log": True},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
    "mode": {"type": "str", "required": True},
}


def ensure(module: AnsibleModule, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """Ensure one file or directory.

    Args:
        module: Has the means to set owners, and knows whether this is check mode.
        wanted: As FILE has it; a directory if there is no content.

    Returns:
        What was changed, each as Ansible shows differences.
    """
    path = Path(wanted["path"])
    if wanted["content"] is not None:
        differences = ensure_content(module, path, base64.b64decode(wanted["content"]))
    else:
        differences = ensure_directory(module, path)
    if not path.exists():  # in check mode
        return differences
    attributes: dict[str, Any] = {"before": {"path": str(path)}, "after": {"path": str(path)}}
    given = {"path": str(path), "owner": wanted["owner"], "group": wanted["group"], "mode": wanted["mode"]}
    rest = {"attributes": None, "secontext": module.selinux_default_context(str(path))}
    if module.set_fs_attributes_if_different(given | rest, changed=False, diff=attributes):
        differences.append(attributes)
    return differences


def ensure_directory(module: AnsibleModule, path: Path) -> list[dict[str, Any]]:
    """Ensure that there is a directory."""
    if path.is_dir():
        return []
    if path.is_symlink() or path.exists():
        module.fail_json(msg=f"{path} is there, and no directory.")
    if not module.check_mode:
        path.mkdir(parents=True)
    return [{"before": {"path": str(path), "state": "absent"}, "after": {"path": str(path), "state": "directory"}}]


def ensure_content(module: AnsibleModule, path: Path, content: bytes) -> list[dict[str, Any]]:
    """Ensure what is in a file."""
    if path.is_dir():
        module.fail_json(msg=f"{path} is a directory; a file belongs there.")
    before = path.read_bytes() if path.is_file() else None
    if before == content:
        return []
    if not module.check_mode:
        if not path.parent.is_dir():
            module.fail_json(msg=f"{path.parent} is no directory; {path} belongs there.")
        with tempfile.NamedTemporaryFile(dir=module.tmpdir, delete=False) as new:
            new.write(content)
        module.atomic_move(new.name, str(path))
    text = (before or b"").decode("utf-8", "replace"), content.decode("utf-8", "replace")
    return [{"before_header": str(path), "before": text[0], "after_header": str(path), "after": text[1]}]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"files": {"type": "list", "elements": "dict", "required": True, "options": FILE}},
        supports_check_mode=True,
    )
    changed = {
        wanted["path"]: differences for wanted in module.params["files"] if (differences := ensure(module, wanted))
    }
    differences = [difference for each in changed.values() for difference in each]
    module.exit_json(changed=bool(changed), paths=list(changed), diff=differences)


if __name__ == "__main__":
    main()
