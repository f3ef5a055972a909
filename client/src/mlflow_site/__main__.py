"""`python -m mlflow_site`: tests the connection to where runs are kept, and says in one screen what works."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mlflow_site.config import MlflowConfig, get_mlflow_config
from mlflow_site.errors import ConfigError

# Of this process alone: what fails is to be told at once, and nobody else's figures are to hold what is tried here.
OF_A_TEST = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Test the connection.

    Args:
        arguments: Of the command line; by default those of this process.

    Returns:
        The exit status: 0 if all works, 1 if not.
    """
    parser = argparse.ArgumentParser(prog="python -m mlflow_site", description="Tests the connection to MLflow.")
    parser.add_argument("--json", action="store_true", help="write the results as JSON")
    as_json = parser.parse_args(arguments).json
    # Told below with the rest.
    logging.getLogger("mlflow_site").addHandler(logging.NullHandler())
    logging.getLogger("mlflow_site").propagate = False
    try:
        config = get_mlflow_config()
    except ConfigError as error:
        print(
            json.dumps({"ok": False, "error": str(error)}) if as_json else error,
            file=sys.stdout if as_json else sys.stderr,
        )
        return 1
    os.environ.update(OF_A_TEST)
    return _test_as_json(config) if as_json else _test(config)


def _test(config: MlflowConfig) -> int:
    from mlflow_site.checks import results  # MLflow is imported here, after its variables are set.

    print(f"{config['tracking_uri']} ({config['environment']})", flush=True)
    works = True
    for result in results(config):
        works = works and result.outcome != "FAILED"
        print(f"  {result.name:<11} {result.outcome:<10} {result.message}".rstrip(), flush=True)
    for warning in config["warnings"]:
        print(f"  note: {warning}")
    print("All of it works." if works else "It does not work.")
    return 0 if works else 1


def _test_as_json(config: MlflowConfig) -> int:
    from mlflow_site.checks import results

    found = [asdict(result) for result in results(config)]
    works = all(result["outcome"] != "FAILED" for result in found)
    told: dict[str, Any] = {"ok": works, "config": config, "results": found}
    print(json.dumps(told, indent=2))
    return 0 if works else 1


if __name__ == "__main__":
    sys.exit(main())
