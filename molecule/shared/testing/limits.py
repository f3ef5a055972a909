"""Time limits of tests. Tests wait for events; a limit only ends a wait whose event will not come.

`TEST_TIME_FACTOR` multiplies every limit. The default suits two slow cores with other work beside the tests.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

FACTOR = float(os.environ.get("TEST_TIME_FACTOR", "4"))


def limit(seconds: float) -> float:
    """Return a time limit in seconds for this machine.

    Args:
        seconds: The limit on an idle machine.
    """
    return seconds * FACTOR


def wait_until(
    is_true: Callable[[], object], seconds: float, message: str | Callable[[], str], *, pause: float = 0.2
) -> None:
    """Wait until a condition holds.

    Args:
        is_true: The condition. It is checked at least once, and once more when the limit is reached.
        seconds: The limit on an idle machine.
        message: What to report if the condition does not hold in time, or a function that returns it.
        pause: Seconds between two checks.

    Raises:
        AssertionError: The condition did not hold within the limit.
    """
    deadline = time.monotonic() + limit(seconds)
    while not is_true():
        if time.monotonic() > deadline:
            text = message if isinstance(message, str) else message()
            raise AssertionError(f"{text} (waited {limit(seconds):.0f} s)")
        time.sleep(pause)
