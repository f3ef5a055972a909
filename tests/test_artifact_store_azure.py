"""A container is made, put right and looked at by the real SDK, against a small resource manager in the test's process.

What it answers is as https://learn.microsoft.com/rest/api/storagerp and https://learn.microsoft.com/rest/api/authorization
say; the service itself was not asked.
"""

from __future__ import annotations

import copy
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests
from werkzeug.wrappers import Request, Response

from plugins.module_utils import artifact_store as base
from testing.cloud.entra import Entra
from tests.artifacts import load_module
from tests.project import PROJECT
from tests.wire import Wire, lay

module = load_module("azure")

SUBSCRIPTION = "11111111-1111-1111-1111-111111111111"
PRINCIPAL = "22222222-2222-2222-2222-222222222222"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/mlflow"
ACCOUNT = f"{GROUP}/providers/Microsoft.Storage/storageAccounts/examplemlflow"
CONTAINER = f"{ACCOUNT}/blobServices/default/containers/artifacts"
SERVICE = f"{ACCOUNT}/blobServices/default"
POLICY = f"{ACCOUNT}/managementPolicies/default"
ASSIGNMENTS = "/providers/Microsoft.Authorization/roleAssignments"
ROLE = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Authorization/roleDefinitions/"
WHO = "operator@example.com"
TAGS = {"Project": "mlflow"}


def answer(body: Any, status: int = 200, **headers: str) -> Response:
    return Response(json.dumps(body), status, headers, content_type="application/json")


def error(status: int, code: str, text: str = "It is so.") -> Response:
    return answer({"error": {"code": code, "message": text}}, status)


def denied(action: str) -> Response:
    text = f"The client '{WHO}' with object id '3' does not have authorization to perform action '{action}' over scope"
    return error(403, "AuthorizationFailed", f"{text} '{ACCOUNT}' or the scope is invalid.")


@dataclass
class Manager:
    """A resource manager with one resource group."""

    resources: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        assert request.headers["Authorization"].startswith("Bearer ")
        path = request.path
        if "/operations/" in path:
            return answer(self.resources[ACCOUNT])
        if ASSIGNMENTS in path:
            return self._assignments(path, request)
        if not path.startswith(f"{GROUP}/"):
            return error(404, "ResourceGroupNotFound", f"Resource group '{path.split('/')[4]}' could not be found.")
        if path != ACCOUNT and ACCOUNT not in self.resources:
            return error(404, "ResourceNotFound")
        if request.method == "PUT":
            return self._put(path, request.get_json())
        if path not in self.resources:
            code = {POLICY: "ManagementPolicyNotFound", CONTAINER: "ContainerNotFound"}.get(path, "ResourceNotFound")
            return error(404, code)
        if request.method == "DELETE":
            del self.resources[path]
            return Response(status=200)
        if request.method == "PATCH":
            body = request.get_json()
            self.resources[path]["properties"] |= body["properties"]
            self.resources[path] |= {key: body[key] for key in body if key != "properties"}
        return answer(self.resources[path])

    def _put(self, path: str, body: dict[str, Any]) -> Response:
        self.resources[path] = {"id": path, "name": path.rpartition("/")[2], **copy.deepcopy(body)}
        if path == ACCOUNT:
            # The defaults of https://learn.microsoft.com/rest/api/storagerp/storage-accounts/create
            properties = {"minimumTlsVersion": "TLS1_0", "supportsHttpsTrafficOnly": True, **body["properties"]}
            self.resources[path]["properties"] = properties
            self.resources[SERVICE] = {"id": SERVICE, "name": "default", "properties": {"cors": {"corsRules": []}}}
            where = f"https://management.azure.com/subscriptions/{SUBSCRIPTION}/operations/1?api-version=1"
            return answer({}, 202, Location=where, **{"Retry-After": "0"})
        if path == POLICY:
            # It says what is not set as well, and its numbers have a fraction.
            for rule in self.resources[path]["properties"]["policy"]["rules"]:
                rule["definition"]["actions"].setdefault("snapshot", None)
            self.resources[path] = json.loads(
                re.sub(r"(GreaterThan\": \d+)(?![\d.])", r"\1.0", json.dumps(self.resources[path]))
            )
        return answer(self.resources[path], 201 if path == CONTAINER else 200)

    def _assignments(self, path: str, request: Request) -> Response:
        scope, _, name = path.partition(ASSIGNMENTS)
        if request.method == "PUT":
            wanted = request.get_json()["properties"]
            for other in self.assignments():
                same = (other["principalId"], other["roleDefinitionId"]) == (
                    wanted["principalId"],
                    wanted["roleDefinitionId"],
                )
                if same and other["scope"] == scope:
                    return error(409, "RoleAssignmentExists")
            self.resources[path] = {"id": path, "name": name[1:], "properties": {**wanted, "scope": scope}}
            return answer(self.resources[path], 201)
        asked = re.fullmatch(r"principalId eq '(.+)'", request.args["$filter"])
        assert asked
        # Those at, above and below the scope, as this filter means it.
        found = [
            resource
            for other, resource in self.resources.items()
            if ASSIGNMENTS in other and resource["properties"]["principalId"] == asked[1]
        ]
        return answer({"value": found})

    def assignments(self) -> list[dict[str, Any]]:
        """Return who has which role where."""
        return [resource["properties"] for path, resource in self.resources.items() if ASSIGNMENTS in path]


@dataclass
class Site:
    """A container, and all that is wanted of it."""

    manager: Manager
    wire: Wire
    given: dict[str, Any]

    def properties(self, path: str) -> dict[str, Any]:
        """Return what the service has of a resource."""
        found: dict[str, Any] = self.manager.resources[path]["properties"]
        return found

    @property
    def rules(self) -> list[dict[str, Any]]:
        """The lifecycle rules."""
        found: list[dict[str, Any]] = self.properties(POLICY)["policy"]["rules"]
        return found

    def run(self, *, check_mode: bool = False, **changed: Any) -> dict[str, Any]:
        """Run the module, with some options changed."""
        self.wire.calls.clear()
        return base.settle(module.Container({**self.given, **changed}), check_mode=check_mode)

    def refusal(self, **changed: Any) -> str:
        """Run the module, and return why it refuses."""
        with pytest.raises(base.Refused) as refused:
            self.run(**changed)
        sentence = str(refused.value)
        assert sentence.endswith(".")
        assert "\n" not in sentence
        return sentence


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    entra, manager = Entra(), Manager()
    wire = Wire(
        {
            "login.microsoftonline.com": lambda request: entra.answer(request, entra.operation(request)),
            "management.azure.com": manager,
        }
    )
    lay(wire, monkeypatch)
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_TENANT_ID", entra.tenant)
    monkeypatch.setenv("AZURE_CLIENT_ID", entra.client)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", entra.client_secret)
    monkeypatch.setattr(module, "POLL_SECONDS", 0)
    monkeypatch.setattr(base, "ATTEMPTS", 1)
    given = {
        "account": "examplemlflow",
        "container": "artifacts",
        "prefix": "site-a",
        "subscription": SUBSCRIPTION,
        "resource_group": "mlflow",
        "location": "westeurope",
        "sku": "Standard_ZRS",
        "versioning": True,
        "soft_delete_days": 14,
        "noncurrent_days": 30,
        "transition": {"days": 60, "class": "Cool"},
        "expire": [{"prefix": "12/", "days": 90}],
        "cors_origins": ["https://mlflow.example.com"],
        "tags": TAGS,
        "principal": PRINCIPAL,
        "delegation": True,
    }
    return Site(manager, wire, given)


@pytest.fixture
def made(site: Site) -> Site:
    assert site.run()["changed"]
    return site


def test_check_mode_says_what_is_missing_and_makes_nothing(site: Site) -> None:
    text = "; ".join(site.run(check_mode=True)["differences"])
    assert site.wire.writes() == []
    assert site.manager.resources == {}
    for part in (
        'the storage account examplemlflow is missing and should be {"location": "westeurope", "sku": "Standard_ZRS"}',
        'the least version of TLS is missing and should be "TLS1_2"',
        "public access to blobs is missing and should be false",
        "versioning is false and should be true",
        'soft delete of containers is missing and should be {"days": 14, "enabled": true}',
        'the container artifacts is missing and should be {"public access": "None"}',
        "the lifecycle rule mlflow-artifacts-",
        'the tag Project is missing and should be "mlflow"',
        f'{PRINCIPAL} on the container artifacts is missing and should be "Storage Blob Data Contributor"',
        f'{PRINCIPAL} on the storage account examplemlflow is missing and should be "Storage Blob Delegator"',
    ):
        assert part in text


def test_a_container_is_made_whole(made: Site) -> None:
    account = made.manager.resources[ACCOUNT]
    assert account["sku"] == {"name": "Standard_ZRS"}
    assert account["kind"] == "StorageV2"
    assert account["tags"] == TAGS
    assert account["properties"] == {
        "allowBlobPublicAccess": False,
        "minimumTlsVersion": "TLS1_2",
        "supportsHttpsTrafficOnly": True,
    }
    service = made.properties(SERVICE)
    assert service["isVersioningEnabled"] is True
    assert (
        service["deleteRetentionPolicy"] == service["containerDeleteRetentionPolicy"] == {"enabled": True, "days": 14}
    )
    assert service["cors"]["corsRules"][0]["allowedOrigins"] == ["https://mlflow.example.com"]
    assert made.properties(CONTAINER) == {"publicAccess": "None"}
    main, expire = made.rules
    assert main["definition"]["filters"] == {"blobTypes": ["blockBlob"], "prefixMatch": ["artifacts/site-a/"]}
    assert main["definition"]["actions"] == {
        "baseBlob": {"tierToCool": {"daysAfterModificationGreaterThan": 60}},
        "version": {"delete": {"daysAfterCreationGreaterThan": 30}},
        "snapshot": None,
    }
    assert expire["definition"]["filters"]["prefixMatch"] == ["artifacts/site-a/12/"]
    assert expire["definition"]["actions"]["baseBlob"] == {"delete": {"daysAfterModificationGreaterThan": 90}}
    roles = {(each["scope"], each["roleDefinitionId"].removeprefix(ROLE)) for each in made.manager.assignments()}
    assert roles == {(CONTAINER, module.CONTRIBUTOR[1]), (ACCOUNT, module.DELEGATOR[1])}


def test_a_second_run_changes_nothing(made: Site) -> None:
    assert made.run()["differences"] == []
    assert made.wire.writes() == []


def test_the_least_that_is_wanted(site: Site) -> None:
    least: dict[str, Any] = {"prefix": "", "transition": {}, "expire": [], "cors_origins": [], "tags": {}}
    least |= {"noncurrent_days": 0, "versioning": False, "principal": "", "delegation": False}
    site.run(**least)
    assert POLICY not in site.manager.resources
    assert site.manager.assignments() == []
    assert not site.run(**least)["changed"]


def test_what_was_loosened_is_put_right(made: Site) -> None:
    made.properties(ACCOUNT).update(
        allowBlobPublicAccess=True, minimumTlsVersion="TLS1_1", supportsHttpsTrafficOnly=False
    )
    made.properties(SERVICE).update(isVersioningEnabled=False, deleteRetentionPolicy={"enabled": False})
    made.properties(SERVICE)["containerDeleteRetentionPolicy"]["days"] = 1
    made.properties(CONTAINER)["publicAccess"] = "Blob"
    made.rules[0]["enabled"] = False
    del made.rules[1]
    for path in [path for path in made.manager.resources if ASSIGNMENTS in path]:
        del made.manager.resources[path]
    foreseen = made.run(check_mode=True)["differences"]
    assert made.wire.writes() == []
    assert len(foreseen) == 3 + 3 + 1 + 2 + 2
    assert 'public access to the container artifacts is "Blob" and should be "None"' in foreseen
    assert made.run()["differences"] == foreseen
    assert not made.run()["changed"]


def test_what_is_stricter_stays(made: Site) -> None:
    made.properties(ACCOUNT)["minimumTlsVersion"] = "TLS1_3"
    made.manager.resources[ACCOUNT]["tags"] = {}
    made.run()
    assert made.properties(ACCOUNT)["minimumTlsVersion"] == "TLS1_3"


def test_rules_that_are_no_longer_wanted_go(made: Site) -> None:
    changed: dict[str, Any] = {"expire": [], "cors_origins": []}
    texts = made.run(**changed)["differences"]
    assert [each.partition(" and should be ")[2] for each in texts] == ["missing", "missing"]
    assert len(made.rules) == 1
    assert made.properties(SERVICE)["cors"] == {"corsRules": []}
    made.run(**changed, noncurrent_days=0, transition={})
    assert POLICY not in made.manager.resources


def test_what_others_have_set_stays(made: Site) -> None:
    theirs = {
        "name": "logs",
        "enabled": True,
        "type": "Lifecycle",
        "definition": {
            "actions": {"baseBlob": {"delete": {"daysAfterModificationGreaterThan": 3.0}}, "snapshot": None},
            "filters": {"blobTypes": ["appendBlob"]},
        },
    }
    cors = {
        "allowedOrigins": ["*"],
        "allowedMethods": ["GET"],
        "allowedHeaders": [],
        "exposedHeaders": [],
        "maxAgeInSeconds": 1,
    }
    made.rules.insert(0, copy.deepcopy(theirs))
    made.properties(SERVICE)["cors"]["corsRules"].append(cors)
    made.properties(SERVICE)["changeFeed"] = {"enabled": True}
    made.manager.resources[ACCOUNT]["tags"]["Owner"] = "data"
    made.manager.resources[ACCOUNT]["tags"].pop("Project")
    made.run(prefix="site-b")
    made.run(expire=[], cors_origins=[], soft_delete_days=7)
    assert not made.run(expire=[], cors_origins=[], soft_delete_days=7)["changed"], "another store is no reason"
    assert theirs in made.rules
    assert len(made.rules) == 1 + 2 + 1
    assert made.properties(SERVICE)["cors"]["corsRules"] == [cors]
    assert made.properties(SERVICE)["changeFeed"] == {"enabled": True}
    assert made.manager.resources[ACCOUNT]["tags"] == {"Owner": "data", **TAGS}


def test_what_others_do_already_is_enough(made: Site) -> None:
    main, expire = made.rules
    main |= {"name": "theirs"}
    main["definition"]["filters"] = {"blobTypes": ["blockBlob", "appendBlob"]}
    expire |= {"name": "theirs too"}
    assert not made.run(check_mode=True)["changed"]
    main["definition"]["filters"]["blobTypes"] = ["appendBlob"]
    assert len(made.run(check_mode=True)["differences"]) == 1
    main["definition"]["filters"] = {"blobTypes": ["blockBlob"], "prefixMatch": ["other/"]}
    expire["enabled"] = False
    assert len(made.run(check_mode=True)["differences"]) == 2
    main |= {
        "definition": {**main["definition"], "filters": {"blobTypes": ["blockBlob"], "prefixMatch": ["artifacts/"]}}
    }
    main["definition"]["actions"]["version"]["delete"]["daysAfterCreationGreaterThan"] = 3000
    assert len(made.run(check_mode=True)["differences"]) == 2


def test_a_role_on_what_is_around_is_enough(made: Site) -> None:
    for path in [path for path in made.manager.resources if ASSIGNMENTS in path]:
        del made.manager.resources[path]

    def assign(scope: str, **properties: Any) -> None:
        made.manager.resources[f"{scope}{ASSIGNMENTS}/{len(made.manager.resources)}"] = {
            "properties": {"principalId": PRINCIPAL, "scope": scope, **properties}
        }

    assign(GROUP, roleDefinitionId=f"{ROLE}{module.CONTRIBUTOR[1]}")
    assert len(made.run(check_mode=True)["differences"]) == 1
    assign(f"{ACCOUNT}", roleDefinitionId=f"{ROLE}{module.DELEGATOR[1]}", condition="@Resource", conditionVersion="2.0")
    assert len(made.run(check_mode=True)["differences"]) == 1, "a role with a condition does not always count"
    assign(f"{ACCOUNT}x", roleDefinitionId=f"{ROLE}{module.DELEGATOR[1]}")
    assert len(made.run(check_mode=True)["differences"]) == 1, "nor does one on something else"
    assign(ACCOUNT, roleDefinitionId=f"{ROLE}{module.DELEGATOR[1]}")
    assert not made.run(check_mode=True)["changed"]


def test_the_roles_in_the_documents_grant_what_each_use_takes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: set[str] = set()
    call = module.Container._call

    def recording(self: Any, action: str, target: str, work: Any) -> Any:
        taken.add(action)
        return call(self, action, target, work)

    monkeypatch.setattr(module.Container, "_call", recording)
    site.run()
    least: dict[str, Any] = {"expire": [], "transition": {}, "noncurrent_days": 0}
    site.run(**least)
    assert granted("manage") == taken
    taken.clear()
    site.run(**least, check_mode=True)
    assert granted("verify") == taken


def granted(use: str) -> set[str]:
    role = json.loads((PROJECT / "docs" / "policies" / f"azure_artifacts_{use}.json").read_text())
    assert role["NotActions"] == role["DataActions"] == role["NotDataActions"] == []
    return set(role["Actions"])


@pytest.mark.parametrize(
    ("method", "end", "action"),
    [
        ("GET", "/examplemlflow", "Microsoft.Storage/storageAccounts/read"),
        ("PUT", "/examplemlflow", "Microsoft.Storage/storageAccounts/write"),
        ("GET", "/blobServices/default", "Microsoft.Storage/storageAccounts/blobServices/read"),
        ("PUT", "/blobServices/default", "Microsoft.Storage/storageAccounts/blobServices/write"),
        ("GET", "/containers/artifacts", "Microsoft.Storage/storageAccounts/blobServices/containers/read"),
        ("PUT", "/containers/artifacts", "Microsoft.Storage/storageAccounts/blobServices/containers/write"),
        ("GET", "/managementPolicies/default", "Microsoft.Storage/storageAccounts/managementPolicies/read"),
        ("PUT", "/managementPolicies/default", "Microsoft.Storage/storageAccounts/managementPolicies/write"),
        ("GET", ASSIGNMENTS, "Microsoft.Authorization/roleAssignments/read"),
        ("PUT", "", "Microsoft.Authorization/roleAssignments/write"),
    ],
)
def test_a_permission_that_is_missing_is_named(site: Site, method: str, end: str, action: str) -> None:
    if not end:
        site.run(principal="", delegation=False)
    site.wire.refused[method, end] = denied(action)
    sentence = site.refusal()
    assert sentence.startswith(f"{WHO} may not {action} on the "), sentence
    assert sentence.endswith("grant that action: docs/artifacts.md lists what preparing the store needs.")


@pytest.mark.parametrize(
    ("method", "end", "given", "sentence"),
    [
        (
            "GET",
            "/examplemlflow",
            error(404, "SubscriptionNotFound"),
            f"There is no subscription {SUBSCRIPTION} for this",
        ),
        ("GET", "/examplemlflow", error(401, "InvalidAuthenticationTokenTenant"), "are of one tenant."),
        (
            "GET",
            "/examplemlflow",
            error(429, "TooManyRequests"),
            "Azure keeps putting off Microsoft.Storage/storageAccounts",
        ),
        (
            "PUT",
            "/examplemlflow",
            error(409, "StorageAccountAlreadyTaken"),
            "The name examplemlflow is taken by somebody",
        ),
        (
            "PUT",
            "/examplemlflow",
            error(409, "MissingSubscriptionRegistration"),
            "does not use storage yet; run `az provider",
        ),
        (
            "PUT",
            "/examplemlflow",
            error(400, "LocationNotAvailableForResourceType"),
            "Azure has no storage accounts in west",
        ),
        ("PUT", "/blobServices/default", error(400, "Strange"), "with Strange: It is so."),
        (
            "GET",
            "/examplemlflow",
            requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED"),
            "The certificate of Azure cannot be verified; name the CA bundle to trust in REQUESTS_CA_BUNDLE.",
        ),
        (
            "GET",
            "/examplemlflow",
            requests.exceptions.ConnectionError("no"),
            "Azure gave no answer to Microsoft.Storage/",
        ),
        (
            "POST",
            "/token",
            answer({"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret."}, 401),
            "AZURE_CLIENT_SECRET is not a secret of the application in AZURE_CLIENT_ID (AADSTS7000215).",
        ),
    ],
)
def test_an_error_of_the_service_is_a_sentence(
    site: Site, method: str, end: str, given: Response | Exception, sentence: str
) -> None:
    site.wire.refused[method, end] = given
    assert sentence in site.refusal()


def test_a_principal_that_nobody_knows_is_told(made: Site) -> None:
    for path in [path for path in made.manager.resources if ASSIGNMENTS in path]:
        del made.manager.resources[path]
    made.wire.refused["PUT", ""] = error(400, "PrincipalNotFound")
    assert "artifact_store_azure_principal takes its object id, not its client id." in made.refusal()


def test_a_resource_group_that_is_missing_is_told(site: Site) -> None:
    assert site.refusal(resource_group="other").startswith("There is no resource group other in the subscription")


def test_an_account_that_has_to_be_made_takes_a_location(site: Site) -> None:
    assert "is missing, and artifact_store_azure_location is empty; it takes the location" in site.refusal(location="")


def test_an_account_of_another_location_is_refused(made: Site) -> None:
    assert "is in westeurope, where it stays; artifact_store_azure_location is northeurope" in made.refusal(
        location="northeurope"
    )


def test_missing_credentials_are_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name)
    # Without the programs of Azure and with no metadata service.
    monkeypatch.setenv("PATH", "/nonexistent")
    assert site.refusal().startswith("No Azure credentials were found on the control node; set AZURE_TENANT_ID,")
