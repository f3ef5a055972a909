"""The tests of a connection, in the order in which one needs the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from mlflow_site.config import MlflowConfig
from mlflow_site.errors import CheckFailedError
from mlflow_site.network import Network
from mlflow_site.trial import Trial

Outcome = Literal["ok", "FAILED", "not tried"]


@dataclass(frozen=True)
class Result:
    """How a test went.

    Args:
        name: What was tested.
        outcome: How it went; what needs a test that failed is not tried.
        message: What was seen, or one sentence about what to mend.
    """

    name: str
    outcome: Outcome
    message: str = ""


def results(config: MlflowConfig) -> Iterator[Result]:
    """Test the connection.

    Args:
        config: The configuration, which is in force in this process.

    Yields:
        The result of each test, as soon as it is known.
    """
    tests: list[tuple[str, Callable[[], str | None]]] = []
    if config["target"] == "server":
        network = Network(config["tracking_uri"], config["ca"])
        tests += [
            ("name", network.look_up),
            ("port", network.connect),
            ("tls", network.verify),
            ("version", network.compare),
        ]
    trial = Trial(config["tracking_uri"], config["target"], config["credentials"])
    if config["target"] == "local":
        tests += [("store", trial.open_store)]
    else:
        tests += [("login", trial.log_in), ("permission", trial.ask_permission), ("artifacts", trial.exchange)]
    failed = False
    try:
        for name, test in tests:
            result = Result(name, "not tried") if failed else _tried(name, test)
            failed = failed or result.outcome == "FAILED"
            yield result
    finally:
        cleaned = _tried("clean-up", trial.clean_up)
    if cleaned.outcome == "FAILED":
        yield cleaned


def _tried(name: str, test: Callable[[], str | None]) -> Result:
    try:
        message = test()
    except CheckFailedError as error:
        return Result(name, "FAILED", str(error))
    return Result(name, "not tried") if message is None else Result(name, "ok", message)
