"""PROXY headers, made by hand and read."""

from __future__ import annotations

from itertools import pairwise
from struct import pack

from twisted_bioconn.proxy_protocol import (
    LARGEST_HEADER,
    HeaderReader,
    MalformedHeader,
    ProxyAddress,
    ProxyHeader,
)

SIGNATURE = bytes.fromhex("0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a")

LINE = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
"""The example of section 2.1."""

FACTS = ProxyHeader(
    source=ProxyAddress("192.168.0.1", 56324), destination=ProxyAddress("192.168.0.11", 443)
)
"""What it says."""

UNKNOWN = ProxyHeader(version=1)
NO_HEADER = "the connection does not begin with a PROXY header"


def v2(
    block: bytes = b"", *, command: int = 0x21, kind: int = 0x11, size: int | None = None
) -> bytes:
    """A header of version 2 with this after its first 16 bytes."""
    return SIGNATURE + pack(">BBH", command, kind, len(block) if size is None else size) + block


def tlv(number: int, value: bytes) -> bytes:
    return pack(">BH", number, len(value)) + value


ADDRESSES = bytes.fromhex("c0a80001 c0a8000b dc04 01bb")
"""Those of L{LINE}."""

TLS_TLV = b"\x07\0\0\0\0" + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"ci") + tlv(0x28, b"DER")

Outcome = tuple[ProxyHeader | str | None, bytes]


def read(*pieces: bytes, limit: int = LARGEST_HEADER) -> Outcome:
    """The header, or what is wrong, and what was left over."""
    reader = HeaderReader(limit)
    rest = iter(pieces)
    for piece in rest:
        try:
            header = reader.feed(piece)
        except MalformedHeader as error:
            return str(error), b""
        if header is not None:
            return header, reader.rest + b"".join(rest)
    return None, reader.rest


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """The data in pieces, cut at these places."""
    places = [0, *sorted(place % (len(data) + 1) for place in at), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def crc32c(data: bytes) -> int:
    """CRC-32C by long division, bit by bit: RFC 3720, section 12.1."""
    bits = [byte >> place & 1 for byte in data for place in range(8)] + [0] * 32
    for at in range(32):
        bits[at] ^= 1
    left = 0
    for bit in bits:
        left = left << 1 | bit
        if left >> 32:
            left ^= 0x11EDC6F41
    return int(f"{left:032b}"[::-1], 2) ^ 0xFFFFFFFF
