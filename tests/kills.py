"""Kills a program before it ends, on a fast machine and on a slow one."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable

import psycopg2.errors

ATTEMPTS = 5
PAUSE_SECONDS = 0.002


def kill_when(process: subprocess.Popen[str], is_due: Callable[[], bool], delay: float = 0) -> bool:
    """Kill a program a little after a condition holds.

    Args:
        process: The program.
        is_due: The condition. A table that does not exist yet counts as false.
        delay: Seconds between the condition and the kill.

    Returns:
        Whether the kill came before the program ended.
    """
    while process.poll() is None:
        with contextlib.suppress(psycopg2.errors.UndefinedTable):
            if is_due():
                break
        time.sleep(PAUSE_SECONDS)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def kill_in_the_middle(
    start: Callable[[], subprocess.Popen[str]], is_due: Callable[[], bool], undo: Callable[[], object], delay: float = 0
) -> None:
    """Start a program and kill it a little after a condition holds; if it ends first, undo its work and try again.

    Args:
        start: Starts the program.
        is_due: The condition.
        undo: Restores the state from before the program.
        delay: Seconds between the condition and the kill. Each attempt halves it.

    Raises:
        AssertionError: The program ended before the kill in every attempt.
    """
    for attempt in range(ATTEMPTS):
        if kill_when(start(), is_due, delay / 2**attempt):
            return
        print(f"not hit: the program ended before the kill, attempt {attempt + 1}")
        undo()
    raise AssertionError(f"the program ended before the kill in {ATTEMPTS} attempts")
