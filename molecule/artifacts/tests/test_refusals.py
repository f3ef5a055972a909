"""What nobody gets at by way of artifacts: other directories, other stores, and what was not granted."""

from __future__ import annotations

import uuid

import pytest
import requests
from mlflow import MlflowClient
from testinfra.host import Host

from testing.artifact_stores import FIRST, FIRST_OR_ALL, ArtifactStore
from testing.deployment import Login, Site

pytestmark = [pytest.mark.usefixtures("store"), pytest.mark.parametrize("move", FIRST_OR_ALL, indirect=True)]

# Below an experiment that the caller may write to: each leads out of it.
LEADING_OUT = [
    "../../../etc/passwd",
    "..%2F..%2F..%2Fetc%2Fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "..%252F..%252Fetc%252Fpasswd",
    "artifacts/../../0/secret",
    "artifacts/%23/../../../secret",
]
# These look as if they did, and are names within it.
STAYING_IN = ["/etc/passwd", "%2Fetc%2Fpasswd", "file:///etc/passwd"]
if FIRST_OR_ALL == FIRST:
    # Azure takes the backslash for a slash, and does not find such a name again.
    STAYING_IN.append("..\\..\\etc\\passwd")


def ask(session: requests.Session, method: str, url: str) -> requests.Response:
    """Ask for an address as it is written: the library would tidy up its dots."""
    # For once only: a server that refuses a body without reading it may close the connection then.
    alone = {"Connection": "close"}
    request = session.prepare_request(
        requests.Request(method, "https://localhost/", data=b"overwritten", headers=alone)
    )
    request.url = url
    return session.send(request, verify=session.verify, timeout=60)


def grant(site: Site, user: Login, experiment: str) -> None:
    """Let a user do anything within an experiment."""
    body = {"username": user[0], "resource_type": "experiment", "resource_id": experiment, "permission": "MANAGE"}
    with site.session() as admin:
        answer = admin.post(f"{site.url}/api/3.0/mlflow/users/permissions/grant", json=body, timeout=60)
        answer.raise_for_status()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_path_that_leads_out_is_refused(
    client: MlflowClient, run_id: str, site: Site, user: Login, method: str
) -> None:
    experiment = client.get_run(run_id).info.experiment_id
    grant(site, user, experiment)
    with site.session(user) as session:
        for path in LEADING_OUT:
            for api in ("api", "ajax-api"):
                answer = ask(session, method, f"{site.url}/{api}/2.0/mlflow-artifacts/artifacts/{experiment}/{path}")
                assert answer.status_code in (400, 403, 404), f"{path}: {answer.status_code} {answer.text[:200]}"
                assert "root:" not in answer.text


def test_a_large_upload_that_is_refused_is_told_so(client: MlflowClient, run_id: str, site: Site, user: Login) -> None:
    experiment = client.get_run(run_id).info.experiment_id
    address = f"{site.url}/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run_id}/artifacts/weights.bin"
    pieces = [bytes(65536)] * 64
    with site.session(user) as session:
        answers = [session.put(address, data=iter(pieces), timeout=60) for _ in range(20)]
    assert [answer.status_code for answer in answers] == [403] * 20


@pytest.mark.parametrize("path", STAYING_IN)
def test_a_path_that_looks_foreign_is_a_name_within_the_experiment(
    client: MlflowClient, run_id: str, site: Site, user: Login, server: Host, path: str
) -> None:
    experiment = client.get_run(run_id).info.experiment_id
    grant(site, user, experiment)
    before = server.check_output("sha256sum /etc/passwd")
    address = f"{site.url}/api/2.0/mlflow-artifacts/artifacts/{experiment}/{path}"
    with site.session(user) as session:
        assert "root:" not in ask(session, "GET", address).text
        if ask(session, "PUT", address).ok:
            assert ask(session, "GET", address).content == b"overwritten"
            # Not every store has such names, and a move to one that has not stops.
            assert ask(session, "DELETE", address).ok
            assert ask(session, "GET", address).status_code == 404
    assert server.check_output("sha256sum /etc/passwd") == before


def test_who_was_granted_nothing_gets_at_no_artifact(
    client: MlflowClient, run_id: str, site: Site, user: Login
) -> None:
    client.log_text(run_id, "secret recipe", "notes.txt")
    experiment = client.get_run(run_id).info.experiment_id
    below = f"{experiment}/{run_id}/artifacts"
    with site.session(user) as session:
        for api in ("api", "ajax-api"):
            artifacts = f"{site.url}/{api}/2.0/mlflow-artifacts/artifacts"
            answers = {
                "read": session.get(f"{artifacts}/{below}/notes.txt", timeout=60),
                "write": session.put(f"{artifacts}/{below}/notes.txt", data=b"changed", timeout=60),
                "delete": session.delete(f"{artifacts}/{below}/notes.txt", timeout=60),
                "list": session.get(artifacts, params={"path": below}, timeout=60),
                "list all": session.get(artifacts, timeout=60),
            }
            assert {what: answer.status_code for what, answer in answers.items()} == dict.fromkeys(answers, 403)
    with site.anonymous() as nobody:
        assert nobody.get(f"{artifacts}/{below}/notes.txt", timeout=60).status_code == 401
    with site.session() as admin:
        assert admin.get(f"{artifacts}/{below}/notes.txt", timeout=60).text == "secret recipe"


def test_clients_are_not_told_to_ask_for_addresses_in_the_store(site: Site) -> None:
    with site.session() as admin:
        for api in ("api", "ajax-api"):
            told = admin.get(f"{site.url}/{api}/3.0/mlflow/server-info", timeout=60).json()
            assert (told["multipart_uploads_enabled"], told["multipart_downloads_enabled"]) == (False, False)


@pytest.mark.parametrize("named", ["nothing", "own run", "foreign run"])
def test_nobody_makes_a_model_version_of_what_was_not_granted(
    client: MlflowClient, run_id: str, site: Site, user: Login, store: ArtifactStore, named: str
) -> None:
    client.log_text(run_id, "secret recipe", "notes.txt")
    run = client.get_run(run_id).info
    below = f"{run.experiment_id}/{run_id}/artifacts"
    api = f"{site.url}/api/2.0/mlflow"
    with site.session(user) as session:
        name = f"own-{uuid.uuid4().hex}"
        session.post(f"{api}/registered-models/create", json={"name": name}, timeout=60).raise_for_status()
        made = session.post(f"{api}/experiments/create", json={"name": name}, timeout=60).json()
        own = session.post(f"{api}/runs/create", json=made, timeout=60).json()["run"]["info"]["run_id"]
        names = {"nothing": {}, "own run": {"run_id": own}, "foreign run": {"run_id": run_id}}[named]
        for source in (f"{store.address}/{below}", run.artifact_uri, f"runs:/{run_id}/notes"):
            body = {"name": name, "source": source, **names}
            answer = session.post(f"{api}/model-versions/create", json=body, timeout=60)
            assert answer.status_code == (403 if named == "foreign run" else 400), answer.text
    # Those to whom the run was granted name it.
    version = client.create_registered_model(f"theirs-{uuid.uuid4().hex}")
    assert client.create_model_version(version.name, run.artifact_uri, run_id).run_id == run_id


def test_nobody_reads_the_artifacts_of_another_trace(
    client: MlflowClient, run_id: str, site: Site, user: Login, store: ArtifactStore
) -> None:
    experiment, other = client.get_run(run_id).info.experiment_id, f"tr-{uuid.uuid4().hex}"
    below = f"{experiment}/traces/{other}/artifacts"
    with site.session() as admin:
        address = f"{site.url}/api/2.0/mlflow-artifacts/artifacts/{below}/traces.json"
        admin.put(address, data=b'{"spans": [], "of": "another"}', timeout=60).raise_for_status()
    api = f"{site.url}/api/3.0/mlflow/traces"
    with site.session(user) as session:

        def read(trace: str, location: str = "") -> requests.Response:
            """Read a trace that begins in an experiment of the user's, which may be where another is."""
            made = {"name": f"own-{uuid.uuid4().hex}", "artifact_location": location}
            create = f"{site.url}/api/2.0/mlflow/experiments/create"
            answer = session.post(create, json=made, timeout=60)
            if location:
                assert answer.status_code == 403, answer.text
                # An administrator may choose the location, and grant the experiment.
                with site.session() as admin:
                    answer = admin.post(create, json=made, timeout=60)
                    named = {"resource_type": "experiment", "resource_id": answer.json()["experiment_id"]}
                    grant = {"username": user[0], "permission": "MANAGE", **named}
                    path = "api/3.0/mlflow/users/permissions/grant"
                    admin.post(f"{site.url}/{path}", json=grant, timeout=60).raise_for_status()
            answer.raise_for_status()
            info = {
                "trace_id": trace,
                "trace_location": {
                    "type": "MLFLOW_EXPERIMENT",
                    "mlflow_experiment": {"experiment_id": answer.json()["experiment_id"]},
                },
                "request_time": "2026-01-01T00:00:00Z",
                "state": "OK",
            }
            session.post(api, json={"trace": {"trace_info": info}}, timeout=60).raise_for_status()
            return told(trace)

        def told(trace: str) -> requests.Response:
            asked = {"request_id": trace}
            return session.get(f"{site.url}/ajax-api/2.0/mlflow/get-trace-artifact", params=asked, timeout=60)

        own = f"tr-{uuid.uuid4().hex}"
        assert read(own).status_code == 404
        # Ids that are not the other's, and lead to where it is.
        for slashes, root in (("/", store.address), ("//", "mlflow-artifacts:")):
            tag = {"key": "mlflow.artifactLocation", "value": f"{root}/{below}"}
            session.patch(f"{api}/{own}/tags", json=tag, timeout=60).raise_for_status()
            answers = [told(own), read(slashes + other, f"{root}/{experiment}")]
            assert [answer.status_code for answer in answers] == [400, 400]
            assert not any("another" in answer.text for answer in answers)


@pytest.mark.parametrize(
    "path",
    [
        *(f"mlflow-artifacts/{path}/1/x" for path in ("mpu/create", "mpu/complete", "mpu/abort", "presigned")),
        *(f"mlflow/artifacts/presigned-{direction}-url" for direction in ("upload", "download")),
    ],
)
def test_no_address_in_the_store_is_told_unless_the_site_says_so(site: Site, path: str) -> None:
    with site.session() as admin:
        for api in ("api", "ajax-api"):
            for method in ("GET", "POST"):
                answer = admin.request(method, f"{site.url}/{api}/2.0/{path}", json={}, timeout=60)
                assert answer.status_code == 404
                assert answer.headers["Content-Type"].startswith("text/html"), "MLflow answered, not nginx"
