"""The server alone, on its socket: processes, login, files, and what happens when a change goes wrong."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from testinfra.host import Host

from testing.deployment import active_colour
from testing.playbook import Run, run_playbook

CONVERGE = "molecule/mlflow_server/converge.yml"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
CURL_CANNOT_CONNECT = 7
# Reads a file over and over, as libpq does for each connection.
READER = "import sys\nwhile True:\n    with open(sys.argv[1]) as file:\n        assert file.read()"
VARIABLES = yaml.safe_load(Path(__file__).parent.parent.joinpath("vars/scenario.yml").read_text())
PASSWORDS = VARIABLES["service_users_passwords"]
SECRETS = {
    name: value
    for name, value in (VARIABLES | PASSWORDS).items()
    if isinstance(value, str) and value.startswith("test-")
}


def ask(
    host: Host,
    path: str,
    user: str = "admin",
    password: str = SECRETS["mlflow_server_admin_password"],
    method: str = "GET",
) -> int:
    """Return the status of a request to the socket, as nginx would send it."""
    return int(
        host.check_output(
            f"curl --silent --output /dev/null --write-out '%{{http_code}}' --unix-socket /opt/mlflow/active/socket "
            f"--user '{user}:{password}' --request {method} 'http://mlflow.test{path}'"
        )
    )


def send(host: Host, method: str, path: str, user: str, **body: object) -> tuple[int, dict[str, Any]]:
    """Return status and content of an answer to a user of the server."""
    password = SECRETS.get(user, SECRETS["mlflow_server_admin_password"])
    said = host.check_output(
        f"curl --silent --write-out '\n%{{http_code}}' --unix-socket /opt/mlflow/active/socket "
        f"--user '{user}:{password}' --request {method} --json {shlex.quote(json.dumps(body))} 'http://mlflow.test/api/2.0/{path}'"
    )
    content, _, status = said.rpartition("\n")
    return int(status), json.loads(content) if content.startswith("{") else {}


def rights(host: Host, user: str, experiment: str) -> list[int]:
    """Return the answers to a user who reads an experiment, logs a run to it, and deletes it."""
    _, found = send(host, "GET", f"mlflow/experiments/get-by-name?experiment_name={experiment}", "admin")
    number = found["experiment"]["experiment_id"]
    statuses = [
        send(host, "GET", f"mlflow/experiments/get?experiment_id={number}", user)[0],
        send(host, "POST", "mlflow/runs/create", user, experiment_id=number, start_time=1)[0],
        send(host, "POST", "mlflow/experiments/delete", user, experiment_id=number)[0],
    ]
    if statuses[2] == 200:
        send(host, "POST", "mlflow/experiments/restore", "admin", experiment_id=number)
    return statuses


@pytest.fixture(scope="module", autouse=True)
def curl(host: Host) -> None:
    """Give the host the client that these tests ask with."""
    host.check_output("apt-get install --yes --quiet --quiet --no-install-recommends curl")


def test_one_colour_runs_now_and_after_a_reboot(host: Host) -> None:
    active = active_colour(host)
    idle = "green" if active == "blue" else "blue"
    assert host.service(f"mlflow@{active}").is_running, host.check_output(f"journalctl --unit=mlflow@{active}")
    assert host.service(f"mlflow@{active}").is_enabled
    assert not host.service(f"mlflow@{idle}").is_running
    assert not host.service(f"mlflow@{idle}").is_enabled


def test_login_is_asked_for_and_checked(host: Host) -> None:
    assert ask(host, SEARCH) == 200
    assert ask(host, SEARCH, password="not-the-password") == 401
    assert ask(host, SEARCH, user="nobody") == 401
    assert ask(host, "/health", user="nobody") == 200


def test_native_routes_are_served(host: Host) -> None:
    # Plain WSGI knows no such route and would say 404. An empty body is no trace, and no credentials are no entry.
    assert ask(host, "/v1/traces", method="POST") in (400, 415, 422)
    assert ask(host, "/v1/traces", method="POST", user="nobody") == 401


def test_request_for_another_host_is_refused(host: Host) -> None:
    status = host.check_output(
        "curl --silent --output /dev/null --write-out '%{http_code}' --unix-socket /opt/mlflow/active/socket "
        f"--user admin:{SECRETS['mlflow_server_admin_password']} http://elsewhere.test{SEARCH}"
    )
    assert status == "403"


def test_socket_is_open_to_the_proxy_alone(host: Host) -> None:
    socket = host.file(host.check_output("readlink --canonicalize /opt/mlflow/active/socket"))
    assert (socket.user, socket.group, oct(socket.mode)) == ("mlflow", "mlflow-proxy", "0o660")
    connect = "curl --silent --show-error --unix-socket /opt/mlflow/active/socket http://mlflow.test/health"
    assert host.run(f"runuser -u nobody -- {connect}").rc == CURL_CANNOT_CONNECT
    assert host.run(f"runuser -u nobody -g mlflow-proxy -- {connect}").stdout == "OK"
    assert host.run("ss --no-header --listening --tcp --processes | grep gunicorn").stdout == ""


def test_unit_is_hardened(host: Host) -> None:
    answer = host.check_output(f"systemd-analyze security --json=short mlflow@{active_colour(host)}.service")
    assert len(json.loads(answer)) > 50
    overall = host.run(f"systemd-analyze security --threshold=20 mlflow@{active_colour(host)}.service")
    assert overall.rc == 0, overall.stdout[-300:]


def test_server_cannot_write_beside_its_artifacts(host: Host) -> None:
    unit = f"mlflow@{active_colour(host)}.service"
    assert host.check_output(f"systemctl show -P ProtectSystem {unit}") == "strict"
    writable = host.check_output(f"systemctl show -P ReadWritePaths {unit}").split()
    assert writable == ["/var/lib/mlflow/artifacts", f"/var/lib/mlflow/tmp/{active_colour(host)}"]
    assert "Permission denied" in host.run("runuser -u mlflow -- touch /opt/mlflow/active/release/probe").stderr


def test_secrets_are_readable_by_root_and_the_server_alone(host: Host) -> None:
    colour = active_colour(host)
    for path in (f"/etc/mlflow/{colour}/pg_service.conf", f"/etc/mlflow/{colour}/credentials/kek_passphrase"):
        assert host.file(path).size > 0
        assert "Permission denied" in host.run(f"runuser -u nobody -g mlflow-proxy -- cat {path}").stderr
    assert "Permission denied" in host.run(f"runuser -u mlflow -- ls /etc/mlflow/{colour}/credentials").stderr


def test_no_secret_in_the_process_table(host: Host) -> None:
    pids = host.check_output("pgrep --full gunicorn").split()
    assert len(pids) >= 3
    for pid in pids:
        shown = host.run(f"cat /proc/{pid}/cmdline /proc/{pid}/environ").stdout
        assert [name for name, value in SECRETS.items() if value in shown] == []


def test_release_is_complete_and_the_users_cannot_change_it(host: Host) -> None:
    release = host.check_output("readlink --canonicalize /opt/mlflow/active/release")
    assert host.file(f"{release}/.complete").exists
    assert host.run(f"find {release} -not -user root -print -quit").stdout == ""
    assert host.run(f"find {release} -type f -perm /go=w -print -quit").stdout == ""
    assert host.file(host.check_output("readlink --canonicalize /opt/mlflow/active/static") + "/index.html.gz").exists


def test_no_telemetry_no_jobs(host: Host) -> None:
    # One master and two workers: a job runner would be nine processes more.
    assert len(host.check_output("pgrep --full --uid mlflow .").split()) == 3
    settings = host.file(f"/etc/mlflow/{active_colour(host)}/gunicorn.conf.py").content_string
    assert '"MLFLOW_DISABLE_TELEMETRY": "true"' in settings


def test_tables_belong_to_the_owner_role(host: Host) -> None:
    query = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    for database in ("mlflow", "mlflow_auth"):
        command = f'cd / && runuser -u postgres -- psql --no-align --tuples-only --command "{query}" {database}'
        assert host.check_output(command) == "mlflow_owner"


def test_service_user_may_log_to_its_experiments_and_nowhere_else(host: Host) -> None:
    assert rights(host, "ci-training", "churn") == [200, 200, 403]
    assert rights(host, "ci-training", "fraud") == [200, 403, 403]
    assert rights(host, "ci-training", "Default") == [403, 403, 403]
    assert rights(host, "ci-former", "churn") == [403, 403, 403]
    _, found = send(host, "GET", "mlflow/experiments/get-by-name?experiment_name=churn", "admin")
    number = found["experiment"]["experiment_id"]
    _, run = send(host, "POST", "mlflow/runs/create", "ci-training", experiment_id=number, start_time=1)
    path = f"mlflow-artifacts/artifacts/{number}/{run['run']['info']['run_id']}/artifacts/model"
    assert send(host, "PUT", path, "ci-training")[0] == 200
    assert send(host, "PUT", path, "ci-former")[0] == 403
    # It cannot give itself more.
    assert (
        send(host, "PATCH", "mlflow/users/update-admin", "ci-training", username="ci-training", is_admin=True)[0] == 403
    )


def test_service_users_become_what_the_list_says(host: Host) -> None:
    other = [
        {"name": "ci-training", "experiments": {"churn": "READ", "pricing": "MANAGE"}},
        {"name": "ci-former", "state": "absent"},
    ]
    options = ("--tags", "service_users", "--diff", "-vvv")
    tried = run_playbook(CONVERGE, *options, "--check", service_users_accounts=other)
    assert tried.returned == 0, tried.output[-3000:]
    assert "ci-former: removed" in tried.output
    assert rights(host, "ci-training", "fraud") == [200, 403, 403]
    assert rights(host, "ci-former", "fraud") == [200, 200, 403]

    run = run_playbook(CONVERGE, *options, service_users_accounts=other)
    assert run.returned == 0, run.output[-3000:]
    assert rights(host, "ci-training", "churn") == [200, 403, 403]
    assert rights(host, "ci-training", "pricing") == [200, 200, 200]
    assert rights(host, "ci-training", "fraud") == [403, 403, 403]
    # Workers that remember its password find no such user behind it.
    assert set(rights(host, "ci-former", "fraud")) & {200} == set()

    again = run_playbook(CONVERGE, *options)
    assert again.returned == 0, again.output[-3000:]
    assert rights(host, "ci-training", "churn") == [200, 200, 403]
    for output in (tried.output, run.output, again.output, host.check_output("journalctl --no-pager --all")):
        assert [user for user, password in PASSWORDS.items() if password in output] == []


def test_changed_lock_builds_another_release_and_the_old_one_is_the_way_back(host: Host) -> None:
    before = host.check_output("readlink --canonicalize /opt/mlflow/active/release")
    run = run_playbook(CONVERGE, mlflow_server_extra_packages=["cachetools"])
    assert run.returned == 0, run.output[-3000:]
    after = host.check_output("readlink --canonicalize /opt/mlflow/active/release")
    assert after != before
    assert host.file(f"{before}/.complete").exists

    run = run_playbook(CONVERGE)
    assert run.returned == 0, run.output[-3000:]
    assert "Build the release" not in run.output.partition("CHANGES")[2]
    assert host.check_output("readlink --canonicalize /opt/mlflow/active/release") == before
    assert ask(host, SEARCH) == 200


@pytest.fixture(scope="module")
def repaired(host: Host) -> Run:
    """Damage the release that serves, as an interrupted installation leaves it, add old releases, and deploy."""
    release = host.check_output("readlink --canonicalize /opt/mlflow/active/release")
    host.check_output(f"rm {release}/.complete {release}/lib/python3*/site-packages/alembic/script/base.py")
    for number in range(1, 4):
        host.check_output(f"mkdir --parents /opt/mlflow/releases/old-{number}")
        host.check_output(f"touch --date '{number} days ago' /opt/mlflow/releases/old-{number}")
    return run_playbook(CONVERGE, mlflow_server_releases_kept=3)


def test_an_interrupted_release_is_built_again(host: Host, repaired: Run) -> None:
    assert repaired.returned == 0, repaired.output[-3000:]
    release = host.check_output("readlink --canonicalize /opt/mlflow/active/release")
    assert host.file(f"{release}/.complete").exists
    assert host.run(f"ls {release}/lib/python3*/site-packages/alembic/script/base.py").rc == 0


def test_old_releases_are_pruned_to_the_number(host: Host, repaired: Run) -> None:
    assert repaired.returned == 0, repaired.output[-3000:]
    left = host.check_output("ls /opt/mlflow/releases").split()
    assert len(left) <= 3
    assert not {"old-2", "old-3"} & set(left)
    assert Path(host.check_output("readlink --canonicalize /opt/mlflow/active/release")).name in left


# The first changes nothing but the credentials, which needs no other slot; the others are tried in the idle slot.
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"mlflow_server_database_password": "not-the-database-password"}, "The database 'mlflow' refuses the login"),
        (
            {
                "mlflow_server_settings": {"MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NoSuchPool"},
                "mlflow_server_ready_timeout": 15,
            },
            "serves on.",
        ),
        (
            {"mlflow_server_database_password": "not-the-database-password", "mlflow_server_ready_timeout": 15},
            "The database 'mlflow' cannot be used",
        ),
        ({"mlflow_server_pool_size": 100}, "the database grants"),
        (
            {"mlflow_server_admin_password": "not-the-admin-password", "mlflow_server_ready_timeout": 15},
            "mlflow_server_admin_password is not the password of the account 'admin'",
        ),
    ],
    ids=["credentials", "setting", "database-password", "connections", "admin-password"],
)
def test_a_refused_change_leaves_the_serving_slot_alone(host: Host, wrong: dict[str, object], sentence: str) -> None:
    before = active_colour(host)
    pid = host.check_output(f"systemctl show -P MainPID mlflow@{before}")
    run = run_playbook(CONVERGE, **wrong)
    assert run.returned != 0
    assert sentence in " ".join(run.output.split())
    assert [name for name, value in SECRETS.items() if value in run.output] == []
    assert [value for value in wrong.values() if isinstance(value, str) and value in run.output] == []
    assert "Traceback" not in run.output.partition("journal")[0]
    assert active_colour(host) == before
    assert host.check_output(f"systemctl show -P MainPID mlflow@{before}") == pid
    assert not host.file(f"/etc/mlflow/{before}/pg_service.next").exists
    assert ask(host, SEARCH) == 200


def test_after_refused_changes_a_deployment_changes_nothing_more(host: Host) -> None:
    run = run_playbook(CONVERGE)
    assert run.returned == 0, run.output[-3000:]
    again = run_playbook(CONVERGE)
    assert again.returned == 0, again.output[-3000:]
    assert again.changed == 0


def test_login_can_be_read_at_every_moment_of_its_change(host: Host) -> None:
    path = f"/etc/mlflow/{active_colour(host)}/pg_service.conf"
    host.check_output(f"systemd-run --unit=reader --uid=mlflow /usr/bin/python3 -c {shlex.quote(READER)} {path}")
    other = {
        "mlflow_server_database_user": "mlflow_b",
        "mlflow_server_database_password": "{{ database_passwords.b }}",
    }
    for change in (other, {}):
        before = host.file(path).content_string
        run = run_playbook(CONVERGE, **change)
        assert run.returned == 0, run.output[-3000:]
        assert host.file(path).content_string != before
    # It ends by itself at the first time that it cannot read.
    assert host.service("reader").is_running, host.check_output("journalctl --unit=reader --lines=3")
    host.check_output("systemctl stop reader")
