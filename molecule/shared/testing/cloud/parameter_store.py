"""AWS Systems Manager Parameter Store: moto's, with what it lacks for a client that is careful.

Checked with moto 5.2.5 against https://docs.aws.amazon.com/systems-manager/latest/APIReference/. As in AWS:

- GetParameters takes at most 10 names, `name:label` and `name:version` among them, two of the same parameter too.
  What is not there (name, label or version) is in InvalidParameters, as it was asked for; it is not an error. The
  order of the answer is not the order of the question.
- LabelParameterVersion moves a label off the version that has it, in one call. Doing so again changes nothing.
- Labels may not begin with a digit, `aws` or `ssm` (they come back in InvalidLabels, with status 200); a version
  has at most 10.
- PutParameter without Overwrite refuses a name that is there: ParameterAlreadyExists. It returns the new version.
- The 101st version pushes out the oldest. When that has a label: ParameterMaxVersionLimitExceeded, nothing written.

Different in moto, and put right here:

- The answers have no Selector (`:label`, as asked): without it two versions of one parameter cannot be told apart.
- Signatures and keys are not checked: an unknown key is UnrecognizedClientException, a wrong secret is
  InvalidSignatureException.
- Overwriting without KeyId keeps the old key; AWS takes the default key (alias/aws/ssm) each time.
- A KMS key that does not exist is taken: InvalidKeyId. Those that exist here are KMS_KEYS.
- Concurrent writes lose versions, for moto has no lock: they are done one at a time. AWS may answer
  TooManyUpdates instead, which boto3 does not retry by itself: the fault `busy` does that.
- GetParameter says ParameterNotFound for a label that is not there: ParameterVersionNotFound.
"""

from __future__ import annotations

import io
import json
import threading
from dataclasses import dataclass, field
from typing import Any, ClassVar

from moto.moto_server.werkzeug_app import create_backend_app
from moto.ssm.models import ssm_backends
from werkzeug.wrappers import Request, Response

from testing.cloud.aws import ACCOUNT, Account, Unsigned, signed_by
from testing.cloud.client import REGION
from testing.cloud.ledger import Operation

HOST = f"ssm.{REGION}.amazonaws.com"
DEFAULT_KEY = "alias/aws/ssm"
KMS_KEYS = (DEFAULT_KEY, "alias/mlflow")


@dataclass(frozen=True)
class ParameterStore:
    """Parameter Store of one account with one user.

    Args:
        account: Knows the keys.
    """

    name: ClassVar[str] = "ssm"
    account: Account = field(default_factory=Account)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _moto: Any = field(default_factory=lambda: create_backend_app("ssm"))

    def operation(self, request: Request) -> Operation:
        """Tell what a request asks for."""
        method = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        body = _body(request)
        target = ",".join(body.get("Names") or [body.get("Name") or body.get("Path") or ""])
        return Operation("ssm", f"ssm:{method}", method, target, signed_by(request))

    def refusal(self, request: Request) -> Response | None:
        """Refuse an unknown key and a wrong signature, as https://docs.aws.amazon.com/IAM/latest/UserGuide/ says."""
        try:
            self.account.caller(request)
        except Unsigned as refused:
            if str(refused) != "SignatureDoesNotMatch":
                return _error("UnrecognizedClientException", "The security token included in the request is invalid.")
            message = "The request signature we calculated does not match the signature you provided. "
            message += "Check your AWS Secret Access Key and signing method. Consult the service documentation."
            return _error("InvalidSignatureException", message)
        return None

    def failure(self, kind: str, operation: Operation) -> Response:
        """Return an error as Parameter Store words it."""
        if kind == "denied":
            name = operation.target.split(",")[0].partition(":")[0]
            return _error(
                "AccessDeniedException",
                f"User: arn:aws:iam::{ACCOUNT}:user/mlflow is not authorized to perform: {operation.action} on "
                f"resource: arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/{name.lstrip('/')} because no identity-based "
                f"policy allows the {operation.action} action",
            )
        if kind == "throttled":
            return _error("ThrottlingException", "Rate exceeded")
        if kind == "busy":
            message = "There are concurrent updates for a resource that supports one update at a time."
            return _error("TooManyUpdates", message)
        return _error("InternalServerError", "An error occurred on the server side.", 500)

    def answer(self, request: Request, operation: Operation) -> Response:
        """Do what is asked for, one at a time."""
        body = _body(request)
        with self._lock:
            if operation.method == "GetParameters" and len(body["Names"]) <= 10:
                return self._get_parameters(request, body)
            if operation.method == "PutParameter" and body.get("Type") == "SecureString":
                body.setdefault("KeyId", DEFAULT_KEY)
                if body["KeyId"] not in KMS_KEYS:
                    return _error("InvalidKeyId", f"Alias arn:aws:kms:{REGION}:{ACCOUNT}:{body['KeyId']} is not found.")
            response = self._ask(request, body)
            if operation.method == "GetParameter":
                return self._with_selector(request, body, response)
            return response

    def reset(self) -> None:
        """Forget all parameters."""
        with self._lock:
            ssm_backends.reset()

    def _ask(self, request: Request, body: dict[str, Any]) -> Response:
        data = json.dumps(body).encode()
        given = {"wsgi.input": io.BytesIO(data), "CONTENT_LENGTH": str(len(data))}
        # Requests are cached in their environment, and what moto makes of it is not for the caller's.
        environ = {name: value for name, value in request.environ.items() if not name.startswith("werkzeug.")}
        return Response.from_app(self._moto, environ | given)

    def _get_parameters(self, request: Request, body: dict[str, Any]) -> Response:
        """Ask for each name by itself, because moto's answer does not tell which parameter was asked for how."""
        found: list[dict[str, Any]] = []
        invalid: list[str] = []
        for name in dict.fromkeys(body["Names"]):
            response = self._ask(request, body | {"Names": [name]})
            if response.status_code != 200:
                return response
            answer = json.loads(response.data)
            found += [_selected(parameter, name) for parameter in answer["Parameters"]]
            invalid += answer["InvalidParameters"]
        # Backwards, so that a client that takes the answer to be in the order of the question is found out.
        response.data = json.dumps({"Parameters": found[::-1], "InvalidParameters": invalid})
        return response

    def _with_selector(self, request: Request, body: dict[str, Any], response: Response) -> Response:
        name, _, selector = body["Name"].partition(":")
        answer = json.loads(response.data)
        if response.status_code == 200:
            response.data = json.dumps({"Parameter": _selected(answer["Parameter"], body["Name"])})
        elif selector and self._ask(request, body | {"Name": name}).status_code == 200:
            text = f"Systems Manager could not find version {selector} of {name}. Verify the version and try again."
            return _error("ParameterVersionNotFound", text)
        return response


def _selected(parameter: dict[str, Any], name: str) -> dict[str, Any]:
    _, colon, selector = name.partition(":")
    return parameter | ({"Selector": colon + selector} if selector else {})


def _body(request: Request) -> dict[str, Any]:
    return dict(json.loads(request.get_data() or b"{}"))


def _error(code: str, message: str, status: int = 400) -> Response:
    body = json.dumps({"__type": code, "message": message})
    return Response(body, status, content_type="application/x-amz-json-1.1")
