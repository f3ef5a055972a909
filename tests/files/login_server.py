"""MLflow with its login, on a unix socket and with databases of its own in a directory.

usage: login_server.py DIRECTORY PASSWORD
"""

import importlib
import os
import sys
from pathlib import Path

from werkzeug.serving import run_simple

directory, password = Path(sys.argv[1]), sys.argv[2]
(directory / "auth.ini").write_text(
    "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
    f"database_uri = sqlite:///{directory}/users.db\nadmin_username = admin\nadmin_password = {password}\n"
    "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\nauth_cache_ttl_seconds = 600\n"
)
os.environ |= {
    "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{directory}/runs.db",
    "_MLFLOW_SERVER_ARTIFACT_ROOT": f"{directory}/artifacts",
    "MLFLOW_AUTH_CONFIG_PATH": f"{directory}/auth.ini",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "of no use to anybody",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

# It reads them when it is imported.
run_simple(f"unix://{directory}/socket", 0, importlib.import_module("mlflow.server.auth").create_app())
