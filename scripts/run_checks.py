"""Run linters, unit tests and Molecule scenarios, one after the other, and count what passed.

Each check writes its whole output to .test/<check>.log and shows one line; a failed one also shows the end of its log.
The last line of all is `N passed, N failed`, and the exit status says whether the second number is 0.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".test"
LINES_OF_A_FAILURE = 80


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


def scenarios() -> list[str]:
    """Return the names of all scenarios: the roles' first, the whole system after them."""
    found = {path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")}
    roles = {path.name for path in ROOT.glob("roles/*")}
    return sorted(found & roles) + sorted(found - roles)


def count(check: Check, returned: int) -> tuple[int, int]:
    """Count what a check proved.

    Args:
        check: The check that ran.
        returned: Its exit status.

    Returns:
        Passed and failed. A command that failed although none of its tests did counts as one failure.
    """
    passed = failed = 0
    for report in RESULTS.glob(f"{check.name}*.xml"):
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):  # noqa: S314 - pytest wrote it just now
            bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            failed += bad
            passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
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
    for old in RESULTS.glob(f"{check.name}*.xml"):
        old.unlink()
    environment = {**os.environ, **check.environment, "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"}
    if check.counts_tests:
        environment["PYTEST_ADDOPTS"] = f"--junitxml={RESULTS / check.name}.xml"
    print(f"{check.name:<22} ", end="", flush=True)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        returned = subprocess.run(
            check.command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    passed, failed = count(check, returned)
    print(
        f"{'ok' if not failed else 'FAILED':<7} {passed:>4} passed {time.monotonic() - started:>6.0f} s",
        flush=True,
    )
    if failed:
        print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES_OF_A_FAILURE:]))
        print(f"-- the whole output: {log.relative_to(ROOT)}", flush=True)
    return passed, failed


def chosen(arguments: list[str]) -> list[Check]:
    """Return the checks that the arguments name, or all.

    Args:
        arguments: `lint`, `unit` or names of scenarios.

    Raises:
        SystemExit: One of them is neither.
    """
    known = scenarios()
    wrong = [name for name in arguments if name not in ("lint", "unit", *known)]
    if wrong:
        raise SystemExit(f"No such check: {', '.join(wrong)}; there are lint, unit, {', '.join(known)}.")
    checks: list[Check] = []
    if not arguments or "lint" in arguments:
        checks += lint_checks()
    if not arguments or "unit" in arguments:
        checks += unit_checks()
    return checks + scenario_checks([name for name in known if not arguments or name in arguments])


def main() -> int:
    """Run the checks that the command line names. Returns the exit status."""
    RESULTS.mkdir(exist_ok=True)
    passed = failed = 0
    for check in chosen(sys.argv[1:]):
        more_passed, more_failed = run(check)
        passed, failed = passed + more_passed, failed + more_failed
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
