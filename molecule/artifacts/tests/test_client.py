"""MLflow's own client against the deployed server, for each store."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracing.attachments import Attachment
from playwright.sync_api import expect
from testinfra.host import Host

from testing.artifact_stores import FIRST_OR_ALL, ArtifactStore
from testing.browser import answering, launched, window
from testing.deployment import Site, active_colour
from testing.sampling import pick

pytestmark = pytest.mark.usefixtures("store")

MEGABYTE = 2**20
MANY = pick(100, 300)
# A large one. With ARTIFACT_MEGABYTES=2048 it is larger than what the server may take of memory.
LARGE = int(os.environ.get("ARTIFACT_MEGABYTES", "256")) * MEGABYTE
# What the server's processes may need more while a large artifact passes: pieces of it, and libraries that are loaded.
GROWTH = 400 * MEGABYTE
NAMES = ["plain.txt", "with space.txt", "grüße-日本.txt", "100%.txt", "a+b=c.txt", "nested/deeper/deepest.txt"]
MODEL = "from mlflow.pyfunc import PythonModel\nfrom mlflow.models import set_model\n\n\nclass Doubler(PythonModel):\n"
MODEL += (
    "    def predict(self, model_input: list[float]) -> list[float]:\n        return [2 * x for x in model_input]\n\n\n"
)
MODEL += "set_model(Doubler())\n"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def resident(server: Host, field: str) -> int:
    """Return the bytes that the server's workers have resident (VmRSS), or each had at its peak (VmHWM), together."""
    master = server.check_output(f"systemctl show -P MainPID mlflow@{active_colour(server)}")
    lines = server.check_output(f"grep --no-filename ^{field} $(pgrep --parent {master} | sed 's,.*,/proc/&/status,')")
    return sum(int(line.split()[1]) * 1024 for line in lines.splitlines())


def forget_peaks(server: Host) -> None:
    """Let the peaks begin anew."""
    master = server.check_output(f"systemctl show -P MainPID mlflow@{active_colour(server)}")
    server.run_test(f"for pid in $(pgrep --parent {master}); do echo 5 >/proc/$pid/clear_refs; done")


def paths(client: MlflowClient, run_id: str, path: str | None = None) -> list[str]:
    """Return all files of a run, directory by directory, as the UI asks for them."""
    found: list[str] = []
    for entry in client.list_artifacts(run_id, path):
        found += paths(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return sorted(found)


def test_names_of_every_kind(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    for name in NAMES:
        client.log_text(run_id, f"content of {name}", name)
    assert paths(client, run_id) == sorted(NAMES)
    for name in NAMES:
        fetched = Path(client.download_artifacts(run_id, name, str(tmp_path)))
        assert fetched.read_text(encoding="utf-8") == f"content of {name}"


def test_a_directory_of_many_files(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for number in range(MANY):
        file = source / f"part-{number % 10}" / f"{number}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(100) + str(number).encode())
    client.log_artifacts(run_id, str(source), "data")
    fetched = Path(client.download_artifacts(run_id, "data", str(tmp_path)))
    for file in source.rglob("*.bin"):
        assert (fetched / file.relative_to(source)).read_bytes() == file.read_bytes()
    assert len(paths(client, run_id, "data")) == MANY


def test_a_large_file_comes_back_as_it_went_and_takes_no_memory(
    client: MlflowClient,
    run_id: str,
    tmp_path: Path,
    server: Host,
    site: Site,
    store: ArtifactStore,
) -> None:
    original = tmp_path / "weights.bin"
    with original.open("wb") as file:
        for _ in range(LARGE // MEGABYTE):
            file.write(os.urandom(MEGABYTE))
    client.log_text(run_id, "what loads the store's library", "first.txt")
    before = resident(server, "VmRSS")
    forget_peaks(server)
    client.log_artifact(run_id, str(original), "model")
    fetched = client.download_artifacts(run_id, "model/weights.bin", str(tmp_path / "fetched"))
    assert sha256(Path(fetched)) == sha256(original)
    grown = resident(server, "VmHWM") - before
    with (site.state / "figures").open("a", encoding="utf-8") as file:
        file.write(f"{store.address}: {LARGE // MEGABYTE} MB there and back took {grown // MEGABYTE} MB of memory\n")
    assert grown < GROWTH
    # What passed through has left nothing behind.
    assert server.check_output("find /var/lib/mlflow/tmp -type f") == ""


def test_an_empty_file(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    client.log_text(run_id, "", "empty.txt")
    assert Path(client.download_artifacts(run_id, "empty.txt", str(tmp_path))).read_bytes() == b""


def test_a_model_is_registered_and_loaded(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    name, source = f"model-{uuid.uuid4().hex}", tmp_path / "doubler.py"
    source.write_text(MODEL, encoding="utf-8")
    mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)
    with mlflow.start_run(run_id):
        logged = mlflow.pyfunc.log_model(name="doubler", python_model=str(source), pip_requirements=["mlflow"])
    version = mlflow.register_model(logged.model_uri, name).version
    assert mlflow.pyfunc.load_model(f"models:/{name}/{version}").predict([1.0, 2.5]) == [2.0, 5.0]


def test_what_is_deleted_is_gone(client: MlflowClient, run_id: str, site: Site) -> None:
    client.log_text(run_id, "first", "kept.txt")
    client.log_text(run_id, "second", "folder/dropped.txt")
    repository = get_artifact_repository(client.get_run(run_id).info.artifact_uri, tracking_uri=site.url)
    repository.delete_artifacts("folder")
    assert paths(client, run_id) == ["kept.txt"]


def test_a_trace_keeps_its_spans(client: MlflowClient, run_id: str) -> None:
    experiment = client.get_run(run_id).info.experiment_id
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_span("retrieve") as span:
        span.set_inputs({"question": "Where?"})
        span.set_outputs({"answer": "Here."})
    mlflow.flush_trace_async_logging()
    traces = client.search_traces(locations=[experiment])
    assert [each.data.spans[0].outputs for each in traces] == [{"answer": "Here."}]


def test_a_trace_keeps_its_attachments(client: MlflowClient, run_id: str, site: Site) -> None:
    experiment = client.get_run(run_id).info.experiment_id
    mlflow.set_experiment(experiment_id=experiment)
    attachment = Attachment(content_type="image/png", content_bytes=os.urandom(10_000))
    with mlflow.start_span("look") as span:
        span.set_inputs({"image": attachment})
    mlflow.flush_trace_async_logging()
    (trace,) = client.search_traces(locations=[experiment])
    with site.session() as session:
        asked = {"request_id": trace.info.trace_id, "path": attachment.id}
        answer = session.get(f"{site.url}/ajax-api/3.0/mlflow/get-trace-artifact", params=asked, timeout=60)
    assert (answer.status_code, answer.content) == (200, attachment.content_bytes)


# The page depends on the server, not on the store.
@pytest.mark.parametrize("move", FIRST_OR_ALL, indirect=True)
def test_the_browser_lists_and_shows_them(
    client: MlflowClient, run_id: str, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    client.log_text(run_id, "what the page shows", "notes/größe 1.txt")
    experiment = client.get_run(run_id).info.experiment_id
    with (
        launched(site.ca_file, tmp_path_factory.mktemp("home")) as browser,
        window(browser, http_credentials=answering(site, site.admin)) as (page, recorder),
    ):
        page.goto(f"{site.url}/#/experiments/{experiment}/runs/{run_id}/artifacts")
        page.get_by_text("notes", exact=True).click()
        page.get_by_text("größe 1.txt").first.click()
        expect(page.get_by_text("what the page shows")).to_be_visible()
    assert recorder.complaints == []


def test_what_is_not_there_is_not_found(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    with pytest.raises(MlflowException, match=r"(?i)404|no such|not exist|not found|failed to download"):
        client.download_artifacts(run_id, "nothing.txt", str(tmp_path))
