"""
What it costs to make a key out of a passphrase, told before it is paid.

An encrypted file says itself how many rounds that takes.  A few bytes of it that are wrong are
hours in a call that nothing can interrupt, or all the memory there is, and the server stands still.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from ..errors import ConfigurationError

__all__ = ["MOST_ROUNDS", "MOST_SCRYPT_BYTES", "refuse_costly_pem", "refuse_costly_pkcs12"]

MOST_ROUNDS = 5_000_000
"""
Rounds of hashing at most, of all that is encrypted in a file: some seconds.  Programs write 2,000
to 1,300,000, the latter being the most that OWASP's "Password Storage Cheat Sheet" asks for.
"""

MOST_SCRYPT_BYTES = 256 * 1024 * 1024
"""Bytes that scrypt goes over at most (RFC 7914, section 5: 128 N r p); C{openssl} has 16 MiB."""

# 1.2.840.113549.1.5 is PKCS #5 (RFC 8018, appendix C), whose 12 is PBKDF2, and those before it
# that stand for a method of PBES1; 1.2.840.113549.1.12.1 is PKCS #12's (RFC 7292, appendix C).
_ROUNDS = re.compile(
    rb"\x06(?:\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05[\x01-\x0c]"
    rb"|\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01.)",
    re.DOTALL,
)
_SCRYPT = re.compile(rb"\x06\x09\x2b\x06\x01\x04\x01\xda\x47\x04\x0b")  # RFC 7914, section 7

_SEQUENCE, _OCTETS, _INTEGER = 0x30, 0x04, 0x02
_DEEPEST = 16
_LONGEST_NUMBER = 8  # bytes

_HEADER = re.compile(rb"(?<![^\r\n])[^\r\n:]*:[^\r\n]*")  # RFC 1421, section 4.6
_NO_DIGIT = re.compile(rb"[^A-Za-z0-9+/]+")  # of base64: RFC 4648, section 4


def refuse_costly_pem(block: bytes, what: str) -> None:
    """
    See that an encrypted private key in PKCS #8 form can be decrypted in bounded time.

    @param block: its PEM block.
    @param what: what to call it in a message.
    @raise ConfigurationError: it cannot.
    """
    # Whatever layout it has: what is not found here is paid for afterwards.
    body = _HEADER.sub(b"", b"".join(block.split(b"-----")[2:3]))
    digits = _NO_DIGIT.sub(b"", body)
    der = base64.b64decode(digits[: len(digits) // 4 * 4])
    _refuse_costly(_all_rounds(der), der, what)


def refuse_costly_pkcs12(data: bytes, what: str) -> None:
    """
    See that a PKCS #12 file can be opened in bounded time.

    @raise ConfigurationError: it cannot, or is damaged.
    """

    def rounds() -> Iterator[int]:
        yield from _all_rounds(data)
        yield from _rounds_of_mac(data)

    _refuse_costly(rounds(), data, what)


def _refuse_costly(rounds: Iterator[int], der: bytes, what: str) -> None:
    try:
        total = sum(rounds)
        size = max(_scrypt_bytes(der), default=0)
    except (IndexError, ValueError):
        raise ConfigurationError(f"{what} is damaged: how it is encrypted cannot be read") from None
    if total > MOST_ROUNDS:
        raise ConfigurationError(
            f"{what} takes {total} rounds to decrypt, where {MOST_ROUNDS} are the most"
        )
    if size > MOST_SCRYPT_BYTES:
        raise ConfigurationError(
            f"{what} takes {size} bytes of scrypt to decrypt, where {MOST_SCRYPT_BYTES} are the"
            " most"
        )


def _all_rounds(der: bytes) -> Iterator[int]:
    for found in _ROUNDS.finditer(der):
        yield _parameters(der, found.end(), 1)[0]


def _scrypt_bytes(der: bytes) -> Iterator[int]:
    for found in _SCRYPT.finditer(der):
        cost, block_size, parallel = _parameters(der, found.end(), 3)
        yield 128 * cost * block_size * parallel


def _rounds_of_mac(data: bytes) -> Iterator[int]:
    """Those of a PFX's MacData, its third and last part (RFC 7292, section 4)."""
    _, at, end = _element(data, 0)
    at = _end_of(data, _end_of(data, at))
    if data[at : at + 1] == bytes([_SEQUENCE]) and (end is None or at < end):
        _, at, end = _element(data, at)
        at = _end_of(data, _end_of(data, at))  # after the digest and the salt
        if data[at : at + 1] == bytes([_INTEGER]) and (end is None or at < end):
            yield _integer(data, at)[0]


def _parameters(data: bytes, at: int, count: int) -> list[int]:
    """The numbers after the salt, in the parameters of a method."""
    tag, at, _ = _element(data, at)
    if tag != _SEQUENCE or data[at] & 0x1F != _OCTETS:
        raise ValueError
    at = _end_of(data, at)
    numbers = []
    for _ in range(count):
        number, at = _integer(data, at)
        numbers.append(number)
    return numbers


def _integer(data: bytes, at: int) -> tuple[int, int]:
    tag, start, end = _element(data, at)
    if tag != _INTEGER or end is None or end > len(data) or end - start > _LONGEST_NUMBER:
        raise ValueError
    return int.from_bytes(data[start:end], "big"), end


def _element(data: bytes, at: int) -> tuple[int, int, int | None]:
    """
    A tag, and where what it stands for begins and ends (X.690, section 8.1); no end where its
    length is not said.
    """
    tag, size = data[at], data[at + 1]
    at += 2
    if size == 0x80:
        return tag, at, None
    if size > 0x80:
        start = at + (size & 0x7F)
        size = int.from_bytes(data[at:start], "big")
        at = start
    return tag, at, at + size


def _end_of(data: bytes, at: int, depth: int = 0) -> int:
    """Where the next element begins."""
    _, at, end = _element(data, at)
    if end is not None:
        return end
    if depth == _DEEPEST:
        raise ValueError
    while data[at : at + 2] != b"\0\0":
        at = _end_of(data, at, depth + 1)
    return at + 2
