"""A store, a disk or a client that fails: what others do is not touched, and the one who asked is told."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from testinfra.host import Host

from testing.artifact_stores import FIRST_OR_ALL, ArtifactStore
from testing.cloud import Cloud
from testing.deployment import Site, active_colour
from testing.limits import limit, wait_until
from testing.load import load, wait_until_written
from testing.sampling import pick

# Google's library tries each request for two minutes, which takes long where all stores are asked for.
pytestmark = pytest.mark.parametrize("move", FIRST_OR_ALL, indirect=True)

MEGABYTE = 2**20
TEMPORARY = "/var/lib/mlflow/tmp"
CROWD = 50
# Of each file of the crowd, which is larger than what a store takes in one piece.
CROWD_MEGABYTES = pick(10, 20)


@pytest.fixture(autouse=True)
def workers_stay(server: Host, store: ArtifactStore, cloud: Cloud) -> Iterator[None]:
    """Heal the cloud after each test, and see that no worker was lost in it."""
    del store
    master = server.check_output(f"systemctl show -P MainPID mlflow@{active_colour(server)}")
    before = server.check_output(f"pgrep --parent {master}")
    yield
    cloud.heal()
    assert server.check_output(f"pgrep --parent {master}") == before


@pytest.fixture
def address(client: MlflowClient, run_id: str, site: Site) -> str:
    """Return where the artifacts of a new run are, as the client asks for them."""
    experiment = client.get_run(run_id).info.experiment_id
    return f"{site.url}/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run_id}/artifacts"


def answer(response: requests.Response) -> tuple[int, str]:
    """Return status and message of an answer."""
    return response.status_code, response.json().get("message", "")


@pytest.mark.parametrize("kind", ["down", "error", "throttled"])
def test_a_store_that_is_away_or_busy_is_told_and_nothing_else_stops(
    site: Site, store: ArtifactStore, cloud: Cloud, address: str, kind: str
) -> None:
    with site.session() as session, load(site, f"store-{kind}") as account:
        assert session.put(f"{address}/before.txt", data=b"before", timeout=60).ok
        cloud.fail(store.service, kind)
        wait_until_written(account, 20)
        answers = {
            "write": session.put(f"{address}/during.txt", data=b"during", timeout=300),
            "read": session.get(f"{address}/before.txt", timeout=300),
        }
        wait_until_written(account, 20)
        cloud.heal()
        assert session.get(f"{address}/before.txt", timeout=60).content == b"before"
        # What failed has left nothing that is listed.
        assert session.get(f"{address}/during.txt", timeout=60).status_code == 404
        assert session.put(f"{address}/during.txt", data=b"after", timeout=60).ok
    assert account.failures == []
    assert account.lost(site) == set()
    for what, response in answers.items():
        status, message = answer(response)
        assert status == 503, f"{what}: {status} {message}"
        assert "cannot be reached, or is busy; what is logged to runs is not affected" in message


def test_a_login_that_is_revoked_is_told_at_once(site: Site, store: ArtifactStore, cloud: Cloud, address: str) -> None:
    cloud.fail(store.service, "denied")
    with site.session() as session:
        status, message = answer(session.put(f"{address}/x.txt", data=b"x", timeout=300))
    # Neither is tried again by the client. MLflow itself says 403 for some of S3's refusals.
    assert status in (403, 424), message


def test_a_connection_that_is_cut_leaves_no_piece(site: Site, store: ArtifactStore, cloud: Cloud, address: str) -> None:
    content = os.urandom(20 * MEGABYTE)
    with site.session() as session:
        cloud.fail(store.service, "cut", times=1)
        written = session.put(f"{address}/cut.bin", data=content, timeout=300)
        cloud.heal()
        after = session.get(f"{address}/cut.bin", timeout=300)
        # Tried again within the server, and whole; or told, and not there.
        assert (written.status_code, after.status_code) in ((200, 200), (503, 404))
        if written.ok:
            assert after.content == content
        assert session.put(f"{address}/cut.bin", data=content, timeout=300).ok
        cloud.fail(store.service, "cut", times=1)
        read = session.get(f"{address}/cut.bin", timeout=300)
        assert (read.status_code == 200 and read.content == content) or read.status_code == 503


def test_a_store_that_does_not_answer_keeps_nobody_from_logging(
    site: Site, store: ArtifactStore, cloud: Cloud, address: str
) -> None:
    hung: list[threading.Thread] = []

    def upload(number: int) -> None:
        with site.session() as session:
            session.put(f"{address}/{number}.txt", data=b"x", timeout=300)

    with load(site, "store-hangs") as account:
        cloud.fail(store.service, "hang")
        hung = [threading.Thread(target=upload, args=(number,)) for number in range(4)]
        for thread in hung:
            thread.start()
        wait_until_written(account, 100)
        cloud.heal()
    for thread in hung:
        thread.join()
    assert account.failures == []
    assert account.lost(site) == set()


def test_a_full_disk_is_told_and_nothing_else_stops(site: Site, server: Host, address: str) -> None:
    free = int(server.check_output(f"df --output=avail --block-size=1M {TEMPORARY} | tail -n 1"))
    server.check_output(f"fallocate --length {free - 8}M {TEMPORARY}/filler")
    try:
        with site.session() as session, load(site, "disk-full") as account:
            status, message = answer(session.put(f"{address}/large.bin", data=bytes(32 * MEGABYTE), timeout=300))
            wait_until_written(account, 50)
        assert (status, message) == (
            507,
            "The server has no room left for artifacts; what is logged to runs is not affected.",
        )
        assert account.failures == []
    finally:
        server.check_output(f"rm {TEMPORARY}/filler")
    with site.session() as session:
        assert session.get(f"{address}/large.bin", timeout=60).status_code == 404
        assert session.put(f"{address}/large.bin", data=bytes(32 * MEGABYTE), timeout=300).ok


def test_a_client_that_is_gone_in_the_middle_leaves_nothing(site: Site, server: Host, address: str) -> None:
    host, port = "localhost", int(site.url.rpartition(":")[2])
    credentials = base64.b64encode(":".join(site.admin).encode()).decode()
    head = (
        f"PUT {address.removeprefix(site.url)}/gone.bin HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Authorization: Basic {credentials}\r\nContent-Length: {50 * MEGABYTE}\r\n\r\n"
    )
    context = ssl.create_default_context(cafile=str(site.ca_file))
    with (
        socket.create_connection((host, port), timeout=limit(60)) as plain,
        context.wrap_socket(plain, server_hostname=host) as tls,
    ):
        tls.sendall(head.encode() + bytes(5 * MEGABYTE))
    with site.session() as session:
        assert session.get(f"{address}/gone.bin", timeout=60).status_code == 404
    wait_until(lambda: server.check_output(f"find {TEMPORARY} -type f") == "", 60, "a piece of the upload is left")


def test_a_crowd_of_large_files_goes_both_ways(site: Site, address: str, tmp_path: Path) -> None:
    source = tmp_path / "crowd.bin"
    source.write_bytes(os.urandom(CROWD_MEGABYTES * MEGABYTE))
    content = source.read_bytes()

    def both_ways(number: int) -> list[int]:
        with site.session() as session:
            up = session.put(f"{address}/{number}.bin", data=content, timeout=600)
            down = session.get(f"{address}/{number}.bin", timeout=600)
            return [up.status_code, down.status_code, int(down.content == content)]

    with ThreadPoolExecutor(CROWD) as pool:
        assert list(pool.map(both_ways, range(CROWD))) == [[200, 200, 1]] * CROWD
