"""The errors that this package raises, and whose fault each is."""

from __future__ import annotations

from enum import Enum

from OpenSSL.SSL import Error


class ConfigurationError(ValueError):
    """
    What the user asked for cannot be done.

    The message is one sentence that names the option, file or key, and what is wrong with it.
    """


class UsageError(RuntimeError):
    """
    Our caller did what the state of the connection does not allow.

    The connection itself is not harmed: its state is what it was before the call.
    """


class Direction(Enum):
    """Which way an alert went."""

    SENT = "sent"
    RECEIVED = "received"


class PeerError(Error):
    """
    The peer broke the protocol, refused us, or was refused by us.

    It is an L{OpenSSL.SSL.Error}, with OpenSSL's error queue as its first argument, so that
    whatever looks for that class or at that queue finds them.

    @ivar alert: the name of the alert as RFC 8446, section 6.2 spells it (C{"unknown_ca"}), or
        L{None} where no alert crossed the wire, or it was encrypted and OpenSSL does not tell its
        name.
    @ivar direction: whether we sent that alert or received it; L{None} where there was none, or
        that cannot be known.
    @ivar sentence: what was wrong, in words.
    """

    def __init__(
        self,
        sentence: str,
        alert: str | None = None,
        direction: Direction | None = None,
        queue: list[tuple[str, str, str]] | None = None,
    ) -> None:
        super().__init__(queue or [])
        self.sentence = sentence
        self.alert = alert
        self.direction = direction

    def __str__(self) -> str:
        if self.alert is None or self.direction is None:
            return self.sentence
        return f"{self.sentence} (alert {self.alert}, {self.direction.value})"


class TruncatedError(PeerError):
    """
    The transport ended with no close_notify: bytes may be missing (RFC 8446, section 6.1).
    """
