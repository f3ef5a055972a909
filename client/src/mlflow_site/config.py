"""The configuration of a training job, from its environment and its .env files."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TypedDict

from mlflow_site import credentials, outages, targets, variables
from mlflow_site.errors import ConfigError
from mlflow_site.targets import VARIABLE, Target
from mlflow_site.variables import Variables

FOLDER_VARIABLE = "MLFLOW_ALLOW_FILE_STORE"

_logger = logging.getLogger("mlflow_site")

# What the server needs and a job does not. A value may hold a password and is never shown.
OF_THE_SERVER = {
    "MLFLOW_S3_BUCKET": "the server keeps artifacts in its own store, and a job needs neither a bucket nor a key of it",
    "MLFLOW_DB_URI": "only the server reaches its database; take it out here, and renew the password that it holds",
    "BACKEND_STORE_URI": "only the server reaches its database; take it out here, and renew the password that it holds",
    "ARTIFACT_ROOT": "the server keeps artifacts in its own store, and a job needs no address of it",
}


class MlflowConfig(TypedDict):
    """What was configured. It holds no secret and can be printed.

    Args:
        environment: `development` or `production`.
        target: `local`, `server`, `databricks` or `sagemaker`.
        tracking_uri: For `mlflow.set_tracking_uri`.
        registry_uri: Where models are registered, if elsewhere; otherwise empty.
        credentials: Where the login comes from, or `none`.
        ca: The file by which the server's certificate is verified, `certifi` (the public authorities) or `none`.
        settings: MLflow's variables that get a job over an outage, as they are in force.
        warnings: Sentences about what is probably not meant so.
    """

    environment: str
    target: str
    tracking_uri: str
    registry_uri: str
    credentials: str
    ca: str
    settings: dict[str, str]
    warnings: list[str]


def get_mlflow_config(directory: str | Path | None = None) -> MlflowConfig:
    """Configure MLflow for this process and return what was configured.

    Sets MLflow's environment variables, so that child processes have them too; what the user has set stays.

    Args:
        directory: Where the .env files are; by default the nearest from the working directory upwards.

    Returns:
        The configuration; `config["tracking_uri"]` is for `mlflow.set_tracking_uri`.

    Raises:
        ConfigError: A variable is missing or wrong; the message is one sentence.
    """
    name, found = variables.read(Path(directory) if directory else None)
    warnings: list[str] = []
    environment, target = _target(name, found, warnings)
    targets.require_plugin(target)
    if target.is_folder:
        _allow_folder(target, found, warnings)
    if target.kind != "local":
        warnings += [f"{name} is not used: {why}." for name, why in OF_THE_SERVER.items() if found.get(name)]
    config = MlflowConfig(
        environment=environment,
        target=target.kind,
        tracking_uri=target.tracking_uri,
        registry_uri=found.get("MLFLOW_REGISTRY_URI") or target.registry_uri,
        credentials=credentials.login(target, found, warnings),
        ca=credentials.authority(target, found, warnings),
        settings=outages.settings(found) if target.kind != "local" else {},
        warnings=warnings,
    )
    found.export()
    os.environ.update({**config["settings"], "MLFLOW_ENV": environment, VARIABLE: target.tracking_uri})
    if config["registry_uri"]:
        os.environ["MLFLOW_REGISTRY_URI"] = config["registry_uri"]
    outages.watch()
    for warning in warnings:
        _logger.warning(warning)
    return config


def _allow_folder(target: Target, found: Variables, warnings: list[str]) -> None:
    """Let MLflow keep runs in a folder, which it refuses since version 3.17 unless MLFLOW_ALLOW_FILE_STORE is true.

    Raises:
        ConfigError: The user forbids it.
    """
    ways_out = "import the folder into the server (docs/import.md), or set MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
    if found.get(FOLDER_VARIABLE) and not found.flag(FOLDER_VARIABLE):
        raise ConfigError(
            f"{FOLDER_VARIABLE} is {found.get(FOLDER_VARIABLE)!r}, and runs are kept in the folder "
            f"{target.tracking_uri}; {ways_out}."
        )
    os.environ[FOLDER_VARIABLE] = "true"
    warnings.append(
        f"Runs are kept in the folder {target.tracking_uri}, which MLflow no longer maintains; {ways_out} for new runs."
    )


def _target(name: str, found: Variables, warnings: list[str]) -> tuple[str, Target]:
    """Return the environment, which the address decides if MLFLOW_ENV does not, and where its runs are kept."""
    uri = found.get(VARIABLE)
    if name == "production" and not uri:
        raise ConfigError(f"{VARIABLE} is not set; with MLFLOW_ENV=production {targets.TAKES}.")
    target = targets.parse(uri) if uri else Target("local", targets.local_store())
    environment = name or ("development" if target.kind == "local" else "production")
    if environment == "production" and target.kind == "local":
        raise ConfigError(
            f"{VARIABLE} is {uri!r}, a store on this machine; with MLFLOW_ENV=production {targets.TAKES}."
        )
    if environment == "development" and target.is_remote:
        local = targets.local_store()
        warnings.append(
            f"{VARIABLE} names a server, but with MLFLOW_ENV=development runs are kept in {local}; "
            f"set MLFLOW_ENV=production to use the server."
        )
        target = Target("local", local)
    return environment, target
