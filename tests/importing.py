"""What tests of the import share: sources as MLflow makes them, a server to import into, and the program."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg2

from testing.limits import wait_until
from tests import import_process
from tests.database import SERVERS
from tests.project import PROJECT

PROGRAM = PROJECT / "roles" / "import_runs" / "files" / "import_runs" / "import_runs.py"
MAKER = PROJECT / "tests" / "files" / "import_runs" / "make_source.py"
FORMER = PROJECT / ".cache" / "mlflow-2.9.2"
# Made once for each version of MLflow and PostgreSQL.
SCHEMAS = PROJECT / ".cache" / "schemas" / f"{version('mlflow')}-{SERVERS[-1].parts[-3] if SERVERS else 'none'}"
# What it needs of the time when it was made.
FORMER_PACKAGES = ("mlflow==2.9.2", "sqlalchemy<2.1", "numpy<2", "setuptools<81")
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_FILE_STORE": "true", "GIT_PYTHON_REFRESH": "quiet"}


def environment(**more: str) -> dict[str, str]:
    """Return the variables for a program, without what the tester has set for MLflow."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PG"))} | QUIET | more


def former_python() -> str:
    """Return a Python with the oldest MLflow whose sources are taken; it is installed when it is first asked for."""
    python, installed = FORMER / "bin" / "python", FORMER / ".installed"
    wanted = " ".join(FORMER_PACKAGES)
    FORMER.parent.mkdir(exist_ok=True)
    with (FORMER.parent / "mlflow-2.9.2.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_text() != wanted:
            uv = str(Path(sys.executable).parent / "uv")
            variables = os.environ | {"UV_NATIVE_TLS": "true", "UV_CACHE_DIR": str(FORMER.parent / "uv")}
            for command in (
                ["venv", "--quiet", "--clear", "--python", sys.executable, str(FORMER)],
                ["pip", "install", "--quiet", "--python", str(python), *FORMER_PACKAGES],
            ):
                subprocess.run([uv, *command], env=variables, check=True)
            installed.write_text(wanted)
    return str(python)


def make(kind: str, directory: Path, python: str = sys.executable) -> None:
    """Make a source with MLflow's client.

    Args:
        kind: "tree" for a directory mlruns/, "file" for a file mlflow.db with artifacts.
        directory: Where to.
        python: With the MLflow that makes it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([python, str(MAKER), kind], cwd=directory, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@dataclass
class Result:
    """How a run of the program ended."""

    status: int
    report: dict[str, Any]
    progress: str

    @property
    def error(self) -> str:
        """Return what it says is wrong."""
        return str(self.report.get("error", ""))


class Site:
    """The databases and the artifact store of a server.

    Args:
        socket: Directory of PostgreSQL's socket.
        directory: For all files.
    """

    def __init__(self, socket: Path, directory: Path) -> None:
        """Make the files; the databases are made by reset()."""
        self.socket, self.directory = socket, directory
        self.store, self.state = directory / "store", directory / "state"
        self.service = directory / "pg_service.conf"
        self.service.write_text(
            "".join(f"[{name}]\nhost={socket}\nuser=mlflow\ndbname={name}\n" for name in ("mlflow", "mlflow_auth"))
        )
        # What the program's unit has beside.
        self.variables: dict[str, str] = {}

    def _connect(self, database: str) -> Any:
        """Return a new connection of psycopg2 to a database."""
        return psycopg2.connect(host=str(self.socket), user="mlflow", dbname=database)

    def sql(self, statement: str, *values: Any, database: str = "mlflow") -> list[tuple[Any, ...]]:
        """Execute a statement and return its rows."""
        with contextlib.closing(self._connect(database)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values or None)
                return list(cursor.fetchall()) if cursor.description else []

    @classmethod
    def made(cls, socket: Path, directory: Path) -> Site:
        """Return a site with nothing in it.

        Args:
            socket: Directory of PostgreSQL's socket.
            directory: For all files.
        """
        site = cls(socket, directory)
        site._make_databases()
        site._make_templates()
        site.reset()
        return site

    def _make_databases(self) -> None:
        """Make both databases as MLflow does. What its migrations make is kept for the other modules of tests."""
        for name in ("mlflow", "mlflow_auth"):
            self.sql(f"CREATE DATABASE {name}", database="postgres")
        SCHEMAS.mkdir(parents=True, exist_ok=True)
        with (SCHEMAS / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (SCHEMAS / "mlflow_auth.sql").exists():
                self._migrate()
                return
        for name in ("mlflow", "mlflow_auth"):
            self._run_postgresql("psql", "--quiet", f"--file={SCHEMAS}/{name}.sql", name)

    def _migrate(self) -> None:
        """Let MLflow make the tables of both databases, and keep a dump of each."""
        variables = environment(PGSERVICEFILE=str(self.service))
        uri = "postgresql+psycopg2:///?service="
        for command in (
            ["mlflow", "db", "upgrade", f"{uri}mlflow"],
            ["mlflow.server.auth", "db", "upgrade", "--url", f"{uri}mlflow_auth"],
        ):
            subprocess.run([sys.executable, "-m", *command], env=variables, check=True, capture_output=True)
        for name in ("mlflow", "mlflow_auth"):
            self._run_postgresql("pg_dump", f"--file={SCHEMAS}/{name}.sql", name)

    def _run_postgresql(self, program: str, *arguments: str) -> None:
        """Run a client program of the PostgreSQL that is used."""
        command = [str(SERVERS[-1].parent / program), "--host", str(self.socket), "--username", "mlflow", *arguments]
        subprocess.run(command, check=True, capture_output=True)

    def _make_templates(self) -> None:
        """Insert what a server inserts at its first start, and keep both databases for `reset`."""
        self.sql(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, "
            "last_update_time) VALUES (0, 'Default', 'mlflow-artifacts:/0', 'active', 1, 1)"
        )
        for name in ("mlflow", "mlflow_auth"):
            self.sql(f"CREATE DATABASE {name}_empty TEMPLATE {name}", database="postgres")

    def reset(self) -> None:
        """Make the databases and the store as they were when they were made."""
        for name in ("mlflow", "mlflow_auth"):
            self.sql(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")
            self.sql(f"CREATE DATABASE {name} TEMPLATE {name}_empty", database="postgres")
        for path in (self.store, self.state):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)

    def dump(self) -> dict[str, list[str]]:
        """Return the rows of all tables of the tracking database, and of permissions."""
        found = {}
        for database in ("mlflow", "mlflow_auth"):
            with contextlib.closing(self._connect(database)) as connection:
                cursor = connection.cursor()
                cursor.execute(
                    "SELECT schemaname || '.' || tablename FROM pg_tables "
                    "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
                )
                for (table,) in cursor.fetchall():
                    if table != "public.roles":
                        cursor.execute(f"SELECT t::text FROM {table} t")  # noqa: S608
                        found[f"{database}:{table}"] = sorted(row for (row,) in cursor.fetchall())
        return found

    def files(self) -> dict[str, bytes]:
        """Return the artifacts."""
        return {
            str(path.relative_to(self.store)): path.read_bytes() for path in self.store.rglob("*") if path.is_file()
        }

    def _command_line(self, command: str, options: Sequence[str], source: Path | None) -> list[str]:
        """Return the arguments of the program."""
        given = [command, "--state", str(self.state), *options]
        if source:
            given += ["--source", str(source)]
        if "CREDENTIALS_DIRECTORY" not in self.variables:
            given += ["--artifact-destination", str(self.store)]
        return given

    def _environment(self) -> dict[str, str]:
        """Return the environment of the program."""
        return environment(PGSERVICEFILE=str(self.service), **self.variables)

    def start(self, command: str, *options: str, source: Path | None = None) -> subprocess.Popen[str]:
        """Start the program, for who does not wait for its end."""
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), *self._command_line(command, options, source)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment(),
        )

    def run(self, command: str, *options: str, source: Path | None = None, well: bool | None = True) -> Result:
        """Run the program.

        Args:
            command: What to do.
            options: More arguments.
            source: What to import.
            well: How it has to end; None if that is what is asked.
        """
        arguments = self._command_line(command, options, source)
        status, output, errors = import_process.run(arguments, self._environment())
        assert "Traceback" not in errors, errors
        assert output, errors
        result = Result(status, json.loads(output.splitlines()[-1]), errors)
        if well is not None:
            assert (result.status == 0) == well, (result.report, errors)
        return result


@contextlib.contextmanager
def served(site: Site) -> Iterator[str]:
    """Run a server of MLflow's on a site; return its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = "postgresql+psycopg2:///?service=mlflow"
    options = ["--host=127.0.0.1", "--serve-artifacts", f"--artifacts-destination={site.store}", "--workers=1"]
    log = site.directory / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--port", str(port), *options],
            env=environment(PGSERVICEFILE=str(site.service), MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):  # noqa: S310
                return True
            return False

        wait_until(is_ready, 60, "the server does not start", pause=0.1)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def run_id(number: int) -> str:
    """Return the id of a run of a tree that is planted."""
    return f"f{number:031x}"


def plant(root: Path, experiments: dict[str, int], points: int = 5, artifacts: int = 1) -> Path:
    """Write a directory mlruns/ by hand, for what MLflow's client would take too long for.

    Args:
        root: Where to.
        experiments: Number of runs by the name of the experiment; its id is 10 for the first, then 11.
        points: Points of each of two metrics of a run.
        artifacts: Files of a run.

    Returns:
        The directory.
    """
    number = 0
    lines = "".join(f"{1700000000000 + step} {1 / (step + 1)} {step}\n" for step in range(points))
    for key, (name, runs) in enumerate(experiments.items(), 10):
        experiment = root / str(key)
        put(experiment / "meta.yaml", f"experiment_id: '{key}'\nname: {name}\nlifecycle_stage: active\n")
        put(experiment / "tags" / "kind", "planted")
        for _ in range(runs):
            number += 1
            run = experiment / run_id(number)
            put(
                run / "meta.yaml",
                f"artifact_uri: file:///gone/mlruns/{key}/{run.name}/artifacts\nend_time: 1700000001000\n"
                f"entry_point_name: ''\nexperiment_id: '{key}'\nlifecycle_stage: active\nrun_id: {run.name}\n"
                f"run_name: run {number}\nrun_uuid: {run.name}\nstart_time: 1700000000000\nstatus: 3\nuser_id: me\n",
            )
            for metric in ("loss", "acc/top"):
                put(run / "metrics" / metric, lines)
            put(run / "params" / "lr", "0.1")
            put(run / "tags" / "mlflow.runName", f"run {number}")
            (run / "artifacts").mkdir()
            for each in range(artifacts):
                put(run / "artifacts" / f"file {each}.txt", f"{number} {each}")
    return root


def put(path: Path, text: str | bytes) -> None:
    """Write a file, and the directories that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
