"""
A client hello, read before there is a connection.

By it a server chooses a certificate, and what it asks of the client, while that costs nothing yet.
Only what is needed for that is read (RFC 8446, section 4.1.2; RFC 6066, section 3; RFC 7301,
section 3.1).  Every length is checked; of what is wrong beyond that, OpenSSL has a better
judgement, which reads the same bytes afterwards.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from functools import lru_cache
from struct import Struct, unpack
from struct import error as StructError

import attrs
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

__all__ = ["ClientHello", "HelloReader", "MalformedHello"]

LARGEST_HELLO = 131396
"""
Bytes of a client hello at most, without the header of its message: what OpenSSL takes,
C{CLIENT_HELLO_MAX_LENGTH} in its C{ssl/statem/statem_srvr.c}.
"""

HANDSHAKE = b"\x16\x03"
"""How a record of a handshake begins, whatever its version of TLS: RFC 8446, section 5.1."""

_MOST_OVERHEAD = 65536
"""Bytes that the headers of a hello's records may add to it: a record may hold a single byte."""

LONGEST_RECORD = 16384  # bytes: RFC 8446, section 5.1
_CLIENT_HELLO = 1
_HOST_NAME_TYPE = 0

_SERVER_NAME, _GROUPS, _SIGNATURES, _ALPN, _VERSIONS = 0, 10, 13, 16, 43
"""Extension numbers: RFC 8446, section 4.2."""

_TLS10, _TLS12, _TLS13 = 0x0301, 0x0303, 0x0304

_GREASE = frozenset(range(0x0A0A, 0x10000, 0x1010))
"""What is offered only to see that it is passed over: RFC 8701, section 2."""

# An underscore is in no host name, and in many a name that hosts go by.
_HOST_NAME = re.compile(rb"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_LONGEST_HOST_NAME = 255  # bytes: TLSEXT_MAXLEN_host_name in OpenSSL's tls1.h

_CURVES: dict[str, tuple[int, int | None]] = {
    "secp192r1": (19, None),
    "secp224r1": (21, None),
    "secp256k1": (22, None),
    "secp256r1": (23, 0x0403),
    "secp384r1": (24, 0x0503),
    "secp521r1": (25, 0x0603),
    "brainpoolP256r1": (26, 0x081A),
    "brainpoolP384r1": (27, 0x081B),
    "brainpoolP512r1": (28, 0x081C),
}
"""
By cryptography's name of a curve its number as a group, and its one signature scheme of TLS 1.3:
RFC 8422, section 5.1.1; RFC 8446, section 4.2.3; RFC 7027, section 2; RFC 8734, section 3.
"""

_RSA_PSS = frozenset({0x0804, 0x0805, 0x0806})
_RSA_12 = _RSA_PSS | {0x0201, 0x0301, 0x0401, 0x0501, 0x0601}
_ECDSA_12 = frozenset({0x0203, 0x0303, 0x0403, 0x0503, 0x0603})
"""Signature schemes: RFC 8446, section 4.2.3; RFC 5246, section 7.4.1.4.1."""

_ED25519, _ED448 = 0x0807, 0x0808

_ECDSA_SUITES = frozenset(
    {*range(0xC006, 0xC00B), 0xC023, 0xC024, 0xC02B, 0xC02C, 0xC048, 0xC049, 0xC05C, 0xC05D}
    | {0xC072, 0xC073, 0xC086, 0xC087, *range(0xC0AC, 0xC0B0), 0xCCA9}
)
"""TLS_ECDHE_ECDSA_*, for Ed25519 and Ed448 too: RFC 8422, section 2.2; IANA's registry."""

_NO_RSA_SUITES = _ECDSA_SUITES | {0x00FF, 0x5600, *range(0x1301, 0x1308)}
"""They, the two signals (RFC 5746, section 3.3; RFC 7507), and those of TLS 1.3 alone."""

_SIZE = Struct(">H")
_KIND_AND_SIZE = Struct(">HH")
_SHORTER = "the client hello is shorter than it says"
_WRONG_LENGTH = "a list in the client hello has a wrong length"


class MalformedHello(Exception):
    """
    This is no client hello: one sentence says why.

    @ivar alert: the name of the alert that says so, where OpenSSL would pass over what is wrong;
        L{None} where it finds the same.
    """

    def __init__(self, sentence: str, alert: str | None = None) -> None:
        super().__init__(sentence)
        self.alert = alert


@attrs.frozen(kw_only=True)
class ClientHello:
    """
    What a client asks for.  Numbers are those of the wire, in its order, without what RFC 8701 has
    clients mix in.

    @ivar server_name: in lower case and in ASCII, with no dot at the end; an IP address in its
        usual spelling; L{None} where there is none.
    @ivar alpn: the names of application protocols, best first.
    @ivar versions: the versions of TLS that are offered; where the client has no list of them, the
        one that it has named and those before (RFC 5246, appendix E.1).
    @ivar groups: the numbers of the groups.
    @ivar signature_algorithms: the numbers of the signature schemes.
    @ivar cipher_suites: the numbers of the cipher suites.
    @ivar local_address: the address that the client has come to; it is no part of the hello.
    """

    server_name: str | None = None
    alpn: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    signature_algorithms: tuple[int, ...] = ()
    cipher_suites: tuple[int, ...] = ()
    local_address: str | None = None

    def supports_key(self, key: object) -> bool:
        """
        Whether the client could verify a signature by this key, in TLS 1.3 where it offers that
        and else in TLS 1.2.  A client that has not said what it can is taken to be able.

        @param key: a public key of cryptography's.
        """
        offered = self.signature_algorithms
        if not offered:
            # RFC 5246, section 7.4.1.4.1: there are defaults for every kind of key.
            return True
        is_12 = bool(self.versions) and _TLS13 not in self.versions
        if isinstance(key, rsa.RSAPublicKey):
            if not is_12:
                return not _RSA_PSS.isdisjoint(offered)
            suites = self.cipher_suites
            return not _RSA_12.isdisjoint(offered) and not (
                suites and _NO_RSA_SUITES.issuperset(suites)
            )
        if is_12 and self.cipher_suites and _ECDSA_SUITES.isdisjoint(self.cipher_suites):
            return False
        if isinstance(key, ec.EllipticCurvePublicKey):
            group, scheme = _CURVES.get(key.curve.name, (None, None))
            if not is_12:
                return scheme in offered
            # RFC 8422, section 4: a client with no list takes any curve.
            return not _ECDSA_12.isdisjoint(offered) and (not self.groups or group in self.groups)
        if isinstance(key, ed25519.Ed25519PublicKey):
            return _ED25519 in offered
        return isinstance(key, ed448.Ed448PublicKey) and _ED448 in offered


class HelloReader:
    """
    Puts a client hello together from the bytes of the wire.  It is done with once it has returned a
    hello or has raised.
    """

    def __init__(self, limit: int = LARGEST_HELLO) -> None:
        """
        @param limit: bytes of the hello at most.
        """
        self._limit = limit
        self._left = limit + _MOST_OVERHEAD
        self._rest = bytearray()
        self._message = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """
        Take bytes.  Those that come after the hello are not looked at.

        @return: L{None} where more are needed.
        @raise MalformedHello: this is no client hello.
        """
        rest, message = self._rest, self._message
        # Mostly the hello comes whole: then nothing is kept.
        records: bytes | bytearray = data
        if rest:
            rest += data
            records = rest
        at = 0
        while True:
            if not HANDSHAKE.startswith(bytes(records[at : at + 2])):
                raise MalformedHello("the client does not begin with a handshake record of TLS")
            if len(records) - at < 5:
                break
            size = records[at + 3] << 8 | records[at + 4]
            if not 0 < size <= LONGEST_RECORD:
                raise MalformedHello(
                    f"a record of the client hello says that it has {size} bytes",
                    None if size else "unexpected_message",  # RFC 8446, section 5.4
                )
            end = at + 5 + size
            if len(records) < end:
                break
            message += records[at + 5 : end]
            at = end
            if message[0] != _CLIENT_HELLO:
                raise MalformedHello(f"the client begins with message {message[0]}, no hello")
            if len(message) >= 4:
                length = int.from_bytes(message[1:4], "big")
                if length > self._limit:
                    raise MalformedHello(f"the client hello has {length} bytes")
                if len(message) >= 4 + length:
                    return _parse(bytes(message[4 : 4 + length]))
        self._left -= len(data)
        if self._left < 0:
            raise MalformedHello("the client hello comes in far too many records")
        if rest:
            del rest[:at]
        else:
            rest += data[at:]
        return None


def _parse(body: bytes) -> ClientHello:
    """
    Read a client hello, without the header of its message.
    """
    try:
        # What a length reaches over is missed by whatever reads on from its end.
        legacy = body[0] << 8 | body[1]
        session = body[34]  # the random number ends there
        at = 35 + session
        start = at + 2
        at = start + (body[at] << 8 | body[at + 1])
        suites = body[start:at]
        compressions = body[at]
    except IndexError:
        raise MalformedHello(_SHORTER) from None
    if session > 32 or not compressions:
        raise MalformedHello(_WRONG_LENGTH)
    found = _extensions(body, at + 1 + compressions)
    if _VERSIONS in found:
        versions = _numbers(_list(found[_VERSIONS], 1))
    else:
        versions = tuple(range(min(legacy, _TLS12), _TLS10 - 1, -1)) or (legacy,)
    return ClientHello(
        server_name=_server_name(found[_SERVER_NAME]) if _SERVER_NAME in found else None,
        alpn=_alpn(found[_ALPN]) if _ALPN in found else (),
        versions=versions,
        groups=_numbers(_list(found[_GROUPS], 2)) if _GROUPS in found else (),
        signature_algorithms=(
            _numbers(_list(found[_SIGNATURES], 2)) if _SIGNATURES in found else ()
        ),
        cipher_suites=_numbers(suites),
    )


def _extensions(body: bytes, at: int) -> dict[int, bytes]:
    """The extensions by their numbers; before TLS 1.3 a hello may end before them."""
    end = len(body)
    if at == end:
        return {}
    found: dict[int, bytes] = {}
    try:
        (size,) = _SIZE.unpack_from(body, at)
        at += 2
        if at + size != end:
            raise MalformedHello("the extensions of the client hello do not end where it does")
        while at < end:
            kind, size = _KIND_AND_SIZE.unpack_from(body, at)
            if kind in found:
                # RFC 8446, section 4.2; OpenSSL looks at those that it knows.
                raise MalformedHello(
                    f"the client hello has extension {kind} twice", "illegal_parameter"
                )
            start = at + 4
            at = start + size
            found[kind] = body[start:at]
    except StructError:
        raise MalformedHello(_SHORTER) from None
    if at > end:
        raise MalformedHello(_SHORTER)
    return found


def _list(extension: bytes, prefix: int) -> bytes:
    """What has its length before it, and nothing after it."""
    data = extension[prefix:]
    if not data or int.from_bytes(extension[:prefix], "big") != len(data):
        raise MalformedHello(_WRONG_LENGTH)
    return data


def _numbers(data: bytes) -> tuple[int, ...]:
    """Numbers of two bytes, without those of L{_GREASE}."""
    return _usual_numbers(data) if len(data) <= _LONGEST_USUAL else _read_numbers(data)


def _read_numbers(data: bytes) -> tuple[int, ...]:
    if not data or len(data) % 2:
        raise MalformedHello(_WRONG_LENGTH)
    numbers = unpack(f">{len(data) // 2}H", data)
    if _GREASE.isdisjoint(numbers):
        return numbers
    return tuple(number for number in numbers if number not in _GREASE)


# There are few kinds of clients, all of a kind have the same lists, and to read them is half of the
# work. The bounds are for the others: together they come to about a megabyte.
_LONGEST_USUAL = 256  # bytes
_usual_numbers = lru_cache(256)(_read_numbers)


def _server_name(extension: bytes) -> str:
    names = _list(extension, 2)
    # RFC 6066, section 3: one name of a kind, and host_name is the only kind there is.
    if names[0] != _HOST_NAME_TYPE:
        raise MalformedHello(f"the server name in the client hello is of the kind {names[0]}")
    if names == b"\0\0\0":
        raise MalformedHello("the server name in the client hello is empty", "decode_error")
    name = _list(names[1:], 2).lower().removesuffix(b".")
    if len(name) <= _LONGEST_HOST_NAME:
        # An address may not be there; some clients send it, and it is clear what they mean.
        if (name[-1:].isdigit() or b":" in name) and b"%" not in name:
            with suppress(ValueError):
                return str(ipaddress.ip_address(name.decode("ascii")))
        if _HOST_NAME.fullmatch(name):
            return name.decode("ascii")
    raise MalformedHello("the server name in the client hello is no host name", "unrecognized_name")


def _alpn(extension: bytes) -> tuple[bytes, ...]:
    names = _list(extension, 2)
    found = []
    at = 0
    while at < len(names):
        start = at + 1
        at = start + names[at]
        if at == start:
            raise MalformedHello("the client hello has an empty protocol name")
        found.append(names[start:at])
    if at != len(names):
        raise MalformedHello(_WRONG_LENGTH)
    return tuple(found)
