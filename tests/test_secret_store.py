"""The contract of a store of secrets, kept by every provider: each test runs against each `secret_store_*` there is."""

import datetime
import itertools
import os
import re
import socket
import string
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils import secret_store as base
from tests.stores import NAMES, PROVIDERS, Backend, CutOff, KeyVault

Result = dict[str, Any]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
NOTHING = {"current": None, "pending": None, "previous": None}


def at_once(*calls: Callable[[], Result]) -> list[Result]:
    """Do things at the same time and return what each came to."""
    barrier, results = threading.Barrier(len(calls)), dict[int, Result]()

    def run(number: int, call: Callable[[], Result]) -> None:
        barrier.wait()
        results[number] = call()

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[number] for number in range(len(calls))]


def value_of(result: Result, name: str = "admin", stage: str = "current") -> str:
    return str(result["secrets"][name][stage]["value"])


def test_the_providers_that_there_are_were_found() -> None:
    assert {"generated", "aws_ssm", "azure_key_vault"} <= set(PROVIDERS)


# Reading and making


def test_what_is_missing_is_told_and_not_made(backend: Backend) -> None:
    before = backend.written()
    result = backend.done("read", NAMES)
    assert result["secrets"] == {"admin": NOTHING, "database_login": NOTHING}
    assert (result["changed"], result["created"], backend.written()) == (False, [], before)


def test_what_somebody_else_gives_is_asked_for_and_never_made(backend: Backend) -> None:
    before = backend.written()
    result = backend.run("create", NAMES | {"store_key": {"given": True}})
    assert [problem.split(" not in ")[0] for problem in result["problems"]] == ["store_key:"]
    assert backend.written() == before
    backend.bring("store_key", "given-by-somebody-else")
    assert value_of(backend.done("create", {"store_key": {"given": True}}), "store_key") == "given-by-somebody-else"


def test_what_is_missing_is_made_with_its_length_and_prefix_once(backend: Backend) -> None:
    first = backend.done("create", NAMES)
    assert (first["changed"], first["created"]) == (True, ["admin", "database_login"])
    assert set(value_of(first)) <= set(string.ascii_letters + string.digits)
    assert len(value_of(first)) == 32
    assert re.fullmatch("mlflow_a:[A-Za-z0-9]{20}", value_of(first, "database_login"))

    written = backend.written()
    second = backend.done("create", NAMES)
    assert (second["changed"], second["created"]) == (False, [])
    assert second["secrets"] == first["secrets"] == backend.done("read", NAMES)["secrets"]
    assert backend.written() == written


def test_a_version_has_a_name_and_a_time(backend: Backend) -> None:
    result = backend.done("create", {"admin": {}})
    current = result["secrets"]["admin"]["current"]
    assert set(current) == {"value", "version", "created"}
    assert current["version"]
    assert TIME.fullmatch(current["created"])
    age = datetime.datetime.now(datetime.UTC) - base.moment(current["created"])
    assert abs(age) < datetime.timedelta(minutes=5)
    assert result["versions"] == {"admin": {k: v for k, v in current.items() if k != "value"} | {"previous": None}}


def test_a_secret_of_ones_own_is_kept(backend: Backend) -> None:
    backend.bring("admin", "{{correct-horse}}'battery\n")
    result = backend.done("create", NAMES)
    assert value_of(result) == "{{correct-horse}}'battery"
    assert result["created"] == ["database_login"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("fifteen-letters", "holds 15 characters; write a secret of at least 16 into it"),
        ("seventeen-letters and-more", "holds more than one word of printable ASCII"),
        ("siebzehn-zeichen-ä", "holds more than one word of printable ASCII"),
    ],
)
def test_what_is_no_secret_is_refused_and_not_shown(backend: Backend, content: str, sentence: str) -> None:
    backend.bring("database_login", content)
    before = backend.written()
    result = backend.run("create", NAMES)
    (problem,) = result["problems"]
    assert sentence in problem
    assert re.search("database.login", problem)
    assert content not in problem
    assert result["secrets"] == {}
    assert backend.written() == before, "something was made although the run must stop"


def test_two_who_make_a_secret_at_once_get_the_same(backend: Backend) -> None:
    if isinstance(backend, KeyVault):
        backend.patch.undo()  # it has to wait as it does in earnest
        backend = KeyVault(backend.patch, backend.cloud)
    results = at_once(*[lambda: backend.run("create", NAMES)] * 3)
    assert [result["problems"] for result in results] == [[], [], []]
    assert len({str(result["secrets"]) for result in results}) == 1
    assert results[0]["secrets"] == backend.done("read", NAMES)["secrets"]


def test_the_value_of_one_who_was_faster_is_used(backend: Backend) -> None:
    def make_late(wish: object) -> str:
        backend.bring("admin", "correct-horse-battery")
        return "m" * 32

    backend.patch.setattr(base, "new_value", make_late)
    assert value_of(backend.done("create", {"admin": {}})) == "correct-horse-battery"
    assert value_of(backend.done("read", {"admin": {}})) == "correct-horse-battery"


# Rotation


def test_a_pending_value_is_made_and_the_current_one_stays(backend: Backend) -> None:
    made = backend.done("create", NAMES)
    result = backend.done("pend", NAMES)
    assert result["changed"]
    for name in NAMES:
        stages = result["secrets"][name]
        assert stages["current"] == made["secrets"][name]["current"]
        assert stages["pending"]["value"] != stages["current"]["value"]
        assert stages["pending"]["version"] != stages["current"]["version"]
        assert len(stages["pending"]["value"]) == len(stages["current"]["value"])
        assert TIME.fullmatch(stages["pending"]["created"])
    assert value_of(result, "database_login", "pending").startswith("mlflow_a:")


def test_a_pending_value_of_a_rotation_that_was_cut_off_is_taken_up(backend: Backend) -> None:
    backend.done("create", NAMES)
    first = backend.done("pend", {"admin": {}})
    written = backend.written()
    assert not backend.done("pend", {"admin": {}})["changed"]
    assert backend.written() == written
    second = backend.done("pend", NAMES)
    assert second["secrets"]["admin"] == first["secrets"]["admin"]
    assert second["changed"]


@pytest.mark.parametrize("history", [False, True])
def test_a_reader_is_told_of_a_pending_value_and_gets_the_current_one(backend: Backend, history: bool) -> None:
    made = backend.done("create", NAMES)
    pending = backend.done("pend", {"admin": {}})
    read = backend.done("read", NAMES, history=history)
    assert read["secrets"]["admin"]["current"] == made["secrets"]["admin"]["current"]
    assert read["secrets"]["admin"]["pending"] == pending["secrets"]["admin"]["pending"]
    assert read["secrets"]["database_login"] == made["secrets"]["database_login"]


def test_nothing_is_pending_for_a_secret_that_does_not_exist(backend: Backend) -> None:
    backend.bring("admin", "correct-horse-battery")
    before = backend.written()
    (problem,) = backend.run("pend", NAMES)["problems"]
    assert problem.startswith("database_login: no current value to rotate in ")
    assert backend.written() == before


def test_promotion_puts_the_pending_value_in_force(backend: Backend) -> None:
    backend.done("create", NAMES)
    pending = backend.done("pend", NAMES)["secrets"]
    result = backend.done("promote", NAMES)
    assert result["changed"]
    for name in NAMES:
        old = pending[name]["current"]
        assert result["secrets"][name] == {
            "current": pending[name]["pending"],
            "pending": None,
            "previous": {"version": old["version"], "created": old["created"]},
        }
    assert result["versions"]["admin"]["previous"]["version"] == pending["admin"]["current"]["version"]
    assert value_of(backend.done("read", NAMES)) == value_of(result)


def test_discarding_drops_the_pending_value_alone(backend: Backend) -> None:
    made = backend.done("create", NAMES)
    backend.done("pend", NAMES)
    result = backend.done("discard", NAMES)
    assert result["changed"]
    assert result["secrets"] == made["secrets"]
    assert backend.done("read", NAMES)["secrets"] == made["secrets"]


@pytest.mark.parametrize("operation", ["promote", "discard"])
def test_without_a_pending_value_there_is_nothing_to_end(backend: Backend, operation: str) -> None:
    backend.done("create", NAMES)
    for _ in range(2):
        written = backend.written()
        result = backend.done(operation, NAMES)
        assert not result["changed"]
        assert backend.written() == written
        backend.done("pend", NAMES)
        backend.done(operation, NAMES)


def test_rotations_follow_each_other(backend: Backend) -> None:
    values = [value_of(backend.done("create", {"admin": {}}))]
    for end in ("promote", "discard", "promote", "discard", "discard"):
        before = backend.secret()
        pending = value_of(backend.done("pend", {"admin": {}}), stage="pending")
        assert pending not in values
        values.append(pending)
        after = backend.done(end, {"admin": {}})
        assert value_of(after) == (pending if end == "promote" else before["current"]["value"])
        kept = before["current"] if end == "promote" else before["previous"]
        assert (after["secrets"]["admin"]["previous"] or {}).get("version") == (kept or {}).get("version")
        assert after["secrets"]["admin"]["pending"] is None


def test_a_secret_that_somebody_brought_is_rotated_as_well(backend: Backend) -> None:
    backend.bring("admin", "correct-horse-battery")
    pending = value_of(backend.done("pend", {"admin": {}}), stage="pending")
    assert value_of(backend.done("read", {"admin": {}})) == "correct-horse-battery"
    assert value_of(backend.done("promote", {"admin": {}})) == pending


@pytest.mark.parametrize("operation", ["create", "pend", "promote", "discard"])
def test_what_was_cut_off_anywhere_is_mended_by_doing_it_again(backend: Backend, operation: str) -> None:
    for count in itertools.count(1):
        name: dict[str, Any] = {f"admin_{count}": {}}
        if operation != "create":
            backend.done("create", name)
        if operation in ("promote", "discard"):
            backend.done("pend", name)
        before = backend.done("read", name, history=True)["secrets"][f"admin_{count}"]
        with pytest.MonkeyPatch.context() as patch:
            kept, backend.patch = backend.patch, patch
            backend.cut_off(count)
            try:
                backend.done(operation, name)
            except CutOff:
                was_cut = True
            else:
                was_cut = False
            backend.patch = kept

        between = backend.done("read", name)["secrets"][f"admin_{count}"]["current"]
        left = backend.done("read", name, history=True)["secrets"][f"admin_{count}"]
        assert left["previous"] is None or left["previous"]["version"] != left["current"]["version"]
        possible = [before["current"], before["pending"] if operation == "promote" else None]
        assert operation == "create" or between in [one for one in possible if one]

        backend.done(operation, name)
        after = backend.done("read", name, history=True)["secrets"][f"admin_{count}"]
        old = before["current"] and {key: before["current"][key] for key in ("version", "created")}
        if operation == "promote":
            assert after == {"current": before["pending"], "pending": None, "previous": old}
        elif operation == "discard":
            assert after == before | {"pending": None}
        elif operation == "pend":
            assert after["pending"]
            assert after == before | {"pending": after["pending"]}
        else:
            assert after["current"] and after == NOTHING | {"current": after["current"]}
        if not was_cut:
            break
    assert count > 1, "nothing was ever cut off"


def test_there_is_a_current_value_at_every_moment_of_a_rotation(backend: Backend) -> None:
    allowed = [value_of(backend.done("create", {"admin": {}}))]
    read: list[str] = []
    problems: list[str] = []
    end = threading.Event()

    def reader() -> None:
        while not end.is_set():
            result = backend.run("read", {"admin": {}})
            problems.extend(result["problems"])
            read.append(value_of(result) if result["secrets"] else "")

    thread = threading.Thread(target=reader)
    thread.start()
    try:
        for _ in range(2):
            allowed.append(value_of(backend.done("pend", {"admin": {}}), stage="pending"))
            backend.done("promote", {"admin": {}})
            discarded = value_of(backend.done("pend", {"admin": {}}), stage="pending")
            backend.done("discard", {"admin": {}})
            assert discarded not in allowed
    finally:
        end.set()
        thread.join()
    assert problems == []
    assert read
    places = [allowed.index(value) for value in read]
    assert places == sorted(places), "an old value came back"


# Lock


def test_a_lock_keeps_others_out_until_it_is_released(backend: Backend, processes: list[int]) -> None:
    one, other, *_ = processes
    taken = backend.done("lock", process=one, ttl=30)
    assert taken["changed"]
    assert re.fullmatch(rf"\S+@\S+ \(process {one}\)", taken["lock"]["owner"])
    lasts = base.moment(taken["lock"]["expires"]) - base.moment(taken["lock"]["since"])
    assert lasts == datetime.timedelta(minutes=30)

    written = backend.written()
    for operation in ("lock", "look"):
        (problem,) = backend.run(operation, process=other)["problems"]
        assert f"(process {one}) has locked the secrets in " in problem
        assert f"since {taken['lock']['since']}, until {taken['lock']['expires']}" in problem
        assert "`-e secrets_lock_break=true`" in problem
    left_alone = backend.done("unlock", process=other)
    assert (left_alone["changed"], left_alone["lock"]) == (False, taken["lock"])
    assert backend.written() == written
    assert backend.done("look", process=one)["lock"] == taken["lock"]

    assert backend.done("unlock", process=one)["changed"]
    assert not backend.done("unlock", process=one)["changed"]
    assert backend.done("look", process=other)["lock"] is None
    assert backend.done("lock", process=other)["lock"]["owner"].endswith(f"(process {other})")


def test_of_those_who_lock_at_once_one_gets_it(backend: Backend, processes: list[int]) -> None:
    if isinstance(backend, KeyVault):
        backend.patch.undo()  # it has to wait as it does in earnest
        backend = KeyVault(backend.patch, backend.cloud)
    for state in ("fresh", "released"):
        results = at_once(*[lambda pid=pid: backend.run("lock", process=pid) for pid in processes])
        winners = [pid for pid, result in zip(processes, results, strict=True) if result["problems"] == []]
        assert len(winners) == 1, state
        # Who comes a moment later to a vault may see a claim that gives way to another of the same second.
        holders = processes if isinstance(backend, KeyVault) else winners
        for result in results:
            assert result["lock"] or any(f"(process {pid}) has locked" in result["problems"][0] for pid in holders)
        assert backend.done("look", process=winners[0])["lock"]["owner"].endswith(f"(process {winners[0]})")
        backend.done("unlock", process=winners[0])
        if isinstance(backend, KeyVault):
            break  # it keeps nothing of a lock that was released


def test_of_those_who_break_a_lock_at_once_the_last_holds_it(backend: Backend, processes: list[int]) -> None:
    if isinstance(backend, KeyVault):
        backend.patch.undo()
        backend = KeyVault(backend.patch, backend.cloud)
    holder, *others = processes
    backend.done("lock", process=holder)
    results = at_once(*[lambda pid=pid: backend.run("lock", process=pid, take_over=True) for pid in others])
    # One who comes late breaks the lock of the one before.
    winners = [pid for pid, result in zip(others, results, strict=True) if result["lock"]]
    assert winners
    assert [pid for pid in winners if backend.run("look", process=pid)["problems"] == []] != []
    assert backend.run("look", process=holder)["problems"] != []


def test_a_broken_lock_is_no_longer_the_former_holders(backend: Backend, processes: list[int]) -> None:
    one, other, *_ = processes
    backend.done("lock", process=one)
    taken = backend.done("lock", process=other, take_over=True)
    assert taken["lock"]["owner"].endswith(f"(process {other})")
    assert not backend.done("unlock", process=one)["changed"]
    assert backend.run("look", process=one)["problems"]
    assert backend.done("look", process=other)["lock"] == taken["lock"]


def test_who_may_only_read_can_pass_a_lock_by(backend: Backend, processes: list[int]) -> None:
    one, other, *_ = processes
    backend.done("lock", process=one)
    written = backend.written()
    assert backend.done("look", process=other, take_over=True)["problems"] == []
    assert backend.written() == written


def test_a_holder_renews_its_lock(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    first = backend.done("lock", ttl=30)["lock"]
    time = base.now() + datetime.timedelta(minutes=20)
    monkeypatch.setattr(base, "now", lambda: time)
    second = backend.done("lock", ttl=30)["lock"]
    assert second == first | {"expires": base.stamp(time + datetime.timedelta(minutes=30))}
    assert backend.done("look")["lock"] == second
    backend.done("unlock")
    assert backend.done("look")["lock"] is None


def test_a_lock_ends_with_its_time(backend: Backend, processes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, *_ = processes
    backend.done("lock", process=one, ttl=30)
    time = base.now() + datetime.timedelta(minutes=31)
    monkeypatch.setattr(base, "now", lambda: time)
    assert backend.done("look", process=other)["lock"] is None
    assert backend.done("lock", process=other)["lock"]["owner"].endswith(f"(process {other})")
    assert backend.run("lock", process=one)["problems"]


def test_a_lock_ends_with_its_process(backend: Backend, processes: list[int]) -> None:
    dead = subprocess.Popen(["sleep", "600"])
    backend.done("lock", process=dead.pid)
    assert backend.run("look", process=processes[0])["problems"]
    dead.kill()
    dead.wait()
    assert backend.done("look", process=processes[0])["lock"] is None
    assert backend.done("lock", process=processes[0])["lock"]["owner"].endswith(f"(process {processes[0]})")


@pytest.mark.parametrize("elsewhere", ["gethostname", "machine"])
def test_of_a_process_elsewhere_nobody_knows_whether_it_is_dead(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    owner = socket if elsewhere == "gethostname" else base
    with monkeypatch.context() as patch:
        patch.setattr(owner, elsewhere, lambda: "another")
        backend.done("lock", process=dead.pid)
    assert backend.run("lock")["problems"], f"process {dead.pid} of another machine was taken for dead"


def test_a_later_process_of_the_same_number_is_another(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(base, "started", lambda process: "1")
        backend.done("lock")
    assert backend.done("look")["lock"] is None


# Check mode, options and arguments


@pytest.mark.parametrize("operation", ["create", "pend", "promote", "discard", "lock", "unlock"])
def test_check_mode_writes_nothing(backend: Backend, processes: list[int], operation: str) -> None:
    backend.done("create", {"admin": {}})
    if operation in ("promote", "discard"):
        backend.done("pend", {"admin": {}})
    if operation == "unlock":
        backend.done("lock")
    written, secrets = backend.written(), backend.secret()
    names = NAMES if operation == "create" else {"admin": {}}
    result = backend.done(operation, names, check_mode=True)
    assert backend.written() == written
    assert backend.secret() == secrets
    if operation == "create":
        assert result["created"] == ["database_login"]
        assert value_of(result) == secrets["current"]["value"]
        assert re.fullmatch("mlflow_a:[A-Za-z0-9]{20}", value_of(result, "database_login"))
    if operation in ("create", "pend", "promote", "discard"):
        assert result["changed"], "it does not tell what a run would do"
    backend.done("lock", process=processes[0], take_over=True)
    assert backend.run("lock", check_mode=True)["problems"], "it does not tell what a run would meet"


def test_options_are_checked_before_anything_else(backend: Backend) -> None:
    good = dict(backend.options)
    wrong: list[tuple[dict[str, Any], str]] = [
        (good | {"colour": "blue"}, f"secrets_options has colour; the provider {backend.provider} takes "),
        *((good | {name: 5}, f"secrets_options.{name} is 5; it takes ") for name in backend.store.OPTIONS),
        *((good | {name: "a b"}, f'secrets_options.{name} is "a b"; it takes ') for name in backend.store.OPTIONS),
        *(
            (
                {key: value for key, value in good.items() if key != name},
                f"secrets_options.{name} is missing; it takes ",
            )
            for name, option in backend.store.OPTIONS.items()
            if option.required
        ),
    ]
    for operation in base.OPERATIONS:
        for options, sentence in wrong:
            backend.options = options
            (problem,) = backend.run(operation, NAMES)["problems"]
            assert problem.startswith(sentence)
            assert problem.endswith(".")
        backend.options = good
    backend.done("validate", NAMES)


@pytest.mark.parametrize("name", ["lock", "../admin", "admin.pending", "admin:current", "Admin", "", "1st"])
def test_names_that_mean_something_else_to_a_store_are_refused(backend: Backend, name: str) -> None:
    (problem,) = backend.run("create", {name: {}})["problems"]
    assert problem.startswith(f'secrets_names has the name "{name}"; it takes at most 63 lower-case letters')


def test_an_error_that_nobody_thought_of_is_told_without_its_text(backend: Backend) -> None:
    def fail(*arguments: object, **keywords: object) -> None:
        raise ValueError("correct-horse-battery")

    backend.patch.setattr(backend.store, "read", fail)
    (problem,) = backend.run("read", NAMES)["problems"]
    assert problem.startswith(
        f"The provider {backend.provider} failed at read with ValueError in test_secret_store.py:"
    )
    assert "horse" not in problem


def test_of_this_process_it_is_known_that_it_lives() -> None:
    owner = base.Owner.of(os.getpid())
    assert owner.started.isdigit()
    assert owner.machine.startswith(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    assert not owner.is_dead()
