"""Where runs are kept: a local store, a server, or a managed one, and what each needs to be reached."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from mlflow_site.errors import ConfigError

Kind = Literal["local", "server", "databricks", "sagemaker"]

VARIABLE = "MLFLOW_TRACKING_URI"
TAKES = "it takes the server's address alone, such as https://mlflow.example.com"
ARN = re.compile(r"arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:\d{12}:(mlflow-tracking-server|mlflow-app)/[A-Za-z0-9-]+")
ARN_FORM = "arn:aws:sagemaker:<region>:<account>:mlflow-tracking-server/<name>"
DATABRICKS = re.compile(r"databricks(-uc)?(://[\w.:-]+)?")
# The first part of a path that is likely to be a host: it has a dot between two names, or a port.
HOST = re.compile(r"[A-Za-z0-9-]+((\.[A-Za-z0-9-]+)+(:\d+)?|:\d+)")
DATABASES = ("postgresql", "postgres", "mysql", "mssql", "oracle")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Target:
    """Where runs are kept.

    Args:
        kind: What it is.
        tracking_uri: Its address, as MLflow takes it.
        registry_uri: The address of the model registry, if it is another.
    """

    kind: Kind
    tracking_uri: str
    registry_uri: str = ""

    @property
    def host(self) -> str:
        """The name of a server's host."""
        return urlsplit(self.tracking_uri).hostname or ""

    @property
    def is_folder(self) -> bool:
        """Whether runs are kept as files in a folder, such as mlruns/."""
        return self.kind == "local" and not self.tracking_uri.startswith("sqlite:")

    @property
    def is_remote(self) -> bool:
        """Whether it is on another machine, as far as its address says."""
        return self.kind in ("databricks", "sagemaker") or (self.kind == "server" and self.host not in LOOPBACK)


def local_store() -> str:
    """Return where MLflow keeps runs by default: a database, or the folder mlruns/ if there are runs in it already."""
    return "mlruns" if any(Path("mlruns").glob("[0-9]*/meta.yaml")) else "sqlite:///mlflow.db"


def parse(uri: str) -> Target:
    """Return the target of an address.

    Args:
        uri: What MLFLOW_TRACKING_URI says.

    Raises:
        ConfigError: It is no address of a store; the message holds no password that it has.
    """
    if uri.startswith("databricks"):
        return _databricks(uri)
    if uri.startswith("arn:"):
        if not ARN.fullmatch(uri):
            raise ConfigError(f"{VARIABLE} is {uri!r}; an ARN of SageMaker is {ARN_FORM}.")
        return Target("sagemaker", uri)
    if re.match(r"https?:", uri):
        return _server(uri)
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in DATABASES:
        raise ConfigError(f"{VARIABLE} is the address of a database, which only the server may reach; {TAKES}.")
    if re.match(r"sqlite:///|file:", uri):
        return Target("local", uri)
    if "://" not in uri:
        if "@" in uri or _names_host(uri):
            raise ConfigError(f"{VARIABLE} has no https:// at its start; {TAKES}, or a folder as ./<name>.")
        return Target("local", uri)
    raise ConfigError(
        f"{VARIABLE} starts with {scheme + '://'!r}; it takes https://, a local store (sqlite:///mlflow.db), "
        f"databricks, or the ARN of a SageMaker tracking server."
    )


def _names_host(path: str) -> bool:
    """Return whether a path is likely to be the address of a server without its scheme."""
    first = path.partition("/")[0]
    return bool(HOST.fullmatch(first)) and not Path(first).exists()


def _databricks(uri: str) -> Target:
    if not DATABRICKS.fullmatch(uri):
        raise ConfigError(f"{VARIABLE} starts with 'databricks'; it takes databricks or databricks://<profile>.")
    if uri.startswith("databricks-uc"):
        # Unity Catalog is a registry of models; MLflow refuses it as the place of runs, which is the workspace.
        return Target("databricks", uri.replace("databricks-uc", "databricks", 1), registry_uri=uri)
    return Target("databricks", uri)


def _server(uri: str) -> Target:
    try:
        parts = urlsplit(uri)
        usable = bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", uri)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{VARIABLE} has no usable host and port; {TAKES}.")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"{VARIABLE} holds a login, which would get into logs; put it into MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD."
        )
    if parts.query or parts.fragment or "#" in uri:
        raise ConfigError(f"{VARIABLE} is the address of a page of the user interface; {TAKES}.")
    return Target("server", uri.rstrip("/"))


def require_plugin(target: Target) -> None:
    """Look whether what a managed target needs is installed.

    Args:
        target: Where runs are kept.

    Raises:
        ConfigError: It is not.
    """
    if target.kind == "databricks" and not _is_installed("databricks.sdk"):
        raise ConfigError(
            f"{VARIABLE} names Databricks, which takes the package databricks-sdk: pip install databricks-sdk."
        )
    if target.kind == "sagemaker" and not _has_store("arn"):
        raise ConfigError(
            f"{VARIABLE} names a SageMaker tracking server, which takes the package sagemaker-mlflow: "
            f"pip install sagemaker-mlflow."
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _has_store(scheme: str) -> bool:
    return any(entry.name == scheme for entry in importlib.metadata.entry_points(group="mlflow.tracking_store"))
