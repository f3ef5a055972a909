"""The role prepares each kind of store in the cloud for tests, and whom it lets in can work with MLflow, and no more.

In AWS all that is done here is done by users who have no more than the policies of docs/policies.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import google.auth
import pytest
from azure.identity import EnvironmentCredential
from azure.mgmt.storage import StorageManagementClient
from boto3.exceptions import S3UploadFailedError
from google.api_core.exceptions import Forbidden
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from google.oauth2 import service_account
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository
from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

from testing.cloud import Cloud, azurite
from testing.cloud.client import RESOURCE_GROUP, SUBSCRIPTION
from tests.playbook import play
from tests.project import PROJECT

BUCKET = "example-mlflow"
PROJECT_ID = "mlflow-test"
ACCOUNT = "mlflowtest"
PRINCIPAL = "22222222-2222-2222-2222-222222222222"
SERVER = f"mlflow-server@{PROJECT_ID}.iam.gserviceaccount.com"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    azurite.install()
    with Cloud.start(tmp_path_factory.mktemp("cloud") / "state") as cloud:
        yield cloud


@pytest.fixture
def cloud(running: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    running.reset()
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running


def credentials_of(name: str, document: dict[str, Any]) -> dict[str, str]:
    """Return the key of a new user of AWS who may do what a document says."""
    iam = boto3.client("iam")
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="policy", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


def operator(use: str) -> dict[str, str]:
    """Return the key of a user of AWS who may do what a file of docs/policies says."""
    text = (PROJECT / "docs" / "policies" / f"aws_artifacts_{use}.json").read_text()
    for placeholder, value in {"BUCKET": BUCKET, "ACCOUNT": "123456789012", "ROLE": "mlflow-server"}.items():
        text = text.replace(placeholder, value)
    document = json.loads(text)
    for statement in document["Statement"]:
        if statement["Sid"] == "Role":
            # All that the cloud's IAM has is this one resource.
            statement["Resource"] = "*"
    return credentials_of(use, document)


def loosen_s3() -> None:
    boto3.client("s3").delete_public_access_block(Bucket=BUCKET)


def loosen_gcs() -> None:
    bucket = storage.Client(project=PROJECT_ID).get_bucket(BUCKET)
    bucket.iam_configuration.public_access_prevention = "inherited"
    bucket.patch()


def loosen_azure() -> None:
    client = StorageManagementClient(EnvironmentCredential(), SUBSCRIPTION)
    body: Any = {"properties": {"allowBlobPublicAccess": True}}
    client.storage_accounts.update(RESOURCE_GROUP, ACCOUNT, body)


@dataclass(frozen=True)
class Kind:
    """A kind of store.

    Args:
        variables: What the role is given.
        missing: Part of what it says of an empty account.
        loosen: Opens the store to the world.
        loose: What is said of that.
        keys: Who prepares it and who looks at it, where that is not the administrator.
    """

    variables: dict[str, Any]
    missing: str
    loosen: Callable[[], None]
    loose: str
    keys: Callable[[str], dict[str, str]] = lambda use: {}


KINDS = {
    "s3": Kind(
        {
            "artifact_store_uri": f"s3://{BUCKET}/site-a",
            "artifact_store_s3_region": "eu-central-1",
            "artifact_store_s3_role": "mlflow-server",
            "artifact_store_tags": {"Project": "mlflow"},
            "artifact_store_transition": {"days": 60, "class": "STANDARD_IA"},
            "artifact_store_cors_origins": ["https://mlflow.example.com"],
        },
        f"the bucket {BUCKET} is missing",
        loosen_s3,
        "BlockPublicAcls is false and should be true",
        operator,
    ),
    "azure": Kind(
        {
            "artifact_store_uri": f"wasbs://artifacts@{ACCOUNT}.blob.core.windows.net/site-a",
            "artifact_store_azure_subscription": SUBSCRIPTION,
            "artifact_store_azure_resource_group": RESOURCE_GROUP,
            "artifact_store_azure_location": "westeurope",
            "artifact_store_azure_principal": PRINCIPAL,
            "artifact_store_tags": {"Project": "mlflow"},
            "artifact_store_transition": {"days": 60, "class": "Cool"},
            "artifact_store_cors_origins": ["https://mlflow.example.com"],
        },
        f"the storage account {ACCOUNT} is missing",
        loosen_azure,
        "public access to blobs is true and should be false",
    ),
    "gcs": Kind(
        {
            "artifact_store_uri": f"gs://{BUCKET}/site-a",
            "artifact_store_gcs_project": PROJECT_ID,
            "artifact_store_gcs_location": "europe-west3",
            "artifact_store_gcs_service_account": "mlflow-server",
            "artifact_store_tags": {"project": "mlflow"},
            "artifact_store_transition": {"days": 60, "class": "NEARLINE"},
            "artifact_store_cors_origins": ["https://mlflow.example.com"],
        },
        f"the bucket {BUCKET} is missing",
        loosen_gcs,
        'prevention of public access is "inherited" and should be "enforced"',
    ),
}


# Each takes eight runs of Ansible.
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(KINDS["s3"], id="s3"),
        pytest.param(KINDS["azure"], id="azure", marks=pytest.mark.exhaustive("s3; and the scenario artifacts")),
        pytest.param(KINDS["gcs"], id="gcs", marks=pytest.mark.exhaustive("s3; and the scenario artifacts")),
    ],
)
def test_a_store_is_made_looked_at_and_put_right(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    keys = {use: kind.keys(use) for use in ("manage", "verify")}
    look_only = {**kind.variables, "artifact_store_manage": False}

    def run(variables: dict[str, Any], use: str, *options: str, status: int = 0) -> Any:
        with monkeypatch.context() as patch:
            for name, value in keys[use].items():
                patch.setenv(name, value)
            return play("artifact_store", variables, *options, status=status)

    foreseen = run(kind.variables, "manage", "--check", "--diff")
    assert foreseen.changed == 1
    assert kind.missing in foreseen.words

    assert run(kind.variables, "manage").changed == 1
    assert run(kind.variables, "manage").changed == 0
    kind.loosen()
    loose = run(look_only, "verify", status=2)
    assert (
        f"{kind.variables['artifact_store_uri']} is not as wanted, and artifact_store_manage is false:" in loose.words
    )
    assert kind.loose in loose.words
    assert loose.changed == 0

    assert run(kind.variables, "manage").changed == 1
    assert run(look_only, "verify").changed == 0


def work(repository: Any, directory: Path) -> None:
    """Do all that MLflow does with artifacts."""
    file = directory / "a file.txt"
    file.write_text("content")
    for _ in range(2):  # the second time over what is there
        repository.log_artifact(str(file), "12/run/artifacts")
    assert [each.path for each in repository.list_artifacts("12/run/artifacts")] == ["12/run/artifacts/a file.txt"]
    downloaded = Path(repository.download_artifacts("12/run/artifacts/a file.txt", str(directory)))
    assert downloaded.read_text() == "content"
    upload = repository.create_multipart_upload(str(file), 1, "12/run/artifacts")
    repository.abort_multipart_upload(str(file), upload.upload_id, "12/run/artifacts")
    repository.delete_artifacts("12/run/artifacts")
    assert repository.list_artifacts("12/run/artifacts") == []


def test_the_role_of_a_server_in_aws_is_enough_for_mlflow_and_no_more(cloud: Cloud, tmp_path: Path) -> None:
    play("artifact_store", KINDS["s3"].variables)
    policy = boto3.client("iam").get_role_policy(RoleName="mlflow-server", PolicyName="mlflow-artifacts")
    key = credentials_of("server", policy["PolicyDocument"])
    given = {"access_key_id": key["AWS_ACCESS_KEY_ID"], "secret_access_key": key["AWS_SECRET_ACCESS_KEY"]}
    work(S3ArtifactRepository(f"s3://{BUCKET}/site-a", **given), tmp_path)
    for elsewhere in (f"s3://{BUCKET}", f"s3://{BUCKET}/site-ab"):
        with pytest.raises(MlflowException, match="Access Denied"):
            S3ArtifactRepository(elsewhere, **given).list_artifacts()
        with pytest.raises(S3UploadFailedError, match="AccessDenied"):
            S3ArtifactRepository(elsewhere, **given).log_artifact(str(tmp_path / "a file.txt"))


def test_the_role_of_a_server_in_google_cloud_is_enough_for_mlflow(cloud: Cloud, tmp_path: Path) -> None:
    play("artifact_store", KINDS["gcs"].variables)
    admin, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    url = f"https://iam.googleapis.com/v1/projects/{PROJECT_ID}/serviceAccounts/{SERVER}/keys"
    answer = AuthorizedSession(admin).post(url, timeout=10).json()
    key = json.loads(base64.b64decode(answer["privateKeyData"]))
    credentials = service_account.Credentials.from_service_account_info(key)
    client = storage.Client(project=PROJECT_ID, credentials=credentials)
    work(GCSArtifactRepository(f"gs://{BUCKET}/site-a", client=client), tmp_path)
    with pytest.raises(Forbidden):
        client.get_bucket(BUCKET)


@pytest.mark.parametrize("kind", KINDS)
def test_a_permission_that_is_missing_is_the_last_word(cloud: Cloud, kind: str) -> None:
    service, operation, permission = {
        "s3": ("s3", "s3:GetBucketPolicy", "s3:GetBucketPolicy"),
        "azure": ("arm", "storage_accounts.get_properties", "Microsoft.Storage/storageAccounts/read"),
        "gcs": ("gcs", "buckets.get", "storage.buckets.get"),
    }[kind]
    cloud.fail(service, "denied", operation)
    refused = play("artifact_store", KINDS[kind].variables, status=2)
    assert f" may not {permission} on the " in refused.words
    assert "Traceback" not in refused.words


def test_a_directory_is_none_of_the_roles_business(cloud: Cloud) -> None:
    cloud.forget_calls()
    assert play("artifact_store", {"artifact_store_uri": "/srv/artifacts"}).changed == 0
    assert cloud.calls() == []
