"""Key shares, the groups that they are of, and the second hello that a server may ask for."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.cases import Case, Conformance, How, conforms, says
from tests.conformance.client import Client
from tests.conformance.hellos import (
    COOKIE,
    EARLY_DATA,
    GREASE,
    GROUPS,
    KEY_SHARE,
    MODERN,
    OLDER,
    SERVER_NAME,
    VERSIONS,
    Hello,
    groups,
    hello,
    key_shares,
    message,
    server_name,
    vector,
    versions,
)
from tests.conformance.keys import (
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    HYBRID,
    P256,
    P384,
    P521,
    TLS12,
    X25519,
    share,
)

BOTH = ("web", "names")
OURS_13 = ("web", "names", "modern")

RETRIED = hello(shares=[P521], among=[P521, P384, P256])
"""A client that has a share of none of the server's groups, though it knows some."""


def group_of(said: Hello) -> How:
    """See which group is agreed on, after how many hellos, and that the page comes."""

    def how(client: Client) -> str:
        client.complete(said)
        shared = client.answer.getExtension(KEY_SHARE).server_share
        hellos = 1 if client.retry is None else 2
        return f"{client.serves()} {shared.group:#06x} after {hellos}"

    return how


def with_share(group: int, exchange: bytes) -> How:
    """A hello whose only share is this."""
    return says(hello(among=[group], shares=[(group, exchange)], offered=[0x0304]))


def asked(client: Client) -> Hello:
    """
    Have the server ask for a second hello.

    @return: what it is to be.
    """
    client.hello(RETRIED)
    client.server_hello()
    assert client.retry is not None
    return client.retried(RETRIED)


def second(change: Callable[[Hello], Hello]) -> How:
    """Change something in the second hello, and go on."""

    def how(client: Client) -> str:
        client.hello(change(asked(client)))
        client.server_hello()
        client.flight()
        client.finish()
        return client.serves()

    return how


def request(client: Client) -> str:
    """See what the request for a second hello has in it."""
    asked(client)
    retry = client.retry
    assert retry is not None
    kinds = sorted(each.extType for each in retry.extensions)
    chosen = retry.getExtension(KEY_SHARE).selected_group
    return f"{kinds} {chosen:#06x} {retry.cipher_suite:04X}"


def same_suite(client: Client) -> str:
    """See that both answers of the server's have the same cipher suite."""
    client.complete(RETRIED)
    assert client.retry is not None
    same = client.retry.cipher_suite == client.answer.cipher_suite
    return f"{client.serves()}, {'the same' if same else 'another'}"


def changes_before(client: Client) -> str:
    """A change_cipher_spec before the second hello, as clients of old servers send it."""
    again = asked(client)
    client.clear(CHANGE_CIPHER_SPEC, b"\1")
    client.hello(again)
    client.server_hello()
    client.flight()
    client.finish()
    return client.serves()


def in_pieces(client: Client) -> str:
    """The second hello in many records."""
    written = client.prepared(asked(client))
    for at in range(0, len(written), 7):
        client.record(HANDSHAKE, written[at : at + 7])
    client.server_hello()
    client.flight()
    client.finish()
    return client.serves()


def not_a_hello(kind: int, body: bytes) -> How:
    """Another message in place of the second hello."""

    def how(client: Client) -> None:
        asked(client)
        client.record(HANDSHAKE, message(kind, body))

    return how


def group_of_12(said: Hello) -> How:
    """As L{group_of}, in TLS 1.2."""

    def how(client: Client) -> str:
        client.complete(said)
        return f"{client.serves()} {client.group:#06x}"

    return how


def again_12(group: int, exchange: bytes) -> How:
    """A key share of TLS 1.2."""

    def how(client: Client) -> None:
        # The group of the server's own key has to be there too.
        client.hello(OLDER.plus(GROUPS, groups(group, P256)))
        client.server_hello()
        client.flight()
        client.say(message(16, exchange))
        client.change_blindly()

    return how


def _kept(said: Hello) -> Hello:
    return said.plus(KEY_SHARE, key_shares(P521))


_P256 = share(P256)
_OFF_CURVE = _P256[:-1] + bytes([_P256[-1] ^ 1])
_WRONG = "illegal_parameter|decode_error"

KEY_SHARES = (
    # What is agreed on.
    Case("group X25519", "serves 0x001d after 1", "RFC 8446 4.2.8", group_of(hello(among=[X25519], shares=[X25519])), OURS_13),
    Case("group P-256", "serves 0x0017 after 1", "RFC 8446 4.2.8", group_of(hello(among=[P256], shares=[P256])), OURS_13),
    Case("group P-384", "serves 0x0018 after 1", "RFC 8446 4.2.8", group_of(hello(among=[P384], shares=[P384])), OURS_13),
    Case("group X25519MLKEM768", "serves 0x11ec after 1|serves 0x001d after 2", "draft-ietf-tls-ecdhe-mlkem 4", group_of(hello(among=[HYBRID, X25519], shares=[HYBRID])), OURS_13),
    Case("group P-521, which no policy has", "handshake_failure", "RFC 8446 4.1.1", says(hello(among=[P521], shares=[P521])), OURS_13),
    Case("group of finite fields, which no policy has", "handshake_failure", "RFC 8446 4.1.1", says(hello(among=[256], shares=[(256, bytes(256))])), OURS_13),
    Case("groups that nobody knows", "handshake_failure", "RFC 8446 4.1.1", says(hello(among=[0xFE00], shares=[(0xFE00, b"\1")])), OURS_13),
    Case("groups that nobody knows in TLS 1.2", "handshake_failure", "RFC 8422 5.1", says(OLDER.plus(GROUPS, groups(0xFE00))), BOTH),
    Case("group of GREASE alone", "handshake_failure", "RFC 8701 4.1", says(hello(among=[GREASE], shares=[(GREASE, b"\0")])), OURS_13),
    Case("group P-521 in TLS 1.2, which no policy has", "handshake_failure", "RFC 8422 5.1", says(OLDER.plus(GROUPS, groups(P521))), BOTH),
    # Shares of a wrong size or form.
    Case("share of X25519 is too short", _WRONG, "RFC 8446 4.2.8.2", with_share(X25519, bytes(31)), OURS_13),
    Case("share of X25519 is too long", _WRONG, "RFC 8446 4.2.8.2", with_share(X25519, share(X25519) + b"\0"), OURS_13),
    Case("share of X25519 is all zeros", "illegal_parameter", "RFC 8446 7.4.2", with_share(X25519, bytes(32)), OURS_13),
    Case("share of X25519 is of small order", "illegal_parameter", "RFC 8446 7.4.2", with_share(X25519, b"\1" + bytes(31)), OURS_13),
    Case("share of P-256 is too short", _WRONG, "RFC 8446 4.2.8.2", with_share(P256, _P256[:-1]), OURS_13),
    Case("share of P-256 is too long", _WRONG, "RFC 8446 4.2.8.2", with_share(P256, _P256 + b"\0"), OURS_13),
    Case("share of P-256 is not on the curve", "illegal_parameter", "RFC 8446 4.2.8.2", with_share(P256, _OFF_CURVE), OURS_13),
    Case("share of P-256 is compressed", "illegal_parameter", "RFC 8446 4.2.8.2", with_share(P256, share(P256, compressed=True)), OURS_13),
    Case("share of P-256 is infinity", _WRONG, "RFC 8446 4.2.8.2", with_share(P256, b"\0"), OURS_13),
    Case("share of P-256 is all zeros", "illegal_parameter", "RFC 8446 4.2.8.2", with_share(P256, b"\4" + bytes(64)), OURS_13),
    Case("share of P-256 is one of X25519", _WRONG, "RFC 8446 4.2.8.2", with_share(P256, share(X25519)), OURS_13),
    Case("share of P-384 is one of P-256", _WRONG, "RFC 8446 4.2.8.2", with_share(P384, _P256), OURS_13),
    Case("share of X25519MLKEM768 is too short", _WRONG + "|handshake_failure", "draft-ietf-tls-ecdhe-mlkem 4.1", with_share(HYBRID, share(HYBRID)[:-1]), OURS_13),
    Case("share of X25519MLKEM768 is one of X25519", _WRONG + "|handshake_failure", "draft-ietf-tls-ecdhe-mlkem 4.1", with_share(HYBRID, share(X25519)), OURS_13),
    Case("share of X25519MLKEM768 has a bad key of ML-KEM", _WRONG + "|handshake_failure", "draft-ietf-tls-ecdhe-mlkem 4.2", with_share(HYBRID, b"\xff" * 1184 + share(X25519)), OURS_13),
    Case("share is empty", _WRONG, "RFC 8446 4.2.8", with_share(X25519, b""), OURS_13),
    Case("share is shorter than it says", "decode_error", "RFC 8446 4.2.8", says(MODERN.plus(KEY_SHARE, vector(2, b"\0\x1d\0\x21" + bytes(32)))), OURS_13),
    Case("shares are shorter than they say", "decode_error", "RFC 8446 4.2.8", says(MODERN.plus(KEY_SHARE, b"\0\x60" + key_shares(X25519)[2:])), OURS_13),
    Case("shares have a byte after their end", "decode_error", "RFC 8446 4.2.8", says(MODERN.plus(KEY_SHARE, key_shares(X25519) + b"\0")), OURS_13),
    Case("shares are an empty extension", "decode_error", "RFC 8446 4.2.8", says(MODERN.plus(KEY_SHARE)), OURS_13),
    Case("share is half a header", "decode_error", "RFC 8446 4.2.8", says(MODERN.plus(KEY_SHARE, vector(2, b"\0\x1d\0"))), OURS_13),
    Case("share of a group that is not offered", "illegal_parameter|serves", "RFC 8446 4.2.8", says(hello(among=[P256], shares=[X25519, P256])), OURS_13),
    Case("two shares of a group", "illegal_parameter|serves", "RFC 8446 4.2.8", says(hello(among=[X25519], shares=[X25519, X25519])), OURS_13),
    Case("share that nobody knows before one that is known", "serves", "RFC 8446 4.2.8", says(hello(among=[0xFE00, X25519], shares=[(0xFE00, bytes(99)), X25519])), OURS_13),
    Case("share of GREASE before one that is known", "serves", "RFC 8701 4.1", says(hello(among=[GREASE, X25519], shares=[(GREASE, b"\0"), X25519])), OURS_13),
    Case("shares by the dozen", "serves", "RFC 8446 4.2.8", says(hello(among=[*range(0xFE00, 0xFE30), X25519], shares=[*((each, bytes(32)) for each in range(0xFE00, 0xFE30)), X25519])), OURS_13),
    # A second hello.
    Case("no share of a group that is known", "serves 0x0018 after 2|serves 0x0017 after 2", "RFC 8446 4.1.4", group_of(RETRIED), OURS_13),
    Case("no shares at all", "serves 0x001d after 2|serves 0x0017 after 2|serves 0x0018 after 2", "RFC 8446 4.2.8", group_of(hello(shares=[])), OURS_13),
    Case("no shares at all in the second hello", "illegal_parameter", "RFC 8446 4.1.4", second(lambda said: said.plus(KEY_SHARE, key_shares())), OURS_13),
    Case("second hello is asked for as it should be", "[43, 51] 0x0018 1301|[43, 51] 0x0017 1301", "RFC 8446 4.1.4", request, OURS_13),
    Case("second hello has the same cipher suite", "serves, the same", "RFC 8446 4.1.4", same_suite, OURS_13),
    Case("second hello is the first again", "illegal_parameter", "RFC 8446 4.1.4", second(_kept), OURS_13),
    Case("second hello has a share of another group", "illegal_parameter", "RFC 8446 4.1.4", second(lambda said: said.plus(KEY_SHARE, key_shares(X25519))), OURS_13),
    Case("second hello has the share and one more", "illegal_parameter|serves", "RFC 8446 4.1.2", second(lambda said: said.plus(KEY_SHARE, key_shares(P384, P256))), OURS_13),
    Case("second hello has no share", "missing_extension|illegal_parameter", "RFC 8446 4.1.2", second(lambda said: said.less(KEY_SHARE)), OURS_13),
    Case("second hello has other cipher suites", "illegal_parameter|handshake_failure", "RFC 8446 4.1.4", second(lambda said: said.offers(0x1303)), OURS_13),
    Case("second hello has TLS 1.2 alone", "illegal_parameter|protocol_version", "RFC 8446 4.1.4", second(lambda said: said.plus(VERSIONS, versions(TLS12))), OURS_13),
    Case("second hello has no versions", "illegal_parameter|protocol_version|missing_extension", "RFC 8446 4.1.4", second(lambda said: said.less(VERSIONS)), OURS_13),
    Case("second hello asks for another name", "illegal_parameter|unrecognized_name|serves", "RFC 8446 4.1.2", second(lambda said: said.plus(SERVER_NAME, server_name(b"other.example.org"))), OURS_13),
    Case("second hello has a cookie that nobody gave", "illegal_parameter|serves|unsupported_extension|decode_error", "RFC 8446 4.2.2", second(lambda said: said.plus(COOKIE, vector(2, bytes(9)))), OURS_13),
    Case("second hello offers early data", "illegal_parameter|unsupported_extension", "RFC 8446 4.2.10", second(lambda said: said.plus(EARLY_DATA)), OURS_13),
    Case("second hello has another identifier of the session", "illegal_parameter|serves", "RFC 8446 4.1.2", second(lambda said: said.but(session_id=b"\7" * 32)), OURS_13),
    Case("second hello has another random", "illegal_parameter|serves", "RFC 8446 4.1.2", second(lambda said: said.but(random=bytes(32))), OURS_13),
    Case("second hello comes after a change_cipher_spec", "serves", "RFC 8446 D.4", changes_before, OURS_13),
    Case("second hello comes in many records", "serves", "RFC 8446 5.1", in_pieces, OURS_13),
    Case("finished message in place of the second hello", "unexpected_message", "RFC 8446 4", not_a_hello(20, bytes(32)), OURS_13),
    Case("key update in place of the second hello", "unexpected_message", "RFC 8446 4.6.3", not_a_hello(24, b"\0"), OURS_13),
    # The key exchange of TLS 1.2.
    Case("group X25519 in TLS 1.2", "serves 0x001d", "RFC 8422 5.1.1", group_of_12(OLDER.plus(GROUPS, groups(X25519, P256))), BOTH),
    Case("group P-256 in TLS 1.2", "serves 0x0017", "RFC 8422 5.1.1", group_of_12(OLDER.plus(GROUPS, groups(P256))), BOTH),
    Case("group P-384 in TLS 1.2", "serves 0x0018", "RFC 8422 5.1.1", group_of_12(OLDER.plus(GROUPS, groups(P384))), ("rsa",)),
    Case("group of the server's key is not offered in TLS 1.2", "handshake_failure", "RFC 8422 5.1", says(OLDER.plus(GROUPS, groups(X25519, P384))), BOTH),
    Case("key exchange of P-256 is not on the curve", "illegal_parameter", "RFC 8422 5.11", again_12(P256, vector(1, _OFF_CURVE))),
    Case("key exchange of P-256 is too short", _WRONG, "RFC 8422 5.7", again_12(P256, vector(1, _P256[:-1]))),
    Case("key exchange of P-256 is empty", _WRONG, "RFC 8422 5.7", again_12(P256, b"\0")),
    Case("key exchange of P-256 is compressed", _WRONG, "RFC 8422 5.7", again_12(P256, vector(1, share(P256, compressed=True)))),
    Case("key exchange of X25519 is too short", _WRONG, "RFC 8422 5.11", again_12(X25519, vector(1, bytes(31)))),
    Case("key exchange of X25519 is all zeros", "handshake_failure|illegal_parameter", "RFC 8422 5.11", again_12(X25519, vector(1, bytes(32)))),
    Case("key exchange is shorter than it says", "decode_error", "RFC 5246 7.2.2", again_12(P256, b"\x60" + _P256)),
    Case("key exchange has a byte after its end", "decode_error", "RFC 5246 7.2.2", again_12(P256, vector(1, _P256) + b"\0")),
    Case("key exchange is no bytes", _WRONG, "RFC 5246 7.2.2", again_12(P256, b"")),
)  # fmt: skip


@conforms(KEY_SHARES)
class KeyShareTests(Conformance):
    """The table."""
