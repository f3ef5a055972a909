"""Bring MLflow's two databases to the schema of this release and make the first administrator.

Run with the Python of the release, as the server's user, with PGSERVICEFILE and MLFLOW_AUTH_CONFIG_PATH set. The
administrator's password is read from standard input. Prints one line for each thing it changed, nothing when all
was as it should be; on failure, the last line of standard error is one sentence and the exit status is 1.

Upstream's migrations must not run twice at once (several hosts, several workers), so everything happens under one
PostgreSQL advisory lock of the tracking database.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
from alembic.script import ScriptDirectory

# Any number will do, as long as nothing else in these databases uses it: the bytes of "mlflow".
LOCK_KEY = int.from_bytes(b"mlflow", "big")


class PreparationError(Exception):
    """Something that the operator has to mend; its text is one sentence."""


def mlflow_path(*parts: str) -> str:
    """Return a path inside the installed mlflow package, without the cost of importing it.

    Args:
        parts: Path components below the package.
    """
    spec = importlib.util.find_spec("mlflow")
    if spec is None or spec.origin is None:
        raise PreparationError("mlflow is not installed in this release.")
    return str(Path(spec.origin).parent.joinpath(*parts))


def connect(service: str) -> psycopg2.extensions.connection:
    """Connect to the database that a section of the libpq service file names.

    Args:
        service: Section of the service file.

    Raises:
        PreparationError: The database cannot be reached or refuses the login.
    """
    try:
        connection = psycopg2.connect(service=service)
    except psycopg2.OperationalError as error:
        reason = " ".join(str(error).split())
        raise PreparationError(f"The database '{service}' cannot be used: {reason}") from error
    connection.autocommit = True
    return connection


def scalar(connection: psycopg2.extensions.connection, query: str, *values: object) -> object:
    """Return the first column of the first row of a query, or None if it has no row."""
    with connection.cursor() as cursor:
        cursor.execute(query, values)
        row = cursor.fetchone()
    return row[0] if row else None


@contextlib.contextmanager
def advisory_lock(connection: psycopg2.extensions.connection) -> Iterator[None]:
    """Hold PostgreSQL's advisory lock; others who ask for it wait. It ends with the connection at the latest."""
    scalar(connection, "SELECT pg_advisory_lock(%s)", LOCK_KEY)
    try:
        yield
    finally:
        scalar(connection, "SELECT pg_advisory_unlock(%s)", LOCK_KEY)


def check_connections(connection: psycopg2.extensions.connection, needed: int) -> None:
    """Refuse a connection budget that the database cannot grant.

    Args:
        connection: An open connection.
        needed: Connections that the server may open at once.

    Raises:
        PreparationError: max_connections, less what is reserved for superusers, is lower.
    """
    available = int(str(scalar(connection, "SHOW max_connections"))) - int(
        str(scalar(connection, "SHOW superuser_reserved_connections"))
    )
    if needed > available:
        raise PreparationError(
            f"mlflow_server_workers and mlflow_server_pool_size ask for up to {needed} connections; "
            f"the database grants {available}: lower them or raise its max_connections."
        )


def migrate(connection: psycopg2.extensions.connection, what: str, script: str, table: str, command: list[str]) -> bool:
    """Run upstream's migrations if the schema is not the newest one.

    Args:
        connection: An open connection to the database.
        what: Its name, for messages.
        script: Alembic's script directory inside the mlflow package.
        table: Table in which Alembic keeps the version.
        command: Upstream's command that migrates.

    Returns:
        Whether anything was migrated.

    Raises:
        PreparationError: Upstream's command failed.
    """
    newest = ScriptDirectory(mlflow_path(*script.split("/"))).get_current_head()
    found = None
    if scalar(connection, "SELECT to_regclass(%s)", table) is not None:
        found = scalar(connection, f"SELECT version_num FROM {table}")  # noqa: S608 - a constant of this file
    if found == newest:
        return False
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PreparationError(f"The {what} database could not be migrated to {newest}: {reason}")
    print(f"{what}: migrated from {found or 'empty'} to {newest}")
    return True


def ensure_admin(connection: psycopg2.extensions.connection, username: str, password: str) -> bool:
    """Make the first administrator, by upstream's own function, unless the account exists.

    Args:
        connection: An open connection to the auth database.
        username: Name of the account.
        password: Its password; upstream asks for 12 characters at least.

    Returns:
        Whether the account was made.
    """
    if scalar(connection, "SELECT 1 FROM users WHERE username = %s", username) is not None:
        return False
    os.environ["MLFLOW_AUTH_ADMIN_USERNAME"] = username
    os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"] = password
    from mlflow.server.auth import bootstrap_admin_user

    bootstrap_admin_user()
    print(f"auth: made the administrator {username}")
    return True


def main() -> int:
    """Prepare both databases. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--admin", required=True, help="name of the first administrator")
    parser.add_argument("--connections", required=True, type=int, help="connections the server may open at once")
    arguments = parser.parse_args()
    password = sys.stdin.read().rstrip("\n")
    uri = "postgresql+psycopg2:///?service="
    try:
        with contextlib.closing(connect("mlflow")) as tracking, advisory_lock(tracking):
            check_connections(tracking, arguments.connections)
            migrate(
                tracking,
                "tracking",
                "store/db_migrations",
                "alembic_version",
                ["mlflow", "db", "upgrade", f"{uri}mlflow"],
            )
            with contextlib.closing(connect("mlflow_auth")) as auth:
                migrate(
                    auth,
                    "auth",
                    "server/auth/db/migrations",
                    "alembic_version_auth",
                    ["mlflow.server.auth", "db", "upgrade", f"--url={uri}mlflow_auth"],
                )
                ensure_admin(auth, arguments.admin, password)
    except PreparationError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
