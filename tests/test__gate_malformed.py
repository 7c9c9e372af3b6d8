"""Hellos in which a gate finds what OpenSSL would pass over."""

from __future__ import annotations

from tests.endpoint_material import Silent
from tests.engines import on_both_engines
from tests.hello_material import ALPN, SERVER_NAME, block, host_name, message, records
from tests.protocol_wire import MemoryConnection, MemorySocket
from tests.source_material import Told, choice
from tests.test__gate import ONE, GateCase
from twisted_bioconn.alerts import alert_record


@on_both_engines
class MalformedTests(GateCase):
    """The client gets the alert that says what is wrong, and the log the sentence."""

    def answer(self, data: bytes) -> bytes:
        """What a client gets that sends this, and the line in the log."""
        self.lines.clear()
        peer = Silent()
        one, two = MemorySocket.pair()
        theirs = MemoryConnection(one, self.arrival(), self.clock)
        ours = MemoryConnection(two, peer, self.clock)
        theirs.begin()
        ours.begin()
        ours.write(data)
        self.clock.settle()
        self.assertIsNotNone(peer.lost)
        return bytes(one.was_sent)

    def test_refused_by_us(self) -> None:
        """With the alert that the RFC has for it."""
        source = Told({}, choice(ONE))
        self.serve(source)
        name = (SERVER_NAME, host_name(ONE.encode()))
        for data, alert, why in (
            (
                records(message(name, (99, b""), (99, b""))),
                "illegal_parameter",
                "the client hello has extension 99 twice",
            ),
            (
                records(message((SERVER_NAME, host_name(b"")))),
                "decode_error",
                "the server name in the client hello is empty",
            ),
            (
                records(message((SERVER_NAME, host_name(b"one example")))),
                "unrecognized_name",
                "the server name in the client hello is no host name",
            ),
            (
                b"\x16\x03\x01\0\0" + records(message(name)),
                "unexpected_message",
                "a record of the client hello says that it has 0 bytes",
            ),
        ):
            self.assertEqual(self.answer(data), alert_record(alert), why)
            self.assertIn(f"makes no sense: {why}. If it is no scan", self.lines[0])
        self.assertEqual(source.asked, [])
        self.assertLeftNothing()

    def test_refused_by_openssl(self) -> None:
        """What OpenSSL finds by itself, it says."""
        self.serve(Told({}, choice(ONE)))
        data = records(message((ALPN, block(2, block(1, b"h2"))[:-1])))
        self.assertEqual(self.answer(data)[-2:], b"\x02\x32", "decode_error")
        self.assertIn("makes no sense", self.lines[0])
        self.assertLeftNothing()
