"""The filters that judge networks."""

import pytest

from plugins.filter.networks import networks_containing, networks_invalid


@pytest.mark.parametrize("value", ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1", "0.0.0.0/0"])
def test_an_address_or_network_is_valid(value: str) -> None:
    assert networks_invalid([value]) == []


@pytest.mark.parametrize("value", ["10.0.0.1/8", "10.0.0.0/33", "host.example", "", 5, None, ["10.0.0.0/8"]])
def test_anything_else_is_not(value: object) -> None:
    assert networks_invalid(["10.0.0.0/8", value]) == [value]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.1.2.3", ["10.0.0.0/8"]),
        ("192.0.2.7", ["192.0.2.7"]),
        ("fe80::1%eth0", ["fe80::/10"]),
        ("172.16.0.1", []),
    ],
)
def test_networks_that_hold_an_address_are_found(address: str, expected: list[str]) -> None:
    assert networks_containing(["10.0.0.0/8", "192.0.2.7", "fe80::/10"], address) == expected
