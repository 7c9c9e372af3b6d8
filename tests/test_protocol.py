"""
The layer itself: what it tells of a connection, what it does with writes, and what may be called
when.  Siblings of this module test how a connection is closed, paused, timed and broken.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    INegotiated,
    ISystemHandle,
    ITCPTransport,
    ITransport,
)

from tests.protocol_material import (
    TLS12,
    TLS13,
    App,
    Link,
    ListeningApp,
    ProtocolCase,
    client_options,
    holds_on_stock,
    issued,
    on_every_engine,
    server_context,
)
from twisted_bioconn.errors import UsageError
from twisted_bioconn.negotiated import Negotiated


@on_every_engine
class FactTests(ProtocolCase):
    """What a connection tells of itself."""

    def test_negotiated(self) -> None:
        """The facts are there once the handshake is done, and say how long it took."""
        link = self.link(client=True, version=TLS13, begin=False)
        link.transport.begin()
        self.assertIsNone(link.tls.negotiated)
        link.wait(3)
        link.wire.begin()
        link.settle()
        facts = link.tls.negotiated
        assert isinstance(facts, Negotiated)
        self.assertEqual((facts.version, facts.server_name), ("TLSv1.3", "localhost"))
        self.assertEqual(facts.cipher, link.peer.ssl.get_cipher_name())
        self.assertEqual(facts.peer_certificate, issued("localhost").original.to_cryptography())
        self.assertEqual(facts.handshake_seconds, 3)
        self.assertFalse(facts.resumed)
        self.assertIs(link.tls.negotiated, facts)

    def test_server(self) -> None:
        """A server's facts, in TLS 1.2, of a client that showed no certificate."""
        link = self.link(version=TLS12)
        facts = link.tls.negotiated
        self.assertEqual((facts.version, facts.server_name), ("TLSv1.2", "localhost"))
        self.assertEqual((facts.alpn, facts.peer_chain), (None, ()))
        self.assertIsNone(facts.peer_certificate)

    def test_keying_material(self) -> None:
        """Both ends derive the same."""
        link = self.link()
        for context in (None, b"", b"context"):
            self.assertEqual(
                link.tls.exportKeyingMaterial(b"EXPORTER-test", 24, context),
                link.peer.ssl.export_keying_material(b"EXPORTER-test", 24, context),
            )

    def test_channel_binding(self) -> None:
        """C{tls-exporter} is RFC 9266's, C{tls-server-end-point} the certificate's hash."""
        for client in (True, False):
            link = self.link(client=client, version=TLS13)
            self.assertEqual(
                link.tls.channelBinding(),
                link.peer.ssl.export_keying_material(b"EXPORTER-Channel-Binding", 32, b""),
            )
            certificate = issued("localhost").original.to_cryptography()
            self.assertEqual(
                link.tls.channelBinding("tls-server-end-point"), certificate.fingerprint(SHA256())
            )

    def test_nothing_to_derive_from(self) -> None:
        """Before the handshake, and when there is no connection, that is a usage error."""
        link = self.link(begin=False)

        def refused() -> None:
            for call in (
                lambda: link.tls.exportKeyingMaterial(b"EXPORTER-test", 24),
                link.tls.channelBinding,
            ):
                with self.assertRaises(UsageError):
                    call()

        refused()
        link.transport.begin()
        refused()
        link.wire.begin()
        link.settle()
        link.tls.loseConnection()
        link.settle()
        refused()

    def test_handle(self) -> None:
        """The handle and what is asked of it, from the beginning to after the end."""
        link = self.link(client=True, begin=False)

        def handle() -> tuple[object, object, object]:
            certificate = link.tls.getPeerCertificate()
            return (
                type(link.tls.getHandle()),
                None if certificate is None else certificate.get_serial_number(),
                link.tls.negotiatedProtocol,
            )

        nothing = (type(None), None, None)
        self.assertEqual(handle(), nothing)
        link.transport.begin()
        self.assertEqual(handle(), (SSL.Connection, None, None))
        self.assertIs(link.tls.getHandle().get_app_data(), link.tls)
        link.wire.begin()
        link.settle()
        serial = issued("localhost").original.get_serial_number()
        self.assertEqual(handle(), (SSL.Connection, serial, None))
        link.tls.loseConnection()
        link.settle()
        self.assertEqual(handle(), nothing)

    def test_alpn(self) -> None:
        """The application protocol agreed on, by either question."""
        context = server_context()
        context.set_alpn_select_callback(lambda _, offered: offered[-1])
        options = client_options(acceptableProtocols=[b"h2", b"http/1.1"])
        link = self.link(client=True, context=context, options=options)
        self.assertEqual(link.tls.negotiatedProtocol, b"http/1.1")
        self.assertEqual(link.tls.negotiated.alpn, b"http/1.1")

    @holds_on_stock
    def test_interfaces(self) -> None:
        """What is provided: our own, and those of the transport."""
        link = self.link()
        for interface in (INegotiated, ISystemHandle, ITransport, ITCPTransport):
            self.assertTrue(interface.providedBy(link.tls), interface)
        self.assertEqual(link.tls.getPeer(), link.transport.getPeer())
        self.assertEqual(link.tls.getHost(), link.transport.getHost())

    def test_when_handshake_done(self) -> None:
        """The Deferred fires with the facts, whether it was asked for before or after."""
        link = self.link(begin=False)
        before = [link.tls.whenHandshakeDone() for _ in range(2)]
        link.transport.begin()
        self.assertNoResult(before[0])
        link.wire.begin()
        link.settle()
        facts = link.tls.negotiated
        for done in (*before, link.tls.whenHandshakeDone()):
            self.assertIs(self.successResultOf(done), facts)
        link.tls.loseConnection()
        link.settle()
        self.assertIs(self.successResultOf(link.tls.whenHandshakeDone()), facts)

    def test_when_handshake_fails(self) -> None:
        """It fails with the reason of C{connectionLost}, also when asked for from within that."""
        late: list[Deferred[Negotiated]] = []
        link = self.link(
            App(lost=lambda app: late.append(app.transport.whenHandshakeDone())), begin=False
        )
        link.transport.begin()
        done = link.tls.whenHandshakeDone()
        link.tls.abortConnection()
        self.assertNoResult(done)
        link.settle()
        for each in (done, *late):
            self.assertEqual(self.failureResultOf(each).type, ConnectionAborted)
        later = link.tls.whenHandshakeDone()
        self.assertEqual(self.failureResultOf(later).type, ConnectionDone)

    def test_aborted_when_handshake_done(self) -> None:
        """An abort from its callback comes before all else that the application would be told."""
        link = self.link(ListeningApp(), begin=False)
        done = link.tls.whenHandshakeDone()
        done.addCallback(lambda _: link.tls.abortConnection())
        link.transport.begin()
        link.wire.begin()
        link.settle()
        self.successResultOf(done)
        self.assertEqual(link.app.did, ["made", "lost"])


@on_every_engine
class StartTests(ProtocolCase):
    """A handshake that begins when the application says so."""

    def test_start(self) -> None:
        """Nothing happens before, and the time is counted from then."""
        for client in (True, False):
            link = self.link(ListeningApp(), client=client, startsHandshake=False)
            link.tls.write(b"early")
            link.wait(2)
            self.assertEqual(link.transport.end.was_sent, b"")
            self.assertEqual(link.app.did, ["made"])
            link.tls.startHandshake()
            link.settle()
            self.assertEqual(link.app.did, ["made", "handshake"])
            self.assertEqual(link.peer.received, b"early")
            self.assertEqual(link.tls.negotiated.handshake_seconds, 0)
            with self.assertRaises(UsageError):
                link.tls.startHandshake()

    def test_no_connection(self) -> None:
        """There is none to be begun, before and after."""
        link = self.link(begin=False, startsHandshake=False)
        for _ in range(2):
            with self.assertRaises(UsageError):
                link.tls.startHandshake()
            link.tls.connectionLost()

    def test_garbage(self) -> None:
        """What came before and is no handshake ends the connection, with an alert."""
        link = self.link(begin=False, startsHandshake=False)
        link.transport.begin()
        link.wire.protocol = App()
        link.wire.begin()
        link.wire.write(bytes.fromhex("16 0301 0004 01000000"))
        link.settle()
        self.assertEqual(link.app.did, ["made"])
        link.tls.startHandshake()
        link.settle()
        self.assertEqual(link.app.reason.type, SSL.Error)
        self.assertTrue(link.transport.end.was_sent.startswith(b"\x15"))

    def test_flood(self) -> None:
        """Until then a peer cannot fill our memory."""
        link = self.link(begin=False, startsHandshake=False, capacity=5000)
        link.transport.begin()
        link.wire.protocol = App()
        link.wire.begin()
        link.wire.write(bytes(1 << 20))
        link.settle()
        self.assertEqual(len(link.transport.end.arrived), 5000)
        link.tls.startHandshake()
        link.settle()
        self.assertEqual(link.app.reason.type, SSL.Error)

    def test_deadline(self) -> None:
        """The deadline of the handshake holds for it all the same."""
        link = self.link(startsHandshake=False, handshakeTimeout=3.0)
        link.wait(4)
        self.assertTrue(link.app.reasons)
        self.assertLeftNothing()


@on_every_engine
class WriteTests(ProtocolCase):
    """What may be written, and when it goes out."""

    def test_types(self) -> None:
        """Whatever is bytes may be written, and nothing else, also before the handshake."""
        link = self.link(begin=False)
        link.transport.begin()
        for connected in (False, True):
            if connected:
                link.wire.begin()
                link.settle()
            for wrong in ("text", 5, None, ["x"]):
                with self.assertRaises(TypeError):
                    link.tls.write(wrong)
                with self.assertRaises(TypeError):
                    link.tls.writeSequence([b"x", wrong])
            changing = bytearray(b"one ")
            link.tls.write(changing)
            changing[:] = b"NOT "
            link.tls.write(memoryview(b"xtwox")[1:-1])
            link.tls.write(b"")
            link.tls.writeSequence(iter([b" three", b"; "]))
        link.settle()
        self.assertEqual(link.peer.received, b"one two three; " * 2)

    def hasSent(self, link: Link) -> bool:
        """Whether the transport was given something, which it may have sent on at once."""
        return link.transport in self.clock.getWriters() or bool(link.transport.end.other.arrived)

    def records(self, link: Link, call: Callable[[], None]) -> int:
        """How many records a call makes."""
        before = len(link.peer.records)
        call()
        link.settle()
        return len(link.peer.records) - before

    @holds_on_stock
    def test_gathered(self) -> None:
        """Small writes are one record, sent when the clock turns."""
        link = self.link()

        def write() -> None:
            for _ in range(100):
                link.tls.write(b"x")
            self.assertFalse(self.hasSent(link))

        self.assertEqual(self.records(link, write), 1)
        self.assertEqual(link.peer.received, b"x" * 100)
        self.assertLeftNothing()

    def test_written_while_delivered_to(self) -> None:
        """So are those of an application that answers, and they wait for no clock."""

        def answer(app: App) -> None:
            for _ in range(100):
                app.transport.write(b"x")

        link = self.link(App(data=answer))

        def ask() -> None:
            link.peer.send(b"?")
            link.wire.doWrite()
            link.transport.doRead()
            self.assertTrue(self.hasSent(link))
            self.assertLeftNothing()

        self.assertEqual(self.records(link, ask), 1)

    @holds_on_stock
    def test_enough(self) -> None:
        """When there is enough of it, it is sent at once."""
        link = self.link()
        link.tls.write(bytes(40_000))
        self.assertFalse(self.hasSent(link))
        link.tls.write(bytes(40_000))
        self.assertTrue(self.hasSent(link))
        link.settle()
        self.assertEqual(len(link.peer.received), 80_000)

    def test_flush(self) -> None:
        """C{flush} sends at once."""
        link = self.link()
        link.tls.write(b"now")
        link.tls.flush()
        link.transport.doWrite()
        link.wire.doRead()
        self.assertEqual(link.peer.received, b"now")

    def test_after_half_close(self) -> None:
        """After C{loseWriteConnection} nothing can be written, and nobody is told off."""
        link = self.link(answers=False)
        link.tls.loseWriteConnection()
        link.tls.write(b"dropped")
        link.tls.writeSequence([b"dropped"])
        link.settle()
        self.assertEqual((link.peer.received, link.peer.closed), (b"", True))
