"""
On a transport that hands bytes over from within C{write}, and tells of its end from within
C{loseConnection}, as several of those in memory do: every call of ours may call us back.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from tests.protocol_material import (
    App,
    HalfApp,
    Link,
    ListeningApp,
    Peer,
    ProtocolCase,
    client_context,
    holds_on_stock,
    issued,
    on_every_engine,
    server_options,
)
from tests.test_protocol_closing import LARGE
from tests.test_protocol_errors import fail


class DirectTransport(StringTransport):
    """One end of a wire that has no length."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.other = self
        self.ended = False

    def write(self, data: bytes) -> None:
        if not self.ended and not self.other.ended:
            self.other.protocol.dataReceived(data)

    def loseConnection(self) -> None:
        self._end(ConnectionDone(), ConnectionDone())

    def abortConnection(self) -> None:
        self._end(ConnectionAborted(), ConnectionLost())

    def _end(self, here: Exception, there: Exception) -> None:
        for end, reason in ((self, here), (self.other, there)):
            if not end.ended:
                end.ended = True
                end.protocol.connectionLost(Failure(reason))


@on_every_engine
class DirectTests(ProtocolCase):
    """Servers on such a transport."""

    def direct(self, app: App, **kinds: Any) -> tuple[Any, Peer]:
        """A server and a client, whose handshake is done by the time this returns."""
        link: Link = self.link(app, begin=False, **kinds)
        here, there = DirectTransport(link.tls), DirectTransport(link.peer)
        here.other, there.other = there, here
        link.tls.makeConnection(here)
        link.peer.makeConnection(there)
        self.assertTrue(link.peer.open)
        return link.tls, link.peer

    @holds_on_stock
    def test_talk(self) -> None:
        """The handshake is done and bytes go both ways."""
        app = ListeningApp()
        tls, peer = self.direct(app)
        self.assertEqual(app.did, ["made", "handshake"])
        peer.send(LARGE)
        tls.write(LARGE)
        self.clock.advance(0)
        self.assertEqual(app.received, LARGE)
        self.assertEqual(peer.received, LARGE)

    def test_answers_within_answers(self) -> None:
        """Each answer is answered before the call that sent it has returned."""
        app = App()

        def answer(app: App) -> None:
            if len(app.received) < 30:
                app.transport.write(app.received[-1:])
                app.transport.flush()

        app.hooks["data"] = answer
        _, peer = self.direct(app)
        heard = peer.go

        def echo() -> None:
            before = len(peer.received)
            heard()
            if len(peer.received) > before:
                peer.send(bytes([peer.received[-1] + 1]))

        peer.go = echo  # type: ignore[method-assign]
        peer.send(b"\0")
        self.assertEqual(app.received, bytes(range(30)))

    def test_close(self) -> None:
        """Both ways of closing, by either end, end it once."""
        for ours in ("loseConnection", "loseWriteConnection", None):
            for app in (App(), HalfApp()):
                tls, peer = self.direct(app)
                tls.write(b"last")
                if ours is None:
                    peer.close()
                else:
                    getattr(tls, ours)()
                self.clock.advance(0)
                if not app.reasons:
                    tls.loseConnection()
                self.assertEqual(peer.received, b"last")
                self.assertTrue(peer.closed)
                self.assertEqual(app.reason.type, ConnectionDone)
                self.assertLeftNothing()

    @holds_on_stock
    def test_peer_drops_as_we_close(self) -> None:
        """A peer that drops the connection when it sees our close_notify."""
        app = App()
        tls, peer = self.direct(app, answers=False)
        peer.dataReceived = lambda data: peer.transport.abortConnection()  # type: ignore[method-assign]
        tls.loseConnection()
        self.assertEqual(app.did, ["made", "lost"])
        self.assertEqual(app.reason.type, ConnectionLost)
        self.assertLeftNothing()

    def test_told_meanwhile(self) -> None:
        """The end of the transport, of which it tells again as we close it in answer."""
        app = App()
        tls, _ = self.direct(app, answers=False)
        tls.loseConnection()
        self.assertFalse(app.reasons)
        tls.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(app.did, ["made", "lost"])
        self.assertEqual(tls.factory.protocols, {})
        self.assertLeftNothing()

    def test_fault_in_the_middle(self) -> None:
        """An application that fails while the transport calls us back from within our calls."""
        app = App(data=fail)
        tls, peer = self.direct(app)
        peer.send(b"x")
        self.assertEqual(len(self.flushLoggedErrors(ArithmeticError)), 1)
        self.assertEqual(app.did, ["made", "data", "lost"])
        self.assertEqual(app.reason.type, ArithmeticError)
        self.assertEqual(tls.factory.protocols, {})


class NoClockTests(ProtocolCase):
    """Where nobody has a clock, times are not known."""

    def test_no_clock(self) -> None:
        """The handshake takes no known time, whether it begins by itself or not."""
        for starts in (True, False):
            link = self.link(begin=False, startsHandshake=starts)
            link.factory._givenClock = None
            here, there = DirectTransport(link.tls), DirectTransport(link.peer)
            here.other, there.other = there, here
            link.tls.makeConnection(here)
            link.peer.makeConnection(there)
            if not starts:
                link.tls.startHandshake()
            facts = link.tls.negotiated
            self.assertIsNone(facts.handshake_seconds)
            link.tls.loseConnection()
            self.assertEqual(link.app.reason.type, ConnectionDone)


@on_every_engine
class CallbackTests(ProtocolCase):
    """What is done from within OpenSSL's callbacks, together with a refusal by the callback."""

    def refuse(self, act: Any) -> Link:
        """A server that is shown a client's certificate, and does this before it says no."""
        options = server_options()

        def verify(connection: SSL.Connection, *_: object) -> bool:
            act(connection.get_app_data())
            return False

        options.getContext().set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
        context = client_context()
        own = issued("localhost")
        context.use_certificate(own.original)
        context.use_privatekey(own.privateKey.original)
        return self.link(ListeningApp(), options=options, context=context, answers=False)

    def test_fail_and_refuse(self) -> None:
        """The reason is the one given, and the peer is told by an alert."""
        reason = Failure(VerificationError([]))
        link = self.refuse(lambda tls: tls.failVerification(reason))
        self.assertEqual(link.app.did, ["made", "lost"])
        self.assertIs(link.app.reason, reason)
        self.assertIn("alert", link.peer.alert)

    def test_abort_and_refuse(self) -> None:
        """An abort stays an abort, and nothing is sent any more."""
        link = self.refuse(lambda tls: tls.abortConnection())
        self.assertEqual(link.app.did, ["made", "lost"])
        self.assertEqual(link.app.reason.type, ConnectionAborted)
        self.assertIsNone(link.peer.error)
