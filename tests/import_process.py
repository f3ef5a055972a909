"""Runs the import program in a fork of a process that has imported MLflow.

The import of MLflow takes longer than most runs of the program, and the tests run it a hundred times. Tests that kill
the program, and the scenario `import_runs`, start it as a program of its own.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

# The program, and what it imports when it is first needed.
PRELOADED = (
    "import_runs",
    "proof",
    "mlflow.entities.logged_model_status",
    "mlflow.server.auth.sqlalchemy_store",
    "mlflow.store.artifact.artifact_repository_registry",
    "mlflow.store.tracking.utils.trace_analytics",
    "mlflow.utils.validation",
)


def _run(arguments: Sequence[str], environment: Mapping[str, str], output: str, errors: str) -> None:
    """Run the program in this process, with its output in two files."""
    for number, path in ((1, output), (2, errors)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["import_runs", *arguments]
    # Not above: the process of the tests does not need it.
    import import_runs

    sys.exit(import_runs.main())


@functools.cache
def start_server() -> ForkServerContext:
    """Start the process from which the runs fork. Return its context."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.11 ignores the path that it hands to the fork server.
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        forkserver.ensure_running()
    return context


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Run the program.

    Args:
        arguments: Its command line.
        environment: Its environment.

    Returns:
        Its exit status, its output and its error output.
    """
    with tempfile.TemporaryDirectory() as directory:
        output, errors = Path(directory, "output"), Path(directory, "errors")
        process = start_server().Process(
            target=_run, args=(list(arguments), dict(environment), str(output), str(errors))
        )
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, output.read_text(encoding="utf-8"), errors.read_text(encoding="utf-8")
