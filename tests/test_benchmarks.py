"""What the benchmark makes of its measurements, and of MLflow's own formats."""

import json
import math
from pathlib import Path

import pytest
from mlflow.utils.search_utils import SearchUtils

from benchmarks import report
from benchmarks.__main__ import main, of_systems
from benchmarks.operations import page_token, search
from benchmarks.report import Figure, Results, geometric_mean, number, spread, table

RATE = Figure("rate", "requests/s", number)


@pytest.fixture
def results() -> Results:
    """Two operations, two systems, three rounds."""
    found = Results("operations")
    for operation, plain, site in [("read", (10, 20, 30), (20, 60, 120)), ("write", (4, 4, 4), (2, 2, 2))]:
        for turn in range(3):
            found.add(operation, "plain", turn, {"rate": plain[turn]})
            found.add(operation, "site", turn, {"rate": site[turn]})
    return found


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.012345, "0.0123"), (1.2345, "1.23"), (99.96, "100.0"), (1234.5, "1,234"), (math.nan, "nan")],
)
def test_a_number_has_three_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_ratios_are_of_the_same_round(results: Results) -> None:
    assert results.ratios("read", "plain", "rate") == [2, 3, 4]
    assert spread([2, 3, 4]) == "3.00 x (2.00 to 4.00)"
    assert spread([2]) == "2.00 x"
    assert spread([]) == "-"


def test_a_round_that_came_to_nothing_has_no_ratio(results: Results) -> None:
    results.add("none", "plain", 0, {"rate": 0})
    results.add("none", "site", 0, {"rate": 5})
    assert results.ratios("none", "plain", "rate") == []


def test_the_table_has_medians_ratios_and_their_mean(results: Results) -> None:
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table(results, [RATE], ["rate"]).split("\n")
    ]
    assert lines[0] == ["", "system", "requests/s", "requests/s, site to plain"]
    assert lines[2:] == [
        ["read", "plain", "20.0", ""],
        ["read", "site", "60.0", "3.00 x (2.00 to 4.00)"],
        ["write", "plain", "4.00", ""],
        ["write", "site", "2.00", "0.500 x (0.500 to 0.500)"],
        ["geometric mean", "site", "", "1.22 x"],
    ]


def test_the_geometric_mean() -> None:
    assert geometric_mean([3, 0.5]) == pytest.approx(math.sqrt(1.5))
    assert math.isnan(geometric_mean([]))


def test_of_a_host_the_highest_figure_counts() -> None:
    found = Results("operations")
    for memory in (5, 7, 6):
        found.add("read", "site", memory, {"rest": 1, "memory": memory, "connections": 2})
    assert of_systems(found).rows == [
        {"operation": "whole host", "system": "site", "round": 0, "rest": 1, "memory": 7, "connections": 2}
    ]


def test_what_is_kept_says_what_it_was_made_on(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    kept = json.loads(results.save().read_text(encoding="utf-8"))
    assert len(kept["rows"]) == 12
    assert {"date", "commit", "processors", "kernel", "memory_gib"} <= set(kept)
    assert report.draw_bars(results, "rate", "requests/s").read_text(encoding="utf-8").startswith("<?xml")


def test_a_page_is_named_as_mlflow_names_it() -> None:
    assert SearchUtils.parse_start_offset_from_page_token(page_token(100)) == 100
    first, second = search("search", "1", 1000).bodies
    assert second == {**first, "page_token": page_token(100)}
    # One that has no second page is asked for the first alone.
    assert len(search("search", "1", 10).bodies) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [(["opperations"], "'opperations' is none of operations, size"), (["--rounds", "0"], "--rounds takes 1 or more")],
)
def test_a_wrong_argument_stops_before_anything_starts(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
