"""The way from one store to the next: nothing is left behind, and nobody notices."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from mlflow import MlflowClient

from testing.artifact_stores import CUT_OFF, FIRST, STORES, Move
from testing.deployment import Site

to_the_first = pytest.mark.parametrize("move", FIRST, indirect=True)


@to_the_first
def test_a_deployment_that_would_leave_artifacts_behind_is_refused(move: Move) -> None:
    assert move.refused
    assert move.refused.returned != 0
    told = " ".join(move.refused.output.split())
    assert f"mlflow_server_artifact_destination is {move.store.address} but the server keeps its artifacts in" in told
    assert "run playbooks/move_artifacts.yml, which copies them and goes over." in told
    assert "mlflow_server : Switch" not in move.refused.output


@to_the_first
def test_check_mode_shows_the_move_and_moves_nothing(move: Move) -> None:
    assert move.shown
    assert move.shown.returned == 0, move.shown.output[-5000:]
    assert f"To        {move.store.address}: 0 objects" in move.shown.output


def test_clients_notice_nothing(move: Move, site: Site) -> None:
    assert move.account.failures == []
    assert move.account.lost(site) == set()
    assert len(move.account.acknowledged) > 100


def test_what_was_logged_before_is_there(move: Move, site: Site) -> None:
    with site.session() as session:
        for address, content in move.runs.items():
            answer = session.get(address, timeout=60)
            assert (answer.status_code, hashlib.sha256(answer.content).digest()) == (
                200,
                hashlib.sha256(content).digest(),
            )


@pytest.mark.parametrize("move", [CUT_OFF], indirect=True)
def test_what_was_removed_after_a_switch_that_was_cut_off_stays_removed(move: Move, site: Site) -> None:
    assert move.removed
    with site.session() as session:
        assert {session.get(address, timeout=60).status_code for address in move.removed} == {404}


@pytest.mark.parametrize("move", STORES[1:], indirect=True)
def test_what_clients_logged_to_the_former_store_is_there(
    move: Move, client: MlflowClient, made_directly: dict[str, bytes], tmp_path: Path
) -> None:
    del move
    assert made_directly
    for run_id, content in made_directly.items():
        assert client.get_run(run_id).info.artifact_uri.startswith("mlflow-artifacts:/")
        assert Path(client.download_artifacts(run_id, "model/small.bin", str(tmp_path))).read_bytes() == content


@to_the_first
def test_a_second_move_finds_nothing_to_do(move: Move) -> None:
    assert move.again
    assert move.again.returned == 0, move.again.output[-5000:]
    assert move.again.changed == 0


def test_no_secret_is_shown(move: Move) -> None:
    runs = [run for run in (move.refused, move.shown, move.done, move.again) if run]
    output = "".join(run.output for run in runs)
    assert not [name for name, value in move.store.secrets.items() if value in output]
