"""The runner of checks: what it counts, what it reports, and what it selects for a change."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from scripts.checks import __main__ as main_module
from scripts.checks import changed, plan, results, runner
from scripts.checks.phases import Phases
from tests.project import PROJECT

REPORT = """
<testsuites><testsuite>
  <testcase classname="tests.test_a" name="test_passes" time="1.5"/>
  <testcase classname="tests.test_a" name="test_fails[x]" time="2.5"><failure>line
E   assert 1 == 2</failure></testcase>
  <testcase classname="tests.test_b" name="test_skips" time="0"><skipped/></testcase>
  <testcase classname="tests.test_b" name="test_errors" time="0.5"><error>E   no host</error></testcase>
</testsuite></testsuites>
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep results in a directory of the test."""
    monkeypatch.setattr(results, "DIRECTORY", tmp_path)
    monkeypatch.setattr(results, "TIMES_FILE", tmp_path / "times.json")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    return tmp_path


def python_check(name: str, code: str, image: str = "") -> plan.Check:
    """Return a check that runs Python code."""
    return plan.Check(name, [sys.executable, "-c", textwrap.dedent(code)], image=image)


# Phases


def test_phases_of_molecule_end_when_the_next_begins() -> None:
    phases = Phases()
    assert phases.read("INFO     [default > create] Executing\n", 2.0) is None
    assert phases.read("INFO     [default > create] Executed: Successful\n", 9.0) is None
    assert phases.read("INFO     [default > converge] Executing\n", 10.0) == ("create", 8.0)
    phases.begin("", 30.0)
    assert phases.finished == [("create", 8.0), ("converge", 20.0)]


def test_phases_ignore_other_lines() -> None:
    phases = Phases()
    assert phases.read("TASK [Run | Executing]\n", 1.0) is None
    assert phases.current == ""


# Results


@pytest.mark.parametrize(("status", "passed", "failed"), [(0, 2, 2), (1, 1, 2)])
def test_results_count_tests_and_the_command(directory: Path, status: int, passed: int, failed: int) -> None:
    check = plan.Check("unit", [])
    (directory / "unit.xml").write_text(REPORT)
    result = results.Result(check, status, 9.0, 1.0, [], results.read_tests(check))
    assert (result.passed, result.failed) == (passed, failed)


def test_results_without_tests_count_the_command() -> None:
    assert results.Result(plan.Check("ruff", []), 0, 1.0).passed == 1
    assert results.Result(plan.Check("ruff", []), 2, 1.0).failed == 1


def test_failure_lines_name_the_test_what_it_saw_and_the_journal(directory: Path) -> None:
    check = plan.Check("unit", [])
    (directory / "unit.xml").write_text(REPORT)
    (directory / "unit.log").write_text("the output\n")
    (directory / "unit" / "journal").mkdir(parents=True)
    (directory / "unit" / "journal" / "test_fails.host").write_text("a line\n")
    lines = list(results.failure_lines(results.Result(check, 1, 9.0, 1.0, [], results.read_tests(check))))
    assert "the output" in lines
    assert "-- journal: unit/journal/test_fails.host" in lines
    assert "-- test_fails[x]: E assert 1 == 2" in lines
    assert "-- test_errors: E no host" in lines


def test_table_has_phases_modules_and_slowest_tests(directory: Path) -> None:
    check = plan.Check("unit", [])
    (directory / "unit.xml").write_text(REPORT)
    result = results.Result(check, 1, 9.0, 1.0, [("verify", 8.0)], results.read_tests(check))
    table = "\n".join(results.table_lines([result], 12.0))
    assert "verify 8" in table
    assert "test_a 4, test_b 0" in table
    assert table.index("unit: test_fails[x]") < table.index("unit: test_passes")
    results.write_times([result], 12.0)
    written = json.loads((directory / "times.json").read_text())
    assert written["seconds"] == 12.0
    assert written["checks"]["unit"]["phases"] == [["verify", 8.0]]
    assert written["checks"]["unit"]["tests"]["test_a::test_passes"] == 1.5


# Runner


def test_runner_keeps_the_output_and_shows_a_failure(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "ROOT", directory)
    result = runner.run(python_check("broken", "import sys; print('what is wrong'); sys.exit(3)"))
    assert (result.status, result.failed) == (3, 1)
    assert (directory / "broken.log").read_text() == "what is wrong\n"
    shown = capsys.readouterr().out
    assert "broken" in shown
    assert "FAILED" in shown
    assert "what is wrong" in shown


def test_runner_removes_journals_of_the_run_before(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ROOT", directory)
    (directory / "x" / "journal").mkdir(parents=True)
    (directory / "x" / "journal" / "test_old.host").write_text("a line\n")
    runner.run(python_check("x", "import sys; sys.exit(1)"))
    assert not (directory / "x" / "journal").exists()


def test_runner_shows_each_phase_as_it_ends(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "ROOT", directory)
    code = "print('INFO [x > create] Executing'); print('INFO [x > verify] Executing')"
    result = runner.run(python_check("x", code))
    assert [name for name, _ in result.phases] == ["create", "verify"]
    assert "  x: create 0 s\n" in capsys.readouterr().out


def test_runner_starts_hosts_after_their_images(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ROOT", directory)
    wait = "import pathlib, time\nwhile not pathlib.Path({!r}).exists(): time.sleep(0.01)\n"
    images = [
        python_check("image-base", wait.format("other") + "open('base', 'w').close()"),
        python_check("image-site", "open('base'); open('site', 'w').close()", "base"),
    ]
    checks = [
        python_check("needs-site", "open('site')", "site"),
        python_check("needs-base", "open('base')", "base"),
        python_check("other", "open('other', 'w').close()"),
    ]
    ended = {result.check.name: result.status for result in runner.run_all(checks, images)}
    assert ended == dict.fromkeys(["image-base", "image-site", "needs-site", "needs-base", "other"], 0)


# Selection by name


def test_unknown_check_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(SystemExit, match=r"nonsense is not a check; expected one of lint, unit, bench, .*default"):
        main_module.named_checks(["lint", "nonsense"])


def test_without_arguments_every_check_runs() -> None:
    names = [check.name for check in main_module.checks_of([])]
    assert set(names) >= {"unit", "ruff", "mypy", "ansible-lint", *plan.scenario_names()}
    assert len(names) == len(set(names))


@pytest.mark.parametrize("exhaustive", ["", "1"])
def test_the_benchmark_runs_in_an_exhaustive_run(monkeypatch: pytest.MonkeyPatch, exhaustive: str) -> None:
    monkeypatch.setenv("TEST_EXHAUSTIVE", exhaustive)
    assert ("bench" in [check.name for check in main_module.checks_of([])]) == bool(exhaustive)


def test_check_order_names_existing_checks() -> None:
    scenarios = {path.parent.name for path in PROJECT.glob("molecule/*/molecule.yml")}
    assert set(plan.CHECK_ORDER) == {*scenarios, "unit", "bench"}


def test_linters_start_first_then_unknown_checks_then_long_ones() -> None:
    new = plan.Check("new-scenario", ["true"], runs_pytest=True, image="base")
    checks = [plan.scenario_check("base"), plan.unit_check(), *plan.lint_checks(), plan.scenario_check("rotation"), new]
    names = [check.name for check in plan.in_order(checks)]
    assert names == [*(check.name for check in plan.lint_checks()), "new-scenario", "rotation", "unit", "base"]


@pytest.mark.parametrize("exhaustive", ["", "1"])
def test_role_scenarios_are_whole_in_an_exhaustive_run(monkeypatch: pytest.MonkeyPatch, exhaustive: str) -> None:
    monkeypatch.setenv("TEST_EXHAUSTIVE", exhaustive)
    short = {
        check.name for check in plan.scenario_checks(plan.scenario_names()) if "TEST_SEQUENCE" in check.environment
    }
    assert short == (set() if exhaustive else set(plan.ROLE_SCENARIOS))


def test_inner_loop_needs_no_hosts_and_no_system() -> None:
    checks = main_module.checks_of(["--check"])
    assert [check for check in checks if check.image] == []
    (unit,) = [check for check in checks if check.runs_pytest]
    assert list(unit.command)[-3:-1] == ["-m", "not system"]


# Selection by change


@pytest.mark.parametrize(
    ("path", "scenarios", "tests"),
    [
        ("roles/nginx_proxy/templates/nginx.conf.j2", {"nginx_proxy", "default"}, {"tests/test_roles.py"}),
        ("roles/move_artifacts/files/move_artifacts/mover.py", {"artifacts"}, {"tests/test_move_artifacts.py"}),
        ("roles/base/tasks/firewall.yml", {"base", "default"}, {"tests/test_base.py"}),
        ("playbooks/import_runs.yml", {"import_runs", "default"}, {"tests/test_roles.py"}),
        ("molecule/rotation/tests/test_rotation.py", {"rotation"}, set()),
        ("molecule/shared/testing/imports.py", {"import_runs"}, set()),
        ("molecule/shared/testing/cloud/key_vault.py", {"rotation", "artifacts"}, {"tests/test_cloud.py"}),
        ("tests/bad_values/postgresql.yml", set(), {"tests/test_bad_values.py"}),
        ("plugins/filter/networks.py", {"default"}, {"tests/test_networks.py"}),
        ("docs/import.md", set(), {"tests/test_generate_docs.py"}),
        ("scripts/checks/plan.py", set(), {"tests/test_checks.py", "tests/test_workflows.py"}),
    ],
)
def test_change_selects_what_it_can_have_broken(path: str, scenarios: set[str], tests: set[str]) -> None:
    selection = changed.select([path])
    assert selection.scenarios == scenarios
    assert selection.tests >= tests
    assert "tests" not in selection.tests


@pytest.mark.parametrize("path", ["requirements/control.txt", "Makefile", "a/new/place", ".ci/run"])
def test_change_of_what_all_use_selects_everything(path: str) -> None:
    selection = changed.select([path])
    assert selection.tests == {"tests"}
    assert selection.scenarios == set(plan.scenario_names())
    assert selection.has_bench


def test_change_of_one_role_leaves_most_unit_tests_out() -> None:
    selection = changed.select(["roles/base/tasks/firewall.yml"])
    assert "tests/test_server_speed.py" not in selection.tests
    assert "tests/test_move_artifacts.py" not in selection.tests


def test_unknown_base_is_rejected() -> None:
    with pytest.raises(SystemExit, match="BASE is 'nowhere'; expected a commit that git knows"):
        changed.changed_paths("nowhere")


# Samples


@pytest.mark.parametrize(("exhaustive", "count"), [("", 1), ("1", 2)])
def test_marked_tests_run_in_an_exhaustive_run_only(tmp_path: Path, exhaustive: str, count: int) -> None:
    test = tmp_path / "test_sample.py"
    test.write_text(
        "import pytest\n\n\ndef test_short() -> None: ...\n\n\n"
        "@pytest.mark.exhaustive('test_short')\ndef test_long() -> None: ...\n"
    )
    said = run_pytest(test, TEST_EXHAUSTIVE=exhaustive)
    assert f"{count} passed" in said
    assert ("1 deselected" in said) == (count == 1)


def test_marked_tests_name_their_sample(tmp_path: Path) -> None:
    test = tmp_path / "test_sample.py"
    test.write_text("import pytest\n\n\n@pytest.mark.exhaustive()\ndef test_long() -> None: ...\n")
    assert "must name the sample" in run_pytest(test)


def run_pytest(test: Path, **environment: str) -> str:
    """Run a test file on its own and return the output."""
    command = [sys.executable, "-m", "pytest", "-p", "testing.sampling", "-p", "no:cacheprovider", "-c", "/dev/null"]
    variables = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(PROJECT / "molecule/shared"), **environment}
    command += [f"--rootdir={test.parent}", str(test)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
