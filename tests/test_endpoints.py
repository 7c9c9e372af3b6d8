"""The endpoint classes: who is let in, when C{connect} fires, and what is left when it does not."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any
from weakref import ref

from OpenSSL import SSL
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoProtocol,
    TimeoutError,
)
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocolNegotiationFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Protocol
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tests.context_material import ROOTS, Speaking, certified, serving, visiting
from tests.endpoint_material import Application, Applications, EndpointCase, Silent, raising
from tests.engines import on_both_engines
from tests.tls_material import (
    TLS12,
    TLS13,
    authority,
    client,
    server,
)
from twisted_bioconn.errors import PeerError
from twisted_bioconn.verify import CertificateRefused

VERSIONS = ((TLS12, TLS12), (TLS13, TLS13))


@implementer(IHandshakeListener)
class Listening(Application):
    """One that wants to know when the handshake is done."""

    def handshakeCompleted(self) -> None:
        self.note("handshake")


@implementer(IHalfCloseableProtocol)
class Half(Application):
    """One that can go on when one direction is closed."""

    def readConnectionLost(self) -> None:
        self.note("read lost")

    def writeConnectionLost(self) -> None:
        self.note("write lost")


def ending(method: str) -> Callable[[Application], None]:
    """What an application does to end the connection that it was just given."""

    def end(application: Application) -> None:
        getattr(application.transport, method)()

    return end


@on_both_engines
class ConnectTests(EndpointCase):
    """When C{connect} fires, and with what."""

    def test_interfaces(self) -> None:
        """Both are stream endpoints."""
        verifyObject(IStreamClientEndpoint, self.client_endpoint())
        verifyObject(IStreamServerEndpoint, self.server_endpoint())

    def test_connected(self) -> None:
        """With the application's own protocol, connected, and the server verified."""
        for versions in VERSIONS:
            ours, theirs = Applications(), Applications()
            self.listen(theirs, serving(versions=versions))
            done = self.client_endpoint().connect(ours)
            self.meet()
            self.assertIs(self.successResultOf(done), ours.one)
            self.assertEqual((ours.one.did, theirs.one.did), (["made"], ["made"]))
            facts = ours.one.transport.negotiated
            self.assertEqual(facts.peer_certificate, server().certificate)
            ours.one.transport.write(b"question")
            theirs.one.transport.write(b"answer")
            self.clock.settle()
            self.assertEqual(ours.one.received, b"answer")
            self.assertEqual(theirs.one.received, b"question")
            ours.one.transport.loseConnection()
            self.clock.settle()
            for application in (ours.one, theirs.one):
                self.assertTrue(application.lost.check(ConnectionDone))
            self.assertLeftNothing()
            self.assertEqual(self.lines, [])

    def test_not_before(self) -> None:
        """
        Not when TCP is connected, nor at any step of the handshake; and nobody is built till then.
        """
        for versions in VERSIONS:
            ours, theirs = Applications(), Applications()
            self.listen(theirs, serving(versions=versions, client_authorities=ROOTS))
            done = self.client_endpoint(visiting(certificate=certified(client()))).connect(ours)
            self.assertEqual(ours.built, [])
            self.connector.reach(self.arrival())
            turns = 0
            while not done.called:
                self.assertEqual(ours.built, [])
                self.assertFalse(done.called)
                self.assertTrue(self.clock.turn())
                turns += 1
            self.assertGreater(turns, 1)
            self.successResultOf(done)
            self.assertEqual(ours.one.did, ["made"])
            ours.one.transport.abortConnection()
            self.clock.settle()

    def test_not_verified(self) -> None:
        """It fails with the verification's own error, and the application hears nothing."""
        for options, error, sentence in (
            (visiting("mail.example.org"), CertificateRefused, "is not for mail.example.org"),
            (visiting(trust_roots=[authority("nobody").certificate]), SSL.Error, "trusted"),
            (visiting(check=raising(PermissionError("no"))), CertificateRefused, "refused: no"),
        ):
            ours, theirs = Applications(), Applications()
            self.listen(theirs)
            done = self.client_endpoint(options).connect(ours)
            self.meet()
            failure = self.failureResultOf(done, error)
            self.assertIn(sentence, str(failure.value))
            self.assertEqual((ours.built, theirs.built), ([], []))
            self.assertLeftNothing()

    def test_refused_by_the_server(self) -> None:
        """A server that refuses us during the handshake is told by its alert."""
        self.listen(Applications(), serving(alpn=[b"x"]))
        done = self.client_endpoint(visiting(alpn=[b"y"])).connect(Applications())
        self.meet()
        failure = self.failureResultOf(done, SSL.Error)
        self.assertIsInstance(failure.value, PeerError)
        self.assertEqual(failure.value.alert, "no_application_protocol")
        self.assertLeftNothing()

    def test_refused_later(self) -> None:
        """
        In TLS 1.3 the client is done before the server has looked at its certificate: then the
        application hears of it.
        """
        ours, theirs = Applications(), Applications()
        self.listen(theirs, serving(versions=(TLS13, TLS13), client_authorities=ROOTS))
        done = self.client_endpoint().connect(ours)
        self.meet()
        self.successResultOf(done)
        self.assertEqual(ours.one.lost.value.alert, "certificate_required")
        self.assertEqual(theirs.built, [])
        self.assertLeftNothing()

    def test_cut(self) -> None:
        """The connection ends in mid-handshake."""
        done = self.client_endpoint().connect(Applications())
        peer = Silent()
        self.connector.reach(peer)
        self.clock.settle()
        assert peer.transport is not None
        peer.transport.loseConnection()
        self.clock.settle()
        failure = self.failureResultOf(done, ConnectionLost)
        self.assertIn("in mid-handshake", str(failure.value))
        self.assertLeftNothing()

    def test_no_tls(self) -> None:
        """What answers speaks no TLS."""
        done = self.client_endpoint().connect(Applications())
        peer = Silent()
        self.connector.reach(peer)
        assert peer.transport is not None
        peer.transport.write(b"220 mail.example.org ESMTP\r\n")
        self.clock.settle()
        failure = self.failureResultOf(done, SSL.Error)
        self.assertIn("what arrived is not TLS", str(failure.value))
        self.assertLeftNothing()

    def test_nobody_there(self) -> None:
        """What the endpoint below says is passed on."""
        done = self.client_endpoint().connect(Applications())
        self.connector.fail(ConnectionRefusedError())
        self.failureResultOf(done, ConnectionRefusedError)
        self.assertLeftNothing()

    def test_endpoint_raises(self) -> None:
        """Also where it raises instead of failing."""
        self.patch(self.connector, "connect", raising(LookupError("no route")))
        failure = self.failureResultOf(self.client_endpoint().connect(Applications()), LookupError)
        self.assertEqual(str(failure.value), "no route")
        self.assertLeftNothing()

    def test_endpoint_at_once(self) -> None:
        """An endpoint below may be done, handshake and all, before it has returned."""
        ours = Applications()
        self.listen(Applications())
        connect = self.connector.connect

        def at_once(factory: Any) -> Any:
            attempt = connect(factory)
            self.meet()
            return attempt

        self.patch(self.connector, "connect", at_once)
        done = self.client_endpoint().connect(ours)
        self.assertIs(self.successResultOf(done), ours.one)
        self.assertIsNone(ours.one.lost)

    def test_fails_at_once(self) -> None:
        """The same, and it fails."""
        connect = self.connector.connect

        def at_once(factory: Any) -> Any:
            attempt = connect(factory)
            self.connector.fail(ConnectionRefusedError())
            return attempt

        self.patch(self.connector, "connect", at_once)
        done = self.client_endpoint().connect(Applications())
        self.failureResultOf(done, ConnectionRefusedError)
        self.assertLeftNothing()

    def test_several(self) -> None:
        """One endpoint connects any number of times, and the sessions resume."""
        theirs = Applications()
        self.listen(theirs)
        endpoint = self.client_endpoint()
        for resumed in (False, True, True):
            ours = Applications()
            done = endpoint.connect(ours)
            self.meet()
            self.successResultOf(done)
            theirs.built[-1].transport.write(b"x")
            self.clock.settle()
            self.assertEqual(ours.one.transport.negotiated.resumed, resumed)
            self.assertEqual(theirs.built[-1].transport.negotiated.resumed, resumed)
            ours.one.transport.loseConnection()
            self.clock.settle()

    def test_server_speaks_first(self) -> None:
        """The server's greeting is heard with nothing written before."""
        for versions in VERSIONS:
            ours = Applications()
            theirs = Applications(made=lambda application: application.transport.write(b"+OK"))
            self.listen(theirs, serving(versions=versions))
            self.client_endpoint().connect(ours)
            self.meet()
            self.assertEqual(ours.one.received, b"+OK")
            self.assertEqual(ours.one.did, ["made", "data"])
            self.assertEqual(theirs.one.received, b"")

    def test_nothing_kept(self) -> None:
        """
        An endpoint below may keep our factory; that keeps neither connection nor application.
        """
        self.listen(Applications())
        ours = Applications()
        done = self.client_endpoint().connect(ours)
        [(factory, _)] = self.connector.attempts
        transport = self.meet()
        self.assertIs(self.successResultOf(done), ours.one)
        gone = [ref(each) for each in (ours.one, ours.one.transport, transport)]
        ours.one.transport.abortConnection()
        self.clock.settle()
        ours.built.clear()
        del ours, transport, done
        gc.collect()
        self.assertEqual([each() for each in gone], [None] * 3)
        self.assertIsNotNone(factory)


@on_both_engines
class ApplicationTests(EndpointCase):
    """What applications do at either end."""

    def connect(self, ours: Any, theirs: Any) -> Any:
        self.listen(theirs)
        done = self.client_endpoint().connect(ours)
        self.meet()
        return done

    def test_handshake_listeners(self) -> None:
        """They are told, after they were connected."""
        ours, theirs = Applications(Listening), Applications(Listening)
        self.successResultOf(self.connect(ours, theirs))
        self.assertEqual(ours.one.did, ["made", "handshake"])
        self.assertEqual(theirs.one.did, ["made", "handshake"])

    def test_addresses(self) -> None:
        """They are built with the peer's address."""
        ours, theirs = Applications(), Applications()
        self.connect(ours, theirs)
        self.assertEqual([each.port for each in ours.addresses], [443])
        self.assertEqual([each.port for each in theirs.addresses], [50000])

    def test_client_wants_none(self) -> None:
        """A client's factory that builds nothing: C{connect} fails, as with any endpoint."""
        done = self.connect(Applications(lambda: None), Applications())
        self.failureResultOf(done, NoProtocol)
        self.assertLeftNothing()

    def test_server_wants_none(self) -> None:
        """A server's: the connection is closed, and there is nothing to be said about it."""
        ours = Applications()
        self.connect(ours, Applications(lambda: None))
        self.assertIsNotNone(ours.one.lost)
        self.assertEqual(self.lines, [])
        self.assertLeftNothing()

    def test_client_cannot_build(self) -> None:
        """A client's factory that raises: C{connect} fails with that, and nobody logs it too."""
        done = self.connect(Applications(raising(LookupError("no such thing"))), Applications())
        self.failureResultOf(done, LookupError)
        self.assertLeftNothing()

    def test_server_cannot_build(self) -> None:
        """A server's: that is logged, once, as what it is, and the connection ended."""
        ours = Applications()
        self.connect(ours, Applications(raising(LookupError("no such thing"))))
        self.assertIsNotNone(ours.one.lost)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        self.assertEqual(self.lines, [])
        self.assertLeftNothing()

    def test_client_cannot_begin(self) -> None:
        """
        A client's application that raises when it is connected, or told of the handshake:
        C{connect} fails with that, and the application hears the end.
        """
        for what in ("made", "handshake"):
            ours = Applications(Listening, **{what: raising(LookupError("no"))})
            done = self.connect(ours, Applications())
            self.failureResultOf(done, LookupError)
            self.assertEqual(ours.one.did[-1], "lost")
            self.assertTrue(ours.one.lost.check(LookupError))
            self.assertLeftNothing()

    def test_server_cannot_begin(self) -> None:
        """A server's: that is logged, and the application hears the end."""
        for what in ("made", "handshake"):
            theirs = Applications(Listening, **{what: raising(LookupError("no"))})
            self.connect(Applications(), theirs)
            self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
            self.assertTrue(theirs.one.lost.check(LookupError))
            self.assertEqual(self.lines, [])
            self.assertLeftNothing()

    def test_ends_at_once(self) -> None:
        """An application may close or abort as soon as it is connected."""
        for end, reason in (
            ("loseConnection", ConnectionDone),
            ("abortConnection", ConnectionAborted),
        ):
            ours = Applications(made=ending(end))
            done = self.connect(ours, Applications())
            self.assertIs(self.successResultOf(done), ours.one)
            self.assertTrue(ours.one.lost.check(reason))
            self.assertLeftNothing()
            self.lines.clear()
            theirs = Applications(made=ending(end))
            self.connect(Applications(), theirs)
            self.assertTrue(theirs.one.lost.check(reason))
            self.assertEqual(self.lines, [])
            self.assertLeftNothing()

    def test_pauses_at_once(self) -> None:
        """An application that pauses when it is connected gets nothing until it resumes."""
        ours = Applications(made=lambda application: application.transport.pauseProducing())
        theirs = Applications(made=lambda application: application.transport.write(b"greeting"))
        self.successResultOf(self.connect(ours, theirs))
        self.assertEqual(ours.one.received, b"")
        ours.one.transport.resumeProducing()
        self.clock.settle()
        self.assertEqual(ours.one.received, b"greeting")

    def test_half_closed(self) -> None:
        """Applications that can be half-closed are, at either end."""
        ours, theirs = Applications(Half), Applications(Half)
        self.successResultOf(self.connect(ours, theirs))
        ours.one.transport.write(b"question")
        ours.one.transport.loseWriteConnection()
        self.clock.settle()
        self.assertEqual(theirs.one.did, ["made", "data", "read lost"])
        self.assertEqual(ours.one.did, ["made", "write lost"])
        theirs.one.transport.write(b"answer")
        theirs.one.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(ours.one.received, b"answer")
        self.assertTrue(ours.one.lost.check(ConnectionDone))
        self.assertTrue(theirs.one.lost.check(ConnectionDone))
        self.assertLeftNothing()

    def test_protocol_names(self) -> None:
        """ALPN is asked of the application's factory."""
        ours, theirs = Speaking(b"b", b"a"), Speaking(b"a")
        for factory in (ours, theirs):
            factory.buildProtocol = lambda addr: Application()  # type: ignore[method-assign]
        application = self.successResultOf(self.connect(ours, theirs))
        self.assertEqual(application.transport.negotiatedProtocol, b"a")

    def test_protocol_names_cannot_be_told(self) -> None:
        """A factory that raises there has no connection, and C{connect} says why."""

        @implementer(IProtocolNegotiationFactory)
        class Mute(Applications):
            acceptableProtocols = raising(LookupError("no names"))

        self.listen(Applications())
        done = self.client_endpoint().connect(Mute())
        with self.assertRaises(LookupError):
            self.meet()
        self.clock.settle()
        self.failureResultOf(done, LookupError)


@on_both_engines
class GivingUpTests(EndpointCase):
    """Deadlines, cancellation, and what they leave behind: nothing."""

    def test_timeout_before_tcp(self) -> None:
        """Nobody accepts the connection in time."""
        done = self.client_endpoint(timeout=7.5).connect(Applications())
        self.clock.advance(7.4)
        self.assertNoResult(done)
        self.clock.advance(0.1)
        failure = self.failureResultOf(done, TimeoutError)
        self.assertIn("no connection with TLS within 7.5 seconds", str(failure.value))
        self.assertEqual(self.connector.cancelled, 1)
        self.assertLeftNothing()

    def test_timeout_after_tcp(self) -> None:
        """
        The server accepts and stays silent: one deadline covers both, it does not begin anew.
        """
        ours = Applications()
        done = self.client_endpoint().connect(ours)
        self.clock.advance(20)
        peer = Silent()
        self.connector.reach(peer)
        self.wait(9.5)
        self.assertNoResult(done)
        self.wait(0.5)
        failure = self.failureResultOf(done, TimeoutError)
        self.assertIn("no connection with TLS within 30 seconds", str(failure.value))
        self.assertEqual(ours.built, [])
        self.assertIsNotNone(peer.lost)
        self.assertLeftNothing()

    def test_timeout_in_handshake(self) -> None:
        """A server that drips its flight is given no more time."""
        ours = Applications()
        self.listen(Applications())
        done = self.client_endpoint(timeout=5).connect(ours)
        relay = _Dripping(self.clock, self.arrival())
        self.connector.reach(relay)
        self.wait(4.5)
        self.assertNoResult(done)
        self.assertGreater(relay.passed, 0)
        self.wait(0.5)
        self.failureResultOf(done, TimeoutError)
        self.wait(60)
        self.assertEqual(ours.built, [])

    def test_no_timeout(self) -> None:
        """With none, there is all the time in the world, and nothing on the clock."""
        self.listen(Applications())
        done = self.client_endpoint(timeout=None).connect(Applications())
        self.clock.advance(1e6)
        self.connector.reach(self.arrival())
        self.assertNoResult(done)
        self.clock.settle()
        self.successResultOf(done)
        done = self.client_endpoint(timeout=None).connect(Applications())
        peer = Silent()
        self.connector.reach(peer)
        self.clock.settle()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertNoResult(done)
        done.cancel()
        self.failureResultOf(done)

    def test_over_in_time(self) -> None:
        """Once it has fired, the deadline is off."""
        self.listen(Applications())
        ours = Applications()
        done = self.client_endpoint(timeout=1).connect(ours)
        self.meet()
        self.successResultOf(done)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.wait(100)
        self.assertIsNone(ours.one.lost)

    def test_cancel_before_tcp(self) -> None:
        """The attempt below is cancelled."""
        done = self.client_endpoint().connect(Applications())
        done.cancel()
        self.failureResultOf(done, ConnectingCancelledError)
        self.assertEqual(self.connector.cancelled, 1)
        self.assertLeftNothing()

    def test_cancel_at_each_step(self) -> None:
        """In the handshake, after each turn of the reactor, the connection is dropped."""
        for versions in VERSIONS:
            steps = 0
            while True:
                ours, theirs = Applications(), Applications()
                self.listen(theirs, serving(versions=versions))
                done = self.client_endpoint().connect(ours)
                self.connector.reach(self.arrival())
                for _ in range(steps):
                    self.clock.turn()
                if done.called:
                    break
                done.cancel()
                self.failureResultOf(done, ConnectingCancelledError)
                self.clock.settle()
                self.assertEqual(ours.built, [])
                # In TLS 1.2 a server is done before its client.
                self.assertTrue(all(each.lost for each in theirs.built))
                self.assertLeftNothing()
                steps += 1
            self.assertGreater(steps, 1)
            ours.one.transport.abortConnection()
            self.clock.settle()

    def test_cancel_that_is_not_heeded(self) -> None:
        """
        An endpoint below may connect after it was told not to: that connection is dropped as it
        comes, and says nothing to the server.
        """
        for seconds in (0, 30):
            self.connector.heeds = False
            ours = Applications()
            done = self.client_endpoint().connect(ours)
            if seconds:
                self.clock.advance(seconds)
            else:
                done.cancel()
            self.failureResultOf(done)
            peer = Silent()
            transport = self.connector.reach(peer)
            self.clock.settle()
            self.assertIsNotNone(peer.lost)
            self.assertEqual(bytes(transport.end.was_sent), b"")
            self.assertEqual(ours.built, [])
            self.assertLeftNothing()

    def test_cancel_too_late(self) -> None:
        """When it has fired there is nothing to cancel."""
        self.listen(Applications())
        ours = Applications()
        done = self.client_endpoint().connect(ours)
        self.meet()
        self.successResultOf(done)
        done.cancel()
        self.clock.settle()
        self.assertIsNone(ours.one.lost)

    def test_lost_later(self) -> None:
        """What happens to the connection after that is the application's concern."""
        self.listen(Applications())
        ours = Applications()
        done = self.client_endpoint().connect(ours)
        transport = self.meet()
        self.assertIs(self.successResultOf(done), ours.one)
        transport.end._reset()
        self.clock.settle()
        self.assertTrue(ours.one.lost.check(ConnectionLost))


class _Dripping(Protocol):
    """Stands before a server, and passes on what it says a byte at a time, ten times a second."""

    def __init__(self, clock: Any, behind: Any) -> None:
        self._clock = clock
        self._behind = behind
        self._waiting = bytearray()
        self.passed = 0

    def connectionMade(self) -> None:
        self._behind.makeConnection(self)
        self._drip()

    def _drip(self) -> None:
        if self._waiting and self.transport is not None and self.connected:
            self.transport.write(bytes(self._waiting[:1]))
            del self._waiting[:1]
            self.passed += 1
        if self.connected:
            self._clock.callLater(0.1, self._drip)

    def dataReceived(self, data: bytes) -> None:
        self._behind.dataReceived(data)

    def connectionLost(self, reason: Any = None) -> None:
        self._behind.connectionLost(reason)

    # As the transport of the server.

    def write(self, data: bytes) -> None:
        self._waiting += data

    def getPeer(self) -> Any:
        assert self.transport is not None
        return self.transport.getPeer()

    def loseConnection(self) -> None:
        """The server has no more to say."""

    abortConnection = loseConnection
