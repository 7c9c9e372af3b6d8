"""The PROXY header that a back end gets: what it tells of each client."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import alsoProvides

from tests.context_material import ROOTS, certified, serving, visiting
from tests.endpoint_material import Applications, EndpointCase
from tests.engines import on_both_engines
from tests.protocol_wire import MemoryConnection, MemorySocket
from tests.tls_material import DAY, HOST, NOW, TLS12, TLS13, Party, authority, client, ec_key
from twisted_bioconn.access import Rules, parse_rules
from twisted_bioconn.client_policy import ClientCertificate, ClientPolicy
from twisted_bioconn.context import SessionStore
from twisted_bioconn.port_options import PreambleOptions
from twisted_bioconn.proxy_protocol import (
    HeaderReader,
    ProxyAddress,
    ProxyHeader,
    ProxyTLS,
    TransportProtocol,
    dump_v2,
)
from twisted_bioconn.server.proxy_out import SendProxy, header_for, header_of_our_own
from twisted_bioconn.verify import Pin

V2S = (SendProxy.V2, SendProxy.V2_TLS, SendProxy.V2_TLS_CERTIFICATE)
FOUR = IPv4Address("TCP", "192.0.2.7", 56324), IPv4Address("TCP", "198.51.100.1", 443)
SIX = IPv6Address("TCP", "2001:db8::7", 56324), IPv6Address("TCP", "2001:db8::1", 443)
PATHS = UNIXAddress(None), UNIXAddress(b"/run/app.sock")


def read(header: bytes) -> ProxyHeader:
    reader = HeaderReader(1 << 17)
    found = reader.feed(header)
    assert found is not None and not reader.rest
    return found


def plain(peer: Any, host: Any) -> StringTransport:
    return StringTransport(host, peer)


class AddressTests(SynchronousTestCase):
    """Clients without TLS."""

    def test_v1(self) -> None:
        for addresses, line in (
            (FOUR, b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n"),
            (SIX, b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n"),
            (PATHS, b"PROXY UNKNOWN\r\n"),
        ):
            self.assertEqual(header_for(plain(*addresses), SendProxy.V1), line)

    def test_v2(self) -> None:
        for how in V2S:
            header = read(header_for(plain(*FOUR), how))
            self.assertEqual(
                header,
                ProxyHeader(
                    source=ProxyAddress("192.0.2.7", 56324),
                    destination=ProxyAddress("198.51.100.1", 443),
                ),
            )
            header = read(header_for(plain(*SIX), how))
            self.assertEqual(header.source, ProxyAddress("2001:db8::7", 56324))
            header = read(header_for(plain(*PATHS), how))
            self.assertEqual((header.source, header.destination), (b"", b"/run/app.sock"))
            self.assertIs(header.transport, TransportProtocol.STREAM)

    def test_interface_of_a_link_local_address(self) -> None:
        peer = IPv6Address("TCP", "fe80::1%eth0", 1)
        header = read(header_for(plain(peer, SIX[1]), SendProxy.V2))
        self.assertEqual(header.source, ProxyAddress("fe80::1", 1))

    def test_what_cannot_be_told(self) -> None:
        for peer, host, sentence in (
            (object(), FOUR[1], "cannot tell the address <object"),
            (FOUR[0], UNIXAddress(b"/run/app.sock"), "needs two addresses of the internet, or two"),
            (IPv4Address("TCP", "localhost", 1), FOUR[1], "cannot tell the host 'localhost'"),
            (UNIXAddress(b"/" + b"x" * 108), PATHS[1], "cannot tell the path"),
        ):
            for how in (SendProxy.V2, SendProxy.V2_TLS):
                with self.assertRaisesRegex(ValueError, sentence):
                    header_for(plain(peer, host), how)

    def test_tls_of_which_nothing_is_known(self) -> None:
        """A back end would believe that there was none."""
        transport = plain(*FOUR)
        alsoProvides(transport, ISSLTransport)
        header_for(transport, SendProxy.V2)
        with self.assertRaisesRegex(ValueError, "what was negotiated .* is not known"):
            header_for(transport, SendProxy.V2_TLS)

    def test_our_own(self) -> None:
        self.assertEqual(header_of_our_own(SendProxy.V1), b"PROXY UNKNOWN\r\n")
        for how in V2S:
            self.assertTrue(read(header_of_our_own(how)).is_local)

    def test_passed_on(self) -> None:
        """What a proxy before us has told, but for a checksum and what fills a header up."""
        transport: Any = plain(*FOUR)
        told = ((0x05, b"id"), (0x04, b"..."), (0x02, b"a.example"), (0x03, bytes(4)), (0xE5, b""))
        transport.proxyHeader = ProxyHeader(tlvs=told)
        for how in V2S:
            header = read(header_for(transport, how))
            self.assertEqual(header.tlvs, ((0x05, b"id"), (0x02, b"a.example"), (0xE5, b"")))
        self.assertTrue(header_for(transport, SendProxy.V1).startswith(b"PROXY TCP4 "))
        transport.proxyHeader = ProxyHeader(tlvs=((0xE5, bytes(40000)), (0xE6, bytes(40000))))
        with self.assertRaisesRegex(ValueError, "65535 are the most"):
            header_for(transport, SendProxy.V2)


@on_both_engines
class TLSTests(EndpointCase):
    """Clients with TLS."""

    def told(
        self, how: SendProxy, options: Any = None, visitor: Any = None, header: bytes = b""
    ) -> ProxyHeader:
        """What is told of this client."""
        self.theirs = Applications()
        preamble = PreambleOptions(proxies=(ip_network("127.0.0.1"),)) if header else None
        self.listen(self.theirs, options, preamble=preamble)
        done = self.client_endpoint(visitor).connect(Applications())
        if header:
            factory, _ = self.connector.attempts.pop()
            one, two = MemorySocket.pair()
            theirs = MemoryConnection(two, self.arrival(), self.clock)
            protocol = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 443))
            assert protocol is not None
            ours = MemoryConnection(one, protocol, self.clock)
            ours.write(header)
            ours.begin()
            theirs.begin()
            self.clock.settle()
        else:
            self.meet()
        visited = self.successResultOf(done)
        told = read(header_for(self.theirs.one.transport, how))
        visited.transport.loseConnection()  # type: ignore[attr-defined]
        self.clock.settle()
        return told

    def test_v2_tells_nothing_of_it(self) -> None:
        self.assertEqual(self.told(SendProxy.V2).tlvs, ())

    def test_without_a_certificate(self) -> None:
        for version, cipher in ((TLS12, "ECDHE-"), (TLS13, "TLS_")):
            header = self.told(
                SendProxy.V2_TLS,
                serving(alpn=[b"h2"], versions=(version, version)),
                visiting(alpn=[b"h2"]),
            )
            self.assertEqual((header.alpn, header.authority), (b"h2", HOST))
            tls = header.tls
            assert tls is not None and tls.cipher is not None
            self.assertTrue(tls.cipher.startswith(cipher))
            self.assertEqual(tls.version, "TLSv1.3" if version == TLS13 else "TLSv1.2")
            self.assertIsNotNone(tls.group)
            self.assertFalse(tls.verified or tls.shown_in_session)
            self.assertEqual((tls.common_name, tls.client_certificate), (None, None))

    def test_with_a_certificate(self) -> None:
        own = client()
        [name] = own.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        for how in (SendProxy.V2_TLS, SendProxy.V2_TLS_CERTIFICATE):
            header = self.told(
                how, serving(client_authorities=ROOTS), visiting(certificate=certified(own))
            )
            tls = header.tls
            assert tls is not None
            self.assertTrue(tls.verified and tls.shown_in_connection and tls.shown_in_session)
            self.assertEqual(tls.common_name, name.value)
            der = own.certificate.public_bytes(Encoding.DER)
            self.assertEqual(tls.client_certificate, None if how is SendProxy.V2_TLS else der)

    def test_resumed(self) -> None:
        """It showed its certificate in the connection before."""
        options = serving(client_authorities=ROOTS)
        sessions = SessionStore()
        told = [
            self.told(
                SendProxy.V2_TLS,
                options,
                visiting(certificate=certified(client()), sessions=sessions),
            ).tls
            for _ in range(2)
        ]
        self.assertTrue(all(each is not None and each.verified for each in told))
        self.assertEqual(
            [each.shown_in_connection for each in told if each is not None], [True, False]
        )
        self.assertTrue(all(each is not None and each.shown_in_session for each in told))

    def test_unverified(self) -> None:
        """Whose key is let in by its pin, is nobody who was verified."""
        own = client()
        rules: Rules = parse_rules(f"pin={Pin.of(own.certificate)}")
        policy = ClientPolicy(ClientCertificate.REQUEST, rules=rules)
        header = self.told(
            SendProxy.V2_TLS, serving(clients=policy), visiting(certificate=certified(own))
        )
        assert header.tls is not None
        self.assertFalse(header.tls.verified)
        self.assertTrue(header.tls.shown_in_session)

    def test_several_common_names(self) -> None:
        """The last one is told, by which the rules go too."""
        attributes = [
            x509.NameAttribute(NameOID.COMMON_NAME, "first"),
            x509.NameAttribute(NameOID.COMMON_NAME, "last"),
        ]
        issuer = authority()
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name(attributes))
            .issuer_name(issuer.certificate.subject)
            .public_key(ec_key(5).public_key())
            .serial_number(5)
            .not_valid_before(NOW - DAY)
            .not_valid_after(NOW + DAY)
            .sign(issuer.key, SHA256())
        )
        header = self.told(
            SendProxy.V2_TLS,
            serving(client_authorities=ROOTS),
            visiting(certificate=certified(Party(made, ec_key(5)))),
        )
        assert header.tls is not None
        self.assertEqual(header.tls.common_name, "last")

    def test_after_a_proxy(self) -> None:
        """Its addresses, and of its TLVs those that are not ours to tell."""
        theirs = ProxyHeader(
            source=ProxyAddress("192.0.2.7", 56324),
            destination=ProxyAddress("198.51.100.1", 443),
            tlvs=(
                (0x01, b"http/1.1"),
                (0x02, b"other.example"),
                (0x20, b"\0\0\0\0\0"),
                (0x05, b"id"),
                (0xE0, b"custom"),
            ),
        )
        header = self.told(SendProxy.V2_TLS, header=dump_v2(theirs, crc32c=True))
        self.assertEqual((header.source, header.destination), (theirs.source, theirs.destination))
        self.assertEqual(header.authority, HOST)
        self.assertIsInstance(header.tls, ProxyTLS)
        self.assertEqual([number for number, _ in header.tlvs], [0x02, 0x20, 0x05, 0xE0])
        header = self.told(SendProxy.V2, header=dump_v2(theirs))
        self.assertEqual(header.tlvs, theirs.tlvs)
