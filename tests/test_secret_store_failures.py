"""What can go wrong with a store is told in one sentence: which thing, what is wrong with it, and what helps."""

import datetime
import functools
import importlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ResourceNotFoundError

from plugins.module_utils import secret_store as base
from tests.stores import Backend, CutOff, Generated, InCloud, KeyVault, Ssm

SECRET = "correct-horse-battery"


def refusal(backend: Backend, operation: str = "create", **request: Any) -> str:
    """Return the one sentence that an operation comes to."""
    result = backend.run(operation, {"admin": {}}, **request)
    (problem,) = result["problems"]
    assert isinstance(problem, str)
    assert problem.endswith("."), problem
    assert "\n" not in problem
    assert "failed at" not in problem, "nobody thought of it"
    assert result["secrets"] == {}
    hidden = [
        SECRET,
        *(os.environ[name] for name in ("AWS_SECRET_ACCESS_KEY", "AZURE_CLIENT_SECRET") if name in os.environ),
    ]
    assert [secret for secret in hidden if secret in problem] == []
    return problem


def hurry(backend: Backend) -> None:
    """Give up as the provider does, but sooner."""
    for name, value in {
        "ATTEMPTS": 2,
        "RETRIES": 1,
        "CONNECT_SECONDS": 2,
        "READ_SECONDS": 1,
        "PAUSE_SECONDS": 0,
    }.items():
        if hasattr(backend.module, name):
            backend.patch.setattr(backend.module, name, value)


# Files


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        ("", 0o600, "is empty; write a secret of at least 16"),
        ("\n", 0o600, "is empty; write a secret of at least 16"),
        ("fifteen-letters\n", 0o600, "holds 15 characters; write a secret of at least 16"),
        ("seventeen-letters\n", 0o640, "is open to others than its owner; run `chmod 600"),
        ("seventeen-letters\n", 0o604, "is open to others than its owner; run `chmod 600"),
        ("seventeen-letters and-more\n", 0o600, "holds more than one word of printable ASCII"),
        ("seventeen-letters\nsecond-line\n", 0o600, "holds more than one word of printable ASCII"),
    ],
)
@pytest.mark.parametrize("stage", ["admin", "admin.pending"])
def test_a_file_that_cannot_be_trusted_is_refused(
    generated: Generated, stage: str, content: str, mode: int, sentence: str
) -> None:
    generated.bring("admin", SECRET)
    generated.bring(stage, content)
    (generated.directory / stage).chmod(mode)
    assert refusal(generated).startswith(f"{generated.directory}/{stage} {sentence}")
    assert content.strip() in ("", "seventeen-letters") or content.strip() not in refusal(generated)


def test_something_else_than_a_file_is_refused(generated: Generated) -> None:
    generated.bring("other", SECRET)
    (generated.directory / "admin").mkdir()
    assert refusal(generated).startswith(f"{generated.directory}/admin cannot be read: Is a directory")


def test_a_directory_open_to_others_is_refused_and_left_alone(generated: Generated) -> None:
    generated.directory.mkdir(mode=0o755)
    generated.directory.chmod(0o755)
    for operation in ("read", "create", "lock", "look"):
        sentence = f"{generated.directory} is open to others than its owner; run `chmod 700 {generated.directory}`."
        assert refusal(generated, operation) == sentence
    assert list(generated.directory.iterdir()) == []


def test_a_file_in_place_of_the_directory_is_refused(generated: Generated) -> None:
    generated.directory.write_text("")
    assert refusal(generated) == f"{generated.directory} is not a directory; remove it or name another."


def test_files_are_made_for_their_owner_alone_and_out_of_git(generated: Generated) -> None:
    generated.done("create", {"admin": {}})
    generated.done("pend", {"admin": {}})
    generated.done("lock")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in generated.directory.iterdir()}
    assert {name: mode for name, mode in modes.items() if name != ".gitignore"} == dict.fromkeys(
        ("admin", "admin.pending", ".lock"), 0o600
    )
    assert stat.S_IMODE(generated.directory.stat().st_mode) == 0o700
    assert (generated.directory / ".gitignore").read_text() == "*\n"


def test_a_run_cut_off_while_writing_leaves_no_file(generated: Generated, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(descriptor: int) -> None:
        raise CutOff

    generated.directory.mkdir(mode=0o700)
    monkeypatch.setattr(os, "fsync", cut_off)
    with pytest.raises(CutOff):
        generated.run("create", {"admin": {}})
    assert list(generated.directory.iterdir()) == []


def test_a_promotion_leaves_two_files(generated: Generated) -> None:
    generated.done("create", {"admin": {}})
    for _ in range(2):
        generated.done("pend", {"admin": {}})
        generated.done("promote", {"admin": {}})
    assert sorted(path.name for path in generated.directory.iterdir()) == [".gitignore", "admin", "admin.previous"]


@pytest.mark.parametrize("content", ["", "{", '{"user": "alice"}', "[]"])
def test_a_record_that_was_cut_off_holds_no_lock(generated: Generated, content: str) -> None:
    generated.bring(".lock", content)
    assert generated.done("look")["lock"] is None
    assert generated.done("lock")["changed"]


def test_a_directory_that_cannot_be_written_is_told(generated: Generated) -> None:
    generated.options = {"directory": "/proc/secrets"}
    for operation in ("create", "lock"):
        assert refusal(generated, operation).startswith("/proc/secrets cannot be written: ")


# Both clouds


@pytest.fixture(params=("aws_ssm", "azure_key_vault"))
def store(request: pytest.FixtureRequest) -> InCloud:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, InCloud)
    hurry(found)
    return found


@pytest.mark.parametrize(
    ("kind", "aws", "azure"),
    [
        (
            "denied",
            "user/mlflow may not ssm:GetParameters on ",
            "This identity may not Microsoft.KeyVault/vaults/secrets/",
        ),
        ("throttled", "AWS keeps putting off ssm:GetParameters on ", "(429); run the playbook again later."),
        ("error", "AWS refused ssm:GetParameters on ", " with 500."),
        ("hang", "gave no answer to ssm:GetParameters on ", " gave no answer about "),
        ("reset", "gave no answer to ssm:GetParameters on ", " gave no answer about "),
    ],
)
@pytest.mark.parametrize("operation", ["create", "lock"])
def test_a_service_that_does_not_serve_is_told(store: InCloud, operation: str, kind: str, aws: str, azure: str) -> None:
    store.cloud.fail(store.service, kind)
    problem = refusal(store, operation)
    assert (aws if isinstance(store, Ssm) else azure) in problem
    assert ("admin" if operation == "create" else "lock") in problem


@pytest.mark.parametrize("kind", ["throttled", "error", "reset", "busy"])
def test_what_fails_once_is_repeated(store: InCloud, kind: str) -> None:
    writer = {"ssm": "PutParameter", "keyvault": "set_secret"}[store.service]
    store.cloud.fail(store.service, kind, writer, times=1)
    store.done("create", {"admin": {}})
    store.done("lock")


def test_one_that_writes_all_the_time_is_told(store: InCloud) -> None:
    writer = {"ssm": "PutParameter", "keyvault": "set_secret"}[store.service]
    store.cloud.fail(store.service, "busy", writer)
    assert "keeps putting off" in refusal(store)


def test_who_may_read_and_not_write_is_told_what_is_missing(store: InCloud) -> None:
    writer, action = {"ssm": ("PutParameter", "ssm:PutParameter"), "keyvault": ("set_secret", "setSecret/action")}[
        store.service
    ]
    store.cloud.fail(store.service, "denied", writer)
    problem = refusal(store)
    assert action in problem
    assert "docs/secrets.md" in problem


def test_a_network_without_a_way_out_is_told(store: InCloud) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        store.patch.setenv(name, "http://127.0.0.1:9")
    assert "the network and its proxy" in refusal(store)


def test_a_certificate_that_is_not_trusted_is_told(store: InCloud) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        store.patch.setenv(name, "/etc/ssl/certs/ca-certificates.crt")
    assert "cannot be verified; name the CA bundle to trust in" in refusal(store)


def test_without_credentials_it_is_said_which_there_can_be(store: InCloud) -> None:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AZURE_CLIENT_ID",
        "AZURE_CLIENT_SECRET",
        "AZURE_TENANT_ID",
    ):
        store.patch.delenv(name, raising=False)
    assert refusal(store).startswith(("No AWS credentials were found; set ", "No Azure credentials were found; set "))


def test_without_its_sdk_a_provider_says_so(store: InCloud) -> None:
    store.patch.setattr(store.module, "MISSING", "thesdk")
    assert refusal(store, "validate").startswith(
        "The Python package thesdk is missing on the control node; run `pip install"
    )


def test_somebody_elses_thing_in_place_of_the_lock_is_told(store: InCloud) -> None:
    if isinstance(store, KeyVault):
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        store.client().set_secret(store.name("lock"), SECRET, expires_on=later)
    else:
        store.bring("lock", SECRET)
    assert "is not a lock that this project has written; delete that " in refusal(store, "lock")


# AWS


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, "AWS refuses the secret access key that is in use; check AWS_SECRET"),
        ({"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}, "AWS does not know the access key that is in use; check AWS_ACCESS"),
        ({"AWS_PROFILE": "nobodys"}, "The profile in secrets_options.profile or AWS_PROFILE is not in the"),
        ({"AWS_DEFAULT_REGION": ""}, "secrets_options.region is missing, and neither AWS_DEFAULT_REGION nor"),
        ({"AWS_DEFAULT_REGION": "mars-1"}, "ssm.mars-1.amazonaws.com gave no answer to ssm:GetParameters on"),
    ],
)
def test_wrong_settings_of_aws_are_told(aws_ssm: Ssm, environment: dict[str, str], sentence: str) -> None:
    hurry(aws_ssm)
    for name, value in environment.items():
        aws_ssm.patch.setenv(name, value) if value else aws_ssm.patch.delenv(name)
    assert refusal(aws_ssm).startswith(sentence)


def test_options_of_aws_win_over_the_environment(aws_ssm: Ssm) -> None:
    aws_ssm.patch.delenv("AWS_DEFAULT_REGION")
    aws_ssm.options |= {"region": "eu-central-1", "endpoint": "https://ssm.eu-central-1.amazonaws.com"}
    aws_ssm.options |= {"kms_key": "alias/mlflow"}
    aws_ssm.done("create", {"admin": {}})
    aws_ssm.patch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    name = f"{aws_ssm.options['path']}/admin"
    described = aws_ssm.client().describe_parameters(ParameterFilters=[{"Key": "Name", "Values": [name]}])["Parameters"]
    assert [parameter["KeyId"] for parameter in described] == ["alias/mlflow"]


def test_a_kms_key_that_does_not_exist_is_told(aws_ssm: Ssm) -> None:
    aws_ssm.options |= {"kms_key": "alias/nobodys"}
    assert refusal(aws_ssm).startswith(
        f"KMS cannot use the key of {aws_ssm.options['path']}/admin; secrets_options.kms"
    )


def test_a_parameter_that_is_not_encrypted_is_refused(aws_ssm: Ssm) -> None:
    path = f"{aws_ssm.options['path']}/admin"
    aws_ssm.client().put_parameter(Name=path, Value=SECRET, Type="String")
    assert refusal(aws_ssm).startswith(f"{path} is of the type String, which is not encrypted; delete it")


def test_more_names_than_a_call_takes_are_read(aws_ssm: Ssm) -> None:
    names: dict[str, Any] = {f"name_{number}": {} for number in range(23)}
    made = aws_ssm.done("create", names)["secrets"]
    assert len({secret["current"]["value"] for secret in made.values()}) == 23
    aws_ssm.done("pend", {name: {} for name in list(names)[:12]})
    assert [name for name, one in aws_ssm.done("read", names)["secrets"].items() if one["pending"]] == sorted(
        list(names)[:12]
    )


# Azure


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"AZURE_CLIENT_SECRET": SECRET},
            "Entra ID refuses the login: AZURE_CLIENT_SECRET is not a secret of the application in AZURE_CLIENT_ID",
        ),
        (
            {"AZURE_CLIENT_ID": "nobodys"},
            "Entra ID refuses the login: the application in AZURE_CLIENT_ID is not in the tenant of ",
        ),
        ({"AZURE_TENANT_ID": "nobodys"}, "AZURE_TENANT_ID is not the tenant of https://mlflow-test.vault.azure.net; "),
    ],
)
def test_wrong_settings_of_azure_are_told(
    azure_key_vault: KeyVault, environment: dict[str, str], sentence: str
) -> None:
    hurry(azure_key_vault)
    for name, value in environment.items():
        azure_key_vault.patch.setenv(name, value)
    assert refusal(azure_key_vault).startswith(sentence)


@pytest.mark.parametrize("kind", ["hang", "reset"])
def test_a_login_that_gets_no_answer_is_told(azure_key_vault: KeyVault, kind: str) -> None:
    hurry(azure_key_vault)
    azure_key_vault.cloud.fail("entra", kind)
    assert refusal(azure_key_vault) == "Entra ID gave no answer to the login; check the network and its proxy."


def test_an_expired_client_secret_is_told(azure_key_vault: KeyVault) -> None:
    hurry(azure_key_vault)
    azure_key_vault.cloud.fail("entra", "denied", "token")
    assert "the client secret in AZURE_CLIENT_SECRET has expired (AADSTS7000222)." in refusal(azure_key_vault)


def test_a_vault_that_does_not_exist_is_told(azure_key_vault: KeyVault) -> None:
    hurry(azure_key_vault)
    azure_key_vault.options |= {"vault_url": "https://nobodys-vault.vault.azure.net/"}
    problem = refusal(azure_key_vault)
    assert problem.startswith("https://nobodys-vault.vault.azure.net gave no answer about ")
    assert "check that secrets_options.vault_url names a vault that exists" in problem


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"enabled": False}, " is disabled; enable its version "),
        (
            {"expires_on": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)},
            " expired at 2020-01-01T00:00:00Z; set a new",
        ),
        (
            {"not_before": datetime.datetime(2099, 1, 1, tzinfo=datetime.UTC)},
            " is not valid before 2099-01-01T00:00:00Z; ",
        ),
    ],
)
def test_a_version_that_is_not_to_be_used_is_refused(
    azure_key_vault: KeyVault, attributes: dict[str, Any], sentence: str
) -> None:
    azure_key_vault.bring("admin", "an-older-value-that-is-good")
    azure_key_vault.client().set_secret(azure_key_vault.name("admin"), SECRET, **attributes)
    if "enabled" in attributes:  # within one second the two have no order
        for one in azure_key_vault.client().list_properties_of_secret_versions(azure_key_vault.name("admin")):
            azure_key_vault.client().update_secret_properties(str(one.name), one.version, **attributes)
    for operation in ("read", "create"):
        assert f"{azure_key_vault.name('admin')} in https://mlflow-test.vault.azure.net{sentence}" in refusal(
            azure_key_vault, operation
        )


def test_a_secret_that_was_deleted_is_told_with_what_brings_it_back(azure_key_vault: KeyVault) -> None:
    name = azure_key_vault.name("admin")
    azure_key_vault.bring("admin", SECRET)
    azure_key_vault.client().begin_delete_secret(name).wait()
    assert azure_key_vault.done("read", {"admin": {}})["secrets"]["admin"]["current"] is None
    recover = f"run `az keyvault secret recover --vault-name mlflow-test --name {name}`"
    assert recover in refusal(azure_key_vault)
    with pytest.raises(ResourceNotFoundError):
        azure_key_vault.client().get_secret(name)


def test_a_newer_version_that_somebody_brought_is_not_rotated_away(azure_key_vault: KeyVault) -> None:
    azure_key_vault.done("create", {"admin": {}})
    azure_key_vault.done("pend", {"admin": {}})
    made = azure_key_vault.store._secret  # type: ignore[attr-defined]

    def later(self: Any, name: str, *, history: bool) -> base.Secret:
        secret: base.Secret = made(self, name, history=history)
        assert secret.current
        time = secret.current.created + datetime.timedelta(hours=1)
        return base.Secret(base.Version("newer", time, SECRET), secret.pending, secret.previous)

    azure_key_vault.patch.setattr(azure_key_vault.store, "_secret", later)
    assert "has got a version that is newer than the pending one; undo" in refusal(azure_key_vault, "promote")


def while_first_waits(store: KeyVault, first: Callable[[], Any], second: Callable[[], Any]) -> list[Any]:
    """Do something while another waits for whatever is to go before it: without that, both would have won."""
    results: list[Any] = []
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            results.append(second())

    store.patch.setattr(store.module, "SETTLE_SECONDS", 2.0)
    store.patch.setattr(store.module.time, "sleep", sleep)
    results.append(first())
    assert waited == [2.0, 2.0]
    return results


def test_of_two_who_make_a_secret_within_a_second_one_counts(azure_key_vault: KeyVault) -> None:
    results = while_first_waits(azure_key_vault, *[lambda: azure_key_vault.done("create", {"admin": {}})] * 2)
    assert results[0]["secrets"] == results[1]["secrets"]


def test_of_two_who_lock_within_a_second_one_counts(azure_key_vault: KeyVault, processes: list[int]) -> None:
    stores = [azure_key_vault.store(azure_key_vault.options) for _ in range(2)]
    assert [store.held() for store in stores] == [None, None]
    until = base.now() + datetime.timedelta(hours=1)
    claims = [base.Claim(base.Owner.of(process), base.now(), until) for process in processes[:2]]
    first, second = (functools.partial(store.claim, claim) for store, claim in zip(stores, claims, strict=True))
    assert sorted(while_first_waits(azure_key_vault, first, second)) == [False, True]


def test_of_a_lock_that_was_broken_one_claim_is_left(azure_key_vault: KeyVault, processes: list[int]) -> None:
    azure_key_vault.done("lock", process=processes[0])
    azure_key_vault.done("lock", process=processes[1], take_over=True)
    claims = azure_key_vault.client().list_properties_of_secret_versions(azure_key_vault.name("lock"))
    assert [(one.tags or {})["process"] for one in claims if one.enabled] == [str(processes[1])]


def test_the_vault_is_waited_for_longer_than_its_clock_is_coarse(generated: Generated) -> None:
    assert importlib.import_module("plugins.modules.secret_store_azure_key_vault").SETTLE_SECONDS > 1


def test_a_value_that_was_dropped_is_marked_and_cannot_be_read(azure_key_vault: KeyVault) -> None:
    azure_key_vault.done("create", {"admin": {}})
    pending = azure_key_vault.done("pend", {"admin": {}})["secrets"]["admin"]["pending"]["version"]
    azure_key_vault.done("discard", {"admin": {}})
    versions = azure_key_vault.client().list_properties_of_secret_versions(azure_key_vault.name("admin"))
    (dropped,) = [one for one in versions if one.version == pending]
    assert (dropped.tags or {})["stage"] == "discarded"
    assert dropped.enabled is False


def test_tags_that_somebody_set_stay(azure_key_vault: KeyVault) -> None:
    name, client = azure_key_vault.name("admin"), azure_key_vault.client()
    azure_key_vault.done("create", {"admin": {}})
    pending = azure_key_vault.done("pend", {"admin": {}})["secrets"]["admin"]["pending"]["version"]
    tags = client.get_secret(name, pending).properties.tags or {}
    client.update_secret_properties(name, pending, tags={**tags, "team": "research"})
    azure_key_vault.done("promote", {"admin": {}})
    assert (client.get_secret(name).properties.tags or {})["team"] == "research"


def test_nothing_of_this_reads_the_machine(tmp_path: Path, aws_ssm: Ssm) -> None:
    """A test that found credentials on the machine that runs it would pass there alone."""
    assert not Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).exists()
    assert "AWS_PROFILE" not in os.environ
