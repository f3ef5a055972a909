"""What every host gets; ports are tried from the two other hosts of the scenario."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import testinfra

OPEN, RESTRICTED, CLOSED = 8001, 8002, 8003
EVERYBODY = {"test-base-allowed", "test-base-other"}


def get_host(request: pytest.FixtureRequest, name: str) -> Any:
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=request.config.option.ansible_inventory)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The host whose ports are tried, with something that listens on each of them."""
    server = get_host(request, "test-base")
    for port in (OPEN, RESTRICTED, CLOSED):
        server.run(f"systemctl stop listener-{port}")
        server.check_output(f"systemd-run --unit=listener-{port} python3 -m http.server --bind :: {port}")
        wait = f"for i in $(seq 100); do : < /dev/tcp/::1/{port} && exit 0; sleep 0.1; done; exit 1"
        server.run_expect([0], f"bash -c '{wait}'")
    yield server
    for port in (OPEN, RESTRICTED, CLOSED):
        server.run(f"systemctl stop listener-{port}")


def address_of(server: Any, family: str) -> str:
    """Return the server's address; the one of IPv6 is link-local, and so names the neighbour's interface."""
    interfaces = json.loads(server.check_output("ip -json address show dev eth0"))
    (address,) = (a["local"] for i in interfaces for a in i["addr_info"] if a["family"] == family)
    return f"{address}%eth0" if family == "inet6" else str(address)


def reaches(client: Any, address: str, port: int) -> bool:
    """Connect as a program on the client would; a packet that is dropped shows as a timeout."""
    program = f"import socket; socket.create_connection(('{address}', {port}), timeout=2)"
    result = client.run("python3 -c %s", program)
    assert result.rc == 0 or "timed out" in result.stderr, result.stderr
    return bool(result.rc == 0)


@pytest.mark.parametrize(
    ("family", "port", "names"),
    [
        ("inet", 22, EVERYBODY),
        ("inet", OPEN, EVERYBODY),
        ("inet", RESTRICTED, {"test-base-allowed"}),
        ("inet", CLOSED, set()),
        ("inet6", 22, EVERYBODY),
        ("inet6", OPEN, EVERYBODY),
        ("inet6", RESTRICTED, set()),
        ("inet6", CLOSED, set()),
    ],
)
@pytest.mark.parametrize("client", sorted(EVERYBODY))
def test_a_port_is_open_to_those_it_is_named_for(
    request: pytest.FixtureRequest, server: Any, client: str, family: str, port: int, names: set[str]
) -> None:
    assert reaches(get_host(request, client), address_of(server, family), port) is (client in names)


def test_the_rules_survive_what_a_boot_does(request: pytest.FixtureRequest, server: Any) -> None:
    rules = server.check_output("nft list table inet mlflow_site")
    assert server.service("nftables").is_enabled
    server.check_output("nft delete table inet mlflow_site")
    server.check_output("systemctl restart nftables")
    assert server.check_output("nft list table inet mlflow_site") == rules
    other = get_host(request, "test-base-other")
    assert reaches(other, address_of(server, "inet"), OPEN)
    assert not reaches(other, address_of(server, "inet"), CLOSED)


def test_loading_the_rules_leaves_the_tables_of_others_alone(server: Any) -> None:
    rules = server.check_output("nft list table inet mlflow_site")
    server.check_output("nft add table inet somebody_else")
    server.check_output("nft --file /etc/mlflow-site.nft")
    assert "somebody_else" in server.check_output("nft list tables")
    server.check_output("nft delete table inet somebody_else")
    assert server.check_output("nft list table inet mlflow_site") == rules


def test_the_host_answers_a_ping_and_reaches_out(server: Any) -> None:
    # getent asks a name server, whose answer has to come in.
    server.check_output("getent ahosts test-base-other")
    assert reaches(server, "test-base-other", 22)


def test_an_added_authority_is_trusted(host: Any) -> None:
    authority = "/usr/local/share/ca-certificates/mlflow-site/converge-ca.crt"
    host.check_output(f"openssl verify -CAfile /etc/ssl/certs/ca-certificates.crt {authority}")
    alone = host.run(f"openssl verify -no-CApath -no-CAfile -no-CAstore {authority}")
    assert "self-signed certificate" in alone.stderr


def test_nothing_but_security_updates_is_installed(host: Any) -> None:
    release = host.system_info.codename
    said = host.check_output("unattended-upgrade --dry-run --debug --verbose 2>&1")
    (origins,) = (line for line in said.splitlines() if line.startswith("Allowed origins are: "))
    wanted = f"origin=Debian,codename={release}-security,label=Debian-Security"
    assert origins.removeprefix("Allowed origins are: ") == wanted
    (blacklist,) = (line for line in said.splitlines() if line.startswith("Initial blacklist: "))
    assert blacklist.removeprefix("Initial blacklist: ") == "postgresql"
    assert host.service("apt-daily-upgrade.timer").is_enabled
    settings = host.check_output("apt-config dump APT::Periodic::Unattended-Upgrade")
    assert settings == 'APT::Periodic::Unattended-Upgrade "1";'


def test_the_host_does_not_reboot_by_itself(host: Any) -> None:
    setting = host.check_output("apt-config dump Unattended-Upgrade::Automatic-Reboot")
    assert setting == 'Unattended-Upgrade::Automatic-Reboot "false";'


def test_time_is_kept_where_the_host_has_a_clock(host: Any) -> None:
    assert host.service("chrony").is_enabled
    in_container = host.run("systemd-detect-virt --container").rc == 0
    assert host.service("chrony").is_running is not in_container
    # chronyd reads all of its settings and says what is wrong with them.
    settings = host.check_output("chronyd -p")
    assert (
        "server time.example.com iburst prefer" in host.file("/etc/chrony/sources.d/mlflow-site.sources").content_string
    )
    assert "sourcedir /etc/chrony/sources.d" in settings
