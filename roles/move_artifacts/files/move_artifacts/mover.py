"""Copies what one store has to another, and verifies that it is there."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

from manifest import Manifest, State
from stores import ChangedError, Item, MoveError, NoStoreError, ObjectError, Store, parts_of

# Keys named in a report; the rest is counted.
NAMED_MAX = 20
# Objects that may fail before a run is given up: by then it is the store, and not the object.
FAILURES_MAX = 20
# Tries to move an object, beside those of the stores' own libraries.
TRIES = 3
PROGRESS_SECONDS = 10
# What keeps a move from being complete: objects that the target lacks, has in a former version, has otherwise than they
# were copied, or does not let be read.
WRONG = ("missing", "outdated", "mismatches", "unreadable")
# What may vanish from the source between two runs before it is held for a mistake, such as a source that was cleared.
REMOVED_SHARE, REMOVED_LEAST = 0.1, 10

T = TypeVar("T")
R = TypeVar("R")


class Task(enum.Enum):
    """What is to be done with a key."""

    NONE = "none"
    COPY = "copy"
    # The target has an object of this key that this move knows nothing of.
    COMPARE = "compare"
    # What the server has written or removed at the target since it uses it.
    KEEP = "keep"
    # It was copied, and the source has it no more.
    REMOVE = "remove"
    # Only the target has it, and it is not of this move.
    FOREIGN = "foreign"


def task_for(state: State, *, final: bool) -> Task:
    """Decide what to do with a key.

    Args:
        state: What is known of it.
        final: Whether the server uses the target by now.
    """
    source, target, moved = state.source, state.target, state.moved
    if source is None:
        if moved is None:
            return Task.FOREIGN
        if target is None:
            return Task.NONE
        return Task.REMOVE if final and moved.written and state.untouched else Task.FOREIGN
    if state.current and state.untouched:
        return Task.NONE
    if target is None:
        # What was copied and is gone has been removed by the server, if it uses the target.
        return Task.KEEP if final and state.current else Task.COPY
    if moved is None:
        return Task.KEEP if final and target.not_before(source) else Task.COMPARE
    if state.untouched:
        return Task.COPY
    if state.current:
        # The server has written it since: it uses the target, or used it before somebody went back.
        return Task.KEEP
    if not moved.from_version:
        # Cut off before it was noted: it may be whole.
        return Task.COMPARE
    return Task.KEEP if target.not_before(source) else Task.COPY


class KeptError(Exception):
    """The target has another object, which the server wrote there after the source's was written."""


@dataclass
class Moved:
    """How the move of one object ended."""

    item: Item
    sha256: str
    to_version: str
    how: str
    # Whether this move wrote it, now or in a run that was cut off.
    own: bool
    found: bool = False


@dataclass
class Tally:
    """Counts objects by what happened to them, and names the first of them."""

    objects: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, key: str, size: int = 0, reason: str = "") -> None:
        """Count an object.

        Args:
            what: What happened to it.
            key: Its key.
            size: Its size.
            reason: Why, for the list of names.
        """
        self.objects[what] += 1
        self.bytes[what] += size
        names = self.named.setdefault(what, [])
        if len(names) < NAMED_MAX:
            shown = key.encode("utf-8", "backslashreplace").decode()
            names.append(f"{shown}: {reason}" if reason else shown)

    def report(self, counted: Iterable[str], named: Iterable[str]) -> dict[str, Any]:
        """Return counts of some, and of others the names too.

        Args:
            counted: What to count.
            named: What to name besides.
        """
        return {
            **{what: {"objects": self.objects[what], "bytes": self.bytes[what]} for what in counted},
            **{what: {"objects": self.objects[what], "keys": self.named.get(what, [])} for what in named},
        }


class Digests:
    """Takes the checksums of what passes by: SHA-256, and MD5 to compare with stores that make no other."""

    def __init__(self) -> None:
        """Begin."""
        self._digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}

    def through(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        """Pass parts on."""
        for part in parts:
            for digest in self._digests.values():
                digest.update(part)
            yield part

    def __getitem__(self, algorithm: str) -> str:
        """Return a checksum in hexadecimal digits."""
        return self._digests[algorithm].hexdigest()


class Progress:
    """Says now and then on standard error how far it is.

    Args:
        what: What is being done.
    """

    def __init__(self, what: str) -> None:
        """Begin."""
        self.what, self.begun, self.said = what, time.monotonic(), time.monotonic()
        self.objects = self.bytes = 0

    def seconds(self) -> float:
        """Return how long it has taken."""
        return time.monotonic() - self.begun

    def add(self, size: int) -> None:
        """Count an object."""
        self.objects, self.bytes = self.objects + 1, self.bytes + size
        if time.monotonic() - self.said >= PROGRESS_SECONDS:
            self.said = time.monotonic()
            rate = self.bytes / 1e6 / (self.said - self.begun)
            say(f"{self.what}: {self.objects} objects, {self.bytes / 1e6:.0f} MB, {rate:.0f} MB/s")


def say(text: str) -> None:
    """Write a line for who watches."""
    with contextlib.suppress(OSError):  # nobody may be left to read it
        print(text, file=sys.stderr, flush=True)


class Mover:
    """Moves the objects of one store to another.

    Args:
        source: Where they are.
        target: Where they go.
        manifest: What was done before.
        threads: Objects moved at once.
        final: Whether the server uses the target by now.
    """

    def __init__(self, source: Store, target: Store, manifest: Manifest, threads: int = 4, *, final: bool) -> None:
        """Prepare."""
        self.source, self.target, self.manifest = source, target, manifest
        self.threads, self.final = threads, final
        self.tally = Tally()
        self.how: Counter[str] = Counter()
        target.begun, target.ended = manifest.upload_begun, manifest.upload_ended
        self._stop = threading.Event()

    # Plan

    def plan(self) -> dict[str, Any]:
        """Say what a copy would do."""
        found = self._list_both()
        for state in self.manifest.states():
            task = task_for(state, final=self.final)
            item = state.source or state.target
            if item:
                name = {Task.NONE: "there", Task.COPY: "to_copy", Task.COMPARE: "to_compare", Task.KEEP: "kept"}
                name |= {Task.REMOVE: "to_remove", Task.FOREIGN: "foreign"}
                self.tally.add(name[task], state.key, item.size)
        return found | self.tally.report(["to_copy", "to_compare", "there", "kept"], ["to_remove", "foreign"])

    def _list_both(self) -> dict[str, Any]:
        found = {}
        for side, store in (("from", self.source), ("to", self.target)):
            begun = time.monotonic()
            objects, size = self.manifest.note(side, self._listed(store, side))
            say(f"{store.uri}: {objects} objects, {size / 1e6:.0f} MB, listed in {time.monotonic() - begun:.0f} s")
            found["source" if side == "from" else "target"] = {"objects": objects, "bytes": size}
        return found

    def _listed(self, store: Store, side: str) -> Iterator[Item]:
        try:
            yield from store.items()
        except NoStoreError:
            # What is to be filled need not exist yet: writing to it will tell.
            if side == "from":
                raise

    # Copy

    def copy(self, passes: int) -> dict[str, Any]:
        """Copy until nothing new is found.

        Args:
            passes: Passes at most; a source that is written to all the time is never done with.

        Returns:
            The report.

        Raises:
            MoveError: A store cannot be used.
        """
        self.target.clean(self.manifest.uploads())
        self._list_both()
        done = settled = 0
        while done < passes and not settled:
            if done:
                self.manifest.note("from", self.source.items())
            done += 1
            settled = int(self._pass(done) == 0)
        return {
            "passes": done,
            "settled": bool(settled),
            **self.tally.report(["copied", "found_there", "kept"], ["changed_meanwhile", "removed", "left", "failed"]),
            "verified_by": dict(self.how),
        }

    def _pass(self, number: int) -> int:
        """Do one pass; return the number of objects that were not as they should be."""
        progress = Progress(f"pass {number}")
        copied_before = self.tally.objects["copied"]
        work = 0
        # What a pass could not do is tried in every pass, and counted once.
        for what in ("failed", "kept", "changed_meanwhile", "left"):
            self.tally.objects[what] = self.tally.bytes[what] = 0
            self.tally.named.pop(what, None)

        def tasks() -> Iterator[tuple[State, Task]]:
            nonlocal work
            for state in self.manifest.states():
                task = task_for(state, final=self.final)
                if task in {Task.COPY, Task.COMPARE}:
                    work += 1
                    yield state, task
                elif task is Task.KEEP and state.source:
                    self.tally.add("kept", state.key, state.source.size)

        for (state, _), moved, error in in_parallel(self._move, tasks(), self.threads, self._stop):
            progress.add(state.source.size if state.source else 0)
            if isinstance(error, ObjectError):
                self.tally.add("failed", state.key, reason=str(error))
                if self.tally.objects["failed"] >= FAILURES_MAX:
                    self._stop.set()
                    raise MoveError(f"Given up after {FAILURES_MAX} objects; the last was {state.key!r}: {error}")
            elif isinstance(error, ChangedError):
                self.tally.add("changed_meanwhile", state.key)
            elif isinstance(error, KeptError) and state.source:
                self.manifest.kept(state.source)
            elif error:
                self._stop.set()
                raise error
            elif moved:
                self._note(moved)
        if self.final:
            self._remove()
        copied = self.tally.objects["copied"] - copied_before
        say(f"pass {number}: {copied} objects copied in {progress.seconds():.0f} s")
        return work - self.tally.objects["failed"]

    def _note(self, moved: Moved) -> None:
        self.manifest.done(moved.item, moved.to_version, moved.sha256, moved.how, written=moved.own)
        self.manifest.arrived(Item(moved.item.key, moved.item.size, moved.to_version, time.time()))
        self.how[moved.how] += 1
        self.tally.add("found_there" if moved.found else "copied", moved.item.key, moved.item.size)

    def _move(self, task: tuple[State, Task]) -> Moved | None:
        """Move one object, with bounded tries. Runs in a thread."""
        state, what = task
        item = state.source
        if item is None:
            return None
        for attempt in range(1, TRIES + 1):
            try:
                if what is Task.COMPARE:
                    found = self._compare(item, state)
                    if found:
                        return found
                return self._copy(item, state)
            except ObjectError as error:
                if error.lasting or attempt == TRIES or self._stop.wait(4.0 ** (attempt - 1)):
                    raise
        return None

    def _compare(self, item: Item, state: State) -> Moved | None:
        """Take what the target has already, if it is the same."""
        there = state.target
        own = state.moved is not None
        if there and there.size == item.size:
            digests = Digests()
            for _ in digests.through(parts_of(self.source, item, self.target.part_size(item.size))):
                pass
            algorithm, checksum, how = self._checksum(there)
            if digests[algorithm] == checksum:
                return Moved(item, digests["sha256"], there.version, how, own, found=True)
        if not own and not self.final:
            raise ObjectError("the target has another object of this key, which is not of this move", lasting=True)
        if own and self.final and there and there.not_before(item):
            raise KeptError(item.key)
        return None

    def _copy(self, item: Item, state: State) -> Moved | None:
        digests = Digests()
        expected = state.target.version if state.target else None

        def wanted() -> bool:
            if self._stop.is_set():
                return False
            if not self.final:
                return True
            # The server may have written it while it was on its way.
            now = self.target.find(item.key)
            return (now.version if now else None) == expected

        self.manifest.writing(item.key, item.size)
        parts = parts_of(self.source, item, self.target.part_size(item.size))
        receipt = self.target.write(item.key, item.size, digests.through(self._until_stopped(parts)), wanted)
        if receipt is None:
            self.manifest.restore(item.key, state.moved, self.target.find(item.key))
            raise ChangedError(item.key)
        algorithm, checksum, how = (receipt.checksum and (*receipt.checksum, "checksum of the store")) or (
            self._checksum(Item(item.key, item.size, receipt.version, 0))
        )
        if digests[algorithm] != checksum:
            self.manifest.again(item.key, receipt.version)
            raise ObjectError("what the target holds differs from what was sent")
        return Moved(item, digests["sha256"], receipt.version, how, own=True)

    def _until_stopped(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        for part in parts:
            if self._stop.is_set():
                raise ObjectError("the run was given up", lasting=True)
            yield part

    def _checksum(self, there: Item, *, by_reading: bool = False) -> tuple[str, str, str]:
        """Return algorithm and checksum of an object at the target, and where the checksum is from."""
        known = None if by_reading else self.target.checksum(there)
        if known:
            return *known, "checksum of the store"
        digests = Digests()
        for _ in digests.through(self._until_stopped(parts_of(self.target, there, self.target.part_size(0)))):
            pass
        return "sha256", digests["sha256"], "reading back"

    def _remove(self) -> None:
        """Remove from the target what this move wrote and the source has no more, unless that is suspiciously much."""
        gone = [s for s in self.manifest.states() if task_for(s, final=True) is Task.REMOVE]
        limit = max(REMOVED_LEAST, int(REMOVED_SHARE * self.manifest.written()))
        if len(gone) > limit or self.manifest.fact("complete") or not self.manifest.listed("from"):
            for state in gone:
                self.tally.add("left", state.key)
            return
        for state in gone:
            try:
                # The server may have written it since it was listed, which for many objects is long ago.
                if not same_writing(self.target.find(state.key), state.target):
                    self.tally.add("left", state.key)
                    continue
                self.target.remove(state.key)
            except ObjectError as error:
                self.tally.add("failed", state.key, reason=str(error))
                continue
            self.manifest.forget(state.key)
            self.tally.add("removed", state.key)

    # Verify

    def verify(self, *, read_back: bool) -> dict[str, Any]:
        """Compare both stores by count and checksum.

        Args:
            read_back: Read every object of the target, where else an unchanged version at a store that gives each
                content a version of its own is taken for unchanged content.
        """
        found = self._list_both()
        progress = Progress("verify")

        def tasks() -> Iterator[State]:
            for state in self.manifest.states():
                if state.source is None:
                    if state.target:
                        self.tally.add("left" if state.moved else "foreign", state.key)
                elif not state.current:
                    kept = task_for(state, final=self.final) is Task.KEEP
                    lacking = "outdated" if state.target else "missing"
                    self.tally.add("written_since" if kept else lacking, state.key)
                elif state.target is None:
                    self.tally.add("removed_since" if self.final else "missing", state.key)
                    if not self.final:
                        self.manifest.again(state.key)
                elif state.untouched and self.target.versions_prove_content and not read_back:
                    self.how["version of the store"] += 1
                    self.tally.add("same", state.key, state.source.size)
                else:
                    yield state

        def compare(state: State) -> tuple[bool, str]:
            if state.target is None or state.moved is None or state.target.size != state.moved.size:
                return False, "size"
            algorithm, checksum, how = self._checksum(state.target, by_reading=read_back)
            if algorithm != "sha256":
                _, checksum, how = self._checksum(state.target, by_reading=True)
            return checksum == state.moved.sha256, how

        for state, compared, error in in_parallel(compare, tasks(), self.threads, self._stop):
            size = state.source.size if state.source else 0
            progress.add(size)
            if isinstance(error, ChangedError):
                self.tally.add("written_since" if self.final else "mismatches", state.key)
            elif isinstance(error, ObjectError):
                self.tally.add("unreadable", state.key, reason=str(error))
            elif error:
                self._stop.set()
                raise error
            elif compared and compared[0]:
                self.how[compared[1]] += 1
                self.tally.add("same", state.key, size)
            elif self.final and not state.untouched:
                self.tally.add("written_since", state.key)
            else:
                self.tally.add("mismatches", state.key)
                self.manifest.again(state.key)
        complete = not any(self.tally.objects[what] for what in WRONG)
        if complete and self.final:
            self.manifest.set_fact("complete", "yes")
        return {
            "complete": complete,
            **found,
            **self.tally.report(["same"], [*WRONG, "written_since", "removed_since", "left", "foreign"]),
            "verified_by": dict(self.how),
        }


def same_writing(one: Item | None, other: Item | None) -> bool:
    """Say whether two looks at an object saw what was written at the same time.

    A version may be made of the content alone, and not every answer of a store has fractions of a second.
    """
    if one is None or other is None:
        return False
    return one.version == other.version and int(one.modified) == int(other.modified)


def in_parallel(
    function: Callable[[T], R], items: Iterable[T], threads: int, stop: threading.Event
) -> Iterator[tuple[T, R | None, Exception | None]]:
    """Run a function for many items in some threads, holding few of the items at a time.

    Args:
        function: Runs in a thread.
        items: Its arguments; asked for from the calling thread.
        threads: How many run at once.
        stop: Set when the threads shall end early.

    Yields:
        Item, result and error, in the order in which they end.
    """
    with ThreadPoolExecutor(threads) as pool:
        running: dict[Future[R], T] = {}
        source = iter(items)
        exhausted = False
        try:
            while running or not exhausted:
                while not exhausted and len(running) < 2 * threads:
                    try:
                        item = next(source)
                    except StopIteration:
                        exhausted = True
                    else:
                        running[pool.submit(function, item)] = item
                if running:
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        item, error = running.pop(future), future.exception()
                        if error is not None and not isinstance(error, Exception):
                            raise error
                        yield item, None if error else future.result(), error
        except BaseException:
            stop.set()
            for future in running:
                future.cancel()
            raise
