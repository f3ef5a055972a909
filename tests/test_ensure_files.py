"""Many files in one call: what is there afterwards, what is shown, and that nothing changes without need."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from tests.playbook import Played, play_tasks
from tests.project import PROJECT

OWN = {"owner": "root", "group": "root"}


def ensure(directory: Path, files: list[dict[str, Any]], *options: str, status: int = 0) -> Played:
    """Run the module once."""
    arguments = {"directory": str(directory), "mode": "0644", "files": files}
    return play_tasks([{"ensure_files": arguments}], "--diff", *options, status=status)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.system
def test_files_and_directories_are_made_once(tmp_path: Path) -> None:
    (tmp_path / "page.j2").write_text("# {{ inventory_hostname }}\n{% if code %}\n{{ code }}\n{% endif %}\n")
    source = PROJECT / "tests" / "files" / "no_certificate.crt"
    files: list[dict[str, Any]] = [
        {"path": "", "mode": "0711"},
        {"path": "inner", "mode": "0750"},
        {"path": "inner/given", "content": "one\ntwo\n", "mode": "0600"},
        {"path": "inner/copied", "src": str(source)},
        {"path": "inner/filled", "template": str(tmp_path / "page.j2"), "vars": {"code": 429}},
        {"path": str(tmp_path / "elsewhere"), "content": ""},
    ]
    site = tmp_path / "site"
    assert ensure(site, files, "--check").changed == 1
    assert not site.exists(), "check mode changes nothing"

    assert ensure(site, files).changed == 1
    assert (mode(site), mode(site / "inner")) == (0o711, 0o750)
    assert (site / "inner/given").read_text() == "one\ntwo\n"
    assert (mode(site / "inner/given"), mode(site / "inner/copied")) == (0o600, 0o644)
    assert (site / "inner/copied").read_bytes() == source.read_bytes()
    assert (site / "inner/filled").read_text() == "# server\n429\n"
    assert (tmp_path / "elsewhere").read_text() == ""

    assert ensure(site, files).changed == 0


@pytest.mark.system
def test_what_differs_is_shown_and_put_right(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("former\n")
    file.chmod(0o644)
    wanted = [{"path": "file", "content": "latter\n", "mode": "0640"}]
    for options in (["--check"], []):
        shown = ensure(tmp_path, wanted, *options)
        assert shown.changed == 1
        assert "-former +latter" in shown.words
        assert "- mode: '0644' + mode: '0640'" in shown.words
        assert (file.read_text() == "former\n") is bool(options)
    assert mode(file) == 0o640
    file.chmod(0o666)
    assert ensure(tmp_path, wanted).changed == 1
    assert mode(file) == 0o640


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ([{"path": "there", "content": ""}], "there is a directory; a file belongs there."),
        ([{"path": "file"}], "file is there, and no directory."),
        ([{"path": "nowhere/file", "content": ""}], "nowhere is no directory;"),
        (
            [{"path": "both", "content": "", "src": "file"}],
            "both takes its content from one of src,",
        ),
    ],
)
def test_what_is_in_the_way_is_left_alone(tmp_path: Path, files: list[dict[str, Any]], error: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("mine")
    assert error in ensure(tmp_path, files, status=2).words
    assert (tmp_path / "there").is_dir()
    assert (tmp_path / "file").read_text() == "mine"
