"""Configures MLflow's client for a training job, and tests the connection to the server.

`get_mlflow_config()` reads the environment and the project's .env files; `python -m mlflow_site` tests what they say.
"""

from mlflow_site.config import MlflowConfig, get_mlflow_config
from mlflow_site.errors import ConfigError, LostWritesError
from mlflow_site.outages import require_all_logged

__all__ = ["ConfigError", "LostWritesError", "MlflowConfig", "get_mlflow_config", "require_all_logged"]
