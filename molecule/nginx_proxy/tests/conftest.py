"""How the tests of the proxy reach it, from outside and with the CA certificate that the role fetched."""

import http.client
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from testinfra.host import Host

from testing.limits import limit


@pytest.fixture(scope="session")
def ca_file() -> Path:
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "ca.pem")


def trusting(ca_file: Path) -> ssl.SSLContext:
    """Trust this CA and no other, and be as strict as newer Pythons are.

    A new one for each client, which writes into it what HTTP it speaks.
    """
    context = ssl.create_default_context(cafile=str(ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


@pytest.fixture
def address(host: Host) -> str:
    return str(host.ansible.get_variables()["ansible_host"])


@pytest.fixture
def client(address: str, ca_file: Path) -> Iterator[httpx.Client]:
    """Speak HTTP/2 to the proxy as a user that it knows."""
    with httpx.Client(
        base_url=f"https://{address}",
        verify=trusting(ca_file),
        http2=True,
        auth=("bob", "battery staple"),
        timeout=limit(60),
    ) as opened:
        yield opened


@pytest.fixture
def nobody(address: str, ca_file: Path) -> Iterator[httpx.Client]:
    """Speak HTTP/1.1 to it without logging in."""
    with httpx.Client(base_url=f"https://{address}", verify=trusting(ca_file), timeout=limit(60)) as opened:
        yield opened


@pytest.fixture
def connection(address: str, ca_file: Path) -> Iterator[http.client.HTTPSConnection]:
    """Speak HTTP/1.1 to it byte by byte."""
    opened = http.client.HTTPSConnection(address, context=trusting(ca_file), timeout=limit(60))
    yield opened
    opened.close()
