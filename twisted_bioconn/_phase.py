"""Where a connection is between the application and the transport."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where a connection is between the application and the transport."""

    NEW = "no transport yet"
    CONNECTED = "connected"
    ENDING = "to be closed when all that was promised is sent"
    CLOSING = "our close_notify sent, the peer's awaited"
    DISCONNECTED = "the transport is told to close"
    LOST = "the transport is gone"


# Tuples, and not sets: an Enum's hash is a call of Python's, and this is asked for every message.
LIVE = (Phase.CONNECTED, Phase.ENDING, Phase.CLOSING)
"""The phases in which anything is sent or delivered."""
