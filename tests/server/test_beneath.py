"""Back ends with TLS: what comes before it, and why it has failed."""

from __future__ import annotations

from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol
from twisted.internet.protocol import Protocol
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.context_material import ROOTS, serving, visiting
from tests.endpoint_material import Application, Applications, EndpointCase, MemoryConnector
from tests.engines import on_both_engines
from tests.server.wire import Wire
from tests.tls_material import TLS12, stranger
from twisted_bioconn._transport import Stream
from twisted_bioconn.endpoints import ClientEndpoint
from twisted_bioconn.errors import UsageError
from twisted_bioconn.port_options import PreambleOptions
from twisted_bioconn.server.backends import BackEnds, SendProxy, State
from twisted_bioconn.server.beneath import Beneath
from twisted_bioconn.server.checks import Check, CheckKind
from twisted_bioconn.server.relay import RelayFactory

LINE = b"PROXY TCP4 192.0.2.7 192.0.2.1 4567 443\r\n"


class Plainly(Protocol):
    """
    A back end by hand.

    @ivar received: what has come.
    """

    transport: Any

    def __init__(self, answer: bytes | None = None, after: int = 1) -> None:
        self.received = b""
        self._answer = answer
        self._after = after

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self._answer is not None and len(self.received) >= self._after:
            self.transport.write(self._answer)
            self.transport.loseConnection()


@implementer(IHalfCloseableProtocol)
class Half(Application):
    """An application that can end one direction alone."""

    def readConnectionLost(self) -> None:
        self.note("end")

    def writeConnectionLost(self) -> None:
        self.note("sent")


class BeneathTests(EndpointCase):
    """L{Beneath} by itself."""

    def test_not_expected(self) -> None:
        """Nothing is connected where it is not known what to say first."""
        beneath = Beneath(self.connector)
        self.failureResultOf(beneath.connect(Applications()), UsageError)
        beneath.expect(b"hello")
        beneath.connect(Applications())
        self.failureResultOf(beneath.connect(Applications()), UsageError)
        self.assertEqual(len(self.connector.attempts), 1)

    def test_words_and_first_bytes(self) -> None:
        ours, theirs = Applications(), Plainly(b"x" * 100)
        beneath = Beneath(self.connector)
        heard = beneath.expect(b"hello ")
        done = beneath.connect(ours)
        self.connector.reach(theirs)
        ours.one.transport.write(b"world")
        self.clock.settle()
        self.successResultOf(done)
        self.assertEqual(theirs.received, b"hello world")
        self.assertEqual(ours.one.received, b"x" * 100)
        self.assertEqual((heard.first, heard.received), (b"x" * 64, 64))
        self.assertIsNotNone(ours.one.lost)
        self.assertLeftNothing()

    def test_transport_with_a_way_of_its_own(self) -> None:
        """The first bytes are noted, and from then on nothing is in between."""
        beneath = Beneath(self.connector)
        heard = beneath.expect(b"hello")
        beneath.connect(Applications())
        factory, _ = self.connector.attempts.pop()
        protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 443))
        assert protocol is not None
        received: list[bytes] = []

        class Own(Stream):
            def __init__(self) -> None:
                self.reactor = SimpleNamespace(inbox=SimpleNamespace(view=memoryview(b"x" * 100)))
                self.sent: list[bytes] = []
                self.receiver = self.take

            def take(self, data: Any, count: int) -> None:
                received.append(bytes(data[:count]))

            def send(self, data: Any) -> None:
                self.sent.append(data)

        transport = Own()
        protocol.makeConnection(cast(Any, transport))
        self.assertEqual(transport.sent, [b"hello"])
        for count in (70, 3):
            assert transport.receiver is not None
            transport.receiver(transport.reactor.inbox.view, count)
        self.assertEqual(received, [b"x" * 70, b"x" * 3])
        self.assertEqual(heard.first, b"x" * 64)
        self.assertEqual(transport.receiver, transport.take)

    def test_half_closes(self) -> None:
        """They are told to who can hear them; for others the connection ends."""
        for hears in (False, True):
            application = Applications(Half if hears else Application)
            beneath = Beneath(self.connector)
            beneath.expect(b"")
            beneath.connect(application)
            peer = Plainly()
            self.connector.reach(peer)
            self.clock.settle()
            peer.transport.loseWriteConnection()
            self.clock.settle()
            self.assertEqual("end" in application.one.did, hears)
            self.assertEqual(application.one.lost is None, hears)
            if hears:
                application.one.transport.loseWriteConnection()
                self.clock.settle()
                self.assertIn("sent", application.one.did)
            self.assertLeftNothing()

    def test_application_that_is_none(self) -> None:
        beneath = Beneath(self.connector)
        beneath.expect(b"")
        beneath.connect(Applications(lambda: None))
        factory, _ = self.connector.attempts.pop()
        self.assertIsNone(factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 443)))

    def test_users_endpoint_is_left_alone(self) -> None:
        endpoint = self.client_endpoint()
        BackEnds([(endpoint, "a"), (self.connector, "b")], self.clock, send_proxy=SendProxy.V2)
        self.assertIs(endpoint.endpoint, self.connector)


@on_both_engines
class TLSTests(EndpointCase):
    """A relay to a back end with TLS."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def said(self) -> list[str]:
        return [
            formatEvent(each)
            for each in self.events
            if str(each.get("log_namespace")).startswith("twisted_bioconn.server")
        ]

    def relay(self, options: Any = None, **settings: Any) -> Wire:
        self.back_ends = BackEnds(
            [(self.client_endpoint(options), "bioconn:db:5432")], self.clock, **settings
        )
        self.factory = RelayFactory(self.back_ends, "bioconn:db:5432", self.clock)
        return self.client()

    def client(self) -> Wire:
        return Wire(cast(Any, self.clock), cast(IProtocol, self.factory.buildProtocol(None)))

    def test_header_is_before_tls(self) -> None:
        client = self.relay(send_proxy=SendProxy.V1)
        client.sends(b"question")
        heard = Plainly()
        self.connector.reach(heard)
        self.clock.settle()
        self.assertTrue(heard.received.startswith(LINE + b"\x16\x03\x01"), heard.received)
        client.breaks()
        self.clock.settle()
        self.assertEqual(self.back_ends.members[0].connections, 0)
        self.assertLeftNothing()

    def test_header_is_before_the_dialogue(self) -> None:
        endpoint = self.client_endpoint(starttls="smtp")
        back_ends = BackEnds([(endpoint, "mail")], self.clock, send_proxy=SendProxy.V1)
        self.factory = RelayFactory(back_ends, "mail", self.clock)
        client = self.client()
        heard = Plainly()
        self.connector.reach(heard)
        heard.transport.write(b"220 mail.example\r\n")
        self.clock.settle()
        self.assertEqual(heard.received, LINE + b"EHLO localhost\r\n")
        client.breaks()
        self.clock.settle()

    def test_failure_after_the_dialogue(self) -> None:
        """What was said before TLS does not make it a port without TLS."""
        endpoint = self.client_endpoint(starttls="smtp")
        self.factory = RelayFactory(endpoint, "mail", self.clock)
        client = self.client()
        heard = Plainly()
        self.connector.reach(heard)
        for answer in (
            b"220 mail.example\r\n",
            b"250-mail\r\n250 STARTTLS\r\n",
            b"220 go ahead\r\n",
        ):
            heard.transport.write(answer)
            self.clock.settle()
        heard.transport.loseConnection()
        self.clock.settle()
        self.assertTrue(client.closed)
        [line] = self.said()
        self.assertIn("the server mail closed in mid-handshake, without an alert", line)

    def test_bytes_both_ways(self) -> None:
        """With the header taken off by a server of ours, all goes on as without."""
        theirs = Applications(data=lambda it: it.transport.write(b"answer"))
        preamble = PreambleOptions(proxies=(ip_network("127.0.0.1"),))
        self.listen(theirs, preamble=preamble)
        client = self.relay(send_proxy=SendProxy.V2_TLS)
        client.sends(b"question")
        self.meet()
        self.assertEqual(theirs.one.received, b"question")
        self.assertEqual(theirs.one.transport.getPeer(), client.getPeer())
        client.reads()
        self.assertEqual(client.taken, b"answer")
        [back_end] = self.back_ends.members
        self.assertEqual((back_end.state, back_end.connections), (State.UP, 1))
        client.ends()
        self.clock.settle()
        self.assertTrue(client.closed)
        self.assertEqual(back_end.connections, 0)
        self.assertLeftNothing()

    def explained(self, peer: Any, options: Any = None) -> str:
        """What is said of a back end that is this."""
        client = self.relay(options)
        self.connector.reach(peer)
        self.clock.settle()
        self.assertTrue(client.closed)
        [line] = self.said()
        self.events.clear()
        return line

    def served(self, **options: Any) -> Any:
        self.listen(Applications(), serving(**options))
        return self.arrival()

    def test_wrong_name(self) -> None:
        line = self.explained(self.served(), visiting("db.example"))
        self.assertEqual(
            line,
            "192.0.2.7:4567 cannot be forwarded to bioconn:db:5432: the server bioconn:db:5432 is"
            " not who it should be: the certificate is not for db.example: it is for"
            " www.example.org, 127.0.0.1. Correct the name asked for, or give the server a"
            " certificate for it",
        )
        self.assertEqual(self.back_ends.members[0].failures, 1)

    def test_strange_authority(self) -> None:
        self.listen(Applications(), serving(stranger()))
        line = self.explained(self.arrival())
        self.assertIn("leads to no authority that is trusted here: CN=", line)

    def test_plain_back_end(self) -> None:
        line = self.explained(Plainly(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        self.assertIn("answers in plain HTTP, and we connect with TLS: 'HTTP/1.1 400", line)

    def test_closed_in_mid_handshake(self) -> None:
        line = self.explained(Plainly(b"\x16\x03\x03", 100))
        self.assertIn(
            "the server bioconn:db:5432 closed in mid-handshake, without an alert, after 3 bytes",
            line,
        )

    def test_certificate_of_ours_is_missed(self) -> None:
        self.listen(Applications(), serving(client_authorities=ROOTS, versions=(TLS12, TLS12)))
        line = self.explained(self.arrival())
        self.assertIn("bioconn:db:5432", line)
        self.assertNotIn("SSL routines", line)

    def test_certificate_of_ours_is_missed_later(self) -> None:
        """In TLS 1.3 a server says so when we have been connected already."""
        self.listen(Applications(), serving(client_authorities=ROOTS))
        client = self.relay()
        self.meet()
        self.assertTrue(client.aborted)
        self.assertEqual(
            self.said(),
            [
                "192.0.2.7:4567 cannot be forwarded to bioconn:db:5432: the server bioconn:db:5432"
                " wants a certificate of its clients, and got none. Show one"
            ],
        )
        self.assertEqual(self.back_ends.members[0].connections, 0)

    def test_failure_is_tried_elsewhere(self) -> None:
        """A back end that is not who it should be has seen nothing of the client's bytes."""
        other = MemoryConnector(self.clock)
        good = Application(data=lambda it: it.transport.write(b"answer"))
        back_ends = BackEnds(
            [(self.client_endpoint(visiting("db.example")), "bad"), (other, "good")], self.clock
        )
        self.factory = RelayFactory(back_ends, "both", self.clock)
        client = self.client()
        client.sends(b"question")
        self.listen(Applications())
        self.meet()
        other.reach(good)
        self.clock.settle()
        self.assertEqual(good.received, b"question")
        client.reads()
        self.assertEqual(client.taken, b"answer")
        bad = back_ends.members[0]
        self.assertEqual((bad.failures, bad.connections), (1, 0))
        self.assertIn("the certificate is not for db.example", bad.last_failure)

    def check(self, kind: CheckKind, **settings: Any) -> BackEnds:
        self.connector = MemoryConnector(self.clock)
        back_ends = BackEnds(
            [(self.client_endpoint(**settings), "db")],
            self.clock,
            check=Check(kind=kind, fall=1),
            spread=lambda: 0.0,
        )
        back_ends.start()
        self.clock.settle()
        return back_ends

    def test_check_of_tls(self) -> None:
        for name, state in (("www.example.org", State.UP), ("db.example", State.DOWN)):
            self.listen(Applications())
            back_ends = self.check(CheckKind.TLS, options=visiting(name))
            self.meet()
            self.assertIs(back_ends.members[0].state, state)
            back_ends.stop()
            self.assertLeftNothing()
        self.assertIn("the certificate is not for db.example", self.said()[0])

    def test_check_of_tcp(self) -> None:
        """There is no TLS on it."""
        heard = Plainly()
        back_ends = self.check(CheckKind.TCP)
        self.connector.reach(heard)
        self.clock.settle()
        self.assertEqual(heard.received, b"")
        self.assertIs(back_ends.members[0].state, State.UP)
        back_ends.stop()
        self.assertLeftNothing()

    def test_check_of_https(self) -> None:
        theirs = Applications(data=lambda it: it.transport.write(b"HTTP/1.1 200 OK\r\n\r\n"))
        self.listen(theirs)
        back_ends = self.check(CheckKind.HTTP)
        self.meet()
        self.assertIn(b"\r\nHost: www.example.org\r\n", theirs.one.received)
        self.assertIs(back_ends.members[0].state, State.UP)
        back_ends.stop()
        self.assertLeftNothing()

    def test_check_of_http_2(self) -> None:
        self.listen(Applications(), serving(alpn=[b"h2"]))
        back_ends = self.check(CheckKind.HTTP, options=visiting(alpn=[b"h2"]))
        self.meet()
        self.assertIs(back_ends.members[0].state, State.DOWN)
        self.assertIn("it has chosen HTTP/2", self.said()[0])
        back_ends.stop()
        self.clock.settle()


class ExplainTests(EndpointCase):
    """L{BackEnd.explain}."""

    def test_of_no_tls(self) -> None:
        back_ends = BackEnds([(self.connector, "tcp:a:1")], self.clock)
        reason = back_ends.members[0].explain(Failure(ConnectionLost()))
        self.assertEqual(reason, "Connection to the other side was lost in a non-clean fashion")

    def test_unix_socket_under_tls(self) -> None:
        endpoint = ClientEndpoint(
            UNIXClientEndpoint(self.clock, "/run/app.sock"), visiting(), self.clock
        )
        back_ends = BackEnds([(endpoint, "app")], self.clock, send_proxy=SendProxy.V2)
        self.assertTrue(back_ends.members[0].is_tls)
