"""That MLflow says the same with less work: each replacement beside what it replaces."""

import importlib
import json
import math
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import mlflow.protos
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from fastapi.testclient import TestClient
from flask import Flask, Response, request, stream_with_context
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos.service_pb2 import ACTIVE_ONLY, GetMetricHistory, SearchRuns
from mlflow.server import auth, handlers
from mlflow.server.auth import sqlalchemy_store as of_users
from mlflow.store.db import utils as db_utils
from mlflow.store.jobs import sqlalchemy_store as of_jobs
from mlflow.store.model_registry import sqlalchemy_store as of_models
from mlflow.utils.proto_json_utils import message_to_json
from sqlalchemy import create_engine, exc, text
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import server_speed


class Base(DeclarativeBase):
    """Of the table for tests."""


class Row(Base):
    """A row of it."""

    __tablename__ = "rows"
    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[int]


MODULES = sorted(path.stem for path in Path(str(mlflow.protos.__path__[0])).glob("*_pb2.py"))
NUMBERS = {"INT32": 31, "INT64": 63, "UINT32": 32, "UINT64": 64}
DEPTH_MAX = 3


def kinds_of_messages() -> list[Any]:
    """Return the classes of all messages that MLflow's API has, those within others included."""
    found = {}

    def add(kind: Any) -> None:
        found[kind.DESCRIPTOR.full_name] = kind
        for nested in kind.DESCRIPTOR.nested_types:
            if not nested.GetOptions().map_entry:
                add(getattr(kind, nested.name))

    for name in MODULES:
        module = importlib.import_module(f"mlflow.protos.{name}")
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            add(getattr(module, descriptor.name))
    return list(found.values())


def value_of(field: Any, chance: random.Random, depth: int) -> Any:
    """Return a value that a field takes."""
    if field.cpp_type == field.CPPTYPE_MESSAGE:
        return filled(field.message_type._concrete_class, chance, depth + 1)
    if field.cpp_type == field.CPPTYPE_ENUM:
        return chance.choice(list(field.enum_type.values_by_number))
    if field.cpp_type == field.CPPTYPE_BOOL:
        return chance.random() < 0.5
    if field.type == field.TYPE_BYTES:
        return chance.randbytes(5)
    if field.cpp_type == field.CPPTYPE_STRING:
        return chance.choice(["", "text", 'quote " and \\', "schön 模型", "line\nbreak"])
    if field.cpp_type == field.CPPTYPE_DOUBLE:
        return chance.choice([0.1, -1.0, 1e300, 3.0, math.nan, math.inf, -math.inf])
    if field.cpp_type == field.CPPTYPE_FLOAT:
        return chance.choice([0.1, 16777216.0, math.nan, math.inf, -math.inf])
    bits = NUMBERS[{1: "INT32", 2: "INT64", 3: "UINT32", 4: "UINT64"}[field.cpp_type]]
    return chance.choice([0, 1, 2**bits - 1])


def filled(kind: Any, chance: random.Random, depth: int = 0) -> Message:
    """Return a message with most of its fields set."""
    message: Message = kind()
    if kind.DESCRIPTOR.full_name == "google.protobuf.Value":
        message.CopyFrom(struct_pb2.Value(string_value="of any kind"))
        return message
    for field in kind.DESCRIPTOR.fields:
        if chance.random() < 0.15 or (depth >= DEPTH_MAX and field.cpp_type == field.CPPTYPE_MESSAGE):
            continue
        if kind.DESCRIPTOR.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            setattr(message, field.name, chance.randrange(10**6) * 1000)
            continue
        options = field.message_type.GetOptions() if field.message_type else None
        if options and options.map_entry:
            of_key, of_value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
            entries = getattr(message, field.name)
            for _ in range(2):
                key = value_of(of_key, chance, depth)
                if of_value.cpp_type == of_value.CPPTYPE_MESSAGE:
                    entries[key].CopyFrom(value_of(of_value, chance, depth))
                else:
                    entries[key] = value_of(of_value, chance, depth)
        elif field.is_repeated:
            getattr(message, field.name).extend(value_of(field, chance, depth) for _ in range(2))
        elif field.cpp_type == field.CPPTYPE_MESSAGE:
            getattr(message, field.name).CopyFrom(value_of(field, chance, depth))
        else:
            setattr(message, field.name, value_of(field, chance, depth))
    return message


@pytest.mark.parametrize("kind", kinds_of_messages(), ids=lambda kind: str(kind.DESCRIPTOR.full_name))
def test_each_message_of_the_api_is_written_as_mlflow_writes_it(kind: Any) -> None:
    chance = random.Random(kind.DESCRIPTOR.full_name)  # noqa: S311 - nothing is kept secret with it
    for _ in range(5):
        message = filled(kind, chance)
        # By their text, in which NaN is like NaN.
        assert json.dumps(server_speed.as_dict(message), sort_keys=True) == json.dumps(
            json.loads(message_to_json(message)), sort_keys=True
        )


def test_all_kinds_of_messages_were_found() -> None:
    names = {kind.DESCRIPTOR.full_name for kind in kinds_of_messages()}
    assert {"mlflow.SearchRuns.Response", "mlflow.GetMetricHistory.Response", "mlflow.ModelVersion"} <= names


def test_an_enumeration_is_a_word() -> None:
    assert server_speed.as_dict(SearchRuns(run_view_type=ACTIVE_ONLY)) == {"run_view_type": "ACTIVE_ONLY"}


def test_a_map_has_words_for_keys() -> None:
    struct = struct_pb2.Struct()
    struct.update({"a": [1, None, True]})
    assert server_speed.as_dict(struct) == {"a": [1.0, None, True]}
    assert [server_speed._as_key(key) for key in (True, False, 7, "seven")] == ["true", "false", "7", "seven"]


def test_handlers_write_compact_json(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (handlers, auth):
        monkeypatch.setattr(module, "message_to_json", module.message_to_json)
    server_speed.answer_in_compact_json()
    message = GetMetricHistory.Response(metrics=[Metric("loss", 0.5, 3, 1).to_proto()])
    told = '{"metrics":[{"key":"loss","value":0.5,"timestamp":3,"step":1}]}'
    assert handlers.message_to_json(message) == auth.message_to_json(message) == told
    assert handlers._wrap_response(message).get_data(as_text=True) == told
    as_words = '{"metrics":[{"key":"loss","value":0.5,"timestamp":"3","step":"1"}]}'
    assert handlers.message_to_json(message, convert_int64_to_number=False) == as_words


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Administrators by name, the time, and the names that were asked for."""
    state: dict[str, Any] = {"admins": {"alice"}, "now": 0.0, "asked": []}

    class Store:
        def get_user(self, name: str) -> Any:
            state["asked"].append(name)
            return type("User", (), {"is_admin": name in state["admins"]})

    monkeypatch.setattr(auth, "store", Store())
    monkeypatch.setattr(auth, "sender_is_admin", auth.sender_is_admin)
    monkeypatch.setattr("server_speed.time.monotonic", lambda: state["now"])
    return state


def is_admin(name: str) -> bool:
    from flask import g

    with Flask("test").test_request_context():
        g.mlflow_authenticated_user = name
        return bool(auth.sender_is_admin())


def test_who_is_an_administrator_is_asked_once_in_a_while(users: dict[str, Any]) -> None:
    server_speed.remember_administrators(5)
    assert [is_admin("alice"), is_admin("bob"), is_admin("alice"), is_admin("bob")] == [True, False, True, False]
    assert users["asked"] == ["alice", "bob"]


def test_who_is_none_any_more_is_none_after_that_time(users: dict[str, Any]) -> None:
    server_speed.remember_administrators(5)
    assert is_admin("alice")
    users["admins"] = set()
    users["now"] = 4.9
    assert is_admin("alice")
    users["now"] = 5.0
    assert not is_admin("alice")


def test_with_no_time_it_is_asked_each_time(users: dict[str, Any]) -> None:
    server_speed.remember_administrators(0)
    assert is_admin("alice")
    users["admins"] = set()
    assert not is_admin("alice")


def test_without_a_name_the_login_is_asked(users: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    server_speed.remember_administrators(5)
    monkeypatch.setattr(auth, "authenticate_request", lambda: type("Login", (), {"username": "alice"}))
    with Flask("test").test_request_context():
        assert auth.sender_is_admin()


def test_a_connection_is_quiet_until_it_ends() -> None:
    own, other = socket.socketpair()
    with own:
        assert server_speed.is_quiet(own.fileno())
        other.send(b"unasked")
        assert not server_speed.is_quiet(own.fileno())
        own.recv(7)
        assert server_speed.is_quiet(own.fileno())
        other.close()
        assert not server_speed.is_quiet(own.fileno())


@pytest.fixture
def database(postgresql: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a database; what replaces SQLAlchemy's way to ask it ends with the test."""
    monkeypatch.setattr(PGDialect_psycopg2, "do_ping", PGDialect_psycopg2.do_ping)
    return f"postgresql+psycopg2://mlflow@/postgres?host={postgresql}"


def test_a_connection_that_was_ended_is_not_used(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    upstream: Any = PGDialect_psycopg2.do_ping

    def do_ping(*given: Any) -> bool:
        asked.append(given)
        return bool(upstream(*given))

    monkeypatch.setattr(PGDialect_psycopg2, "do_ping", do_ping)
    server_speed.look_before_asking_the_database()
    engine = create_engine(database, pool_size=1, pool_pre_ping=True)
    other = create_engine(database)

    def used() -> int:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())

    first = used()
    assert used() == first
    assert not asked
    with other.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first})
    assert used() != first
    assert asked
    engine.dispose()
    other.dispose()


def test_a_connection_that_was_closed_here_is_not_used(database: str) -> None:
    server_speed.look_before_asking_the_database()
    engine = create_engine(database, pool_size=1, pool_pre_ping=True)
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
    assert raw
    raw.close()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    engine.dispose()


def test_a_database_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PGDialect_psycopg2, "do_ping", PGDialect_psycopg2.do_ping)
    server_speed.look_before_asking_the_database()
    with pytest.raises(exc.OperationalError):
        create_engine("postgresql+psycopg2://u@127.0.0.1:1/none", pool_pre_ping=True).connect()


@pytest.fixture
def sessions(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow's sessions, and a table of two rows that is mapped."""
    for module in (db_utils, of_users, of_jobs, of_models):
        monkeypatch.setattr(module, "_get_managed_session_maker", module._get_managed_session_maker)
    server_speed.forget_what_was_read_without_a_look_at_it()
    engine = create_engine(database)
    Base.metadata.create_all(engine)
    yield of_models._get_managed_session_maker(sessionmaker(bind=engine), "postgresql")
    Base.metadata.drop_all(engine)
    engine.dispose()


def test_what_a_session_has_read_stays_as_it_was_read(sessions: Any) -> None:
    with sessions(read_only=False) as session:
        session.add(Row(name="one", value=1))
    with sessions() as session:
        row = session.get(Row, "one")
    assert row.value == 1


def test_within_a_session_a_commit_still_has_it_read_anew(sessions: Any) -> None:
    with sessions(read_only=False) as session:
        session.add(row := Row(name="one", value=1))
        session.commit()
        session.execute(text("UPDATE rows SET value = 2"))
        assert row.value == 2


def test_a_session_that_fails_changes_nothing(sessions: Any) -> None:
    with pytest.raises(MlflowException), sessions(read_only=False) as session:
        session.add(Row(name="one", value=1))
        session.flush()
        raise MlflowException("no")
    with sessions() as session:
        assert session.get(Row, "one") is None


PIECE = b"x" * 1000


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TestClient, list[str]]]:
    """A FastAPI application with a Flask application inside, and the requests that went through the layer between."""
    passed: list[str] = []
    inner, outer = Flask("inner"), FastAPI()

    @inner.route("/echo", methods=["GET", "POST", "HEAD"])
    def echo() -> Response:
        return Response(request.data or b"nothing", 201, {"X-Seen": request.headers.get("X-Asked", "-")})

    @inner.route("/large")
    def large() -> Response:
        return Response(b"y" * (server_speed.PIECE_BYTES + 1))

    @inner.route("/stream")
    def stream() -> Response:
        return Response(stream_with_context(PIECE for _ in range(int(request.args["pieces"]))))

    @inner.route("/broken")
    def broken() -> Response:
        raise ValueError("secret")

    @outer.middleware("http")
    async def layer(asked: Any, call_next: Any) -> Any:
        passed.append(asked.url.path)
        return await call_next(asked)

    @outer.get("/native/{name}")
    async def native(name: str) -> PlainTextResponse:
        return PlainTextResponse(f"native {name}")

    outer.mount("/", lambda *_: pytest.fail("Flask was not reached straight away"))
    server_speed.serve_flask_directly(outer, inner)
    with TestClient(outer, raise_server_exceptions=False) as client:
        yield client, passed


def test_flask_answers_past_the_layers_of_others(application: tuple[TestClient, list[str]]) -> None:
    client, passed = application
    answer = client.post("/echo?a=1", content=b"body", headers={"X-Asked": "yes"})
    assert (answer.status_code, answer.content, answer.headers["X-Seen"]) == (201, b"body", "yes")
    assert client.get("/echo").text == "nothing"
    assert client.head("/echo").status_code == 201
    assert client.get("/absent").status_code == 404
    # A path of the others with a method that they do not have is Flask's.
    assert client.delete("/native/one").status_code == 404
    assert not passed


def test_native_routes_keep_their_layers(application: tuple[TestClient, list[str]]) -> None:
    client, passed = application
    assert client.get("/native/one").text == "native one"
    assert passed == ["/native/one"]


@pytest.mark.parametrize("pieces", [0, 1, 3000])
def test_what_comes_in_pieces_is_whole(application: tuple[TestClient, list[str]], pieces: int) -> None:
    assert application[0].get(f"/stream?pieces={pieces}").content == PIECE * pieces


def test_a_large_answer_is_whole(application: tuple[TestClient, list[str]]) -> None:
    assert application[0].get("/large").content == b"y" * (server_speed.PIECE_BYTES + 1)


def test_what_flask_fails_on_is_an_error_without_its_text(application: tuple[TestClient, list[str]]) -> None:
    answer = application[0].get("/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_pieces_are_sent_as_they_come() -> None:
    sent: list[Any] = []

    def pieces(_: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        for _number in range(3):
            yield PIECE
            # The piece that was yielded last is on its way before the next one is asked for.
            sent.append("asked")

    async def answer() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(len(message["body"]) if "body" in message else message["status"])

        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        scope["http_version"] = "1.1"
        await server_speed.FromFlask(pieces)(scope, receive, send)

    anyio.run(answer)
    assert sent == [200, 1000, "asked", 1000, "asked", 1000, "asked", 0]
