"""What the site makes of its inventory."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.project import PROJECT

HOSTS = [f"server-{number}" for number in range(1, 6)]
INVENTORY = {
    "all": {
        "children": {
            "mlflow_database": {"hosts": {HOSTS[0]: {}}},
            "mlflow_server": {"hosts": dict.fromkeys(HOSTS)},
            "mlflow_proxy": {"hosts": dict.fromkeys(HOSTS)},
        }
    }
}


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """A site of five hosts, one of which has the database as well."""
    (tmp_path / "hosts.json").write_text(json.dumps(INVENTORY), encoding="utf-8")
    (tmp_path / "group_vars").symlink_to(PROJECT / "group_vars")
    return tmp_path / "hosts.json"


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_database_lets_in_the_other_servers_in_the_order_of_the_inventory(inventory: Path, seed: str) -> None:
    """Another order in each run would be a change of pg_hba.conf and of the firewall in each run.

    Python's sets have an order that the seed decides.
    """
    command = ["ansible", "--inventory", str(inventory), HOSTS[0], "--module-name", "ansible.builtin.debug"]
    command += ["--args", "msg={{ postgresql_client_addresses }}", "--one-line"]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
        "PYTHONHASHSEED": seed,
        "NO_COLOR": "1",
    }
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert json.loads(said[said.index("{") :])["msg"] == [f"{host}/32" for host in HOSTS[1:]]
