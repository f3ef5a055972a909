"""What makes MLflow's own application answer with less work, and says the same.

Each function replaces one part of MLflow, or of what it runs on, by one that comes to the same result at less cost.
docs/performance.md has what each of them gains.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import math
import select
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

# As ASGI has them: https://asgi.readthedocs.io/en/latest/specs/www.html
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]

# Answers up to here are handed over in one piece; longer ones as they come.
PIECE_BYTES = 1 << 20
# Paths whose answerer is remembered. MLflow's API has its ids in queries and bodies, so that there are few.
PATHS_REMEMBERED = 4096

Converter = Callable[[Any], Any]


def answer_in_compact_json() -> None:
    """Have MLflow write its answers without indentation, and in one pass over the message.

    Indentation makes Python leave its C encoder, and MLflow goes over each message three times.
    """
    from mlflow.server import auth, handlers

    upstream = handlers.message_to_json

    def message_to_json(message: Any, *, pretty: bool = True, convert_int64_to_number: bool = True) -> str:
        if not convert_int64_to_number:
            return str(upstream(message, pretty=False, convert_int64_to_number=False))
        return json.dumps(as_dict(message), separators=(",", ":"))

    handlers.message_to_json = auth.message_to_json = message_to_json


def as_dict(message: Any) -> Any:
    """Return what MLflow makes of a protobuf message for JSON: names as in the definition, whole numbers as numbers.

    Args:
        message: The message.

    Returns:
        What is set in it. The same as mlflow.utils.proto_json_utils.message_to_json would write.
    """
    kind: Any = type(message)
    fields = _fields_of(kind)
    if fields is None:
        from google.protobuf.json_format import MessageToDict

        return MessageToDict(message, preserving_proto_field_name=True)
    found = {}
    for field, value in message.ListFields():
        name, convert = fields[field.number]
        found[name] = convert(value)
    return found


@functools.cache
def _fields_of(kind: Any) -> dict[int, tuple[str, Converter]] | None:
    """Return name and converter of each field of a kind of message; None for one that has a form of its own in JSON."""
    descriptor = kind.DESCRIPTOR
    if descriptor.full_name.startswith("google.protobuf.") or descriptor.is_extendable:
        return None
    return {field.number: (field.name, _converter_of(field)) for field in descriptor.fields}


def _converter_of(field: Any) -> Converter:
    """Return what makes JSON of the values of a field (https://protobuf.dev/programming-guides/json/)."""
    options = field.message_type.GetOptions() if field.message_type else None
    if options and options.map_entry:
        of_value = _converter_of_one(field.message_type.fields_by_name["value"])
        return lambda entries: {_as_key(key): of_value(entries[key]) for key in entries}
    of_one = _converter_of_one(field)
    if field.is_repeated:
        return lambda values: [of_one(value) for value in values]
    return of_one


def _converter_of_one(field: Any) -> Converter:
    if field.cpp_type == field.CPPTYPE_MESSAGE:
        return as_dict
    if field.cpp_type == field.CPPTYPE_ENUM:
        if field.enum_type.full_name == "google.protobuf.NullValue":
            return lambda _: None
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        return lambda number: names.get(number, number)
    if field.type == field.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    if field.cpp_type == field.CPPTYPE_DOUBLE:
        return lambda value: value if math.isfinite(value) else _as_word(value)
    if field.cpp_type == field.CPPTYPE_FLOAT:
        from google.protobuf.internal.type_checkers import ToShortestFloat

        return lambda value: ToShortestFloat(value) if math.isfinite(value) else _as_word(value)
    return _as_it_is


def _as_it_is(value: Any) -> Any:
    return value


def _as_key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _as_word(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def remember_administrators(seconds: float) -> None:
    """Have a worker remember for a short time who is an administrator, which MLflow reads anew for each request.

    Args:
        seconds: How long: so long may one who is none any more go on. 0 asks each time.
    """
    from flask import g
    from mlflow.server import auth

    known: dict[str, tuple[float, bool]] = {}

    def sender_is_admin() -> bool:
        # The name that MLflow has just found the password to be right for.
        name = g.get("mlflow_authenticated_user") or auth.authenticate_request().username
        until, is_admin = known.get(name, (0.0, False))
        now = time.monotonic()
        if now >= until:
            is_admin = bool(auth.store.get_user(name).is_admin)
            known[name] = (now + seconds, is_admin)
        return is_admin

    auth.sender_is_admin = sender_is_admin


def look_before_asking_the_database() -> None:
    """See whether a connection was ended before it is used, without a question to the database.

    SQLAlchemy has the database answer a query before each use of a connection. One that was ended, by a restart of the
    database or by a lost login, has something to be read while nothing was asked: then SQLAlchemy's own way finds out.
    """
    from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

    of_psycopg2: Any = PGDialect_psycopg2
    upstream = of_psycopg2.do_ping

    def do_ping(dialect: Any, connection: Any) -> bool:
        if not connection.closed and is_quiet(connection.fileno()):
            return True
        return bool(upstream(dialect, connection))

    of_psycopg2.do_ping = do_ping


def forget_what_was_read_without_a_look_at_it() -> None:
    """Spare the database's sessions a last pass over all that they have read.

    At the end of a transaction SQLAlchemy marks each object as outdated, for whoever reads it in the next one. MLflow's
    sessions end with their transaction.
    """
    from mlflow.server.auth import sqlalchemy_store as of_users
    from mlflow.store.db import utils
    from mlflow.store.jobs import sqlalchemy_store as of_jobs
    from mlflow.store.model_registry import sqlalchemy_store as of_models

    upstream = utils._get_managed_session_maker

    def get_managed_session_maker(*given: Any, **named: Any) -> Any:
        managed = upstream(*given, **named)

        @contextlib.contextmanager
        def make_managed_session(read_only: bool = True) -> Iterator[Any]:
            with managed(read_only=read_only) as session:
                yield session
                session.expire_on_commit = False

        return make_managed_session

    for module in (utils, of_users, of_jobs, of_models):
        vars(module)["_get_managed_session_maker"] = get_managed_session_maker


def is_quiet(descriptor: int) -> bool:
    """Say whether nothing can be read from a connection, not even its end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLPRI)
    return not poll.poll(0)


def serve_flask_directly(application: Any, flask_app: Any) -> None:
    """Take what MLflow answers in Flask there straight away.

    MLflow's FastAPI application hands on what it has no route for, after it has looked through all of them, and through
    layers that are about its own routes: for permissions, workspaces and the gateway, which Flask looks after itself.
    What guards all routes alike (host names, origins, headers) stays before both.

    Args:
        application: MLflow's FastAPI application.
        flask_app: The Flask application inside of it.
    """
    from mlflow.server import auth
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    routes = auth._native_fastapi_routes(application)

    @functools.lru_cache(PATHS_REMEMBERED)
    def is_native(method: str, path: str, root_path: str) -> bool:
        scope = {"type": "http", "method": method, "path": path, "root_path": root_path, "headers": []}
        return bool(auth._scope_matches_native_route(routes, scope))

    def goes_to_flask(scope: Message) -> bool:
        return scope["type"] == "http" and not is_native(scope["method"], scope["path"], scope.get("root_path", ""))

    layers = application.user_middleware
    for place, layer in enumerate(layers):
        if layer.cls is BaseHTTPMiddleware:
            layers[place] = Middleware(functools.partial(PastFor, led_past=goes_to_flask, layer=layer))
    layers.append(Middleware(functools.partial(Fork, chosen=goes_to_flask, elsewhere=FromFlask(flask_app))))


class PastFor:
    """Leads some requests past a layer.

    Args:
        app: What comes after the layer.
        led_past: Tells whether a request is led past.
        layer: The layer, as Starlette describes one.
    """

    def __init__(self, app: Application, led_past: Callable[[Message], bool], layer: Any) -> None:
        """Make the layer."""
        self.app, self.led_past = app, led_past
        self.layer = layer.cls(app, *layer.args, **layer.kwargs)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Go through the layer, or past it."""
        await (self.app if self.led_past(scope) else self.layer)(scope, receive, send)


@dataclass(frozen=True)
class Fork:
    """Sends some requests elsewhere.

    Args:
        app: Where the others go.
        chosen: Tells which.
        elsewhere: Where they go.
    """

    app: Application
    chosen: Callable[[Message], bool]
    elsewhere: Application

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request at its place."""
        await (self.elsewhere if self.chosen(scope) else self.app)(scope, receive, send)


@dataclass(frozen=True)
class FromFlask:
    """Answers with a WSGI application, in a thread.

    Starlette's adapter hands over head, body and end of each answer one by one between the thread and the event loop.
    Here an answer whose length is known and small crosses over once. Others are sent as they come.

    Args:
        flask_app: The application (PEP 3333).
    """

    flask_app: Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        import anyio.to_thread
        from starlette.middleware.wsgi import build_environ

        parts = []
        more = True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        environ = build_environ(scope, b"".join(parts))
        for message in await anyio.to_thread.run_sync(self._respond, environ, send):
            await send(message)

    def _respond(self, environ: dict[str, Any], send: Send) -> list[Message]:
        """Run the application; return what is left to be sent."""
        import anyio.from_thread

        async def send_on(message: Message) -> None:
            await send(message)

        head: Message = {}

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            if exc_info and head.get("sent"):
                raise exc_info[1].with_traceback(exc_info[2])
            raw = [(name.strip().lower().encode("latin-1"), value.strip().encode("latin-1")) for name, value in headers]
            head.update(type="http.response.start", status=int(status.partition(" ")[0]), headers=raw)

        answer = self.flask_app(environ, start_response)
        try:
            parts = []
            for part in answer:
                if is_short(head):
                    parts.append(part)
                    continue
                if not head.get("sent"):
                    anyio.from_thread.run(send_on, dict(head))
                    head["sent"] = True
                piece: Message = {"type": "http.response.body", "body": part, "more_body": True}
                anyio.from_thread.run(send_on, piece)
        finally:
            if hasattr(answer, "close"):
                answer.close()
        end: Message = {"type": "http.response.body", "body": b"".join(parts)}
        return [end] if head.get("sent") else [head, end]


def is_short(head: Message) -> bool:
    """Say whether the head of an answer announces a body that is handed over in one piece."""
    length = dict(head["headers"]).get(b"content-length", b"")
    return length.isdigit() and int(length) <= PIECE_BYTES
