"""What has a training job get over a server that is away for a while, and notice what was lost all the same."""

from __future__ import annotations

import logging
import re

from mlflow_site.errors import ConfigError, LostWritesError
from mlflow_site.variables import Variables

# MLflow tries a request again when the connection fails, in whatever way, and after 408, 429, 500, 502, 503 and 504.
# It waits 0, 2, 4, 8, … times the factor, at most 120 s each, plus a random part of the jitter.
DEFAULTS = {
    # The job goes on while the server is away: what it logs waits in a queue.
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    # One thread writes in the order of the calls, so that of two values of a tag the later one stays. It sends one
    # request after the other, as it is without a queue, and so do the jobs that come back after an outage.
    "MLFLOW_ASYNC_LOGGING_THREADPOOL_SIZE": "1",
    # As many as each MLflow since 2.9 allows: with the factor below, a request is given up after 6 minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "9",
    # Waits of 0, 2, 4, 8, 16, 32, 64, 120, 120 s: the shortest that MLflow takes, so that a job is back soon after
    # the server, at the latest after as long as the server was away.
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # Seconds. Jobs that lost the server at the same moment do not all come back at the same moment.
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "2",
    # Seconds without an answer. A large artifact is answered when the store has it, and to give up before is to send
    # it again. A host that is gone is noticed earlier, by TCP's keepalive.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "300",
}
# What MLflow takes; a value that it does not take fails each request of the job.
NUMBERS = {
    "MLFLOW_ASYNC_LOGGING_THREADPOOL_SIZE": (1, 1000),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": (0, 10),
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": (0, 120),
    "MLFLOW_HTTP_REQUEST_TIMEOUT": (1, 86400),
}
QUEUE_LOGGER = "mlflow.utils.async_logging.async_logging_queue"


def settings(variables: Variables) -> dict[str, str]:
    """Return the settings for outages: what the user has set, and the defaults for the rest.

    Args:
        variables: What the user has set.

    Raises:
        ConfigError: One of them is no number that MLflow takes.
    """
    for name, (least, most) in NUMBERS.items():
        value = variables.get(name)
        if value and not (re.fullmatch(r"\d{1,6}", value) and least <= int(value) <= most):
            raise ConfigError(f"{name} is {value!r}; MLflow takes a whole number from {least} to {most}.")
    return {name: variables.get(name) or default for name, default in DEFAULTS.items()}


class _Losses(logging.Handler):
    """Counts what MLflow's queue reports as lost: whoever called log_metric has gone on since and hears nothing."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.count = 0
        self.first = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Count a report."""
        self.count += 1
        self.first = self.first or record.getMessage()


_losses = _Losses()


def watch() -> None:
    """Count from now on what is lost. A second call changes nothing."""
    logger = logging.getLogger(QUEUE_LOGGER)
    if _losses not in logger.handlers:
        logger.addHandler(_losses)


def require_all_logged() -> None:
    """Fail if anything that was logged since `get_mlflow_config` did not reach the server.

    To be called when the run has ended, which is when MLflow has emptied its queue.

    Raises:
        LostWritesError: Something is missing on the server.
    """
    if _losses.count:
        count, first = _losses.count, _losses.first
        _losses.count, _losses.first = 0, ""
        raise LostWritesError(
            f"The run is not whole: {count} writes did not reach the server, the first one by: {first}"
        )
