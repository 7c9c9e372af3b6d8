"""
The certificate that all servers of a run have.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_LIFE = timedelta(days=2)

# Certificates and lists of revoked ones.
_SIGNING = x509.KeyUsage(False, False, False, False, False, True, True, False, False)


@frozen
class Material:
    """
    PEM files.

    @ivar authority: who signed the certificate.
    @ivar certificate: for C{localhost} and 127.0.0.1, with an ECDSA key on P-256.
    @ivar key: its key.
    @ivar combined: certificate and key in one file, for the programs that want that.
    """

    authority: Path
    certificate: Path
    key: Path
    combined: Path


def make_material(directory: Path) -> Material:
    """Make an authority and the certificate, and write both into this directory."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = _name("authority of the benchmarks")
    authority = (
        _builder(authority_name, authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNING, critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    certificate = (
        _builder(_name("localhost"), authority_name, key.public_key())
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, SHA256())
    )
    material = Material(
        *(directory / name for name in ("ca.pem", "certificate.pem", "key.pem", "combined.pem"))
    )
    certificate_text = certificate.public_bytes(Encoding.PEM)
    key_text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    material.authority.write_bytes(authority.public_bytes(Encoding.PEM))
    material.certificate.write_bytes(certificate_text)
    material.key.write_bytes(key_text)
    material.combined.write_bytes(certificate_text + key_text)
    for private in (material.key, material.combined):
        private.chmod(0o600)
    return material


def _name(title: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFE)
    )
