"""The way to a server: name, port, TLS, and the version that answers."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import mlflow
import requests
from mlflow.exceptions import MlflowException
from mlflow.utils.rest_utils import http_request
from packaging.version import InvalidVersion, Version
from requests.utils import get_environ_proxies, select_proxy

from mlflow_site.credentials import CA_FILE
from mlflow_site.errors import CheckFailedError
from mlflow_site.targets import VARIABLE

try:
    from mlflow.utils.credentials import get_default_host_creds
except ImportError:  # MLflow 2.9
    from mlflow.tracking._tracking_service.utils import _get_default_host_creds as get_default_host_creds

__all__ = ["Network", "get_default_host_creds"]

CONNECT_SECONDS = 10
ANSWER_SECONDS = 30

# What OpenSSL says of a certificate, by its number.
OF_CERTIFICATES = {
    9: "is not valid yet: set the clock of this machine",
    10: "has expired: have it renewed, or set the clock of this machine",
    62: f"is for another name: take the name that it is for in {VARIABLE}",
    64: f"is for another address: take the name that it is for in {VARIABLE}",
}


@dataclass
class Network:
    """The way to a server, as the tests go along it.

    Args:
        uri: The server's address.
        ca: The file by which its certificate is verified, `certifi` or `none`.
    """

    uri: str
    ca: str

    def __post_init__(self) -> None:
        """Find out what this machine connects to first: the server, or a proxy."""
        self._proxy = str(select_proxy(self.uri, get_environ_proxies(self.uri)) or "")
        self._variable = "https_proxy" if self._proxy else VARIABLE
        hop = urlsplit(self._proxy if "://" in self._proxy else f"http://{self._proxy}" if self._proxy else self.uri)
        self.host, self.port = hop.hostname or "", hop.port or (443 if hop.scheme == "https" else 80)
        self._response: requests.Response | None = None

    def look_up(self) -> str:
        """Look up the host's name."""
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "not a name"
            raise CheckFailedError(
                f"The name {self.host} is not known here ({reason}): mend it in {self._variable}, or the DNS."
            ) from None
        addresses = sorted({str(address[4][0]) for address in found})
        return f"{self.host} is {', '.join(addresses)}" + (", a proxy" if self._proxy else "")

    def connect(self) -> str:
        """Connect to the port."""
        try:
            socket.create_connection((self.host, self.port), CONNECT_SECONDS).close()
        except ConnectionRefusedError:
            raise CheckFailedError(
                f"Nothing listens on port {self.port} of {self.host}: mend it in {self._variable}, or start the server."
            ) from None
        except TimeoutError:
            raise CheckFailedError(
                f"Port {self.port} of {self.host} did not answer in {CONNECT_SECONDS} s: a firewall is on the way, or "
                f"the host is down."
            ) from None
        except OSError as error:
            raise CheckFailedError(
                f"Port {self.port} of {self.host} is not reached ({error.strerror}): look at the network and the VPN."
            ) from None
        return f"port {self.port} is open"

    def verify(self) -> str:
        """Ask for the version, over verified TLS; the answer is for the next test."""
        try:
            # As MLflow itself asks, so that certificates, logins and plugins are those of the job.
            self._response = http_request(
                get_default_host_creds(self.uri),
                "/version",
                "GET",
                max_retries=0,
                timeout=ANSWER_SECONDS,
                raise_on_status=False,
            )
        except MlflowException as error:
            raise CheckFailedError(self._of_request(error)) from None
        if urlsplit(self.uri).scheme == "http":
            return "not used, as the address starts with http://"
        if self.ca == "none":
            return "no certificate is verified"
        return f"the certificate is verified by {'the public authorities' if self.ca == 'certifi' else self.ca}"

    def compare(self) -> str | None:
        """Compare the server's version with the client's. Returns nothing if it is not told without a login."""
        assert self._response is not None
        status, text = self._response.status_code, self._response.text.strip()
        if status in (401, 403, 429):
            return None
        if status >= 500:
            raise CheckFailedError(f"The server answers {status}: it is being started or is broken; try in a minute.")
        try:
            told = Version(text) if status == 200 and len(text) < 40 else None
        except InvalidVersion:
            told = None
        if told is None:
            raise CheckFailedError(f"What answers is not MLflow: mend host, port and path in {VARIABLE}.")
        client = Version(mlflow.__version__)
        if told.major < client.major:
            raise CheckFailedError(
                f"The server runs MLflow {told}, too old for the client {client}: have it upgraded, or pip install "
                f"'mlflow<{told.major + 1}' here."
            )
        same = "as here" if told == client else f"{'newer' if told > client else 'older'} than {client} here"
        return f"MLflow {told}, {same}"

    def _of_request(self, error: BaseException) -> str:
        """Return what to mend when there was no answer."""
        causes = list(_inside(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLError):
                return self._of_tls(cause)
        kinds = tuple(type(cause) for cause in causes)
        if requests.exceptions.ProxyError in kinds:
            return "The proxy does not let this through: mend https_proxy, or name the host in no_proxy."
        if any(isinstance(cause, requests.exceptions.Timeout) for cause in causes):
            return f"The server did not answer in {ANSWER_SECONDS} s: it hangs or is overloaded."
        if any(isinstance(cause, requests.exceptions.ConnectionError) for cause in causes):
            other = "" if self.uri.startswith("https") else f", or take https:// in {VARIABLE}"
            return f"The server closed the connection without an answer: look whether it is MLflow{other}."
        return f"The request fails before it is sent: {error}"

    def _of_tls(self, error: ssl.SSLError) -> str:
        """Return what to mend when TLS fails."""
        if isinstance(error, ssl.SSLCertVerificationError):
            if error.verify_code in OF_CERTIFICATES:
                return f"The server's certificate {OF_CERTIFICATES[error.verify_code]}."
            by = "a public authority" if self.ca == "certifi" else f"an authority in {self.ca}"
            return f"The server's certificate is not from {by}: set {CA_FILE} to the file with the site's authority."
        if re.search("WRONG_VERSION_NUMBER|RECORD_LAYER|HTTP_REQUEST", str(error), re.IGNORECASE):
            return f"Port {self.port} does not speak TLS: take the port that does, or http://, in {VARIABLE}."
        return f"TLS fails ({error.reason}): look whether something on the way takes it apart."


def _inside(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors in it: requests and urllib3 wrap them in arguments and attributes."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
