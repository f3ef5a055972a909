"""The external mode: a host without a server, whose databases are made by an administrator who is no superuser."""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import testinfra

from testing.playbook import Run, run_playbook

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
DATABASES = ["mlflow", "mlflow_auth"]


@pytest.fixture(scope="module")
def cloud() -> Any:
    return testinfra.get_host("ansible://test-postgresql-external-cloud", ansible_inventory=INVENTORY)


@pytest.fixture(scope="module")
def site() -> Any:
    return testinfra.get_host("ansible://test-postgresql-external-site", ansible_inventory=INVENTORY)


@pytest.fixture(scope="module")
def passwords(site: Any) -> dict[str, str]:
    found: dict[str, str] = site.ansible.get_variables()["postgresql_login_passwords"]
    return found


def log_in(cloud: Any, role: str, password: str, database: str) -> Any:
    """Log in over TLS, on the one host that has a client."""
    return cloud.run(
        "PGPASSWORD=%s psql --no-psqlrc --tuples-only --no-align --command 'SELECT current_user' %s",
        password,
        f"host=test-postgresql-external-cloud sslmode=require dbname={database} user={role}",
    )


def administer(cloud: Any, sql: str, database: str = "postgres") -> str:
    command = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", sql, database]
    return str(cloud.check_output(f"runuser --user postgres -- {shlex.join(command)}"))


def converge(**variables: Any) -> Run:
    """Run the scenario's playbook again, showing all that Ansible can show."""
    return run_playbook("molecule/postgresql_external/converge.yml", "-vvv", "--diff", **variables)


def test_the_managed_host_has_no_server(site: Any) -> None:
    assert site.package("python3-psycopg2").is_installed
    assert not site.package("postgresql-common").is_installed


def test_the_administrator_is_no_superuser(cloud: Any) -> None:
    assert administer(cloud, "SELECT rolsuper FROM pg_roles WHERE rolname = 'cloud_admin'") == "f"


@pytest.mark.parametrize("role", ["mlflow_a", "mlflow_b"])
@pytest.mark.parametrize("database", DATABASES)
def test_a_login_role_acts_as_the_owner(cloud: Any, passwords: dict[str, str], role: str, database: str) -> None:
    login = log_in(cloud, role, passwords[role], database)
    assert login.stdout.strip() == "mlflow_owner", login.stderr


@pytest.mark.parametrize("database", DATABASES)
def test_a_database_is_its_owner_s_alone(cloud: Any, database: str) -> None:
    made = """SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding),
                     has_database_privilege('pg_monitor', datname, 'CONNECT'),
                     has_schema_privilege('pg_monitor', 'public', 'USAGE')
              FROM pg_database WHERE datname = current_database()"""
    assert administer(cloud, made, database) == "mlflow_owner|UTF8|f|f"


def test_a_run_changes_a_password_without_showing_it(cloud: Any, passwords: dict[str, str]) -> None:
    changed = {**passwords, "mlflow_b": "changed-password-of-b"}
    try:
        run = converge(postgresql_login_passwords=changed)
        assert run.returned == 0, run.output[-5000:]
        assert log_in(cloud, "mlflow_a", changed["mlflow_a"], "mlflow").succeeded
        assert log_in(cloud, "mlflow_b", changed["mlflow_b"], "mlflow").succeeded
        assert log_in(cloud, "mlflow_b", passwords["mlflow_b"], "mlflow").failed
    finally:
        back = converge()
    assert log_in(cloud, "mlflow_b", passwords["mlflow_b"], "mlflow").succeeded
    secrets = [*passwords.values(), *changed.values(), "test-only-password-of-admin", "SCRAM-SHA-256$"]
    assert not [secret for secret in secrets if secret in run.output + back.output]


def test_login_roles_are_exchanged_when_the_former_one_is_not_in_use_any_more(
    cloud: Any, passwords: dict[str, str]
) -> None:
    def rotate(both: dict[str, str], role: str) -> Run:
        following = {role: both[role]}
        path = "molecule/postgresql_external/rotate.yml"
        return run_playbook(path, "-vvv", "--diff", both_passwords=both, next_password=following)

    first, second = rotate(passwords, "mlflow_b"), rotate({"mlflow_b": passwords["mlflow_b"]}, "mlflow_b")
    assert first.returned == 0, first.output[-5000:]
    assert log_in(cloud, "mlflow_a", passwords["mlflow_a"], "mlflow").failed
    assert log_in(cloud, "mlflow_b", passwords["mlflow_b"], "mlflow").succeeded
    assert second.returned == 0, second.output[-5000:]
    assert second.changed == 0

    # An idle session, as a pool keeps one. The administrator may end it only where the cloud lets it.
    where = "host=test-postgresql-external-cloud sslmode=require dbname=mlflow user=mlflow_b"
    session = f"(sleep 300 | PGPASSWORD={passwords['mlflow_b']} psql '{where}') >/dev/null 2>&1 </dev/null &"
    both = {**passwords, "mlflow_a": "changed-password-of-a"}
    try:
        cloud.check_output(session)
        refused = rotate(both, "mlflow_a")
        assert refused.returned != 0
        assert "it takes pg_signal_backend and pg_read_all_stats" in " ".join(refused.output.split())
        # Nothing was taken away.
        assert log_in(cloud, "mlflow_b", both["mlflow_b"], "mlflow").succeeded
        administer(cloud, "GRANT pg_signal_backend, pg_read_all_stats TO cloud_admin")
        third = rotate(both, "mlflow_a")
        assert third.returned == 0, third.output[-5000:]
        assert log_in(cloud, "mlflow_a", both["mlflow_a"], "mlflow").succeeded
        assert log_in(cloud, "mlflow_b", both["mlflow_b"], "mlflow").failed
        assert administer(cloud, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'mlflow_b'") == "0"
    finally:
        administer(cloud, "REVOKE pg_signal_backend, pg_read_all_stats FROM cloud_admin")
        assert converge().returned == 0
    output = first.output + second.output + refused.output + third.output
    assert not [secret for secret in both.values() if secret in output]


def test_a_server_that_another_ca_signed_is_refused(cloud: Any, tmp_path: Path) -> None:
    # A CA of the same name, as somebody in between would make.
    other = tmp_path / "other.crt"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj"
    other.write_text(cloud.check_output(f"{made} '/CN=PostgreSQL CA of test-postgresql-external-cloud' 2>/dev/null"))
    try:
        run = converge(postgresql_external_ca_file=str(other))
        assert run.returned != 0
        assert "certificate verify failed" in run.output
    finally:
        assert converge().returned == 0
