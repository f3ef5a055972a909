"""What a site refuses: to strangers on the network, to other sites in a user's browser, to other users of its host."""

from __future__ import annotations

import http.client
import json
import re
import shlex
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import requests
from testinfra.host import Host

from testing.deployment import Site, active_colour

# Run on the host by the release's own Python, given the id and the settings file of the process that serves, whose
# environment it takes: prints method and path of each route of MLflow, of both web frameworks that it is made of.
LIST_ROUTES = """
import json, os, pathlib, runpy, sys

process, settings = sys.argv[1:]
environment = pathlib.Path("/proc", process, "environ").read_text()
os.environ.update(entry.split("=", 1) for entry in environment.split("\\0") if entry)
runpy.run_path(settings)

from fastapi.routing import iter_route_contexts
from starlette.routing import Mount
from mlflow.server import app as flask_app
from mlflow.server.auth import create_app

routes = [(rule.methods, rule.rule) for rule in flask_app.url_map.iter_rules()]
for route in iter_route_contexts(create_app().routes):
    # The one mount is the Flask app.
    if not isinstance(route.route, Mount):
        routes.append((route.methods, route.path))
print(json.dumps(sorted({(method, path) for methods, path in routes for method in methods})))
"""

# What nobody needs to log in for. There is nothing of the site's in either.
OPEN = {
    "/health": "a load balancer asks it",
    "/static-files/<path:path>": "MLflow's user interface as released, the same everywhere",
}
# What nginx answers 404 whoever asks: the assistant can run commands on the host, the metrics know no login, and the
# store of artifacts is the server's.
CLOSED = (
    "/ajax-api/3.0/mlflow/assistant",
    "/metrics",
    "/gateway",
    *(
        f"/{api}/2.0/{path}"
        for api in ("api", "ajax-api")
        for path in ("mlflow-artifacts/mpu", "mlflow-artifacts/presigned", "mlflow/artifacts/presigned")
    ),
)
# Something that only an administrator may see.
USERS = "/api/2.0/mlflow/users/list"
EXPERIMENTS = "/api/2.0/mlflow/experiments/search"

# What a page can send without asking first, and would find the user's login attached to.
ASKED_BY_PAGES = [("GET", USERS), ("POST", "/api/2.0/mlflow/runs/create"), ("POST", "/graphql"), ("POST", "/v1/traces")]
QUERY = {"query": "{ __typename }"}

ENOUGH_ROUTES = 500
LOGIN_ATTEMPTS_MAX = 30

SECRET_DIRECTORIES = ["/etc/mlflow", "/run/credentials", "/etc/nginx/tls", "/etc/ssl/private", "/var/lib/postgresql"]
# Wherever anything writes. The rest of /usr and /opt is as the packages brought it, and so is PACKAGE_CACHE in /var.
SEARCHED_DIRECTORIES = [
    "/etc",
    "/home",
    "/opt/mlflow/colours",
    "/root",
    "/run",
    "/srv",
    "/tmp",  # noqa: S108 - looked into, not written to
    "/usr/local",
    "/var",
]
PACKAGE_CACHE = "mlflow-uv"
OTHER_USERS = ["nobody", "www-data", "postgres"]
# PostgreSQL's data, and a key that Debian makes for it and every other service: nothing of the site's.
OWN_DIRECTORIES = {"postgres": ["/etc/ssl/private", "/var/lib/postgresql"]}
# Prints those of the files in its arguments that it may read.
PRINT_READABLE = 'for file; do if [ -r "$file" ]; then echo "$file"; fi; done'
READABLE_BY_ALL = "/etc/passwd"


@pytest.fixture(scope="module")
def routes(host: Host) -> list[tuple[str, str]]:
    """Return method and path of every route that MLflow registers."""
    colour = active_colour(host)
    listed = host.check_output(
        "/opt/mlflow/active/release/bin/python -B -c %s $(systemctl show --property MainPID --value mlflow@%s) %s",
        LIST_ROUTES,
        colour,
        f"/etc/mlflow/{colour}/gunicorn.conf.py",
    )
    return [(method, path) for method, path in json.loads(listed)]


def filled_in(path: str) -> str:
    """Return a route's path with a value for each of its parameters, in Flask's notation or FastAPI's."""
    return re.sub(r"<[^>]+>|{[^}]+}", "1", path)


def is_closed(path: str) -> bool:
    return path.startswith(CLOSED)


# --- without a login


def test_every_route_wants_a_login(site: Site, anonymous: requests.Session, routes: list[tuple[str, str]]) -> None:
    answers = {
        (method, path): anonymous.request(
            method, site.url + filled_in(path), allow_redirects=False, timeout=60
        ).status_code
        for method, path in routes
        if path not in OPEN and not is_closed(path)
    }
    assert len(answers) > ENOUGH_ROUTES
    assert {route: status for route, status in answers.items() if status not in (401, 403)} == {}


def test_what_is_open_exists(routes: list[tuple[str, str]]) -> None:
    assert set(OPEN) <= {path for _, path in routes}


@pytest.mark.parametrize(
    "path",
    [
        "/static-files/.." + USERS,
        "/static-files/%2e%2e" + USERS,
        "/static/.." + USERS,
        "/favicon.ico/.." + USERS,
        "/health/.." + USERS,
        "/health;" + USERS,
        "/" + USERS,
        "/x/.." + USERS,
        USERS + "/",
        "/static-files/../socket",
        "/static-files/../../../etc/passwd",
        "/static-files/..%2f..%2f..%2fetc/passwd",
    ],
)
def test_a_path_dressed_up_as_an_open_one_leads_nowhere(site: Site, path: str) -> None:
    # Byte by byte, since better clients tidy the path up.
    context = ssl.create_default_context(cafile=str(site.ca_file))
    connection = http.client.HTTPSConnection(site.url.removeprefix("https://"), context=context, timeout=60)
    connection.request("GET", path)
    assert connection.getresponse().status in (400, 401, 404)
    connection.close()


def test_wrong_password_and_unknown_user(site: Site, anonymous: requests.Session, user: tuple[str, str]) -> None:
    for name, password in ((user[0], "not the password"), (f"{user[0]}-unknown", user[1]), (user[0], "")):
        assert anonymous.get(site.url + EXPERIMENTS, auth=(name, password), timeout=60).status_code == 401
    answer = anonymous.get(site.url + EXPERIMENTS, params={"max_results": 1}, auth=user, timeout=60)
    assert answer.status_code == 200


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer x"}, {"X-MLFLOW-WORKSPACE": "other"}])
def test_header_that_mlflow_cannot_read_is_not_authenticated(
    site: Site, anonymous: requests.Session, headers: dict[str, str]
) -> None:
    # A path of Flask, and one of FastAPI.
    for path in (EXPERIMENTS, "/api/2.0/mlflow-artifacts/artifacts"):
        answer = anonymous.get(site.url + path, headers=headers, timeout=60)
        assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (401, True), path


def test_repeated_wrong_passwords_are_slowed(
    site: Site, anonymous: requests.Session, admin: requests.Session, user: tuple[str, str]
) -> None:
    statuses = []
    for _ in range(LOGIN_ATTEMPTS_MAX):
        answer = anonymous.get(site.url + USERS, auth=(user[0], "not the password"), timeout=60)
        statuses.append(answer.status_code)
        if answer.status_code != 401:
            break
    assert statuses[-1] == 429, statuses
    assert int(answer.headers["Retry-After"]) > 0

    # Neither another address that the client claims to have, nor the right password, is a way around it.
    claimed = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"}
    for password in ("not the password", user[1]):
        again = anonymous.get(site.url + USERS, auth=(user[0], password), headers=claimed, timeout=60)
        assert again.status_code == 429
    # Who knows their password is let in all the while, from the same address.
    assert admin.get(site.url + USERS, timeout=60).status_code == 200


def test_closed_routes_are_closed_to_the_administrator_too(
    site: Site, admin: requests.Session, routes: list[tuple[str, str]]
) -> None:
    closed = [("GET", "/metrics")] + [(method, filled_in(path)) for method, path in routes if is_closed(path)]
    assert any("assistant" in path for _, path in closed)
    claimed = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "localhost"}
    for headers in ({}, claimed):
        answers = {
            (method, path): admin.request(method, site.url + path, headers=headers, timeout=60).status_code
            for method, path in closed
        }
        assert set(answers.values()) == {404}, answers


# --- other names, other origins, no TLS


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/static-files/index.html", USERS])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_plain_http_only_redirects(site: Site, anonymous: requests.Session, method: str, path: str) -> None:
    answer = anonymous.request(method, site.plain_url + path, allow_redirects=False, timeout=60)
    assert answer.is_permanent_redirect
    assert answer.headers["Location"] == site.url + path
    assert "MLflow" not in answer.text


@pytest.mark.parametrize("path", ["/health", "/static-files/index.html", USERS])
def test_a_foreign_host_name_is_refused(site: Site, admin: requests.Session, path: str) -> None:
    assert admin.get(site.url + path, headers={"Host": "evil.example"}, timeout=60).status_code == 421


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "https://localhost", "http://127.0.0.1:8888"]
)
def test_pages_of_other_origins_are_refused(site: Site, admin: requests.Session, origin: str) -> None:
    for method, path in ASKED_BY_PAGES:
        answer = admin.request(method, site.url + path, json=QUERY, headers={"Origin": origin}, timeout=60)
        assert answer.status_code == 403, (method, path)
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_pages_of_the_site_itself_are_served(site: Site, admin: requests.Session) -> None:
    for method, path in ASKED_BY_PAGES:
        answer = admin.request(method, site.url + path, json=QUERY, headers={"Origin": site.url}, timeout=60)
        # All but GraphQL complain of the body: they have read it.
        assert answer.status_code in (200, 400, 422), (method, path)


def test_tls(site: Site, tmp_path: Path) -> None:
    report = tmp_path / "sslyze.json"
    scan = ["sslyze", "--mozilla_config", "intermediate", "--certinfo_ca_file", str(site.ca_file)]
    # sslyze brings an OpenSSL that still speaks the old versions: it is the server that says no.
    done = subprocess.run(
        [*scan, f"--json_out={report}", site.url.removeprefix("https://")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    (server,) = json.loads(report.read_text(encoding="utf-8"))["server_scan_results"]
    results = {
        version: server["scan_result"][f"tls_{version}_cipher_suites"]["result"]
        for version in ("1_0", "1_1", "1_2", "1_3")
    }
    assert [version for version, result in results.items() if result["accepted_cipher_suites"]] == ["1_2", "1_3"]
    for version in ("1_0", "1_1"):
        said = {rejected["error_message"].strip() for rejected in results[version]["rejected_cipher_suites"]}
        assert said == {"TLS alert: protocol version"}


# --- PostgreSQL


def test_postgresql_cannot_be_reached_from_outside(host: Host) -> None:
    address = host.check_output("hostname -I").split()[0]
    socket.create_connection((address, 22), timeout=10).close()
    with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
        socket.create_connection((address, 5432), timeout=3)


def psql(host: Host, user: str, connection: str) -> tuple[int, str]:
    """Try a connection to PostgreSQL as a user of the host; returns exit status and what it said."""
    service_file = f"PGSERVICEFILE=/etc/mlflow/{active_colour(host)}/pg_service.conf"
    done = host.run(
        "runuser -u %s -- env --chdir=/ %s psql --no-psqlrc --no-password --tuples-only --no-align -c 'SELECT 1' %s",
        user,
        service_file,
        connection,
    )
    return done.rc, done.stdout + done.stderr


def test_postgresql_lets_in_the_service_and_its_own_user(host: Host) -> None:
    assert psql(host, "mlflow", "service=mlflow") == (0, "1\n")
    assert psql(host, "postgres", "dbname=mlflow user=postgres") == (0, "1\n")


@pytest.mark.parametrize("user", OTHER_USERS)
@pytest.mark.parametrize(
    "connection",
    [
        "dbname=mlflow user=mlflow_a password=wrong",
        "dbname=mlflow user=mlflow_a",
        "dbname=mlflow user=mlflow_owner",
        "dbname=mlflow user=nobody",
        "service=mlflow",
        "service=mlflow_auth",
    ],
)
def test_postgresql_refuses_other_users_of_the_host(host: Host, user: str, connection: str) -> None:
    status, said = psql(host, user, connection)
    assert status == 2
    assert re.search(r"authentication failed|no password supplied|no pg_hba.conf entry|service file .* not found", said)


@pytest.mark.parametrize("user", ["nobody", "www-data", "mlflow"])
def test_postgresql_takes_nobody_else_for_its_superuser(host: Host, user: str) -> None:
    status, said = psql(host, user, "dbname=mlflow user=postgres")
    assert status == 2
    assert "authentication failed" in said


# --- files


def readable(host: Host, user: str, list_files: str) -> list[str]:
    """Return those of some files that a user of the host can read; READABLE_BY_ALL, always added, shows that it asks.

    Args:
        host: The host.
        user: The user.
        list_files: Shell command that prints the files, each ended by a null byte.
    """
    ask = shlex.join(["runuser", "-u", user, "--", "sh", "-c", PRINT_READABLE, "sh", READABLE_BY_ALL])
    return sorted(set(host.check_output(f"{list_files} | xargs --null {ask}").splitlines()))


@pytest.mark.parametrize("user", OTHER_USERS)
def test_other_users_read_no_file_beside_a_secret(host: Host, user: str) -> None:
    directories = [directory for directory in SECRET_DIRECTORIES if directory not in OWN_DIRECTORIES.get(user, [])]
    list_files = f"find {shlex.join(directories)} -type f -print0"
    found = host.check_output(list_files).split("\0")
    assert any(file.endswith("/pg_service.conf") for file in found)
    assert any(file.startswith("/etc/nginx/tls/") and file.endswith(".key") for file in found)
    assert readable(host, user, list_files) == [READABLE_BY_ALL]


def test_other_users_read_no_file_that_holds_a_secret(host: Host, site: Site) -> None:
    secrets = [file.read_text(encoding="utf-8").strip() for file in site.secrets.glob("[!.]*")]
    assert len(secrets) > 5
    # The secrets are handed in, so that they get into no command line.
    search = ["grep", "--recursive", "--devices=skip", f"--exclude-dir={PACKAGE_CACHE}", "--files-with-matches"]
    search += ["--fixed-strings", "--file=-", *SEARCHED_DIRECTORIES]
    done = subprocess.run(
        ["podman", "exec", "--interactive", site.host, *search],
        input="\n".join(secrets),
        capture_output=True,
        text=True,
        check=False,
    )
    found = done.stdout.splitlines()
    colour = active_colour(host)
    assert {f"/etc/mlflow/{colour}/pg_service.conf", f"/etc/mlflow/{colour}/credentials/kek_passphrase"} <= set(found)
    for user in OTHER_USERS:
        assert readable(host, user, shlex.join(["printf", "%s\\0", *found])) == [READABLE_BY_ALL]


def test_the_service_can_do_little(host: Host) -> None:
    done = host.run("systemd-analyze security --no-pager --threshold=20 mlflow@%s.service", active_colour(host))
    assert done.rc == 0, done.stdout[-200:]
