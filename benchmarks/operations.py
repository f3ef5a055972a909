"""Operations as MLflow's client issues them, under the load of wrk."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.systems import ROOT, System, alone, say

HERE = Path(__file__).resolve().parent
API = "/api/2.0/mlflow"
TIMEOUT_SECONDS = 60
# Runs that are written to. More than any measurement writes to at once, so that writers do not wait for one row.
WRITTEN = 2000
NOW = 1_760_000_000_000


@dataclass(frozen=True)
class Operation:
    """One kind of request.

    Args:
        name: What it is called in tables.
        method: Method of HTTP.
        path: Path with query; @RUN@ stands for the id of a run.
        bodies: JSON bodies, used in turn; @RUN@ and @STEP@ stand for an id and a number not used before.
        expected: What the answer has, as a key and the number of its entries, or 0 for a key alone.
    """

    name: str
    method: str
    path: str
    bodies: Sequence[dict[str, Any]] = field(default=({},))
    expected: tuple[str, int] | None = None


@dataclass(frozen=True)
class Load:
    """How much load, and for how long.

    Args:
        clients: Connections that each wait for an answer before they ask again.
        seconds: How long it is measured.
        warm_seconds: How long it runs before.
    """

    clients: int = 8
    seconds: int = 8
    warm_seconds: int = 2


def page_token(offset: int) -> str:
    """Return the token of a later page, as MLflow makes it (mlflow.utils.search_utils)."""
    return base64.b64encode(json.dumps({"offset": offset}).encode()).decode()


def search(name: str, experiment: str, expected: int) -> Operation:
    """Return a search with a filter on a metric and a param, ordered, first and second page in turn."""
    body = {
        "experiment_ids": [experiment],
        "filter": "metrics.m1 > 0.2 and params.p1 = 'v3'",
        "order_by": ["metrics.m1 DESC"],
        "max_results": min(100, expected),
        "run_view_type": "ACTIVE_ONLY",
    }
    pages = [body, {**body, "page_token": page_token(100)}] if expected > 200 else [body]
    return Operation(name, "POST", f"{API}/runs/search", pages, ("runs", min(100, expected) if expected > 200 else 0))


def operations(system: System, searched: Sequence[int]) -> list[Operation]:
    """Return the operations.

    Args:
        system: Where they are asked.
        searched: Sizes of the experiments that are searched.
    """
    tags = [{"key": "mlflow.user", "value": "bench"}, {"key": "mlflow.source.type", "value": "LOCAL"}]
    batch = {
        "run_id": "@RUN@",
        "metrics": [
            {"key": f"metric_{number}", "value": number / 7, "timestamp": NOW, "step": "@STEP@"}
            for number in range(100)
        ],
        "params": [{"key": f"param_{number}", "value": f"value {number}"} for number in range(20)],
        "tags": [],
    }
    metric = {"run_id": "@RUN@", "key": "loss", "value": 0.25, "timestamp": NOW, "step": "@STEP@"}
    written = experiment_id(system, written_name())
    run = {"experiment_id": written, "start_time": NOW, "run_name": "bench-run", "tags": tags}
    return [
        Operation("create run", "POST", f"{API}/runs/create", [run], ("run", 0)),
        Operation("log-metric", "POST", f"{API}/runs/log-metric", [metric]),
        Operation("log-batch 100+20", "POST", f"{API}/runs/log-batch", [batch]),
        Operation("get run", "GET", f"{API}/runs/get?run_uuid=@RUN@&run_id=@RUN@", expected=("run", 0)),
        *(
            search(f"search of {size:,} runs", experiment_id(system, seeded_name(size)), size // 10)
            for size in searched
        ),
        Operation(
            "metric history 10,000",
            "GET",
            f"{API}/metrics/get-history?run_uuid={history_run()}&run_id={history_run()}&metric_key=history",
            expected=("metrics", 10_000),
        ),
        Operation(
            "registry search",
            "GET",
            f"{API}/registered-models/search?max_results=100",
            expected=("registered_models", 100),
        ),
        Operation(
            "experiment list",
            "POST",
            f"{API}/experiments/search",
            [{"max_results": 1000, "view_type": "ACTIVE_ONLY"}],
            ("experiments", 0),
        ),
    ]


def history_run() -> str:
    """Return the id of the run with the long metric, as reset.sql makes it."""
    return "3cd15f8f2940aff879df34df4e5c2cd1"


def seeded_name(runs: int) -> str:
    """Return the name of an experiment to be searched."""
    return f"seeded-{runs}"


def written_name() -> str:
    """Return the name of the experiment to be written to."""
    return "written"


def experiment_id(system: System, name: str) -> str:
    """Return the id of an experiment."""
    return system.sql("SELECT experiment_id FROM experiments WHERE name = :'name'", name=name).strip()


def seed(system: System, sizes: Sequence[int]) -> None:
    """Leave a system with these experiments and no others of its own, and fresh statistics.

    Args:
        system: The system.
        sizes: Number of runs of each experiment to be searched.
    """
    say(f"{system.name}: experiments of {', '.join(f'{size:,}' for size in (WRITTEN, *sizes))} runs")
    with alone(system):
        system.sql((HERE / "reset.sql").read_text(encoding="utf-8"))
        for name, runs in [(written_name(), WRITTEN), *((seeded_name(size), size) for size in sizes)]:
            system.sql((HERE / "seed.sql").read_text(encoding="utf-8"), name=name, runs=runs)
        system.sql("VACUUM ANALYZE")
        system.sql("CHECKPOINT")


def check(system: System, operation: Operation, run: str) -> None:
    """Ask once, and see that the answer is what is to be measured.

    Raises:
        RuntimeError: It is not.
    """
    body = json.dumps(operation.bodies[0]).replace("@RUN@", run).replace('"@STEP@"', "1").encode()
    with system.session() as session:
        answer = session.request(
            operation.method,
            system.url + operation.path.replace("@RUN@", run),
            data=body if operation.method == "POST" else None,
            headers={"Content-Type": "application/json"},
            timeout=TIMEOUT_SECONDS,
        )
    if not answer.ok:
        raise RuntimeError(f"{system.name}, {operation.name}: {answer.status_code} {answer.text[:300]}")
    if operation.expected:
        key, number = operation.expected
        found = answer.json().get(key)
        if found is None or (number and len(found) != number):
            raise RuntimeError(
                f"{system.name}, {operation.name}: {len(found or [])} {key} instead of {number or 'some'}"
            )


def measure(system: System, operation: Operation, load: Load) -> dict[str, float]:
    """Put a system under load and return the figures.

    Args:
        system: The system, which runs alone meanwhile.
        operation: What is asked of it.
        load: How much.

    Returns:
        Requests per second, seconds of the median and of the slowest hundredth, failures, processor seconds of the
        host per 1,000 requests, connections of the database and bytes of memory at the end.
    """
    runs = system.sql(
        "SELECT run_uuid FROM runs JOIN experiments USING (experiment_id) WHERE experiments.name = :'name' LIMIT :most",
        name=written_name(),
        most=WRITTEN,
    ).split()
    with tempfile.TemporaryDirectory() as directory:
        forms, ids = Path(directory, "forms"), Path(directory, "runs")
        ids.write_text("\n".join(runs) + "\n", encoding="utf-8")
        bodies = [json.dumps(body).replace('"@STEP@"', "@STEP@") if body else "" for body in operation.bodies]
        forms.write_text(
            "".join(f"{operation.method}\t{operation.path}\t{body}\n" for body in bodies), encoding="utf-8"
        )
        check(system, operation, runs[0])
        if load.warm_seconds:
            wrk(system, [str(forms), str(ids)], load.clients, load.warm_seconds)
        before = system.cpu_seconds()
        result = wrk(system, [str(forms), str(ids)], load.clients, load.seconds)
        used = system.cpu_seconds() - before
    requests = max(result["requests"], 1)
    return {
        "rate": result["requests"] / result["seconds"],
        "p50": result["p50"],
        "p99": result["p99"],
        "failures": result["failures"],
        "cpu": used / requests * 1000,
        "connections": system.connections(),
        "memory": system.memory(),
    }


def wrk(system: System, arguments: Sequence[str], clients: int, seconds: int) -> dict[str, float]:
    """Run wrk and return what traffic.lua counts."""
    environment = dict(os.environ)
    if system.login:
        environment["WRK_AUTHORIZATION"] = "Basic " + base64.b64encode(":".join(system.login).encode()).decode()
    command = ["wrk", f"--threads={min(2, clients)}", f"--connections={clients}", f"--duration={seconds}s"]
    command += [f"--timeout={TIMEOUT_SECONDS}s", f"--script={HERE / 'traffic.lua'}", system.url, "--", *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            figures: dict[str, float] = json.loads(line.removeprefix("RESULT "))
            return figures
    raise RuntimeError(f"wrk: {done.stdout} {done.stderr}")
