"""S3, and stores that speak its protocol."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import mimetypes
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from stores import PART, ChangedError, Item, MoveError, NoStoreError, ObjectError, Receipt, Store, Wanted

# An upload has 10,000 parts at most.
PARTS_MAX = 9_000
# What the identity needs for each operation, for messages.
PERMISSIONS = {
    "list": "s3:ListBucket",
    "read": "s3:GetObject",
    "write": "s3:PutObject",
    "remove": "s3:DeleteObject",
}
NOT_FOUND = {"404", "NoSuchKey", "NotFound"}
CHANGED = {*NOT_FOUND, "412", "PreconditionFailed"}
REFUSED = {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"}


class S3(Store):
    """A bucket, or what is under a prefix of it."""

    def __init__(self, uri: str, environment: Mapping[str, str], names: Mapping[str, str]) -> None:
        """Prepare a client with the credentials of this store, which may not be those of the other."""
        super().__init__(uri, environment, names)
        self.bucket = names["bucket"]
        self.endpoint = environment.get("MLFLOW_S3_ENDPOINT_URL") or None
        # As MLflow itself takes them.
        self.extra: dict[str, Any] = json.loads(environment.get("MLFLOW_S3_UPLOAD_EXTRA_ARGS") or "{}")
        owner = environment.get("MLFLOW_S3_EXPECTED_BUCKET_OWNER")
        self.common = {"Bucket": self.bucket} | ({"ExpectedBucketOwner": owner} if owner else {})
        session = boto3.Session(
            aws_access_key_id=environment.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=environment.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=environment.get("AWS_SESSION_TOKEN"),
            region_name=environment.get("AWS_DEFAULT_REGION") or environment.get("AWS_REGION"),
        )
        self.client = session.client(
            "s3",
            endpoint_url=self.endpoint,
            verify=environment.get("AWS_CA_BUNDLE") or None,
            config=Config(
                retries={"mode": "standard", "max_attempts": 5},
                max_pool_connections=64,
                # Checksums are asked for where they are used: some stores that speak S3 know none.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    @property
    def place(self) -> tuple[str, ...]:
        """Return endpoint, bucket and the parts of the prefix."""
        return ("s3", self.endpoint or "", self.bucket, *filter(None, self.prefix.split("/")))

    @property
    def removal(self) -> str:
        """Return the command that removes all of it."""
        return shlex.join(["aws", "s3", "rm", "--recursive", f"s3://{self.bucket}/{self.prefix}"])

    def _fail(self, operation: str, error: Exception, *, whole: bool = False) -> NoReturn:
        """Say in one sentence what the store refused, and what it takes."""
        code = error.response["Error"].get("Code", "") if isinstance(error, ClientError) else ""
        if code in REFUSED:
            sentence = f"The store {self.uri} refuses to {operation} ({code}); it takes {PERMISSIONS[operation]}."
        elif code == "NoSuchBucket":
            raise NoStoreError(f"The store {self.uri} does not exist: there is no bucket {self.bucket}.") from error
        elif code == "InvalidObjectState":
            sentence = "it is archived in a cold storage class; it has to be restored before it can be read"
        else:
            sentence = f"The store {self.uri} failed to {operation}: {' '.join(str(error).split()).rstrip('.')}."
        if whole:
            raise MoveError(sentence) from error
        raise ObjectError(sentence, lasting=code in REFUSED | {"InvalidObjectState"}) from error

    def items(self) -> Iterator[Item]:
        """List all objects but directory markers."""
        try:
            for page in self.client.get_paginator("list_objects_v2").paginate(Prefix=self.prefix, **self.common):
                for entry in page.get("Contents", []):
                    if entry["Key"].endswith("/") and entry["Size"] == 0:
                        continue
                    key = entry["Key"].removeprefix(self.prefix)
                    yield Item(key, entry["Size"], entry["ETag"], entry["LastModified"].timestamp())
        except (ClientError, BotoCoreError) as error:
            self._fail("list", error, whole=True)

    def _head(self, key: str, **arguments: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.client.head_object(Key=self.prefix + key, **self.common, **arguments)
        except ClientError as error:
            if error.response["Error"].get("Code") in NOT_FOUND or self._is_absent(key, error):
                return None
            self._fail("read", error)
        except BotoCoreError as error:
            self._fail("read", error)
        return found

    def _is_absent(self, key: str, error: ClientError) -> bool:
        """Say whether an object was refused because it is not there.

        To who may list no more than a prefix, S3 does not say that an object is missing: the request has no prefix. A
        listing has one.
        """
        if error.response["Error"].get("Code") not in REFUSED:
            return False
        try:
            listed = self.client.list_objects_v2(Prefix=self.prefix + key, MaxKeys=1, **self.common)
        except (ClientError, BotoCoreError):
            return False
        return [entry["Key"] for entry in listed.get("Contents", [])] != [self.prefix + key]

    def find(self, key: str) -> Item | None:
        """Return an object, or None where there is none."""
        head = self._head(key)
        if head is None:
            return None
        return Item(key, head["ContentLength"], head["ETag"], head["LastModified"].timestamp())

    def checksum(self, item: Item) -> tuple[str, str] | None:
        """Return the SHA-256 that the store made when it took the object in one piece."""
        head = self._head(item.key, ChecksumMode="ENABLED")
        return self._checksum_in(head) if head and head["ETag"] == item.version else None

    @staticmethod
    def _checksum_in(answer: Mapping[str, Any]) -> tuple[str, str] | None:
        value = answer.get("ChecksumSHA256", "")
        # Of an object in parts it is one of their checksums, which ends by their number.
        return ("sha256", base64.b64decode(value).hex()) if value and "-" not in value else None

    def read(self, item: Item, offset: int, length: int) -> bytes:
        """Return a part of an object, if it is still the same."""
        try:
            answer = self.client.get_object(
                Key=self.prefix + item.key,
                IfMatch=item.version,
                Range=f"bytes={offset}-{offset + length - 1}",
                **self.common,
            )
            data: bytes = answer["Body"].read()
        except ClientError as error:
            if error.response["Error"].get("Code") in CHANGED or self._is_absent(item.key, error):
                raise ChangedError(item.key) from error
            self._fail("read", error)
        except BotoCoreError as error:
            self._fail("read", error)
        return data

    def part_size(self, size: int) -> int:
        """Return the size of the parts: larger ones where there would be too many."""
        return max(PART, -(-size // PARTS_MAX // PART) * PART)

    def write(self, key: str, size: int, parts: Iterator[bytes], wanted: Wanted) -> Receipt | None:
        """Store an object in one piece with its SHA-256, or in parts each with its MD5; S3 refuses what differs."""
        arguments = {"Key": self.prefix + key, **self.common, **self.extra}
        content_type = mimetypes.guess_type(key)[0]
        if content_type:
            arguments.setdefault("ContentType", content_type)
        try:
            if size <= PART:
                data = b"".join(parts)
                if not wanted():
                    return None
                checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
                answer = self.client.put_object(
                    Body=data, ChecksumAlgorithm="SHA256", ChecksumSHA256=checksum, **arguments
                )
                return Receipt(answer["ETag"], self._checksum_in(answer))
            return self._write_in_parts(key, parts, wanted, arguments)
        except (ClientError, BotoCoreError) as error:
            self._fail("write", error)

    def _write_in_parts(
        self, key: str, parts: Iterator[bytes], wanted: Wanted, arguments: dict[str, Any]
    ) -> Receipt | None:
        place = {"Key": self.prefix + key, **self.common}
        place["UploadId"] = self.client.create_multipart_upload(**arguments)["UploadId"]
        self.begun(key, place["UploadId"])
        done = []
        try:
            for number, part in enumerate(parts, start=1):
                digest = base64.b64encode(hashlib.md5(part, usedforsecurity=False).digest()).decode()
                answer = self.client.upload_part(PartNumber=number, Body=part, ContentMD5=digest, **place)
                done.append({"PartNumber": number, "ETag": answer["ETag"]})
            if wanted():
                answer = self.client.complete_multipart_upload(MultipartUpload={"Parts": done}, **place)
                self.ended(place["UploadId"])
                return Receipt(answer["ETag"])
        except BaseException:
            self._abort(key, place["UploadId"])
            raise
        self._abort(key, place["UploadId"])
        return None

    def _abort(self, key: str, upload: str) -> None:
        # An upload that cannot be ended now is ended by the next run, or by the rule of the bucket for such.
        with contextlib.suppress(ClientError, BotoCoreError):
            self.client.abort_multipart_upload(Key=self.prefix + key, UploadId=upload, **self.common)
            self.ended(upload)

    def clean(self, uploads: Iterable[tuple[str, str]]) -> None:
        """End the uploads that were cut off: their parts are paid for until somebody does.

        One that was cut off before its name was noted has no parts; the bucket's rule for such ends it.
        """
        for key, upload in uploads:
            try:
                self.client.abort_multipart_upload(Key=self.prefix + key, UploadId=upload, **self.common)
            except ClientError as error:
                if error.response["Error"].get("Code") != "NoSuchUpload":
                    continue
            except BotoCoreError:
                continue
            self.ended(upload)

    def remove(self, key: str) -> None:
        """Remove an object; a bucket with versioning keeps it as a former version."""
        try:
            self.client.delete_object(Key=self.prefix + key, **self.common)
        except (ClientError, BotoCoreError) as error:
            self._fail("remove", error)
