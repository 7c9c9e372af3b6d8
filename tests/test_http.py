"""HTTP clients whose TLS is ours, against a site that listens by a C{bioconn:} string."""

from __future__ import annotations

import gc
import os
from typing import Any, cast
from weakref import ref

from cryptography import x509
from OpenSSL import SSL
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    quoteStringArgument,
)
from twisted.internet.error import TimeoutError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseNeverReceived, readBody
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IAgent, IAgentEndpointFactory
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface.verify import verifyObject

from tests.context_material import ROOTS, certified
from tests.endpoint_material import Applications, Silent
from tests.socket_material import SocketCase, Talking, one
from tests.tls_material import HOST, authority, client, context
from twisted_bioconn.context import SessionStore
from twisted_bioconn.endpoints import ClientEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.http import AgentEndpointFactory, agent, treq_client
from twisted_bioconn.policy import MODERN
from twisted_bioconn.verify import CertificateRefused, Pin


class Page(Resource):
    """
    A page.

    @ivar transports: what each request came by.
    @ivar facts: what was negotiated there.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.transports: list[Any] = []
        self.facts: list[Any] = []

    def render(self, request: Any) -> bytes:
        transport = request.channel.transport
        self.transports.append(transport)
        self.facts.append(getattr(transport, "negotiated", None))
        return request.content.read() or b"the page"


class WebTests(SocketCase):
    """Requests, over real sockets."""

    def setUp(self) -> None:
        super().setUp()
        self.page = Page()
        self.sessions = SessionStore()

    async def site(self, options: str = "") -> int:
        """A site for localhost, with these options; returns its port."""
        quoted = quoteStringArgument(self.path("server.pem"))
        description = f"bioconn:0:interface=127.0.0.1:privateKey={quoted}{options}"
        address = await self.serve(description, Site(self.page))
        port: int = address.port
        return port

    def web(self, pool: HTTPConnectionPool | None = None, **options: Any) -> HTTPClient:
        """A client that trusts the usual authority."""
        options.setdefault("trust_roots", ROOTS)
        options.setdefault("sessions", self.sessions)
        return treq_client(reactor, pool, **options)

    def kept(self) -> HTTPConnectionPool:
        """A pool whose connections are closed with the test."""
        pool = HTTPConnectionPool(reactor, persistent=True)
        self.addCleanup(pool.closeCachedConnections)
        return pool

    async def test_treq(self) -> None:
        """A page is got, and the server was verified."""
        port = await self.site()
        response = await self.web().get(f"https://localhost:{port}/")
        self.assertEqual(await response.text(), "the page")

    async def test_agent(self) -> None:
        """The same by Twisted's agent."""
        port = await self.site()
        web = agent(reactor, trust_roots=ROOTS, sessions=self.sessions)
        verifyObject(IAgent, web)
        response = await web.request(b"GET", b"https://localhost:%d/" % port)
        self.assertEqual(await readBody(response), b"the page")

    async def test_large(self) -> None:
        """A mebibyte there and back."""
        port = await self.site()
        body = os.urandom(1 << 20)
        response = await self.web().post(f"https://localhost:{port}/", data=body)
        self.assertEqual(await response.content(), body)

    async def refusal(self, web: HTTPClient, port: int, host: str = "localhost") -> Any:
        """Why a request was refused."""
        try:
            await web.get(f"https://{host}:{port}/")
        except Exception as error:
            self.assertEqual(self.page.transports, [])
            return error
        self.fail("it was let through")

    async def test_wrong_authority(self) -> None:
        """A server that nobody vouches for is refused, with a reason that says so."""
        port = await self.site()
        web = self.web(trust_roots=[authority("nobody").certificate])
        error = await self.refusal(web, port)
        self.assertIsInstance(error, SSL.Error)
        self.assertEqual(
            str(error),
            "the certificate of CN=local does not verify: its issuer is not among the trusted"
            " authorities (alert unknown_ca, sent)",
        )

    async def test_system(self) -> None:
        """By default it is the system's authorities that count."""
        port = await self.site()
        error = await self.refusal(treq_client(reactor), port)
        self.assertIn("is not among the trusted authorities", str(error))

    async def test_wrong_host(self) -> None:
        """A certificate for somebody else."""
        port = await self.site()
        error = await self.refusal(self.web(), port, "127.0.0.1")
        self.assertIsInstance(error, CertificateRefused)
        self.assertEqual(str(error), "the certificate is not for 127.0.0.1: it is for localhost")

    async def test_options(self) -> None:
        """Pins, checks, policy and certificate are what they are for any client."""
        port = await self.site(f":clientAuthorities={self.path('authorities')}")
        right, wrong = Pin.of(certificate_of(self.path("cert.pem"))), Pin(b"\0" * 32)
        seen: list[Any] = []
        web = self.web(
            pins=[right], check=seen.append, policy=MODERN, certificate=certified(client())
        )
        response = await web.get(f"https://localhost:{port}/")
        self.assertEqual(await response.text(), "the page")
        self.assertEqual(len(seen), 1)
        [facts] = self.page.facts
        self.assertEqual(facts.peer_certificate, client().certificate)
        self.page.transports.clear()
        error = await self.refusal(self.web(pins=[wrong], certificate=certified(client())), port)
        self.assertIn("is none of the pinned ones", str(error))

    async def test_unsafe(self) -> None:
        """Where it is asked for, anybody is believed."""
        port = await self.site()
        web = treq_client(reactor, unsafe_skip_verification=True, sessions=self.sessions)
        response = await web.get(f"https://127.0.0.1:{port}/")
        self.assertEqual(await response.text(), "the page")

    async def test_client_not_let_in(self) -> None:
        """A server of TLS 1.3 refuses a client when that has sent its request already."""
        port = await self.site(f":clientAuthorities={self.path('authorities')}")
        error = await self.refusal(self.web(), port)
        self.assertIsInstance(error, ResponseNeverReceived)
        [reason] = error.reasons
        self.assertEqual(reason.value.alert, "certificate_required")

    async def test_plain(self) -> None:
        """C{http:} is passed through as it is."""
        address = await self.listen(
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), Site(self.page)
        )
        response = await self.web().get(f"http://localhost:{address.port}/")
        self.assertEqual(await response.text(), "the page")

    async def test_no_tls_there(self) -> None:
        """C{https:} to a server that speaks no TLS says what it got."""

        def speak(application: Any) -> None:
            application.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        address = await self.listen(
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), Applications(made=speak)
        )
        error = await self.refusal(self.web(), address.port)
        self.assertIsInstance(error, SSL.Error)
        self.assertIn("what arrived is not TLS", str(error))

    async def test_silent(self) -> None:
        """A server that accepts and is silent costs no more than the timeout."""
        address = await self.listen(
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), Applications(Silent)
        )
        error = await self.refusal(self.web(timeout=0.2), address.port)
        self.assertIsInstance(error, TimeoutError)
        self.assertIn("no connection with TLS within 0.2 seconds", str(error))

    async def test_protocol(self) -> None:
        """
        HTTP/1.1 is what the agent speaks, so a site that has HTTP/2 too, and first, speaks it.
        """
        port = await self.site(":alpn=h2,http/1.1")
        response = await self.web().get(f"https://localhost:{port}/")
        self.assertEqual(await response.text(), "the page")
        [facts] = self.page.facts
        self.assertEqual(facts.alpn, b"http/1.1")

    async def test_protocol_of_the_site(self) -> None:
        """The same where the site says itself what it speaks."""
        port = await self.site()
        offered = Site(self.page).acceptableProtocols()
        self.assertIn(b"http/1.1", offered)
        await (await self.web().get(f"https://localhost:{port}/")).text()
        [facts] = self.page.facts
        self.assertEqual(facts.alpn, b"http/1.1")

    async def test_http_2(self) -> None:
        """A client that has HTTP/2 gets it of a site that does: its first frame is SETTINGS."""
        port = await self.site()
        made = context(True)
        made.set_alpn_protos([b"h2", b"http/1.1"])
        peer = Talking(made, True)
        answered = peer.answered
        await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(one(peer))
        while not peer.open:
            await deferLater(cast(IReactorTime, reactor), 0)
        self.assertEqual(peer.ssl.get_alpn_proto_negotiated(), b"h2")
        # RFC 9113, sections 3.4 and 4.1: the preface, and a frame of SETTINGS, which is type 4.
        peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
        await answered
        self.assertEqual(peer.received[3], 4)
        lost = peer.answered
        peer.transport.loseConnection()
        await lost

    async def test_no_protocol(self) -> None:
        """A site that has HTTP/2 alone is not for this client, and says so."""
        port = await self.site(":alpn=h2")
        error = await self.refusal(self.web(), port)
        self.assertEqual(error.alert, "no_application_protocol")

    async def test_kept_alive(self) -> None:
        """With a pool there is one connection for many requests."""
        port = await self.site()
        web = self.web(self.kept())
        for _ in range(3):
            await (await web.get(f"https://localhost:{port}/")).text()
        self.assertEqual(len({id(each) for each in self.page.transports}), 1)

    async def test_resumed(self) -> None:
        """Without one there are as many connections, and the sessions resume; so in a new agent."""
        port = await self.site()
        for _ in range(2):
            web = self.web()
            for _ in range(2):
                await (await web.get(f"https://localhost:{port}/")).text()
        self.assertEqual([each.resumed for each in self.page.facts], [False, True, True, True])
        self.assertEqual(len(self.sessions), 1)


def certificate_of(path: str) -> x509.Certificate:
    """The certificate in a file."""
    with open(path, "rb") as file:
        return x509.load_pem_x509_certificate(file.read())


class FactoryTests(SynchronousTestCase):
    """The factory of endpoints by itself."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()

    def factory(self, **options: Any) -> AgentEndpointFactory:
        options.setdefault("trust_roots", ROOTS)
        return AgentEndpointFactory(self.reactor, **options)

    def endpoint(self, uri: bytes, **options: Any) -> Any:
        """What an address leads to."""
        endpoint = self.factory(**options).endpointForURI(URI.fromBytes(uri))
        verifyObject(IStreamClientEndpoint, endpoint)
        return endpoint

    def test_interfaces(self) -> None:
        """It is what an agent takes, and what comes of it an agent and a treq client."""
        verifyObject(IAgentEndpointFactory, self.factory())
        self.assertIsInstance(agent(self.reactor), Agent)
        self.assertIsInstance(treq_client(self.reactor), HTTPClient)

    def test_https(self) -> None:
        """A host and port, verified, with HTTP/1.1."""
        endpoint = self.endpoint(b"https://www.example.org/", timeout=7, bind_address="10.0.0.1")
        self.assertIsInstance(endpoint, ClientEndpoint)
        options = endpoint.options
        self.assertEqual((options.host, options.verifies), (HOST, True))
        self.assertEqual(options.alpn, (b"http/1.1",))
        self.assertEqual(endpoint.timeout, 7)
        below = endpoint.endpoint
        self.assertEqual((below._hostBytes, below._port), (HOST.encode(), 443))
        self.assertEqual(below._bindAddress, ("10.0.0.1", 0))

    def test_addresses(self) -> None:
        """IPv4 and IPv6, for whom there are brackets in an address."""
        for uri, host in (
            (b"https://127.0.0.1:8443/", "127.0.0.1"),
            (b"https://[::1]:8443/", "::1"),
            (b"https://[::1]/", "::1"),
            (b"https://WWW.Example.ORG./", HOST),
        ):
            self.assertEqual(self.endpoint(uri).options.host, host)

    def test_http(self) -> None:
        """No TLS where none is asked for."""
        endpoint = self.endpoint(b"http://www.example.org/")
        self.assertIsInstance(endpoint, HostnameEndpoint)
        self.assertEqual(endpoint._port, 80)

    def test_other_scheme(self) -> None:
        """Nor anything else than those two; an agent's caller gets it as a failure."""
        for uri in (b"ftp://www.example.org/", b"wss://www.example.org/", b"www.example.org"):
            error = self.assertRaises(SchemeNotSupported, self.endpoint, uri)
            self.assertIn("is neither https: nor http:", str(error))
            requested = agent(self.reactor).request(b"GET", uri)
            self.failureResultOf(requested, SchemeNotSupported)

    def test_no_host(self) -> None:
        """What is no host fails as a connection does: no agent expects an exception there."""
        for uri in (b"https://a%20b/", b"https://:443/", b"https://a..b/"):
            requested = agent(self.reactor).request(b"GET", uri)
            failure = self.failureResultOf(requested)
            self.assertIsInstance(failure.value, ValueError, uri)

    def test_other_protocols(self) -> None:
        """Whoever knows better says what is offered."""
        self.assertEqual(self.endpoint(b"https://a/", alpn=()).options.alpn, ())
        self.assertEqual(self.endpoint(b"https://a/", alpn=(b"x",)).options.alpn, (b"x",))

    def test_mistakes(self) -> None:
        """They are told when the client is made, not at its first request."""
        for options, sentence in (
            ({"trust_roots": ()}, "trustRoots has no certificate"),
            ({"unsafe_skip_verification": True, "trust_roots": ROOTS}, "takes any certificate"),
            ({"server_name": "a"}, "server_name is one host's, and an agent connects to many"),
            ({"alpn": (b"",)}, "is no ALPN name"),
            ({"timeout": 0}, "timeout=0: this must be seconds above 0"),
        ):
            for make in (AgentEndpointFactory, agent, treq_client):
                made: Any = make
                error = self.assertRaises(ConfigurationError, made, self.reactor, **options)
                self.assertIn(sentence, str(error))
        error = self.assertRaises(TypeError, treq_client, self.reactor, trustroots=ROOTS)
        self.assertIn("trustroots", str(error))

    def test_many_hosts(self) -> None:
        """However many hosts: one context, and nothing kept of each."""
        factory = self.factory()
        contexts, made = set(), []
        for number in range(100):
            uri = URI.fromBytes(b"https://host%d.example/" % number)
            endpoint: Any = factory.endpointForURI(uri)
            contexts.add(endpoint.options._context)
            made.append(ref(endpoint.options))
            self.assertEqual(endpoint.options.host, f"host{number}.example")
        del endpoint
        gc.collect()
        self.assertEqual(len(contexts), 1)
        self.assertEqual([each() for each in made], [None] * 100)
