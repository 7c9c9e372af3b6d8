"""What C{connectionLost} is told of the end of a connection."""

from __future__ import annotations

from inspect import getmro

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.python.reflect import qual

from .connector import Connector
from .errors import Direction, PeerError, TruncatedError
from .verify import CertificateRefused


class AlertReceived(PeerError, ConnectionLost):
    """The peer ended the connection with an alert: a L{PeerError}, and a connection lost."""


def reason_of(error: PeerError, connector: Connector) -> Failure:
    """
    What C{connectionLost} is told of an error.

    Programs compare the type with L{OpenSSL.SSL.Error}, and look at its first argument, so that
    is what they find; the value says more.
    """
    refusal = connector.refusal
    if refusal is not None:
        if not isinstance(refusal, VerificationError):
            refused = CertificateRefused(error.sentence)
            refused.__cause__ = refusal
            refusal = refused
        return Failure(refusal)
    if isinstance(error, TruncatedError) or "unexpected eof" in _queued_reasons(error):
        return Failure(ConnectionLost(error.sentence))
    value = error
    if error.direction is Direction.RECEIVED:
        value = AlertReceived(error.sentence, error.alert, error.direction, error.args[0])
    failure = Failure(value)
    failure.type = SSL.Error
    failure.parents = [qual(each) for each in getmro(type(value))]
    return failure


def _queued_reasons(error: PeerError) -> str:
    return " ".join(reason for _, _, reason in error.args[0])
