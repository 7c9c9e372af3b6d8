"""Why a connection has failed, out of what OpenSSL says, and what went to the wire."""

from __future__ import annotations

from OpenSSL import SSL

from . import alerts
from ._engine import Engine
from ._held import held_by
from ._verification import Verification
from .errors import Direction, PeerError, TruncatedError
from .verify import explain, verify_error_string


def peer_error(
    error: Exception,
    sent: bytes,
    last_fed: bytes,
    verification: Verification | None,
    engine: Engine,
) -> PeerError:
    """
    What was wrong, which alert it was, and which way that went.

    @param sent: what OpenSSL has put out as it failed.
    @param last_fed: what it was given last, as long as that may be in the clear.
    """
    if isinstance(error, TruncatedError):
        return error
    queue = _queue_of(error)
    if isinstance(error, PeerError):
        return PeerError(error.sentence, error.alert, error.direction, queue)
    if isinstance(error, SSL.ZeroReturnError):
        return PeerError(alerts.meaning("close_notify"), "close_notify", Direction.RECEIVED, queue)
    received = alerts.received_alert(queue)
    if received is None and alerts.is_unknown_alert(queue):
        received = alerts.alert_in_clear(last_fed)
        if received is None:
            sentence = "the peer ended the connection with an alert that has no name here"
            return PeerError(sentence, None, Direction.RECEIVED, queue)
    if received is not None:
        return PeerError(alerts.meaning(received), received, Direction.RECEIVED, queue)
    sentence = alerts.sentence_of_reason(queue)
    code = engine.verification_error()
    held = held_by(engine.connection)
    if held is not None and held.has_changed:
        sentence = "the client has asked for another name in its second hello"
    elif alerts.is_refusal(queue):
        if verification is not None and verification.code:
            code = verification.sent_code
            sentence = explain(verification)
        elif code is not None:
            sentence = f"the peer's certificate does not verify: {verify_error_string(code)}"
    elif not isinstance(error, SSL.Error):
        sentence = f"a callback of ours failed: {str(error) or type(error).__name__}"
    alert = None
    if alerts.ends_in_alert(sent):
        version = engine.connection.get_protocol_version_name()
        alert = alerts.alert_in_clear(sent) or alerts.alert_of_reason(queue, code, version)
    return PeerError(sentence, alert, None if alert is None else Direction.SENT, queue)


def _queue_of(error: Exception) -> list[tuple[str, str, str]]:
    """OpenSSL's error queue out of whatever pyOpenSSL raised."""
    if isinstance(error, SSL.SysCallError):
        return [("SSL routines", "", "unexpected eof while reading")]
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return [entry for entry in error.args[0] if isinstance(entry, tuple) and len(entry) == 3]
    return []
