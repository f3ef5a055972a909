"""Run linters, unit tests and Molecule scenarios, and count what passed.

Each check writes its whole output to .test/<check>.log and shows one line; a failed one also shows the end of its log
and a line for each test that failed.
The last line of all is `N passed, N failed`, and the exit status says whether the second number is 0.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".test"
LINES_OF_A_FAILURE = 80
SAID_OF_A_FAILURE = 400
# Scenarios wait for their hosts much of the time; of two, one goes on meanwhile. A third makes all of them slower.
SCENARIOS_AT_ONCE = 2


@dataclass(frozen=True)
class Check:
    """One command to run.

    Args:
        name: What it is called in the output and in .test/.
        command: The command with its arguments.
        environment: Variables it needs beyond those of this process.
        counts_tests: Whether it runs pytest, so that each test is counted and not just the command.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    counts_tests: bool = False


def shell_scripts() -> list[str]:
    """Return the project's shell scripts, told by their first line; new ones that git does not ignore included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    files = [path for path in listed if (ROOT / path).is_file()]
    return [path for path in files if (ROOT / path).read_bytes().startswith(b"#!/usr/bin/env bash\n")]


def lint_checks() -> list[Check]:
    """Return the linters, the quickest first."""
    return [
        Check("ruff", ["ruff", "check", "."]),
        Check("ruff-format", ["ruff", "format", "--check", "."]),
        Check("yamllint", ["yamllint", "--strict", "."]),
        Check("shellcheck", ["shellcheck", *shell_scripts()]),
        Check("actionlint", ["scripts/actionlint"]),
        Check("mypy", ["mypy"]),
        Check("ansible-lint", ["ansible-lint", "--strict"]),
    ]


def unit_checks() -> list[Check]:
    """Return the unit tests."""
    return [Check("unit", ["pytest", "--quiet", "--numprocesses=2", "tests"], counts_tests=True)]


def scenario_checks(names: list[str]) -> list[Check]:
    """Return Molecule scenarios.

    Args:
        names: Scenarios by name.
    """
    containers = {"CONTAINERS_CONF": str(ROOT / "molecule/shared/containers.conf")}
    return [Check(name, ["molecule", "test", "--scenario-name", name], containers, counts_tests=True) for name in names]


def bench_checks() -> list[Check]:
    """Return the part of the benchmark that all others build on, as far as it takes to see that it works."""
    return [Check("bench", ["scripts/bench", "--smoke", "operations"])]


def scenarios() -> list[str]:
    """Return the names of all scenarios: whole systems first, which take longest, so that none is left to run alone."""
    found = {path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")}
    roles = {path.name for path in ROOT.glob("roles/*")}
    return sorted(found - roles) + sorted(found & roles)


def report_of(check: Check) -> Path:
    """Return where pytest tells of a check: of this one alone, as another's name may begin like it."""
    return RESULTS / f"{check.name}.xml"


def reported(check: Check) -> Iterator[ElementTree.Element]:
    """Yield what pytest tells of each test of a check."""
    report = report_of(check)
    if report.exists():
        yield from ElementTree.parse(report).getroot().iter("testcase")  # noqa: S314 - pytest wrote it just now


def failures(check: Check) -> list[str]:
    """Return a line for each test of a check that failed: its name, and the end of what it said."""
    lines = []
    for test in reported(check):
        for outcome in (*test.iter("failure"), *test.iter("error")):
            said = [line for line in (outcome.text or "").splitlines() if line.startswith("E ")]
            lines.append(f"-- {test.get('name')}: {' '.join(' '.join(said).split())[-SAID_OF_A_FAILURE:]}")
    return lines


def count(check: Check, returned: int) -> tuple[int, int]:
    """Count what a check proved.

    Args:
        check: The check that ran.
        returned: Its exit status.

    Returns:
        Passed and failed. A command that failed although none of its tests did counts as one failure.
    """
    outcomes = [{outcome.tag for outcome in test} for test in reported(check)]
    failed = sum(bool({"failure", "error"} & found) for found in outcomes)
    passed = sum(not {"failure", "error", "skipped"} & found for found in outcomes)
    if returned != 0:
        return passed, max(failed, 1)
    # A scenario's converge, idempotence and check mode are a proof of their own.
    return passed + 1, failed


def run(check: Check) -> tuple[int, int]:
    """Run a check and show how it went.

    Args:
        check: The check.

    Returns:
        What it adds to passed and failed.
    """
    log = RESULTS / f"{check.name}.log"
    report_of(check).unlink(missing_ok=True)
    environment = {**os.environ, **check.environment, "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"}
    if check.counts_tests:
        environment["PYTEST_ADDOPTS"] = f"--junitxml={report_of(check)}"
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        returned = subprocess.run(
            check.command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    passed, failed = count(check, returned)
    verdict = "FAILED" if failed else "ok"
    lines = [f"{check.name:<22} {verdict:<7} {passed:>4} passed {time.monotonic() - started:>6.0f} s"]
    if failed:
        lines += log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_OF_A_FAILURE:]
        # Last, and of one line each, as what Molecule writes at the end says nothing of them.
        lines += [f"-- the whole output: {log.relative_to(ROOT)}", *failures(check)]
    # Whole, so that of two at once none writes into the other's lines.
    print("\n".join(lines), flush=True)
    return passed, failed


def chosen(arguments: list[str]) -> tuple[list[Check], list[Check]]:
    """Return the checks that the arguments name, or all: those that run alone, and those that run beside another.

    Args:
        arguments: `lint`, `unit`, `bench` or names of scenarios.

    Raises:
        SystemExit: One of them is neither.
    """
    known = scenarios()
    wrong = [name for name in arguments if name not in ("lint", "unit", "bench", *known)]
    if wrong:
        raise SystemExit(f"No such check: {', '.join(wrong)}; there are lint, unit, bench, {', '.join(known)}.")
    checks: list[Check] = []
    if not arguments or "lint" in arguments:
        checks += lint_checks()
    if not arguments or "unit" in arguments:
        checks += unit_checks()
    together = scenario_checks([name for name in known if not arguments or name in arguments])
    measured = bench_checks() if not arguments or "bench" in arguments else []
    if together and len(together + measured) > 1:
        # The last scenario, which is short, makes what all the others share: the image, the network, and a cache.
        checks.append(together.pop())
    return checks, together + measured


def results(alone: list[Check], together: list[Check]) -> Iterator[tuple[int, int]]:
    """Run checks and return passed and failed of each."""
    yield from map(run, alone)
    with ThreadPoolExecutor(SCENARIOS_AT_ONCE) as pool:
        yield from pool.map(run, together)


def main() -> int:
    """Run the checks that the command line names. Returns the exit status."""
    RESULTS.mkdir(exist_ok=True)
    passed = failed = 0
    for more_passed, more_failed in results(*chosen(sys.argv[1:])):
        passed, failed = passed + more_passed, failed + more_failed
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
