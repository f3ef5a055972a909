"""What the role promises, asked of two servers: one that serves a client host, and one with the defaults."""

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import testinfra

from testing.limits import wait_until
from testing.playbook import Run, run_playbook

INVENTORY = os.environ["MOLECULE_INVENTORY_FILE"]
CA_ON_CONTROL_NODE = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "ca.crt")
CA_ON_CLIENT = "/root/ca.crt"
SOCKET = "host=/var/run/postgresql"
DATABASES = ["mlflow", "mlflow_auth"]


def connect(name: str) -> Any:
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=INVENTORY)


@pytest.fixture(scope="module")
def network() -> Any:
    return connect("test-postgresql-network")


@pytest.fixture(scope="module")
def local() -> Any:
    return connect("test-postgresql-local")


@pytest.fixture(scope="module")
def client() -> Any:
    host = connect("test-postgresql-client")
    assert host.run("printf %%s %s > %s", CA_ON_CONTROL_NODE.read_text(), CA_ON_CLIENT).succeeded
    return host


@pytest.fixture(scope="module")
def passwords(network: Any) -> dict[str, str]:
    found: dict[str, str] = network.ansible.get_variables()["postgresql_login_passwords"]
    return found


@pytest.fixture(scope="module")
def address(network: Any) -> str:
    return str(network.check_output("hostname --ip-address")).split()[0]


def psql(host: Any, connection: str, password: str, sql: str) -> Any:
    """Run SQL as a client would, with a connection string of libpq."""
    return host.run(
        "PGPASSWORD=%s PGCONNECT_TIMEOUT=10 psql --no-psqlrc --quiet --tuples-only --no-align --command %s %s",
        password,
        sql,
        connection,
    )


def administer(host: Any, sql: str, database: str = "postgres") -> str:
    """Run SQL as the administrator does, from the operating system's user postgres."""
    command = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", sql, database]
    return str(host.check_output(f"runuser --user postgres -- {shlex.join(command).replace('%', '%%')}"))


def server_log(host: Any) -> str:
    return str(host.check_output("cat /var/log/postgresql/*.log"))


def converge(*options: str, **variables: Any) -> Run:
    """Run the scenario's playbook again, showing all that Ansible can show."""
    return run_playbook("molecule/postgresql/converge.yml", "-vvv", "--diff", *options, **variables)


# Who is let in


@pytest.mark.parametrize("role", ["mlflow_a", "mlflow_b"])
@pytest.mark.parametrize("database", DATABASES)
def test_a_login_role_acts_as_the_owner_over_verified_tls(
    client: Any, passwords: dict[str, str], role: str, database: str
) -> None:
    login = psql(
        client,
        f"host=test-postgresql-network dbname={database} user={role} sslmode=verify-full sslrootcert={CA_ON_CLIENT}",
        passwords[role],
        # The owner may not see the session of a login role, but that role itself may.
        """SELECT session_user, current_user;
           SET ROLE NONE; SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()""",
    )
    assert login.stdout.split() == [f"{role}|mlflow_owner", "t|TLSv1.3"], login.stderr


@pytest.mark.parametrize("role", ["mlflow_a", "mlflow_b"])
@pytest.mark.parametrize("database", DATABASES)
def test_a_login_role_is_let_in_at_the_unix_socket(
    local: Any, passwords: dict[str, str], role: str, database: str
) -> None:
    login = psql(local, f"{SOCKET} dbname={database} user={role}", passwords[role], "SELECT current_user")
    assert login.stdout.strip() == "mlflow_owner", login.stderr


@pytest.mark.parametrize("name", ["database.example.org", "192.0.2.7"])
def test_the_certificate_has_the_names_that_were_asked_for(
    client: Any, passwords: dict[str, str], address: str, name: str
) -> None:
    where = f"host={name} hostaddr={address} dbname=mlflow user=mlflow_a"
    login = psql(client, f"{where} sslmode=verify-full sslrootcert={CA_ON_CLIENT}", passwords["mlflow_a"], "SELECT 1")
    assert login.stdout.strip() == "1", login.stderr


def test_the_certificate_has_no_other_name(client: Any, passwords: dict[str, str], address: str) -> None:
    where = f"host=elsewhere.example.org hostaddr={address} dbname=mlflow user=mlflow_a"
    login = psql(client, f"{where} sslmode=verify-full sslrootcert={CA_ON_CLIENT}", passwords["mlflow_a"], "SELECT 1")
    assert "does not match host name" in login.stderr


# Who is not


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("password=a-wrong-password", 'password authentication failed for user "mlflow_a"'),
        ("sslmode=disable", "no pg_hba.conf entry"),
        ("dbname=postgres", "no pg_hba.conf entry"),
        ("dbname=template1", "no pg_hba.conf entry"),
        ("user=postgres", "no pg_hba.conf entry"),
        ("user=mlflow_owner", "no pg_hba.conf entry"),
        ("replication=true", "no pg_hba.conf entry"),
    ],
)
def test_a_client_is_refused(client: Any, passwords: dict[str, str], change: str, reason: str) -> None:
    where = "host=test-postgresql-network dbname=mlflow user=mlflow_a sslmode=require"
    login = psql(client, f"{where} {change}", passwords["mlflow_a"], "SELECT 1")
    assert login.failed
    assert reason in login.stderr


def test_a_host_that_is_not_listed_is_refused(local: Any, passwords: dict[str, str]) -> None:
    where = "host=test-postgresql-network dbname=mlflow user=mlflow_a sslmode=require"
    login = psql(local, where, passwords["mlflow_a"], "SELECT 1")
    assert login.failed
    assert "no pg_hba.conf entry" in login.stderr


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("password=a-wrong-password", 'password authentication failed for user "mlflow_a"'),
        ("dbname=postgres", "no pg_hba.conf entry"),
        # root is not the operating system's user postgres.
        ("user=postgres", 'Peer authentication failed for user "postgres"'),
        ("user=mlflow_owner", "no pg_hba.conf entry"),
    ],
)
def test_a_user_of_the_host_is_refused(local: Any, passwords: dict[str, str], change: str, reason: str) -> None:
    login = psql(local, f"{SOCKET} dbname=mlflow user=mlflow_a {change}", passwords["mlflow_a"], "SELECT 1")
    assert login.failed
    assert reason in login.stderr


def listening(host: Any) -> list[str]:
    return [line.split()[3] for line in host.check_output("ss -Hltn sport = :5432").splitlines()]


def test_the_server_listens_where_its_clients_need_it(network: Any, address: str) -> None:
    assert listening(network) == [f"{address}:5432"]


def test_without_clients_the_server_listens_nowhere(local: Any) -> None:
    assert listening(local) == []


@pytest.mark.parametrize("database", DATABASES)
def test_nobody_but_the_owner_and_its_members_may_do_anything(local: Any, database: str) -> None:
    # pg_monitor is a role like any other here: it has what PUBLIC has.
    allowed = administer(
        local,
        """SELECT privilege FROM unnest(ARRAY['CONNECT', 'TEMPORARY', 'CREATE']) AS privilege
           WHERE has_database_privilege('pg_monitor', current_database(), privilege)
           UNION SELECT 'schema ' || privilege FROM unnest(ARRAY['CREATE', 'USAGE']) AS privilege
           WHERE has_schema_privilege('pg_monitor', 'public', privilege)""",
        database,
    )
    assert allowed == ""


# What is served


@pytest.mark.parametrize("database", DATABASES)
def test_a_database_belongs_to_the_owner_and_holds_utf_8(local: Any, database: str) -> None:
    made = """SELECT pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate
              FROM pg_database WHERE datname = current_database()"""
    assert administer(local, made, database) == "mlflow_owner|UTF8|C.UTF-8"


def test_what_one_login_role_makes_the_other_can_alter(local: Any, passwords: dict[str, str]) -> None:
    def as_role(role: str, sql: str) -> str:
        done = psql(local, f"{SOCKET} dbname=mlflow user={role}", passwords[role], sql)
        assert done.succeeded, done.stderr
        return str(done.stdout).strip()

    as_role("mlflow_a", "CREATE TABLE made_by_a (id int)")
    assert as_role("mlflow_b", "SELECT tableowner FROM pg_tables WHERE tablename = 'made_by_a'") == "mlflow_owner"
    as_role("mlflow_b", "ALTER TABLE made_by_a ADD COLUMN more int; DROP TABLE made_by_a")


def test_pages_have_checksums(local: Any) -> None:
    assert administer(local, "SHOW data_checksums") == "on"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        # A quarter and three quarters of the 1 GiB that the scenario grants.
        ("shared_buffers", "256MB"),
        ("effective_cache_size", "768MB"),
        ("maintenance_work_mem", "64MB"),
        # The budget of 100 and the reserve of 10.
        ("max_connections", "110"),
        ("work_mem", "7MB"),
        ("jit", "off"),
        ("ssl_min_protocol_version", "TLSv1.2"),
        ("password_encryption", "scram-sha-256"),
    ],
)
def test_a_setting_is_as_derived_or_overridden(network: Any, setting: str, value: str) -> None:
    assert administer(network, f"SHOW {setting}") == value


def test_by_default_memory_is_shared_out_by_halves(local: Any) -> None:
    total = int(local.check_output("awk '/MemTotal/ {print $2}' /proc/meminfo")) // 1024
    buffers = administer(local, "SELECT setting::int * 8 / 1024 FROM pg_settings WHERE name = 'shared_buffers'")
    assert int(buffers) == min(total // 2 // 4, 8192)


@pytest.mark.parametrize("server", ["network", "local"])
def test_every_setting_is_in_effect(request: pytest.FixtureRequest, server: str) -> None:
    host = request.getfixturevalue(server)
    assert administer(host, "SELECT name FROM pg_settings WHERE pending_restart") == ""
    assert administer(host, "SELECT * FROM pg_file_settings WHERE error IS NOT NULL") == ""
    assert administer(host, "SELECT * FROM pg_hba_file_rules WHERE error IS NOT NULL") == ""


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        ("/etc/postgresql/tls", "root:postgres", "750"),
        ("/etc/postgresql/tls/ca.key", "root:root", "600"),
        ("/etc/postgresql/tls/server.key", "root:postgres", "640"),
        ("/etc/postgresql/*/main/conf.d/50-ansible.conf", "root:postgres", "640"),
        ("/etc/postgresql/*/main/pg_hba.conf", "root:postgres", "640"),
    ],
)
def test_other_users_cannot_read_it(network: Any, path: str, owner: str, mode: str) -> None:
    # The shell finds the version.
    assert network.check_output(f"stat --format '%U:%G %a' {path}") == f"{owner} {mode}"


# What the log holds


def test_the_log_leaves_statements_out_where_they_may_hold_a_secret(local: Any, passwords: dict[str, str]) -> None:
    slow = "SELECT pg_sleep(0.7), 'the slow statement in {}'"
    for database in DATABASES:
        done = psql(local, f"{SOCKET} dbname={database} user=mlflow_a", passwords["mlflow_a"], slow.format(database))
        assert done.succeeded, done.stderr
    failed = psql(
        local, f"{SOCKET} dbname=mlflow user=mlflow_a", passwords["mlflow_a"], "SELECT 'in what failed' FROM nowhere"
    )
    assert failed.failed

    log = server_log(local)

    assert "the slow statement in mlflow'" in log
    assert "the slow statement in mlflow_auth" not in log
    assert 'relation "nowhere" does not exist' in log
    assert "in what failed" not in log
    assert "connection authorized: user=mlflow_a database=mlflow" in log
    assert "disconnection: " in log


# What a later run does


def test_a_run_changes_passwords_and_settings_and_shows_no_secret(
    network: Any, client: Any, passwords: dict[str, str]
) -> None:
    changed = {role: f"changed {password}" for role, password in passwords.items()}

    def may_log_in(password: str) -> bool:
        where = "host=test-postgresql-network dbname=mlflow user=mlflow_a sslmode=require"
        return bool(psql(client, where, password, "SELECT 1").succeeded)

    # This server logs each statement of its clients, however quick.
    assert administer(network, "SHOW log_min_duration_statement") == "0"
    started = administer(network, "SELECT pg_postmaster_start_time()")
    try:
        first = converge(
            postgresql_login_passwords=changed,
            postgresql_settings={"deadlock_timeout": "2s", "log_min_duration_statement": 0},
        )
        assert first.returned == 0, first.output[-5000:]
        assert may_log_in(changed["mlflow_a"])
        assert not may_log_in(passwords["mlflow_a"])
        assert administer(network, "SHOW deadlock_timeout") == "2s"
        assert administer(network, "SELECT pg_postmaster_start_time()") == started

        # Back to the old passwords, with a setting that only a restart puts into effect.
        second = converge(postgresql_settings={"max_locks_per_transaction": 65})
        assert second.returned == 0, second.output[-5000:]
        assert may_log_in(passwords["mlflow_a"])
        assert not may_log_in(changed["mlflow_a"])
        assert administer(network, "SHOW max_locks_per_transaction") == "65"
        assert administer(network, "SELECT pg_postmaster_start_time()") != started
    finally:
        third = converge()
    assert third.returned == 0, third.output[-5000:]

    verifiers = administer(network, "SELECT rolpassword FROM pg_authid WHERE rolname IN ('mlflow_a', 'mlflow_b')")
    secrets = [*passwords.values(), *changed.values(), *verifiers.splitlines(), "SCRAM-SHA-256$"]
    journal = network.check_output("journalctl --no-pager")
    output = first.output + second.output + third.output
    for shown, name in [(server_log(network), "log"), (journal, "journal"), (output, "output of Ansible")]:
        assert shown
        assert not [secret for secret in secrets if secret in shown], name


def test_a_setting_that_postgresql_does_not_know_changes_nothing(local: Any) -> None:
    path = "/etc/postgresql/*/main/conf.d/50-ansible.conf"
    before = local.check_output(f"sha256sum {path}")

    run = converge(postgresql_settings={"work_memory": "4MB"})

    assert run.returned != 0
    assert 'unrecognized configuration parameter "work_memory"' in run.output
    assert local.check_output(f"sha256sum {path}") == before


def test_a_run_in_check_mode_sees_nothing_to_change() -> None:
    run = converge("--check")
    assert run.returned == 0, run.output[-5000:]
    assert run.changed == 0


def test_a_killed_server_comes_back_with_what_it_acknowledged(local: Any, passwords: dict[str, str]) -> None:
    login = f"{SOCKET} dbname=mlflow user=mlflow_a"
    made = psql(local, login, passwords["mlflow_a"], "CREATE TABLE kept AS SELECT 1 AS id")
    assert made.succeeded, made.stderr
    before = local.check_output("head -n 1 /var/lib/postgresql/*/main/postmaster.pid")

    local.check_output(f"kill -9 {before}")

    def find() -> Any:
        return psql(local, login, passwords["mlflow_a"], "SELECT id FROM kept")

    wait_until(lambda: find().succeeded, 60, "PostgreSQL did not come back")
    assert find().stdout.strip() == "1"
    assert local.check_output("head -n 1 /var/lib/postgresql/*/main/postmaster.pid") != before
    assert psql(local, login, passwords["mlflow_a"], "DROP TABLE kept").succeeded
