"""A source that is not there, or not what an import takes, is refused before anything changes."""

import os
from typing import Any

import pytest

from tests.rows import run_rows

# On the host, root looks for the source.
BECOMES_ROOT = pytest.param("on-host", marks=pytest.mark.system)
VALID = {"import_runs_api_password": "a-password-for-the-admin"}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the refusal of each row."""
    directory = tmp_path_factory.mktemp("sources")
    tree, database = directory / "mlruns", directory / "mlflow.db"
    tree.mkdir()
    database.write_text("")
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    rows: dict[str, dict[str, Any]] = {
        "tree": {"import_runs_source": str(tree)},
        "database": {"import_runs_source": str(database)},
        "with-artifacts": {"import_runs_source": str(database), "import_runs_artifacts": str(tree)},
        "on-host": {"import_runs_source": str(tree), "import_runs_source_on_host": "true"},
        "missing": {"import_runs_source": "/no/such/mlruns"},
        "missing-on-host": {"import_runs_source": "/no/such/mlruns", "import_runs_source_on_host": True},
        "fifo": {"import_runs_source": str(fifo)},
        "missing-artifacts": {"import_runs_source": str(database), "import_runs_artifacts": "/no/such/artifacts"},
        "artifacts-are-a-file": {"import_runs_source": str(tree), "import_runs_artifacts": str(database)},
    }
    return run_rows("import_runs", {name: VALID | row for name, row in rows.items()}, entry="source")[0]


@pytest.mark.parametrize("row", ["tree", "database", "with-artifacts", BECOMES_ROOT])
def test_a_source_that_is_there_is_taken(refusals: dict[str, str], row: str) -> None:
    assert refusals[row] == ""


@pytest.mark.parametrize(
    ("row", "refusal"),
    [
        (
            "missing",
            "import_runs_source is '/no/such/mlruns'; it takes a directory mlruns/, or a database mlflow.db of SQLite, "
            "and there is no /no/such/mlruns on the control node.",
        ),
        pytest.param(
            "missing-on-host", "and there is no /no/such/mlruns on missing-on-host.", marks=pytest.mark.system
        ),
        ("fifo", "is something else on the control node."),
        (
            "missing-artifacts",
            "import_runs_artifacts is '/no/such/artifacts'; it takes a directory, "
            "and there is no /no/such/artifacts on the control node.",
        ),
        ("artifacts-are-a-file", "mlflow.db is something else on the control node."),
    ],
)
def test_another_one_is_refused_with_one_sentence(refusals: dict[str, str], row: str, refusal: str) -> None:
    assert refusal in refusals[row]
    assert "\n" not in refusals[row].strip()
