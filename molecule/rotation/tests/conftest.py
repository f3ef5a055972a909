"""Fixtures of the tests that renew secrets under load."""

from __future__ import annotations

import secrets
import time

import pytest
from testinfra.host import Host

from testing.deployment import Login, Site


@pytest.fixture(scope="session")
def site() -> Site:
    """Return the site, on the host that also has the database."""
    return Site.from_environment()


@pytest.fixture(scope="session")
def other(site: Site) -> Site:
    """Return the same site on its other host."""
    return site.other()


@pytest.fixture(scope="session")
def writer(site: Site) -> Login:
    """Return a user whose password no test renews. No login of the administrator outlives a rotation."""
    login = f"writer-{time.time_ns()}", secrets.token_urlsafe()
    with site.session() as session:
        body = {"username": login[0], "password": login[1]}
        session.post(f"{site.url}/api/2.0/mlflow/users/create", json=body, timeout=60).raise_for_status()
    return login


@pytest.fixture(scope="session")
def hosts(site: Site, other: Site) -> list[Host]:
    """Return both hosts, the one with the database first."""
    return [each.connection() for each in (site, other)]
