"""
Connections that are made for no client, to see whether a back end is well.

Each is closed as soon as that is known.  To a back end that expects a PROXY header one is sent,
which says that the connection is nobody's but ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from twisted_bioconn._transport import abort, one_line
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.backend import BackEnd
from twisted_bioconn.server.hints import did_you_mean

__all__ = ["Check", "CheckKind", "Checking", "check_from_string"]

#: How far the times between two checks differ, as a part of them: what begins together, as workers
#: do, is not to ask together for ever.
JITTER = 0.1

#: The most that is read of an answer to find its first line, in bytes.
_LONGEST_LINE = 4096

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")
_PATH = re.compile(r"/[\x21-\x7e]*")
_HOST = re.compile(r"[\x21-\x7e]+")


class CheckKind(Enum):
    """What a back end has to do to be well."""

    TCP = "tcp"
    """It accepts a connection."""
    TLS = "tls"
    """It does, and is by its certificate who it should be."""
    HTTP = "http"
    """It answers a request with a status of 200 to 399."""


@attrs.frozen(kw_only=True)
class Check:
    """
    What is asked of a back end, and how often.

    @ivar kind: what it has to do.
    @ivar path: what is asked for in HTTP.
    @ivar host: the host that is asked for in HTTP; if not given, whose certificate it has to show,
        or C{localhost} where there is no TLS.
    @ivar interval: seconds from the end of one check to the next, a tenth more or less.
    @ivar timeout: seconds that a check may take.
    @ivar rise: how many have to succeed, one after the other, until a back end that was down is up.
    @ivar fall: how many have to fail, one after the other, until it is down.
    @raise ConfigurationError: this makes no sense.
    """

    kind: CheckKind
    path: str = "/"
    host: str | None = None
    interval: float = 5.0
    timeout: float = 5.0
    rise: int = 2
    fall: int = 3

    def __attrs_post_init__(self) -> None:
        for name in ("interval", "timeout", "rise", "fall"):
            value = getattr(self, name)
            # False for what is no number, nan.
            if not value > 0:
                raise ConfigurationError(f"{name}={value}: this must be above 0")
        if not _PATH.fullmatch(self.path):
            raise ConfigurationError(
                f"check=http:{one_line(self.path)}: a path begins with '/', and has no spaces"
            )
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise ConfigurationError(f"{one_line(self.host)!r} is no host that HTTP could ask for")


def check_from_string(text: str, **settings: Any) -> Check:
    """
    Make a check of C{tcp}, C{tls} or C{http:PATH}.

    @param settings: the others that L{Check} has.
    @raise ConfigurationError: it is none of these.
    """
    name, colon, path = text.partition(":")
    kinds = {each.value: each for each in CheckKind}
    kind = kinds.get(name)
    if kind is None:
        raise ConfigurationError(
            f"check={one_line(text)}: this must be tcp, tls or http:PATH{did_you_mean(name, kinds)}"
        )
    if not colon:
        return Check(kind=kind, **settings)
    if kind is not CheckKind.HTTP:
        raise ConfigurationError(f"check={one_line(text)}: {name} has nothing after it")
    return Check(kind=kind, path=path, **settings)


class Checking:
    """
    The checks of one back end, one after the other.
    """

    def __init__(
        self,
        back_end: BackEnd,
        check: Check,
        clock: IReactorTime,
        header: bytes,
        spread: Callable[[], float],
    ) -> None:
        """
        @param header: what the connections begin with.
        @param spread: gives numbers from 0 to 1.
        @raise ConfigurationError: the back end cannot be asked for that.
        """
        if check.kind is CheckKind.TLS and not back_end.is_tls:
            raise ConfigurationError(
                f"check=tls: {back_end.description} is not spoken to with TLS, as"
                " bioconn:HOST:PORT is"
            )
        self._back_end = back_end
        self._check = check
        self._clock = clock
        self._header = header
        self._spread = spread
        self._call: IDelayedCall | None = None
        self._one: _One | None = None

    def start(self) -> None:
        """Begin, at some time within the first interval."""
        self._call = self._clock.callLater(self._spread() * self._check.interval, self._begin)

    def stop(self) -> None:
        """Make no more."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        one, self._one = self._one, None
        if one is not None:
            one.give_up()

    def _begin(self) -> None:
        self._call = None
        self._one = _One(self._back_end, self._check, self._clock, self._header)
        self._one.done.addCallback(self._ended)

    def _ended(self, why_not: str | None) -> None:
        if self._one is None:
            return
        self._one = None
        check = self._check
        self._back_end.checked(why_not, check.rise, check.fall)
        wait = check.interval * (1 + JITTER * (2 * self._spread() - 1))
        self._call = self._clock.callLater(wait, self._begin)


class _One:
    """
    One check.

    @ivar done: fires with L{None}, or the reason why the back end is not well.
    """

    def __init__(self, back_end: BackEnd, check: Check, clock: IReactorTime, header: bytes) -> None:
        self.done: Deferred[str | None] = Deferred()
        self._back_end = back_end
        self._check = check
        self._transport: Any = None
        self._timer = clock.callLater(check.timeout, self._expire)
        kind = check.kind
        connect = back_end.connect_below if kind is CheckKind.TCP else back_end.connect
        self._connecting: Deferred[IProtocol] = maybeDeferred(connect, _Asks(self), header)
        self._connecting.addErrback(self._failed)

    def connected(self, transport: Any) -> None:
        """The back end has accepted, and its TLS is done where there is to be any."""
        if self.done.called:
            # It went on although it was told to stop.
            abort(transport)
            return
        self._transport = transport
        if self._check.kind is not CheckKind.HTTP:
            self.end(None)
            return
        if getattr(transport, "negotiatedProtocol", None) == b"h2":
            self.end("it has chosen HTTP/2, and check=http speaks HTTP/1.1")
            return
        transport.write(
            f"GET {self._check.path} HTTP/1.1\r\nHost: {self._host()}\r\n"
            "User-Agent: bioconn\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode("ascii")
        )

    def answered(self, data: bytes) -> None:
        """This is what has come so far."""
        if self.done.called or self._check.kind is not CheckKind.HTTP:
            return
        match = _STATUS.match(data)
        if match is not None:
            status = int(match[1])
            self.end(None if 200 <= status < 400 else f"it answers with the status {status}")
        elif b"\n" in data or len(data) > _LONGEST_LINE:
            self.end("what it answers is not HTTP")

    def end(self, why_not: str | None) -> None:
        """
        It is known.

        @param why_not: why it is not well; L{None} where it is.
        """
        if self.done.called:
            return
        if self._timer.active():
            self._timer.cancel()
        transport, self._transport = self._transport, None
        self.done.callback(why_not)
        if transport is not None:
            transport.loseConnection()

    def give_up(self) -> None:
        """Nobody wants to know any more."""
        if self._timer.active():
            self._timer.cancel()
        self.done.callback(None)
        self._connecting.cancel()
        if self._transport is not None:
            abort(self._transport)

    def _expire(self) -> None:
        transport, self._transport = self._transport, None
        self.end(f"no answer within {self._check.timeout:g} seconds")
        self._connecting.cancel()
        if transport is not None:
            abort(transport)

    def _failed(self, failure: Failure) -> None:
        self.end(self._back_end.explain(failure))

    def _host(self) -> str:
        if self._check.host is not None:
            return self._check.host
        endpoint: Any = self._back_end.endpoint
        host: str = getattr(getattr(endpoint, "options", None), "host", "localhost")
        return f"[{host}]" if ":" in host else host


class _Asks(Factory):
    """Makes the connection of one check."""

    noisy = False

    def __init__(self, one: _One) -> None:
        self._one = one

    def buildProtocol(self, addr: IAddress | None) -> _Asking:
        """
        @see: L{Factory.buildProtocol}
        """
        return _Asking(self._one)


class _Asking(Protocol):
    """The connection of one check."""

    def __init__(self, one: _One) -> None:
        self._one = one
        self._heard = b""

    def connectionMade(self) -> None:
        """
        @see: L{Protocol.connectionMade}
        """
        self._one.connected(self.transport)

    def dataReceived(self, data: bytes) -> None:
        """
        @see: L{Protocol.dataReceived}
        """
        if len(self._heard) <= _LONGEST_LINE:
            self._heard += data
            self._one.answered(self._heard)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        @see: L{Protocol.connectionLost}
        """
        self._one.end("the connection ended before there was an answer")
