"""In the place of src/config/mlflow_config.py: `get_mlflow_config` for training scripts, and a test when it is run."""

import sys

from mlflow_site import get_mlflow_config
from mlflow_site.__main__ import main

__all__ = ["get_mlflow_config"]

if __name__ == "__main__":
    sys.exit(main())
