"""Service users are what the list says, on a real MLflow; and the list itself is looked through before."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.filter.service_users import service_user_entries, service_user_problems, service_user_secrets
from plugins.modules.mlflow_users import Refused, Server, Work, foreseen, work_through
from testing.limits import wait_until
from tests.project import PROJECT

ADMIN = ("admin", "a-password-for-the-admin")
CI = ("ci-training", "a-password-for-the-job")
STARTS_WITHIN_SECONDS = 90


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield MLflow as its administrator asks it."""
    directory = tmp_path_factory.mktemp("mlflow")
    command = [sys.executable, str(PROJECT / "tests/files/login_server.py"), str(directory), ADMIN[1]]
    with (directory / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:

        def is_ready() -> bool:
            assert process.poll() is None, (directory / "log").read_text()[-2000:]
            return (directory / "socket").exists()

        wait_until(is_ready, STARTS_WITHIN_SECONDS, "the server does not start")
        yield Server(str(directory / "socket"), "localhost", ADMIN)
        process.terminate()


def entry(name: str = CI[0], password: str = CI[1], **experiments: str) -> dict[str, Any]:
    return {"name": name, "state": "present", "password": password, "experiments": experiments}


def absent(name: str) -> dict[str, Any]:
    return {"name": name, "state": "absent"}


def ensure(server: Server, *entries: dict[str, Any], check: bool = False) -> list[str]:
    """Ensure users, and see that nothing is left to do; return what was done."""
    work = Work(server, check)
    work_through(work, "ensure", entries)
    if not check:
        again = Work(server, check=False)
        work_through(again, "ensure", entries)
        assert again.done == []
    return work.done


@pytest.fixture(autouse=True)
def no_user_is_left(server: Server) -> Iterator[None]:
    yield
    ensure(server, absent(CI[0]), absent("ci-other"))


def experiment_id(server: Server, name: str) -> str:
    return str(
        server.get("GET", "2.0/mlflow/experiments/get-by-name", experiment_name=name)["experiment"]["experiment_id"]
    )


def rights(server: Server, name: str) -> dict[str, int]:
    """Return with which status the user is answered who reads, writes to and deletes an experiment."""
    number = experiment_id(server, name)
    read, _ = server.ask("GET", "2.0/mlflow/experiments/get", CI, experiment_id=number)
    write, _ = server.ask("POST", "2.0/mlflow/runs/create", CI, experiment_id=number, start_time=1)
    delete, _ = server.ask("POST", "2.0/mlflow/experiments/delete", CI, experiment_id=number)
    if delete == 200:
        server.get("POST", "2.0/mlflow/experiments/restore", experiment_id=number)
    return {"read": read, "write": write, "delete": delete}


def test_a_user_has_the_listed_rights_and_no_others(server: Server) -> None:
    assert ensure(server, entry(churn="EDIT", fraud="READ", pricing="MANAGE"), entry("ci-other", other="MANAGE"))
    assert rights(server, "churn") == {"read": 200, "write": 200, "delete": 403}
    assert rights(server, "fraud") == {"read": 200, "write": 403, "delete": 403}
    assert rights(server, "pricing") == {"read": 200, "write": 200, "delete": 200}
    assert rights(server, "other") == rights(server, "Default") == {"read": 403, "write": 403, "delete": 403}
    assert server.ask("POST", "2.0/mlflow/users/create", CI, username="friend", password="a-password-of-it")[0] == 403


def test_rights_change_with_the_list(server: Server) -> None:
    ensure(server, entry(churn="EDIT", fraud="READ", old="MANAGE"))
    number = experiment_id(server, "old")
    assert ensure(server, entry(churn="READ", fraud="EDIT", new="EDIT")) == [
        "experiment 'new': made",
        "ci-training: READ on the experiment 'churn'",
        "ci-training: EDIT on the experiment 'fraud'",
        "ci-training: EDIT on the experiment 'new'",
        f"ci-training: no rights on the experiment with the id {number} any more",
    ]
    assert [rights(server, name)["write"] for name in ("churn", "fraud", "new", "old")] == [403, 200, 200, 403]
    assert rights(server, "old")["read"] == 403


def test_what_others_gave_is_taken_away(server: Server) -> None:
    ensure(server, entry(churn="READ"), entry("ci-other", other="MANAGE"))
    of_all: dict[str, Any] = {"resource_type": "experiment", "resource_id": "*", "permission": "MANAGE"}
    server.get("POST", "3.0/mlflow/users/permissions/grant", username=CI[0], **of_all)
    server.get("PATCH", "2.0/mlflow/users/update-admin", username=CI[0], is_admin=True)
    role = server.get("POST", "3.0/mlflow/roles/create", name="readers", workspace="default")["role"]["id"]
    of_role = {"role_id": role, "resource_type": "experiment", "resource_pattern": "*", "permission": "READ"}
    server.get("POST", "3.0/mlflow/roles/permissions/add", **of_role)
    server.get("POST", "3.0/mlflow/roles/assign", username=CI[0], role_id=role)
    assert rights(server, "other")["delete"] == 200
    assert len(ensure(server, entry(churn="READ"))) == 3
    assert rights(server, "other") == {"read": 403, "write": 403, "delete": 403}


def test_models_that_it_registers_stay_its_own(server: Server) -> None:
    ensure(server, entry(churn="EDIT"))
    model = {"name": f"model-{time.time_ns()}"}
    assert server.ask("POST", "2.0/mlflow/registered-models/create", CI, **model)[0] == 200
    assert ensure(server, entry(churn="EDIT")) == []
    assert server.ask("GET", "2.0/mlflow/registered-models/get", CI, **model)[0] == 200


def test_the_password_is_the_given_one(server: Server) -> None:
    ensure(server, entry(churn="READ"))
    other = (CI[0], "another-password-for-it")
    assert ensure(server, entry(password=other[1], churn="READ")) == ["ci-training: password set"]
    assert (server.lets_in(CI), server.lets_in(other)) == (False, True)
    assert work_through(Work(server, check=False), "look", [entry(), absent("ci-other")]) == [CI[0]]
    assert work_through(Work(server, check=False), "look", [entry(password=other[1])]) == []


def test_a_renewal_sets_the_password_and_nothing_else(server: Server) -> None:
    ensure(server, entry(churn="EDIT"))
    for password in ("another-password-for-it", "another-password-for-it", CI[1]):
        work = Work(server, check=False)
        work_through(work, "renew", [entry(password=password, fraud="EDIT"), absent("ci-other")])
        assert work.done == ["ci-training: password set"]
        assert server.lets_in((CI[0], password))
    assert rights(server, "churn")["write"] == 200
    assert rights(server, "fraud")["read"] == 403


def test_a_renewal_makes_a_user_that_is_gone(server: Server) -> None:
    work = Work(server, check=False)
    work_through(work, "renew", [entry(churn="EDIT")])
    assert work.done == ["ci-training: made"]
    assert server.lets_in(CI)


def test_a_removed_user_cannot_log_in_and_leaves_its_experiments(server: Server) -> None:
    ensure(server, entry(churn="EDIT"))
    assert ensure(server, absent(CI[0])) == ["ci-training: removed"]
    assert not server.lets_in(CI)
    assert experiment_id(server, "churn")


def test_check_mode_says_what_it_would_do_and_does_nothing(server: Server) -> None:
    name = f"new-{time.time_ns()}"
    foreseen_for_new = [
        "ci-training: made",
        f"experiment '{name}': made",
        f"ci-training: EDIT on the experiment '{name}'",
    ]
    assert ensure(server, entry(**{name: "EDIT"}), check=True) == foreseen_for_new
    assert not server.lets_in(CI)
    assert ensure(server, entry(**{name: "EDIT"})) == foreseen_for_new
    assert len(ensure(server, entry(password="another-password-for-it", **{name: "READ"}), check=True)) == 2
    assert ensure(server, absent(CI[0]), check=True) == ["ci-training: removed"]
    assert rights(server, name)["write"] == 200


def test_a_deleted_experiment_is_no_place_to_log_to(server: Server) -> None:
    ensure(server, entry(gone="EDIT"))
    server.get("POST", "2.0/mlflow/experiments/delete", experiment_id=experiment_id(server, "gone"))
    with pytest.raises(Refused, match=r"The experiment 'gone' was deleted; restore it, or take it out of the list\."):
        ensure(server, entry(gone="EDIT"))


def test_a_wrong_administrator_is_told(server: Server) -> None:
    with pytest.raises(Refused, match="MLflow refuses the login of the administrator 'admin'"):
        ensure(Server(server.path, server.host, ("admin", "not-the-password")), entry(churn="EDIT"))


def test_a_server_that_is_away_is_told(tmp_path: Path) -> None:
    away = Server(str(tmp_path / "socket"), "localhost", ADMIN)
    with pytest.raises(Refused, match="MLflow does not answer on ") as refused:
        ensure(away, entry(churn="EDIT"))
    assert isinstance(refused.value.__cause__, FileNotFoundError)
    assert foreseen([entry(), absent("ci-other")]) == ["ci-training: made, with its experiments"]


ACCOUNTS: list[dict[str, Any]] = [
    {"name": "ci-training", "experiments": {"churn": "EDIT"}},
    {"name": "ci-former", "state": "absent"},
]


def test_each_user_that_is_present_has_a_secret() -> None:
    assert service_user_secrets(ACCOUNTS) == {"ci-training": "service_user_ci_training"}
    # A name is one of a secret's, whatever is in it and however long it is.
    longest = service_user_secrets([{"name": "0" * 50}])["0" * 50]
    assert len(longest) == 63


def test_each_secret_is_made_renewed_and_handed_over_under_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "group_vars").symlink_to(PROJECT / "group_vars")
    (tmp_path / "hosts").write_text("[mlflow_server]\nlocalhost ansible_connection=local\n")
    values = {"service_user_ci_training": CI[1], "mlflow_admin_password": ADMIN[1]}
    shown = (
        "[secrets_names.keys() | select('match', 'service_'), rotate_secrets_names.service, service_users_passwords]"
    )
    command = ["ansible", "localhost", "--inventory", str(tmp_path / "hosts"), "--module-name", "ansible.builtin.debug"]
    command += ["--args", f"msg={{{{ {shown} | to_json }}}}"]
    command += ["--extra-vars", json.dumps({"site_service_users": ACCOUNTS, "secrets_values": values})]
    environment = os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "NO_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT, env=environment)
    assert done.returncode == 0, done.stdout
    secret = "service_user_ci_training"
    assert json.loads(done.stdout.partition("msg: ")[2].strip().strip("'")) == [[secret], [secret], {CI[0]: CI[1]}]


def test_the_server_is_told_of_all_users() -> None:
    assert service_user_entries(ACCOUNTS, {"ci-training": CI[1]}) == [entry(churn="EDIT"), absent("ci-former")]


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong: list[dict[str, Any]] = [{"name": "CI", "experiments": {"churn": "WRITE"}}, {"name": "admin"}]
    assert len(service_user_problems(wrong, "admin")) == 3
    assert service_user_problems(ACCOUNTS, "admin") == []
