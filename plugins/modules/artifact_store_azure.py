#!/usr/bin/python
"""Ansible module: a container of Azure Blob Storage for artifacts, and the role of the identity that uses it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugins.module_utils import artifact_store as base
    from plugins.module_utils.artifact_store import main
else:
    from ansible.module_utils import artifact_store as base

    # Mitogen knows a module written for Ansible by an import like this one.
    from ansible.module_utils.artifact_store import main

try:
    from azure.core import exceptions
    from azure.identity import DefaultAzureCredential
    from azure.mgmt.authorization.v2022_04_01 import AuthorizationManagementClient
    from azure.mgmt.authorization.v2022_04_01.models import RoleAssignmentCreateParameters
    from azure.mgmt.storage import StorageManagementClient

    MISSING = ""
except ImportError as missing:
    MISSING = missing.name or "azure-mgmt-storage"

DOCUMENTATION = r"""
module: artifact_store_azure
short_description: A container of Azure Blob Storage for artifacts, and the role of the identity that uses it
description:
  - Creates a storage account and a container or puts them right, with no public access, TLS 1.2, no plain HTTP,
    versions, soft delete, lifecycle rules, CORS and tags, and gives an identity what it needs on the container.
  - The modules of the collection azure.azcollection need dozens of packages for any one of them.
  - Role assignments, rules and tags of others stay as they are, and those that do the same already are enough. Rules of
    this module have names that begin with C(mlflow-artifacts); CORS rules have no names, so one with the same methods
    and headers is taken for this module's.
  - Credentials come from DefaultAzureCredential; none is an option.
options:
  account:
    description: Name of the storage account.
    type: str
    required: true
  container:
    description: Name of the container.
    type: str
    required: true
  prefix:
    description: Where in the container artifacts are, without a slash at the end; the rules are about nothing else.
    type: str
    default: ""
  subscription:
    description: Id of the subscription.
    type: str
    required: true
  resource_group:
    description: Name of the resource group, which must exist.
    type: str
    required: true
  location:
    description: Location of a storage account that has to be made.
    type: str
    default: ""
  sku:
    description: Redundancy of a storage account that has to be made.
    type: str
    default: Standard_ZRS
  versioning:
    description: Whether blobs have versions.
    type: bool
    required: true
  soft_delete_days:
    description: Days for which deleted blobs and containers can be recovered.
    type: int
    required: true
  noncurrent_days:
    description: Days after which versions that were replaced or deleted are removed; 0 for never.
    type: int
    required: true
  transition:
    description: C(days) and C(class), or nothing.
    type: dict
    default: {}
  expire:
    description: Dictionaries with C(prefix), below the store's own, and C(days).
    type: list
    elements: dict
    default: []
  cors_origins:
    description: Origins of pages that may read signed URLs.
    type: list
    elements: str
    default: []
  tags:
    description: Tags that the account has to have.
    type: dict
    default: {}
  principal:
    description: Object id of the identity that uses the container; empty for none.
    type: str
    default: ""
  delegation:
    description: Whether that identity may sign URLs.
    type: bool
    default: false
requirements: [azure-identity, azure-mgmt-authorization, azure-mgmt-storage]
author: MLflow on VMs contributors
"""

EXAMPLES = r"""
- name: Ensure the container
  artifact_store_azure:
    account: examplemlflow
    container: artifacts
    subscription: 00000000-0000-0000-0000-000000000000
    resource_group: mlflow
    location: westeurope
    versioning: true
    soft_delete_days: 14
    noncurrent_days: 30
  register: __site_store
"""

RETURN = r"""
differences:
  description: What was, or in check mode would be, put right, one text for each setting.
  type: list
  elements: str
  returned: success
"""

OPTIONS: dict[str, dict[str, Any]] = {
    "account": {"type": "str", "required": True},
    "container": {"type": "str", "required": True},
    "prefix": {"type": "str", "default": ""},
    "subscription": {"type": "str", "required": True},
    "resource_group": {"type": "str", "required": True},
    "location": {"type": "str", "default": ""},
    "sku": {"type": "str", "default": "Standard_ZRS"},
    "versioning": {"type": "bool", "required": True},
    "soft_delete_days": {"type": "int", "required": True},
    "noncurrent_days": {"type": "int", "required": True},
    "transition": {"type": "dict", "default": {}},
    "expire": {"type": "list", "elements": "dict", "default": []},
    "cors_origins": {"type": "list", "elements": "str", "default": []},
    "tags": {"type": "dict", "default": {}},
    "principal": {"type": "str", "default": ""},
    "delegation": {"type": "bool", "default": False},
}

# An account is ready after half a minute, as a rule.
CREATE_SECONDS = 300
POLL_SECONDS = 3
# The only name that a policy of lifecycle rules can have.
POLICY = "default"
# https://learn.microsoft.com/azure/role-based-access-control/built-in-roles/storage
CONTRIBUTOR = ("Storage Blob Data Contributor", "ba92f5b4-2d11-453d-a403-e96b0029c9fe")
DELEGATOR = ("Storage Blob Delegator", "db58b8e5-c6ad-4a2a-8342-4190687cbf4a")

ACCOUNT_SETTINGS = {
    "public access to blobs": ("allowBlobPublicAccess", False),
    "the least version of TLS": ("minimumTlsVersion", "TLS1_2"),
    "HTTPS only": ("supportsHttpsTrafficOnly", True),
}
CORS_METHODS = ["GET", "HEAD"]

# Entra's numbers: https://learn.microsoft.com/entra/identity-platform/reference-error-codes
LOGIN_ERRORS = {
    "AADSTS7000215": "AZURE_CLIENT_SECRET is not a secret of the application in AZURE_CLIENT_ID",
    "AADSTS7000222": "the client secret in AZURE_CLIENT_SECRET has expired",
    "AADSTS700016": "the application in AZURE_CLIENT_ID is not in the tenant of AZURE_TENANT_ID",
    "AADSTS90002": "there is no tenant with the id in AZURE_TENANT_ID",
}
# Codes: https://learn.microsoft.com/azure/azure-resource-manager/troubleshooting/common-deployment-errors and
# https://learn.microsoft.com/rest/api/storagerp/srp_error_codes_common
SENTENCES = {
    "SubscriptionNotFound": (
        "There is no subscription {subscription} for this identity; check artifact_store_azure_subscription and the"
        " tenant of the credentials."
    ),
    "InvalidSubscriptionId": ("There is no subscription {subscription}; check artifact_store_azure_subscription."),
    "ResourceGroupNotFound": (
        "There is no resource group {resource_group} in the subscription {subscription}; make it, or check"
        " artifact_store_azure_resource_group."
    ),
    "StorageAccountAlreadyTaken": (
        "The name {account} is taken by somebody else's storage account; choose another in artifact_store_uri."
    ),
    "StorageAccountAlreadyExists": (
        "The storage account {account} is in another resource group or location; check"
        " artifact_store_azure_resource_group."
    ),
    "StorageAccountInAnotherResourceGroup": (
        "The storage account {account} is in another resource group; check artifact_store_azure_resource_group."
    ),
    "MissingSubscriptionRegistration": (
        "The subscription {subscription} does not use storage yet; run `az provider register --namespace"
        " Microsoft.Storage`."
    ),
    "LocationNotAvailableForResourceType": (
        "Azure has no storage accounts in {location}; check artifact_store_azure_location."
    ),
    "SkuNotAvailable": "Azure has no {sku} in {location}; choose another artifact_store_azure_sku.",
    "RedundancyConfigurationNotAvailableInRegion": (
        "Azure has no {sku} in {location}; choose another artifact_store_azure_sku."
    ),
    "PrincipalNotFound": (
        "Entra ID knows no identity {principal}; artifact_store_azure_principal takes its object id, not its client id."
    ),
    "UnmatchedPrincipalType": (
        "{principal} is no managed identity and no service principal; check artifact_store_azure_principal."
    ),
}
HELP = "docs/artifacts.md lists what preparing the store needs"


class Container(base.Store):
    """A container with its account, and what an identity may do there."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Refuse to work without the SDK."""
        super().__init__(given)
        if MISSING:
            raise base.Refused(
                f"The Python package {MISSING} is missing on the control node; run `pip install azure-identity"
                " azure-mgmt-authorization azure-mgmt-storage`."
            )
        self.account: str = given["account"]
        self.container: str = given["container"]
        self._at = {"resource_group_name": given["resource_group"], "account_name": self.account}
        self._clients: dict[str, Any] = {}
        self._exists = False

    @property
    def place(self) -> str:
        """The container, as its URI names it."""
        return f"wasbs://{self.container}@{self.account}.blob.core.windows.net"

    # Calls

    def _client(self, kind: Any) -> Any:
        settings: dict[str, Any] = {
            "connection_timeout": base.CONNECT_SECONDS,
            "read_timeout": base.READ_SECONDS,
            "retry_total": base.ATTEMPTS - 1,
            "retry_backoff_max": 5,
        }
        if not self._clients:
            # Those that are left out would ask a person, or look for one's editor.
            self._clients["credential"] = DefaultAzureCredential(
                exclude_interactive_browser_credential=True,
                exclude_visual_studio_code_credential=True,
                exclude_shared_token_cache_credential=True,
                exclude_developer_cli_credential=True,
                exclude_powershell_credential=True,
                **settings,
            )
        if kind.__name__ not in self._clients:
            self._clients[kind.__name__] = kind(
                self._clients["credential"], self.given["subscription"], polling_interval=POLL_SECONDS, **settings
            )
        return self._clients[kind.__name__]

    @property
    def _storage(self) -> Any:
        return self._client(StorageManagementClient)

    @property
    def _authorization(self) -> Any:
        return self._client(AuthorizationManagementClient)

    def _call(self, action: str, target: str, work: Callable[[], Any]) -> Any:
        """Ask for something; what is refused is told in a sentence about the permission and its target."""
        with self._refusals(action, target):
            return work()

    def _read(self, action: str, target: str, work: Callable[[], Any]) -> dict[str, Any]:
        """Return what there is; nothing where nothing is."""
        try:
            found: dict[str, Any] = self._call(action, target, work).as_dict()
        except exceptions.ResourceNotFoundError:
            return {}
        return found

    @contextlib.contextmanager
    def _refusals(self, action: str, target: str) -> Iterator[None]:
        """Turn what the SDK raises into sentences; of what is not there the caller knows the meaning."""
        try:
            yield
        except exceptions.ClientAuthenticationError as error:
            raise base.Refused(self._login_sentence(str(error), error.status_code)) from None
        except exceptions.HttpResponseError as error:
            if sentence := self._sentence(error, action, target):
                raise base.Refused(sentence) from None
            raise
        except exceptions.AzureError as error:
            cause = type(getattr(error, "inner_exception", None) or error).__name__
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise base.Refused(
                    "The certificate of Azure cannot be verified; name the CA bundle to trust in REQUESTS_CA_BUNDLE."
                ) from None
            raise base.Refused(
                f"Azure gave no answer to {action} on {target} ({cause}); check the network and its proxy."
            ) from None

    def _login_sentence(self, text: str, status: int | None) -> str:
        if number := re.search(r"AADSTS\d+", text):
            reason = LOGIN_ERRORS.get(number[0], "the number tells why")
            return f"Entra ID refuses the login: {reason} ({number[0]})."
        if status == 401:
            return (
                f"Azure takes no token of this identity for the subscription {self.given['subscription']}; check that"
                " both are of one tenant."
            )
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return "The certificate of Entra ID cannot be verified; name the CA bundle to trust in REQUESTS_CA_BUNDLE."
        if "Authentication failed" in text:
            return "Entra ID gave no answer to the login; check the network and its proxy."
        return (
            "No Azure credentials were found on the control node; set AZURE_TENANT_ID, AZURE_CLIENT_ID and"
            " AZURE_CLIENT_SECRET, run where a managed identity is attached, or log in with `az login`."
        )

    def _sentence(self, error: Any, action: str, target: str) -> str:
        """Return what an error means; nothing for one that only its caller can judge."""
        code, status = code_of(error), error.status_code
        if code in SENTENCES:
            return SENTENCES[code].format(**self.given)
        if status == 403:
            text = str(error.message)
            # The service names the action that it misses, which can be another than that of the call.
            named = re.search(r"perform action '([^']+)'", text)
            who = re.search(r"(?:client|object id) '([^']+)'", text)
            return (
                f"{who[1] if who else 'This identity'} may not {named[1] if named else action} on {target}; grant that"
                f" action: {HELP}."
            )
        if status == 429 or status >= 500:
            return f"Azure keeps putting off {action} on {target} ({status}); run the playbook again later."
        if status == 404:
            return ""
        text = " ".join(str(getattr(error.error, "message", None) or "no reason").split()).rstrip(".")
        return f"Azure refused {action} on {target} with {code or status}: {text}."

    # Steps

    def steps(self) -> Iterator[base.Step]:
        """Compare the account, then the container, and what the identity may do."""
        yield self._account_step()
        yield self._service_step()
        yield self._container_step()
        yield self._rules_step()
        if self.given["principal"]:
            yield self._role_step(CONTRIBUTOR, self._container_scope, f"the container {self.container}")
            if self.given["delegation"]:
                yield self._role_step(DELEGATOR, self._account_scope, f"the storage account {self.account}")

    def _account_step(self) -> base.Step:
        target = f"the storage account {self.account}"
        action = "Microsoft.Storage/storageAccounts/read"
        found = self._read(action, target, lambda: self._storage.storage_accounts.get_properties(**self._at))
        location = self.given["location"]
        self._exists = bool(found)
        if not found and not location:
            raise base.Refused(
                f"The storage account {self.account} is missing, and artifact_store_azure_location is empty; it takes"
                " the location of the account that has to be made."
            )
        if found and location and found["location"].replace(" ", "").lower() != location:
            raise base.Refused(
                f"The storage account {self.account} is in {found['location']}, where it stays;"
                f" artifact_store_azure_location is {location} and takes that, or nothing."
            )
        properties = found.get("properties", {})
        tags = found.get("tags") or {}
        differences = [
            *([] if found else [base.Difference(target, None, {"location": location, "sku": self.given["sku"]})]),
            *(
                difference
                for setting, (name, wanted) in ACCOUNT_SETTINGS.items()
                for difference in base.compare(setting, strict(name, properties.get(name)), wanted)
            ),
            *base.compare_tags("the tag", tags, self.given["tags"]),
        ]
        wanted = {
            "properties": {
                name: value if strict(name, properties.get(name)) != value else properties[name]
                for name, value in ACCOUNT_SETTINGS.values()
            },
            "tags": {**tags, **{name: str(value) for name, value in self.given["tags"].items()}},
        }
        return base.Step(differences, lambda: self._put_account(wanted, target))

    def _put_account(self, wanted: dict[str, Any], target: str) -> None:
        action = "Microsoft.Storage/storageAccounts/write"
        accounts = self._storage.storage_accounts
        if self._exists:
            self._call(action, target, lambda: accounts.update(**self._at, parameters=wanted))
            return
        body = {
            **wanted,
            "sku": {"name": self.given["sku"]},
            "kind": "StorageV2",
            "location": self.given["location"],
        }

        def create() -> None:
            poller = accounts.begin_create(**self._at, parameters=body)
            poller.wait(CREATE_SECONDS)
            if not poller.done():
                raise base.Refused(
                    f"Azure still makes the storage account {self.account}; run the playbook again in a few minutes."
                )
            poller.result()

        self._call(action, target, create)
        self._exists = True

    def _service_step(self) -> base.Step:
        target = f"the blob service of the storage account {self.account}"
        action = "Microsoft.Storage/storageAccounts/blobServices/read"
        blobs = self._storage.blob_services
        answer = self._read(action, target, lambda: blobs.get_service_properties(**self._at)) if self._exists else {}
        found = answer.get("properties", {})
        retention = {"enabled": True, "days": self.given["soft_delete_days"]}
        rules = (found.get("cors") or {}).get("corsRules") or []
        own = next((rule for rule in rules if is_own_cors(rule)), None)
        wanted_cors = self._wanted_cors()
        blob, container = found.get("deleteRetentionPolicy"), found.get("containerDeleteRetentionPolicy")
        differences = [
            *base.compare("versioning", bool(found.get("isVersioningEnabled")), self.given["versioning"]),
            *base.compare("soft delete of blobs", period(blob), retention),
            *base.compare("soft delete of containers", period(container), retention),
            *base.compare("the CORS rule", own, next(iter(wanted_cors), None)),
        ]
        # A write replaces all settings, so that those that are nobody's business go along.
        wanted = {
            **found,
            "isVersioningEnabled": self.given["versioning"],
            "deleteRetentionPolicy": {**(blob or {}), **retention},
            "containerDeleteRetentionPolicy": {**(container or {}), **retention},
            "cors": {"corsRules": [*(rule for rule in rules if not is_own_cors(rule)), *wanted_cors]},
        }
        action_write = "Microsoft.Storage/storageAccounts/blobServices/write"
        return base.Step(
            differences,
            lambda: self._call(
                action_write,
                target,
                lambda: blobs.set_service_properties(**self._at, parameters={"properties": wanted}),
            ),
        )

    def _wanted_cors(self) -> list[dict[str, Any]]:
        rule = {
            "allowedOrigins": self.given["cors_origins"],
            "allowedMethods": CORS_METHODS,
            "allowedHeaders": ["*"],
            "exposedHeaders": ["ETag"],
            "maxAgeInSeconds": base.CORS_SECONDS,
        }
        return [rule] if self.given["cors_origins"] else []

    def _container_step(self) -> base.Step:
        target = f"the container {self.container}"
        action = "Microsoft.Storage/storageAccounts/blobServices/containers/"
        at = {**self._at, "container_name": self.container}
        containers = self._storage.blob_containers
        found = self._read(f"{action}read", target, lambda: containers.get(**at)) if self._exists else {}
        body = {"properties": {"publicAccess": "None"}}
        if not found:
            missing = base.Difference(target, None, {"public access": "None"})
            return base.Step(
                [missing],
                lambda: self._call(f"{action}write", target, lambda: containers.create(**at, blob_container=body)),
            )
        public = found.get("properties", {}).get("publicAccess") or "None"
        return base.Step(
            base.compare(f"public access to {target}", public, "None"),
            lambda: self._call(f"{action}write", target, lambda: containers.update(**at, blob_container=body)),
        )

    # Lifecycle rules

    def _wanted_rules(self) -> dict[str, dict[str, Any]]:
        given, owner = self.given, self._owner()
        where = f"{self.container}/{given['prefix']}{'/' if given['prefix'] else ''}"
        actions: dict[str, Any] = {}
        if given["transition"]:
            tier = {"daysAfterModificationGreaterThan": int(given["transition"]["days"])}
            actions["baseBlob"] = {f"tierTo{given['transition']['class']}": tier}
        if given["noncurrent_days"]:
            actions["version"] = {"delete": {"daysAfterCreationGreaterThan": given["noncurrent_days"]}}
        rules = [rule_of(owner, where, actions)] if actions else []
        rules += [
            rule_of(
                f"{owner}-expire-{fingerprint(each['prefix'])}",
                f"{where}{each['prefix']}",
                {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": int(each["days"])}}},
            )
            for each in given["expire"]
        ]
        return {str(rule["name"]): rule for rule in rules}

    def _owner(self) -> str:
        """Return what the rules of this store are named after, for an account can hold several."""
        return f"{base.OWN}-{fingerprint(self.container + '/' + self.given['prefix'])}"

    def _rules_step(self) -> base.Step:
        target = f"the lifecycle rules of the storage account {self.account}"
        action = "Microsoft.Storage/storageAccounts/managementPolicies/"
        at = {**self._at, "management_policy_name": POLICY}
        policies = self._storage.management_policies
        answer = self._read(f"{action}read", target, lambda: policies.get(**at)) if self._exists else {}
        rules = answer.get("properties", {}).get("policy", {}).get("rules", [])
        owner = self._owner()

        def owned(name: str) -> bool:
            return name == owner or name.startswith(f"{owner}-expire-")

        found = {str(rule["name"]): filled(rule) for rule in rules}
        others = [
            (where, effects_of(rule))
            for name, rule in found.items()
            if not owned(name) and rule.get("enabled", True)
            for where in prefixes_of(rule)
        ]
        wanted = {
            name: rule
            for name, rule in self._wanted_rules().items()
            if name in found or not base.covered(effects_of(rule), prefixes_of(rule)[0], others)
        }
        kept = [rule for rule in rules if not owned(str(rule["name"]))]
        merged = [*kept, *wanted.values()]
        return base.Step(
            base.compare_named("the lifecycle rule", found, wanted, owned),
            lambda: self._put_rules(f"{action}{'write' if merged else 'delete'}", target, at, merged),
        )

    def _put_rules(self, action: str, target: str, at: dict[str, str], rules: list[dict[str, Any]]) -> None:
        policies = self._storage.management_policies
        if rules:
            body = {"properties": {"policy": {"rules": rules}}}
            self._call(action, target, lambda: policies.create_or_update(**at, properties=body))
        else:
            # A policy without rules is refused.
            self._call(action, target, lambda: policies.delete(**at))

    # What the identity may do

    @property
    def _account_scope(self) -> str:
        group = f"/subscriptions/{self.given['subscription']}/resourceGroups/{self.given['resource_group']}"
        return f"{group}/providers/Microsoft.Storage/storageAccounts/{self.account}"

    @property
    def _container_scope(self) -> str:
        return f"{self._account_scope}/blobServices/default/containers/{self.container}"

    def _role_step(self, role: tuple[str, str], scope: str, target: str) -> base.Step:
        name, definition = role
        principal = self.given["principal"]
        granted = self._exists and any(
            str(each.role_definition_id).lower().endswith(definition)
            # One of a scope around this one counts as well, and one with a condition does not always.
            and f"{scope}/".lower().startswith(f"{str(each.scope).rstrip('/')}/".lower())
            and not each.condition
            for each in self._call(
                "Microsoft.Authorization/roleAssignments/read",
                target,
                lambda: self._assignments(scope, principal),
            )
        )
        setting = f"the role of {principal} on {target}"
        return base.Step(
            [] if granted else [base.Difference(setting, None, name)],
            lambda: self._assign(definition, scope, target),
        )

    def _assignments(self, scope: str, principal: str) -> list[Any]:
        listed = self._authorization.role_assignments.list_for_scope(scope, filter=f"principalId eq '{principal}'")
        try:
            return list(listed)
        except exceptions.ResourceNotFoundError:
            return []  # in check mode, of a container that has to be made

    def _assign(self, definition: str, scope: str, target: str) -> None:
        principal = self.given["principal"]
        parameters = RoleAssignmentCreateParameters(
            role_definition_id=f"/subscriptions/{self.given['subscription']}/providers/Microsoft.Authorization"
            f"/roleDefinitions/{definition}",
            principal_id=principal,
            # Said, so that an identity that was made just now is believed to exist.
            principal_type="ServicePrincipal",
        )
        # The same name each time, so that two runs at once make one.
        name = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{scope}/{definition}/{principal}".lower()))
        create = self._authorization.role_assignments.create
        with contextlib.suppress(exceptions.ResourceExistsError):
            self._call("Microsoft.Authorization/roleAssignments/write", target, lambda: create(scope, name, parameters))


def code_of(error: Any) -> str:
    """Return the code of an error of the service."""
    return str(getattr(error.error, "code", None) or "")


def strict(name: str, value: Any) -> Any:
    """Return a setting, and that which is wanted where it is stricter than that."""
    return "TLS1_2" if name == "minimumTlsVersion" and value == "TLS1_3" else value


def period(policy: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return what a policy of soft delete has that is wanted of it."""
    return {"enabled": True, "days": policy.get("days")} if policy and policy.get("enabled") else None


def rule_of(name: str, prefix: str, actions: dict[str, Any]) -> dict[str, Any]:
    """Return a lifecycle rule."""
    filters = {"blobTypes": ["blockBlob"], "prefixMatch": [prefix]}
    definition = {"actions": actions, "filters": filters}
    return {"name": name, "enabled": True, "type": "Lifecycle", "definition": definition}


def effects_of(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a lifecycle rule does, by name."""
    actions: Mapping[str, Mapping[str, Any]] = rule["definition"]["actions"]
    return {f"{kind}.{name}": when for kind, action in actions.items() for name, when in action.items()}


def prefixes_of(rule: Mapping[str, Any]) -> list[str]:
    """Return where a lifecycle rule applies to whatever MLflow writes; nothing where that depends on more."""
    filters = rule["definition"].get("filters", {})
    if "blobIndexMatch" in filters or "blockBlob" not in filters.get("blobTypes", []):
        return []
    return filters.get("prefixMatch") or [""]


def filled(value: Any) -> Any:
    """Return a rule without what the service says is not set."""
    if isinstance(value, Mapping):
        return {key: filled(inner) for key, inner in value.items() if inner is not None}
    return value


def fingerprint(text: str) -> str:
    """Return a text as a rule's name can hold it."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def is_own_cors(rule: Mapping[str, Any]) -> bool:
    """Say whether a CORS rule is one of those that this module writes."""
    return rule.get("allowedMethods") == CORS_METHODS and rule.get("exposedHeaders") == ["ETag"]


if __name__ == "__main__":
    main(Container, OPTIONS)
