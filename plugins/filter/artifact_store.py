"""Filters that take the URI of an artifact store apart."""

from __future__ import annotations

import re
from typing import Any

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
S3_BUCKET = re.compile(
    r"(?!xn--|sthree-|amzn-s3-demo-)(?!.*\.\.)(?!\d+\.\d+\.\d+\.\d+$)(?!.*(-s3alias|--ol-s3|\.mrap|--x-s3|--table-s3)$)"
    r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
)
# https://cloud.google.com/storage/docs/buckets#naming
GCS_BUCKET = re.compile(
    r"(?!goog)(?!.*google)(?!.*g00gle)(?!.*\.\.)(?!\d+\.\d+\.\d+\.\d+$)(?=[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$)"
    r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
)
# https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules#microsoftstorage
ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
CONTAINER = re.compile(r"(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")
PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
PREFIX_LENGTH_MAX = 128

FORMS = {
    "s3": "s3://<bucket>[/<prefix>]",
    "azure": "wasbs://<container>@<account>.blob.core.windows.net[/<prefix>]",
    "gcs": "gs://<bucket>[/<prefix>]",
    "local": "an absolute directory",
}
SCHEMES = {"s3": "s3", "wasbs": "azure", "gs": "gcs"}
S3_TAKES = (
    "a bucket's name of 3 to 63 lower-case letters, digits, hyphens and dots that begins and ends with a letter or"
    " digit and has no prefix or suffix that AWS keeps for itself"
)
PREFIX_TAKES = (
    f"a prefix of at most {PREFIX_LENGTH_MAX} letters, digits, '.', '_', '-' and single slashes, with none at its end"
)
GCS_TAKES = (
    "a bucket's name of 3 to 63 lower-case letters, digits, hyphens, underscores and dots that begins and ends with a"
    " letter or digit and says nothing of Google"
)


def location(uri: object) -> dict[str, str]:
    """Take the URI of an artifact store apart.

    Args:
        uri: `s3://…`, `wasbs://…`, `gs://…` or an absolute directory.

    Returns:
        `provider` (s3, azure, gcs, local, or nothing), `bucket` (of Azure the container), `account`, `prefix` without
        slashes at its ends, and `problem`: what the URI should be, where it is something else.
    """
    text = uri if isinstance(uri, str) else ""
    found = {"provider": "", "bucket": "", "account": "", "prefix": "", "problem": ""}
    if re.fullmatch(r"/[^\s\0]*", text) and not text.startswith("//"):
        return found | {"provider": "local"}
    scheme, separator, rest = text.partition("://")
    provider = SCHEMES.get(scheme, "") if separator else ""
    if not provider:
        return found | {"problem": f"{', '.join(list(FORMS.values())[:-1])} or {FORMS['local']}"}
    name, slash, prefix = rest.partition("/")
    bucket, account = name, ""
    if provider == "azure":
        bucket, _, host = name.partition("@")
        account, _, domain = host.partition(".")
        problem = azure_problem(bucket, account, domain)
    elif provider == "s3":
        problem = "" if S3_BUCKET.fullmatch(bucket) else S3_TAKES
    else:
        problem = "" if GCS_BUCKET.fullmatch(bucket) else GCS_TAKES
    if slash and not problem and (not PREFIX.fullmatch(prefix) or len(prefix) > PREFIX_LENGTH_MAX):
        problem = PREFIX_TAKES
    return {"provider": provider, "bucket": bucket, "account": account, "prefix": prefix, "problem": problem}


def azure_problem(container: str, account: str, domain: str) -> str:
    """Return what the host of a wasbs URI should be, where it is something else."""
    if domain != "blob.core.windows.net":
        return FORMS["azure"]
    if not ACCOUNT.fullmatch(account):
        return "the name of a storage account, of 3 to 24 lower-case letters and digits"
    if not CONTAINER.fullmatch(container):
        return "a container's name of 3 to 63 lower-case letters, digits and single hyphens between them"
    return ""


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"artifact_location": location}
