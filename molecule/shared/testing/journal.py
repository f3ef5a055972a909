"""Plugin of pytest: a failed test shows what the journals of the container hosts hold from the time of the test."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

LINES_SHOWN = 40
LINES_KEPT = 5000
# Before the test begins, a fixture of a longer scope may have done what fails in it.
START = pytest.StashKey[datetime]()


def directory() -> Path:
    """Return where the journals of failed tests are kept."""
    return Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], ".test", os.environ["MOLECULE_SCENARIO_NAME"], "journal")


def host_names() -> list[str]:
    """Return the names of the scenario's container hosts."""
    scenario = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "molecule.yml")
    return [platform["name"] for platform in yaml.safe_load(scenario.read_text(encoding="utf-8"))["platforms"]]


def read_journal(host: str, since: datetime) -> str:
    """Return the journal of a host from a moment on; empty if the host does not run."""
    command = ["podman", "exec", host, "journalctl", "--no-pager", "--output=short-iso-precise"]
    command += [f"--since=@{since.timestamp():.0f}", f"--lines={LINES_KEPT}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note when a test begins."""
    item.stash[START] = datetime.now(UTC)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[None]:  # the value sent in is the report
    """Add the journals to the report of a failed test, and keep them in a file of their own."""
    report = yield
    if isinstance(report, pytest.TestReport) and report.failed and START in item.stash:
        for host in host_names():
            journal = read_journal(host, item.stash[START])
            if journal:
                name = re.sub(r"[^\w.-]+", "_", f"{item.name}.{host}")
                directory().mkdir(parents=True, exist_ok=True)
                (directory() / name).write_text(journal, encoding="utf-8")
                shown = "\n".join(journal.splitlines()[-LINES_SHOWN:])
                report.sections.append((f"journal of {host}, the last {LINES_SHOWN} lines", shown))
    return report
