"""S3, as https://docs.aws.amazon.com/AmazonS3/latest/API/ and …/userguide/ describe it, by moto.

Buckets are found host-style and path-style, in one region. As moto has them: versions, multipart uploads, lifecycle,
encryption, public access block, policies, CORS, tags. Different in moto, and put right here:

- Nothing is checked. A request without a signature is refused as AccessDenied, unless the bucket's policy allows it;
  an unknown key is InvalidAccessKeyId, a wrong secret SignatureDoesNotMatch, in headers and in presigned URLs, and a
  presigned URL that has expired is AccessDenied. Users and roles that IAM has made may do what their policies and the
  bucket's say (see aws.py), which a request for another region than the bucket's does not even get to.
- Bodies: Content-MD5, x-amz-content-sha256 and the checksums of SDKs (as header or trailer) are compared with what
  came, and a difference is BadDigest or XAmzContentSHA256Mismatch. Fewer bytes than announced are IncompleteBody.
- Objects are not held in memory (see s3_objects.py).
- An object that is not there is AccessDenied, not NoSuchKey, for who may not list the bucket.
- ExpectedBucketOwner is compared with the account: AccessDenied.
- What a preflight asks for is compared with the bucket's CORS rules; moto tells the rules to anybody.

Different from S3, and left so:

- Default encryption is shown and nothing is encrypted; KMS keys are not looked for. Lifecycle rules are kept and
  never carried out. Public access block is kept and not enforced. CRC64NVME is not computed, nor sent by default.
- No latency, no throttling unless asked for, no eventual consistency of policies. Access of a copy to its source, and
  the permissions for tags or ACLs that come with an object, are not asked for: `action` names one permission.
- Signatures of the single chunks of an upload (SDKs use them over plain http only) are not compared.
- Listing gives everything that moto has: at most 1,000 keys a page as in S3.
"""

from __future__ import annotations

import base64
import io
import json
import re
import secrets
import threading
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, unescape

from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import s3_backends
from werkzeug.wrappers import Request, Response

from testing.cloud import s3_objects
from testing.cloud.aws import ACCOUNT, PARTITION, Account, Caller, Unsigned, authorization, may, signed_by
from testing.cloud.client import REGION
from testing.cloud.content import HASHES, Content
from testing.cloud.ledger import Operation

HOST = re.compile(rf"(?:(?P<bucket>[a-z0-9][a-z0-9.-]+)\.)?s3(?:\.{REGION})?\.amazonaws\.com")
HOSTS = (f"s3.{REGION}.amazonaws.com", "s3.amazonaws.com")
MAX_PUT = 5 * 1024**3
LET_IN = f"AWS4-HMAC-SHA256 Credential=-/20260101/{REGION}/s3/aws4_request, SignedHeaders=host, Signature=-"

# Of requests for a bucket: what the query names; the permission and the client library's method for GET, PUT, DELETE.
BUCKET = {
    "acl": ("GetBucketAcl get_bucket_acl", "PutBucketAcl put_bucket_acl", ""),
    "cors": ("GetBucketCORS get_bucket_cors", "PutBucketCORS put_bucket_cors", "PutBucketCORS delete_bucket_cors"),
    "encryption": (
        "GetEncryptionConfiguration get_bucket_encryption",
        "PutEncryptionConfiguration put_bucket_encryption",
        "PutEncryptionConfiguration delete_bucket_encryption",
    ),
    "lifecycle": (
        "GetLifecycleConfiguration get_bucket_lifecycle_configuration",
        "PutLifecycleConfiguration put_bucket_lifecycle_configuration",
        "PutLifecycleConfiguration delete_bucket_lifecycle",
    ),
    "location": ("GetBucketLocation get_bucket_location", "", ""),
    "logging": ("GetBucketLogging get_bucket_logging", "PutBucketLogging put_bucket_logging", ""),
    "notification": (
        "GetBucketNotification get_bucket_notification_configuration",
        "PutBucketNotification put_bucket_notification_configuration",
        "",
    ),
    "object-lock": (
        "GetBucketObjectLockConfiguration get_object_lock_configuration",
        "PutBucketObjectLockConfiguration put_object_lock_configuration",
        "",
    ),
    "ownershipControls": (
        "GetBucketOwnershipControls get_bucket_ownership_controls",
        "PutBucketOwnershipControls put_bucket_ownership_controls",
        "PutBucketOwnershipControls delete_bucket_ownership_controls",
    ),
    "policy": (
        "GetBucketPolicy get_bucket_policy",
        "PutBucketPolicy put_bucket_policy",
        "DeleteBucketPolicy delete_bucket_policy",
    ),
    "policyStatus": ("GetBucketPolicyStatus get_bucket_policy_status", "", ""),
    "publicAccessBlock": (
        "GetBucketPublicAccessBlock get_public_access_block",
        "PutBucketPublicAccessBlock put_public_access_block",
        "PutBucketPublicAccessBlock delete_public_access_block",
    ),
    "replication": (
        "GetReplicationConfiguration get_bucket_replication",
        "PutReplicationConfiguration put_bucket_replication",
        "PutReplicationConfiguration delete_bucket_replication",
    ),
    "requestPayment": (
        "GetBucketRequestPayment get_bucket_request_payment",
        "PutBucketRequestPayment put_bucket_request_payment",
        "",
    ),
    "tagging": (
        "GetBucketTagging get_bucket_tagging",
        "PutBucketTagging put_bucket_tagging",
        "PutBucketTagging delete_bucket_tagging",
    ),
    "uploads": ("ListBucketMultipartUploads list_multipart_uploads", "", ""),
    "versioning": (
        "GetBucketVersioning get_bucket_versioning",
        "PutBucketVersioning put_bucket_versioning",
        "",
    ),
    "versions": ("ListBucketVersions list_object_versions", "", ""),
    "website": (
        "GetBucketWebsite get_bucket_website",
        "PutBucketWebsite put_bucket_website",
        "DeleteBucketWebsite delete_bucket_website",
    ),
    "": ("ListBucket list_objects_v2", "CreateBucket create_bucket", "DeleteBucket delete_bucket"),
}
# Of requests for an object, the same.
OBJECT = {
    "acl": ("GetObjectAcl get_object_acl", "PutObjectAcl put_object_acl", ""),
    "attributes": ("GetObjectAttributes get_object_attributes", "", ""),
    "legal-hold": (
        "GetObjectLegalHold get_object_legal_hold",
        "PutObjectLegalHold put_object_legal_hold",
        "",
    ),
    "retention": ("GetObjectRetention get_object_retention", "PutObjectRetention put_object_retention", ""),
    "tagging": (
        "GetObjectTagging get_object_tagging",
        "PutObjectTagging put_object_tagging",
        "DeleteObjectTagging delete_object_tagging",
    ),
    "uploadId": (
        "ListMultipartUploadParts list_parts",
        "PutObject upload_part",
        "AbortMultipartUpload abort_multipart_upload",
    ),
    "versionId": ("GetObjectVersion get_object", "", "DeleteObjectVersion delete_object"),
    "": ("GetObject get_object", "PutObject put_object", "DeleteObject delete_object"),
}
ERRORS = {
    "AccessDenied": (403, "Access Denied"),
    "AuthorizationHeaderMalformed": (400, f"The region in the authorization header is wrong; expecting '{REGION}'"),
    "BadDigest": (400, "The Content-MD5 or checksum value that you specified did not match what the server received."),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed object size."),
    "Expired": (403, "Request has expired"),
    "IncompleteBody": (400, "You did not provide the number of bytes specified by the Content-Length HTTP header"),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (403, "The AWS Access Key Id you provided does not exist in our records."),
    "InvalidRequest": (400, "The authorization mechanism you have provided is not supported. Please use "
                       "AWS4-HMAC-SHA256."),
    "InvalidToken": (400, "The provided token is malformed or otherwise invalid."),
    "NoSuchUpload": (404, "The specified upload does not exist. The upload ID may be invalid, or the upload may have "
                     "been aborted or completed."),
    "OperationAborted": (409, "A conflicting conditional operation is currently in progress against this resource. "
                         "Please try again."),
    "SignatureDoesNotMatch": (403, "The request signature we calculated does not match the signature you provided. "
                              "Check your key and signing method."),
    "SlowDown": (503, "Please reduce your request rate."),
    "XAmzContentSHA256Mismatch": (400, "The provided 'x-amz-content-sha256' header does not match what was computed."),
}  # fmt: skip
FAULTS = {
    "throttled": "SlowDown",
    "busy": "OperationAborted",
    "error": "InternalError",
    "revoked": "InvalidAccessKeyId",
}


class _Refused(Exception):
    """An answer that is an error; the argument is its code."""


class S3:
    """S3 of the account.

    Args:
        account: Knows who may do what.
        directory: Where large objects are kept.
    """

    name = "s3"

    def __init__(self, account: Account, directory: Path) -> None:
        """Start without buckets."""
        s3_objects.install()
        self._account = account
        self._directory = directory
        self._lock = threading.Lock()
        self._moto: Any = create_backend_app("s3")

    def operation(self, request: Request) -> Operation:
        """Tell what a request asks for."""
        bucket, key = _place(request)
        action, method = _meant(request, bucket, key)
        return Operation("s3", action, method, f"{bucket}/{key}" if key else bucket, signed_by(request))

    def refusal(self, request: Request) -> Response | None:
        """Refuse who is not known, and who may not do what he asks for."""
        if request.method == "OPTIONS":
            return None
        bucket, key = _place(request)
        stored = self._bucket(bucket)
        try:
            region = authorization(request).get("Credential", "/////").split("/")[2]
            if stored and region not in ("", stored.region_name):
                raise _Refused("AuthorizationHeaderMalformed")
            caller: Caller | None = None
            if request.headers.get("Authorization", "").startswith("AWS ") or "AWSAccessKeyId" in request.args:
                raise _Refused("InvalidRequest")
            if "Authorization" in request.headers or "X-Amz-Signature" in request.args:
                caller = self._account.caller(request)
            action = _meant(request, bucket, key)[0]
            if request.headers.get("X-Amz-Expected-Bucket-Owner", ACCOUNT) != ACCOUNT:
                raise _Refused("AccessDenied")
            resource = f"arn:aws:s3:::{bucket or '*'}" + (f"/{key}" if key else "")
            policy = json.loads(stored.policy) if stored and stored.policy else None
            for each in [f"{resource}/{name}" for name in _deleted(request, key)] or [resource]:
                if not may(caller, action, each, _context(request), policy):
                    raise _Refused("AccessDenied")
            # Who may not list a bucket is not told what it does not have.
            lists = may(caller, "s3:ListBucket", f"arn:aws:s3:::{bucket}", _context(request), policy)
            if stored and key and not lists and action.startswith("s3:GetObject") and stored.keys.get(key) is None:
                raise _Refused("AccessDenied")
        except (_Refused, Unsigned) as refused:
            return _error(str(refused), request)
        return None

    def failure(self, kind: str, operation: Operation) -> Response:
        """Return an error as S3 words it."""
        if kind == "denied":
            text = f"User: arn:aws:iam::{ACCOUNT}:user/mlflow is not authorized to perform: {operation.action} on "
            text += f'resource: "arn:aws:s3:::{operation.target}" because no identity-based policy allows the '
            return _error("AccessDenied", None, f"{text}{operation.action} action")
        return _error(FAULTS[kind], None)

    def answer(self, request: Request, operation: Operation) -> Response:
        """Do what is asked for; bodies are taken and given many at a time, the rest is done one at a time."""
        given: dict[str, Any] = {}
        try:
            if operation.method in ("put_object", "upload_part"):
                given = self._upload(request)
            elif operation.method == "delete_objects":
                # It has been read, to see whether every one of them may be deleted.
                given = {"wsgi.input": io.BytesIO(request.get_data())}
        except _Refused as refused:
            return _error(str(refused), request)
        # To moto, who has not signed may read only what has a public ACL: who gets here has been let in.
        given.setdefault("HTTP_AUTHORIZATION", request.headers.get("Authorization") or LET_IN)
        # Requests are cached in their environment, and what moto makes of it is not for the caller's.
        environ = {name: value for name, value in request.environ.items() if not name.startswith("werkzeug.")}
        with self._lock:
            if refused_upload := self._gone(request, operation):
                return refused_upload
            if request.method == "OPTIONS":
                return self._preflight(request)
            return Response.from_app(self._moto, environ | given)

    def reset(self) -> None:
        """Forget all buckets."""
        with self._lock:
            s3_backends.reset()

    def _bucket(self, name: str) -> Any:
        return s3_backends[ACCOUNT][PARTITION].buckets.get(name)

    def _gone(self, request: Request, operation: Operation) -> Response | None:
        """Refuse an upload id that is not there, for moto fails over it without a word."""
        upload = request.args.get("uploadId")
        bucket = self._bucket(_place(request)[0])
        if upload is None or bucket is None or upload in bucket.multiparts:
            return None
        stored = bucket.keys.get(operation.target.partition("/")[2])
        done = stored is not None and getattr(stored, "multipart", None) and stored.multipart.id == upload
        return None if done and request.method == "POST" else _error("NoSuchUpload", request)

    def _upload(self, request: Request) -> dict[str, Any]:
        """Take the body of an object or part, and return what moto gets in its place."""
        headers = request.headers
        form = headers.get("X-Amz-Content-Sha256", "")
        stream: Any = request.stream
        trailers: dict[str, str] = {}
        length = request.content_length
        if form.startswith("STREAMING-"):
            stream = io.BufferedReader(_Chunks(request.stream, trailers))
            length = int(headers["X-Amz-Decoded-Content-Length"])
        if (length or 0) > MAX_PUT:
            raise _Refused("EntityTooLarge")
        named = {name.removeprefix("x-amz-checksum-"): value for name, value in _checksums(headers).items()}
        later = headers.get("X-Amz-Trailer", "").lower().removeprefix("x-amz-checksum-")
        signed = re.fullmatch("[0-9a-f]{64}", form) is not None
        algorithms = {"md5", *named, *([later] if later else []), *(["sha256"] if signed else [])} & set(HASHES)
        content = Content.receive(stream, self._directory, tuple(algorithms))
        if length is not None and len(content) != length:
            raise _Refused("IncompleteBody")
        if signed and content.digest("sha256").hex() != form:
            raise _Refused("XAmzContentSHA256Mismatch")
        named |= {name.removeprefix("x-amz-checksum-"): value for name, value in trailers.items()}
        for name, value in named.items():
            if name in HASHES and base64.b64encode(content.digest(name)).decode() != value:
                raise _Refused("BadDigest")
        if (given := headers.get("Content-MD5")) and base64.b64encode(content.digest("md5")).decode() != given:
            raise _Refused("BadDigest")
        sums = {f"HTTP_X_AMZ_CHECKSUM_{name.upper()}": value for name, value in named.items()}
        if named:
            sums["HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM"] = next(iter(named)).upper()
        encoding = [part for part in headers.get("Content-Encoding", "").split(",") if part not in ("", "aws-chunked")]
        replaced = {"wsgi.input": _Whole(content), "CONTENT_LENGTH": str(len(content))}
        return (
            replaced
            | sums
            | {"HTTP_X_AMZ_CONTENT_SHA256": "UNSIGNED-PAYLOAD", "HTTP_CONTENT_ENCODING": ",".join(encoding)}
        )

    def _preflight(self, request: Request) -> Response:
        """Answer a browser that asks whether it may: https://docs.aws.amazon.com/AmazonS3/latest/userguide/cors.html."""
        bucket = self._bucket(_place(request)[0])
        origin = request.headers.get("Origin", "")
        method = request.headers.get("Access-Control-Request-Method", "")
        wanted = [name.strip().lower() for name in request.headers.get("Access-Control-Request-Headers", "").split(",")]
        for rule in bucket.cors if bucket else ():
            origins, methods = _list(rule.allowed_origins), _list(rule.allowed_methods)
            allowed = [_pattern(each.lower()) for each in _list(rule.allowed_headers)]
            if not any(_pattern(each).fullmatch(origin) for each in origins) or method not in methods:
                continue
            if any(name and not any(each.fullmatch(name) for each in allowed) for name in wanted):
                continue
            answer = Response(status=200)
            answer.headers["Access-Control-Allow-Origin"] = "*" if "*" in origins else origin
            answer.headers["Access-Control-Allow-Methods"] = ", ".join(methods)
            if any(wanted):
                answer.headers["Access-Control-Allow-Headers"] = ", ".join(wanted)
            if rule.exposed_headers:
                answer.headers["Access-Control-Expose-Headers"] = ", ".join(_list(rule.exposed_headers))
            if rule.max_age_seconds:
                answer.headers["Access-Control-Max-Age"] = str(rule.max_age_seconds)
            answer.headers["Vary"] = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"
            return answer
        return _error("AccessDenied", request, "CORSResponse: This CORS request is not allowed.")


class _Whole:
    """A body that moto gets without anybody reading it."""

    def __init__(self, content: Content) -> None:
        self._content = content

    def read(self, _size: int = -1) -> Content:
        return self._content


class _Chunks(io.RawIOBase):
    """Body in the encoding aws-chunked, with what comes after it.

    Args:
        stream: The body.
        trailers: Gets the headers that come after the body.
    """

    def __init__(self, stream: Any, trailers: dict[str, str]) -> None:
        super().__init__()
        self._stream = stream
        self._trailers = trailers
        self._left = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left and not self._ended:
            self._left = int(self._stream.readline().partition(b";")[0].strip() or b"0", 16)
            self._ended = not self._left
            while self._ended and (line := self._stream.readline().strip()):
                name, _, value = line.decode("latin-1").partition(":")
                if name.startswith("x-amz-checksum-"):
                    self._trailers[name] = value.strip()
        data = self._stream.read(min(len(buffer), self._left)) if self._left else b""
        buffer[: len(data)] = data
        self._left -= len(data)
        if data and not self._left:
            self._stream.readline()
        return len(data)


def _place(request: Request) -> tuple[str, str]:
    """Return bucket and key that a request is about."""
    match = HOST.fullmatch(request.host.partition(":")[0])
    path = request.path.removeprefix("/")
    if match and match["bucket"]:
        return match["bucket"], path
    bucket, _, key = path.partition("/")
    return bucket, key


def _meant(request: Request, bucket: str, key: str) -> tuple[str, str]:
    """Return the permission that a request takes and the method of the client library."""
    if not bucket:
        return "s3:ListAllMyBuckets", "list_buckets"
    if request.method == "POST":
        if key:
            uploads = {"uploads": "create_multipart_upload", "uploadId": "complete_multipart_upload"}
            named = next((method for name, method in uploads.items() if name in request.args), None)
            return ("s3:PutObject", named) if named else ("s3:RestoreObject", "restore_object")
        return ("s3:DeleteObject", "delete_objects") if "delete" in request.args else ("s3:PutObject", "post_object")
    if request.method == "HEAD":
        if not key:
            return "s3:ListBucket", "head_bucket"
        return ("s3:GetObjectVersion" if "versionId" in request.args else "s3:GetObject"), "head_object"
    table = OBJECT if key else BUCKET
    index = {"GET": 0, "PUT": 1, "DELETE": 2}.get(str(request.method), 0)
    named = next((table[name][index] for name in table if name and name in request.args), "") or table[""][index]
    action, _, method = named.partition(" ")
    if method == "put_object" and "X-Amz-Copy-Source" in request.headers:
        method = "copy_object"
    if method == "upload_part" and "X-Amz-Copy-Source" in request.headers:
        method = "upload_part_copy"
    if method == "list_objects_v2" and request.args.get("list-type") != "2":
        method = "list_objects"
    return f"s3:{action}", method


def _deleted(request: Request, key: str) -> list[str]:
    """Return the keys that a request to delete many names."""
    if key or request.method != "POST" or "delete" not in request.args:
        return []
    return [unescape(key) for key in re.findall("<Key>(.*?)</Key>", request.get_data(as_text=True))]


def _context(request: Request) -> dict[str, str]:
    """Return the keys that the conditions of policies are about."""
    context = {"aws:securetransport": "true", "s3:tlsversion": "1.3", "aws:sourceip": request.remote_addr or ""}
    for name in ("prefix", "delimiter", "max-keys"):
        if name in request.args or name == "prefix":
            context[f"s3:{name}"] = request.args.get(name, "")
    for header, value in request.headers.items():
        if header.lower().startswith("x-amz-"):
            context[f"s3:{header.lower()}"] = value
    return context


def _checksums(headers: Any) -> dict[str, str]:
    found = {name.lower(): value for name, value in headers.items() if name.lower().startswith("x-amz-checksum-")}
    return {name: value for name, value in found.items() if not name.endswith(("-algorithm", "-type"))}


def _list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\*", ".*"))


def _error(code: str, request: Request | None, message: str | None = None) -> Response:
    status, text = ERRORS[code]
    shown = {"Expired": "AccessDenied"}.get(code, code)
    more = f"<Region>{REGION}</Region>" if code == "AuthorizationHeaderMalformed" else ""
    number = secrets.token_hex(8).upper()
    body = '<?xml version="1.0" encoding="UTF-8"?>\n'
    body += f"<Error><Code>{shown}</Code><Message>{escape(message or text)}</Message>{more}"
    body += f"<RequestId>{number}</RequestId><HostId>{secrets.token_urlsafe(40)}</HostId></Error>"
    response = Response(body, status, content_type="application/xml")
    if request is not None and request.method == "HEAD":
        response = Response(b"", status, content_type="application/xml")
    response.headers["x-amz-request-id"] = number
    response.headers["x-amz-bucket-region"] = REGION
    return response
