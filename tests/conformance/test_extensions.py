"""The extensions of a client hello, one by one, and what the server says to them."""

from __future__ import annotations

from tests.conformance.cases import Case, Conformance, How, conforms, says
from tests.conformance.client import Client
from tests.conformance.hellos import (
    ALPN,
    COOKIE,
    EARLY_DATA,
    GREASE,
    GROUPS,
    KEY_SHARE,
    MASTER_SECRET,
    MODERN,
    OLDER,
    PADDING,
    POINT_FORMATS,
    PSK_MODES,
    SERVER_NAME,
    SIGNATURES,
    STATUS,
    TICKET,
    VERSIONS,
    Hello,
    alpn,
    groups,
    hello,
    key_shares,
    numbers,
    point_formats,
    psk_modes,
    server_name,
    signatures,
    vector,
    versions,
)
from tests.conformance.keys import TLS12, TLS13, X25519
from tests.tls_material import HOST

BOTH = ("web", "names")
NAMES = ("names",)

MAX_FRAGMENT, HEARTBEAT, ENCRYPT_THEN_MAC, COMPRESS, RECORD_SIZE = 1, 15, 22, 27, 28
POST_HANDSHAKE, AUTHORITIES, SIGNATURES_CERT, QUIC, NPN = 49, 47, 50, 57, 13172


def protocol_of(said: Hello) -> How:
    """See which protocol of the application is chosen, and where that is said."""

    def how(client: Client) -> str:
        client.complete(said)
        where = client.answer if client.encrypted is None else client.encrypted
        chosen = where.getExtension(ALPN)
        served = client.serves()
        if chosen is None:
            return f"{served} without"
        return f"{served} {b','.join(map(bytes, chosen.protocol_names)).decode()}"

    return how


def acknowledged(said: Hello) -> How:
    """See whether the server says that it has gone by the name."""

    def how(client: Client) -> str:
        client.complete(said)
        where = client.answer if client.encrypted is None else client.encrypted
        extension = where.getExtension(SERVER_NAME)
        served = client.serves()
        if extension is None:
            return f"{served}, and does not say so"
        return f"{served}, and says {'a name' if extension.serverNames else 'so'}"

    return how


def answers(said: Hello, kind: int) -> How:
    """See whether the server answers an extension."""

    def how(client: Client) -> str:
        client.complete(said)
        found = client.answer.getExtension(kind)
        if client.encrypted is not None:
            found = found or client.encrypted.getExtension(kind)
        return f"{client.serves()}{'' if found is None else ', and answers'}"

    return how


def fragments(client: Client) -> str:
    """See how long the records are that a client gets which wants short ones."""
    client.complete(OLDER.plus(MAX_FRAGMENT, b"\1"))
    if client.answer.getExtension(MAX_FRAGMENT) is None:
        return "passes it over"
    client.serves()
    return "keeps to it" if max(client.sizes) <= 512 + 24 else f"records of {max(client.sizes)}"


def split_hello(said: Hello, size: int) -> How:
    """A hello in records of so many bytes."""

    def how(client: Client) -> str:
        written = client.prepared(said)
        for at in range(0, len(written), size):
            client.record(22, written[at : at + size])
        client.server_hello()
        client.flight()
        client.finish()
        return client.serves()

    return how


def _names(*entries: tuple[int, bytes]) -> bytes:
    return vector(2, b"".join(bytes([kind]) + vector(2, name) for kind, name in entries))


_HOST = HOST.encode("ascii")
_OTHER = b"nobody.example.net"
_LONG = b".".join([b"a" * 60] * 5)

EXTENSIONS = (
    # Twice, and unknown.
    Case("server name twice", "illegal_parameter|decode_error", "RFC 8446 4.2", says(MODERN.again(SERVER_NAME, server_name())), BOTH),
    Case("versions twice", "illegal_parameter|decode_error", "RFC 8446 4.2", says(MODERN.again(VERSIONS, versions(TLS13))), BOTH),
    Case("key shares twice", "illegal_parameter|decode_error", "RFC 8446 4.2", says(MODERN.again(KEY_SHARE, key_shares(X25519))), BOTH),
    Case("master secret twice", "illegal_parameter|decode_error", "RFC 5246 7.4.1.4", says(OLDER.again(MASTER_SECRET)), BOTH),
    Case("unknown extension twice", "illegal_parameter|decode_error", "RFC 8446 4.2", says(MODERN.again(0xFE01).again(0xFE01)), BOTH),
    Case("extension of GREASE twice", "illegal_parameter|decode_error", "RFC 8446 4.2", says(MODERN.again(GREASE).again(GREASE)), BOTH),
    Case("unknown extension", "serves", "RFC 8446 4.1.2", says(MODERN.plus(0xFE01, bytes(100))), BOTH),
    Case("unknown extension in TLS 1.2", "serves", "RFC 5246 7.4.1.4", says(OLDER.plus(0xFE01, bytes(100))), BOTH),
    Case("unknown extension is answered by none", "serves", "RFC 8446 4.2", answers(MODERN.plus(0xFE01), 0xFE01), BOTH),
    Case("unknown extensions by the hundred", "serves", "RFC 8446 4.1.2", says(MODERN.but(extensions=(*MODERN.extensions, *((0xF000 + at, b"") for at in range(500))))), BOTH),
    Case("unknown extension of 12 KB", "serves", "RFC 8446 4.1.2", says(MODERN.plus(0xFE01, bytes(12000))), BOTH),
    Case("unknown extension of 60 KB, in many records", "serves", "RFC 8446 5.1", split_hello(MODERN.plus(0xFE01, bytes(60000)), 16000), BOTH),
    Case("extension of GREASE that is empty", "serves", "RFC 8701 4.1", says(MODERN.plus(GREASE)), BOTH),
    Case("extension of GREASE with a byte", "serves", "RFC 8701 4.1", says(MODERN.plus(GREASE, b"\0")), BOTH),
    Case("extensions in the reverse order", "serves", "RFC 8446 4.2", says(MODERN.but(extensions=MODERN.extensions[::-1])), BOTH),
    Case("GREASE in every list", "serves", "RFC 8701 4.1", says(hello(offered=[GREASE, TLS13, TLS12], among=[GREASE, X25519], shares=[(GREASE, b"\0"), X25519], protocols=[b"\x3a\x3a", b"http/1.1"]).plus(PSK_MODES, psk_modes(0x0B, 1)).plus(SIGNATURES, signatures((0x3A, 0x3A), (4, 3)))), BOTH),
    Case("version of GREASE alone", "protocol_version", "RFC 8701 4.1", says(hello(offered=[GREASE])), BOTH),
    # The server's name: RFC 6066.
    Case("name is known", "serves", "RFC 6066 3", says(hello(name=_HOST)), BOTH),
    Case("name in other letters", "serves", "RFC 6066 3", says(hello(name=_HOST.upper())), BOTH),
    Case("name is acknowledged", "serves, and says so", "RFC 6066 3", acknowledged(MODERN), BOTH),
    Case("name is acknowledged in TLS 1.2", "serves, and says so", "RFC 6066 3", acknowledged(OLDER), BOTH),
    Case("no name is acknowledged as none", "serves, and does not say so", "RFC 6066 3", acknowledged(MODERN.less(SERVER_NAME))),
    Case("name is unknown", "unrecognized_name", "RFC 6066 3", says(hello(name=_OTHER)), NAMES),
    Case("name is unknown in TLS 1.2", "unrecognized_name", "RFC 6066 3", says(OLDER.plus(SERVER_NAME, server_name(_OTHER))), NAMES),
    Case("name is unknown where that does not matter", "serves", "RFC 6066 3", says(hello(name=_OTHER))),
    Case("name list is empty", "decode_error", "RFC 6066 3", says(MODERN.plus(SERVER_NAME, b"\0\0")), BOTH),
    Case("name is an empty extension", "decode_error", "RFC 6066 3", says(MODERN.plus(SERVER_NAME)), BOTH),
    Case("name is empty", "decode_error", "RFC 6066 3", says(MODERN.plus(SERVER_NAME, _names((0, b"")))), BOTH),
    Case("name is shorter than it says", "decode_error", "RFC 6066 3", says(MODERN.plus(SERVER_NAME, vector(2, b"\0\1\0" + _HOST))), BOTH),
    Case("name list is shorter than it says", "decode_error", "RFC 6066 3", says(MODERN.plus(SERVER_NAME, b"\1\0" + _names((0, _HOST))[2:])), BOTH),
    Case("name has a byte after its end", "decode_error", "RFC 6066 3", says(MODERN.plus(SERVER_NAME, server_name() + b"\0")), BOTH),
    Case("two names of a kind", "decode_error|illegal_parameter", "RFC 6066 3", says(MODERN.plus(SERVER_NAME, _names((0, _HOST), (0, _OTHER)))), BOTH),
    Case("name of an unknown kind", "serves|unrecognized_name|decode_error|illegal_parameter", "RFC 6066 3", says(MODERN.plus(SERVER_NAME, _names((1, _HOST)))), BOTH),
    Case("name with a zero byte", "unrecognized_name|illegal_parameter|decode_error", "RFC 6066 3", says(hello(name=b"www\0.example.org")), BOTH),
    Case("name of 304 bytes", "unrecognized_name|illegal_parameter|decode_error", "RFC 6066 3", says(hello(name=_LONG)), BOTH),
    Case("name with a space", "unrecognized_name|illegal_parameter|decode_error", "RFC 6066 3", says(hello(name=b"www example")), NAMES),
    Case("name with a letter that is not ASCII", "unrecognized_name|illegal_parameter|decode_error", "RFC 6066 3", says(hello(name=b"w\xff.example.org")), NAMES),
    Case("name that is an address", "unrecognized_name|serves|illegal_parameter", "RFC 6066 3", says(hello(name=b"192.0.2.1")), NAMES),
    # The protocol of the application: RFC 7301.
    Case("protocol is known", "serves http/1.1", "RFC 7301 3.2", protocol_of(MODERN), BOTH),
    Case("protocol is known in TLS 1.2", "serves http/1.1", "RFC 7301 3.2", protocol_of(OLDER), BOTH),
    Case("protocol is one of several", "serves http/1.1", "RFC 7301 3.2", protocol_of(hello(protocols=[b"spdy/3", b"\xff\0", b"http/1.1"])), BOTH),
    Case("protocol after those of GREASE", "serves http/1.1", "RFC 8701 4.1", protocol_of(hello(protocols=[b"\x1a\x1a", b"http/1.1"])), BOTH),
    Case("protocol is not spoken of", "serves without", "RFC 7301 3.2", protocol_of(MODERN.less(ALPN)), BOTH),
    Case("protocol is unknown", "no_application_protocol", "RFC 7301 3.2", says(hello(protocols=[b"spdy/3"])), BOTH),
    Case("protocol is unknown in TLS 1.2", "no_application_protocol", "RFC 7301 3.2", says(OLDER.plus(ALPN, alpn(b"spdy/3"))), BOTH),
    Case("protocol in other letters", "no_application_protocol", "RFC 7301 3.2", says(hello(protocols=[b"HTTP/1.1"])), BOTH),
    Case("protocol of 255 bytes beside", "serves http/1.1", "RFC 7301 3.1", protocol_of(hello(protocols=[b"x" * 255, b"http/1.1"])), BOTH),
    Case("protocol twice", "serves http/1.1", "RFC 7301 3.1", protocol_of(hello(protocols=[b"http/1.1", b"http/1.1"])), BOTH),
    Case("protocol is empty", "decode_error", "RFC 7301 3.1", says(MODERN.plus(ALPN, alpn(b"", b"http/1.1"))), BOTH),
    Case("protocols are an empty list", "decode_error", "RFC 7301 3.1", says(MODERN.plus(ALPN, b"\0\0")), BOTH),
    Case("protocols are an empty extension", "decode_error", "RFC 7301 3.1", says(MODERN.plus(ALPN)), BOTH),
    Case("protocols are shorter than they say", "decode_error", "RFC 7301 3.1", says(MODERN.plus(ALPN, b"\0\x20\x08http/1.1")), BOTH),
    Case("protocol is shorter than it says", "decode_error", "RFC 7301 3.1", says(MODERN.plus(ALPN, b"\0\x09\x09http/1.1")), BOTH),
    Case("protocols have a byte after their end", "decode_error", "RFC 7301 3.1", says(MODERN.plus(ALPN, alpn(b"http/1.1") + b"\0")), BOTH),
    # Groups and signatures.
    Case("groups are an empty list", "decode_error", "RFC 8446 4.2.7", says(MODERN.plus(GROUPS, b"\0\0")), BOTH),
    Case("groups have an odd length", "decode_error", "RFC 8446 4.2.7", says(MODERN.plus(GROUPS, b"\0\3\0\x1d\0")), BOTH),
    Case("groups are shorter than they say", "decode_error", "RFC 8446 4.2.7", says(MODERN.plus(GROUPS, b"\0\4\0\x1d")), BOTH),
    Case("groups have a byte after their end", "decode_error", "RFC 8446 4.2.7", says(MODERN.plus(GROUPS, groups(X25519) + b"\0")), BOTH),
    Case("signatures are an empty list", "decode_error", "RFC 8446 4.2.3", says(MODERN.plus(SIGNATURES, b"\0\0")), BOTH),
    Case("signatures have an odd length", "decode_error", "RFC 8446 4.2.3", says(MODERN.plus(SIGNATURES, b"\0\3\4\3\4")), BOTH),
    Case("signatures are shorter than they say", "decode_error", "RFC 8446 4.2.3", says(MODERN.plus(SIGNATURES, b"\0\6\4\3")), BOTH),
    Case("signatures are an empty extension", "decode_error", "RFC 8446 4.2.3", says(MODERN.plus(SIGNATURES)), BOTH),
    Case("signatures that nobody knows", "handshake_failure", "RFC 8446 4.4.2.2", says(MODERN.plus(SIGNATURES, signatures((9, 9)))), BOTH),
    Case("signatures of RSA at an ECDSA key", "handshake_failure", "RFC 8446 4.4.2.2", says(MODERN.plus(SIGNATURES, signatures((8, 4)))), BOTH),
    Case("signatures of PKCS#1 alone in TLS 1.3", "handshake_failure", "RFC 8446 4.2.3", says(hello(offered=[TLS13]).plus(SIGNATURES, signatures((4, 1)))), ("rsa",)),
    Case("signatures of SHA-1 alone", "handshake_failure", "RFC 8446 4.2.3", says(MODERN.plus(SIGNATURES, signatures((2, 3), (2, 1)))), BOTH),
    Case("signatures of SHA-1 alone in TLS 1.2", "handshake_failure|insufficient_security", "RFC 9155 3", says(OLDER.plus(SIGNATURES, signatures((2, 3), (2, 1)))), BOTH),
    Case("signatures of MD5 alone in TLS 1.2", "handshake_failure|insufficient_security", "RFC 9155 2", says(OLDER.plus(SIGNATURES, signatures((1, 1)))), ("rsa",)),
    Case("signatures by the hundred", "serves", "RFC 8446 4.2.3", says(MODERN.plus(SIGNATURES, signatures(*((9, at) for at in range(200)), (4, 3)))), BOTH),
    Case("signatures of certificates beside", "serves", "RFC 8446 4.2.3", says(MODERN.plus(SIGNATURES_CERT, signatures((4, 3)))), BOTH),
    Case("signatures of certificates are an empty list", "decode_error", "RFC 8446 4.2.3", says(MODERN.plus(SIGNATURES_CERT, b"\0\0")), BOTH),
    Case("point formats without the usual one in TLS 1.2", "illegal_parameter", "RFC 8422 5.1.2", says(OLDER.plus(POINT_FORMATS, point_formats(1, 2))), BOTH),
    Case("point formats are an empty list in TLS 1.2", "decode_error|illegal_parameter", "RFC 8422 5.1.2", says(OLDER.plus(POINT_FORMATS, b"\0")), BOTH),
    Case("point formats are shorter than they say in TLS 1.2", "decode_error", "RFC 8422 5.1.2", says(OLDER.plus(POINT_FORMATS, b"\3\0")), BOTH),
    Case("no point formats in TLS 1.2", "serves", "RFC 8422 4", says(OLDER.less(POINT_FORMATS)), BOTH),
    # Others.
    Case("master secret is not empty", "decode_error", "RFC 7627 5.1", says(OLDER.plus(MASTER_SECRET, b"\0")), BOTH),
    Case("master secret is answered", "serves, and answers", "RFC 7627 5.2", answers(OLDER, MASTER_SECRET), BOTH),
    Case("master secret of old", "serves", "RFC 7627 5.2", answers(OLDER.less(MASTER_SECRET), MASTER_SECRET), BOTH),
    Case("ticket of somebody else's in TLS 1.2", "serves", "RFC 5077 3.2", says(OLDER.plus(TICKET, bytes(200))), BOTH),
    Case("ticket in TLS 1.3 means nothing", "serves", "RFC 8446 4.2", says(MODERN.plus(TICKET, bytes(200))), BOTH),
    Case("modes of pre-shared keys are an empty list", "decode_error", "RFC 8446 4.2.9", says(MODERN.plus(PSK_MODES, b"\0")), BOTH),
    Case("modes of pre-shared keys are shorter than they say", "decode_error", "RFC 8446 4.2.9", says(MODERN.plus(PSK_MODES, b"\2\1")), BOTH),
    Case("modes of pre-shared keys that nobody knows", "serves", "RFC 8446 4.2.9", says(MODERN.plus(PSK_MODES, psk_modes(99))), BOTH),
    Case("status is asked for", "serves", "RFC 6066 8", says(MODERN.plus(STATUS, b"\1\0\0\0\0")), BOTH),
    Case("status of an unknown kind", "serves", "RFC 6066 8", says(MODERN.plus(STATUS, b"\x63\0\0\0\0")), BOTH),
    Case("status is an empty extension", "decode_error", "RFC 6066 8", says(MODERN.plus(STATUS)), BOTH),
    Case("status is shorter than it says", "decode_error", "RFC 6066 8", says(MODERN.plus(STATUS, b"\1\0\5\0\0")), BOTH),
    Case("length of fragments of no kind", "illegal_parameter", "RFC 6066 4", says(OLDER.plus(MAX_FRAGMENT, b"\5")), BOTH),
    Case("length of fragments of two bytes", "decode_error", "RFC 6066 4", says(OLDER.plus(MAX_FRAGMENT, b"\1\1")), BOTH),
    Case("length of fragments of 512 bytes", "keeps to it|passes it over", "RFC 6066 4", fragments, BOTH),
    Case("limit of records", "serves|serves, and answers", "RFC 8449 4", answers(MODERN.plus(RECORD_SIZE, numbers(16385)), RECORD_SIZE), BOTH),
    Case("padding of zeros", "serves", "RFC 7685 3", says(MODERN.plus(PADDING, bytes(300))), BOTH),
    Case("cookie that nobody gave", "serves|illegal_parameter|unsupported_extension", "RFC 8446 4.2.2", says(MODERN.plus(COOKIE, vector(2, bytes(32)))), BOTH),
    Case("cookie is empty", "decode_error|serves", "RFC 8446 4.2.2", says(MODERN.plus(COOKIE, b"\0\0")), BOTH),
    Case("early data without a pre-shared key", "serves|illegal_parameter", "RFC 8446 4.2.10", says(MODERN.plus(EARLY_DATA)), BOTH),
    Case("early data is not empty", "decode_error", "RFC 8446 4.2.10", says(MODERN.plus(EARLY_DATA, b"\0\0\0\1")), BOTH),
    Case("authentication after the handshake", "serves", "RFC 8446 4.2.6", says(MODERN.plus(POST_HANDSHAKE)), BOTH),
    Case("authentication after the handshake is not empty", "decode_error", "RFC 8446 4.2.6", says(MODERN.plus(POST_HANDSHAKE, b"\0")), BOTH),
    Case("authorities are an empty list", "decode_error", "RFC 8446 4.2.4", says(MODERN.plus(AUTHORITIES, b"\0\0")), BOTH),
    Case("authorities are shorter than they say", "decode_error", "RFC 8446 4.2.4", says(MODERN.plus(AUTHORITIES, b"\0\x40\0\3abc")), BOTH),
    Case("compression of certificates", "serves", "RFC 8879 3", says(MODERN.plus(COMPRESS, b"\2\0\x63")), BOTH),
    Case("encrypt-then-MAC means nothing to AEAD", "serves", "RFC 7366 3", answers(OLDER.plus(ENCRYPT_THEN_MAC), ENCRYPT_THEN_MAC), BOTH),
    Case("heartbeat", "serves", "RFC 6520 2", answers(OLDER.plus(HEARTBEAT, b"\1"), HEARTBEAT), BOTH),
    Case("next protocol", "serves", "RFC 8446 4.2", answers(OLDER.plus(NPN), NPN), BOTH),
    Case("parameters of QUIC", "unsupported_extension|serves", "RFC 9001 8.2", says(MODERN.plus(QUIC, b"\1\2\x40\1")), BOTH),
)  # fmt: skip


@conforms(EXTENSIONS)
class ExtensionTests(Conformance):
    """The table."""
