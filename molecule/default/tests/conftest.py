"""Fixtures of the tests that look at a whole site."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator

import pytest
import requests

from testing.deployment import Site


@pytest.fixture(scope="session")
def site() -> Site:
    """Return the deployed site."""
    return Site.from_environment()


@pytest.fixture
def admin(site: Site) -> Iterator[requests.Session]:
    """Yield a session of the administrator."""
    with site.session() as session:
        yield session


@pytest.fixture
def anonymous(site: Site) -> Iterator[requests.Session]:
    """Yield a session that is not logged in."""
    with site.anonymous() as session:
        yield session


@pytest.fixture
def user(site: Site, admin: requests.Session) -> Iterator[tuple[str, str]]:
    """Yield name and password of a user to whom nothing was granted."""
    name, password = f"user-{uuid.uuid4().hex}", secrets.token_urlsafe()
    users = f"{site.url}/api/2.0/mlflow/users"
    admin.post(f"{users}/create", json={"username": name, "password": password}, timeout=60).raise_for_status()
    yield name, password
    admin.delete(f"{users}/delete", json={"username": name}, timeout=60).raise_for_status()


@pytest.fixture
def client_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what a data scientist sets, and nothing else, for MLflow's own client."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    username, password = site.admin
    monkeypatch.setenv("MLFLOW_TRACKING_URI", site.url)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", username)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(site.ca_file))
