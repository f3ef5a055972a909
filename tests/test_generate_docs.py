"""The generated documents say what the specs say."""

from pathlib import Path

import pytest

from scripts import generate_docs


def test_the_documents_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    status = generate_docs.main(["--check"])
    assert capsys.readouterr().err == ""
    assert status == 0


def test_check_says_what_is_out_of_date_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "README.md"
    document.write_text("old")
    monkeypatch.setattr(generate_docs, "PROJECT", tmp_path)
    monkeypatch.setattr(generate_docs, "documents", lambda: {document: "new"})
    assert generate_docs.main(["--check"]) == 1
    assert capsys.readouterr().err == "README.md is out of date; run make docs.\n"
    assert document.read_text() == "old"
    assert generate_docs.main([]) == 0
    assert document.read_text() == "new"


def test_examples_show_no_secrets() -> None:
    assert generate_docs.without_secrets("a_passwords", {"one": "x"}) == {"one": "{{ vault_one }}"}
    assert generate_docs.without_secrets("a_dictionary", {"token": "x", "b": 1}) == {
        "token": "{{ vault_token }}",
        "b": 1,
    }


def test_markup_becomes_markdown() -> None:
    assert generate_docs.prose("See O(a_b) and V(inet (6\\)), C(x).").startswith("See `a_b` and `inet (6")
    assert generate_docs.cell("a|b\n c") == "a\\|b c"


def test_every_value_of_the_site_is_documented() -> None:
    names = {row[0].strip("`") for row in generate_docs.site_rows()}
    assert names == set(generate_docs.load(generate_docs.PROJECT / "group_vars" / "all" / "site.yml"))
