"""What the server serves by itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

from attrs import evolve
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from h2.connection import H2Connection
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import INegotiated, ISSLTransport
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from tests.server.wire import HIGH_WATER, Wire
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.server.sites import (
    WSGI_GRACE,
    EchoFactory,
    WSGISite,
    WSGIThreads,
    negotiated_of,
    static_site,
)

FACTS = Negotiated(
    version="TLSv1.3",
    cipher="TLS_AES_128_GCM_SHA256",
    group="X25519MLKEM768",
    alpn=None,
    server_name="localhost",
    resumed=False,
    peer_chain=(),
)


def certificate(common_name: str) -> x509.Certificate:
    """A client's certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    issuer = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "The authority")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, SHA256())


@implementer(ISSLTransport, INegotiated)
class SecureTransport(StringTransport):
    """A transport that has TLS of ours."""

    def __init__(self, negotiated: Negotiated | None = FACTS) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.7", 4567))
        self.negotiated = negotiated

    @property
    def negotiatedProtocol(self) -> bytes | None:
        return None if self.negotiated is None else self.negotiated.alpn

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getTcpNoDelay(self) -> bool:
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def getTcpKeepAlive(self) -> bool:
        return False

    def loseWriteConnection(self) -> None:
        pass

    def getPeerCertificate(self) -> None:
        return None

    def abortConnection(self) -> None:
        self.loseConnection()


def ask(site: Site, path: str, transport: StringTransport, *headers: str) -> None:
    """Make a request in HTTP/1.1."""
    protocol = site.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4567))
    protocol.makeConnection(transport)
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    protocol.dataReceived("\r\n".join(lines).encode())


def answer(transport: StringTransport) -> tuple[bytes, bytes]:
    """The head and the body of what was answered."""
    head, _, body = transport.value().partition(b"\r\n\r\n")
    return head, body


class NegotiatedOfTests(TestCase):
    """The facts of a request's connection."""

    def setUp(self) -> None:
        self.found: list[Negotiated | None] = []
        found = self.found

        class Root(Resource):
            isLeaf = True

            def render_GET(self, request: Request) -> bytes:
                found.append(negotiated_of(request))
                return b"seen"

        self.site = Site(Root(), reactor=Clock())

    def test_http1(self) -> None:
        transport = SecureTransport()
        ask(self.site, "/", transport)
        self.assertEqual(answer(transport)[1], b"seen")
        self.assertEqual(self.found, [FACTS])

    async def test_http2(self) -> None:
        facts = evolve(FACTS, alpn=b"h2")
        transport = SecureTransport(facts)
        server = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.7", 4567))
        server.makeConnection(transport)
        client = H2Connection()
        client.initiate_connection()
        headers = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", "/"),
        ]
        client.send_headers(1, headers, end_stream=True)
        server.dataReceived(client.data_to_send())
        while b"seen" not in transport.value():
            # HTTP/2 of Twisted's sends on the installed reactor, one frame a turn.
            await deferLater(reactor, 0)
        server.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.found, [facts])

    def test_plain(self) -> None:
        ask(self.site, "/", StringTransport())
        self.assertEqual(self.found, [None])

    def test_transport(self) -> None:
        self.assertEqual(negotiated_of(SecureTransport()), FACTS)
        self.assertIsNone(negotiated_of(StringTransport()))


class StaticTests(TestCase):
    """C{--web DIRECTORY}."""

    def setUp(self) -> None:
        outside = self.mktemp()
        self.directory = os.path.join(outside, "public")
        os.makedirs(os.path.join(self.directory, "sub"))
        for name in ("secret.txt", "public/page.html", "public/sub/deep.txt", "public/unknown.q7"):
            with open(os.path.join(outside, name), "w") as file:
                file.write(f"this is {name}")
        self.site = static_site(self.directory)
        self.site.reactor = Clock()

    async def get(self, path: str, *headers: str) -> tuple[bytes, bytes]:
        transport = StringTransport()
        ask(self.site, path, transport, *headers)
        while not transport.disconnecting:
            # Twisted sends a file piece by piece, a turn of the installed reactor for each.
            await deferLater(reactor, 0)
        return answer(transport)

    async def test_files(self) -> None:
        for path, kind in (
            ("/page.html", b"text/html"),
            ("/sub/deep.txt", b"text/plain"),
            ("/unknown.q7", b"application/octet-stream"),
        ):
            head, body = await self.get(path)
            self.assertIn(b" 200 OK", head)
            self.assertIn(b"Content-Type: " + kind, head)
            self.assertEqual(body.decode(), f"this is public{path}")

    async def test_types_that_a_system_may_not_know(self) -> None:
        for name in ("a.wasm", "a.mjs", "a.webp", "a.woff2"):
            with open(os.path.join(self.directory, name), "w"):
                pass
            self.assertNotIn(b"octet-stream", (await self.get(f"/{name}"))[0])

    async def test_list_and_index(self) -> None:
        self.assertIn(b"page.html", (await self.get("/"))[1])
        with open(os.path.join(self.directory, "index.html"), "w") as file:
            file.write("the index")
        self.assertEqual((await self.get("/"))[1], b"the index")

    async def test_range(self) -> None:
        head, body = await self.get("/page.html", "Range: bytes=8-10")
        self.assertIn(b" 206 ", head)
        self.assertEqual(body, b"pub")

    async def test_nothing_outside_the_directory(self) -> None:
        for path in (
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/%2e%2e%2fsecret.txt",
            "/sub/../../secret.txt",
            "/sub%2f..%2f..%2fsecret.txt",
            "/" + os.path.abspath(self.directory).replace("/", "%2f") + "%2f..%2fsecret.txt",
            "/..%5csecret.txt",
            "/page.html%00",
            "/%00",
            "/" + "x" * 5000,
            "/absent",
            "/%ff",
        ):
            head, body = await self.get(path)
            self.assertIn(b" 404 ", head, path)
            self.assertNotIn(b"this is secret", body)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_alpn(self) -> None:
        self.assertEqual(self.site.acceptableProtocols(), [b"h2", b"http/1.1"])


class AtOnce:
    """Threads and a reactor that run what they are given where they stand."""

    def callInThread(self, function: Callable[..., object], *arguments: object) -> None:
        function(*arguments)

    callFromThread = callInThread


class WSGITests(SynchronousTestCase):
    """C{--wsgi MODULE:NAME}."""

    def environ(self, transport: StringTransport, *headers: str) -> dict[str, Any]:
        """What the application is told."""
        told: list[dict[str, Any]] = []

        def application(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
            told.append(environ)
            start("200 OK", [("Content-Length", "2")])
            return [b"hi"]

        at_once: Any = AtOnce()
        site = Site(WSGISite(at_once, at_once, application), reactor=Clock())
        ask(site, "/some/path?q", transport, *headers)
        self.assertEqual(answer(transport)[1], b"hi")
        return told[0]

    def test_plain(self) -> None:
        environ = self.environ(StringTransport(), "Https: on", "Ssl-Client-Verify: SUCCESS")
        self.assertEqual(environ["wsgi.url_scheme"], "http")
        self.assertEqual(environ["PATH_INFO"], "/some/path")
        self.assertNotIn("bioconn.negotiated", environ)
        self.assertEqual([key for key in environ if key.startswith(("SSL_", "HTTPS"))], [])

    def test_tls(self) -> None:
        environ = self.environ(SecureTransport())
        self.assertEqual(environ["wsgi.url_scheme"], "https")
        self.assertIs(environ["bioconn.negotiated"], FACTS)
        self.assertEqual(
            {key: environ[key] for key in environ if key.startswith(("SSL_", "HTTPS"))},
            {
                "HTTPS": "on",
                "SSL_PROTOCOL": "TLSv1.3",
                "SSL_CIPHER": "TLS_AES_128_GCM_SHA256",
                "SSL_TLS_SNI": "localhost",
                "SSL_CLIENT_VERIFY": "NONE",
            },
        )

    def test_client_certificate(self) -> None:
        leaf = certificate("Zoë, of the lab")
        environ = self.environ(SecureTransport(evolve(FACTS, peer_chain=(leaf,))))
        self.assertEqual(environ["SSL_CLIENT_VERIFY"], "SUCCESS")
        subject = environ["SSL_CLIENT_S_DN"].encode("latin-1").decode("utf-8")
        self.assertEqual(subject, "CN=Zoë\\, of the lab")
        self.assertEqual(environ["SSL_CLIENT_I_DN"], "O=The authority")
        self.assertEqual(environ["SSL_CLIENT_CERT"].encode(), leaf.public_bytes(Encoding.PEM))

    def test_no_name_asked_for(self) -> None:
        environ = self.environ(SecureTransport(evolve(FACTS, server_name=None)))
        self.assertNotIn("SSL_TLS_SNI", environ)

    def test_tls_that_is_not_ours(self) -> None:
        environ = self.environ(SecureTransport(None))
        self.assertEqual(environ["HTTPS"], "on")
        self.assertNotIn("SSL_CLIENT_VERIFY", environ)
        self.assertNotIn("bioconn.negotiated", environ)

    def test_unix_socket(self) -> None:
        transport = StringTransport(UNIXAddress("/run/app"), UNIXAddress(None))
        environ = self.environ(transport)
        self.assertEqual(environ["REMOTE_ADDR"], "")
        self.assertEqual(environ["SERVER_PORT"], "80")


class WSGIThreadsTests(SynchronousTestCase):
    """The threads' life."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.threads = WSGIThreads(self.clock)
        self.threads.startService()

    def test_idle_threads_stop_at_once(self) -> None:
        done = Event()
        self.threads.pool.callInThread(done.set)
        done.wait(10)
        stopped = self.threads.stopService()
        while not stopped.called:
            self.clock.advance(0.01)
        self.successResultOf(stopped)
        self.assertEqual([thread for thread in self.threads.pool.threads if thread.is_alive()], [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_busy_threads_have_some_time(self) -> None:
        begun, end = Event(), Event()
        self.addCleanup(end.set)

        def work() -> None:
            begun.set()
            end.wait(10)

        self.threads.pool.callInThread(work)
        begun.wait(10)
        stopped = self.threads.stopService()
        self.clock.advance(WSGI_GRACE - 0.1)
        self.assertNoResult(stopped)
        self.clock.advance(0.1)
        self.successResultOf(stopped)
        self.assertTrue(all(thread.daemon for thread in self.threads.pool.threads))


class EchoTests(SynchronousTestCase):
    """C{--echo}."""

    def setUp(self) -> None:
        echo = EchoFactory().buildProtocol(None)
        assert echo is not None
        self.wire = Wire(Clock(), echo)

    def test_echo(self) -> None:
        self.wire.sends(b"one")
        self.wire.sends(b"two")
        self.wire.reads()
        self.assertEqual(self.wire.taken, b"onetwo")

    def test_half_close(self) -> None:
        self.wire.sends(b"all of it")
        self.wire.ends()
        self.assertFalse(self.wire.closed)
        self.wire.reads()
        self.assertEqual(self.wire.taken, b"all of it")
        self.assertTrue(self.wire.closed)

    def test_backpressure(self) -> None:
        for _ in range(100):
            self.wire.sends(b"x" * 4)
        self.assertLessEqual(self.wire.most, HIGH_WATER + 4)
        while self.wire.waiting or self.wire.unsent:
            self.wire.reads(5)
        self.assertEqual(self.wire.taken, b"x" * 400)

    def test_reset(self) -> None:
        self.wire.sends(b"x" * 100)
        self.wire.breaks()
        self.assertFalse(self.wire.aborted)
