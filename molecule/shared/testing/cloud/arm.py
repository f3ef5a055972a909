"""Azure Resource Manager, as far as azure-mgmt-storage and azure-mgmt-authorization prepare a store of blobs with it.

https://learn.microsoft.com/rest/api/storagerp/ and https://learn.microsoft.com/rest/api/authorization/; there is one
subscription with one resource group. Worth knowing for a client:

- The accounts that Blob Storage has here are there from the start for who uses blobs, but not in ARM: a client makes
  them there. A name that Blob Storage does not have is taken, by somebody else (StorageAccountAlreadyTaken).
- What a PUT or PATCH of an account does not name stays. A PUT of the blob service's properties replaces them all: the
  documentation does not say whether it does in Azure, so a client had better name what is to stay.
- Containers are those of the emulator of blobs, whoever has made them, with what ARM was told of them besides.
- An assignment of a role that is there under another name is RoleAssignmentExists; under the same name, with another
  principal or role, RoleAssignmentUpdateNotPermitted.

Different from Azure, and left so: nothing takes time (a new account is answered with 200, not 202), nothing that is
set has an effect on blobs, API versions differ in nothing, values are looked at where it says so below and taken
otherwise, and principals need not exist. Whoever has a token for ARM may do anything: see the fault `denied`.
"""

from __future__ import annotations

import datetime
import re
import threading
from collections.abc import Callable
from typing import Any

import jwt
from werkzeug.wrappers import Request, Response

from testing.cloud.blob import ACTION as BLOB_ACTION
from testing.cloud.blob import DOMAIN, Blob
from testing.cloud.client import RESOURCE_GROUP, SUBSCRIPTION
from testing.cloud.entra import Entra
from testing.cloud.ledger import Operation
from testing.cloud.proxy import json_response

HOST = "management.azure.com"
RESOURCES = ["https://management.azure.com", "https://management.azure.com/", "https://management.core.windows.net/"]
ACCOUNTS = "/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/Microsoft.Storage/storageAccounts"
ACCOUNT = f"{ACCOUNTS}/([^/]+)"
SERVICE = f"{ACCOUNT}/blobServices/default"
POLICY = f"{ACCOUNT}/managementPolicies/default"
ASSIGNMENTS = "(/.*|)/providers/Microsoft.Authorization/roleAssignments"
DEFINITIONS = "(/.*|)/providers/Microsoft.Authorization/roleDefinitions"
AVAILABLE = "/subscriptions/([^/]+)/providers/Microsoft.Storage/checkNameAvailability"
STORAGE = "Microsoft.Storage/"
ROLES = "Microsoft.Authorization/"
# HTTP method and path; the method of the client library; the permission.
ROUTES = (
    ("POST", AVAILABLE, "storage_accounts.check_name_availability", STORAGE + "checknameavailability/read"),
    (
        "GET",
        "/subscriptions/([^/]+)()/providers/Microsoft.Storage/storageAccounts",
        "storage_accounts.list",
        "account/read",
    ),
    ("GET", ACCOUNTS, "storage_accounts.list_by_resource_group", "account/read"),
    ("GET", ACCOUNT, "storage_accounts.get_properties", "account/read"),
    ("PUT", ACCOUNT, "storage_accounts.create", "account/write"),
    ("PATCH", ACCOUNT, "storage_accounts.update", "account/write"),
    ("DELETE", ACCOUNT, "storage_accounts.delete", "account/delete"),
    ("POST", f"{ACCOUNT}/listKeys", "storage_accounts.list_keys", "account/listkeys/action"),
    ("GET", SERVICE, "blob_services.get_service_properties", BLOB_ACTION + "read"),
    ("PUT", SERVICE, "blob_services.set_service_properties", BLOB_ACTION + "write"),
    ("GET", f"{SERVICE}/containers", "blob_containers.list", BLOB_ACTION + "containers/read"),
    ("GET", f"{SERVICE}/containers/([^/]+)", "blob_containers.get", BLOB_ACTION + "containers/read"),
    ("PUT", f"{SERVICE}/containers/([^/]+)", "blob_containers.create", BLOB_ACTION + "containers/write"),
    ("PATCH", f"{SERVICE}/containers/([^/]+)", "blob_containers.update", BLOB_ACTION + "containers/write"),
    ("DELETE", f"{SERVICE}/containers/([^/]+)", "blob_containers.delete", BLOB_ACTION + "containers/delete"),
    ("GET", POLICY, "management_policies.get", "account/managementPolicies/read"),
    ("PUT", POLICY, "management_policies.create_or_update", "account/managementPolicies/write"),
    ("DELETE", POLICY, "management_policies.delete", "account/managementPolicies/delete"),
    ("GET", ASSIGNMENTS, "role_assignments.list_for_scope", ROLES + "roleAssignments/read"),
    ("GET", f"{ASSIGNMENTS}/([^/]+)", "role_assignments.get", ROLES + "roleAssignments/read"),
    ("PUT", f"{ASSIGNMENTS}/([^/]+)", "role_assignments.create", ROLES + "roleAssignments/write"),
    ("DELETE", f"{ASSIGNMENTS}/([^/]+)", "role_assignments.delete", ROLES + "roleAssignments/delete"),
    ("GET", DEFINITIONS, "role_definitions.list", ROLES + "roleDefinitions/read"),
    ("GET", f"{DEFINITIONS}/([^/]+)", "role_definitions.get", ROLES + "roleDefinitions/read"),
)
CONTAINERS = BLOB_ACTION + "containers/"
DELEGATION = BLOB_ACTION + "generateUserDelegationKey/action"
# https://learn.microsoft.com/azure/role-based-access-control/built-in-roles/storage
BUILT_IN = {
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": (
        "Storage Blob Data Contributor",
        [f"{CONTAINERS}{verb}" for verb in ("delete", "read", "write")] + [DELEGATION],
        [f"{CONTAINERS}blobs/{verb}" for verb in ("delete", "read", "write", "move/action", "add/action")],
    ),
    "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": (
        "Storage Blob Data Owner",
        [f"{CONTAINERS}*", DELEGATION],
        [f"{CONTAINERS}blobs/*"],
    ),
    "2a2b9908-6ea1-4ae2-8e65-a410df84e7d1": (
        "Storage Blob Data Reader",
        [f"{CONTAINERS}read", DELEGATION],
        [f"{CONTAINERS}blobs/read"],
    ),
}


class _Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.response = json_response({"error": {"code": code, "message": message}}, status, **headers)


class Arm:
    """The subscription.

    Args:
        entra: Issues the tokens.
        blob: Has the containers.
    """

    name = "arm"

    def __init__(self, entra: Entra, blob: Blob) -> None:
        """Start with an empty resource group."""
        self._entra = entra
        self._blob = blob
        self._lock = threading.Lock()
        # By name; of the rest, by account and part of it.
        self._accounts: dict[str, dict[str, Any]] = {}
        self._parts: dict[tuple[str, str], dict[str, Any]] = {}
        self._assignments: dict[str, dict[str, Any]] = {}

    def operation(self, request: Request) -> Operation:
        """Tell what a request asks for."""
        try:
            identity = self._holder(request)
        except jwt.InvalidTokenError:
            identity = None
        found = _route(request)
        if found is None:
            return Operation("arm", "unknown", "unknown", request.path, identity)
        method, action, groups = found
        target = "/".join(groups[2:] if action.startswith(STORAGE) else groups)
        return Operation("arm", action, method, target.strip("/"), identity)

    def refusal(self, request: Request) -> Response | None:
        """Refuse who has no token that holds."""
        challenge = f'Bearer authorization_uri="https://login.windows.net/{self._entra.tenant}", error="invalid_token"'
        code, reason = "AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."
        try:
            if self._holder(request) is not None:
                return None
        except jwt.ExpiredSignatureError:
            code, reason = (
                "ExpiredAuthenticationToken",
                "The access token expiry UTC time is earlier than current UTC time.",
            )
        except jwt.InvalidAudienceError:
            code, reason = (
                "InvalidAuthenticationTokenAudience",
                "The access token has been obtained for wrong audience.",
            )
        except jwt.InvalidTokenError:
            code, reason = "InvalidAuthenticationToken", "The access token is invalid."
        return _Refused(401, code, reason, WWW_Authenticate=challenge).response

    def failure(self, kind: str, operation: Operation) -> Response:
        """Return an error as ARM words it."""
        if kind == "denied":
            message = (
                f"The client '{operation.identity}' with object id '{self._entra.principal}' does not have "
                f"authorization to perform action '{operation.action}' over scope '{_scope()}/{operation.target}' or "
                "the scope is invalid. If access was recently granted, please refresh your credentials."
            )
            return _Refused(403, "AuthorizationFailed", message).response
        if kind == "throttled":
            message = "Number of requests exceeded the limit. Please try again after '1' seconds."
            return _Refused(429, "TooManyRequests", message, Retry_After="1").response
        if kind == "busy":
            message = "An operation is currently performing on this storage account that requires exclusive access."
            return _Refused(409, "StorageAccountOperationInProgress", message).response
        if kind == "revoked":
            return _Refused(401, "InvalidAuthenticationToken", "The access token is invalid.").response
        return _Refused(500, "InternalServerError", "The server encountered an internal error.").response

    def answer(self, request: Request, operation: Operation) -> Response:
        """Do what is asked for, one at a time."""
        try:
            if "api-version" not in request.args:
                raise _Refused(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
            found = _route(request)
            if found is None:
                raise _Refused(404, "InvalidResourceType", "The resource type could not be found.")
            method, _, groups = found
            place = re.match("/subscriptions/([^/]+)(?:/resourceGroups/([^/]+))?", request.path, re.IGNORECASE)
            if place:
                _check_place(*place.groups(default=""))
            do: Callable[..., Response] = getattr(self, "_" + method.replace(".", "_"))
            with self._lock:
                return do(request, *(groups[2:] if operation.action.startswith(STORAGE) else groups))
        except _Refused as refused:
            return refused.response

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._accounts.clear()
            self._parts.clear()
            self._assignments.clear()

    def _holder(self, request: Request) -> str | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return self._entra.holder(token, RESOURCES) if scheme == "Bearer" else None

    def _storage_accounts_check_name_availability(self, request: Request) -> Response:
        name = _body(request).get("name", "")
        if name in self._accounts or name not in self._blob.keys:
            taken = {"reason": "AlreadyExists", "message": f"The storage account named {name} is already taken."}
            return json_response({"nameAvailable": False} | taken)
        return json_response({"nameAvailable": True})

    def _storage_accounts_list(self, request: Request) -> Response:
        return json_response({"value": list(self._accounts.values())})

    _storage_accounts_list_by_resource_group = _storage_accounts_list

    def _storage_accounts_get_properties(self, request: Request, name: str) -> Response:
        return json_response(self._account(name))

    def _storage_accounts_create(self, request: Request, name: str) -> Response:
        body = _body(request)
        if not re.fullmatch("[a-z0-9]{3,24}", name):
            raise _Refused(400, "AccountNameInvalid", f"{name} is not a valid storage account name.")
        if name not in self._blob.keys:
            raise _Refused(409, "StorageAccountAlreadyTaken", f"The storage account named {name} is already taken.")
        if name not in self._accounts:
            for part in ("sku", "kind", "location"):
                if part not in body:
                    raise _Refused(400, "InvalidRequestContent", f"The request content lacks '{part}'.")
            self._accounts[name] = _new_account(name)
        elif body.get("location", self._accounts[name]["location"]) != self._accounts[name]["location"]:
            raise _Refused(409, "InvalidResourceLocation", f"The resource '{name}' already exists in another location.")
        return self._change(self._accounts[name], body)

    def _storage_accounts_update(self, request: Request, name: str) -> Response:
        return self._change(self._account(name), _body(request))

    def _storage_accounts_delete(self, request: Request, name: str) -> Response:
        there = self._accounts.pop(name, None)
        self._parts = {place: part for place, part in self._parts.items() if place[0] != name}
        return Response(status=200 if there else 204)

    def _storage_accounts_list_keys(self, request: Request, name: str) -> Response:
        self._account(name)
        key = {"keyName": "key1", "value": self._blob.keys[name], "permissions": "FULL"}
        return json_response({"keys": [key]})

    def _blob_services_get_service_properties(self, request: Request, name: str) -> Response:
        return json_response(self._service(name))

    def _blob_services_set_service_properties(self, request: Request, name: str) -> Response:
        service = self._service(name)
        given = _body(request).get("properties") or {}
        for policy in ("deleteRetentionPolicy", "containerDeleteRetentionPolicy"):
            wanted = given.get(policy) or {}
            if wanted.get("enabled") and not 1 <= wanted.get("days", 0) <= 365:
                raise _Refused(400, "InvalidXmlNodeValue", f"{policy} takes from 1 to 365 days.")
        service["properties"] = {name: value for name, value in given.items() if value is not None}
        service["properties"].setdefault("cors", {"corsRules": []})
        service["properties"].setdefault("deleteRetentionPolicy", {"allowPermanentDelete": False, "enabled": False})
        return json_response(service)

    def _blob_containers_list(self, request: Request, account: str) -> Response:
        self._account(account)
        return json_response({"value": [self._container(account, name) for name in self._blob.containers(account)]})

    def _blob_containers_get(self, request: Request, account: str, name: str) -> Response:
        self._account(account)
        if name not in self._blob.containers(account):
            raise _Refused(404, "ContainerNotFound", "The specified container does not exist.")
        return json_response(self._container(account, name))

    def _blob_containers_create(self, request: Request, account: str, name: str) -> Response:
        stored = self._account(account)
        if not re.fullmatch("(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*", name):
            raise _Refused(400, "ContainerNameInvalid", f"{name} is not a valid container name.")
        given = _body(request).get("properties") or {}
        public = given.get("publicAccess") not in (None, "None")
        if public and not stored["properties"]["allowBlobPublicAccess"]:
            raise _Refused(409, "PublicAccessNotPermitted", "Public access is not permitted on this storage account.")
        there = name in self._blob.containers(account)
        self._blob.make_container(account, name)
        self._container(account, name)["properties"] |= given
        return json_response(self._container(account, name), 200 if there else 201)

    def _blob_containers_update(self, request: Request, account: str, name: str) -> Response:
        self._blob_containers_get(request, account, name)
        return self._blob_containers_create(request, account, name)

    def _blob_containers_delete(self, request: Request, account: str, name: str) -> Response:
        self._account(account)
        self._parts.pop((account, f"container {name}"), None)
        return Response(status=200 if self._blob.delete_container(account, name) else 204)

    def _management_policies_get(self, request: Request, account: str) -> Response:
        self._account(account)
        if (account, "policy") not in self._parts:
            raise _Refused(404, "ManagementPolicyNotFound", f"No ManagementPolicy found for account {account}.")
        return json_response(self._parts[account, "policy"])

    def _management_policies_create_or_update(self, request: Request, account: str) -> Response:
        self._account(account)
        policy = (_body(request).get("properties") or {}).get("policy") or {}
        rules = policy.get("rules") or []
        if not rules or len({rule.get("name") for rule in rules}) < len(rules):
            raise _Refused(400, "InvalidRequestPropertyValue", "A policy takes rules, each with a name of its own.")
        for rule in rules:
            definition = rule.get("definition") or {}
            filters = definition.get("filters") or {}
            if rule.get("type") != "Lifecycle" or not definition.get("actions") or not filters.get("blobTypes"):
                text = f"The rule '{rule.get('name')}' needs type Lifecycle, actions and filters with blobTypes."
                raise _Refused(400, "InvalidRequestPropertyValue", text)
            rule.setdefault("enabled", True)
        place = _part(account, "managementPolicies", "default", "DefaultManagementPolicy")
        self._parts[account, "policy"] = place | {"properties": {"lastModifiedTime": _now(), "policy": policy}}
        return json_response(self._parts[account, "policy"])

    def _management_policies_delete(self, request: Request, account: str) -> Response:
        self._account(account)
        return Response(status=200 if self._parts.pop((account, "policy"), None) else 204)

    def _role_assignments_list_for_scope(self, request: Request, scope: str) -> Response:
        wanted = request.args.get("$filter", "")
        who = re.search(r"(?:principalId eq |assignedTo\()'([^']+)'", wanted)
        above_only = "atScope()" in wanted
        found = [
            each
            for each in self._assignments.values()
            if _within(scope, each["properties"]["scope"])
            or (not above_only and _within(each["properties"]["scope"], scope))
        ]
        return json_response(
            {"value": [each for each in found if not who or each["properties"]["principalId"] == who[1]]}
        )

    def _role_assignments_get(self, request: Request, scope: str, name: str) -> Response:
        place = f"{scope}/providers/Microsoft.Authorization/roleAssignments/{name}"
        if place.lower() not in self._assignments:
            raise _Refused(404, "RoleAssignmentNotFound", f"The role assignment '{name}' is not found.")
        return json_response(self._assignments[place.lower()])

    def _role_assignments_create(self, request: Request, scope: str, name: str) -> Response:
        given = _body(request).get("properties") or {}
        role = given.get("roleDefinitionId", "").rpartition("/")[2]
        if role not in BUILT_IN:
            raise _Refused(
                404, "RoleDefinitionDoesNotExist", f"The specified role definition with ID '{role}' does not exist."
            )
        for part in (name, given.get("principalId", "")):
            if not re.fullmatch("[0-9a-fA-F-]{36}", part):
                raise _Refused(
                    400, "InvalidRoleAssignmentId", f"The role assignment ID or principal '{part}' is not a GUID."
                )
        wanted = {"scope": scope.lower(), "role": role, "principal": given["principalId"]}
        place = f"{scope}/providers/Microsoft.Authorization/roleAssignments/{name}"
        for identifier, other in self._assignments.items():
            same = _meaning(other) == wanted
            if same and identifier != place.lower():
                raise _Refused(409, "RoleAssignmentExists", "The role assignment already exists.")
            if not same and identifier == place.lower():
                text = "Tenant ID, application ID, principal ID, and scope are not allowed to be updated."
                raise _Refused(400, "RoleAssignmentUpdateNotPermitted", text)
        about = {"scope": scope, "principalType": "ServicePrincipal", "createdOn": _now()}
        created = {"id": place, "name": name, "type": "Microsoft.Authorization/roleAssignments"}
        self._assignments[place.lower()] = created | {"properties": about | given}
        return json_response(self._assignments[place.lower()], 201)

    def _role_assignments_delete(self, request: Request, scope: str, name: str) -> Response:
        place = f"{scope}/providers/Microsoft.Authorization/roleAssignments/{name}"
        gone = self._assignments.pop(place.lower(), None)
        return json_response(gone) if gone else Response(status=204)

    def _role_definitions_list(self, request: Request, scope: str) -> Response:
        wanted = re.search("roleName eq '([^']+)'", request.args.get("$filter", ""))
        found = [
            _definition(scope, number) for number, (name, _, _) in BUILT_IN.items() if not wanted or name == wanted[1]
        ]
        return json_response({"value": found})

    def _role_definitions_get(self, request: Request, scope: str, number: str) -> Response:
        if number not in BUILT_IN:
            text = f"The specified role definition with ID '{number}' does not exist."
            raise _Refused(404, "RoleDefinitionDoesNotExist", text)
        return json_response(_definition(scope, number))

    def _account(self, name: str) -> dict[str, Any]:
        if name not in self._accounts:
            text = f"The Resource 'Microsoft.Storage/storageAccounts/{name}' under resource group "
            text += (
                f"'{RESOURCE_GROUP}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix"
            )
            raise _Refused(404, "ResourceNotFound", text)
        return self._accounts[name]

    def _service(self, account: str) -> dict[str, Any]:
        sku = self._account(account)["sku"]
        default = {
            "cors": {"corsRules": []},
            "deleteRetentionPolicy": {"allowPermanentDelete": False, "enabled": False},
        }
        place = _part(account, "blobServices", "default") | {"sku": sku, "properties": default}
        return self._parts.setdefault((account, "service"), place)

    def _container(self, account: str, name: str) -> dict[str, Any]:
        default: dict[str, Any] = {"publicAccess": "None", "leaseStatus": "Unlocked", "leaseState": "Available"}
        default |= {"lastModifiedTime": _now(), "hasImmutabilityPolicy": False, "hasLegalHold": False, "deleted": False}
        place = _part(account, "blobServices/containers", f"default/containers/{name}", name) | {"properties": default}
        return self._parts.setdefault((account, f"container {name}"), place)

    @staticmethod
    def _change(account: dict[str, Any], body: dict[str, Any]) -> Response:
        given = {name: value for name, value in (body.get("properties") or {}).items() if value is not None}
        tls = given.get("minimumTlsVersion", "TLS1_2")
        if tls not in ("TLS1_0", "TLS1_1", "TLS1_2", "TLS1_3"):
            raise _Refused(
                400, "InvalidRequestPropertyValue", f"The value '{tls}' is not allowed for minimumTlsVersion."
            )
        account["properties"] |= given
        account |= {name: body[name] for name in ("kind", "location", "identity") if body.get(name) is not None}
        if body.get("sku"):
            account["sku"] = {"name": body["sku"]["name"], "tier": body["sku"]["name"].partition("_")[0]}
        if body.get("tags") is not None:
            account["tags"] = body["tags"]
        return json_response(account)


def _route(request: Request) -> tuple[str, str, tuple[str, ...]] | None:
    """Return the client library's method, the permission, and the parts of the path."""
    path = re.sub("/{2,}", "/", request.path).rstrip("/")
    for verb, pattern, method, action in ROUTES:
        # Types and groups are the same in capital and small letters.
        if request.method == verb and (match := re.fullmatch(pattern, path, re.IGNORECASE)):
            return method, action.replace("account/", STORAGE + "storageAccounts/"), match.groups(default="")
    return None


def _check_place(subscription: str, group: str) -> None:
    if subscription != SUBSCRIPTION:
        text = f"The subscription '{subscription}' could not be found."
        raise _Refused(404, "SubscriptionNotFound", text)
    if group.lower() not in ("", RESOURCE_GROUP):
        raise _Refused(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")


def _scope() -> str:
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}"


def _new_account(name: str) -> dict[str, Any]:
    services = {
        service: {"enabled": True, "keyType": "Account", "lastEnabledTime": _now()} for service in ("blob", "file")
    }
    properties = {
        "provisioningState": "Succeeded",
        "creationTime": _now(),
        "primaryEndpoints": {"blob": f"https://{name}{DOMAIN}/"},
        "statusOfPrimary": "available",
        "accessTier": "Hot",
        "allowBlobPublicAccess": False,
        "minimumTlsVersion": "TLS1_0",
        "supportsHttpsTrafficOnly": True,
        "networkAcls": {"bypass": "AzureServices", "defaultAction": "Allow", "ipRules": [], "virtualNetworkRules": []},
        "encryption": {"services": services, "keySource": "Microsoft.Storage"},
    }
    place = f"{_scope()}/providers/Microsoft.Storage/storageAccounts/{name}"
    about = {"id": place, "name": name, "type": "Microsoft.Storage/storageAccounts", "tags": {}}
    return about | {"properties": properties}


def _part(account: str, kind: str, path: str, name: str = "") -> dict[str, Any]:
    first = kind.partition("/")[0]
    place = f"{_scope()}/providers/Microsoft.Storage/storageAccounts/{account}/{first}/{path}"
    return {"id": place, "name": name or path, "type": f"Microsoft.Storage/storageAccounts/{kind}"}


def _definition(scope: str, number: str) -> dict[str, Any]:
    name, actions, data = BUILT_IN[number]
    return {
        "id": f"{scope}/providers/Microsoft.Authorization/roleDefinitions/{number}",
        "name": number,
        "type": "Microsoft.Authorization/roleDefinitions",
        "properties": {
            "roleName": name,
            "type": "BuiltInRole",
            "assignableScopes": ["/"],
            "permissions": [{"actions": actions, "notActions": [], "dataActions": data, "notDataActions": []}],
        },
    }


def _meaning(assignment: dict[str, Any]) -> dict[str, str]:
    properties = assignment["properties"]
    role = properties["roleDefinitionId"].rpartition("/")[2]
    return {"scope": properties["scope"].lower(), "role": role, "principal": properties["principalId"]}


def _within(scope: str, outer: str) -> bool:
    return f"{scope.lower()}/".startswith(f"{outer.lower()}/")


def _body(request: Request) -> dict[str, Any]:
    return dict(request.get_json(silent=True) or {})


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
