"""Two ends, their applications and the network between them, on which a program is run."""

from __future__ import annotations

from functools import cache
from typing import Any

import attrs
from twisted.internet import task
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPullProducer,
    IPushProducer,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer, provider

from tests.model.rules import TCP, TLS, Broken, Kind, Model, Oops, Rule, View
from tests.model.steps import SIDES, Act, Action, Fault, Program, React, Setting, Step, Turn, Wait
from tests.protocol_material import client_options, server_options
from tests.protocol_wire import MemoryConnection, MemorySocket, StreamConnection, Turns
from twisted_bioconn.protocol import TLSConnectorFactory, TLSConnectorProtocol

ENDURANCE = 200
"""Seconds after which any deadline of a connection is over."""

DRIPS = 300
"""Bytes that come one at a time, where they do: as many as half a handshake has."""

_RAISES = ("data", "handshake", "read lost", "write lost")
"""What an application is told in a call that Twisted lets fail: the others are its caller's."""


@cache
def _options(side: int) -> Any:
    """The same for all: what a context costs is not what is looked at here."""
    return client_options() if side else server_options()


class Socket(MemorySocket):
    """An end of a stream on a network that fails as it is told."""

    drips = 0
    stalls = False
    cut = False

    def send(self, data: memoryview) -> int:
        other: Any = self.other
        if self.stalls and not (self.reset or other.closed):
            raise BlockingIOError("stalled")
        if other.cut:
            return len(data)
        return super().send(data)

    @property
    def writable(self) -> bool:
        other: Any = self.other
        return (not self.stalls or self.reset or other.closed) and (other.cut or super().writable)

    def recv(self, size: int) -> bytes:
        if self.drips:
            self.drips -= 1
            size = 1
        return super().recv(size)

    def fail(self, what: str) -> None:
        """@see: L{Fault}"""
        if self.closed:
            return
        if what == "reset":
            self._reset()
        elif what == "cut":
            self.cut = self.ended = True
        elif what == "stall":
            self.stalls = True
        elif what == "drip":
            self.drips = DRIPS
        else:
            self.stalls, self.drips = False, 0


@implementer(IHandshakeListener)
class Application(Protocol):
    """Says what it is told."""

    def __init__(self, end: End) -> None:
        self._end = end

    def connectionMade(self) -> None:
        self._end.transport = self.transport
        self._end.is_told("made")

    def handshakeCompleted(self) -> None:
        self._end.is_told("handshake")

    def dataReceived(self, data: bytes) -> None:
        self._end.is_told("data", data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end.is_lost(reason)


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Application):
    """One that can go on when one direction is closed."""

    def readConnectionLost(self) -> None:
        self._end.is_told("read lost")

    def writeConnectionLost(self) -> None:
        self._end.is_told("write lost")


class Producer:
    """Writes so many times, of its own accord or when it is asked, and has finished."""

    def __init__(self, end: End, sizes: tuple[int, ...]) -> None:
        self._end = end
        self._sizes = list(sizes)
        self._runs = True
        self.over = False

    @property
    def finished(self) -> bool:
        """Whether it has written all."""
        return not self._sizes

    def next(self) -> None:
        """Write once; or have finished."""
        if self._sizes:
            self._end.write(self._sizes.pop(0))
        elif not self.over:
            self._end.unregister()

    def run(self) -> None:
        """Write until it is to wait."""
        while self._runs and not self.over:
            self.next()

    def stopProducing(self) -> None:
        self._called("stopped")
        self.over = True
        self._end.is_stopped(self)

    def _called(self, what: str) -> None:
        if self.over:
            self._end.breaks(Rule.PRODUCER, f"has a producer that is {what} when it is over")


@implementer(IPushProducer)
class PushProducer(Producer):
    """Writes until it is told to wait."""

    def pauseProducing(self) -> None:
        self._called("paused")
        self._runs = False

    def resumeProducing(self) -> None:
        self._called("resumed")
        running, self._runs = self._runs, True
        self._end.reacts("resume")
        if not running:
            self.run()


@implementer(IPullProducer)
class PullProducer(Producer):
    """Writes when it is asked to."""

    def resumeProducing(self) -> None:
        self._called("resumed")
        self._end.reacts("resume")
        if not self.over:
            self.next()


class End:
    """
    One end: an application that does what a program says.

    @ivar transport: what it has as its transport.
    @ivar wire: what that stands on, or is.
    """

    def __init__(self, model: Model, side: int) -> None:
        self.model = model
        self.side = side
        self.view = model.views[side]
        self.transport: Any = None
        self.wire: Any = None
        self.producer: Producer | None = None
        self.reactions: dict[str, list[Action]] = {}

    def breaks(self, rule: Rule, how: str) -> None:
        """A rule does not hold here."""
        self.model.breaks(rule, self.side, how)

    # What it is told

    def is_told(self, what: str, data: bytes = b"") -> None:
        """@see: L{Model.tells}"""
        self.model.tells(self.side, what, data)
        self.reacts(what)

    def is_lost(self, reason: Failure) -> None:
        """@see: L{Model.is_lost}"""
        self.model.is_lost(self.side, reason)
        self.reacts("lost")

    def is_stopped(self, producer: Producer) -> None:
        """A producer of its is: the one that it has, or one that nobody wanted any more."""
        if producer is self.producer:
            self.producer = None
            self.view.producing = False

    def reacts(self, what: str) -> None:
        """Do what the program says, within a call."""
        waiting = self.reactions.get(what)
        if waiting:
            action = waiting.pop(0)
            if what in ("handshake", "resume", "data"):
                # TCP has no such moment, or another one.
                self.model.orderly = False
            if action.what != "fail":
                self.act(action)
            elif what in _RAISES:
                self.model.ends(self.side, "fail")
                raise Oops(what)

    # What it does

    def act(self, action: Action) -> None:
        """Do it, and let nothing of it be raised."""
        if self.transport is None:
            return
        try:
            getattr(self, action.what)(
                *([action.sizes] if action.sizes or action.what.startswith("register") else [])
            )
        except Exception:
            self.breaks(Rule.CALLS, f"calls {action.what}: {Failure().getTraceback()}")

    def write(self, sizes: int | tuple[int, ...]) -> None:
        [size] = sizes if isinstance(sizes, tuple) else (sizes,)
        self.transport.write(self.model.writes(self.side, size))

    def send(self, sizes: tuple[int, ...]) -> None:
        send = getattr(self.transport, "send" if self.model.kind is TLS else "write")
        send(self.model.writes(self.side, sizes[0]))

    def write_sequence(self, sizes: tuple[int, ...]) -> None:
        self.transport.writeSequence([self.model.writes(self.side, size) for size in sizes])

    def pause(self) -> None:
        self.view.paused = True
        self.transport.pauseProducing()

    def resume(self) -> None:
        self.view.paused = False
        self.transport.resumeProducing()

    def lose(self) -> None:
        self.model.ends(self.side, "lose")
        self.transport.loseConnection()

    def stop_producing(self) -> None:
        self.model.ends(self.side, "lose")
        self.transport.stopProducing()

    def stop_consuming(self) -> None:
        self._forget_producer()
        self.model.ends(self.side, "lose")
        self.transport.stopConsuming()

    def half_close(self) -> None:
        if self.view.lost and not self.model.kind.half_closes_late:
            return
        self.model.half_closes(self.side)
        self.transport.loseWriteConnection()

    def abort(self) -> None:
        self.model.ends(self.side, "abort")
        self.transport.abortConnection()

    def register_push(self, sizes: tuple[int, ...]) -> None:
        producer = PushProducer(self, sizes)
        if self._register(producer, True):
            producer.run()

    def register_pull(self, sizes: tuple[int, ...]) -> None:
        self._register(PullProducer(self, sizes), False)

    def _register(self, producer: Producer, streaming: bool) -> bool:
        before = self.producer
        if before is not None:
            # How far that one is depends on how fast it was.
            self.model.orderly = False
        else:
            self.producer, self.view.producing = producer, True
        try:
            self.transport.registerProducer(producer, streaming)
        except RuntimeError:
            if before is None:
                raise
            return False
        if before is not None and not producer.over:
            self.breaks(Rule.CALLS, "may register a second producer")
        return not producer.over

    def unregister(self) -> None:
        self._forget_producer()
        self.transport.unregisterProducer()

    def _forget_producer(self) -> None:
        producer, self.producer = self.producer, None
        self.view.producing = False
        if producer is not None:
            producer.over = True
            if not producer.finished:
                self.model.orderly = False


class World:
    """
    Both ends in a setting, over TLS or over plain TCP.

    @ivar model: what holds of them.
    """

    def __init__(self, kind: Kind, setting: Setting, layer: type[TLSConnectorProtocol]) -> None:
        self.clock = Turns()
        self.model = Model(kind, setting)
        self.ends = (End(self.model, 0), End(self.model, 1))
        self.sockets: tuple[Any, Any] = Socket.pair(setting.capacity)
        for side, end in enumerate(self.ends):
            application = (HalfCloseable if setting.half[side] else Application)(end)
            protocol: Any = application
            streams = setting.streams[side] and kind is TLS
            if kind is TLS:
                protocol = self._layer(side, application, layer)
            transport = StreamConnection if streams else MemoryConnection
            end.wire = transport(self.sockets[side], protocol, self.clock)

    def _layer(self, side: int, application: Application, layer: type[TLSConnectorProtocol]) -> Any:
        factory = TLSConnectorFactory(
            _options(side),
            bool(side),
            Factory.forProtocol([application].pop),
            clock=self.clock,
            idleTimeout=self.model.setting.idle,
        )
        factory.protocol = layer
        return factory.buildProtocol(None)

    def begin(self) -> None:
        """Connect both."""
        for end in self.ends:
            end.wire.begin()

    def do(self, step: Step) -> None:
        """Do a step, and see whether all is as it may be."""
        if isinstance(step, Act):
            self.ends[step.side].act(step.action)
        elif isinstance(step, React):
            self.ends[step.side].reactions.setdefault(step.told, []).append(step.action)
        elif isinstance(step, Wait):
            self.model.time_passes(step.seconds)
            self.clock.advance(step.seconds)
        elif isinstance(step, Fault):
            if step.what in ("reset", "cut"):
                self.model.network_fails(step.side, step.what)
            self.sockets[step.side].fail(step.what)
        elif step.times is None:
            self.clock.settle()
        else:
            for _ in range(step.times):
                self.clock.turn()
        self.model.check_pause()

    def calm(self) -> None:
        """Take all out of the way, and see that all has come that is due."""
        for end, socket in zip(self.ends, self.sockets, strict=True):
            end.reactions.clear()
            socket.fail("heal")
        for end in self.ends:
            if end.view.paused:
                end.act(Action("resume"))
        self.do(Turn(None))
        self.model.check_calm()

    def end(self) -> None:
        """Close both, and see that nothing is left."""
        for end in self.ends:
            end.act(Action("lose"))
            self.do(Turn(None))
        for _ in range(ENDURANCE // 5):
            self.do(Wait(5.0))
            self.do(Turn(None))
        self.model.check_over()
        left = [*self.clock.getDelayedCalls(), *self.clock.getReaders(), *self.clock.getWriters()]
        if left:
            self.model.broken.append(Broken(Rule.LEFT, f"there is left: {left}"))
        for side, socket in enumerate(self.sockets):
            if not socket.closed:
                self.model.breaks(Rule.LEFT, side, "has an open socket")


@attrs.frozen
class Outcome:
    """
    What became of a program.

    @ivar broken: the rules that did not hold.
    @ivar orderly: whether it would have to be the same over TCP.
    @ivar told: what either end was told, in order, but for the end of a handshake; and last,
        whether it was told that its own direction is closed, whose place among data that comes is
        a matter of chance.
    @ivar reasons: why either was lost, as names of classes.
    @ivar received: bytes that came to either.
    """

    broken: list[Broken]
    orderly: bool
    told: tuple[list[str], list[str]]
    reasons: tuple[str, str]
    received: tuple[int, int]


def run(
    program: Program, kind: Kind, layer: type[TLSConnectorProtocol] = TLSConnectorProtocol
) -> Outcome:
    """
    Run a program.

    @param layer: what there is over TLS.
    """
    world = World(kind, program.setting, layer)
    model = world.model
    failures: list[Failure] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None and not failure.check(Oops):
            failures.append(failure)

    cooperator, task._theCooperator = (
        task._theCooperator,
        task.Cooperator(scheduler=lambda call: world.clock.callLater(0, call)),
    )
    globalLogPublisher.addObserver(observe)
    try:
        world.begin()
        if program.setting.open:
            world.do(Turn(None))
        for step in program.steps:
            world.do(step)
        world.calm()
        orderly = model.orderly
        world.end()
    finally:
        globalLogPublisher.removeObserver(observe)
        task._theCooperator = cooperator
    model.broken.extend(Broken(Rule.LOG, failure.getTraceback()) for failure in failures)
    reasons = [
        "none" if view.reason is None else type(view.reason.value).__name__ for view in model.views
    ]
    zero, one = model.views
    return Outcome(
        model.broken,
        orderly,
        (_told(zero), _told(one)),
        (reasons[0], reasons[1]),
        (zero.received, one.received),
    )


def _told(view: View) -> list[str]:
    told = [what for what in view.told if what not in ("handshake", "write lost")]
    # Runs of data as one again, whatever it was told between them.
    told = [what for n, what in enumerate(told) if what != "data" or told[n - 1 : n] != ["data"]]
    return told + ["write lost"] * ("write lost" in view.told)


__all__ = ["SIDES", "TCP", "TLS", "End", "Outcome", "World", "run"]
