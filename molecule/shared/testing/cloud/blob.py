"""Azure Blob Storage, as https://learn.microsoft.com/rest/api/storageservices/ describes it, by Azurite.

Actions: https://learn.microsoft.com/azure/role-based-access-control/permissions/storage. Requests are signed with the
account's key, carry a shared access signature, or a bearer token of our Entra ID. Put right here:

- Azurite does not look at the signature of a token: that is done before it gets it. One that is not ours, has expired
  or is for something else is 401 InvalidAuthenticationInfo; a request with nothing is 401 NoAuthenticationInformation,
  with the challenge of the real service.
- What Azurite calls AuthorizationFailure (a wrong signature) or InvalidAuthenticationInfo (a wrong key) is
  AuthenticationFailed in the real service.

Different from Azure, and left so:

- Whoever has a token may do anything: role assignments are kept (see arm.py) and not asked.
- The settings that ARM has (public access, TLS version, versioning, soft delete, lifecycle) change nothing here. There
  are no versions of blobs, nothing deleted can be brought back, and a container that was deleted can be made anew at
  once (Azure refuses for 30 seconds and more: ContainerBeingDeleted).
- API versions are not looked at. No tiers but as names, no throttling unless asked for, no replication.
"""

from __future__ import annotations

import base64
import re
import secrets
import time
import uuid
from pathlib import Path
from xml.sax.saxutils import escape

import jwt
from werkzeug.wrappers import Request, Response

from testing.cloud.azurite import Azurite
from testing.cloud.entra import HOST as ENTRA
from testing.cloud.entra import Entra
from testing.cloud.forward import Emulator
from testing.cloud.ledger import Operation

DOMAIN = ".blob.core.windows.net"
RESOURCE = "https://storage.azure.com"
ACTION = "Microsoft.Storage/storageAccounts/blobServices/"
VERSION = "2021-12-02"

# Scope of the request, HTTP method and `comp`: the client library's method, the last part of the action.
OPERATIONS = {
    ("service", "GET", "list"): ("list_containers", "containers/read"),
    ("service", "GET", "properties"): ("get_service_properties", "read"),
    ("service", "PUT", "properties"): ("set_service_properties", "write"),
    ("service", "GET", "stats"): ("get_service_stats", "read"),
    ("service", "POST", "userdelegationkey"): ("get_user_delegation_key", "generateUserDelegationKey/action"),
    ("service", "POST", "batch"): ("delete_blobs", "containers/blobs/delete"),
    ("service", "GET", "blobs"): ("find_blobs_by_tags", "containers/blobs/filter/action"),
    ("container", "PUT", ""): ("create_container", "containers/write"),
    ("container", "GET", ""): ("get_container_properties", "containers/read"),
    ("container", "GET", "list"): ("list_blobs", "containers/blobs/read"),
    ("container", "GET", "acl"): ("get_container_access_policy", "containers/getAcl/action"),
    ("container", "PUT", "acl"): ("set_container_access_policy", "containers/setAcl/action"),
    ("container", "PUT", "metadata"): ("set_container_metadata", "containers/write"),
    ("container", "PUT", "lease"): ("acquire_lease", "containers/lease/action"),
    ("container", "DELETE", ""): ("delete_container", "containers/delete"),
    ("container", "POST", "batch"): ("delete_blobs", "containers/blobs/delete"),
    ("blob", "PUT", ""): ("upload_blob", "containers/blobs/write"),
    ("blob", "PUT", "block"): ("stage_block", "containers/blobs/write"),
    ("blob", "PUT", "blocklist"): ("commit_block_list", "containers/blobs/write"),
    ("blob", "PUT", "appendblock"): ("append_block", "containers/blobs/write"),
    ("blob", "PUT", "page"): ("upload_page", "containers/blobs/write"),
    ("blob", "PUT", "metadata"): ("set_blob_metadata", "containers/blobs/write"),
    ("blob", "PUT", "properties"): ("set_http_headers", "containers/blobs/write"),
    ("blob", "PUT", "lease"): ("acquire_lease", "containers/blobs/write"),
    ("blob", "PUT", "tier"): ("set_standard_blob_tier", "containers/blobs/write"),
    ("blob", "PUT", "snapshot"): ("create_snapshot", "containers/blobs/write"),
    ("blob", "PUT", "undelete"): ("undelete_blob", "containers/blobs/write"),
    ("blob", "PUT", "tags"): ("set_blob_tags", "containers/blobs/tags/write"),
    ("blob", "GET", "tags"): ("get_blob_tags", "containers/blobs/tags/read"),
    ("blob", "GET", ""): ("download_blob", "containers/blobs/read"),
    ("blob", "GET", "blocklist"): ("get_block_list", "containers/blobs/read"),
    ("blob", "HEAD", ""): ("get_blob_properties", "containers/blobs/read"),
    ("blob", "DELETE", ""): ("delete_blob", "containers/blobs/delete"),
}
ERRORS = {
    "denied": (
        403,
        "AuthorizationPermissionMismatch",
        "This request is not authorized to perform this operation using this permission.",
    ),
    "throttled": (503, "ServerBusy", "The server is busy."),
    "busy": (
        412,
        "LeaseIdMissing",
        "There is currently a lease on the blob and no lease ID was specified in the request.",
    ),
    "error": (500, "InternalError", "The server encountered an internal error. Please retry the request."),
    "revoked": (
        403,
        "AuthenticationFailed",
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly "
        "including the signature.",
    ),
    "token": (
        401,
        "InvalidAuthenticationInfo",
        "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
    ),
    "nobody": (
        401,
        "NoAuthenticationInformation",
        "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
    ),
}


class Blob:
    """Blobs of some accounts.

    Args:
        entra: Issues the tokens.
        accounts: Names of the accounts.
        directory: Where blobs are kept.
    """

    name = "blob"

    def __init__(self, entra: Entra, accounts: list[str], directory: Path) -> None:
        """Start without containers."""
        self.keys = {account: base64.b64encode(secrets.token_bytes(64)).decode() for account in accounts}
        self.hosts = {account + DOMAIN for account in accounts}
        self._entra = entra
        self._azurite = Azurite(self.keys, directory)

    def operation(self, request: Request) -> Operation:
        """Tell what a request asks for."""
        container, _, blob = request.path.removeprefix("/").partition("/")
        scope = "blob" if blob else "container" if container else "service"
        method = str(request.method)
        method = "GET" if scope == "container" and method == "HEAD" else method
        named = OPERATIONS.get((scope, method, request.args.get("comp", "")), ("unknown", "unknown"))
        if "versionid" in request.args and named[0] == "delete_blob":
            named = ("delete_blob", "containers/blobs/deleteBlobVersion/action")
        target = f"{_account(request)}/{container}/{blob}".rstrip("/")
        return Operation("blob", ACTION + named[1], named[0], target, self._identity(request))

    def refusal(self, request: Request) -> Response | None:
        """Refuse who has no token that holds, and who has nothing; keys and signatures are Azurite's to look at."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not scheme and "sig" not in request.args:
            return None if request.method == "OPTIONS" else self._challenge("nobody")
        if scheme == "Bearer":
            try:
                self._entra.holder(token, RESOURCE)
            except jwt.InvalidTokenError:
                return self._challenge("token")
        return None

    def failure(self, kind: str, operation: Operation) -> Response:
        """Return an error as Blob Storage words it."""
        return _error(kind)

    def answer(self, request: Request, operation: Operation) -> Response:
        """Hand it on."""
        response = self._azurite.start().forward(request)
        if response.headers.get("x-ms-error-code") in ("AuthorizationFailure", "InvalidAuthenticationInfo"):
            response.close()
            return _error("revoked", request.method == "HEAD")
        return response

    def make_container(self, account: str, container: str) -> None:
        """Make a container, as ARM does; one that is there stays."""
        self._ask(self._azurite.start(), account, "PUT", f"/{container}?restype=container").close()

    def delete_container(self, account: str, container: str) -> bool:
        """Delete a container, and tell whether it was there."""
        deleted = self._ask(self._azurite.start(), account, "DELETE", f"/{container}?restype=container")
        deleted.close()
        return deleted.status_code == 202

    def containers(self, account: str) -> list[str]:
        """Return the names of an account's containers."""
        listed = self._ask(self._azurite.start(), account, "GET", "/?comp=list")
        return re.findall("<Name>([^<]+)</Name>", listed.get_data(as_text=True))

    def reset(self) -> None:
        """Forget all containers."""
        if self._azurite.running:
            for account in self.keys:
                for container in self.containers(account):
                    self.delete_container(account, container)

    def stop(self) -> None:
        """End the emulator."""
        self._azurite.stop()

    def _ask(self, emulator: Emulator, account: str, method: str, target: str) -> Response:
        token = self._entra.token(RESOURCE)
        headers = {"Host": account + DOMAIN, "x-ms-version": VERSION, "Authorization": f"Bearer {token}"}
        return emulator.ask(method, target, headers | {"Content-Length": "0"})

    def _identity(self, request: Request) -> str | None:
        scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Bearer":
            try:
                return self._entra.holder(rest, RESOURCE)
            except jwt.InvalidTokenError:
                return None
        if scheme == "SharedKey":
            return rest.partition(":")[0]
        return "signature" if "sig" in request.args else None

    def _challenge(self, reason: str) -> Response:
        response = _error(reason)
        where = f"https://{ENTRA}/{self._entra.tenant}/oauth2/authorize"
        response.headers["WWW-Authenticate"] = f"Bearer authorization_uri={where} resource_id={RESOURCE}"
        return response


def _account(request: Request) -> str:
    return request.host.partition(".")[0]


def _error(kind: str, head: bool = False) -> Response:
    status, code, message = ERRORS[kind]
    number = str(uuid.uuid4())
    text = escape(f"{message}\nRequestId:{number}\nTime:{time.strftime('%Y-%m-%dT%H:%M:%S.0000000Z', time.gmtime())}")
    body = f'\ufeff<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{text}</Message></Error>'
    response = Response(b"" if head else body.encode(), status, content_type="application/xml")
    response.headers["x-ms-error-code"] = code
    response.headers["x-ms-request-id"] = number
    return response
