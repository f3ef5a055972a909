"""Google's OAuth 2.0 token endpoint and the service accounts of IAM, as far as a store of objects needs them.

https://developers.google.com/identity/protocols/oauth2/service-account and
https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts. There is one project, with one service
account that may do anything in it, and those that IAM makes, whose rights are in the policies of buckets.

Different from Google, and left so: a token that has been given holds until it expires, whatever becomes of its account
(as it does there), but a new key or account holds at once; policies of the project, and scopes, are not looked at.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from werkzeug.wrappers import Request, Response

from testing.cloud.ledger import Operation
from testing.cloud.proxy import json_response

TOKEN_HOST = "oauth2.googleapis.com"  # noqa: S105
TOKEN_URL = f"https://{TOKEN_HOST}/token"
IAM_HOST = "iam.googleapis.com"
# Where clients ask, now and then and on the side, whether their account is bound to regions.
CREDENTIALS_HOST = "iamcredentials.googleapis.com"
PROJECT = "mlflow-test"
ADMIN = "admin"
TOKEN_SECONDS = 3599
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ACCOUNTS = rf"/v1/projects/(?:{PROJECT}|-)/serviceAccounts"


@dataclass
class Account:
    """A service account.

    Args:
        email: Its name.
        shown: Its display name and description.
    """

    email: str
    shown: dict[str, str]
    number: str = field(default_factory=lambda: str(10**20 + secrets.randbelow(10**20)))
    keys: dict[str, rsa.RSAPrivateKey] = field(default_factory=dict)
    disabled: bool = False

    @property
    def name(self) -> str:
        """Its name as a resource."""
        return f"projects/{PROJECT}/serviceAccounts/{self.email}"

    def new_key(self) -> tuple[str, str]:
        """Return the name of a new key, and the file by which a client has it."""
        number = secrets.token_hex(20)
        self.keys[number] = rsa.generate_private_key(65537, 2048)
        private = self.keys[number].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        content = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": number,
            "private_key": private.decode(),
            "client_email": self.email,
            "client_id": self.number,
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": TOKEN_URL,
            "universe_domain": "googleapis.com",
        }
        return f"{self.name}/keys/{number}", json.dumps(content, indent=2)

    def show(self) -> dict[str, Any]:
        """Return it as IAM does."""
        about = {"name": self.name, "projectId": PROJECT, "uniqueId": self.number, "email": self.email}
        return about | self.shown | {"oauth2ClientId": self.number, "etag": "MDEwMjE5MjA="}


class Accounts:
    """The service accounts of the project, and who has a token of which."""

    def __init__(self) -> None:
        """Start with the one that may do anything."""
        self._lock = threading.Lock()
        self._tokens: dict[str, tuple[str, float]] = {}
        self.admin = self._account(ADMIN, {"displayName": "May do anything"})
        self.admin_key = self.admin.new_key()[1]
        self._accounts = {self.admin.email: self.admin}

    @staticmethod
    def _account(name: str, shown: dict[str, str]) -> Account:
        return Account(f"{name}@{PROJECT}.iam.gserviceaccount.com", shown)

    def create(self, name: str, shown: dict[str, str]) -> Account | None:
        """Return a new account, None if there is one of the name."""
        with self._lock:
            account = self._account(name, shown)
            if account.email in self._accounts:
                return None
            self._accounts[account.email] = account
            return account

    def find(self, name: str) -> Account | None:
        """Return the account with an email or number."""
        with self._lock:
            return next((each for each in self._accounts.values() if name in (each.email, each.number)), None)

    def all(self) -> list[Account]:
        """Return all of them."""
        with self._lock:
            return list(self._accounts.values())

    def delete(self, account: Account) -> None:
        """Delete one."""
        with self._lock:
            self._accounts.pop(account.email, None)

    def reset(self) -> None:
        """Keep only the one that may do anything."""
        with self._lock:
            self._accounts = {self.admin.email: self.admin}

    def issue(self, email: str) -> str:
        """Return a new token of an account."""
        token = "ya29.c." + secrets.token_urlsafe(60)
        with self._lock:
            self._tokens[token] = (email, time.time() + TOKEN_SECONDS)
        return token

    def signer(self, assertion: str, audience: str) -> str:
        """Return the account that has signed something.

        Args:
            assertion: A JSON web token.
            audience: Whom it must be for.

        Raises:
            jwt.InvalidTokenError: None of ours has.
        """
        header = jwt.get_unverified_header(assertion)
        issuer = jwt.decode(assertion, options={"verify_signature": False}).get("iss", "")
        account = self.find(issuer)
        key = account.keys.get(header.get("kid", "")) if account and not account.disabled else None
        if account is None or key is None:
            raise jwt.InvalidTokenError(f"Invalid grant: account not found: {issuer}")
        jwt.decode(assertion, key.public_key(), algorithms=["RS256"], audience=audience)
        return account.email

    def holder(self, request: Request, audience: str) -> str | None:
        """Return the account whose token a request has; None if there is none or it does not hold."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        with self._lock:
            email, until = self._tokens.get(token, (None, 0.0))
        if scheme != "Bearer" or (email and until < time.time()):
            return None
        if email is None:
            try:
                # A client may sign its requests itself.
                return self.signer(token, audience)
            except jwt.InvalidTokenError:
                return None
        return email


@dataclass(frozen=True)
class TokenEndpoint:
    """Where clients exchange what they have signed for tokens.

    Args:
        accounts: All service accounts.
    """

    name: ClassVar[str] = "google-oauth"
    accounts: Accounts

    def operation(self, request: Request) -> Operation:
        """Tell what a request asks for."""
        identity = None
        with contextlib.suppress(jwt.InvalidTokenError):
            identity = jwt.decode(request.form.get("assertion", ""), options={"verify_signature": False}).get("iss")
        return Operation(self.name, "token", "token", request.path, identity)

    def refusal(self, request: Request) -> Response | None:
        """Refuse nobody: who asks is what the answer is about."""
        return None

    def failure(self, kind: str, operation: Operation) -> Response:
        """Return an error as Google words it."""
        if kind in ("denied", "revoked"):
            return _grant_error("invalid_grant", "Invalid JWT Signature.")
        if kind == "throttled":
            return _grant_error("rate_limit_exceeded", "Rate limit exceeded.", 429)
        return _grant_error("internal_failure", "Backend Error", 503)

    def answer(self, request: Request, operation: Operation) -> Response:
        """Give a token."""
        if request.method != "POST" or request.path != "/token":
            return Response(status=404)
        if request.form.get("grant_type") != GRANT:
            return _grant_error("unsupported_grant_type", f"Invalid grant_type: {request.form.get('grant_type')}")
        try:
            email = self.accounts.signer(request.form["assertion"], TOKEN_URL)
        except jwt.ExpiredSignatureError:
            return _grant_error("invalid_grant", "Invalid JWT: Token must be a short-lived token.")
        except jwt.InvalidSignatureError:
            return _grant_error("invalid_grant", "Invalid JWT Signature.")
        except jwt.InvalidTokenError as error:
            return _grant_error("invalid_grant", str(error))
        token = self.accounts.issue(email)
        return json_response({"access_token": token, "expires_in": TOKEN_SECONDS, "token_type": "Bearer"})

    def reset(self) -> None:
        """Keep the tokens."""


class ServiceAccounts:
    """IAM's API of service accounts.

    Args:
        accounts: All of them.
    """

    name = "google-iam"

    # HTTP method and what comes after the collection: the method of the API, the permission.
    ROUTES = (
        ("POST", "", "create", "iam.serviceAccounts.create"),
        ("GET", "", "list", "iam.serviceAccounts.list"),
        ("GET", "/([^/:]+)", "get", "iam.serviceAccounts.get"),
        ("PATCH", "/([^/:]+)", "patch", "iam.serviceAccounts.update"),
        ("DELETE", "/([^/:]+)", "delete", "iam.serviceAccounts.delete"),
        ("POST", "/([^/:]+):(?:enable|disable)", "able", "iam.serviceAccounts.update"),
        ("POST", "/([^/:]+)/keys", "create_key", "iam.serviceAccountKeys.create"),
        ("GET", "/([^/:]+)/keys", "list_keys", "iam.serviceAccountKeys.list"),
        ("GET", "/([^/:]+)/allowedLocations", "allowed_locations", "none"),
        ("DELETE", "/([^/:]+)/keys/([^/]+)", "delete_key", "iam.serviceAccountKeys.delete"),
    )

    def __init__(self, accounts: Accounts) -> None:
        """Keep what it is about."""
        self._accounts = accounts

    def operation(self, request: Request) -> Operation:
        """Tell what a request asks for."""
        identity = self._accounts.holder(request, f"https://{request.host.partition(':')[0]}/")
        for method, pattern, name, permission in self.ROUTES:
            if request.method == method and (match := re.fullmatch(ACCOUNTS + pattern, request.path)):
                target = "/".join(match.groups())
                return Operation(self.name, permission, name, target, identity)
        return Operation(self.name, "unknown", "unknown", request.path, identity)

    def refusal(self, request: Request) -> Response | None:
        """Refuse all but the one who may do anything."""
        operation = self.operation(request)
        if operation.identity is None:
            return error_response(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED")
        allowed = operation.action == "none" or operation.identity == self._accounts.admin.email
        return None if allowed else self.failure("denied", operation)

    def failure(self, kind: str, operation: Operation) -> Response:
        """Return an error as IAM words it."""
        if kind == "denied":
            text = f"Permission '{operation.action}' denied on resource (or it may not exist)."
            return error_response(403, text, "PERMISSION_DENIED")
        if kind == "revoked":
            return error_response(401, "Request had invalid authentication credentials.", "UNAUTHENTICATED")
        if kind == "throttled":
            return error_response(429, "Quota exceeded for quota metric 'Write requests'.", "RESOURCE_EXHAUSTED")
        if kind == "busy":
            return error_response(409, "There were concurrent policy changes.", "ABORTED")
        return error_response(503, "The service is currently unavailable.", "UNAVAILABLE")

    def answer(self, request: Request, operation: Operation) -> Response:
        """Do what is asked for."""
        name, _, key = operation.target.partition("/")
        body = request.get_json(silent=True) or {}
        if operation.method == "create":
            shown = body.get("serviceAccount") or {}
            if not re.fullmatch("[a-z][a-z0-9-]{4,28}[a-z0-9]", body.get("accountId", "")):
                return error_response(400, "Invalid service account id.", "INVALID_ARGUMENT")
            account = self._accounts.create(body["accountId"], shown)
            if account is None:
                text = f"Service account {body['accountId']} already exists within project projects/{PROJECT}."
                return error_response(409, text, "ALREADY_EXISTS")
            return json_response(account.show())
        if operation.method == "list":
            return json_response({"accounts": [account.show() for account in self._accounts.all()]})
        account = self._accounts.find(name)
        if account is None:
            return error_response(404, f"Unknown service account: {name}", "NOT_FOUND")
        return self._change(request, operation.method, account, key)

    def reset(self) -> None:
        """Forget all but the one who may do anything."""
        self._accounts.reset()

    def _change(self, request: Request, method: str, account: Account, key: str) -> Response:
        answer: dict[str, Any] = {}
        if method in ("get", "patch"):
            account.shown |= (request.get_json(silent=True) or {}).get("serviceAccount") or {}
            answer = account.show()
        elif method == "delete":
            self._accounts.delete(account)
        elif method == "allowed_locations":
            answer = {"locations": [], "encodedLocations": "0x0"}
        elif method == "able":
            account.disabled = request.path.endswith(":disable")
        elif method == "create_key":
            name, content = account.new_key()
            answer = {"name": name, "privateKeyData": base64.b64encode(content.encode()).decode()}
        elif method == "list_keys":
            answer = {"keys": [{"name": f"{account.name}/keys/{number}"} for number in account.keys]}
        elif account.keys.pop(key, None) is None:
            return error_response(404, f"Service account key {key} does not exist.", "NOT_FOUND")
        return json_response(answer)


def error_response(status: int, message: str, name: str) -> Response:
    """Return an error as Google's APIs have it."""
    return json_response({"error": {"code": status, "message": message, "status": name}}, status)


def _grant_error(error: str, text: str, status: int = 400) -> Response:
    return json_response({"error": error, "error_description": text}, status)
