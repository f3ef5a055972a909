"""What goes wrong in the cloud when a test wants it to, and what was asked of the cloud."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any

KINDS = ("denied", "throttled", "busy", "error", "hang", "reset", "cut", "down", "revoked")
# The stores of objects and what goes with them, which alone know keys that have been taken back.
STORES = ("s3", "iam", "sts", "blob", "arm", "gcs", "google-oauth", "google-iam")
SERVICES = ("ssm", "keyvault", "entra", *STORES)


@dataclass(frozen=True)
class Operation:
    """One thing that a client asks for.

    Args:
        service: One of SERVICES, or proxy.
        action: The permission that it takes, as the service's own documentation writes it.
        method: What the client library calls it.
        target: Name of what it is about; several are separated by commas.
        identity: Who asks: access key id or client id, and None for who has not logged in.
    """

    service: str
    action: str
    method: str
    target: str
    identity: str | None


@dataclass
class Fault:
    """Something that goes wrong.

    Args:
        service: Service that it befalls.
        kind: One of KINDS.
        operation: Action or method that it befalls; None for all, as it is for `down`.
        target: Part of the target's name; None for all.
        times: How often; None for ever.
    """

    service: str
    kind: str
    operation: str | None = None
    target: str | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        """Refuse what would never happen, because a test that plans it would pass for nothing."""
        known = self.kind in KINDS and self.service in SERVICES
        if not known or (self.kind == "revoked" and self.service not in STORES):
            raise ValueError(f"no fault {self.kind} of {self.service}; kinds: {', '.join(KINDS)}")
        if self.kind == "down" and (self.operation or self.target):
            raise ValueError("a service that is down knows no operation and no target")

    def befalls(self, operation: Operation) -> bool:
        """Tell whether an operation is one that goes wrong."""
        return (
            self.times != 0
            and self.service == operation.service
            and self.operation in (None, operation.action, operation.method)
            and (self.target is None or self.target in operation.target)
        )


class Ledger:
    """Faults that are planned and calls that were made; used by all threads."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._calls: list[dict[str, Any]] = []

    def plan(self, fault: Fault) -> None:
        """Let something go wrong from now on."""
        with self._lock:
            self._faults.append(fault)

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._faults.clear()

    def down(self, service: str, *, count: bool = False) -> bool:
        """Tell whether a service cannot be reached.

        Args:
            service: Its name.
            count: Count that somebody tried.
        """
        with self._lock:
            for fault in self._faults:
                if fault.kind == "down" and fault.service == service and fault.times != 0:
                    if count and fault.times is not None:
                        fault.times -= 1
                    return True
        return False

    def fault(self, operation: Operation) -> str | None:
        """Return the kind of the first fault that befalls an operation, and count it."""
        with self._lock:
            for fault in self._faults:
                if fault.kind != "down" and fault.befalls(operation):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault.kind
        return None

    def record(self, operation: Operation, status: int) -> None:
        """Note a call and the HTTP status of its answer, 0 where it got none."""
        entry = asdict(operation) | {"operation": operation.action, "status": status}
        del entry["action"]
        with self._lock:
            self._calls.append(entry)

    def calls(self) -> list[dict[str, Any]]:
        """Return the calls in the order in which they were answered."""
        with self._lock:
            return list(self._calls)

    def forget(self) -> None:
        """Forget the calls."""
        with self._lock:
            self._calls.clear()
