"""Fixtures for tests of the training side: an environment of a test's own, and a server."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client_server import Server, running

SOURCE = Path(__file__).parents[1] / "client"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory and home, and no variable of MLflow; in the end, all is as it was before."""
    before = dict(os.environ)
    logger = logging.getLogger("mlflow_site")
    propagate, handlers = logger.propagate, list(logger.handlers)
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "DATABRICKS_", "AWS_")) or name in (
            "CURL_CA_BUNDLE",
            "NETRC",
            "REQUESTS_CA_BUNDLE",
        ):
            del os.environ[name]
    home = tmp_path / "home"
    home.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    os.environ["HOME"] = str(home)
    monkeypatch.chdir(work)
    yield work
    os.environ.clear()
    os.environ.update(before)
    logger.propagate, logger.handlers = propagate, handlers
    if "mlflow" in sys.modules:
        # The address is kept in MLflow's own module as well.
        sys.modules["mlflow"].set_tracking_uri(None)


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """MLflow with a login, over TLS."""
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server
