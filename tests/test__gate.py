"""Connections whose certificate is chosen by the client's hello."""

from __future__ import annotations

import contextlib
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, TimeoutError
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from tests.context_material import Speaking, certified, visiting
from tests.endpoint_material import Application, Applications, EndpointCase, Silent
from tests.engines import on_both_engines
from tests.hello_material import records
from tests.protocol_wire import MemoryConnection, MemorySocket
from tests.source_material import Told, choice
from tests.tls_material import HOST, TLS12, TLS13, authority, pem, rsa_server
from twisted_bioconn._gate import MOST_AHEAD
from twisted_bioconn.certificates.callable import FirstOf, PerName
from twisted_bioconn.certificates.revocation import TrustFiles
from twisted_bioconn.certificates.source import CertificateSource
from twisted_bioconn.client_policy import ClientCertificate, ClientPolicy
from twisted_bioconn.context import ServerOptions, SessionStore, UnknownName
from twisted_bioconn.errors import ConfigurationError, PeerError, UsageError
from twisted_bioconn.policy import MODERN
from twisted_bioconn.protocol import TLSConnectorFactory

ONE, OTHER = "one.example", "other.example"


class GateCase(EndpointCase):
    """
    A server that asks a source.

    @ivar theirs: the server's applications.
    """

    def serve(self, source: CertificateSource, **options: Any) -> ServerOptions:
        made = ServerOptions(source, **options)
        self.theirs = Applications()
        self.listen(self.theirs, made)
        return made

    def visit(self, name: str, **options: Any) -> Any:
        """A client's connection for a name: what its Deferred has, once all has happened."""
        results: list[Any] = []
        endpoint = self.client_endpoint(visiting(name, **options))
        endpoint.connect(Applications()).addBoth(results.append)
        self.transport = self.meet()
        return results

    def refused(self, name: str, **options: Any) -> PeerError:
        """Why a client was refused, as it sees it."""
        [failure] = self.visit(name, **options)
        self.assertIsInstance(failure, Failure)
        assert isinstance(failure.value, PeerError), failure
        return failure.value

    def subject(self, name: str, **options: Any) -> str:
        """Whose certificate a client got."""
        [application] = self.visit(name, **options)
        assert isinstance(application, Application), application
        facts = application.transport.negotiated
        application.transport.loseConnection()
        self.clock.settle()
        subject: str = facts.peer_certificate.subject.rfc4514_string()
        return subject


class Relaying(Protocol):
    """Carries what a connection of OpenSSL's sends and gets."""

    transport: Any

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection

    def connectionMade(self) -> None:
        self._go_on()

    def dataReceived(self, data: bytes) -> None:
        self._connection.bio_write(data)
        self._go_on()

    def _go_on(self) -> None:
        with contextlib.suppress(SSL.WantReadError):
            self._connection.do_handshake()
            self._connection.recv(1 << 16)
        with contextlib.suppress(SSL.WantReadError):
            self.transport.write(self._connection.bio_read(1 << 16))


@on_both_engines
class ChosenTests(GateCase):
    """A certificate that is there at once."""

    def test_by_name(self) -> None:
        """Each name has its own, in each version of TLS."""
        source = Told({ONE: choice(ONE), OTHER: choice(OTHER)})
        for version in (TLS12, TLS13):
            self.serve(source, versions=(version, version))
            for name in (ONE, OTHER):
                self.assertEqual(self.subject(name), f"CN={name}")
        self.assertEqual([each.server_name for each in source.asked], [ONE, OTHER] * 2)
        self.assertLeftNothing()

    def test_hello(self) -> None:
        """The source sees what the client offers, and where it came to if it names nobody."""
        source = Told(default=choice(HOST))
        self.serve(source)
        self.visit(HOST, alpn=[b"h2", b"http/1.1"])
        self.visit("127.0.0.1", unsafe_skip_verification=True)
        by_name, nameless = source.asked
        self.assertEqual(by_name.alpn, (b"h2", b"http/1.1"))
        self.assertIn(TLS13, by_name.versions)
        self.assertIsNone(by_name.local_address)
        self.assertEqual((nameless.server_name, nameless.local_address), (None, "127.0.0.1"))

    def test_resumes(self) -> None:
        """Sessions are resumed as they are with one certificate, and after it was renewed."""
        source = Told({ONE: choice(ONE)})
        for version in (TLS12, TLS13):
            self.serve(source, versions=(version, version))
            sessions = SessionStore()
            for resumed in (False, True, True):
                [application] = self.visit(ONE, sessions=sessions)
                self.theirs.built.pop().transport.write(b"secret")
                self.clock.settle()
                self.assertEqual(application.transport.negotiated.resumed, resumed)
                self.assertEqual(application.received, b"secret")
                application.transport.loseConnection()
                self.clock.settle()
                source.answers[ONE] = choice(ONE)

    def test_session_under_another_name(self) -> None:
        """
        A session may be offered under another name that asks the same of clients: that is no second
        hello, and the application is told the name that was asked for.
        """
        source = Told({ONE: choice(ONE), OTHER: choice(ONE)})
        for version in (TLS12, TLS13):
            self.serve(source, versions=(version, version))
            context = SSL.Context(SSL.TLS_METHOD)
            session = None
            for name in (ONE, OTHER):
                connection = SSL.Connection(context)
                connection.set_connect_state()
                connection.set_tlsext_host_name(name.encode())
                if session is not None:
                    connection.set_session(session)
                names = self.exchange(connection)
                session = connection.get_session()
                self.assertEqual(names, [name])

    def exchange(self, connection: SSL.Connection) -> list[str]:
        """Have a client's connection meet the server: under which name it was let in."""
        peer = Relaying(connection)
        one, two = MemorySocket.pair()
        theirs = MemoryConnection(one, self.arrival(), self.clock)
        ours = MemoryConnection(two, peer, self.clock)
        theirs.begin()
        ours.begin()
        self.clock.settle()
        names = [each.transport.negotiated.server_name for each in self.theirs.built]
        for each in self.theirs.built:
            each.transport.write(b"secret")
        self.clock.settle()
        self.theirs.built.clear()
        ours.loseConnection()
        self.clock.settle()
        return names

    def test_renewed_ticket_keys(self) -> None:
        """With new keys for tickets no session is resumed, once."""
        source = Told({ONE: choice(ONE)})
        options = self.serve(source)
        sessions = SessionStore()
        for renews, resumed in ((False, False), (False, True), (True, False), (False, True)):
            if renews:
                options.renew_ticket_keys()
            [application] = self.visit(ONE, sessions=sessions)
            self.theirs.one.transport.write(b"secret")
            self.clock.settle()
            self.assertEqual(application.transport.negotiated.resumed, resumed)
            application.transport.loseConnection()
            self.clock.settle()
            self.theirs.built.clear()

    def test_ticket_keys_before_any_certificate(self) -> None:
        """They stay the same ones when connections come, under the policies of names too."""
        protected = ClientPolicy(ClientCertificate.REQUEST, check=lambda *_: None)
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(pem(authority().certificate))
        trust = TrustFiles(path, mode=ClientCertificate.VERIFY_IF_GIVEN)
        source = PerName(
            Told({ONE: choice(ONE), OTHER: choice(OTHER)}), {OTHER: protected, HOST: trust}
        )
        options = self.serve(FirstOf([source]))
        options.make_ticket_keys()
        realms = dict(options._realms)
        self.assertEqual(set(realms), {options.clients, protected, trust.policy})
        bases = [realm._base for realm in realms.values()]
        self.assertNotIn(None, bases)
        options.make_ticket_keys()
        for name in (ONE, OTHER):
            sessions = SessionStore()
            for resumed in (False, True):
                [application] = self.visit(name, sessions=sessions)
                self.theirs.one.transport.write(b"secret")
                self.clock.settle()
                self.assertEqual(application.transport.negotiated.resumed, resumed)
                application.transport.loseConnection()
                self.clock.settle()
                self.theirs.built.clear()
        self.assertEqual([realm._base for realm in realms.values()], bases)

    def test_default(self) -> None:
        """A name that is not known has the default, and so has no name."""
        self.serve(Told({ONE: choice(ONE)}, choice(OTHER)))
        self.assertEqual(self.subject(HOST, unsafe_skip_verification=True), f"CN={OTHER}")
        self.assertEqual(self.subject("127.0.0.1", unsafe_skip_verification=True), f"CN={OTHER}")

    def test_alert(self) -> None:
        """Or it is told so, before there is a connection of OpenSSL's."""
        made: list[object] = []
        self.serve(Told({ONE: choice(ONE)}, choice(OTHER)), unknown_name=UnknownName.ALERT)
        self.patch(SSL.Connection, "set_accept_state", lambda _: made.append(1))
        error = self.refused(HOST)
        self.assertEqual(error.alert, "unrecognized_name")
        self.assertEqual(made, [])
        self.assertEqual(
            self.lines,
            [
                f"no handshake: 127.0.0.1:50000 asks for {HOST}, for which there is no certificate."
                " Get a certificate for that name, or correct the name where the client has it"
                " from."
            ],
        )
        self.assertLeftNothing()

    def test_alert_needs_a_name(self) -> None:
        """Who names nobody has not named anybody unknown."""
        self.serve(Told({}, choice(OTHER)), unknown_name=UnknownName.ALERT)
        self.assertEqual(self.subject("127.0.0.1", unsafe_skip_verification=True), f"CN={OTHER}")

    def test_close(self) -> None:
        """Or the connection is closed without a word."""
        self.serve(Told({ONE: choice(ONE)}, choice(OTHER)), unknown_name=UnknownName.CLOSE)
        [failure] = self.visit(HOST)
        self.assertIsInstance(failure.value, ConnectionLost)
        self.assertIn(f"{HOST}, for which there is no certificate", self.lines[0])
        self.assertLeftNothing()

    def test_nothing_at_all(self) -> None:
        """Where there is no default either, it is told, too."""
        self.serve(Told())
        self.assertEqual(self.refused(HOST).alert, "unrecognized_name")
        failure = self.refused("127.0.0.1", unsafe_skip_verification=True)
        self.assertEqual(failure.alert, "handshake_failure")

    def test_one_certificate(self) -> None:
        """A source that has one for everybody needs no hello."""
        source = Told({ONE: choice(ONE)})
        only = certified(serving_party())
        self.patch(Told, "only", only)
        options = self.serve(source)
        self.assertFalse(options.reads_hello)
        self.assertEqual(self.subject(HOST), "CN=server")
        self.assertEqual(source.asked, [])
        self.assertIs(options.certificate, only)
        self.serve(source, unknown_name=UnknownName.ALERT)
        self.assertEqual(self.refused(HOST).alert, "unrecognized_name")

    def test_policy_has_no_such_key(self) -> None:
        """A certificate that the policy refuses is refused when it is made, or named later."""
        rsa = choice(ONE)
        rsa = type(rsa)(certified(rsa_server()))
        with self.assertRaisesRegex(ConfigurationError, "policy=modern has no RSA keys"):
            ServerOptions(Told({}, rsa), policy=MODERN)
        self.serve(Told({ONE: rsa}, choice(OTHER)), policy=MODERN)
        self.assertEqual(self.refused(ONE).alert, "internal_error")
        self.assertIn(f"the look-up of a certificate for {ONE} failed", self.lines[0])

    def test_fault_of_a_source(self) -> None:
        """What a source raises is logged, and the client is refused."""
        self.serve(Told({ONE: ValueError("what a source has to say")}))
        self.assertEqual(self.refused(ONE).alert, "internal_error")
        [failure] = self.flushLoggedErrors(ValueError)
        self.assertIn("what a source has to say", str(failure))

    def test_without_a_hello(self) -> None:
        """Whoever makes a connection with no hello is told that it cannot be chosen for."""
        options = ServerOptions(Told({}, choice(ONE)))
        self.assertRaises(UsageError, options.serverConnectionForTLS, None)
        self.assertEqual(options.certificate, choice_certificate(options))
        self.assertRaises(UsageError, lambda: ServerOptions(Told()).certificate)

    def test_use(self) -> None:
        """A certificate that is given later takes the source's place."""
        options = self.serve(Told())
        options.use(certified(serving_party()))
        self.assertIsNone(options.source)
        self.assertEqual(self.subject(HOST), "CN=server")


def serving_party() -> Any:
    """The usual server."""
    from tests.tls_material import server

    return server()


def choice_certificate(options: ServerOptions) -> Any:
    """The certificate of a source's default."""
    from twisted_bioconn.hello import ClientHello

    assert options.source is not None
    default = options.source.default(ClientHello())
    assert default is not None
    return default.certificate


@on_both_engines
class LaterTests(GateCase):
    """A certificate that is there later."""

    def test_later(self) -> None:
        """Only the connection that asked waits."""
        waits: Deferred[Any] = Deferred()
        self.serve(Told({ONE: waits, OTHER: choice(OTHER)}))
        results = self.visit(ONE)
        self.assertEqual(results, [])
        self.assertEqual(self.subject(OTHER), f"CN={OTHER}")
        waits.callback(choice(ONE))
        self.clock.settle()
        [application] = results
        self.assertEqual(
            application.transport.negotiated.peer_certificate.subject.rfc4514_string(), f"CN={ONE}"
        )

    def test_later_none(self) -> None:
        """None, later, is the default."""
        waits: Deferred[Any] = Deferred()
        self.serve(Told({ONE: waits}, choice(ONE)))
        results = self.visit(ONE)
        waits.callback(None)
        self.clock.settle()
        self.assertIsInstance(results[0], Application)

    def test_called_already(self) -> None:
        """A Deferred that has its result delays nothing."""
        waits: Deferred[Any] = Deferred()
        waits.callback(choice(ONE))
        self.serve(Told({ONE: waits}))
        self.assertEqual(self.subject(ONE), f"CN={ONE}")

    def test_fails(self) -> None:
        """The client is told that there is nothing to be had, and nobody else is."""
        for failure in (ValueError("later"), CancelledError()):
            waits: Deferred[Any] = Deferred()
            self.serve(Told({ONE: waits}))
            results = self.visit(ONE)
            waits.errback(failure)
            self.clock.settle()
            [reason] = results
            self.assertEqual(reason.value.alert, "internal_error")
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertLeftNothing()

    def test_deadline(self) -> None:
        """The handshake's deadline is the look-up's, which is cancelled and named."""
        cancelled: list[object] = []
        self.serve(Told({ONE: Deferred(cancelled.append)}))
        results = self.visit(ONE)
        self.wait(9)
        self.assertEqual(cancelled, [])
        self.wait(2)
        self.assertEqual(len(cancelled), 1)
        self.assertIsInstance(results[0], Failure)
        self.assertIn(
            f"the look-up of a certificate for {ONE} took more than the 10 seconds", self.lines[0]
        )
        self.assertLeftNothing()

    def test_client_leaves(self) -> None:
        """The look-up of a client that has left is cancelled."""
        cancelled: list[object] = []
        self.serve(Told({ONE: Deferred(cancelled.append)}))
        self.visit(ONE)
        self.transport.abortConnection()
        self.clock.settle()
        self.assertEqual(len(cancelled), 1)
        self.assertLeftNothing()

    def test_canceller_that_fails(self) -> None:
        """What a canceller raises is logged, and the application is told of the end."""

        def cancel(_: object) -> None:
            raise ZeroDivisionError

        theirs = Applications()
        self.listener.factory = TLSConnectorFactory(
            ServerOptions(Told({ONE: Deferred(cancel)})), False, theirs, self.clock
        )
        self.visit(ONE)
        self.transport.abortConnection()
        self.clock.settle()
        self.assertEqual(theirs.one.did, ["made", "lost"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_answer_for_nobody(self) -> None:
        """An answer that comes after all is for nobody."""
        waits: Deferred[Any] = Deferred(lambda _: None)
        self.serve(Told({ONE: waits}))
        self.visit(ONE)
        self.transport.abortConnection()
        self.clock.settle()
        # Cancelling it has fired it.
        self.assertTrue(waits.called)
        self.assertEqual(self.theirs.built, [])

    def test_bytes_ahead(self) -> None:
        """A client that sends on while its certificate is looked for is not read for ever."""
        waits: Deferred[Any] = Deferred()
        self.serve(Told({ONE: waits}))
        hello = first_flight(ONE)
        peer = Silent()
        one, two = MemorySocket.pair()
        theirs: Any = MemoryConnection(one, self.arrival(), self.clock)
        ours = MemoryConnection(two, peer, self.clock)
        theirs.begin()
        ours.begin()
        ours.write(hello)
        self.clock.settle()
        ours.write(b"\x14\x03\x03\0\1\1" * MOST_AHEAD)
        self.clock.settle()
        self.assertNotIn(theirs, self.clock.getReaders())
        self.assertLess(theirs.protocol._needConnector().unread, 4 * MOST_AHEAD)
        waits.callback(choice(ONE))
        self.clock.settle()
        # It is not what a client may send.
        self.assertIsNotNone(peer.lost)
        self.assertLeftNothing()


def first_flight(name: str) -> bytes:
    """What a client sends first."""
    connection = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
    connection.set_connect_state()
    connection.set_tlsext_host_name(name.encode())
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(65536)


@on_both_engines
class ReadingTests(GateCase):
    """How the hello is read."""

    def raw(self, *pieces: bytes) -> Silent:
        peer = Silent()
        one, two = MemorySocket.pair()
        theirs = MemoryConnection(one, self.arrival(), self.clock)
        ours = MemoryConnection(two, peer, self.clock)
        theirs.begin()
        ours.begin()
        for piece in pieces:
            ours.write(piece)
            self.clock.settle()
        self.wire = ours
        return peer

    def test_in_pieces(self) -> None:
        """A hello may come in any pieces."""
        source = Told({ONE: choice(ONE)})
        self.serve(source)
        flight = first_flight(ONE)
        self.raw(*(flight[at : at + 1] for at in range(len(flight))))
        [hello] = source.asked
        self.assertEqual(hello.server_name, ONE)
        self.wire.loseConnection()
        self.clock.settle()

    def test_no_hello(self) -> None:
        """What is no hello is OpenSSL's to judge, and gets no certificate."""
        source = Told({}, choice(ONE))
        self.serve(source)
        for data, why in (
            (b"GET / HTTP/1.1\r\n\r\n", "speaks plain HTTP"),
            (b"EHLO there\r\n", "speaks SMTP"),
            (b"\x16\x03\x01\0\x04\x02\0\0\0", "no handshake"),
        ):
            self.lines.clear()
            peer = self.raw(data)
            self.assertIsNotNone(peer.lost)
            self.assertIn(why, self.lines[0])
        self.assertEqual(source.asked, [])
        self.assertLeftNothing()

    def test_cut(self) -> None:
        """The end of the wire in the middle of a hello is an end in mid-handshake."""
        self.serve(Told({}, choice(ONE)))
        self.raw(first_flight(ONE)[:100])
        self.wire.loseConnection()
        self.clock.settle()
        self.assertEqual(self.theirs.built, [])
        self.assertLeftNothing()

    def test_hello_in_many_records(self) -> None:
        """It is put together out of all of them."""
        self.serve(Told({ONE: choice(ONE)}))
        flight = first_flight(ONE)
        one, two = MemorySocket.pair()
        theirs = MemoryConnection(one, self.arrival(), self.clock)
        peer = Silent()
        ours = MemoryConnection(two, peer, self.clock)
        theirs.begin()
        ours.begin()
        for at in range(5, len(flight), 50):
            ours.write(records(flight[at : at + 50]))
            self.clock.settle()
        self.assertTrue(two.was_sent)
        self.assertTrue(one.was_sent.startswith(b"\x16\x03\x03"))

    def test_silent(self) -> None:
        """A client that says nothing is timed out as ever."""
        self.serve(Told({}, choice(ONE)))
        peer = self.raw(first_flight(ONE)[:100])
        self.wait(11)
        self.assertIsNotNone(peer.lost)
        self.assertIn("100 bytes of a hello within 10 seconds", self.lines[0])


@on_both_engines
class EndsWithHandshakeTests(GateCase):
    """A connection that is for its handshake alone."""

    def test_no_application(self) -> None:
        """No application hears of it, and nothing is logged that looks like a fault."""
        for version in (TLS12, TLS13):
            found = choice(ONE, ends_with_handshake=True, alpn=b"acme-tls/1")
            self.serve(Told({ONE: found}), versions=(version, version))
            agreed: list[object] = []

            def made(application: Any, agreed: list[object] = agreed) -> None:
                agreed.append(application.transport.negotiatedProtocol)

            visitor = Applications(made=made)
            done = self.client_endpoint(visiting(ONE, alpn=[b"acme-tls/1"])).connect(visitor)
            self.meet()
            self.assertEqual((self.theirs.built, agreed), ([], [b"acme-tls/1"]))
            application: Any = self.successResultOf(done)
            self.assertIsInstance(application.lost.value, ConnectionDone)
            self.assertEqual(application.received, b"")
            self.assertEqual(self.lines, [])
            self.assertLeftNothing()

    def test_own_protocol_alone(self) -> None:
        """The one protocol that it is for is agreed on, whatever the application speaks."""
        found = choice(ONE, ends_with_handshake=True, alpn=b"acme-tls/1")
        made = ServerOptions(Told({ONE: found}), alpn=[b"h2"])
        self.listen(Speaking(b"http/1.1"), made)
        self.assertEqual(self.refused(ONE, alpn=[b"h2"]).alert, "no_application_protocol")

    def test_drop_in(self) -> None:
        """
        An application that was connected before sends nothing to it and gets nothing from it.
        """
        found = choice(ONE, ends_with_handshake=True)
        theirs = Applications(made=lambda it: it.transport.write(b"welcome"))
        self.listener.factory = TLSConnectorFactory(
            ServerOptions(Told({ONE: found})), False, theirs, self.clock
        )
        [application] = self.visit(ONE)
        self.assertEqual(application.received, b"")
        self.assertIsInstance(application.lost.value, ConnectionDone)
        self.assertEqual(theirs.one.did, ["made", "lost"])
        self.assertLeftNothing()


@on_both_engines
class DropInTests(GateCase):
    """The factory that takes Twisted's place."""

    def test_written_before(self) -> None:
        """What an application writes at connection goes out when the handshake is done."""
        waits: Deferred[Any] = Deferred()
        theirs = Applications(made=lambda it: it.transport.write(b"welcome"))
        self.listener.factory = TLSConnectorFactory(
            ServerOptions(Told({ONE: waits})), False, theirs, self.clock
        )
        results = self.visit(ONE)
        waits.callback(choice(ONE))
        self.clock.settle()
        self.assertEqual(results[0].received, b"welcome")

    def test_close_before(self) -> None:
        """It may close before there is a certificate."""
        cancelled: list[object] = []
        theirs = Applications(made=lambda it: it.transport.loseConnection())
        self.listener.factory = TLSConnectorFactory(
            ServerOptions(Told({ONE: Deferred(cancelled.append)})), False, theirs, self.clock
        )
        self.visit(ONE)
        self.assertEqual(theirs.one.did, ["made", "lost"])
        self.assertLeftNothing()

    def test_explicit_handshake(self) -> None:
        """The handshake waits for whoever is to begin it, and reads no more meanwhile."""
        source = Told({ONE: choice(ONE)})
        theirs = Applications()
        self.listener.factory = TLSConnectorFactory(
            ServerOptions(source), False, theirs, self.clock, startsHandshake=False
        )
        results = self.visit(ONE)
        self.assertEqual((results, source.asked), ([], []))
        theirs.one.transport.startHandshake()
        self.clock.settle()
        self.assertIsInstance(results[0], Application)
        self.assertRaises(UsageError, theirs.one.transport.startHandshake)

    def test_begun_twice(self) -> None:
        """It begins once, also where its certificate is still looked for."""
        theirs = Applications()
        self.listener.factory = TLSConnectorFactory(
            ServerOptions(Told({ONE: Deferred()})),
            False,
            theirs,
            self.clock,
            startsHandshake=False,
        )
        self.visit(ONE)
        theirs.one.transport.startHandshake()
        self.assertRaises(UsageError, theirs.one.transport.startHandshake)

    def test_begun_before_the_hello(self) -> None:
        """It may begin before there is a hello."""
        theirs = Applications(made=lambda it: it.transport.startHandshake())
        self.listener.factory = TLSConnectorFactory(
            ServerOptions(Told({ONE: choice(ONE)})),
            False,
            theirs,
            self.clock,
            startsHandshake=False,
        )
        self.assertIsInstance(self.visit(ONE)[0], Application)

    def test_timeout_is_the_reason(self) -> None:
        """The application is told that no certificate came in time."""
        theirs = Applications()
        self.listener.factory = TLSConnectorFactory(
            ServerOptions(Told({ONE: Deferred()})), False, theirs, self.clock
        )
        self.visit(ONE)
        self.wait(11)
        self.assertIsInstance(theirs.one.lost.value, TimeoutError)
