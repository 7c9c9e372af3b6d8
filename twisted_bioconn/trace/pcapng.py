"""
A trace as a capture file, for Wireshark and tshark.

What was traced are the bytes of a stream; packets of Ethernet, IP and TCP are put around them here,
with addresses as they were, and with sequence numbers and checksums that fit.  Where the trace has
keys, they are in the file too, in a Decryption Secrets Block, and what reads the file decrypts it.
The format is that of https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-04.html.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from struct import pack

from .events import Bytes, Ended, Secret, Trace, Way

__all__ = ["blocks", "header"]

_SECTION_HEADER, _INTERFACE, _ENHANCED_PACKET, _SECRETS = 0x0A0D0D0A, 1, 6, 10
_TLS_KEY_LOG = 0x544C534B
_ETHERNET = 1

_SYN, _ACK, _PSH, _FIN = 0x02, 0x10, 0x08, 0x01

SEGMENT = 32 * 1024
"""Bytes of the stream in one packet: below what the length of an IP packet can say."""

_OUR_MAC, _PEER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
"""Locally administered addresses."""


def header() -> bytes:
    """What a file begins with."""
    name = b"twisted_bioconn"
    options = _option(4, name) + _option(0, b"")
    section = _block(_SECTION_HEADER, pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + options)
    # Times are in microseconds, which is what they are where nothing is said.
    return section + _block(_INTERFACE, pack("<HHI", _ETHERNET, 0, 0))


def blocks(traces: Sequence[Trace]) -> Iterator[bytes]:
    """
    The blocks of some connections; L{header} comes before them.

    A trace without its bytes (L{Tracer<tracer.Tracer>} has C{keeps_bytes}) has an empty stream.
    """
    for trace in traces:
        secrets = [each.line for each in trace.events if isinstance(each, Secret)]
        if secrets:
            log = "".join(f"{line}\n" for line in secrets).encode("ascii", "replace")
            yield _block(_SECRETS, pack("<II", _TLS_KEY_LOG, len(log)) + _padded(log))
        yield from _stream(trace)


def _option(code: int, value: bytes) -> bytes:
    return pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _block(kind: int, body: bytes) -> bytes:
    size = 12 + len(body)
    return pack("<II", kind, size) + body + pack("<I", size)


class _End:
    """One end of the stream."""

    def __init__(self, text: str, default: str) -> None:
        host, port = _split(text)
        address = _address(host)
        self.address = ipaddress.ip_address(default) if address is None else address
        self.port = port
        self.sequence = 1000


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0
    return host.removeprefix("[").removesuffix("]"), number & 0xFFFF


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # A UNIX socket, or a transport in memory.
        return None


def _stream(trace: Trace) -> Iterator[bytes]:
    us, peer = _End(trace.local, "192.0.2.1"), _End(trace.peer, "192.0.2.2")
    if us.address.version != peer.address.version:
        us.address, peer.address = ipaddress.ip_address("::1"), ipaddress.ip_address("::2")
    server = peer if trace.is_client else us
    client = us if trace.is_client else peer
    server.port = server.port or 443
    client.port = client.port or 50000
    macs = {id(us): _OUR_MAC, id(peer): _PEER_MAC}
    began = trace.began.timestamp()

    def packet(at: float, source: _End, flags: int, data: bytes = b"") -> bytes:
        target = peer if source is us else us
        acknowledged = 0 if flags == _SYN else target.sequence
        frame = _frame(source, target, macs, flags, acknowledged, data)
        source.sequence += len(data) + bool(flags & (_SYN | _FIN))
        source.sequence &= 0xFFFFFFFF
        when = int((began + at) * 1_000_000)
        head = pack("<IIIII", 0, when >> 32, when & 0xFFFFFFFF, len(frame), len(frame))
        return _block(_ENHANCED_PACKET, head + _padded(frame))

    yield packet(0.0, client, _SYN)
    yield packet(0.0, server, _SYN | _ACK)
    yield packet(0.0, client, _ACK)
    for event in trace.events:
        if isinstance(event, Bytes) and event.data:
            source = us if event.way is Way.SENT else peer
            for at in range(0, len(event.data), SEGMENT):
                piece = event.data[at : at + SEGMENT]
                yield packet(event.at, source, _PSH | _ACK, piece)
        elif isinstance(event, Ended):
            yield packet(event.at, client, _FIN | _ACK)
            yield packet(event.at, server, _FIN | _ACK)
            yield packet(event.at, client, _ACK)


def _frame(
    source: _End,
    target: _End,
    macs: dict[int, bytes],
    flags: int,
    acknowledged: int,
    data: bytes,
) -> bytes:
    segment = pack(
        ">HHIIBBHHH",
        *(source.port, target.port, source.sequence, acknowledged),
        *(5 << 4, flags, 0xFFFF, 0, 0),
    )
    size = len(segment) + len(data)
    is_6 = source.address.version == 6
    addresses = source.address.packed + target.address.packed
    pseudo = addresses + (pack(">IxxxB", size, 6) if is_6 else pack(">xBH", 6, size))
    checksum = _checksum(pseudo + segment + data)
    segment = segment[:16] + pack(">H", checksum) + segment[18:]
    if is_6:
        packet = pack(">IHBB", 6 << 28, size, 6, 64) + addresses
    else:
        head = pack(">BBHHHBBH", 0x45, 0, 20 + size, 0, 0x4000, 64, 6, 0) + addresses
        packet = head[:10] + pack(">H", _checksum(head)) + head[12:]
    kind = b"\x86\xdd" if is_6 else b"\x08\x00"
    return macs[id(target)] + macs[id(source)] + kind + packet + segment + data


def _checksum(data: bytes) -> int:
    """RFC 1071's; all in one division, as 2**16 is 1 modulo 2**16 - 1."""
    padded = data + bytes(len(data) % 2)
    return 0xFFFF - (int.from_bytes(padded, "big") % 0xFFFF or 0xFFFF)
