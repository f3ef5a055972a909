"""Fixtures that more than one module of tests asks for, and the marker of tests that need more than Python."""

import boto3
import pytest

pytest_plugins = ["testing.sampling", "tests.client", "tests.database", "tests.stores"]

# Fixtures that start a service: PostgreSQL, an emulated cloud, MLflow.
SERVICES = {"cloud", "connection", "endpoint", "mlflow_server", "postgresql", "running", "server"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a service, so that `make check` leaves them out."""
    for item in items:
        if SERVICES & set(getattr(item, "fixturenames", ())):
            item.add_marker("system")


@pytest.fixture(autouse=True)
def own_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let boto3 log in as this test says: its default session keeps the login that it was first made with."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
