"""Tests for L{twisted_bioconn._server_flight}; test_connector_resumption has real flights."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.records import ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, message, record
from twisted_bioconn._server_flight import resumes_session

RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
VERSIONS, KEY_SHARE, PRE_SHARED_KEY, RENEGOTIATION = 43, 51, 41, 0xFF01
CCS = record(CHANGE_CIPHER_SPEC, b"\1")


def hello(*extensions: int, random: bytes = bytes(32), session_id: bytes = b"") -> bytes:
    """A server hello: RFC 8446, section 4.1.3."""
    listed = b"".join(each.to_bytes(2, "big") + b"\0\2xx" for each in extensions)
    body = b"\3\3" + random + bytes([len(session_id)]) + session_id + b"\x13\1\0"
    if extensions:
        body += len(listed).to_bytes(2, "big") + listed
    return message(2, body)


def handshake(*messages: bytes) -> bytes:
    return record(HANDSHAKE, b"".join(messages))


class ResumesSessionTests(SynchronousTestCase):
    """What the flight says."""

    def test_tls13(self) -> None:
        """pre_shared_key it is, wherever it stands."""
        for extensions, resumes in (
            ((VERSIONS, KEY_SHARE), False),
            ((VERSIONS, KEY_SHARE, PRE_SHARED_KEY), True),
            ((PRE_SHARED_KEY, KEY_SHARE, VERSIONS), True),
        ):
            for session_id in (b"", bytes(32)):
                flight = handshake(hello(*extensions, session_id=session_id))
                self.assertEqual(resumes_session(flight + CCS + b"\x17\3\3\0\5noise"), resumes)

    def test_retry(self) -> None:
        """What counts is the hello after the retry, and the change_cipher_spec between."""
        retry = handshake(hello(VERSIONS, KEY_SHARE, random=RETRY))
        for between in (b"", CCS):
            again = handshake(hello(VERSIONS, KEY_SHARE, PRE_SHARED_KEY))
            self.assertTrue(resumes_session(retry + between + again))
            again = handshake(hello(VERSIONS, KEY_SHARE))
            self.assertFalse(resumes_session(retry + between + again))

    def test_tls12(self) -> None:
        """A full handshake goes on in the clear, in one record or in several."""
        first = hello(RENEGOTIATION)
        rest = [message(11, b"certificate"), message(12, b"key exchange"), message(14, b"")]
        self.assertFalse(resumes_session(handshake(first, *rest)))
        self.assertFalse(resumes_session(b"".join(handshake(each) for each in (first, *rest))))
        for ticket in (b"", message(4, b"ticket")):
            # What follows is encrypted, and may look like anything: here like a certificate.
            for noise in (b"\x0b\0\0\1x", b"\2\0\0\1x"):
                flight = handshake(first, ticket) + CCS + record(HANDSHAKE, noise)
                self.assertTrue(resumes_session(flight))

    def test_tls12_without_extensions(self) -> None:
        """A server hello may have none."""
        self.assertTrue(resumes_session(handshake(hello()) + CCS))
        self.assertFalse(resumes_session(handshake(hello(), message(11, b""))))

    def test_message_over_records(self) -> None:
        """A hello may be cut anywhere."""
        flight = hello(VERSIONS, KEY_SHARE, PRE_SHARED_KEY)
        for at in range(1, len(flight)):
            cut = record(HANDSHAKE, flight[:at]) + record(HANDSHAKE, flight[at:])
            self.assertTrue(resumes_session(cut))

    def test_warning_first(self) -> None:
        """An alert before it says nothing."""
        warning = record(ALERT, b"\1\x70")
        self.assertTrue(resumes_session(warning + handshake(hello()) + CCS))

    def test_other_flights(self) -> None:
        """A client's flight resumes nothing, nor does what is no flight."""
        for flight in (b"", handshake(message(1, bytes(50))), b"GET / HTTP/1.1\r\n", CCS):
            self.assertFalse(resumes_session(flight))

    @given(st.binary() | st.binary().map(lambda body: handshake(message(2, body))))
    def test_any(self, flight: bytes) -> None:
        """Whatever comes, there is an answer."""
        self.assertIn(resumes_session(flight), (True, False))
