"""Tests for L{twisted_bioconn.connector}: what is raised inside OpenSSL's callbacks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto

from tests.context_case import ContextCase
from tests.engines import on_both_engines
from tests.faults import client_of, meet, server_of
from tests.tls_material import (
    TLS13,
    VERSIONS,
    authority,
    client,
    client_connection,
    context,
    of_version,
    pair,
    server,
    server_connection,
    stranger,
)
from twisted_bioconn import _openssl
from twisted_bioconn.connector import Connector, State
from twisted_bioconn.errors import Direction, PeerError
from twisted_bioconn.testing import Loopback

DEMAND = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT


@on_both_engines
class RaisingCallbackTests(ContextCase):
    """A callback that raises fails the connection, says so, and harms no other connection."""

    def refusal(self, loop: Loopback, connector: Connector) -> PeerError:
        loop.pump()
        self.assertIs(connector.state, State.FAILED)
        self.assertFalse(connector.inside_openssl)
        assert connector.error is not None
        return connector.error

    def test_alpn(self) -> None:
        """What the choice of an application protocol raises."""

        def choose(connection: SSL.Connection, offered: list[bytes]) -> bytes:
            raise KeyError("no such thing")

        for version in VERSIONS:
            contexts = self.contexts(version)
            contexts[0].set_alpn_protos([b"h2"])
            contexts[1].set_alpn_select_callback(choose)
            loop = self.meet(contexts)
            error = self.refusal(loop, loop.server)
            self.assertEqual(error.sentence, "a callback of ours failed: 'no such thing'")
            assert loop.client_error is not None
            self.assertEqual(error.alert, loop.client_error.alert)

    def test_alpn_with_no_words(self) -> None:
        """An exception that says nothing is called by its name."""

        def choose(connection: SSL.Connection, offered: list[bytes]) -> bytes:
            raise NotImplementedError

        contexts = self.contexts(TLS13)
        contexts[0].set_alpn_protos([b"h2"])
        contexts[1].set_alpn_select_callback(choose)
        loop = self.meet(contexts)
        error = self.refusal(loop, loop.server)
        self.assertEqual(error.sentence, "a callback of ours failed: NotImplementedError")

    def test_cause(self) -> None:
        """What was raised is the cause of what we raise."""
        boom = ValueError("boom")

        def choose(connection: SSL.Connection, offered: list[bytes]) -> bytes:
            raise boom

        contexts = self.contexts(TLS13)
        contexts[0].set_alpn_protos([b"h2"])
        contexts[1].set_alpn_select_callback(choose)
        loop = self.meet(contexts)
        error = self.assertRaises(PeerError, loop.server.feed, loop.client.take())
        self.assertIs(error.__cause__, boom)

    def test_peer_error(self) -> None:
        """A callback may raise an error of ours, with its own sentence."""

        def choose(connection: SSL.Connection, offered: list[bytes]) -> bytes:
            raise PeerError("not today", "access_denied", Direction.SENT)

        contexts = self.contexts(TLS13)
        contexts[0].set_alpn_protos([b"h2"])
        contexts[1].set_alpn_select_callback(choose)
        loop = self.meet(contexts)
        error = self.refusal(loop, loop.server)
        self.assertEqual(str(error), "not today (alert access_denied, sent)")

    def test_server_name(self) -> None:
        """What the choice of a certificate raises; pyOpenSSL prints it, and the peer is told."""

        def choose(connection: SSL.Connection) -> None:
            raise KeyError(connection.get_servername())

        printed: list[Any] = []
        self.patch(sys, "excepthook", lambda *what: printed.append(what))
        for version in VERSIONS:
            contexts = self.contexts(version)
            contexts[1].set_tlsext_servername_callback(choose)
            loop = self.meet(contexts)
            error = self.refusal(loop, loop.server)
            self.assertEqual(error.sentence, "the lookup of a certificate failed")
            self.assertEqual(error.alert, "unrecognized_name")
            assert loop.client_error is not None
            self.assertEqual(loop.client_error.alert, "unrecognized_name")
        self.assertEqual(len(printed), 2)

    def test_verify_callback_of_a_context(self) -> None:
        """A verify callback of the user's own that raises."""

        def verify(*_: object) -> bool:
            raise ValueError("cannot say")

        for version in VERSIONS:
            contexts = self.contexts(version)
            contexts[0].set_verify(SSL.VERIFY_PEER, verify)
            loop = self.meet(contexts)
            error = self.refusal(loop, loop.client)
            self.assertEqual(error.sentence, "a callback of ours failed: cannot say")
            assert loop.server_error is not None
            self.assertEqual(error.alert, loop.server_error.alert)

    def test_check(self) -> None:
        """Whatever a check raises is a refusal, whether or not it is an Exception."""

        class Odd(BaseException):
            """Nothing that anybody catches."""

        for failure in (ValueError("odd"), Odd("odd"), KeyboardInterrupt("odd"), SSL.Error("odd")):
            for version in VERSIONS:

                def check(_: Sequence[x509.Certificate], failure: BaseException = failure) -> None:
                    raise failure

                client_, server_ = pair(version)
                _openssl.set_verification(client_, SSL.VERIFY_PEER, check)
                loop = self.connectors(client_, server_)
                error = self.refusal(loop, loop.client)
                self.assertEqual(error.sentence, "the certificate of CN=server was refused: odd")
                self.assertIs(loop.client.refusal, failure)

    def test_check_of_what_openssl_refuses(self) -> None:
        """A check that is shown an untrusted leaf too gives its reason, and the right alert."""

        class Shown:
            """Wants to see all leaves, and refuses them."""

            even_if_untrusted = True

            def __call__(self, chain: Sequence[x509.Certificate]) -> None:
                raise ValueError("mine")

        for version in VERSIONS:
            # Encrypted in TLS 1.3, so that it is not read off the wire.
            loop = meet(client_of(version, stranger()), server_of(version), server_check=Shown())
            error = self.refusal(loop, loop.server)
            self.assertEqual(error.sentence, "the certificate of CN=stranger was refused: mine")
            assert loop.client_error is not None
            self.assertEqual(error.alert, loop.client_error.alert)
            self.assertEqual(error.alert, "unknown_ca" if self.public_api else "bad_certificate")

    def test_check_with_a_number_that_is_none(self) -> None:
        """An exception with the number of no error refuses all the same."""
        for number in (0, -1, None, "62", 2.5):
            failure = ValueError("odd")
            failure.x509_error = number  # type: ignore[attr-defined]

            def check(_: Sequence[x509.Certificate], failure: Exception = failure) -> None:
                raise failure

            client_, server_ = pair()
            _openssl.set_verification(client_, SSL.VERIFY_PEER, check)
            loop = self.connectors(client_, server_)
            error = self.refusal(loop, loop.client)
            self.assertEqual(
                error.alert, "internal_error" if self.public_api else "bad_certificate"
            )

    def test_others_are_not_harmed(self) -> None:
        """What one connection left behind is not another's error."""

        def choose(connection: SSL.Connection, offered: list[bytes]) -> bytes:
            raise ValueError("boom")

        contexts = self.contexts(TLS13)
        contexts[0].set_alpn_protos([b"h2"])
        contexts[1].set_alpn_select_callback(choose)
        other = self.connectors(*pair())
        other.pump()
        loop = self.meet(contexts)
        self.refusal(loop, loop.server)
        self.refusal(loop, loop.client)
        self.assertEqual(other.server.read(), b"")
        other.client.write(b"well")
        other.pump()
        self.assertEqual(other.received_by_server, b"well")


@on_both_engines
class UnreadableCertificateTests(ContextCase):
    """
    A certificate that OpenSSL reads and cryptography does not, here one of version 5.

    Nobody could say whom it is for, so that it is refused; and it raises nothing else.
    """

    def load(self, der: bytes) -> crypto.X509:
        made = crypto.load_certificate(crypto.FILETYPE_ASN1, der)
        self.assertRaises(x509.InvalidVersion, made.to_cryptography)
        return made

    def meet_unreadable(self, version: int, is_client: bool) -> Loopback:
        contexts = self.contexts(version)
        own = client() if is_client else server()
        made = contexts[0 if is_client else 1]
        made.use_privatekey(own.key)
        made.use_certificate(self.load(of_version(own.certificate, 4, authority())))
        self.flushWarnings()
        return self.meet(contexts)

    def test_refused(self) -> None:
        """Where it is verified, at either end."""
        for version in VERSIONS:
            for is_client in (True, False):
                loop = self.meet_unreadable(version, is_client)
                judge = loop.server if is_client else loop.client
                connection = judge.connection
                _openssl.set_verification(connection, DEMAND, None)
                judge.connection = connection
                loop.pump()
                self.assertIs(judge.state, State.FAILED)
                self.assertEqual(
                    judge.error.sentence if judge.error else "",
                    "the certificate of the peer was refused: 4 is not a valid X509 version",
                )
                other = loop.client_error if is_client else loop.server_error
                assert other is not None and judge.error is not None
                self.assertEqual(other.alert, judge.error.alert)

    def test_not_verified(self) -> None:
        """Where nobody verifies it, whoever asks for it hears that it cannot be read."""
        for version in VERSIONS:
            loop = self.meet_unreadable(version, is_client=False)
            loop.client.connection.set_verify(SSL.VERIFY_NONE)
            loop.pump()
            self.assertIs(loop.client.state, State.OPEN)
            error = self.assertRaises(PeerError, getattr, loop.client, "negotiated")
            self.assertEqual(
                str(error),
                "the peer's certificate cannot be read: 4 is not a valid X509 version",
            )
            self.assertRaises(PeerError, loop.client.channel_binding, "tls-server-end-point")
            loop.client.write(b"x")
            loop.pump()
            self.assertEqual(loop.received_by_server, b"x")

    def test_untrusted(self) -> None:
        """What OpenSSL itself refuses keeps OpenSSL's number."""
        loop = self.meet_unreadable(TLS13, is_client=False)
        connection = client_connection(context(True, versions=(TLS13, TLS13)))
        _openssl.set_verification(connection, SSL.VERIFY_PEER, None)
        loop.client.connection = connection
        loop.pump()
        assert loop.client_error is not None
        self.assertEqual(loop.client_error.alert, "unknown_ca")
        self.assertIn("does not verify", str(loop.client_error))


class FaultOfTheChainTests(ContextCase):
    """
    OpenSSL's verify callback comes with no certificate where the fault is no certificate's.

    pyOpenSSL's own callback takes what is not there and the process dies of it, so this is not for
    the twin.
    """

    def test_no_policy(self) -> None:
        """RFC 5280, section 6.1.2: an explicit policy is demanded and the chain has none."""
        made, for_server = self.contexts(TLS13)
        store = made.get_cert_store()
        assert store is not None
        store.set_flags(crypto.X509StoreFlags.EXPLICIT_POLICY)
        connection = client_connection(made)
        _openssl.set_verification(connection, SSL.VERIFY_PEER, None)
        loop = self.connectors(connection, server_connection(for_server))
        loop.pump()
        assert loop.client_error is not None and loop.server_error is not None
        self.assertIn("the certificate of the peer does not verify", str(loop.client_error))
        self.assertEqual(loop.client_error.alert, loop.server_error.alert)
