"""The role `secrets`, run by ansible-playbook as a site runs it, and the module that keeps the files."""

import json
import os
import stat
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest

from plugins.modules import secret_files

PROJECT = Path(__file__).parents[1]
PLAY: list[dict[str, Any]] = [
    {
        "hosts": "all",
        "gather_facts": False,
        "roles": ["secrets"],
        "tasks": [
            {
                "name": "Show what a host got",
                "ansible.builtin.copy": {
                    "content": "{{ secrets_values | to_json }}",
                    "dest": "{{ shown }}/{{ inventory_hostname }}",
                    "mode": "0600",
                },
                "check_mode": False,
                "diff": False,
                "no_log": True,
            }
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

    def run(self, names: dict[str, Any], *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run the play."""
        given = {"secrets_names": names, "shown": str(self.shown), **variables}
        extra = ["-e", json.dumps(given), *arguments]
        command = ["ansible-playbook", "-i", str(self.inventory), *extra, str(self.play)]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "NO_COLOR": "1"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    def values(self, host: str = "one") -> dict[str, str]:
        """Return the fact that the role left on a host."""
        values: dict[str, str] = json.loads((self.shown / host).read_text())
        return values


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def words(result: "subprocess.CompletedProcess[str]") -> str:
    """Return what a run said, however its lines were broken."""
    return " ".join(result.stdout.split())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_values_are_made_once_and_reach_every_host(site: Site) -> None:
    first = site.run({"admin_password": {}, "flask_key": {"length": 64}}, "-vvv", "--diff")
    assert first.returncode == 0, first.stdout
    made = site.values("one")
    assert made == site.values("two")
    assert {name: len(value) for name, value in made.items()} == {"admin_password": 32, "flask_key": 64}
    assert set("".join(made.values())) <= set(string.ascii_letters + string.digits)
    assert mode(site.secrets) == 0o700
    assert {path.name: mode(path) for path in site.secrets.iterdir() if path.name != ".gitignore"} == {
        "admin_password": 0o600,
        "flask_key": 0o600,
    }
    assert (site.secrets / ".gitignore").read_text() == "*\n"

    second = site.run({"admin_password": {}, "flask_key": {}}, "-vvv", "--diff")
    assert site.values() == made
    for value in made.values():
        assert value not in first.stdout + first.stderr + second.stdout + second.stderr


def test_a_second_run_changes_nothing(site: Site) -> None:
    site.run({"admin_password": {}})
    assert "changed=0" in site.run({"admin_password": {}}).stdout


def test_a_secret_of_ones_own_is_used_with_or_without_a_newline(site: Site) -> None:
    site.secrets.mkdir(mode=0o700, parents=True)
    for name, content in {"with": "{{correct-horse}}'battery\n", "without": "staple$(id);0123456789"}.items():
        (site.secrets / name).touch(mode=0o600)
        (site.secrets / name).write_text(content)
    result = site.run({"with": {}, "without": {}})
    assert result.returncode == 0, result.stdout
    assert site.values() == {"with": "{{correct-horse}}'battery", "without": "staple$(id);0123456789"}


def test_a_limited_run_gets_the_same_values(site: Site) -> None:
    site.run({"admin_password": {}})
    made = site.values("one")
    (site.shown / "two").unlink()
    site.run({"admin_password": {}}, "--limit", "two")
    assert site.values("two") == made


def test_check_mode_writes_nothing_and_goes_on(site: Site) -> None:
    result = site.run({"admin_password": {}, "flask_key": {"length": 64}}, "--check", "--diff")
    assert result.returncode == 0, result.stdout
    assert not site.secrets.parent.exists()
    assert {name: len(value) for name, value in site.values().items()} == {
        "admin_password": 32,
        "flask_key": 64,
    }
    assert "random placeholders stand in for admin_password, flask_key" in words(result)
    assert site.values()["admin_password"] not in result.stdout


def test_check_mode_uses_the_secrets_that_are_there(site: Site) -> None:
    site.run({"admin_password": {}})
    made = site.values()
    result = site.run({"admin_password": {}}, "--check")
    assert site.values() == made
    assert "stand in for" not in words(result)


@pytest.mark.parametrize(
    ("content", "file_mode", "sentence"),
    [
        ("", 0o600, "is empty; write a secret of at least 16"),
        ("\n", 0o600, "is empty; write a secret of at least 16"),
        ("fifteen-letters\n", 0o600, "holds 15 characters; write a secret of at least 16"),
        ("seventeen-letters\n", 0o640, "is open to others than its owner; run `chmod 600"),
        ("seventeen-letters\n", 0o604, "is open to others than its owner; run `chmod 600"),
        ("seventeen-letters and-more\n", 0o600, "holds more than one word of printable ASCII"),
        ("seventeen-letters\nsecond-line\n", 0o600, "holds more than one word of printable ASCII"),
        ("siebzehn-zeichen-ä\n", 0o600, "holds more than one word of printable ASCII"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(tmp_path: Path, content: str, file_mode: int, sentence: str) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "bad").write_text(content)
    (tmp_path / "bad").chmod(file_mode)
    result = secret_files.resolve(tmp_path, {"bad": 32, "missing": 32}, check_mode=False)
    assert isinstance(result["problems"], list)
    (problem,) = result["problems"]
    assert problem.startswith(f"{tmp_path}/bad ")
    assert sentence in problem
    assert result["values"] == {}
    assert not (tmp_path / "missing").exists(), "something was made although the run must stop"


def test_the_reason_of_a_refusal_is_shown_and_the_content_is_not(site: Site) -> None:
    site.secrets.mkdir(mode=0o700, parents=True)
    (site.secrets / "admin_password").write_text("canary-secret-0123\n")
    (site.secrets / "admin_password").chmod(0o644)
    result = site.run({"admin_password": {}}, "-vvv")
    assert result.returncode != 0
    assert f"{site.secrets}/admin_password is open to others than its owner" in words(result)
    assert "canary" not in result.stdout
    assert not (site.shown / "one").exists()


def test_a_directory_open_to_others_is_refused_and_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    result = secret_files.resolve(tmp_path, {"name": 32}, check_mode=False)
    assert result["problems"] == [f"{tmp_path} is open to others than its owner; run `chmod 700 {tmp_path}`."]
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_provider_is_refused_with_the_known_ones(site: Site) -> None:
    result = site.run({}, secrets_provider="vault")
    assert result.returncode != 0
    assert 'secrets_provider is "vault"; it takes one of: generated.' in words(result)


def test_a_run_cut_off_while_writing_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(descriptor: int) -> None:
        raise KeyboardInterrupt

    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "fsync", cut_off)
    with pytest.raises(KeyboardInterrupt):
        secret_files.resolve(tmp_path, {"name": 32}, check_mode=False)
    assert list(tmp_path.iterdir()) == []


def test_the_value_of_a_run_that_was_faster_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def generate_late(length: int) -> str:
        (tmp_path / "name").touch(mode=0o600)
        (tmp_path / "name").write_text("secret-of-the-other-run\n")
        return "m" * length

    tmp_path.chmod(0o700)
    monkeypatch.setattr(secret_files, "generate", generate_late)
    result = secret_files.resolve(tmp_path, {"name": 32}, check_mode=False)
    assert result["values"] == {"name": "secret-of-the-other-run"}
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
