"""Tests for L{twisted_bioconn.connector}: sessions that are resumed."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from OpenSSL import SSL, crypto

from tests.engines import EngineCase, on_both_engines
from tests.faults import DEMAND, flush
from tests.tls_material import (
    TLS12,
    TLS13,
    VERSIONS,
    Party,
    authority,
    client,
    client_connection,
    context,
    pair,
    server,
    server_connection,
)
from twisted_bioconn import _openssl
from twisted_bioconn._verification import Check
from twisted_bioconn.connector import Connector, State
from twisted_bioconn.errors import PeerError
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.testing import Loopback
from twisted_bioconn.verify import CertificateRefused, TrustStore


class ResumingCase(EngineCase):
    """A client and a server that meet again and again."""

    def contexts(
        self, version: int, own: Party | None = None, **options: bytes
    ) -> tuple[SSL.Context, SSL.Context]:
        trusted = [authority().certificate]
        versions = (version, version)
        return (
            context(True, own=own, trusted=trusted, versions=versions),
            context(False, own=server(), trusted=trusted, versions=versions, **options),
        )

    def meet(
        self,
        contexts: tuple[SSL.Context, SSL.Context],
        session: SSL.Session | None = None,
        server_checks: tuple[Check | None, Check | None] | None = None,
        client_checks: tuple[Check | None, Check | None] | None = None,
        split: int | None = None,
    ) -> Loopback:
        """
        Two ends that have exchanged a few bytes.

        @param server_checks: with them the server demands a client certificate; the second is
            asked of a resumed session.
        """
        connections = client_connection(contexts[0]), server_connection(contexts[1])
        if session is not None:
            connections[0].set_session(session)
        if client_checks is not None:
            _openssl.set_verification(connections[0], SSL.VERIFY_PEER, *client_checks)
        if server_checks is not None:
            _openssl.set_verification(connections[1], DEMAND, *server_checks)
        loop = self.connectors(*connections)
        loop.to_client.split = loop.to_server.split = split
        loop.pump()
        if loop.server.state is State.OPEN:
            loop.server.write(b"hello")
            loop.pump()
        return loop

    def session(self, loop: Loopback) -> SSL.Session:
        """The session to be resumed, after a clean end."""
        session = loop.client.connection.get_session()
        assert session is not None
        loop.client.forget()
        loop.server.forget()
        return session

    def facts(self, connector: Connector) -> Negotiated:
        facts = connector.negotiated
        assert facts is not None
        return facts


@on_both_engines
class ResumptionTests(ResumingCase):
    """Both ends know whether they resumed."""

    def test_full_and_resumed(self) -> None:
        """Without and with client certificates, in both versions, however it is delivered."""
        for version in VERSIONS:
            for own in (None, client()):
                for split in (None, 1, 7):
                    contexts = self.contexts(version, own)
                    checks = None if own is None else (None, None)
                    first = self.meet(contexts, None, checks, (None, None), split)
                    again = self.meet(contexts, self.session(first), checks, (None, None), split)
                    for loop, resumed in ((first, False), (again, True)):
                        for connector in (loop.client, loop.server):
                            self.assertIs(connector.state, State.OPEN)
                            self.assertEqual(self.facts(connector).resumed, resumed)
                        self.assertEqual(loop.received_by_client, b"hello")
                    leaf = self.facts(again.client).peer_certificate
                    self.assertEqual(leaf, server().certificate)
                    chain = self.facts(again.server).peer_chain
                    self.assertEqual(chain[:1], () if own is None else (own.certificate,))

    def test_refused_session(self) -> None:
        """A server that does not know the session, or does not want it, makes a new one."""
        for version in VERSIONS:
            contexts = self.contexts(version)
            session = self.session(self.meet(contexts))
            others = self.contexts(version, session_id=b"others")
            loop = self.meet((contexts[0], others[1]), session)
            self.assertFalse(self.facts(loop.client).resumed)
            self.assertFalse(self.facts(loop.server).resumed)

    def test_no_tickets(self) -> None:
        """TLS 1.2 with the session id alone: RFC 5246, section 7.3."""
        contexts = self.contexts(TLS12)
        contexts[1].set_options(SSL.OP_NO_TICKET)
        session = self.session(self.meet(contexts))
        loop = self.meet(contexts, session)
        self.assertTrue(self.facts(loop.client).resumed)
        self.assertTrue(self.facts(loop.server).resumed)

    def test_new_ticket(self) -> None:
        """TLS 1.2 with a ticket that is renewed on the way: RFC 5077, section 3.1."""
        contexts = self.contexts(TLS12)
        session = self.session(self.meet(contexts))
        for _ in range(3):
            loop = self.meet(contexts, session)
            self.assertTrue(self.facts(loop.client).resumed)
            session = self.session(loop)

    def test_retried_hello(self) -> None:
        """A HelloRetryRequest (RFC 8446, section 4.1.4) looks like a server hello and is none."""
        if self.public_api:
            # The twin cannot set groups; OpenSSL's other way to a retry is public nowhere.
            self.patch(_openssl, "set_groups", _openssl._fast_set_groups)
        for resuming in (False, True):
            contexts = self.contexts(TLS13)
            _openssl.set_groups(contexts[0], ["X25519", "secp384r1"])
            _openssl.set_groups(contexts[1], ["secp384r1"])
            session = self.session(self.meet(contexts)) if resuming else None
            for split in (None, 1):
                loop = self.meet(contexts, session, split=split)
                # Two hellos of the client's.
                self.assertEqual(self.facts(loop.client).group, "secp384r1")
                self.assertEqual(self.facts(loop.client).resumed, resuming)
                self.assertEqual(self.facts(loop.server).resumed, resuming)

    def test_cut_connection_is_not_resumed(self) -> None:
        """A session whose connection failed is not offered by OpenSSL again."""
        for version in VERSIONS:
            contexts = self.contexts(version)
            loop = self.meet(contexts)
            session = loop.client.connection.get_session()
            loop.to_client.flip(loop.to_client.sent + 20)
            loop.server.write(b"damaged")
            loop.pump()
            self.assertIs(loop.client.state, State.FAILED)
            loop.client.forget()
            again = self.meet(contexts, session)
            self.assertFalse(self.facts(again.client).resumed)

    def test_facts_of_a_resumption(self) -> None:
        """What there is to know of it."""
        for version in VERSIONS:
            contexts = self.contexts(version)
            first = self.meet(contexts)
            facts = self.facts(first.client)
            again = self.facts(self.meet(contexts, self.session(first)).client)
            self.assertEqual(again.version, facts.version)
            self.assertEqual(again.cipher, facts.cipher)
            self.assertEqual(again.peer_chain, facts.peer_chain)
            self.assertEqual(again.group is None, version == TLS12)


@on_both_engines
class JudgedAgainTests(ResumingCase):
    """OpenSSL verifies nothing in a resumption, so that we do."""

    def test_whole_and_again(self) -> None:
        """A full handshake asks the one check, and a resumed one the other, once each."""
        asked: list[tuple[str, int]] = []

        def whole(chain: Sequence[x509.Certificate]) -> None:
            asked.append(("whole", len(chain)))

        def again(chain: Sequence[x509.Certificate]) -> None:
            asked.append(("again", len(chain)))

        for version in VERSIONS:
            for split in (None, 1):
                contexts = self.contexts(version, client())
                session = self.session(self.meet(contexts, None, (whole, again), None, split))
                self.meet(contexts, session, (whole, again), None, split)
                self.assertEqual(asked, [("whole", 2), ("again", 1)])
                asked.clear()
                session = self.session(self.meet(contexts, None, (None, None), (whole, again)))
                self.meet(contexts, session, (None, None), (whole, again), split)
                self.assertEqual([name for name, _ in asked], ["whole", "again"])
                asked.clear()

    def test_no_client_certificate(self) -> None:
        """There is nobody to be judged where none was shown."""

        def never(chain: Sequence[x509.Certificate]) -> None:
            raise AssertionError

        for version in VERSIONS:
            contexts = self.contexts(version)
            session = None
            for resumed in (False, True):
                connections = client_connection(contexts[0]), server_connection(contexts[1])
                if session is not None:
                    connections[0].set_session(session)
                _openssl.set_verification(connections[1], SSL.VERIFY_PEER, never)
                loop = self.connectors(*connections)
                loop.pump()
                loop.server.write(b"hello")
                loop.pump()
                self.assertEqual(self.facts(loop.server).resumed, resumed)
                session = self.session(loop)

    def test_refused(self) -> None:
        """
        A session that is refused now fails, with the reason; OpenSSL has no way to send an alert
        any more, so that none is named.
        """

        def refuse(chain: Sequence[x509.Certificate]) -> None:
            raise CertificateRefused("no longer let in", 23)

        for version in VERSIONS:
            contexts = self.contexts(version, client())
            session = self.session(self.meet(contexts, None, (None, refuse)))
            loop = self.meet(contexts, session, (None, refuse))
            assert loop.server_error is not None
            self.assertEqual(str(loop.server_error), "no longer let in")
            self.assertEqual((loop.server_error.alert, loop.server_error.direction), (None, None))
            self.assertIs(loop.client_error, None)
            self.assertIsInstance(loop.server.refusal, CertificateRefused)
            session = self.session(self.meet(contexts, None, None, (None, refuse)))
            loop = self.meet(contexts, session, None, (None, refuse))
            assert loop.client_error is not None
            self.assertEqual(str(loop.client_error), "no longer let in")
            self.assertIs(loop.client_error.alert, None)

    def test_same_check(self) -> None:
        """Where there is one check, it is asked of both."""
        asked: list[int] = []
        for version in VERSIONS:
            contexts = self.contexts(version)
            check = lambda chain: asked.append(len(chain))  # noqa: E731
            session = self.session(self.meet(contexts, None, None, (check, None)))
            self.meet(contexts, session, None, (check, None))
            self.assertEqual(len(asked), 2)
            asked.clear()

    def test_trust_store(self) -> None:
        """What no longer verifies is refused: here nobody trusts the authority any more."""
        trusting, strangers = crypto.X509Store(), crypto.X509Store()
        trusting.add_cert(crypto.X509.from_cryptography(authority().certificate))
        strangers.add_cert(crypto.X509.from_cryptography(authority("nobody").certificate))
        for version in VERSIONS:
            contexts = self.contexts(version)
            session = self.session(self.meet(contexts))
            for store in (trusting, strangers):
                checks = None, TrustStore(store).verify
                loop = self.meet(contexts, session, None, checks)
                if store is trusting:
                    self.assertTrue(self.facts(loop.client).resumed)
                    session = self.session(loop)
                else:
                    self.assertIn(
                        "the certificate of CN=server does not verify any more: its ",
                        str(loop.client_error),
                    )

    def test_slow_hello(self) -> None:
        """A server cannot keep its session from being judged by how it sends its hello."""

        def refuse(chain: Sequence[x509.Certificate]) -> None:
            raise CertificateRefused("no longer let in")

        for version in VERSIONS:
            contexts = self.contexts(version)
            session = self.session(self.meet(contexts))
            connection = client_connection(contexts[0])
            connection.set_session(session)
            _openssl.set_verification(connection, SSL.VERIFY_PEER, None, refuse)
            loop = self.connectors(connection, server_connection(contexts[1]))
            loop.server.feed(loop.client.take())
            flight = flush(loop.server)
            # A warning first (TLS 1.2's unrecognized_name), then piece by piece.
            warning = b"\x15\x03\x03\x00\x02\x01\x70" if version == TLS12 else b""
            loop.to_client.put(warning)
            loop.to_client.split = (1, 4, 2)
            loop.to_client.put(flight)
            loop.pump()
            self.assertEqual(str(loop.client_error), "no longer let in")


@on_both_engines
class KeptSessionTests(ResumingCase):
    """A client's session is handed over as soon as it is worth keeping."""

    def kept(self, version: int) -> tuple[Loopback, list[SSL.Session]]:
        kept: list[SSL.Session] = []
        contexts = self.contexts(version)
        connection = client_connection(contexts[0])
        _openssl.keep_session(connection, kept.append)
        loop = self.connectors(connection, server_connection(contexts[1]))
        loop.pump()
        return loop, kept

    def test_with_the_first_bytes(self) -> None:
        """It comes with the first plaintext, once, and can be resumed."""
        for version in VERSIONS:
            loop, kept = self.kept(version)
            self.assertEqual(kept, [])
            for _ in range(3):
                loop.server.write(b"bytes")
                loop.pump()
            self.assertEqual(len(kept), 1)
            loop.client.forget()
            self.assertEqual(len(kept), 1)
            again = client_connection(loop.client.connection.get_context())
            again.set_session(kept[0])
            other = server_connection(loop.server.connection.get_context())
            loop = self.connectors(again, other)
            loop.pump()
            self.assertTrue(self.facts(loop.client).resumed)

    def test_without_bytes(self) -> None:
        """It comes at the end, where the server said nothing."""
        for version in VERSIONS:
            loop, kept = self.kept(version)
            loop.client.forget()
            self.assertEqual(len(kept), 1)

    def test_none_to_keep(self) -> None:
        """OpenSSL may have none."""
        for version in VERSIONS:
            loop, kept = self.kept(version)
            self.patch(SSL.Connection, "get_session", lambda connection: None)
            loop.client.forget()
            self.assertEqual(kept, [])

    def test_of_a_failure(self) -> None:
        """A connection that failed has none to keep, though it had bytes."""
        for version in VERSIONS:
            loop, kept = self.kept(version)
            loop.server.write(b"good")
            flight = flush(loop.server)
            loop.server.write(b"bad")
            damaged = bytearray(flush(loop.server))
            damaged[-1] ^= 1
            loop.client.feed(flight + bytes(damaged))
            self.assertEqual(loop.client.read(), b"good")
            self.assertRaises(PeerError, loop.client.read)
            loop.client.forget()
            self.assertEqual(kept, [])

    def test_before_the_handshake(self) -> None:
        """Nor has one that never opened."""
        kept: list[SSL.Session] = []
        connection, _ = pair()
        _openssl.keep_session(connection, kept.append)
        connector = Connector(connection, True)
        connector.forget()
        self.assertEqual(kept, [])
