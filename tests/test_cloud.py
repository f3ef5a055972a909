"""The cloud that the tests of the secret stores use: as its real clients see it, with certificates verified."""

import contextlib
import datetime
import re
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import certifi
import jwt
import pytest
import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.identity import ClientSecretCredential, CredentialUnavailableError, DefaultAzureCredential
from azure.identity import ManagedIdentityCredential as ManagedIdentity
from azure.keyvault.secrets import SecretClient
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, ProxyConnectionError, ReadTimeoutError, SSLError
from werkzeug.wrappers import Request, Response

from testing.cloud import Cloud
from testing.cloud.parameter_store import ParameterStore
from testing.limits import limit

pytestmark = pytest.mark.system

VAULT = "https://mlflow-test.vault.azure.net"
VAULT_SCOPE = "https://vault.azure.net/.default"
NAME = "/mlflow/password"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud.start(tmp_path_factory.mktemp("cloud") / "state") as cloud:
        yield cloud


@pytest.fixture
def cloud(running: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    running.reset()
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return running


@pytest.fixture
def ssm(cloud: Cloud) -> Any:
    return boto3.session.Session().client("ssm", config=Config(retries={"total_max_attempts": 1}))


@pytest.fixture
def vault(cloud: Cloud) -> Iterator[SecretClient]:
    with SecretClient(VAULT, DefaultAzureCredential(), retry_total=0) as client:
        yield client


def refused(error: Any) -> str:
    """Return what the error of a client of Parameter Store is called there."""
    return str(error.value.response["Error"]["Code"])


def put(ssm: Any, value: str, **options: Any) -> int:
    """Store a value and return its version."""
    return int(ssm.put_parameter(**{"Name": NAME, "Value": value, "Type": "SecureString"} | options)["Version"])


def get(ssm: Any, *names: str) -> tuple[dict[str, str], list[str]]:
    """Return the values by name and selector, and what is not there."""
    answer = ssm.get_parameters(Names=list(names), WithDecryption=True)
    found = {
        parameter["Name"] + parameter.get("Selector", ""): parameter["Value"] for parameter in answer["Parameters"]
    }
    return found, answer["InvalidParameters"]


def test_parameters_are_read_by_label_version_and_latest(ssm: Any) -> None:
    first, second = put(ssm, "one"), put(ssm, "two", Overwrite=True)
    ssm.label_parameter_version(Name=NAME, ParameterVersion=first, Labels=["current"])
    asked = [f"{NAME}:current", f"{NAME}:{second}", NAME, f"{NAME}:pending", f"{NAME}:{second + 1}", "/mlflow/none"]

    found, missing = get(ssm, *asked)

    assert found == {f"{NAME}:current": "one", f"{NAME}:{second}": "two", NAME: "two"}
    assert missing == asked[3:]


def test_a_label_moves_in_one_call(ssm: Any) -> None:
    first, second = put(ssm, "one"), put(ssm, "two", Overwrite=True)
    for version in (first, second, second):
        ssm.label_parameter_version(Name=NAME, ParameterVersion=version, Labels=["current"])

    history = ssm.get_parameter_history(Name=NAME)["Parameters"]

    assert {entry["Version"]: entry["Labels"] for entry in history} == {first: [], second: ["current"]}


def test_a_parameter_is_overwritten_only_when_asked(ssm: Any) -> None:
    put(ssm, "one")
    with pytest.raises(ClientError) as error:
        put(ssm, "two")
    assert refused(error) == "ParameterAlreadyExists"
    assert get(ssm, NAME)[0] == {NAME: "one"}


def test_a_single_parameter_tells_a_missing_version_from_a_missing_name(ssm: Any) -> None:
    put(ssm, "one")
    assert ssm.get_parameter(Name=f"{NAME}:1", WithDecryption=True)["Parameter"]["Selector"] == ":1"
    for name, code in ((f"{NAME}:pending", "ParameterVersionNotFound"), ("/mlflow/none:1", "ParameterNotFound")):
        with pytest.raises(ClientError) as error:
            ssm.get_parameter(Name=name)
        assert refused(error) == code


def test_what_moto_does_is_done_one_at_a_time() -> None:
    meeting = threading.Barrier(2)
    met = []

    def meet(environ: Any, start_response: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            met.append(meeting.wait(0.5))
        return Response("{}")(environ, start_response)

    def write() -> None:
        request = Request.from_values(method="POST", headers={"X-Amz-Target": "AmazonSSM.PutParameter"}, data="{}")
        store.answer(request, store.operation(request))

    store = ParameterStore(_moto=meet)
    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert met == []


def test_the_oldest_version_goes_unless_it_is_labelled(ssm: Any) -> None:
    for number in range(101):
        put(ssm, str(number), Overwrite=True)
    assert get(ssm, f"{NAME}:1", f"{NAME}:2") == ({f"{NAME}:2": "1"}, [f"{NAME}:1"])

    ssm.label_parameter_version(Name=NAME, ParameterVersion=2, Labels=["current"])
    with pytest.raises(ClientError) as error:
        put(ssm, "one too many", Overwrite=True)
    assert refused(error) == "ParameterMaxVersionLimitExceeded"


def test_a_key_is_named_with_each_value(ssm: Any) -> None:
    put(ssm, "one", KeyId="alias/mlflow")
    put(ssm, "two", Overwrite=True)
    with pytest.raises(ClientError) as error:
        put(ssm, "three", Overwrite=True, KeyId="alias/none")
    history = ssm.get_parameter_history(Name=NAME)["Parameters"]

    assert refused(error) == "InvalidKeyId"
    assert [entry["KeyId"] for entry in history] == ["alias/mlflow", "alias/aws/ssm"]


@pytest.mark.parametrize(
    ("variable", "code"),
    [
        ("AWS_ACCESS_KEY_ID", "UnrecognizedClientException"),
        ("AWS_SECRET_ACCESS_KEY", "InvalidSignatureException"),
    ],
)
def test_wrong_aws_credentials_are_refused(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, variable: str, code: str
) -> None:
    monkeypatch.setenv(variable, "wrong")
    with pytest.raises(ClientError) as error:
        get(boto3.session.Session().client("ssm"), NAME)
    assert refused(error) == code


def test_parameter_store_fails_as_it_is_told(cloud: Cloud, ssm: Any) -> None:
    put(ssm, "one")
    kinds = {
        "denied": ("AccessDeniedException", 400),
        "throttled": ("ThrottlingException", 400),
        "busy": ("TooManyUpdates", 400),
        "error": ("InternalServerError", 500),
    }
    for kind, expected in kinds.items():
        cloud.fail("ssm", kind, "ssm:GetParameters", target="password", times=1)
        get(ssm, "/mlflow/other")
        with pytest.raises(ClientError) as error:
            get(ssm, "/mlflow/other", NAME)
        assert (refused(error), error.value.response["ResponseMetadata"]["HTTPStatusCode"]) == expected
        assert get(ssm, NAME)[0] == {NAME: "one"}
    cloud.fail("ssm", "denied")
    with pytest.raises(ClientError, match=rf"not authorized to perform: ssm:PutParameter on resource: .*{NAME} "):
        put(ssm, "two")
    cloud.heal()
    assert get(ssm, NAME)[0] == {NAME: "one"}


def test_an_answer_that_does_not_come(cloud: Cloud) -> None:
    hasty = boto3.session.Session().client("ssm", config=Config(read_timeout=1, retries={"total_max_attempts": 1}))
    cloud.fail("ssm", "hang", times=1)
    with pytest.raises(ReadTimeoutError):
        get(hasty, NAME)
    cloud.fail("ssm", "reset", times=1)
    # urllib3 lays what happens to a tunnel at the door of the proxy.
    with pytest.raises((ConnectionClosedError, ProxyConnectionError)):
        get(hasty, NAME)
    assert [call["status"] for call in cloud.calls("ssm")] == [0, 0]


def test_a_vault_whose_answer_does_not_come(cloud: Cloud) -> None:
    hasty = SecretClient(VAULT, DefaultAzureCredential(), retry_total=0, read_timeout=1)
    for kind in ("hang", "reset"):
        cloud.fail("keyvault", kind, times=1)
        with pytest.raises((ServiceRequestError, ServiceResponseError)):
            hasty.get_secret("password")
        with pytest.raises(ResourceNotFoundError):
            hasty.get_secret("password")


def test_versions_of_a_secret(vault: SecretClient) -> None:
    first = vault.set_secret("password", "one", content_type="text/plain", tags={"stage": "pending", "by": "a"})
    second = vault.set_secret("password", "two")
    assert first.properties.version and second.properties.version
    vault.update_secret_properties("password", first.properties.version, tags={"stage": "current"})

    old = vault.get_secret("password", first.properties.version)

    assert re.fullmatch(rf"{VAULT}/secrets/password/[0-9a-f]{{32}}", old.id or "")
    assert (old.value, old.properties.tags) == ("one", {"stage": "current"})
    assert (old.properties.content_type, old.properties.recovery_level) == ("text/plain", "Recoverable+Purgeable")
    latest = vault.get_secret("password")
    assert (latest.value, latest.properties.tags, latest.id) == ("two", None, second.id)
    assert [entry.name for entry in vault.list_properties_of_secrets()] == ["password"]


def test_more_versions_than_a_page_holds(cloud: Cloud, vault: SecretClient) -> None:
    ids = sorted(str(vault.set_secret("password", str(number)).id) for number in range(30))
    cloud.forget_calls()
    assert [entry.id for entry in vault.list_properties_of_secret_versions("password")] == ids
    assert [call["operation"] for call in cloud.calls()] == [
        "Microsoft.KeyVault/vaults/secrets/readMetadata/action"
    ] * 2


def test_a_disabled_secret_cannot_be_read_one_out_of_its_time_can(vault: SecretClient) -> None:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    day = datetime.timedelta(days=1)
    first = vault.set_secret("password", "one", not_before=now + day, expires_on=now - day)
    assert vault.get_secret("password").properties.expires_on == now - day
    assert vault.get_secret("password").properties.not_before == now + day

    vault.set_secret("password", "two", enabled=False)

    with pytest.raises(HttpResponseError) as error:
        vault.get_secret("password")
    assert error.value.status_code == 403
    assert error.value.error and error.value.error.code == "Forbidden"
    assert "SecretDisabled" in str(error.value)
    assert vault.get_secret("password", first.properties.version).value == "one"


def test_a_deleted_secret_keeps_its_name_until_it_is_purged(vault: SecretClient) -> None:
    vault.set_secret("password", "one")
    vault.begin_delete_secret("password").wait()
    with pytest.raises(ResourceNotFoundError, match="SecretNotFound"):
        vault.get_secret("password")
    with pytest.raises(ResourceExistsError, match="ObjectIsDeletedButRecoverable"):
        vault.set_secret("password", "two")
    assert vault.get_deleted_secret("password").recovery_id == f"{VAULT}/deletedsecrets/password"

    vault.begin_recover_deleted_secret("password").wait()
    assert vault.get_secret("password").value == "one"

    vault.begin_delete_secret("password").wait()
    vault.purge_deleted_secret("password")
    with pytest.raises(ResourceNotFoundError):
        vault.get_deleted_secret("password")
    vault.set_secret("password", "three")
    assert len(list(vault.list_properties_of_secret_versions("password"))) == 1


def test_a_wrong_name_is_refused(vault: SecretClient) -> None:
    with pytest.raises(HttpResponseError, match="BadParameter"):
        vault.set_secret("pass_word", "one")


def test_key_vault_fails_as_it_is_told(cloud: Cloud, vault: SecretClient) -> None:
    vault.set_secret("password", "one")
    kinds = {
        "denied": (403, "ForbiddenByRbac"),
        "throttled": (429, "Throttled"),
        "busy": (409, "Conflict"),
        "error": (500, "InternalServerError"),
    }
    for kind, (status, text) in kinds.items():
        cloud.fail("keyvault", kind, "get_secret", times=1)
        with pytest.raises(HttpResponseError, match=text) as error:
            vault.get_secret("password")
        answer: Any = error.value.response
        assert answer.status_code == status
        assert ("Retry-After" in answer.headers) == (kind == "throttled")
        assert vault.get_secret("password").value == "one"
    cloud.fail("keyvault", "denied", "Microsoft.KeyVault/vaults/secrets/setSecret/action")
    with pytest.raises(HttpResponseError, match=r"Action: 'Microsoft.KeyVault/vaults/secrets/setSecret/action'"):
        vault.set_secret("password", "two")


def test_a_client_is_challenged_before_it_may_read(cloud: Cloud, vault: SecretClient) -> None:
    with contextlib.suppress(ResourceNotFoundError):
        vault.get_secret("challenged")
    client = cloud.environment["AZURE_CLIENT_ID"]
    calls = [(call["service"], call["method"], call["status"], call["identity"]) for call in cloud.calls()]
    assert calls[-2:] == [("entra", "token", 200, client), ("keyvault", "get_secret", 404, client)]

    answer = requests.get(f"{VAULT}/secrets/challenged?api-version=7.6", timeout=10)
    tenant = cloud.environment["AZURE_TENANT_ID"]
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (
        401,
        f'Bearer authorization="https://login.microsoftonline.com/{tenant}", resource="https://vault.azure.net"',
    )
    assert cloud.calls()[-1]["identity"] is None


def test_a_token_for_something_else_is_refused(cloud: Cloud) -> None:
    class Wrong:
        def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            return DefaultAzureCredential().get_token("https://management.azure.com/.default")

    class Forged:
        def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            real = DefaultAzureCredential().get_token(VAULT_SCOPE).token
            claims = jwt.decode(real, options={"verify_signature": False})
            return AccessToken(jwt.encode(claims, "k" * 32, algorithm="HS256"), 2**31)

    for credential, text in ((Wrong(), "AKV10022"), (Forged(), "AKV10046")):
        with pytest.raises(ClientAuthenticationError, match=text):
            SecretClient(VAULT, credential).get_secret("password")
    assert not [call for call in cloud.calls("keyvault") if call["status"] != 401]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("client_secret", "AADSTS7000215"),
        ("client_id", "AADSTS700016"),
        ("tenant_id", "double check your tenant name"),
    ],
)
def test_wrong_azure_credentials_are_refused(cloud: Cloud, part: str, text: str) -> None:
    parts = {part: cloud.environment[f"AZURE_{part.upper()}"] for part in ("tenant_id", "client_id", "client_secret")}
    ClientSecretCredential(**parts).get_token(VAULT_SCOPE)
    with pytest.raises(ClientAuthenticationError, match=text):
        ClientSecretCredential(**parts | {part: "wrong"}).get_token(VAULT_SCOPE)


def test_entra_fails_as_it_is_told(cloud: Cloud) -> None:
    for kind, text in (("denied", "AADSTS7000222"), ("throttled", "AADSTS90055"), ("error", "HTTP Error: 503")):
        cloud.heal()
        cloud.fail("entra", kind, "token")
        with pytest.raises(ClientAuthenticationError, match=text):
            DefaultAzureCredential(retry_total=0).get_token(VAULT_SCOPE)


def test_an_instance_is_known_or_not(cloud: Cloud) -> None:
    url = "https://login.microsoftonline.com/common/discovery/instance?api-version=1.1&authorization_endpoint="
    known = requests.get(f"{url}https://login.microsoftonline.com/a/oauth2/v2.0/authorize", timeout=10).json()
    unknown = requests.get(f"{url}https://login.example.com/a/oauth2/v2.0/authorize", timeout=10).json()
    assert known["tenant_discovery_endpoint"].startswith("https://login.microsoftonline.com/a/v2.0/")
    assert unknown["error"] == "invalid_instance"


def test_who_does_not_trust_the_certificates_gets_nowhere(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", certifi.where())
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    with pytest.raises(SSLError):
        get(boto3.session.Session().client("ssm", config=Config(retries={"total_max_attempts": 1})), NAME)
    # Of the vault or of Entra: who has met the vault's challenge before goes for a token first.
    with pytest.raises(AzureError, match="CERTIFICATE_VERIFY_FAILED"):
        SecretClient(VAULT, DefaultAzureCredential(), retry_total=0).get_secret("password")
    assert cloud.calls() == []


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("example.com", 403),
        ("ssm.us-east-1.amazonaws.com", 403),
        ("login.microsoftonline.com:8443", 403),
        ("another.vault.azure.net", 502),
    ],
)
def test_other_names_are_not_reached(cloud: Cloud, host: str, status: int) -> None:
    with pytest.raises(requests.exceptions.ProxyError, match=str(status)):
        requests.get(f"https://{host}/", timeout=10)
    name = host if ":" in host else f"{host}:443"
    assert [(call["target"], call["status"]) for call in cloud.calls("proxy")] == [(name, status)]


def test_no_metadata_service_is_found(cloud: Cloud) -> None:
    with pytest.raises(CredentialUnavailableError):
        ManagedIdentity(retry_total=0).get_token(VAULT_SCOPE)
    assert {call["status"] for call in cloud.calls()} == {0}
    assert all(call["target"].startswith("http://169.254.169.254/") for call in cloud.calls())


def test_a_fault_that_cannot_happen_is_refused(cloud: Cloud) -> None:
    for service, kind in (("s4", "denied"), ("ssm", "sleepy"), ("ssm", "revoked")):
        with pytest.raises(ValueError, match=kind):
            cloud.fail(service, kind)


def test_a_reset_empties_the_stores(cloud: Cloud, ssm: Any, vault: SecretClient) -> None:
    put(ssm, "one")
    vault.set_secret("password", "one")
    cloud.reset()
    assert cloud.calls() == []
    assert get(ssm, NAME) == ({}, [NAME])
    with pytest.raises(ResourceNotFoundError):
        vault.get_secret("password")


def test_a_cloud_from_start_to_end(tmp_path: Path) -> None:
    started = Cloud.start(tmp_path / "state", "--vault", "first", "--vault", "second")
    with started:
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in started.directory.iterdir()}
        assert (files["client.env"], stat.S_IMODE(started.directory.stat().st_mode)) == (0o600, 0o700)
        attached = Cloud.attach(started.directory)
        with requests.Session() as session:
            session.trust_env = False
            session.proxies = {"https": attached.environment["HTTPS_PROXY"]}
            session.verify = attached.environment["REQUESTS_CA_BUNDLE"]
            for name in ("first", "second"):
                url = f"https://{name}.vault.azure.net/secrets?api-version=7.6"
                assert session.get(url, timeout=10).status_code == 401
        attached.stop()
        assert started.process and started.process.wait(limit(20)) == 0
    with pytest.raises(RuntimeError, match="No cloud is ready"):
        Cloud.attach(started.directory)


def test_a_cloud_ends_by_itself(tmp_path: Path) -> None:
    cloud = Cloud.start(tmp_path, "--hours", "0.0005")
    assert cloud.process and cloud.process.wait(limit(60)) == 0


def test_a_cloud_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="unrecognized arguments: --port"):
        Cloud.start(tmp_path, "--port", "1")
