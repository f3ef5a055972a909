"""The role `base` does not shut out the connection by which it is run."""

from typing import Any

import pytest

from tests.rows import run_rows

# As sshd would set it: from this address, to port 2222.
SSH_CONNECTION = {"SSH_CONNECTION": "198.51.100.7 50000 192.0.2.1 2222"}
ROWS: dict[str, dict[str, Any]] = {
    "anyone": {"base_firewall_ssh_sources": []},
    "included": {"base_firewall_ssh_sources": ["10.0.0.0/8", "198.51.100.0/24"]},
    "excluded": {"base_firewall_ssh_sources": ["10.0.0.0/8", "2001:db8::/32"]},
    "excluded-and-off": {"base_firewall_ssh_sources": ["10.0.0.0/8"], "base_firewall_enabled": False},
}
REFUSAL = (
    'base_firewall_ssh_sources is ["10.0.0.0/8", "2001:db8::/32"]; '
    "it takes a list that includes 198.51.100.7, from which this run comes, or []."
)


@pytest.fixture(scope="module")
def refusals() -> dict[str, str]:
    return run_rows("base", ROWS, environment=SSH_CONNECTION)[0]


def test_networks_without_the_control_node_are_refused(refusals: dict[str, str]) -> None:
    assert refusals == {"anyone": "", "included": "", "excluded": REFUSAL, "excluded-and-off": ""}


def test_without_ssh_there_is_nothing_to_shut_out() -> None:
    assert run_rows("base", {"excluded": ROWS["excluded"]})[0] == {"excluded": ""}
