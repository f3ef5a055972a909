"""A team's past is brought into a server in use, and taken back: all of it, once, and nobody notices."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import mlflow
import pytest
import requests
from testinfra.host import Host

from testing.deployment import Login, Site
from testing.imports import IMPORT, TEAM, CutOff, Imported, Unchanged, Undone, content_of
from testing.past import LONG_EXPERIMENTS, client_uri
from testing.playbook import run_playbook
from testing.readback import artifacts, experiments, registry


def told(output: str) -> str:
    """Return an output with its lines joined, which Ansible breaks where it likes."""
    return " ".join(output.split())


# The dry run


def test_a_dry_run_tells_what_would_come(shown: Unchanged) -> None:
    assert shown.run.returned == 0, shown.run.output[-5000:]
    said = told(shown.run.output)
    assert f"{3 + LONG_EXPERIMENTS} experiments, {9 + LONG_EXPERIMENTS} runs" in said
    assert "2 registered models, 3 versions, 1 aliases" in said
    assert "Artifacts 10.0 MB" in said


def test_a_dry_run_changes_nothing(shown: Unchanged) -> None:
    assert shown.run.changed == 0
    assert shown.after == shown.before
    assert not any("import" in path for path in shown.after[1])


# An import that was cut off, while clients write


def test_the_import_was_cut_off_in_the_middle(cut_off: CutOff) -> None:
    assert cut_off.killed.returned == -signal.SIGKILL
    assert 0 < cut_off.brought < 9 + LONG_EXPERIMENTS


def test_clients_notice_nothing(cut_off: CutOff, site: Site) -> None:
    assert cut_off.account.failures == []
    assert cut_off.account.lost(site) == set()
    assert len(cut_off.account.acknowledged) > 100


def test_the_operator_sees_how_far_it_is(imported: Imported) -> None:
    # At the beginning of a line: what Ansible says at -vvv of its own calls has the same words within one.
    assert re.search(r"(?m)^  read \d+ runs", imported.run.output)


def test_all_of_it_is_there(imported: Imported, pasts: dict[str, Path], site: Site) -> None:
    expected = experiments(client_uri(pasts["tree"]), TEAM)
    assert len(expected) == 2 + LONG_EXPERIMENTS
    assert experiments(site.url, TEAM) == expected
    assert registry(site.url, TEAM) == registry(client_uri(pasts["tree"]), TEAM)


def test_all_artifacts_are_there(imported: Imported, pasts: dict[str, Path], site: Site) -> None:
    runs = [run for one in experiments(site.url, f"{TEAM}-").values() for run in one["runs"]]
    expected = {run: artifacts(client_uri(pasts["tree"]), run) for run in runs}
    assert sum(map(len, expected.values())) >= 6 + LONG_EXPERIMENTS
    assert {run: artifacts(site.url, run) for run in runs} == expected


def test_a_model_works(imported: Imported, site: Site) -> None:
    mlflow.set_tracking_uri(site.url)
    mlflow.set_registry_uri(site.url)
    assert mlflow.pyfunc.load_model(f"models:/{TEAM}-doubler@champion").predict([2.0]) == [4.0]


def test_it_is_proved_and_reported(imported: Imported) -> None:
    assert imported.report["complete"]
    proof = imported.report["proof"]
    assert all(kind["equal"] for kind in proof.values())
    assert proof["runs"]["server"] == 9 + LONG_EXPERIMENTS
    assert f"Proved runs: {9 + LONG_EXPERIMENTS} in the source, {9 + LONG_EXPERIMENTS} on the server" in told(
        imported.run.output
    )


def test_the_report_is_kept_on_the_host(imported: Imported, server: Host) -> None:
    kept = server.file(f"/var/lib/mlflow/imports/{imported.identity}/report.json")
    assert kept.sha256sum
    assert (kept.user, kept.mode) == ("mlflow", 0o600)
    assert server.file("/var/lib/mlflow/imports").mode == 0o700


def test_nothing_else_is_left(imported: Imported, server: Host) -> None:
    assert server.check_output("ls --almost-all /var/lib/mlflow/imports").split() == [imported.identity]
    assert not server.file("/run/mlflow-import-runs").exists
    assert server.check_output("ls /var/tmp | grep import || true") == ""
    assert [path for path in Path("/var/tmp").glob("import-runs-*") if any(path.iterdir())] == []  # noqa: S108


# Secrets


def test_the_source_on_the_host_is_the_servers_alone(cut_off: CutOff, server: Host) -> None:
    assert {mode.partition(":")[0] for mode in cut_off.upload_modes} == {str(server.user("mlflow").uid)}
    assert {mode.partition(":")[2] for mode in cut_off.upload_modes} <= {"600", "700"}


def test_no_user_of_the_host_sees_a_secret(cut_off: CutOff) -> None:
    assert cut_off.watched
    assert cut_off.seen == ""


def test_no_secret_is_shown_or_logged(shown: Unchanged, cut_off: CutOff, server: Host) -> None:
    assert "Run | Write the password for systemd to hand over" in cut_off.again.output
    assert "CaNaRy" not in shown.run.output + cut_off.killed.output + cut_off.again.output
    assert server.run('journalctl --no-pager --output=json --all | grep --quiet "[C]aNaRy"').rc == 1


# Again


def test_a_second_run_changes_nothing(repeated: Unchanged) -> None:
    assert repeated.run.returned == 0, repeated.run.output[-5000:]
    assert repeated.run.changed == 0
    assert repeated.after == repeated.before


def test_what_clients_change_afterwards_is_told_and_stays(changed: Unchanged) -> None:
    assert changed.run.returned != 0
    assert f"registered model {TEAM}-doubler" in told(changed.run.output)
    assert "All of it was there when it was imported; what differs was changed since." in told(changed.run.output)
    assert changed.run.changed == 0
    assert changed.after == changed.before


# Names that are taken


def test_names_that_are_taken_are_refused_before_anything_changes(refused: Unchanged) -> None:
    assert refused.run.returned != 0
    assert f"The server has an experiment '{TEAM}-vision'" in told(refused.run.output)
    assert f"The server has a registered model '{TEAM}-doubler'" in told(refused.run.output)
    assert refused.run.changed == 0
    assert refused.after == refused.before


def test_what_is_renamed_is_there_beside(renamed: Imported, pasts: dict[str, Path], site: Site) -> None:
    expected = experiments(client_uri(pasts["database"]), TEAM)
    names = renamed.report["renamed"]
    assert set(expected) <= set(names)
    found = experiments(site.url, TEAM)
    assert {name: found[names[name]] for name in expected} == expected
    assert found[f"{TEAM}-vision"]["runs"].keys() != expected[f"{TEAM}-vision"]["runs"].keys()


def test_the_owner_may_manage_it_and_nothing_else(renamed: Imported, owner: Login, site: Site) -> None:
    with site.session(owner) as session:
        found = {}
        for name in (renamed.report["renamed"][f"{TEAM}-vision"], f"{TEAM}-vision"):
            answer = session.get(
                f"{site.url}/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": name}, timeout=60
            )
            found[name] = answer.status_code
    assert list(found.values()) == [requests.codes.ok, requests.codes.forbidden]


# What is broken


def test_a_broken_past_is_refused_with_each_path(stopped: Unchanged, broken: dict[str, str]) -> None:
    assert stopped.run.returned != 0
    for path in broken.values():
        assert path in told(stopped.run.output)
    assert stopped.run.changed == 0
    assert stopped.after == stopped.before


def test_what_is_broken_is_set_aside_and_told(merged: Imported, broken: dict[str, str], site: Site) -> None:
    malformed = {entry["path"] for entry in merged.report["malformed"]}
    assert all(any(path.startswith(where) for path in malformed) for where in broken.values())


def test_what_is_not_broken_is_merged(
    merged: Imported, pasts: dict[str, Path], broken: dict[str, str], undone: Undone
) -> None:
    assert merged.report["complete"]
    assert merged.report["proof"]["runs"]["server"] >= 6


# Taking it back


def test_undoing_leaves_all_as_it_was(undone: Undone) -> None:
    assert undone.runs[0].returned == 0, undone.runs[0].output[-5000:]
    assert undone.runs[0].changed > 0
    assert undone.rows[1] == undone.rows[0]
    new = undone.files[1] - undone.files[0]
    assert all(path.startswith(f"/var/lib/mlflow/imports/{undone.imported.identity}/") for path in new)
    assert undone.files[0] <= undone.files[1]


def test_undoing_again_changes_nothing_and_says_so(undone: Undone) -> None:
    assert undone.runs[1].returned == 0, undone.runs[1].output[-5000:]
    assert undone.runs[1].changed == 0
    assert "was undone before; nothing of it is left, and nothing was changed." in told(undone.runs[1].output)
    assert (undone.rows[2], undone.files[2]) == (undone.rows[1], undone.files[1])


def test_an_import_that_never_was_cannot_be_undone(undone: Undone, imported: Imported, renamed: Imported) -> None:
    run = run_playbook(IMPORT, undo="0123abcd")
    assert run.returned != 0
    ids = sorted([imported.identity, renamed.identity])
    refusal = "import_runs_undo is '0123abcd'; it takes the id of an import that is there: "
    assert any(refusal + ", ".join(each) in told(run.output) for each in (ids, ids[::-1]))
    assert run.changed == 0


def test_the_pasts_are_as_they_were(undone: Undone, pasts: dict[str, Path], contents: dict[str, object]) -> None:
    assert {name: content_of(source) for name, source in pasts.items()} == contents


@pytest.mark.parametrize("colour", ["blue", "green"])
def test_no_core_and_no_unit_is_left(undone: Undone, server: Host, colour: str) -> None:
    assert server.run(f"systemctl is-failed mlflow-import-runs mlflow@{colour}").stdout.split()[0] != "failed"
