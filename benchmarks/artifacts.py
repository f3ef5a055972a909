"""Artifacts through MLflow's own client: a thousand small files and a large one, up and down."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.systems import ROOT, STATE, System

FILES, FILE_BYTES = 1000, 10_000
SAMPLE_SECONDS = 0.25


def measure(system: System, files: int, large_bytes: int) -> dict[str, dict[str, float]]:
    """Send artifacts to a system and fetch them back.

    Args:
        system: The system.
        files: How many small files, of FILE_BYTES each.
        large_bytes: Size of the large file.

    Returns:
        For each step its seconds, the processor seconds of the host, and by how much the host's memory rose at most.
    """
    steps = ["small up", "small down", "large up", "large down"]
    found = {}
    with tempfile.TemporaryDirectory(dir=STATE) as directory:
        command = [sys.executable, "-m", "benchmarks.artifact_client", directory, str(files), str(large_bytes)]
        client = subprocess.Popen(
            command, cwd=ROOT, env=system.client_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert client.stdin and client.stdout
        client.stdout.readline()
        for step in steps:
            rest, before = system.memory(), system.cpu_seconds()
            with Peak(system) as peak:
                client.stdin.write("next\n")
                client.stdin.flush()
                answer = client.stdout.readline()
            if not answer:
                raise RuntimeError(f"{system.name}: the client ended in '{step}'.")
            found[step] = {
                "seconds": json.loads(answer)["seconds"],
                "cpu": system.cpu_seconds() - before,
                "memory": max(0, peak.bytes - rest),
            }
        client.stdin.close()
        if client.wait():
            raise RuntimeError(f"{system.name}: what was fetched is not what was sent.")
    return found


class Peak(threading.Thread):
    """Watches the memory of a host for as long as a block runs.

    Args:
        system: The system on it.
    """

    def __init__(self, system: System) -> None:
        """Prepare."""
        super().__init__(daemon=True)
        self.system, self.bytes, self._ended = system, 0, threading.Event()

    def run(self) -> None:
        """Look now and then, which takes no more than a tenth of a processor."""
        took = 0.0
        while not self._ended.wait(max(SAMPLE_SECONDS, 9 * took)):
            began = time.monotonic()
            self.bytes = max(self.bytes, self.system.memory())
            took = time.monotonic() - began

    def __enter__(self) -> Peak:
        """Begin."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ended.set()
        self.join()
        self.bytes = max(self.bytes, self.system.memory())


def fill(directory: Path, files: int, large_bytes: int) -> None:
    """Write the files to be sent: other bytes in each, since some stores and file systems would tell."""
    small = directory / "small"
    small.mkdir()
    for number in range(files):
        (small / f"{number:04}.bin").write_bytes(number.to_bytes(4, "big") * (FILE_BYTES // 4))
    with Path("/dev/urandom").open("rb") as source, (directory / "large.bin").open("wb") as target:
        left = large_bytes
        while left:
            left -= target.write(source.read(min(left, 1 << 20)))


def seconds_of(began: float) -> str:
    """Return how long it took since a moment, as a line for measure()."""
    return json.dumps({"seconds": time.monotonic() - began})
