"""The permissions that docs/policies grants are those that each use of a store takes: no more, and no less.

Of KMS nothing is known here, for the cloud that the tests use does not play it.
"""

import json
from typing import Any

import pytest

from tests.project import PROJECT
from tests.stores import NAMES, InCloud, KeyVault, Ssm

POLICIES = PROJECT / "docs" / "policies"
# What the role does in each use, in its order.
USES = {
    "read": ("look", "read", "unlock"),
    "create": ("lock", "read", "create", "unlock"),
    "rotate": ("lock", "read", "pend", "promote", "pend", "discard", "unlock"),
}


def granted(store: InCloud, use: str) -> set[str]:
    """Return the actions that a policy grants."""
    if isinstance(store, KeyVault):
        role = json.loads((POLICIES / f"azure_{use}.json").read_text())
        assert role["Actions"] == role["NotActions"] == role["NotDataActions"] == []
        return set(role["DataActions"])
    (secrets, key) = json.loads((POLICIES / f"aws_{use}.json").read_text())["Statement"]
    assert secrets["Resource"].endswith(":parameter/mlflow/production/*")
    assert all(action.startswith("kms:") for action in key["Action"])
    return set(secrets["Action"])


@pytest.fixture(params=["aws_ssm", "azure_key_vault"])
def store(request: pytest.FixtureRequest) -> InCloud:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, InCloud)
    return found


@pytest.mark.parametrize("use", USES)
def test_a_policy_grants_what_its_use_takes(store: InCloud, use: str) -> None:
    if use != "create":
        store.done("create", NAMES)
    store.cloud.forget_calls()
    for operation in USES[use]:
        store.done(operation, NAMES, history=operation == "read")
    # The first request of a client to a vault is refused, since it bears no token yet.
    taken = {call["operation"] for call in store.cloud.calls(store.service) if call["status"] != 401}
    assert taken == granted(store, use)


@pytest.mark.parametrize("use", USES)
def test_a_policy_of_aws_lets_kms_do_what_is_needed(use: str) -> None:
    """Source: https://docs.aws.amazon.com/kms/latest/developerguide/services-parameter-store.html, standard tier."""
    statement: dict[str, Any] = json.loads((POLICIES / f"aws_{use}.json").read_text())["Statement"][1]
    assert set(statement["Action"]) == ({"kms:Decrypt"} if use == "read" else {"kms:Decrypt", "kms:Encrypt"})
    assert statement["Condition"] == {"StringEquals": {"kms:ViaService": "ssm.REGION.amazonaws.com"}}


def test_every_policy_is_tried() -> None:
    tried = {f"{cloud}_{use}.json" for cloud in ("aws", "azure") for use in USES}
    assert {path.name for path in POLICIES.iterdir() if "artifacts" not in path.name} == tried


def test_the_uses_are_told_apart(aws_ssm: Ssm) -> None:
    assert granted(aws_ssm, "read") < granted(aws_ssm, "create") < granted(aws_ssm, "rotate")
