"""Filter that turns a password into the verifier that PostgreSQL stores for it."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: scram_sha_256_verifier
short_description: The SCRAM-SHA-256 verifier of a PostgreSQL password
description:
  - Computes on the control node what PostgreSQL would store, so that the password itself never reaches the
    server, its log or a statement.
  - The same input gives the same verifier, so that a task that sends it changes nothing when the password is
    the same.
positional: _input, role
options:
  _input:
    description: The password, of printable ASCII characters.
    type: str
    required: true
  role:
    description: The name of the role that has the password.
    type: str
    required: true
  server:
    description: What tells this server from others, such as the system identifier of its cluster. Not secret.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Set a password without showing it to the server
  community.postgresql.postgresql_user:
    name: app
    password: "{{ app_password | scram_sha_256_verifier('app', server=system_identifier) }}"
  no_log: true
"""

RETURN = r"""
_value:
  description: The verifier, C(SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>).
  type: str
"""

ITERATIONS = 4096
SALT_BYTES = 16


def scram_sha_256_verifier(password: str, role: str, server: str = "") -> str:
    """Return the SCRAM-SHA-256 verifier of a role's password, as PostgreSQL stores it.

    The salt is derived from the server and the role, and not from the password: a server sends the salt to
    whoever begins a login, and one made from the password would let anybody test guesses against it offline.

    RFC 5802 wants the password prepared by SASLprep, which leaves printable ASCII as it is. Anything else is
    refused, so that client and server cannot come to differ over it.
    """
    if not isinstance(password, str) or not password:
        raise AnsibleFilterError(f"The password of {role} is empty or no string.")
    if not (password.isascii() and password.isprintable()):
        raise AnsibleFilterError(f"The password of {role} has characters other than printable ASCII.")
    salt = hashlib.sha256(f"{server}\0{role}".encode()).digest()[:SALT_BYTES]
    return verifier(password, salt)


def verifier(password: str, salt: bytes) -> str:
    """Return the verifier of a password with a given salt.

    The keys are those of RFC 5802, section 3, with SHA-256 as RFC 7677 has it. The iterations and the
    form ``SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`` are those of ``pg_authid.rolpassword``.
    """
    salted_password = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, ITERATIONS)
    client_key = hmac.digest(salted_password, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted_password, b"Server Key", "sha256")
    in_base64 = [b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return "SCRAM-SHA-256${}:{}${}:{}".format(ITERATIONS, *in_base64)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return the filters by name."""
        return {"scram_sha_256_verifier": scram_sha_256_verifier}
