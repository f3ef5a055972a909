"""The filters on certificates: each reason to refuse one, told apart."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from plugins.filter.certificates import FilterModule, certificate_problems, host_kind, subject_alt_name

NOW = datetime(2030, 6, 1, tzinfo=UTC)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
TOO_FEW_BITS = 1024


class Pair(NamedTuple):
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> str:
        """Write the certificate."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_pem(self, encryption: KeySerializationEncryption | None = None) -> str:
        """Write the key."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


def make(name: str, issuer: Pair | None = None, key: Key | None = None, begins: int = -10, ends: int = 10) -> Pair:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names = [x509.DNSName(name), x509.DNSName("*.apps.example.com"), x509.IPAddress(ipaddress.ip_address("10.0.0.1"))]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=begins))
        .not_valid_after(NOW + timedelta(days=ends))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    signer = issuer.key if issuer else key
    algorithm = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Pair(builder.sign(signer, algorithm), key)


@pytest.fixture(scope="module")
def root() -> Pair:
    return make("Root")


@pytest.fixture(scope="module")
def intermediate(root: Pair) -> Pair:
    return make("Intermediate", root)


@pytest.fixture(scope="module")
def server(intermediate: Pair) -> Pair:
    return make("mlflow.example.com", intermediate)


def problems(chain: list[Pair], key: str, *names: str) -> list[str]:
    return certificate_problems("".join(pair.pem for pair in chain), key, list(names) or ["mlflow.example.com"], NOW)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_chain_in_order_is_good_with_or_without_its_root(
    server: Pair, intermediate: Pair, root: Pair, length: int
) -> None:
    assert problems([server, intermediate, root][:length], server.key_pem()) == []


def test_an_rsa_key_of_2048_bits_is_good() -> None:
    pair = make("mlflow.example.com", key=rsa.generate_private_key(65537, 2048))
    assert problems([pair], pair.key_pem()) == []


@pytest.mark.parametrize("name", ["mlflow.example.com", "MLflow.Example.com", "a.apps.example.com", "10.0.0.1"])
def test_names_that_the_certificate_covers(server: Pair, name: str) -> None:
    assert problems([server], server.key_pem(), name) == []


@pytest.mark.parametrize("name", ["example.com", "apps.example.com", "b.a.apps.example.com", "10.0.0.2"])
def test_names_that_it_does_not_cover(server: Pair, name: str) -> None:
    found = problems([server], server.key_pem(), "mlflow.example.com", name)
    assert found == [f"the chain's first certificate does not cover {name}"]


def test_a_certificate_without_alternative_names_covers_nothing() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mlflow.example.com")])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    pair = Pair(builder.sign(key, hashes.SHA256()), key)
    assert problems([pair], pair.key_pem()) == ["the chain's first certificate does not cover mlflow.example.com"]


def test_a_key_of_another_certificate(server: Pair, intermediate: Pair) -> None:
    assert problems([server], intermediate.key_pem()) == ["the key is not that of the chain's first certificate"]


def test_a_key_with_a_passphrase(server: Pair) -> None:
    locked = server.key_pem(BestAvailableEncryption(b"secret"))
    assert problems([server], locked) == ["the key has a passphrase, which nginx cannot ask for"]


def test_a_key_that_is_none(server: Pair) -> None:
    assert problems([server], "SECRET") == ["the key is no private key in PEM"]


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, TOO_FEW_BITS),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa-1024", "p-521", "ed25519"],
)
def test_a_key_outside_the_tls_profile(key: Key) -> None:
    pair = make("mlflow.example.com", key=key)
    assert problems([pair], pair.key_pem()) == [
        "the key is neither RSA of 2048 bits or more, nor on the curve P-256 or P-384"
    ]


def test_a_chain_that_is_none() -> None:
    assert problems([], "") == ["the chain holds no certificate in PEM that can be read"]


def test_an_expired_certificate(intermediate: Pair) -> None:
    pair = make("mlflow.example.com", intermediate, ends=-1)
    assert problems([pair, intermediate], pair.key_pem()) == [
        "the certificate CN=mlflow.example.com expired at 2030-05-31 00:00:00+00:00"
    ]


def test_an_expired_issuer(root: Pair) -> None:
    issuer = make("Intermediate", root, ends=-1)
    pair = make("mlflow.example.com", issuer)
    assert problems([pair, issuer], pair.key_pem()) == [
        "the certificate CN=Intermediate expired at 2030-05-31 00:00:00+00:00"
    ]


def test_a_certificate_of_tomorrow(intermediate: Pair) -> None:
    pair = make("mlflow.example.com", intermediate, begins=1)
    assert problems([pair, intermediate], pair.key_pem()) == [
        "the certificate CN=mlflow.example.com is not valid before 2030-06-02 00:00:00+00:00"
    ]


def test_a_chain_out_of_order(server: Pair, intermediate: Pair, root: Pair) -> None:
    found = problems([server, root, intermediate], server.key_pem())
    assert found[0] == "the certificate CN=mlflow.example.com is not issued by the next one of the chain, CN=Root"


def test_an_issuer_of_the_right_name_with_another_key(server: Pair, root: Pair) -> None:
    impostor = make("Intermediate", root)
    assert problems([server, impostor], server.key_pem()) == [
        "the certificate CN=mlflow.example.com is not issued by the next one of the chain, CN=Intermediate"
    ]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mlflow", "dns"),
        ("mlflow.example.com", "dns"),
        ("1.example.com", "dns"),
        ("10.0.0.1", "ip"),
        ("fd00::1", "ip"),
        ("fd00:0::1", ""),
        ("10.0.0.256", ""),
        ("10.0.0", ""),
        ("", ""),
        ("a..b", ""),
        ("-a", ""),
        ("a_b", ""),
        ("a b", ""),
        ("a\n", ""),
        ("a" * 64, ""),
        (".".join(["a" * 63] * 4), ""),
    ],
)
def test_what_names_a_host(name: object, kind: str) -> None:
    assert host_kind(name) == kind


def test_names_as_the_certificate_modules_take_them() -> None:
    assert [subject_alt_name(name) for name in ("mlflow", "fd00::1")] == ["DNS:mlflow", "IP:fd00::1"]


def test_ansible_finds_the_filters() -> None:
    assert set(FilterModule().filters()) == {"certificate_problems", "host_kind", "subject_alt_name"}
