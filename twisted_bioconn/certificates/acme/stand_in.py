"""
Certificates that nobody but us has signed: made in memory, for as long as there is nothing better.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..development import SKEW
from ..loading import CertifiedKey

__all__ = ["self_signed", "stand_in"]

_LIFE = timedelta(days=7)


def self_signed(
    title: str,
    names: Iterable[x509.GeneralName],
    now: float,
    extension: x509.ExtensionType | None = None,
) -> CertifiedKey:
    """
    A certificate signed by its own key, for a week.

    @param title: its common name: at most 64 characters (RFC 5280, appendix A.1).
    @param now: the present time, in seconds since the epoch.
    @param extension: one more extension, critical.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    present = datetime.fromtimestamp(now, UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(present - SKEW)
        .not_valid_after(present + _LIFE)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return CertifiedKey((builder.sign(key, SHA256()),), key)


def stand_in(names: Iterable[x509.GeneralName], now: float) -> CertifiedKey:
    """
    What is served until the first certificate is there: no client trusts it, but the port answers,
    and an authority can validate.
    """
    return self_signed("waiting for a certificate", names, now)
