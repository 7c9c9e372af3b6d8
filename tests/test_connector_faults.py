"""
Tests for L{twisted_bioconn.connector} and L{twisted_bioconn.alerts}: what is said of a fault.

Each fault is made between two real ends (L{tests.faults}).  The alert that the judge says it sent
has to be the one that the other end, which is OpenSSL, says it received.
"""

from __future__ import annotations

import sys

from OpenSSL import SSL

from tests.engines import EngineCase, on_both_engines
from tests.fault_table import boom
from tests.fault_table_wire import all_faults
from tests.faults import DEMAND, client_of, in_place_of_hello, meet, server_of
from tests.records import ALERT, APPLICATION_DATA, HANDSHAKE, message, record
from tests.tls_material import (
    TLS12,
    TLS13,
    VERSIONS,
    client,
    client_connection,
    server_connection,
    stranger,
)
from twisted_bioconn import _openssl
from twisted_bioconn._public_engine import PublicEngine
from twisted_bioconn.alerts import ALERTS
from twisted_bioconn.connector import Connector, State
from twisted_bioconn.errors import Direction, PeerError
from twisted_bioconn.testing import Loopback
from twisted_bioconn.verify import CertificateRefused


@on_both_engines
class FaultTests(EngineCase):
    """The table."""

    def setUp(self) -> None:
        super().setUp()
        # What pyOpenSSL does with an exception in the choice of a certificate.
        self.patch(sys, "excepthook", lambda *_: None)

    def test_every_fault(self) -> None:
        """Who is the judge, what it sent, what the other received, and what is said of it."""
        kind = PublicEngine if self.public_api else _openssl.FastEngine
        alerts = set()
        for fault in all_faults():
            if fault.needs is not None and not getattr(kind, fault.needs):
                continue
            loop = fault.make()
            loop.pump()
            errors = {"client": loop.client_error, "server": loop.server_error}
            judge = errors.pop(fault.judge)
            ((_, other),) = errors.items()
            said = f"{fault.name}: {judge!r} {judge}; {other!r} {other}"
            if judge is None or other is None:
                self.fail(said)
            alert = fault.on_twin if self.public_api and fault.on_twin else fault.alert
            self.assertEqual((judge.alert, judge.direction), (alert, Direction.SENT), said)
            self.assertEqual((other.alert, other.direction), (alert, Direction.RECEIVED), said)
            self.assertIn(fault.sentence, judge.sentence, said)
            self.assertTrue(str(judge).endswith(f" (alert {alert}, sent)"), said)
            self.assertTrue(str(other).endswith(f" (alert {alert}, received)"), said)
            alerts.add(alert)
        self.assertGreaterEqual(len(alerts), 15)

    def test_not_tls(self) -> None:
        """Where OpenSSL says nothing to the peer, there is no alert to be named."""
        for data, sentence in (
            (b"GET / HTTP/1.0\r\n\r\n", "plain HTTP arrived where TLS was expected"),
            (b"POST / HTTP/1.1\r\n", "plain HTTP arrived where TLS was expected"),
            (
                b"CONNECT a.example:443 HTTP/1.1\r\n",
                "a plain HTTP CONNECT arrived where TLS was expected",
            ),
            (
                b"SSH-2.0-OpenSSH_9.2\r\n",
                "what arrived is not TLS, or of a version that we do not speak",
            ),
            (bytes(100), "what arrived is not TLS, or of a version that we do not speak"),
        ):
            for by_client in (True, False):
                loop = in_place_of_hello(data, by_client=by_client)
                judge = loop.server if by_client else loop.client
                assert judge.error is not None
                self.assertEqual(str(judge.error), sentence)
                self.assertEqual((judge.error.alert, judge.error.direction), (None, None))
                self.assertEqual(judge.take(), b"")

    def test_not_a_hello(self) -> None:
        """Other records in the clear than a hello; the alert is in the clear, too."""
        for data, alert in (
            (record(HANDSHAKE, b"hello", 0x0301), "unexpected_message"),
            (record(APPLICATION_DATA, b"hello"), "unexpected_message"),
            (record(HANDSHAKE, message(99, b"")), "unexpected_message"),
            (b"\x16\x03\x01\xff\xff" + bytes(20000), "record_overflow"),
        ):
            for by_client in (True, False):
                connector = (
                    Connector(server_connection(), False)
                    if by_client
                    else Connector(client_connection(), True)
                )
                connector.take()
                error = self.assertRaises(PeerError, connector.feed, data)
                self.assertEqual((error.alert, error.direction), (alert, Direction.SENT))
                sent = connector.take()
                self.assertEqual((sent[0], ALERTS[sent[-1]]), (ALERT, alert))

    def test_received_in_the_clear(self) -> None:
        """Each alert there is, received by a client in mid-handshake, has its name."""
        for number, name in ALERTS.items():
            connector = Connector(client_connection(), True)
            connector.take()
            alert = record(ALERT, bytes([2, number]))
            error = self.assertRaises(PeerError, connector.feed, alert)
            self.assertEqual((error.alert, error.direction), (name, Direction.RECEIVED))
            self.assertTrue(error.sentence)

    def test_no_verification_of_ours(self) -> None:
        """A context of the user's own that verifies: OpenSSL's words, where they can be had."""
        for version in VERSIONS:
            for_client = client_of(version)
            for_client.set_verify(SSL.VERIFY_PEER)
            loop = meet(for_client, server_of(version, stranger()))
            loop.pump()
            assert loop.client_error is not None and loop.server_error is not None
            self.assertEqual(
                loop.client_error.sentence,
                "the peer's certificate does not verify"
                if self.public_api
                else "the peer's certificate does not verify: its issuer is not among the trusted"
                " authorities",
            )
            self.assertEqual(loop.client_error.alert, "unknown_ca")
            self.assertEqual(loop.server_error.alert, "unknown_ca")

    def test_no_verification_of_ours_encrypted(self) -> None:
        """The alert is encrypted, and the number of the error not public: none is named then."""
        for_server = server_of(TLS13)
        for_server.set_verify(DEMAND)
        loop = meet(client_of(TLS13, stranger()), for_server)
        loop.pump()
        assert loop.client_error is not None and loop.server_error is not None
        self.assertEqual(loop.client_error.alert, "unknown_ca")
        if self.public_api:
            self.assertEqual((loop.server_error.alert, loop.server_error.direction), (None, None))
        else:
            self.assertEqual(loop.server_error.alert, "unknown_ca")

    def test_refusal_of_somebody_else(self) -> None:
        """A later fault is not taken for the refusal that nobody acted on."""
        for version in VERSIONS:
            client_, server_ = client_of(version), server_of(version, stranger())
            connection = client_connection(client_)
            _openssl.set_verification(connection, SSL.VERIFY_NONE, None)
            loop = Loopback(connection, server_connection(server_))
            loop.pump()
            if version == TLS12 and self.public_api:
                self.assertIs(loop.client.state, State.OPEN)
            self.assertIs(loop.client.state, State.OPEN)
            loop.to_client.flip(loop.to_client.sent + 20)
            loop.server.write(b"data")
            loop.pump()
            assert loop.client_error is not None
            self.assertIn("it was damaged on the way", str(loop.client_error))
            self.assertEqual(loop.client_error.alert, "bad_record_mac")

    def test_what_is_refused(self) -> None:
        """The exception with which a check refused is kept for whoever asks."""
        loop = meet(client_of(TLS13, client()), server_of(TLS13), server_check=boom)
        loop.pump()
        self.assertIsInstance(loop.server.refusal, ValueError)
        self.assertIs(loop.client.refusal, None)

        def refuse(chain: object) -> None:
            raise CertificateRefused("not on Sundays", 23)

        loop = meet(client_of(TLS12, client()), server_of(TLS12), server_check=refuse)
        loop.pump()
        assert loop.server_error is not None
        self.assertEqual(loop.server_error.sentence, "not on Sundays")
        self.assertEqual(
            loop.server_error.alert,
            "internal_error" if self.public_api else "certificate_revoked",
        )

    def test_queue(self) -> None:
        """OpenSSL's own report is the first argument, for programs that look there."""
        loop = in_place_of_hello(b"GET / HTTP/1.0\r\n\r\n", by_client=True)
        assert loop.server_error is not None
        self.assertEqual(loop.server_error.args, ([("SSL routines", "", "http request")],))
        self.assertIsInstance(loop.server_error, SSL.Error)


class NumberTests(EngineCase):
    """Which alert the number of a refusal chooses: the whole of OpenSSL's table."""

    def test_every_number(self) -> None:
        """For each number the alert that we name is the one that the peer gets."""
        for_client, for_server = client_of(TLS13, client()), server_of(TLS13)
        named = {}
        for number in range(1, 120):

            def refuse(chain: object, number: int = number) -> None:
                raise CertificateRefused("no", number)

            # The server's alert is encrypted: it cannot be read off the wire.
            loop = meet(for_client, for_server, server_check=refuse)
            loop.pump()
            assert loop.client_error is not None and loop.server_error is not None
            self.assertEqual(loop.server_error.direction, Direction.SENT)
            self.assertEqual(loop.server_error.alert, loop.client_error.alert, f"number {number}")
            named[number] = loop.server_error.alert
        self.assertEqual(named[62], "bad_certificate")
        self.assertEqual(named[23], "certificate_revoked")
        self.assertGreater(len(set(named.values())), 7)
