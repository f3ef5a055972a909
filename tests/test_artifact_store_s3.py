"""A bucket is made, put right and looked at by the real SDK, against moto's S3 and IAM.

moto knows no regions beyond the one asked for, and grants everything: what is refused here is refused on the way to it.
"""

from __future__ import annotations

import io
import json
import os
import re
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
import jinja2
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.formparser import parse_form_data
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from plugins.module_utils import artifact_store as base
from tests.artifacts import load_module
from tests.project import PROJECT

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
module = load_module("s3")

REGION = "eu-central-1"
WHO = "arn:aws:iam::123456789012:user/operator"
TAGS = {"Project": "mlflow"}


@dataclass
class Aws:
    """S3 and IAM on this machine.

    Args:
        refused: Status and code of the error that answers a call: a method and what its query begins with, or an action
            of IAM.
        calls: What was called.
        endpoint: Where it is.
    """

    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    endpoint: str = ""

    def __post_init__(self) -> None:
        """Load moto."""
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        """Answer a request."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        call = f"{method} ?{re.split('[&=]', query)[0]}".removesuffix(" ?")
        if b"Action=" in body:
            form = parse_form_data({**environ, "wsgi.input": io.BytesIO(body)})[1]
            call = form["Action"]
        self.calls.append(call)
        if call in self.refused:
            status, code = self.refused[call]
            text = f"User: {WHO} is not authorized to perform this"
            error = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>"
            if "Action=" in body.decode(errors="replace"):
                error = f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>"
            return Response(error, status, content_type="application/xml")(environ, start_response)
        return self._moto(environ, start_response)

    def writes(self) -> list[str]:
        """Return the calls that change something."""
        return [call for call in self.calls if not call.startswith(("GET", "HEAD", "Get"))]


@pytest.fixture(scope="module")
def running() -> Iterator[Aws]:
    aws = Aws()
    server = make_server("127.0.0.1", 0, aws, threaded=True)
    aws.endpoint = f"http://127.0.0.1:{server.port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield aws
    server.shutdown()
    thread.join()


@pytest.fixture
def aws(running: Aws, monkeypatch: pytest.MonkeyPatch) -> Aws:
    running.refused.clear()
    running.calls.clear()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {
        "AWS_ENDPOINT_URL_S3": running.endpoint,
        "AWS_ENDPOINT_URL_IAM": running.endpoint,
        "AWS_ACCESS_KEY_ID": "AKIATEST",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return running


@dataclass
class Site:
    """A bucket of its own, and all that is wanted of it."""

    aws: Aws
    given: dict[str, Any]

    @property
    def bucket(self) -> str:
        """Its name."""
        return str(self.given["bucket"])

    @property
    def role(self) -> str:
        """Name of the server's role."""
        return str(self.given["role"])

    @property
    def s3(self) -> Any:
        """A client as one has it at hand."""
        return boto3.client("s3", region_name=REGION)

    @property
    def iam(self) -> Any:
        """A client as one has it at hand."""
        return boto3.client("iam", region_name=REGION)

    def run(self, *, check_mode: bool = False, **changed: Any) -> dict[str, Any]:
        """Run the module, with some options changed."""
        self.aws.calls.clear()
        return base.settle(module.Bucket({**self.given, **changed}), check_mode=check_mode)

    def refusal(self, **changed: Any) -> str:
        """Run the module, and return why it refuses."""
        with pytest.raises(base.Refused) as refused:
            self.run(**changed)
        sentence = str(refused.value)
        assert sentence.endswith(".")
        assert "\n" not in sentence
        return sentence


def server_policy(bucket: str, prefix: str) -> dict[str, Any]:
    """Return what the role's template makes."""
    template = jinja2.Template((PROJECT / "roles/artifact_store/templates/s3_policy.json.j2").read_text())
    names = {"partition": "aws", "bucket": bucket, "prefix": prefix}
    values = {f"__artifact_store_s3_{name}": value for name, value in names.items()}
    document: dict[str, Any] = json.loads(template.render(**values, artifact_store_s3_kms_key=""))
    return document


@pytest.fixture
def site(aws: Aws) -> Site:
    name = f"example-{uuid.uuid4()}"
    given = {
        "bucket": name,
        "prefix": "site-a",
        "region": REGION,
        "endpoint": "",
        "versioning": True,
        "kms_key": "",
        "noncurrent_days": 30,
        "abort_multipart_days": 7,
        "transition": {"days": 60, "class": "STANDARD_IA"},
        "expire": [{"prefix": "12/", "days": 90}],
        "cors_origins": ["https://mlflow.example.com"],
        "tags": TAGS,
        "role": f"{name[:40]}-server",
        "role_policy": server_policy(name, "site-a/"),
    }
    return Site(aws, given)


@pytest.fixture
def made(site: Site) -> Site:
    assert site.run()["changed"]
    return site


# Made, and left alone


def test_check_mode_says_what_is_missing_and_makes_nothing(site: Site) -> None:
    result = site.run(check_mode=True)
    assert result["changed"]
    assert site.aws.writes() == []
    text = "; ".join(result["differences"])
    for part in (
        f'the bucket {site.bucket} is missing and should be {{"region": "eu-central-1"}}',
        "BlockPublicAcls is false and should be true",
        'versioning is missing and should be "Enabled"',
        'encryption is missing and should be {"algorithm": "AES256"}',
        "the lifecycle rule mlflow-artifacts:site-a is missing",
        'the tag Project is missing and should be "mlflow"',
        f"the IAM role {site.role} is missing",
        f"the instance profile {site.role} is missing",
    ):
        assert part in text
    assert 'versioning: "Enabled"\n' in result["diff"]["after"]


def test_a_bucket_is_made_whole(made: Site) -> None:
    s3, bucket = made.s3, made.bucket
    assert s3.head_bucket(Bucket=bucket)["BucketRegion"] == REGION
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    (statement,) = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert statement["Resource"] == [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert rules["mlflow-artifacts:site-a"] == {
        "ID": "mlflow-artifacts:site-a",
        "Status": "Enabled",
        "Filter": {"Prefix": "site-a/"},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
        "Expiration": {"ExpiredObjectDeleteMarker": True},
        "Transitions": [{"Days": 60, "StorageClass": "STANDARD_IA"}],
    }
    assert rules["mlflow-artifacts:site-a:expire:12/"]["Filter"] == {"Prefix": "site-a/12/"}
    assert rules["mlflow-artifacts:site-a:expire:12/"]["Expiration"] == {"Days": 90}
    (cors,) = s3.get_bucket_cors(Bucket=bucket)["CORSRules"]
    assert cors["AllowedOrigins"] == ["https://mlflow.example.com"]
    assert cors["AllowedMethods"] == ["GET", "HEAD"]
    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == [{"Key": "Project", "Value": "mlflow"}]


def test_the_role_of_the_server_is_made_whole(made: Site) -> None:
    role = made.iam.get_role(RoleName=made.role)["Role"]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "ec2.amazonaws.com"}
    assert role["Tags"] == [{"Key": "Project", "Value": "mlflow"}]
    policy = made.iam.get_role_policy(RoleName=made.role, PolicyName="mlflow-artifacts")["PolicyDocument"]
    assert policy == made.given["role_policy"]
    profile = made.iam.get_instance_profile(InstanceProfileName=made.role)["InstanceProfile"]
    assert [each["RoleName"] for each in profile["Roles"]] == [made.role]


def test_a_second_run_changes_nothing(made: Site) -> None:
    assert made.run() == {"changed": False, "differences": [], "diff": made.run()["diff"]}
    assert made.aws.writes() == []


def test_the_least_that_is_wanted(site: Site) -> None:
    least: dict[str, Any] = {"prefix": "", "transition": {}, "expire": [], "cors_origins": [], "tags": {}, "role": ""}
    least |= {"noncurrent_days": 0, "versioning": False}
    site.run(**least)
    (rule,) = site.s3.get_bucket_lifecycle_configuration(Bucket=site.bucket)["Rules"]
    assert set(rule) == {"ID", "Status", "Filter", "AbortIncompleteMultipartUpload"}
    assert "Status" not in site.s3.get_bucket_versioning(Bucket=site.bucket)
    assert not site.run(**least)["changed"]
    assert "GetRole" not in site.aws.calls


def test_a_key_encrypts(site: Site) -> None:
    key = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    site.run(kms_key=key)
    (rule,) = site.s3.get_bucket_encryption(Bucket=site.bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key}
    assert rule["BucketKeyEnabled"]
    assert not site.run(kms_key=key)["changed"]


def test_the_first_region_is_not_named(site: Site) -> None:
    assert site.run(region="us-east-1")["changed"]
    assert not site.run(region="us-east-1")["changed"]


# Put right


def test_what_was_loosened_is_put_right(made: Site) -> None:
    s3, iam, bucket = made.s3, made.iam, made.bucket
    s3.delete_public_access_block(Bucket=bucket)
    s3.delete_bucket_policy(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    s3.delete_bucket_lifecycle(Bucket=bucket)
    s3.delete_bucket_cors(Bucket=bucket)
    s3.delete_bucket_tagging(Bucket=bucket)
    everything = {**made.given["role_policy"], "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_role_policy(RoleName=made.role, PolicyName="mlflow-artifacts", PolicyDocument=json.dumps(everything))
    iam.remove_role_from_instance_profile(InstanceProfileName=made.role, RoleName=made.role)

    foreseen = made.run(check_mode=True)["differences"]
    assert made.aws.writes() == []
    assert 'versioning is "Suspended" and should be "Enabled"' in foreseen
    assert len(foreseen) == 4 + 1 + 1 + 2 + 1 + 1 + 1 + 1
    assert made.run()["differences"] == foreseen
    assert not made.run()["changed"]


def test_rules_that_are_no_longer_wanted_go(made: Site) -> None:
    result = made.run(expire=[], cors_origins=[])
    assert [each.partition(" and should be ")[2] for each in result["differences"]] == ["missing", "missing"]
    (rule,) = made.s3.get_bucket_lifecycle_configuration(Bucket=made.bucket)["Rules"]
    assert rule["ID"] == "mlflow-artifacts:site-a"
    with pytest.raises(made.s3.exceptions.ClientError, match="NoSuchCORSConfiguration"):
        made.s3.get_bucket_cors(Bucket=made.bucket)
    assert not made.run(expire=[], cors_origins=[])["changed"]


def test_what_others_have_set_stays(site: Site) -> None:
    s3, iam, bucket = site.s3, site.iam, site.bucket
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    theirs = {
        "Sid": "Backup",
        "Effect": "Allow",
        "Principal": {"AWS": "arn:aws:iam::123456789012:root"},
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [theirs]}))
    rule = {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    cors = {"ID": "page", "AllowedMethods": ["GET"], "AllowedOrigins": ["https://example.org"]}
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [cors]})
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "Owner", "Value": "data"}]})
    trust = {"Effect": "Allow", "Principal": {"AWS": "123456789012"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam.create_role(RoleName=site.role, AssumeRolePolicyDocument=document)
    iam.put_role_policy(RoleName=site.role, PolicyName="theirs", PolicyDocument=json.dumps(site.given["role_policy"]))

    site.run()
    site.run(prefix="site-b")
    assert not site.run()["changed"], "another store in the same bucket is no reason"
    assert theirs in json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert rules["logs"] == rule
    assert {"mlflow-artifacts:site-a", "mlflow-artifacts:site-b"} < set(rules)
    site.run(cors_origins=[])
    assert cors in s3.get_bucket_cors(Bucket=bucket)["CORSRules"]
    assert {"Key": "Owner", "Value": "data"} in s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
    statements = iam.get_role(RoleName=site.role)["Role"]["AssumeRolePolicyDocument"]["Statement"]
    assert len(statements) == 2
    assert "theirs" in iam.list_role_policies(RoleName=site.role)["PolicyNames"]


def test_what_others_do_already_is_enough(site: Site) -> None:
    s3, bucket = site.s3, site.bucket
    least: dict[str, Any] = {"transition": {}, "expire": [{"prefix": "12/", "days": 9}], "role": ""}
    site.run(**least)
    statement = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"][0]
    statement |= {"Sid": "Theirs", "Principal": {"AWS": "*"}, "Action": ["s3:*"]}
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))

    def rule(name: str, prefix: str, status: str = "Enabled", **effects: Any) -> dict[str, Any]:
        return {"ID": name, "Status": status, "Filter": {"Prefix": prefix}, **effects}

    parts = rule("parts", "", AbortIncompleteMultipartUpload={"DaysAfterInitiation": 7})
    versions = rule("versions", "site-", NoncurrentVersionExpiration={"NoncurrentDays": 30})
    versions["Expiration"] = {"ExpiredObjectDeleteMarker": True}
    expire = rule("expire", "site-a/12/", Expiration={"Days": 9})

    def differences(*rules: dict[str, Any]) -> int:
        s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)})
        return len(site.run(**least, check_mode=True)["differences"])

    assert differences(parts, versions, expire) == 0
    assert differences(parts, expire) == 1, "half of it is not enough"
    assert differences(parts, {**versions, "Status": "Disabled"}, expire) == 1
    assert differences(parts, {**versions, "Filter": {"Prefix": "site-b/"}}, expire) == 1
    assert differences(parts, {**versions, "NoncurrentVersionExpiration": {"NoncurrentDays": 300}}, expire) == 1
    assert differences(parts, versions) == 1


def test_a_run_that_ended_in_between_is_finished(site: Site) -> None:
    for call in ("PUT ?versioning", "PutRolePolicy", "AddRoleToInstanceProfile"):
        site.aws.refused[call] = (403, "AccessDenied")
        site.refusal()
        del site.aws.refused[call]
    site.run()
    assert not site.run()["changed"]


# Refused


@pytest.mark.parametrize(
    ("call", "permission"),
    [
        ("HEAD", "s3:ListBucket"),
        ("PUT", "s3:CreateBucket"),
        ("GET ?publicAccessBlock", "s3:GetBucketPublicAccessBlock"),
        ("PUT ?publicAccessBlock", "s3:PutBucketPublicAccessBlock"),
        ("GET ?policy", "s3:GetBucketPolicy"),
        ("PUT ?policy", "s3:PutBucketPolicy"),
        ("GET ?encryption", "s3:GetEncryptionConfiguration"),
        ("PUT ?encryption", "s3:PutEncryptionConfiguration"),
        ("GET ?versioning", "s3:GetBucketVersioning"),
        ("PUT ?versioning", "s3:PutBucketVersioning"),
        ("GET ?lifecycle", "s3:GetLifecycleConfiguration"),
        ("PUT ?lifecycle", "s3:PutLifecycleConfiguration"),
        ("GET ?cors", "s3:GetBucketCORS"),
        ("PUT ?cors", "s3:PutBucketCORS"),
        ("GET ?tagging", "s3:GetBucketTagging"),
        ("PUT ?tagging", "s3:PutBucketTagging"),
        ("GetRole", "iam:GetRole"),
        ("CreateRole", "iam:CreateRole"),
        ("GetRolePolicy", "iam:GetRolePolicy"),
        ("PutRolePolicy", "iam:PutRolePolicy"),
        ("GetInstanceProfile", "iam:GetInstanceProfile"),
        ("CreateInstanceProfile", "iam:CreateInstanceProfile"),
        ("AddRoleToInstanceProfile", "iam:AddRoleToInstanceProfile"),
    ],
)
def test_a_permission_that_is_missing_is_named(site: Site, call: str, permission: str) -> None:
    site.aws.refused[call] = (403, "AccessDenied")
    sentence = site.refusal()
    # The answer to a HEAD has no body, so nobody knows who asked.
    who = "This identity" if call == "HEAD" else WHO
    assert sentence.startswith(f"{who} may not {permission} on the "), sentence
    assert sentence.endswith("grant that action: docs/artifacts.md lists what preparing the store needs.")


@pytest.mark.parametrize(
    ("call", "status", "code", "sentence"),
    [
        (
            "PUT",
            409,
            "BucketAlreadyExists",
            "is taken by another account's bucket; choose another in artifact_store_uri.",
        ),
        ("GET ?policy", 403, "InvalidAccessKeyId", "AWS does not know the access key that is in use; check"),
        ("GET ?policy", 403, "SignatureDoesNotMatch", "AWS refuses the secret access key that is in use; check"),
        ("GET ?policy", 400, "ExpiredToken", "The AWS credentials that are in use have expired; get new ones"),
        ("GET ?policy", 400, "Strange", "S3 refused GetBucketPolicy on the bucket"),
        (
            "GET ?policy",
            400,
            "AuthorizationHeaderMalformed",
            "is not in the region eu-central-1; set artifact_store_s3_region",
        ),
        ("PUT ?policy", 400, "MalformedPolicy", "S3 does not take the policy of the bucket"),
        ("PutRolePolicy", 400, "MalformedPolicyDocument", "IAM refused PutRolePolicy on the role"),
    ],
)
def test_an_error_of_the_service_is_a_sentence(site: Site, call: str, status: int, code: str, sentence: str) -> None:
    site.aws.refused[call] = (status, code)
    assert sentence in site.refusal()


def test_a_bucket_of_another_region_is_refused(made: Site) -> None:
    assert "is in the region eu-central-1, not in eu-west-1; set artifact_store_s3_region" in made.refusal(
        region="eu-west-1"
    )


def test_a_profile_with_another_role_is_refused(made: Site) -> None:
    document = json.dumps({"Version": "2012-10-17", "Statement": [module.TRUST]})
    other = f"other-{uuid.uuid4()}"
    made.iam.create_role(RoleName=other, AssumeRolePolicyDocument=document)
    made.iam.remove_role_from_instance_profile(InstanceProfileName=made.role, RoleName=made.role)
    made.iam.add_role_to_instance_profile(InstanceProfileName=made.role, RoleName=other)
    assert f"The instance profile {made.role} has the role {other}, and can have only one" in made.refusal()


def test_missing_credentials_are_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert site.refusal().startswith("No AWS credentials were found on the control node; set AWS_PROFILE, or")


def test_a_missing_region_is_told(site: Site) -> None:
    assert site.refusal(region="").startswith("artifact_store_s3_region is empty, and neither AWS_DEFAULT_REGION")


def test_an_unknown_profile_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert site.refusal().startswith("The profile in AWS_PROFILE is not in the configuration files of AWS;")


def test_a_service_that_is_not_there_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    assert "gave no answer to s3:ListBucket on the bucket" in site.refusal()


# A store that only speaks the protocol


def test_what_another_store_does_not_know_is_left_out(site: Site) -> None:
    for call in ("GET ?publicAccessBlock", "GET ?cors", "GET ?tagging"):
        site.aws.refused[call] = (501, "NotImplemented")
    own = {**site.given, "role": "", "endpoint": site.aws.endpoint}
    store = module.Bucket(own)
    assert base.settle(store, check_mode=False)["changed"]
    assert store.warnings == [
        f"s3://{site.bucket} does not know {setting}, which is left out."
        for setting in ("the block of public access", "CORS", "tags")
    ]
    assert "PUT ?encryption" not in site.aws.calls
    assert not base.settle(module.Bucket(own), check_mode=False)["changed"]


def test_what_aws_does_not_know_is_refused(site: Site) -> None:
    site.aws.refused["GET ?cors"] = (501, "NotImplemented")
    assert "S3 refused GetBucketCors on the bucket" in site.refusal()


# Policies


def actions_of(name: str) -> set[str]:
    statements = json.loads((PROJECT / "docs" / "policies" / name).read_text())["Statement"]
    return {action for statement in statements for action in statement["Action"]}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the permissions that the module takes from now on."""
    actions: set[str] = set()
    ask = module.Bucket._ask

    def recording(self: Any, service: str, operation: str, action: str, target: str, **arguments: Any) -> Any:
        actions.add(action)
        return ask(self, service, operation, action, target, **arguments)

    monkeypatch.setattr(module.Bucket, "_ask", recording)
    return actions


def test_the_policy_to_prepare_a_store_grants_what_that_takes(site: Site, taken: set[str]) -> None:
    site.run()
    other = {**module.TRUST, "Principal": {"Service": "lambda.amazonaws.com"}}
    document = json.dumps({"Version": "2012-10-17", "Statement": [other]})
    site.iam.update_assume_role_policy(RoleName=site.role, PolicyDocument=document)
    site.iam.untag_role(RoleName=site.role, TagKeys=["Project"])
    site.run()
    # What AWS asks for beside, by its documentation: to tag what is created, and to give a role away.
    beside = {"iam:TagInstanceProfile", "iam:PassRole"}
    assert actions_of("aws_artifacts_manage.json") == taken | beside


def test_the_policy_of_a_server_is_that_of_the_role_of_its_instance() -> None:
    """Of the file that is generated from the role's template; what it allows is tried where a server works with it."""
    assert actions_of("aws_artifacts.json") == {
        *("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"),
        "s3:ListBucket",
        *("kms:Decrypt", "kms:GenerateDataKey"),
    }


def test_a_server_that_has_the_whole_bucket_is_told_what_is_missing() -> None:
    """S3 says so only to whom it lets list without a prefix, which is how it looks at a single object."""
    objects, listing = server_policy("example-mlflow", "")["Statement"]
    assert objects["Resource"] == "arn:aws:s3:::example-mlflow/*"
    assert "Condition" not in listing
    assert server_policy("example-mlflow", "a/")["Statement"][1]["Condition"] == {"StringLike": {"s3:prefix": "a/*"}}


def test_every_policy_about_artifacts_is_tried() -> None:
    uses = (
        "aws_artifacts",
        *(f"{cloud}_artifacts_{use}" for cloud in ("aws", "azure", "gcp") for use in ("manage", "verify")),
    )
    found = {path.stem for path in (PROJECT / "docs" / "policies").iterdir() if "artifacts" in path.name}
    assert found == set(uses)


def test_the_policy_to_verify_a_store_only_reads(made: Site, taken: set[str]) -> None:
    taken.clear()
    made.run(check_mode=True)
    assert actions_of("aws_artifacts_verify.json") == taken
    assert all(re.match(r"s3:(Get|List)|iam:Get", action) for action in taken)
