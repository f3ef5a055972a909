"""Requests whose login or workspace cannot be read are rejected before MLflow reads them."""

from __future__ import annotations

import base64

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

import server_login
from tests.project import PROJECT


def basic(login: bytes | str) -> str:
    """Return the header of a login."""
    encoded = base64.b64encode(login.encode() if isinstance(login, str) else login)
    return f"Basic {encoded.decode()}"


def client(*, has_workspaces: bool = False) -> TestClient:
    """Return a client of an application that answers with the workspace that it is asked for."""
    application = FastAPI()

    @application.get("/")
    async def read(request: Request) -> Response:
        return Response(request.headers.get("X-MLFLOW-WORKSPACE", "no header"))

    application.add_middleware(server_login.CheckHeaders, has_workspaces=has_workspaces)
    return TestClient(application)


@pytest.mark.parametrize(
    "header",
    [
        *(
            "Bearer x",
            "Bearer",
            "Digest username=admin",
            "Basic",
            "Basic ",
            "Basic x",
            "Basic !!!!",
            "nonsense",
            "",
            " ",
        ),
        *(basic("no-colon"), basic(":no-user"), basic(""), basic(b"\xff\xfe:password"), basic("ad\0min:password")),
        "Basic " + "A" * 7,
        basic("admin:password") + ", " + basic("admin:password"),
    ],
)
def test_malformed_login_is_not_authenticated(header: str) -> None:
    answer = client().get("/", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="mlflow"'


def test_two_logins_are_not_authenticated() -> None:
    headers = [("Authorization", basic("admin:one")), ("Authorization", basic("admin:two"))]
    assert client().get("/", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "header", [basic("admin:password"), basic("admin:"), basic("jörg:päss:wörd"), "bAsIc  " + basic("a:b").split()[1]]
)
def test_readable_login_is_passed_on(header: str) -> None:
    assert client().get("/", headers={"Authorization": header}).text == "no header"


def test_no_login_is_passed_on() -> None:
    assert client().get("/").text == "no header"


@pytest.mark.parametrize(
    ("login", "workspace", "status"),
    [
        ({}, "default", 200),
        ({}, "other", 401),
        ({"Authorization": basic("admin:password")}, "default", 200),
        ({"Authorization": basic("admin:password")}, "other", 400),
        ({"Authorization": "Bearer x"}, "default", 401),
    ],
)
def test_workspace_without_workspaces_is_rejected(login: dict[str, str], workspace: str, status: int) -> None:
    answer = client().get("/", headers={**login, "X-MLFLOW-WORKSPACE": workspace})
    assert answer.status_code == status
    if status == 200:
        assert answer.text == "no header"
    if status == 400:
        assert answer.json()["error_code"] == "FEATURE_DISABLED"


def test_workspace_is_mlflows_where_workspaces_are_on() -> None:
    answer = client(has_workspaces=True).get("/", headers={"X-MLFLOW-WORKSPACE": "other"})
    assert answer.text == "other"


def test_every_server_module_is_deployed_and_needs_new_processes() -> None:
    role = PROJECT / "roles" / "mlflow_server"
    for name in sorted(path.name for path in (role / "files").glob("server_*.py")):
        assert f"src: {name}" in (role / "tasks" / "switch.yml").read_text(), name
        assert f"lookup('ansible.builtin.file', '{name}')" in (role / "vars" / "main.yml").read_text(), name
