"""Runs checks, several at once, and shows each phase as it ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from scripts.checks.phases import Phases
from scripts.checks.plan import ROOT, Check
from scripts.checks.results import Result, failure_lines, journal_directory, junit_file, log_file, read_tests

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
    shutil.rmtree(journal_directory(check), ignore_errors=True)
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
        # In place of process.wait(), which does not return the processor time.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - began
    phases.begin("", seconds)
    result = Result(
        check, process.returncode, seconds, usage.ru_utime + usage.ru_stime, phases.finished, read_tests(check)
    )
    verdict = "FAILED" if result.failed else "ok"
    lines = [f"{check.name:<22} {verdict:<7} {result.passed:>4} passed {seconds:>6.0f} s"]
    show(*lines, *(failure_lines(result) if result.failed else ()))
    return result


def run_all(checks: Sequence[Check], images: Sequence[Check] = ()) -> list[Result]:
    """Run checks in the given order, as many at once as there are lanes.

    A check that has to wait for its image gives its place in the lanes to the next one.

    Args:
        checks: The checks.
        images: What builds the images that they need, each after what it builds upon.

    Returns:
        What came of each, images first.
    """
    waiting = [*images, *checks]
    running: dict[Future[Result], Check] = {}
    results: dict[str, Result] = {}
    with ThreadPoolExecutor(LANES) as lanes:
        while waiting or running:
            built = {name for name in ("base", "site") if f"image-{name}" in results}
            missing = {check.name.removeprefix("image-") for check in images} - built
            for check in [check for check in waiting if check.image not in missing][: LANES - len(running)]:
                waiting.remove(check)
                running[lanes.submit(run, check)] = check
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                results[running.pop(future).name] = future.result()
    return [results[check.name] for check in (*images, *checks)]
