"""The life of a deployment: how long its steps take, next to the same by hand."""

from __future__ import annotations

import re
import resource
import time

import requests

from benchmarks.systems import SITE, STATE, System, create, install, say, site_playbook
from testing.deployment import Site
from testing.load import load, wait_until_written

# So long must a system answer without a failure to count as back.
STEADY_SECONDS = 3.0
BACK_SECONDS_MAX = 180.0


def first_run(system: System) -> dict[str, float]:
    """Return the seconds from a fresh host to the first logged run."""
    create(system)
    began = time.monotonic()
    steps = install(system)
    system.wait()
    log_a_run(system)
    if system.name != "site":
        say(f"by hand: {steps}")
    return {"seconds": time.monotonic() - began}


def log_a_run(system: System) -> None:
    """Log a run with a metric."""
    with system.session() as session:
        path = f"{system.url}/api/2.0/mlflow/runs"
        run = session.post(f"{path}/create", json={"experiment_id": "0", "start_time": 1}, timeout=60)
        run.raise_for_status()
        metric = {"run_id": run.json()["run"]["info"]["run_id"], "key": "loss", "value": 1.0, "timestamp": 1, "step": 1}
        session.post(f"{path}/log-metric", json=metric, timeout=60).raise_for_status()


def second_run(inventory: str = SITE) -> dict[str, float]:
    """Return the seconds of a run of site.yml that has nothing to do.

    Raises:
        RuntimeError: It had.
    """
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    output = site_playbook(inventory=inventory)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    say(f"of the control node's processors {used:.1f} s")
    if any(int(changed) for changed in re.findall(r"changed=(\d+)", output)):
        raise RuntimeError(f"The second run changed something:\n{output[-2000:]}")
    return {"seconds": seconds}


def switch(system: System, turn: int) -> dict[str, float]:
    """Return the seconds of a run of site.yml that switches colours, with clients that write meanwhile."""
    site = Site(system.url, "", STATE / "site", system.container)
    with load(site, "switch") as account:
        wait_until_written(account, 20)
        began = time.monotonic()
        site_playbook("-e", f'{{"mlflow_server_settings": {{"MLFLOW_BENCHMARK": "{turn}-{time.time():.0f}"}}}}')
        seconds = time.monotonic() - began
        wait_until_written(account, 20)
    return {
        "seconds": seconds,
        "failures": float(len(account.failures)),
        "lost": float(len(account.lost(site))),
        "p99": account.percentile(99, began, began + seconds),
    }


def killed_master(system: System) -> dict[str, float]:
    """Return the seconds without service after the server's first process was killed.

    Raises:
        TimeoutError: It did not come back.
    """
    with system.session() as session:
        system.execute("systemctl", "kill", "--kill-who=main", "--signal=KILL", system.unit)
        began = failed = time.monotonic()
        while time.monotonic() - failed < STEADY_SECONDS:
            if time.monotonic() - began > BACK_SECONDS_MAX:
                raise TimeoutError(f"{system.name} is not back after {BACK_SECONDS_MAX:.0f} s.")
            try:
                query = f"{system.url}/api/2.0/mlflow/experiments/search"
                good = session.post(query, json={"max_results": 1}, timeout=30).ok
            except requests.RequestException:
                good = False
            if not good:
                failed = time.monotonic()
            time.sleep(0.02)
    return {"seconds": failed - began}
