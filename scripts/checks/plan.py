"""Which checks there are, what each needs, and in which order they start."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTAINERS_CONF = ROOT / "molecule" / "shared" / "containers.conf"
# Selects every test, those that only `make test-exhaustive` runs included.
EXHAUSTIVE_VARIABLE = "TEST_EXHAUSTIVE"
# Tests that need root, packages of Debian, or services that a test starts: `make check` leaves them out.
WITHOUT_SYSTEM_TESTS = "not system"

# The longest first, by the seconds of a measured run, so that no long check is left to run alone at the end. The unit
# tests start later than that: they would slow down the building of images, which the longest scenarios wait for.
CHECK_ORDER = (
    "rotation",
    "artifacts",
    "default",
    "mlflow_server",
    "unit",
    "import_runs",
    "nginx_proxy",
    "postgresql",
    "postgresql_external",
    "base",
    "bench",
)

# Of single roles that every site has: `default` proves check mode and the second run for all of them.
ROLE_SCENARIOS = ("base", "mlflow_server", "nginx_proxy", "postgresql")
SHORT_SEQUENCE = "[destroy, create, prepare, converge, verify, destroy]"


@dataclass(frozen=True)
class Check:
    """A command to run.

    Args:
        name: Its name in the output, and of its files below .test/.
        command: The command with its arguments.
        environment: Variables that it needs beyond those of this process.
        runs_pytest: Whether it runs pytest, so that each of its tests is counted.
        image: Image of container hosts that it needs first: base (plain Debian), site (a deployed one), or none.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)
    runs_pytest: bool = False
    image: str = ""


def list_shell_scripts() -> list[str]:
    """Return the shell scripts that git tracks or would track, recognized by their first line."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    paths = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    first_line = b"#!/usr/bin/env bash\n"
    return [path for path in paths if (ROOT / path).is_file() and (ROOT / path).read_bytes().startswith(first_line)]


def lint_checks() -> list[Check]:
    """Return the linters, the longest first."""
    return [
        Check("ansible-lint", ["ansible-lint", "--strict"]),
        Check("mypy", ["mypy"]),
        Check("actionlint", ["scripts/actionlint"]),
        Check("yamllint", ["yamllint", "--strict", "."]),
        Check("shellcheck", ["shellcheck", *list_shell_scripts()]),
        Check("ruff", ["ruff", "check", "."]),
        Check("ruff-format", ["ruff", "format", "--check", "."]),
    ]


def unit_check(paths: Sequence[str] = ("tests",), *, has_system: bool = True) -> Check:
    """Return the unit tests.

    Args:
        paths: Directories and files of tests.
        has_system: Whether tests that need root and packages of Debian are among them.
    """
    selection = [] if has_system else ["-m", WITHOUT_SYSTEM_TESTS]
    return Check("unit", ["pytest", "--quiet", "--numprocesses=2", *selection, *paths], runs_pytest=True)


def scenario_checks(names: Sequence[str]) -> list[Check]:
    """Return Molecule scenarios.

    Args:
        names: Their names.
    """
    return [scenario_check(name) for name in names]


def scenario_check(name: str) -> Check:
    """Return a Molecule scenario."""
    environment = {"CONTAINERS_CONF": str(CONTAINERS_CONF)}
    if name in ROLE_SCENARIOS and not is_exhaustive():
        environment["TEST_SEQUENCE"] = SHORT_SEQUENCE
    command = ["molecule", "test", "--scenario-name", name]
    image = "site" if "image: site" in (ROOT / "molecule" / name / "molecule.yml").read_text() else "base"
    return Check(name, command, environment, runs_pytest=True, image=image)


def bench_check() -> Check:
    """Return the benchmark in its short form, which shows that it works and measures nothing."""
    return Check("bench", ["scripts/bench", "--smoke", "operations"], image="base")


def image_checks(checks: Sequence[Check]) -> list[Check]:
    """Return the steps that build the images which some checks need, each step after what it builds upon."""
    needed = {check.image for check in checks}
    names = [name for name in ("base", "site") if name in needed or (name == "base" and "site" in needed)]
    return [image_check(name) for name in names]


def image_check(name: str) -> Check:
    """Return the step that builds an image, and the network and the caches that its hosts share."""
    command = ["ansible-playbook", "molecule/shared/images.yml", "--extra-vars", f"shared_image={name}"]
    environment = {"CONTAINERS_CONF": str(CONTAINERS_CONF)}
    return Check(f"image-{name}", command, environment, image="base" if name == "site" else "")


def scenario_names() -> list[str]:
    """Return the names of all scenarios."""
    return sorted(path.parent.name for path in ROOT.glob("molecule/*/molecule.yml"))


def in_order(checks: Sequence[Check]) -> list[Check]:
    """Return checks in the order in which they start: linters, scenarios of unknown length, then the longest first."""
    positions = {name: position for position, name in enumerate(CHECK_ORDER)}
    return sorted(checks, key=lambda check: (bool(check.image or check.runs_pytest), positions.get(check.name, -1)))


def is_exhaustive() -> bool:
    """Return whether the samples that `make test` takes of long tests are replaced by all of them."""
    return os.environ.get(EXHAUSTIVE_VARIABLE, "") == "1"
