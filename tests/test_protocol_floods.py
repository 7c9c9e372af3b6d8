"""
What a peer may make of us beside data: OpenSSL takes key updates, tickets and renegotiations that
it refuses without end, and answers without end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from OpenSSL import SSL

from tests.conformance.hellos import OLDER
from tests.protocol_material import (
    App,
    Link,
    ProtocolCase,
    client_context,
    holds_on_stock,
    on_every_engine,
    server_context,
)
from tests.records import APPLICATION_DATA, HANDSHAKE, KeyLog, Records12, Records13, message
from tests.tls_material import TLS12, TLS13
from twisted_bioconn._link import LOOK, MOST_ANSWERED, MOST_BARREN
from twisted_bioconn.errors import PeerError

UPDATE, UPDATE_ASKED = message(24, b"\0"), message(24, b"\1")

TICKET = message(4, b"\0\0\x1c\x20" + b"addd" + b"\1\0" + b"\0\x40" + bytes(64) + b"\0\0")
"""RFC 8446, section 4.6.1."""

STEP = 16 * 1024
"""Bytes that come at a time."""


ENDLESS = 800_000
"""Bytes of a flood that is not ended."""


@on_every_engine
class FloodTests(ProtocolCase):
    """Too much of it ends the connection; as much as there may be, with data among it, does not."""

    def forge_13(self, client: bool = False, capacity: int = 1 << 18) -> tuple[Link, Records13]:
        """A connection, and what makes the records of its peer from now on."""
        context = server_context(TLS13) if client else client_context(TLS13)
        log = KeyLog(context)
        context.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256")
        link = self.link(client=client, context=context, capacity=capacity)
        records = log.traffic(link.peer.ssl, from_client=not client)
        records.skip(bytes(link.wire.end.was_sent))
        return link, records

    def forge_12(self, client: bool = False, capacity: int = 1 << 18) -> tuple[Link, Records12]:
        """The same in TLS 1.2."""
        context = server_context(TLS12) if client else client_context(TLS12)
        context.set_cipher_list(b"ECDHE+AESGCM")
        link = self.link(client=client, context=context, capacity=capacity)
        return link, Records12(link.peer.ssl, from_client=not client)

    def pour(self, link: Link, make: Callable[[], bytes], most: int) -> int:
        """Send such records, until there is an end; how many bytes there were."""
        sent = 0
        while sent < most and not (link.app.reasons or link.tls.disconnecting):
            flight = b""
            while len(flight) < STEP:
                flight += make()
            link.wire.write(flight)
            link.settle()
            sent += len(flight)
        return sent

    def ends(self, link: Link, make: Callable[[], bytes], sentence: str) -> int:
        """See that such records end the connection, and how many bytes there were."""
        sent = self.pour(link, make, ENDLESS)
        link.wait(60)
        self.assertLess(sent, ENDLESS)
        reason = link.app.reason
        self.assertIsInstance(reason.value, PeerError)
        self.assertIs(reason.type, SSL.Error)
        self.assertIn(sentence, str(reason.value))
        self.assertLeftNothing()
        return sent

    def updating(self, records: Records13, asks: bool, data: bytes = b"") -> Callable[[], bytes]:
        """Makes key updates, with data behind each of them."""

        def make() -> bytes:
            made = records.seal(HANDSHAKE, UPDATE_ASKED if asks else UPDATE)
            records.update()
            return made + records.seal(APPLICATION_DATA, data) if data else made

        return make

    def test_key_updates(self) -> None:
        """Key updates with no data among them are bounded, whether they ask for ours or not."""
        for client in (False, True):
            for asks in (False, True):
                link, records = self.forge_13(client)
                sent = self.ends(link, self.updating(records, asks), "and no data")
                self.assertLessEqual(sent, MOST_BARREN + 2 * STEP)

    def test_tickets(self) -> None:
        """So are a server's tickets."""
        link, records = self.forge_13(client=True)
        sent = self.ends(link, lambda: records.seal(HANDSHAKE, TICKET), "and no data")
        self.assertLessEqual(sent, MOST_BARREN + 2 * STEP)

    def test_renegotiation(self) -> None:
        """So is renegotiation, though each is refused: asked for by either side."""
        for client, asks in ((False, OLDER.write()), (True, message(0, b""))):
            link, records = self.forge_12(client)
            # OpenSSL would give up at the first refusal.
            self.patch(link.peer, "go", lambda: None)
            make = partial(records.seal, HANDSHAKE, asks)
            sent = self.ends(link, make, "and no data")
            self.assertLessEqual(sent, MOST_BARREN + 2 * STEP)

    @holds_on_stock
    def test_with_data(self) -> None:
        """With data among them there may be any number, as long as the answers are read."""
        for client in (False, True):
            link, records = self.forge_13(client)
            sent = self.pour(link, self.updating(records, True, b"x"), 2 * MOST_BARREN)
            self.assertFalse(link.app.reasons)
            self.assertGreaterEqual(sent, 2 * MOST_BARREN)
            # Whoever has nothing to say answers all the same.
            answered = len(link.transport.end.was_sent)
            self.assertGreater(answered, sent // 2 - LOOK)
            link.tls.write(b"still here")
            link.settle()
            self.assertEqual(link.peer.received, b"still here")

    def test_answers_not_read(self) -> None:
        """With data among them, and answers that nobody reads, there is an end."""
        link, records = self.forge_13(capacity=4096)
        link.wire.pauseProducing()
        self.ends(link, self.updating(records, True, b"x"), "does not read")
        self.assertLess(len(link.transport.end.was_sent), MOST_ANSWERED)

    def test_refusals_not_read(self) -> None:
        """The same of renegotiation."""
        link, records = self.forge_12(capacity=4096)
        link.wire.pauseProducing()

        def make() -> bytes:
            asked = records.seal(HANDSHAKE, OLDER.write())
            return asked + records.seal(APPLICATION_DATA, b"x")

        self.ends(link, make, "does not read")

    @holds_on_stock
    def test_slow_reader_that_updates(self) -> None:
        """A peer that reads, however late, may update its keys now and then."""
        link, records = self.forge_13(capacity=4096)
        make = self.updating(records, True, b"x")
        for _ in range(20):
            link.wire.pauseProducing()
            link.tls.write(bytes(50_000))
            self.pour(link, make, STEP)
            link.wire.resumeProducing()
            link.settle()
        self.assertFalse(link.app.reasons)
        self.assertEqual(len(link.peer.received), 20 * 50_000)

    @holds_on_stock
    def test_records_in_pieces(self) -> None:
        """A record that comes in many pieces is no flood, and neither are many of them."""
        app = App()
        link = self.link(app)
        link.peer.ssl.send(bytes(16384))
        sealed = link.peer.ssl.bio_read(1 << 16)
        for _ in range(20):
            for at in range(0, len(sealed), 100):
                link.wire.write(sealed[at : at + 100])
                link.settle()
            link.peer.ssl.send(bytes(16384))
            sealed = link.peer.ssl.bio_read(1 << 16)
        self.assertFalse(app.reasons)
        self.assertEqual(len(app.received), 20 * 16384)
