"""A directory mlruns/ brought into the site: by the playbook, and by MLflow's own client through the API."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import yaml

from benchmarks.artifacts import Peak
from benchmarks.systems import ROOT, STATE, System, playbook

METRICS, PARAMS = 10, 5
BEGAN = 1_750_000_000_000


def fill(directory: Path, name: str, runs: int, points: int) -> None:
    """Write a directory mlruns/ as MLflow's file store does (mlflow.store.tracking.file_store).

    Args:
        directory: What is to be mlruns/; it must not be there.
        name: Name of its one experiment.
        runs: How many runs, each with METRICS metrics, PARAMS params, three tags and no artifact.
        points: Points of all metrics of a run together.
    """
    experiment = directory / "1"
    experiment.mkdir(parents=True)
    (directory / ".trash").mkdir()
    about = {"artifact_location": experiment.as_uri(), "experiment_id": "1", "lifecycle_stage": "active", "name": name}
    write_yaml(experiment / "meta.yaml", about | {"creation_time": BEGAN, "last_update_time": BEGAN})
    for number in range(runs):
        write_run(experiment, name, number, points)


def write_run(experiment: Path, name: str, number: int, points: int) -> None:
    """Write one run of an experiment."""
    run = uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{number}").hex
    directory = experiment / run
    for part in ("artifacts", "metrics", "params", "tags"):
        (directory / part).mkdir(parents=True)
    began = BEGAN + number * 1000
    about = {
        "artifact_uri": f"{directory.as_uri()}/artifacts",
        "end_time": began + 500,
        "entry_point_name": "",
        "experiment_id": "1",
        "lifecycle_stage": "active",
        "run_id": run,
        "run_name": f"run-{number}",
        "source_name": "",
        "source_type": 4,
        "source_version": "",
        "start_time": began,
        "status": 3,
        "tags": [],
        "user_id": "seed",
    }
    write_yaml(directory / "meta.yaml", about)
    for key in range(METRICS):
        lines = (f"{began + step} {(number + step) % 997 / (key + 1)} {step}\n" for step in range(points // METRICS))
        (directory / "metrics" / f"m{key}").write_text("".join(lines))
    for key in range(PARAMS):
        (directory / "params" / f"p{key}").write_text(f"v{(number + key) % 10}")
    for tag, value in {"mlflow.user": "seed", "mlflow.source.type": "LOCAL", "mlflow.runName": f"run-{number}"}.items():
        (directory / "tags" / tag).write_text(value)


def write_yaml(path: Path, content: dict[str, object]) -> None:
    """Write a file of MLflow's file store."""
    path.write_text(yaml.safe_dump(content))


def watched(system: System, work: Callable[[], None]) -> dict[str, float]:
    """Return the seconds of some work, the processor seconds of the host, and by how much its memory rose at most."""
    rest, before, began = system.memory(), system.cpu_seconds(), time.monotonic()
    with Peak(system) as peak:
        work()
    return {
        "seconds": time.monotonic() - began,
        "cpu": system.cpu_seconds() - before,
        "memory": max(0, peak.bytes - rest),
    }


def by_playbook(system: System, source: Path) -> dict[str, float]:
    """Measure the playbook, proof included, and take the import back.

    Raises:
        RuntimeError: It failed.
    """
    said: list[str] = []
    figures = watched(system, lambda: said.append(import_runs(f"source={source}")))
    found = re.search(r"by -e undo=([0-9a-f]+)", said[0])
    if not found:
        raise RuntimeError(f"The import has no id:\n{said[0][-2000:]}")
    import_runs(f"undo={found[1]}")
    return figures


def import_runs(given: str) -> str:
    """Run the playbook and return what it prints."""
    return playbook("-i", "benchmarks/inventory", "playbooks/import_runs.yml", "-e", given)


def by_client(system: System, source: Path) -> dict[str, float]:
    """Measure MLflow's client.

    Raises:
        RuntimeError: It failed.
    """
    environment = system.client_environment() | {
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "benchmarks.api_import", str(source)]

    def work() -> None:
        done = subprocess.run(command, cwd=STATE, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"The import through the API: {done.stderr[-2000:]}")

    return watched(system, work)
