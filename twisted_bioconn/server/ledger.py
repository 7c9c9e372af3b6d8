"""
What there is to see of a server: its connections, and counts of all that became of them.

A L{Ledger} has an L{Account} for each port, which is the L{Observer} of that port's endpoint::

    ledger = Ledger(reactor)
    endpoint = ServerEndpoint(…, observer=ledger.account("--listen 8443"))

Of each connection there is one small record, and nothing is done for a byte: what has gone over the
wire, and whether a connection is about to close, is asked of the connection when somebody wants to
know.  When it ends there is one line in the log.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, Any

import attrs
from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionClosed,
    ConnectionDone,
    TimeoutError,
)
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_bioconn._transport import address_text, one_line
from twisted_bioconn.explanations import Cause, Explanation
from twisted_bioconn.limits import Limit
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.observing import Observer
from twisted_bioconn.protocol import TLSConnectorProtocol

if TYPE_CHECKING:
    # Most servers trace nothing, and start without what it takes.
    from twisted_bioconn.server.failure_traces import FailureTrace, FailureTraces

__all__ = [
    "CONNECTION_BOUNDS",
    "GOOD",
    "HANDSHAKE_BOUNDS",
    "OK",
    "QUIET",
    "Account",
    "Connection",
    "ConnectionState",
    "End",
    "Failed",
    "Histogram",
    "Ledger",
    "quantile",
    "total",
]

KEPT = 200
"""How many failed handshakes are kept, with their explanations."""

RECENT = 1024
"""How many of the newest handshakes the latency is told of."""

OK = "ok"
"""The result of a handshake whose client was let in."""

VALIDATION = Cause.ACME_VALIDATION.value
"""The result of a handshake that an authority has made, to see that the name is ours: RFC 8737."""

GOOD = frozenset({OK, VALIDATION})
"""The results of handshakes that have succeeded."""

QUIET = frozenset({Cause.CLOSED_SILENT.value, Cause.RESET_SILENT.value})
"""The results of those who have said nothing: health checks, scans of ports.  Nothing failed."""

HANDSHAKE_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""

CONNECTION_BOUNDS = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0)
"""Seconds."""

_log = Logger()


class ConnectionState(Enum):
    """How far a connection has got."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSING = "closing"


class End(Enum):
    """How a connection ended whose client had been let in."""

    CLOSED = "closed"
    LOST = "lost"
    TIMEOUT = "timeout"
    ABORTED = "aborted"
    OPERATOR = "closed by the operator"
    BROKEN = "broken"
    """The peer broke the rules of TLS."""
    REFUSED = "refused by the application"


class Histogram:
    """
    Counts of durations.

    @ivar bounds: upper bounds in seconds; what is above the last one is counted too.
    @ivar counts: how many were at most as long as the bound, and longer than the one before.
    @ivar total: of all durations, in seconds.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """For each bound how many were at most as long, as Prometheus wants them."""
        told = []
        so_far = 0
        for bound, number in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            so_far += number
            told.append((bound, float(so_far)))
        return told


class Connection:
    """
    A connection that there is.

    @ivar number: no other connection of this process has it.
    @ivar account: its port's.
    @ivar tls: its TLS layer.
    @ivar began: when its hello came, as the clock has it.
    @ivar facts: what was negotiated; L{None} as long as the handshake goes on.
    """

    __slots__ = ("account", "began", "by_operator", "facts", "number", "tls")

    def __init__(
        self, number: int, account: Account, tls: TLSConnectorProtocol, began: float
    ) -> None:
        self.number = number
        self.account = account
        self.tls = tls
        self.began = began
        self.facts: Negotiated | None = None
        self.by_operator = False

    @property
    def state(self) -> ConnectionState:
        """How far it has got."""
        if self.facts is None:
            return ConnectionState.HANDSHAKE
        return ConnectionState.CLOSING if self.tls.disconnecting else ConnectionState.OPEN

    @property
    def peer(self) -> str:
        """Where its client is."""
        return address_text(self.tls.getPeer())  # type: ignore[no-untyped-call]

    def described(self, now: float) -> dict[str, Any]:
        """
        All that is known of it, with values that JSON has; names from strangers are escaped.

        @param now: the time, as the clock has it.
        """
        received, sent = self.tls.traffic
        facts = self.facts
        return {
            "number": self.number,
            "listener": self.account.name,
            "peer": self.peer,
            "state": self.state.value,
            "server_name": None if facts is None else _escaped(facts.server_name),
            "version": None if facts is None else facts.version,
            "cipher": None if facts is None else facts.cipher,
            "group": None if facts is None else facts.group,
            "alpn": None if facts is None else _alpn(facts),
            "resumed": None if facts is None else facts.resumed,
            "client": None if facts is None else _subject(facts),
            "handshake_seconds": None if facts is None else facts.handshake_seconds,
            "seconds": now - self.began,
            "received": received,
            "sent": sent,
        }


@attrs.frozen(kw_only=True)
class Failed:
    """
    A handshake that has failed, or what did not come as far as one.

    @ivar moment: when, in seconds since 1970.
    @ivar listener: at which port.
    @ivar peer: the client's address.
    @ivar explanation: why.
    @ivar waited: seconds since the connection was accepted.
    @ivar trace: each step of it; L{None} where it was not traced.
    """

    moment: float
    listener: str
    peer: str
    explanation: Explanation
    waited: float
    trace: FailureTrace | None = None


class Account(Observer):
    """
    What there is of one port.

    @ivar name: what the user calls the port.
    @ivar target: what its clients get, in the user's words.
    @ivar address: where it listens, once it does.
    @ivar port: what listens there; it may say how often it had to pause.
    @ivar open: its connections, by their TLS layers, the oldest first.
    @ivar begun_count: how many there have been.
    @ivar plain_count: how many were let in without TLS.
    @ivar results: of handshakes: C{ok} or the cause.
    @ivar negotiated: how many handshakes have agreed on a version and a group, and were resumed.
    @ivar ends: how the connections ended whose clients had been let in.
    @ivar limits: how many were refused, by the limit.
    @ivar handshake_times: of handshakes that are done.
    @ivar connection_times: of connections whose clients had been let in.
    """

    def __init__(self, ledger: Ledger, name: str, target: str = "") -> None:
        """To be had from L{Ledger.account}."""
        self.name = name
        self.target = target
        self.address: str | None = None
        self.port: object = None
        self.open: dict[TLSConnectorProtocol, Connection] = {}
        self.begun_count = 0
        self.plain_count = 0
        self.results: Counter[str] = Counter()
        self.negotiated: Counter[tuple[str, str | None, bool]] = Counter()
        self.ends: Counter[End] = Counter()
        self.limits: Counter[Limit] = Counter()
        self.handshake_times = Histogram(HANDSHAKE_BOUNDS)
        self.connection_times = Histogram(CONNECTION_BOUNDS)
        self._ledger = ledger
        self._seconds = ledger.clock.seconds
        self._received = self._sent = 0

    def refused(self, limit: Limit) -> None:
        """A connection was one too many."""
        self.limits[limit] += 1

    def begun(self, tls: TLSConnectorProtocol) -> None:
        """There is one more."""
        self.begun_count += 1
        self.open[tls] = Connection(self._ledger.next_number(), self, tls, self._seconds())

    def let_in(self, tls: TLSConnectorProtocol, facts: Negotiated) -> None:
        """Its handshake is done."""
        connection = self.open.get(tls)
        if connection is not None:
            connection.facts = facts
        self.results[OK] += 1
        self.negotiated[facts.version, facts.group, facts.resumed] += 1
        seconds = facts.handshake_seconds
        if seconds is not None:
            self.handshake_times.add(seconds)
            self._ledger.recent.append((self._seconds(), seconds))

    def not_let_in(
        self, tls: TLSConnectorProtocol | None, peer: str, explanation: Explanation, waited: float
    ) -> None:
        """Its handshake has failed, or there was none."""
        cause = explanation.cause.value
        self.results[cause] += 1
        if tls is not None and tls in self.open:
            self._add_traffic(self.open.pop(tls))
        if cause not in QUIET:
            traces = self._ledger.failure_traces
            self._ledger.failures.append(
                Failed(
                    moment=self._ledger.now(),
                    listener=self.name,
                    peer=peer,
                    explanation=explanation,
                    waited=waited,
                    trace=None if traces is None or tls is None else traces.of(tls),
                )
            )

    def plain(self, transport: Any, peer: IAddress | None) -> None:
        """One was let in without TLS."""
        self.plain_count += 1

    def plain_ended(self, peer: IAddress | None, lasted: float, reason: Failure) -> None:
        """One without TLS has ended: nothing more is known of it."""
        if self._ledger.logs:
            where = "unknown" if peer is None else address_text(peer)
            end = _end(reason.value)
            why = _why(end, reason)
            _log.info(
                "{line}",
                line=f"{where} -> {self.name} plain, lasted {lasted:.1f} s: {why}",
                peer=where,
                listener=self.name,
                version=None,
                seconds=lasted,
                end=end.name.lower(),
                why=why,
            )

    def ended(self, tls: TLSConnectorProtocol, reason: Failure) -> None:
        """There is one less."""
        connection = self.open.pop(tls, None)
        if connection is None:
            # It was not let in, and that has been told.
            return
        self._add_traffic(connection)
        facts = connection.facts
        if facts is None:
            # Its handshake was all there was to it.
            self.results[VALIDATION] += 1
            return
        now = self._seconds()
        self.connection_times.add(now - connection.began)
        end = End.OPERATOR if connection.by_operator else _end(reason.value)
        self.ends[end] += 1
        if self._ledger.logs:
            _tell(connection, facts, now, end, _why(end, reason))

    def traffic(self) -> tuple[int, int]:
        """The bytes that were received and sent by all, as they are on the wire."""
        received, sent = self._received, self._sent
        for tls in self.open:
            one, two = tls.traffic
            received += one
            sent += two
        return received, sent

    @property
    def pauses(self) -> int:
        """How often accepting had to wait, because there were no descriptors left, or no memory."""
        found: int = getattr(self.port, "pauses", 0)
        return found

    def states(self) -> Counter[ConnectionState]:
        """How many connections are how far."""
        return Counter(connection.state for connection in self.open.values())

    def _add_traffic(self, connection: Connection) -> None:
        received, sent = connection.tls.traffic
        self._received += received
        self._sent += sent


class Ledger:
    """
    What there is of all ports of a process.

    @ivar clock: for durations.
    @ivar now: the present, in seconds since 1970.
    @ivar started: when this was made, as C{now} has it.
    @ivar accounts: of the ports.
    @ivar failures: the newest handshakes that have failed, the oldest of them first.
    @ivar recent: of the newest handshakes when they were done, and how long they took, both in
        seconds of the clock.
    @ivar logs: whether there is a line in the log for each connection.
    @ivar failure_traces: traces those handshakes; L{None} where nobody has asked for it.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        now: Callable[[], float] = time.time,
        logs: bool = True,
        kept: int = KEPT,
    ) -> None:
        """
        @param kept: how many failures to keep.
        """
        self.clock = clock
        self.now = now
        self.started = now()
        self.accounts: list[Account] = []
        self.failures: deque[Failed] = deque(maxlen=kept)
        self.recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self.logs = logs
        self.failure_traces: FailureTraces | None = None
        self._began = clock.seconds()
        self.next_number = count(1).__next__

    @property
    def uptime(self) -> float:
        """Seconds since this was made."""
        return self.clock.seconds() - self._began

    def account(self, name: str, target: str = "") -> Account:
        """
        The account of a port: the one that it has, where there is one of that name.

        @param name: what the user calls the port.
        @param target: what its clients get.
        """
        for account in self.accounts:
            if account.name == name:
                return account
        account = Account(self, name, target)
        self.accounts.append(account)
        return account

    @property
    def open_count(self) -> int:
        """How many connections there are."""
        return sum(len(account.open) for account in self.accounts)

    def connections(self) -> Iterator[Connection]:
        """All connections, port by port."""
        for account in self.accounts:
            yield from account.open.values()

    def close(self, number: int) -> bool:
        """
        Drop a connection at once, as its operator wishes.

        @return: whether there is one of that number.
        """
        for connection in self.connections():
            if connection.number == number:
                connection.by_operator = True
                connection.tls.abortConnection()
                return True
        return False

    def latency(self, within: float) -> tuple[float | None, float | None]:
        """
        What half of the handshakes were done in, and 99 of 100.

        @param within: of how many seconds the handshakes are looked at.
        @return: two times in seconds; L{None} where there was no handshake.
        """
        since = self.clock.seconds() - within
        times = []
        for moment, seconds in reversed(self.recent):
            if moment < since:
                break
            times.append(seconds)
        times.sort()
        return quantile(times, 0.5), quantile(times, 0.99)


def quantile(values: list[float], share: float) -> float | None:
    """
    The least of some values that this share of them does not exceed.

    @param values: in order.
    """
    if not values:
        return None
    return values[max(0, -int(-share * len(values) // 1) - 1)]


def total(counters: Iterable[Counter[Any]]) -> Counter[Any]:
    """The sum of some counters."""
    told: Counter[Any] = Counter()
    for counter in counters:
        told.update(counter)
    return told


# The line in the log


def _tell(connection: Connection, facts: Negotiated, now: float, end: End, why: str) -> None:
    """Say all that there is to say of a connection that has ended, as text and as fields."""
    told = connection.described(now)
    took = facts.handshake_seconds
    words = [
        told["server_name"],
        facts.version,
        facts.group,
        facts.cipher,
        told["alpn"],
        "resumed" if facts.resumed else None,
        told["client"],
        f"{told['received']} in {told['sent']} out",
        None if took is None else f"handshake {took:.3f} s",
        f"lasted {told['seconds']:.1f} s",
    ]
    del told["state"]
    _log.info(
        "{line}",
        line=f"{told['peer']} -> {connection.account.name} "
        f"{' '.join(word for word in words if word)}: {why}",
        **told,
        end=end.name.lower(),
        why=why,
    )


def _end(error: BaseException | None) -> End:
    """How a connection ended."""
    match error:
        case None | ConnectionDone():
            return End.CLOSED
        case ConnectionAborted():
            return End.ABORTED
        case TimeoutError():
            return End.TIMEOUT
        case ConnectionClosed():
            return End.LOST
        case TLSError() | VerificationError():
            return End.BROKEN
        case _:
            return End.REFUSED


def _why(end: End, reason: Failure) -> str:
    """Why a connection ended, in a few words of one line."""
    how = str(end.value)
    if end in (End.CLOSED, End.OPERATOR):
        return how
    error = reason.value
    said = getattr(error, "osError" if isinstance(error, TimeoutError) else "sentence", None)
    if isinstance(error, ConnectionClosed):
        # Their text begins with what the class is for.
        said = ", ".join(str(each) for each in error.args if each is not None)
    text: str = said if isinstance(said, str) else str(error) or type(error).__name__
    return one_line(f"{how}: {text}" if text else how)


def _escaped(name: str | None) -> str | None:
    return None if name is None else one_line(name)


def _alpn(facts: Negotiated) -> str | None:
    return None if facts.alpn is None else one_line(facts.alpn.decode("ascii", "backslashreplace"))


def _subject(facts: Negotiated) -> str | None:
    certificate = facts.peer_certificate
    if certificate is None:
        return None
    try:
        # It is parsed when it is asked for, and where nobody verifies it, it may be anything.
        return one_line(certificate.subject.rfc4514_string()) or "a certificate with no subject"
    except ValueError:
        return "a certificate whose subject cannot be read"
