"""Azure Key Vault's secrets, as azure-keyvault-secrets uses them; what is stored lives in memory.

Source of the operations: https://learn.microsoft.com/rest/api/keyvault/secrets/operation-groups, of the actions:
https://learn.microsoft.com/azure/role-based-access-control/permissions/security#microsoftkeyvault, of the rest:
https://learn.microsoft.com/azure/key-vault/secrets/about-secrets. Worth knowing for a client:

- A secret outside the time that its nbf and exp give **can be read**, as the real service allows it (the two are
  "for informational purposes only" there). Only a disabled one is refused (403, SecretDisabled). A client that does
  not want an expired value has to look at its attributes.
- Reading without a version gives the version that was set last, whatever its state: when that one is disabled the
  answer is 403, even though older versions are enabled.
- `created` and `updated` are whole seconds, and versions are listed by id, not by age: two that were set within one
  second have no order that a client could see.
- An update leaves alone what it does not name; tags, when named, are replaced as a whole, `{}` removes them.
- The name of a deleted secret cannot be set (409, ObjectIsDeletedButRecoverable) until it is recovered or purged,
  and looks missing (404, SecretNotFound) to who reads it.
- The values of disabled versions, and any values at all, are never part of lists, updates and deletions.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import jwt
from werkzeug.wrappers import Request, Response

from testing.cloud.entra import Entra
from testing.cloud.ledger import Operation
from testing.cloud.proxy import json_response

DOMAIN = ".vault.azure.net"
RESOURCE = "https://vault.azure.net"
PAGE = 25
RETENTION_DAYS = 90
ACTION = "Microsoft.KeyVault/vaults/secrets/"
# HTTP method and shape of the path; the client library's method; the last part of the action.
ROUTES = (
    ("PUT", r"/secrets/([^/]+)", "set_secret", "setSecret/action"),
    ("GET", r"/secrets", "list_properties_of_secrets", "readMetadata/action"),
    ("GET", r"/secrets/([^/]+)/versions", "list_properties_of_secret_versions", "readMetadata/action"),
    ("GET", r"/secrets/([^/]+)(?:/(\w+))?", "get_secret", "getSecret/action"),
    ("PATCH", r"/secrets/([^/]+)(?:/(\w+))?", "update_secret_properties", "update/action"),
    ("DELETE", r"/secrets/([^/]+)", "begin_delete_secret", "delete"),
    ("GET", r"/deletedsecrets/([^/]+)", "get_deleted_secret", "readMetadata/action"),
    ("POST", r"/deletedsecrets/([^/]+)/recover", "begin_recover_deleted_secret", "recover/action"),
    ("DELETE", r"/deletedsecrets/([^/]+)", "purge_deleted_secret", "purge/action"),
)


@dataclass
class Version:
    """One version of a secret, with the attributes that a client can set and those that it cannot."""

    value: str
    attributes: dict[str, Any]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))
    updated: int = field(default_factory=lambda: int(time.time()))
    content_type: str | None = None
    tags: dict[str, str] | None = None

    def change(self, body: dict[str, Any]) -> None:
        """Take over what a request says of it, and leave alone what the request does not name."""
        given = body.get("attributes") or {}
        self.attributes |= {name: given[name] for name in ("enabled", "nbf", "exp") if given.get(name) is not None}
        self.content_type = body.get("contentType", self.content_type)
        self.tags = body["tags"] if body.get("tags") is not None else self.tags

    def show(self, identifier: str) -> dict[str, Any]:
        """Return all of it but the value."""
        times = {"created": self.created, "updated": self.updated}
        level = {"recoveryLevel": "Recoverable+Purgeable", "recoverableDays": RETENTION_DAYS}
        optional = {"contentType": self.content_type, "tags": self.tags}
        shown = {"id": identifier, "attributes": self.attributes | times | level}
        return shown | {name: value for name, value in optional.items() if value is not None}


@dataclass
class Vault:
    """Secrets with their versions, the one that was set last at the end, and deleted ones with the time of it."""

    secrets: dict[str, list[Version]] = field(default_factory=dict)
    deleted: dict[str, tuple[int, list[Version]]] = field(default_factory=dict)


class _Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str, inner: str | None = None, **headers: str) -> None:
        super().__init__(message)
        error: dict[str, Any] = {"code": code, "message": message}
        if inner:
            error["innererror"] = {"code": inner}
        self.response = json_response({"error": error}, status, **headers)


class KeyVault:
    """All vaults that exist.

    Args:
        entra: Issues the tokens.
        vaults: Names of the vaults.
    """

    name = "keyvault"

    def __init__(self, entra: Entra, vaults: list[str]) -> None:
        """Start with empty vaults."""
        self.hosts = {vault + DOMAIN for vault in vaults}
        self._entra = entra
        self._lock = threading.Lock()
        self._vaults: dict[str, Vault] = defaultdict(Vault)

    def operation(self, request: Request) -> Operation:
        """Tell what a request asks for."""
        try:
            identity = self._holder(request)
        except jwt.InvalidTokenError:
            identity = None
        for method, _, name, action in ROUTES:
            if (match := _route(request, name)) and request.method == method:
                target = "/".join(part for part in match.groups() if part)
                return Operation("keyvault", ACTION + action, name, target, identity)
        return Operation("keyvault", "unknown", "unknown", request.path, identity)

    def refusal(self, request: Request) -> Response | None:
        """Challenge a client that has no valid token."""
        challenge = f'Bearer authorization="https://login.microsoftonline.com/{self._entra.tenant}", '
        challenge += f'resource="{RESOURCE}"'
        reason = "AKV10000: Request is missing a Bearer or PoP token."
        try:
            if self._holder(request) is not None:
                return None
        except jwt.ExpiredSignatureError:
            reason = "[TokenExpired] Error validating token: 'S2S12086'."
        except jwt.InvalidAudienceError:
            reason = f"AKV10022: Invalid audience. Expected {RESOURCE}."
        except jwt.InvalidTokenError:
            reason = "AKV10046: Unable to resolve the key used for signature validation."
        return _Refused(401, "Unauthorized", reason, WWW_Authenticate=challenge).response

    def failure(self, kind: str, operation: Operation) -> Response:
        """Return an error as Key Vault words it."""
        if kind == "denied":
            message = (
                "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or "
                "role definitions were changed recently, please observe propagation time.\r\n"
                f"Caller: appid={operation.identity};iss={self._entra.issuer}\r\nAction: '{operation.action}'\r\n"
                "Resource: '/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/mlflow/providers/"
                f"microsoft.keyvault/vaults/mlflow-test/secrets/{operation.target}'\r\nAssignment: (not found)\r\n"
                "DenyAssignmentId: null\r\nDecisionReason: null\r\nVault: mlflow-test;location=westeurope\r\n"
            )
            return _Refused(403, "Forbidden", message, "ForbiddenByRbac").response
        if kind == "throttled":
            message = "Request was not processed because too many requests were received."
            return _Refused(429, "Throttled", message, Retry_After="1").response
        if kind == "busy":
            message = "There was a conflict: another operation on the same secret is in progress."
            return _Refused(409, "Conflict", message).response
        return _Refused(500, "InternalServerError", "An unexpected error occurred.").response

    def answer(self, request: Request, operation: Operation) -> Response:
        """Do what is asked for, one at a time."""
        route = _route(request, operation.method)
        try:
            if "api-version" not in request.args:
                raise _Refused(400, "BadParameter", "api-version must be specified")
            if route is None:
                raise _Refused(404, "NotFound", "The requested resource was not found.")
            with self._lock:
                vault = self._vaults[request.host.partition(":")[0]]
                return _Work(request, vault).do(operation.method, *route.groups(default=""))
        except _Refused as refused:
            return refused.response

    def reset(self) -> None:
        """Empty the vaults."""
        with self._lock:
            self._vaults.clear()

    def _holder(self, request: Request) -> str | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        return self._entra.holder(token, RESOURCE) if scheme == "Bearer" else None


def _route(request: Request, name: str) -> re.Match[str] | None:
    pattern = next((pattern for _, pattern, method, _ in ROUTES if method == name), "$^")
    return re.fullmatch(pattern, request.path.rstrip("/"))


@dataclass(frozen=True)
class _Work:
    """One request to a vault; each method is one that the client library has."""

    request: Request
    vault: Vault

    def do(self, method: str, *arguments: str) -> Response:
        return getattr(self, method)(*arguments)  # type: ignore[no-any-return]

    @property
    def origin(self) -> str:
        return f"https://{self.request.host.partition(':')[0]}"

    def identifier(self, name: str, version: Version | None = None) -> str:
        return f"{self.origin}/secrets/{name}" + (f"/{version.id}" if version else "")

    def versions(self, name: str) -> list[Version]:
        if name not in self.vault.secrets:
            raise _Refused(
                404,
                "SecretNotFound",
                f"A secret with (name/id) {name} was not found in this key vault. If you recently deleted this secret "
                "you may be able to recover it using the correct recovery command. For help resolving this issue, "
                "please see https://go.microsoft.com/fwlink/?linkid=2125182",
            )
        return self.vault.secrets[name]

    def version(self, name: str, wanted: str) -> Version:
        for version in reversed(self.versions(name)):
            if wanted in ("", version.id):
                return version
        message = f"A secret with (name/id) {name}/{wanted} was not found in this key vault."
        raise _Refused(404, "SecretNotFound", message)

    def body(self) -> dict[str, Any]:
        body = self.request.get_json()
        tags = body.get("tags") or {}
        if len(tags) > 15 or any(len(part) > 256 for tag in tags.items() for part in tag):
            raise _Refused(400, "BadParameter", "A secret takes at most 15 tags of at most 256 characters each.")
        return dict(body)

    def set_secret(self, name: str) -> Response:
        body = self.body()
        if not re.fullmatch(r"[0-9a-zA-Z-]{1,127}", name):
            raise _Refused(400, "BadParameter", f"The request URI contains an invalid name: {name}")
        if not isinstance(body.get("value"), str) or len(body["value"].encode()) > 25 * 1024:
            raise _Refused(400, "BadParameter", "Secret value must be given and have at most 25k bytes.")
        if name in self.vault.deleted:
            raise _Refused(
                409,
                "Conflict",
                f"Secret {name} is currently in a deleted but recoverable state, and its name cannot be reused; in "
                "this state, the secret can only be recovered or purged.",
                "ObjectIsDeletedButRecoverable",
            )
        version = Version(body["value"], {"enabled": True})
        version.change(body)
        self.vault.secrets.setdefault(name, []).append(version)
        return json_response({"value": version.value} | version.show(self.identifier(name, version)))

    def get_secret(self, name: str, wanted: str) -> Response:
        version = self.version(name, wanted)
        if not version.attributes["enabled"]:
            message = "Operation get is not allowed on a disabled secret."
            raise _Refused(403, "Forbidden", message, "SecretDisabled")
        return json_response({"value": version.value} | version.show(self.identifier(name, version)))

    def update_secret_properties(self, name: str, wanted: str) -> Response:
        version = self.version(name, wanted)
        version.change(self.body())
        version.updated = int(time.time())
        return json_response(version.show(self.identifier(name, version)))

    def list_properties_of_secrets(self) -> Response:
        names = sorted(self.vault.secrets)
        return self.page([self.vault.secrets[name][-1].show(self.identifier(name)) for name in names])

    def list_properties_of_secret_versions(self, name: str) -> Response:
        versions = sorted(self.vault.secrets.get(name, []), key=lambda version: version.id)
        return self.page([version.show(self.identifier(name, version)) for version in versions])

    def page(self, items: list[dict[str, Any]]) -> Response:
        arguments = self.request.args
        size, start = int(arguments.get("maxresults", PAGE)), int(arguments.get("$skiptoken", 0))
        if not 1 <= size <= PAGE:
            raise _Refused(400, "BadParameter", f"maxresults must be between 1 and {PAGE}.")
        link = None
        if start + size < len(items):
            query = f"api-version={arguments['api-version']}&$skiptoken={start + size}&maxresults={size}"
            link = f"{self.origin}:443{self.request.path}?{query}"
        return json_response({"value": items[start : start + size], "nextLink": link})

    def begin_delete_secret(self, name: str) -> Response:
        versions = self.versions(name)
        self.vault.deleted[name] = (int(time.time()), versions)
        del self.vault.secrets[name]
        return self.get_deleted_secret(name)

    def get_deleted_secret(self, name: str) -> Response:
        since, versions = self.find_deleted(name)
        purge = since + RETENTION_DAYS * 24 * 3600
        recovery = {"recoveryId": f"{self.origin}/deletedsecrets/{name}", "deletedDate": since}
        shown = versions[-1].show(self.identifier(name, versions[-1]))
        return json_response(shown | recovery | {"scheduledPurgeDate": purge})

    def begin_recover_deleted_secret(self, name: str) -> Response:
        versions = self.find_deleted(name)[1]
        del self.vault.deleted[name]
        self.vault.secrets[name] = versions
        return json_response(versions[-1].show(self.identifier(name, versions[-1])))

    def purge_deleted_secret(self, name: str) -> Response:
        self.find_deleted(name)
        del self.vault.deleted[name]
        return Response(status=204)

    def find_deleted(self, name: str) -> tuple[int, list[Version]]:
        if name not in self.vault.deleted:
            raise _Refused(404, "SecretNotFound", f"Deleted Secret not found: {name}")
        return self.vault.deleted[name]
