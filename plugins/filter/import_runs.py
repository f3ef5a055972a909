"""Filters that put what an import told into words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

DOCUMENTATION = r"""
name: import_runs
short_description: What an import told, in words
description:
  - C(import_plan_lines) says what an import would bring and what stands in its way, C(import_done_lines) what it
    brought, C(import_proof_lines) what was read back. C(import_known_lines) says what there is to undo,
    C(import_removed_lines) what was undone, C(import_refusal) why something was not done.
  - Each takes the JSON object that the program of the role import_runs ends with.
options: {}
"""

# Of what may be many; the report has all. The program cuts what it prints at more.
SHOWN = 50
WIDTH = 10

Told = dict[str, Any]


def counts(numbers: dict[str, int], nothing: str = "nothing") -> str:
    """Return numbers by kind in words, without those that are zero."""
    said = [f"{number} {kind.replace('_', ' ')}" for kind, number in numbers.items() if number]
    return ", ".join(said) or nothing


def size(number: int) -> str:
    """Return a number of bytes as people read it."""
    amount = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def line(head: str, text: str) -> str:
    """Return a line of a table of two columns."""
    return f"{head:<{WIDTH}}{text}"


def some(head: str, told: Told, name: str, said: Callable[[Any], str] = str) -> list[str]:
    """Return a line for each entry of a list, or for the first ones and one for the others.

    Args:
        head: First column.
        told: What has the list; its program has cut a long one, and tells the length.
        name: Name of the list, or of a dictionary.
        said: Puts an entry into words.
    """
    found = told.get(name) or []
    entries = list(found.items() if isinstance(found, dict) else found)
    more = int(told.get(f"{name}_total", len(entries))) - SHOWN
    return [line(head, said(entry)) for entry in entries[:SHOWN]] + (
        [line(head, f"and {more} more")] if more > 0 else []
    )


def broken(entry: Told) -> str:
    """Say where an entry is malformed, and why."""
    return f"{entry['path']}: {entry['reason']}"


def import_refusal(told: Told) -> str:
    """Return the sentence that says why it was not done, or would not be; nothing if all is well."""
    return str(told.get("error") or told.get("refused") or "")


def without_artifacts(told: Told) -> str:
    """Say how many runs have no artifacts."""
    number = told.get("runs_without_artifacts") or 0
    return f"; {number} of {told['counts']['runs']} runs have none" if number else ""


def import_plan_lines(told: Told) -> list[str]:
    """Say what an import would bring, and what stands in its way."""
    already = told.get("already") or {}
    return [
        line("Import", told["import_id"]),
        line("Source", counts(told["counts"])),
        line("Artifacts", size(told["bytes"]) + without_artifacts(told)),
        *([line("There", counts(already))] if any(already.values()) else []),
        *some("Renamed", told, "renamed", lambda pair: f"{pair[0]} becomes {pair[1]}"),
        *some("Conflict", told, "conflicts"),
        *some("Grown", told, "grown", lambda part: f"{part} has changed since it was brought"),
        *some("Malformed", told, "malformed", broken),
        *([line("Left out", counts(told["not_imported"]))] if any((told.get("not_imported") or {}).values()) else []),
    ]


def import_done_lines(told: Told) -> list[str]:
    """Say what an import has brought, and what it left."""
    return [
        line("Brought", counts(told["imported"])),
        *some("Set aside", told, "malformed", broken),
        *some("Left", told, "left"),
    ]


def import_proof_lines(told: Told) -> list[str]:
    """Say for each kind how much is in the source and how much was read back."""
    return [
        *(
            line(
                "Proved" if kind["equal"] else "Differs",
                f"{name.replace('_', ' ')}: {kind['source']} in the source, {kind['server']} on the server",
            )
            for name, kind in told["proof"].items()
            if kind["source"] or kind["server"] or not kind["equal"]
        ),
        *some("Differs", told, "different"),
    ]


def import_known_lines(told: Told) -> list[str]:
    """Say what the server knows of an import."""
    return [
        line("Import", f"{told['import_id']}, of {told['begun']}, {told['state']}"),
        line("Brought", counts(told.get("brought") or {})),
    ]


def import_removed_lines(told: Told) -> list[str]:
    """Say what undoing an import has removed, and what it kept."""
    return [line("Removed", counts(told["removed"])), *some("Kept", told, "kept")]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Return the filters by name."""
        return {
            "import_done_lines": import_done_lines,
            "import_known_lines": import_known_lines,
            "import_plan_lines": import_plan_lines,
            "import_proof_lines": import_proof_lines,
            "import_refusal": import_refusal,
            "import_removed_lines": import_removed_lines,
        }
