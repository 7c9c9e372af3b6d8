"""Where a TLS connection can be, and what takes it from one place to the next."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a connection is."""

    IDLE = "idle"
    HANDSHAKING = "handshaking"
    OPEN = "open"
    LOCAL_CLOSED = "closed by us, the peer may go on"
    REMOTE_CLOSED = "closed by the peer, we may go on"
    CLOSED = "closed both ways"
    FAILED = "failed"

    # An Enum's own is a function of Python's.
    __hash__ = object.__hash__


class Step(Enum):
    """What takes a connection from one state to the next."""

    START = "the handshake begins"
    ESTABLISH = "the handshake is done"
    LOCAL_CLOSE = "our close_notify is written"
    REMOTE_CLOSE = "the peer's close_notify is read"
    FAIL = "the peer broke the rules, refused us or was refused, or the wire was cut"

    __hash__ = object.__hash__


TRANSITIONS: dict[State, dict[Step, State]] = {
    State.IDLE: {Step.START: State.HANDSHAKING, Step.FAIL: State.FAILED},
    State.HANDSHAKING: {Step.ESTABLISH: State.OPEN, Step.FAIL: State.FAILED},
    State.OPEN: {
        Step.LOCAL_CLOSE: State.LOCAL_CLOSED,
        Step.REMOTE_CLOSE: State.REMOTE_CLOSED,
        Step.FAIL: State.FAILED,
    },
    State.LOCAL_CLOSED: {Step.REMOTE_CLOSE: State.CLOSED, Step.FAIL: State.FAILED},
    State.REMOTE_CLOSED: {Step.LOCAL_CLOSE: State.CLOSED, Step.FAIL: State.FAILED},
    State.CLOSED: {},
    State.FAILED: {},
}
"""All that can happen to a connection.  What is not here does not happen."""

BEFORE_OPEN = (State.IDLE, State.HANDSHAKING)
"""The states in which nothing can be encrypted yet."""
