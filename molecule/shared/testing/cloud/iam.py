"""IAM and STS of the account, by moto: users, roles, policies, instance profiles, and who one is.

Different in moto, and put right here: keys, signatures and policies are checked (see aws.py); an unknown key is
InvalidClientTokenId, a wrong secret SignatureDoesNotMatch. Whether a role may be assumed is left to its own trust
policy, which moto does not check: whoever may do sts:AssumeRole gets it. Different from AWS, and left so: a change of
a policy holds at once, and the session of a role never ends.
"""

from __future__ import annotations

import io
import secrets
import threading
from typing import Any
from xml.sax.saxutils import escape

from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import create_backend_app
from moto.sts.models import sts_backends
from werkzeug.wrappers import Request, Response

from testing.cloud.aws import ACCOUNT, Account, Unsigned, may, signed_by
from testing.cloud.client import REGION
from testing.cloud.ledger import Operation

IAM_HOSTS = ("iam.amazonaws.com",)
STS_HOSTS = (f"sts.{REGION}.amazonaws.com", "sts.amazonaws.com")
ERRORS = {
    "AccessDenied": (403, "User is not authorized to perform: {action}"),
    "InvalidClientTokenId": (403, "The security token included in the request is invalid."),
    "InternalFailure": (500, "The request processing has failed because of an unknown error."),
    "ConcurrentModification": (409, "Another request to change the same resource is in progress."),
    "SignatureDoesNotMatch": (
        403,
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
        "Key and signing method. Consult the service documentation for details.",
    ),
    "Throttling": (400, "Rate exceeded"),
}
FAULTS = {
    "denied": "AccessDenied",
    "throttled": "Throttling",
    "busy": "ConcurrentModification",
    "error": "InternalFailure",
    "revoked": "InvalidClientTokenId",
}


class QueryService:
    """A service of AWS whose requests are forms.

    Args:
        name: iam or sts.
        account: Knows who may do what.
    """

    def __init__(self, name: str, account: Account) -> None:
        """Start with nothing but the administrator."""
        self.name = name
        self._account = account
        self._lock = threading.Lock()
        self._moto: Any = create_backend_app(name)  # type: ignore[arg-type]

    def operation(self, request: Request) -> Operation:
        """Tell what a request asks for."""
        # Read first: a form that has been parsed has no data to be signed.
        request.get_data(cache=True)
        action = request.form.get("Action", "")
        about = ("RoleName", "UserName", "PolicyName", "PolicyArn", "InstanceProfileName", "RoleArn")
        target = ",".join(request.form[name] for name in about if name in request.form)
        return Operation(self.name, f"{self.name}:{action}", action, target, signed_by(request))

    def refusal(self, request: Request) -> Response | None:
        """Refuse who is not known, and who may not do what he asks for."""
        action = self.operation(request).action
        try:
            caller = self._account.caller(request)
            if action != "sts:GetCallerIdentity" and not may(caller, action, "*", {"aws:securetransport": "true"}):
                raise Unsigned("AccessDenied")
        except Unsigned as refused:
            code = {"InvalidAccessKeyId": "InvalidClientTokenId", "InvalidToken": "InvalidClientTokenId"}
            return _error(code.get(str(refused), str(refused)), action)
        return None

    def failure(self, kind: str, operation: Operation) -> Response:
        """Return an error as AWS words it."""
        return _error(FAULTS[kind], operation.action)

    def answer(self, request: Request, operation: Operation) -> Response:
        """Do what is asked for, one at a time."""
        if operation.method == "GetCallerIdentity":
            arn = self._account.caller(request).arn
            return _xml(
                f'<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
                f"<Arn>{arn}</Arn><UserId>{operation.identity}</UserId><Account>{ACCOUNT}</Account>"
                f"</GetCallerIdentityResult></GetCallerIdentityResponse>",
                200,
            )
        environ = {name: value for name, value in request.environ.items() if not name.startswith("werkzeug.")}
        with self._lock:
            given = {"wsgi.input": io.BytesIO(request.get_data())}
            return Response.from_app(self._moto, environ | given)

    def reset(self) -> None:
        """Forget users, roles and policies."""
        with self._lock:
            (iam_backends if self.name == "iam" else sts_backends).reset()


def _error(code: str, action: str) -> Response:
    status, text = ERRORS[code]
    message = escape(text.format(action=action))
    body = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    return _xml(f"{body}<RequestId>{secrets.token_hex(16)}</RequestId></ErrorResponse>", status)


def _xml(body: str, status: int) -> Response:
    return Response(body, status, content_type="text/xml")
