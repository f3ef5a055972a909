"""The phases of a check, read from its output while it runs.

Molecule logs the name of each action as it begins. The runner reports how long each phase took as soon as the next one
begins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# Molecule 26 logs `INFO     [default > converge] Executing` when an action begins.
MOLECULE_ACTION = re.compile(r"\[\S+ > (?P<action>[a-z_]+)\] Executing$")


@dataclass
class Phases:
    """The finished phases of a check and the current one.

    Args:
        current: Name of the phase that runs, or "" before the first.
        since: Second in which the current phase began, counted from the start of the check.
        finished: Name and length in seconds of each finished phase.
    """

    current: str = ""
    since: float = 0.0
    finished: list[tuple[str, float]] = field(default_factory=list)

    def read(self, line: str, second: float) -> tuple[str, float] | None:
        """Read a line of output.

        Args:
            line: The line.
            second: When it was printed, counted from the start of the check.

        Returns:
            Name and seconds of the phase that the line ends, or None.
        """
        match = MOLECULE_ACTION.search(line.rstrip())
        if not match:
            return None
        return self.begin(match["action"], second)

    def begin(self, name: str, second: float) -> tuple[str, float] | None:
        """End the current phase and begin another. Return name and seconds of the ended one, or None if none ran."""
        ended = (self.current, second - self.since) if self.current else None
        if ended:
            self.finished.append(ended)
        self.current, self.since = name, second
        return ended
