"""The stores that secrets are kept in, as somebody sees them who is not part of the project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import boto3
from azure.core.exceptions import ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from azure.keyvault.secrets import SecretClient

from testing.deployment import Site

PATH = "/mlflow/rotation"
PREFIX = "mlflow-"


class Store(Protocol):
    """A store of secrets."""

    variables: dict[str, Any]

    def read(self, names: list[str]) -> dict[str, str]:
        """Return the current values of secrets by name."""

    def write(self, values: Mapping[str, str]) -> None:
        """Bring secrets by hand."""


@dataclass
class Generated:
    """Files on the control node."""

    site: Site
    variables: dict[str, Any] = field(default_factory=lambda: {"secrets_provider": "generated"})

    def read(self, names: list[str]) -> dict[str, str]:
        """Return the current values of secrets by name."""
        return {name: self.site.secret(name) for name in names}

    def write(self, values: Mapping[str, str]) -> None:
        """Bring secrets by hand."""
        for name, value in values.items():
            path = self.site.secrets / name
            path.write_text(f"{value}\n")
            path.chmod(0o600)


@dataclass
class ParameterStore:
    """AWS SSM Parameter Store. Nobody has labelled what is brought by hand."""

    variables: dict[str, Any] = field(
        default_factory=lambda: {"secrets_provider": "aws_ssm", "secrets_options": {"path": PATH}}
    )

    def read(self, names: list[str]) -> dict[str, str]:
        """Return the current values of secrets by name."""
        client = boto3.client("ssm")
        found = {}
        for name in names:
            selectors = [f"{PATH}/{name}:current", f"{PATH}/{name}"]
            answers = [client.get_parameters(Names=[each], WithDecryption=True)["Parameters"] for each in selectors]
            found[name] = next(answer for answer in answers if answer)[0]["Value"]
        return found

    def write(self, values: Mapping[str, str]) -> None:
        """Bring secrets by hand."""
        client = boto3.client("ssm")
        for name, value in values.items():
            client.put_parameter(Name=f"{PATH}/{name}", Value=value, Type="SecureString", KeyId="alias/mlflow")


@dataclass
class KeyVault:
    """Azure Key Vault."""

    url: str = "https://mlflow-test.vault.azure.net"
    variables: dict[str, Any] = field(
        default_factory=lambda: {
            "secrets_provider": "azure_key_vault",
            "secrets_options": {"vault_url": "https://mlflow-test.vault.azure.net"},
        }
    )

    def client(self) -> SecretClient:
        """Return a client that logs in as the environment says."""
        return SecretClient(self.url, DefaultAzureCredential())

    def read(self, names: list[str]) -> dict[str, str]:
        """Return the current values of secrets by name: here the newest, as no rotation is under way."""
        client = self.client()
        return {name: str(client.get_secret(PREFIX + name.replace("_", "-")).value) for name in names}

    def write(self, values: Mapping[str, str]) -> None:
        """Bring secrets by hand."""
        client = self.client()
        for name, value in values.items():
            try:
                client.get_secret(PREFIX + name.replace("_", "-"))
            except ResourceNotFoundError:
                client.set_secret(PREFIX + name.replace("_", "-"), value)
