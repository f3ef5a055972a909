"""The role `secrets`, run by ansible-playbook as a site runs it."""

import json
import os
import stat
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils import secret_store as base
from tests.project import PROJECT
from tests.stores import NAMES, Backend, Generated

FACTS = ("secrets_values", "secrets_versions", "secrets_state")
PLAY: list[dict[str, Any]] = [
    {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {
                "name": "Run the entry points",
                "ansible.builtin.include_role": {"name": "secrets", "tasks_from": "{{ entry }}"},
                "loop": "{{ entries }}",
                "loop_control": {"loop_var": "entry"},
            },
            {
                "name": "Show what a host got",
                "ansible.builtin.copy": {
                    "content": f"{{{{ [{', '.join(f'{name} | default({{}})' for name in FACTS)}] | to_json }}}}",
                    "dest": "{{ shown }}/{{ inventory_hostname }}",
                    "mode": "0600",
                },
                "check_mode": False,
                "diff": False,
                "no_log": True,
                "changed_when": False,
            },
        ],
    }
]


class Site:
    """An inventory of two hosts that are this machine, and the play that resolves its secrets."""

    def __init__(self, directory: Path) -> None:
        """Write the inventory and the play."""
        self.inventory = directory / "inventory"
        self.inventory.mkdir()
        (self.inventory / "hosts.yml").write_text(
            "all: {hosts: {one: {}, two: {}}, vars: {ansible_connection: local,"
            " ansible_python_interpreter: '{{ ansible_playbook_python }}'}}"
        )
        (directory / "play.yml").write_text(json.dumps(PLAY))
        self.play = directory / "play.yml"
        self.shown = directory / "shown"
        self.shown.mkdir()
        self.secrets = self.inventory / ".generated" / "secrets"

    def run(
        self, names: dict[str, Any], *arguments: str, entries: tuple[str, ...] = ("main",), **variables: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run the play."""
        given = {"secrets_names": names, "shown": str(self.shown), "entries": entries, **variables}
        extra = ["-e", json.dumps(given), *arguments]
        command = ["ansible-playbook", "-i", str(self.inventory), *extra, str(self.play)]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "NO_COLOR": "1"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    def facts(self, host: str = "one") -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Return the facts that the role left on a host."""
        values, versions, state = json.loads((self.shown / host).read_text())
        return values, versions, state

    def values(self, host: str = "one") -> dict[str, str]:
        """Return the values that the role left on a host."""
        return self.facts(host)[0]

    def create(self, monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]) -> dict[str, str]:
        """Make secrets as a run makes them, without a run. Returns their values."""
        store = self.store(monkeypatch)
        store.done("create", names)
        return {name: (self.secrets / name).read_text().strip() for name in names}

    def store(self, monkeypatch: pytest.MonkeyPatch) -> Generated:
        """Return the store in the inventory's directory."""
        store = Generated(monkeypatch, self.secrets.parent)
        store.directory.parent.mkdir(exist_ok=True)
        return store


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def words(result: "subprocess.CompletedProcess[str]") -> str:
    """Return what a run said, however its lines were broken."""
    return " ".join(result.stdout.split())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The whole way, with every provider


@pytest.mark.parametrize(
    "backend",
    [
        "generated",
        pytest.param("aws_ssm", marks=pytest.mark.system),
        pytest.param("azure_key_vault", marks=pytest.mark.system),
    ],
    indirect=True,
)
def test_no_value_is_printed_on_its_way_through_a_rotation(site: Site, backend: Backend) -> None:
    settings = {"secrets_provider": backend.provider, "secrets_options": backend.options}
    backend.bring("admin", "{{correct-horse}}'battery")
    seen = {"{{correct-horse}}'battery"}
    output = ""
    for entries in (("main", "pend", "state"), ("lock", "state", "promote", "release"), ("main", "release")):
        result = site.run(NAMES, "-vvv", "--diff", entries=entries, **settings)
        assert result.returncode == 0, result.stdout
        output += result.stdout + result.stderr
        values, versions, state = site.facts()
        assert site.facts() == site.facts("two")
        seen |= set(values.values())
        seen |= {
            stages[stage]["value"] for stages in state.values() for stage in ("current", "pending") if stages[stage]
        }
        assert not set(map(str, seen)) & set(json.dumps(versions).split('"'))
    assert len(seen) == 4
    assert [value for value in seen if value in output] == []
    assert values == {name: backend.secret(name)["current"]["value"] for name in NAMES}
    assert values["admin"] != "{{correct-horse}}'battery"
    assert versions == backend.done("read", NAMES, history=False)["versions"]
    assert backend.done("look")["lock"] is None


# Values


def test_values_are_made_once_and_reach_every_host(site: Site) -> None:
    first = site.run({"admin_password": {}, "flask_key": {"length": 64}})
    assert first.returncode == 0, first.stdout
    made = site.values("one")
    assert made == site.values("two")
    assert {name: len(value) for name, value in made.items()} == {"admin_password": 32, "flask_key": 64}
    assert set("".join(made.values())) <= set(string.ascii_letters + string.digits)
    assert mode(site.secrets) == 0o700
    assert {path.name: mode(path) for path in site.secrets.iterdir() if path.name != ".gitignore"} == {
        ".lock": 0o600,
        "admin_password": 0o600,
        "flask_key": 0o600,
    }
    second = site.run({"admin_password": {}, "flask_key": {}}, entries=("main", "release"))
    assert site.values() == made
    assert "changed=0" in second.stdout


def test_a_secret_of_ones_own_is_used_with_or_without_a_newline(site: Site) -> None:
    site.secrets.mkdir(mode=0o700, parents=True)
    for name, content in {"with": "{{correct-horse}}'battery\n", "without": "staple$(id);0123456789"}.items():
        (site.secrets / name).touch(mode=0o600)
        (site.secrets / name).write_text(content)
    result = site.run({"with": {}, "without": {}})
    assert result.returncode == 0, result.stdout
    assert site.values() == {"with": "{{correct-horse}}'battery", "without": "staple$(id);0123456789"}


def test_a_limited_run_gets_the_same_values(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made = site.create(monkeypatch, {"admin_password": {}})
    site.run({"admin_password": {}}, "--limit", "two")
    assert site.values("two") == made


def test_check_mode_writes_nothing_and_goes_on(site: Site) -> None:
    names = {"admin_password": {}, "flask_key": {"length": 64}}
    result = site.run(names, "--check", "--diff", entries=("main", "release"))
    assert result.returncode == 0, result.stdout
    assert not site.secrets.parent.exists()
    assert {name: len(value) for name, value in site.values().items()} == {
        "admin_password": 32,
        "flask_key": 64,
    }
    assert "random placeholders stand in for admin_password, flask_key" in words(result)
    assert site.values()["admin_password"] not in result.stdout


def test_check_mode_uses_the_secrets_that_are_there(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    made = site.create(monkeypatch, {"admin_password": {}})
    result = site.run({"admin_password": {}}, "--check")
    assert site.values() == made
    assert "stand in for" not in words(result)


# Refusals


def test_the_reason_of_a_refusal_is_shown_and_the_content_is_not(site: Site) -> None:
    site.secrets.mkdir(mode=0o700, parents=True)
    (site.secrets / "admin_password").write_text("canary-secret-0123\n")
    (site.secrets / "admin_password").chmod(0o644)
    result = site.run({"admin_password": {}}, "-vvv")
    assert result.returncode != 0
    assert f"{site.secrets}/admin_password is open to others than its owner" in words(result)
    assert "canary" not in result.stdout
    assert not (site.shown / "one").exists()


def test_an_unknown_provider_is_refused_with_the_known_ones(site: Site) -> None:
    result = site.run({}, secrets_provider="vault")
    assert result.returncode != 0
    assert 'secrets_provider is "vault"; it takes one of: aws_ssm, azure_key_vault, generated.' in words(result)


def test_what_is_missing_is_told_in_one_message_when_it_is_not_to_be_made(site: Site) -> None:
    site.secrets.mkdir(mode=0o700, parents=True)
    (site.secrets / "admin_password").touch(mode=0o600)
    (site.secrets / "admin_password").write_text("correct-horse-battery")
    names: dict[str, Any] = {"admin_password": {}, "flask_key": {}, "kek": {}}
    result = site.run(names, secrets_create_missing="false")
    assert result.returncode != 0
    assert "flask_key, kek: no such secret in the store of the provider generated; put them there" in words(result)
    assert sorted(path.name for path in site.secrets.iterdir()) == [".lock", "admin_password"]


def test_a_store_in_the_middle_of_a_rotation_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    store = site.store(monkeypatch)
    store.done("create", {"admin": {}})
    store.done("pend", {"admin": {}})
    result = site.run(NAMES)
    assert result.returncode != 0
    sentence = "admin: a rotation was cut off; run playbooks/rotate_secrets.yml to finish it, or with"
    assert f"{sentence} `-e rotate_rollback=true` to undo it." in words(result)
    assert not (site.secrets / "database_login").exists(), "something was made although the run must stop"


# Lock


@pytest.fixture
def locked(site: Site, monkeypatch: pytest.MonkeyPatch, processes: list[int]) -> Site:
    """A site whose store another holds."""
    store = site.store(monkeypatch)
    store.done("create", {"admin": {}})
    store.done("lock", process=processes[0])
    return site


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_a_run_stops_while_another_holds_the_lock(locked: Site, hold: bool, arguments: tuple[str, ...]) -> None:
    result = locked.run({"admin": {}}, *arguments, secrets_lock_hold=hold)
    assert result.returncode != 0
    assert "has locked the secrets in " in words(result)
    assert not (locked.shown / "one").exists()


def test_a_lock_can_be_broken(locked: Site, processes: list[int]) -> None:
    result = locked.run({"admin": {}}, secrets_lock_break="true")
    assert result.returncode == 0, result.stdout
    record = json.loads((locked.secrets / ".lock").read_text())
    assert record["process"] != str(processes[0])


def test_a_run_holds_the_lock_until_it_releases_it(site: Site) -> None:
    site.run({"admin": {}}, secrets_lock_minutes="7")
    record = json.loads((site.secrets / ".lock").read_text())
    lasts = base.moment(record["expires"]) - base.moment(record["since"])
    assert lasts.total_seconds() == 7 * 60
    result = site.run({"admin": {}}, entries=("main", "release"))
    assert result.returncode == 0, "the run before has died, and its lock with it"
    assert (site.secrets / ".lock").read_text() == ""


def test_a_run_that_may_only_read_takes_no_lock(site: Site) -> None:
    result = site.run({"admin": {}}, entries=("main", "release"), secrets_lock_hold="false")
    assert result.returncode == 0, result.stdout
    assert not (site.secrets / ".lock").exists()


# Rotation


def test_a_rotation_can_be_of_chosen_names(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before = site.create(monkeypatch, NAMES)
    result = site.run(NAMES, entries=("state", "pend"), secrets_chosen=["admin"])
    assert result.returncode == 0, result.stdout
    state = site.facts()[2]
    assert state["admin"]["pending"]
    assert state["database_login"] == {"current": state["database_login"]["current"], "pending": None, "previous": None}
    site.run(NAMES, entries=("discard", "main"), secrets_chosen=["admin"])
    assert site.values() == before


def test_check_mode_rotates_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.create(monkeypatch, NAMES)
    before = {path.name: path.read_text() for path in site.secrets.iterdir()}
    result = site.run(NAMES, "--check", entries=("lock", "state", "pend", "promote", "release"))
    assert result.returncode == 0, result.stdout
    assert {path.name: path.read_text() for path in site.secrets.iterdir()} == before
