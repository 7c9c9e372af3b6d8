"""Sessions that are resumed, or are not; tickets, binders, and early data."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from tlslite.constants import ExtensionType

from tests.conformance.cases import Case, Conformance, How, conforms
from tests.conformance.client import Client, Session
from tests.conformance.hellos import (
    ALPN,
    EARLY_DATA,
    MASTER_SECRET,
    MODERN,
    OLDER,
    P384_ONLY,
    PRE_SHARED_KEY,
    PSK_MODES,
    SERVER_NAME,
    TICKET,
    Hello,
    hello,
    psk_modes,
    server_name,
    vector,
)
from tests.conformance.keys import APPLICATION_DATA, HANDSHAKE, TLS12, Direction
from tests.tls_material import client as certified

BOTH = ("web", "names")
EVERYWHERE = ("web", "names", "modern", "rsa")
MUTUAL = ("mutual",)
RETRIED = hello(shares=[])
"""A client that has no key share at first, and is asked for one."""


def served(client: Client) -> str:
    """Whether it was resumed, after the page has come."""
    page = client.serves()
    return f"{page} {'resumed' if client.resumed else 'anew'}"


def resumes(
    change: Callable[[Hello], Hello] = lambda said: said,
    *,
    first: Hello = MODERN,
    then: Hello = MODERN,
    session: Callable[[Session], Session] = lambda session: session,
) -> How:
    """
    Offer a session.

    @param change: what is done to the hello with it when its binder is there.
    @param first: the hello of the connection that it is from.
    @param then: the hello with which it is offered.
    @param session: what becomes of it in between.
    """

    def how(client: Client) -> str:
        given = session(client.open_session(first))
        return served(client.complete(change(client.resuming(then, given))))

    return how


def with_identities(make: Callable[[bytes], bytes]) -> How:
    """Offer others than the session's."""

    def how(client: Client) -> str:
        session = client.open_session()
        given = vector(2, session.ticket) + session.age_add.to_bytes(4, "big")
        return served(client.complete(client.resuming(MODERN, session, identities=make(given))))

    return how


def with_binders(make: Callable[[bytes], bytes], prefix: int = 2) -> How:
    """Offer a session with other binders than its own."""

    def change(said: Hello) -> Hello:
        body = dict(said.extensions)[PRE_SHARED_KEY]
        end = 2 + int.from_bytes(body[:2], "big")
        return said.plus(PRE_SHARED_KEY, body[:end] + vector(prefix, make(body[end + 2 :])))

    return resumes(change)


def wrong_binder(client: Client) -> str:
    session = client.open_session()
    return served(client.complete(client.resuming(MODERN, session, flip=True)))


def second_of_two(client: Client) -> str:
    """A session that nobody knows, and then one that is known."""
    session = client.open_session()
    known = client.resuming(MODERN, session)
    given = vector(2, session.ticket) + session.age_add.to_bytes(4, "big")
    unknown = vector(2, b"unknown" * 20) + bytes(4)
    size = session.suite.size
    made = known.plus(
        PRE_SHARED_KEY, vector(2, unknown + given) + vector(2, vector(1, bytes(size)) * 2)
    )
    truncated = made.write()[: -2 - 2 * (size + 1)]
    secret = session.suite.hmac(bytes(size), session.secret)
    key = session.suite.derive(secret, "res binder", b"")
    binder = vector(1, session.suite.finished(key, truncated))
    made = made.plus(
        PRE_SHARED_KEY, vector(2, unknown + given) + vector(2, vector(1, bytes(size)) + binder)
    )
    return served(client.complete(made))


def after_retry(flip: bool = False, drop: bool = False) -> How:
    """Offer a session in both hellos."""

    def how(client: Client) -> str:
        session = client.open_session()
        first = client.resuming(RETRIED, session)
        client.hello(first)
        client.server_hello()
        second = client.retried(RETRIED)
        client.hello(second if drop else client.resuming(second, session, flip=flip))
        client.server_hello()
        client.flight()
        client.finish()
        return served(client)

    return how


def repeatedly(client: Client) -> str:
    """Offer a session that somebody else has resumed before."""
    session = client.open_session()
    with Client(client.ports, client.where) as other:
        other.complete(other.resuming(MODERN, session)).serves()
    return served(client.complete(client.resuming(MODERN, session)))


def of_resumed(client: Client) -> str:
    """Offer the session of a connection that was resumed itself."""
    session = client.open_session()
    with Client(client.ports, client.where) as other:
        other.complete(other.resuming(MODERN, session)).serves()
        session = other.session()
    return served(client.complete(client.resuming(MODERN, session)))


def elsewhere(first: Hello = MODERN, where: str = "web") -> How:
    """Offer a session of a port at which less is asked for."""

    def how(client: Client) -> str:
        session = client.open_session(first, where=where)
        if session.version == TLS12:
            return served(client.complete(client.resuming_12(first, session)))
        return served(client.complete(client.resuming(first, session)))

    return how


def certified_before(first: Hello = MODERN) -> How:
    """Offer the session of a connection on which a certificate was shown."""

    def how(client: Client) -> str:
        session = client.open_session(first, certified())
        if session.version == TLS12:
            return served(client.complete(client.resuming_12(first, session)))
        return served(client.complete(client.resuming(first, session)))

    return how


def early(
    records: int = 0, *, end: bool = False, size: int = 100, said: Hello = MODERN, kind: int = 23
) -> How:
    """
    Offer early data, which no server here has asked for, and send some.

    @param end: whether to say that this was the last of it.
    """

    def how(client: Client) -> str:
        session = client.open_session()
        offer = client.resuming(said.plus(EARLY_DATA), session)
        client.hello(offer)
        secret = session.suite.hmac(bytes(session.suite.size), session.secret)
        key = session.suite.derive(secret, "c e traffic", client.transcript)
        writer = Direction(session.suite, key)
        for _ in range(records):
            client.raw(writer.seal(kind, bytes(size)))
        client.server_hello()
        if client.retry is not None and not client.version:
            client.hello(client.resuming(client.retried(said), session))
            client.server_hello()
        client.flight()
        assert client.encrypted is not None
        if client.encrypted.getExtension(EARLY_DATA) is not None:
            return "takes it"
        if end:
            client.record(HANDSHAKE, b"\5\0\0\0")
        client.finish()
        return served(client)

    return how


def resumes_12(
    change: Callable[[Hello], Hello] = lambda said: said,
    *,
    first: Hello = OLDER,
    then: Hello = OLDER,
    session: Callable[[Session], Session] = lambda session: session,
) -> How:
    """As L{resumes}, in TLS 1.2."""

    def how(client: Client) -> str:
        given = session(client.open_session(first))
        return served(client.complete(change(client.resuming_12(then, given))))

    return how


def answered_12(kind: int) -> How:
    """See whether the server answers an extension when it resumes."""

    def how(client: Client) -> str:
        session = client.open_session(OLDER)
        client.complete(client.resuming_12(OLDER, session))
        found = client.answer.getExtension(kind)
        return f"{served(client)}, {'answered' if found is not None else 'no answer'}"

    return how


def wrong_finished_12(client: Client) -> None:
    session = client.open_session(OLDER)
    client.hello(client.resuming_12(OLDER, session))
    client.server_hello()
    client.flight()
    client.change()
    finished = client.finished()
    client.record(HANDSHAKE, finished[:-1] + bytes([finished[-1] ^ 1]))
    client.wait()


def no_change_12(client: Client) -> None:
    session = client.open_session(OLDER)
    client.hello(client.resuming_12(OLDER, session))
    client.server_hello()
    client.flight()
    client.record(HANDSHAKE, client.finished())
    client.wait()


def data_first_12(client: Client) -> None:
    session = client.open_session(OLDER)
    client.hello(client.resuming_12(OLDER, session))
    client.server_hello()
    client.flight()
    client.change()
    client.record(APPLICATION_DATA, b"GET / HTTP/1.1\r\n\r\n")
    client.wait()


def mixed(client: Client) -> str:
    """Offer the session of a connection of TLS 1.2 in a hello of both."""
    session = client.open_session(OLDER)
    return served(client.complete(client.resuming_12(MODERN, session)))


def mixed_back(client: Client) -> str:
    """Offer the ticket of a connection of TLS 1.3 in a hello of TLS 1.2."""
    session = client.open_session()
    offered = attrs.evolve(session, version=TLS12)
    client.complete(client.resuming_12(OLDER, offered))
    return served(client)


def flipped(session: Session) -> Session:
    """A ticket with a wrong bit."""
    at = len(session.ticket) // 2
    ticket = session.ticket
    return attrs.evolve(session, ticket=ticket[:at] + bytes([ticket[at] ^ 1]) + ticket[at + 1 :])


def shortened(session: Session) -> Session:
    return attrs.evolve(session, ticket=session.ticket[:-20])


def lengthened(session: Session) -> Session:
    return attrs.evolve(session, ticket=session.ticket + bytes(20))


def aged(session: Session) -> Session:
    """A ticket that is said to be 49 days old."""
    return attrs.evolve(session, age_add=(session.age_add - 1) % 2**32)


_NO_EMS = OLDER.less(MASTER_SECRET)
_ID = OLDER.less(TICKET)
_OTHER = server_name(b"other.example.org")
_EITHER = "serves resumed|serves anew"

RESUMPTION = (
    # TLS 1.3.
    Case("session is resumed", "serves resumed", "RFC 8446 2.2", resumes(), EVERYWHERE),
    Case("session is resumed after a second hello", "serves resumed", "RFC 8446 4.1.2", after_retry(), BOTH),
    Case("session is resumed twice", _EITHER, "RFC 8446 8.1", repeatedly, BOTH),
    Case("session of a resumed connection is resumed", "serves resumed", "RFC 8446 4.6.1", of_resumed, BOTH),
    Case("session is resumed with another suite of its hash", _EITHER, "RFC 8446 4.2.11", resumes(first=MODERN.offers(0x1301), then=MODERN.offers(0x1303)), BOTH),
    Case("session with another hash", "serves anew", "RFC 8446 4.2.11", resumes(first=MODERN.offers(0x1301), then=MODERN.offers(0x1302)), BOTH),
    Case("session is resumed in another group", "serves resumed", "RFC 8446 2.2", resumes(then=P384_ONLY), BOTH),
    Case("session is resumed with a protocol that it had not", _EITHER, "RFC 8446 4.2.11", resumes(first=MODERN.less(ALPN)), BOTH),
    Case("session is resumed without the name that it had", _EITHER, "RFC 8446 4.2.11", resumes(then=MODERN.less(SERVER_NAME))),
    Case("session is resumed with another name", _EITHER, "RFC 8446 4.2.11", resumes(then=MODERN.plus(SERVER_NAME, _OTHER))),
    Case("session with an age that is absurd", _EITHER, "RFC 8446 4.2.11.1", resumes(session=aged), BOTH),
    Case("session that nobody knows", "serves anew", "RFC 8446 4.2.11", with_identities(lambda _: vector(2, b"unknown") + bytes(4)), BOTH),
    Case("session that nobody knows before one that is known", _EITHER, "RFC 8446 4.2.11", second_of_two, BOTH),
    Case("ticket with a wrong bit", "serves anew", "RFC 8446 4.2.11", resumes(session=flipped), BOTH),
    Case("ticket that is too short", "serves anew", "RFC 8446 4.2.11", resumes(session=shortened), BOTH),
    Case("ticket that is too long", "serves anew", "RFC 8446 4.2.11", resumes(session=lengthened), BOTH),
    Case("binder is wrong", "decrypt_error", "RFC 8446 4.2.11", wrong_binder, BOTH),
    Case("binder is wrong in the second hello", "decrypt_error", "RFC 8446 4.2.11", after_retry(flip=True), BOTH),
    Case("binder is for another hello", "decrypt_error", "RFC 8446 4.2.11.2", resumes(lambda said: said.but(random=bytes(32))), BOTH),
    Case("binder is too short for its hash", "decrypt_error|illegal_parameter|decode_error", "RFC 8446 4.2.11", with_binders(lambda _: vector(1, bytes(31))), BOTH),
    Case("binder is too long for its hash", "decrypt_error|illegal_parameter|decode_error", "RFC 8446 4.2.11", with_binders(lambda _: vector(1, bytes(48))), BOTH),
    Case("binder is empty", "decode_error|illegal_parameter|decrypt_error", "RFC 8446 4.2.11", with_binders(lambda _: b"\0"), BOTH),
    Case("binders are none", "decode_error|illegal_parameter", "RFC 8446 4.2.11", with_binders(lambda _: b""), BOTH),
    Case("binders are more than sessions", "illegal_parameter|decrypt_error", "RFC 8446 4.2.11", with_binders(lambda one: one * 2), BOTH),
    Case("binders have a byte after their end", "decode_error|decrypt_error", "RFC 8446 4.2.11", resumes(lambda said: said.plus(PRE_SHARED_KEY, dict(said.extensions)[PRE_SHARED_KEY] + b"\0")), BOTH),
    Case("sessions are more than binders", "illegal_parameter", "RFC 8446 4.2.11", with_identities(lambda one: one * 2), BOTH),
    Case("sessions are none", "decode_error|illegal_parameter", "RFC 8446 4.2.11", with_identities(lambda _: b""), BOTH),
    Case("session with an empty ticket", "decode_error|illegal_parameter", "RFC 8446 4.2.11", with_identities(lambda _: vector(2, b"") + bytes(4)), BOTH),
    Case("session without its age", "decode_error", "RFC 8446 4.2.11", with_identities(lambda one: one[:-4]), BOTH),
    Case("sessions are not the last extension", "illegal_parameter", "RFC 8446 4.2.11", resumes(lambda said: said.again(0xFE01)), BOTH),
    Case("sessions and no modes", "missing_extension", "RFC 8446 4.2.9", resumes(then=MODERN.less(PSK_MODES)), BOTH),
    Case("sessions and a mode that nobody knows", "serves anew", "RFC 8446 4.2.9", resumes(then=MODERN.plus(PSK_MODES, psk_modes(99))), BOTH),
    Case("sessions and the mode without a key exchange", "serves anew", "RFC 8446 4.2.9", resumes(then=MODERN.plus(PSK_MODES, psk_modes(0))), BOTH),
    Case("session is not offered a second time", _EITHER, "RFC 8446 4.1.2", after_retry(drop=True), BOTH),
    # Early data, which nobody here takes.
    Case("early data is offered, and does not come", "serves resumed|serves anew", "RFC 8446 4.2.10", early(), BOTH),
    Case("early data is passed over", _EITHER, "RFC 8446 4.2.10", early(3), BOTH),
    Case("early data is passed over after a second hello", _EITHER, "RFC 8446 4.2.10", early(3, said=RETRIED), BOTH),
    Case("early data that ends though nobody took it", "unexpected_message", "RFC 8446 4.5", early(3, end=True), BOTH),
    Case("early data without end", "unexpected_message|bad_record_mac", "RFC 8446 4.2.10", early(2, size=10000), BOTH),
    Case("early data of another kind is passed over", _EITHER, "RFC 8446 4.2.10", early(1, kind=22), BOTH),
    # TLS 1.2.
    Case("session is resumed in TLS 1.2", "serves resumed", "RFC 5077 3.1", resumes_12(), ("web", "names", "rsa")),
    Case("session is resumed by its identifier", "serves resumed|serves anew", "RFC 5246 7.4.1.2", resumes_12(first=_ID, then=_ID), BOTH),
    Case("session has no master secret of today any more", "handshake_failure|illegal_parameter|decrypt_error", "RFC 7627 5.3", resumes_12(then=_NO_EMS), BOTH),
    Case("session has a master secret of today only now", "serves anew", "RFC 7627 5.3", resumes_12(first=_NO_EMS), BOTH),
    Case("session with a master secret of old", "serves resumed|serves anew|handshake_failure", "RFC 7627 5.4", resumes_12(first=_NO_EMS, then=_NO_EMS), BOTH),
    Case("session without its suite", "illegal_parameter|serves anew|handshake_failure", "RFC 5246 7.4.1.2", resumes_12(first=OLDER.offers(0xC02B), then=OLDER.offers(0xC02C)), BOTH),
    Case("session with another name in TLS 1.2", "serves anew", "RFC 6066 3", resumes_12(then=OLDER.plus(SERVER_NAME, _OTHER))),
    Case("session with another name, which is unknown, in TLS 1.2", "unrecognized_name", "RFC 6066 3", resumes_12(then=OLDER.plus(SERVER_NAME, _OTHER)), ("names",)),
    Case("session without a name in TLS 1.2", "serves anew", "RFC 6066 3", resumes_12(then=OLDER.less(SERVER_NAME))),
    Case("session of TLS 1.2 in a hello of TLS 1.3", "serves anew", "RFC 8446 4.1.2", mixed, BOTH),
    Case("ticket of TLS 1.3 in a hello of TLS 1.2", "serves anew", "RFC 8446 4.6.1", mixed_back, BOTH),
    Case("ticket with a wrong bit in TLS 1.2", "serves anew", "RFC 5077 3.4", resumes_12(session=flipped), BOTH),
    Case("ticket that is too short in TLS 1.2", "serves anew", "RFC 5077 3.4", resumes_12(session=shortened), BOTH),
    Case("ticket that is too long in TLS 1.2", "serves anew", "RFC 5077 3.4", resumes_12(session=lengthened), BOTH),
    Case("name is not acknowledged when it resumes in TLS 1.2", "serves resumed, no answer", "RFC 6066 3", answered_12(SERVER_NAME), BOTH),
    Case("protocol is chosen when it resumes in TLS 1.2", "serves resumed, answered", "RFC 7301 3.1", answered_12(ALPN), BOTH),
    Case("master secret is answered when it resumes in TLS 1.2", "serves resumed, answered", "RFC 7627 5.3", answered_12(MASTER_SECRET), BOTH),
    Case("renegotiation is answered when it resumes in TLS 1.2", "serves resumed, answered", "RFC 5746 3.6", answered_12(ExtensionType.renegotiation_info), BOTH),
    Case("finished message is wrong when it resumes in TLS 1.2", "decrypt_error", "RFC 5246 7.4.9", wrong_finished_12, BOTH),
    Case("no change of keys when it resumes in TLS 1.2", "unexpected_message", "RFC 5246 7.4.9", no_change_12, BOTH),
    Case("data before the finished message when it resumes in TLS 1.2", "unexpected_message", "RFC 5246 7.3", data_first_12, BOTH),
    # Where a certificate is asked for.
    Case("session on which a certificate was shown", "serves resumed", "RFC 8446 4.6.1", certified_before(), ("mutual", "given")),
    Case("session on which a certificate was shown in TLS 1.2", "serves resumed", "RFC 5077 3.1", certified_before(OLDER), ("mutual", "given")),
    Case("session of where no certificate is asked for", "certificate_required", "RFC 8446 4.6.1", elsewhere(), MUTUAL),
    Case("session of where no certificate is asked for in TLS 1.2", "handshake_failure", "RFC 5077 5.8", elsewhere(OLDER), MUTUAL),
    Case("session of where a certificate is not demanded", "certificate_required", "RFC 8446 4.6.1", elsewhere(where="given"), MUTUAL),
    Case("session of where a certificate is not demanded in TLS 1.2", "handshake_failure", "RFC 5077 5.8", elsewhere(OLDER, "given"), MUTUAL),
    Case("session of another port", "serves anew|serves resumed", "RFC 8446 4.6.1", elsewhere(where="rsa")),
)  # fmt: skip


@conforms(RESUMPTION)
class ResumptionTests(Conformance):
    """The table."""
