"""What the role does when it runs again: with other certificates, on a broken host, after a run that was cut off."""

import itertools
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
import testinfra
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from testinfra.host import Host

from testing.limits import limit, wait_until
from testing.playbook import PROJECT, Run, run_playbook
from testing.sampling import pick

NAME = "test-nginx-proxy"
OTHER = "test-nginx-proxy-2"
testinfra_hosts = [f"ansible://{NAME}"]
HERE = Path(__file__).parents[1]
SELF_SIGNED = "/etc/nginx/tls/self_signed"
CONF = "/etc/nginx/nginx.conf"
# The number of tasks between two kills of a renewal.
CUT_OFF_EVERY = int(os.environ.get("NGINX_PROXY_CUT_OFF_EVERY", pick("5", "1")))


class Authority:
    """A company's CA: a root, and what it signs."""

    def __init__(self) -> None:
        """Make the root."""
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.sign("Company root", self.key)

    def sign(
        self, name: str, key: ec.EllipticCurvePrivateKey, *names: str, begins: int = -10, ends: int = 10
    ) -> x509.Certificate:
        """Sign a certificate for names, valid for so many days before and after now."""
        now = datetime.now(UTC)
        alternatives = [
            x509.IPAddress(ip_address(each)) if each[0].isdecimal() else x509.DNSName(each) for each in names
        ]
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Company root")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=begins))
            .not_valid_after(now + timedelta(days=ends))
            .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives or [x509.DNSName(name)]), critical=False)
            .sign(self.key, hashes.SHA256())
        )


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


Provide = Callable[..., dict[str, str]]


@pytest.fixture
def provide(authority: Authority, address: str, tmp_path: Path) -> Provide:
    """Leave a certificate and a key on the control node, and say by which variables the role takes them."""

    def files(kind: str) -> dict[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        names = [NAME] if kind == "a name missing" else [NAME, address]
        begins, ends = {"expired": (-10, -1), "not yet valid": (1, 10)}.get(kind, (-10, 10))
        chain = [authority.sign("mlflow", key, *names, begins=begins, ends=ends), authority.certificate]
        if kind == "out of order":
            chain.reverse()
        if kind == "another's key":
            key = ec.generate_private_key(ec.SECP256R1())
        encryption = BestAvailableEncryption(b"secret") if kind == "a passphrase" else NoEncryption()
        certificate_file, key_file = tmp_path / "chain.pem", tmp_path / "key.pem"
        certificate_file.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return {
            "nginx_proxy_certificate": "provided",
            "nginx_proxy_certificate_file": str(certificate_file),
            "nginx_proxy_certificate_key_file": str(key_file),
        }

    return files


def converge(*options: str, **values: object) -> Run:
    """Run the role again on one proxy, and not what stands in for MLflow; the last limit given counts."""
    options = ("--tags", "nginx_proxy", "--limit", NAME, *options)
    return run_playbook("molecule/nginx_proxy/converge.yml", *options, **values)


def renew(**values: object) -> Run:
    """Run the tasks that renew the certificate, and no others."""
    return run_playbook(str((HERE / "renew.yml").relative_to(PROJECT)), **values)


def served(address: str) -> x509.Certificate:
    """Return the certificate that the proxy shows."""
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((address, 443)).encode())


def greets(address: str, ca_file: Path) -> bool:
    """Say whether a client that trusts the site's CA alone is served over a new connection."""
    return httpx.get(
        f"https://{address}/static-files/index.html", verify=ssl.create_default_context(cafile=str(ca_file))
    ).is_success


def serial_on_disk(host: Host) -> int:
    """Return the serial number of the certificate that nginx would start with."""
    lines = host.check_output(f"openssl x509 -in {SELF_SIGNED}/served.pem -noout -serial")
    return int(lines.partition("=")[2], 16)


def hsts(address: str, ca_file: Path) -> str:
    """Return a header that tells one configuration from another, over a new connection."""
    context = ssl.create_default_context(cafile=str(ca_file))
    return str(httpx.get(f"https://{address}/echo", verify=context).headers["strict-transport-security"])


def files_below(host: Host, directory: str) -> str:
    """List files with their content and the rights on them."""
    return str(host.check_output("find %s -type f -printf '%%p %%u %%m ' -exec sha256sum {} +", directory))


def key_line(values: dict[str, str]) -> str:
    """Return a part of the key by which its being shown would be noticed."""
    return Path(values["nginx_proxy_certificate_key_file"]).read_text().splitlines()[1]


BAD = {
    "another's key": "the key is not that of the chain's first certificate",
    "a passphrase": "the key has a passphrase",
    "expired": "the certificate CN=mlflow expired at",
    "not yet valid": "the certificate CN=mlflow is not valid before",
    "a name missing": "the chain's first certificate does not cover 10.",
    "out of order": "is not issued by the next one of the chain, CN=mlflow",
}


def test_a_provided_certificate_serves_and_bad_ones_are_refused(
    host: Host, address: str, authority: Authority, ca_file: Path, provide: Provide
) -> None:
    settings = f"https://{address}/client/settings.env"
    shown = httpx.get(settings, verify=ssl.create_default_context(cafile=str(ca_file)))
    assert "SERVER_CERT_PATH" in shown.text
    result = converge(**provide("good"))
    assert result.returned == 0, result.output
    root = authority.certificate.public_bytes(Encoding.PEM).decode()
    context = ssl.create_default_context(cadata=root)
    assert httpx.get(f"https://{address}/static-files/index.html", verify=context).status_code == 200
    assert host.check_output("stat --format '%U %a' /etc/nginx/tls/provided-*.pem") == "root 600"
    # Who remembers the settings from before is told that they are others now.
    changed = httpx.get(settings, verify=context, headers={"If-None-Match": shown.headers["etag"]})
    assert changed.status_code == 200
    assert "MLFLOW_TRACKING_URI=" in changed.text
    assert "SERVER_CERT_PATH" not in changed.text
    assert httpx.get(f"https://{address}/client/ca.crt", verify=context).status_code == 404

    good, files = served(address), files_below(host, "/etc/nginx")
    for kind, sentence in BAD.items():
        values = provide(kind)
        result = converge(**values)
        assert result.returned != 0, kind
        unfolded = " ".join(result.output.split())
        assert "nginx_proxy_certificate_file is" in unfolded
        assert sentence in unfolded
        assert key_line(values) not in result.output
        assert (served(address), files_below(host, "/etc/nginx")) == (good, files)

    # Back again: the site's CA is as it was, and the key that was handed in is gone.
    result = converge()
    assert result.returned == 0, result.output
    own = ssl.create_default_context(cafile=str(ca_file))
    assert httpx.get(f"https://{address}/static-files/index.html", verify=own).status_code == 200
    assert host.run("ls /etc/nginx/tls").stdout == "self_signed\n"
    assert httpx.get(f"https://{address}/client/ca.crt", verify=own).content == ca_file.read_bytes()


def test_a_certificate_is_renewed_before_it_ends(host: Host, address: str, ca_file: Path) -> None:
    ca = ca_file.read_bytes()
    assert host.run(f"rm {SELF_SIGNED}/server.pem").rc == 0
    result = converge(nginx_proxy_certificate_days=20, nginx_proxy_certificate_renew_days=10)
    assert result.returned == 0, result.output
    short = served(address)
    assert short.not_valid_after_utc - datetime.now(UTC) < timedelta(days=20)

    result = converge()
    assert result.returned == 0, result.output
    renewed = served(address)
    assert renewed.not_valid_after_utc - datetime.now(UTC) > timedelta(days=364)
    assert renewed.public_key() != short.public_key()
    assert ca_file.read_bytes() == ca
    assert greets(address, ca_file)


# --- renewal


@pytest.fixture
def other() -> Host:
    """Return the proxy that serves the same name and does not keep the CA."""
    return testinfra.get_host(f"ansible://{OTHER}?ansible_inventory={os.environ['MOLECULE_INVENTORY_FILE']}")


def test_all_proxies_have_their_certificates_from_one_ca(host: Host, other: Host, address: str, ca_file: Path) -> None:
    beside = str(other.ansible.get_variables()["ansible_host"])
    assert greets(address, ca_file)
    assert greets(beside, ca_file)
    assert host.file(f"{SELF_SIGNED}/ca.key").exists
    assert sorted(other.file(SELF_SIGNED).listdir()) == ["served.pem", "server.key", "server.pem"]

    # One of them alone: the CA is on a host that has no part in the run.
    before, before_beside, ca = served(address), served(beside), ca_file.read_bytes()
    result = converge("--limit", OTHER, nginx_proxy_certificate_renew=True)
    assert result.returned == 0, result.output
    assert served(address) == before
    assert served(beside).public_key() != before_beside.public_key()
    assert greets(beside, ca_file)
    assert ca_file.read_bytes() == ca
    assert converge("--limit", OTHER).changed == 0


@contextmanager
def clients_writing(address: str, ca_file: Path) -> Iterator[list[str]]:
    """Have clients write over connections that they keep, and collect what comes of each request."""
    outcomes: list[str] = []
    done = threading.Event()

    def write() -> None:
        url = f"https://{address}/api/2.0/mlflow/runs/log-metric"
        with httpx.Client(
            verify=ssl.create_default_context(cafile=str(ca_file)), auth=("bob", "battery staple"), timeout=limit(60)
        ) as client:
            while not done.is_set():
                try:
                    outcomes.append(str(client.post(url, json={"value": 1}).status_code))
                except httpx.HTTPError as error:
                    outcomes.append(repr(error))
                done.wait(0.05)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_clients_keep_writing_through_a_renewal(host: Host, address: str, ca_file: Path) -> None:
    before = served(address)
    workers = host.check_output("pgrep --parent $(cat /run/nginx.pid)")
    with clients_writing(address, ca_file) as outcomes:
        result = renew(nginx_proxy_certificate_renew=True)
        through = len(outcomes)
        wait_until(lambda: len(outcomes) >= through + 100, 60, "no client writes any more")
    assert result.returned == 0, result.output
    assert served(address).public_key() != before.public_key()
    assert host.check_output("pgrep --parent $(cat /run/nginx.pid)") != workers
    assert through > 100
    assert set(outcomes) == {"200"}
    print(f"{len(outcomes)} requests")


@pytest.fixture
def reload_announced(host: Host) -> Iterator[Callable[[int], None]]:
    yield lambda ago: host.check_output(f"echo $(($(date +%s) - {ago})) > /run/nginx_reload") and None
    host.run("rm -f /run/nginx_reload")


def test_before_a_reload_each_answer_is_its_connections_last(
    reload_announced: Callable[[int], None], address: str, ca_file: Path
) -> None:
    with httpx.Client(
        verify=ssl.create_default_context(cafile=str(ca_file)), auth=("bob", "battery staple"), timeout=limit(60)
    ) as client:
        for ago, last in ((0, True), (60, False)):
            reload_announced(ago)
            for path in ("/echo/a%2Fb?c=%20", "/api/2.0/mlflow/a%2Fb?c=%20"):
                answer = client.post(f"https://{address}{path}", content=b"123")
                assert (answer.headers["connection"] == "close") is last
                assert (answer.json()["path"], answer.json()["bytes"]) == (path, 3)
            # What MLflow tells to the logged-in alone is asked about the login all the same.
            assert client.get(f"https://{address}/api/3.0/mlflow/server-info", auth=None).status_code == 401


def test_a_renewal_may_be_cut_off_after_any_task(
    host: Host, address: str, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_CALLBACK_PLUGINS", str(HERE / "plugins"))
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "cut_off")
    points: list[str] = []
    for number in itertools.count(1, CUT_OFF_EVERY):
        before = served(address)
        monkeypatch.setenv("CUT_OFF_AFTER", str(number))
        cut = renew(nginx_proxy_certificate_renew=True)
        if cut.returned == 0:
            break  # It has fewer tasks.
        points.append(cut.output.rpartition("cut off after ")[2].strip())
        assert host.run("nginx -t").rc == 0, points
        assert greets(address, ca_file), points

        # Started again: by who still wants a new certificate, or by who does not know of it.
        monkeypatch.delenv("CUT_OFF_AFTER")
        finished = renew(nginx_proxy_certificate_renew=number % 2 == 0)
        assert finished.returned == 0, finished.output
        assert host.run("nginx -t").rc == 0, points
        assert greets(address, ca_file), points
        assert served(address).serial_number == serial_on_disk(host), points
        assert served(address).public_key() != before.public_key(), points
    assert len(points) >= 10 // CUT_OFF_EVERY
    print(f"{len(points)} points: {points}")


# --- status


def statuses(directory: Path) -> dict[str, dict[str, object]]:
    """Ask each proxy which certificate it serves."""
    result = run_playbook(str((HERE / "status.yml").relative_to(PROJECT)), directory=str(directory))
    assert result.returned == 0, result.output
    return {path.stem: json.loads(path.read_text()) for path in directory.iterdir()}


@pytest.fixture
def aside(host: Host) -> Iterator[None]:
    """Put back what nginx reads, and have it run."""
    assert host.run(f"cp -a {CONF} /root/nginx.conf && cp -a {SELF_SIGNED}/served.pem /root/served.pem").rc == 0
    yield
    assert host.run(f"mv /root/nginx.conf {CONF} && mv /root/served.pem {SELF_SIGNED}/served.pem").rc == 0
    assert host.run("systemctl start nginx").rc == 0


@pytest.mark.usefixtures("aside")
def test_the_status_tells_what_is_served(host: Host, address: str, tmp_path: Path) -> None:
    shown = served(address)
    good = {
        "not_before": f"{shown.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{shown.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "serial": f"{shown.serial_number:X}",
        "issuer_is_own_ca": True,
        "agrees": True,
    }
    told = statuses(tmp_path)
    assert told[NAME] == good
    assert (told[OTHER]["issuer_is_own_ca"], told[OTHER]["agrees"]) == (True, True)

    assert host.run("systemctl stop nginx").rc == 0
    assert statuses(tmp_path)[NAME] == good | {"agrees": False}
    assert host.run("systemctl start nginx").rc == 0

    subject = f"-subj /CN=x -addext subjectAltName=DNS:{NAME}"
    request = f"openssl req -x509 -newkey rsa:2048 -nodes {subject} -keyout /dev/null -out {SELF_SIGNED}/served.pem"
    assert host.run(request).rc == 0
    told = statuses(tmp_path)
    assert (told[NAME]["issuer_is_own_ca"], told[NAME]["agrees"]) == (False, False)
    assert told[NAME]["serial"] == f"{serial_on_disk(host):X}"

    assert host.run(f"rm {CONF}").rc == 0
    assert statuses(tmp_path)[NAME] == {}


# --- hosts that break


@pytest.fixture
def module_missing(host: Host) -> Iterator[None]:
    module = "/etc/nginx/modules-enabled/50-mod-http-lua.conf"
    assert host.run(f"mv {module} /root/").rc == 0
    yield
    host.run(f"mv /root/50-mod-http-lua.conf {module}")


@pytest.mark.usefixtures("module_missing")
def test_a_configuration_that_nginx_refuses_changes_nothing(host: Host, address: str, ca_file: Path) -> None:
    before = host.check_output("sha256sum %s", CONF)
    result = converge(nginx_proxy_hsts_max_age=1)
    assert result.returned != 0
    assert 'unknown directive "lua_' in result.output
    assert host.check_output("sha256sum %s", CONF) == before
    assert hsts(address, ca_file) == "max-age=63072000"


def test_a_run_cut_off_before_its_reload_is_repaired_by_the_next(host: Host, address: str, ca_file: Path) -> None:
    # As if the run that wrote the configuration had gone no further: nginx has another one in memory.
    good = "/root/nginx.conf"
    assert host.run(f"cp {CONF} {good} && sed -i s/max-age=63072000/max-age=1/ {CONF} && nginx -s reload").rc == 0
    wait_until(lambda: hsts(address, ca_file) == "max-age=1", 60, "nginx did not reload")
    assert host.run(f"cp {good} {CONF} && rm -f {good} /var/lib/nginx/seen").rc == 0

    result = converge()
    assert result.returned == 0, result.output
    assert hsts(address, ca_file) == "max-age=63072000"


def test_nginx_comes_back_when_it_is_killed(host: Host, client: httpx.Client) -> None:
    master = host.check_output("cat /run/nginx.pid")
    assert host.run("kill -9 %s", master).rc == 0
    running = "systemctl is-active nginx && test $(cat /run/nginx.pid) != %s"
    wait_until(lambda: host.run(running, master).rc == 0, 60, "nginx did not come back")
    assert client.get("/echo").status_code == 200


def test_check_mode_changes_nothing_and_shows_no_key(host: Host, provide: Provide) -> None:
    before = files_below(host, "/etc/nginx")
    values = provide("good")
    result = converge("--check", "--diff", nginx_proxy_hsts_max_age=1, **values)
    assert result.returned == 0, result.output
    assert "max-age=1" in result.output
    assert key_line(values) not in result.output
    assert files_below(host, "/etc/nginx") == before
