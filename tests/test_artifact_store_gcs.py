"""A bucket is made, put right and looked at by the real SDK, against a small JSON API within the test's own process.

What it answers is as https://cloud.google.com/storage/docs/json_api/v1 and https://cloud.google.com/iam/docs/reference/rest
say; the service itself was not asked.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from werkzeug.wrappers import Request, Response

from plugins.module_utils import artifact_store as base
from tests.artifacts import load_module
from tests.project import PROJECT
from tests.wire import Wire, lay

module = load_module("gcs")

WHO = "operator@example-1.iam.gserviceaccount.com"
SERVER = "mlflow-server@example-1.iam.gserviceaccount.com"
LABELS = {"project": "mlflow"}


def answer(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")


def error(status: int, text: str) -> Response:
    return answer({"error": {"code": status, "message": text, "errors": []}}, status)


def denied(permission: str) -> Response:
    text = f"{WHO} does not have {permission} access to the Google Cloud Storage bucket."
    return error(403, f"{text} Permission '{permission}' denied on resource (or it may not exist).")


@dataclass
class Google:
    """Buckets and service accounts of one project."""

    buckets: dict[str, dict[str, Any]] = field(default_factory=dict)
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    accounts: dict[str, dict[str, Any]] = field(default_factory=dict)
    # How often a policy is refused that names a service account which was just made.
    unknown: int = 0

    def token(self, _request: Request) -> Response:
        """Give out tokens."""
        return answer({"access_token": "token", "expires_in": 3600, "token_type": "Bearer"})

    def storage(self, request: Request) -> Response:
        """Answer the JSON API of storage."""
        assert request.headers["Authorization"] == "Bearer token"
        if request.method == "POST":
            return self._create(request.get_json())
        name, _, what = request.path.removeprefix("/storage/v1/b/").partition("/")
        if name not in self.buckets:
            return error(404, "The specified bucket does not exist.")
        if what == "iam":
            return self._policy(name, request)
        bucket = self.buckets[name]
        if request.method == "PATCH":
            if request.args["ifMetagenerationMatch"] != bucket["metageneration"]:
                return error(412, "At least one of the pre-conditions you specified did not hold.")
            self.buckets[name] = bucket = merged(bucket, request.get_json())
            bucket["metageneration"] = str(int(bucket["metageneration"]) + 1)
        return answer(bucket)

    def _create(self, body: dict[str, Any]) -> Response:
        if body["name"] in self.buckets:
            return error(409, "The requested bucket name is not available.")
        bucket = {**body, "location": body["location"].upper(), "metageneration": "1"}
        bucket["softDeletePolicy"] = {"retentionDurationSeconds": "604800"}
        self.buckets[body["name"]] = bucket
        self.policies[body["name"]] = {"etag": "1", "version": 1, "bindings": []}
        return answer(bucket)

    def _policy(self, name: str, request: Request) -> Response:
        policy = self.policies[name]
        if request.method == "PUT":
            wanted = request.get_json()
            members = {member for binding in wanted["bindings"] for member in binding["members"]}
            known = {f"serviceAccount:{email}" for email in self.accounts}
            if self.unknown or any(member.startswith("serviceAccount:") and member not in known for member in members):
                self.unknown -= 1
                return error(400, "Service account mlflow-server does not exist.")
            if wanted["etag"] != policy["etag"]:
                return error(412, "The etag does not match.")
            policy = self.policies[name] = {**wanted, "etag": str(int(policy["etag"]) + 1)}
        return answer(policy)

    def iam(self, request: Request) -> Response:
        """Answer the API of IAM."""
        assert request.headers["Authorization"] == "Bearer token"
        if request.method == "POST":
            email = f"{request.get_json()['accountId']}@example-1.iam.gserviceaccount.com"
            self.accounts[email] = {"email": email, **request.get_json()["serviceAccount"]}
            return answer(self.accounts[email])
        email = request.path.rpartition("/")[2]
        return answer(self.accounts[email]) if email in self.accounts else error(404, "Unknown service account")


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as PATCH does: what is null goes, lists are replaced."""
    result = copy.deepcopy(dict(old))
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


@dataclass
class Site:
    """A bucket, and all that is wanted of it."""

    google: Google
    wire: Wire
    given: dict[str, Any]

    @property
    def bucket(self) -> dict[str, Any]:
        """What the service has of it."""
        return self.google.buckets["example-mlflow"]

    @property
    def bindings(self) -> list[dict[str, Any]]:
        """Who may do what."""
        bindings: list[dict[str, Any]] = self.google.policies["example-mlflow"]["bindings"]
        return bindings

    def run(self, *, check_mode: bool = False, **changed: Any) -> dict[str, Any]:
        """Run the module, with some options changed."""
        self.wire.calls.clear()
        return base.settle(module.Bucket({**self.given, **changed}), check_mode=check_mode)

    def refusal(self, **changed: Any) -> str:
        """Run the module, and return why it refuses."""
        with pytest.raises(base.Refused) as refused:
            self.run(**changed)
        sentence = str(refused.value)
        assert sentence.endswith(".")
        assert "\n" not in sentence
        return sentence


@pytest.fixture(scope="module")
def key() -> str:
    private = rsa.generate_private_key(65537, 2048)
    no_password = serialization.NoEncryption()
    pkcs8 = serialization.PrivateFormat.PKCS8
    return private.private_bytes(serialization.Encoding.PEM, pkcs8, no_password).decode()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str) -> Site:
    google = Google()
    wire = Wire(
        {
            "oauth2.googleapis.com": google.token,
            "storage.googleapis.com": google.storage,
            "iam.googleapis.com": google.iam,
        }
    )
    lay(wire, monkeypatch)
    credentials = {
        "type": "service_account",
        "client_email": WHO,
        "private_key": key,
        "private_key_id": "1",
        "project_id": "example-1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps(credentials))
    for name in ("STORAGE_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0)
    given = {
        "bucket": "example-mlflow",
        "prefix": "site-a",
        "project": "example-1",
        "location": "europe-west3",
        "versioning": True,
        "noncurrent_days": 30,
        "abort_multipart_days": 7,
        "transition": {"days": 60, "class": "NEARLINE"},
        "expire": [{"prefix": "12/", "days": 90}],
        "cors_origins": ["https://mlflow.example.com"],
        "labels": LABELS,
        "service_account": "mlflow-server",
    }
    return Site(google, wire, given)


@pytest.fixture
def made(site: Site) -> Site:
    assert site.run()["changed"]
    return site


def condition(**inner: Any) -> dict[str, Any]:
    return {"matchesPrefix": ["site-a/"], **inner}


def test_check_mode_says_what_is_missing_and_makes_nothing(site: Site) -> None:
    text = "; ".join(site.run(check_mode=True)["differences"])
    assert site.wire.writes() == []
    for part in (
        'the bucket example-mlflow is missing and should be {"location": "europe-west3"}',
        "uniform access is false and should be true",
        'prevention of public access is "inherited" and should be "enforced"',
        "versioning is false and should be true",
        "the lifecycle rule AbortIncompleteMultipartUpload by age+matchesPrefix in site-a/ is missing",
        'the label project is missing and should be "mlflow"',
        f"the service account {SERVER} is missing",
        f'the role of {SERVER} on the bucket example-mlflow is missing and should be "roles/storage.objectUser"',
    ):
        assert part in text


def test_a_bucket_is_made_whole(made: Site) -> None:
    access = made.bucket["iamConfiguration"]
    assert access["uniformBucketLevelAccess"]["enabled"] is True
    assert access["publicAccessPrevention"] == "enforced"
    assert made.bucket["versioning"] == {"enabled": True}
    assert made.bucket["location"] == "EUROPE-WEST3"
    assert made.bucket["lifecycle"]["rule"] == [
        {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": condition(age=7)},
        {"action": {"type": "Delete"}, "condition": condition(daysSinceNoncurrentTime=30)},
        {"action": {"type": "SetStorageClass", "storageClass": "NEARLINE"}, "condition": condition(age=60)},
        {
            "action": {"type": "Delete"},
            "condition": {"age": 90, "isLive": True, "matchesPrefix": ["site-a/12/"]},
        },
    ]
    (cors,) = made.bucket["cors"]
    assert cors["origin"] == ["https://mlflow.example.com"]
    assert made.bucket["labels"]["project"] == "mlflow"
    assert made.bindings == [{"role": "roles/storage.objectUser", "members": [f"serviceAccount:{SERVER}"]}]
    assert SERVER in made.google.accounts


def test_a_second_run_changes_nothing(made: Site) -> None:
    assert made.run()["differences"] == []
    assert made.wire.writes() == []


def test_the_least_that_is_wanted(site: Site) -> None:
    least: dict[str, Any] = {"prefix": "", "transition": {}, "expire": [], "cors_origins": [], "labels": {}}
    least |= {"noncurrent_days": 0, "versioning": False, "service_account": ""}
    site.run(**least)
    (rule,) = site.bucket["lifecycle"]["rule"]
    assert rule == {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 7}}
    assert not site.run(**least)["changed"]
    assert site.google.accounts == {}


def test_what_was_loosened_is_put_right(made: Site) -> None:
    made.bucket["iamConfiguration"] = {"uniformBucketLevelAccess": {"enabled": False}}
    made.bucket["versioning"] = {"enabled": False}
    made.bucket["lifecycle"]["rule"][1]["condition"]["daysSinceNoncurrentTime"] = 3000
    made.bucket["lifecycle"]["rule"].append(copy.deepcopy(made.bucket["lifecycle"]["rule"][0]))
    made.bucket["lifecycle"]["rule"][0]["condition"]["age"] = 300
    made.bucket["cors"] = []
    made.google.policies["example-mlflow"]["bindings"] = []
    foreseen = made.run(check_mode=True)["differences"]
    assert made.wire.writes() == []
    assert len(foreseen) == 7
    assert made.run()["differences"] == foreseen
    assert not made.run()["changed"]
    assert len(made.bucket["lifecycle"]["rule"]) == 4


def test_rules_that_are_no_longer_wanted_go(made: Site) -> None:
    changed: dict[str, Any] = {"expire": [], "cors_origins": [], "transition": {}}
    texts = made.run(**changed)["differences"]
    assert [each.partition(" and should be ")[2] for each in texts] == ["missing"] * 4
    assert len(made.bucket["lifecycle"]["rule"]) == 2
    assert made.bucket["cors"] == []
    assert made.bucket["labels"] == LABELS
    assert not made.run(**changed)["changed"]


def test_what_others_have_set_stays(site: Site) -> None:
    rules = [
        {"action": {"type": "Delete"}, "condition": {"age": 3, "matchesPrefix": ["logs/"]}},
        {"action": {"type": "Delete"}, "condition": {"age": 9, "isLive": True, "matchesPrefix": ["site-a/tmp/"]}},
        {"action": {"type": "Delete"}, "condition": {"numNewerVersions": 5}},
    ]
    cors = {"origin": ["https://example.org"], "method": ["GET"], "maxAgeSeconds": 5}
    site.google.buckets["example-mlflow"] = {
        "name": "example-mlflow",
        "location": "EUROPE-WEST3",
        "metageneration": "3",
        "lifecycle": {"rule": copy.deepcopy(rules)},
        "cors": [cors],
        "labels": {"owner": "data"},
    }
    limited = {
        "role": "roles/storage.objectUser",
        "members": [f"serviceAccount:{SERVER}"],
        "condition": {"title": "until", "expression": "request.time < timestamp('2030-01-01T00:00:00Z')"},
    }
    theirs = {"role": "roles/storage.admin", "members": ["user:admin@example.com"]}
    site.google.policies["example-mlflow"] = {"etag": "7", "version": 3, "bindings": [limited, theirs]}

    site.run()
    site.run(prefix="site-b")
    site.run(expire=[], cors_origins=[])
    assert not site.run(expire=[], cors_origins=[])["changed"], "another store in the same bucket is no reason"
    assert [rule for rule in site.bucket["lifecycle"]["rule"] if rule in rules] == rules
    assert {"age": 90, "isLive": True, "matchesPrefix": ["site-b/12/"]} in [
        rule["condition"] for rule in site.bucket["lifecycle"]["rule"]
    ]
    assert cors in site.bucket["cors"]
    assert site.bucket["labels"]["owner"] == "data"
    assert limited in site.bindings
    assert theirs in site.bindings
    assert len(site.bindings) == 3


def test_what_others_do_already_is_enough(made: Site) -> None:
    least: dict[str, Any] = {"transition": {}, "expire": []}
    made.run(**least)
    rules = made.bucket["lifecycle"]["rule"]
    for rule in rules:
        del rule["condition"]["matchesPrefix"]
    assert not made.run(**least, check_mode=True)["changed"]
    rules[1]["condition"]["daysSinceNoncurrentTime"] = 300
    assert len(made.run(**least, check_mode=True)["differences"]) == 1
    rules[0]["condition"]["matchesPrefix"] = ["site-b/"]
    assert len(made.run(**least, check_mode=True)["differences"]) == 2
    made.run(**least)
    assert len(made.bucket["lifecycle"]["rule"]) == 4


def test_a_service_account_that_exists_is_taken_by_its_address(site: Site) -> None:
    email = "other@example-2.iam.gserviceaccount.com"
    site.google.accounts[email] = {}
    site.run(service_account=email)
    assert site.bindings[0]["members"] == [f"serviceAccount:{email}"]
    assert not any("iam.googleapis.com" in call for call in site.wire.calls)


def test_a_service_account_that_was_just_made_is_waited_for(site: Site) -> None:
    site.google.unknown = 3
    site.run()
    assert len(site.bindings) == 1


def test_a_project_of_a_domain_turns_around() -> None:
    bucket = module.Bucket({"bucket": "b", "project": "example.com:project-1", "service_account": "mlflow-server"})
    assert bucket._email == "mlflow-server@project-1.example.com.iam.gserviceaccount.com"


def test_the_roles_in_the_documents_grant_what_each_use_takes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: set[str] = set()
    call = module.Bucket._call

    def recording(self: Any, permission: str, target: str, work: Any) -> Any:
        taken.add(permission)
        return call(self, permission, target, work)

    monkeypatch.setattr(module.Bucket, "_call", recording)
    site.run()
    site.bucket["versioning"] = {}
    site.run()
    assert granted("manage") == taken
    taken.clear()
    site.run(check_mode=True)
    assert granted("verify") == taken


def granted(use: str) -> set[str]:
    role = json.loads((PROJECT / "docs" / "policies" / f"gcp_artifacts_{use}.json").read_text())
    return set(role["includedPermissions"])


@pytest.mark.parametrize(
    ("method", "end", "permission"),
    [
        ("GET", "/b/example-mlflow", "storage.buckets.get"),
        ("POST", "/b", "storage.buckets.create"),
        ("PATCH", "/b/example-mlflow", "storage.buckets.update"),
        ("GET", "/iam", "storage.buckets.getIamPolicy"),
        ("PUT", "/iam", "storage.buckets.setIamPolicy"),
        ("GET", f"/serviceAccounts/{SERVER}", "iam.serviceAccounts.get"),
        ("POST", "/serviceAccounts", "iam.serviceAccounts.create"),
    ],
)
def test_a_permission_that_is_missing_is_named(site: Site, method: str, end: str, permission: str) -> None:
    if method == "PATCH":
        site.run()
        site.bucket["versioning"] = {}
    site.wire.refused[method, end] = denied(permission)
    sentence = site.refusal()
    assert sentence.startswith(f"{WHO} may not {permission} on the "), sentence
    assert sentence.endswith("grant that permission: docs/artifacts.md lists what preparing the store needs.")


@pytest.mark.parametrize(
    ("method", "end", "given", "sentence"),
    [
        (
            "POST",
            "/b",
            error(409, "not available"),
            "The name example-mlflow is taken by another project's bucket; choose",
        ),
        (
            "POST",
            "/b",
            error(400, "Invalid location."),
            "refused storage.buckets.create on the bucket example-mlflow with 400: ",
        ),
        ("GET", "/b/example-mlflow", error(401, "Invalid Credentials"), "takes no token of this identity; log in anew"),
        ("GET", "/b/example-mlflow", error(418, "no"), "Google Cloud refused storage.buckets.get on the bucket"),
        ("PUT", "/iam", error(412, "etag"), "Somebody else changes the policy of the bucket example-mlflow; run"),
        ("PUT", "/iam", error(400, "Account does not exist."), f"There is no service account {SERVER}; check"),
        (
            "PUT",
            "/iam",
            error(400, "Bad."),
            "refused storage.buckets.setIamPolicy on the bucket example-mlflow with 400",
        ),
        ("POST", "/serviceAccounts", error(404, "Unknown"), "Google Cloud knows no project example-1; check"),
        (
            "GET",
            f"/serviceAccounts/{SERVER}",
            error(403, "IAM API has not been used in project 1 before or it is disabled. Enable it."),
            "An API that iam.serviceAccounts.get belongs to is off in the project example-1; turn it on.",
        ),
        ("POST", "/token", answer({"error": "invalid_grant"}, 400), "Google refuses the credentials that are in use;"),
        (
            "GET",
            "/b/example-mlflow",
            requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED"),
            "The certificate of Google Cloud cannot be verified; name the CA bundle to trust in REQUESTS_CA_BUNDLE.",
        ),
    ],
)
def test_an_error_of_the_service_is_a_sentence(
    site: Site, monkeypatch: pytest.MonkeyPatch, method: str, end: str, given: Response | Exception, sentence: str
) -> None:
    monkeypatch.setattr(base, "ATTEMPTS", 0)
    site.wire.refused[method, end] = given
    assert sentence in site.refusal()


def test_a_service_that_gives_no_answer_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "ATTEMPTS", 0)
    site.wire.refused["GET", "/b/example-mlflow"] = error(503, "busy")
    assert re.match(r"Google Cloud keeps putting off storage.buckets.get on the bucket example-mlflow", site.refusal())
    site.wire.refused["GET", "/b/example-mlflow"] = requests.exceptions.ConnectionError("no way")
    assert "gave no answer to storage.buckets.get" in site.refusal()


def test_a_bucket_that_has_to_be_made_takes_a_location(site: Site) -> None:
    assert "is missing, and artifact_store_gcs_location is empty; it takes the location" in site.refusal(location="")


def test_a_bucket_of_another_location_is_refused(made: Site) -> None:
    assert "is in EUROPE-WEST3, where it stays; artifact_store_gcs_location is EU" in made.refusal(location="EU")


def test_two_runs_at_once_do_not_undo_each_other(made: Site) -> None:
    made.bucket["versioning"] = {}
    made.wire.refused["PATCH", "/b/example-mlflow"] = error(412, "metageneration")
    assert made.refusal() == "Somebody else changes the bucket example-mlflow; run the playbook again."


def test_missing_credentials_are_told(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    assert site.refusal().startswith("No Google credentials were found on the control node; set")
