"""Who may do what in the AWS account of the cloud: keys, signatures and policies.

The account has one administrator, who may do anything, and whomever moto's IAM and STS have made: their keys, the
policies that they carry and the policies of buckets are held to here, because moto takes a statement whose condition
is not met for a denial, and knows nothing of the conditions that buckets are protected with.

Different from AWS: of conditions only CONDITIONS, with the keys that `context` in s3.py gives; a statement with any
other is taken not to apply. No permission boundaries, session policies or organisations.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.iam import access_control
from werkzeug.wrappers import Request

ACCOUNT = "123456789012"
PARTITION = "aws"

CONDITIONS: dict[str, Callable[[str, str], bool]] = {
    "Bool": lambda given, wanted: given.lower() == wanted.lower(),
    "StringEquals": lambda given, wanted: given == wanted,
    "StringLike": lambda given, wanted: _matches(wanted, given),
    "StringNotEquals": lambda given, wanted: given != wanted,
    "NumericLessThan": lambda given, wanted: float(given) < float(wanted),
}


@dataclass(frozen=True)
class Caller:
    """Somebody whose signature is right.

    Args:
        arn: Name of the user or of the role's session.
        policies: Documents that say what is allowed; None for who may do anything.
    """

    arn: str
    policies: tuple[dict[str, Any], ...] | None


class Unsigned(Exception):
    """A request that nobody has signed; the argument is InvalidAccessKeyId, SignatureDoesNotMatch, …."""


@dataclass(frozen=True)
class Account:
    """The account.

    Args:
        key_id: The administrator's access key id.
        secret_key: The secret that goes with it.
    """

    # The same for every cloud: boto3 keeps the key that it found first for as long as its process lives.
    key_id: str = "AKIA" + hashlib.sha256(ACCOUNT.encode()).hexdigest()[:16].upper()
    secret_key: str = hashlib.sha512(ACCOUNT.encode()).hexdigest()[:40]

    def caller(self, request: Request) -> Caller:
        """Return who has signed a request.

        Raises:
            Unsigned: Nobody; the argument is S3's code for the reason.
        """
        query = "X-Amz-Signature" in request.args
        given = dict(request.args.items()) if query else authorization(request)
        if not given:
            raise Unsigned("AccessDenied")
        names = {name: given.get(f"X-Amz-{name}" if query else name, "") for name in ("Credential", "SignedHeaders")}
        key_id, _, scope = names["Credential"].partition("/")
        caller, credentials = self._find(key_id, request, query)
        signature = given.get("X-Amz-Signature" if query else "Signature", "")
        if not secrets.compare_digest(
            _signature(request, credentials, scope, names["SignedHeaders"], query), signature
        ):
            raise Unsigned("SignatureDoesNotMatch")
        if query:
            _check_time(given)
        return caller

    def _find(self, key_id: str, request: Request, query: bool) -> tuple[Caller, Credentials]:
        if key_id == self.key_id:
            return Caller(f"arn:aws:iam::{ACCOUNT}:user/admin", None), Credentials(key_id, self.secret_key)
        token = request.args.get("X-Amz-Security-Token") if query else request.headers.get("X-Amz-Security-Token")
        headers = {"X-Amz-Security-Token": token} if token else {}
        try:
            key = access_control.create_access_key(ACCOUNT, PARTITION, key_id, headers)
        except access_control.CreateAccessKeyFailure as error:
            reason = {"InvalidToken": "InvalidToken"}.get(error.reason, "InvalidAccessKeyId")
            raise Unsigned(reason) from None
        documents = [access_control.IAMPolicy(policy)._policy_json for policy in key.collect_policies()]
        return Caller(key.arn, tuple(documents)), key.create_credentials()


def may(
    caller: Caller | None, action: str, resource: str, context: dict[str, str], policy: dict[str, Any] | None = None
) -> bool:
    """Tell whether somebody may do something.

    Args:
        caller: Who; None for anybody.
        action: The permission.
        resource: ARN of what it is about.
        context: Condition keys, in small letters, with their values.
        policy: That of the resource.
    """
    own = [
        statement["Effect"]
        for document in (caller.policies if caller and caller.policies is not None else ())
        for statement in _statements(document)
        if _applies(statement, action, resource, context)
    ]
    theirs = [
        statement["Effect"]
        for statement in _statements(policy or {})
        if _names(statement.get("Principal"), caller) and _applies(statement, action, resource, context)
    ]
    allowed = "Allow" in own + theirs or (caller is not None and caller.policies is None)
    return allowed and "Deny" not in own + theirs


def authorization(request: Request) -> dict[str, str]:
    """Return the parts of a request's Authorization header."""
    parts = request.headers.get("Authorization", "").partition(" ")[2].split(",")
    return dict(part.strip().split("=", 1) for part in parts if "=" in part)


def signed_by(request: Request) -> str | None:
    """Return the access key id that a request names."""
    named = request.args.get("X-Amz-Credential") or authorization(request).get("Credential", "")
    return named.partition("/")[0] or request.args.get("AWSAccessKeyId")


def _signature(request: Request, credentials: Credentials, scope: str, signed: str, query: bool) -> str:
    _, region, service, *_ = [*scope.split("/"), "", "", ""]
    url = f"https://{request.host}{request.environ['RAW_URI']}"
    headers = {name: request.headers.get(name, "") for name in signed.split(";")}
    if query:
        # As it came: what is encoded in another way is signed in another way.
        parts = urlsplit(url)
        kept = [part for part in parts.query.split("&") if not part.startswith("X-Amz-Signature=")]
        url = parts._replace(query="&".join(kept)).geturl()
    data = b"" if service == "s3" else request.get_data()
    signer: SigV4Auth
    if service != "s3":
        signer = SigV4Auth(credentials, service, region)
    elif query:
        signer = S3SigV4QueryAuth(credentials, service, region)
    else:
        signer = S3SigV4Auth(credentials, service, region)
    as_signed = AWSRequest(str(request.method), url, headers=headers, data=data)
    stamp = request.args.get("X-Amz-Date") if query else request.headers.get("X-Amz-Date")
    as_signed.context["timestamp"] = stamp or ""
    text = signer.string_to_sign(as_signed, signer.canonical_request(as_signed))
    return str(signer.signature(text, as_signed))


def _check_time(given: dict[str, str]) -> None:
    start = datetime.datetime.strptime(given["X-Amz-Date"], "%Y%m%dT%H%M%S%z")
    if datetime.datetime.now(datetime.UTC) > start + datetime.timedelta(seconds=int(given["X-Amz-Expires"])):
        raise Unsigned("Expired")


def _statements(policy: dict[str, Any]) -> Iterable[dict[str, Any]]:
    found = policy.get("Statement") or []
    return [found] if isinstance(found, dict) else found


def _names(principal: Any, caller: Caller | None) -> bool:
    if principal == "*":
        return True
    names = (principal or {}).get("AWS") or []
    names = [names] if isinstance(names, str) else names
    whom = caller.arn if caller else ""
    # A role is named by its ARN, and acts as a session of it.
    role = re.sub(r":sts:(.*):assumed-role/([^/]+)/.*", r":iam:\1:role/\2", whom)
    return "*" in names or (
        caller is not None and bool({whom, role, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root"} & set(names))
    )


def _applies(statement: dict[str, Any], action: str, resource: str, context: dict[str, str]) -> bool:
    for name, value, fold in (("Action", action.lower(), True), ("Resource", resource, False)):
        patterns = statement.get(name, statement.get(f"Not{name}", []))
        patterns = [patterns] if isinstance(patterns, str) else patterns
        matching = any(_matches(pattern.lower() if fold else pattern, value) for pattern in patterns)
        if matching == (f"Not{name}" in statement):
            return False
    for kind, wanted in (statement.get("Condition") or {}).items():
        test = CONDITIONS.get(kind.removesuffix("IfExists"))
        for key, values in wanted.items():
            given = context.get(key.lower())
            values = [values] if isinstance(values, str | bool | int | float) else values
            if given is None and (kind.endswith("IfExists") or kind.startswith("StringNot")):
                continue
            combine = all if kind.startswith("StringNot") else any
            if given is None or test is None or not combine(test(given, str(value)) for value in values):
                return False
    return True


def _matches(pattern: str, text: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(character, re.escape(character)) for character in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None
