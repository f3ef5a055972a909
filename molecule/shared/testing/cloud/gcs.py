"""Google Cloud Storage: the JSON API, and what SDKs use of the XML API, by gcp-storage-emulator.

https://cloud.google.com/storage/docs/json_api/v1 and …/docs/xml-api; permissions by
https://cloud.google.com/storage/docs/access-control/iam-permissions. Of the emulator only what it does with a request
is used, not its server: that reads a body as a whole and answers one request at a time. Put right here:

- Nobody is asked who he is. Here a token, or a V4 signature in the URL, of a service account is needed: 401 without.
  The account that may do anything may; others what the policy of the bucket gives them by the ROLES below, and 403
  otherwise. To overwrite takes storage.objects.delete as well.
- Bodies are not held in memory. Downloads tell generation, hash and length; a range beyond the end is 416.
- Buckets: what is given when one is made, `null` in a patch, and parts of iamConfiguration. Policies have an etag that
  changes, and one that is stale is 412. testIamPermissions tells what the caller has.
- Lists have pages. Errors have bodies. ifGenerationMatch is looked at.
- An upload of which nothing has arrived says so (no Range), else a client goes on at the second byte.
- Uploads in parts by the XML API (MLflow uses them), with signed URLs.

Different from Google, and left so: versions of objects, lifecycle rules, retention, encryption keys and public access
prevention are kept and have no effect; an object that was deleted can be restored, as the emulator has it. No CORS, no
HMAC keys, no V2 signatures, no host-style URLs, no gzip transcoding; what is in a batch request is not checked.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import re
import secrets
import threading
from email.parser import BytesParser
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from gcp_storage_emulator import server
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage
from werkzeug.wrappers import Request, Response

from testing.cloud.content import Content
from testing.cloud.google import Accounts
from testing.cloud.ledger import Operation
from testing.cloud.proxy import json_response

HOST = "storage.googleapis.com"
PAGE = 1000
# Of what the emulator does: the method of the API, the permission.
METHODS = {
    buckets.ls: ("buckets.list", "storage.buckets.list"),
    buckets.insert: ("buckets.insert", "storage.buckets.create"),
    buckets.get: ("buckets.get", "storage.buckets.get"),
    buckets.patch: ("buckets.patch", "storage.buckets.update"),
    buckets.delete: ("buckets.delete", "storage.buckets.delete"),
    buckets.acl_list: ("bucketAccessControls.list", "storage.buckets.getIamPolicy"),
    buckets.default_object_acl_list: ("defaultObjectAccessControls.list", "storage.buckets.getIamPolicy"),
    buckets.get_iam_policy: ("buckets.getIamPolicy", "storage.buckets.getIamPolicy"),
    buckets.set_iam_policy: ("buckets.setIamPolicy", "storage.buckets.setIamPolicy"),
    buckets.test_iam_permissions: ("buckets.testIamPermissions", "none"),
    objects.ls: ("objects.list", "storage.objects.list"),
    objects.get: ("objects.get", "storage.objects.get"),
    objects.download: ("objects.get", "storage.objects.get"),
    objects.insert: ("objects.insert", "storage.objects.create"),
    objects.upload_partial: ("objects.insert", "storage.objects.create"),
    objects.patch: ("objects.patch", "storage.objects.update"),
    objects.delete: ("objects.delete", "storage.objects.delete"),
    objects.copy: ("objects.copy", "storage.objects.create"),
    objects.rewrite: ("objects.rewrite", "storage.objects.create"),
    objects.compose: ("objects.compose", "storage.objects.create"),
    objects.restore: ("objects.restore", "storage.objects.restore"),
    objects.acl_list: ("objectAccessControls.list", "storage.objects.getIamPolicy"),
    objects.batch: ("batch", "none"),
}
# https://cloud.google.com/storage/docs/access-control/iam-roles, of what METHODS and XML ask for.
VIEW = {"storage.objects.get", "storage.objects.list"}
CREATE = {"storage.objects.create", "storage.multipartUploads.create", "storage.multipartUploads.abort"}
CREATE |= {"storage.multipartUploads.listParts"}
USE = VIEW | CREATE | {"storage.objects.delete", "storage.objects.update", "storage.objects.restore"}
USE |= {"storage.multipartUploads.list"}
SEE_BUCKET = {"storage.buckets.get", "storage.objects.list", "storage.multipartUploads.list"}
POLICY = {"storage.buckets.getIamPolicy", "storage.buckets.setIamPolicy"}
ROLES = {
    "roles/storage.objectViewer": VIEW,
    "roles/storage.objectCreator": CREATE,
    "roles/storage.objectUser": USE,
    "roles/storage.objectAdmin": USE | {"storage.objects.getIamPolicy", "storage.objects.setIamPolicy"},
    "roles/storage.insightsCollectorService": {"storage.buckets.get"},
    "roles/storage.bucketViewer": {"storage.buckets.get", "storage.buckets.list"},
    "roles/storage.legacyBucketReader": SEE_BUCKET,
    "roles/storage.legacyBucketWriter": SEE_BUCKET | CREATE | {"storage.objects.delete"},
    "roles/storage.legacyObjectReader": {"storage.objects.get"},
    "roles/storage.admin": USE | SEE_BUCKET | POLICY | {"storage.buckets.update", "storage.buckets.delete"},
}
XML = (
    ("POST", "uploads", "multipart.initiate", "storage.multipartUploads.create"),
    ("PUT", "partNumber", "multipart.put", "storage.objects.create"),
    ("POST", "uploadId", "multipart.complete", "storage.objects.create"),
    ("DELETE", "uploadId", "multipart.abort", "storage.multipartUploads.abort"),
    ("GET", "uploadId", "multipart.list", "storage.multipartUploads.listParts"),
    ("GET", "", "objects.get", "storage.objects.get"),
    ("HEAD", "", "objects.get", "storage.objects.get"),
    ("PUT", "", "objects.insert", "storage.objects.create"),
    ("DELETE", "", "objects.delete", "storage.objects.delete"),
)
ERRORS = {
    "throttled": (429, "rateLimitExceeded", "The object exceeded the rate limit for object mutation operations."),
    "busy": (409, "conflict", "The metadata was edited during the operation. Please try again."),
    "error": (503, "backendError", "We encountered an internal error. Please try again."),
    "revoked": (401, "authError", "Invalid Credentials"),
}


class _Storage(Storage):  # type: ignore[misc]
    """The emulator's store, of contents, and without a file that is written anew for every change."""

    def __init__(self) -> None:
        super().__init__(use_memory_fs=True, data_dir="/nowhere")

    def _write_config_to_file(self) -> None:
        pass

    def _object_path(self, bucket_name: str, file_name: str) -> str:
        # Names are names here, not paths: `a//b` is not `a/b`.
        return f"{bucket_name}/{quote(file_name, safe='')}"


class _Asked:
    """A request as the emulator wants it.

    Args:
        request: The request.
        params: Bucket and object.
        data: The body.
    """

    base_url = f"https://{HOST}"

    def __init__(self, request: Request, params: dict[str, str], data: Any) -> None:
        self.method = request.method
        self.path = request.environ["RAW_URI"].partition("?")[0]
        self.full_url = self.base_url + request.environ["RAW_URI"]
        self.query = parse_qs(request.query_string.decode())
        self.params = params
        self.data = data
        self._headers = request.headers

    def get_header(self, key: str, default: Any = None) -> Any:
        return self._headers.get(key, default)


class _Answer:
    """An answer as the emulator makes it."""

    def __init__(self) -> None:
        self.status: Any = HTTPStatus.OK
        self.headers: dict[str, str] = {}
        self.content: Any = b""

    def __setitem__(self, name: str, value: str) -> None:
        self.headers[name] = value

    def write(self, content: str) -> None:
        self.content = (self.content or "") + content

    def write_file(self, content: Any, content_type: str | None = None) -> None:
        self.content = content
        if content_type:
            self["Content-Type"] = content_type

    def json(self, body: Any) -> None:
        self.content = json.dumps(body)
        self["Content-Type"] = "application/json; charset=UTF-8"

    def response(self) -> Response:
        status = f"{int(self.status)} {self.status.phrase}"
        response = Response(self.content, status, self.headers)
        response.headers["Content-Length"] = str(len(Content.of(self.content)))
        return response


class Gcs:
    """Cloud Storage of the project.

    Args:
        accounts: Knows the service accounts.
        directory: Where large objects are kept.
    """

    name = "gcs"

    def __init__(self, accounts: Accounts, directory: Path) -> None:
        """Start without buckets."""
        replaced: Any = objects
        replaced._make_object_resource = _resource
        replaced._crc32c = lambda content: _text(Content.of(content).digest("crc32c"))
        replaced._md5 = lambda content: _text(Content.of(content).digest("md5"))
        self._accounts = accounts
        self._directory = directory
        self._lock = threading.RLock()
        self._storage = _Storage()
        self._uploads: dict[str, dict[int, Content]] = {}

    def operation(self, request: Request) -> Operation:
        """Tell what a request asks for."""
        _, params, method, permission = _route(request)
        bucket, name = params.get("bucket_name", ""), self._name(request, params, method)
        return Operation("gcs", permission, method, f"{bucket}/{name}" if name else bucket, self._identity(request))

    def refusal(self, request: Request) -> Response | None:
        """Refuse who is not known, and who may not do what he asks for."""
        if "upload_id" in request.args:
            # Who has the address of an upload may go on with it.
            return None
        _, params, method, permission = _route(request)
        if "X-Goog-Signature" in request.args:
            if problem := _wrong_signature(request, self._accounts):
                return problem
        elif "Authorization" in request.headers and self._identity(request) is None:
            response = _error(401, "authError", "Invalid Credentials")
            response.headers["WWW-Authenticate"] = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
            return response
        who = self._identity(request)
        needed = {permission}
        bucket = params.get("bucket_name", "")
        if method == "objects.insert" and self._name(request, params, method) in self._storage.objects.get(bucket, {}):
            needed.add("storage.objects.delete")
        for each in sorted(needed - {"none"} - self._permissions(who, bucket)):
            return _denied(who, each, 401 if who is None else 403)
        return None

    def failure(self, kind: str, operation: Operation) -> Response:
        """Return an error as Cloud Storage words it."""
        if kind == "denied":
            return _denied(operation.identity, operation.action, 403)
        return _error(*ERRORS[kind])

    def answer(self, request: Request, operation: Operation) -> Response:
        """Do what is asked for; bodies are taken and given many at a time, the rest is done one at a time."""
        handler, params, method, _ = _route(request)
        if method == "unknown":
            return _error(405, "methodNotAllowed", "Method Not Allowed")
        data = self._body(request, method)
        with self._lock:
            if missing := self._missing(params, request):
                return missing
            if unmet := self._unmet(request, operation):
                return unmet
            if method.startswith("multipart."):
                return self._multipart(request, params, method, data)
            own = getattr(self, "_" + method.replace(".", "_"), None)
            if own:
                return own(request, params, data)  # type: ignore[no-any-return]
            return self._emulate(handler, request, params, data)

    def reset(self) -> None:
        """Forget all buckets."""
        with self._lock:
            self._storage.wipe()
            self._uploads.clear()

    def _identity(self, request: Request) -> str | None:
        if "X-Goog-Credential" in request.args:
            return request.args["X-Goog-Credential"].partition("/")[0]
        return self._accounts.holder(request, f"https://{HOST}/")

    def _permissions(self, who: str | None, bucket: str) -> set[str]:
        """Return all that somebody may do with a bucket."""
        if who == self._accounts.admin.email:
            return set().union(*ROLES.values()) | {permission for _, permission in METHODS.values()}
        members = {"allUsers"} | ({"allAuthenticatedUsers", f"serviceAccount:{who}"} if who else set())
        policy = self._storage.get_bucket_iam_policy(bucket) or {}
        return {
            permission
            for binding in policy.get("bindings", [])
            if members & set(binding.get("members", []))
            for permission in ROLES.get(binding.get("role"), set())
        }

    def _body(self, request: Request, method: str) -> Any:
        if request.method in ("GET", "HEAD", "DELETE"):
            return None
        kind = request.mimetype
        if method == "batch":
            header = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
            payload = BytesParser().parsebytes(header + request.get_data()).get_payload()
            return [server._parse_batch_item(item) for item in payload]
        content = Content.receive(request.stream, self._directory, ("crc32c", "md5"))
        if kind == "multipart/related":
            return _related(content)
        if kind == "application/json" and "upload_id" not in request.args and not method.startswith("multipart."):
            return json.loads(bytes(content) or b"{}")
        return content if len(content) else None

    def _name(self, request: Request, params: dict[str, str], method: str) -> str:
        """Return the name of the object that a request is about."""
        if "upload_id" in request.args:
            return str(self._storage.resumable.get(request.args["upload_id"], {}).get("name", ""))
        name = params.get("object_id") or request.args.get("name", "")
        if not name and method == "objects.insert":
            # It is at the beginning of the body, which is not to be read yet.
            start = request.environ["wsgi.input"].peek(16 * 1024)
            found = re.search(rb'"name":\s*("(?:[^"\\]|\\.)*")', start)
            name = json.loads(found[1]) if found else ""
        return str(name)

    def _missing(self, params: dict[str, str], request: Request) -> Response | None:
        bucket = params.get("bucket_name")
        if bucket and bucket not in self._storage.buckets:
            if "/storage/v1/" in request.path:
                return _error(404, "notFound", "The specified bucket does not exist.")
            return _xml_error(404, "NoSuchBucket", "The specified bucket does not exist.")
        return None

    def _unmet(self, request: Request, operation: Operation) -> Response | None:
        wanted = request.args.get("ifGenerationMatch")
        if wanted is None or "upload_id" in request.args:
            return None
        bucket, _, name = operation.target.partition("/")
        if self._storage.objects.get(bucket, {}).get(name, {}).get("generation", "0") == wanted:
            return None
        return _error(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")

    def _emulate(self, handler: Any, request: Request, params: dict[str, str], data: Any) -> Response:
        asked, answer = _Asked(request, params, data), _Answer()
        handler(asked, answer, self._storage)
        upload = request.args.get("upload_id")
        if int(answer.status) == 308 and upload:
            answer.headers.pop("Range", None)
            if received := self._storage.get_resumable_byte_count(upload):
                answer["Range"] = f"bytes=0-{received - 1}"
        if int(answer.status) >= 400 and not answer.content:
            name = f"{params.get('bucket_name')}/{params.get('object_id')}"
            return _error(int(answer.status), "notFound", f"No such object: {name}")
        return answer.response()

    def _objects_get(self, request: Request, params: dict[str, str], _data: Any) -> Response:
        stored = self._storage.objects.get(params["bucket_name"], {}).get(params["object_id"])
        if "/storage/v1/" in request.path and "/download/" not in request.path and request.args.get("alt") != "media":
            return self._emulate(objects.get, request, params, None)
        if stored is None:
            text = f"No such object: {params['bucket_name']}/{params['object_id']}"
            if "/storage/v1/" in request.path:
                return Response(text, 404, content_type="text/html; charset=UTF-8")
            return _xml_error(404, "NoSuchKey", text)
        wanted = re.fullmatch(r"bytes=(\d+)-\d*", request.headers.get("Range", ""))
        if wanted and int(wanted[1]) >= int(stored["size"]):
            response = _xml_error(416, "InvalidRange", "The requested range cannot be satisfied.")
            response.headers["Content-Range"] = f"bytes */{stored['size']}"
            return response
        response = self._emulate(objects.download, request, params, None)
        response.headers["X-Goog-Hash"] = f"crc32c={stored['crc32c']},md5={stored['md5Hash']}"
        response.headers["X-Goog-Generation"] = stored["generation"]
        response.headers["X-Goog-Stored-Content-Length"] = str(stored["size"])
        response.headers["ETag"] = f'"{stored["etag"]}"'
        return response

    def _objects_insert(self, request: Request, params: dict[str, str], data: Any) -> Response:
        if "/storage/v1/" not in request.path:
            response = self._emulate(objects.xml_upload, request, params, data or Content())
            stored = self._storage.get_file_obj(params["bucket_name"], params["object_id"])
            response.headers["ETag"] = f'"{stored["etag"]}"'
            return response
        handler = objects.upload_partial if request.method == "PUT" else objects.insert
        empty = data is None and request.args.get("uploadType") == "media"
        return self._emulate(handler, request, params, Content() if empty else data)

    def _objects_delete(self, request: Request, params: dict[str, str], _data: Any) -> Response:
        if "upload_id" in request.args:
            self._storage.resumable.pop(request.args["upload_id"], None)
            return Response(status="499 Client Closed Request")
        response = self._emulate(objects.delete, request, params, None)
        return Response(status=204) if response.status_code == 200 else response

    def _objects_list(self, request: Request, params: dict[str, str], _data: Any) -> Response:
        response = self._emulate(objects.ls, request, params, None)
        if response.status_code != 200:
            return response
        answer = json.loads(response.get_data())
        # Objects and prefixes are on one list in the order of their names.
        found = [(item["name"], "items", item) for item in answer["items"]]
        found += [(prefix, "prefixes", prefix) for prefix in answer["prefixes"]]
        start = base64.urlsafe_b64decode(request.args.get("pageToken", "")).decode()
        size = min(int(request.args.get("maxResults", PAGE)), PAGE)
        left = sorted((each for each in found if each[0] > start), key=lambda each: each[0])
        shown: dict[str, Any] = {"kind": "storage#objects"}
        for name, kind, item in left[:size]:
            shown.setdefault(kind, []).append(item)
            if len(left) > size:
                shown["nextPageToken"] = base64.urlsafe_b64encode(name.encode()).decode()
        return json_response(shown)

    def _buckets_insert(self, request: Request, params: dict[str, str], data: Any) -> Response:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]", data.get("name", "")):
            return _error(400, "invalid", f"Invalid bucket name: '{data.get('name')}'")
        response = self._emulate(buckets.insert, request, params, data)
        if response.status_code != 200:
            return response
        bucket = self._storage.buckets[data["name"]]
        bucket["location"] = data.get("location", "US").upper()
        bucket["locationType"] = "region" if "-" in bucket["location"] else "multi-region"
        bucket["iamConfiguration"]["publicAccessPrevention"] = "inherited"
        _merge(bucket, {name: value for name, value in data.items() if name != "location"})
        return json_response(bucket)

    def _buckets_patch(self, request: Request, params: dict[str, str], data: Any) -> Response:
        bucket = self._storage.buckets[params["bucket_name"]]
        wanted = request.args.get("ifMetagenerationMatch")
        if wanted not in (None, bucket["metageneration"]):
            return _error(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        _merge(bucket, data or {})
        bucket["metageneration"] = str(int(bucket["metageneration"]) + 1)
        bucket["etag"] = _text(bucket["metageneration"].encode())
        return json_response(bucket)

    def _buckets_delete(self, request: Request, params: dict[str, str], _data: Any) -> Response:
        if self._storage.objects.get(params["bucket_name"]):
            return _error(409, "conflict", "The bucket you tried to delete is not empty.")
        self._storage.delete_bucket(params["bucket_name"])
        return Response(status=204)

    def _buckets_setIamPolicy(self, request: Request, params: dict[str, str], data: Any) -> Response:
        old = self._storage.get_bucket_iam_policy(params["bucket_name"]) or {"etag": "CAE="}
        if data.get("etag") not in (None, old["etag"]):
            return _error(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        unknown = [binding["role"] for binding in data.get("bindings", []) if binding["role"] not in ROLES]
        if unknown:
            return _error(400, "invalid", f"Role {unknown[0]} is not supported for this resource.")
        return self._emulate(buckets.set_iam_policy, request, params, data | {"etag": _text(secrets.token_bytes(8))})

    def _buckets_testIamPermissions(self, request: Request, params: dict[str, str], _data: Any) -> Response:
        has = self._permissions(self._identity(request), params["bucket_name"])
        asked = request.args.getlist("permissions")
        shown: dict[str, Any] = {"kind": "storage#testIamPermissionsResponse"}
        return json_response(shown | {"permissions": [each for each in asked if each in has]})

    def _multipart(self, request: Request, params: dict[str, str], method: str, data: Any) -> Response:
        bucket, name = params["bucket_name"], params["object_id"]
        names = f"<Bucket>{bucket}</Bucket><Key>{escape(name)}</Key>"
        if method == "multipart.initiate":
            upload = secrets.token_urlsafe(40)
            self._uploads[upload] = {}
            result = f"<InitiateMultipartUploadResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>{names}"
            return _xml(f"{result}<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        upload = request.args["uploadId"]
        parts = self._uploads.get(upload)
        if parts is None:
            return _xml_error(404, "NoSuchUpload", "The requested upload was not found.")
        if method == "multipart.put":
            content = data or Content()
            parts[int(request.args["partNumber"])] = content
            response = Response(status=200)
            response.headers["ETag"] = f'"{content.digest("md5").hex()}"'
            response.headers["X-Goog-Hash"] = f"crc32c={_text(content.digest('crc32c'))}"
            return response
        if method == "multipart.abort":
            del self._uploads[upload]
            return Response(status=204)
        if method == "multipart.list":
            shown = "".join(f"<Part><PartNumber>{n}</PartNumber><Size>{len(c)}</Size></Part>" for n, c in parts.items())
            return _xml(f"<ListPartsResult>{names}<UploadId>{upload}</UploadId>{shown}</ListPartsResult>")
        whole = Content()
        given = bytes(data or Content()).decode()
        for part in re.findall(r"<(?:\w+:)?Part>(.*?)</(?:\w+:)?Part>", given, re.DOTALL):
            number = int(re.findall(r"PartNumber>(\d+)<", part)[0])
            etag = re.findall(r"ETag>(?:&quot;|\")?([0-9a-f]+)", part)[0]
            if number not in parts or parts[number].digest("md5").hex() != etag:
                return _xml_error(400, "InvalidPart", "One or more of the specified parts could not be found.")
            whole += parts[number]
        stored = _resource(
            _Asked.base_url,
            bucket,
            name,
            request.headers.get("Content-Type", "application/octet-stream"),
            str(len(whole)),
        )
        self._storage.create_file(bucket, name, whole, objects._checksums(whole, stored))
        del self._uploads[upload]
        result = f'<CompleteMultipartUploadResult>{names}<ETag>"{stored["etag"]}"</ETag>'
        return _xml(f"{result}</CompleteMultipartUploadResult>")


MADE = objects._make_object_resource


def _resource(base_url: str, bucket: str, name: str, *more: Any, **named: Any) -> dict[str, Any]:
    """Return an object's metadata as the emulator makes it, with a link that holds for any name."""
    made: dict[str, Any] = MADE(base_url, bucket, name, *more, **named)
    place = f"storage/v1/b/{bucket}/o/{quote(name, safe='')}"
    link = f"{base_url}/download/{place}?generation={made['generation']}&alt=media"
    return made | {"mediaLink": link, "selfLink": f"https://www.googleapis.com/{place}"}


def _routes() -> list[tuple[str, dict[str, Any]]]:
    return [
        *server._json_api_routes("/storage/v1"),
        (r"^/upload/storage/v1/b/(?P<bucket_name>[-.\w]+)/o$", {"POST": objects.insert, "PUT": objects.upload_partial}),
        (r"^/download/storage/v1/b/(?P<bucket_name>[-.\w]+)/o/(?P<object_id>.*[^/]+)$", {"GET": objects.download}),
        (r"^/batch/storage/v1$", {"POST": objects.batch}),
    ]


ROUTES = _routes()


def _route(request: Request) -> tuple[Any, dict[str, str], str, str]:
    """Return what the emulator does with a request, bucket and object, the method of the API and the permission."""
    path = request.environ["RAW_URI"].partition("?")[0]
    verb = request.headers.get("X-HTTP-Method-Override", str(request.method))
    for pattern, handlers in ROUTES:
        if match := re.fullmatch(pattern, path):
            params = {name: unquote(value) for name, value in match.groupdict().items()}
            handler = handlers.get({"PUT": "PATCH"}.get(verb, verb) if "PUT" not in handlers else verb)
            if verb == "DELETE" and "upload_id" in request.args:
                return None, params, "objects.delete", "storage.objects.create"
            return (handler, params, *METHODS.get(handler, ("unknown", "unknown")))
    bucket, _, name = unquote(path).removeprefix("/").partition("/")
    params = {"bucket_name": bucket, "object_id": name}
    for method, named, meant, permission in XML:
        if verb == method and (not named or named in request.args):
            return None, params, meant, permission
    return None, params, "unknown", "unknown"


def _related(content: Content) -> dict[str, Any]:
    """Return metadata and media of an upload that has both in one body."""
    start = bytes(content[: 64 * 1024])
    boundary, _, _ = start.partition(b"\r\n")
    first = start.index(b"\r\n\r\n") + 4
    second = start.index(b"\r\n" + boundary, first)
    media = start.index(b"\r\n\r\n", second) + 4
    head = start[second:media].decode("latin-1")
    kind = re.findall(r"(?im)^content-type:\s*(.*?)\s*$", head)
    tail = max(len(content) - len(boundary) - 16, 0)
    end = tail + bytes(content[tail:]).rindex(b"\r\n" + boundary)
    return {
        "meta": json.loads(start[first:second]),
        "content": content[media:end],
        "content-type": kind[0] if kind else "application/octet-stream",
    }


def _merge(bucket: dict[str, Any], given: dict[str, Any]) -> None:
    """Change what is given of a bucket's metadata, and take away what is null."""
    for name, value in given.items():
        if value is None:
            bucket.pop(name, None)
        elif name == "iamConfiguration":
            now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=90)
            kept = bucket.setdefault(name, {})
            kept |= value
            uniform = value.get("uniformBucketLevelAccess")
            if uniform is not None:
                locked = {"lockedTime": now.isoformat()} if uniform.get("enabled") else {}
                kept["uniformBucketLevelAccess"] = {"enabled": bool(uniform.get("enabled"))} | locked
                kept["bucketPolicyOnly"] = dict(kept["uniformBucketLevelAccess"])
        elif name == "labels":
            labels = bucket.get(name, {}) | value
            bucket[name] = {label: text for label, text in labels.items() if text is not None}
        elif name not in ("name", "id", "kind", "metageneration", "timeCreated", "projectNumber", "etag"):
            bucket[name] = value


def _wrong_signature(request: Request, accounts: Accounts) -> Response | None:
    """Return the refusal of a signed URL that does not hold: https://cloud.google.com/storage/docs/authentication/."""
    given = request.args
    path, _, query = request.environ["RAW_URI"].partition("?")
    email, _, scope = given["X-Goog-Credential"].partition("/")
    kept = sorted(part for part in query.split("&") if not part.startswith("X-Goog-Signature="))
    headers = [f"{name}:{request.headers.get(name, '').strip()}" for name in given["X-Goog-SignedHeaders"].split(";")]
    payload = request.headers.get("X-Goog-Content-Sha256", "UNSIGNED-PAYLOAD")
    lines = [str(request.method), path, "&".join(kept), *headers, "", given["X-Goog-SignedHeaders"], payload]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    text = "\n".join(["GOOG4-RSA-SHA256", given["X-Goog-Date"], scope, digest]).encode()
    account = accounts.find(email)
    for key in account.keys.values() if account else ():
        try:
            signature = bytes.fromhex(given["X-Goog-Signature"])
            key.public_key().verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, ValueError):
            continue
        start = datetime.datetime.strptime(given["X-Goog-Date"], "%Y%m%dT%H%M%S%z")
        if datetime.datetime.now(datetime.UTC) > start + datetime.timedelta(seconds=int(given["X-Goog-Expires"])):
            return _xml_error(400, "ExpiredToken", "Invalid argument. The signed URL has expired.")
        return None
    return _xml_error(
        403, "SignatureDoesNotMatch", "Access denied. The request signature we calculated does not match."
    )


def _denied(who: str | None, permission: str, status: int) -> Response:
    kind = "bucket" if permission.startswith("storage.buckets.") else "object"
    message = (
        f"{who or 'Anonymous caller'} does not have {permission} access to the Google Cloud Storage {kind}. "
        f"Permission '{permission}' denied on resource (or it may not exist)."
    )
    return _error(status, "required" if who is None else "forbidden", message)


def _error(status: int, reason: str, message: str) -> Response:
    errors = [{"message": message, "domain": "global", "reason": reason}]
    return json_response({"error": {"code": status, "message": message, "errors": errors}}, status)


def _xml_error(status: int, code: str, message: str) -> Response:
    return _xml(f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>", status)


def _xml(body: str, status: int = 200) -> Response:
    return Response(f"<?xml version='1.0' encoding='UTF-8'?>{body}", status, content_type="application/xml")


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
