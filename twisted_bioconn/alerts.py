"""
What an alert is called, what it means, and which one OpenSSL sends for which error.

OpenSSL reports an error as a reason, not as the alert that crossed the wire, and has no call
that tells the alert afterwards.  An alert that we received is in the reason itself.  One that we
sent can be read off the wire while the wire is in the clear; past that point the tables here,
which follow OpenSSL's own, say which it was.
"""

from __future__ import annotations

from collections.abc import Sequence

ALERTS: dict[int, str] = {
    0: "close_notify",
    10: "unexpected_message",
    20: "bad_record_mac",
    21: "decryption_failed",
    22: "record_overflow",
    30: "decompression_failure",
    40: "handshake_failure",
    41: "no_certificate",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    60: "export_restriction",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    86: "inappropriate_fallback",
    90: "user_canceled",
    100: "no_renegotiation",
    109: "missing_extension",
    110: "unsupported_extension",
    111: "certificate_unobtainable",
    112: "unrecognized_name",
    113: "bad_certificate_status_response",
    114: "bad_certificate_hash_value",
    115: "unknown_psk_identity",
    116: "certificate_required",
    120: "no_application_protocol",
    121: "ech_required",
}
"""Alert numbers and names: RFC 8446, section 6, and for the retired ones RFC 5246 and 6066."""

_NUMBERS = {name: number for number, name in ALERTS.items()}

_MEANINGS: dict[str, str] = {
    "close_notify": "the peer closed the connection before the handshake was done",
    "unexpected_message": "the peer got a message that it did not expect",
    "bad_record_mac": "the peer could not decrypt what it got: it was damaged on the way",
    "record_overflow": "the peer got a record that was too long",
    "handshake_failure": "the peer and we have no version, cipher, group or signature in common,"
    " or it wants a certificate that it did not get",
    "bad_certificate": "the peer refused our certificate as bad",
    "unsupported_certificate": "the peer does not take certificates of our certificate's kind",
    "certificate_revoked": "the peer says that our certificate was revoked",
    "certificate_expired": "the peer says that our certificate has expired",
    "certificate_unknown": "the peer refused our certificate",
    "illegal_parameter": "the peer found a field of ours wrong",
    "unknown_ca": "the peer does not trust the authority that signed our certificate",
    "access_denied": "the peer knows our certificate and does not let it in",
    "decode_error": "the peer could not make sense of a message of ours",
    "decrypt_error": "a signature or a finished message did not verify at the peer",
    "protocol_version": "the peer speaks none of the TLS versions that we offer",
    "insufficient_security": "the peer wants stronger ciphers than we offer",
    "internal_error": "something went wrong inside the peer",
    "inappropriate_fallback": "the peer speaks a newer version than we fell back to",
    "user_canceled": "the peer gave up the handshake",
    "no_renegotiation": "the peer does not renegotiate",
    "missing_extension": "the peer misses an extension in our hello",
    "unsupported_extension": "the peer got an extension that it did not ask for",
    "unrecognized_name": "the peer has no certificate for the name that we asked for",
    "certificate_required": "the peer wants a client certificate and got none",
    "no_application_protocol": "the peer speaks none of the ALPN protocols that we offer",
}

_RECEIVED_PREFIXES = ("tls alert ", "tlsv1 alert ", "tlsv13 alert ", "sslv3 alert ")
_RECEIVED_WITHOUT_PREFIX = {
    "tlsv1 unsupported extension": "unsupported_extension",
    "tlsv1 certificate unobtainable": "certificate_unobtainable",
    "tlsv1 unrecognized name": "unrecognized_name",
    "tlsv1 bad certificate status response": "bad_certificate_status_response",
    "tlsv1 bad certificate hash value": "bad_certificate_hash_value",
}
_RESPELLED = {"user_cancelled": "user_canceled"}

_ALERT_OF_REASON: dict[str, str] = {
    "no shared cipher": "handshake_failure",
    "no suitable key share": "handshake_failure",
    "no suitable signature algorithm": "handshake_failure",
    "no shared signature algorithms": "handshake_failure",
    "no suitable groups": "handshake_failure",
    "unsupported protocol": "protocol_version",
    "wrong version number": "protocol_version",
    "wrong ssl version": "protocol_version",
    "version too low": "protocol_version",
    "no protocols available": "protocol_version",
    "decryption failed or bad record mac": "bad_record_mac",
    "bad decrypt": "bad_record_mac",
    # OpenSSL 4.0.0 to 4.0.2, where a record of TLS 1.2 is too short to have a tag.
    "invalid aad": "internal_error",
    "digest check failed": "decrypt_error",
    "bad signature": "decrypt_error",
    "packet length too long": "record_overflow",
    "encrypted length too long": "record_overflow",
    "data length too long": "record_overflow",
    "excessive message size": "illegal_parameter",
    "unexpected message": "unexpected_message",
    "unexpected record": "unexpected_message",
    "unexpected ccs message": "unexpected_message",
    "not on record boundary": "unexpected_message",
    "app data in handshake": "unexpected_message",
    "data between ccs and finished": "unexpected_message",
    "invalid record type": "unexpected_message",
    "bad record type": "unexpected_message",
    "record too small": "unexpected_message",
    "too many warn alerts": "unexpected_message",
    "mixed handshake and non handshake data": "unexpected_message",
    "zero length in read": "unexpected_message",
    "unexpected end of early data": "unexpected_message",
    "no application protocol": "no_application_protocol",
    "bad ecpoint": "illegal_parameter",
    "bad key share": "illegal_parameter",
    "wrong curve": "illegal_parameter",
    "wrong cipher returned": "illegal_parameter",
    "unknown cipher returned": "illegal_parameter",
    "bad cipher": "illegal_parameter",
    "bad extension": "illegal_parameter",
    "wrong signature type": "illegal_parameter",
    "unknown alert type": "illegal_parameter",
    "invalid context": "decode_error",
    "bad digest length": "decode_error",
    "ASN1 lib": "decode_error",
    "length mismatch": "decode_error",
    "length too short": "decode_error",
    "length too long": "decode_error",
    "bad length": "decode_error",
    "invalid alert": "unexpected_message",
    "bad change cipher spec": "unexpected_message",
    "ccs received early": "unexpected_message",
    "bad handshake length": "decode_error",
    "unsolicited extension": "unsupported_extension",
    "missing supported groups extension": "missing_extension",
    "missing sigalgs extension": "missing_extension",
    "unsafe legacy renegotiation disabled": "handshake_failure",
    "no renegotiation": "handshake_failure",
    "inappropriate fallback": "inappropriate_fallback",
    "callback failed": "internal_error",
    "no certificate set": "internal_error",
    "no certificates returned": "handshake_failure",
}

_DAMAGED = "a record could not be decrypted: it was damaged on the way"

_SENTENCE_OF_REASON: dict[str, str] = {
    "no shared cipher": "the peer offers no cipher that we accept",
    "certificate verify failed": "the peer's certificate does not verify",
    "bad signature": "the peer's signature does not verify: its key is not its certificate's",
    "wrong signature type": "the peer signed in a way that we do not accept",
    "internal error": "something went wrong here, inside OpenSSL or one of its callbacks",
    "unexpected message": "the peer sent a message that does not belong here",
    "unexpected record": "the peer sent a record that does not belong here",
    "excessive message size": "the peer sent a message larger than OpenSSL takes; for a chain of"
    " certificates that is 100 KiB",
    "data length too long": "the peer sent a record that is too long",
    "encrypted length too long": "the peer sent a record that is too long",
    "packet length too long": "the peer sent a record that is too long",
    "length mismatch": "the peer sent a message that is cut short or too long",
    "no suitable key share": "the peer offers no group that we accept",
    "no suitable signature algorithm": "no signature algorithm fits the peer and our key",
    "no shared signature algorithms": "the peer offers no signature algorithm that we accept",
    "unsupported protocol": "the peer offers no TLS version that we accept, or none for which"
    " there is a certificate here",
    "version too low": "the peer offers no TLS version that we accept",
    "wrong version number": "what arrived is not TLS, or of a version that we do not speak",
    "http request": "plain HTTP arrived where TLS was expected",
    "https proxy request": "a plain HTTP CONNECT arrived where TLS was expected",
    "decryption failed or bad record mac": _DAMAGED,
    "invalid aad": _DAMAGED,
    "peer did not return a certificate": "we want a client certificate and got none",
    "no renegotiation": "the peer asked for renegotiation, which we refuse",
    "unexpected eof while reading": "the connection ended in mid-handshake",
    "no application protocol": "the peer offers no ALPN protocol that we speak",
    "no certificate set": "there is no certificate for this connection",
    "callback failed": "the lookup of a certificate failed",
    "digest check failed": "the peer's finished message did not verify",
    "bad key update": "the peer's key update makes no sense",
    "inappropriate fallback": "the peer fell back to an older version than both sides speak",
}

# Which alert a verification error becomes: OpenSSL's table in ssl/statem/statem_lib.c says the
# same; what is not listed is certificate_unknown.
_ALERT_OF_VERIFICATION: dict[int, str] = {
    1: "internal_error",
    2: "unknown_ca",
    3: "unknown_ca",
    4: "bad_certificate",
    5: "bad_certificate",
    6: "bad_certificate",
    7: "decrypt_error",
    8: "decrypt_error",
    9: "bad_certificate",
    10: "certificate_expired",
    11: "bad_certificate",
    12: "certificate_expired",
    13: "bad_certificate",
    14: "bad_certificate",
    15: "bad_certificate",
    16: "bad_certificate",
    17: "internal_error",
    18: "unknown_ca",
    19: "unknown_ca",
    20: "unknown_ca",
    21: "unknown_ca",
    22: "unknown_ca",
    23: "certificate_revoked",
    25: "unknown_ca",
    26: "unsupported_certificate",
    27: "bad_certificate",
    28: "bad_certificate",
    33: "unknown_ca",
    50: "handshake_failure",
    62: "bad_certificate",
    63: "bad_certificate",
    64: "bad_certificate",
    65: "bad_certificate",
    66: "bad_certificate",
    67: "bad_certificate",
    68: "bad_certificate",
    69: "internal_error",
    70: "internal_error",
    79: "unknown_ca",
    94: "bad_certificate",
}

Queue = Sequence[tuple[str, str, str]]
"""OpenSSL's error queue as pyOpenSSL gives it: (library, function, reason), oldest first."""


def received_alert(queue: Queue) -> str | None:
    """The name of the alert that the peer sent, where that is what the queue reports."""
    for _, _, reason in queue:
        if reason in _RECEIVED_WITHOUT_PREFIX:
            return _RECEIVED_WITHOUT_PREFIX[reason]
        for prefix in _RECEIVED_PREFIXES:
            if reason.startswith(prefix):
                name = reason.removeprefix(prefix).replace(" ", "_")
                return _RESPELLED.get(name, name)
    return None


def alert_record(alert: str) -> bytes:
    """A fatal alert as it goes to the wire before there are keys: RFC 8446, sections 5.1 and 6."""
    return bytes((21, 3, 3, 0, 2, 2, _NUMBERS[alert]))


def alert_in_clear(ciphertext: bytes) -> str | None:
    """
    The name of the alert with which this flight ends, where it is not encrypted.

    A plaintext alert is a record of seven bytes: type 21, two bytes of version, a length of two,
    the level and the description (RFC 8446, sections 5.1 and 6).
    """
    tail = ciphertext[-7:]
    if len(tail) == 7 and tail[0] == 21 and tail[1] == 3 and tail[3:5] == b"\x00\x02":
        return ALERTS.get(tail[6])
    return None


def ends_in_alert(flight: bytes) -> bool:
    """
    Whether the last record of this flight is an alert.

    Encrypted by TLS 1.3 it says that it is application data (RFC 8446, section 5.2), but no other
    record that OpenSSL makes is as short: two bytes, one for the type, and a tag of 16 at most.
    """
    kind = size = at = 0
    while at + 5 <= len(flight):
        kind, size = flight[at], int.from_bytes(flight[at + 3 : at + 5], "big")
        at += 5 + size
    return at == len(flight) and (kind == 21 or (kind == 23 and size <= 2 + 1 + 16))


def is_refusal(queue: Queue) -> bool:
    """Whether a certificate was refused."""
    return any(reason == "certificate verify failed" for _, _, reason in queue)


def alert_of_reason(queue: Queue, verification: int | None, version: str) -> str | None:
    """
    The alert that OpenSSL sends, encrypted, for this error; L{None} where that cannot be known.

    @param verification: the C{X509_V_ERR_} number where a certificate was refused.
    @param version: C{"TLSv1.3"} or C{"TLSv1.2"}.
    """
    reasons = [reason for _, _, reason in queue]
    for reason in reasons:
        if reason == "certificate verify failed":
            if verification is None:
                return None
            return _ALERT_OF_VERIFICATION.get(verification, "certificate_unknown")
        if reason == "peer did not return a certificate":
            # TLS 1.3 has an alert for this; in TLS 1.2 it is sent in the clear on a first
            # handshake, so that it never comes to this table.
            return "certificate_required"
        if reason == "wrong version number" and version == "TLSv1.3":
            return "decode_error"
        if reason == "bad length" and "record layer failure" in reasons:
            return "unexpected_message"
        if reason in _ALERT_OF_REASON:
            return _ALERT_OF_REASON[reason]
    return None


def is_unknown_alert(queue: Queue) -> bool:
    """Whether this reports an alert from the peer whose number OpenSSL has no name for."""
    return len(queue) > 0 and not any(reason for _, _, reason in queue)


def meaning(alert: str) -> str:
    """What it means to have received this alert, in words."""
    return _MEANINGS.get(alert, f"the peer ended the connection with the alert {alert}")


def sentence_of_reason(queue: Queue) -> str:
    """What an error of OpenSSL's means, in words; its own reason where there are none better."""
    for _, _, reason in queue:
        if reason in _SENTENCE_OF_REASON:
            return _SENTENCE_OF_REASON[reason]
    reasons = [reason for _, _, reason in queue if reason]
    return reasons[0] if reasons else "the peer broke the TLS protocol"
