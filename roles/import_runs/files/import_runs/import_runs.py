"""Import the runs of a directory mlruns/ or of a file mlflow.db into a server that works.

usage: python import_runs.py plan|import|prove|undo|list --source PATH --state DIR [options]

Run with the Python of a release, as the server's user, with PGSERVICEFILE set. Settings and credentials of the server's
artifact store are read from server_gunicorn.conf.py and server_credentials_* in CREDENTIALS_DIRECTORY, if those are
there; they also say where it is, if the arguments do not.

    plan     says what an import would bring, and what is in its way; changes nothing
    import   brings it; one that was cut off is gone on with by the same command
    prove    compares the source with what the server's API gives
    undo     removes what one import has brought; `plan --import-id ID` says what that would be
    list     shows the imports that the server knows

Progress goes to standard error. The last line of standard output is a JSON object, lists in it are cut to 100 entries;
the whole is in <state>/<import id>/report.json. The exit status is 0 if all is well, 1 if it is not, and 2 for wrong
arguments; then the object has an `error`, which is one sentence. A plan of what would be refused has one, too.
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
from fitting import COUNTS
from importer import Importer
from journal import Journal
from parts import ImportFailure, Source
from planning import Options
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
    parser.add_argument("--artifact-root", default="", help="what the server's locations begin with")
    parser.add_argument("--artifact-destination", default="", help="directory or URI of the server's artifact store")
    parser.add_argument("--api", default="", help="address of the server, to prove by")
    parser.add_argument("--user", default="", help="user to log in as")
    parser.add_argument(
        "--password-file", type=Path, help="file with the password; otherwise the credential `password`"
    )
    parser.add_argument("--import-id", default="", help="of the import to undo")
    parser.add_argument("--threads", type=int, default=4, help="artifacts copied, or requests made, at once")
    given = parser.parse_args()
    if given.command in {"import", "prove"} and not given.source:
        parser.error("--source is needed.")
    if given.command in {"plan", "undo"} and not (given.import_id or given.source):
        parser.error("--source or --import-id is needed.")
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


def destination_of(given: argparse.Namespace, former: dict[str, Any]) -> Destination:
    """Return the server's store of artifacts: as the arguments say, or its settings, or as it was before.

    Raises:
        ImportFailure: Nothing says it.
    """
    root = given.artifact_root or os.environ.get("_MLFLOW_SERVER_ARTIFACT_ROOT") or former.get("artifact_root")
    uri = given.artifact_destination or os.environ.get("_MLFLOW_SERVER_ARTIFACT_DESTINATION")
    uri = uri or former.get("artifact_destination")
    if not uri:
        raise ImportFailure("Neither --artifact-destination nor the server's settings say where artifacts are.")
    return Destination(root or "mlflow-artifacts:/", uri, given.threads)


def undone(given: argparse.Namespace) -> dict[str, Any]:
    """Undo an import, or say what that would remove."""
    connection = connect("mlflow")
    journal = Journal(connection, given.import_id or identity_of(given.source))
    work = Undo(connection, journal, destination_of(given, journal.options()))
    if given.command == "plan":
        return {"import_id": journal.identity, "counts": work.plan()}
    journal.lock()
    work.run()
    for name in ("source.db", "source.json"):
        (given.state / journal.identity / name).unlink(missing_ok=True)
    return {"import_id": journal.identity, "removed": work.removed, "kept": work.kept, "complete": True}


def planned(given: argparse.Namespace) -> tuple[Importer, dict[str, Any]]:
    """Look at the source and the server.

    Returns:
        The import, and a report of it that has an error if it cannot be.
    """
    identity = identity_of(given.source)
    source = open_source(given, identity)
    options = Options(given.on_conflict, given.malformed == "set-aside", given.owner, datetime.now(UTC))
    importer = Importer(source, destination_of(given, {}), options, identity)
    if given.command == "import":
        importer.journal.lock()
    if importer.journal.state() == "undoing":
        identity = importer.journal.identity
        raise ImportFailure(f"The import {identity} is being undone; undo it to the end before it is started again.")
    survey = importer.look()
    bad = [each.told() for each in importer.bad.values()]
    report = {
        "import_id": importer.journal.identity,
        "counts": {name: survey.counts[name] for name in COUNTS},
        "bytes": survey.bytes,
        "runs_without_artifacts": survey.runs_without_artifacts,
        "conflicts": survey.conflicts,
        "malformed": bad,
        "set_aside": len(bad) if options.set_aside else 0,
        "experiment_ids": {key: goal.new for key, goal in survey.goals.items()},
        "renamed": survey.renamed,
        "already": dict(survey.already),
        "grown": survey.grown,
        "not_imported": source.left(),
    }
    if survey.conflicts:
        are_names = survey.names_taken == len(survey.conflicts)
        report["error"] = (
            f"{len(survey.conflicts)} in conflict with the server: {survey.conflicts[0]}"
            f"{' Set on_conflict=merge or on_conflict=rename to import it all the same.' if are_names else ''}"
        )
    elif bad and not options.set_aside:
        report["error"] = (
            f"{len(bad)} malformed in the source, such as {bad[0]['path']}: {bad[0]['reason']}. "
            "Correct the source, or set malformed=set_aside to import the rest."
        )
    return importer, report


def imported(given: argparse.Namespace, importer: Importer, report: dict[str, Any]) -> dict[str, Any]:
    """Import what was planned."""
    options = {name: getattr(given, name) for name in ("on_conflict", "malformed", "owner")}
    options |= {"artifact_root": importer.destination.root, "artifact_destination": importer.destination.uri}
    with told_of("mlflow"):
        importer.journal.begin(str(given.source.resolve()), options)
        importer.connection.commit()
    importer.run()
    bad = [each.told() for each in importer.bad.values()]
    return report | {
        "experiment_ids": {key: goal.new for key, goal in importer.survey.goals.items()},
        "imported": {name: importer.imported[name] for name in COUNTS},
        # Points that a file of metrics has twice: the server has one of them.
        "repeated": importer.imported["repeated"],
        "left": importer.left,
        "malformed": bad,
        "set_aside": len(bad),
        "complete": True,
    }


def proved(given: argparse.Namespace, importer: Importer, report: dict[str, Any]) -> dict[str, Any]:
    """Compare the source with the server's API."""
    from proof import Proof

    log_in(given)
    proof = Proof(importer, given.api, given.threads)
    report["proof"] = proof.run()
    report |= {"different": proof.different, "not_by_api": dict(proof.hidden), "refused_names": sorted(proof.refused)}
    report["complete"] = not proof.different and all(each["equal"] for each in report["proof"].values())
    if not report["complete"]:
        example = (proof.different or ["a checksum"])[0].rstrip(".")
        report["error"] = f"Not all of it is on the server: {len(proof.different)} differ, such as {example}."
    return report


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Do what was asked for. Returns the report, with an error if not all is well."""
    if given.command == "list":
        return listed()
    settings()
    if given.command == "undo" or not given.source:
        return undone(given)
    importer, report = planned(given)
    # A conflict keeps an import from being, and not what it has brought from being compared.
    if given.command == "plan" or ("error" in report and given.command == "import"):
        return report
    return (imported if given.command == "import" else proved)(given, importer, report)


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
    try:
        report |= run(given)
    except ImportFailure as error:
        report["error"] = str(error)
    status = 1 if "error" in report else 0
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
