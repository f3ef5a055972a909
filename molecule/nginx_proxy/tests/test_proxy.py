"""What the proxy does with requests."""

import gzip
import http.client
import json
import os
import re
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from testinfra.host import Host

from testing.limits import wait_until

NAME = "test-nginx-proxy"
testinfra_hosts = [f"ansible://{NAME}"]
ALICE = ("alice", "correct horse")
HEADERS = {"Accept-Encoding": "gzip"}
WORKERS = "pgrep --parent $(cat /run/nginx.pid)"


def point_at(host: Host, colour: str) -> None:
    """Make another MLflow the active one, as its role does."""
    assert host.run(f"ln -s {colour} /opt/mlflow/next && mv -T /opt/mlflow/next /opt/mlflow/active").rc == 0


@pytest.fixture
def no_upstream(host: Host) -> Iterator[None]:
    point_at(host, "nowhere")
    yield
    point_at(host, "blue")


# --- plain http, TLS, names


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_plain_http_is_redirected_to_the_name_it_asked_for(address: str, method: str) -> None:
    for name in (NAME, address):
        answer = httpx.request(method, f"http://{address}/api?a=b", headers={"Host": name})
        assert (answer.status_code, answer.headers["location"]) == (308, f"https://{name}/api?a=b")


def test_plain_http_for_a_foreign_name_is_redirected_to_the_proxys_own(address: str) -> None:
    answer = httpx.get(f"http://{address}/", headers={"Host": "evil.example"})
    assert answer.headers["location"] == f"https://{NAME}/"


def test_a_foreign_name_is_misdirected(nobody: httpx.Client) -> None:
    assert nobody.get("/health", headers={"Host": "evil.example"}).status_code == 421


def test_the_certificate_is_good_for_the_name_too(client: httpx.Client) -> None:
    answer = client.get("/echo", headers={"Host": NAME}, extensions={"sni_hostname": NAME})
    assert answer.status_code == 200


def test_http_2_is_spoken(client: httpx.Client) -> None:
    assert client.get("/echo").http_version == "HTTP/2"


@pytest.mark.parametrize(("version", "taken"), [("tls1", False), ("tls1_1", False), ("tls1_2", True), ("tls1_3", True)])
def test_tls_before_1_2_is_refused(address: str, version: str, taken: bool) -> None:
    # Level 0 lets this end offer the old versions, so that it is the server who refuses.
    client = ["openssl", "s_client", f"-{version}", "-cipher", "DEFAULT@SECLEVEL=0", "-connect", f"{address}:443"]
    result = subprocess.run(client, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (result.returncode == 0) is taken
    assert ("alert protocol version" in result.stderr) is not taken


def test_mozillas_intermediate_profile_is_kept(address: str, ca_file: Path) -> None:
    scan = ["sslyze", "--mozilla_config", "intermediate", "--certinfo_ca_file", str(ca_file), f"{address}:443"]
    result = subprocess.run(scan, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert "OK - Compliant" in result.stdout


# --- headers


@pytest.mark.parametrize(
    "path",
    ["/", "/echo", "/nothing", "/metrics", "/static-files/index.html", "/static-files/none", "/client/", "/client/no"],
)
@pytest.mark.parametrize("user", [ALICE, None])
def test_security_headers_are_on_every_answer(client: httpx.Client, path: str, user: tuple[str, str] | None) -> None:
    headers = client.get(path, auth=user).headers
    assert headers["strict-transport-security"] == "max-age=63072000"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["server"] == "nginx"


def test_what_mlflow_says_of_framing_stands(client: httpx.Client) -> None:
    assert client.get("/framed").headers.get_list("x-frame-options") == ["DENY"]


def test_the_trace_viewer_may_be_framed_by_notebooks(nobody: httpx.Client) -> None:
    assert "x-frame-options" not in nobody.get("/static-files/lib/notebook-trace-renderer/index.html").headers


def test_mlflow_hears_only_of_the_connection_itself(client: httpx.Client, address: str) -> None:
    spoofed = {
        "Host": f"{address}:8443",
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "1",
        "X-Forwarded-Prefix": "/evil",
        "X-Real-IP": "127.0.0.1",
        "X_Forwarded_For": "127.0.0.1",
        "Forwarded": "for=127.0.0.1",
    }
    heard = client.get("/echo", headers=spoofed).json()["headers"]

    gateway = address.rpartition(".")[0] + ".1"
    told = sorted([name, value] for name, value in heard if "forwarded" in name or name in {"host", "x-real-ip"})
    assert told == [
        ["host", f"{address}:8443"],
        ["x-forwarded-for", gateway],
        ["x-forwarded-host", f"{address}:8443"],
        ["x-forwarded-port", "443"],
        ["x-forwarded-proto", "https"],
        ["x-real-ip", gateway],
    ]


@pytest.mark.parametrize(
    ("origin", "status"), [("https://{}", 200), ("http://{}", 403), ("https://evil.example", 403), ("null", 403)]
)
def test_pages_of_another_origin_are_refused(client: httpx.Client, address: str, origin: str, status: int) -> None:
    assert client.post("/echo", headers={"Origin": origin.format(address)}).status_code == status


# --- the user interface


def test_hashed_files_are_served_by_nginx_for_good(nobody: httpx.Client) -> None:
    answer = nobody.get("/static-files/pdf.worker.0123456789abcdef0123.mjs", headers={"Accept-Encoding": "identity"})
    assert answer.text.startswith("/* blue */")
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "text/javascript"


def test_other_files_are_asked_for_again(nobody: httpx.Client) -> None:
    answer = nobody.get("/static-files/index.html")
    assert answer.headers["cache-control"] == "no-cache"
    again = nobody.get("/static-files/index.html", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


def test_the_page_that_names_them_is_not_kept(client: httpx.Client) -> None:
    answer = client.get("/")
    assert "blue" in answer.text
    assert answer.headers.get_list("cache-control") == ["no-cache"]


def test_a_file_compressed_beforehand_is_taken(nobody: httpx.Client) -> None:
    assert nobody.get("/static-files/main.0123abcd.js", headers=HEADERS).text == "precompressed\n"
    assert nobody.get("/static-files/main.0123abcd.js", headers={"Accept-Encoding": ""}).text.startswith("/* blue */")


@pytest.mark.parametrize(
    ("path", "compressed"),
    [
        ("/static-files/pdf.worker.0123456789abcdef0123.mjs", True),
        ("/api/2.0/mlflow/long", True),
        ("/long", False),
        ("/", False),
    ],
)
def test_compression(client: httpx.Client, path: str, compressed: bool) -> None:
    with client.stream("GET", path, headers=HEADERS) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.status_code == 200
    assert ("content-encoding" in answer.headers) is compressed
    if compressed:
        assert len(gzip.decompress(raw)) > 3 * len(raw)


def test_files_that_are_not_there_are_asked_of_mlflow(nobody: httpx.Client) -> None:
    answer = nobody.get("/static-files/none.js")
    assert answer.text == "from blue"
    assert answer.headers.get_list("cache-control") == ["max-age=5"]


def test_nothing_beside_the_user_interface_is_served(host: Host, connection: http.client.HTTPSConnection) -> None:
    assert host.file("/opt/mlflow/active/static/../stub.py").contains("usage: stub.py")
    for path in ("/static-files/../stub.py", "/static-files/%2e%2e/stub.py", "/static-files../stub.py"):
        connection.request("GET", path)
        assert b"usage: stub.py" not in connection.getresponse().read()


# --- what clients have to set


def test_whoever_asks_is_told_what_clients_have_to_set(nobody: httpx.Client) -> None:
    answer = nobody.get("/client/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    settings = nobody.get("/client/settings.env")
    assert (settings.status_code, settings.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    for name in ("URI", "USERNAME", "PASSWORD", "SERVER_CERT_PATH"):
        assert f"MLFLOW_TRACKING_{name}=" in settings.text
        assert f"MLFLOW_TRACKING_{name}=" in answer.text
    assert "python -m mlflow_site" in answer.text
    # It brings along all that it shows, and is forbidden to fetch anything.
    assert set(re.findall(r'(?:src|href)="([^"]*)"', answer.text)) == {"settings.env", "ca.crt", "/"}
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert "<script" not in answer.text


def test_the_settings_can_be_sourced_and_lead_to_the_site(nobody: httpx.Client, ca_file: Path, tmp_path: Path) -> None:
    for name in ("settings.env", "ca.crt"):
        (tmp_path / name).write_bytes(nobody.get(f"/client/{name}").content)
    assert (tmp_path / "ca.crt").read_bytes() == ca_file.read_bytes()
    shell = ["sh", "-euc", ". ./settings.env; env"]
    done = subprocess.run(shell, cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    assert dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("MLFLOW_")) == {
        "MLFLOW_TRACKING_URI": f"https://{NAME}",
        "MLFLOW_TRACKING_USERNAME": "your-name",
        "MLFLOW_TRACKING_PASSWORD": "your-password",
        "MLFLOW_TRACKING_SERVER_CERT_PATH": str(tmp_path / "ca.crt"),
    }


@pytest.mark.parametrize("path", ["/client/", "/client/settings.env", "/client/ca.crt"])
def test_what_clients_have_to_set_is_asked_for_again_each_time(nobody: httpx.Client, path: str) -> None:
    answer = nobody.get(path)
    assert answer.headers.get_list("cache-control") == ["no-cache"]
    assert nobody.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/client/", "/client/settings.env", "/client/new"])
def test_what_clients_have_to_set_can_only_be_read(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path, content=b"a")
    assert answer.status_code in ((404, 405) if path.endswith("new") else (405,))
    assert "blue" not in answer.text


def test_the_page_takes_nothing_else(client: httpx.Client, connection: http.client.HTTPSConnection) -> None:
    redirect = client.get("/client")
    assert (redirect.status_code, redirect.headers["location"]) == (308, f"https://{client.base_url.host}/client/")
    assert client.get("/client/none").status_code == 404
    assert client.get("/clients").json()["path"] == "/clients"
    for path in ("/client/../nginx.conf", "/client/%2e%2e/nginx.conf", "/client../nginx.conf"):
        connection.request("GET", path)
        assert b"worker_processes" not in connection.getresponse().read()


# --- streams


def test_an_upload_reaches_mlflow_while_it_is_sent(
    host: Host, client: httpx.Client, connection: http.client.HTTPSConnection
) -> None:
    megabyte = os.urandom(1 << 20)
    connection.putrequest("PUT", "/api/2.0/mlflow-artifacts/artifacts/model.bin")
    connection.putheader("Authorization", "Basic Ym9iOmJhdHRlcnkgc3RhcGxl")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()

    def send(megabytes: int) -> None:
        for _ in range(megabytes):
            connection.send(b"100000\r\n" + megabyte + b"\r\n")

    send(100)
    # Whatever is on its way, most of it has come out at the other end before the rest is even made.
    wait_until(lambda: client.get("/progress").json() >= 90 << 20, 60, "the upload is held back", pause=0.05)
    assert host.run("find /var/lib/nginx -type f -size +0 -not -name seen").stdout == ""
    send(100)
    connection.send(b"0\r\n\r\n")
    answer = json.loads(connection.getresponse().read())
    assert (answer["method"], answer["bytes"]) == ("PUT", 200 << 20)


def test_an_upload_of_known_length_has_no_size_cap(nobody: httpx.Client) -> None:
    assert nobody.put("/upload", content=bytes(200 << 20), auth=ALICE).json()["bytes"] == 200 << 20


def test_the_gateways_answers_come_word_by_word(client: httpx.Client) -> None:
    with client.stream("POST", "/gateway/chat/stream") as answer:
        words = answer.iter_lines()
        assert next(words) == "data: first"
        client.get("/release")
        assert "data: second" in list(words)


# --- what is closed


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/metrics/",
        "//metrics",
        "/%6detrics",
        "/x/../metrics",
        "/ajax-api/3.0/mlflow/assistant",
        "/ajax-api/3.0/mlflow/assistant/message",
        "/ajax-api/3.0/mlflow/%61ssistant/config",
        "/ajax-api//3.0/mlflow/./assistant/config",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_closed_paths_do_not_reach_mlflow(connection: http.client.HTTPSConnection, path: str, method: str) -> None:
    connection.request(method, path, headers={"Authorization": "Basic Ym9iOmJhdHRlcnkgc3RhcGxl"})
    assert connection.getresponse().status == 404


# --- failed logins


def test_repeated_wrong_passwords_of_one_user_are_refused(client: httpx.Client) -> None:
    wrong = (uuid.uuid4().hex, "wrong")
    assert [client.get("/echo", auth=wrong).status_code for _ in range(12)] == [401] * 10 + [429] * 2

    refused = client.get("/api/2.0/mlflow/long", auth=wrong)
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"
    # Others at the same address go on, and so does who brings no credentials.
    assert client.get("/echo").status_code == 200
    assert client.get("/echo", auth=None).status_code == 401


def test_no_path_leads_around_the_limit(client: httpx.Client) -> None:
    user = uuid.uuid4().hex
    for _ in range(10):
        client.get("/echo", auth=(user, "wrong"))
    paths = ["/", "/api/2.0/mlflow/long", "/api/3.0/mlflow/server-info", "/gateway/any", "/static-files/none"]
    assert {path: client.get(path, auth=(user, "wrong")).status_code for path in paths} == dict.fromkeys(paths, 429)


def test_failures_at_what_nginx_guards_itself_are_counted(client: httpx.Client) -> None:
    wrong = (uuid.uuid4().hex, "wrong")
    codes = [client.get("/api/3.0/mlflow/server-info", auth=wrong).status_code for _ in range(11)]
    assert codes == [401] * 10 + [429]
    assert client.get("/api/3.0/mlflow/server-info").status_code == 200
    assert client.get("/api/3.0/mlflow/server-info", auth=None).status_code == 401


def test_right_passwords_and_no_passwords_are_not_counted(client: httpx.Client) -> None:
    assert {client.get("/echo", auth=ALICE).status_code for _ in range(15)} == {200}
    assert {client.get("/echo", auth=None).status_code for _ in range(15)} == {401}
    assert client.get("/echo", auth=ALICE).status_code == 200


def test_credentials_that_cannot_be_read_are_counted_together(client: httpx.Client) -> None:
    odd = [f"Basic %{number}" for number in range(6)] + [f"Bearer {number}" for number in range(6)]
    codes = [client.get("/echo", auth=None, headers={"Authorization": value}).status_code for value in odd]
    assert codes[-2:] == [429, 429]


def test_many_users_from_one_address_have_a_higher_limit(host: Host) -> None:
    # From an address of the host's own, so that nothing else shares its count.
    script = """
import base64, http.client, random, ssl
own = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.1"
context = ssl._create_unverified_context()
connection = http.client.HTTPSConnection("127.0.0.1", source_address=(own, 0), context=context)
codes = []
for number in range(110):
    credentials = base64.b64encode(b"%d:wrong" % (number // 5)).decode()
    connection.request("GET", "/echo", headers={"Host": "test-nginx-proxy", "Authorization": "Basic " + credentials})
    answer = connection.getresponse()
    answer.read()
    codes.append(answer.status)
print(codes == [401] * 100 + [429] * 10 or codes)
"""
    assert host.check_output("python3 -c %s", script) == "True"


# --- when MLflow is away, or another


@pytest.mark.usefixtures("no_upstream")
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/api/2.0/mlflow/runs/create", "/version"])
def test_clients_are_told_that_mlflow_is_away(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, path)
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    assert "MLflow server behind it does not answer" in answer.json()["message"]


@pytest.mark.usefixtures("no_upstream")
def test_browsers_are_told_that_mlflow_is_away(client: httpx.Client) -> None:
    answer = client.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert answer.status_code == 502
    assert answer.headers["content-type"] == "text/html"
    assert "MLflow server behind it does not answer" in answer.text
    assert answer.headers["cache-control"] == "no-store"


def test_the_error_pages_have_no_address_of_their_own(nobody: httpx.Client) -> None:
    assert nobody.get("/.error_pages/502.json").status_code == 404


def test_what_mlflow_says_of_itself_stands(client: httpx.Client) -> None:
    answer = client.get("/closing")
    assert (answer.status_code, answer.json()) == (503, {"error_code": "FROM_UPSTREAM"})


def test_replacing_the_symbolic_link_moves_the_traffic_at_once(
    host: Host, client: httpx.Client, nobody: httpx.Client
) -> None:
    workers = host.check_output(WORKERS)
    codes: list[int] = []
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            codes.append(nobody.get("/echo", auth=ALICE).status_code)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for colour in ["green", "blue"] * 5:
            point_at(host, colour)
            assert client.get("/echo").json()["name"] == colour
            # Both have a file of this name; where it comes from moves with the rest.
            assert client.get("/static-files/index.html").text.startswith(f"/* {colour} */")
    finally:
        point_at(host, "blue")
        done.set()
        thread.join()
    assert len(codes) > 10
    assert set(codes) == {200}
    assert host.check_output(WORKERS) == workers


# --- what it leaves behind


def test_the_access_log_has_an_object_a_line_and_no_password(host: Host, client: httpx.Client) -> None:
    path = f'/echo/{uuid.uuid4().hex}?q="'
    client.get(path, headers={"User-Agent": 'a "quoted" agent'})
    lines = host.check_output("grep %s /var/log/nginx/access.log", path.partition("?")[0]).splitlines()

    assert len(lines) == 1
    entry = json.loads(lines[0])
    assert entry["uri"].startswith(path.partition("?")[0])
    assert (entry["method"], entry["status"], entry["user"], entry["upstream_status"]) == ("GET", 200, "bob", "200")
    assert entry["user_agent"] == 'a "quoted" agent'
    assert float(entry["request_time"]) >= 0
    assert float(entry["upstream_response_time"]) >= 0
    # The password, and the header that carried it.
    for secret in ("battery staple", "Ym9iOmJhdHRlcnkgc3RhcGxl"):
        assert host.run("grep -rF %s /var/log/nginx", secret).rc == 1


def test_keys_are_roots_alone(host: Host) -> None:
    directory = host.file("/etc/nginx/tls")
    assert (directory.user, directory.mode) == ("root", 0o700)
    for name in ("ca.key", "server.key", "served.pem"):
        key = host.file(f"/etc/nginx/tls/self_signed/{name}")
        assert (key.user, key.group, key.mode) == ("root", "root", 0o600)


def test_the_ca_can_sign_servers_and_no_further_ca(ca_file: Path) -> None:
    command = ["openssl", "x509", "-in", str(ca_file), "-noout", "-ext", "basicConstraints,keyUsage"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "X509v3 Basic Constraints: critical\n    CA:TRUE, pathlen:0" in text
    assert "X509v3 Key Usage: critical\n    Certificate Sign, CRL Sign" in text


def test_nginx_complains_of_nothing(host: Host) -> None:
    log = host.check_output("cat /var/log/nginx/error.log")
    assert "[emerg]" not in log
    assert "[alert]" not in log
    assert host.run("nginx -t 2>&1 | grep -F '[warn]'").stdout == ""
