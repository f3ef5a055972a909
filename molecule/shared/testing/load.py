"""A client that writes through whatever is done to the server, and keeps the accounts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests

from testing.deployment import Login, Site
from testing.limits import wait_until
from testing.sampling import pick

CLIENTS = 4
# Long enough that a request which waits for a new process is slow and not failed.
REQUEST_TIMEOUT_SECONDS = 60
# Between the requests of one client: the machine that is tested also runs Ansible, which they would slow down.
PAUSE_SECONDS = pick(0.5, 0.2)
PAGE = 25_000


@dataclass
class Account:
    """What a load did and what came of it.

    Args:
        run_id: Run that is written to.
        login: Who writes; the administrator unless it is given.
        acknowledged: Steps whose metric the server has confirmed.
        failures: What went wrong, in words.
        renewed: Where a login is looked up anew that was refused; without it, a refusal is a failure.
        refused: How often that was.
        seconds: When each request began (monotonic), and how long it took.
    """

    run_id: str
    login: Login | None = None
    acknowledged: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    renewed: Callable[[Login], Login] | None = None
    refused: int = 0
    seconds: list[tuple[float, float]] = field(default_factory=list)

    def lost(self, site: Site) -> set[int]:
        """Return the steps that the server confirmed and does not have."""
        return self.acknowledged - stored_steps(site, self.run_id, self.login)

    def percentile(self, percent: float, begin: float, end: float) -> float:
        """Return the seconds within which that share of the requests between two moments was answered."""
        taken = sorted(seconds for moment, seconds in self.seconds if begin <= moment <= end)
        return taken[min(int(len(taken) * percent / 100), len(taken) - 1)]


def start_run(site: Site, name: str, login: Login | None = None, experiment: str | None = None) -> str:
    """Start a run in an experiment of its own, unless one is named that is there, and return its id."""
    with site.session(login) as session:
        path = f"{site.url}/api/2.0/mlflow"
        if experiment:
            asked = {"experiment_name": experiment}
            found = session.get(f"{path}/experiments/get-by-name", params=asked, timeout=60)
            found.raise_for_status()
            number = found.json()["experiment"]["experiment_id"]
        else:
            made = session.post(f"{path}/experiments/create", json={"name": f"{name}-{time.time_ns()}"}, timeout=60)
            made.raise_for_status()
            number = made.json()["experiment_id"]
        body = {"experiment_id": number, "start_time": int(time.time() * 1000)}
        run = session.post(f"{path}/runs/create", json=body, timeout=60)
        run.raise_for_status()
        return str(run.json()["run"]["info"]["run_id"])


def stored_steps(site: Site, run_id: str, login: Login | None = None) -> set[int]:
    """Return the steps of the metric `load` that the server has for a run."""
    steps: set[int] = set()
    token: str | None = None
    with site.session(login) as session:
        while True:
            query: dict[str, str | int] = {"run_id": run_id, "metric_key": "load", "max_results": PAGE}
            if token:
                query["page_token"] = token
            answer = session.get(f"{site.url}/api/2.0/mlflow/metrics/get-history", params=query, timeout=60)
            answer.raise_for_status()
            body = answer.json()
            steps |= {int(metric.get("step", 0)) for metric in body.get("metrics", [])}
            token = body.get("next_page_token")
            if not token:
                return steps


def write(site: Site, account: Account, first: int, stop: threading.Event) -> None:
    """Log one metric after the other until told to stop. Nothing is tried twice: a failure is a failure.

    But for who looks a login up anew when it is refused, as a job does whose password may be renewed.

    Args:
        site: Where to write.
        account: Where to keep count.
        first: First step; the next ones are CLIENTS apart, so that no two clients share one.
        stop: Set from outside to end.
    """
    step, login = first, account.login
    with site.session(login) as session:
        while not stop.is_set():
            began = time.monotonic()
            metric = {"run_id": account.run_id, "key": "load", "value": 1.0, "timestamp": step, "step": step}
            try:
                url = f"{site.url}/api/2.0/mlflow/runs/log-metric"
                answer = session.post(url, json=metric, timeout=REQUEST_TIMEOUT_SECONDS)
                # 500 too: so MLflow answers when it forgets a former password in the middle of a request.
                if answer.status_code != requests.codes.ok and account.renewed and login:
                    account.refused += 1
                    session.auth = account.login = login = account.renewed(login)
                    answer = session.post(url, json=metric, timeout=REQUEST_TIMEOUT_SECONDS)
                if answer.status_code == requests.codes.ok:
                    account.acknowledged.add(step)
                else:
                    account.failures.append(f"step {step}: {answer.status_code} {answer.text[:200]}")
            except requests.RequestException as error:
                account.failures.append(f"step {step}: {error}")
            account.seconds.append((began, time.monotonic() - began))
            step += CLIENTS
            stop.wait(PAUSE_SECONDS)


@contextmanager
def load(
    site: Site,
    name: str,
    others: Sequence[Site] = (),
    login: Login | None = None,
    *,
    experiment: str | None = None,
    renewed: Callable[[Login], Login] | None = None,
) -> Iterator[Account]:
    """Write to the site from several clients for as long as the block runs.

    Args:
        site: Where to write.
        name: Name of the experiment, made unique.
        others: Further hosts of the same site; the clients are spread over all of them.
        login: Who writes; the administrator unless it is given.
        experiment: The experiment, if there is one.
        renewed: Where a login is looked up anew that was refused.

    Yields:
        The account, complete when the block has ended.
    """
    account = Account(start_run(site, name, login, experiment), login, renewed=renewed)
    stop = threading.Event()
    hosts = [site, *others]
    threads = [
        threading.Thread(target=write, args=(hosts[number % len(hosts)], account, number, stop))
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield account
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def wait_until_written(account: Account, more: int, seconds: float = 120) -> None:
    """Wait until that many further metrics are confirmed, which shows that the site serves.

    Args:
        account: The account of the clients that write.
        more: Number of metrics.
        seconds: The limit on an idle machine.

    Raises:
        AssertionError: They were not confirmed within the limit.
    """
    goal = len(account.acknowledged) + more
    wait_until(
        lambda: len(account.acknowledged) >= goal, seconds, lambda: f"no {more} writes; last: {account.failures[-3:]}"
    )
