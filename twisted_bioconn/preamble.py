"""
What comes before TLS on a port: a PROXY header, a dialogue in which TLS is asked for, or bytes that
are not TLS at all.

Nothing is made for TLS until its first record is there: a client that has only connected costs an
L{Preamble}, which is a few hundred bytes, and a deadline.  Then the preamble takes itself out of
the way: the transport has the TLS layer for its protocol, as if there had never been another::

    HEADER -> DIALOGUE -> FIRST -> HELLO -> DONE
                            \\-> REQUEST -> DRAINING

HEADER: a PROXY header has to come, from those who may send one, and its addresses are then the
connection's.  DIALOGUE: the client asks for TLS in a protocol that has a command for that.  FIRST:
the next byte says whether this is TLS, of which a whole record has to come.  Where plain
connections are taken, it goes to the application as it is, with a transport that is not TLS, so
that nothing takes it for secure.  HELLO: where there are routes, the hello has to be whole, for its
name and its protocols say which one it is.  REQUEST: plain HTTP is read, to be told where TLS is.
DRAINING: what was to be said is said, and what still comes is read, so that no reset destroys it on
its way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone, TimeoutError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    ILoggingContext,
    IProtocolFactory,
    ITransport,
)
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ._deadline import clock_of, deadlines_of
from ._redirect import answer_to, is_request
from ._room import ROOM
from ._transport import abort, address_text, one_line
from .access import AccessRefused, Peer
from .explanations import FailedHandshake
from .hello import HANDSHAKE, LONGEST_RECORD, HelloReader, MalformedHello
from .limits import Limiter, Slot
from .port_options import Plain, PreambleOptions, Route
from .protocol import TLSConnectorFactory, TLSConnectorProtocol
from .proxy_protocol import HeaderReader, MalformedHeader, ProxyAddress, ProxyHeader
from .starttls import Dialogue, DialogueState, StartTLSError, server_dialogue

__all__ = ["Preamble", "PreambleFactory"]

_log = Logger()

_DRAIN_SECONDS = 2.0
"""Seconds that a client has to close after it was told where TLS is."""

_MOST_DRAINED = 65536


class _State(Enum):
    """Where a connection stands before TLS."""

    HEADER = auto()
    DIALOGUE = auto()
    FIRST = auto()
    HELLO = auto()
    REQUEST = auto()
    DRAINING = auto()
    DONE = auto()


_WAITED_FOR = {_State.HEADER: "PROXY header", _State.DIALOGUE: "request for TLS"}


@implementer(IHalfCloseableProtocol)
class Preamble:
    """
    The protocol of a connection until it is known what it carries.
    """

    # There is one for each client that has said nothing.
    __slots__ = (
        "_addr",
        "_call",
        "_dialogue",
        "_factory",
        "_hello",
        "_next",
        "_read",
        "_reader",
        "_since",
        "_slot",
        "_state",
        "transport",
    )

    transport: Any

    def __init__(
        self, factory: PreambleFactory, addr: IAddress | None, slot: Slot | None = None
    ) -> None:
        self._factory = factory
        self._slot = slot
        self._addr = addr
        self._call: IDelayedCall | None = None
        self._next: Any = None
        self._read: bytes | bytearray = b""
        self._reader: HeaderReader | None = None
        self._dialogue: Dialogue | None = None
        self._hello: HelloReader | None = None
        self._since = 0.0
        self._state = _State.FIRST

    def makeConnection(self, transport: ITransport) -> None:
        """Wait for what comes."""
        self.transport = transport
        factory = self._factory
        if factory.options.may_send_header(getattr(self._addr, "host", None)):
            self._state = _State.HEADER
            self._reader = HeaderReader()
        elif not self._is_welcome():
            return
        else:
            self._begin()
        clock = factory.clock_of(transport)
        if clock is None:
            return
        slot = self._slot
        if slot is not None and factory.limiter is not None:
            lifetime = factory.limiter.limits.lifetime
            if lifetime is not None:
                slot.lifetime = deadlines_of(clock).callLater(
                    lifetime, _outlived, transport, lifetime
                )
        self._since = clock.seconds()
        self._wait(factory.timeout)

    def dataReceived(self, data: bytes) -> None:
        """See what it is, and give it to whom it is for."""
        if self._state is _State.FIRST:
            self._first(data)
        elif self._state is _State.DONE:
            self._next.dataReceived(data)
        elif self._state is _State.HEADER:
            self._header(data)
        elif self._state is _State.DIALOGUE:
            self._talk(data)
        elif self._state is _State.HELLO:
            self._find_route(data)
        elif self._state is _State.REQUEST:
            self._request(data)
        else:
            self._drain(data)

    def readConnectionLost(self) -> None:
        """The client has ended its side."""
        following = self._next
        if IHalfCloseableProtocol.providedBy(following):
            following.readConnectionLost()
        else:
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """We have ended ours."""
        if IHalfCloseableProtocol.providedBy(self._next):
            self._next.writeConnectionLost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self._cancel()
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.release()
        following, self._next = self._next, None
        state, self._state = self._state, _State.DRAINING
        if following is not None:
            observer = self._factory.tls.observer
            if state is _State.DONE and observer is not None:
                clock = self._factory.clock_of(self.transport)
                lasted = 0.0 if clock is None else clock.seconds() - self._since
                observer.plain_ended(self._addr, lasted, reason)
            following.connectionLost(reason)
        elif state is _State.HEADER and self._reader is not None and self._reader.rest:
            self._say("the connection ended within its PROXY header")
        elif state in (_State.FIRST, _State.HELLO):
            self._unsaid(reason.value or ConnectionDone())

    # The PROXY header

    def _header(self, data: bytes) -> None:
        reader = self._reader
        assert reader is not None
        try:
            header = reader.feed(data)
        except MalformedHeader as error:
            self._refuse(f"{error}, and proxyProtocol= has connections from there begin with one")
            return
        if header is None:
            return
        self._reader = None
        self._state = _State.FIRST
        _readdress(self.transport, header)
        if header.source is not None:
            self._addr = self.transport.getPeer()
        if not self._is_welcome():
            return
        self._begin()
        if self._factory.options.plain_after is not None:
            self._cancel()
            self._wait(self._left())
        rest = reader.rest
        if rest:
            self.dataReceived(rest)

    # The dialogue

    def _begin(self) -> None:
        """What is for us to say before TLS, if it is asked for."""
        options = self._factory.options
        if options.starttls is not None:
            self._state = _State.DIALOGUE
            self._dialogue = server_dialogue(options.starttls, host_name=options.host_name)
            self._send(self._dialogue.start())

    def _talk(self, data: bytes) -> None:
        dialogue = self._dialogue
        assert dialogue is not None
        try:
            answer = dialogue.feed(data)
        except StartTLSError as error:
            self._say(str(error))
            self._farewell(error.answer)
            return
        if dialogue.state is DialogueState.CLOSED:
            self._farewell(answer)
            return
        self._send(answer)
        if dialogue.state is DialogueState.TLS_NEXT:
            self._state, self._dialogue = _State.FIRST, None

    def _send(self, data: bytes) -> None:
        if data:
            self.transport.write(data)

    def _is_welcome(self) -> bool:
        """Whether there may be one more from where the client is."""
        slot = self._slot
        if slot is None or slot.identify(getattr(self._addr, "host", None)):
            return True
        self._drop()
        return False

    # The first bytes

    def _first(self, data: bytes) -> None:
        if self._read:
            data = bytes(self._read) + data
        plain = self._factory.options.plain
        is_handshake = data[0] == HANDSHAKE[0]
        if is_handshake and not _is_record(data):
            # Most often the hello's.  Whoever sends it byte by byte has all the time that there
            # is, and no more of our memory than that.
            self._read = data
        elif plain is Plain.REFUSE or is_handshake or data[0] & 0x80:
            # A hello of SSL 2 has its highest bit set; OpenSSL knows what to say to it.
            if self._factory.routes and is_handshake:
                # It may come byte by byte: to begin anew with each would cost far too much.
                self._state, self._read, self._hello = _State.HELLO, bytearray(), HelloReader()
                self._find_route(data)
            else:
                self._hand_over(self._factory.tls, data)
        elif plain is Plain.FORWARD:
            self._hand_over(self._factory.application, data)
        else:
            self._state = _State.REQUEST
            self._request(data)

    def _find_route(self, data: bytes) -> None:
        reader = self._hello
        assert reader is not None
        self._read += data
        factory = self._factory
        found: Any = factory.tls
        route: Route | None = None
        try:
            hello = reader.feed(data)
        except MalformedHello:
            pass  # OpenSSL knows better than we do what is wrong with it
        else:
            if hello is None:
                return
            route, found = next(
                (each for each in factory.routes if each[0].is_for(hello)), (None, found)
            )
        self._hello = None
        if route is not None and route.rules is not None and hello is not None:
            # There is no handshake here after which this could be asked.
            host = getattr(self.transport.getPeer(), "host", None)
            decision = route.rules.decide(Peer((), host, hello.server_name))
            if not decision.allowed:
                self._unsaid(AccessRefused(decision.reason))
                self._drop()
                return
        self._hand_over(found, bytes(self._read))

    def _left(self) -> float | None:
        """Seconds until the handshake has to be done."""
        clock, timeout = self._factory.clock_of(self.transport), self._factory.timeout
        return None if clock is None or timeout is None else timeout - clock.seconds() + self._since

    def _wait(self, seconds: float | None) -> None:
        """Wait for so many seconds, or for as long as a plain client is silent."""
        expired: Callable[[float], object] = self._expired
        plain_after = self._factory.options.plain_after
        if (
            plain_after is not None
            and self._state is _State.FIRST
            and (seconds is None or plain_after < seconds)
        ):
            seconds, expired = plain_after, self._silent
        self._set(seconds, expired)

    def _silent(self, _: float) -> None:
        if not self._read:
            self._hand_over(self._factory.application, b"")
            return
        # It has begun with TLS, and has the time that there is for that.
        self._set(self._left(), self._expired)

    def _hand_over(self, factory: Any, data: bytes) -> None:
        transport, slot = self.transport, self._slot
        is_tls = isinstance(factory, TLSConnectorFactory)
        following = None
        # Most of what a connection takes is taken from here on.
        if ROOM.is_there() and (slot is None or not is_tls or slot.begin_handshake()):
            following = factory.buildProtocol(self._addr)
        if following is None:
            self._drop()
            return
        self._cancel()
        self._state = _State.DONE
        observer = None if is_tls else self._factory.tls.observer
        if observer is not None:
            observer.plain(transport, self._addr)
        if is_tls:
            clock = self._factory.clock_of(transport)
            following._handshakeWaited = 0.0 if clock is None else clock.seconds() - self._since
            following.firstBytes = data
        # Of a plain connection it is for us to see when it ends, where anybody wants to know.
        is_free = is_tls or (slot is None and observer is None)
        if getattr(transport, "protocol", None) is self and is_free:
            transport.protocol = following
            if slot is not None:
                following.slot, self._slot = slot, None
        else:
            self._next = following
        try:
            following.makeConnection(transport)
        except BaseException:
            if slot is not None:
                slot.release()
            raise
        if data:
            following.dataReceived(data)

    # Plain HTTP

    def _request(self, data: bytes) -> None:
        self._read += data
        if not is_request(bytes(self._read[:21])):
            self._hand_over(self._factory.tls, bytes(self._read))
            return
        answer = answer_to(bytes(self._read))
        if answer is not None:
            self._read = b""
            self._farewell(answer)

    def _farewell(self, data: bytes) -> None:
        """Say this last, and see that it arrives."""
        transport = self.transport
        self._send(data)
        self._cancel()
        self._state, self._dialogue = _State.DRAINING, None
        lose_write = getattr(transport, "loseWriteConnection", None)
        if lose_write is None:
            transport.loseConnection()
            return
        lose_write()
        self._since = _MOST_DRAINED
        self._set(_DRAIN_SECONDS, lambda _: transport.loseConnection())

    def _drain(self, data: bytes) -> None:
        self._since -= len(data)
        if self._since < 0:
            abort(self.transport)

    # The end

    def _refuse(self, why: str) -> None:
        self._say(why)
        self._drop()

    def _drop(self) -> None:
        """End the connection; what still comes is not looked at."""
        self._cancel()
        self._state, self._reader, self._since = _State.DRAINING, None, 0.0
        abort(self.transport)

    def _expired(self, _: float) -> None:
        seconds = self._factory.timeout or 0.0
        what = _WAITED_FOR.get(self._state)
        if what is not None:
            self._refuse(f"no {what} within {seconds:g} seconds")
            return
        self._unsaid(TimeoutError(f"no handshake within {seconds:g} seconds"))
        self._drop()

    def _unsaid(self, error: BaseException) -> None:
        """Tell of a client that has not come as far as TLS."""
        read = self._read
        clock = self._factory.clock_of(self.transport)
        self._factory.tls.refused(
            None,
            FailedHandshake(
                error=error,
                is_server=True,
                peer=address_text(self.transport.getPeer()),
                first_bytes=bytes(read[:64]),
                received=len(read),
                waited=0.0 if clock is None else clock.seconds() - self._since,
            ),
        )

    def _say(self, why: str) -> None:
        _log.info(
            "no handshake with {peer}: {why}",
            peer=address_text(self.transport.getPeer()),
            why=one_line(why),
        )

    def _set(self, seconds: float | None, expired: Callable[[float], object]) -> None:
        clock = self._factory.clock_of(self.transport)
        if seconds is not None and clock is not None:
            self._call = deadlines_of(clock).callLater(seconds, expired, seconds)

    def _cancel(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()


@implementer(IProtocolFactory, ILoggingContext)
class PreambleFactory:
    """
    Begins connections whose TLS another factory makes.

    @ivar tls: makes the TLS layers, and tells of clients that do not come so far.
    @ivar application: makes the protocols of plain connections.
    @ivar options: what may come before TLS.
    @ivar limiter: counts connections; L{None} where there may be any number of them.
    @ivar routes: where clients go by their hellos, first come first served, with what takes their
        connections: a factory that ends TLS, or one that takes them as they are.
    """

    noisy = False

    def __init__(
        self,
        tls: Any,
        options: PreambleOptions,
        limiter: Limiter | None = None,
        routes: Sequence[tuple[Route, Any]] = (),
    ) -> None:
        self.tls = tls
        self.routes = routes
        self.limiter = limiter
        self.application: Any = tls.wrappedFactory
        self.options = options
        self.timeout = tls.handshakeTimeout
        self._clock = clock_of(tls._givenClock, None)

    def buildProtocol(self, addr: IAddress | None) -> Preamble | None:  # type: ignore[override]
        """
        @see: L{IProtocolFactory.buildProtocol}
        """
        if not ROOM.is_there():
            return None
        limiter = self.limiter
        if limiter is None:
            return Preamble(self, addr)
        slot = limiter.admit()
        return None if slot is None else Preamble(self, addr, slot)

    def logPrefix(self) -> str:
        """
        @see: L{twisted.internet.interfaces.ILoggingContext}
        """
        return self.tls.logPrefix()  # type: ignore[no-any-return]

    def doStart(self) -> None:
        """
        @see: L{IProtocolFactory.doStart}
        """
        for each in self._all():
            each.doStart()

    def doStop(self) -> None:
        """
        @see: L{IProtocolFactory.doStop}
        """
        for each in self._all():
            each.doStop()
        if self.limiter is not None:
            self.limiter.stop()

    def _all(self) -> list[Any]:
        return [self.tls, *(factory for _, factory in self.routes)]

    def clock_of(self, transport: Any) -> Any:
        """What deadlines run on; L{None} where there is no time."""
        return self._clock or clock_of(None, transport)


def _is_record(data: bytes) -> bool:
    """Whether the first record is whole, or is none that will ever be: RFC 8446, section 5.1."""
    if not HANDSHAKE.startswith(data[:2]):
        return True
    size = int.from_bytes(data[3:5], "big")
    return len(data) >= 5 and (len(data) >= 5 + size or size > LONGEST_RECORD)


def _outlived(transport: Any, seconds: float) -> None:
    """A connection is as old as one may become."""
    protocol = getattr(transport, "protocol", None)
    if isinstance(protocol, TLSConnectorProtocol):
        protocol._lifetimeExpired(seconds)
    else:
        abort(transport)


def _readdress(transport: Any, header: ProxyHeader) -> None:
    """
    Have the transport give the addresses of a header for its own; its peer is only the proxy.
    """
    transport.proxyHeader = header
    for name, address in (("getPeer", header.source), ("getHost", header.destination)):
        given = _address(address)
        if given is not None:
            setattr(transport, name, lambda given=given: given)


def _address(address: ProxyAddress | str | bytes | None) -> IAddress | None:
    if isinstance(address, ProxyAddress):
        kind = IPv6Address if ":" in address.host else IPv4Address
        return kind("TCP", address.host, address.port)
    return None if address is None else UNIXAddress(address)
