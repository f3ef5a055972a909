"""Waiting for a unit of systemd: what is shown, how its end is told, and a connection that is lost meanwhile."""

import os
import subprocess
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from ansible.errors import AnsibleConnectionFailure

from plugins.action import follow_unit

Answer = str | Exception


def said(state: str, line: str = "", result: str = "success", status: int = 0, end: str = "\n") -> str:
    """Return what a host answers."""
    return end.join([f"SubState={state}", f"Result={result}", f"ExecMainStatus={status}", "", line, ""])


class Screen:
    """Keeps what is shown."""

    def __init__(self) -> None:
        """Begin empty."""
        self.columns = 60
        self.shown: list[str] = []
        self.warnings: list[str] = []

    def display(self, text: str, newline: bool = True, screen_only: bool = False) -> None:
        """Show a text."""
        self.shown.append(text + ("\n" if newline else ""))

    def warning(self, text: str) -> None:
        """Warn."""
        self.warnings.append(text)


class Host:
    """Answers with one thing after the other."""

    def __init__(self, *answers: Answer) -> None:
        """Keep the answers."""
        self.answers = list(answers)
        self.resets = 0

    def answer(self, command: str) -> dict[str, Any]:
        """Answer a command."""
        if command.startswith("tail"):
            return {"stdout": '{"command": "plan"}\r\n'}
        assert "systemctl show" in command
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return {"stdout": found}

    def reset(self) -> None:
        """Take note of a new connection."""
        self.resets += 1


def follow(*answers: Answer, **arguments: Any) -> tuple[dict[str, Any], Screen, Host]:
    """Follow a unit of a host."""
    host, screen = Host(*answers), Screen()
    task = types.SimpleNamespace(
        args={"unit": "a.service", "progress": "/run/a", "output": "/run/b", "interval": 0} | arguments,
        async_val=0,
        check_mode=False,
        diff=False,
    )
    connection = MagicMock(reset=host.reset)
    action = follow_unit.ActionModule(task, connection, MagicMock(), MagicMock(), MagicMock(), MagicMock())
    action._display = screen
    action._low_level_execute_command = host.answer
    return action.run(None, {}), screen, host


def test_each_line_is_shown_once() -> None:
    result, screen, _ = follow(
        said("running", "one"), said("running", "one"), said("running", "two"), said("exited", "two")
    )
    assert screen.shown == ["  one\n", "  two\n"]
    assert (result["state"], result["status"], result["last"], result["changed"]) == ("exited", 0, "two", False)
    assert result["output"] == '{"command": "plan"}'


def test_what_is_no_news_of_the_program_is_not_shown() -> None:
    result, screen, _ = follow(
        said("running", "a: one"), said("running", "a warning"), said("exited", "oh"), prefix="a: "
    )
    assert screen.shown == ["  one\n"]
    assert result["last"] == "oh"


def test_a_program_without_a_line_shows_nothing() -> None:
    result, screen, _ = follow(said("running"), said("exited"))
    assert (screen.shown, result["last"]) == ([], "")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_end_of_a_program_that_failed_is_told(end: str) -> None:
    result, _, _ = follow(said("failed", "it broke", "signal", 9, end))
    assert (result["state"], result["result"], result["status"], result["last"]) == ("failed", "signal", 9, "it broke")


def test_a_unit_that_is_not_there_is_not_waited_for() -> None:
    assert follow(said("dead"))[0]["state"] == "dead"


def test_a_lost_connection_is_made_again() -> None:
    result, screen, host = follow(said("running", "one"), AnsibleConnectionFailure("gone"), said("exited", "two"))
    assert result["state"] == "exited"
    assert (host.resets, len(screen.warnings)) == (1, 1)


def test_a_host_that_stays_out_of_reach_is_given_up() -> None:
    with pytest.raises(AnsibleConnectionFailure):
        follow(said("running"), AnsibleConnectionFailure("gone"), patience=-1)


def test_a_terminal_gets_one_line_with_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_unit, "TERMINAL", True)
    _, screen, _ = follow(said("running", "5 of 10 runs"), said("exited", "10 of 10 runs"))
    assert screen.shown == [
        "\r" + "  [##########..........] 5 of 10 runs".ljust(59),
        "\r" + "  [####################] 10 of 10 runs".ljust(59) + "\n",
    ]


def test_a_line_is_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_unit, "TERMINAL", True)
    _, screen, _ = follow(said("exited", "x" * 200))
    assert len(screen.shown[0]) == 1 + 59 + 1


@pytest.mark.parametrize(
    ("line", "filled"),
    [("import 5 of 20 runs", 5), ("1.5 k of 2.0 M points", 0), ("1.0 G of 2.0 GB", 10), ("30 of 20 runs", 20)],
)
def test_a_bar_is_as_long_as_the_share_that_is_done(line: str, filled: int) -> None:
    assert follow_unit.bar(line) == f"[{'#' * filled:.<20}] {line}"


@pytest.mark.parametrize("line", ["looking at the source", "0 of 0 runs", "of"])
def test_a_line_that_says_no_share_has_no_bar(line: str) -> None:
    assert follow_unit.bar(line) == line


def test_the_command_tells_of_the_unit_and_of_the_last_lines(tmp_path: Path) -> None:
    systemctl, progress = tmp_path / "systemctl", tmp_path / "it's progress"
    systemctl.write_text('#!/bin/sh\nprintf "%s\\n" SubState=running Result=success ExecMainStatus=0\n')
    systemctl.chmod(0o755)
    progress.write_text("first\nsecond 1 of 9\rsecond 2 of 9\n\n")
    done = subprocess.run(
        ["sh", "-c", follow_unit.look("a.service", str(progress))],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert follow_unit.parse(done.stdout) == (
        {"SubState": "running", "Result": "success", "ExecMainStatus": "0"},
        ["first", "second 1 of 9", "second 2 of 9"],
    )
