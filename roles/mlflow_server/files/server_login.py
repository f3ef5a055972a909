"""Rejects requests whose headers MLflow's login cannot read, before MLflow reads them.

MLflow takes the user name and the password from an `Authorization` header of any scheme, and fails with status 500 if
the scheme is not Basic. It reads the header `X-MLFLOW-WORKSPACE` before it asks for a login, and fails with status 500
if workspaces are off.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

# The types of ASGI: https://asgi.readthedocs.io/en/latest/specs/www.html
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

WORKSPACE_HEADER = b"x-mlflow-workspace"
DEFAULT_WORKSPACE = b"default"
CHALLENGE = (b"www-authenticate", b'Basic realm="mlflow"')
# As MLflow's own answer to a request without a login has it.
NOT_AUTHENTICATED = b"You are not authenticated."
NO_WORKSPACES = json.dumps(
    {
        "error_code": "FEATURE_DISABLED",
        "message": "The header X-MLFLOW-WORKSPACE names a workspace; the site has none.",
    }
).encode()


def values_of(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of all headers of a name, given in lower case."""
    return [value for each, value in headers if each.lower() == name]


def has_readable_login(headers: Headers) -> bool:
    """Return whether the login is one user name and one password in the scheme Basic (RFC 7617).

    Args:
        headers: The headers of a request that has at least one `Authorization` header.
    """
    values = values_of(headers, b"authorization")
    scheme, _, encoded = values[0].strip().partition(b" ")
    if len(values) != 1 or scheme.lower() != b"basic":
        return False
    try:
        login = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    user, separator, _ = login.partition(":")
    return bool(user and separator) and "\0" not in login


@dataclass(frozen=True)
class CheckHeaders:
    """ASGI middleware that rejects requests whose login or workspace cannot be read.

    Args:
        app: The application to call.
        has_workspaces: Whether MLflow's workspaces are on, so that MLflow reads their header itself.
    """

    app: Callable[[Message, Receive, Send], Awaitable[None]]
    has_workspaces: bool = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "http":
            rejection = self._rejection(scope["headers"])
            if rejection:
                await _answer(send, *rejection)
                return
            if not self.has_workspaces:
                # The default workspace is all there is, so the header says nothing.
                headers = [each for each in scope["headers"] if each[0].lower() != WORKSPACE_HEADER]
                scope = scope | {"headers": headers}
        await self.app(scope, receive, send)

    def _rejection(self, headers: Headers) -> tuple[int, bytes] | None:
        """Return status and body of the answer to a request that is rejected, or None."""
        has_login = bool(values_of(headers, b"authorization"))
        if has_login and not has_readable_login(headers):
            return 401, NOT_AUTHENTICATED
        named = [value.strip() for value in values_of(headers, WORKSPACE_HEADER)]
        if self.has_workspaces or all(name in (b"", DEFAULT_WORKSPACE) for name in named):
            return None
        return (400, NO_WORKSPACES) if has_login else (401, NOT_AUTHENTICATED)


async def _answer(send: Send, status: int, body: bytes) -> None:
    """Send a whole answer."""
    kind = b"application/json" if body.startswith(b"{") else b"text/plain; charset=utf-8"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    headers += [CHALLENGE] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
