#!/usr/bin/python
"""Ansible module: secrets kept as files that only their owner can read."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import string
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: secret_files
short_description: Read secrets from files, and make those that are missing
description:
  - Keeps each secret in a file of its own, mode 0600, in a directory with mode 0700.
  - A missing secret is made of random letters and digits. A file that is there is never changed.
  - A file appears whole or not at all, so that a run that was cut off can be started again; of two runs at
    once, both get the value of the one that was first.
  - A file or directory that cannot be trusted is reported in C(problems) and nothing is made. The module
    itself succeeds then, for its caller sets C(no_log), which would hide the reason of a failure.
  - In check mode nothing is written, and the missing secrets get values that last for this run.
options:
  directory:
    description: Absolute path of the directory that holds the files.
    type: path
    required: true
  lengths:
    description: What is needed; for each name of a secret, the length that it gets when it has to be made.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
author: MLflow on VMs contributors
"""

EXAMPLES = r"""
- name: Read the secrets
  secret_files:
    directory: /srv/site/.generated/secrets
    lengths:
      admin_password: 32
  register: __site_files
  no_log: true
"""

RETURN = r"""
values:
  description: The secrets by name; empty when there are problems.
  type: dict
  returned: always
created:
  description: Names of the secrets that were made in this run, or would be in check mode.
  type: list
  elements: str
  returned: always
problems:
  description: One sentence for each file or directory that cannot be used, with its remedy.
  type: list
  elements: str
  returned: always
"""

LENGTH_MIN = 16
ALPHABET = string.ascii_letters + string.digits


class Refused(Exception):
    """What is on disk cannot be used as a secret; the message says why and what to do."""


def generate(length: int) -> str:
    """Return a random secret that needs no quoting in any configuration file, URL or shell."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def read(path: Path) -> str:
    """Return the secret that a file holds."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"{path} is not a regular file; remove it to have a secret made.")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise Refused(f"{path} is open to others than its owner; run `chmod 600 {path}`.")
        content = file.read().decode("utf-8", "replace").rstrip("\r\n")
    if len(content) < LENGTH_MIN:
        has = f"holds {len(content)} characters" if content else "is empty"
        raise Refused(f"{path} {has}; write a secret of at least {LENGTH_MIN} into it, or remove it to have one made.")
    # Spaces, line breaks and other scripts mean different things to each program that reads the secret.
    if not (content.isascii() and content.isprintable()) or " " in content:
        raise Refused(f"{path} holds more than one word of printable ASCII; write the secret alone into it.")
    return content


def check_directory(directory: Path) -> None:
    """Refuse a directory that lets others in; tightening it could break what else it is used for."""
    if directory.exists() and not directory.is_dir():
        raise Refused(f"{directory} is not a directory; remove it or name another.")
    if directory.exists() and stat.S_IMODE(directory.stat().st_mode) & 0o077:
        raise Refused(f"{directory} is open to others than its owner; run `chmod 700 {directory}`.")


def make_directory(directory: Path) -> None:
    """Create the directory for its owner alone, kept out of whatever Git repository it lies in."""
    if directory.exists():
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / ".gitignore").write_text("*\n")


def create(path: Path, value: str) -> None:
    """Put a secret into a new file, in one step; an existing file stays as it is."""
    # mkstemp gives mode 0600; the link makes the whole file visible, and fails where another was faster.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{value}\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        Path(temporary).unlink()


def resolve(directory: Path, lengths: dict[str, int], *, check_mode: bool) -> dict[str, object]:
    """Return the values by name, the names that were missing, and what stands in the way."""
    values: dict[str, str] = {}
    missing: list[str] = []
    problems: list[str] = []
    try:
        check_directory(directory)
    except Refused as refusal:
        return {"values": {}, "created": [], "problems": [str(refusal)]}

    for name in sorted(lengths):
        try:
            values[name] = read(directory / name)
        except FileNotFoundError:
            missing.append(name)
        except Refused as refusal:
            problems.append(str(refusal))
        except OSError as error:
            problems.append(f"{directory / name} cannot be read: {error.strerror}.")
    if problems:
        return {"values": {}, "created": [], "problems": problems}

    for name in missing:
        values[name] = generate(int(lengths[name]))
        if not check_mode:
            make_directory(directory)
            create(directory / name, values[name])
            values[name] = read(directory / name)
    return {"values": values, "created": missing, "problems": []}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "lengths": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    os.umask(0o077)
    result = resolve(Path(module.params["directory"]), module.params["lengths"], check_mode=module.check_mode)
    module.exit_json(changed=bool(result["created"]), **result)


if __name__ == "__main__":
    main()
