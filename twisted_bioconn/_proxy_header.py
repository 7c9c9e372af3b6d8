"""
What a PROXY header says, and its TLVs: types with a length and a value.

The sections that are meant are those of HAProxy's C{doc/proxy-protocol.txt}.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from struct import Struct
from struct import error as StructError

import attrs

_ALPN, _AUTHORITY, CRC32C, _UNIQUE_ID, _SSL, _NETNS = 0x01, 0x02, 0x03, 0x05, 0x20, 0x30
_VERSION, _CN, _CIPHER, _SIG_ALG, _KEY_ALG = 0x21, 0x22, 0x23, 0x24, 0x25
_GROUP, _SIG_SCHEME, _CLIENT_CERT = 0x26, 0x27, 0x28
"""Types of TLVs, and of those within that of TLS: section 2.2."""

_NAMES = {
    _ALPN: "application protocol",
    _AUTHORITY: "host name",
    _UNIQUE_ID: "unique ID",
    _SSL: "account of the TLS connection",
    _NETNS: "network namespace",
    _VERSION: "TLS version",
    _CN: "common name",
    _CIPHER: "cipher",
    _SIG_ALG: "signature algorithm",
    _KEY_ALG: "key algorithm",
    _GROUP: "group",
    _SIG_SCHEME: "signature scheme",
    _CLIENT_CERT: "client certificate",
}

_CLIENT_TLS, _SHOWN_HERE, _SHOWN_IN_SESSION = 0x01, 0x02, 0x04
_UNVERIFIED = 1  # X509_V_ERR_UNSPECIFIED; all that is known is that it must not be 0
_LONGEST_UNIQUE_ID = 128  # bytes: section 2.2.5
LONGEST_VALUE = 0xFFFF  # bytes of a TLV, and of all that comes after the first 16

_TLV = Struct(">BH")
_TLS = Struct(">BI")


class MalformedHeader(Exception):
    """This is no PROXY header: one sentence says why."""


class TransportProtocol(Enum):
    """How the client came to the proxy; the values are those of section 2.2."""

    UNSPECIFIED = 0
    STREAM = 1
    DATAGRAM = 2


@attrs.frozen
class ProxyAddress:
    """
    An address of the internet.

    @ivar host: an IPv4 or IPv6 address, in its usual spelling.
    @ivar port: the port's number.
    """

    host: str
    port: int


@attrs.frozen(kw_only=True)
class ProxyTLS:
    """
    What the proxy says of the client's TLS connection: section 2.2.6.

    @ivar verified: whether the client showed a certificate, and it was verified.
    @ivar shown_in_connection: whether it showed one in this very connection.
    @ivar shown_in_session: whether it showed one in this connection, or in the earlier one whose
        session this one resumes.
    @ivar version: C{"TLSv1.3"} or its like.
    @ivar common_name: that of the client certificate's subject.
    @ivar cipher: the cipher suite, by OpenSSL's name.
    @ivar group: the group of the key exchange.
    @ivar signature_algorithm: what the proxy's certificate is signed with, such as
        C{"RSA-SHA256"}.
    @ivar key_algorithm: the kind of its key, such as C{"RSA2048"}.
    @ivar signature_scheme: what the proxy signed the handshake with.
    @ivar client_certificate: the client's certificate in DER; it is for the reader to parse.
    """

    verified: bool
    shown_in_connection: bool
    shown_in_session: bool
    version: str | None = None
    common_name: str | None = None
    cipher: str | None = None
    group: str | None = None
    signature_algorithm: str | None = None
    key_algorithm: str | None = None
    signature_scheme: str | None = None
    client_certificate: bytes | None = None


Address = ProxyAddress | bytes | None
"""Where one end of a connection is: see L{ProxyHeader}."""


@attrs.frozen(kw_only=True)
class ProxyHeader:
    """
    What a proxy says of a connection.

    Of several TLVs of a kind the properties tell the first.  What in them is no UTF-8 is escaped;
    all other characters may be there, for some of it is the client's choice.

    @ivar source: the client's address; of a UNIX socket its path, which is empty where the socket
        has no name and begins with a NUL byte where it is an abstract one; L{None} where the proxy
        does not say, and the address of the connection itself counts.
    @ivar destination: the address that the client came to, likewise.
    @ivar transport: how the client came; L{TransportProtocol.UNSPECIFIED} where there are no
        addresses, and only there.
    @ivar is_local: whether the proxy has made this connection for itself, to see whether we are
        well.
    @ivar version: 1 or 2, as which the header was read.
    @ivar tlvs: the types and values that come after the addresses, in their order.
    """

    source: Address = None
    destination: Address = None
    transport: TransportProtocol = attrs.field()
    is_local: bool = False
    version: int = 2
    tlvs: tuple[tuple[int, bytes], ...] = ()

    @transport.default
    def _usual_transport(self) -> TransportProtocol:
        is_unknown = self.source is None and self.destination is None
        return TransportProtocol.UNSPECIFIED if is_unknown else TransportProtocol.STREAM

    @property
    def alpn(self) -> bytes | None:
        """The application protocol."""
        return _first(self.tlvs, _ALPN)

    @property
    def authority(self) -> str | None:
        """The host name that the client asked for; in TLS, that of its server_name extension."""
        return _text(self.tlvs, _AUTHORITY)

    @property
    def crc32c(self) -> int | None:
        """The checksum of the header as it was read, which was right."""
        value = _first(self.tlvs, CRC32C)
        return None if value is None else int.from_bytes(value, "big")

    @property
    def unique_id(self) -> bytes | None:
        """What the first of the proxies calls this connection, 128 bytes at most."""
        return _first(self.tlvs, _UNIQUE_ID)

    @property
    def netns(self) -> str | None:
        """The name of the network namespace."""
        return _text(self.tlvs, _NETNS)

    @property
    def tls(self) -> ProxyTLS | None:
        """
        The facts of the client's TLS; L{None} where it came without, or the proxy does not say.

        @raise MalformedHeader: they make no sense; of a header that was read, they do.
        """
        value = _first(self.tlvs, _SSL)
        return None if value is None else _parse_tls(value)


def tls_tlvs(
    *,
    version: str,
    cipher: str | None = None,
    group: str | None = None,
    alpn: bytes | None = None,
    authority: str | None = None,
    common_name: str | None = None,
    client_certificate: bytes | None = None,
    verified: bool = False,
    resumed: bool = False,
    signature_algorithm: str | None = None,
    key_algorithm: str | None = None,
    signature_scheme: str | None = None,
) -> tuple[tuple[int, bytes], ...]:
    """
    The TLVs that tell of a client's TLS connection.  What is L{None} is left out.

    @param version: C{"TLSv1.3"} or its like.
    @param authority: the host name that the client asked for.
    @param common_name: that of the client certificate's subject.
    @param client_certificate: the client's certificate in DER.
    @param verified: whether the client showed a certificate, and it was verified.  With neither
        this nor the two above, the client has shown none.
    @param resumed: whether it showed its certificate in the connection before this one, whose
        session this one resumes.
    @param signature_algorithm: what our certificate is signed with.
    @param key_algorithm: the kind of our key.
    @param signature_scheme: what we have signed the handshake with.
    @raise ValueError: one is too long for its length to tell.
    """
    shown = verified or common_name is not None or client_certificate is not None
    client = _CLIENT_TLS
    if shown:
        client |= _SHOWN_IN_SESSION if resumed else _SHOWN_HERE | _SHOWN_IN_SESSION
    told: tuple[tuple[int, str | bytes | None], ...] = (
        (_VERSION, version),
        (_CN, common_name),
        (_CIPHER, cipher),
        (_SIG_ALG, signature_algorithm),
        (_KEY_ALG, key_algorithm),
        (_GROUP, group),
        (_SIG_SCHEME, signature_scheme),
        (_CLIENT_CERT, client_certificate),
    )
    tls = _TLS.pack(client, 0 if verified else _UNVERIFIED) + b"".join(
        write_tlv(number, value) for number, value in _told(told)
    )
    return _told(((_ALPN, alpn), (_AUTHORITY, authority), (_SSL, tls)))


def read_tlvs(head: bytes, at: int) -> tuple[tuple[int, bytes], ...]:
    """
    Read the TLVs of a header, from here to its end.

    @raise MalformedHeader: they do not end there, or one is not as its type has it.
    """
    tlvs = _tlvs(head, at)
    checksums = 0
    for number, value in tlvs:
        if number == CRC32C:
            checksums += 1
            if checksums > 1 or len(value) != 4:
                raise MalformedHeader("the PROXY header's checksum is not one of four bytes")
        elif number == _UNIQUE_ID and len(value) > _LONGEST_UNIQUE_ID:
            raise MalformedHeader(
                f"the PROXY header's unique ID has {len(value)} bytes, more than"
                f" {_LONGEST_UNIQUE_ID}"
            )
        elif number == _SSL:
            _parse_tls(value)
    return tlvs


def _tlvs(data: bytes, at: int) -> tuple[tuple[int, bytes], ...]:
    end = len(data)
    found = []
    try:
        while at < end:
            number, size = _TLV.unpack_from(data, at)
            start = at + 3
            at = start + size
            found.append((number, data[start:at]))
    except StructError:
        at = end + 1
    if at > end:
        raise MalformedHeader("a TLV of the PROXY header reaches beyond the end of what it is in")
    return tuple(found)


def _parse_tls(value: bytes) -> ProxyTLS | None:
    if len(value) < 5:
        raise MalformedHeader(f"the PROXY header's TLV of TLS has {len(value)} bytes, less than 5")
    client, verify = _TLS.unpack_from(value)
    tlvs = _tlvs(value, 5)
    if not client & _CLIENT_TLS:
        return None
    shown = client & (_SHOWN_HERE | _SHOWN_IN_SESSION)
    return ProxyTLS(
        # HAProxy leaves a zero there where no certificate was shown.
        verified=bool(shown) and verify == 0,
        shown_in_connection=bool(client & _SHOWN_HERE),
        shown_in_session=bool(shown),
        version=_text(tlvs, _VERSION),
        common_name=_text(tlvs, _CN),
        cipher=_text(tlvs, _CIPHER),
        group=_text(tlvs, _GROUP),
        signature_algorithm=_text(tlvs, _SIG_ALG),
        key_algorithm=_text(tlvs, _KEY_ALG),
        signature_scheme=_text(tlvs, _SIG_SCHEME),
        client_certificate=_first(tlvs, _CLIENT_CERT),
    )


def _first(tlvs: tuple[tuple[int, bytes], ...], wanted: int) -> bytes | None:
    for number, value in tlvs:
        if number == wanted:
            return value
    return None


def _text(tlvs: tuple[tuple[int, bytes], ...], wanted: int) -> str | None:
    value = _first(tlvs, wanted)
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _told(
    values: Iterable[tuple[int, str | bytes | None]],
) -> tuple[tuple[int, bytes], ...]:
    """Those that are not L{None}, as bytes."""
    told = []
    for number, value in values:
        if value is not None:
            told.append((number, value if isinstance(value, bytes) else value.encode("utf-8")))
            _check_size(*told[-1])
    return tuple(told)


def write_tlv(number: int, value: bytes) -> bytes:
    """
    Write a TLV.

    @raise ValueError: the value is too long, or the type is no byte.
    """
    if not 0 <= number <= 0xFF:
        raise ValueError(f"a PROXY header cannot tell a TLV of the type {number}")
    _check_size(number, value)
    return _TLV.pack(number, len(value)) + value


def _check_size(number: int, value: bytes) -> None:
    limit = _LONGEST_UNIQUE_ID if number == _UNIQUE_ID else LONGEST_VALUE
    if len(value) > limit:
        name = _NAMES.get(number, f"TLV 0x{number:02x}")
        raise ValueError(
            f"a PROXY header cannot tell the {name} of {len(value)} bytes: {limit} are the most"
        )
