"""Runs checks, several at once, and shows each phase as it ends."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from scripts.checks.phases import Phases
from scripts.checks.plan import ROOT, Check
from scripts.checks.results import Result, failure_lines, junit_file, log_file, read_tests

# On two cores: a scenario waits for its hosts for much of the time, which another check can use.
LANES = int(os.environ.get("TEST_LANES", "3"))
# Colors would break up what tests search in the output of programs.
PLAIN = {"NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"}

_print_lock = threading.Lock()


def show(*lines: str) -> None:
    """Print lines that belong together, without lines of another check between them."""
    with _print_lock:
        print("\n".join(lines), flush=True)


def run(check: Check) -> Result:
    """Run a check, show its phases and its outcome.

    Args:
        check: The check.

    Returns:
        What came of it.
    """
    junit_file(check).unlink(missing_ok=True)
    environment = {**os.environ, **check.environment, **PLAIN}
    if check.runs_pytest:
        environment["PYTEST_ADDOPTS"] = f"--junitxml={junit_file(check)}"
    began, phases = time.monotonic(), Phases()
    with (
        log_file(check).open("w", encoding="utf-8") as log,
        subprocess.Popen(
            check.command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            if ended := phases.read(line, time.monotonic() - began):
                show(f"  {check.name}: {ended[0]} {ended[1]:.0f} s")
    seconds = time.monotonic() - began
    phases.begin("", seconds)
    result = Result(check, process.returncode, seconds, phases.finished, read_tests(check))
    verdict = "FAILED" if result.failed else "ok"
    lines = [f"{check.name:<22} {verdict:<7} {result.passed:>4} passed {seconds:>6.0f} s"]
    show(*lines, *(failure_lines(result) if result.failed else ()))
    return result


def run_all(checks: Sequence[Check], images: Check | None) -> list[Result]:
    """Run checks in the given order, as many at once as there are lanes.

    Args:
        checks: The checks.
        images: What scenarios need first. It starts first; checks that are no scenarios run beside it.

    Returns:
        What came of each, in the order of the checks.
    """
    with ThreadPoolExecutor(LANES) as lanes:
        ready = lanes.submit(run, images) if images else None
        # Scenarios wait for the images in their lane, so what needs none starts before them.
        futures = [lanes.submit(run_after, ready if check.uses_hosts else None, check) for check in checks]
        results = [future.result() for future in futures]
        return [ready.result(), *results] if ready else results


def run_after(ready: Future[Result] | None, check: Check) -> Result:
    """Run a check when what it needs is ready."""
    if ready:
        ready.result()
    return run(check)
