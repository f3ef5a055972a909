"""The client of artifacts.py, in a process of its own, since MLflow's settings are a process's.

usage: python -m benchmarks.artifact_client DIRECTORY FILES BYTES

Does one step for each line on standard input, and answers with a line.
"""

from __future__ import annotations

import filecmp
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow

from benchmarks.artifacts import fill, seconds_of


def main() -> int:
    """Do the steps. Returns the exit status."""
    directory, files, large_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    fill(directory, files, large_bytes)
    client = mlflow.MlflowClient()
    run = client.create_run("0").info.run_id
    small, large = directory / "small-back", directory / "large-back"
    small.mkdir()
    large.mkdir()
    steps: list[Callable[[], Any]] = [
        lambda: client.log_artifacts(run, str(directory / "small"), "small"),
        lambda: client.download_artifacts(run, "small", str(small)),
        lambda: client.log_artifact(run, str(directory / "large.bin")),
        lambda: client.download_artifacts(run, "large.bin", str(large)),
    ]
    print("ready", flush=True)
    for step, _ in zip(steps, sys.stdin, strict=False):
        began = time.monotonic()
        step()
        print(seconds_of(began), flush=True)
    names = [path.name for path in (directory / "small").iterdir()]
    _, differing, missing = filecmp.cmpfiles(directory / "small", small / "small", names, shallow=False)
    same = filecmp.cmp(directory / "large.bin", large / "large.bin", shallow=False)
    return int(bool(differing or missing) or not same)


if __name__ == "__main__":
    sys.exit(main())
