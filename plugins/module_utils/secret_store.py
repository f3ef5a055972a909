"""What every store of secrets has in common: its operations, the lock, and how a refusal is told.

A provider is one module, `plugins/modules/secret_store_<provider>.py`, which gives `main` a subclass of `Store`. The
operations stand here, in terms of that class, so that they mean the same in every store.
"""

from __future__ import annotations

import abc
import datetime
import getpass
import json
import os
import re
import secrets
import socket
import string
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from ansible.module_utils.basic import AnsibleModule

ALPHABET = string.ascii_letters + string.digits
LENGTH_MIN = 16
LENGTH_DEFAULT = 32
LOCK_ATTEMPTS = 5

# `lock` is where the stores of a cloud keep their lock.
NAME = re.compile(r"(?!lock$)[a-z][a-z0-9_]{0,62}")
NAME_TAKES = "at most 63 lower-case letters, digits and underscores that begin with a letter, and not lock"


class Refused(Exception):
    """An operation cannot be done; its arguments are the sentences that say why and what to do."""


@dataclass(frozen=True)
class Option:
    """An option of a provider: what it takes, in words and as a pattern."""

    takes: str
    pattern: str
    required: bool = False


@dataclass(frozen=True)
class Version:
    """One value of a secret, as the store calls it. Of a previous one, the value is of no interest."""

    version: str
    created: datetime.datetime
    value: str | None = None

    def as_dict(self) -> dict[str, str]:
        """Return what the module's caller gets."""
        shown = {"version": self.version, "created": stamp(self.created)}
        return shown if self.value is None else {"value": self.value, **shown}


@dataclass(frozen=True)
class Secret:
    """The stages of a secret: in force, made for the next rotation, and replaced by the last one."""

    current: Version | None = None
    pending: Version | None = None
    previous: Version | None = None

    def as_dict(self) -> dict[str, dict[str, str] | None]:
        """Return what the module's caller gets."""
        stages = {"current": self.current, "pending": self.pending, "previous": self.previous}
        return {stage: version.as_dict() if version else None for stage, version in stages.items()}

    def versions(self) -> dict[str, Any]:
        """Return what can be told of the current version without its value."""
        current = replace(self.current, value=None).as_dict() if self.current else {}
        return {**current, "previous": self.previous.as_dict() if self.previous else None}


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: a process, told from a later one of the same number by its start."""

    user: str
    host: str
    process: int
    started: str
    machine: str

    @classmethod
    def of(cls, process: int) -> Owner:
        """Return the owner that a process of this machine is."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user without an entry in passwd
            user = f"uid {os.getuid()}"
        return cls(user, socket.gethostname(), process, started(process), machine())

    def is_dead(self) -> bool:
        """Say whether this was a process of this very machine that has ended; of others nothing is known."""
        here = (self.host, self.machine) == (socket.gethostname(), machine())
        return here and started(self.process) != self.started

    def __str__(self) -> str:
        """Return the owner as a sentence names it."""
        return f"{self.user}@{self.host} (process {self.process})"


@dataclass(frozen=True)
class Claim:
    """A lock that is held, from when and until when."""

    owner: Owner
    since: datetime.datetime
    expires: datetime.datetime

    def is_live(self) -> bool:
        """Say whether it still keeps others out."""
        return self.expires > now() and not self.owner.is_dead()

    def as_dict(self) -> dict[str, str]:
        """Return what the module's caller gets."""
        return {"owner": str(self.owner), "since": stamp(self.since), "expires": stamp(self.expires)}

    def as_record(self) -> dict[str, str]:
        """Return what a store keeps."""
        own = self.owner
        process = {"process": str(own.process), "started": own.started, "machine": own.machine}
        times = {"since": stamp(self.since), "expires": stamp(self.expires)}
        return {"user": own.user, "host": own.host, **process, **times}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Claim:
        """Return the claim that a store keeps.

        Raises:
            ValueError: The record is not one that `as_record` made.
        """
        try:
            text = {key: str(record[key]) for key in ("user", "host", "started", "machine", "since", "expires")}
            owner = Owner(text["user"], text["host"], int(record["process"]), text["started"], text["machine"])
            return cls(owner, moment(text["since"]), moment(text["expires"]))
        except (KeyError, TypeError) as error:
            raise ValueError("not the record of a lock") from error


class Store(abc.ABC):
    """A place that keeps secrets, as a provider implements it.

    Every method raises `Refused` with sentences that name the secret or the store, and the remedy.

    Args:
        options: What `secrets_options` holds; `main` has checked it against `OPTIONS`.
    """

    PROVIDER: ClassVar[str]
    OPTIONS: ClassVar[Mapping[str, Option]]

    def __init__(self, options: Mapping[str, str]) -> None:
        """Keep the options; nothing is asked of the store before the first operation."""
        self.options = dict(options)

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """The store, as sentences name it."""

    @abc.abstractmethod
    def read(self, names: Iterable[str], *, history: bool) -> dict[str, Secret]:
        """Return the stages of each name; without `history`, as far as that needs no further permission."""

    @abc.abstractmethod
    def create(self, values: Mapping[str, str]) -> None:
        """Make each value current, unless its name has got a current one meanwhile."""

    @abc.abstractmethod
    def pend(self, name: str, value: str) -> None:
        """Keep the value for a rotation of a secret that has a current and no pending version."""

    @abc.abstractmethod
    def promote(self, name: str, secret: Secret) -> None:
        """Make the pending version current and the current one previous; repeating it mends one that was cut off."""

    @abc.abstractmethod
    def discard(self, name: str, secret: Secret) -> None:
        """Drop the pending version."""

    @abc.abstractmethod
    def held(self) -> Claim | None:
        """Return the claim on the lock that counts, live or not."""

    @abc.abstractmethod
    def claim(self, claim: Claim) -> bool:
        """Put a claim in place of what `held` returned last; say no when another was faster."""

    @abc.abstractmethod
    def release(self) -> bool:
        """Take away the claim that `held` returned last; say no when it has changed since."""


@dataclass(frozen=True)
class Request:
    """What the module's caller asks for."""

    names: dict[str, Any] = field(default_factory=dict)
    process: int = 0
    ttl: int = 60
    take_over: bool = False
    history: bool = False
    check_mode: bool = False


@dataclass(frozen=True)
class Answer:
    """What an operation found and did."""

    secrets: Mapping[str, Secret] = field(default_factory=dict)
    created: Iterable[str] = ()
    lock: Claim | None = None
    changed: bool = False


def now() -> datetime.datetime:
    """Return the present time."""
    return datetime.datetime.now(datetime.UTC)


def stamp(time: datetime.datetime) -> str:
    """Return a time as ISO 8601 in UTC, to the second."""
    return time.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> datetime.datetime:
    """Return the time that a stamp names."""
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)


def started(process: int) -> str:
    """Return when a process started, in the kernel's ticks, or nothing when there is none. Source: proc(5), stat."""
    try:
        # The second field is the program's name, which may hold anything.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def machine() -> str:
    """Return what tells this machine, since it was booted, from others; containers on it differ by their processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def generate(length: int) -> str:
    """Return a random secret that needs no quoting in any configuration file, URL or shell."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def new_value(wish: Mapping[str, Any] | None) -> str:
    """Return a new value with the length and the prefix that a name asks for."""
    asked = wish or {}
    return f"{asked.get('prefix', '')}{generate(int(asked.get('length', LENGTH_DEFAULT)))}"


def fault(value: str) -> str:
    """Return what is wrong with a value that somebody brought, to follow its name; nothing when it can be used."""
    if len(value) < LENGTH_MIN:
        has = f"holds {len(value)} characters" if value else "is empty"
        return f"{has}; write a secret of at least {LENGTH_MIN} into it, or remove it to have one made."
    # Spaces, line breaks and other scripts mean different things to each program that reads the secret.
    if not (value.isascii() and value.isprintable()) or " " in value:
        return "holds more than one word of printable ASCII; write the secret alone into it."
    return ""


def check_options(store: type[Store], options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that are given.

    Args:
        store: The provider's class.
        options: Its options; those that are empty or null count as not given.

    Raises:
        Refused: One sentence for each that is unknown, missing or wrong.
    """
    given = {str(name): value for name, value in options.items() if value not in (None, "")}
    known = ", ".join(store.OPTIONS)
    problems = [
        f"secrets_options has {name}; the provider {store.PROVIDER} takes {known}."
        for name in sorted(set(given) - set(store.OPTIONS))
    ]
    for name, option in store.OPTIONS.items():
        value = given.get(name)
        if value is None and option.required:
            problems.append(f"secrets_options.{name} is missing; it takes {option.takes}.")
        elif value is not None and not (isinstance(value, str) and re.fullmatch(option.pattern, value)):
            problems.append(f"secrets_options.{name} is {json.dumps(value, default=str)}; it takes {option.takes}.")
    if problems:
        raise Refused(*problems)
    return given


def check_names(names: Iterable[Any]) -> None:
    """Refuse names that a store could take for something else."""
    if bad := [name for name in names if not (isinstance(name, str) and NAME.fullmatch(name))]:
        raise Refused(*(f"secrets_names has the name {json.dumps(name)}; it takes {NAME_TAKES}." for name in bad))


def validate(_store: Store, _request: Request) -> Answer:
    """Ask nothing of the store: names and options have been checked before."""
    return Answer()


def read(store: Store, request: Request) -> Answer:
    """Return the secrets as they are."""
    return Answer(store.read(request.names, history=request.history))


def create(store: Store, request: Request) -> Answer:
    """Make what has no current version. In check mode placeholders last for the run.

    Raises:
        Refused: A secret is missing that somebody else gives, so that no value made here can be the right one.
    """
    found = store.read(request.names, history=request.history)
    missing = sorted(name for name, secret in found.items() if secret.current is None)
    if given := [name for name in missing if (request.names[name] or {}).get("given")]:
        raise Refused(f"{', '.join(given)}: not in {store.place}, and not ours to make; put what you were given there.")
    values = {name: new_value(request.names[name]) for name in missing}
    if request.check_mode:
        made = {name: replace(found[name], current=Version("none", now(), values[name])) for name in missing}
    elif missing:
        store.create(values)
        made = store.read(missing, history=request.history)
        if lost := [name for name in missing if made[name].current is None]:
            raise Refused(f"{', '.join(lost)}: made in {store.place} but gone again; run the playbook again.")
    else:
        made = {}
    return Answer({**found, **made}, created=missing, changed=bool(missing))


def pend(store: Store, request: Request) -> Answer:
    """Make a pending version of each name that has none; one that was left by a rotation is taken up."""
    found = store.read(request.names, history=True)
    if missing := sorted(name for name, secret in found.items() if secret.current is None):
        raise Refused(
            f"{', '.join(missing)}: no current value to rotate in {store.place}; run playbooks/site.yml first."
        )
    due = sorted(name for name, secret in found.items() if secret.pending is None)
    if not request.check_mode:
        for name in due:
            store.pend(name, new_value(request.names[name]))
        found = {**found, **store.read(due, history=True)}
        # Otherwise the caller would go on with the current one, and a later promotion take it by surprise.
        if lost := [name for name in due if found[name].pending is None]:
            raise Refused(f"{', '.join(lost)}: made in {store.place} but not yet to be seen; run the playbook again.")
    return Answer(found, changed=bool(due))


def promote(store: Store, request: Request) -> Answer:
    """Put pending versions in force."""
    return settle(store, request, store.promote)


def discard(store: Store, request: Request) -> Answer:
    """Drop pending versions."""
    return settle(store, request, store.discard)


def settle(store: Store, request: Request, step: Callable[[str, Secret], None]) -> Answer:
    """Do something to each secret that has a pending version."""
    found = store.read(request.names, history=True)
    due = sorted(name for name, secret in found.items() if secret.pending)
    if not request.check_mode:
        for name in due:
            step(name, found[name])
        found = {**found, **store.read(due, history=True)}
    return Answer(found, changed=bool(due))


def refusal(store: Store, claim: Claim) -> Refused:
    """Return the sentence about a lock that another holds."""
    return Refused(
        f"{claim.owner} has locked the secrets in {store.place} since {stamp(claim.since)}, until"
        f" {stamp(claim.expires)} at the latest; wait for that run, or, if it is dead, take the lock over with"
        " `-e secrets_lock_break=true`."
    )


def look(store: Store, request: Request) -> Answer:
    """Refuse to go on while another holds the lock."""
    owner, held = Owner.of(request.process), store.held()
    if held and held.is_live() and held.owner != owner and not request.take_over:
        raise refusal(store, held)
    return Answer(lock=held if held and held.is_live() else None)


def lock(store: Store, request: Request) -> Answer:
    """Take the lock, or renew it."""
    if request.check_mode:
        return look(store, request)
    owner, first = Owner.of(request.process), store.held()
    held = first
    for _ in range(LOCK_ATTEMPTS):
        # Who breaks a lock means the holder that he saw, not one who was faster just now.
        broken = request.take_over and held == first
        if held and held.is_live() and held.owner != owner and not broken:
            raise refusal(store, held)
        time = now().replace(microsecond=0)
        since = held.since if held and held.owner == owner else time
        wanted = Claim(owner, since, time + datetime.timedelta(minutes=request.ttl))
        if store.claim(wanted):
            return Answer(lock=wanted, changed=True)
        held = store.held()
    raise Refused(f"The lock of the secrets in {store.place} changes hands too quickly; run the playbook again.")


def unlock(store: Store, request: Request) -> Answer:
    """Release the lock if it is one's own."""
    owner = Owner.of(request.process)
    for attempt in range(LOCK_ATTEMPTS):
        held = store.held()
        if held is None or held.owner != owner:
            return Answer(lock=held if held and held.is_live() else None, changed=attempt > 0)
        if request.check_mode or store.release():
            return Answer(changed=True)
    raise Refused(f"The lock of the secrets in {store.place} changes hands too quickly; run the playbook again.")


OPERATIONS = {
    "validate": validate,
    "read": read,
    "create": create,
    "pend": pend,
    "promote": promote,
    "discard": discard,
    "lock": lock,
    "unlock": unlock,
    "look": look,
}


def run(store: type[Store], operation: str, options: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """Do an operation.

    Args:
        store: The provider's class.
        operation: One of `OPERATIONS`.
        options: The provider's options.
        request: What it is about.

    Returns:
        What the module returns. `problems` holds what stands in the way; nothing is raised, since a caller that hides
        secrets would hide the reason as well.
    """
    answer, problems = Answer(), []
    try:
        given = check_options(store, options)
        check_names(request.names)
        answer = OPERATIONS[operation](store(given), request)
    except Refused as refused:
        problems = [str(sentence) for sentence in refused.args]
    except Exception as error:
        # Its text could hold a secret; its kind and place are what somebody who mends it needs.
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        problems = [f"The provider {store.PROVIDER} failed at {operation} with {type(error).__name__} in {place}."]
    return {
        "changed": answer.changed,
        "problems": problems,
        "secrets": {name: secret.as_dict() for name, secret in sorted(answer.secrets.items())},
        "versions": {name: secret.versions() for name, secret in sorted(answer.secrets.items()) if secret.current},
        "created": list(answer.created),
        "lock": answer.lock.as_dict() if answer.lock else None,
    }


def main(store: type[Store]) -> None:
    """Run a provider's module."""
    module = AnsibleModule(
        argument_spec={
            "options": {"type": "dict", "required": True},
            "operation": {"type": "str", "required": True, "choices": list(OPERATIONS)},
            "names": {"type": "dict", "default": {}},
            "history": {"type": "bool", "default": False},
            "ttl": {"type": "int", "default": 60},
            "break": {"type": "bool", "default": False},
            "process": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    request = Request(
        names=given["names"],
        process=given["process"],
        ttl=given["ttl"],
        take_over=given["break"],
        history=given["history"],
        check_mode=module.check_mode,
    )
    os.umask(0o077)
    module.exit_json(**run(store, given["operation"], given["options"], request))
