"""A PostgreSQL for tests, as the machine has it installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Path]:
    """Run a PostgreSQL of its own, which a root user may not; return the directory of its socket."""
    binaries = SERVERS[-1].parent
    directory = Path(tempfile.mkdtemp(prefix="pg"))
    user: dict[str, Any] = {"user": "nobody"} if os.getuid() == 0 else {}
    if user:
        shutil.chown(directory, user["user"])
    data = str(directory / "data")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory, **user)

    run(str(binaries / "initdb"), "-D", data, "-A", "trust", "-U", "mlflow", "-E", "UTF8", "--no-sync")
    options = f"-k {directory} -c listen_addresses= -c fsync=off"
    control = str(binaries / "pg_ctl")
    run(control, "-D", data, "-w", "-l", str(directory / "log"), "-o", options, "start")
    try:
        yield directory
    finally:
        run(control, "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(directory)
