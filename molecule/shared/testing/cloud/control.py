"""What a test can ask of the cloud itself, over plain http."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request, Response

from testing.cloud.ledger import Fault, Ledger
from testing.cloud.proxy import json_response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Control:
    """WSGI application that plans faults, tells the calls and empties the stores.

    Args:
        ledger: Holds the faults and the calls.
        reset: Empties the stores.
    """

    def __init__(self, ledger: Ledger, reset: Callable[[], None]) -> None:
        """Keep what it is about."""
        self._ledger = ledger
        self._reset = reset

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        request = Request(environ)
        actions: dict[str, Callable[[], Any]] = {
            "POST /faults": lambda: self._ledger.plan(Fault(**request.get_json())),
            "DELETE /faults": self._ledger.heal,
            "GET /calls": self._ledger.calls,
            "DELETE /calls": self._ledger.forget,
            "POST /reset": self._reset,
        }
        action = actions.get(f"{request.method} {request.path}")
        if action is None:
            return Response(f"one of: {', '.join(actions)}", 404)(environ, start_response)
        try:
            return json_response(action())(environ, start_response)
        except (TypeError, ValueError) as error:
            return Response(str(error), 400)(environ, start_response)
