"""Move MLflow's artifacts from one store to another while the server works.

usage: python move_artifacts plan|copy|verify|rewrite [options]

Run with the Python of a release, as the server's user. The two stores may take different credentials: in
CREDENTIALS_DIRECTORY are settings and credentials of a server that uses the one (from_*) and of one that uses the other
(to_*).

    plan     says what a copy would do, and a rewrite if --root is given; changes nothing
    copy     copies what is missing at the target, in passes until one finds nothing new
    verify   compares both stores by count and checksum
    rewrite  counts, or with --apply rewrites, the artifact locations in the database of PGSERVICEFILE's section mlflow

Progress goes to standard error. The last line of standard output is a JSON object. The exit status is 0 if all is well,
1 if it is not, and 2 for wrong arguments; then the object has an `error`, which is one sentence.
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
from pathlib import Path
from typing import Any

from manifest import Manifest, Turn, name_of
from mover import WRONG, Mover, say
from stores import MoveError, ObjectError, Store, open_store

PASSES = 10


def arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["plan", "copy", "verify", "rewrite"])
    parser.add_argument("--from", dest="source", help="URI of the store to move from")
    parser.add_argument("--to", dest="target", help="URI of the store to move to")
    parser.add_argument("--state", type=Path, help="directory of the manifests")
    parser.add_argument("--threads", type=int, default=4, help="objects moved at once")
    parser.add_argument("--passes", type=int, default=PASSES, help="passes at most")
    parser.add_argument(
        "--final", action="store_true", help="the server uses the target by now: what it wrote there counts"
    )
    parser.add_argument("--read-back", action="store_true", help="verify: read every object of the target")
    parser.add_argument(
        "--root", nargs=2, action="append", default=[], metavar=("FROM", "TO"), help="root of locations to rewrite"
    )
    parser.add_argument("--apply", action="store_true", help="rewrite, and do not only count")
    given = parser.parse_args()
    if given.command != "rewrite" and not (given.source and given.target and given.state):
        parser.error("--from, --to and --state are needed.")
    if given.command == "rewrite" and not (given.root and (given.state or not given.apply)):
        parser.error("--root is needed, and --state to apply it.")
    if not 1 <= given.threads <= 64 or given.passes < 1:
        parser.error("--threads takes a number from 1 to 64, --passes one from 1.")
    return given


def settings(side: str) -> dict[str, str]:
    """Return the variables that a server has which uses one of the stores.

    Its settings and its credentials are among the credentials of this process, as systemd loads them from a directory:
    <side>_gunicorn.conf.py and <side>_credentials_*. The settings are evaluated as gunicorn does it; without them, the
    variables are those of this process.

    Args:
        side: "from" or "to".

    Raises:
        MoveError: They cannot be evaluated.
    """
    own = dict(os.environ)
    credentials = Path(own.get("CREDENTIALS_DIRECTORY", "/nonexistent"))
    path = credentials / f"{side}_gunicorn.conf.py"
    if not path.is_file():
        return own
    # Named as the server's unit names them. A key file has to be there as long as it is used.
    named = Path(tempfile.mkdtemp(prefix="move-"))
    atexit.register(shutil.rmtree, named, ignore_errors=True)
    for credential in credentials.glob(f"{side}_credentials_*"):
        (named / f"mlflow_{credential.name.removeprefix(f'{side}_credentials_')}").symlink_to(credential)
    os.environ |= {"CREDENTIALS_DIRECTORY": str(named), "RUNTIME_DIRECTORY": str(named), "INVOCATION_ID": "move"}
    try:
        runpy.run_path(str(path))
        found = dict(os.environ)
    except Exception as error:
        raise MoveError(f"The settings of the store to move {side} cannot be read: {error!r}.") from error
    finally:
        os.environ.clear()
        os.environ.update(own)
    # Whom the host trusts is the same for both, and not every library can be told for each.
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        if name in found:
            os.environ[name] = found[name]
    return found


def open_both(given: argparse.Namespace) -> tuple[Store, Store]:
    """Return the two stores.

    Raises:
        ValueError: A URI is malformed, or one store lies inside the other.
        MoveError: A store cannot be used.
    """
    source, target = open_store(given.source, settings("from")), open_store(given.target, settings("to"))
    shorter, longer = sorted((source.place, target.place), key=len)
    if longer[: len(shorter)] == shorter:
        how = "are the same store" if len(shorter) == len(longer) else "lie inside each other"
        raise ValueError(f"{source.uri} and {target.uri} {how}; a move takes two places that have nothing in common.")
    return source, target


def locations(given: argparse.Namespace) -> dict[str, Any]:
    """Count or rewrite the locations in the database."""
    from locations import Locations  # a move between stores needs no database

    # Two servers of one name have the same locations.
    pairs = [(old, new) for old, new in given.root if old.rstrip("/") != new.rstrip("/")]
    known = Locations("mlflow", pairs)
    if given.command != "rewrite" or not given.apply:
        return known.count()
    # Their locations are rewritten now; only this tells later that their clients know the former ones.
    told = given.state / f"told-{hashlib.sha256(repr(pairs).encode()).hexdigest()[:12]}.json"
    former = json.loads(told.read_text()) if told.exists() else []
    report = known.apply(former)
    given.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    told.write_text(json.dumps(report.pop("active")))
    return report


def run(given: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Do what was asked for.

    Returns:
        The report, and whether all is well.
    """
    if given.command == "rewrite":
        return locations(given), True
    source, target = open_both(given)
    directory = given.state / name_of(source, target)
    opposite = given.state / name_of(target, source) / "manifest.sqlite"
    if given.command == "plan":
        known = Manifest(None, directory / "manifest.sqlite")
        known.learn(opposite)
        planned = Mover(source, target, known, given.threads, final=given.final).plan()
        return planned | (locations(given) if given.root else {}), True
    turn = Turn(directory)
    if turn.waited:
        say(f"waited {turn.waited:.0f} s for another run of this move")
    manifest = Manifest(directory)
    manifest.learn(opposite)
    mover = Mover(source, target, manifest, given.threads, final=given.final)
    try:
        if given.command == "copy":
            report = mover.copy(given.passes)
            return report, report["failed"]["objects"] == 0
        report = mover.verify(read_back=given.read_back)
        # Nothing is ever removed at the source.
        report["remove_source_by"] = source.removal
        (directory / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        return report, bool(report["complete"])
    finally:
        manifest.close()
        turn.end()


def peak_memory() -> int:
    """Return the most memory that this process had, in MiB."""
    # Not getrusage, which counts what the process that started this one had.
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


def main() -> int:
    """Run a command. Returns the exit status."""
    given = arguments()
    # As the server's unit has it: artifacts are nobody else's.
    os.umask(0o077)
    begun = time.monotonic()
    report: dict[str, Any] = {"command": given.command}
    if given.command != "rewrite":
        report |= {"from": given.source, "to": given.target, "final": given.final}
    status = 1
    try:
        found, well = run(given)
        report |= found
        if well:
            status = 0
        else:
            report["error"] = shortcoming(report)
    except ValueError as error:
        report["error"], status = str(error), 2
    except (MoveError, ObjectError) as error:
        report["error"] = str(error)
    report |= {"seconds": round(time.monotonic() - begun, 1), "peak_memory_mb": peak_memory()}
    print(json.dumps(report))
    if status:
        say(report["error"])
    return status


def shortcoming(report: dict[str, Any]) -> str:
    """Return in one sentence what is not at the target."""
    wrong = [name for name in ("failed", *WRONG) if report.get(name, {}).get("objects")]
    counts = ", ".join(f"{report[name]['objects']} {name}" for name in wrong)
    example = str(next(iter(report[wrong[0]]["keys"]), "")).rstrip(".")
    return f"Not all of {report['from']} is at {report['to']}: {counts}; such as {example}."


if __name__ == "__main__":
    sys.exit(main())
