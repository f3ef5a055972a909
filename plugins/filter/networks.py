"""Filters that judge addresses and networks in CIDR notation."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any


def network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the network or single address that a value names, or None."""
    try:
        # A number would be taken for an address, and "10.0.0.1/24" names a host and a network at once.
        return ipaddress.ip_network(value) if isinstance(value, str) else None
    except ValueError:
        return None


def networks_invalid(values: Iterable[object]) -> list[object]:
    """Return those values that are neither an address nor a network."""
    return [value for value in values if network(value) is None]


def networks_containing(values: Iterable[object], address: str) -> list[object]:
    """Return those networks that an address is in."""
    # The scope of a link-local address (fe80::1%eth0) is no part of any network.
    wanted = ipaddress.ip_address(address.partition("%")[0])
    return [value for value in values if (found := network(value)) is not None and wanted in found]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"networks_containing": networks_containing, "networks_invalid": networks_invalid}
