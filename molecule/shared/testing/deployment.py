"""What the tests of a whole site know of it: addresses, secrets, and a client as a user has one."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import requests
import testinfra
from testinfra.host import Host

from testing.limits import limit

# A user's name and password.
Login = tuple[str, str]


def active_colour(host: Host) -> str:
    """Return the colour that serves."""
    return str(host.check_output("basename $(readlink /opt/mlflow/active)"))


class Session(requests.Session):
    """A session whose timeouts are limits on an idle machine, as those of every wait in the tests."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """Send a request, with its timeout scaled."""
        if isinstance(options.get("timeout"), int | float):
            options["timeout"] = limit(options["timeout"])
        return super().send(request, **options)


def power_cycle(container: str, host: Host) -> None:
    """Reboot a container host. In a container a reboot ends with the power off, so this also presses the button.

    Args:
        container: Its name.
        host: A connection to it.
    """
    host.run("systemctl reboot")
    subprocess.run(["podman", "wait", container], check=True, capture_output=True, timeout=limit(120))
    subprocess.run(["podman", "start", container], check=True, capture_output=True, timeout=limit(60))


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

    def other(self) -> Site:
        """Return the same site on its other host."""
        port, host = os.environ["SITE_OTHER_HTTPS_PORT"], os.environ["SITE_OTHER_HOST"]
        return replace(self, url=f"https://localhost:{port}", host=host)

    def connection(self) -> Host:
        """Return a way to its host, also for fixtures that live longer than a test."""
        inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
        return testinfra.get_host(f"ansible://{self.host}?ansible_inventory={inventory}")

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
    def admin(self) -> Login:
        """Name and password of the administrator."""
        return "admin", self.secret("mlflow_admin_password")

    def anonymous(self) -> requests.Session:
        """Return a session that verifies the site and is not logged in."""
        session = Session()
        session.verify = str(self.ca_file)
        # Otherwise REQUESTS_CA_BUNDLE of the machine would win over `verify`.
        session.trust_env = False
        return session

    def session(self, login: Login | None = None) -> requests.Session:
        """Return a session that verifies the site and is logged in, as the administrator unless it is said as whom."""
        session = self.anonymous()
        session.auth = login or self.admin
        return session
