"""Rotation of secrets: clients of both hosts keep writing, interrupted rotations are resumed, no two run at once."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from testing.deployment import Site, active_colour, power_cycle
from testing.limits import wait_until
from testing.load import CLIENTS, Account, load, wait_until_written
from testing.playbook import Run, StartedRun, run_playbook, start_playbook
from testing.sampling import pick
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
# In which rotations runs are killed after a task that changes something, every how many of those tasks, and how often a
# run is killed at a random moment. Longer tests set these variables.
CUT_OFF = os.environ.get("ROTATION_CUT_OFF", "database").split(";")
CUT_OFF_EVERY = os.environ.get("ROTATION_CUT_OFF_EVERY", "8")
RANDOM_KILLS = int(os.environ.get("ROTATION_RANDOM_KILLS", "1"))
RANDOM_ATTEMPTS = 5


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


@dataclass
class Rotation:
    """A rotation under load.

    Args:
        before: The values of secrets before it.
        after: Their values after it.
        run: The playbook run.
        seconds: How long that took.
    """

    before: dict[str, str]
    after: dict[str, str]
    run: Run
    seconds: float


def rotate_under_load(
    targets: str,
    site: Site,
    other: Site,
    writer: UserLogin,
    store: Store,
    log: Path,
    beside: Callable[[StartedRun], None] | None = None,
) -> Rotation:
    """Rotate secrets while clients of both hosts write, and check that no client notices.

    Args:
        targets: What to rotate.
        site: The site.
        other: The site on its other host.
        writer: Who writes.
        store: Where the secrets are kept.
        log: File for what the playbook run prints.
        beside: Called during the run.
    """
    before = store.read(NAMES)
    remember(site, before)
    with load(site, "rotation", [other], writer) as account:
        wait_until_written(account, 40)
        begin = time.monotonic()
        started = start_playbook(log, ROTATE, "-vvv", "--diff", rotate=targets, **store.variables)
        if beside:
            beside(started)
        run = started.finish()
        end = time.monotonic()
        assert run.returned == 0, run.output[-3000:]
        wait_until_written(account, 20)
    assert_kept(account, site)
    note_figures(site, str(store.variables["secrets_provider"]), account, begin, end)
    # The watching client on each of the two hosts.
    assert len(re.findall(r"\d+ requests, 0 failed", run.output)) == 2
    after = store.read(NAMES)
    remember(site, after)
    return Rotation(before, after, run, end - begin)


def assert_rotated(rotation: Rotation, targets: str, hosts: list[Host], store: Store) -> None:
    """Check that the new values open what the old ones opened, and the old ones nothing."""
    before, after = rotation.before, rotation.after
    if "database" in targets:
        new, old = Login.of(after["database_login"]), Login.of(before["database_login"])
        assert new.role != old.role
        logins = {before["database_login"], after["database_login"]}
        assert working_logins(hosts[0], logins) == {(new.role, new.password)}
    for host in hosts:
        if "admin" in targets:
            assert admin_statuses(host, after["mlflow_admin_password"]) == {200}
            assert admin_statuses(host, before["mlflow_admin_password"]) == {401}
        if "service" in targets:
            assert user_statuses(host, JOB, after[JOB_SECRET]) == {200}
            assert user_statuses(host, JOB, before[JOB_SECRET]) == {401}
        if "tokens" in targets:
            # Closed at the proxy, so asked behind it.
            assert admin_statuses(host, after["mlflow_gateway_token"], MODELS) == {200}
            assert admin_statuses(host, before["mlflow_gateway_token"], MODELS) == {401}
        assert held_credentials(host) == {name: after[name] for name in CREDENTIALS}
    assert_hosts_agree(store)


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


@dataclass
class Everything:
    """The rotation of every secret, with what was done before, during and after it.

    Args:
        rotation: The rotation.
        job: What a job of a service user logged through it.
        key: Name of a gateway secret from before it.
        serials: Serial numbers of the certificates from before it.
        forms: Status of a form that was signed before it, sent before it and after it.
        second: Another rotation that was started during it.
        deployment: A deployment that was started during it.
        process: Process id of the rotation, which holds the lock.
    """

    rotation: Rotation
    job: Account
    key: str
    serials: set[str]
    forms: tuple[int, int]
    second: Run
    deployment: Run
    process: int


@pytest.fixture(scope="module")
def everything(
    hosts: list[Host], site: Site, other: Site, writer: UserLogin, tmp_path_factory: pytest.TempPathFactory
) -> Everything:
    """Rotate every secret while clients and a job write; start another rotation and a deployment meanwhile."""
    serials = {served_serial(host) for host in hosts}
    key, log = new_gateway_secret(site), tmp_path_factory.mktemp("rotation") / "log"
    refused: dict[str, Run] = {}
    processes: list[int] = []

    def interfere(started: StartedRun) -> None:
        processes.append(started.process.pid)
        wait_until(lambda: list(site.secrets.glob("*.pending")), 60, "the rotation does not begin")
        refused["second"] = run_playbook(ROTATE, rotate="flask")
        refused["deployment"] = run_playbook("playbooks/site.yml")

    login = (JOB, site.secret(JOB_SECRET))
    renewed = functools.partial(looked_up_anew, site)
    with site.session() as session:
        send_form = signed_form(site, session)
        sent_before = send_form()
        with load(site, "job", [other], login, experiment="nightly", renewed=renewed) as job:
            rotation = rotate_under_load(EVERYTHING, site, other, writer, Generated(site), log, interfere)
        session.auth = site.admin
        forms = sent_before, send_form()
    return Everything(rotation, job, key, serials, forms, **refused, process=processes[0])


def signed_form(site: Site, session: requests.Session) -> Callable[[], int]:
    """Return what sends the sign-up form of a user whose name is new each time. The form is signed now.

    Args:
        site: The site.
        session: A session of the administrator.
    """
    form = session.get(f"{site.url}/signup", timeout=60)
    token = re.search(r'name="csrf_token" value="([^"]+)"', form.text)
    assert token is not None
    headers = {"Referer": f"{site.url}/signup", "Origin": site.url}

    def send() -> int:
        fields = {"csrf_token": token[1], "username": f"form-{time.time_ns()}", "password": "a-long-enough-password"}
        create = f"{site.url}/api/2.0/mlflow/users/create-ui"
        return session.post(create, data=fields, headers=headers, timeout=60).status_code

    return send


def test_every_secret_is_rotated_and_no_client_notices(everything: Everything, hosts: list[Host], site: Site) -> None:
    before, after = everything.rotation.before, everything.rotation.after
    assert_rotated(everything.rotation, EVERYTHING, hosts, Generated(site))
    assert {name for name in NAMES if after[name] == before[name]} == set()
    assert {served_serial(host) for host in hosts} & everything.serials == set()
    passphrase = after["mlflow_kek_passphrase"]
    assert kek_versions(hosts[0]) == {int(passphrase.partition(":")[0])}
    secret = stored_gateway_secret(hosts[0], everything.key, passphrase)
    assert secret == {"api_key": f"value-of-{everything.key}"}


def test_a_job_continues_with_its_next_password(everything: Everything, site: Site) -> None:
    assert_kept(everything.job, site)
    # Each of its clients was rejected with the previous password.
    assert everything.job.refused >= CLIENTS
    assert everything.job.login == (JOB, everything.rotation.after[JOB_SECRET])


def test_forms_signed_by_the_previous_key_are_rejected(everything: Everything) -> None:
    assert everything.forms == (requests.codes.ok, requests.codes.bad_request)


def test_runs_beside_a_rotation_are_rejected(everything: Everything) -> None:
    for run in (everything.second, everything.deployment):
        assert run.returned != 0
        assert run.changed == 0
        assert f"(process {everything.process})" in " ".join(run.output.split()), run.output[-2000:]


@pytest.mark.usefixtures("everything")
def test_a_deployment_after_a_rotation_changes_nothing(site: Site) -> None:
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


def test_previous_passwords_are_rejected_by_every_worker(hosts: list[Host], site: Site) -> None:
    # Without a switch of slots: the workers that cached the previous passwords keep running.
    admin, job = site.admin[1], site.secret(JOB_SECRET)
    for host in hosts:
        assert (admin_statuses(host, admin), user_statuses(host, JOB, job)) == ({200}, {200})
    run = run_playbook(ROTATE, "-vvv", "--diff", rotate="admin,service")
    assert run.returned == 0, run.output[-3000:]
    for host in hosts:
        assert (admin_statuses(host, admin), user_statuses(host, JOB, job)) == ({401}, {401})
        assert admin_statuses(host, site.admin[1]) == {200}
        assert user_statuses(host, JOB, site.secret(JOB_SECRET)) == {200}
    remember(site, {"admin": admin, "job": job})


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


def interrupt(notes: Path, monkeypatch: pytest.MonkeyPatch, at: str = "", **variables: str) -> Run:
    """Run a rotation that is killed after the next task that none was killed after yet, or after the one named."""
    with monkeypatch.context() as patch:
        patch.setenv("INTERRUPT_NOTES", str(notes))
        patch.setenv("INTERRUPT_AT", at)
        return run_playbook(ROTATE, "-vvv", "--diff", **variables)


@pytest.mark.parametrize(
    ("targets", "step"),
    [
        # The last step before the new values become the current ones.
        pytest.param(
            "database",
            "Login roles | Ensure that they have no password and cannot log in",
            marks=pytest.mark.exhaustive("the other set of rotation targets"),
        ),
        ("admin,service,flask,tokens,kek", "Switch | Make it the active one"),
    ],
    ids=["database", "others"],
)
def test_an_interrupted_rotation_can_be_undone(
    targets: str,
    step: str,
    hosts: list[Host],
    site: Site,
    other: Site,
    writer: UserLogin,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Generated(site)
    before = store.read(NAMES)
    with load(site, "undone", [other], writer) as account:
        run = interrupt(tmp_path / "notes", monkeypatch, step, rotate=targets)
        assert run.returned == -signal.SIGKILL, run.output[-3000:]
        tried = {path.stem: path.read_text().strip() for path in site.secrets.glob("*.pending")}
        refused = run_playbook("playbooks/site.yml")
        assert refused.returned != 0
        assert "a rotation was cut off; run playbooks/rotate_secrets.yml" in " ".join(refused.output.split())
        undone = run_playbook(ROTATE, "-vvv", "--diff", rotate_rollback=True)
        assert undone.returned == 0, undone.output[-3000:]
    assert_kept(account, site)
    assert tried
    remember(site, tried)
    assert store.read(NAMES) == before
    for name, value in tried.items():
        assert value != before[name]
    login = Login.of(before["database_login"])
    logins = {before["database_login"], tried.get("database_login", before["database_login"])}
    assert working_logins(hosts[0], logins) == {(login.role, login.password)}
    for host in hosts:
        assert admin_statuses(host, before["mlflow_admin_password"]) == {200}
        assert user_statuses(host, JOB, before[JOB_SECRET]) == {200}
        if "mlflow_admin_password" in tried:
            assert admin_statuses(host, tried["mlflow_admin_password"]) == {401}
            assert user_statuses(host, JOB, tried[JOB_SECRET]) == {401}
        assert held_credentials(host) == {name: before[name] for name in CREDENTIALS}
    assert_hosts_agree(store)


@pytest.mark.parametrize("targets", CUT_OFF)
def test_a_rotation_killed_after_a_task_is_finished_by_the_next(
    targets: str,
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
        while (run := interrupt(notes, monkeypatch, rotate=targets)).returned != 0:
            assert run.returned == -signal.SIGKILL, run.output[-3000:]
            kills += 1
            values |= set(store.read(NAMES).values())
            wait_until_written(account, 5)
    assert_kept(account, site)
    assert kills >= 1
    with (site.state / "figures").open("a", encoding="utf-8") as file:
        file.write(f"killed in {targets}: {kills} times, after {len(notes.read_text().splitlines())} tasks\n")
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


@pytest.mark.exhaustive("test_a_rotation_killed_after_a_task_is_finished_by_the_next")
def test_a_rotation_killed_at_random_is_finished_by_the_next(
    everything: Everything, hosts: list[Host], site: Site, other: Site, writer: UserLogin, tmp_path: Path
) -> None:
    store = Generated(site)
    values = set(store.read(NAMES).values())
    # Reproducible, and different for each kill.
    moments = random.Random(RANDOM_KILLS)  # noqa: S311
    kills = 0
    with load(site, "moments", [other], writer) as account:
        for attempt in range(RANDOM_KILLS + RANDOM_ATTEMPTS):
            started = start_playbook(tmp_path / f"log-{attempt}", ROTATE, rotate=EVERYTHING)
            if started.is_killed_after(moments.uniform(0.03, 0.95) * everything.rotation.seconds):
                kills += 1
            else:
                print(f"not hit: the rotation ended before the kill, attempt {attempt + 1}")
            values |= set(store.read(NAMES).values())
            wait_until_written(account, 5)
            if kills == RANDOM_KILLS:
                break
        finished = run_playbook(ROTATE, rotate=EVERYTHING)
        assert finished.returned == 0, finished.output[-3000:]
    assert kills == RANDOM_KILLS
    assert_kept(account, site)
    check_finished(hosts, site, values)


@pytest.mark.usefixtures("clients")
@pytest.mark.parametrize(
    ("store", "targets"),
    # Without the server's own secrets no slot is switched; a switch does not depend on the store.
    [
        pytest.param(ParameterStore(), pick("database,admin,service", STORED), id="aws_ssm"),
        pytest.param(KeyVault(), STORED, id="azure_key_vault", marks=pytest.mark.exhaustive("aws_ssm")),
    ],
)
def test_secrets_move_to_a_cloud_and_are_rotated_there(
    store: Store,
    targets: str,
    hosts: list[Host],
    site: Site,
    other: Site,
    writer: UserLogin,
    cloud: Cloud,
    tmp_path: Path,
) -> None:
    # An operator writes the current values to the new store, and the next deployment finds nothing to change.
    previous: Store = Generated(site) if isinstance(store, ParameterStore) else ParameterStore()
    store.write(previous.read(NAMES))
    moved = run_playbook("playbooks/site.yml", "-vvv", "--diff", "--tags", "mlflow_server", **store.variables)
    assert moved.returned == 0, moved.output[-3000:]
    assert moved.changed == 0, moved.output[-1500:]
    rotation = rotate_under_load(targets, site, other, writer, store, tmp_path / "log")
    assert_rotated(rotation, targets, hosts, store)
    kept = {name for name in NAMES if rotation.after[name] == rotation.before[name]}
    assert kept == {"mlflow_kek_passphrase", *(() if "flask" in targets else CREDENTIALS)}
    # No other service was called.
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
    power_cycle(other.host, host)

    def is_healthy() -> bool:
        with contextlib.suppress(requests.RequestException), other.anonymous() as session:
            return bool(session.get(f"{other.url}/health", timeout=5).ok)
        return False

    wait_until(is_healthy, 120, "the host does not serve", pause=1)
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
        # Wheels, as the package index serves them.
        grep = f"grep --fixed-strings --file={patterns} --exclude-dir=mlflow-uv"
        assert host.run(f"journalctl --no-pager --output=json --all | {grep} --quiet").rc == 1
        found = host.run(f"{grep} --recursive --files-with-matches --no-messages {searched}").stdout.splitlines()
        host.check_output(f"rm {patterns}")
        assert found
        assert [path for path in found if not path.startswith(meant)] == []
