"""What the tests of a whole site know of it: addresses, secrets, and a client as a user has one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import requests
from testinfra.host import Host


def active_colour(host: Host) -> str:
    """Return the colour that serves."""
    return str(host.check_output("basename $(readlink /opt/mlflow/active)"))


@dataclass(frozen=True)
class Site:
    """A deployed site, seen from a client.

    Args:
        url: Where MLflow is, without a slash at the end.
        plain_url: The same over plain http.
        state: Directory in which the run keeps secrets and certificates.
        host: Name of the container host, for the power button.
    """

    url: str
    plain_url: str
    state: Path
    host: str

    @classmethod
    def from_environment(cls) -> Site:
        """Return the site that the scenario's environment names."""
        return cls(
            url=f"https://localhost:{os.environ['SITE_HTTPS_PORT']}",
            plain_url=f"http://localhost:{os.environ['SITE_HTTP_PORT']}",
            state=Path(os.environ["SITE_STATE_DIRECTORY"]),
            host=os.environ["SITE_HOST"],
        )

    @property
    def ca_file(self) -> Path:
        """Certificate of the site's CA."""
        return self.state / "certificates" / "site-ca.crt"

    @property
    def secrets(self) -> Path:
        """Directory that holds a file for each secret."""
        return self.state / "secrets"

    def secret(self, name: str) -> str:
        """Return a secret of the site by name."""
        return (self.secrets / name).read_text(encoding="utf-8").strip()

    @property
    def admin(self) -> tuple[str, str]:
        """Name and password of the administrator."""
        return "admin", self.secret("mlflow_admin_password")

    def anonymous(self) -> requests.Session:
        """Return a session that verifies the site and is not logged in."""
        session = requests.Session()
        session.verify = str(self.ca_file)
        # Otherwise REQUESTS_CA_BUNDLE of the machine would win over `verify`.
        session.trust_env = False
        return session

    def session(self) -> requests.Session:
        """Return a session that verifies the site and is logged in as the administrator."""
        session = self.anonymous()
        session.auth = self.admin
        return session
