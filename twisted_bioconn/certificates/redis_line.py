"""
One connection to a Redis server that is made anew when it is lost, spoken by txredisapi.

txredisapi is imported when it is first needed, for it imports the installed reactor.  Of it there
is the protocol alone: its connections queue what is asked while there is none, and log each
attempt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import cache
from importlib import import_module
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import attrs
from twisted.internet.defer import Deferred, TimeoutError, fail, succeed
from twisted.internet.endpoints import (
    HostnameEndpoint,
    UNIXClientEndpoint,
    clientFromString,
    quoteStringArgument,
)
from twisted.internet.error import TimeoutError as UserTimeoutError
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from ..errors import ConfigurationError
from .store import LARGEST_VALUE, StoreUnavailable

__all__ = ["DEADLINE", "RedisLine", "RedisServer"]

DEADLINE = 5.0
"""Seconds in which the server must answer, and in which a connection must be made."""

_FIRST_DELAY = 0.1  # seconds until a lost connection is made anew; each time twice as long
_LONGEST_DELAY = 5.0

# Bytes: the names of all values are one answer.
_LARGEST_ANSWER = 16 * LARGEST_VALUE

_PORT = 6379  # Redis's own

# What is said of a server.
_SILENT = f"did not answer within {DEADLINE:g} seconds"
_STRANGE = "does not speak Redis's protocol"


@attrs.frozen
class RedisServer:
    """
    Where a Redis server is, and who we are to it.

    @ivar where: what to call it in a message; there is no password in it.
    @ivar host: its host; empty where C{path} is what counts.
    @ivar port: its port.
    @ivar path: the path of its socket.
    @ivar tls: whether it is to be spoken to by TLS.
    @ivar user: the name of a user; L{None} for the default one.
    @ivar password: the password, L{None} where there is none.
    @ivar database: the number of the database; L{None} for the server's first.
    """

    where: str
    host: str = ""
    port: int = _PORT
    path: str = ""
    tls: bool = False
    user: str | None = None
    password: str | None = attrs.field(default=None, repr=False)
    database: int | None = None

    @classmethod
    def from_url(cls, url: str) -> RedisServer:
        """
        Read C{redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]}, the same with C{rediss:} for TLS,
        or C{redis+unix://[[USER]:PASSWORD@]/PATH[?db=DATABASE]}.

        @raise ConfigurationError: it is none of these.  The message does not repeat the URL, for
            there may be a password in it.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ConfigurationError(
                "redis: the URL of the server cannot be read: it has a bad host or port"
            ) from None
        sockets = parts.scheme in ("redis+unix", "unix")
        if not sockets and parts.scheme not in ("redis", "rediss"):
            raise ConfigurationError(
                "redis: the URL of the server must begin with redis:, rediss: or redis+unix:"
            )
        given = {
            "user": unquote(parts.username or "") or None,
            "password": None if parts.password is None else unquote(parts.password),
            "database": _database(parts, sockets),
        }
        if parts.username and parts.password is None:
            raise ConfigurationError(
                "redis: the URL of the server names a user and no password: a password alone is"
                " written :PASSWORD@"
            )
        if sockets:
            path = unquote(parts.path)
            if parts.hostname or len(path) < 2:
                raise ConfigurationError(
                    "redis: the URL of a socket must have an absolute path:"
                    " redis+unix:///run/redis.sock"
                )
            return cls(f"redis+unix://{path}", path=path, **given)  # type: ignore[arg-type]
        if not parts.hostname:
            raise ConfigurationError("redis: the URL of the server names no host")
        host = parts.hostname
        port = _PORT if port is None else port
        shown = f"[{host}]" if ":" in host else host
        return cls(
            f"{parts.scheme}://{shown}:{port}",
            host=host,
            port=port,
            tls=parts.scheme == "rediss",
            **given,  # type: ignore[arg-type]
        )

    def endpoint(self, reactor: Any, trust_roots: str | None = None) -> IStreamClientEndpoint:
        """
        What connects to it.

        @param trust_roots: the path of the authorities to trust, where it is spoken to by TLS; the
            system's if not given.
        @raise ConfigurationError: they cannot be loaded, or are given where there is no TLS.
        """
        if not self.tls:
            if trust_roots is not None:
                raise ConfigurationError(
                    f"redis: authorities are given for {self.where}, which is not spoken to by TLS:"
                    " write rediss:"
                )
            if self.path:
                return UNIXClientEndpoint(reactor, self.path, timeout=DEADLINE)
            return HostnameEndpoint(reactor, self.host, self.port, timeout=DEADLINE)
        # Our own endpoint, by name: it stands above this package, and is not imported from here.
        options = {"timeout": f"{DEADLINE:g}"}
        if trust_roots is not None:
            options["trustRoots"] = trust_roots
        endpoint: IStreamClientEndpoint = clientFromString(
            reactor,
            ":".join(
                [
                    *("bioconn", quoteStringArgument(self.host), str(self.port)),
                    *(f"{name}={quoteStringArgument(value)}" for name, value in options.items()),
                ]
            ),
        )
        return endpoint

    def greeting(self) -> Iterator[Sequence[str]]:
        """The commands that tell the server who we are, and which database we want."""
        if self.password is not None:
            names = () if self.user is None else (self.user,)
            yield ("AUTH", *names, self.password)
        if self.database is not None:
            yield ("SELECT", str(self.database))


def _database(parts: SplitResult, sockets: bool) -> int | None:
    """
    @raise ConfigurationError: it is no number.
    """
    if sockets:
        query = parse_qs(parts.query, keep_blank_values=True)
        given = query.pop("db", [""])[-1]
        unknown = bool(query)
    else:
        given = parts.path.removeprefix("/")
        unknown = bool(parts.query)
    if unknown or parts.fragment:
        raise ConfigurationError(
            "redis: the URL of the server has something after ? or # that is not known"
        )
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 9):
        raise ConfigurationError("redis: the database in the URL of the server must be a number")
    return int(given)


class _State(Enum):
    """
    What becomes of a L{RedisLine}: C{IDLE -> CONNECTING} when it is needed; C{CONNECTING -> READY}
    or C{-> WAITING}; C{WAITING -> CONNECTING} by time; C{READY -> WAITING} when the connection is
    lost; and from each to C{IDLE} when it is stopped.
    """

    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    WAITING = "waiting"


class RedisLine:
    """
    A connection that is made anew when it is lost.
    """

    def __init__(
        self,
        reactor: Any,
        server: RedisServer,
        endpoint: IStreamClientEndpoint,
        *,
        prepare: Sequence[Sequence[str]] = (),
        published: Callable[[str], object] | None = None,
        changed: Callable[[RedisLine, str | None], object],
    ) -> None:
        """
        @param endpoint: connects to it.
        @param prepare: commands for each new connection, when the server knows who we are.
        @param published: for a connection that subscribes: given the text of each message.
        @param changed: told why there is no connection, each time that one was lost or could not be
            made; and L{None} when there is one.
        @raise ConfigurationError: txredisapi is not installed.
        """
        self._reactor = reactor
        self._server = server
        self._endpoint = endpoint
        self._prepare = prepare
        self._published = published
        self._changed = changed
        self._make = _protocol()
        self._state = _State.IDLE
        self._attempt: Deferred[Any] | None = None
        self._again: IDelayedCall | None = None
        self._protocol: Any = None
        self._reason = ""
        self._made_at = 0.0
        self._delay = _FIRST_DELAY
        self._waiting: list[Deferred[Any]] = []

    def start(self) -> None:
        """Begin to connect, if that has not been begun."""
        if self._state is _State.IDLE:
            self._connect()

    def stop(self) -> Deferred[None]:
        """
        Let go of the connection.  It can be started again at once.

        @return: fires when it is gone.
        """
        before, self._state = self._state, _State.IDLE
        if before is _State.CONNECTING:
            attempt, self._attempt = self._attempt, None
            self._reason = "it was closed"
            self._refuse()
            if attempt is not None:
                attempt.cancel()
        elif before is _State.WAITING:
            again, self._again = self._again, None
            if again is not None:
                again.cancel()
        elif before is _State.READY:
            protocol, self._protocol = self._protocol, None
            gone: Deferred[Any] = protocol.whenDisconnected()
            protocol.transport.loseConnection()
            return gone.addTimeout(
                DEADLINE, self._reactor, lambda *_: protocol.transport.abortConnection()
            ).addCallback(lambda _: None)
        return succeed(None)

    def ready(self) -> Deferred[Any]:
        """
        The protocol of the connection.  Where one is being made, that is waited for; where none
        could be, the Deferred fails at once, with L{StoreUnavailable}.
        """
        self.start()
        if self._state is _State.READY:
            return succeed(self._protocol)
        if self._state is _State.WAITING:
            return fail(self._unavailable())
        waiting: Deferred[Any] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    async def ask(self, *command: str | bytes | int) -> Any:
        """
        Send a command, and wait for the answer.

        @raise StoreUnavailable: there is no connection or no answer in time, or it is an error.
        """
        end = self._reactor.seconds() + DEADLINE
        protocol = await self.ready()
        answer = Deferred.fromCoroutine(_answer(protocol, *command))
        answer.addTimeout(max(0.0, end - self._reactor.seconds()), self._reactor)
        try:
            return await answer
        except TimeoutError:
            # Whose an answer is, its place in the order says: a late one would be another's.
            protocol.give_up(_SILENT)
            raise StoreUnavailable(f"{self._server.where} {_SILENT}") from None
        except _Refused as error:
            raise StoreUnavailable(f"{self._server.where} {error}") from None

    def _connect(self) -> None:
        self._state = _State.CONNECTING
        self._again = None
        attempt = self._attempt = Deferred.fromCoroutine(self._made())
        attempt.addTimeout(DEADLINE, self._reactor)
        attempt.addCallback(self._connected)
        attempt.addErrback(self._failed, attempt)

    async def _made(self) -> Any:
        factory = Factory.forProtocol(lambda: self._make(self._reactor, self._published))
        factory.noisy = False
        protocol: Any = await self._endpoint.connect(factory)
        try:
            for command in (*self._server.greeting(), *self._prepare):
                await _answer(protocol, *command)
        except BaseException:
            protocol.transport.abortConnection()
            raise
        return protocol

    def _connected(self, protocol: Any) -> None:
        self._attempt = None
        if not protocol.connected:
            self._wait(protocol.fault)
            return
        self._state = _State.READY
        self._protocol = protocol
        self._made_at = self._reactor.seconds()
        protocol.whenDisconnected().addCallback(self._lost)
        self._changed(self, None)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(protocol)

    def _failed(self, reason: Failure, attempt: Deferred[Any]) -> None:
        if self._attempt is not attempt:
            return  # it was stopped
        self._attempt = None
        self._wait(_why(reason))

    def _lost(self, protocol: Any) -> None:
        if self._protocol is not protocol:
            return  # it was stopped
        self._protocol = None
        if self._reactor.seconds() - self._made_at > _LONGEST_DELAY:
            self._delay = _FIRST_DELAY
        self._wait(protocol.fault)

    def _wait(self, reason: str) -> None:
        """
        Connect again in a while.
        """
        self._state = _State.WAITING
        self._reason = reason
        # Many lose a server at once: they are not to come back at once.
        delay = self._delay * random.uniform(0.5, 1.0)
        self._delay = min(2 * self._delay, _LONGEST_DELAY)
        self._again = self._reactor.callLater(delay, self._connect)
        self._changed(self, reason)
        self._refuse()

    def _refuse(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(self._unavailable())

    def _unavailable(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self._server.where} {self._reason}")


class _Refused(Exception):
    """
    What was asked of the server was not done.  The text is what to say of the server.
    """


async def _answer(protocol: Any, *command: str | bytes | int) -> Any:
    """
    @raise _Refused: the answer is an error, or there is none.
    """
    api = _api()
    try:
        return await protocol.execute_command(*command)
    except api.ConnectionError:
        raise _Refused(protocol.fault) from None
    except api.RedisError as error:
        # Redis repeats what was asked of it, where it does not know the command.
        said, *_ = str(error).removeprefix("ERR ").split(", with args", 1)
        said = "".join(each if each.isprintable() else "?" for each in said.strip()[:200])
        raise _Refused(f"has refused a command: {said}") from None


def _why(reason: Failure) -> str:
    if reason.check(_Refused):
        return reason.getErrorMessage()
    if reason.check(TimeoutError, UserTimeoutError):
        return _SILENT
    return f"cannot be connected to: {reason.getErrorMessage().rstrip('.')}"


@cache
def _api() -> Any:
    try:
        return import_module("txredisapi")
    except ImportError:
        raise ConfigurationError(
            "redis: txredisapi is not installed: pip install 'twisted_bioconn[redis]'"
        ) from None


@cache
def _protocol() -> Any:
    """
    The class of the protocol: txredisapi's, less its trust in the server.
    """

    class Guarded(_api().RedisProtocol):  # type: ignore[misc]
        """
        Ends the connection when the server says what no Redis server would, or too much.

        @ivar fault: what to say of the server when the connection has ended.
        """

        def __init__(self, reactor: Any, published: Callable[[str], object] | None) -> None:
            super().__init__(charset=None, convertNumbers=False)
            self.callLater = reactor.callLater
            self.fault = "has closed the connection"
            self._published = published
            self._unfinished = 0

        def dataReceived(self, data: bytes, unpause: bool = False) -> None:
            if not unpause:
                self._unfinished += len(data)
            if self._unfinished > _LARGEST_ANSWER:
                self.give_up(f"has answered with more than {_LARGEST_ANSWER} bytes")
                return
            try:
                super().dataReceived(data, unpause)
            except Exception:  # its parser has no errors of its own
                self.give_up(_STRANGE)

        def replyReceived(self, reply: Any) -> None:
            self._unfinished = 0
            if self._published is not None and _is_message(reply):
                self._published(reply[2].decode("utf-8", "replace"))
            elif self.replyQueue.waiting:
                super().replyReceived(reply)
            else:
                self.give_up(_STRANGE)

        def give_up(self, fault: str) -> None:
            self.fault = fault
            self.transport.abortConnection()

    return Guarded


def _is_message(reply: Any) -> bool:
    return (
        isinstance(reply, list)
        and len(reply) == 3
        and reply[0] == b"message"
        and isinstance(reply[2], bytes)
    )
