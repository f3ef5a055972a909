"""A deployed site that is deployed again: nothing changes, nothing is shown."""

from __future__ import annotations

from pathlib import Path

from testinfra.host import Host

from testing.deployment import Site
from testing.playbook import run_playbook

# Where a secret is meant to be on the host, and nowhere else.
MEANT_FOR_SECRETS = ("/etc/mlflow/blue/", "/etc/mlflow/green/", "/run/credentials/")


def test_check_mode_on_a_deployed_host_reports_no_change_and_no_secret(site: Site) -> None:
    run = run_playbook("playbooks/site.yml", "--check", "--diff", "-vvv")
    assert run.returned == 0, run.output[-3000:]
    assert run.changed == 0
    assert "CaNaRy" not in run.output


def test_check_mode_shows_a_changed_setting(site: Site) -> None:
    run = run_playbook(
        "playbooks/site.yml", "--check", "--diff", "-vvv", "--tags", "mlflow_server", mlflow_server_pool_recycle=61
    )
    assert run.returned == 0, run.output[-3000:]
    assert run.changed > 0
    assert '+    "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": "61"' in run.output
    assert "CaNaRy" not in run.output


def test_secret_is_in_no_output_of_ansible(site: Site) -> None:
    # Check mode on the fresh host, the deployment with -vvv --diff, and the second run are all in this log.
    log = (site.state / "ansible.log").read_text(encoding="utf-8", errors="replace")
    assert "Switch | Write its credentials" in log
    assert "CaNaRy" not in log


def test_secret_is_in_no_cache_of_facts(site: Site) -> None:
    cached = [path for path in (site.state / "facts").rglob("*") if path.is_file()]
    assert cached, "no facts were cached, so there was nothing to search"
    assert [path for path in cached if "CaNaRy" in path.read_text(encoding="utf-8", errors="replace")] == []


def test_secret_is_in_no_journal_and_no_log(host: Host) -> None:
    assert int(host.check_output("journalctl --no-pager | wc -l")) > 100
    assert host.run('journalctl --no-pager --output=json --all | grep --quiet "[C]aNaRy"').rc == 1
    assert host.run('grep --recursive --files-with-matches "[C]aNaRy" /var/log').stdout == ""


def test_secret_is_in_no_command_line_and_no_environment(host: Host) -> None:
    assert host.run("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep --quiet gunicorn").rc == 0
    assert host.run('grep --files-with-matches "[C]aNaRy" /proc/[0-9]*/cmdline /proc/[0-9]*/environ').stdout == ""


def test_secret_is_in_no_file_but_those_meant_for_it(host: Host) -> None:
    found = host.run(
        'grep --recursive --files-with-matches --no-messages --exclude-dir=mlflow-uv "[C]aNaRy" '
        "/etc /home /opt/mlflow/active /root /run /srv /tmp /var"
    ).stdout.splitlines()
    assert {str(Path(path).name) for path in found} >= {"pg_service.conf", "flask_secret_key", "kek_passphrase"}
    assert [path for path in found if not path.startswith(MEANT_FOR_SECRETS)] == []
    assert host.run(f"find {' '.join(found)} -perm /o=r").stdout == ""


def test_secret_files_on_the_control_node_are_their_owners(site: Site) -> None:
    files = [path for path in (site.state / "secrets").iterdir()]
    assert len(files) >= 6
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
