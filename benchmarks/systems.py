"""The systems that are compared: how to start them, to have one run alone, and what they take of the machine."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".cache" / "bench"
READY_SECONDS = 180
# Inventories: the site that all parts measure, and one of five hosts.
SITE = "benchmarks/inventory"
FIVE_HOSTS = "benchmarks/five_hosts"
KERNEL = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class System:
    """A system on a host of its own.

    Args:
        name: What it is called in tables; its container is bench-<name>.
        url: Where this machine reaches it.
    """

    name: str
    url: str

    @property
    def container(self) -> str:
        """Name of its container."""
        return f"bench-{self.name}"

    @property
    def login(self) -> tuple[str, str] | None:
        """Name and password of its administrator, if it has a login."""
        if self.name == "plain":
            return None
        if self.name == "login":
            return "admin", "benchmark-password"
        return "admin", (STATE / "site/secrets/mlflow_admin_password").read_text(encoding="utf-8").strip()

    @property
    def ca_file(self) -> Path | None:
        """Certificate of its authority, if it has TLS."""
        return STATE / "site/certificates/site-ca.crt" if self.name == "site" else None

    def session(self) -> requests.Session:
        """Return a session that verifies the system and is logged in."""
        session = requests.Session()
        session.trust_env = False
        session.verify = str(self.ca_file) if self.ca_file else True
        session.auth = self.login
        return session

    def client_environment(self) -> dict[str, str]:
        """Return what MLflow's client is to be told."""
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.url, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
        if self.login:
            environment["MLFLOW_TRACKING_USERNAME"], environment["MLFLOW_TRACKING_PASSWORD"] = self.login
        if self.ca_file:
            environment["MLFLOW_TRACKING_SERVER_CERT_PATH"] = str(self.ca_file)
            # The client's other libraries take this one, and would otherwise take the machine's.
            environment["REQUESTS_CA_BUNDLE"] = str(self.ca_file)
        return environment

    def wait(self) -> float:
        """Wait until it reads its database for a client, and return the seconds that took.

        Raises:
            TimeoutError: It did not, within READY_SECONDS.
        """
        began = time.monotonic()
        search = f"{self.url}/api/2.0/mlflow/experiments/search"
        with self.session() as session:
            while time.monotonic() - began < READY_SECONDS:
                try:
                    answer = session.post(search, json={"max_results": 1}, timeout=10)
                    if answer.ok:
                        return time.monotonic() - began
                except requests.RequestException:
                    pass
                time.sleep(0.05)
        raise TimeoutError(f"{self.url} does not answer.")

    @property
    def unit(self) -> str:
        """Name of its systemd unit."""
        if self.name != "site":
            return "mlflow"
        return f"mlflow@{self.execute('readlink', '/opt/mlflow/active').strip().rpartition('/')[2]}"

    def restart(self) -> None:
        """Start server and database anew: what a load has left in their memory is no rest."""
        self.execute("systemctl", "restart", "postgresql", self.unit)
        self.wait()

    def execute(self, *command: str, stdin: str = "") -> str:
        """Run a command on its host and return what it prints."""
        return podman("exec", "--interactive", self.container, *command, stdin=stdin)

    def sql(self, statements: str, **variables: str | int) -> str:
        """Run statements in its database and return what they print.

        Args:
            statements: For psql.
            variables: Variables for psql.
        """
        options = [f"--set={name}={value}" for name, value in {"ON_ERROR_STOP": 1, **variables}.items()]
        command = ["runuser", "-u", "postgres", "--", "psql", "--quiet", "--no-psqlrc", "--tuples-only", "--no-align"]
        return self.execute(*command, *options, "mlflow", stdin=statements)

    def connections(self) -> int:
        """Return how many connections its database has."""
        return int(self.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")) - 1

    def cpu_seconds(self) -> float:
        """Return the processor time that its host has used, database and proxy included."""
        version_1 = KERNEL / "cpuacct" / self._group / "cpuacct.usage"
        if version_1.exists():
            return int(version_1.read_text(encoding="ascii")) / 1e9
        lines = (KERNEL / self._group / "cpu.stat").read_text(encoding="ascii").splitlines()
        return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6

    @functools.cached_property
    def _group(self) -> str:
        return podman("inspect", "--format", "{{.State.CgroupPath}}", self.container).strip().lstrip("/")

    def memory(self) -> int:
        """Return the bytes of memory of all processes of its host, shared ones counted once (PSS)."""
        init = Path(podman("inspect", "--format", "/proc/{{.State.Pid}}/ns/pid", self.container).strip()).readlink()
        total = 0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "ns/pid").readlink() == init:
                    total += kilobytes(process / "smaps_rollup", "Pss:") * 1024
            except (OSError, ValueError):
                continue  # it has ended, or belongs to the kernel
        return total


SYSTEMS = {
    "plain": System("plain", "http://localhost:9501"),
    "login": System("login", "http://localhost:9502"),
    "site": System("site", "https://localhost:9503"),
}


def kilobytes(path: Path, field: str) -> int:
    """Return a figure of a file under /proc.

    Raises:
        ValueError: The file does not have it.
    """
    for line in path.read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise ValueError(field)


def podman(*arguments: str, stdin: str = "") -> str:
    """Run podman and return what it prints.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(["podman", *arguments], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"podman {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def playbook(*arguments: str) -> str:
    """Run a playbook from the top of the project and return what it prints.

    Raises:
        RuntimeError: It failed.
    """
    command = ["ansible-playbook", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stdout[-4000:]}")
    return done.stdout


def site_playbook(*arguments: str, inventory: str = SITE) -> str:
    """Deploy the site, of one host or of five, and return what that prints."""
    return playbook("-i", inventory, "playbooks/site.yml", *arguments)


def create(system: System) -> None:
    """Start a system's host, as a cloud would hand it over; one that is there is removed first."""
    remove([system])
    if system.name == "site":
        forget("site")
    hosts("started", [system.container])
    system.__dict__.pop("_group", None)


def forget(site: str) -> None:
    """Remove the secrets and certificates of a former site, whose hosts are gone."""
    if (STATE / site).exists():
        shutil.rmtree(STATE / site)


def remove(systems: Sequence[System]) -> None:
    """Remove the hosts of systems."""
    for system in systems:
        subprocess.run(["podman", "unpause", system.container], capture_output=True, check=False)
    hosts("absent", [each.container for each in systems])


def hosts(state: str, names: Sequence[str]) -> None:
    """Start hosts, or remove them."""
    playbook("benchmarks/hosts.yml", "-e", json.dumps({"state": state, "names": names}))


@contextmanager
def five_hosts() -> Iterator[None]:
    """Have a site of five hosts, deployed, and none of the other systems."""
    names = ["bench-database", *(f"bench-server-{number}" for number in range(1, 5))]
    hosts("absent", names)
    forget("five_hosts")
    try:
        with alone(None):
            hosts("started", names)
            site_playbook(inventory=FIVE_HOSTS)
            yield
    finally:
        hosts("absent", names)


def install(system: System) -> str:
    """Install a system on its fresh host and return what that prints."""
    if system.name == "site":
        return site_playbook()
    return system.execute("/opt/baseline", system.name).strip()


def ensure(systems: Sequence[System]) -> None:
    """Start the systems that are not there."""
    for system in systems:
        with alone(system):
            if subprocess.run(["podman", "container", "exists", system.container], check=False).returncode:
                say(f"installing {system.name}")
                create(system)
                install(system)
            elif system.name == "site":
                site_playbook()
            system.wait()


@contextmanager
def alone(system: System | None) -> Iterator[None]:
    """Have one system run, or none, and none of the others."""
    for other in SYSTEMS.values():
        verb = "unpause" if other is system else "pause"
        subprocess.run(["podman", verb, other.container], capture_output=True, check=False)
    yield


def say(text: str) -> None:
    """Tell who watches how far it is."""
    print(f"-- {text}", file=sys.stderr, flush=True)
