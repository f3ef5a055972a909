"""The variables of a job: those of its process first, then the project's .env files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values, find_dotenv

from mlflow_site.errors import ConfigError

ENVIRONMENTS = ("development", "production")
PROCESS = "the environment"


@dataclass
class Variables:
    """Values by name, and where each comes from.

    Args:
        values: What each variable is; a variable that is set to nothing is as if it were not set.
        sources: The name of the file that each comes from, or `the environment`.
    """

    values: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def add(self, source: str, values: dict[str, str | None]) -> None:
        """Add the values of one source, for names that no earlier one has."""
        for name, value in values.items():
            # Values that were pasted into a web form, as those of CI, often end with a line break.
            stripped = (value or "").strip()
            if stripped and name not in self.values:
                self.values[name] = stripped
                self.sources[name] = source

    def get(self, name: str) -> str:
        """Return a variable, or an empty string."""
        return self.values.get(name, "")

    def source(self, name: str) -> str:
        """Return where a variable comes from."""
        return self.sources.get(name, "nowhere")

    def flag(self, name: str) -> bool:
        """Return a variable as MLflow reads a switch: whether it is `true` or `1`."""
        return self.get(name).lower() in ("true", "1")

    def export(self) -> None:
        """Set them in the process, and take out what is set to nothing, for MLflow and for child processes.

        To MLflow, a variable that is set to nothing is set: MLFLOW_TRACKING_SERVER_CERT_PATH= has it verify no
        certificate at all.
        """
        for name in [name for name, value in os.environ.items() if name.startswith("MLFLOW_") and not value.strip()]:
            del os.environ[name]
        for name, value in self.values.items():
            if self.sources[name] != PROCESS or name.startswith("MLFLOW_"):
                os.environ[name] = value


def _file(name: str, directory: Path | None) -> dict[str, str | None]:
    """Return what a .env file says: that of a directory, or the nearest one from the working directory upwards."""
    path = str(directory / name) if directory else find_dotenv(name, usecwd=True)
    return dict(dotenv_values(path)) if path and Path(path).is_file() else {}


def read(directory: Path | None) -> tuple[str, Variables]:
    """Read the process's environment, then .env.<environment>, then .env.

    Args:
        directory: Where the .env files are; by default the nearest from the working directory upwards.

    Returns:
        The environment's name, empty if MLFLOW_ENV is not set, and the variables.

    Raises:
        ConfigError: MLFLOW_ENV is neither of the two.
    """
    shared = _file(".env", directory)
    name = os.environ.get("MLFLOW_ENV", "").strip() or (shared.get("MLFLOW_ENV") or "").strip()
    if name and name not in ENVIRONMENTS:
        raise ConfigError(f"MLFLOW_ENV is {name!r}; it takes development or production.")
    variables = Variables()
    variables.add(PROCESS, dict(os.environ))
    if name:
        variables.add(f".env.{name}", _file(f".env.{name}", directory))
    variables.add(".env", shared)
    return name, variables
