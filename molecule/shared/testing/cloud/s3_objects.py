"""Makes moto keep the bytes of objects as `Content`, and leave policies to us.

moto joins the parts of an upload in memory, three times over, and reads the whole object for each range that is asked
for: with objects of a few GB and ten ranges at once a machine has no memory left. What is replaced here is how its
keys hold their value and how parts are joined; all else about objects is moto's.
"""

from __future__ import annotations

import base64
from typing import Any

import moto.s3.models as models
import moto.s3.responses as responses
from moto.iam.access_control import PermissionResult
from moto.moto_server import werkzeug_app
from moto.s3.exceptions import EntityTooSmall, InvalidPart, MalformedXML

from testing.cloud.content import HASHES, Content

MIN_PART = 5 * 1024**2


class _Key(models.FakeKey):
    """An object, or a part of one."""

    @property
    def value(self) -> Any:
        return self._content

    @value.setter
    def value(self, value: Any) -> None:
        self._content = Content.of(value)
        self.contentsize = len(self._content)

    @property
    def etag(self) -> str:
        if self._etag is None:
            self._etag = self._content.digest("md5").hex()
        return f'"{self._etag}"'

    def dispose(self, garbage: bool = False) -> None:
        # Whoever still reads it keeps it for as long as that takes.
        super().dispose()


class _Multipart(models.FakeMultipart):
    """An upload in parts."""

    def complete(self, body: Any) -> Any:
        parts: list[models.FakeKey] = []
        for number, etag in body:
            part = self.parts.get(number)
            if part is None or part.etag.strip('"') != etag.replace('"', ""):
                raise InvalidPart
            if parts and parts[-1].contentsize < MIN_PART:
                raise EntityTooSmall
            parts.append(part)
        if not parts:
            raise MalformedXML
        digests = Content(b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)).digest("md5")
        whole = Content(pieces=tuple(piece for part in parts for piece in Content.of(part.value).pieces))
        return whole, f"{digests.hex()}-{len(parts)}", self._checksum(parts, whole)

    def _checksum(self, parts: list[models.FakeKey], whole: Content) -> tuple[str, str, int] | None:
        algorithm = (self.metadata.get("x-amz-checksum-algorithm") or "").lower()
        if algorithm not in HASHES:
            # AWS has CRC64NVME by default.
            return None
        if self.metadata.get("x-amz-checksum-type") == "FULL_OBJECT":
            return "FULL_OBJECT", _text(whole.digest(algorithm)), 1
        each = Content(b"".join(Content.of(part.value).digest(algorithm) for part in parts))
        return "COMPOSITE", _text(each.digest(algorithm)), len(parts)


def _checksum(body: Any, algorithm: str, encode_base64: bool = True) -> bytes:
    digest = Content.of(body).digest(algorithm.lower())
    return base64.b64encode(digest) if encode_base64 else digest


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def install() -> None:
    """Take moto's place; before its first application is made."""
    replaced: Any = models
    answers: Any = responses
    server: Any = werkzeug_app
    replaced.FakeKey = _Key
    replaced.FakeMultipart = _Multipart
    replaced.FakeBucket.get_permission = lambda _bucket, _action, _resource: PermissionResult.NEUTRAL
    answers.compute_checksum = _checksum
    # Else every answer would allow every origin, whatever the bucket's rules say.
    server.DISABLE_GLOBAL_CORS = True
