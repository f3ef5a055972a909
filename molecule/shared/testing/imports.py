"""What the tests of imports know: how they are run, and what there is before and after."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testinfra.host import Host

from testing.deployment import Site
from testing.load import Account
from testing.playbook import Run, run_playbook

IMPORT = "playbooks/import_runs.yml"
UNIT = "mlflow-import-runs.service"
# What all three pasts call what they have.
TEAM = "team"
SENSITIVE = ("-vvv", "--diff")
# On the host, where a past is that is imported from there.
ON_HOST = "/srv/past/mlruns"
PSQL = "runuser --user postgres -- psql --no-psqlrc --tuples-only --no-align"
COUNT_ROWS = (
    "SELECT table_name, (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I.%I', table_schema, "
    "table_name), false, true, '')))[1]::text::bigint FROM information_schema.tables "
    "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE' ORDER BY 1"
)
# Until an import has brought one experiment and not all; then it stands still.
BROUGHT = "SELECT count(*) FROM import_runs.brought WHERE kind = 'run'"
STOP_IN_THE_MIDDLE = f"""
for _ in $(seq 1200); do
  brought=$({PSQL} --command "{BROUGHT}" mlflow 2>/dev/null)
  [ "${{brought:-0}}" -gt 0 ] && systemctl kill --signal=STOP {UNIT} && echo "$brought" && exit 0
  sleep 0.05
done
exit 1
"""
# All that a user of the host can see of an import, as long as it takes.
WATCH = (
    "while sleep 0.2; do grep --files-with-matches '[C]aNaRy' /proc/[0-9]*/cmdline /proc/[0-9]*/environ; "
    "runuser --user nobody -- cat /run/mlflow-import-runs/api_password; "
    "runuser --user nobody -- ls /var/lib/mlflow/imports; "
    "[ -e /run/mlflow-import-runs/result.json ] && touch /run/watched-once; "
    "done >/run/watched 2>/run/watched-errors"
)


@dataclass
class Imported:
    """An import that was done.

    Args:
        run: The run of Ansible.
        identity: The import's id.
        report: The report that was fetched.
    """

    run: Run
    identity: str
    report: dict[str, Any]


@dataclass
class CutOff:
    """An import that was cut off in the middle and started again, while clients wrote."""

    killed: Run
    brought: int
    again: Run
    account: Account
    seen: str = ""
    watched: bool = False
    upload_modes: set[str] = field(default_factory=set)


def content_of(source: Path) -> dict[str, tuple[int, str]]:
    """Return time and checksum of each file of a past, and of those beside it."""
    return {
        str(path): (path.lstat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(source.parent.rglob("*"))
        if path.is_file()
    }


def rows_of(server: Host) -> dict[str, int]:
    """Return the number of rows of each table of both databases."""
    found = {}
    for database in ("mlflow", "mlflow_auth"):
        for row in server.check_output(f'{PSQL} --command "{COUNT_ROWS}" {database}').splitlines():
            table, number = row.split("|")
            found[f"{database}.{table}"] = int(number)
    return found


def files_of(server: Host) -> set[str]:
    """Return all that is kept for artifacts and imports."""
    found = server.check_output("find /var/lib/mlflow/artifacts /var/lib/mlflow/imports -type f 2>/dev/null || true")
    return set(found.splitlines())


def done(site: Site, run: Run) -> Imported:
    """Return an import with its report."""
    assert run.returned == 0, run.output[-5000:]
    identity = run.output.split("by -e undo=")[1].split()[0].strip("'\"")
    return Imported(run, identity, json.loads((site.state / "imports" / f"{identity}.json").read_text()))


@dataclass
class Unchanged:
    """A run that was to change nothing, and what there was before and after."""

    run: Run
    before: tuple[dict[str, int], set[str]]
    after: tuple[dict[str, int], set[str]]


def without_change(server: Host, *options: str, **variables: Any) -> Unchanged:
    """Run the playbook, and look before and after."""
    before = rows_of(server), files_of(server)
    run = run_playbook(IMPORT, *options, **variables)
    return Unchanged(run, before, (rows_of(server), files_of(server)))


@dataclass
class Undone:
    """An import that was undone, twice, and what there was before it and after each."""

    imported: Imported
    rows: list[dict[str, int]]
    files: list[set[str]]
    runs: list[Run]


def on_host(**variables: str) -> dict[str, str]:
    """Return the variables for an import from the host."""
    return {"source": ON_HOST, "import_runs_source_on_host": "true", **variables}
