"""What TLS 1.2 has to itself: the order of its messages, its records, and renegotiation."""

from __future__ import annotations

from tests.conformance.cases import Case, Conformance, How, conforms
from tests.conformance.client import Client
from tests.conformance.hellos import OLDER, RENEGOTIATION, TICKET, message, vector
from tests.conformance.keys import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    P256,
    share,
)
from tests.conformance.test_records import (
    REQUEST,
    Step,
    announced,
    byte_by_byte_request,
    damaged,
    in_clear,
    in_two_writes,
    long_request,
    many_empty,
    replayed,
    sealed,
    shortened,
    skipped,
)
from tests.conformance.test_records import afterwards as afterwards_13
from tests.conformance.test_records import before_finished as before_13
from tests.conformance.test_records import instead as instead_13
from tests.conformance.wire import LONGEST, Ended

_NO_PLACE = "unexpected_message"


def afterwards(step: Step) -> How:
    return afterwards_13(step, OLDER)


def instead(step: Step) -> How:
    return instead_13(step, OLDER)


def before_keys(step: Step) -> How:
    """Do something in place of, or before, our key exchange."""
    return before_13(step, OLDER)


def after_keys(step: Step) -> How:
    """Do something between our key exchange and our change of keys."""

    def how(client: Client) -> str:
        client.hello(OLDER)
        client.server_hello()
        client.flight()
        client.exchange_keys()
        step(client)
        client.change()
        client.say(client.finished())
        client.take_end()
        return client.serves()

    return how


def changed(content: bytes) -> How:
    """Another change of keys than there is."""

    def how(client: Client) -> None:
        client.hello(OLDER)
        client.server_hello()
        client.flight()
        client.exchange_keys()
        client.record(CHANGE_CIPHER_SPEC, content)
        client.wait()

    return how


def after_change(step: Step) -> How:
    """Do something between our change of keys and our finished message."""

    def how(client: Client) -> str:
        client.hello(OLDER)
        client.server_hello()
        client.flight()
        client.exchange_keys()
        client.change()
        step(client)
        client.say(client.finished())
        client.take_end()
        return client.serves()

    return how


def finished(change: slice | bytes) -> How:
    """A finished message that is wrong."""

    def how(client: Client) -> None:
        client.hello(OLDER)
        client.server_hello()
        client.flight()
        client.exchange_keys()
        client.change()
        data = client.finished()[4:]
        wrong = data[change] if isinstance(change, slice) else data[: -len(change)] + change
        client.record(HANDSHAKE, message(20, wrong))
        client.wait()

    return how


def no_change(client: Client) -> None:
    """The finished message with no change of keys."""
    client.hello(OLDER)
    client.server_hello()
    client.flight()
    client.exchange_keys()
    client.record(HANDSHAKE, client.finished())
    client.wait()


def in_one_record(client: Client) -> str:
    """All messages of a flight in a record are as good as in many."""
    client.hello(OLDER)
    client.server_hello()
    client.flight()
    written = message(16, vector(1, share(client.group)))
    client.transcript += written
    client.raw(b"".join(client.seal(HANDSHAKE, bytes([each])) for each in written))
    client.derive_12()
    client.change()
    client.say(client.finished())
    client.take_end()
    return client.serves()


def interrupted_by_change(client: Client) -> None:
    """A change of keys in the middle of our key exchange."""
    client.hello(OLDER)
    client.server_hello()
    client.flight()
    written = message(16, vector(1, share(client.group)))
    client.record(HANDSHAKE, written[:9])
    client.record(CHANGE_CIPHER_SPEC, b"\1")
    client.record(HANDSHAKE, written[9:])
    client.wait()


def renegotiates(client: Client) -> str:
    """
    Say hello once more, as renegotiation begins, and see that nothing of the kind is begun.

    A server that refuses may go on (with a warning) or not.
    """
    client.complete(OLDER)
    verify = client.verify_data
    again = OLDER.plus(RENEGOTIATION, vector(1, verify))
    client.record(HANDSHAKE, again.write())
    try:
        served = client.serves()
    except Ended as ended:
        return ended.what
    return f"{served} after {' '.join(client.warnings)}"


def renegotiates_of_old(client: Client) -> str:
    """The same with no word of RFC 5746."""
    client.complete(OLDER)
    client.record(HANDSHAKE, OLDER.less(RENEGOTIATION).write())
    try:
        served = client.serves()
    except Ended as ended:
        return ended.what
    return f"{served} after {' '.join(client.warnings)}"


def no_tickets(client: Client) -> str:
    """A client that takes no tickets gets none."""
    client.complete(OLDER.less(TICKET))
    return f"{client.serves()}, {len(client.tickets)} tickets"


_REFUSED = "no_renegotiation|handshake_failure|serves after no_renegotiation"

TLS_12 = (
    # The order of messages.
    Case("change of keys before the key exchange", _NO_PLACE, "RFC 5246 7.4.7", before_keys(in_clear(CHANGE_CIPHER_SPEC, b"\1"))),
    Case("change of keys within the key exchange", _NO_PLACE, "RFC 5246 7.1", interrupted_by_change),
    Case("change of keys twice", _NO_PLACE, "RFC 5246 7.1", after_change(lambda client: client.record(CHANGE_CIPHER_SPEC, b"\1"))),
    Case("change of keys with another value", "illegal_parameter|unexpected_message|decode_error", "RFC 5246 7.1", changed(b"\2")),
    Case("change of keys of two bytes", "decode_error|unexpected_message|illegal_parameter", "RFC 5246 7.1", changed(b"\1\1")),
    Case("change of keys of no bytes", "decode_error|unexpected_message|illegal_parameter", "RFC 5246 7.1", after_keys(in_clear(CHANGE_CIPHER_SPEC, b""))),
    Case("no change of keys", _NO_PLACE, "RFC 5246 7.4.9", no_change),
    Case("finished message before the key exchange", _NO_PLACE, "RFC 5246 7.4.9", before_keys(in_clear(HANDSHAKE, message(20, bytes(12))))),
    Case("certificate that nobody asked for in TLS 1.2", _NO_PLACE, "RFC 5246 7.4.6", before_keys(in_clear(HANDSHAKE, message(11, bytes(3))))),
    Case("signature that nobody asked for in TLS 1.2", _NO_PLACE, "RFC 5246 7.4.8", after_keys(in_clear(HANDSHAKE, message(15, bytes(4))))),
    Case("key exchange twice", _NO_PLACE, "RFC 5246 7.4.7", after_keys(in_clear(HANDSHAKE, message(16, vector(1, share(P256)))))),
    Case("hello twice in TLS 1.2", _NO_PLACE, "RFC 5246 7.3", before_keys(in_clear(HANDSHAKE, OLDER.write()))),
    Case("server's end of hello from the client", _NO_PLACE, "RFC 5246 7.3", before_keys(in_clear(HANDSHAKE, message(14, b"")))),
    Case("request for a hello from the client", _NO_PLACE, "RFC 5246 7.4.1.1", before_keys(in_clear(HANDSHAKE, message(0, b"")))),
    Case("key update in TLS 1.2", _NO_PLACE, "RFC 5246 7.4", before_keys(in_clear(HANDSHAKE, b"\x18\0\0\1\0"))),
    Case("message of no kind in TLS 1.2", _NO_PLACE, "RFC 5246 7.4", before_keys(in_clear(HANDSHAKE, message(99, b"")))),
    Case("data before the key exchange", _NO_PLACE, "RFC 5246 7.3", before_keys(in_clear(APPLICATION_DATA, REQUEST))),
    Case("data before the finished message", _NO_PLACE, "RFC 5246 7.3", after_change(sealed(APPLICATION_DATA, REQUEST))),
    Case("heartbeat in TLS 1.2", _NO_PLACE, "RFC 6520 3", before_keys(in_clear(24, b"\1\0\1x" + bytes(16)))),
    Case("key exchange in records of a byte", "serves", "RFC 5246 6.2.1", in_one_record),
    Case("finished message is wrong in TLS 1.2", "decrypt_error", "RFC 5246 7.4.9", finished(b"\xff\xff\xff\xff")),
    Case("finished message is too short in TLS 1.2", "decode_error|decrypt_error", "RFC 5246 7.2.2", finished(slice(11))),
    Case("finished message is empty in TLS 1.2", "decode_error|decrypt_error", "RFC 5246 7.2.2", finished(slice(0))),
    Case("no ticket for who takes none", "serves, 0 tickets", "RFC 5077 3.2", no_tickets, ("web", "names")),
    # Renegotiation.
    Case("renegotiation", _REFUSED, "RFC 5746 4.4", renegotiates, ("web", "names")),
    Case("renegotiation of old", _REFUSED, "RFC 5746 4.4", renegotiates_of_old, ("web", "names")),
    # Records.
    Case("data of no bytes in TLS 1.2", "serves", "RFC 5246 6.2.1", afterwards(many_empty(1))),
    Case("data of no bytes twenty times in TLS 1.2", "serves", "RFC 5246 6.2.1", afterwards(many_empty(20))),
    Case("message of no bytes in TLS 1.2", _NO_PLACE, "RFC 5246 6.2.1", afterwards(many_empty(1, HANDSHAKE))),
    Case("alert of no bytes in TLS 1.2", _NO_PLACE + "|decode_error", "RFC 5246 6.2.1", afterwards(many_empty(1, ALERT))),
    Case("data in records of a byte in TLS 1.2", "serves", "RFC 5246 6.2.1", instead(byte_by_byte_request)),
    Case("record in two pieces in TLS 1.2", "serves", "RFC 5246 6.2.1", instead(in_two_writes)),
    Case("data that fills a record in TLS 1.2", "serves", "RFC 5246 6.2.1", instead(long_request(LONGEST))),
    Case("data that is a byte too long in TLS 1.2", "record_overflow", "RFC 5246 6.2.1", instead(sealed(APPLICATION_DATA, bytes(LONGEST + 1)))),
    Case("record of 16 KiB and 2049 bytes", "record_overflow", "RFC 5246 6.2.3", instead(announced(LONGEST + 2049))),
    Case("record with a wrong bit in its data in TLS 1.2", "bad_record_mac", "RFC 5246 7.2.2", instead(damaged(20))),
    Case("record with a wrong bit in its nonce", "bad_record_mac", "RFC 5246 7.2.2", instead(damaged(6))),
    Case("record with a wrong bit in its tag in TLS 1.2", "bad_record_mac", "RFC 5246 7.2.2", instead(damaged(-1))),
    Case("record shorter than a tag in TLS 1.2", "bad_record_mac|decode_error", "RFC 5246 7.2.2", instead(shortened(10))),
    Case("record of no bytes in TLS 1.2", "bad_record_mac|decode_error", "RFC 5246 7.2.2", instead(shortened(0))),
    Case("record twice in TLS 1.2", "bad_record_mac", "RFC 5246 7.2.2", instead(replayed)),
    Case("record is left out in TLS 1.2", "bad_record_mac", "RFC 5246 7.2.2", instead(skipped)),
    Case("record of no kind in TLS 1.2", _NO_PLACE, "RFC 5246 6", instead(sealed(99, b"x"))),
    Case("heartbeat after the handshake", _NO_PLACE, "RFC 6520 3", instead(sealed(24, b"\1\0\1x" + bytes(16)))),
    Case("change of keys after the handshake", _NO_PLACE, "RFC 5246 7.1", instead(sealed(CHANGE_CIPHER_SPEC, b"\1"))),
    Case("record that says it is of TLS 1.0 in TLS 1.2", "protocol_version|bad_record_mac|decode_error|unexpected_message", "RFC 5246 6.2.1", instead(sealed(APPLICATION_DATA, REQUEST, version=0x0301))),
    Case("data in the clear in TLS 1.2", "bad_record_mac", "RFC 5246 7.2.2", instead(in_clear(APPLICATION_DATA, REQUEST))),
    Case("key update after the handshake of TLS 1.2", _NO_PLACE + "|no_renegotiation", "RFC 5246 7.4", instead(sealed(HANDSHAKE, b"\x18\0\0\1\0"))),
    Case("finished message after the handshake of TLS 1.2", _NO_PLACE + "|no_renegotiation", "RFC 5246 7.4.9", instead(sealed(HANDSHAKE, message(20, bytes(12))))),
)  # fmt: skip


@conforms(TLS_12)
class TLS12Tests(Conformance):
    """The table."""
