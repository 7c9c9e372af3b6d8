"""
Twisted's own option objects, with their two faults mended: a host name check that lets a
certificate pass which it cannot parse, and an ALPN callback that ends the handshake of a server
whose application has no protocol names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtensionOID, NameOID
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from twisted.internet import _sslverify, ssl
from twisted.internet.interfaces import IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from zope.interface import implementer

from tests.protocol_material import (
    TLS12,
    TLS13,
    App,
    Link,
    ListeningApp,
    ProtocolCase,
    authority,
    client_context,
    client_options,
    holds_on_stock,
    issued,
    on_every_engine,
    server_context,
    server_options,
    trust,
)
from twisted_bioconn import _creators, verify
from twisted_bioconn._creators import acceptable_protocols, setup_for_alpn

SAN = ExtensionOID.SUBJECT_ALTERNATIVE_NAME


@cache
def signed(extension: x509.ExtensionType | None) -> ssl.PrivateCertificate:
    """A certificate of the authority's for localhost, with this extension for its names."""
    ca_key = serialization.load_pem_private_key(authority().private_key_pem.bytes(), None)
    ca = x509.load_pem_x509_certificate(authority().cert_pem.bytes())
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ca.not_valid_before_utc)
        .not_valid_after(ca.not_valid_after_utc)
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    pem = builder.sign(ca_key, SHA256()).public_bytes(serialization.Encoding.PEM)
    pem += key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    loaded: ssl.PrivateCertificate = ssl.PrivateCertificate.loadPEM(pem)
    return loaded


def dns(*names: str) -> x509.SubjectAlternativeName:
    """Host names, whatever they are."""
    return x509.SubjectAlternativeName([x509.DNSName(name) for name in names])


def raw(der: str) -> x509.UnrecognizedExtension:
    """The extension's bytes, in hexadecimal."""
    return x509.UnrecognizedExtension(SAN, bytes.fromhex(der))


@on_every_engine
class VerificationTests(ProtocolCase):
    """Clients with what C{optionsForClientTLS} makes."""

    def connect(
        self, own: ssl.PrivateCertificate, name: str = "localhost", version: int = TLS13
    ) -> Link:
        """A client connects to a server with this certificate, and has a secret for it."""
        app = ListeningApp(made=lambda app: app.transport.write(b"secret"))
        return self.link(
            app,
            client=True,
            options=client_options(name),
            context=server_context(version, own),
        )

    def assertRefused(self, own: ssl.PrivateCertificate, name: str = "localhost") -> None:
        """A server with this certificate gets nothing but an alert, in TLS 1.3 and 1.2."""
        for version in (TLS13, TLS12):
            link = self.connect(own, name, version)
            self.assertEqual(link.app.did, ["made", "lost"])
            self.assertTrue(link.app.reason.check(VerificationError), link.app.reason)
            self.assertEqual(link.peer.received, b"")
            self.assertIn("alert", link.peer.alert)

    @holds_on_stock
    def test_good(self) -> None:
        """The right certificate is accepted, by name, by address, and by a wildcard."""
        for own, name in (
            (issued("localhost"), "localhost"),
            (issued("127.0.0.1"), "127.0.0.1"),
            (issued("::1"), "::1"),
            (issued("*.example.org"), "www.example.org"),
        ):
            for version in (TLS13, TLS12):
                link = self.connect(own, name, version)
                self.assertEqual(link.app.did, ["made", "handshake"])
                self.assertEqual(link.peer.received, b"secret")

    def test_wrong_name(self) -> None:
        """One for another name is refused; the name of its subject is none of its names."""
        self.assertRefused(issued("elsewhere.example"))
        self.assertRefused(signed(dns("elsewhere.example")))
        self.assertRefused(issued("localhost"), "127.0.0.1")

    def test_no_name(self) -> None:
        """One with no subject alternative name is refused."""
        self.assertRefused(signed(None))
        self.assertRefused(signed(None), "127.0.0.1")

    def test_malformed_name(self) -> None:
        """So is one with a name that service_identity finds malformed, right name or not."""
        for names in (
            ["*.*.example.org"],
            ["*"],
            ["*.org"],
            ["www.*.example.org"],
            ["127.0.0.1"],
            [""],
            ["localhost", "*.*.example.org"],
        ):
            self.assertRefused(signed(dns(*names)))

    def test_malformed_bytes(self) -> None:
        """And one whose names cannot be parsed: an address of five bytes."""
        self.assertRefused(signed(raw("30 07 87 05 7f00000101")))
        self.assertRefused(signed(raw("30 07 87 05 7f00000101")), "127.0.0.1")

    def test_malformed_extension(self) -> None:
        """Bytes that OpenSSL cannot parse either it refuses by itself, and nothing is logged."""
        for der in ("30 02 82 05", "05 00", ""):
            for version in (TLS13, TLS12):
                link = self.connect(signed(raw(der)), version=version)
                self.assertEqual(link.app.did, ["made", "lost"])
                self.assertEqual(link.peer.received, b"")
                self.assertIsNotNone(link.peer.error)

    def test_every_exception(self) -> None:
        """Whatever the check of the name raises is a refusal."""
        verify._verify_host.cache_clear()
        for error in (
            VerificationError([]),
            CertificateError("malformed"),
            ValueError("not parsed"),
            KeyError("x"),
            RecursionError(),
            MemoryError(),
            SystemExit(1),
            KeyboardInterrupt(),
        ):

            def broken(*_: object, error: BaseException = error, **__: object) -> None:
                raise error

            for module, names in (
                (verify, ["verify_certificate_hostname", "verify_certificate_ip_address"]),
                (_sslverify, ["verify_service_identity"]),
            ):
                for name in names:
                    self.patch(module, name, broken)
            self.assertRefused(issued("localhost"))
            self.assertRefused(issued("127.0.0.1"), "127.0.0.1")

    def test_not_trusted(self) -> None:
        """One of an authority that is not trusted is refused with the alert that says so."""
        other = _other_authority()
        link = self.connect(other)
        self.assertEqual(link.app.did, ["made", "lost"])
        self.assertEqual(link.app.reason.type, SSL.Error)
        self.assertIn("unknown ca", link.peer.alert)
        self.assertIn("trusted", str(link.app.reason.value))

    @holds_on_stock
    def test_server_name(self) -> None:
        """The name is sent, but no address is, and none where that is not wanted."""
        for name, options, expected in (
            ("localhost", {}, b"localhost"),
            ("127.0.0.1", {}, None),
            ("localhost", {"sendServerName": False}, None),
        ):
            link = self.link(
                client=True,
                options=client_options(name, **options),
                context=server_context(None, issued("localhost", "127.0.0.1")),
            )
            self.assertTrue(link.peer.open)
            self.assertEqual(link.peer.ssl.get_servername(), expected)

    @holds_on_stock
    def test_own_way_to_verify(self) -> None:
        """A subclass that verifies in a way of its own, or not at all, is left to it."""

        class Trusting(_sslverify.ClientTLSOptions):
            def clientConnectionForTLS(self, protocol: Any) -> SSL.Connection:
                connection = super().clientConnectionForTLS(protocol)
                connection.set_verify(SSL.VERIFY_NONE, lambda *_: True)
                return connection

        made = client_options()
        link = self.link(
            ListeningApp(),
            client=True,
            options=Trusting(made._createConnection, "localhost"),
            context=server_context(TLS13, issued("elsewhere.example")),
        )
        self.assertEqual(link.app.did, ["made", "handshake"])

    def test_subclass_that_verifies_as_its_parent(self) -> None:
        """One that changes something else is mended as its parent is."""

        class Named(_sslverify.ClientTLSOptions):
            name = "whatever"

        made = client_options()
        link = self.link(
            ListeningApp(),
            client=True,
            options=Named(made._createConnection, "localhost"),
            context=server_context(TLS13, signed(None)),
        )
        self.assertEqual(link.app.did, ["made", "lost"])


@cache
def _other_authority() -> ssl.PrivateCertificate:
    """A certificate for localhost of an authority that nobody trusts."""
    pem = trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.bytes()
    loaded: ssl.PrivateCertificate = ssl.PrivateCertificate.loadPEM(pem)
    return loaded


@implementer(IProtocolNegotiationFactory)
class Naming(Factory[App]):
    """An application whose protocols have names."""

    def __init__(self, app: App, *names: bytes) -> None:
        self.app = app
        self.names = names

    def buildProtocol(self, addr: object) -> App:
        return self.app

    def acceptableProtocols(self) -> list[bytes]:
        return list(self.names)


@on_every_engine
class ALPNTests(ProtocolCase):
    """Servers with C{CertificateOptions}, and clients that offer protocols."""

    def offer(
        self,
        *offered: bytes,
        names: Sequence[bytes] = (),
        options: Any = None,
        version: int = TLS13,
    ) -> Link:
        """A client offers protocols to an application that has these names."""
        context = client_context(version)
        context.set_alpn_protos(list(offered))
        link = self.link(
            ListeningApp(), begin=False, context=context, options=options or server_options()
        )
        if names:
            link.factory.wrappedFactory = Naming(link.app, *names)
        link.transport.begin()
        link.wire.begin()
        link.settle()
        return link

    def assertAgreed(self, link: Link, name: bytes | None) -> None:
        """The handshake is done, and agreed on this protocol."""
        self.assertEqual(link.app.did, ["made", "handshake"])
        self.assertEqual(link.tls.negotiatedProtocol, name)
        self.assertEqual(link.peer.ssl.get_alpn_proto_negotiated(), name or b"")

    def test_no_names(self) -> None:
        """A server whose application names none goes on without."""
        for version in (TLS13, TLS12):
            self.assertAgreed(self.offer(b"h2", b"http/1.1", version=version), None)

    def test_no_names_and_a_context_from_before(self) -> None:
        """Also where the context was made before, or used, or belongs to a stock factory too."""
        options = server_options()
        context = options.getContext()
        self.assertAgreed(self.offer(b"h2", options=options), None)
        options = server_options()
        context = options.getContext()
        SSL.Connection(context)
        link = self.offer(b"h2", options=options)
        self.assertAgreed(link, None)
        self.assertIs(link.tls.getHandle().get_context(), context)
        self.assertAgreed(self.offer(b"h2", options=options), None)

    @holds_on_stock
    def test_nothing_offered(self) -> None:
        """A client that offers none gets a connection, whatever the names."""
        options = server_options(acceptableProtocols=[b"h2"])
        link = self.link(ListeningApp(), options=options)
        self.assertAgreed(link, None)

    @holds_on_stock
    def test_choice(self) -> None:
        """The application's names come first, then those of the options, each in its order."""
        options = server_options(acceptableProtocols=[b"a", b"b"])
        self.assertAgreed(self.offer(b"x", b"b", b"a", options=options), b"a")
        self.assertAgreed(self.offer(b"b", b"c", options=options), b"b")
        self.assertAgreed(self.offer(b"a", b"c", names=[b"d", b"c"], options=options), b"c")
        self.assertAgreed(self.offer(b"b", names=[b"c"], options=options), b"b")
        self.assertAgreed(self.offer(b"h2", names=[b"h2"]), b"h2")

    def test_none_in_common(self) -> None:
        """Names on both sides and none in common: the alert that is made for it."""
        for names, options in (
            ([b"h2"], server_options()),
            ([], server_options(acceptableProtocols=[b"h2"])),
        ):
            for version in (TLS13, TLS12):
                link = self.offer(b"smtp", names=names, options=options, version=version)
                self.assertIn("no application protocol", link.peer.alert)
                self.assertEqual(link.app.did, ["made", "lost"])
                self.assertEqual(link.app.reason.type, SSL.Error)
                self.assertIn("no application protocol", str(link.app.reason.value.args))

    @holds_on_stock
    def test_context_keeps_what_it_was_told(self) -> None:
        """A context that its owner has changed is not thrown away."""
        options = server_options()
        told = []
        options.getContext().set_info_callback(lambda *_: told.append(1))
        link = self.link(ListeningApp(), options=options)
        self.assertEqual(link.app.did, ["made", "handshake"])
        self.assertTrue(told)

    @holds_on_stock
    def test_stand_in_for_a_context(self) -> None:
        """What some test has in the place of a context is told by its own method."""
        told: list[object] = []

        class StandIn:
            """No more of a context than Twisted's own tests have."""

            set_alpn_select_callback = told.append

        setup_for_alpn(StandIn(), [b"h2"])  # type: ignore[arg-type]
        self.assertEqual(len(told), 1)

    def test_contexts_of_other_names(self) -> None:
        """
        With ours in the place of Twisted's function the contexts that options switch to by the
        server's name are mended too.
        """
        if self.factory_class.__module__.startswith("twisted_bioconn"):
            self.patch(_sslverify, "setupForALPN", setup_for_alpn)
        inner = server_options()
        options = server_options(contextForServerName=lambda name: inner.getContext())
        self.assertAgreed(self.offer(b"h2", options=options), None)
        with_names = server_options(acceptableProtocols=[b"x"])
        options = server_options(contextForServerName=lambda name: with_names.getContext())
        self.assertAgreed(self.offer(b"x", options=options), b"x")

    @holds_on_stock
    def test_client(self) -> None:
        """A client offers what its application and its options name."""
        context = server_context()
        heard: list[list[bytes]] = []

        def select(_: SSL.Connection, offered: list[bytes]) -> bytes:
            heard.append(offered)
            return offered[-1]

        context.set_alpn_select_callback(select)
        link = self.link(
            client=True,
            context=context,
            begin=False,
            options=client_options(acceptableProtocols=[b"b"]),
        )
        link.factory.wrappedFactory = Naming(link.app, b"a")
        link.transport.begin()
        link.wire.begin()
        link.settle()
        self.assertEqual(heard, [[b"a", b"b"]])
        self.assertEqual(link.tls.negotiatedProtocol, b"b")


class NameTests(ProtocolCase):
    """Where the names come from."""

    def test_no_factory(self) -> None:
        """A protocol with no factory, or one that wraps none, as after startTLS, has none."""
        link = self.link(begin=False)
        self.assertEqual(acceptable_protocols(None), ())
        self.assertEqual(acceptable_protocols(link.tls, [b"x"]), (b"x",))
        link.factory.wrappedFactory = None
        self.assertEqual(acceptable_protocols(link.tls), ())

    def test_each_once(self) -> None:
        """A name in both places is there once."""
        link = self.link(begin=False)
        link.factory.wrappedFactory = Naming(link.app, b"a", b"b")
        self.assertEqual(acceptable_protocols(link.tls, [b"b", b"c"]), (b"a", b"b", b"c"))

    def test_others(self) -> None:
        """What makes connections in any other way is left to it."""

        def creator(protocol: Any) -> SSL.Connection:
            raise NotImplementedError

        for options in (object(), trust()):
            self.assertIs(_creators.connection_creator(creator, options), creator)
