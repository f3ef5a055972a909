"""Fixtures that more than one module of tests asks for."""

import boto3
import pytest

pytest_plugins = ["tests.client", "tests.database", "tests.stores"]


@pytest.fixture(autouse=True)
def own_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let boto3 log in as this test says: its default session keeps the login that it was first made with."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
