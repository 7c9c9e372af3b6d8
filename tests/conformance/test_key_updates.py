"""Key updates, and the finished message after which there may be some."""

from __future__ import annotations

from tests.conformance.cases import Case, Conformance, How, conforms
from tests.conformance.client import Client
from tests.conformance.hellos import MODERN, message
from tests.conformance.keys import APPLICATION_DATA, HANDSHAKE
from tests.conformance.test_records import BOTH, REQUEST, Step, afterwards, instead, sealed

_UPDATE, _REQUEST_UPDATE = b"\x18\0\0\1\0", b"\x18\0\0\1\1"
_NO_PLACE = "unexpected_message"


def updates(count: int, asks: bool = False) -> How:
    """Update our keys so often, and see how often the server does."""

    def how(client: Client) -> str:
        client.complete()
        assert client.writer is not None
        for _ in range(count):
            client.record(HANDSHAKE, _REQUEST_UPDATE if asks else _UPDATE)
            client.writer.update()
        return f"{client.serves()} after {client.updates}"

    return how


def updates_between_pages(client: Client) -> str:
    """Ask for pages before and after updates, each answered by one."""
    client.complete().serves()
    assert client.writer is not None
    for _ in range(5):
        client.record(HANDSHAKE, _REQUEST_UPDATE)
        client.writer.update()
        client.serves()
    return f"{client.serves()} after {client.updates}"


def update_and_old_keys(client: Client) -> str:
    """Go on with keys that should have been updated."""
    client.complete()
    client.record(HANDSHAKE, _UPDATE)
    return client.serves()


def no_update(client: Client) -> str:
    """Go on with the next keys, with no word about it."""
    client.complete()
    assert client.writer is not None
    client.writer.update()
    return client.serves()


def update_in_pieces(client: Client) -> None:
    """A key update in records of a byte."""
    assert client.writer is not None
    client.raw(b"".join(client.seal(HANDSHAKE, bytes([each])) for each in _UPDATE))
    client.writer.update()


def update_within(client: Client) -> None:
    """Data amid a key update."""
    client.record(HANDSHAKE, _UPDATE[:2])
    client.record(APPLICATION_DATA, REQUEST)
    client.record(HANDSHAKE, _UPDATE[2:])


def flood(client: Client) -> str:
    """
    A thousand requests for updates at once, none of whose answers is read until all are sent.

    The server may answer fewer times than it was asked, and it may end it.
    """
    client.complete()
    assert client.writer is not None
    wire = b""
    for _ in range(1000):
        wire += client.seal(HANDSHAKE, _REQUEST_UPDATE)
        client.writer.update()
    client.raw(wire)
    served = client.serves()
    return f"{served}, {'answered' if client.updates else 'no answer'}"


def finished(change: slice | bytes) -> How:
    """A finished message that is wrong."""

    def how(client: Client) -> str:
        client.hello(MODERN)
        client.server_hello()
        client.flight()
        data = client.finished()[4:]
        wrong = data[change] if isinstance(change, slice) else data[: -len(change)] + change
        client.record(HANDSHAKE, message(20, wrong))
        client.begin_traffic()
        return client.serves()

    return how


def none_finished(client: Client) -> str:
    """Data under the keys of the application with no finished message."""
    client.hello(MODERN)
    client.server_hello()
    client.flight()
    client.begin_traffic()
    return client.serves()


def _message(body: bytes) -> Step:
    return sealed(HANDSHAKE, message(24, body))


UPDATES = (
    Case("key update", "serves after 0", "RFC 8446 4.6.3", updates(1), BOTH),
    Case("key update that asks for one", "serves after 1", "RFC 8446 4.6.3", updates(1, asks=True), BOTH),
    Case("key updates, twenty at once", "serves after 0", "RFC 8446 4.6.3", updates(20), BOTH),
    Case("key updates that ask for one, twenty at once", "|".join(f"serves after {at}" for at in range(1, 21)), "RFC 8446 4.6.3", updates(20, asks=True), BOTH),
    Case("key updates that ask for one, between pages", "serves after 5", "RFC 8446 4.6.3", updates_between_pages, BOTH),
    Case("key updates that ask for one, a thousand at once", "serves, answered|unexpected_message|internal_error", "RFC 8446 4.6.3", flood, BOTH),
    Case("key update with another value", "illegal_parameter", "RFC 8446 4.6.3", instead(_message(b"\2"))),
    Case("key update of no bytes", "decode_error", "RFC 8446 4.6.3", instead(_message(b""))),
    Case("key update of two bytes", "decode_error", "RFC 8446 4.6.3", instead(_message(b"\0\0"))),
    Case("key update in records of a byte", "serves", "RFC 8446 5.1", afterwards(update_in_pieces), BOTH),
    Case("key update with data amid it", _NO_PLACE, "RFC 8446 5.1", instead(update_within)),
    Case("key update and another in a record", _NO_PLACE, "RFC 8446 5.1", instead(sealed(HANDSHAKE, _UPDATE * 2))),
    Case("key update and half a message in a record", _NO_PLACE, "RFC 8446 5.1", instead(sealed(HANDSHAKE, _UPDATE + b"\x18\0"))),
    Case("key update and data under the old keys", "bad_record_mac", "RFC 8446 4.6.3", update_and_old_keys),
    Case("data under the next keys and no key update", "bad_record_mac", "RFC 8446 4.6.3", no_update),
    Case("key update that says that it has 16 MiB", "decode_error|illegal_parameter|unexpected_message", "RFC 8446 4.6.3", instead(sealed(HANDSHAKE, b"\x18\xff\xff\xff" + bytes(99)))),
    Case("finished message is wrong", "decrypt_error", "RFC 8446 4.4.4", finished(b"\xff\xff\xff\xff")),
    Case("finished message is all zeros", "decrypt_error", "RFC 8446 4.4.4", finished(bytes(32))),
    Case("finished message is too short", "decode_error", "RFC 8446 4.4.4", finished(slice(31))),
    Case("finished message is too long", "decode_error", "RFC 8446 4.4.4", finished(b"")),
    Case("finished message is empty", "decode_error", "RFC 8446 4.4.4", finished(slice(0))),
    Case("no finished message", "bad_record_mac", "RFC 8446 4.4.4", none_finished),
)  # fmt: skip


@conforms(UPDATES)
class KeyUpdateTests(Conformance):
    """The table."""
