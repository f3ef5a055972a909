"""What tests of the mover share: its program, and stores to move between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from tests.project import PROJECT

REGION = "eu-central-1"
PROGRAM = PROJECT / "roles" / "move_artifacts" / "files" / "move_artifacts"
# Names that a user may give to an artifact.
ODD_NAMES = (
    "1/run/artifacts/plain.txt",
    "1/run/artifacts/with space.txt",
    "1/run/artifacts/ümläut/日本語.bin",
    "1/run/artifacts/hash#question?percent%20plus+.txt",
    "1/run/artifacts/quote'\"&<>.txt",
    "1/run/artifacts/tab\tbackslash\\.txt",
    "1/run/artifacts/%2e%2e/not-a-parent",
    "1/run/artifacts/empty",
)


class Bucket:
    """A bucket that keeps every version, so that what is written twice is seen."""

    def __init__(self, endpoint: str, name: str) -> None:
        """Make it."""
        self.client = boto3.client(
            "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
        )
        self.name = name
        self.client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def get(self, key: str) -> bytes:
        """Return an object."""
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def written(self, key: str) -> float:
        """Return when an object was written, in seconds since the epoch."""
        return float(self.client.head_object(Bucket=self.name, Key=key)["LastModified"].timestamp())

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.client.delete_object(Bucket=self.name, Key=key)

    def empty(self) -> None:
        """Remove every version of every object, and abort every multipart upload."""
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.name)
        for entry in [
            entry for page in pages for kind in ("Versions", "DeleteMarkers") for entry in page.get(kind, [])
        ]:
            self.client.delete_object(Bucket=self.name, Key=entry["Key"], VersionId=entry["VersionId"])
        for upload in self.uploads():
            self.client.abort_multipart_upload(Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"])

    def keys(self) -> list[str]:
        """Return the keys of all objects."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def writes(self) -> list[str]:
        """Return the key of every version: one for each time that an object was written."""
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.name)
        return [entry["Key"] for page in pages for entry in page.get("Versions", [])]

    def parts(self) -> list[Any]:
        """Return the parts of uploads that have not ended."""
        return [
            part
            for upload in self.uploads()
            for part in self.client.list_parts(Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"]).get(
                "Parts", []
            )
        ]

    def uploads(self) -> list[Any]:
        """Return the uploads that have not ended."""
        return list(self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", []))


@dataclass
class Result:
    """How a run of the program ended."""

    status: int
    report: dict[str, Any]
    error: str

    @classmethod
    def of(cls, process: subprocess.Popen[str]) -> Result:
        """Wait for a run."""
        output, errors = process.communicate()
        assert "Traceback" not in errors, errors
        report = json.loads(output.splitlines()[-1])
        return cls(process.returncode, report, report.get("error", ""))


class Move:
    """A move between two stores, which each test makes for itself.

    Args:
        source: URI of the store to move from.
        target: URI of the store to move to.
        state: Directory of the manifests.
        environment: Variables for each store.
    """

    def __init__(
        self, source: str, target: str, state: Path, environment: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """Keep what to move."""
        self.source, self.target, self.state = source, target, state
        # As systemd hands them over.
        self.credentials = Path(tempfile.mkdtemp(dir=state.parent))
        for side, variables in (environment or {}).items():
            settings = f"import os\nos.environ.update({dict(variables)!r})\n"
            (self.credentials / f"{side}_gunicorn.conf.py").write_text(settings)

    def start(self, command: str, *options: str) -> subprocess.Popen[str]:
        """Start the program."""
        places = ["--from", self.source, "--to", self.target, "--state", str(self.state)]
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), command, *places, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # What the tester has set for clouds of his own is no business of a test.
            env={
                name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AZURE_", "GOOGLE_"))
            }
            | {"CREDENTIALS_DIRECTORY": str(self.credentials)}
            | {"PYTHONDONTWRITEBYTECODE": "1", "AWS_EC2_METADATA_DISABLED": "true"},
        )

    def __call__(self, command: str, *options: str) -> Result:
        """Run the program."""
        return Result.of(self.start(command, *options))


def fill(directory: Path, names: Sequence[str] = ODD_NAMES) -> dict[str, bytes]:
    """Write files of odd names into a directory, each of another content; return them."""
    content = {name: b"" if name.endswith("empty") else f"content of {name}".encode() * 100 for name in names}
    for name, data in content.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return content


def files_of(directory: Path) -> dict[str, bytes]:
    """Return the files of a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }
