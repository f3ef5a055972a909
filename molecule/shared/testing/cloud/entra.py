"""Microsoft Entra ID, as far as a service principal with a secret needs it.

Endpoints and answers: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow and
https://learn.microsoft.com/entra/identity-platform/reference-error-codes (AADSTS numbers).
"""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import ClassVar

import jwt
from werkzeug.wrappers import Request, Response

from testing.cloud.ledger import Operation
from testing.cloud.proxy import json_response

HOST = "login.microsoftonline.com"
TOKEN_SECONDS = 3599
# Status, OAuth error and AADSTS text of what can go wrong; the numbers are what clients and operators search for.
ERRORS = {
    "denied": (401, "invalid_client", "7000222: The provided client secret keys for app '{app}' are expired."),
    "throttled": (429, "temporarily_unavailable", "90055: Server is terminating connection due to too many requests."),
    "busy": (503, "temporarily_unavailable", "90033: A transient error has occurred. Please try again."),
    "error": (503, "temporarily_unavailable", "90033: A transient error has occurred. Please try again."),
    "secret": (
        401,
        "invalid_client",
        "7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret "
        "value, not the client secret ID, for a secret added to app '{app}'.",
    ),
    "app": (400, "unauthorized_client", "700016: Application with identifier '{app}' was not found in the directory."),
    "scope": (400, "invalid_scope", "70011: The provided request must include a 'scope' input parameter."),
    "tenant": (400, "invalid_tenant", "90002: Tenant not found. Check to make sure you have the correct tenant ID."),
    "instance": (400, "invalid_instance", "50049: Unknown or invalid instance."),
    "grant": (400, "unsupported_grant_type", "70003: The app requested an unsupported grant type."),
}


@dataclass(frozen=True)
class Entra:
    """A tenant with one application.

    Args:
        tenant: Its id.
        client: Id of the application.
        client_secret: Secret of the application.
        principal: Object id of the application's service principal, which roles are assigned to.
    """

    # The same for every cloud: the SDK keeps the tenant of a vault for as long as its process lives.
    tenant: str = str(uuid.uuid5(uuid.NAMESPACE_DNS, HOST))
    client: str = field(default_factory=lambda: str(uuid.uuid4()))
    client_secret: str = field(default_factory=lambda: secrets.token_urlsafe(30))
    principal: str = field(default_factory=lambda: str(uuid.uuid4()))
    name: ClassVar[str] = "entra"
    _key: str = field(default_factory=lambda: secrets.token_hex(32))

    @property
    def issuer(self) -> str:
        """Who signs the tokens."""
        return f"https://sts.windows.net/{self.tenant}/"

    def holder(self, token: str, resource: str | list[str]) -> str:
        """Return the client id that a token was issued to.

        Args:
            token: The token, as a client presents it.
            resource: What it must have been issued for; any of several.

        Raises:
            jwt.InvalidTokenError: It is not ours, has expired or is for something else.
        """
        claims = jwt.decode(token, self._key, algorithms=["HS256"], audience=resource, issuer=self.issuer)
        return str(claims["appid"])

    def token(self, resource: str) -> str:
        """Return a token of the application for a resource."""
        now = int(time.time())
        about = {
            "iss": self.issuer,
            "aud": resource,
            "appid": self.client,
            "oid": self.principal,
            "sub": self.principal,
        }
        times = {"iat": now, "nbf": now, "exp": now + TOKEN_SECONDS}
        return jwt.encode({**about, **times, "tid": self.tenant, "ver": "1.0"}, self._key, algorithm="HS256")

    def operation(self, request: Request) -> Operation:
        """Tell what a request asks for."""
        method = request.path.rpartition("/")[2]
        return Operation("entra", method, method, request.path, request.form.get("client_id"))

    def refusal(self, request: Request) -> Response | None:
        """Refuse nobody: who asks is what the answer is about."""
        return None

    def failure(self, kind: str, operation: Operation) -> Response:
        """Return an error as Entra words it."""
        status, error, text = ERRORS[kind]
        # The client's log-in library caches an error that has no Retry-After, and repeats it to itself for a minute.
        headers = {"Retry_After": "1"} if status in (429, 503) else {}
        text = text.format(app=operation.identity)
        trace = f"Trace ID: {uuid.uuid4()} Correlation ID: {uuid.uuid4()} Timestamp: {time.strftime('%Y-%m-%d %XZ')}"
        body = {"error": error, "error_description": f"AADSTS{text} {trace}"}
        return json_response(body | {"error_codes": [int(text.partition(":")[0])]}, status, **headers)

    def answer(self, request: Request, operation: Operation) -> Response:
        """Answer instance discovery, the metadata of the tenant, and requests for tokens."""
        if request.path == "/common/discovery/instance":
            _, _, host, tenant, *_ = request.args["authorization_endpoint"].split("/")
            network = {"preferred_network": HOST, "preferred_cache": "login.windows.net"}
            aliases = [HOST, "login.windows.net", "login.microsoft.com", "sts.windows.net"]
            if host not in aliases:
                return self.failure("instance", operation)
            return json_response(
                {
                    "tenant_discovery_endpoint": f"https://{HOST}/{tenant}/v2.0/.well-known/openid-configuration",
                    "api-version": "1.1",
                    "metadata": [network | {"aliases": aliases}],
                }
            )
        if request.path.strip("/").split("/")[0] != self.tenant:
            return self.failure("tenant", operation)
        if request.path.endswith("/v2.0/.well-known/openid-configuration"):
            base = f"https://{HOST}/{self.tenant}"
            return json_response(
                {
                    "issuer": f"{base}/v2.0",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                    "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                    "jwks_uri": f"{base}/discovery/v2.0/keys",
                }
            )
        if request.method == "POST" and request.path.endswith("/oauth2/v2.0/token"):
            return self._token(request, operation)
        return Response(status=404)

    def reset(self) -> None:
        """Keep tenant and application: a client has no reason to lose them."""

    def _token(self, request: Request, operation: Operation) -> Response:
        form = request.form
        scopes = [scope for scope in form.get("scope", "").split() if scope.endswith("/.default")]
        for wrong, reason in (
            (form.get("grant_type") != "client_credentials", "grant"),
            (form.get("client_id") != self.client, "app"),
            (not secrets.compare_digest(form.get("client_secret", ""), self.client_secret), "secret"),
            (len(scopes) != 1, "scope"),
        ):
            if wrong:
                return self.failure(reason, operation)
        token = self.token(scopes[0].removesuffix("/.default"))
        life = {"expires_in": TOKEN_SECONDS, "ext_expires_in": TOKEN_SECONDS}
        return json_response({"token_type": "Bearer", "access_token": token} | life)
