"""
One back end: how it is connected to, how it is, and why it cannot be used when it cannot.

A back end whose connections fail is marked: after some failures it is down, which is for a time
that grows with each trial that fails; then one connection tries it.  Checks that are made for that
alone (L{twisted_bioconn.server.checks}) may find it down too, and then it is so until they find it
up.  Whatever its state, it is for others to say what comes of that: see
L{twisted_bioconn.server.backends}.
"""

from __future__ import annotations

import copy
import errno
import math
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

import attrs
from cryptography import x509
from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import SSL4ClientEndpoint, _WrapperEndpoint
from twisted.internet.error import (
    ConnectBindError,
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionLost,
)
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_bioconn._transport import one_line
from twisted_bioconn.endpoints import ClientEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.explanations import Cause, FailedHandshake, explain
from twisted_bioconn.server.beneath import Beneath, Heard
from twisted_bioconn.server.proxy_out import SendProxy

__all__ = ["BackEnd", "Marks", "NotConnected", "State"]

_log = Logger()


class State(Enum):
    """How a back end is, as far as that is known."""

    UNKNOWN = "unknown"
    """Nobody has been connected to it yet."""
    UP = "up"
    DOWN = "down"


@attrs.frozen(kw_only=True)
class Marks:
    """
    When a back end whose connections fail is down, and for how long.

    @ivar max_fails: how many have to fail.
    @ivar fail_window: within how many seconds.
    @ivar fail_time: seconds until one connection tries it.  Each trial that fails doubles them, and
        so does being down again soon.
    @ivar longest_fail_time: seconds that this grows to, if it is not longer from the start.
    @raise ConfigurationError: one of them is not above 0.
    """

    max_fails: int = 3
    fail_window: float = 10.0
    fail_time: float = 10.0
    longest_fail_time: float = 60.0

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            # False for what is no number, nan.
            if not value > 0:
                raise ConfigurationError(f"{name}={value}: this must be above 0")


class NotConnected(Exception):
    """
    A back end cannot be used: one sentence says why, with no full stop.

    @ivar is_ours: whether the fault is on this side, as where no descriptors are left.
    """

    def __init__(self, sentence: str, is_ours: bool = False) -> None:
        super().__init__(sentence)
        self.is_ours = is_ours


class BackEnd:
    """
    One back end.

    @ivar description: how it is called in the log.
    @ivar endpoint: connects to it.
    @ivar since: when its state began, in seconds of the clock.
    @ivar connections: how many there are.
    @ivar pending: how many are being made.
    @ivar served: how many there have been.
    @ivar failures: how many have failed.
    @ivar last_failure: why the last one did; C{""} before there was one.
    @ivar changed: called after each change of its state; L{None} where there is no other back end.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        description: str,
        clock: IReactorTime,
        marks: Marks,
        send_proxy: SendProxy | None = None,
    ) -> None:
        """
        @raise ConfigurationError: before its TLS no PROXY header can be sent.
        """
        self.description = description
        self.since = clock.seconds()
        self.connections = self.pending = self.served = self.failures = 0
        self.last_failure = ""
        self.changed: Callable[[BackEnd], object] | None = None
        self._clock = clock
        self._marks = marks
        self._fails: deque[float] = deque(maxlen=marks.max_fails)
        self._is_known = False
        self._is_checked_down = False
        self._down_until: float | None = None
        self._down_for = 0.0
        self._back_at = -math.inf
        self._trying = False
        self._good_checks = self._bad_checks = 0
        self._send_proxy = send_proxy
        self._beneath: Beneath | None = None
        if isinstance(endpoint, ClientEndpoint):
            self._beneath = Beneath(endpoint.endpoint)
            # The user's own stays as it is.
            endpoint = copy.copy(endpoint)
            endpoint.endpoint = self._beneath
        elif send_proxy is not None:
            if isinstance(endpoint, SSL4ClientEndpoint | _WrapperEndpoint):
                raise ConfigurationError(
                    f"{description}: a PROXY header cannot be sent before TLS of this kind:"
                    " use bioconn:HOST:PORT"
                )
            endpoint = self._beneath = Beneath(endpoint)
        self.endpoint = endpoint

    def __repr__(self) -> str:
        return f"<BackEnd {self.description}: {self.state.value}>"

    @property
    def is_tls(self) -> bool:
        """Whether it is spoken to with TLS of ours."""
        return isinstance(self.endpoint, ClientEndpoint)

    @property
    def state(self) -> State:
        """How it is."""
        if self._is_checked_down or self._down_until is not None:
            return State.DOWN
        return State.UP if self._is_known else State.UNKNOWN

    @property
    def is_usable(self) -> bool:
        """Whether the next connection should be one to it: it is not down, or has to be tried."""
        if self._is_checked_down:
            return False
        until = self._down_until
        return until is None or (not self._trying and self._clock.seconds() >= until)

    # Connecting

    def connect(
        self, protocolFactory: IProtocolFactory, header: bytes = b""
    ) -> Deferred[IProtocol]:
        """
        Connect.

        @param header: the PROXY header, where one is to be sent.
        @return: fails with L{NotConnected} where there is more to say than the endpoint does.
        """
        return self._connect(self.endpoint, protocolFactory, header)

    def connect_below(
        self, protocolFactory: IProtocolFactory, header: bytes = b""
    ) -> Deferred[IProtocol]:
        """As L{connect}, without the TLS."""
        below = self._beneath if self.is_tls else None
        return self._connect(below or self.endpoint, protocolFactory, header)

    def _connect(
        self, endpoint: IStreamClientEndpoint, protocolFactory: IProtocolFactory, header: bytes
    ) -> Deferred[IProtocol]:
        if self._send_proxy is not None and not header:
            raise ValueError("a connection to this back end begins with a PROXY header")
        heard = None if self._beneath is None else self._beneath.expect(header)
        connecting: Deferred[IProtocol] = endpoint.connect(protocolFactory)
        if heard is not None and endpoint is not self._beneath:
            connecting.addErrback(self._told, heard)
        return connecting

    def _told(self, failure: Failure, heard: Heard) -> Failure:
        """Say of TLS that has failed what there is to say."""
        error = failure.value
        if isinstance(error, TLSError | VerificationError | ConnectionDone | ConnectionLost):
            return Failure(NotConnected(self._explanation(error, heard)))
        return failure

    def explain(self, failure: Failure) -> str:
        """Why a connection has failed, in a sentence with no full stop."""
        error = failure.value
        if isinstance(error, TLSError | VerificationError):
            return self._explanation(error, Heard())
        return reason_of(failure)

    def _explanation(self, error: BaseException, heard: Heard) -> str:
        endpoint: Any = self.endpoint
        options = getattr(endpoint, "options", None)
        settings: dict[str, object] = {}
        if options is not None:
            settings = {"serverName": options.host, "timeout": endpoint.timeout}
        explanation = explain(
            FailedHandshake(
                error=error,
                is_server=False,
                peer=self.description,
                # After a dialogue they say nothing of TLS.
                first_bytes=b"" if getattr(endpoint, "starttls", None) else heard.first,
                received=heard.received,
                chain=_refused_chain(heard.protocol),
                policy=getattr(options, "policy", None),
                alpn=getattr(options, "alpn", ()),
                settings=settings,
            )
        )
        if explanation.cause is Cause.UNKNOWN:
            # Then what the error says is as good.
            return one_line(str(error))
        return str(explanation).rstrip(".")

    # What becomes of connections

    def opened(self) -> None:
        """A connection is there."""
        self.connections += 1
        self.served += 1
        if not self._is_known or self._down_until is not None:
            was = self.state
            self._is_known = True
            if self._down_until is not None:
                self._down_until, self._back_at = None, self._clock.seconds()
            self._turned(was, "a connection has succeeded")

    def closed(self) -> None:
        """A connection has ended."""
        self.connections -= 1

    def begin(self) -> bool:
        """
        A connection is being made.

        @return: whether it is the one that tries a back end that is down.
        """
        self.pending += 1
        if self._down_until is None or not self.is_usable:
            return False
        self._trying = True
        return True

    def end(self, was_trial: bool) -> None:
        """A connection is being made no more: it is there, has failed, or nobody wants it."""
        self.pending -= 1
        if was_trial:
            self._trying = False

    def failed(self, reason: str, *, is_ours: bool = False) -> None:
        """
        A connection has failed.

        @param reason: why, with no full stop.
        @param is_ours: whether the fault is on this side, and says nothing of the back end.
        """
        self.failures += 1
        self.last_failure = reason
        if is_ours:
            return
        marks, now = self._marks, self._clock.seconds()
        if self._down_until is not None:
            if now >= self._down_until:
                self._stay_down(now, 2 * self._down_for)
            return
        self._fails.append(now)
        if len(self._fails) < marks.max_fails or now - self._fails[0] > marks.fail_window:
            return
        # One that was down not long ago comes and goes.
        goes_again = now - self._back_at < marks.longest_fail_time
        was = self.state
        self._stay_down(now, 2 * self._down_for if goes_again else marks.fail_time)
        count, took = len(self._fails), now - self._fails[0]
        self._fails.clear()
        many = f"{count} connections have failed in {took:.3g} s, the last one: {reason}"
        # Where there is no other, clients come here all the same.
        what_next = "" if self.changed is None else f"; tried again in {self._down_for:g} s"
        self._turned(was, many if count > 1 else reason, what_next)

    def _stay_down(self, now: float, seconds: float) -> None:
        marks = self._marks
        self._down_for = min(seconds, max(marks.fail_time, marks.longest_fail_time))
        self._down_until = now + self._down_for

    # What checks find

    def checked(self, why_not: str | None, rise: int, fall: int) -> None:
        """
        A check is done.

        @param why_not: why it has failed, with no full stop; L{None} where it has not.
        @param rise: how many have to succeed, one after the other, until it is up.
        @param fall: how many have to fail until it is down.
        """
        was = self.state
        if why_not is None:
            self._good_checks += 1
            self._bad_checks = 0
            self._is_known = True
            if self._is_checked_down and self._good_checks >= rise:
                self._is_checked_down = False
            many = f"{rise} checks have" if rise > 1 else "a check has"
            self._turned(was, f"{many} succeeded")
            return
        self._good_checks = 0
        self._bad_checks += 1
        if self._bad_checks >= fall:
            self._is_checked_down = True
        many = f"{fall} checks have failed, the last one" if fall > 1 else "a check has failed"
        self._turned(was, f"{many}: {why_not}")

    def _turned(self, was: State, why: str, what_next: str = "") -> None:
        """Say that the state has changed, if it has."""
        state = self.state
        if state is was:
            return
        self.since = self._clock.seconds()
        if state is State.DOWN:
            _log.warn(
                "back end {back_end} is down: {why}{what_next}",
                back_end=self.description,
                why=one_line(why),
                what_next=what_next,
            )
        elif was is State.DOWN:
            _log.info("back end {back_end} is up: {why}", back_end=self.description, why=why)
        if self.changed is not None:
            self.changed(self)


def reason_of(failure: Failure) -> str:
    """What a failure says, with no full stop."""
    return one_line(failure.getErrorMessage().rstrip("."))


def was_cancelled(failure: Failure) -> bool:
    """Whether a connection was not made because it was cancelled."""
    return isinstance(failure.value, CancelledError | ConnectingCancelledError)


_OF_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
"""No descriptors are left, no memory, or no ports."""


def is_ours(failure: Failure) -> bool:
    """Whether it is a fault of this side that a connection was not made."""
    error: Any = failure.value
    if isinstance(error, NotConnected):
        return error.is_ours
    if isinstance(error, ConnectBindError):
        return True
    number = getattr(error, "errno", None)
    below = getattr(error, "osError", None)
    if number is None:
        number = getattr(below, "errno", below)
    return number in _OF_OURS


def _refused_chain(tls: Any) -> tuple[x509.Certificate, ...]:
    """The certificate that was refused, where there is one."""
    link = getattr(tls, "_link", None)
    verification = getattr(getattr(link, "connector", None), "verification", None)
    certificate = getattr(verification, "certificate", None)
    return () if certificate is None else (certificate,)
