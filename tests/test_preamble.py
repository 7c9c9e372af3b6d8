"""Tests for L{twisted_bioconn.preamble}."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHalfCloseableProtocol, ISSLTransport
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tests.context_material import visiting
from tests.endpoint_material import Application, Applications, EndpointCase, Silent
from tests.protocol_wire import MemoryConnection, MemorySocket
from tests.test__gate import first_flight
from tests.tls_material import HOST
from twisted_bioconn._redirect import https_location
from twisted_bioconn.endpoints import ServerEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.limits import Limits
from twisted_bioconn.port_options import Plain, PreambleOptions, network, networks
from twisted_bioconn.preamble import Preamble, PreambleFactory
from twisted_bioconn.protocol import TLSConnectorProtocol

V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"
V1_V6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n"
V2 = bytes.fromhex("0d0a0d0a000d0a515549540a 21 11 000c c0000207 c6336401 dc04 01bb")
V2_LOCAL = bytes.fromhex("0d0a0d0a000d0a515549540a 20 00 0000")
RECORD = b"\x16\x03\x01\0\1\1"
"""The first byte of a hello, in a record."""

FROM_HERE = PreambleOptions(proxies=networks("127.0.0.0/8, ::1"))


class Received(Silent):
    """Notes what came."""

    received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data


@implementer(IHalfCloseableProtocol)
class Staying(Received):
    """One that does not close because the server has ended its side."""

    def readConnectionLost(self) -> None:
        pass

    def writeConnectionLost(self) -> None:
        pass


class Sending(Protocol):
    """
    Sends bytes ahead of a client's protocol, and then lets that begin.
    """

    def __init__(self, ahead: bytes, inner: Any) -> None:
        self.ahead = ahead
        self.inner = inner

    def makeConnection(self, transport: Any) -> None:
        transport.write(self.ahead)
        transport.protocol = self.inner
        self.inner.makeConnection(transport)


class PreambleCase(EndpointCase):
    """
    A server behind a preamble.

    @ivar theirs: its applications.
    """

    def serve(self, before: PreambleOptions | None = None, **settings: Any) -> None:
        self.theirs = Applications()
        self.listen(self.theirs, preamble=before, **settings)

    def raw(self, data: bytes = b"", piece: int = 0, kind: type[Received] = Received) -> Received:
        """A client that sends this, in pieces or at once."""
        peer = kind()
        one, two = MemorySocket.pair()
        arrived = self.arrival()
        if arrived is None:
            peer.lost = True  # type: ignore[assignment]
            return peer
        self.at_server: Any = MemoryConnection(one, arrived, self.clock)
        ours = MemoryConnection(two, peer, self.clock)
        self.at_server.begin()
        ours.begin()
        for at in range(0, len(data), piece or len(data) or 1):
            ours.write(data[at : at + (piece or len(data))])
            self.clock.settle()
        self.clock.settle()
        return peer

    def visit(self, ahead: bytes = b"", **options: Any) -> Any:
        """
        A client that speaks TLS, with bytes before that: its application, or why there is none.
        """
        results: list[Any] = []
        self.client_endpoint(visiting(HOST, **options)).connect(Applications()).addBoth(
            results.append
        )
        factory, attempt = self.connector.attempts.pop(0)
        inner = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 443))
        one, two = MemorySocket.pair()
        self.at_server = MemoryConnection(two, self.arrival(), self.clock)
        ours = MemoryConnection(one, Sending(ahead, inner), self.clock)
        ours.begin()
        self.at_server.begin()
        attempt.callback(inner)  # type: ignore[arg-type]
        self.clock.settle()
        [result] = results
        return result


class FirstByteTests(PreambleCase):
    """Nothing is made for TLS before its first record."""

    def test_dripping(self) -> None:
        """Whoever sends a hello byte by byte costs those bytes, until the record is whole."""
        self.serve()
        peer = self.raw(b"\x16")
        for byte in b"\x03\x01\x00\x05hell":
            peer.transport.write(bytes([byte]))
            self.clock.settle()
            self.assertIsInstance(self.at_server.protocol, Preamble)
        peer.transport.write(b"o")
        self.clock.settle()
        self.assertIsNotNone(peer.lost)
        self.assertEqual(len(self.lines), 1)

    def test_no_record(self) -> None:
        """What will never be a record is OpenSSL's to judge at once."""
        for data in (b"\x16\x02", b"\x16\x03\x01\xff\xff", b"\x16GET / HTTP", b"\x80"):
            self.serve()
            self.raw(data)
            protocol = getattr(self.at_server, "protocol", None)
            self.assertNotIsInstance(protocol, Preamble)

    def test_hello_in_pieces(self) -> None:
        """However it is cut, it is the same hello."""
        hello = first_flight(HOST)
        for piece in (1, 2, 5, 6, len(hello) - 1):
            self.serve()
            peer = self.raw(hello, piece)
            self.assertTrue(peer.received.startswith(b"\x16\x03\x03"), piece)

    def test_silent(self) -> None:
        self.serve()
        peer = self.raw()
        self.assertIsInstance(self.at_server.protocol, Preamble)
        self.wait(10)
        self.assertIsNotNone(peer.lost)
        [line] = self.lines
        self.assertIn("127.0.0.1:50000 sent nothing within 10 seconds", line)
        self.assertLeftNothing()

    def test_steps_aside(self) -> None:
        """Once there is TLS, the transport has that for its protocol, and nothing in between."""
        self.serve()
        application = self.visit()
        self.assertIsInstance(self.at_server.protocol, TLSConnectorProtocol)
        application.transport.write(b"hello")
        self.clock.settle()
        self.assertEqual(self.theirs.one.received, b"hello")
        application.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(self.theirs.one.did, ["made", "data", "lost"])
        self.assertLeftNothing()

    def test_time_is_one(self) -> None:
        """Silence counts for the handshake, which has what is left."""
        self.serve(handshake_timeout=3.0)
        peer = self.raw()
        self.wait(2)
        peer.transport.write(b"\x16\x03\x01")
        self.wait(0.5)
        self.assertIsNone(peer.lost)
        self.wait(0.5)
        self.assertIsNotNone(peer.lost)
        [line] = self.lines
        self.assertIn("127.0.0.1:50000 sent 3 bytes of a hello within 3 seconds", line)
        self.assertLeftNothing()

    def test_leaves(self) -> None:
        """A scan of ports is not told of."""
        self.serve()
        self.raw().transport.loseConnection()
        self.clock.settle()
        self.assertEqual(self.lines, [])
        self.assertLeftNothing()

    def test_no_time(self) -> None:
        """A transport that has no clock, as one in memory, waits for ever."""
        factory = PreambleFactory(self.tls_factory(), PreambleOptions())
        factory.tls._givenClock = None
        preamble = factory.buildProtocol(None)
        transport = StringTransport()
        assert preamble is not None
        preamble.makeConnection(transport)
        preamble.dataReceived(b"\x15\x03")
        self.assertIsInstance(preamble._next, TLSConnectorProtocol)
        preamble.dataReceived(b"\x03")
        preamble.connectionLost()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def tls_factory(self) -> Any:
        self.serve()
        return self.listener.factory.tls


class PlainTests(PreambleCase):
    """Bytes that are not TLS."""

    def test_forward(self) -> None:
        """They are the application's, which is told that this is not TLS."""
        self.serve(PreambleOptions(plain=Plain.FORWARD))
        peer = self.raw(b"hello")
        application = self.theirs.one
        self.assertEqual(application.received, b"hello")
        self.assertFalse(ISSLTransport.providedBy(application.transport))
        application.transport.write(b"answer")
        self.clock.settle()
        self.assertEqual(peer.received, b"answer")
        application.transport.loseConnection()
        self.clock.settle()
        self.assertIsNotNone(peer.lost)
        self.assertLeftNothing()

    def test_forward_tls(self) -> None:
        self.serve(PreambleOptions(plain=Plain.FORWARD))
        self.visit()
        self.assertTrue(ISSLTransport.providedBy(self.theirs.one.transport))

    def test_server_that_speaks_first(self) -> None:
        """A client that waits to be spoken to is a plain one."""
        self.serve(PreambleOptions(plain=Plain.FORWARD, plain_after=2.0))
        peer = self.raw()
        self.wait(1.5)
        self.assertEqual(self.theirs.built, [])
        self.wait(0.5)
        self.theirs.one.transport.write(b"220 ready\r\n")
        self.clock.settle()
        self.assertEqual(peer.received, b"220 ready\r\n")
        # It lives as long as it will.
        self.wait(20)
        self.assertIsNone(peer.lost)
        # So is one that a proxy speaks for.
        self.theirs.built.clear()
        self.serve(
            PreambleOptions(
                plain=Plain.FORWARD, plain_after=2.0, proxies=networks("::/0,0.0.0.0/0")
            )
        )
        self.raw(V1)
        self.wait(1.5)
        self.assertEqual(self.theirs.built, [])
        self.wait(0.5)
        self.assertEqual(self.theirs.one.transport.getPeer().host, "192.0.2.7")
        self.serve(PreambleOptions(plain=Plain.FORWARD, plain_after=2.0))
        # One that has begun with TLS has the time that there is for that.
        peer = self.raw(b"\x16\x03")
        self.wait(9.5)
        self.assertIsNone(peer.lost)
        self.wait(0.5)
        self.assertIsNotNone(peer.lost)
        # One that begins in time is what it is.
        self.theirs.built.clear()
        self.visit()
        self.assertTrue(ISSLTransport.providedBy(self.theirs.one.transport))

    def test_no_application(self) -> None:
        """Where the application wants none, the connection ends."""
        self.theirs = Applications(kind=lambda: None)
        self.listen(self.theirs, preamble=PreambleOptions(plain=Plain.FORWARD))
        self.assertIsNotNone(self.raw(b"hello").lost)
        self.assertLeftNothing()

    def test_half_close(self) -> None:
        """The end of a plain client's data reaches an application that can take it, and others."""

        @implementer(IHalfCloseableProtocol)
        class Half(Application):
            def readConnectionLost(self) -> None:
                self.note("end")
                self.transport.loseConnection()

            def writeConnectionLost(self) -> None:
                self.note("ended")

        @implementer(IHalfCloseableProtocol)
        class First(Half):
            def connectionMade(self) -> None:
                super().connectionMade()
                self.transport.loseWriteConnection()

        theirs = Applications(kind=First)
        options = PreambleOptions(plain=Plain.FORWARD)
        self.listen(theirs, preamble=options, limits=Limits(connections=5))
        peer = self.raw(b"hello", kind=Staying)
        self.assertEqual(theirs.one.did, ["made", "data", "ended"])
        peer.transport.loseConnection()
        self.clock.settle()
        for kind, limits in ((Half, None), (Half, Limits(connections=5))):
            theirs = Applications(kind=kind)
            options = PreambleOptions(plain=Plain.FORWARD)
            self.listen(theirs, preamble=options, limits=limits)
            peer = self.raw(b"hello")
            peer.transport.loseWriteConnection()
            self.clock.settle()
            self.assertEqual(theirs.one.did[:3], ["made", "data", "end"])
            self.assertIn("lost", theirs.one.did)
        self.serve(PreambleOptions(plain=Plain.FORWARD), limits=Limits(connections=5))
        peer = self.raw(b"hello")
        peer.transport.loseWriteConnection()
        self.clock.settle()
        self.assertEqual(self.theirs.one.did, ["made", "data", "lost"])
        self.assertLeftNothing()

    def test_mistakes(self) -> None:
        with self.assertRaises(ConfigurationError):
            PreambleOptions(plain_after=2.0)

    # Redirected

    def redirected(self, request: bytes, piece: int = 0) -> tuple[bytes, bytes]:
        """The status line, and the location."""
        self.serve(PreambleOptions(plain=Plain.REDIRECT))
        peer = self.raw(request, piece)
        head, _, body = peer.received.partition(b"\r\n\r\n")
        status, *fields = head.split(b"\r\n")
        found = dict(field.split(b": ", 1) for field in fields)
        self.assertEqual(found[b"Connection"], b"close")
        self.assertEqual(int(found[b"Content-Length"]), len(body))
        peer.transport.loseConnection()
        self.clock.settle()
        self.assertIsNotNone(peer.lost)
        self.assertEqual(self.theirs.built, [])
        self.assertLeftNothing()
        return status, found.get(b"Location", b"")

    def test_redirect(self) -> None:
        request = b"GET /a/b?c=d HTTP/1.1\r\nUser-Agent: x\r\nhost: example.org:8443\r\n\r\n"
        for piece in (0, 1, 7):
            self.assertEqual(
                self.redirected(request, piece),
                (b"HTTP/1.1 308 Permanent Redirect", b"https://example.org:8443/a/b?c=d"),
            )

    def test_body(self) -> None:
        """What comes after the head is read, and does not destroy the answer."""
        head = b"POST / HTTP/1.1\r\nHost: example.org\r\nContent-Length: 40000\r\n\r\n"
        self.assertEqual(
            self.redirected(head + bytes(40000))[0], b"HTTP/1.1 308 Permanent Redirect"
        )

    def test_endless_body(self) -> None:
        self.serve(PreambleOptions(plain=Plain.REDIRECT))
        peer = self.raw(b"PUT / HTTP/1.1\r\nHost: example.org\r\n\r\n", kind=Staying)
        for _ in range(3):
            peer.transport.write(bytes(20000))
            self.clock.settle()
            self.assertFalse(self.at_server.disconnected)
        peer.transport.write(bytes(20000))
        self.clock.settle()
        self.assertTrue(self.at_server.disconnected)
        peer.transport.loseConnection()
        self.assertLeftNothing()

    def test_client_that_stays(self) -> None:
        """It is let go after two seconds."""
        self.serve(PreambleOptions(plain=Plain.REDIRECT))
        peer = self.raw(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", kind=Staying)
        self.wait(1.5)
        self.assertFalse(self.at_server.disconnected)
        self.wait(0.5)
        self.assertTrue(self.at_server.disconnected)
        peer.transport.loseConnection()
        self.assertLeftNothing()

    def test_transport_that_cannot_half_close(self) -> None:
        self.serve(PreambleOptions(plain=Plain.REDIRECT))
        preamble = self.arrival()
        transport = StringTransport()
        transport.loseWriteConnection = None  # type: ignore[attr-defined]
        preamble.makeConnection(transport)
        preamble.dataReceived(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
        self.assertIn(b" 308 ", transport.value())
        self.assertTrue(transport.disconnecting)
        preamble.connectionLost()

    def test_bad_requests(self) -> None:
        for request in (
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x@y\r\n\r\n",
            b"GET * HTTP/1.1\r\nHost: example.org\r\n\r\n",
            b"GET //\x01 HTTP/1.1\r\nHost: example.org\r\n\r\n",
            b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
        ):
            status = self.redirected(request)
            self.assertEqual(status, (b"HTTP/1.1 400 Bad Request", b""), request)

    def test_endless_head(self) -> None:
        self.assertEqual(
            self.redirected(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1400)[0],
            b"HTTP/1.1 431 Request Header Fields Too Large",
        )

    def test_half_a_head(self) -> None:
        self.serve(PreambleOptions(plain=Plain.REDIRECT))
        peer = self.raw(b"GET / HT")
        self.wait(10)
        self.assertIsNotNone(peer.lost)
        self.assertLeftNothing()

    def test_no_http(self) -> None:
        """Other bytes are judged as where plain is refused."""
        self.serve(PreambleOptions(plain=Plain.REDIRECT))
        for data in (bytes(20), b"SSH-2.0-x\r\n", b"GET\r\nHost: example.org\r\n", b"hello\r\n"):
            self.lines.clear()
            self.assertIsNotNone(self.raw(data).lost)
            self.assertEqual(len(self.lines), 1)
        self.visit()
        self.assertTrue(ISSLTransport.providedBy(self.theirs.one.transport))


class LocationTests(SynchronousTestCase):
    """Where a request is sent to."""

    def test_absolute(self) -> None:
        """RFC 9112, section 3.2.2: a server takes the absolute form too."""
        for target in ("http://example.org/x", "HTTP://example.org:80/x", "/x"):
            self.assertEqual(https_location(target, "example.org"), "https://example.org/x")
        self.assertEqual(
            https_location("http://a", "[2001:db8::1]:80"), "https://[2001:db8::1]:80/"
        )
        self.assertIsNone(https_location("ftp://example.org/", "example.org"))

    @given(st.text(max_size=40), st.text(max_size=20))
    def test_one_line(self, target: str, host: str) -> None:
        """Whatever a client sends, no field of the answer is its own."""
        found = https_location(target, host)
        if found is not None:
            self.assertTrue(found.isascii() and found.isprintable() and " " not in found)
            self.assertTrue(found.startswith(f"https://{host}/"))


class ProxyTests(PreambleCase):
    """A PROXY header before TLS."""

    def test_addresses(self) -> None:
        """They are the connection's, for the application and for the log."""
        for header, peer, host in (
            (
                V1,
                IPv4Address("TCP", "192.0.2.7", 56324),
                IPv4Address("TCP", "198.51.100.1", 443),
            ),
            (
                V1_V6,
                IPv6Address("TCP", "2001:db8::7", 56324),
                IPv6Address("TCP", "2001:db8::1", 443),
            ),
            (
                V2,
                IPv4Address("TCP", "192.0.2.7", 56324),
                IPv4Address("TCP", "198.51.100.1", 443),
            ),
        ):
            self.serve(FROM_HERE)
            self.visit(header)
            transport = self.theirs.one.transport
            self.assertEqual(transport.getPeer(), peer)
            self.assertEqual(transport.getHost(), host)
            self.assertEqual(self.theirs.addresses, [peer])
            self.assertEqual(transport.transport.proxyHeader.version, 2 if header is V2 else 1)

    def test_local(self) -> None:
        """The proxy's own connection, a health check, is as it is."""
        for header in (V2_LOCAL, b"PROXY UNKNOWN\r\n"):
            self.serve(FROM_HERE)
            self.visit(header)
            self.assertEqual(self.theirs.one.transport.getPeer().host, "127.0.0.1")

    def test_log(self) -> None:
        self.serve(FROM_HERE)
        self.raw(V1 + b"\x16\x03\x01\x00\x05hello")
        [line] = self.lines
        self.assertTrue(line.startswith("no handshake: 192.0.2.7:56324 "), line)

    def test_missing(self) -> None:
        """Who has to send one and does not is refused, at the first byte that is none of it."""
        for data in (b"\x16", b"PROXX", b"GET / HTTP/1.1\r\n\r\n"):
            self.serve(FROM_HERE)
            self.lines.clear()
            self.assertIsNotNone(self.raw(data).lost)
            [line] = self.lines
            self.assertIn("no handshake with 127.0.0.1:50000: ", line)
            self.assertIn("proxyProtocol= has connections from there begin with one", line)
            self.assertEqual(self.theirs.built, [])
            self.assertLeftNothing()

    def test_not_whole(self) -> None:
        self.serve(FROM_HERE)
        peer = self.raw(V1[:20])
        self.wait(10)
        self.assertIsNotNone(peer.lost)
        self.assertEqual(
            self.lines, ["no handshake with 127.0.0.1:50000: no PROXY header within 10 seconds"]
        )
        self.lines.clear()
        self.raw(V1[:20]).transport.loseConnection()
        self.clock.settle()
        self.assertEqual(
            self.lines,
            ["no handshake with 127.0.0.1:50000: the connection ended within its PROXY header"],
        )
        self.lines.clear()
        self.raw().transport.loseConnection()
        self.clock.settle()
        self.assertEqual(self.lines, [])
        self.assertLeftNothing()

    def test_from_elsewhere(self) -> None:
        """Nobody else may say where he comes from: to others it is no TLS."""
        self.serve(PreambleOptions(proxies=networks("10.0.0.0/8")))
        self.visit()
        self.assertEqual(self.theirs.one.transport.getPeer().host, "127.0.0.1")
        self.theirs.built.clear()
        self.assertIsNotNone(self.raw(V1).lost)
        self.assertEqual(len(self.lines), 1)
        self.assertEqual(self.theirs.built, [])

    def test_plain(self) -> None:
        """The addresses are a plain connection's as well."""
        self.serve(PreambleOptions(proxies=networks("127.0.0.1"), plain=Plain.FORWARD))
        self.raw(V1 + b"hello")
        application = self.theirs.one
        self.assertEqual(application.received, b"hello")
        self.assertEqual(application.transport.getPeer().host, "192.0.2.7")
        self.assertFalse(ISSLTransport.providedBy(application.transport))

    @settings(deadline=None, max_examples=50)
    @given(st.sampled_from([V1, V1_V6, V2, V2_LOCAL]), st.integers(1, 60))
    def test_any_pieces(self, header: bytes, piece: int) -> None:
        self.setUp()
        self.serve(PreambleOptions(proxies=networks("127.0.0.1"), plain=Plain.FORWARD))
        self.raw(header + b"hello, hello", piece)
        self.assertEqual(self.theirs.one.received, b"hello, hello")


class WhoTests(SynchronousTestCase):
    """Who may send a header."""

    def test_networks(self) -> None:
        options = PreambleOptions(proxies=networks("10.0.0.0/8,192.0.2.7, 2001:db8::/32"))
        for host, expected in (
            ("10.1.2.3", True),
            ("::ffff:10.1.2.3", True),
            ("192.0.2.7", True),
            ("192.0.2.8", False),
            ("2001:db8::1", True),
            ("2001:db8::1%eth0", True),
            ("2001:db9::1", False),
            ("localhost", False),
            (None, False),
        ):
            self.assertEqual(options.may_send_header(host), expected, host)
        self.assertFalse(PreambleOptions().may_send_header("10.0.0.1"))

    def test_mistakes(self) -> None:
        for text, sentence in (
            ("10.0.0.1/8", "10.0.0.1/8 has bits set beyond its length: do you mean 10.0.0.0/8?"),
            ("10.0.0", "'10.0.0' is no network: 10.0.0.0/8 is one"),
            ("", "'' is no network: 10.0.0.0/8 is one"),
        ):
            with self.assertRaises(ConfigurationError) as caught:
                network(text)
            self.assertEqual(str(caught.exception), sentence)


class EndpointTests(PreambleCase):
    """What the endpoint has by default."""

    def test_defaults(self) -> None:
        endpoint: ServerEndpoint = self.server_endpoint()
        self.assertEqual(endpoint.preamble, PreambleOptions())
        self.assertEqual(endpoint.limits, Limits())

    def test_in_the_log(self) -> None:
        """A port is called by what is served there."""
        self.serve()
        self.assertEqual(self.listener.factory.logPrefix(), "Applications (TLS)")
