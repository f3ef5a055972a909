"""The client as it is installed: built as a wheel, in an environment of its own; and its examples, as they are run."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.client import SOURCE

UV = [str(Path(sys.executable).with_name("uv")), "--offline", "--quiet"]


def run(*command: str | Path, **variables: str) -> str:
    """Run a command that must succeed. Returns what it said."""
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the tools that are locked."""
    directory = tmp_path_factory.mktemp("wheel")
    run(*UV, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", directory, SOURCE)
    return next(directory.glob("*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {f"mlflow_site/{path.name}" for path in (SOURCE / "src/mlflow_site").iterdir() if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == modules
    assert "mlflow_site/py.typed" in modules


def test_it_is_installed_and_imported(wheel: Path, job: Path) -> None:
    venv = job / "venv"
    run(*UV, "venv", "--python", sys.executable, venv)
    python = venv / "bin" / "python"
    run(*UV, "pip", "install", "--no-deps", "--python", python, wheel)
    # What it depends on is here already, and behind its own packages.
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (next(venv.glob("lib/*/site-packages")) / "dependencies.pth").write_text(here)
    told = run(
        python, "-c", "import mlflow_site; print(mlflow_site.__file__, mlflow_site.get_mlflow_config()['target'])"
    )
    file, target = told.split()
    assert Path(file).is_relative_to(venv)
    assert target == "local"
    assert json.loads(run(venv / "bin" / "mlflow-site", "--json"))["ok"] is True


def test_what_it_imports_is_what_it_depends_on(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    metadata = next(name for name in archive.namelist() if name.endswith("/METADATA"))
    lines = archive.read(metadata).decode().splitlines()
    needs = {line.split()[1] for line in lines if line.startswith("Requires-Dist: ") and "extra" not in line}
    assert needs == {"mlflow>=2.9", "packaging", "python-dotenv>=1.0", "requests"}
    assert "Requires-Python: >=3.10" in lines


def test_the_examples_run_on_this_machine(job: Path) -> None:
    path = {"PYTHONPATH": str(SOURCE / "src"), "MLFLOW_ENV": "development"}
    told = run(sys.executable, SOURCE / "examples" / "train.py", "--epochs=3", **path)
    assert "3 epochs trained, logged and kept" in told
    assert (job / "mlflow.db").exists()
    assert [file.name for file in job.glob("mlruns/**/*.json")] == ["model.json"]
    told = run(sys.executable, SOURCE / "examples" / "mlflow_config.py", **path)
    assert told.endswith("All of it works.\n")


def test_the_stand_in_is_imported_as_the_guide_does(job: Path) -> None:
    package = job / "src" / "config"
    package.mkdir(parents=True)
    (package / "mlflow_config.py").write_text((SOURCE / "examples" / "mlflow_config.py").read_text())
    code = "from src.config.mlflow_config import get_mlflow_config; print(get_mlflow_config()['tracking_uri'])"
    assert run(sys.executable, "-c", code, PYTHONPATH=f"{job}:{SOURCE / 'src'}") == "sqlite:///mlflow.db\n"
