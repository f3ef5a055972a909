"""The object stores of the cloud for tests: as their SDKs and MLflow see them, with certificates verified."""

import base64
import datetime
import json
import socket
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.identity import DefaultAzureCredential
from azure.mgmt.authorization import AuthorizationManagementClient
from azure.mgmt.storage import StorageManagementClient
from azure.storage.blob import BlobSasPermissions, BlobServiceClient, generate_blob_sas
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ReadTimeoutError
from google.api_core.exceptions import (
    Conflict,
    Forbidden,
    GoogleAPICallError,
    NotFound,
    PreconditionFailed,
    TooManyRequests,
    Unauthorized,
)
from google.auth.exceptions import GoogleAuthError, RefreshError
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from google.oauth2 import service_account
from mlflow.entities.multipart_upload import MultipartUploadPart
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.azure_blob_artifact_repo import AzureBlobArtifactRepository
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

from testing.cloud import Cloud, azurite
from testing.cloud.client import RESOURCE_GROUP, SUBSCRIPTION

# The emulators' own tests. Every other test that stores objects uses the emulators as well.
pytestmark = pytest.mark.exhaustive("test_artifact_store_s3, test_artifact_store_azure, test_artifact_store_gcs")

BUCKET = "mlflow-artifacts"
NAME = "a b/ü&+%20?=#é.txt"
MEBIBYTE = 1024 * 1024
# Longer than what SDKs send in one part, and with no two parts alike.
LARGE = b"".join(number.to_bytes(4, "big") * 256 for number in range(9 * 1024))
TLS_ONLY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    ],
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    # Not while a client waits for an answer.
    azurite.install()
    with Cloud.start(tmp_path_factory.mktemp("cloud") / "state", "--listen", "127.0.0.1:0") as cloud:
        yield cloud


@pytest.fixture
def cloud(running: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    running.reset()
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running


def s3_client(**options: Any) -> Any:
    """Return a client that says what goes wrong the first time."""
    retries = {"retries": {"total_max_attempts": 1}, "read_timeout": 20}
    return boto3.session.Session().client("s3", config=Config(**(retries | options)))


@pytest.fixture
def s3(cloud: Cloud) -> Any:
    client = s3_client()
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    cloud.forget_calls()
    return client


def code(error: Any) -> tuple[str, int]:
    """Return what S3 calls an error, and its status."""
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def file_of(path: Path, data: bytes) -> Path:
    """Return a file with data in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("style", ["virtual", "path"])
def test_an_object_in_s3_from_start_to_end(cloud: Cloud, s3: Any, style: str) -> None:
    client = s3_client(s3={"addressing_style": style})
    client.put_object(Bucket=BUCKET, Key=NAME, Body=b"one", ContentType="text/plain", Metadata={"by": "me"})

    found = client.get_object(Bucket=BUCKET, Key=NAME)

    assert (found["Body"].read(), found["ContentType"], found["Metadata"]) == (b"one", "text/plain", {"by": "me"})
    assert [each["Key"] for each in client.list_objects_v2(Bucket=BUCKET)["Contents"]] == [NAME]
    client.delete_object(Bucket=BUCKET, Key=NAME)
    with pytest.raises(ClientError) as error:
        client.get_object(Bucket=BUCKET, Key=NAME)
    assert code(error) == ("NoSuchKey", 404)
    assert [(call["operation"], call["method"], call["target"]) for call in cloud.calls("s3")] == [
        ("s3:PutObject", "put_object", f"{BUCKET}/{NAME}"),
        ("s3:GetObject", "get_object", f"{BUCKET}/{NAME}"),
        ("s3:ListBucket", "list_objects_v2", BUCKET),
        ("s3:DeleteObject", "delete_object", f"{BUCKET}/{NAME}"),
        ("s3:GetObject", "get_object", f"{BUCKET}/{NAME}"),
    ]


def test_a_large_object_goes_to_s3_in_parts(cloud: Cloud, s3: Any, tmp_path: Path) -> None:
    config = TransferConfig(multipart_threshold=5 * MEBIBYTE, multipart_chunksize=5 * MEBIBYTE)
    s3.upload_file(str(file_of(tmp_path / "up", LARGE)), BUCKET, "large", Config=config)
    methods = [call["method"] for call in cloud.calls("s3")]
    assert methods == ["create_multipart_upload", "upload_part", "upload_part", "complete_multipart_upload"]

    s3.download_file(BUCKET, "large", str(tmp_path / "down"), Config=config)
    s3.copy({"Bucket": BUCKET, "Key": "large"}, BUCKET, "copy", Config=config)

    assert (tmp_path / "down").read_bytes() == LARGE
    assert s3.get_object(Bucket=BUCKET, Key="large")["Body"].read() == LARGE
    part = s3.get_object(Bucket=BUCKET, Key="copy", Range=f"bytes={5 * MEBIBYTE - 3}-{5 * MEBIBYTE + 2}")
    assert part["Body"].read() == LARGE[5 * MEBIBYTE - 3 : 5 * MEBIBYTE + 3]
    assert part["ContentRange"] == f"bytes {5 * MEBIBYTE - 3}-{5 * MEBIBYTE + 2}/{len(LARGE)}"


def test_an_upload_to_s3_that_is_given_up_leaves_nothing(s3: Any) -> None:
    upload = {"Bucket": BUCKET, "Key": "large"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    s3.upload_part(**upload, PartNumber=1, Body=b"one")
    assert [each["UploadId"] for each in s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]] == [upload["UploadId"]]
    s3.abort_multipart_upload(**upload)
    with pytest.raises(ClientError) as error:
        s3.upload_part(**upload, PartNumber=2, Body=b"two")
    assert code(error) == ("NoSuchUpload", 404)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def test_what_does_not_arrive_in_s3_as_it_was_sent_is_refused(s3: Any) -> None:
    for checksum, expected in (
        ({"ContentMD5": "A" * 22 + "=="}, "BadDigest"),
        ({"ChecksumCRC32": "AAAAAA=="}, "BadDigest"),
    ):
        with pytest.raises(ClientError) as error:
            s3.put_object(Bucket=BUCKET, Key="one", Body=b"one", **checksum)
        assert code(error) == (expected, 400)
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)


def test_presigned_urls_of_s3(s3: Any, tmp_path: Path) -> None:
    names = {"Bucket": BUCKET, "Key": NAME}
    assert requests.put(s3.generate_presigned_url("put_object", names), data=LARGE, timeout=30).status_code == 200
    down = s3.generate_presigned_url("get_object", names | {"ResponseContentType": "text/plain"})
    answer = requests.get(down, timeout=30)
    assert (answer.content, answer.headers["Content-Type"]) == (LARGE, "text/plain")

    for url, word in (
        (down.replace("Signature=", "Signature=0"), "SignatureDoesNotMatch"),
        (down.replace("text%2Fplain", "text%2Fhtml"), "SignatureDoesNotMatch"),
        (down.partition("?")[0], "AccessDenied"),
        (s3.generate_presigned_url("get_object", names, ExpiresIn=-1), "Request has expired"),
    ):
        answer = requests.get(url, timeout=30)
        assert answer.status_code == 403 and word in answer.text


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch")],
)
def test_wrong_credentials_are_refused_by_s3(
    s3: Any, monkeypatch: pytest.MonkeyPatch, variable: str, expected: str
) -> None:
    monkeypatch.setenv(variable, "wrong")
    client = s3_client()
    for method, more in (("list_objects_v2", {}), ("put_object", {"Key": "one", "Body": LARGE})):
        with pytest.raises(ClientError) as error:
            getattr(client, method)(Bucket=BUCKET, **more)
        assert code(error) == (expected, 403)


def test_a_bucket_that_does_not_exist(s3: Any, tmp_path: Path) -> None:
    with pytest.raises(ClientError) as error:
        s3.put_object(Bucket="nobodys", Key="one", Body=b"one")
    assert code(error) == ("NoSuchBucket", 404)
    with pytest.raises(ClientError) as error:
        s3.head_bucket(Bucket="nobodys")
    assert code(error) == ("404", 404)


def test_a_client_of_another_region_is_told_the_right_one(s3: Any) -> None:
    elsewhere = s3_client(region_name="us-east-1")
    elsewhere.put_object(Bucket=BUCKET, Key="one", Body=b"one")
    assert s3.get_object(Bucket=BUCKET, Key="one")["Body"].read() == b"one"


def test_a_bucket_is_set_up(cloud: Cloud, s3: Any) -> None:
    rules = [
        {
            "ID": "old",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
        }
    ]
    block = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    encryption = [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration={"Rules": rules})
    s3.put_bucket_encryption(Bucket=BUCKET, ServerSideEncryptionConfiguration={"Rules": encryption})
    s3.put_public_access_block(Bucket=BUCKET, PublicAccessBlockConfiguration=block)
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": [{"Key": "by", "Value": "me"}]})
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(TLS_ONLY))

    assert s3.get_bucket_versioning(Bucket=BUCKET)["Status"] == "Enabled"
    assert s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"][0]["ID"] == "old"
    assert s3.get_bucket_encryption(Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"][0] | encryption[0]
    assert s3.get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"] == block
    assert s3.get_bucket_tagging(Bucket=BUCKET)["TagSet"] == [{"Key": "by", "Value": "me"}]
    assert json.loads(s3.get_bucket_policy(Bucket=BUCKET)["Policy"]) == TLS_ONLY
    for value in (b"one", b"two"):
        s3.put_object(Bucket=BUCKET, Key="one", Body=value)
    versions = s3.list_object_versions(Bucket=BUCKET)["Versions"]
    old = next(version["VersionId"] for version in versions if not version["IsLatest"])
    assert s3.get_object(Bucket=BUCKET, Key="one", VersionId=old)["Body"].read() == b"one"
    actions = {call["operation"] for call in cloud.calls("s3")}
    assert {"s3:PutEncryptionConfiguration", "s3:PutBucketPublicAccessBlock", "s3:GetObjectVersion"} < actions
    assert not [action for action in actions if action in ("s3:", "")]


def test_a_browser_is_told_what_it_may(s3: Any) -> None:
    rule = {"AllowedOrigins": ["https://mlflow.example.com"], "AllowedMethods": ["PUT"], "AllowedHeaders": ["*"]}
    s3.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [rule]})
    url = s3.generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": "one"})
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
    yes = requests.options(url, headers=asked | {"Origin": "https://mlflow.example.com"}, timeout=10)
    no = requests.options(url, headers=asked | {"Origin": "https://example.com"}, timeout=10)
    put = requests.put(url, data=b"one", headers={"Origin": "https://mlflow.example.com"}, timeout=10)
    assert (yes.status_code, yes.headers["Access-Control-Allow-Origin"]) == (200, "https://mlflow.example.com")
    assert (no.status_code, "Access-Control-Allow-Origin" in no.headers) == (403, False)
    assert put.headers["Access-Control-Allow-Origin"] == "https://mlflow.example.com"
    assert "Access-Control-Allow-Origin" not in requests.put(url, data=b"one", timeout=10).headers


def user(*statements: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """Return IAM, and the credentials of a user who may do what statements say."""
    iam = boto3.session.Session().client("iam")
    iam.create_user(UserName="mlflow")
    document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    arn = iam.create_policy(PolicyName="mlflow", PolicyDocument=document)["Policy"]["Arn"]
    iam.attach_user_policy(UserName="mlflow", PolicyArn=arn)
    key = iam.create_access_key(UserName="mlflow")["AccessKey"]
    return iam, {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}


def test_a_user_may_do_what_his_policy_says(s3: Any) -> None:
    whole, runs = f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/runs/*"
    iam, keys = user(
        {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": runs},
        {
            "Effect": "Allow",
            "Action": "s3:ListBucket",
            "Resource": whole,
            "Condition": {"StringLike": {"s3:prefix": "runs/*"}},
        },
    )
    client = boto3.session.Session(**keys).client("s3")
    client.put_object(Bucket=BUCKET, Key="runs/one", Body=b"one")
    assert client.get_object(Bucket=BUCKET, Key="runs/one")["Body"].read() == b"one"
    assert client.list_objects_v2(Bucket=BUCKET, Prefix="runs/")["KeyCount"] == 1
    for call, more in (
        ("put_object", {"Key": "two"}),
        ("list_objects_v2", {}),
        ("delete_object", {"Key": "runs/one"}),
        ("delete_objects", {"Delete": {"Objects": [{"Key": "runs/one"}]}}),
        ("get_bucket_policy", {}),
        # It is not there: told to nobody who may not look.
        ("get_object", {"Key": "runs/two"}),
    ):
        with pytest.raises(ClientError) as error:
            getattr(client, call)(Bucket=BUCKET, **more)
        assert code(error) == ("AccessDenied", 403)

    iam.delete_access_key(UserName="mlflow", AccessKeyId=keys["aws_access_key_id"])
    with pytest.raises(ClientError) as error:
        client.get_object(Bucket=BUCKET, Key="runs/one")
    assert code(error) == ("InvalidAccessKeyId", 403)


def test_a_bucket_policy_is_held_to(s3: Any) -> None:
    arn = f"arn:aws:s3:::{BUCKET}/secret/*"
    s3.put_bucket_policy(
        Bucket=BUCKET,
        Policy=json.dumps(
            {"Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": arn}]}
        ),
    )
    s3.put_object(Bucket=BUCKET, Key="secret/one", Body=b"one")
    with pytest.raises(ClientError) as error:
        s3.get_object(Bucket=BUCKET, Key="secret/one")
    assert code(error) == ("AccessDenied", 403)


def test_who_one_is(cloud: Cloud) -> None:
    sts = boto3.session.Session().client("sts")
    assert sts.get_caller_identity()["Arn"] == "arn:aws:iam::123456789012:user/admin"
    iam, keys = user({"Effect": "Allow", "Action": "s3:*", "Resource": "*"})
    assert boto3.session.Session(**keys).client("sts").get_caller_identity()["Arn"].endswith(":user/mlflow")
    with pytest.raises(ClientError) as error:
        boto3.session.Session(**keys).client("iam").list_users()
    assert code(error) == ("AccessDenied", 403)
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    arn = iam.create_role(RoleName="mlflow", AssumeRolePolicyDocument=document)["Role"]["Arn"]
    given = sts.assume_role(RoleArn=arn, RoleSessionName="session")["Credentials"]
    session = boto3.session.Session(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
    with pytest.raises(ClientError) as error:
        session.client("s3").list_buckets()
    assert code(error) == ("AccessDenied", 403)


def test_s3_fails_as_it_is_told(cloud: Cloud, s3: Any) -> None:
    kinds = {
        "denied": ("AccessDenied", 403),
        "throttled": ("SlowDown", 503),
        "busy": ("OperationAborted", 409),
        "error": ("InternalError", 500),
        "revoked": ("InvalidAccessKeyId", 403),
    }
    for kind, expected in kinds.items():
        cloud.fail("s3", kind, "s3:PutObject", times=1)
        with pytest.raises(ClientError) as error:
            s3.put_object(Bucket=BUCKET, Key="one", Body=LARGE)
        assert code(error) == expected
        s3.put_object(Bucket=BUCKET, Key="one", Body=b"one")


def test_a_body_that_breaks_off_on_its_way_to_s3(cloud: Cloud, s3: Any) -> None:
    cloud.fail("s3", "cut", "put_object", times=1)
    with pytest.raises(BotoCoreError):
        s3.put_object(Bucket=BUCKET, Key="one", Body=LARGE)
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)

    s3.put_object(Bucket=BUCKET, Key="one", Body=LARGE)
    cloud.fail("s3", "cut", "get_object", times=1)
    body = s3.get_object(Bucket=BUCKET, Key="one")["Body"]
    with pytest.raises(BotoCoreError):
        body.read()
    assert s3.get_object(Bucket=BUCKET, Key="one")["Body"].read() == LARGE
    assert [call["status"] for call in cloud.calls("s3")] == [0, 200, 200, 0, 200]


def test_s3_is_down_and_up_again(cloud: Cloud, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="one", Body=b"one")
    cloud.fail("s3", "down")
    for _ in range(2):
        # First on the connection that is open, then on a new one.
        with pytest.raises(BotoCoreError):
            s3.get_object(Bucket=BUCKET, Key="one")
    assert {call["operation"] for call in cloud.calls("s3")[-2:]} == {"connect"}
    cloud.heal()
    assert s3.get_object(Bucket=BUCKET, Key="one")["Body"].read() == b"one"


def test_s3_does_not_answer(cloud: Cloud, s3: Any) -> None:
    cloud.fail("s3", "hang", "put_object", times=1)
    with pytest.raises(ReadTimeoutError):
        s3_client(read_timeout=1).put_object(Bucket=BUCKET, Key="one", Body=LARGE)
    cloud.fail("s3", "reset", "put_object", times=1)
    with pytest.raises(BotoCoreError):
        s3.put_object(Bucket=BUCKET, Key="one", Body=LARGE)
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)


def test_a_fault_that_cannot_happen_to_a_store_is_refused(cloud: Cloud) -> None:
    for service, kind, operation in (("s3", "down", "put_object"), ("blob", "sleepy", None)):
        with pytest.raises(ValueError, match=r"down|sleepy"):
            cloud.fail(service, kind, operation)


def test_a_download_from_s3_ends_when_it_goes_down(cloud: Cloud, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="one", Body=LARGE)
    body = s3.get_object(Bucket=BUCKET, Key="one")["Body"]
    body.read(1024)
    cloud.fail("s3", "down")
    with pytest.raises(BotoCoreError):
        body.read()


def repository_round(repository: Any, tmp_path: Path) -> None:
    """Put, list, get and delete artifacts with one of MLflow's repositories."""
    source = tmp_path / "source"
    names = ("model/ünï cödé.txt", "model/data/a b+c.bin", "plain.txt", "empty")
    for name in names:
        file_of(source / name, {"model/data/a b+c.bin": LARGE, "empty": b""}.get(name, name.encode()))

    repository.log_artifacts(str(source), "run 1")
    repository.log_artifact(str(source / "plain.txt"))

    assert [(each.path, each.is_dir, each.file_size) for each in repository.list_artifacts("run 1")] == [
        ("run 1/empty", False, 0),
        ("run 1/model", True, None),
        ("run 1/plain.txt", False, 9),
    ]
    assert [each.path for each in repository.list_artifacts()] == ["plain.txt", "run 1"]
    got = Path(repository.download_artifacts("run 1", str(file_of(tmp_path / "target" / "x", b"").parent)))
    assert {name: (got / name).read_bytes() for name in names} == {name: (source / name).read_bytes() for name in names}
    repository.delete_artifacts("run 1")
    assert [each.path for each in repository.list_artifacts()] == ["plain.txt"]


def test_mlflow_keeps_artifacts_in_s3(s3: Any, tmp_path: Path) -> None:
    s3.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(TLS_ONLY))
    repository_round(S3ArtifactRepository(f"s3://{BUCKET}/some/prefix"), tmp_path)


def test_mlflow_uploads_to_s3_in_parts_by_presigned_urls(s3: Any, tmp_path: Path) -> None:
    repository = S3ArtifactRepository(f"s3://{BUCKET}/some/prefix")
    created = repository.create_multipart_upload("large.bin", 2, "run")
    parts = []
    for credential, data in zip(created.credentials, (LARGE[: 5 * MEBIBYTE], LARGE[5 * MEBIBYTE :]), strict=True):
        answer = requests.put(credential.url, data=data, timeout=30)
        parts.append((credential.part_number, answer.headers["ETag"]))
    given = [MultipartUploadPart(number, etag, credential.url) for number, etag in parts]
    repository.complete_multipart_upload("large.bin", created.upload_id, given, "run")
    url = repository.get_download_presigned_url("run/large.bin").url
    assert requests.get(url, timeout=30).content == LARGE


def test_mlflow_is_refused_by_s3(cloud: Cloud, s3: Any, tmp_path: Path) -> None:
    with pytest.raises(MlflowException, match="does not exist"):
        S3ArtifactRepository("s3://nobodys/prefix").list_artifacts()
    cloud.fail("s3", "denied", "s3:ListBucket")
    with pytest.raises(MlflowException, match="not authorized to perform: s3:ListBucket"):
        S3ArtifactRepository(f"s3://{BUCKET}/prefix").list_artifacts()
    cloud.fail("s3", "denied", "s3:PutObject")
    with pytest.raises(Exception, match="not authorized to perform: s3:PutObject"):
        S3ArtifactRepository(f"s3://{BUCKET}/prefix").log_artifact(str(file_of(tmp_path / "one", LARGE)))


ACCOUNT = "mlflowtest"
CONTAINER = "artifacts"
WASBS = f"wasbs://{CONTAINER}@{ACCOUNT}.blob.core.windows.net/some/prefix"
URL = f"https://{ACCOUNT}.blob.core.windows.net"


@pytest.fixture(params=["azure_key", "azure_identity"])
def credentials(request: pytest.FixtureRequest, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in cloud.storage[request.param].items():
        monkeypatch.setenv(name, value)
    return cloud.storage["azure_key"]["AZURE_STORAGE_ACCESS_KEY"] if request.param == "azure_key" else None


def blob_client(credentials: Any, **options: Any) -> BlobServiceClient:
    """Return a client that says what goes wrong the first time."""
    return BlobServiceClient(URL, credentials or DefaultAzureCredential(), **{"retry_total": 0} | options)


@pytest.fixture
def blobs(cloud: Cloud, credentials: Any) -> BlobServiceClient:
    client = blob_client(credentials)
    client.create_container(CONTAINER)
    cloud.forget_calls()
    return client


@pytest.fixture
def by_key(cloud: Cloud) -> BlobServiceClient:
    client = blob_client(cloud.storage["azure_key"]["AZURE_STORAGE_ACCESS_KEY"])
    client.create_container(CONTAINER)
    cloud.forget_calls()
    return client


def test_a_blob_from_start_to_end(cloud: Cloud, blobs: BlobServiceClient, credentials: Any) -> None:
    blob = blobs.get_blob_client(CONTAINER, NAME)
    blob.upload_blob(b"one", metadata={"by": "me"})

    found = blob.download_blob()

    assert (found.readall(), found.properties.metadata) == (b"one", {"by": "me"})
    container = blobs.get_container_client(CONTAINER)
    assert [each.name for each in container.list_blobs()] == [NAME]
    with pytest.raises(ResourceExistsError, match="BlobAlreadyExists"):
        blob.upload_blob(b"two")
    blob.delete_blob()
    with pytest.raises(ResourceNotFoundError, match="BlobNotFound"):
        blob.download_blob()
    prefix = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs"
    calls = [(call["operation"], call["method"], call["target"], call["identity"]) for call in cloud.calls("blob")]
    who = ACCOUNT if credentials else cloud.environment["AZURE_CLIENT_ID"]
    target = f"{ACCOUNT}/{CONTAINER}/{NAME}"
    assert calls == [
        (f"{prefix}/write", "upload_blob", target, who),
        (f"{prefix}/read", "download_blob", target, who),
        (f"{prefix}/read", "list_blobs", f"{ACCOUNT}/{CONTAINER}", who),
        (f"{prefix}/write", "upload_blob", target, who),
        (f"{prefix}/delete", "delete_blob", target, who),
        (f"{prefix}/read", "download_blob", target, who),
    ]


def test_a_large_blob_goes_in_blocks(cloud: Cloud, by_key: BlobServiceClient) -> None:
    key = by_key.credential.account_key
    client = blob_client(key, max_single_put_size=MEBIBYTE, max_block_size=4 * MEBIBYTE, max_single_get_size=MEBIBYTE)
    blob = client.get_blob_client(CONTAINER, "large")
    blob.upload_blob(LARGE)
    assert [call["method"] for call in cloud.calls("blob")] == ["stage_block"] * 3 + ["commit_block_list"]
    assert blob.download_blob().readall() == LARGE
    assert blob.download_blob(offset=4 * MEBIBYTE - 3, length=6).readall() == LARGE[4 * MEBIBYTE - 3 : 4 * MEBIBYTE + 3]
    # In one request as well, there and back.
    whole = blob_client(key).get_blob_client(CONTAINER, "whole")
    whole.upload_blob(LARGE)
    assert whole.download_blob().readall() == LARGE


def test_wrong_credentials_are_refused_by_blob_storage(cloud: Cloud, by_key: BlobServiceClient) -> None:
    class Wrong:
        def get_token(self, *_scopes: str, **_: Any) -> Any:
            return DefaultAzureCredential().get_token("https://vault.azure.net/.default")

    for credential, status, text in (
        ("AAAA", 403, "AuthenticationFailed"),
        (Wrong(), 401, "InvalidAuthenticationInfo"),
        (None, 401, "NoAuthenticationInformation"),
    ):
        container = BlobServiceClient(URL, credential, retry_total=0).get_container_client(CONTAINER)
        for call in (container.get_container_properties, lambda it=container: it.upload_blob("one", LARGE)):
            with pytest.raises(ClientAuthenticationError, match=text) as error:
                call()
            assert error.value.status_code == status
    assert list(by_key.get_container_client(CONTAINER).list_blobs()) == []


def test_a_signature_lets_in_for_what_it_says(by_key: BlobServiceClient) -> None:
    by_key.get_blob_client(CONTAINER, NAME).upload_blob(b"one")
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
    options: Any = {"account_key": by_key.credential.account_key, "expiry": until}
    signature = generate_blob_sas(ACCOUNT, CONTAINER, NAME, permission=BlobSasPermissions(read=True), **options)
    url = by_key.get_blob_client(CONTAINER, NAME).url
    assert requests.get(f"{url}?{signature}", timeout=10).content == b"one"
    put = requests.put(f"{url}?{signature}", data=b"two", headers={"x-ms-blob-type": "BlockBlob"}, timeout=10)
    assert put.status_code == 403
    wrong = requests.get(f"{url}?{signature.replace('sig=', 'sig=0')}", timeout=10)
    assert (wrong.status_code, wrong.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")


def test_a_container_that_does_not_exist(by_key: BlobServiceClient) -> None:
    with pytest.raises(ResourceNotFoundError, match="ContainerNotFound"):
        by_key.get_blob_client("nobodys", "one").upload_blob(b"one")
    with pytest.raises(AzureError, match="502"):
        BlobServiceClient("https://nobodys.blob.core.windows.net", "AAAA", retry_total=0).get_service_properties()


def test_blob_storage_fails_as_it_is_told(cloud: Cloud, by_key: BlobServiceClient) -> None:
    kinds = {
        "denied": (403, "AuthorizationPermissionMismatch"),
        "throttled": (503, "ServerBusy"),
        "busy": (412, "LeaseIdMissing"),
        "error": (500, "InternalError"),
        "revoked": (403, "AuthenticationFailed"),
    }
    blob = by_key.get_blob_client(CONTAINER, "one")
    for kind, expected in kinds.items():
        cloud.fail("blob", kind, "upload_blob", times=1)
        with pytest.raises(HttpResponseError) as error:
            blob.upload_blob(LARGE, overwrite=True)
        assert (error.value.status_code, error.value.error_code) == expected  # type: ignore[attr-defined]
        blob.upload_blob(b"one", overwrite=True)


def test_a_blob_that_breaks_off_on_its_way(cloud: Cloud, by_key: BlobServiceClient) -> None:
    blob = by_key.get_blob_client(CONTAINER, "one")
    cloud.fail("blob", "cut", "upload_blob", times=1)
    with pytest.raises(AzureError):
        blob.upload_blob(LARGE)
    assert not blob.exists()

    blob.upload_blob(LARGE)
    cloud.fail("blob", "cut", "download_blob")
    with pytest.raises(AzureError):
        blob.download_blob().readall()
    cloud.heal()
    assert blob.download_blob().readall() == LARGE


def test_blob_storage_is_down_and_up_again(cloud: Cloud, by_key: BlobServiceClient) -> None:
    blob = by_key.get_blob_client(CONTAINER, "one")
    blob.upload_blob(b"one")
    cloud.fail("blob", "down")
    for _ in range(2):
        with pytest.raises(AzureError):
            blob.download_blob()
    cloud.heal()
    assert blob.download_blob().readall() == b"one"


@pytest.mark.usefixtures("blobs")
def test_mlflow_keeps_artifacts_in_blob_storage(tmp_path: Path) -> None:
    repository_round(AzureBlobArtifactRepository(WASBS), tmp_path)


@pytest.mark.usefixtures("blobs")
def test_mlflow_uploads_to_blob_storage_in_parts_by_signatures(tmp_path: Path) -> None:
    repository = AzureBlobArtifactRepository(WASBS)
    created = repository.create_multipart_upload("large.bin", 2, "run")
    given = []
    for credential, data in zip(created.credentials, (LARGE[: 5 * MEBIBYTE], LARGE[5 * MEBIBYTE :]), strict=True):
        assert requests.put(credential.url, data=data, timeout=30).status_code == 201
        given.append(MultipartUploadPart(credential.part_number, "", credential.url))
    repository.complete_multipart_upload("large.bin", None, given, "run")
    assert Path(repository.download_artifacts("run/large.bin", str(tmp_path))).read_bytes() == LARGE


CONTRIBUTOR = "ba92f5b4-2d11-453d-a403-e96b0029c9fe"
IN_ARM = (RESOURCE_GROUP, ACCOUNT)
NEW: Any = {
    "sku": {"name": "Standard_ZRS"},
    "kind": "StorageV2",
    "location": "westeurope",
    "tags": {"by": "me"},
    "properties": {"minimumTlsVersion": "TLS1_2", "allowBlobPublicAccess": False},
}


@pytest.fixture
def arm(cloud: Cloud) -> StorageManagementClient:
    return StorageManagementClient(DefaultAzureCredential(), SUBSCRIPTION, retry_total=0)


def test_a_storage_account_is_made_and_changed(cloud: Cloud, arm: StorageManagementClient) -> None:
    wanted: Any = {"name": ACCOUNT, "type": "Microsoft.Storage/storageAccounts"}
    assert arm.storage_accounts.check_name_availability(wanted).name_available
    with pytest.raises(ResourceNotFoundError, match="ResourceNotFound"):
        arm.storage_accounts.get_properties(*IN_ARM)
    made = arm.storage_accounts.begin_create(*IN_ARM, NEW).result()
    assert (made.minimum_tls_version, made.allow_blob_public_access, made.tags) == ("TLS1_2", False, {"by": "me"})
    assert made.sku and (made.sku.name, made.sku.tier) == ("Standard_ZRS", "Standard")

    change: Any = {"properties": {"minimumTlsVersion": "TLS1_3"}, "tags": {"by": "you"}}
    arm.storage_accounts.update(*IN_ARM, change)

    found = arm.storage_accounts.get_properties(*IN_ARM)
    assert (found.minimum_tls_version, found.tags, found.enable_https_traffic_only) == ("TLS1_3", {"by": "you"}, True)
    assert found.encryption and found.encryption.key_source == "Microsoft.Storage"
    assert [each.name for each in arm.storage_accounts.list_by_resource_group(RESOURCE_GROUP)] == [ACCOUNT]
    keys = arm.storage_accounts.list_keys(*IN_ARM).keys_property or []
    assert [key.value for key in keys] == [cloud.storage["azure_key"]["AZURE_STORAGE_ACCESS_KEY"]]
    with pytest.raises(HttpResponseError, match="StorageAccountAlreadyTaken"):
        arm.storage_accounts.begin_create(RESOURCE_GROUP, "nobodys", NEW).result()
    with pytest.raises(ResourceNotFoundError, match="ResourceGroupNotFound"):
        arm.storage_accounts.get_properties("nobodys", ACCOUNT)
    assert [call["operation"] for call in cloud.calls("arm")[1:4]] == [
        "Microsoft.Storage/storageAccounts/read",
        "Microsoft.Storage/storageAccounts/write",
        "Microsoft.Storage/storageAccounts/write",
    ]


def test_the_blob_service_of_an_account_is_set_up(arm: StorageManagementClient) -> None:
    arm.storage_accounts.begin_create(*IN_ARM, NEW).result()
    assert not arm.blob_services.get_service_properties(*IN_ARM).is_versioning_enabled
    week = {"enabled": True, "days": 7}
    kept = {"deleteRetentionPolicy": week, "containerDeleteRetentionPolicy": week}
    wanted: Any = {"properties": {"isVersioningEnabled": True} | kept}
    arm.blob_services.set_service_properties(*IN_ARM, wanted)
    found = arm.blob_services.get_service_properties(*IN_ARM)
    assert found.is_versioning_enabled and found.delete_retention_policy and found.delete_retention_policy.days == 7

    with pytest.raises(ResourceNotFoundError, match="ManagementPolicyNotFound"):
        arm.management_policies.get(*IN_ARM, "default")
    actions = {"version": {"delete": {"daysAfterCreationGreaterThan": 30}}}
    rule: Any = {"name": "old", "type": "Lifecycle", "definition": {"actions": actions}}
    with pytest.raises(HttpResponseError, match="blobTypes"):
        arm.management_policies.create_or_update(*IN_ARM, "default", {"properties": {"policy": {"rules": [rule]}}})
    rule["definition"]["filters"] = {"blobTypes": ["blockBlob"]}
    arm.management_policies.create_or_update(*IN_ARM, "default", {"properties": {"policy": {"rules": [rule]}}})
    policy = arm.management_policies.get(*IN_ARM, "default").policy
    assert policy and [each.name for each in policy.rules] == ["old"]


def test_a_container_is_made_in_arm_and_there_for_blobs(
    cloud: Cloud, arm: StorageManagementClient, by_key: BlobServiceClient
) -> None:
    arm.storage_accounts.begin_create(*IN_ARM, NEW).result()
    assert [each.name for each in arm.blob_containers.list(*IN_ARM)] == [CONTAINER]
    with pytest.raises(ResourceNotFoundError, match="ContainerNotFound"):
        arm.blob_containers.get(*IN_ARM, "models")
    private: Any = {}
    arm.blob_containers.create(*IN_ARM, "models", private)
    assert arm.blob_containers.get(*IN_ARM, "models").public_access == "None"
    by_key.get_blob_client("models", "one").upload_blob(b"one")
    public: Any = {"properties": {"publicAccess": "Blob"}}
    with pytest.raises(HttpResponseError, match="PublicAccessNotPermitted"):
        arm.blob_containers.create(*IN_ARM, "public", public)
    arm.blob_containers.delete(*IN_ARM, "models")
    assert [each.name for each in by_key.list_containers()] == [CONTAINER]


def test_a_role_is_assigned_once(cloud: Cloud, arm: StorageManagementClient) -> None:
    scope = str(arm.storage_accounts.begin_create(*IN_ARM, NEW).result().id)
    roles = AuthorizationManagementClient(DefaultAzureCredential(), SUBSCRIPTION, retry_total=0)
    (role,) = roles.role_definitions.list(scope, filter="roleName eq 'Storage Blob Data Contributor'")
    assert role.name == CONTRIBUTOR
    assert not list(roles.role_assignments.list_for_scope(scope, filter="atScope()"))
    principal = str(uuid.uuid4())
    wanted: Any = {
        "properties": {"roleDefinitionId": role.id, "principalId": principal, "principalType": "ServicePrincipal"}
    }
    name = str(uuid.uuid4())
    for _ in range(2):
        roles.role_assignments.create(scope, name, wanted)
    with pytest.raises(ResourceExistsError, match="RoleAssignmentExists"):
        roles.role_assignments.create(scope, str(uuid.uuid4()), wanted)
    (found,) = roles.role_assignments.list_for_scope(scope, filter=f"principalId eq '{principal}'")
    assert (found.name, found.principal_id, str(found.role_definition_id).endswith(CONTRIBUTOR)) == (
        name,
        principal,
        True,
    )
    assert not list(roles.role_assignments.list_for_scope(scope, filter=f"principalId eq '{uuid.uuid4()}'"))
    roles.role_assignments.delete(scope, name)
    assert not list(roles.role_assignments.list_for_scope(scope))


def test_arm_fails_as_it_is_told(cloud: Cloud, arm: StorageManagementClient) -> None:
    kinds = {
        "denied": (403, "AuthorizationFailed"),
        "throttled": (429, "TooManyRequests"),
        "busy": (409, "StorageAccountOperationInProgress"),
        "error": (500, "InternalServerError"),
        "revoked": (401, "InvalidAuthenticationToken"),
    }
    for kind, (status, text) in kinds.items():
        cloud.fail("arm", kind, "Microsoft.Storage/storageAccounts/write")
        with pytest.raises(HttpResponseError, match=text) as error:
            arm.storage_accounts.begin_create(*IN_ARM, NEW).result()
        assert error.value.status_code == status
        cloud.heal()
    cloud.fail("arm", "down")
    with pytest.raises(AzureError):
        arm.storage_accounts.get_properties(*IN_ARM)
    cloud.heal()
    answer = requests.get(f"https://management.azure.com/subscriptions/{SUBSCRIPTION}?api-version=1", timeout=10)
    assert answer.status_code == 401


PROJECT = "mlflow-test"
SERVICE_ACCOUNTS = f"https://iam.googleapis.com/v1/projects/{PROJECT}/serviceAccounts"


@pytest.fixture
def gcs(cloud: Cloud) -> Any:
    client = storage.Client()
    client.create_bucket(BUCKET, location="europe-west3")
    cloud.forget_calls()
    return client


def once(**options: Any) -> dict[str, Any]:
    """Return the options of a call that is not tried again."""
    return {"retry": None, "timeout": 20} | options


def test_a_cloud_storage_object_from_start_to_end(cloud: Cloud, gcs: Any) -> None:
    blob = gcs.bucket(BUCKET).blob(NAME)
    blob.upload_from_string(b"one", "text/plain")

    found = gcs.bucket(BUCKET).get_blob(NAME)

    assert (found.download_as_bytes(), found.content_type, found.size) == (b"one", "text/plain", 3)
    assert [each.name for each in gcs.list_blobs(BUCKET)] == [NAME]
    blob.delete()
    with pytest.raises(NotFound, match="No such object"):
        blob.download_as_bytes(**once())
    admin = f"admin@{PROJECT}.iam.gserviceaccount.com"
    calls = [(call["operation"], call["method"], call["target"], call["identity"]) for call in cloud.calls("gcs")]
    # The library looks after a 404 whether the bucket is still there, in a thread of its own.
    calls = [call for call in calls if call[1] != "buckets.get"]
    target = f"{BUCKET}/{NAME}"
    assert calls == [
        ("storage.objects.create", "objects.insert", target, admin),
        ("storage.objects.get", "objects.get", target, admin),
        ("storage.objects.get", "objects.get", target, admin),
        ("storage.objects.list", "objects.list", BUCKET, admin),
        ("storage.objects.delete", "objects.delete", target, admin),
        ("storage.objects.get", "objects.get", target, admin),
    ]


def test_a_large_object_goes_to_cloud_storage_in_chunks(cloud: Cloud, gcs: Any, tmp_path: Path) -> None:
    bucket = gcs.bucket(BUCKET)
    blob = bucket.blob("large", chunk_size=4 * MEBIBYTE)
    blob.upload_from_filename(str(file_of(tmp_path / "up", LARGE)), checksum="crc32c")
    calls = [(call["method"], call["target"], call["status"]) for call in cloud.calls("gcs")]
    assert calls == [("objects.insert", f"{BUCKET}/large", status) for status in (200, 308, 308, 200)]

    blob.download_to_filename(str(tmp_path / "down"))

    assert (tmp_path / "down").read_bytes() == LARGE
    # In one request as well, there and back, and copied.
    whole = bucket.blob("whole")
    whole.upload_from_filename(str(tmp_path / "up"))
    assert whole.download_as_bytes(raw_download=True) == LARGE
    assert bucket.copy_blob(whole, bucket, "copy").size == len(LARGE)
    assert whole.download_as_bytes(start=4 * MEBIBYTE - 3, end=4 * MEBIBYTE + 2) == LARGE[4194301:4194307]
    composed = bucket.blob("both")
    composed.compose([whole, blob])
    assert composed.download_as_bytes() == LARGE * 2


def test_an_upload_to_cloud_storage_goes_on_where_it_was(cloud: Cloud, gcs: Any, tmp_path: Path) -> None:
    cloud.fail("gcs", "error", "objects.insert", times=2)
    blob = gcs.bucket(BUCKET).blob("large", chunk_size=4 * MEBIBYTE)
    blob.upload_from_filename(str(file_of(tmp_path / "up", LARGE)))
    cloud.fail("gcs", "cut", "objects.insert", times=1)
    blob = gcs.bucket(BUCKET).blob("other", chunk_size=4 * MEBIBYTE)
    blob.upload_from_filename(str(tmp_path / "up"))
    assert gcs.bucket(BUCKET).blob("large").download_as_bytes() == LARGE
    assert blob.download_as_bytes() == LARGE


def test_what_does_not_arrive_in_cloud_storage_as_it_was_sent_is_refused(gcs: Any) -> None:
    blob = gcs.bucket(BUCKET).blob("one")
    blob.md5_hash = "A" * 22 + "=="
    with pytest.raises(GoogleAPICallError, match="doesn't match"):
        blob.upload_from_string(b"one", **once())
    assert not gcs.bucket(BUCKET).blob("one").exists()


def test_many_objects_come_in_pages(gcs: Any) -> None:
    bucket = gcs.bucket(BUCKET)
    names = [f"{folder}/{number}" for folder in "ab" for number in range(3)] + ["c"]
    for name in names:
        bucket.blob(name).upload_from_string(name)
    assert [blob.name for blob in gcs.list_blobs(BUCKET, page_size=2)] == names
    pages = list(gcs.list_blobs(BUCKET, page_size=1, delimiter="/").pages)
    assert [(sorted(page.prefixes), [blob.name for blob in page]) for page in pages] == [
        (["a/"], []),
        (["b/"], []),
        ([], ["c"]),
    ]


def test_an_object_is_written_only_if_it_is_as_one_thinks(gcs: Any) -> None:
    blob = gcs.bucket(BUCKET).blob("one")
    blob.upload_from_string(b"one", if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(b"two", if_generation_match=0)
    blob.upload_from_string(b"three", if_generation_match=blob.generation)
    assert blob.download_as_bytes() == b"three"


def test_a_cloud_storage_bucket_is_set_up(cloud: Cloud, gcs: Any) -> None:
    bucket = gcs.get_bucket(BUCKET)
    assert (bucket.location, bucket.versioning_enabled) == ("EUROPE-WEST3", False)
    bucket.iam_configuration.uniform_bucket_level_access_enabled = True
    bucket.iam_configuration.public_access_prevention = "enforced"
    bucket.versioning_enabled = True
    bucket.labels = {"by": "me", "for": "mlflow"}
    bucket.add_lifecycle_delete_rule(days_since_noncurrent_time=30)
    bucket.patch()

    found = gcs.get_bucket(BUCKET)
    assert found.iam_configuration.uniform_bucket_level_access_enabled
    assert found.iam_configuration.public_access_prevention == "enforced"
    assert (found.versioning_enabled, found.labels) == (True, {"by": "me", "for": "mlflow"})
    assert [dict(rule) for rule in found.lifecycle_rules] == [
        {"action": {"type": "Delete"}, "condition": {"daysSinceNoncurrentTime": 30}}
    ]
    labels = found.labels
    del labels["for"]
    found.labels = labels
    found.clear_lifecycle_rules()
    found.patch()
    found = gcs.get_bucket(BUCKET)
    assert (found.labels, list(found.lifecycle_rules), found.versioning_enabled) == ({"by": "me"}, [], True)
    with pytest.raises(Conflict):
        gcs.create_bucket(BUCKET)
    with pytest.raises(NotFound, match="bucket does not exist"):
        gcs.get_bucket("nobodys")


def test_a_service_account_may_do_what_its_role_says(cloud: Cloud, gcs: Any) -> None:
    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    key = json.loads(Path(cloud.environment["GOOGLE_APPLICATION_CREDENTIALS"]).read_text())
    session = AuthorizedSession(service_account.Credentials.from_service_account_info(key, scopes=scopes))
    assert session.get(f"{SERVICE_ACCOUNTS}/mlflow@{PROJECT}.iam.gserviceaccount.com").status_code == 404
    made = session.post(SERVICE_ACCOUNTS, json={"accountId": "mlflow", "serviceAccount": {"displayName": "MLflow"}})
    assert session.post(SERVICE_ACCOUNTS, json={"accountId": "mlflow"}).status_code == 409
    email = made.json()["email"]
    assert session.get(f"{SERVICE_ACCOUNTS}/{email}").json()["displayName"] == "MLflow"
    answer = session.post(f"{SERVICE_ACCOUNTS}/{email}/keys").json()
    given = json.loads(base64.b64decode(answer["privateKeyData"]))
    theirs = storage.Client(PROJECT, service_account.Credentials.from_service_account_info(given, scopes=scopes))

    bucket = gcs.bucket(BUCKET)
    bucket.blob("one").upload_from_string(b"one")
    with pytest.raises(Forbidden, match=r"storage\.objects\.get "):
        theirs.bucket(BUCKET).blob("one").download_as_bytes(**once())
    policy = bucket.get_iam_policy(requested_policy_version=3)
    policy.bindings.append({"role": "roles/storage.objectUser", "members": {f"serviceAccount:{email}"}})
    bucket.set_iam_policy(policy)
    with pytest.raises(PreconditionFailed):
        bucket.set_iam_policy(policy)
    theirs.bucket(BUCKET).blob("one").upload_from_string(b"two")
    assert theirs.bucket(BUCKET).blob("one").download_as_bytes() == b"two"
    asked = ["storage.objects.create", "storage.buckets.update"]
    assert theirs.bucket(BUCKET).test_iam_permissions(asked) == asked[:1]
    with pytest.raises(Forbidden, match=r"storage\.buckets\.get "):
        theirs.get_bucket(BUCKET, **once())

    policy = bucket.get_iam_policy(requested_policy_version=3)
    policy.bindings = [{"role": "roles/storage.objectCreator", "members": {f"serviceAccount:{email}"}}]
    bucket.set_iam_policy(policy)
    with pytest.raises(Forbidden, match=r"storage\.objects\.delete "):
        theirs.bucket(BUCKET).blob("one").upload_from_string(b"three", **once())
    theirs.bucket(BUCKET).blob("two").upload_from_string(b"two")

    assert session.delete(f"https://iam.googleapis.com/v1/{answer['name']}").status_code == 200
    again = storage.Client(PROJECT, service_account.Credentials.from_service_account_info(given, scopes=scopes))
    with pytest.raises(RefreshError, match="invalid_grant"):
        again.bucket(BUCKET).blob("two").download_as_bytes(**once())


def test_wrong_credentials_are_refused_by_cloud_storage(cloud: Cloud, gcs: Any, tmp_path: Path) -> None:
    url = f"https://storage.googleapis.com/storage/v1/b/{BUCKET}/o"
    assert requests.get(url, headers={"Authorization": "Bearer wrong"}, timeout=10).status_code == 401
    assert requests.get(url, timeout=10).status_code == 401
    key = json.loads(Path(cloud.environment["GOOGLE_APPLICATION_CREDENTIALS"]).read_text())
    other = service_account.Credentials.from_service_account_info(key | {"client_email": "nobody@example.com"})
    with pytest.raises(GoogleAuthError, match="account not found"):
        storage.Client(PROJECT, other).bucket(BUCKET).blob("one").download_as_bytes(**once())


def test_signed_urls_of_cloud_storage(gcs: Any) -> None:
    blob = gcs.bucket(BUCKET).blob(NAME)
    minutes = datetime.timedelta(minutes=5)
    put = blob.generate_signed_url(minutes, version="v4", method="PUT")
    assert requests.put(put, data=LARGE, timeout=30).status_code == 200
    get = blob.generate_signed_url(minutes, version="v4")
    assert requests.get(get, timeout=30).content == LARGE
    for url, status in (
        (get.replace("Signature=", "Signature=00"), 403),
        (get.replace("X-Goog-Expires=300", "X-Goog-Expires=600"), 403),
        (get.partition("?")[0], 401),
    ):
        assert requests.get(url, timeout=30).status_code == status


def test_cloud_storage_fails_as_it_is_told(cloud: Cloud, gcs: Any) -> None:
    blob = gcs.bucket(BUCKET).blob("one")
    kinds = {
        "denied": (Forbidden, "does not have storage.objects.create access"),
        "throttled": (TooManyRequests, "rate limit"),
        "busy": (Conflict, "edited during the operation"),
        "error": (GoogleAPICallError, "503"),
        "revoked": (Unauthorized, "Invalid Credentials"),
    }
    for kind, (error, text) in kinds.items():
        # The client asks for a new token when one is refused, and tries again with that.
        cloud.fail("gcs", kind, "storage.objects.create", target="/one", times=3 if kind == "revoked" else 1)
        with pytest.raises(error, match=text):
            blob.upload_from_string(LARGE, **once())
        cloud.heal()
        blob.upload_from_string(b"one")
    cloud.fail("google-oauth", "revoked")
    with pytest.raises(RefreshError, match="invalid_grant"):
        storage.Client().bucket(BUCKET).blob("one").download_as_bytes(**once())


def test_an_object_of_cloud_storage_that_breaks_off_on_its_way(cloud: Cloud, gcs: Any) -> None:
    blob = gcs.bucket(BUCKET).blob("one")
    cloud.fail("gcs", "cut", "objects.insert", times=1)
    with pytest.raises(requests.ConnectionError):
        blob.upload_from_string(LARGE, **once())
    assert not blob.exists()

    blob.upload_from_string(LARGE)
    cloud.fail("gcs", "cut", "objects.get")
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        blob.download_as_bytes(**once())
    cloud.fail("gcs", "down")
    for _ in range(2):
        with pytest.raises(requests.ConnectionError):
            blob.download_as_bytes(**once())
    cloud.heal()
    assert blob.download_as_bytes() == LARGE


def test_mlflow_keeps_artifacts_in_cloud_storage(gcs: Any, tmp_path: Path) -> None:
    repository_round(GCSArtifactRepository(f"gs://{BUCKET}/some/prefix"), tmp_path)


def test_mlflow_uploads_to_cloud_storage_in_parts_by_signed_urls(gcs: Any, tmp_path: Path) -> None:
    repository = GCSArtifactRepository(f"gs://{BUCKET}/some/prefix")
    path = str(file_of(tmp_path / "large.bin", LARGE))
    repository.abort_multipart_upload(path, repository.create_multipart_upload(path, 1, "run").upload_id, "run")
    created = repository.create_multipart_upload(path, 2, "run")
    given = []
    for credential, data in zip(created.credentials, (LARGE[: 5 * MEBIBYTE], LARGE[5 * MEBIBYTE :]), strict=True):
        answer = requests.put(credential.url, data=data, timeout=30)
        given.append(MultipartUploadPart(credential.part_number, answer.headers["ETag"], credential.url))
    repository.complete_multipart_upload(path, created.upload_id, given, "run")
    assert Path(repository.download_artifacts("run/large.bin", str(tmp_path))).read_bytes() == LARGE


@pytest.fixture
def as_a_host(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the names of the cloud as a host does that has them in /etc/hosts, and no proxy."""
    host, _, port = cloud.listener.rpartition(":")
    known = cloud.names(BUCKET)
    look_up = socket.getaddrinfo

    def found(name: Any, *arguments: Any, **options: Any) -> Any:
        if name in known:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port)))]
        return look_up(name, *arguments, **options)

    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(variable)
    monkeypatch.setattr(socket, "getaddrinfo", found)


@pytest.mark.usefixtures("as_a_host")
def test_a_host_without_a_proxy_reaches_the_stores(cloud: Cloud, tmp_path: Path) -> None:
    client = s3_client()
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    repository_round(S3ArtifactRepository(f"s3://{BUCKET}/some/prefix"), tmp_path / "s3")
    blob_client(cloud.storage["azure_key"]["AZURE_STORAGE_ACCESS_KEY"]).create_container(CONTAINER)
    repository_round(AzureBlobArtifactRepository(WASBS), tmp_path / "azure")
    storage.Client().create_bucket(BUCKET)
    repository_round(GCSArtifactRepository(f"gs://{BUCKET}/some/prefix"), tmp_path / "google")

    cloud.fail("s3", "down", times=2)
    for _ in range(2):
        with pytest.raises(BotoCoreError):
            s3_client().list_objects_v2(Bucket=BUCKET)
    assert client.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 1


def test_the_listener_names_no_service_that_it_does_not_have(cloud: Cloud) -> None:
    host, _, port = cloud.listener.rpartition(":")
    context = ssl.create_default_context(cafile=cloud.environment["AWS_CA_BUNDLE"])
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname="s3.amazonaws.com") as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
        assert connection.recv(1024).startswith(b"HTTP/1.1 421 ")
