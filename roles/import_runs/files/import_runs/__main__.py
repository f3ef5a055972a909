"""Import the runs of a directory mlruns/ or of a file mlflow.db into a server that works.

usage: python import_runs plan|import|prove|undo|list --source PATH --state DIR [options]

Run with the Python of a release, as the server's user, with PGSERVICEFILE set. Settings and credentials of the server's
artifact store are read from server_gunicorn.conf.py and server_credentials_* in CREDENTIALS_DIRECTORY, if they are there.

    plan     says what an import would bring, and what is in its way; changes nothing
    import   brings it; one that was cut off is gone on with by the same command
    prove    compares the source with what the server's API gives
    undo     removes what one import has brought
    list     shows the imports that the server knows

Progress goes to standard error. The last line of standard output is a JSON object, lists in it are cut to 100 entries;
the whole is in <state>/<import id>/report.json. The exit status is 0 if all is well, 1 if it is not, and 2 for wrong
arguments; then the object has an `error`, which is one sentence.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import json
import os
import re
import runpy
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from artifacts import Destination
from dbfile import DatabaseFile, migrated
from importer import COUNTS, Importer, Options
from journal import Journal
from parts import ImportFailure, Source
from said import say
from target import connect, told_of
from tree import Tree
from undo import Undo

SHOWN = 100


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["plan", "import", "prove", "undo", "list"])
    parser.add_argument("--source", type=Path, help="directory mlruns/, or SQLite file of MLflow 2.9 or newer")
    parser.add_argument("--artifacts", type=Path, help="directory in which its artifacts are, if it has been moved")
    parser.add_argument("--state", type=Path, required=True, help="directory of reports")
    parser.add_argument("--on-conflict", choices=["fail", "merge", "rename"], default="fail")
    parser.add_argument("--malformed", choices=["stop", "set-aside"], default="stop")
    parser.add_argument("--owner", default="", help="user who may manage what is imported")
    parser.add_argument("--artifact-root", default="mlflow-artifacts:/", help="what the server's locations begin with")
    parser.add_argument("--artifact-destination", default="", help="directory or URI of the server's artifact store")
    parser.add_argument("--api", default="", help="address of the server, to prove by")
    parser.add_argument("--user", default="", help="user to log in as")
    parser.add_argument("--password-file", type=Path, help="file with the password; otherwise the credential `password`")
    parser.add_argument("--import-id", default="", help="of the import to undo")
    parser.add_argument("--threads", type=int, default=4, help="artifacts copied, or requests made, at once")
    given = parser.parse_args()
    if given.command in {"plan", "import", "prove"} and not given.source:
        parser.error("--source is needed.")
    if given.command == "undo" and not (given.import_id or given.source):
        parser.error("--import-id is needed.")
    if given.command != "list" and not given.artifact_destination:
        parser.error("--artifact-destination is needed.")
    if given.command == "prove" and not given.api:
        parser.error("--api is needed.")
    if not 1 <= given.threads <= 64:
        parser.error("--threads takes a number from 1 to 64.")
    return given


def settings() -> None:
    """Take over the variables of a server, whose settings are evaluated as gunicorn does it.

    Raises:
        ImportFailure: They cannot be evaluated.
    """
    credentials = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"))
    path = credentials / "server_gunicorn.conf.py"
    if not path.is_file():
        return
    # Named as the server's unit names them. A key file has to be there as long as it is used.
    named = Path(tempfile.mkdtemp(prefix="import-"))
    atexit.register(shutil.rmtree, named, ignore_errors=True)
    for credential in credentials.glob("server_credentials_*"):
        (named / f"mlflow_{credential.name.removeprefix('server_credentials_')}").symlink_to(credential)
    own = {name: os.environ[name] for name in ("CREDENTIALS_DIRECTORY", "PGSERVICEFILE") if name in os.environ}
    os.environ |= {"CREDENTIALS_DIRECTORY": str(named), "RUNTIME_DIRECTORY": str(named), "INVOCATION_ID": "import"}
    try:
        runpy.run_path(str(path))
    except Exception as error:
        raise ImportFailure(f"The settings of the server cannot be read: {error!r}.") from error
    finally:
        os.environ.update(own)


def identity_of(source: Path) -> str:
    """Return the id of the import of a source: the same for each start."""
    return hashlib.sha256(str(source.resolve()).encode()).hexdigest()[:8]


def open_source(given: argparse.Namespace, identity: str) -> Source:
    """Return the source.

    Raises:
        ImportFailure: There is none.
    """
    path: Path = given.source
    if given.artifacts and not given.artifacts.is_dir():
        raise ImportFailure(f"The directory of artifacts {given.artifacts} is not there.")
    if path.is_file():
        return DatabaseFile(path, migrated(path, given.state / identity), given.artifacts)
    if (path / "mlruns").is_dir():
        path = path / "mlruns"
    if not path.is_dir():
        raise ImportFailure(f"The source {path} is not there; it takes a directory mlruns/ or a file mlflow.db.")
    known = any(each.name.isdecimal() or each.name in {".trash", "models"} for each in path.iterdir())
    if not known:
        raise ImportFailure(f"The source {path} has no experiment; it takes a directory mlruns/ or a file mlflow.db.")
    return Tree(path, given.artifacts)


def log_in(given: argparse.Namespace) -> None:
    """Tell MLflow's client who it is.

    Raises:
        ImportFailure: The password cannot be read.
    """
    if not given.user:
        return
    path = given.password_file or Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), "password")
    try:
        password = path.read_text().rstrip("\n")
    except OSError as error:
        raise ImportFailure(f"The password in {path} cannot be read: {error.strerror}.") from error
    os.environ |= {"MLFLOW_TRACKING_USERNAME": given.user, "MLFLOW_TRACKING_PASSWORD": password}


def listed() -> dict[str, Any]:
    """Return what the server knows of imports."""
    with told_of("mlflow"):
        connection = connect("mlflow")
        journal = Journal(connection, "")
        found = journal.rows(
            "SELECT i.id, i.source, i.state, i.begun, i.ended, i.options, "
            "(SELECT json_object_agg(kind, number) FROM (SELECT kind, count(*) AS number FROM import_runs.brought b "
            "WHERE b.import = i.id GROUP BY kind) AS counted) FROM import_runs.imports i ORDER BY i.begun"
        )
    names = ("import_id", "source", "state", "begun", "ended", "options", "brought")
    imports = [dict(zip(names, row, strict=True)) for row in found]
    return {"imports": json.loads(json.dumps(imports, default=str))}


def undone(given: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Undo an import."""
    identity = given.import_id or identity_of(given.source)
    connection = connect("mlflow")
    journal = Journal(connection, identity)
    journal.lock()
    work = Undo(connection, journal, Destination(given.artifact_root, given.artifact_destination, given.threads))
    work.run()
    return {"import_id": identity, "removed": work.removed, "kept": work.kept, "complete": True}, True


def run(given: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Do what was asked for.

    Returns:
        The report, and whether all is well.
    """
    if given.command == "list":
        return listed(), True
    settings()
    if given.command == "undo":
        return undone(given)
    identity = identity_of(given.source)
    destination = Destination(given.artifact_root, given.artifact_destination, given.threads)
    source = open_source(given, identity)
    suffixes = (f"(imported {datetime.now(UTC):%Y-%m-%d})", f"imported-{identity}")
    options = Options(given.on_conflict, given.malformed == "set-aside", given.owner, identity, suffixes)
    importer = Importer(source, source.places, destination, options)
    report: dict[str, Any] = {"import_id": identity}
    if given.command == "import":
        importer.journal.lock()
        if importer.journal.state() == "undoing":
            raise ImportFailure(f"The import {identity} is being undone; undo it to the end before it is started again.")
    survey = importer.look()
    bad = [each.told() for each in importer.bad.values()]
    report |= {
        "counts": {name: survey.counts[name] for name in COUNTS},
        "bytes": survey.bytes,
        "conflicts": survey.conflicts,
        "malformed": bad,
        "set_aside": len(bad),
        "experiment_ids": {key: goal.new for key, goal in survey.goals.items()},
        "renamed": survey.renamed,
        "already": dict(survey.already),
        "grown": survey.grown,
        "not_imported": source.left(),
    }
    refusal = ""
    if survey.conflicts:
        refusal = f"{len(survey.conflicts)} things are in conflict: {survey.conflicts[0]}"
    elif bad and not options.set_aside:
        refusal = f"{len(bad)} entries are malformed: {bad[0]['path']}: {bad[0]['reason']}."
    report["refused"] = refusal
    if given.command == "plan":
        return report, True
    if given.command == "import":
        if refusal:
            return report | {"error": refusal}, False
        with told_of("mlflow"):
            stored = {name: getattr(given, name) for name in ("on_conflict", "malformed", "owner", "artifact_root")}
            importer.journal.begin(str(given.source.resolve()), stored)
            importer.connection.commit()
        importer.run()
        report |= {"imported": {name: importer.imported[name] for name in COUNTS}, "left": importer.left}
        return report | {"complete": True}, True
    from proof import Proof

    log_in(given)
    proof = Proof(importer, given.api, given.threads)
    report["proof"] = proof.run()
    report |= {"different": proof.different, "hidden": dict(proof.hidden)}
    report["complete"] = not proof.different and all(each["equal"] for each in report["proof"].values())
    if not report["complete"]:
        report["error"] = f"{len(proof.different)} things differ; such as {(proof.different or ['a checksum'])[0]}."
    return report, bool(report["complete"])


def peak_memory() -> int:
    """Return the most memory that this process had, in MiB."""
    # Not getrusage, which counts what the process that started this one had.
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


def cut(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report whose lists have 100 entries at most, with the number that they would have."""
    short: dict[str, Any] = {}
    for name, value in report.items():
        if isinstance(value, (list, dict)) and len(value) > SHOWN:
            entries = list(value.items() if isinstance(value, dict) else value)[:SHOWN]
            short[name] = dict(entries) if isinstance(value, dict) else entries
            short[f"{name}_total"] = len(value)
        else:
            short[name] = value
    return short


def main() -> int:
    """Run a command. Returns the exit status."""
    given = arguments()
    # As the server's unit has it: artifacts are nobody else's.
    os.umask(0o077)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    begun = time.monotonic()
    report: dict[str, Any] = {"command": given.command}
    status = 1
    try:
        found, well = run(given)
        report |= found
        status = 0 if well else 1
    except ImportFailure as error:
        report["error"] = str(error)
    report.setdefault("complete", status == 0 and given.command != "plan")
    report |= {"seconds": round(time.monotonic() - begun, 1), "peak_memory_mb": peak_memory()}
    if identity := report.get("import_id"):
        directory = given.state / identity
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        (directory / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(cut(report)))
    if status:
        say(report["error"])
    return status


if __name__ == "__main__":
    sys.exit(main())
