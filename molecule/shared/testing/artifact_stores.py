"""The stores that artifacts are kept in: what a site that uses one is told."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testing.cloud import Cloud
from testing.cloud.client import REGION, RESOURCE_GROUP, SUBSCRIPTION
from testing.cloud.google import PROJECT
from testing.deployment import Site
from testing.load import Account
from testing.playbook import Run, run_playbook
from testing.sampling import IS_EXHAUSTIVE
from testing.stores import Generated

# The stores, in the order in which a site goes over to them.
STORES = ["s3", "azure", "gcs"]
# What is not about a store's own library is looked at with the first, unless a longer test is asked for.
FIRST = STORES[:1]
# The store of which the move is killed half-way, and started again.
CUT_OFF = STORES[1]
FIRST_OR_ALL = STORES if os.environ.get("ARTIFACT_STORES") == "all" or IS_EXHAUSTIVE else FIRST


@dataclass(frozen=True)
class ArtifactStore:
    """A store, and how a site gets to use it.

    Args:
        address: Its address, as MLflow takes it.
        service: What the cloud calls it when something is to go wrong there.
        login: What the cloud calls the credentials of a client that goes there by itself.
        secrets: What the server logs in with.
        variables: Further variables of the site.
    """

    address: str
    service: str = ""
    login: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, cloud: Cloud) -> dict[str, Any]:
        """Return the variables of a site that keeps its artifacts here."""
        # The role that trusts it goes by the name.
        authority = cloud.directory / "cloud-ca.crt"
        authority.write_bytes((cloud.directory / "ca.pem").read_bytes())
        authorities = sorted(str(path) for path in Path("/usr/local/share/ca-certificates").glob("*.crt"))
        return {
            "site_artifact_store": self.address,
            "site_artifact_login": "key" if self.secrets else "identity",
            "site_ca_certificates": [*authorities, str(authority)],
            **self.variables,
        }

    def deploy(
        self, site: Site, cloud: Cloud, playbook: str = "playbooks/site.yml", *options: str, **variables: str
    ) -> Run:
        """Bring the secrets and run a playbook, which need not succeed."""
        Generated(site).write(self.secrets)
        return run_playbook(playbook, *options, **self.settings(cloud), **variables)


@dataclass(frozen=True)
class Move:
    """How the site went over to a store.

    Args:
        store: The store.
        runs: Address and content of artifacts that were logged before.
        account: What clients logged meanwhile.
        done: The move.
        removed: Address of artifacts that clients removed after a move was killed that had switched.
        refused: The deployment that would have left artifacts behind.
        shown: The move in check mode.
        again: The move once more.
    """

    store: ArtifactStore
    runs: dict[str, bytes]
    account: Account
    done: Run
    removed: list[str]
    refused: Run | None = None
    shown: Run | None = None
    again: Run | None = None


def log_runs(site: Site, number: int) -> dict[str, bytes]:
    """Log runs with an artifact each.

    Returns:
        Content by address.
    """
    logged: dict[str, bytes] = {}
    with site.session() as session:
        api = f"{site.url}/api/2.0"
        name = f"moved-{uuid.uuid4().hex}"
        made = session.post(f"{api}/mlflow/experiments/create", json={"name": name}, timeout=60)
        made.raise_for_status()
        experiment = made.json()["experiment_id"]
        for _ in range(number):
            run = session.post(f"{api}/mlflow/runs/create", json={"experiment_id": experiment}, timeout=60)
            run.raise_for_status()
            folder = f"{experiment}/{run.json()['run']['info']['run_id']}/artifacts/größe 1"
            address, content = f"{api}/mlflow-artifacts/artifacts/{folder}/weights.bin", os.urandom(1000)
            session.put(address, data=content, timeout=60).raise_for_status()
            logged[address] = content
    return logged


def artifact_store(name: str, cloud: Cloud) -> ArtifactStore:
    """Return a store by name: s3, azure or gcs."""
    given = {variable: value for variables in cloud.storage.values() for variable, value in variables.items()}
    if name == "s3":
        keys = {"artifact_key_id": given["AWS_ACCESS_KEY_ID"], "artifact_key": given["AWS_SECRET_ACCESS_KEY"]}
        return ArtifactStore("s3://mlflow-artifacts-test/site", "s3", "s3", keys, {"site_artifact_region": REGION})
    if name == "azure":
        address = "wasbs://artifacts@mlflowtest.blob.core.windows.net/site"
        account = {"subscription": SUBSCRIPTION, "resource_group": RESOURCE_GROUP, "location": "westeurope"}
        variables = {f"artifact_store_azure_{option}": value for option, value in account.items()}
        return ArtifactStore(
            address, "blob", "azure_key", {"artifact_key": given["AZURE_STORAGE_ACCESS_KEY"]}, variables
        )
    key = base64.b64encode(Path(given["GOOGLE_APPLICATION_CREDENTIALS"]).read_bytes()).decode()
    variables = {"artifact_store_gcs_project": PROJECT, "artifact_store_gcs_location": "europe-west3"}
    return ArtifactStore("gs://mlflow-artifacts-test/site", "gcs", "gcs", {"artifact_key": key}, variables)
