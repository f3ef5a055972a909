"""What an import told, in words."""

from typing import Any

import pytest

from plugins.filter import import_runs as words

FILTERS = words.FilterModule().filters()


def said(name: str, told: dict[str, Any]) -> Any:
    """Return what a filter makes of what was told."""
    return FILTERS[name](told)


PLAN = {"import_id": "0123abcd", "counts": {"runs": 3, "registered_models": 1, "traces": 0}, "bytes": 4500}


def test_a_plan_says_what_would_come() -> None:
    assert said("import_plan_lines", PLAN) == [
        "Import    0123abcd",
        "Source    3 runs, 1 registered models",
        "Artifacts 4.5 kB",
    ]


def test_a_plan_says_how_many_runs_have_no_artifacts() -> None:
    assert said("import_plan_lines", PLAN | {"runs_without_artifacts": 2})[2] == (
        "Artifacts 4.5 kB; 2 of 3 runs have none"
    )


def test_a_plan_says_what_stands_in_its_way() -> None:
    told = PLAN | {
        "already": {"run": 2},
        "renamed": {"a": "b"},
        "conflicts": ["The server has a run 1."],
        "grown": ["run 2"],
        "malformed": [{"path": "1/meta.yaml", "reason": "it is empty", "set_aside": "run"}],
        "not_imported": {"jobs": 4},
    }
    assert said("import_plan_lines", told)[3:] == [
        "There     2 run",
        "Renamed   a becomes b",
        "Conflict  The server has a run 1.",
        "Grown     run 2 has changed since it was brought",
        "Malformed 1/meta.yaml: it is empty",
        "Left out  4 jobs",
    ]


def test_of_many_the_first_are_told_and_how_many_there_are() -> None:
    told = PLAN | {"conflicts": [f"{number}." for number in range(100)], "conflicts_total": 7000}
    lines = [line for line in said("import_plan_lines", told) if line.startswith("Conflict")]
    assert lines[:2] == ["Conflict  0.", "Conflict  1."]
    assert (len(lines), lines[-1]) == (words.SHOWN + 1, "Conflict  and 6950 more")


def test_what_was_brought_and_what_was_not() -> None:
    told = {"imported": {"runs": 0}, "malformed": [{"path": "p", "reason": "r"}], "left": ["An alias stays."]}
    assert said("import_done_lines", told) == ["Brought   nothing", "Set aside p: r", "Left      An alias stays."]


def test_a_proof_says_what_differs() -> None:
    told = {
        "proof": {
            "runs": {"source": 2, "server": 2, "equal": True},
            "params": {"source": 5, "server": 5, "equal": False},
            "traces": {"source": 0, "server": 0, "equal": True},
        },
        "different": ["run 1: params differ"],
    }
    assert said("import_proof_lines", told) == [
        "Proved    runs: 2 in the source, 2 on the server",
        "Differs   params: 5 in the source, 5 on the server",
        "Differs   run 1: params differ",
    ]


def test_an_import_and_its_undoing() -> None:
    known = {"import_id": "0123abcd", "begun": "today", "state": "complete", "brought": {"run": 2}}
    assert said("import_known_lines", known) == ["Import    0123abcd, of today, complete", "Brought   2 run"]
    assert said("import_known_lines", known | {"brought": None})[1] == "Brought   nothing"
    assert said("import_removed_lines", {"removed": {"runs": 2}, "kept": ["A model stays."]}) == [
        "Removed   2 runs",
        "Kept      A model stays.",
    ]


@pytest.mark.parametrize(
    ("told", "refusal"),
    [
        ({"error": "No."}, "No."),
        ({"refused": "Not yet."}, "Not yet."),
        ({"error": None, "complete": True}, ""),
        ({}, ""),
    ],
)
def test_a_refusal_is_what_is_told_of_it(told: dict[str, Any], refusal: str) -> None:
    assert said("import_refusal", told) == refusal


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (2_500_000, "2.5 MB"),
        (10**10, "10.0 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_a_size_is_readable(number: int, text: str) -> None:
    assert words.size(number) == text
