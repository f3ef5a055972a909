"""What is done to a running site, with clients writing through it: nothing that was confirmed is ever lost."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from testinfra.host import Host

from testing.deployment import Site, active_colour, power_cycle
from testing.load import load, wait_until_written
from testing.playbook import run_playbook


def test_change_of_settings_switches_colours_unnoticed(host: Host, site: Site) -> None:
    before = active_colour(host)
    with load(site, "switch") as account:
        wait_until_written(account, 20)
        run = run_playbook("playbooks/site.yml", "--tags", "mlflow_server", mlflow_server_auth_cache_ttl=45)
        assert run.returned == 0, run.output[-3000:]
        wait_until_written(account, 20)
    assert account.failures == []
    assert account.lost(site) == set()
    assert active_colour(host) != before
    assert not host.service(f"mlflow@{before}").is_running

    # Putting the variable back is the way back.
    with load(site, "switch-back") as account:
        wait_until_written(account, 20)
        run = run_playbook("playbooks/site.yml", "--tags", "mlflow_server")
        assert run.returned == 0, run.output[-3000:]
        wait_until_written(account, 20)
    assert account.failures == []
    assert account.lost(site) == set()
    assert active_colour(host) == before


def kill_worker(host: Host) -> None:
    """Kill one worker process of the server."""
    host.check_output(f"pkill -KILL -n -P $(systemctl show -P MainPID mlflow@{active_colour(host)})")


def kill_master(host: Host) -> None:
    """Kill gunicorn itself."""
    host.check_output(f"kill -KILL $(systemctl show -P MainPID mlflow@{active_colour(host)})")


def kill_postgresql(host: Host) -> None:
    """Kill PostgreSQL's postmaster."""
    host.check_output("kill -KILL $(head -n 1 /var/lib/postgresql/*/main/postmaster.pid)")


def kill_nginx(host: Host) -> None:
    """Kill nginx's master and its workers."""
    host.check_output("pkill -KILL nginx")


@pytest.mark.parametrize("kill", [kill_worker, kill_master, kill_postgresql, kill_nginx])
def test_killed_process_comes_back_and_nothing_is_lost(host: Host, site: Site, kill: Callable[[Host], None]) -> None:
    with load(site, kill.__name__) as account:
        wait_until_written(account, 20)
        kill(host)
        time.sleep(1)
        wait_until_written(account, 40)
    assert account.lost(site) == set()


def test_reboot_brings_everything_back_and_loses_nothing(host: Host, site: Site) -> None:
    before = active_colour(host)
    with load(site, "reboot") as account:
        wait_until_written(account, 20)
        power_cycle(site.host, host)
        wait_until_written(account, 40)
    assert account.lost(site) == set()
    assert active_colour(host) == before
