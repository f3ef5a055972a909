"""Clients that go to the store themselves: with addresses that the server hands out, or with a login of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from mlflow import MlflowClient
from testinfra.host import Host

from testing.artifact_stores import FIRST_OR_ALL, ArtifactStore
from testing.cloud import Cloud
from testing.cloud.client import CA
from testing.deployment import Login, Site

pytestmark = pytest.mark.parametrize("move", FIRST_OR_ALL, indirect=True)

MEGABYTE = 2**20
LARGE = 12 * MEGABYTE
# What MLflow can hand out addresses for: uploads in parts everywhere, downloads for S3 alone.
DOWNLOADS = ("s3",)


@pytest.fixture(scope="module", params=["presigned", "direct"])
def access(request: pytest.FixtureRequest, site: Site, store: ArtifactStore, cloud: Cloud) -> str:
    """Let the site go over to each of them."""
    roles = ("--tags", "mlflow_server,nginx_proxy")
    done = store.deploy(site, cloud, "playbooks/site.yml", *roles, site_artifact_access=request.param)
    assert done.returned == 0, done.output[-5000:]
    return str(request.param)


presigned = pytest.mark.parametrize("access", ["presigned"], indirect=True)
direct = pytest.mark.parametrize("access", ["direct"], indirect=True)


@pytest.fixture
def storage_client(
    client: MlflowClient,
    site: Site,
    access: str,
    cloud: Cloud,
    store: ArtifactStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> MlflowClient:
    """Return MLflow's client, which goes to the store in parts of the least size, with a login if it needs one."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cloud.directory / CA))
    # What verifies the site has to verify Azure as well, for MLflow's client asks this file about both.
    both = tmp_path / "both.pem"
    both.write_bytes(site.ca_file.read_bytes() + (cloud.directory / CA).read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(both))
    for variable in ("UPLOAD_MINIMUM_FILE_SIZE", "UPLOAD_CHUNK_SIZE", "DOWNLOAD_CHUNK_SIZE"):
        monkeypatch.setenv(f"MLFLOW_MULTIPART_{variable}", str(5 * MEGABYTE))
    for name in {name for variables in cloud.storage.values() for name in variables}:
        monkeypatch.delenv(name, raising=False)
    if access == "direct":
        for name, value in cloud.storage[store.login].items():
            monkeypatch.setenv(name, value)
    return client


def passed_through(server: Host, run_id: str) -> set[str]:
    """Return the methods of the requests with which bytes of a run's artifacts passed through the server."""
    lines = server.check_output(f"grep {run_id} /var/log/nginx/access.log").splitlines()
    return {asked["method"] for asked in map(json.loads, lines) if "/mlflow-artifacts/artifacts/" in asked["uri"]}


def there_and_back(client: MlflowClient, run_id: str, directory: Path) -> None:
    """Log a large file and a small one, and fetch them."""
    directory.mkdir()
    for name, size in (("large ü.bin", LARGE), ("small.bin", 100)):
        file = directory / name
        file.write_bytes(os.urandom(size))
        client.log_artifact(run_id, str(file), "model")
        fetched = Path(client.download_artifacts(run_id, f"model/{name}", str(directory / "fetched")))
        assert fetched.read_bytes() == file.read_bytes()


@presigned
def test_bytes_of_large_files_go_past_the_server(
    storage_client: MlflowClient, run_id: str, server: Host, store: ArtifactStore, site: Site, tmp_path: Path
) -> None:
    downloads = store.service in DOWNLOADS
    with site.session() as admin:
        told = admin.get(f"{site.url}/api/3.0/mlflow/server-info", timeout=60).json()
    assert (told["multipart_uploads_enabled"], told["multipart_downloads_enabled"]) == (True, downloads)
    there_and_back(storage_client, run_id, tmp_path / "files")
    # A small one is sent the usual way.
    assert passed_through(server, run_id) == ({"PUT"} if downloads else {"PUT", "GET"})


@presigned
def test_who_was_granted_nothing_is_told_no_address(
    storage_client: MlflowClient, run_id: str, site: Site, user: Login
) -> None:
    storage_client.log_text(run_id, "secret recipe", "notes.txt")
    below = f"{storage_client.get_run(run_id).info.experiment_id}/{run_id}/artifacts"
    with site.session(user) as session:
        for api in ("api", "ajax-api"):
            artifacts = f"{site.url}/{api}/2.0/mlflow-artifacts"
            body = {"path": "notes.txt", "num_parts": 1, "upload_id": "x", "parts": []}
            answers = {
                "download": session.get(f"{artifacts}/presigned/{below}/notes.txt", timeout=60),
                "create": session.post(f"{artifacts}/mpu/create/{below}", json=body, timeout=60),
                "complete": session.post(f"{artifacts}/mpu/complete/{below}", json=body, timeout=60),
                "abort": session.post(f"{artifacts}/mpu/abort/{below}", json=body, timeout=60),
            }
            assert {what: answer.status_code for what, answer in answers.items()} == dict.fromkeys(answers, 403)


@direct
def test_clients_with_a_login_of_their_own_need_no_server_for_bytes(
    storage_client: MlflowClient,
    run_id: str,
    server: Host,
    store: ArtifactStore,
    made_directly: dict[str, bytes],
    tmp_path: Path,
) -> None:
    assert storage_client.get_run(run_id).info.artifact_uri.startswith(store.address)
    there_and_back(storage_client, run_id, tmp_path / "files")
    assert passed_through(server, run_id) == set()
    # Looked for again when the site has gone on to the next store.
    made_directly[run_id] = (tmp_path / "files/small.bin").read_bytes()


@direct
def test_what_was_logged_through_the_server_still_is_there(
    storage_client: MlflowClient, site: Site, access: str, store: ArtifactStore
) -> None:
    del access, store
    with site.session() as admin:
        told = admin.get(f"{site.url}/api/3.0/mlflow/server-info", timeout=60).json()
    assert (told["multipart_uploads_enabled"], told["multipart_downloads_enabled"]) == (False, False)
