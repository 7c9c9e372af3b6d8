"""Tests for L{twisted_bioconn._openssl}: what is verified, and what is kept on a connection."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from tests.engines import EngineCase, on_both_engines
from tests.faults import client_of, meet, server_of
from tests.tls_material import (
    TLS13,
    VERSIONS,
    authority,
    client,
    client_connection,
    pair,
    server,
    server_connection,
)
from twisted_bioconn import _openssl
from twisted_bioconn._openssl import (
    keep_session,
    session_keeper_of,
)
from twisted_bioconn._verification import (
    CERTIFICATE_REJECTED,
    HOSTNAME_MISMATCH,
    UNSPECIFIED,
    Verification,
    verification_of,
)
from twisted_bioconn.connector import State

TWINS = ("set_verification", "set_groups", "set_signature_algorithms")


class VerificationTests(SynchronousTestCase):
    """What becomes of the verification of one peer."""

    def steps(self, verification: Verification) -> list[int]:
        """OpenSSL's callbacks for a good chain, from the root."""
        return [
            verification.step(True, 0, 1, crypto.X509.from_cryptography(authority().certificate)),
            verification.step(True, 0, 0, crypto.X509.from_cryptography(server().certificate)),
        ]

    def test_good(self) -> None:
        """The check is asked once, at the leaf, with the chain, leaf first."""
        asked: list[Sequence[x509.Certificate]] = []
        verification = Verification(asked.append)
        self.assertFalse(verification.asked)
        self.assertEqual(self.steps(verification), [0, 0])
        self.assertEqual(asked, [[server().certificate, authority().certificate]])
        self.assertTrue(verification.asked)
        self.assertEqual((verification.code, verification.failure), (0, None))

    def test_tolerated(self) -> None:
        """A fault that is tolerated is passed over, and the check sees the chain all the same."""
        asked: list[Sequence[x509.Certificate]] = []
        verification = Verification(asked.append, None, lambda code, _: code == 20)
        root, leaf = (
            crypto.X509.from_cryptography(each.certificate) for each in (authority(), server())
        )
        for certificate, depth in ((None, 1), (root, 1), (leaf, 0)):
            self.assertEqual(verification.step(False, 20, depth, certificate), 0)
        self.assertEqual(asked, [])
        self.assertEqual(verification.step(True, 0, 0, leaf), 0)
        self.assertEqual(asked, [[server().certificate, authority().certificate]])
        self.assertEqual(verification.step(False, 23, 0, leaf), 23)

    def test_no_check(self) -> None:
        """OpenSSL's verdict is enough."""
        verification = Verification(None)
        self.assertEqual(self.steps(verification), [0, 0])
        self.assertFalse(verification.ask_again([server().certificate]))

    def test_refused_by_openssl(self) -> None:
        """Its number stays, and an odd 0 becomes one."""
        leaf = crypto.X509.from_cryptography(server().certificate)
        for code, number in ((10, 10), (0, CERTIFICATE_REJECTED)):
            verification = Verification(None)
            self.assertEqual(verification.step(False, code, 0, leaf), number)
            self.assertEqual(verification.code, number)
            self.assertEqual(verification.sent_code, number)
            self.assertEqual(verification.certificate, server().certificate)
            self.assertIs(verification.failure, None)

    def test_refused_by_us(self) -> None:
        """The exception may say with which number."""

        class Refused(Exception):
            """Says its number."""

            x509_error = HOSTNAME_MISMATCH

        for failure, number in ((Refused(), HOSTNAME_MISMATCH), (KeyError(), CERTIFICATE_REJECTED)):

            def check(chain: object, failure: Exception = failure) -> None:
                raise failure

            for chooses in (True, False):
                verification = Verification(check, None, chooses_alert=chooses)
                self.assertEqual(self.steps(verification), [0, number])
                self.assertIs(verification.failure, failure)
                self.assertEqual(verification.sent_code, number if chooses else UNSPECIFIED)
            verification = Verification(None, check)
            self.assertTrue(verification.ask_again([server().certificate]))
            self.assertEqual(verification.certificate, server().certificate)

    def test_shown_what_openssl_refuses(self) -> None:
        """
        A check that asks for it: its reason is told in OpenSSL's place; where it has none, and for
        the twin's alert, OpenSSL's number stays.
        """

        class Shown:
            """Wants to see all leaves."""

            even_if_untrusted = True
            failure: Exception | None = None

            def __call__(self, chain: Sequence[x509.Certificate]) -> None:
                seen.append(chain)
                if self.failure is not None:
                    raise self.failure

        seen: list[Sequence[x509.Certificate]] = []
        leaf = crypto.X509.from_cryptography(server().certificate)
        for chooses in (True, False):
            shown = Shown()
            verification = Verification(shown, None, chooses_alert=chooses)
            self.assertEqual(verification.step(False, 20, 0, leaf), 20)
            self.assertEqual((verification.sent_code, verification.failure), (20, None))
            shown.failure = ValueError("mine")
            verification = Verification(shown, None, chooses_alert=chooses)
            self.assertTrue(verification.step(False, 20, 0, leaf))
            self.assertIs(verification.failure, shown.failure)
            self.assertEqual(verification.sent_code, CERTIFICATE_REJECTED if chooses else 20)
        self.assertEqual(seen, [[server().certificate]] * 4)
        # Not for what is no leaf, or cannot be read.
        Verification(shown).step(False, 20, 1, leaf)
        Verification(shown).step(False, 43, 0, None)
        self.assertEqual(len(seen), 4)

    def test_fault_of_the_chain(self) -> None:
        """With no certificate there is a number all the same."""
        verification = Verification(None)
        self.assertEqual(verification.step(False, 43, 0, None), 43)
        self.assertIs(verification.certificate, None)
        self.assertEqual(Verification(None).step(True, 0, 0, None), 0)


@on_both_engines
class KeptOnConnectionTests(EngineCase):
    """What is ours to know of a connection."""

    def test_verification(self) -> None:
        """It is there for those connections that have one."""
        connection, other = pair()
        asked: list[object] = []
        check = asked.append
        _openssl.set_verification(connection, SSL.VERIFY_PEER, check)
        verification = verification_of(connection)
        assert verification is not None
        self.assertEqual(verification.check, check)
        self.assertEqual(verification.again, check)
        self.assertIs(verification_of(other), None)
        _openssl.set_verification(connection, SSL.VERIFY_PEER, None)
        self.assertIsNot(verification_of(connection), verification)

    def test_keeper(self) -> None:
        """The same for whoever keeps its session."""
        connection, other = pair()
        kept: list[SSL.Session] = []
        keeper = kept.append
        keep_session(connection, keeper)
        self.assertEqual(session_keeper_of(connection), keeper)
        self.assertIs(session_keeper_of(other), None)

    def test_connection_of_somebody_else(self) -> None:
        """One that has an answer to everything, or that takes nothing, has neither."""

        class Anything:
            """Has every attribute."""

            def __getattr__(self, name: str) -> str:
                return name

        class Nothing:
            """Takes no attribute."""

            __slots__ = ()

        for connection in (Anything(), Nothing()):
            self.assertIs(verification_of(connection), None)  # type: ignore[arg-type]
            self.assertIs(session_keeper_of(connection), None)  # type: ignore[arg-type]

    def test_no_verification(self) -> None:
        """A verify callback of ours on a connection that lost its verification refuses."""
        for version in VERSIONS:
            connection = client_connection(client_of(version))
            _openssl.set_verification(connection, SSL.VERIFY_PEER, None)
            delattr(connection, "_bioconn_verification")
            loop = self.connectors(connection, server_connection(server_of(version)))
            loop.pump()
            self.assertIs(loop.client.state, State.FAILED)
            self.assertIn("does not verify", str(loop.client_error))

    def test_client_certificate(self) -> None:
        """Both ends may be verified, each by its own."""
        seen: dict[str, Sequence[x509.Certificate]] = {}
        loop = meet(
            client_of(TLS13, client()),
            server_of(TLS13),
            client_check=lambda chain: seen.update(server=chain),
            server_check=lambda chain: seen.update(client=chain),
        )
        loop.pump()
        self.assertEqual(seen["server"][0], server().certificate)
        self.assertEqual(seen["client"][0], client().certificate)
