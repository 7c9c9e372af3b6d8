"""Records: their lengths, kinds, versions and padding, and how messages lie in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.conformance.cases import Case, Conformance, How, conforms
from tests.conformance.client import Client
from tests.conformance.hellos import MODERN, OLDER, Hello, message
from tests.conformance.keys import ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE
from tests.conformance.wire import LONGEST
from tests.tls_material import HOST

BOTH = ("web", "names")

HEARTBEAT = 24
REQUEST = b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % HOST.encode("ascii")

Step = Callable[[Client], object]


def first(step: Step, said: Hello = MODERN) -> How:
    """Do something before anything else, and then go on as if it had not been."""

    def how(client: Client) -> str:
        step(client)
        return client.complete(said).serves()

    return how


def hello_in(said: Hello, *ends: int, between: bytes = b"") -> How:
    """
    A hello in several records.

    @param ends: where in the message each but the last of them ends.
    @param between: bytes on the wire between them.
    """

    def how(client: Client) -> str:
        written = client.prepared(said)
        begin = 0
        for end in (*ends, len(written)):
            client.raw((between if begin else b"") + client.seal(HANDSHAKE, written[begin:end]))
            begin = end
        client.server_hello()
        client.flight()
        client.finish()
        return client.serves()

    return how


def byte_by_byte(said: Hello) -> How:
    """A hello in records of a byte."""
    return hello_in(said, *range(1, len(said.write())))


def hello_with(version: int, said: Hello = MODERN) -> How:
    """A hello in a record of this version."""

    def how(client: Client) -> str:
        client.hello(said, version)
        client.server_hello()
        client.flight()
        client.finish()
        return client.serves()

    return how


def before_finished(step: Step, said: Hello = MODERN) -> How:
    """Do something after the server's flight, and then go on as if it had not been."""

    def how(client: Client) -> str:
        client.hello(said)
        client.server_hello()
        client.flight()
        step(client)
        client.finish()
        return client.serves()

    return how


def before_flight(step: Step) -> How:
    """Do something as soon as the hello is said, and then go on as if it had not been."""

    def how(client: Client) -> str:
        client.hello(MODERN)
        step(client)
        client.server_hello()
        client.flight()
        client.finish()
        return client.serves()

    return how


def afterwards(step: Step, said: Hello = MODERN) -> How:
    """Do something once the handshake is done, and ask for the page."""

    def how(client: Client) -> str:
        client.complete(said)
        step(client)
        return client.serves()

    return how


def instead(step: Step, said: Hello = MODERN) -> How:
    """Do something once the handshake is done, and see what comes of it."""

    def how(client: Client) -> str:
        client.complete(said)
        step(client)
        return client.takes()

    return how


def in_clear(kind: int, content: bytes) -> Step:
    """A record in the clear."""
    return lambda client: client.clear(kind, content)


def sealed(kind: int, content: bytes, **how: Any) -> Step:
    """A record with something about it that is otherwise than it should be."""

    def step(client: Client) -> None:
        assert client.writer is not None
        client.raw(client.writer.seal(kind, content, **how))

    return step


def inner(content: bytes) -> Step:
    """A record of TLS 1.3 in which just this is encrypted."""

    def step(client: Client) -> None:
        assert client.writer is not None
        client.raw(client.writer.seal(0, b"", inner=content))

    return step


def damaged(at: int) -> Step:
    """A record with a wrong bit, at a place in it."""

    def step(client: Client) -> None:
        record = bytearray(client.seal(APPLICATION_DATA, REQUEST))
        record[at] ^= 1
        client.raw(bytes(record))

    return step


def shortened(size: int) -> Step:
    """A record of which only so many bytes are there, as its length says."""

    def step(client: Client) -> None:
        record = client.seal(APPLICATION_DATA, REQUEST)
        client.raw(record[:3] + size.to_bytes(2, "big") + record[5 : 5 + size])

    return step


def replayed(client: Client) -> None:
    """A record twice."""
    record = client.seal(APPLICATION_DATA, REQUEST)
    client.raw(record)
    client.takes()
    client.raw(record)


def skipped(client: Client) -> None:
    """A record is left out."""
    client.seal(APPLICATION_DATA, b"lost")
    client.record(APPLICATION_DATA, REQUEST)


def swapped(client: Client) -> None:
    """Two records in each other's place."""
    one, two = (client.seal(APPLICATION_DATA, each) for each in (REQUEST[:9], REQUEST[9:]))
    client.raw(two + one)


def many_empty(count: int, kind: int = APPLICATION_DATA) -> Step:
    """Records with nothing in them."""

    def step(client: Client) -> None:
        for _ in range(count):
            client.record(kind, b"")

    return step


def long_request(size: int) -> Step:
    """Requests that fill a record with so much in it; no server likes long ones."""
    content = b""
    while left := min(size - len(content), 4096):
        content += (REQUEST[:-2] + b"X: ").ljust(left - 4, b"x") + b"\r\n\r\n"
    return sealed(APPLICATION_DATA, content)


def announced(size: int, kind: int = APPLICATION_DATA) -> Step:
    """A record that says that it has so many bytes."""
    return lambda client: client.raw(bytes([kind, 3, 3]) + size.to_bytes(2, "big") + bytes(size))


def padded_update(client: Client) -> None:
    """A key update with padding."""
    assert client.writer is not None
    client.raw(client.writer.seal(HANDSHAKE, b"\x18\0\0\1\0", padding=77))
    client.writer.update()


def byte_by_byte_request(client: Client) -> None:
    """A request in records of a byte, all of them at once."""
    client.raw(b"".join(client.seal(APPLICATION_DATA, bytes([each])) for each in REQUEST))


def in_two_writes(client: Client) -> None:
    """A record in two pieces of the wire."""
    record = client.seal(APPLICATION_DATA, REQUEST)
    client.raw(record[:7])
    client.raw(record[7:])


def finished_in_pieces(client: Client) -> str:
    """Our finished message in records of a byte."""
    client.hello(MODERN)
    client.server_hello()
    client.flight()
    written = client.finished()
    client.transcript += written
    client.raw(b"".join(client.seal(HANDSHAKE, bytes([each])) for each in written))
    client.begin_traffic()
    return client.serves()


def interrupted(kind: int, content: bytes, clear: bool = False) -> How:
    """Another record in the middle of our finished message."""

    def how(client: Client) -> str:
        client.hello(MODERN)
        client.server_hello()
        client.flight()
        written = client.finished()
        client.transcript += written
        client.record(HANDSHAKE, written[:9])
        (client.clear if clear else client.record)(kind, content)
        client.record(HANDSHAKE, written[9:])
        client.begin_traffic()
        return client.serves()

    return how


def finished_and(more: bytes) -> How:
    """More in the record of our finished message, which belongs to other keys."""

    def how(client: Client) -> str:
        client.hello(MODERN)
        client.server_hello()
        client.flight()
        client.record(HANDSHAKE, client.finished() + more)
        client.begin_traffic()
        return client.serves()

    return how


def hello_and(more: bytes, said: Hello = MODERN) -> How:
    """More in the record of the hello, which belongs to other keys in TLS 1.3."""

    def how(client: Client) -> str:
        client.record(HANDSHAKE, client.prepared(said) + more)
        client.server_hello()
        client.flight()
        client.finish()
        return client.serves()

    return how


def clear_finished(client: Client) -> str:
    """Our finished message in the clear."""
    client.hello(MODERN)
    client.server_hello()
    client.flight()
    client.clear(HANDSHAKE, client.finished())
    client.begin_traffic()
    return client.serves()


_CCS = in_clear(CHANGE_CIPHER_SPEC, b"\1")
_NO_PLACE = "unexpected_message"
_TOO_LONG = "record_overflow"
_HALF = len(MODERN.write()) // 2

RECORDS = (
    # Before and within the hello.
    Case("record of no kind before the hello", _NO_PLACE + "|protocol_version|decode_error|end|reset", "RFC 8446 5", first(in_clear(99, b"\1"))),
    Case("data in place of the hello", _NO_PLACE, "RFC 8446 5", first(in_clear(APPLICATION_DATA, b"GET /")), BOTH),
    Case("change_cipher_spec in place of the hello", _NO_PLACE, "RFC 8446 5", first(_CCS), BOTH),
    Case("heartbeat in place of the hello", _NO_PLACE, "RFC 8446 5", first(in_clear(HEARTBEAT, b"\1\0\1x" + bytes(16))), BOTH),
    Case("hello in records of a byte", "serves", "RFC 8446 5.1", byte_by_byte(MODERN), BOTH),
    Case("hello in records of a byte in TLS 1.2", "serves", "RFC 5246 6.2.1", byte_by_byte(OLDER), BOTH),
    Case("hello ends a record in its header", "serves", "RFC 8446 5.1", hello_in(MODERN, 2), BOTH),
    Case("hello in a record that is empty", _NO_PLACE, "RFC 8446 5.1", first(in_clear(HANDSHAKE, b"")), BOTH),
    Case("hello with a record amid it that is empty", _NO_PLACE, "RFC 8446 5.1", hello_in(MODERN, _HALF, between=b"\x16\3\3\0\0"), BOTH),
    Case("hello with data amid it", _NO_PLACE, "RFC 8446 5.1", hello_in(MODERN, _HALF, between=b"\x17\3\3\0\1x"), BOTH),
    Case("hello with a warning amid it", _NO_PLACE, "RFC 8446 5.1", hello_in(MODERN, _HALF, between=b"\x15\3\3\0\2\1\x5a"), BOTH),
    Case("hello with a change_cipher_spec amid it", _NO_PLACE, "RFC 8446 5.1", hello_in(MODERN, _HALF, between=b"\x14\3\3\0\1\1"), BOTH),
    Case("hello in a record of 16 KiB and a byte", _TOO_LONG, "RFC 8446 5.1", lambda client: client.raw(b"\x16\3\1\x40\1\1\0\x40\0" + bytes(LONGEST - 3)), BOTH),
    Case("hello in a record of 64 KiB", _TOO_LONG, "RFC 8446 5.1", lambda client: client.raw(b"\x16\3\1\xff\xff\1\0\xff\0" + bytes(65531)), BOTH),
    Case("hello in a record of SSL 3", "serves", "RFC 8446 5.1", hello_with(0x0300), BOTH),
    Case("hello in a record of TLS 1.0", "serves", "RFC 8446 5.1", hello_with(0x0301), BOTH),
    Case("hello in a record of TLS 1.3", "serves", "RFC 8446 5.1", hello_with(0x0304), BOTH),
    Case("hello in a record of a far version", "serves", "RFC 8446 5.1", hello_with(0x03FF), BOTH),
    Case("hello in a record of version 2", "serves", "RFC 8446 5.1", hello_with(0x0200), BOTH),
    Case("hello in a record of version 4", "serves", "RFC 8446 5.1", hello_with(0x0400), BOTH),
    Case("hello in a record of a far version in TLS 1.2", "serves", "RFC 5246 E.1", hello_with(0x03FF, OLDER), BOTH),
    Case("hello twice in a record", _NO_PLACE, "RFC 8446 5.1", hello_and(MODERN.write()), BOTH),
    Case("hello and the begin of another message", _NO_PLACE, "RFC 8446 5.1", hello_and(b"\x14\0\0"), BOTH),
    # In the handshake of TLS 1.3.
    Case("change_cipher_spec after the hello", "serves", "RFC 8446 5", before_flight(_CCS), BOTH),
    Case("change_cipher_spec before the finished message", "serves", "RFC 8446 5", before_finished(_CCS), BOTH),
    Case("change_cipher_spec twice", "serves", "RFC 8446 5", before_finished(lambda client: (_CCS(client), _CCS(client))), BOTH),
    Case("change_cipher_spec with another value", _NO_PLACE, "RFC 8446 5", before_finished(in_clear(CHANGE_CIPHER_SPEC, b"\2"))),
    Case("change_cipher_spec of two bytes", _NO_PLACE, "RFC 8446 5", before_finished(in_clear(CHANGE_CIPHER_SPEC, b"\1\1"))),
    Case("change_cipher_spec of no bytes", _NO_PLACE, "RFC 8446 5", before_finished(in_clear(CHANGE_CIPHER_SPEC, b""))),
    Case("change_cipher_spec that is encrypted", _NO_PLACE, "RFC 8446 5", before_finished(sealed(CHANGE_CIPHER_SPEC, b"\1"))),
    Case("change_cipher_spec after the handshake", _NO_PLACE, "RFC 8446 5", afterwards(_CCS), BOTH),
    Case("data under the handshake's keys", _NO_PLACE, "RFC 8446 A.2", before_finished(sealed(APPLICATION_DATA, REQUEST))),
    Case("data in the clear before the finished message", "bad_record_mac|unexpected_message", "RFC 8446 5.2", before_finished(in_clear(APPLICATION_DATA, REQUEST))),
    Case("finished message in the clear", _NO_PLACE, "RFC 8446 5.2", clear_finished),
    Case("finished message in records of a byte", "serves", "RFC 8446 5.1", finished_in_pieces, BOTH),
    Case("finished message with an empty record amid it", _NO_PLACE, "RFC 8446 5.1", interrupted(HANDSHAKE, b"")),
    Case("finished message with data amid it", _NO_PLACE, "RFC 8446 5.1", interrupted(APPLICATION_DATA, b"x")),
    Case("finished message with a warning amid it", _NO_PLACE, "RFC 8446 5.1", interrupted(ALERT, b"\1\x5a")),
    Case("finished message with a change_cipher_spec amid it", _NO_PLACE, "RFC 8446 5.1", interrupted(CHANGE_CIPHER_SPEC, b"\1", clear=True)),
    Case("finished message and a key update in a record", _NO_PLACE, "RFC 8446 5.1", finished_and(b"\x18\0\0\1\0")),
    Case("finished message and half a message in a record", _NO_PLACE, "RFC 8446 5.1", finished_and(b"\x18\0\0")),
    # Encrypted records of TLS 1.3.
    Case("record of no kind, encrypted", _NO_PLACE, "RFC 8446 5.4", instead(sealed(99, b"x"))),
    Case("record of kind 0, encrypted", _NO_PLACE, "RFC 8446 5.4", instead(inner(bytes(20)))),
    Case("heartbeat, encrypted", _NO_PLACE, "RFC 8446 5", instead(sealed(HEARTBEAT, b"\1\0\1x" + bytes(16)))),
    Case("change_cipher_spec, encrypted", _NO_PLACE, "RFC 8446 5", instead(sealed(CHANGE_CIPHER_SPEC, b"\1"))),
    Case("padding and nothing else", _NO_PLACE, "RFC 8446 5.4", instead(inner(bytes(64)))),
    Case("padding that fills a record and nothing else", _NO_PLACE, "RFC 8446 5.4", instead(inner(bytes(LONGEST + 1)))),
    Case("nothing in an encrypted record", _NO_PLACE, "RFC 8446 5.4", instead(inner(b""))),
    Case("padding of a byte", "serves", "RFC 8446 5.4", instead(sealed(APPLICATION_DATA, REQUEST, padding=1))),
    Case("padding of 255 bytes", "serves", "RFC 8446 5.4", instead(sealed(APPLICATION_DATA, REQUEST, padding=255))),
    Case("padding to the end of a record", "serves", "RFC 8446 5.4", instead(sealed(APPLICATION_DATA, REQUEST, padding=LONGEST - len(REQUEST)))),
    Case("padding of a message", "serves", "RFC 8446 5.4", afterwards(padded_update)),
    Case("data that fills a record", "serves", "RFC 8446 5.1", instead(long_request(LONGEST))),
    Case("data that is a byte too long", _TOO_LONG, "RFC 8446 5.4", instead(sealed(APPLICATION_DATA, bytes(LONGEST + 1)))),
    Case("padding that is a byte too long", _TOO_LONG, "RFC 8446 5.4", instead(sealed(APPLICATION_DATA, REQUEST, padding=LONGEST + 1 - len(REQUEST)))),
    Case("record of 16 KiB and 256 bytes that is nothing", "bad_record_mac", "RFC 8446 5.2", instead(announced(LONGEST + 256))),
    Case("record of 16 KiB and 257 bytes", _TOO_LONG, "RFC 8446 5.2", instead(announced(LONGEST + 257))),
    Case("record of 64 KiB", _TOO_LONG, "RFC 8446 5.2", instead(announced(65535))),
    Case("data of no bytes", "serves", "RFC 8446 5.1", afterwards(many_empty(1)), BOTH),
    Case("data of no bytes twenty times", "serves", "RFC 8446 5.1", afterwards(many_empty(20)), BOTH),
    Case("message of no bytes", _NO_PLACE, "RFC 8446 5.1", afterwards(many_empty(1, HANDSHAKE))),
    Case("alert of no bytes", _NO_PLACE + "|decode_error", "RFC 8446 5.1", afterwards(many_empty(1, ALERT))),
    Case("data in records of a byte", "serves", "RFC 8446 5.1", instead(byte_by_byte_request), BOTH),
    Case("record in two pieces", "serves", "RFC 8446 5.1", instead(in_two_writes), BOTH),
    Case("record with a wrong bit in its data", "bad_record_mac", "RFC 8446 5.2", instead(damaged(8))),
    Case("record with a wrong bit in its tag", "bad_record_mac", "RFC 8446 5.2", instead(damaged(-1))),
    Case("record shorter than a tag", "bad_record_mac|decode_error", "RFC 8446 5.2", instead(shortened(10))),
    Case("record of a tag alone", "bad_record_mac", "RFC 8446 5.2", instead(shortened(16))),
    Case("record of no bytes", "bad_record_mac|decode_error", "RFC 8446 5.2", instead(shortened(0))),
    Case("record that is shorter than it was", "bad_record_mac", "RFC 8446 5.2", instead(shortened(30))),
    Case("record twice", "bad_record_mac", "RFC 8446 5.2", instead(replayed)),
    Case("record is left out", "bad_record_mac", "RFC 8446 5.2", instead(skipped)),
    Case("records in each other's place", "bad_record_mac", "RFC 8446 5.2", instead(swapped)),
    Case("record that says it is a message", _NO_PLACE, "RFC 8446 5.2", instead(sealed(APPLICATION_DATA, REQUEST, outer=HANDSHAKE))),
    Case("record that says it is an alert", _NO_PLACE + "|bad_record_mac|decode_error", "RFC 8446 5.2", instead(sealed(APPLICATION_DATA, REQUEST, outer=ALERT))),
    Case("record that says it is of no kind", _NO_PLACE, "RFC 8446 5.2", instead(sealed(APPLICATION_DATA, REQUEST, outer=99))),
    Case("record that says it is of TLS 1.0", "serves|bad_record_mac|decode_error|protocol_version", "RFC 8446 5.2", instead(sealed(APPLICATION_DATA, REQUEST, version=0x0301))),
    Case("record that says it is of TLS 1.3", "serves|bad_record_mac|decode_error|protocol_version", "RFC 8446 5.2", instead(sealed(APPLICATION_DATA, REQUEST, version=0x0304))),
    Case("record that says it is of version 5", "serves|bad_record_mac|decode_error|protocol_version", "RFC 8446 5.2", instead(sealed(APPLICATION_DATA, REQUEST, version=0x0500))),
    Case("data in the clear after the handshake", "bad_record_mac", "RFC 8446 5.2", instead(in_clear(APPLICATION_DATA, REQUEST))),
    Case("message in the clear after the handshake", _NO_PLACE, "RFC 8446 5.2", instead(in_clear(HANDSHAKE, b"\x18\0\0\1\0"))),
    Case("message of no kind after the handshake", _NO_PLACE, "RFC 8446 4", instead(sealed(HANDSHAKE, message(99, b"")))),
    Case("hello after the handshake", _NO_PLACE, "RFC 8446 4.1.2", instead(sealed(HANDSHAKE, MODERN.write()))),
    Case("request for a hello after the handshake", _NO_PLACE, "RFC 8446 4", instead(sealed(HANDSHAKE, message(0, b"")))),
    Case("ticket from the client", _NO_PLACE, "RFC 8446 4.6.1", instead(sealed(HANDSHAKE, message(4, bytes(13))))),
    Case("finished message twice", _NO_PLACE, "RFC 8446 4.4.4", instead(sealed(HANDSHAKE, message(20, bytes(32))))),
    Case("certificate after the handshake", _NO_PLACE, "RFC 8446 4.6.2", instead(sealed(HANDSHAKE, message(11, bytes(4))))),
    Case("end of early data that there was not", _NO_PLACE, "RFC 8446 4.5", before_finished(sealed(HANDSHAKE, message(5, b"")))),
    Case("digest of messages as a message", _NO_PLACE, "RFC 8446 4", before_finished(sealed(HANDSHAKE, message(254, bytes(32))))),
    Case("server's hello before the finished message", _NO_PLACE, "RFC 8446 4", before_finished(sealed(HANDSHAKE, message(2, bytes(40))))),
    Case("certificate that nobody asked for", _NO_PLACE, "RFC 8446 4.4.2", before_finished(sealed(HANDSHAKE, message(11, bytes(4))))),
    Case("signature that nobody asked for", _NO_PLACE, "RFC 8446 4.4.3", before_finished(sealed(HANDSHAKE, message(15, bytes(8))))),
    Case("key update before the finished message", _NO_PLACE, "RFC 8446 4.6.3", before_finished(sealed(HANDSHAKE, b"\x18\0\0\1\0"))),
    Case("hello twice", _NO_PLACE, "RFC 8446 4.1.2", before_finished(sealed(HANDSHAKE, MODERN.write()))),
)  # fmt: skip


@conforms(RECORDS)
class RecordTests(Conformance):
    """The table."""
