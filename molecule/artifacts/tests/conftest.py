"""Fixtures of the tests that keep artifacts in each store in turn."""

from __future__ import annotations

import secrets
import signal
import uuid
from collections.abc import Iterator

import pytest
from mlflow import MlflowClient
from testinfra.host import Host

from testing.artifact_stores import CUT_OFF, FIRST, STORES, ArtifactStore, Move, artifact_store, log_runs
from testing.cloud import Cloud
from testing.deployment import Login, Site
from testing.load import load
from testing.sampling import pick

MOVE = "playbooks/move_artifacts.yml"
# Runs with an artifact each: those before the first move, which come along on the others, and those that are added.
MOVED_RUNS = pick(60, 200)
ADDED_RUNS = pick(20, 50)
# The container hosts' side of the network that they share with this machine.
GATEWAY = "10.89.64.1"


@pytest.fixture(scope="session")
def site() -> Site:
    """Return the deployed site."""
    return Site.from_environment()


@pytest.fixture(scope="session")
def server(site: Site) -> Host:
    """Return its host, also to fixtures that live longer than a test."""
    return site.connection()


@pytest.fixture(scope="session")
def cloud(site: Site, server: Host) -> Iterator[Cloud]:
    """Yield a cloud that the host reaches under the public names."""
    with Cloud.start(site.state / "cloud", "--listen", f"{GATEWAY}:443") as running:
        names = " ".join(running.names("mlflow-artifacts-test"))
        server.run_test(f"echo {GATEWAY} {names} >>/etc/hosts")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in running.environment.items():
                patch.setenv(name, value)
            yield running


@pytest.fixture(scope="session")
def logged() -> dict[str, bytes]:
    """Return what was logged through the server before any of the moves: content by address."""
    return {}


@pytest.fixture(scope="session", params=STORES)
def move(request: pytest.FixtureRequest, site: Site, cloud: Cloud, logged: dict[str, bytes]) -> Move:
    """Take the site to each store in turn, with what it had before and with clients at work."""
    there = artifact_store(request.param, cloud)
    first = request.param in FIRST
    logged.update(log_runs(site, MOVED_RUNS if first else ADDED_RUNS))
    removed: list[str] = []
    with load(site, f"move-{request.param}") as account:
        if first:
            trusted = there.deploy(site, cloud, "playbooks/base.yml")
            assert trusted.returned == 0, trusted.output[-5000:]
        # As an operator begins, before there is a bucket.
        shown = there.deploy(site, cloud, MOVE, "--check", "--diff") if first else None
        refused = there.deploy(site, cloud) if first else None
        if request.param == CUT_OFF:
            removed = cut_off(there, site, cloud, logged)
        done = there.deploy(site, cloud, MOVE)
        assert done.returned == 0, done.output[-5000:]
    again = there.deploy(site, cloud, MOVE) if first else None
    return Move(there, dict(logged), account, done, removed, refused, shown, again)


def cut_off(there: ArtifactStore, site: Site, cloud: Cloud, logged: dict[str, bytes]) -> list[str]:
    """Kill a move right after the server has gone over, and have clients change artifacts there.

    Returns:
        Addresses of the artifacts that they have removed.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INTERRUPT_NOTES", str(site.state / "interrupted"))
        patch.setenv("INTERRUPT_AT", "Switch | Make it the active one")
        run = there.deploy(site, cloud, MOVE)
    assert run.returned == -signal.SIGKILL, run.output[-5000:]
    overwritten, removed = list(logged)[:2]
    logged[overwritten] = b"written after the switch"
    with site.session() as session:
        session.put(overwritten, data=logged[overwritten], timeout=60).raise_for_status()
        session.delete(removed, timeout=60).raise_for_status()
    del logged[removed]
    return [removed]


@pytest.fixture(scope="session")
def store(move: Move) -> ArtifactStore:
    """Return each store, which the site uses."""
    return move.store


@pytest.fixture
def client(site: Site, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Return MLflow's own client, with what a data scientist sets and nothing else."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    username, password = site.admin
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", username)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(site.ca_file))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", site.url)
    return MlflowClient(site.url)


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    """Return a new run in an experiment of its own."""
    experiment = client.create_experiment(f"artifacts-{uuid.uuid4().hex}")
    return str(client.create_run(experiment).info.run_id)


@pytest.fixture
def user(site: Site) -> Iterator[Login]:
    """Yield a user to whom nothing was granted."""
    login = f"user-{uuid.uuid4().hex}", secrets.token_urlsafe()
    users = f"{site.url}/api/2.0/mlflow/users"
    with site.session() as admin:
        body = {"username": login[0], "password": login[1]}
        admin.post(f"{users}/create", json=body, timeout=60).raise_for_status()
        yield login
        admin.delete(f"{users}/delete", json={"username": login[0]}, timeout=60).raise_for_status()


@pytest.fixture(scope="session")
def made_directly() -> dict[str, bytes]:
    """Return what clients with a login of their own have logged to a store: content by run."""
    return {}
