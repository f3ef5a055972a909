"""What every host gets; ports are tried from the two other hosts of the scenario."""

import json
from typing import Any

import pytest
import testinfra

LISTENERS = (8001, 8002, 8003)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Any:
    """The host whose ports are tried, with something listening on each of them."""
    server = testinfra.get_host("ansible://test-base", ansible_inventory=request.config.option.ansible_inventory)
    for port in LISTENERS:
        server.run(f"systemctl reset-failed listener-{port}; systemctl stop listener-{port}")
        server.check_output(f"systemd-run --unit=listener-{port} python3 -m http.server --bind :: {port}")
        reached = f"bash -c 'for i in $(seq 50); do : </dev/tcp/localhost/{port} && exit; sleep 0.2; done; exit 1'"
        server.run_expect([0], reached)
    yield server
    for port in LISTENERS:
        server.run(f"systemctl stop listener-{port}")


def address_of(server: Any, family: str) -> str:
    """Return an address of the server, with the interface by which a neighbour reaches it if it is link-local."""
    (interface,) = (i for i in json.loads(server.check_output("ip -json address show eth0")) if i)
    (address,) = (a["local"] for a in interface["addr_info"] if a["family"] == family)
    return f"{address}%eth0" if family == "inet6" else str(address)


def reaches(client: Any, address: str, port: int) -> bool:
    """Try a connection as a program on the client would."""
    program = f"import socket; socket.create_connection(('{address}', {port}), timeout=3)"
    result = client.run('python3 -c "%s"', program) if False else client.run(f'python3 -c "{program}"')
    assert result.rc == 0 or "timed out" in result.stderr, result.stderr
    return bool(result.rc == 0)


@pytest.mark.parametrize(
    ("port", "names"),
    [
        (22, {"test-base-allowed", "test-base-other"}),
        (8001, {"test-base-allowed", "test-base-other"}),
        (8002, {"test-base-allowed"}),
        (8003, set()),
    ],
)
def test_a_port_is_open_to_whom_it_is_named_for(host: Any, server: Any, port: int, names: set[str]) -> None:
    name = host.check_output("hostname")
    if name != "test-base":
        assert reaches(host, address_of(server, "inet"), port) is (name in names)
