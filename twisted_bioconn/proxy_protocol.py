"""
The PROXY protocol: what a proxy says of a connection before the connection's own bytes.

Both of its versions are read and written, after HAProxy's C{doc/proxy-protocol.txt}, whose sections
are meant below: a line of text (section 2.1), and a binary header that TLVs may follow, types with
a length and a value (section 2.2).  Nothing here does I/O.

Whoever may send a header may name any address for its own (section 5): take one only from those who
are trusted, and from them only where they have been set up to send it.
"""

from __future__ import annotations

import re
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import Struct

from ._proxy_header import (
    CRC32C,
    LONGEST_VALUE,
    Address,
    MalformedHeader,
    ProxyAddress,
    ProxyHeader,
    ProxyTLS,
    TransportProtocol,
    read_tlvs,
    tls_tlvs,
    write_tlv,
)

__all__ = [
    "LARGEST_HEADER",
    "HeaderReader",
    "MalformedHeader",
    "ProxyAddress",
    "ProxyHeader",
    "ProxyTLS",
    "TransportProtocol",
    "dump_v1",
    "dump_v2",
    "starts_like_header",
    "tls_tlvs",
]

LARGEST_HEADER = 16 + 4096
"""Bytes of a header of version 2 that are taken where nothing else is said."""

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_LONGEST_LINE = 107
"""Bytes of a line with its CRLF: section 2.1."""

_LOCAL, _PROXY = 0x20, 0x21  # the version and the command, in one byte
_INET, _INET6, _UNIX = 0x10, 0x20, 0x30
_SIZES = {_INET: 12, _INET6: 36, _UNIX: 216}
"""Bytes of the addresses of each family."""

_FIXED = Struct(">12sBBH")
_PORTS = Struct(">HH")
_END_OF_LINE = re.compile(rb"[\r\n]")
# Zeros in front are not allowed, as they make an octal number of it for some.
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rb"(?:%b\.){3}%b" % (_OCTET, _OCTET))
_IPV6 = re.compile(rb"[0-9A-Fa-f:.]{2,45}")
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")


class HeaderReader:
    """
    Puts a header together from the bytes of a connection.  It is done with once it has returned a
    header or has raised.
    """

    __slots__ = ("_is_done", "_limit", "_rest")

    def __init__(self, limit: int = LARGEST_HEADER) -> None:
        """
        @param limit: bytes of a header of version 2 at most; of version 1 they are 107.
        """
        self._limit = limit
        self._rest: bytes | bytearray = b""
        self._is_done = False

    @property
    def rest(self) -> bytes:
        """
        The bytes that came after the header, all of them; as long as the header is not complete,
        what has come of it.
        """
        return bytes(self._rest)

    def feed(self, data: bytes) -> ProxyHeader | None:
        """
        Take bytes.

        @return: L{None} where more are needed.
        @raise MalformedHeader: this is no PROXY header.
        @raise RuntimeError: the reader was done with already.
        """
        if self._is_done:
            # What follows a header is the client's, who could else name any address for its own.
            raise RuntimeError("the reader of a PROXY header takes no bytes after its end")
        self._is_done = True
        given = self._rest
        if isinstance(given, bytearray):
            given += data
        else:
            given = data
        # Until the header is complete nothing is kept that is not a part of it.
        is_text = given[:1] == b"P"
        end = _end_of_v1(given) if is_text else _end_of_v2(given, self._limit)
        if not 0 < end <= len(given):
            self._is_done = False
            if given is data:
                self._rest = bytearray(data)
            return None
        head = bytes(given[:end])
        self._rest = bytes(given[end:])
        return _parse_v1(head) if is_text else _parse_v2(head)


def starts_like_header(data: bytes) -> bool | None:
    """
    Whether bytes begin as a header of either version does.

    It is for ports where those who are trusted may send a header or none; for all others not to
    look is the rule (section 2).

    @return: L{None} where more bytes are needed to know.
    """
    for signature in (_V1, _V2):
        if data.startswith(signature):
            return True
        if signature.startswith(data):
            return None
    return False


def dump_v1(header: ProxyHeader) -> bytes:
    """
    Write a line of version 1.

    It is C{PROXY UNKNOWN} for all but TCP (section 2.1), and it has no room for TLVs.

    @raise ValueError: an address is none, or there is only one.
    """
    family = _family_of(header)
    if header.transport is not TransportProtocol.STREAM or family not in (_INET, _INET6):
        return b"PROXY UNKNOWN\r\n"
    (source, source_port), (destination, port) = (
        _packed(address, family) for address in (header.source, header.destination)
    )
    kind, number = (AF_INET, 4) if family == _INET else (AF_INET6, 6)
    line = (
        f"PROXY TCP{number} {inet_ntop(kind, source)} {inet_ntop(kind, destination)}"
        f" {source_port} {port}\r\n"
    )
    return line.encode("ascii")


def dump_v2(header: ProxyHeader, *, crc32c: bool = False) -> bytes:
    """
    Write a header of version 2.

    @param crc32c: add a checksum.  One that is among the header's TLVs is left out in any case:
        it was that of other bytes.
    @raise ValueError: an address is none, or there is only one; or the header is larger than its
        length can tell.
    """
    family = _family_of(header)
    if family is None:
        kind, addresses = 0, b""
    else:
        kind = family | header.transport.value
        (source, source_port), (destination, port) = (
            _packed(address, family) for address in (header.source, header.destination)
        )
        addresses = source + destination
        if family != _UNIX:
            addresses += _PORTS.pack(source_port, port)
    tlvs = b"".join(write_tlv(number, value) for number, value in header.tlvs if number != CRC32C)
    if crc32c:
        tlvs += write_tlv(CRC32C, bytes(4))
    size = len(addresses) + len(tlvs)
    if size > LONGEST_VALUE:
        raise ValueError(
            f"the PROXY header would have {size} bytes after its first 16, and {LONGEST_VALUE}"
            " are the most"
        )
    command = _LOCAL if header.is_local else _PROXY
    made = _FIXED.pack(_V2, command, kind, size) + addresses + tlvs
    if crc32c:
        made = made[:-4] + _checksum(made).to_bytes(4, "big")
    return made


# Reading


def _end_of_v1(given: bytes | bytearray) -> int:
    """How many bytes the line has; 0 where that is not known yet."""
    _check_signature(given, _V1)
    line = given[:_LONGEST_LINE]
    found = _END_OF_LINE.search(line)
    if found is not None:
        at = found.start()
        ending = line[at : at + 2]
        if ending == b"\r\n":
            return at + 2
        if ending != b"\r":
            # Section 2.1: neither is enough by itself.
            raise MalformedHeader("the line of the PROXY header ends with CR or LF, not with both")
    if len(line) == _LONGEST_LINE:
        raise MalformedHeader(f"the line of the PROXY header is longer than {_LONGEST_LINE} bytes")
    return 0


def _end_of_v2(given: bytes | bytearray, limit: int) -> int:
    """How many bytes the header has; 0 where that is not known yet."""
    _check_signature(given, _V2)
    if len(given) < 16:
        return 0
    _, command, kind, size = _FIXED.unpack_from(given)
    if command >> 4 != 2:
        raise MalformedHeader(f"the PROXY header is of version {command >> 4}")
    if command > _PROXY:
        raise MalformedHeader(f"the PROXY header has the unknown command {command & 15}")
    end: int = 16 + size
    if end > limit:
        raise MalformedHeader(f"the PROXY header has {end} bytes, more than {limit}")
    if command == _PROXY:
        family, protocol = kind & 0xF0, kind & 0x0F
        if family > _UNIX or protocol > TransportProtocol.DATAGRAM.value:
            raise MalformedHeader(
                f"the PROXY header has the unknown family and protocol 0x{kind:02x}"
            )
        if family and protocol and size < _SIZES[family]:
            raise MalformedHeader(
                f"the PROXY header has {size} bytes for addresses that need {_SIZES[family]}"
            )
    return end


def _check_signature(given: bytes | bytearray, signature: bytes) -> None:
    if not given.startswith(signature) and not signature.startswith(given):
        raise MalformedHeader("the connection does not begin with a PROXY header")


def _parse_v1(line: bytes) -> ProxyHeader:
    """Read a line that ends with its only CRLF."""
    fields = line[6:-2].split(b" ")
    kind = fields[0]
    if kind == b"UNKNOWN":
        # Section 2.1: whatever comes after it is to be ignored.
        return ProxyHeader(version=1)
    if kind not in (b"TCP4", b"TCP6"):
        raise MalformedHeader(
            f"the PROXY header names the protocol {_quoted(kind)}, not TCP4, TCP6 or UNKNOWN"
        )
    if len(fields) != 5:
        raise MalformedHeader(
            "the PROXY header has not two addresses and two ports, with one space before each"
        )
    host = _ipv4 if kind == b"TCP4" else _ipv6
    return ProxyHeader(
        source=ProxyAddress(host(fields[1], "source"), _port(fields[3], "source")),
        destination=ProxyAddress(host(fields[2], "destination"), _port(fields[4], "destination")),
        transport=TransportProtocol.STREAM,
        version=1,
    )


def _ipv4(text: bytes, whose: str) -> str:
    if _IPV4.fullmatch(text) is None:
        raise MalformedHeader(f"the PROXY header's {whose} {_quoted(text)} is no IPv4 address")
    return text.decode("ascii")


def _ipv6(text: bytes, whose: str) -> str:
    try:
        if _IPV6.fullmatch(text) is not None:
            # However it is spelled there, everybody is to find the same in it.
            return inet_ntop(AF_INET6, inet_pton(AF_INET6, text.decode("ascii")))
    except OSError:
        pass
    raise MalformedHeader(f"the PROXY header's {whose} {_quoted(text)} is no IPv6 address")


def _port(text: bytes, whose: str) -> int:
    if _PORT.fullmatch(text) is None or int(text) > 0xFFFF:
        raise MalformedHeader(f"the PROXY header's {whose} port {_quoted(text)} is no port")
    return int(text)


def _quoted(text: bytes) -> str:
    return repr(text)[1:]


def _parse_v2(head: bytes) -> ProxyHeader:
    """Read a header whose first 16 bytes have been looked at."""
    command, kind = head[12], head[13]
    is_local = command == _LOCAL
    family, protocol = kind & 0xF0, kind & 0x0F
    source: Address = None
    destination: Address = None
    transport = TransportProtocol.UNSPECIFIED
    at = 16 + _SIZES.get(family, 0)
    if is_local or not family or not protocol:
        tlvs = _ignored_tlvs(head, at)
    else:
        transport = TransportProtocol(protocol)
        if family == _UNIX:
            source, destination = _path(head[16:124]), _path(head[124:232])
        else:
            address_family, size = (AF_INET, 4) if family == _INET else (AF_INET6, 16)
            middle = 16 + size
            source_port, port = _PORTS.unpack_from(head, at - 4)
            source = ProxyAddress(inet_ntop(address_family, head[16:middle]), source_port)
            destination = ProxyAddress(inet_ntop(address_family, head[middle : at - 4]), port)
        tlvs = read_tlvs(head, at) if at < len(head) else ()
    if tlvs:
        _verify_checksum(head, at, tlvs)
    return ProxyHeader(
        source=source,
        destination=destination,
        transport=transport,
        is_local=is_local,
        tlvs=tlvs,
    )


def _path(field: bytes) -> bytes:
    """The path of a UNIX socket, without what fills it up."""
    # The name of an abstract socket begins with a NUL byte, and may have others.
    return field.partition(b"\0")[0] or field.rstrip(b"\0")


def _ignored_tlvs(head: bytes, at: int) -> tuple[tuple[int, bytes], ...]:
    """
    The TLVs where addresses are to be ignored.  It is not said that anything else is there then,
    so what makes no sense as TLVs is passed over (section 2.2).
    """
    try:
        return read_tlvs(head, at)
    except MalformedHeader:
        return ()


def _verify_checksum(head: bytes, at: int, tlvs: tuple[tuple[int, bytes], ...]) -> None:
    for number, value in tlvs:
        at += 3
        if number == CRC32C:
            # Section 2.2.3: it is that of the header with zeros in its place.
            told = int.from_bytes(value, "big")
            found = _checksum(head[:at] + bytes(4) + head[at + 4 :])
            if told != found:
                raise MalformedHeader(
                    f"the PROXY header has the checksum 0x{found:08x}, and says 0x{told:08x}"
                )
        at += len(value)


def _table() -> tuple[int, ...]:
    """By a byte, what it makes of a checksum's lowest byte."""
    table = []
    for number in range(256):
        for _ in range(8):
            # The polynomial of CRC-32C, its bits in reverse: RFC 3720, section 12.1.
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return tuple(table)


_TABLE = _table()


def _checksum(data: bytes) -> int:
    """CRC-32C: RFC 4960, appendix B."""
    table = _TABLE
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# Writing


def _family_of(header: ProxyHeader) -> int | None:
    """The family in which both addresses can be told; L{None} where there are none to tell."""
    source, destination = header.source, header.destination
    if source is None and destination is None:
        return None
    if header.is_local or header.transport is TransportProtocol.UNSPECIFIED:
        raise ValueError("a PROXY header that is local or of no protocol tells no addresses")
    if isinstance(source, bytes) and isinstance(destination, bytes):
        return _UNIX
    if not isinstance(source, ProxyAddress) or not isinstance(destination, ProxyAddress):
        raise ValueError(
            "a PROXY header needs two addresses of the internet, or two paths, and not"
            f" {source!r} and {destination!r}"
        )
    # As HAProxy does it: where one is an IPv6 address, both are told as such.
    return _INET6 if ":" in source.host + destination.host else _INET


def _packed(address: Address, family: int) -> tuple[bytes, int]:
    """An address as it is on the wire, and its port."""
    if isinstance(address, bytes):
        # What is read there ends with the first NUL byte, or, in an abstract name, before the last.
        ends_early = address[-1:] == b"\0" or (b"\0" in address and address[:1] != b"\0")
        if ends_early or len(address) > 108:
            raise ValueError(f"a PROXY header cannot tell the path {address!r}")
        return address.ljust(108, b"\0"), 0
    assert isinstance(address, ProxyAddress)
    host = address.host
    try:
        if ":" in host:
            # The interface of a link-local address means nothing to another machine.
            packed = inet_pton(AF_INET6, host.partition("%")[0])
        else:
            packed = inet_pton(AF_INET, host)
            if family == _INET6:
                packed = b"\0" * 10 + b"\xff\xff" + packed
    except (OSError, ValueError):
        raise ValueError(f"a PROXY header cannot tell the host {host!r}: no IP address") from None
    if not 0 <= address.port <= 0xFFFF:
        raise ValueError(f"a PROXY header cannot tell the port {address.port}")
    return packed, address.port
