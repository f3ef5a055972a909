#!/usr/bin/python
"""Ansible module: a bucket of S3 for artifacts, and the IAM role of the server that uses it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plugins.module_utils import artifact_store as base
    from plugins.module_utils.artifact_store import main
else:
    from ansible.module_utils import artifact_store as base

    # Mitogen knows a module written for Ansible by an import like this one.
    from ansible.module_utils.artifact_store import main

try:
    import boto3
    from botocore import exceptions
    from botocore.config import Config

    MISSING = ""
except ImportError as missing:
    MISSING = missing.name or "boto3"

DOCUMENTATION = r"""
module: artifact_store_s3
short_description: A bucket of S3 for artifacts, and the IAM role of the server that uses it
description:
  - Creates a bucket or puts it right, with public access blocked, encryption, versioning, a policy that refuses plain
    HTTP, lifecycle rules, CORS and tags. Optionally creates an IAM role with a policy, and an instance profile.
  - The modules of the collection amazon.aws do not say in check mode what they would change, and those of community.aws
    write lifecycle rules one at a time over what they have just read, which S3 may still answer as it was before.
  - Statements, rules and tags of others stay as they are, and those that do the same already are enough. Those of this
    module have names that begin with C(mlflow-artifacts) or C(MlflowArtifacts).
  - Credentials come from boto3's usual chain; none is an option.
options:
  bucket:
    description: Name of the bucket.
    type: str
    required: true
  prefix:
    description: Where in the bucket artifacts are, without a slash at the end; the rules are about nothing else.
    type: str
    default: ""
  region:
    description: Region of the bucket; empty for that of boto3's chain.
    type: str
    default: ""
  endpoint:
    description: URL of a store that speaks the protocol of S3; empty for AWS. What it does not know is left out.
    type: str
    default: ""
  versioning:
    description: Whether objects have versions.
    type: bool
    required: true
  kms_key:
    description: Key that encrypts; empty for that of S3 itself.
    type: str
    default: ""
  noncurrent_days:
    description: Days after which versions that were replaced or deleted are removed; 0 for never.
    type: int
    required: true
  abort_multipart_days:
    description: Days after which the parts of an unfinished upload are removed.
    type: int
    required: true
  transition:
    description: C(days) and C(class), or nothing.
    type: dict
    default: {}
  expire:
    description: Dictionaries with C(prefix), below the store's own, and C(days).
    type: list
    elements: dict
    default: []
  cors_origins:
    description: Origins of pages that may read presigned URLs.
    type: list
    elements: str
    default: []
  tags:
    description: Tags that the bucket and the role have to have.
    type: dict
    default: {}
  role:
    description: Name of the IAM role and instance profile; empty for none.
    type: str
    default: ""
  role_policy:
    description: What the role may do, a policy document.
    type: dict
    default: {}
requirements: [boto3]
author: MLflow on VMs contributors
"""

EXAMPLES = r"""
- name: Ensure the bucket
  artifact_store_s3:
    bucket: example-mlflow
    region: eu-central-1
    versioning: true
    noncurrent_days: 30
    abort_multipart_days: 7
  register: __site_store
"""

RETURN = r"""
differences:
  description: What was, or in check mode would be, put right, one text for each setting.
  type: list
  elements: str
  returned: success
"""

OPTIONS: dict[str, dict[str, Any]] = {
    "bucket": {"type": "str", "required": True},
    "prefix": {"type": "str", "default": ""},
    "region": {"type": "str", "default": ""},
    "endpoint": {"type": "str", "default": ""},
    "versioning": {"type": "bool", "required": True},
    "kms_key": {"type": "str", "default": "", "no_log": False},
    "noncurrent_days": {"type": "int", "required": True},
    "abort_multipart_days": {"type": "int", "required": True},
    "transition": {"type": "dict", "default": {}},
    "expire": {"type": "list", "elements": "dict", "default": []},
    "cors_origins": {"type": "list", "elements": "str", "default": []},
    "tags": {"type": "dict", "default": {}},
    "role": {"type": "str", "default": ""},
    "role_policy": {"type": "dict", "default": {}},
}

# Error codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and
# https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html.
DENIED = {"AccessDenied", "AccessDeniedException", "403", "Forbidden", "AllAccessDisabled"}
ABSENT = {"404", "NoSuchBucket", "NotFound"}
UNKNOWN_KEY = {"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"}
WRONG_KEY = {"SignatureDoesNotMatch", "InvalidSignatureException"}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
UNSUPPORTED = {"NotImplemented", "MethodNotAllowed", "XNotImplemented", "501", "405"}
ELSEWHERE = {"301", "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}

# Permissions that are not named like the call: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
ACTIONS = {
    "HeadBucket": "s3:ListBucket",
    "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
    "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "DeleteBucketLifecycle": "s3:PutLifecycleConfiguration",
    "GetBucketCors": "s3:GetBucketCORS",
    "PutBucketCors": "s3:PutBucketCORS",
    "DeleteBucketCors": "s3:PutBucketCORS",
}

BLOCKED = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
TLS_ONLY = "MlflowArtifactsTlsOnly"
TRUST = {
    "Sid": "MlflowArtifactsInstance",
    "Effect": "Allow",
    "Principal": {"Service": "ec2.amazonaws.com"},
    "Action": "sts:AssumeRole",
}
HELP = "docs/artifacts.md lists what preparing the store needs"


class Bucket(base.Store):
    """A bucket, and the role of the server."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Refuse to work without boto3."""
        super().__init__(given)
        if MISSING:
            raise base.Refused(f"The Python package {MISSING} is missing on the control node; run `pip install boto3`.")
        self.name: str = given["bucket"]
        self.exists = False
        self._clients: dict[str, Any] = {}

    @property
    def place(self) -> str:
        """The bucket."""
        return f"s3://{self.name}"

    # Calls

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            config = Config(
                connect_timeout=base.CONNECT_SECONDS,
                read_timeout=base.READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": base.ATTEMPTS},
            )
            session = boto3.Session(region_name=self.given["region"] or None)
            endpoint = (self.given["endpoint"] or None) if service == "s3" else None
            self._clients[service] = session.client(service, endpoint_url=endpoint, config=config)
        return self._clients[service]

    def _call(self, operation: str, **arguments: Any) -> Any:
        """Call an operation on the bucket; what S3 refuses is told in a sentence."""
        action = ACTIONS.get(operation, f"s3:{operation}")
        return self._ask("s3", operation, action, f"the bucket {self.name}", Bucket=self.name, **arguments)

    def _ask(self, service: str, operation: str, action: str, target: str, **arguments: Any) -> Any:
        with self._refusals(action, target):
            method = re.sub(r"(?<!^)([A-Z])", r"_\1", operation).lower()
            return getattr(self._client(service), method)(**arguments)

    @contextlib.contextmanager
    def _refusals(self, action: str, target: str) -> Iterator[None]:
        """Turn what the SDK raises into sentences; what the caller may expect goes on as it is."""
        try:
            yield
        except exceptions.ClientError as error:
            if sentence := self._sentence(error, action, target):
                raise base.Refused(sentence) from None
            raise
        except exceptions.NoRegionError:
            raise base.Refused(
                "artifact_store_s3_region is empty, and neither AWS_DEFAULT_REGION nor the profile names a region."
            ) from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.CredentialRetrievalError):
            raise base.Refused(
                "No AWS credentials were found on the control node; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, or run where an IAM role is attached."
            ) from None
        except exceptions.ProfileNotFound:
            raise base.Refused(
                "The profile in AWS_PROFILE is not in the configuration files of AWS; `aws configure list-profiles`"
                " lists those that are."
            ) from None
        except exceptions.SSLError:
            raise base.Refused(
                f"The certificate of {self._host()} cannot be verified; name the CA bundle to trust in AWS_CA_BUNDLE."
            ) from None
        except (exceptions.HTTPClientError, exceptions.ConnectionError) as error:
            raise base.Refused(
                f"{self._host()} gave no answer to {action} on {target} ({type(error).__name__}); check"
                " artifact_store_s3_region, artifact_store_s3_endpoint, the network and its proxy."
            ) from None
        except exceptions.BotoCoreError as error:
            # Others are about tokens and settings, which the class names.
            raise base.Refused(
                f"AWS cannot be asked for {action} on {target} ({type(error).__name__}); check the credentials and"
                " settings of AWS on the control node."
            ) from None

    def _host(self) -> str:
        return str(self._client("s3").meta.endpoint_url).partition("://")[2]

    def _sentence(self, error: Any, action: str, target: str) -> str:
        """Return what an error means; nothing for one that only its caller can judge."""
        code, text = code_of(error), text_of(error)
        if code in DENIED:
            who = re.search(r"arn:aws[\w-]*:(iam|sts)::\S+", text)
            whose = (
                f", or {target} belongs to another account" if action in ("s3:ListBucket", "s3:CreateBucket") else ""
            )
            may_not = f"{who[0] if who else 'This identity'} may not {action} on {target}"
            return f"{may_not}{whose}; grant that action: {HELP}."
        if code in UNKNOWN_KEY:
            return "AWS does not know the access key that is in use; check AWS_ACCESS_KEY_ID or the profile."
        if code in WRONG_KEY:
            return (
                "AWS refuses the secret access key that is in use; check AWS_SECRET_ACCESS_KEY or the profile, and this"
                " machine's clock."
            )
        if code in EXPIRED:
            return "The AWS credentials that are in use have expired; get new ones, such as with `aws sso login`."
        if code == "BucketAlreadyExists":
            return f"The name {self.name} is taken by another account's bucket; choose another in artifact_store_uri."
        if code in ELSEWHERE:
            return (
                f"The bucket {self.name} is not in the region {self._region()}; set artifact_store_s3_region to the one"
                " that it is in."
            )
        return ""

    def _region(self) -> str:
        return str(self._client("s3").meta.region_name)

    def _read(self, operation: str, key: str, setting: str, *absent: str) -> Any:
        """Return one of the bucket's settings; nothing where there is none.

        Args:
            operation: The call.
            key: Where in the answer the setting is.
            setting: What it is called in sentences.
            absent: Error codes that mean that there is none.

        Raises:
            base.Unsupported: The store is not AWS and does not know the setting.
        """
        if not self.exists:
            return None
        try:
            return self._call(operation).get(key)
        except exceptions.ClientError as error:
            if code_of(error) in absent:
                return None
            raise self._unknown(error, operation, setting) from None

    def _write(self, operation: str, setting: str, **arguments: Any) -> None:
        try:
            self._call(operation, **arguments)
        except exceptions.ClientError as error:
            raise self._unknown(error, operation, setting) from None

    def _unknown(self, error: Any, operation: str, setting: str) -> Exception:
        code = code_of(error)
        if self.given["endpoint"] and code in UNSUPPORTED:
            return base.Unsupported(setting)
        if code == "MalformedPolicy":
            return base.Refused(f"S3 does not take the policy of the bucket {self.name}: {text_of(error)}.")
        return base.Refused(f"S3 refused {operation} on the bucket {self.name} with {code}.")

    # Steps

    def steps(self) -> Iterator[base.Step]:
        """Compare the bucket, what is open to the world first, and then the role."""
        self.exists = self._exists()
        if not self.exists:
            missing = base.Difference(f"the bucket {self.name}", None, {"region": self._region()})
            yield base.Step([missing], self._create)
        for compare in (
            self._public_access,
            self._policy,
            self._encryption,
            self._versioning,
            self._lifecycle,
            self._cors,
            self._tags,
        ):
            try:
                step = compare()
            except base.Unsupported as setting:
                self.warnings.append(f"{self.place} does not know {setting}, which is left out.")
            else:
                yield step
        if self.given["role"]:
            yield from Role(self, self.given["role"]).steps()

    def _exists(self) -> bool:
        try:
            found = self._call("HeadBucket")
        except exceptions.ClientError as error:
            if code_of(error) in ABSENT:
                return False
            raise self._unknown(error, "HeadBucket", "the bucket") from None
        region = found.get("BucketRegion") or self._region()
        if region != self._region() and not self.given["endpoint"]:
            raise base.Refused(
                f"The bucket {self.name} is in the region {region}, not in {self._region()}; set"
                f" artifact_store_s3_region to {region}."
            )
        return True

    def _create(self) -> None:
        # The first region of all is the one that must not be named.
        where = {"CreateBucketConfiguration": {"LocationConstraint": self._region()}}
        arguments: dict[str, Any] = {} if self._region() == "us-east-1" else where
        try:
            self._write("CreateBucket", "the bucket", **arguments)
        finally:
            # One that is there after all is compared.
            self.exists = True
        with self._refusals("s3:ListBucket", f"the bucket {self.name}"):
            self._client("s3").get_waiter("bucket_exists").wait(
                Bucket=self.name, WaiterConfig={"Delay": 2, "MaxAttempts": 15}
            )

    def _public_access(self) -> base.Step:
        setting = "the block of public access"
        absent = "NoSuchPublicAccessBlockConfiguration"
        found = self._read("GetPublicAccessBlock", "PublicAccessBlockConfiguration", setting, absent) or {}
        differences = [
            each for name, wanted in BLOCKED.items() for each in base.compare(name, found.get(name, False), wanted)
        ]
        return base.Step(
            differences,
            lambda: self._write("PutPublicAccessBlock", setting, PublicAccessBlockConfiguration=BLOCKED),
        )

    def _policy(self) -> base.Step:
        text = self._read("GetBucketPolicy", "Policy", "the bucket's policy", "NoSuchBucketPolicy")
        policy = json.loads(text) if text else {"Version": "2012-10-17", "Statement": []}
        arn = f"arn:{self._client('s3').meta.partition}:s3:::{self.name}"
        wanted = {
            "Sid": TLS_ONLY,
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [arn, f"{arn}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
        found = base.one_or_more(policy["Statement"])
        mine = next((one for one in found if one.get("Sid") == TLS_ONLY), None)
        right = any(base.same_statement(one, wanted) for one in found)
        merged = base.merge_named(found, {TLS_ONLY: wanted}, lambda one: str(one.get("Sid")))
        return base.Step(
            [] if right else [base.Difference(f"the policy's statement {TLS_ONLY}", mine, wanted)],
            lambda: self._write(
                "PutBucketPolicy", "the bucket's policy", Policy=json.dumps({**policy, "Statement": merged})
            ),
        )

    def _encryption(self) -> base.Step:
        if self.given["endpoint"] and not self.given["kms_key"]:
            # There is no telling whether such a store has keys of its own.
            return base.Step([], lambda: None)
        absent = "ServerSideEncryptionConfigurationNotFoundError"
        config = self._read("GetBucketEncryption", "ServerSideEncryptionConfiguration", "encryption", absent)
        rule = ((config or {}).get("Rules") or [{}])[0]
        by_default = rule.get("ApplyServerSideEncryptionByDefault", {})
        found = {"algorithm": by_default.get("SSEAlgorithm")}
        wanted: dict[str, Any] = {"algorithm": "AES256"}
        written: dict[str, Any] = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        if self.given["kms_key"]:
            wanted = {"algorithm": "aws:kms", "key": self.given["kms_key"], "bucket key": True}
            found |= {"key": by_default.get("KMSMasterKeyID"), "bucket key": rule.get("BucketKeyEnabled", False)}
            key = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": self.given["kms_key"]}
            # Without it each object costs a request to KMS.
            written = {"ApplyServerSideEncryptionByDefault": key, "BucketKeyEnabled": True}
        return base.Step(
            base.compare("encryption", found if config else None, wanted),
            lambda: self._write(
                "PutBucketEncryption", "encryption", ServerSideEncryptionConfiguration={"Rules": [written]}
            ),
        )

    def _versioning(self) -> base.Step:
        found = self._read("GetBucketVersioning", "Status", "versioning")
        # A bucket that had versions once can only suspend them.
        wanted = "Enabled" if self.given["versioning"] else "Suspended" if found else None
        return base.Step(
            base.compare("versioning", found, wanted),
            lambda: self._write("PutBucketVersioning", "versioning", VersioningConfiguration={"Status": wanted}),
        )

    def _lifecycle(self) -> base.Step:
        setting = "lifecycle rules"
        answer: dict[str, Any] = {}
        if self.exists:
            try:
                answer = self._call("GetBucketLifecycleConfiguration")
            except exceptions.ClientError as error:
                if code_of(error) != "NoSuchLifecycleConfiguration":
                    raise self._unknown(error, "GetBucketLifecycleConfiguration", setting) from None
        rules = answer.get("Rules", [])
        owner = self._owner()

        def owned(name: str) -> bool:
            return name == owner or name.startswith(f"{owner}:expire:")

        named = {str(rule.get("ID")): lifecycle_rule(rule) for rule in rules}
        others = [
            (rule["Filter"]["Prefix"], effects_of(rule))
            for name, rule in named.items()
            if not owned(name) and rule["Status"] == "Enabled" and list(rule.get("Filter", {})) == ["Prefix"]
        ]
        wanted = {
            name: rule
            for name, rule in self._wanted_rules().items()
            if name in named or not base.covered(effects_of(rule), rule["Filter"]["Prefix"], others)
        }
        differences = base.compare_named("the lifecycle rule", named, wanted, owned)
        kept = [rule for rule in rules if not owned(str(rule.get("ID")))]
        merged = [*kept, *wanted.values()]
        # A setting of the whole configuration, which a write without it would put back.
        size = "TransitionDefaultMinimumObjectSize"
        kept_size = {size: answer[size]} if size in answer else {}
        return base.Step(
            differences,
            lambda: self._write(
                "PutBucketLifecycleConfiguration", setting, LifecycleConfiguration={"Rules": merged}, **kept_size
            ),
        )

    def _owner(self) -> str:
        """Return what the rules of this store are named after, for a bucket can hold several."""
        return f"{base.OWN}:{self.given['prefix']}"

    def _wanted_rules(self) -> dict[str, dict[str, Any]]:
        given, owner = self.given, self._owner()
        prefix = f"{given['prefix']}/" if given["prefix"] else ""
        rule: dict[str, Any] = {
            "ID": owner,
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": given["abort_multipart_days"]},
        }
        if given["noncurrent_days"]:
            rule["NoncurrentVersionExpiration"] = {"NoncurrentDays": given["noncurrent_days"]}
            # The mark of a deletion outlives the versions it was about.
            rule["Expiration"] = {"ExpiredObjectDeleteMarker": True}
        if given["transition"]:
            transition = {"Days": int(given["transition"]["days"]), "StorageClass": given["transition"]["class"]}
            rule["Transitions"] = [transition]
        expire = [
            {
                "ID": f"{owner}:expire:{each['prefix']}",
                "Status": "Enabled",
                "Filter": {"Prefix": f"{prefix}{each['prefix']}"},
                "Expiration": {"Days": int(each["days"])},
            }
            for each in given["expire"]
        ]
        return {str(each["ID"]): each for each in [rule, *expire]}

    def _cors(self) -> base.Step:
        rules = self._read("GetBucketCors", "CORSRules", "CORS", "NoSuchCORSConfiguration") or []
        name = self._owner()
        wanted: dict[str, dict[str, Any]] = {}
        if self.given["cors_origins"]:
            wanted[name] = {
                "ID": name,
                "AllowedHeaders": ["*"],
                "AllowedMethods": ["GET", "HEAD"],
                "AllowedOrigins": self.given["cors_origins"],
                "ExposeHeaders": ["ETag"],
                "MaxAgeSeconds": base.CORS_SECONDS,
            }
        found = {str(rule.get("ID")): rule for rule in rules}
        kept = [rule for rule in rules if rule.get("ID") != name]

        def apply() -> None:
            if merged := [*kept, *wanted.values()]:
                self._write("PutBucketCors", "CORS", CORSConfiguration={"CORSRules": merged})
            else:
                self._write("DeleteBucketCors", "CORS")

        return base.Step(base.compare_named("the CORS rule", found, wanted, lambda one: one == name), apply)

    def _tags(self) -> base.Step:
        if not self.given["tags"]:
            return base.Step([], lambda: None)
        found = tags_of(self._read("GetBucketTagging", "TagSet", "tags", "NoSuchTagSet") or [])
        merged = tag_set({**found, **self.given["tags"]})
        return base.Step(
            base.compare_tags("the tag", found, self.given["tags"]),
            lambda: self._write("PutBucketTagging", "tags", Tagging={"TagSet": merged}),
        )


class Role:
    """The IAM role of the server, with the policy that is part of it and the profile that instances have."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        """Keep what it is about."""
        self.bucket = bucket
        self.given = bucket.given
        self.name = name
        self.exists = False

    def _call(self, operation: str, **arguments: Any) -> Any:
        """Call IAM; what is missing is nothing."""
        what = "instance profile" if "InstanceProfile" in operation else "role"
        target = f"the {what} {self.name}"
        try:
            return self.bucket._ask("iam", operation, f"iam:{operation}", target, **arguments)
        except exceptions.ClientError as error:
            code = code_of(error)
            if code == "NoSuchEntity":
                return None
            reason = f": {text_of(error)}" if code == "MalformedPolicyDocument" else ""
            raise base.Refused(f"IAM refused {operation} on {target} with {code}{reason}.") from None

    def steps(self) -> Iterator[base.Step]:
        """Compare the role, what it may do, and its profile."""
        role = (self._call("GetRole", RoleName=self.name) or {}).get("Role")
        self.exists = role is not None
        if role is None:
            yield base.Step([base.Difference(f"the IAM role {self.name}", None, {"trusts": "EC2"})], self._create)
        else:
            yield self._trust(role["AssumeRolePolicyDocument"])
            yield self._tags(tags_of(role.get("Tags", [])))
        yield self._policy()
        yield from self._profile()

    def _create(self) -> None:
        self._call(
            "CreateRole",
            RoleName=self.name,
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [TRUST]}),
            Description="MLflow's server, for its artifacts",
            Tags=tag_set(self.given["tags"]),
        )
        self.exists = True
        with self.bucket._refusals("iam:GetRole", f"the role {self.name}"):
            self.bucket._client("iam").get_waiter("role_exists").wait(
                RoleName=self.name, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
            )

    def _trust(self, document: dict[str, Any]) -> base.Step:
        sid = str(TRUST["Sid"])
        found = base.one_or_more(document["Statement"])
        # Whoever else may take the role, EC2 has to be among them.
        right = any(base.same_statement(one, TRUST) for one in found)
        mine = next((one for one in found if one.get("Sid") == sid), None)
        merged = base.merge_named(found, {sid: TRUST}, lambda one: str(one.get("Sid")))
        return base.Step(
            [] if right else [base.Difference(f"the trust of the IAM role {self.name}", mine, TRUST)],
            lambda: self._call(
                "UpdateAssumeRolePolicy",
                RoleName=self.name,
                PolicyDocument=json.dumps({**document, "Statement": merged}),
            ),
        )

    def _tags(self, found: dict[str, str]) -> base.Step:
        return base.Step(
            base.compare_tags(f"of the IAM role {self.name} the tag", found, self.given["tags"]),
            lambda: self._call("TagRole", RoleName=self.name, Tags=tag_set(self.given["tags"])),
        )

    def _policy(self) -> base.Step:
        wanted = self.given["role_policy"]
        asked = {"RoleName": self.name, "PolicyName": base.OWN}
        answer = self._call("GetRolePolicy", **asked) if self.exists else None
        found = answer["PolicyDocument"] if answer else None
        same = base.same_policy(found, wanted)
        return base.Step(
            [] if same else [base.Difference(f"the policy {base.OWN} of the IAM role {self.name}", found, wanted)],
            lambda: self._call("PutRolePolicy", **asked, PolicyDocument=json.dumps(wanted)),
        )

    def _profile(self) -> Iterator[base.Step]:
        asked = {"InstanceProfileName": self.name}
        answer = self._call("GetInstanceProfile", **asked)
        setting = f"the instance profile {self.name}"
        if answer is None:
            yield base.Step(
                [base.Difference(setting, None, {"role": self.name})],
                lambda: self._call("CreateInstanceProfile", **asked, Tags=tag_set(self.given["tags"])),
            )
            # A step of its own, for a run that ends in between.
            answer = self._call("GetInstanceProfile", **asked)
            if answer is None:
                return
        roles = [role["RoleName"] for role in answer["InstanceProfile"]["Roles"]]
        if roles and roles != [self.name]:
            raise base.Refused(
                f"The instance profile {self.name} has the role {roles[0]}, and can have only one; take it away, or"
                " choose another artifact_store_s3_role."
            )
        yield base.Step(
            [] if roles else [base.Difference(f"the role of {setting}", None, self.name)],
            lambda: self._call("AddRoleToInstanceProfile", **asked, RoleName=self.name),
        )


def code_of(error: Any) -> str:
    """Return the code of an error of the service."""
    return str(error.response.get("Error", {}).get("Code", ""))


def text_of(error: Any) -> str:
    """Return the words of an error of the service, without their full stop."""
    return " ".join(str(error.response.get("Error", {}).get("Message", "")).split()).rstrip(".")


def lifecycle_rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule as this module writes it, for S3 leaves out what is empty."""
    return {**rule, "Filter": {"Prefix": "", **rule.get("Filter", {})}} if "Prefix" not in rule else dict(rule)


def effects_of(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a lifecycle rule does, by name."""
    return {name: value for name, value in rule.items() if name not in ("ID", "Status", "Filter", "Prefix")}


def tags_of(tag_list: list[dict[str, str]]) -> dict[str, str]:
    """Return tags by name."""
    return {tag["Key"]: tag["Value"] for tag in tag_list}


def tag_set(tags: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return tags as AWS takes them."""
    return [{"Key": name, "Value": str(value)} for name, value in tags.items()]


if __name__ == "__main__":
    main(Bucket, OPTIONS)
