"""Filters on certificates and the names that they are made for."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def host_kind(name: object) -> str:
    """Say what a host is named by: ``ip``, ``dns``, or nothing if it is not a host's name."""
    text = str(name)
    try:
        return "ip" if str(ipaddress.ip_address(text)) == text else ""
    except ValueError:
        labels = text.split(".")
        # Names whose last label is a number are addresses gone wrong.
        valid = len(text) <= 253 and all(map(LABEL.fullmatch, labels)) and not labels[-1].isdecimal()
        return "dns" if valid else ""


def subject_alt_name(name: str) -> str:
    """Write a host's name as the certificate modules take it, such as ``DNS:mlflow.example.com``."""
    return f"{host_kind(name).upper()}:{name}"


def _covers(certificate: x509.Certificate, name: str) -> bool:
    """Say whether a client that asks for this name would take the certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    if host_kind(name) == "ip":
        return ipaddress.ip_address(name) in names.get_values_for_type(x509.IPAddress)
    wanted = name.lower()
    patterns = {pattern.lower() for pattern in names.get_values_for_type(x509.DNSName)}
    return wanted in patterns or "*." + wanted.partition(".")[2] in patterns


def _key_problems(key: str, certificate: x509.Certificate) -> list[str]:
    """Say what is wrong with a private key for a certificate."""
    try:
        private = load_pem_private_key(key.encode(), password=None)
    except TypeError:
        return ["the key has a passphrase, which nginx cannot ask for"]
    except ValueError:
        return ["the key is no private key in PEM"]
    encoding = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    public = private.public_key()
    if public.public_bytes(*encoding) != certificate.public_key().public_bytes(*encoding):
        return ["the key is not that of the chain's first certificate"]
    strong = (isinstance(public, rsa.RSAPublicKey) and public.key_size >= 2048) or (
        isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in {"secp256r1", "secp384r1"}
    )
    return [] if strong else ["the key is neither RSA of 2048 bits or more, nor on the curve P-256 or P-384"]


def certificate_problems(chain: str, key: str, names: list[str], now: datetime | None = None) -> list[str]:
    """Say why clients would refuse a server with this certificate chain and key under one of these names.

    Args:
        chain: Certificates in PEM, the server's own first, each followed by its issuer; the root may be missing.
        key: The server's private key in PEM.
        names: Host names and addresses under which clients ask for the server.
        now: The time to judge by, for tests.

    Returns:
        What is wrong, a clause each, without a trace of the key; empty if nothing is.
    """
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        return ["the chain holds no certificate in PEM that can be read"]
    now = now or datetime.now(UTC)
    problems = _key_problems(key, certificates[0])
    for certificate in certificates:
        subject = certificate.subject.rfc4514_string() or "without a subject"
        if now < certificate.not_valid_before_utc:
            problems.append(f"the certificate {subject} is not valid before {certificate.not_valid_before_utc}")
        if now > certificate.not_valid_after_utc:
            problems.append(f"the certificate {subject} expired at {certificate.not_valid_after_utc}")
    for certificate, issuer in pairwise(certificates):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            problems.append(
                f"the certificate {certificate.subject.rfc4514_string()} is not issued by the next one of the chain, "
                f"{issuer.subject.rfc4514_string()}"
            )
    uncovered = [name for name in names if not _covers(certificates[0], name)]
    if uncovered:
        problems.append(f"the chain's first certificate does not cover {', '.join(uncovered)}")
    return problems


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., object]]:
        """Name the filters of this file."""
        return {
            "certificate_problems": certificate_problems,
            "host_kind": host_kind,
            "subject_alt_name": subject_alt_name,
        }
