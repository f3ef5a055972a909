"""What checks found: tests passed and failed, seconds of phases and tests, the table at the end."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.checks.plan import ROOT, Check

DIRECTORY = ROOT / ".test"
TIMES_FILE = DIRECTORY / "times.json"
LOG_LINES_SHOWN = 80
ERROR_CHARACTERS_SHOWN = 400
SLOWEST_TESTS_SHOWN = 15


@dataclass(frozen=True)
class Test:
    """One test of pytest.

    Args:
        name: Its name with parameters.
        module: Its module.
        seconds: How long it ran, setup and teardown included.
        outcomes: Tags of its entry in the JUnit report: failure, error, skipped.
        errors: The lines that pytest marks as the error.
    """

    name: str
    module: str
    seconds: float
    outcomes: frozenset[str]
    errors: str

    @property
    def has_failed(self) -> bool:
        """Return whether the test or its fixtures failed."""
        return bool(self.outcomes & {"failure", "error"})

    @property
    def has_passed(self) -> bool:
        """Return whether the test ran and passed."""
        return not self.outcomes & {"failure", "error", "skipped"}


@dataclass
class Result:
    """What came of a check.

    Args:
        check: The check.
        status: Exit status of its command.
        seconds: How long it ran.
        cpu_seconds: Processor time of its processes, without those of container hosts and services.
        phases: Name and seconds of its phases.
        tests: The tests that it ran, if it runs pytest.
    """

    check: Check
    status: int
    seconds: float
    cpu_seconds: float = 0.0
    phases: list[tuple[str, float]] = field(default_factory=list)
    tests: list[Test] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Return the number of failures. A command that fails although none of its tests did counts as one."""
        failed = sum(test.has_failed for test in self.tests)
        return max(failed, 1) if self.status != 0 else failed

    @property
    def passed(self) -> int:
        """Return the number of passed tests, and one more for the command itself.

        The converge, idempotence and check mode of a scenario are tests in their own right.
        """
        return sum(test.has_passed for test in self.tests) + (self.status == 0)


def junit_file(check: Check) -> Path:
    """Return where pytest writes its report of a check."""
    return DIRECTORY / f"{check.name}.xml"


def journal_directory(check: Check) -> Path:
    """Return where the journals of a scenario's hosts are kept, one file for each failed test and host."""
    return DIRECTORY / check.name / "journal"


def log_file(check: Check) -> Path:
    """Return where the output of a check is kept."""
    return DIRECTORY / f"{check.name}.log"


def read_tests(check: Check) -> list[Test]:
    """Return the tests that a check ran."""
    path = junit_file(check)
    if not path.exists():
        return []
    entries = ElementTree.parse(path).getroot().iter("testcase")  # noqa: S314 - written by pytest on this machine
    return [to_test(entry) for entry in entries]


def to_test(entry: ElementTree.Element) -> Test:
    """Return a test from its entry in a JUnit report."""
    failures = [*entry.iter("failure"), *entry.iter("error")]
    lines = [line for failure in failures for line in (failure.text or "").splitlines() if line.startswith("E ")]
    return Test(
        name=entry.get("name", ""),
        module=entry.get("classname", "").rpartition(".")[2],
        seconds=float(entry.get("time", 0)),
        outcomes=frozenset(child.tag for child in entry),
        errors=" ".join(" ".join(lines).split()),
    )


def module_seconds(tests: Iterable[Test]) -> list[tuple[str, float]]:
    """Return the seconds of each test module, the longest first."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for test in tests:
        seconds[test.module] += test.seconds
    return sorted(seconds.items(), key=lambda item: -item[1])


def failure_lines(result: Result) -> Iterator[str]:
    """Yield the lines that explain a failed check: the end of its log, and one line for each failed test."""
    log = log_file(result.check)
    yield from log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    yield f"-- whole output: {log.relative_to(ROOT)}"
    journals = sorted(journal_directory(result.check).glob("*"))
    yield from (f"-- journal: {path.relative_to(ROOT)}" for path in journals)
    for test in result.tests:
        if test.has_failed:
            yield f"-- {test.name}: {test.errors[-ERROR_CHARACTERS_SHOWN:]}"


def table_lines(results: Sequence[Result], seconds: float) -> Iterator[str]:
    """Yield the table of phases and the slowest tests.

    Args:
        results: What came of each check.
        seconds: How long all checks together took.
    """
    yield ""
    yield "seconds by check (whole, and of processor time), by phase and test module"
    for result in sorted(results, key=lambda each: -each.seconds):
        phases = ", ".join(f"{name} {length:.0f}" for name, length in result.phases)
        modules = ", ".join(f"{name} {length:.0f}" for name, length in module_seconds(result.tests)[:8])
        yield f"  {result.check.name:<20} {result.seconds:>6.0f} {result.cpu_seconds:>6.0f}  {phases}"
        if modules:
            yield f"  {'':<34}  tests: {modules}"
    yield f"  {'all':<20} {seconds:>6.0f}"
    tests = [(test.seconds, result.check.name, test) for result in results for test in result.tests]
    if tests:
        yield ""
        yield "slowest tests, in seconds"
        for length, check, test in sorted(tests, key=lambda each: -each[0])[:SLOWEST_TESTS_SHOWN]:
            yield f"  {length:>6.0f}  {check}: {test.name}"
    yield ""


def write_times(results: Sequence[Result], seconds: float) -> None:
    """Write the seconds of each check, phase and test to .test/times.json."""
    content = {
        "seconds": round(seconds, 1),
        "checks": {
            result.check.name: {
                "seconds": round(result.seconds, 1),
                "cpu_seconds": round(result.cpu_seconds, 1),
                "passed": result.passed,
                "failed": result.failed,
                "phases": [[name, round(length, 1)] for name, length in result.phases],
                "modules": [[name, round(length, 1)] for name, length in module_seconds(result.tests)],
                "tests": {f"{test.module}::{test.name}": round(test.seconds, 2) for test in result.tests},
            }
            for result in results
        },
    }
    TIMES_FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
