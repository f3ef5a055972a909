"""Secrets are renewed while clients of both hosts write; what was cut off is finished; nobody else gets in between."""

from __future__ import annotations

import functools
import os
import random
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from testinfra.host import Host

from testing.cloud import Cloud
from testing.credentials import (
    CREDENTIALS,
    Login,
    admin_statuses,
    held_credentials,
    kek_versions,
    served_serial,
    stored_gateway_secret,
    user_statuses,
    working_logins,
)
from testing.deployment import Login as UserLogin
from testing.deployment import Site, active_colour
from testing.load import CLIENTS, Account, load, wait_until_written
from testing.playbook import PROJECT, Run, playbook_command, run_playbook
from testing.stores import Generated, KeyVault, ParameterStore, Store

ROTATE = "playbooks/rotate_secrets.yml"
STATUS = "playbooks/secrets_status.yml"
EVERYTHING = "database,admin,service,flask,tokens,kek,tls"
STORED = "database,admin,service,flask,tokens"
MODELS = "/gateway/mlflow/v1/models"
# The service user of host_vars, and its password.
JOB = "ci-training"
JOB_SECRET = "service_user_ci_training"
NAMES = ["database_login", "mlflow_admin_password", "mlflow_kek_passphrase", JOB_SECRET, *CREDENTIALS]
# What a long test sets higher, or to 1: in which rotations runs are killed after tasks that change something, every
# how many of those, and how often one is killed at a moment that nobody chose.
CUT_OFF = os.environ.get("ROTATION_CUT_OFF", "database").split(";")
CUT_OFF_EVERY = os.environ.get("ROTATION_CUT_OFF_EVERY", "8")
RANDOM_KILLS = int(os.environ.get("ROTATION_RANDOM_KILLS", "1"))


@pytest.fixture(scope="module")
def cloud(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Yield AWS and Azure as this machine plays them."""
    with Cloud.start(tmp_path_factory.mktemp("cloud")) as started:
        yield started


@pytest.fixture
def clients(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what a client of the cloud sets, for this process and for Ansible's."""
    for name, value in cloud.environment.items():
        monkeypatch.setenv(name, value)


def remember(site: Site, values: dict[str, str]) -> None:
    """Keep the values that secrets have had, for the search at the end."""
    with (site.state / "values").open("a", encoding="utf-8") as file:
        file.writelines(f"{value.rpartition(':')[2]}\n" for value in values.values())


def assert_kept(account: Account, site: Site) -> None:
    """Check that no request of a load failed and that nothing confirmed is gone."""
    assert account.failures == []
    assert account.lost(site) == set()


def deploy(store: Store) -> Run:
    """Deploy the whole site."""
    return run_playbook("playbooks/site.yml", "-vvv", "--diff", **store.variables)


def note_figures(site: Site, name: str, account: Account, begin: float, end: float) -> None:
    """Write down how fast requests were answered before a rotation and during it."""
    before, during = (
        "/".join(f"{account.percentile(percent, *span):.3f}" for percent in (50, 99, 100))
        for span in ((0.0, begin), (begin, end))
    )
    with (site.state / "figures").open("a", encoding="utf-8") as file:
        file.write(
            f"{name}: {len(account.acknowledged)} writes in {end - begin:.0f} s of rotation; "
            f"p50/p99/max before {before} s, during {during} s\n"
        )


def new_gateway_secret(site: Site) -> str:
    """Store an API key for the AI gateway and return its name."""
    name = f"key-{uuid.uuid4().hex}"
    body = {"secret_name": name, "secret_value": {"api_key": f"value-of-{name}"}, "provider": "openai"}
    with site.session() as session:
        answer = session.post(f"{site.url}/api/3.0/mlflow/gateway/secrets/create", json=body, timeout=60)
    assert answer.status_code == requests.codes.ok, answer.text
    return name


def rotate_under_load(
    parts: str, hosts: list[Host], site: Site, other: Site, writer: UserLogin, store: Store
) -> tuple[dict[str, str], dict[str, str]]:
    """Renew secrets under load, and check what opens afterwards and what does not.

    Returns:
        The values before and after.
    """
    before = store.read(NAMES)
    remember(site, before)
    with load(site, "rotation", [other], writer) as account:
        wait_until_written(account, 200)
        begin = time.monotonic()
        run = run_playbook(ROTATE, "-vvv", "--diff", rotate=parts, **store.variables)
        end = time.monotonic()
        assert run.returned == 0, run.output[-3000:]
        wait_until_written(account, 20)
    assert_kept(account, site)
    note_figures(site, str(store.variables["secrets_provider"]), account, begin, end)
    # Both hosts' probes.
    assert len(re.findall(r"\d+ requests, 0 failed", run.output)) == 2

    after = store.read(NAMES)
    remember(site, after)
    new, old = Login.of(after["database_login"]), Login.of(before["database_login"])
    assert new.role != old.role
    assert working_logins(hosts[0], {before["database_login"], after["database_login"]}) == {(new.role, new.password)}
    for host in hosts:
        assert admin_statuses(host, after["mlflow_admin_password"]) == {200}
        assert admin_statuses(host, before["mlflow_admin_password"]) == {401}
        assert user_statuses(host, JOB, after[JOB_SECRET]) == {200}
        assert user_statuses(host, JOB, before[JOB_SECRET]) == {401}
        assert held_credentials(host) == {name: after[name] for name in CREDENTIALS}
        # Closed at the proxy, and asked behind it.
        assert admin_statuses(host, after["mlflow_gateway_token"], MODELS) == {200}
        assert admin_statuses(host, before["mlflow_gateway_token"], MODELS) == {401}
    assert_hosts_agree(store)
    return before, after


def looked_up_anew(site: Site, login: UserLogin) -> UserLogin:
    """Return the login of a job that was refused with this one: by the next password, or by the current one."""
    files = [path for path in sorted(site.secrets.glob(f"{JOB_SECRET}*")) if path.suffix != ".previous"]
    found = [path.read_text().strip() for path in files]
    return JOB, next((password for password in found if password != login[1]), login[1])


def assert_hosts_agree(store: Store) -> None:
    """Check that the report finds nothing to mend."""
    status = run_playbook(STATUS, **store.variables)
    assert status.returned == 0, status.output[-3000:]
    words = " ".join(status.output.split())
    assert words.count("hosts agree") == len(NAMES)
    assert len(re.findall(r"certificate of \S+: 0 days old, valid for 36[45] more", words)) == 2


def test_check_mode_shows_what_would_be_renewed_and_changes_nothing(site: Site) -> None:
    before = Generated(site).read(NAMES)
    run = run_playbook(ROTATE, "--check", "--diff", rotate="database,flask,tls")
    assert run.returned == 0, run.output[-3000:]
    assert run.changed == 0
    for line in (
        r"database_login: version \S+, 0 days old; to be renewed",
        r"mlflow_flask_secret_key: version \S+, 0 days old; to be renewed",
        "tls: a new certificate and key",
    ):
        assert re.search(line, run.output), line
    assert "mlflow_admin_password: " not in run.output
    assert Generated(site).read(NAMES) == before


def test_wrong_part_is_refused_before_anything_changes(site: Site) -> None:
    run = run_playbook(ROTATE, rotate="database,everything")
    assert run.returned != 0
    assert (
        "rotate_secrets_parts has everything; it takes some of database, admin, service, flask, tokens, kek, tls."
        in " ".join(run.output.split())
    )
    assert run.changed == 0


def test_every_secret_is_renewed_and_no_client_notices(
    hosts: list[Host], site: Site, other: Site, writer: UserLogin
) -> None:
    serials = {served_serial(host) for host in hosts}
    key = new_gateway_secret(site)
    login = (JOB, site.secret(JOB_SECRET))
    renewed = functools.partial(looked_up_anew, site)
    with load(site, "job", [other], login, experiment="nightly", renewed=renewed) as job:
        before, after = rotate_under_load(EVERYTHING, hosts, site, other, writer, Generated(site))
    assert_kept(job, site)
    # Every client of it was refused with the former password, and went on with the next one.
    assert job.refused >= CLIENTS
    assert job.login == (JOB, after[JOB_SECRET])
    assert {name for name in NAMES if after[name] == before[name]} == set()
    assert {served_serial(host) for host in hosts} & serials == set()
    passphrase = after["mlflow_kek_passphrase"]
    assert kek_versions(hosts[0]) == {int(passphrase.partition(":")[0])}
    assert stored_gateway_secret(hosts[0], key, passphrase) == {"api_key": f"value-of-{key}"}

    again = deploy(Generated(site))
    assert again.returned == 0, again.output[-3000:]
    assert again.changed == 0, again.output[-1500:]


def test_a_host_left_out_is_refused(other: Site) -> None:
    run = run_playbook(ROTATE, "--limit", f"!{other.host}", rotate="flask")
    assert run.returned != 0
    assert run.changed == 0
    assert f"{other.host}: left out by --limit; secrets are renewed on all hosts or none." in " ".join(
        run.output.split()
    )


def test_former_password_of_the_administrator_is_forgotten_by_every_worker(hosts: list[Host], site: Site) -> None:
    former = site.admin[1]
    # Each of them remembers it now.
    assert [admin_statuses(host, former) for host in hosts] == [{200}, {200}]
    run = run_playbook(ROTATE, rotate="admin")
    assert run.returned == 0, run.output[-3000:]
    assert [admin_statuses(host, former) for host in hosts] == [{401}, {401}]
    assert [admin_statuses(host, site.admin[1]) for host in hosts] == [{200}, {200}]


def test_former_password_of_a_service_user_is_forgotten_by_every_worker(hosts: list[Host], site: Site) -> None:
    # Alone: no secret of the server's own asks for a switch of colours.
    former = site.secret(JOB_SECRET)
    assert [user_statuses(host, JOB, former) for host in hosts] == [{200}, {200}]
    run = run_playbook(ROTATE, "-vvv", "--diff", rotate="service")
    assert run.returned == 0, run.output[-3000:]
    assert [user_statuses(host, JOB, former) for host in hosts] == [{401}, {401}]
    assert [user_statuses(host, JOB, site.secret(JOB_SECRET)) for host in hosts] == [{200}, {200}]
    remember(site, {"former": former})


def test_forms_signed_by_the_former_key_are_refused(site: Site, other: Site) -> None:
    with site.session() as session:
        form = session.get(f"{site.url}/signup", timeout=60)
        token = re.search(r'name="csrf_token" value="([^"]+)"', form.text)
        assert token is not None
        fields = {"csrf_token": token[1], "username": f"form-{time.time_ns()}", "password": "a-long-enough-password"}
        headers = {"Referer": f"{site.url}/signup", "Origin": site.url}
        create = f"{site.url}/api/2.0/mlflow/users/create-ui"
        assert session.post(create, data=fields, headers=headers, timeout=60).status_code == requests.codes.ok
        run = run_playbook(ROTATE, rotate="flask")
        assert run.returned == 0, run.output[-3000:]
        fields["username"] += "-again"
        assert session.post(create, data=fields, headers=headers, timeout=60).status_code == requests.codes.bad_request


def test_status_fails_when_a_secret_is_too_old(site: Site) -> None:
    path = site.secrets / "mlflow_flask_secret_key"
    made = path.stat().st_mtime
    long_ago = time.time() - 91 * 24 * 3600
    os.utime(path, (long_ago, long_ago))
    run = run_playbook(STATUS)
    os.utime(path, (made, made))
    assert run.returned != 0
    assert "mlflow_flask_secret_key is 91 days old, more than 90; rotate it." in " ".join(run.output.split())
    assert run_playbook(STATUS).returned == 0


def test_status_fails_when_hosts_and_store_differ(site: Site) -> None:
    paths = [site.secrets / "mlflow_gateway_token", site.secrets / JOB_SECRET]
    values = [path.read_text() for path in paths]
    for path in paths:
        path.write_text("brought-by-hand-" * 4 + "\n")
    run = run_playbook(STATUS)
    for path, value in zip(paths, values, strict=True):
        path.write_text(value)
    assert run.returned != 0
    words = " ".join(run.output.split())
    for host in (site.host, site.other().host):
        assert f"mlflow_gateway_token differs between {host} and the store; deploy the host." in words
    assert f"{JOB_SECRET} differs between {site.host} and the store; deploy the host." in words
    assert "brought-by-hand" not in run.output


def test_nobody_gets_in_between(site: Site, other: Site, writer: UserLogin) -> None:
    command, environment = playbook_command(ROTATE, rotate="database")
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL) as first:
        deadline = time.monotonic() + 60
        while not list(site.secrets.glob("*.pending")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        second = run_playbook(ROTATE, rotate="flask")
        deployment = run_playbook("playbooks/site.yml")
        assert first.wait(timeout=600) == 0
    holder = f"(process {first.pid})"
    for refused in (second, deployment):
        assert refused.returned != 0
        assert refused.changed == 0
        assert holder in " ".join(refused.output.split()), refused.output[-2000:]


def interrupt(notes: Path, monkeypatch: pytest.MonkeyPatch, at: str = "", **variables: str) -> Run:
    """Run a rotation that is killed after the next task that none was killed after yet, or after the one named."""
    with monkeypatch.context() as patch:
        patch.setenv("INTERRUPT_NOTES", str(notes))
        patch.setenv("INTERRUPT_AT", at)
        return run_playbook(ROTATE, "-vvv", "--diff", **variables)


def test_rotation_that_was_cut_off_can_be_undone(
    hosts: list[Host], site: Site, other: Site, writer: UserLogin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Generated(site)
    before = store.read(NAMES)
    tried: dict[str, str] = {}
    # Of each part the step that is the furthest from the beginning.
    last_steps = {
        "database": "Login roles | Ensure that they have no password and cannot log in",
        "admin,service,flask,tokens,kek": "Switch | Make it the active one",
    }
    with load(site, "undone", [other], writer) as account:
        for parts, step in last_steps.items():
            run = interrupt(tmp_path / "notes", monkeypatch, step, rotate=parts)
            assert run.returned == -signal.SIGKILL, run.output[-3000:]
            tried |= {path.stem: path.read_text().strip() for path in site.secrets.glob("*.pending")}
            refused = run_playbook("playbooks/site.yml")
            assert refused.returned != 0
            assert "a rotation was cut off; run playbooks/rotate_secrets.yml" in " ".join(refused.output.split())
            undone = run_playbook(ROTATE, "-vvv", "--diff", rotate_rollback=True)
            assert undone.returned == 0, undone.output[-3000:]
    assert_kept(account, site)
    assert tried.keys() == set(NAMES)
    remember(site, tried)
    assert store.read(NAMES) == before
    login = Login.of(before["database_login"])
    logins = {before["database_login"], tried["database_login"]}
    assert working_logins(hosts[0], logins) == {(login.role, login.password)}
    for host in hosts:
        assert admin_statuses(host, before["mlflow_admin_password"]) == {200}
        assert admin_statuses(host, tried["mlflow_admin_password"]) == {401}
        assert user_statuses(host, JOB, before[JOB_SECRET]) == {200}
        assert user_statuses(host, JOB, tried[JOB_SECRET]) == {401}
        assert held_credentials(host) == {name: before[name] for name in CREDENTIALS}
    assert_hosts_agree(store)


@pytest.mark.parametrize("parts", CUT_OFF)
def test_rotation_that_is_cut_off_after_any_task_is_finished_by_the_next(
    parts: str,
    hosts: list[Host],
    site: Site,
    other: Site,
    writer: UserLogin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes, store = tmp_path / "notes", Generated(site)
    values = set(store.read(NAMES).values())
    kills = 0
    monkeypatch.setenv("INTERRUPT_EVERY", CUT_OFF_EVERY)
    with load(site, "cut-off", [other], writer) as account:
        while (run := interrupt(notes, monkeypatch, rotate=parts)).returned != 0:
            assert run.returned == -signal.SIGKILL, run.output[-3000:]
            kills += 1
            values |= set(store.read(NAMES).values())
            wait_until_written(account, 5)
    assert_kept(account, site)
    assert kills > 1
    with (site.state / "figures").open("a", encoding="utf-8") as file:
        file.write(f"cut off in {parts}: {kills} times, after {len(notes.read_text().splitlines())} tasks\n")
    check_finished(hosts, site, values)


def check_finished(hosts: list[Host], site: Site, values: set[str]) -> None:
    """Check that of all values that secrets have had just the current ones open anything."""
    after = Generated(site).read(NAMES)
    remember(site, {str(number): value for number, value in enumerate(values)} | after)
    assert list(site.secrets.glob("*.pending")) == []
    login = Login.of(after["database_login"])
    logins = {value for value in values if value.startswith("mlflow_")} | {after["database_login"]}
    assert working_logins(hosts[0], logins) == {(login.role, login.password)}
    for host in hosts:
        assert admin_statuses(host, after["mlflow_admin_password"]) == {200}
        assert user_statuses(host, JOB, after[JOB_SECRET]) == {200}
        assert held_credentials(host) == {name: after[name] for name in CREDENTIALS}
        assert host.run("systemctl is-active mlflow-rotation-probe").stdout.strip() != "active"
        assert not host.file("/run/mlflow-rotation-probe").exists
    assert_hosts_agree(Generated(site))


def test_rotation_that_is_cut_off_at_any_moment_is_finished_by_the_next(
    hosts: list[Host], site: Site, other: Site, writer: UserLogin
) -> None:
    store = Generated(site)
    values = set(store.read(NAMES).values())
    # Reproducible, and different for each kill.
    moments = random.Random(RANDOM_KILLS)  # noqa: S311
    with load(site, "moments", [other], writer) as account:
        for _ in range(RANDOM_KILLS):
            command, environment = playbook_command(ROTATE, rotate=EVERYTHING)
            with subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL) as run:
                time.sleep(moments.uniform(3, 100))
                run.kill()
            values |= set(store.read(NAMES).values())
            wait_until_written(account, 5)
        finished = run_playbook(ROTATE, rotate=EVERYTHING)
        assert finished.returned == 0, finished.output[-3000:]
    assert_kept(account, site)
    check_finished(hosts, site, values)


@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize("store", [ParameterStore(), KeyVault()], ids=["aws_ssm", "azure_key_vault"])
def test_secrets_move_to_a_cloud_and_are_renewed_there(
    store: Store, hosts: list[Host], site: Site, other: Site, writer: UserLogin, cloud: Cloud
) -> None:
    # As an operator moves them: the values are brought by hand, and the next deployment finds nothing to change.
    former: Store = Generated(site) if isinstance(store, ParameterStore) else ParameterStore()
    store.write(former.read(NAMES))
    moved = run_playbook("playbooks/site.yml", "-vvv", "--diff", "--tags", "mlflow_server", **store.variables)
    assert moved.returned == 0, moved.output[-3000:]
    assert moved.changed == 0, moved.output[-1500:]
    before, after = rotate_under_load(STORED, hosts, site, other, writer, store)
    assert {name for name in NAMES if after[name] == before[name]} == {"mlflow_kek_passphrase"}
    # Nothing else was called on the way.
    assert cloud.calls("proxy") == []


@pytest.mark.usefixtures("clients")
def test_a_store_that_refuses_stops_the_run_before_anything_changes(cloud: Cloud) -> None:
    cloud.fail("keyvault", "denied")
    run = run_playbook(ROTATE, "-vvv", rotate="flask", **KeyVault().variables)
    cloud.heal()
    assert run.returned != 0
    assert run.changed == 0
    assert "Traceback" not in run.output


def test_host_starts_while_the_store_cannot_be_reached(hosts: list[Host], other: Site, cloud: Cloud) -> None:
    host = hosts[1]
    cloud.stop()
    host.run("systemctl reboot")
    subprocess.run(["podman", "wait", other.host], check=True, capture_output=True, timeout=120)
    subprocess.run(["podman", "start", other.host], check=True, capture_output=True, timeout=60)
    deadline = time.monotonic() + 120
    while True:
        try:
            with other.anonymous() as session:
                if session.get(f"{other.url}/health", timeout=5).status_code == requests.codes.ok:
                    break
        except requests.RequestException:
            assert time.monotonic() < deadline
        time.sleep(1)
    assert active_colour(host)


def test_no_value_that_a_secret_ever_had_is_anywhere_else(hosts: list[Host], site: Site) -> None:
    values = set((site.state / "values").read_text(encoding="utf-8").split())
    assert len(values) > len(NAMES)
    log = (site.state / "ansible.log").read_text(encoding="utf-8", errors="replace")
    assert ROTATE.rpartition("/")[2].removesuffix(".yml") in log
    assert [value[:4] for value in values if value in log] == []
    cached = "".join(path.read_text(errors="replace") for path in (site.state / "facts").rglob("*") if path.is_file())
    assert [value[:4] for value in values if value in cached] == []
    # On a file system in memory, so that the search does not find what it searches for.
    patterns = "/dev/shm/patterns"  # noqa: S108
    searched = "/etc /home /opt/mlflow/active /root /run /srv /tmp /var"
    meant = ("/etc/mlflow/blue/", "/etc/mlflow/green/", "/run/credentials/")
    for host in hosts:
        copy = ["podman", "exec", "--interactive", host.check_output("hostname"), "tee", patterns]
        subprocess.run(copy, input="\n".join(sorted(values)), text=True, check=True, stdout=subprocess.DEVNULL)
        grep = f"grep --fixed-strings --file={patterns}"
        assert host.run(f"journalctl --no-pager --output=json --all | {grep} --quiet").rc == 1
        found = host.run(f"{grep} --recursive --files-with-matches --no-messages {searched}").stdout.splitlines()
        host.check_output(f"rm {patterns}")
        assert found
        assert [path for path in found if not path.startswith(meant)] == []
