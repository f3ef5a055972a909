#!/usr/bin/python
"""Ansible module: secrets kept in Azure Key Vault."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from plugins.module_utils import secret_store as base
    from plugins.module_utils.secret_store import main
else:
    from ansible.module_utils import secret_store as base

    # Mitogen knows a module written for Ansible by an import like this one.
    from ansible.module_utils.secret_store import main

try:
    from azure.core import exceptions
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.secrets import SecretClient

    MISSING = ""
except ImportError as missing:
    MISSING = missing.name or "azure"

DOCUMENTATION = r"""
module: secret_store_azure_key_vault
short_description: The store of secrets that is Azure Key Vault
description:
  - Keeps each secret in a secret of the vault, C(_) in its name written as C(-). What the operations do is said in the
    action plugin C(secret_store), which calls this module.
  - The tag C(stage) tells what a version is, C(new) while several may be made at once, C(pending), C(discarded), or
    C(current). The newest version that is C(current) or without the tag is in force. Readers that know nothing of the
    tag get the newest version, which during a rotation is the pending one.
  - A version becomes current by the one call that changes its tags.
  - The lock is the secret C(lock), each claim a version of it, with its holder in the tags. Of claims at once the
    earliest counts; the others disable theirs.
  - Credentials come from azure-identity's environment, a managed identity or the Azure CLI; none is an option.
options:
  options:
    description: C(vault_url) and C(prefix).
    type: dict
    required: true
requirements: [azure-identity, azure-keyvault-secrets]
author: MLflow on VMs contributors
"""

EXAMPLES = r"""
- name: Read the secrets
  secret_store:
    provider: azure_key_vault
    options:
      vault_url: https://mlflow-production.vault.azure.net
    operation: read
    names:
      admin_password: {}
  register: __site_store
  no_log: true
"""

# A vault that cannot be reached is given up after half a minute.
CONNECT_SECONDS = 5
READ_SECONDS = 6
RETRIES = 3
PAUSE_SECONDS = 1.0
# Key Vault's times are whole seconds: after this long no version appears that would have to go before one's own.
SETTLE_SECONDS = 2.0

# The last part of the data actions, of https://learn.microsoft.com/azure/role-based-access-control/permissions/security
READ = "getSecret/action"
LIST = "readMetadata/action"
SET = "setSecret/action"
UPDATE = "update/action"

# Entra's numbers: https://learn.microsoft.com/entra/identity-platform/reference-error-codes
LOGIN_ERRORS = {
    "AADSTS7000215": "AZURE_CLIENT_SECRET is not a secret of the application in AZURE_CLIENT_ID",
    "AADSTS7000222": "the client secret in AZURE_CLIENT_SECRET has expired",
    "AADSTS700016": "the application in AZURE_CLIENT_ID is not in the tenant of AZURE_TENANT_ID",
    "AADSTS90002": "there is no tenant with the id in AZURE_TENANT_ID",
}


class Vault(base.Store):
    """Secrets in a vault, all with one prefix."""

    PROVIDER = "azure_key_vault"
    OPTIONS: ClassVar = {
        "vault_url": base.Option(
            "the URL of a vault, such as https://mlflow-production.vault.azure.net",
            r"https://[A-Za-z0-9-]{3,24}\.vault\.(azure\.net|azure\.cn|usgovcloudapi\.net)/?",
            required=True,
        ),
        "prefix": base.Option(
            "what the names of the secrets begin with: at most 60 letters, digits and hyphens", r"[A-Za-z0-9-]{1,60}"
        ),
    }

    def __init__(self, options: Mapping[str, str]) -> None:
        """Refuse to work without the SDK."""
        super().__init__(options)
        if MISSING:
            raise base.Refused(
                f"The Python package {MISSING} is missing on the control node; run `pip install azure-identity"
                " azure-keyvault-secrets`."
            )
        self._known_client: Any = None
        self._claimed: Any = None

    @property
    def place(self) -> str:
        """The vault."""
        return self.options["vault_url"].rstrip("/")

    def _name(self, name: str) -> str:
        return f"{self.options.get('prefix', 'mlflow-')}{name.replace('_', '-')}"

    # Calls

    def _client(self) -> Any:
        if self._known_client is None:
            settings: dict[str, Any] = {
                "connection_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "retry_total": RETRIES,
                "retry_backoff_max": 5,
            }
            # Those that are left out would ask a person, or look for one's editor.
            credential = DefaultAzureCredential(
                exclude_interactive_browser_credential=True,
                exclude_visual_studio_code_credential=True,
                exclude_shared_token_cache_credential=True,
                exclude_developer_cli_credential=True,
                exclude_powershell_credential=True,
                **settings,
            )
            self._known_client = SecretClient(self.place, credential, **settings)
        return self._known_client

    def _call(self, action: str, name: str, work: Callable[[Any], Any]) -> Any:
        """Ask the vault for something about a secret; what it refuses is told in a sentence."""
        with self._refusals(action, name):
            for attempt in range(RETRIES + 1):
                try:
                    return work(self._client())
                except exceptions.HttpResponseError as error:
                    # Another writes the same secret, which the SDK does not wait for.
                    if error.status_code != 409 or "Recoverable" in inner_code_of(error) or attempt == RETRIES:
                        raise
                    time.sleep(PAUSE_SECONDS)

    @contextlib.contextmanager
    def _refusals(self, action: str, name: str) -> Iterator[None]:
        """Turn what the SDK raises into sentences. Its own texts are not shown: they can quote what was sent."""
        try:
            yield
        except exceptions.ResourceNotFoundError:
            raise
        except exceptions.ClientAuthenticationError as error:
            raise base.Refused(self._login_sentence(str(error), error.status_code)) from None
        except exceptions.HttpResponseError as error:
            if inner_code_of(error) == "SecretDisabled":
                raise
            raise base.Refused(self._sentence(error, action, name)) from None
        except exceptions.AzureError as error:
            cause = type(getattr(error, "inner_exception", None) or error).__name__
            if cause == "SSLError":
                raise base.Refused(self._certificate_sentence()) from None
            raise base.Refused(
                f"{self.place} gave no answer about {name} ({cause}); check that secrets_options.vault_url names a"
                " vault that exists, the network and its proxy."
            ) from None

    def _certificate_sentence(self) -> str:
        trust = "name the CA bundle to trust in REQUESTS_CA_BUNDLE"
        return f"The certificate of {self.place}, or of Entra ID, cannot be verified; {trust}."

    def _login_sentence(self, text: str, status: int | None) -> str:
        if number := re.search(r"AADSTS\d+", text):
            reason = LOGIN_ERRORS.get(number[0], "the number tells why")
            return f"Entra ID refuses the login: {reason} ({number[0]})."
        if status == 401:
            return f"{self.place} takes no token of this identity; check that vault and identity are of one tenant."
        # The identity library tells the rest in words alone.
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return self._certificate_sentence()
        if "acquire tokens for tenant" in text:
            return f"AZURE_TENANT_ID is not the tenant of {self.place}; set it to the id of that tenant."
        if "Authentication failed" in text:
            return "Entra ID gave no answer to the login; check the network and its proxy."
        return (
            "No Azure credentials were found; set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, run where a"
            " managed identity is attached, or log in with `az login`."
        )

    def _sentence(self, error: Any, action: str, name: str) -> str:
        status, inner = error.status_code, inner_code_of(error)
        vault = (urlsplit(self.place).hostname or "").partition(".")[0]
        if inner == "ForbiddenByFirewall":
            return f"The firewall of {self.place} keeps this control node out; add its address to the vault's networks."
        if status == 403:
            return (
                f"This identity may not Microsoft.KeyVault/vaults/secrets/{action} on {name} in {self.place}; give it a"
                " role with that data action: docs/secrets.md lists what each use of the store needs."
            )
        if inner.startswith("ObjectIs"):
            return (
                f"{name} in {self.place} is deleted but can be recovered, so its name is taken; run `az keyvault secret"
                f" recover --vault-name {vault} --name {name}`, or the same with purge to have a new one made."
            )
        if status in (409, 429):
            return f"{self.place} keeps putting off {action} on {name} ({status}); run the playbook again later."
        return f"{self.place} refused {action} on {name} with {status}."

    def _get(self, name: str, version: str | None = None) -> Any:
        return self._call(READ, name, lambda client: client.get_secret(name, version))

    def _versions(self, name: str) -> list[Any]:
        """Return the properties of all versions, the newest last."""
        try:
            listed = self._call(LIST, name, lambda client: list(client.list_properties_of_secret_versions(name)))
        except exceptions.ResourceNotFoundError:
            return []
        return sorted(listed, key=age_of)

    def _set(self, name: str, value: str, **properties: Any) -> Any:
        return self._call(SET, name, lambda client: client.set_secret(name, value, **properties))

    def _update(self, name: str, version: str, **properties: Any) -> None:
        self._call(UPDATE, name, lambda client: client.update_secret_properties(name, version, **properties))

    def _stage(self, properties: Any, stage: str) -> None:
        """Tag a version; other tags that it has stay. One that is discarded is disabled as well."""
        tags = {**(properties.tags or {}), "stage": stage}
        enabled = {"enabled": False} if stage == "discarded" else {}
        self._update(properties.name, properties.version, tags=tags, **enabled)

    # Secrets

    def read(self, names: Iterable[str], *, history: bool) -> dict[str, base.Secret]:
        """Return the stages of each name; versions are listed for history, and where the newest is not the current."""
        found: dict[str, base.Secret] = {}
        problems: list[str] = []
        for name in sorted(names):
            try:
                found[name] = self._secret(self._name(name), history=history)
            except base.Refused as refused:
                problems += refused.args
        if problems:
            raise base.Refused(*dict.fromkeys(problems))
        return found

    def _secret(self, name: str, *, history: bool) -> base.Secret:
        if not history:
            try:
                newest = self._get(name)
            except exceptions.ResourceNotFoundError:
                return base.Secret()
            except exceptions.HttpResponseError:
                newest = None
            if newest and stage_of(newest.properties) == "current":
                return base.Secret(current=self._version(newest.properties, newest.value))
        versions = self._versions(name)
        staged = {stage: [one for one in versions if stage_of(one) == stage] for stage in ("current", "pending")}
        current, pending = staged["current"][-1:], [one for one in staged["pending"] if one.enabled][-1:]
        previous = staged["current"][-2:-1]
        return base.Secret(
            current=self._valued(current[0]) if current else None,
            pending=self._unless_discarded(pending[0]) if pending else None,
            previous=base.Version(previous[0].version, previous[0].created_on) if previous else None,
        )

    def _valued(self, properties: Any) -> base.Version:
        if not properties.enabled:
            raise base.Refused(
                f"{properties.name} in {self.place} is disabled; enable its version {properties.version}, or set a new"
                " one."
            )
        return self._version(properties, self._get(properties.name, properties.version).value)

    def _unless_discarded(self, properties: Any) -> base.Version | None:
        try:
            return self._valued(properties)
        except exceptions.HttpResponseError:  # disabled since it was listed
            return None

    def _version(self, properties: Any, text: str | None) -> base.Version:
        """Return a version that can be used. Key Vault gives out those that are out of date as well."""
        where, value = f"{properties.name} in {self.place}", (text or "").rstrip("\r\n")
        if properties.expires_on and properties.expires_on <= base.now():
            raise base.Refused(f"{where} expired at {base.stamp(properties.expires_on)}; set a new version.")
        if properties.not_before and properties.not_before > base.now():
            raise base.Refused(
                f"{where} is not valid before {base.stamp(properties.not_before)}; set a version that is valid now."
            )
        if wrong := base.fault(value):
            raise base.Refused(f"{where} {wrong}")
        return base.Version(properties.version, properties.created_on, value)

    def create(self, values: Mapping[str, str]) -> None:
        """Set versions that nobody reads yet, and let the earliest of each name be current.

        A vault has no way to set a secret only if it is missing, so that all who make one at once have to come to the
        same end by what they see.
        """
        own = {
            name: self._set(self._name(name), value, tags={"stage": "new"}).properties for name, value in values.items()
        }
        time.sleep(SETTLE_SECONDS)
        for mine in own.values():
            versions = self._versions(mine.name)
            candidates = [one for one in versions if stage_of(one) == "new" and one.enabled]
            if not any(stage_of(one) == "current" for one in versions):
                self._stage(candidates[0], "current")
                candidates = candidates[1:]
            if mine.version in (one.version for one in candidates):
                self._stage(mine, "discarded")

    def pend(self, name: str, value: str) -> None:
        """Set a version that is tagged from the start."""
        turn = 1 + max((turn_of(one) for one in self._versions(self._name(name))), default=0)
        self._set(self._name(name), value, tags={"stage": "pending", "turn": str(turn)})

    def promote(self, name: str, secret: base.Secret) -> None:
        """Change the tag of the pending version, which is newer than the current one."""
        for one in self._versions(self._name(name)):
            if secret.pending and one.version == secret.pending.version:
                if secret.current and secret.current.created > secret.pending.created:
                    raise base.Refused(
                        f"{one.name} in {self.place} has got a version that is newer than the pending one; undo the"
                        " rotation with `-e rotate_rollback=true`, and start it again."
                    )
                self._stage(one, "current")

    def discard(self, name: str, secret: base.Secret) -> None:
        """Tag and disable what is pending."""
        for one in self._versions(self._name(name)):
            if stage_of(one) == "pending" and one.enabled:
                self._stage(one, "discarded")

    # Lock

    def _claims(self) -> list[Any]:
        """Return the versions of the lock that count, the earliest first."""
        live = [one for one in self._versions(self._name("lock")) if one.enabled]
        return [one for one in live if one.expires_on and one.expires_on > base.now()]

    def held(self) -> base.Claim | None:
        """Return the earliest claim."""
        claims = self._claims()
        self._claimed = claims[0] if claims else None
        try:
            return base.Claim.from_record(self._claimed.tags or {}) if self._claimed else None
        except ValueError:
            raise base.Refused(
                f"{self._name('lock')} in {self.place} is not a lock that this project has written; delete that secret,"
                " or set another secrets_options.prefix."
            ) from None

    def claim(self, claim: base.Claim) -> bool:
        """Set a version, and see whether it is the earliest; a claim of one's own is prolonged instead."""
        lock, old, record = self._name("lock"), self._claimed, claim.as_record()
        if old and base.Claim.from_record(old.tags).owner == claim.owner:
            self._update(lock, old.version, tags=record, expires_on=claim.expires)
            return self._counts(old)
        if old:
            self._update(lock, old.version, enabled=False)
        mine = self._set(lock, "lock", tags=record, expires_on=claim.expires).properties
        time.sleep(SETTLE_SECONDS)
        if not self._counts(mine):
            self._update(lock, mine.version, enabled=False)
            return False
        return True

    def _counts(self, claim: Any) -> bool:
        return [one.version for one in self._claims()[:1]] == [claim.version]

    def release(self) -> bool:
        """Disable the claim."""
        self._update(self._name("lock"), self._claimed.version, enabled=False)
        return True


def inner_code_of(error: Any) -> str:
    """Return what Key Vault says more precisely than by the status."""
    inner = getattr(error.error, "innererror", None) or {}
    return str(inner.get("code") or "")


def stage_of(properties: Any) -> str:
    """Return the stage of a version; one that somebody brought has no tag and is meant to be used."""
    return str((properties.tags or {}).get("stage", "current"))


def turn_of(properties: Any) -> int:
    """Return the number of the rotation that made a version."""
    turn = str((properties.tags or {}).get("turn", "0"))
    return int(turn) if turn.isdigit() else 0


def age_of(properties: Any) -> tuple[Any, ...]:
    """Return what versions are sorted by. Within a second they have no order but the one that rotations give them."""
    return properties.created_on, turn_of(properties), properties.version


if __name__ == "__main__":
    main(Vault)
