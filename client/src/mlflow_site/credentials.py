"""Where a job's login comes from, and how its server is verified. Nothing here returns a secret."""

from __future__ import annotations

import configparser
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from requests.utils import get_netrc_auth

from mlflow_site.errors import ConfigError
from mlflow_site.targets import LOOPBACK, Target
from mlflow_site.variables import Variables

USERNAME, PASSWORD, TOKEN = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"
CA_FILE, INSECURE = "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS"
NO_LOGIN = "none"


def _credentials_file() -> dict[str, str]:
    """Return what MLflow reads from ~/.mlflow/credentials, by name of the variable."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(Path("~/.mlflow/credentials").expanduser())
    except configparser.Error:
        return {}
    section = parser["mlflow"] if parser.has_section("mlflow") else {}
    return {name: section.get(name.lower(), "") for name in (USERNAME, PASSWORD)}


def login(target: Target, variables: Variables, warnings: list[str]) -> str:
    """Say where the login comes from, as MLflow chooses it.

    Args:
        target: Where runs are kept.
        variables: What the user has set.
        warnings: Gets a sentence for each thing that is probably not meant so.

    Returns:
        The source, `none` if there is no login.

    Raises:
        ConfigError: There is half a login.
    """
    if target.kind == "local":
        return NO_LOGIN
    if target.kind == "databricks":
        return _databricks_login(target, variables)
    if target.kind == "sagemaker":
        return "the AWS identity of this process"
    if plugin := variables.get("MLFLOW_TRACKING_AUTH"):
        return f"MLflow's plugin {plugin}"
    if get_netrc_auth(target.tracking_uri):
        if variables.get(USERNAME) or variables.get(TOKEN):
            warnings.append(
                f"The netrc file has a login for {target.host}, which wins over {USERNAME} and {TOKEN}; take it out."
            )
        return f"the netrc file's entry for {target.host}"
    return _server_login(variables, warnings)


def _server_login(variables: Variables, warnings: list[str]) -> str:
    file = _credentials_file()
    found = {
        name: variables.source(name) if variables.get(name) else "~/.mlflow/credentials"
        for name in (USERNAME, PASSWORD)
        if variables.get(name) or file.get(name)
    }
    if len(found) == 1:
        missing = PASSWORD if USERNAME in found else USERNAME
        raise ConfigError(f"{missing} is not set, but {next(iter(found))} is; a login takes both.")
    if found:
        if variables.get(TOKEN):
            warnings.append(f"{TOKEN} is not used, as {USERNAME} and {PASSWORD} win over it.")
        where = " and ".join(dict.fromkeys(found.values()))
        return f"{USERNAME} and {PASSWORD} of {where}"
    if variables.get(TOKEN):
        return f"{TOKEN} of {variables.source(TOKEN)}"
    return NO_LOGIN


def _databricks_login(target: Target, variables: Variables) -> str:
    profile = target.tracking_uri.partition("://")[2] or variables.get("DATABRICKS_CONFIG_PROFILE")
    if profile:
        return f"the profile {profile} of ~/.databrickscfg"
    for name in ("DATABRICKS_TOKEN", "DATABRICKS_CLIENT_ID"):
        if variables.get("DATABRICKS_HOST") and variables.get(name):
            return f"DATABRICKS_HOST and {name} of {variables.source(name)}"
    return "what Databricks' SDK finds"


def authority(target: Target, variables: Variables, warnings: list[str]) -> str:
    """Say by which authorities the server's certificate is verified.

    Args:
        target: Where runs are kept.
        variables: What the user has set.
        warnings: Gets a sentence for each thing that is probably not meant so.

    Returns:
        A file, `certifi` for the public ones, or `none` if nothing is verified.

    Raises:
        ConfigError: The file is missing or holds no certificate.
    """
    if target.kind != "server":
        return "certifi" if target.is_remote else "none"
    file, insecure = variables.get(CA_FILE), variables.flag(INSECURE)
    if urlsplit(target.tracking_uri).scheme == "http":
        if target.host not in LOOPBACK:
            warnings.append(
                "MLFLOW_TRACKING_URI starts with http://, so that the password is sent as plain text; use https."
            )
        return "none"
    if file and insecure:
        raise ConfigError(f"{CA_FILE} and {INSECURE} are both set, which MLflow refuses; take {INSECURE} out.")
    if insecure:
        warnings.append(
            f"{INSECURE} is set, so that whoever is on the way can read the password; set {CA_FILE} instead."
        )
        return "none"
    if file:
        _require_certificates(Path(file))
        return file
    return variables.get("REQUESTS_CA_BUNDLE") or variables.get("CURL_CA_BUNDLE") or "certifi"


def _require_certificates(path: Path) -> None:
    takes = "it takes a PEM file with the certificate of the site's authority"
    if not path.exists():
        raise ConfigError(f"{CA_FILE} names {path.absolute()}, which is not there; {takes}.")
    if path.is_dir():
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=path)
    except PermissionError:
        raise ConfigError(f"{CA_FILE} names {path.absolute()}, which this user may not read; {takes}.") from None
    except (ssl.SSLError, OSError):
        raise ConfigError(f"{CA_FILE} names {path.absolute()}, which holds no certificate; {takes}.") from None
