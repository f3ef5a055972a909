"""The course of several imports, each of which is done once and looked at by many tests."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from testinfra.host import Host

from testing.deployment import Login, Site
from testing.imports import (
    IMPORT,
    SENSITIVE,
    STOP_IN_THE_MIDDLE,
    TEAM,
    UNIT,
    WATCH,
    CutOff,
    Imported,
    Unchanged,
    Undone,
    content_of,
    done,
    files_of,
    on_host,
    rows_of,
    without_change,
)
from testing.load import load
from testing.past import make
from testing.playbook import run_playbook, start_playbook


@pytest.fixture(scope="session")
def site() -> Site:
    """Return the deployed site."""
    return Site.from_environment()


@pytest.fixture(scope="session")
def server(site: Site) -> Host:
    """Return its host, also to fixtures that live longer than a test."""
    return site.connection()


@pytest.fixture(scope="session", autouse=True)
def client_environment(site: Site) -> Iterator[None]:
    """Set what a data scientist sets for MLflow's own client, and let it read a directory mlruns/."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_TRACKING_USERNAME", site.admin[0])
        patch.setenv("MLFLOW_TRACKING_PASSWORD", site.admin[1])
        patch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(site.ca_file))
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        yield


@pytest.fixture(scope="session")
def pasts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return three pasts of one team, which call what they have alike: two directories mlruns/ and a database."""
    directory = tmp_path_factory.mktemp("pasts")
    with ThreadPoolExecutor() as pool:
        made = {
            "tree": pool.submit(make, directory / "tree", "file", TEAM, "--long"),
            "database": pool.submit(make, directory / "database", "sqlite", TEAM),
            "broken": pool.submit(make, directory / "broken", "file", TEAM),
        }
    return {name: each.result() for name, each in made.items()}


@pytest.fixture(scope="session")
def contents(pasts: dict[str, Path], broken: dict[str, str]) -> dict[str, dict[str, tuple[int, str]]]:
    """Return what the pasts are before anything is done with them."""
    del broken
    return {name: content_of(source) for name, source in pasts.items()}


@pytest.fixture(scope="session")
def shown(server: Host, pasts: dict[str, Path], contents: object) -> Unchanged:
    """Return a dry run on a server that has had no import."""
    del contents
    return without_change(server, "--check", *SENSITIVE, source=str(pasts["tree"]))


@pytest.fixture(scope="session")
def cut_off(site: Site, server: Host, pasts: dict[str, Path], shown: Unchanged) -> CutOff:
    """Kill an import and what runs it in the middle, and start it again; clients write meanwhile."""
    del shown
    # As an operator names it, below where the command is given.
    source = os.path.relpath(pasts["tree"], Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]))
    server.run_test(f'systemd-run --quiet --collect --unit=watch sh -c "{WATCH}"')
    with load(site, "import") as account:
        started = start_playbook(site.state / "cut-off.log", IMPORT, *SENSITIVE, source=source)
        halted = server.run(STOP_IN_THE_MIDDLE)
        started.kill()
        killed = started.finish()
        assert halted.rc == 0, killed.output[-5000:]
        server.run_test(f"systemctl kill --signal=KILL {UNIT}")
        modes = set(server.check_output("find /var/lib/mlflow/imports ! -type l -printf '%U:%m\\n'").split())
        again = run_playbook(IMPORT, *SENSITIVE, source=source)
    server.run_test("systemctl stop watch")
    seen = server.check_output("cat /run/watched")
    watched = server.file("/run/watched-once").exists
    return CutOff(killed, int(halted.stdout), again, account, seen, watched, modes)


@pytest.fixture(scope="session")
def imported(site: Site, cut_off: CutOff) -> Imported:
    """Return the import of the directory."""
    return done(site, cut_off.again)


@pytest.fixture(scope="session")
def repeated(server: Host, pasts: dict[str, Path], imported: Imported) -> Unchanged:
    """Return the same import once more."""
    del imported
    return without_change(server, source=str(pasts["tree"]))


@pytest.fixture(scope="session")
def changed(site: Site, server: Host, pasts: dict[str, Path], repeated: Unchanged) -> Unchanged:
    """Return the same import once more, when a client has used what was imported in a way that changes it."""
    del repeated
    mlflow.set_tracking_uri(site.url)
    mlflow.set_registry_uri(site.url)
    assert mlflow.genai.load_prompt(f"prompts:/{TEAM}-prompt/1").format(word="yes") == "Say yes politely."
    mlflow.MlflowClient().set_registered_model_tag(f"{TEAM}-doubler", "owner", "somebody else")
    return without_change(server, source=str(pasts["tree"]))


@pytest.fixture(scope="session")
def refused(server: Host, pasts: dict[str, Path], changed: Unchanged) -> Unchanged:
    """Return an import of what has the names of what is there."""
    del changed
    return without_change(server, source=str(pasts["database"]))


@pytest.fixture(scope="session")
def owner(site: Site) -> Login:
    """Return a user to whom nothing was granted."""
    login = f"owner-{time.time_ns()}", secrets.token_urlsafe()
    with site.session() as session:
        body = {"username": login[0], "password": login[1]}
        session.post(f"{site.url}/api/2.0/mlflow/users/create", json=body, timeout=60).raise_for_status()
    return login


@pytest.fixture(scope="session")
def renamed(site: Site, pasts: dict[str, Path], refused: Unchanged, owner: Login) -> Imported:
    """Return the import of the database under other names, for a user."""
    del refused
    return done(site, run_playbook(IMPORT, source=str(pasts["database"]), on_conflict="rename", owner=owner[0]))


@pytest.fixture(scope="session")
def broken(pasts: dict[str, Path]) -> dict[str, str]:
    """Break a past: an entry that was cut off, one that is none, and one that leads elsewhere. Return where."""
    runs = sorted(
        path.parent for path in pasts["broken"].glob("*/*/meta.yaml") if (path.parent / "metrics/loss").exists()
    )
    (runs[0] / "meta.yaml").write_text((runs[0] / "meta.yaml").read_text()[:20])
    (runs[1] / "metrics" / "loss").write_text("1700000000000 oops 0\n")
    (runs[2] / "artifacts" / "secrets.txt").symlink_to("/etc/hostname")
    return {
        kind: str(run.relative_to(pasts["broken"])) for kind, run in zip(("meta", "metric", "link"), runs, strict=False)
    }


@pytest.fixture(scope="session")
def stopped(server: Host, pasts: dict[str, Path], renamed: Imported, broken: dict[str, str]) -> Unchanged:
    """Return the import of a broken past, which is there on the host."""
    del renamed, broken
    server.run_test("mkdir --parents /srv/past")
    subprocess.run(
        ["podman", "cp", str(pasts["broken"]), f"{os.environ['SITE_HOST']}:/srv/past/"], check=True, capture_output=True
    )
    server.run_test("chmod --recursive u=rwX,go=rX /srv/past")
    return without_change(server, "--check", **on_host(on_conflict="merge"))


@pytest.fixture(scope="session")
def merged(site: Site, server: Host, stopped: Unchanged) -> Imported:
    """Return the import of the broken past into the experiments that are there, without what is broken."""
    return done(site, run_playbook(IMPORT, **on_host(on_conflict="merge", malformed="set_aside")))


@pytest.fixture(scope="session")
def undone(server: Host, stopped: Unchanged, merged: Imported) -> Undone:
    """Undo it, twice."""
    rows, files, runs = [stopped.after[0]], [stopped.after[1]], []
    for _ in range(2):
        runs.append(run_playbook(IMPORT, undo=merged.identity))
        rows.append(rows_of(server))
        files.append(files_of(server))
    return Undone(merged, rows, files, runs)
