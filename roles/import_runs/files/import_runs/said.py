"""What is told while the program works."""

from __future__ import annotations

import sys
import time

SECONDS = 5.0


def say(line: str) -> None:
    """Write a line to standard error."""
    print(f"import: {line}", file=sys.stderr, flush=True)


def amount(number: float) -> str:
    """Return a number as people read it; its unit can follow."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= factor:
            return f"{number / (1e3 if unit == 'k' else factor):.1f} {unit}"
    return f"{number:.0f}"


class Progress:
    """Says how far it is: in one line that changes on a terminal, else in a line now and then.

    Args:
        doing: What is done.
        totals: Number by unit, such as {"runs": 10000}; zeros are not told, and -1 is a number that is not known.
    """

    def __init__(self, doing: str, totals: dict[str, int]) -> None:
        """Begin at none."""
        self.doing, self.totals = doing, totals
        self.done = dict.fromkeys(totals, 0)
        self.terminal = sys.stderr.isatty()
        self.told = time.monotonic()

    def add(self, unit: str, number: int = 1) -> None:
        """Count what has been done."""
        self.done[unit] += number
        now = time.monotonic()
        if now - self.told >= (0.2 if self.terminal else SECONDS):
            self.told = now
            self.tell()

    def tell(self) -> None:
        """Say it now."""
        parts = [self._count(unit, total) for unit, total in self.totals.items() if total]
        text = f"{self.doing} {', '.join(parts)}"
        if self.terminal:
            first = next((unit for unit, total in self.totals.items() if total > 0), None)
            share = min(self.done[first] / self.totals[first], 1) if first else 1
            print(f"\r\033[K{'#' * int(share * 20):.<20} {text}", end="", file=sys.stderr, flush=True)
        else:
            say(text)

    def _count(self, unit: str, total: int) -> str:
        if total < 0:
            return f"{amount(self.done[unit])} {unit}"
        told = amount(total)
        return f"{amount(self.done[unit])} of {told}{'' if unit == 'B' and told[-1].isalpha() else ' '}{unit}"

    def end(self) -> None:
        """Say how far it came, and leave the line."""
        self.tell()
        if self.terminal:
            print(file=sys.stderr, flush=True)
