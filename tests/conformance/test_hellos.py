"""The fields of a client hello, and the message that it is."""

from __future__ import annotations

from tests.conformance.cases import Case, Conformance, How, conforms, says
from tests.conformance.client import Client
from tests.conformance.hellos import (
    FALLBACK,
    GREASE,
    GROUPS,
    KEY_SHARE,
    MODERN,
    OLDER,
    ONLY_13,
    PSK_MODES,
    RENEGOTIATION,
    RENEGOTIATION_SIGNAL,
    SIGNATURES,
    SUITES_12,
    SUITES_13,
    VERSIONS,
    Hello,
    hello,
    message,
    numbers,
    vector,
    versions,
)
from tests.conformance.keys import HANDSHAKE, TLS12, TLS13

BOTH = ("web", "names")
"""Where OpenSSL is the first to read the hello, and where we are."""


def sends(written: bytes) -> How:
    """Send this in place of a hello."""
    return lambda client: client.record(HANDSHAKE, written)


def cut(size: int) -> How:
    """A hello whose message ends early, and says so in its header."""
    return sends(message(1, MODERN.body()[:size]))


def patched(said: Hello, at: int, value: bytes) -> How:
    """A hello with other bytes at a place in its body."""
    body = said.body()
    return sends(message(1, body[:at] + value + body[at + len(value) :]))


def in_version(said: Hello) -> How:
    """Say hello, and see which version is agreed on and that the page comes."""

    def how(client: Client) -> str:
        served = client.complete(said).serves()
        return f"{served} {'TLSv1.3' if client.version == TLS13 else 'TLSv1.2'}"

    return how


def suite_of(said: Hello) -> How:
    """Say hello, and see which cipher suite is agreed on and that the page comes."""

    def how(client: Client) -> str:
        served = client.complete(said).serves()
        return f"{served} {client.suite.number:04X}"

    return how


def sentinel(said: Hello) -> How:
    """Look at the end of the server's random."""

    def how(client: Client) -> str:
        client.hello(said)
        return "a sentinel" if client.server_hello().random[-8:-1] == b"DOWNGRD" else "none"

    return how


def downgraded(client: Client) -> str:
    """Look at all of the sentinel."""
    client.hello(OLDER)
    return bytes(client.server_hello().random[-8:]).hex()


def echoed(session_id: bytes) -> How:
    """The session's identifier comes back (the client sees to that), and the page comes."""

    def how(client: Client) -> str:
        client.hello(MODERN.but(session_id=session_id))
        client.server_hello()
        client.flight()
        client.finish()
        served = client.serves()
        return f"{served}, {client.changed} change_cipher_spec"

    return how


def renegotiable(said: Hello) -> How:
    """See whether the server says that it knows of RFC 5746."""

    def how(client: Client) -> str:
        served = client.complete(said).serves()
        extension = client.answer.getExtension(RENEGOTIATION)
        if extension is None:
            return f"{served}, and says nothing"
        about = bytes(extension.renegotiated_connection)
        return f"{served}, and says {'something' if about else 'so'}"

    return how


def unchanging(client: Client) -> str:
    """Two connections with the same hello get different randoms."""
    client.hello(OLDER.but(random=bytes(32)))
    first = client.server_hello().random
    with Client(client.ports, client.where) as other:
        other.hello(OLDER.but(random=bytes(32)))
        return "the same" if other.server_hello().random == first else "different"


_BODY = MODERN.body()
_AT_SUITES = 35 + 32
_AT_COMPRESSIONS = _AT_SUITES + 2 + len(MODERN.suites)
_AT_EXTENSIONS = _AT_COMPRESSIONS + 2
_SSL2 = b"\x80\x2e\x01\x03\x03\x00\x15\x00\x00\x00\x10" + bytes(21) + bytes(16)

HELLOS = (
    # The message.
    Case("hello is empty", "decode_error", "RFC 8446 4", sends(message(1, b"")), BOTH),
    Case("hello ends in the version", "decode_error", "RFC 8446 4", cut(1), BOTH),
    Case("hello ends in the random", "decode_error", "RFC 8446 4", cut(20), BOTH),
    Case("hello ends before the session", "decode_error", "RFC 8446 4", cut(34), BOTH),
    Case("hello ends in the session", "decode_error", "RFC 8446 4", cut(50), BOTH),
    Case("hello ends in the suites", "decode_error", "RFC 8446 4", cut(_AT_SUITES + 5), BOTH),
    Case("hello ends before compressions", "decode_error", "RFC 8446 4", cut(_AT_COMPRESSIONS), BOTH),
    Case("hello ends in the extensions", "decode_error", "RFC 8446 4", cut(len(_BODY) - 1), BOTH),
    Case("hello has a byte after its end", "decode_error", "RFC 8446 4", sends(message(1, _BODY + b"\0")), BOTH),
    Case("extensions are shorter than they say", "decode_error", "RFC 8446 3.4", says(MODERN.but(block=b"\x0f\xff" + MODERN.extension_bytes)), BOTH),
    Case("extensions are longer than they say", "decode_error", "RFC 8446 3.4", says(MODERN.but(block=b"\0\4" + MODERN.extension_bytes)), BOTH),
    Case("last extension is shorter than it says", "decode_error", "RFC 8446 3.4", says(MODERN.but(block=vector(2, MODERN.extension_bytes + b"\x3a\x3a\0\5\0\0"))), BOTH),
    Case("last extension is half a header", "decode_error", "RFC 8446 3.4", says(MODERN.but(block=vector(2, MODERN.extension_bytes + b"\x3a\x3a\0"))), BOTH),
    Case("hello of 16 MiB is announced", "illegal_parameter|decode_error|record_overflow", "RFC 8446 4", sends(b"\1\xff\xff\xff" + _BODY), BOTH),
    Case("hello of two hundred kilobytes", "illegal_parameter|decode_error|record_overflow", "RFC 8446 4", sends(b"\1\3\0\0" + _BODY), BOTH),
    Case("server's hello from the client", "unexpected_message", "RFC 8446 4", sends(message(2, _BODY)), BOTH),
    Case("message of no kind in place of the hello", "unexpected_message", "RFC 8446 4", sends(message(99, _BODY)), BOTH),
    Case("finished message in place of the hello", "unexpected_message", "RFC 8446 4", sends(message(20, bytes(32))), BOTH),
    Case("key update in place of the hello", "unexpected_message", "RFC 8446 4", sends(b"\x18\0\0\1\0"), BOTH),
    Case("request for a hello in place of it", "unexpected_message", "RFC 5246 7.4.1.1", sends(message(0, b"")), BOTH),
    Case("hello of SSL 2", "protocol_version|handshake_failure|unexpected_message|decode_error|end", "RFC 8446 D.5", lambda client: client.raw(_SSL2)),
    # Versions.
    Case("no versions, and TLS 1.2 is the legacy one", "serves TLSv1.2", "RFC 8446 4.2.1", in_version(OLDER), BOTH),
    Case("no versions, and TLS 1.3 is the legacy one", "serves TLSv1.2", "RFC 8446 4.2.1", in_version(OLDER.but(version=TLS13)), BOTH),
    Case("no versions, and the legacy one is of the future", "serves TLSv1.2", "RFC 5246 E.1", in_version(OLDER.but(version=0x03FF)), BOTH),
    Case("legacy version is TLS 1.1", "protocol_version", "RFC 8446 4.2.1", says(OLDER.but(version=0x0302)), BOTH),
    Case("legacy version is TLS 1.0", "protocol_version", "RFC 8446 4.2.1", says(OLDER.but(version=0x0301)), BOTH),
    Case("legacy version is SSL 3", "protocol_version", "RFC 8446 D.5", says(OLDER.but(version=0x0300)), BOTH),
    Case("legacy version is SSL 3 beside TLS 1.3", "protocol_version", "RFC 8446 D.5", says(MODERN.but(version=0x0300)), BOTH),
    Case("legacy version is TLS 1.0 beside TLS 1.3", "serves TLSv1.3", "RFC 8446 4.2.1", in_version(MODERN.but(version=0x0301)), BOTH),
    Case("legacy version is TLS 1.3 beside TLS 1.3", "serves TLSv1.3", "RFC 8446 4.2.1", in_version(MODERN.but(version=TLS13)), BOTH),
    Case("versions are TLS 1.2 alone", "serves TLSv1.2", "RFC 8446 4.2.1", in_version(hello(offered=[TLS12])), BOTH),
    Case("versions are TLS 1.1 and 1.0", "protocol_version", "RFC 8446 4.2.1", says(hello(offered=[0x0302, 0x0301])), BOTH),
    Case("versions are of the future alone", "protocol_version", "RFC 8446 4.2.1", says(hello(offered=[0x0305])), BOTH),
    Case("versions have a draft of TLS 1.3", "serves TLSv1.2", "RFC 8446 4.2.1", in_version(hello(offered=[0x7F1C, TLS12])), BOTH),
    Case("versions have TLS 1.2 before TLS 1.3", "serves TLSv1.3|serves TLSv1.2", "RFC 8446 4.2.1", in_version(hello(offered=[TLS12, TLS13])), BOTH),
    Case("versions are none", "decode_error", "RFC 8446 4.2.1", says(MODERN.plus(VERSIONS, b"\0")), BOTH),
    Case("versions have an odd length", "decode_error", "RFC 8446 4.2.1", says(MODERN.plus(VERSIONS, b"\3\3\4\3")), BOTH),
    Case("versions are shorter than they say", "decode_error", "RFC 8446 4.2.1", says(MODERN.plus(VERSIONS, b"\6\3\4\3\3")), BOTH),
    Case("versions have a byte after their end", "decode_error", "RFC 8446 4.2.1", says(MODERN.plus(VERSIONS, versions(TLS13) + b"\0")), BOTH),
    Case("versions are an empty extension", "decode_error", "RFC 8446 4.2.1", says(MODERN.plus(VERSIONS)), BOTH),
    Case("modern server and a client of TLS 1.2", "protocol_version", "RFC 8446 4.2.1", says(OLDER), ("modern",)),
    Case("modern server and a client of both", "serves TLSv1.3", "RFC 8446 4.2.1", in_version(MODERN), ("modern",)),
    # Signals and sentinels.
    Case("sentinel of a downgrade to TLS 1.2", "444f574e47524401", "RFC 8446 4.1.3", downgraded, BOTH),
    Case("no sentinel in TLS 1.3", "none", "RFC 8446 4.1.3", sentinel(MODERN), BOTH),
    Case("fallback signal in TLS 1.2", "inappropriate_fallback", "RFC 7507 3", says(OLDER.offers(*SUITES_12, FALLBACK)), BOTH),
    Case("fallback signal among the versions of old", "inappropriate_fallback|protocol_version", "RFC 7507 3", says(OLDER.offers(*SUITES_12, FALLBACK).but(version=0x0302)), BOTH),
    Case("fallback signal in TLS 1.3", "serves", "RFC 7507 3", says(MODERN.offers(*SUITES_13, FALLBACK)), BOTH),
    Case("randoms of two connections", "different", "RFC 8446 4.1.3", unchanging),
    # Session identifiers.
    Case("session identifier of 33 bytes", "decode_error", "RFC 8446 4.1.2", says(MODERN.but(session_id=bytes(33))), BOTH),
    Case("session identifier of 255 bytes", "decode_error", "RFC 8446 4.1.2", says(MODERN.but(session_id=bytes(255))), BOTH),
    Case("session identifier of 33 bytes in TLS 1.2", "decode_error", "RFC 5246 7.4.1.2", says(OLDER.but(session_id=bytes(33))), BOTH),
    Case("session identifier that nobody knows in TLS 1.2", "serves", "RFC 5246 7.4.1.2", says(OLDER.but(session_id=b"\7" * 32)), BOTH),
    Case("session identifier of 32 bytes comes back", "serves, 1 change_cipher_spec", "RFC 8446 4.1.3", echoed(b"\7" * 32), BOTH),
    Case("session identifier of 5 bytes comes back", "serves, 1 change_cipher_spec", "RFC 8446 4.1.3", echoed(b"\7" * 5), BOTH),
    Case("session identifier of no bytes comes back", "serves, 0 change_cipher_spec|serves, 1 change_cipher_spec", "RFC 8446 D.4", echoed(b""), BOTH),
    # Cipher suites.
    Case("no cipher suites", "decode_error", "RFC 8446 4.1.2", says(MODERN.but(suites=b"")), BOTH),
    Case("no cipher suites in TLS 1.2", "decode_error", "RFC 5246 7.4.1.2", says(OLDER.but(suites=b"")), BOTH),
    Case("cipher suites of an odd length", "decode_error", "RFC 8446 4.1.2", says(MODERN.but(suites=MODERN.suites + b"\0")), BOTH),
    Case("cipher suites are longer than the hello", "decode_error", "RFC 8446 4.1.2", patched(MODERN, _AT_SUITES, b"\xff\xfe"), BOTH),
    Case("cipher suites that nobody knows", "handshake_failure", "RFC 8446 4.1.1", says(MODERN.offers(0x1399, 0xC0FE)), BOTH),
    Case("cipher suites that nobody knows and one that is known", "serves", "RFC 8446 4.1.2", says(MODERN.offers(0x1399, 0xC0FE, 0x1301)), BOTH),
    Case("cipher suites of TLS 1.3 in TLS 1.2 alone", "handshake_failure", "RFC 8446 B.4", says(hello(offered=[TLS12]).offers(*SUITES_13)), BOTH),
    Case("cipher suites of TLS 1.2 in TLS 1.3 alone", "handshake_failure", "RFC 8446 B.4", says(ONLY_13.offers(*SUITES_12)), BOTH),
    Case("cipher suites without forward secrecy", "handshake_failure|insufficient_security", "RFC 5246 7.4.1.3", says(OLDER.offers(0x009C, 0x002F)), BOTH),
    Case("cipher suites with CBC", "handshake_failure|insufficient_security", "RFC 5246 7.4.1.3", says(OLDER.offers(0xC023, 0xC009)), BOTH),
    Case("cipher suites with RC4, 3DES, NULL and EXPORT", "handshake_failure|insufficient_security", "RFC 5246 7.4.1.3", says(OLDER.offers(0xC007, 0xC008, 0xC006, 0x0003)), BOTH),
    Case("cipher suites without authentication", "handshake_failure|insufficient_security", "RFC 5246 7.4.1.3", says(OLDER.offers(0xC018, 0x0034)), BOTH),
    Case("cipher suites for an RSA key alone", "handshake_failure", "RFC 5246 7.4.1.3", says(OLDER.offers(0xC02F)), BOTH),
    Case("cipher suites for an ECDSA key at an RSA key", "handshake_failure", "RFC 5246 7.4.1.3", says(OLDER.offers(0xC02B)), ("rsa",)),
    Case("cipher suites of GREASE alone", "handshake_failure", "RFC 8701 4.1", says(MODERN.offers(GREASE)), BOTH),
    Case("cipher suites with one of GREASE", "serves", "RFC 8701 4.1", says(MODERN.but(suites=numbers(GREASE) + MODERN.suites)), BOTH),
    Case("cipher suites by the thousand", "serves", "RFC 8446 4.1.2", says(MODERN.but(suites=numbers(*range(0xD000, 0xDF00)) + MODERN.suites)), BOTH),
    Case("cipher suite twice", "serves", "RFC 8446 4.1.2", says(MODERN.but(suites=MODERN.suites * 2)), BOTH),
    Case("AES-128 of TLS 1.3", "serves 1301", "RFC 8446 9.1", suite_of(MODERN.offers(0x1301)), BOTH),
    Case("AES-256 of TLS 1.3", "serves 1302", "RFC 8446 9.1", suite_of(MODERN.offers(0x1302)), BOTH),
    Case("ChaCha20 of TLS 1.3", "serves 1303", "RFC 8446 9.1", suite_of(MODERN.offers(0x1303)), BOTH),
    Case("AES-CCM of TLS 1.3", "handshake_failure|insufficient_security", "RFC 8446 4.1.1", says(MODERN.offers(0x1304, 0x1305)), BOTH),
    Case("AES-128 of TLS 1.2", "serves C02B", "RFC 5289 3.2", suite_of(OLDER.offers(0xC02B)), BOTH),
    Case("AES-256 of TLS 1.2", "serves C02C", "RFC 5289 3.2", suite_of(OLDER.offers(0xC02C)), BOTH),
    Case("ChaCha20 of TLS 1.2", "serves CCA9", "RFC 7905 2", suite_of(OLDER.offers(0xCCA9)), BOTH),
    Case("AES-128 of TLS 1.2 with RSA", "serves C02F", "RFC 5289 3.2", suite_of(OLDER.offers(0xC02F)), ("rsa",)),
    Case("AES-256 of TLS 1.2 with RSA", "serves C030", "RFC 5289 3.2", suite_of(OLDER.offers(0xC030)), ("rsa",)),
    Case("ChaCha20 of TLS 1.2 with RSA", "serves CCA8", "RFC 7905 2", suite_of(OLDER.offers(0xCCA8)), ("rsa",)),
    # Compression.
    Case("no compressions", "decode_error|illegal_parameter", "RFC 8446 4.1.2", says(MODERN.but(compressions=b"")), BOTH),
    Case("no compressions in TLS 1.2", "decode_error", "RFC 5246 7.4.1.2", says(OLDER.but(compressions=b"")), BOTH),
    Case("deflate beside no compression", "illegal_parameter", "RFC 8446 4.1.2", says(MODERN.but(compressions=b"\1\0")), BOTH),
    Case("deflate alone", "illegal_parameter", "RFC 8446 4.1.2", says(MODERN.but(compressions=b"\1")), BOTH),
    Case("no compression twice", "illegal_parameter", "RFC 8446 4.1.2", says(MODERN.but(compressions=b"\0\0")), BOTH),
    Case("deflate beside no compression in TLS 1.2", "serves", "RFC 5246 7.4.1.2", says(OLDER.but(compressions=b"\1\0")), BOTH),
    Case("deflate alone in TLS 1.2", "decode_error|illegal_parameter|handshake_failure", "RFC 5246 7.4.1.2", says(OLDER.but(compressions=b"\1")), BOTH),
    Case("compressions are longer than the hello", "decode_error", "RFC 8446 4.1.2", patched(MODERN, _AT_COMPRESSIONS, b"\xff"), BOTH),
    # Renegotiation, as far as a first hello speaks of it.
    Case("renegotiation extension in TLS 1.2", "serves, and says so", "RFC 5746 3.6", renegotiable(OLDER), BOTH),
    Case("renegotiation signal in TLS 1.2", "serves, and says so", "RFC 5746 3.6", renegotiable(OLDER.less(RENEGOTIATION).offers(*SUITES_12, RENEGOTIATION_SIGNAL)), BOTH),
    Case("renegotiation is not spoken of", "serves, and says nothing", "RFC 5746 3.6", renegotiable(OLDER.less(RENEGOTIATION)), BOTH),
    Case("renegotiation of what there was not", "handshake_failure", "RFC 5746 3.6", says(OLDER.plus(RENEGOTIATION, vector(1, bytes(12)))), BOTH),
    Case("renegotiation extension is empty", "decode_error|handshake_failure", "RFC 5746 3.2", says(OLDER.plus(RENEGOTIATION)), BOTH),
    Case("renegotiation extension is shorter than it says", "decode_error|handshake_failure", "RFC 5746 3.2", says(OLDER.plus(RENEGOTIATION, b"\x0c\0")), BOTH),
    # A client that says little.
    Case("no extensions in TLS 1.2", "handshake_failure|insufficient_security|missing_extension", "RFC 5246 7.4.1.4.1", says(OLDER.but(block=b""))),
    Case("no extensions but signatures in TLS 1.2", "serves|handshake_failure", "RFC 8422 4", says(Hello(tuple(each for each in OLDER.extensions if each[0] == SIGNATURES), OLDER.suites)), ("web",)),
    Case("no signature algorithms", "missing_extension", "RFC 8446 9.2", says(MODERN.less(SIGNATURES)), BOTH),
    Case("no groups", "missing_extension", "RFC 8446 9.2", says(MODERN.less(GROUPS)), BOTH),
    Case("no key shares", "missing_extension", "RFC 8446 9.2", says(MODERN.less(KEY_SHARE)), BOTH),
    Case("no groups and no key shares", "missing_extension", "RFC 8446 9.2", says(ONLY_13.less(KEY_SHARE, GROUPS)), BOTH),
    Case("no modes of pre-shared keys", "serves", "RFC 8446 4.2.9", says(MODERN.less(PSK_MODES)), BOTH),
    Case("no groups in TLS 1.2", "serves|handshake_failure", "RFC 8422 4", says(OLDER.less(GROUPS)), BOTH),
)  # fmt: skip


@conforms(HELLOS)
class HelloTests(Conformance):
    """The table."""
