"""Alerts, and the ends of connections."""

from __future__ import annotations

from tests.conformance.cases import Case, Conformance, How, conforms
from tests.conformance.client import Client
from tests.conformance.hellos import MODERN, OLDER, Hello
from tests.conformance.keys import ALERT, APPLICATION_DATA, HANDSHAKE
from tests.conformance.test_records import (
    BOTH,
    REQUEST,
    Step,
    afterwards,
    before_finished,
    in_clear,
    instead,
    sealed,
)
from tests.conformance.wire import Ended

CLOSE_NOTIFY, USER_CANCELED = 0, 90
_GONE = "end|reset|close_notify"
"""Of a connection that has been ended by an alert there is nothing more to be said."""

_CUT = _GONE + "|decode_error"
"""Whether anything is said to one who is gone, is nowhere written."""

_EARLY = _GONE + "|unexpected_message"
"""An alert is no hello, whatever it says."""

_REFUSED = "unexpected_message|decode_error"


def alerts(*content: int) -> Step:
    """Alerts, as a record."""
    return lambda client: client.record(ALERT, bytes(content))


def closes(said: Hello) -> How:
    """Say that we are done, and see the server say so too."""

    def how(client: Client) -> None:
        client.complete(said).serves()
        client.alert("close_notify", 1)
        client.wait()

    return how


def asks_and_closes(said: Hello) -> How:
    """Ask for the page and say at once that we are done: what was asked for may still come."""

    def how(client: Client) -> str:
        client.complete(said)
        request = client.seal(APPLICATION_DATA, REQUEST)
        client.raw(request + client.seal(ALERT, bytes([1, CLOSE_NOTIFY])))
        try:
            return client.takes()
        except Ended as ended:
            return ended.what

    return how


def says_more_after_closing(client: Client) -> None:
    """Data after the end is no data."""
    client.complete()
    client.alert("close_notify", 1)
    client.record(APPLICATION_DATA, REQUEST)
    client.wait()


def cuts(said: Hello) -> How:
    """End the connection with no word."""

    def how(client: Client) -> None:
        client.complete(said).serves()
        client.end()
        client.wait()

    return how


def cuts_within(size: int) -> How:
    """End the connection within a record."""

    def how(client: Client) -> None:
        client.complete().serves()
        client.raw(client.seal(APPLICATION_DATA, REQUEST)[:size])
        client.end()
        client.wait()

    return how


def cuts_before_flight(client: Client) -> None:
    """End the connection after the hello: the server's flight comes, or not."""
    client.hello(MODERN)
    client.end()
    client.server_hello()
    client.flight()
    client.wait()


def cuts_in_hello(client: Client) -> None:
    """End the connection within the hello."""
    client.raw(client.seal(HANDSHAKE, client.prepared(MODERN))[:100])
    client.end()
    client.wait()


def says_nothing(client: Client) -> None:
    """End the connection with nothing said at all."""
    client.end()
    client.wait()


def instead_of_hello(step: Step) -> How:
    """Do something in place of the hello."""

    def how(client: Client) -> None:
        step(client)
        client.wait()

    return how


def many_warnings(count: int) -> Step:
    """Warnings, one after the other."""

    def step(client: Client) -> None:
        for _ in range(count):
            client.record(ALERT, bytes([1, USER_CANCELED]))

    return step


def both(first: Step, then: Step) -> Step:
    """The one, and then the other."""

    def step(client: Client) -> None:
        first(client)
        then(client)

    return step


ALERTS = (
    # Ends.
    Case("close_notify is answered", "close_notify", "RFC 8446 6.1", closes(MODERN), BOTH),
    Case("close_notify is answered in TLS 1.2", "close_notify", "RFC 5246 7.2.1", closes(OLDER), BOTH),
    Case("close_notify right after a request", "serves|close_notify", "RFC 8446 6.1", asks_and_closes(MODERN), BOTH),
    Case("data after close_notify", "close_notify|end|reset", "RFC 8446 6.1", says_more_after_closing, BOTH),
    Case("close_notify that is said to be fatal", _GONE, "RFC 8446 6", instead(alerts(2, CLOSE_NOTIFY))),
    Case("close_notify in place of the finished message", _GONE, "RFC 8446 6.1", before_finished(alerts(1, CLOSE_NOTIFY))),
    Case("close_notify in place of the hello", _EARLY, "RFC 8446 6.1", instead_of_hello(alerts(1, CLOSE_NOTIFY)), BOTH),
    Case("user_canceled and close_notify in the handshake", _GONE, "RFC 8446 6.1", before_finished(both(alerts(1, USER_CANCELED), alerts(1, CLOSE_NOTIFY)))),
    Case("user_canceled alone", "serves", "RFC 8446 6.1", afterwards(alerts(1, USER_CANCELED))),
    Case("end with no close_notify", _CUT, "RFC 8446 6.1", cuts(MODERN), BOTH),
    Case("end with no close_notify in TLS 1.2", _CUT, "RFC 5246 7.2.1", cuts(OLDER), BOTH),
    Case("end within the header of a record", _CUT, "RFC 8446 6.1", cuts_within(3), BOTH),
    Case("end within a record", _CUT, "RFC 8446 6.1", cuts_within(20), BOTH),
    Case("end within the hello", "end|reset|decode_error", "RFC 8446 6.1", cuts_in_hello, BOTH),
    Case("end after the hello", _CUT, "RFC 8446 6.1", cuts_before_flight, BOTH),
    Case("end before anything", "end|reset|decode_error", "RFC 8446 6.1", says_nothing, BOTH),
    # Alerts that end a connection: nothing follows them.
    Case("fatal alert in place of the hello", _EARLY, "RFC 8446 6.2", instead_of_hello(alerts(2, 40)), BOTH),
    Case("fatal alert in place of the finished message", _GONE, "RFC 8446 6.2", before_finished(alerts(2, 48))),
    Case("fatal alert in place of the key exchange", _GONE, "RFC 5246 7.2.2", before_finished(alerts(2, 48), OLDER)),
    Case("fatal alert after the handshake", _GONE, "RFC 8446 6.2", instead(alerts(2, 80))),
    Case("fatal alert after the handshake of TLS 1.2", _GONE, "RFC 5246 7.2.2", instead(alerts(2, 80), OLDER)),
    Case("fatal alert of an unknown number", _GONE, "RFC 8446 6", instead(alerts(2, 200))),
    Case("error alert that is said to be a warning", _GONE, "RFC 8446 6.2", instead(alerts(1, 40))),
    Case("error alert of level 0", _GONE + "|illegal_parameter|decode_error", "RFC 8446 6", instead(alerts(0, 40))),
    Case("error alert of level 255", _GONE + "|illegal_parameter|decode_error", "RFC 8446 6", instead(alerts(255, 40))),
    Case("unknown alert that is said to be a warning", _GONE, "RFC 8446 6", instead(alerts(1, 200))),
    Case("no_renegotiation as a warning in TLS 1.3", _GONE, "RFC 8446 6", instead(alerts(1, 100))),
    Case("error alert of level 3 in TLS 1.2", "illegal_parameter|decode_error|unexpected_message", "RFC 5246 7.2", instead(alerts(3, 40), OLDER)),
    Case("unknown alert as a warning in TLS 1.2", "serves", "RFC 5246 7.2.2", afterwards(alerts(1, 200), OLDER)),
    Case("no_renegotiation as a warning in TLS 1.2", "serves|end|reset", "RFC 5246 7.2.2", afterwards(alerts(1, 100), OLDER)),
    Case("user_canceled in TLS 1.2", "serves", "RFC 5246 7.2.2", afterwards(alerts(1, USER_CANCELED), OLDER)),
    Case("warnings without end in TLS 1.2", "unexpected_message", "RFC 5246 7.2.2", afterwards(many_warnings(40), OLDER)),
    Case("warnings without end in TLS 1.3", "unexpected_message", "RFC 8446 6.1", afterwards(many_warnings(40))),
    # Alerts that are none.
    Case("alert of a byte", _REFUSED, "RFC 8446 5.1", instead(alerts(2))),
    Case("alert of three bytes", _REFUSED, "RFC 8446 5.1", instead(alerts(1, USER_CANCELED, 0))),
    Case("two alerts in a record", _REFUSED, "RFC 8446 5.1", instead(alerts(1, USER_CANCELED, 1, CLOSE_NOTIFY))),
    Case("alert in two records", _REFUSED, "RFC 8446 5.1", instead(both(alerts(1), alerts(CLOSE_NOTIFY)))),
    Case("alert of a byte in TLS 1.2", _REFUSED, "RFC 5246 7.2", instead(alerts(2), OLDER)),
    Case("alert in two records in TLS 1.2", "serves|end|reset|close_notify|" + _REFUSED, "RFC 5246 6.2.1", instead(both(alerts(1), alerts(CLOSE_NOTIFY)), OLDER)),
    Case("alert of a byte in place of the hello", _REFUSED, "RFC 8446 5.1", instead_of_hello(alerts(2)), BOTH),
    Case("alert in the clear after the handshake", _REFUSED + "|bad_record_mac", "RFC 8446 5.2", instead(in_clear(ALERT, b"\1\0"))),
    Case("alert in the clear before the finished message", _REFUSED + "|bad_record_mac|end|reset", "RFC 8446 5.2", before_finished(in_clear(ALERT, b"\2\x28"))),
    Case("alert in a record with a wrong version", _GONE + "|decode_error|protocol_version|bad_record_mac", "RFC 8446 5.2", instead(sealed(ALERT, b"\1\0", version=0x0301))),
)  # fmt: skip


@conforms(ALERTS)
class AlertTests(Conformance):
    """The table."""
