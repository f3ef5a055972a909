"""The filter that makes PostgreSQL's password verifiers."""

import hashlib
import hmac
import re
from base64 import b64decode

import pytest
from ansible.errors import AnsibleFilterError

from plugins.filter.scram import FilterModule, scram_sha_256_verifier, verifier

FORM = re.compile(r"SCRAM-SHA-256\$(?P<iterations>\d+):(?P<salt>[^$:]+)\$(?P<stored_key>[^$:]+):(?P<server_key>[^$:]+)")
PASSWORD = "a password of sixteen"


def test_the_exchange_of_rfc_7677_succeeds_with_it() -> None:
    # Section 3 of the RFC: what client and server said, and the two signatures.
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    salt = "W22ZaJ0SNY7soEsUEjb6gQ=="
    exchange = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s={salt},i=4096,c=biws,r={nonce}".encode()
    client_proof = b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    server_signature = b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")

    parts = FORM.fullmatch(verifier("pencil", b64decode(salt)))

    assert parts
    assert parts["iterations"] == "4096"
    assert parts["salt"] == salt
    stored_key = b64decode(parts["stored_key"])
    client_signature = hmac.digest(stored_key, exchange, "sha256")
    client_key = bytes(a ^ b for a, b in zip(client_proof, client_signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key
    assert hmac.digest(b64decode(parts["server_key"]), exchange, "sha256") == server_signature


def test_the_same_input_gives_the_same_verifier() -> None:
    assert scram_sha_256_verifier(PASSWORD, "app", "1") == scram_sha_256_verifier(PASSWORD, "app", "1")


@pytest.mark.parametrize(("role", "server"), [("other", "1"), ("app", "2"), ("", "1app")])
def test_another_role_or_server_has_another_salt(role: str, server: str) -> None:
    salts = {scram_sha_256_verifier(PASSWORD, *who).split("$")[1] for who in [("app", "1"), (role, server)]}
    assert len(salts) == 2


def test_the_salt_says_nothing_of_the_password() -> None:
    salts = {scram_sha_256_verifier(password, "app").split("$")[1] for password in [PASSWORD, PASSWORD + "!"]}
    assert len(salts) == 1


@pytest.mark.parametrize("password", ["", "pässword of sixteen", "with a\nline break", "with a\ttab", 1234567890123456])
def test_other_passwords_are_refused_without_being_shown(password: str) -> None:
    with pytest.raises(AnsibleFilterError, match="The password of app") as refusal:
        scram_sha_256_verifier(password, "app")
    assert not password or str(password) not in str(refusal.value)


def test_ansible_finds_it() -> None:
    assert FilterModule().filters() == {"scram_sha_256_verifier": scram_sha_256_verifier}
