"""
How much strangers may have of us at a time.

A connection that is one too many is closed as it is accepted, before anything is made for it; a
handshake that is one too many, at its first byte, before there is any TLS.  A flood is not a flood
of log lines either: what was refused is counted, and told of from time to time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum, IntEnum
from ipaddress import IPv6Address, ip_address
from typing import Any

import attrs
from twisted.logger import Logger

from ._board import Alone, Board
from ._bucket import SIZE, Bucket
from ._transport import one_line
from .errors import ConfigurationError

__all__ = ["Limit", "Limiter", "Limits", "Slot"]

_log = Logger()

TELL_INTERVAL = 10.0
"""Seconds between two log lines that say how many were refused."""


class Limit(Enum):
    """What there may be too much of, by the name of its option."""

    CONNECTIONS = "maxConnections"
    PER_ADDRESS = "maxPerAddress"
    PER_NETWORK = "maxPerNetwork"
    HANDSHAKES = "maxHandshakes"
    HANDSHAKE_RATE = "handshakeRate"


@attrs.frozen(kw_only=True)
class Limits:
    """
    How much there may be; L{None} is for no limit.

    @ivar connections: connections at a time.
    @ivar per_address: connections at a time of one address.
    @ivar per_network: connections at a time of one network: 24 bits of an IPv4 address, 64 of an
        IPv6 address, which is what one customer has.
    @ivar handshakes: handshakes at a time.
    @ivar handshake_rate: handshakes that begin in a second.
    @ivar lifetime: seconds after which a connection is closed, whatever it is doing.
    @raise ConfigurationError: one of them lets nobody in.
    """

    connections: int | None = None
    per_address: int | None = None
    per_network: int | None = None
    handshakes: int | None = None
    handshake_rate: int | None = None
    lifetime: float | None = None

    def __attrs_post_init__(self) -> None:
        for name, value in attrs.asdict(self).items():
            if value is not None and value <= 0:
                raise ConfigurationError(f"{name}={value}: this must be above 0, or None")

    @property
    def is_needed(self) -> bool:
        """Whether there is any limit."""
        return any(value is not None for value in attrs.astuple(self))


class _Column(IntEnum):
    """What several processes count together."""

    CONNECTIONS = 0
    HANDSHAKES = 1


class _Stage(Enum):
    """How far a connection has got, for the counts."""

    WAITING = "nothing is made for it"
    HANDSHAKE = "its handshake goes on"
    LET_IN = "its handshake is done"
    GONE = "it is counted no more"


class Slot:
    """
    The place of one connection in the counts.
    """

    __slots__ = ("_addresses", "_limiter", "_stage", "lifetime")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._addresses: tuple[str, ...] = ()
        self._stage = _Stage.WAITING
        self.lifetime: Any = None

    def identify(self, host: str | None) -> bool:
        """
        It is known where the client is.

        @param host: its address; L{None} for a client that has none.
        @return: whether there may be one more from there.
        """
        return self._limiter._identify(self, host)

    def begin_handshake(self) -> bool:
        """
        The handshake is about to begin.

        @return: whether there may be one more.
        """
        return self._limiter._begin(self)

    def end_handshake(self) -> None:
        """The handshake is done."""
        if self._stage is _Stage.HANDSHAKE:
            self._stage = _Stage.LET_IN
            self._limiter._end()

    def release(self) -> None:
        """The connection has ended, however it did; more than once is the same as once."""
        self.end_handshake()
        if self._stage is _Stage.GONE:
            return
        self._stage = _Stage.GONE
        lifetime, self.lifetime = self.lifetime, None
        if lifetime is not None and lifetime.active():
            lifetime.cancel()
        self._limiter._release(self)


class Limiter:
    """
    Counts the connections of a port, or of several, and says when there are enough.

    Where several processes serve a port, the limits are for all of them together once it is shared.

    @ivar limits: how much there may be.
    @ivar connections: how many there are in this process.
    @ivar handshakes: how many handshakes go on in this process.
    @ivar refused: how many connections were refused, by the limit.
    @ivar told: called with the limit for each of them.
    """

    def __init__(self, limits: Limits, clock: Any) -> None:
        """
        @param clock: for the rate, and for the log.
        """
        self.limits = limits
        self.connections = 0
        self.handshakes = 0
        self.refused: Counter[Limit] = Counter()
        self.told: Callable[[Limit], object] | None = None
        self._clock = clock
        self._by_address: Counter[str] = Counter()
        rate = limits.handshake_rate
        self._handshakes = None if rate is None else Bucket(rate, rate, clock.seconds)
        self._untold: Counter[Limit] = Counter()
        self._last_from = ""
        self._telling: Any = None
        self._board = Alone()

    def share(self, processes: int) -> None:
        """
        Count for several processes, which are forked from this one.

        @param processes: how many there are at most, at a time.
        """
        limits = self.limits
        places = limits.per_address is not None or limits.per_network is not None
        self._board = board = Board(processes, len(_Column), places=places, more=SIZE)
        if self._handshakes is not None:
            self._handshakes.share(board.shared)

    def be_process(self, number: int) -> None:
        """This is one of the processes, from 0 up; no other has this number as long as it runs."""
        self._board.sit(number)

    def process_ended(self, number: int) -> None:
        """A process is no more: so are its connections."""
        self._board.clear(number)

    def admit(self) -> Slot | None:
        """
        A connection was accepted.

        @return: its place; L{None} if there are too many.
        """
        most = self.limits.connections
        if most is not None and self.connections + self._board.others(_Column.CONNECTIONS) >= most:
            self._refuse(Limit.CONNECTIONS, "")
            return None
        self.connections += 1
        self._board.add(_Column.CONNECTIONS, 1)
        return Slot(self)

    def _identify(self, slot: Slot, host: str | None) -> bool:
        limits = self.limits
        if host is None or slot._addresses:
            return True
        wanted = []
        if limits.per_address is not None or limits.per_network is not None:
            address, network = _places(host)
            for limit, most, place in (
                (Limit.PER_ADDRESS, limits.per_address, address),
                (Limit.PER_NETWORK, limits.per_network, network),
            ):
                if most is None:
                    continue
                if self._by_address[place] + self._board.others_at(place) >= most:
                    self._refuse(limit, host)
                    return False
                wanted.append(place)
        slot._addresses = tuple(wanted)
        self._by_address.update(wanted)
        for place in wanted:
            self._board.add_place(place, 1)
        return True

    def _begin(self, slot: Slot) -> bool:
        limits = self.limits
        most = limits.handshakes
        if most is not None and self.handshakes + self._board.others(_Column.HANDSHAKES) >= most:
            self._refuse(Limit.HANDSHAKES, "")
            return False
        if self._handshakes is not None and not self._handshakes.take():
            self._refuse(Limit.HANDSHAKE_RATE, "")
            return False
        self.handshakes += 1
        self._board.add(_Column.HANDSHAKES, 1)
        slot._stage = _Stage.HANDSHAKE
        return True

    def _end(self) -> None:
        self.handshakes -= 1
        self._board.add(_Column.HANDSHAKES, -1)

    def _release(self, slot: Slot) -> None:
        self.connections -= 1
        self._board.add(_Column.CONNECTIONS, -1)
        for place in slot._addresses:
            self._board.add_place(place, -1)
            left = self._by_address[place] - 1
            if left:
                self._by_address[place] = left
            else:
                # What nobody is connected from any more must not be kept.
                del self._by_address[place]

    def _refuse(self, limit: Limit, host: str) -> None:
        self.refused[limit] += 1
        if self.told is not None:
            self.told(limit)
        self._untold[limit] += 1
        self._last_from = host or self._last_from
        if self._telling is None:
            self._tell()
            self._telling = self._clock.callLater(TELL_INTERVAL, self._tell_again)

    def _tell_again(self) -> None:
        self._telling = None
        if self._untold:
            self._tell()
            self._telling = self._clock.callLater(TELL_INTERVAL, self._tell_again)

    def _tell(self) -> None:
        untold, self._untold = self._untold, Counter()
        named = {
            Limit.CONNECTIONS: self.limits.connections,
            Limit.PER_ADDRESS: self.limits.per_address,
            Limit.PER_NETWORK: self.limits.per_network,
            Limit.HANDSHAKES: self.limits.handshakes,
            Limit.HANDSHAKE_RATE: self.limits.handshake_rate,
        }
        for limit, count in untold.items():
            of_address = limit in (Limit.PER_ADDRESS, Limit.PER_NETWORK)
            _log.warn(
                "{count} refused{where}: {option}={most} has been reached",
                count="1 connection was" if count == 1 else f"{count} connections were",
                where=f", the last from {one_line(self._last_from)}" if of_address else "",
                option=limit.value,
                most=named[limit],
            )

    def stop(self) -> None:
        """Tell what is untold, and wait for nothing any more."""
        telling, self._telling = self._telling, None
        if telling is not None and telling.active():
            telling.cancel()
        if self._untold:
            self._tell()


def _places(host: str) -> tuple[str, str]:
    """An address, and its network, as the names of their counts."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host, host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return str(address), f"{int(address) >> 64:x}/64"
        address = address.ipv4_mapped
    text = str(address)
    return text, text.rpartition(".")[0] + ".0/24"
