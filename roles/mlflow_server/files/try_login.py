"""Log in to MLflow's two databases as PGSERVICEFILE says, and do nothing there.

Run with the Python of a release. The exit status is 0 when both let us in; otherwise the last line of standard error is
one sentence.
"""

from __future__ import annotations

import contextlib
import sys

import psycopg2

SERVICES = ("mlflow", "mlflow_auth")


def main() -> int:
    """Try both databases. Returns the exit status."""
    for service in SERVICES:
        try:
            with contextlib.closing(psycopg2.connect(service=service)) as connection, connection.cursor() as cursor:
                # Every statement acts as the owner; a login that may not is of no use.
                cursor.execute("SELECT current_user")
        except psycopg2.Error as error:
            print(f"The database '{service}' refuses the login: {' '.join(str(error).split())}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
