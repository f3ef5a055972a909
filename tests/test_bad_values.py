"""Every wrong value stops a role with one sentence that names the variable.

The tables are tests/bad_values/<role>.yml:

    role: <role>
    valid: {<the least that the role accepts>}
    bad:
      - vars: {<values laid over the valid ones>}
        error: <part of the sentence>
        never: <text that must not be printed, optional>
"""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project import PROJECT, SECRET_NAME
from tests.rows import run_rows

TABLES = sorted((PROJECT / "tests" / "bad_values").glob("*.yml"))
# What Ansible says before the sentence about a value that does not fit its spec.
SPEC_HEADING = "Validation of arguments failed:\n"

Row = dict[str, Any]


@functools.cache
def load(table: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(table.read_text())
    return content


def rows() -> list[Any]:
    return [
        pytest.param(table, number, row, id=f"{table.stem}-{number:02}")
        for table in TABLES
        for number, row in enumerate(load(table)["bad"], start=1)
    ]


@functools.cache
def run(table: Path) -> tuple[dict[str, str], str]:
    """Validate all rows of a table in one run; return the refusal of each host, and all that was printed."""
    valid = load(table)["valid"]
    rows = {f"row-{number:02}": valid | row["vars"] for number, row in enumerate(load(table)["bad"], start=1)}
    return run_rows(load(table)["role"], {"valid": valid} | rows)


def secrets_of(name: str, value: object) -> list[str]:
    """Return the texts within a value that must not be printed, told by the names they go by."""
    if isinstance(value, dict):
        return [
            text
            for key, inner in value.items()
            for text in secrets_of(name if SECRET_NAME.search(name) else str(key), inner)
        ]
    if isinstance(value, list):
        return [text for inner in value for text in secrets_of(name, inner)]
    return [str(value)] if SECRET_NAME.search(name) and len(str(value)) >= 8 else []


@pytest.mark.parametrize(("table", "number", "row"), rows())
def test_a_wrong_value_is_refused_with_one_sentence(table: Path, number: int, row: Row) -> None:
    refusal = run(table)[0][f"row-{number:02}"]
    assert refusal, f"{row['vars']} was accepted"
    assert row["error"] in refusal
    assert any(name in refusal for name in row["vars"]), f"names none of {list(row['vars'])}: {refusal}"
    sentence = refusal.removeprefix(SPEC_HEADING).strip()
    assert "\n" not in sentence, f"more than one line: {refusal}"
    assert refusal.startswith(SPEC_HEADING) or sentence.endswith("."), f"not a sentence: {refusal}"
    assert not re.search(r"Traceback|Error while|undefined|has no attribute", refusal)


@pytest.mark.parametrize(("table", "number", "row"), rows())
def test_a_wrong_value_is_not_printed_where_it_is_secret(table: Path, number: int, row: Row) -> None:
    output = run(table)[1]
    secrets = [text for name, value in row["vars"].items() for text in secrets_of(name, value)]
    for text in [*secrets, *([row["never"]] if "never" in row else [])]:
        assert text not in output


@pytest.mark.parametrize("table", [pytest.param(t, id=t.stem) for t in TABLES])
def test_the_values_that_rows_start_from_are_accepted(table: Path) -> None:
    """Without this, a row could be refused for another reason than its own."""
    assert run(table)[0]["valid"] == ""


@pytest.mark.parametrize("table", [pytest.param(t, id=t.stem) for t in TABLES])
def test_a_table_is_about_the_role_it_is_named_after(table: Path) -> None:
    assert load(table)["role"] == table.stem
    assert len(load(table)["bad"]) >= 10


def test_every_role_has_a_table() -> None:
    assert [table.stem for table in TABLES] == sorted(p.name for p in (PROJECT / "roles").iterdir() if p.is_dir())
