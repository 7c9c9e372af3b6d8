"""
How a connection fails: what the application raises, an abort, a refusal, a peer that breaks off.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import _newtls
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Protocol
from twisted.protocols import tls
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase
from zope.interface import implementer

from tests.protocol_material import (
    TLS12,
    TLS13,
    App,
    HalfApp,
    Link,
    ListeningApp,
    Peer,
    ProtocolCase,
    client_context,
    client_options,
    holds_on_stock,
    issued,
    on_every_engine,
    server_context,
    server_options,
)
from tests.protocol_wire import MemoryConnection, MemorySocket, PlainConnection
from tests.test_protocol_closing import LARGE
from twisted_bioconn import _openssl
from twisted_bioconn._room import ROOM
from twisted_bioconn.errors import Direction
from twisted_bioconn.protocol import AlertReceived


def fail(app: App) -> None:
    """What an application does that has a fault."""
    raise ArithmeticError("a fault of the application's")


class EveryApp(ListeningApp, HalfApp):
    """One that is told everything."""


@on_every_engine
class ExceptionTests(ProtocolCase):
    """An exception of the application's ends the connection, once, as its reason."""

    def assertEndedBy(self, link: Link, told: list[str]) -> None:
        """It was told this and then the end, for its own failure, which is in the log once."""
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 1)
        self.assertEqual(link.app.did, [*told, "lost"])
        self.assertEqual(link.app.reason.type, ArithmeticError)
        self.assertFalse(link.peer.closed)
        assert link.peer.lost is not None
        self.assertEqual(link.peer.lost.type, ConnectionLost)
        self.assertLeftNothing()

    def test_data(self) -> None:
        """In C{dataReceived}, with more bytes on their way, some in the same piece."""
        link = self.link(App(data=fail), answers=False)
        link.peer.send(b"one")
        link.peer.send(b"two")
        self.clock.turn()
        link.peer.send(b"three")
        link.settle()
        self.assertEqual(link.app.received, b"onetwo")
        self.assertEndedBy(link, ["made", "data"])

    def test_others(self) -> None:
        """In each of the other calls that it gets."""
        for what, told in (
            ("handshake", ["made", "handshake"]),
            ("made", ["made"]),
            ("read lost", ["made", "handshake", "read lost"]),
            ("write lost", ["made", "handshake", "write lost"]),
        ):
            app = EveryApp(**{what: fail})
            link = self.link(app, answers=False)
            if what == "read lost":
                link.peer.close()
                link.peer.closed = False
            elif what == "write lost":
                link.tls.loseWriteConnection()
                link.settle()
                link.peer.closed = False
            link.settle()
            self.assertEndedBy(link, told)

    def test_no_memory(self) -> None:
        """Then it is counted: a traceback would take more of what there is none of."""

        def exhaust(app: App) -> None:
            raise MemoryError

        lost = ROOM.lost
        link = self.link(App(data=exhaust), answers=False)
        link.peer.send(b"one")
        link.settle()
        self.assertEqual(ROOM.lost, lost + 1)
        self.assertEqual(link.app.reason.type, MemoryError)
        self.assertLeftNothing()

    def test_after_the_end(self) -> None:
        """In C{dataReceived}, where the transport is lost already."""
        link = self.link(App(data=fail), answers=False)
        link.tls.pauseProducing()
        link.peer.send(b"held")
        link.wire.doWrite()
        link.tls.dataReceived(link.transport.end.recv(9999))
        link.transport.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 1)
        self.assertEqual(link.app.did, ["made", "data", "lost"])
        self.assertEqual(link.app.reason.type, ArithmeticError)

    def test_in_connection_lost(self) -> None:
        """In C{connectionLost}: the transport's affair, and all is let go all the same."""
        link = self.link(App(lost=fail))
        with self.assertRaises(ArithmeticError):
            link.tls.connectionLost(Failure(ConnectionDone()))
        self.assertIsNone(link.tls.getHandle())
        self.assertIsNone(link.tls.wrappedProtocol)


@on_every_engine
class AbortTests(ProtocolCase):
    """After C{abortConnection} nothing more is delivered and nothing more is sent."""

    def test_reason_and_silence(self) -> None:
        """What was gathered is not sent, nor is a close_notify; nothing that comes is heard."""
        link = self.link(ListeningApp())
        sent = len(link.transport.end.was_sent)
        link.tls.write(b"gathered")
        link.peer.send(b"on its way")
        link.tls.abortConnection()
        link.tls.write(b"more")
        link.settle()
        self.assertEqual(len(link.transport.end.was_sent), sent)
        self.assertEqual(link.app.did, ["made", "handshake", "lost"])
        self.assertEqual(link.app.reason.type, ConnectionAborted)
        assert link.peer.lost is not None
        self.assertEqual(link.peer.lost.type, ConnectionLost)
        self.assertLeftNothing()

    def test_inside(self) -> None:
        """Aborted from inside any of its own calls, the application gets no other but the last."""
        for what, told in (
            ("made", ["made"]),
            ("handshake", ["made", "handshake"]),
            ("data", ["made", "handshake", "data"]),
        ):

            def abort(app: App) -> None:
                app.transport.write(b"not sent")
                app.transport.abortConnection()

            link = self.link(ListeningApp(**{what: abort}))
            if what == "data":
                link.peer.send(b"heard")
            link.settle()
            self.assertEqual(link.app.did, [*told, "lost"])
            self.assertEqual(link.app.reason.type, ConnectionAborted)
            self.assertEqual(link.peer.received, b"")
            self.assertLeftNothing()

    def test_while_paused(self) -> None:
        """What was held by a pause is not delivered."""
        link = self.link(answers=False)
        link.tls.pauseProducing()
        link.peer.send(b"held")
        link.wire.doWrite()
        link.tls.dataReceived(link.transport.end.recv(9999))
        link.tls.resumeProducing()
        link.tls.abortConnection()
        link.settle()
        self.assertEqual(link.app.did, ["made", "lost"])
        self.assertEqual(link.app.reason.type, ConnectionAborted)

    def test_while_it_closes(self) -> None:
        """It cuts short a C{loseConnection} that waits, for the peer or for the transport."""
        link = self.link(answers=False)
        link.tls.loseConnection()
        link.settle()
        link.tls.abortConnection()
        link.settle()
        self.assertEqual(link.app.reason.type, ConnectionAborted)
        link = self.link(answers=False, capacity=5000)
        link.wire.pauseProducing()
        link.tls.write(LARGE)
        link.peer.close()
        link.settle()
        self.assertFalse(link.app.reasons)
        link.tls.abortConnection()
        link.tls.abortConnection()
        link.settle()
        self.assertEqual(link.app.reason.type, ConnectionAborted)
        self.assertLeftNothing()

    def test_transport_that_cannot_abort(self) -> None:
        """It is closed instead."""
        link = self.link(transport=PlainConnection, answers=False)
        link.tls.write(b"gathered")
        link.tls.abortConnection()
        link.settle()
        self.assertEqual(link.app.reason.type, ConnectionAborted)
        self.assertEqual(link.peer.received, b"")

    def test_lose_before_the_handshake(self) -> None:
        """C{loseConnection} with nothing written before the handshake is an abort."""
        for inside in (False, True):
            hooks: dict[str, Any] = {}
            if inside:
                hooks["made"] = lambda app: app.transport.loseConnection()
            link = self.link(App(**hooks), begin=False)
            link.transport.begin()
            link.tls.loseConnection()
            link.settle()
            self.assertEqual(link.app.reason.type, ConnectionAborted)
            self.assertLeftNothing()

    def test_from_a_callback(self) -> None:
        """
        Aborted from one of OpenSSL's callbacks, as Twisted's own options do when a name cannot
        be looked up, it hears of no handshake.
        """
        options = server_options()

        def abort(connection: SSL.Connection) -> None:
            connection.get_app_data().abortConnection()

        options.getContext().set_tlsext_servername_callback(abort)
        for version in (TLS12, TLS13):
            link = self.link(ListeningApp(), options=options, version=version)
            self.assertEqual(link.app.did, ["made", "lost"])
            self.assertEqual(link.app.reason.type, ConnectionAborted)
            self.assertFalse(link.peer.open)
            self.assertLeftNothing()

    def test_at_the_end_of_the_handshake(self) -> None:
        """Nor where OpenSSL ends the handshake in that very call."""
        options = server_options()

        def abort(connection: SSL.Connection, where: int, code: int) -> None:
            if where & SSL.SSL_CB_HANDSHAKE_DONE:
                connection.get_app_data().abortConnection()

        options.getContext().set_info_callback(abort)
        link = self.link(ListeningApp(), options=options)
        self.assertEqual(link.app.did, ["made", "lost"])
        self.assertEqual(link.app.reason.type, ConnectionAborted)


@on_every_engine
class StartTLSTests(ProtocolCase):
    """After C{startTLS}, where the application keeps the transport that it had."""

    def start(
        self, app: App, options: Any = None
    ) -> tuple[MemoryConnection, MemoryConnection, Peer]:
        """An application that begins TLS at once, as a server."""
        self.patch(_newtls, "TLSMemoryBIOFactory", self.factory_class)
        self.patch(tls, "_get_default_clock", lambda: self.clock)
        one, two = MemorySocket.pair()
        peer = Peer(client_context(), True, answers=False)
        transport = MemoryConnection(one, app, self.clock)
        wire = MemoryConnection(two, peer, self.clock)
        transport.begin()
        transport.startTLS(options or server_options())
        return transport, wire, peer

    @holds_on_stock
    def test_talk(self) -> None:
        """It writes, hears and closes, and is not connected a second time."""
        app = ListeningApp(data=lambda app: app.transport.write(app.received.upper()))
        _, wire, peer = self.start(app)
        wire.begin()
        self.clock.settle()
        peer.answers = True
        peer.send(b"hello")
        self.clock.settle()
        self.assertEqual(peer.received, b"HELLO")
        app.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(app.did, ["made", "handshake", "data", "lost"])
        self.assertEqual(app.reason.type, ConnectionDone)

    def test_abort(self) -> None:
        """
        After an abort nothing more is delivered, not even what came in the same piece: with the
        end of the handshake, or with other bytes.
        """
        for what in ("handshake", "data"):
            app = ListeningApp(**{what: lambda app: app.transport.abortConnection()})
            transport, wire, peer = self.start(app)
            wire.begin()
            while not peer.open:
                for each in self.clock.getWriters():
                    each.doWrite()
                for each in (transport, wire):
                    if each.end.arrived:
                        each.doRead()
            peer.send(b"one")
            peer.send(b"two")
            self.clock.settle()
            self.assertEqual(app.did, ["made", "handshake", *["data"] * (what == "data"), "lost"])
            self.assertEqual(app.received, b"onetwo" * (what == "data"))
            self.assertEqual(app.reason.type, ConnectionAborted)

    def test_no_connection(self) -> None:
        """Where no TLS connection could be made the application hears of the end."""

        @implementer(IOpenSSLServerConnectionCreator)
        class Broken:
            def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
                raise ArithmeticError("broken")

        app = App()
        with self.assertRaises(ArithmeticError):
            self.start(app, Broken())
        self.clock.settle()
        self.assertEqual(app.did, ["made", "lost"])
        self.assertEqual(app.reason.type, ConnectionAborted)


@on_every_engine
class RefusalTests(ProtocolCase):
    """C{failVerification}, and the alerts that go with a refusal."""

    def options(self, client: bool, callback: Any) -> Any:
        """Options that call this from inside OpenSSL, where nobody asks what it returns."""
        options: Any = client_options() if client else server_options()
        context = (options._createConnection.__self__ if client else options).getContext()
        context.set_info_callback(callback)
        return options

    def test_from_a_callback_that_cannot_refuse(self) -> None:
        """
        Called from an info callback, as checks of host names were made before, it ends the
        connection before the application can believe in it.
        """
        reason = Failure(VerificationError([]))

        def refuse(connection: SSL.Connection, where: int, code: int) -> None:
            if where & SSL.SSL_CB_HANDSHAKE_DONE:
                connection.get_app_data().failVerification(reason)

        for client in (False, True):
            for version in (TLS12, TLS13):
                link = self.link(
                    ListeningApp(made=lambda app: app.transport.write(b"secret")),
                    client=client,
                    version=version,
                    options=self.options(client, refuse),
                )
                self.assertEqual(link.app.did, ["made", "lost"])
                self.assertIs(link.app.reason, reason)
                self.assertEqual(link.peer.received, b"")
                self.assertLeftNothing()

    def test_after_the_handshake(self) -> None:
        """The same, where OpenSSL calls back as it reads: nothing more is delivered."""
        reason = Failure(VerificationError([]))
        refusing = False

        def refuse(connection: SSL.Connection, where: int, code: int) -> None:
            nonlocal refusing
            if refusing:
                refusing = False
                connection.get_app_data().failVerification(reason)

        link = self.link(
            ListeningApp(), version=TLS13, options=self.options(False, refuse), answers=False
        )
        refusing = True
        # OpenSSL calls back for the alert, after it has decrypted what comes before it.
        link.peer.send(b"data")
        link.peer.close()
        link.settle()
        self.assertEqual(link.app.did, ["made", "handshake", "lost"])
        self.assertIs(link.app.reason, reason)

    def test_outside(self) -> None:
        """Called at any other time it ends the connection there and then; and once is enough."""
        link = self.link()
        reason = Failure(VerificationError([]))
        link.tls.failVerification(reason)
        link.settle()
        self.assertIs(link.app.reason, reason)
        link.tls.failVerification(Failure(VerificationError([])))
        self.assertEqual(link.app.did, ["made", "lost"])

    def test_server_of_another_name(self) -> None:
        """A client that refuses the server's name tells it by an alert."""
        for version in (TLS12, TLS13):
            link = self.link(
                ListeningApp(),
                client=True,
                context=server_context(version, issued("elsewhere.example")),
            )
            self.assertEqual(link.app.did, ["made", "lost"])
            self.assertTrue(link.app.reason.check(VerificationError))
            self.assertIn("alert", link.peer.alert)
            if self.factory_class.protocol.__module__.startswith("twisted_bioconn"):
                self.assertIn("elsewhere.example", str(link.app.reason.value))

    def test_client_refuses(self) -> None:
        """A server whose certificate is refused is told by which alert."""
        for version in (TLS12, TLS13):
            context = client_context(version)
            context.set_verify(SSL.VERIFY_PEER, lambda *_: False)
            link = self.link(ListeningApp(), context=context)
            reason = link.app.reason
            self.assertEqual(reason.type, SSL.Error)
            self.assertTrue(reason.check(ConnectionLost))
            value = reason.value
            assert isinstance(value, AlertReceived)
            self.assertIn(value.alert, ("bad_certificate", "certificate_unknown", "unknown_ca"))
            self.assertEqual(value.direction, Direction.RECEIVED)
            self.assertIn("alert", value.args[0][0][2])
            self.assertNotIn("handshake", link.app.did)


class AlertTests(SynchronousTestCase):
    """The alert by which a client of ours refuses, which the fast engine can choose."""

    def test_bad_certificate(self) -> None:
        """A server of another name is told C{bad_certificate}: RFC 8446, section 4.4.2.4."""
        if _openssl.PUBLIC_API_ONLY:
            raise SkipTest("the public API cannot choose an alert")
        case = ProtocolCase()
        case.setUp()
        link = case.link(client=True, context=server_context(TLS13, issued("elsewhere.example")))
        self.assertIn("bad certificate", link.peer.alert)


@on_every_engine
class BreakTests(ProtocolCase):
    """What a peer does that breaks off, or breaks the rules."""

    @holds_on_stock
    def test_in_mid_handshake(self) -> None:
        """A peer that ends before the handshake is done: C{ConnectionLost}, and no traceback."""
        for end in ("loseConnection", "loseWriteConnection", "abortConnection"):
            for client in (False, True):
                app = EveryApp()
                link = self.link(app, client=client, settle=False)
                link.wire.doWrite() if not client else link.transport.doWrite()
                getattr(link.wire, end)()
                link.settle()
                self.assertEqual(app.did, ["made", "lost"])
                self.assertTrue(app.reason.check(ConnectionLost), app.reason)
                self.assertLeftNothing()

    def test_close_notify_in_mid_handshake(self) -> None:
        """An alert close_notify in mid-handshake: an error, and no traceback."""
        for client, version in ((False, TLS12), (False, TLS13), (True, None)):
            link = self.link(ListeningApp(), client=client, version=version, begin=False)
            link.transport.begin()
            if client:
                link.wire.protocol = Protocol()
            link.wire.begin()
            # A client has said hello by now, and then thinks better of it.
            link.wire.write(bytes.fromhex("15 0303 0002 01 00"))
            link.wire.doWrite()
            link.settle()
            self.assertEqual(link.app.did, ["made", "lost"])
            self.assertTrue(link.app.reason.check(SSL.Error))
            self.assertTrue(link.app.reason.check(ConnectionLost))
            self.assertIn("close_notify", str(link.app.reason.value))
            self.assertLeftNothing()

    @holds_on_stock
    def test_not_tls(self) -> None:
        """What is not TLS at all ends it, with OpenSSL's error."""
        for client in (False, True):
            link = self.link(ListeningApp(), client=client, begin=False)
            link.transport.begin()
            link.wire.protocol = Protocol()
            link.wire.begin()
            link.wire.write(b"GET / HTTP/1.1\r\n\r\n")
            link.settle()
            self.assertEqual(link.app.did, ["made", "lost"])
            self.assertEqual(link.app.reason.type, SSL.Error)
            self.assertTrue(link.app.reason.value.args[0])
            self.assertLeftNothing()

    def test_cut(self) -> None:
        """A stream that ends with no close_notify may lack bytes: C{ConnectionLost}."""
        for end in ("loseConnection", "loseWriteConnection"):
            for app in (App(), HalfApp()):
                link = self.link(app)
                link.peer.send(b"some")
                getattr(link.wire, end)()
                link.settle()
                self.assertEqual(app.did, ["made", "data", "lost"])
                self.assertEqual(app.reason.type, ConnectionLost)
                self.assertIn("close_notify", str(app.reason.value))
                self.assertLeftNothing()

    @holds_on_stock
    def test_reset(self) -> None:
        """A reset is a reset."""
        link = self.link(HalfApp())
        link.wire.abortConnection()
        link.settle()
        self.assertEqual(link.app.did, ["made", "lost"])
        self.assertEqual(link.app.reason.type, ConnectionLost)

    @holds_on_stock
    def test_bad_record(self) -> None:
        """Bytes that cannot be decrypted end it; what came before is delivered first."""
        link = self.link()
        link.peer.send(b"good")
        link.wire.write(b"\x17\x03\x03\x00\x10" + bytes(16))
        link.settle()
        self.assertEqual(link.app.did, ["made", "data", "lost"])
        self.assertEqual(link.app.received, b"good")
        self.assertEqual(link.app.reason.type, SSL.Error)
        self.assertIn("bad record mac", link.peer.alert)

    @holds_on_stock
    def test_encryption_fails(self) -> None:
        """An error of OpenSSL's as it encrypts ends the connection, wherever that happens."""

        def break_it(app: App) -> None:
            # Not what anybody does; it makes all later writes fail.
            app.transport.getHandle().shutdown()

        for call in (
            lambda tls: tls.write(b"x"),
            lambda tls: (tls.write(b"x"), tls.loseConnection()),
            lambda tls: (tls.write(b"x"), tls.loseWriteConnection()),
            lambda tls: tls.write(LARGE),
        ):
            link = self.link(answers=False)
            break_it(link.app)
            call(link.tls)
            link.settle()
            self.assertEqual(link.app.did, ["made", "lost"])
            self.assertEqual(link.app.reason.type, SSL.Error)

    def test_twice(self) -> None:
        """C{_tlsShutdownFinished}, which is called from outside, gives the first reason."""
        link = self.link()
        first, second = Failure(ArithmeticError("one")), Failure(ArithmeticError("two"))
        link.tls._tlsShutdownFinished(first)
        link.tls._tlsShutdownFinished(second)
        link.settle()
        self.assertIs(link.app.reason, first)
