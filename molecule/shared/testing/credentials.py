"""What opens with a secret, and what must not open any more with the one before."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass

from testinfra.host import Host

from testing.deployment import active_colour

ROLES = ("mlflow_a", "mlflow_b")
# More than there are workers, so that each of them is asked.
ASKED = 16
CREDENTIALS = ("mlflow_flask_secret_key", "mlflow_gateway_token", "mlflow_assistant_signing_key")


@dataclass(frozen=True)
class Login:
    """A login to the databases, as the store has it in one value.

    Args:
        role: Name of the role.
        password: Its password.
    """

    role: str
    password: str

    @classmethod
    def of(cls, value: str) -> Login:
        """Return what a value of the store says; one without a role is the first role's."""
        match = re.fullmatch(r"(?:(mlflow_[ab]):)?(.+)", value)
        assert match is not None
        return cls(match[1] or "mlflow_a", match[2])


def database_opens(host: Host, role: str, password: str) -> bool:
    """Say whether both databases let a role in with a password."""
    opened = {
        host.run(
            f"PGPASSWORD={shlex.quote(password)} psql --host /var/run/postgresql --username {role} "
            f"--no-psqlrc --command 'SELECT 1' {database}"
        ).rc
        for database in ("mlflow", "mlflow_auth")
    }
    assert len(opened) == 1
    return opened == {0}


def working_logins(host: Host, values: set[str]) -> set[tuple[str, str]]:
    """Return which pairs of a role and a password open the databases, of all that these values make."""
    passwords = {Login.of(value).password for value in values}
    return {(role, password) for role in ROLES for password in passwords if database_opens(host, role, password)}


ASK = """
import base64, http.client, json, socket, sys
given = json.load(sys.stdin)
login = base64.b64encode(f"{given['user']}:{given['password']}".encode()).decode()
for _ in range(given["times"]):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect("/opt/mlflow/active/socket")
    connection.request("GET", given["path"], headers={"Authorization": f"Basic {login}"})
    print(connection.getresponse().status)
"""


def admin_statuses(host: Host, password: str, path: str = "/api/2.0/mlflow/users/current") -> set[int]:
    """Return the answers of a server's workers to the administrator's login, asked behind the proxy."""
    return user_statuses(host, "admin", password, path)


def user_statuses(host: Host, user: str, password: str, path: str = "/api/2.0/mlflow/users/current") -> set[int]:
    """Return the answers of a server's workers to the login of a user, asked behind the proxy."""
    given = json.dumps({"user": user, "password": password, "path": path, "times": ASKED})
    done = host.check_output(f"echo {shlex.quote(given)} | python3 -c {shlex.quote(ASK)}")
    return {int(status) for status in done.split()}


def held_credentials(host: Host) -> dict[str, str]:
    """Return the credentials that systemd has handed to the running server."""
    directory = f"/run/credentials/mlflow@{active_colour(host)}.service"
    return {name: host.file(f"{directory}/{name}").content_string for name in CREDENTIALS}


def served_serial(host: Host) -> str:
    """Return the serial number of the certificate that a host serves."""
    served = "openssl s_client -connect localhost:443 -servername localhost </dev/null 2>/dev/null"
    return str(host.check_output(f"{served} | openssl x509 -noout -serial"))


def kek_versions(host: Host) -> set[int]:
    """Return the numbers of the passphrases that the gateway's stored secrets are wrapped by."""
    rows = host.check_output(
        "runuser --user postgres -- psql --no-psqlrc --tuples-only --no-align --command "
        "'SELECT DISTINCT kek_version FROM secrets' mlflow"
    )
    return {int(row) for row in rows.split()}


DECRYPT = """
import json, sys
from mlflow.store.tracking.dbmodels.models import SqlGatewaySecret
from mlflow.tracking import _get_store
from mlflow.utils.crypto import KEKManager, _decrypt_secret
given = json.load(sys.stdin)
with _get_store("postgresql+psycopg2:///?service=mlflow").ManagedSessionMaker() as session:
    for row in session.query(SqlGatewaySecret).filter(SqlGatewaySecret.secret_name == given["name"]).all():
        kek = KEKManager(passphrase=given["passphrase"], kek_version=given["version"])
        print(json.dumps(_decrypt_secret(row.encrypted_value, row.wrapped_dek, kek, row.secret_id, row.secret_name)))
"""


def stored_gateway_secret(host: Host, name: str, value: str) -> object:
    """Return a gateway's secret, decrypted by MLflow's own code with a passphrase as the store has it."""
    number, _, passphrase = value.rpartition(":")
    given = json.dumps({"name": name, "passphrase": passphrase, "version": int(number or 1)})
    colour = active_colour(host)
    done = host.check_output(
        f"echo {shlex.quote(given)} | runuser --user mlflow -- env HOME=/var/lib/mlflow MLFLOW_DISABLE_TELEMETRY=true "
        f"PGSERVICEFILE=/etc/mlflow/{colour}/pg_service.conf "
        f"/opt/mlflow/active/release/bin/python -c {shlex.quote(DECRYPT)} 2>/dev/null"
    )
    return json.loads(done.splitlines()[-1])
