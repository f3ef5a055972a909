"""Locks carry hashes, and the tree names neither package indexes nor places on one machine."""

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
TRACKED = [
    PROJECT / name
    for name in subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    if name and (PROJECT / name).is_file()
]
# A lock is what lies beside the list that it was compiled from.
LOCKS = sorted(path.with_suffix(".txt") for path in TRACKED if path.suffix == ".in")

# Joined here, so that this file does not find itself.
INDEX_ADDRESS = re.compile(
    r"(--(extra-)?index-url|--find-links)[ =]|https?://[^/\s]*(pypi|" + "pythonhosted)", re.IGNORECASE
)
# Somebody's home, or the very place where this tree lies.
MACHINE_PATH = re.compile(r"(?<![\w.{}$])/(home|Users)" + rf"/[a-z]|{re.escape(str(PROJECT))}/")
REGISTRY_ADDRESS = re.compile(
    r"https?://[^/\s]*(" + "artifactory|jfrog|nexus|mirror" + r"\.)|//\d+\.\d+\.\d+\.\d+(:\d+)?/(simple|pypi)",
    re.IGNORECASE,
)


def lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except UnicodeDecodeError:
        return []


def requirements(path: Path) -> list[str]:
    """Return the entries of a lock, each with what belongs to it on one line."""
    joined = path.read_text().replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def test_every_list_of_requirements_is_locked() -> None:
    assert len(LOCKS) >= 3
    assert [str(path) for path in LOCKS if path not in TRACKED] == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_requirement_has_a_version_and_hashes(lock: Path) -> None:
    assert requirements(lock)
    for requirement in requirements(lock):
        assert re.match(r"[A-Za-z0-9._-]+(\[[^]]*\])?==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_lock_names_no_index(lock: Path) -> None:
    assert [line for line in lines(lock) if INDEX_ADDRESS.search(line)] == []


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_ADDRESS], ids=["path of a machine", "registry"])
def test_no_file_names_a_place_of_one_machine(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(PROJECT)}:{number}: {line.strip()}"
        for path in TRACKED
        for number, line in enumerate(lines(path), start=1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (INDEX_ADDRESS, "--index-url https://packages.example.com/simple"),
        (MACHINE_PATH, "cache: /" + "home/alice/.cache"),
        (MACHINE_PATH, f"- {PROJECT}/roles"),
        (REGISTRY_ADDRESS, "https://" + "artifactory.example.com/api/pypi"),
        (REGISTRY_ADDRESS, "http://" + "10.0.0.1:8080/simple"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[str], line: str) -> None:
    assert pattern.search(line)
