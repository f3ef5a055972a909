"""Which checks a change can have broken: the selection of `make test-changed`.

A test module is selected if it, or a helper that it imports, imports a changed Python module or names a changed role,
playbook or file. Scenarios are selected by the tables below and by what their tests name. A path that no rule knows
selects every check. The gate always runs all checks, so a rule that is too narrow costs time, not safety.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from scripts.checks.plan import ROOT, scenario_names

# Roles that only some operation uses, and the scenario of that operation. Every other role is part of each site.
SCENARIOS_OF_ROLE = {
    "artifact_store": ("artifacts",),
    "import_runs": ("import_runs",),
    "move_artifacts": ("artifacts",),
    "rotate_secrets": ("rotation",),
    "secrets": ("default", "rotation"),
    "service_users": ("mlflow_server", "rotation"),
}
WHOLE_SITE = "default"
# Prose and configuration of tools: linters and the tests of generated documents read them.
PROSE = (".md", ".svg", ".png")
# Directories of Python whose modules are found by their imports alone.
PYTHON_DIRECTORIES = ("tests", "scripts", "benchmarks", "plugins", "client", "molecule/shared/testing")
# Helpers of tests; what a program names is not what its test is about.
TESTS = {"tests", "testing"}
EVERYTHING = (".ci/", ".config/", "Makefile", "ansible.cfg", "pyproject.toml", "requirements/", "scripts/bootstrap")


@dataclass
class Selection:
    """What to run.

    Args:
        tests: Files of unit tests.
        scenarios: Names of scenarios.
        has_bench: Whether the short benchmark is among them.
    """

    tests: set[str] = field(default_factory=set)
    scenarios: set[str] = field(default_factory=set)
    has_bench: bool = False

    def select_everything(self) -> None:
        """Select every check."""
        self.tests = {"tests"}
        self.scenarios = set(scenario_names())
        self.has_bench = True


def changed_paths(base: str) -> list[str]:
    """Return the paths that differ between a commit and the working tree, new files included.

    Args:
        base: The commit.

    Raises:
        SystemExit: git does not know the commit.
    """
    known = subprocess.run(["git", "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}"], cwd=ROOT, check=False)
    if known.returncode != 0:
        raise SystemExit(f"BASE is '{base}'; expected a commit that git knows.")
    commands = (["git", "diff", "--name-only", base], ["git", "ls-files", "--others", "--exclude-standard"])
    outputs = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True) for command in commands)
    return sorted({path for output in outputs for path in output.stdout.splitlines()})


@functools.cache
def text_of(path: Path) -> str:
    """Return the content of a file."""
    return path.read_text(encoding="utf-8")


@functools.cache
def imported_names(path: Path) -> frozenset[str]:
    """Return the last parts of all module names that a Python file imports."""
    names = set()
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(alias.name for alias in node.names)}
    return frozenset(name.rpartition(".")[2] for name in names if name)


@functools.cache
def project_modules() -> dict[str, set[Path]]:
    """Return the Python files of this project by module name.

    Scripts of roles may share a name. The name of a package stands for all of its modules, since it may be run as a
    program by its name.
    """
    modules: dict[str, set[Path]] = {}
    for directory in (*PYTHON_DIRECTORIES, "roles"):
        for path in (ROOT / directory).rglob("*.py"):
            modules.setdefault(path.stem, set()).add(path)
            if (path.parent / "__init__.py").exists() and path.parent.name not in PYTHON_DIRECTORIES:
                modules.setdefault(path.parent.name, set()).add(path)
    return modules


@functools.cache
def reached(path: Path) -> frozenset[Path]:
    """Return a Python file and every file of this project that it imports, directly or not."""
    found, waiting = {path}, [path]
    while waiting:
        for name in imported_names(waiting.pop()):
            new = project_modules().get(name, set()) - found
            found |= new
            waiting += new
    return frozenset(found)


def names_word(path: Path, word: str) -> bool:
    """Return whether a test file, or a helper that it imports, has a word as a string or as a part of a path."""
    pattern = re.compile(rf"[\"'/]{re.escape(word)}[\"'/]")
    helpers = (each for each in reached(path) if each == path or not each.name.startswith("test_"))
    return any(pattern.search(text_of(each)) for each in helpers if TESTS & set(each.parts))


def reads_every_role(path: Path) -> bool:
    """Return whether a file of tests looks at all roles, as the tests of rules and tables do."""
    return bool(re.search(r"\bROLES\b|\"roles\"\)", text_of(path)))


def unit_tests() -> list[Path]:
    """Return the files of unit tests."""
    return sorted((ROOT / "tests").rglob("test_*.py"))


def scenario_tests(name: str) -> list[Path]:
    """Return the test files of a scenario."""
    return sorted((ROOT / "molecule" / name / "tests").glob("*.py"))


def select_tests(selection: Selection, path: str, words: Iterable[str]) -> None:
    """Select unit tests that reach a changed file or name one of some words."""
    chosen = [
        test
        for test in unit_tests()
        if ROOT / path in reached(test) or any(names_word(test, word) for word in words if word)
    ]
    selection.tests |= {str(test.relative_to(ROOT)) for test in chosen}


def select_scenarios(selection: Selection, path: str, words: Iterable[str]) -> None:
    """Select scenarios whose tests reach a changed file or name one of some words."""
    for name in scenario_names():
        tests = scenario_tests(name)
        if any(ROOT / path in reached(test) or any(names_word(test, word) for word in words) for test in tests):
            selection.scenarios.add(name)


def select_role(selection: Selection, role: str, path: str) -> None:
    """Select what tests a role."""
    select_tests(selection, path, [role])
    selection.tests |= {str(test.relative_to(ROOT)) for test in unit_tests() if reads_every_role(test)}
    selection.scenarios |= {*SCENARIOS_OF_ROLE.get(role, (WHOLE_SITE,)), role} & set(scenario_names())


def select_path(selection: Selection, path: str) -> None:
    """Select what a changed path can have broken.

    Args:
        selection: What is selected so far.
        path: The path, below the project.
    """
    parts = PurePosixPath(path).parts
    name = PurePosixPath(path).name
    if path.endswith(PROSE):
        selection.tests.add("tests/test_generate_docs.py")
    elif parts[0] == "roles":
        select_role(selection, parts[1], path)
    elif parts[:2] == ("group_vars", "all"):
        select_role(selection, PurePosixPath(path).stem, path)
        selection.scenarios.add(WHOLE_SITE)
    elif parts[0] == "playbooks":
        select_tests(selection, path, [name])
        selection.tests.add("tests/test_roles.py")
        select_scenarios(selection, path, [name])
        selection.scenarios.add(WHOLE_SITE)
    elif parts[0] == "molecule" and parts[1] in scenario_names():
        selection.scenarios.add(parts[1])
    elif path.startswith("molecule/shared/testing/"):
        select_tests(selection, path, [])
        select_scenarios(selection, path, [])
    elif parts[0] == "molecule":
        selection.scenarios.add(WHOLE_SITE)
    elif parts[0] == "tests" and name.endswith(".yml"):
        select_tests(selection, path, [name, parts[-2]])
    elif parts[0] in ("inventories", ".github", "docs") or (len(parts) == 1 and name.startswith(".")):
        select_tests(selection, path, [name, parts[0].lstrip(".")])
    elif not path.startswith(EVERYTHING) and parts[0] in ("plugins", "client", "scripts", "benchmarks", "tests"):
        select_tests(selection, path, [name, PurePosixPath(path).stem])
        select_scenarios(selection, path, [name])
        selection.has_bench |= parts[0] == "benchmarks"
        if parts[0] == "plugins":
            selection.scenarios.add(WHOLE_SITE)
    else:
        selection.select_everything()


def select(paths: Sequence[str]) -> Selection:
    """Return what some changed paths can have broken."""
    selection = Selection()
    for path in paths:
        select_path(selection, path)
    if "tests" in selection.tests:
        selection.tests = {"tests"}
    return selection
