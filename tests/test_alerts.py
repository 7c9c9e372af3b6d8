"""Tests for L{twisted_bioconn.alerts}; test_connector_faults shows that the tables are right."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.records import ALERT, APPLICATION_DATA, HANDSHAKE, record
from twisted_bioconn import alerts
from twisted_bioconn.alerts import (
    ALERTS,
    alert_in_clear,
    alert_of_reason,
    ends_in_alert,
    is_refusal,
    is_unknown_alert,
    meaning,
    received_alert,
    sentence_of_reason,
)


def queue(*reasons: str) -> list[tuple[str, str, str]]:
    return [("SSL routines", "", reason) for reason in reasons]


class TableTests(SynchronousTestCase):
    """The tables fit each other."""

    def test_names(self) -> None:
        """Every alert that a table speaks of exists: RFC 8446, section 6."""
        names = set(ALERTS.values())
        self.assertEqual(len(names), len(ALERTS))
        for table in (
            alerts._MEANINGS,
            alerts._ALERT_OF_REASON.values(),
            alerts._ALERT_OF_VERIFICATION.values(),
            alerts._RECEIVED_WITHOUT_PREFIX.values(),
        ):
            self.assertEqual(set(table) - names, set())

    def test_sentences(self) -> None:
        """A sentence is in plain words, without a full stop, and does not begin with a capital."""
        for sentence in (*alerts._MEANINGS.values(), *alerts._SENTENCE_OF_REASON.values()):
            self.assertRegex(sentence, r"\A[a-z].*[^.]\Z")
            self.assertNotIn("_", sentence)


class ReceivedAlertTests(SynchronousTestCase):
    """What OpenSSL's report says that the peer sent."""

    def test_spellings(self) -> None:
        """All of its prefixes, and those that have none."""
        for reason, name in (
            ("tls alert handshake failure", "handshake_failure"),
            ("tlsv1 alert unknown ca", "unknown_ca"),
            ("tlsv13 alert certificate required", "certificate_required"),
            ("sslv3 alert bad certificate", "bad_certificate"),
            ("tlsv1 unrecognized name", "unrecognized_name"),
            ("tlsv1 alert user cancelled", "user_canceled"),
        ):
            self.assertEqual(received_alert(queue("x", reason)), name)
            self.assertIn(name, ALERTS.values())

    def test_none(self) -> None:
        """A report of something else."""
        self.assertIs(received_alert(queue("no shared cipher", "")), None)
        self.assertIs(received_alert([]), None)

    def test_unknown(self) -> None:
        """A report with no reason at all is of an alert that OpenSSL has no name for."""
        self.assertTrue(is_unknown_alert(queue("")))
        self.assertFalse(is_unknown_alert(queue("", "reason")))
        self.assertFalse(is_unknown_alert([]))


class InClearTests(SynchronousTestCase):
    """What can be seen on the wire."""

    def test_every_alert(self) -> None:
        """Alone, or at the end of a flight."""
        for number, name in ALERTS.items():
            alert = record(ALERT, bytes([2, number]))
            for flight in (alert, record(HANDSHAKE, bytes(50)) + alert):
                self.assertEqual(alert_in_clear(flight), name)
                self.assertTrue(ends_in_alert(flight))

    def test_no_alert(self) -> None:
        """Other flights, and numbers of nothing."""
        for flight in (
            b"",
            b"\x15\x03\x03\0\2\2",
            record(HANDSHAKE, bytes(50)),
            record(ALERT, b"\2\x28") + record(HANDSHAKE, bytes(50)),
        ):
            self.assertIs(alert_in_clear(flight), None)
            self.assertFalse(ends_in_alert(flight))
        self.assertIs(alert_in_clear(record(ALERT, b"\2\xc8")), None)

    def test_encrypted(self) -> None:
        """TLS 1.2 says that it is an alert; in TLS 1.3 it is the only record that is so short."""
        self.assertTrue(ends_in_alert(record(ALERT, bytes(26))))
        self.assertTrue(ends_in_alert(record(APPLICATION_DATA, bytes(19))))
        # A key update is longer, and so is a finished message.
        self.assertFalse(ends_in_alert(record(APPLICATION_DATA, bytes(22))))
        self.assertFalse(ends_in_alert(record(APPLICATION_DATA, bytes(53))))

    @given(st.binary())
    def test_any(self, flight: bytes) -> None:
        """Whatever comes, there is an answer."""
        self.assertIn(alert_in_clear(flight), (None, *ALERTS.values()))
        self.assertIn(ends_in_alert(flight), (True, False))


class AlertOfReasonTests(SynchronousTestCase):
    """The alert for an error of ours, where it cannot be seen."""

    def test_refusal(self) -> None:
        """By the number of the verification error; what is not in the table is unknown."""
        reasons = queue("provider signature failure", "certificate verify failed")
        self.assertTrue(is_refusal(reasons))
        self.assertFalse(is_refusal(queue("no shared cipher")))
        for number, alert in (
            (10, "certificate_expired"),
            (34, "certificate_unknown"),
            (None, None),
        ):
            self.assertEqual(alert_of_reason(reasons, number, "TLSv1.3"), alert)

    def test_by_version(self) -> None:
        """One reason has another alert in another version."""
        reasons = queue("wrong version number", "record layer failure")
        self.assertEqual(alert_of_reason(reasons, None, "TLSv1.2"), "protocol_version")
        self.assertEqual(alert_of_reason(reasons, None, "TLSv1.3"), "decode_error")

    def test_by_place(self) -> None:
        """One has another in the record layer."""
        self.assertEqual(alert_of_reason(queue("bad length"), None, ""), "decode_error")
        reasons = queue("bad length", "record layer failure")
        self.assertEqual(alert_of_reason(reasons, None, ""), "unexpected_message")

    def test_short_record(self) -> None:
        """OpenSSL 4.0.0 to 4.0.2 take a record without a tag for their own fault: it is not."""
        reasons = queue("invalid aad", "internal error", "record layer failure")
        self.assertEqual(alert_of_reason(reasons, None, "TLSv1.2"), "internal_error")
        self.assertEqual(
            sentence_of_reason(reasons),
            "a record could not be decrypted: it was damaged on the way",
        )

    def test_unknown(self) -> None:
        """What is not known is not guessed."""
        self.assertIs(alert_of_reason(queue("bad key update"), None, "TLSv1.3"), None)
        self.assertIs(alert_of_reason([], None, "TLSv1.3"), None)


class WordsTests(SynchronousTestCase):
    """What people read."""

    def test_meaning(self) -> None:
        """Every alert has one, if only its name."""
        self.assertIn("does not trust", meaning("unknown_ca"))
        self.assertEqual(
            meaning("ech_required"), "the peer ended the connection with the alert ech_required"
        )

    def test_sentence(self) -> None:
        """The first reason for which there is one; else OpenSSL's own; else a general one."""
        self.assertEqual(
            sentence_of_reason(queue("record layer failure", "no shared cipher")),
            "the peer offers no cipher that we accept",
        )
        self.assertEqual(sentence_of_reason(queue("", "odd thing", "other")), "odd thing")
        self.assertEqual(sentence_of_reason(queue("")), "the peer broke the TLS protocol")
        self.assertEqual(sentence_of_reason([]), "the peer broke the TLS protocol")
