"""
Certificates as they lie in the store: read, compared, and looked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from twisted.logger import Logger

from twisted_bioconn.errors import ConfigurationError

from ..loading import CertifiedKey
from ..store import Store
from .authorities import identity
from .records import CERTIFICATES, CertificateRecord, load

__all__ = ["covers", "key_type", "predecessor", "usable", "was_before"]

_PREDECESSORS = 50

_log = Logger()


def usable(record: CertificateRecord, name: str) -> CertifiedKey | None:
    """
    The certificate of a record.

    @param name: whose it is, for an operator.
    @return: L{None} where it cannot be used, which is told of.
    """
    try:
        found = CertifiedKey.from_pem(record.pem.encode(), where="the certificate in the store")
        _ = found.names
    except ConfigurationError as error:
        _log.warn("{name}: {error}", name=name, error=error)
        return None
    return found


def was_before(
    record: CertificateRecord,
    found: CertifiedKey | None,
    other_record: CertificateRecord,
    other: CertifiedKey,
) -> bool:
    """
    Whether a certificate was issued before another.  The authority's clock says so; those of the
    fronts, which may be wrong, only where that does not tell, or cannot be read.

    @param found: the certificate of C{record}.
    @param other: that of C{other_record}.
    """
    if found is not None:
        begin, other_begin = found.leaf.not_valid_before_utc, other.leaf.not_valid_before_utc
        if begin != other_begin:
            return begin < other_begin
    return record.issued < other_record.issued


async def predecessor(store: Store, names: Sequence[str]) -> CertifiedKey | None:
    """
    When a name is added to those of a certificate, the certificate of before serves until the
    new one is there, and on, should the new name be one that cannot be proved.

    @param names: those of the new one.
    @raise StoreUnavailable: the store cannot be asked.
    """
    ours = tuple(f"{CERTIFICATES}{identity(name).rpartition('-')[0]}-" for name in names)
    within = ours[0] if len(ours) == 1 else CERTIFICATES
    near = [each for each in await store.names(within) if each.startswith(ours)]
    best: CertifiedKey | None = None
    for name in near[:_PREDECESSORS]:
        record = await load(store, CertificateRecord, name)
        found = None if record is None else usable(record, names[0])
        if found is not None and (best is None or found.not_valid_after > best.not_valid_after):
            best = found
    return best


def covers(certificate: CertifiedKey, name: str) -> bool:
    """Whether a certificate is for a name."""
    names = certificate.names
    return name in names or f"*.{name.partition('.')[2]}" in names


def key_type(certificate: CertifiedKey) -> str:
    """The kind of key and its size or curve, for an operator."""
    key = certificate.key
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return f"EC {key.curve.name}"
    if isinstance(key, rsa.RSAPrivateKey):
        return f"RSA {key.key_size}"
    return type(key).__name__
