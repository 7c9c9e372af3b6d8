"""
The handshakes of the page's visitors, as sequence diagrams, and those who watch for further ones.

A visitor sees their own: those from the address that they come from.  Who comes from this machine
itself, and asks for it by a name of its own, sees those of others too.  A program on this machine
that relays strangers to the page makes locals of them, unless it tells where they are (PROXY
header) or passes on the name that they have asked for.

What is kept is bounded, whatever visitors do, and has no keys and no plaintext in it.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.web import http
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET, Request
from twisted.web.template import Tag, tags
from zope.interface import implementer

from twisted_bioconn._transport import address_text, one_line
from twisted_bioconn.server.ending_site import EndingSite
from twisted_bioconn.server.local import is_local, without_port
from twisted_bioconn.trace import Event, Trace, Tracer, TracerLimits
from twisted_bioconn.trace.events import Handshaken, Read, Written
from twisted_bioconn.trace.html import as_bytes, diagram

__all__ = ["KEPT", "Handshakes", "PageSite", "Watching"]

KEPT = 20
"""How many handshakes are kept, the last ones."""

LIMITS = TracerLimits(events=200, octets=0)
"""How much is kept of a connection."""

LARGEST = 256 * 1024
"""Bytes of a diagram at most; of a larger one there is a sentence."""

WATCHERS = 32
"""How many may watch at a time."""

WATCHERS_EACH = 6
"""How many of them may be at one address."""

HEARTBEAT = 15.0
"""Seconds between two signs of life: who is gone without a word is found out by them."""

_EVENTS: Final = "text/event-stream; charset=utf-8"


@attrs.define(eq=False)
class _Handshake:
    """
    One that is kept.

    @ivar number: no other has it; later ones have greater numbers.
    @ivar host: where its client is.
    """

    number: int
    host: str
    _trace: Trace | None
    _block: bytes = b""

    @property
    def block(self) -> bytes:
        """An event for those who watch: the data are HTML, in one line for each line of it."""
        trace, self._trace = self._trace, None
        if trace is not None:
            self._block = as_bytes(_folded(trace))
        return self._block


class Handshakes:
    """
    Traces the connections of a page, and shows them.

    @ivar tracer: traces them.
    """

    def __init__(self, clock: IReactorTime) -> None:
        """
        @param clock: for signs of life.
        """
        self.tracer = Tracer(self._ended, limits=LIMITS, each=self._happened)
        self._clock: Any = clock
        self._kept: deque[_Handshake] = deque(maxlen=KEPT)
        self._number = 0
        # The numbers of another process are others.
        self._token = secrets.token_hex(4)
        self._watchers: list[_Watcher] = []
        self._due: Any = None
        self._beating = LoopingCall(self._beat)
        self._beating.clock = self._clock

    # What is traced

    def _happened(self, trace: Trace, event: Event) -> None:
        if isinstance(event, Handshaken):
            self._keep(trace)

    def _ended(self, trace: Trace) -> None:
        # A scan of ports, or a connection that a browser makes in advance, shows nothing.
        if not trace.is_done and trace.received:
            self._keep(trace)

    def _keep(self, trace: Trace) -> None:
        self._number += 1
        self._kept.append(_Handshake(self._number, _host_of(trace.peer), trace))
        if self._watchers and self._due is None:
            # What goes out with the last message is yet to be sent.
            self._due = self._clock.callLater(0, self._tell)

    # What is shown

    @property
    def mark(self) -> str:
        """Stands for all that there have been so far."""
        return f"{self._token}-{self._number}"

    def own(self, request: Request) -> Tag | None:
        """The handshake of the connection that a request has come on, where it is traced."""
        trace = _trace_of(request)
        return None if trace is None else _drawn(trace, "Your handshake, step by step")

    def _after(self, mark: str) -> int:
        token, _, number = mark.partition("-")
        is_ours = token == self._token and number.isascii() and number.isdecimal()
        return int(number[:18]) if is_ours else 0

    def watch(self, request: Request, mark: str) -> bool:
        """
        Answer a request with each further handshake that its sender may see, until it is gone.

        @param mark: those up to this one are known.
        @return: whether there is room for one more.
        """
        host = _host_of(address_text(request.getClientAddress()))
        at_host = sum(1 for each in self._watchers if each.host == host)
        if len(self._watchers) >= WATCHERS or at_host >= WATCHERS_EACH:
            return False
        watcher = _Watcher(request, host, _sees_all(request), self._after(mark))
        self._watchers.append(watcher)
        request.notifyFinish().addBoth(lambda _: self._gone(watcher))
        if not self._beating.running:
            self._beating.start(HEARTBEAT, now=False)
        watcher.begin(lambda: self._tell_one(watcher))
        return True

    def stop(self) -> None:
        """The page is closed: end what is being answered."""
        for each in list(self._watchers):
            each.end()
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _gone(self, watcher: _Watcher) -> None:
        if watcher in self._watchers:
            self._watchers.remove(watcher)
        if not self._watchers and self._beating.running:
            self._beating.stop()

    def _tell(self) -> None:
        self._due = None
        for each in list(self._watchers):
            self._tell_one(each)

    def _tell_one(self, watcher: _Watcher) -> None:
        for each in list(self._kept):
            if watcher.is_paused:
                # It asks again, and is told what is still there then.
                return
            if each.number > watcher.known:
                watcher.known = each.number
                if watcher.sees_all or (each.host and each.host == watcher.host):
                    watcher.write(self._as_event(each))

    def _as_event(self, each: _Handshake) -> bytes:
        data = b"".join(b"data: %b\n" % line for line in each.block.split(b"\n"))
        return b"id: %b-%d\nevent: handshake\n%b\n" % (self._token.encode(), each.number, data)

    def _beat(self) -> None:
        for each in list(self._watchers):
            if not each.is_paused:
                each.write(b":\n\n")


@implementer(IPushProducer)
class _Watcher:
    """
    Somebody who watches.

    @ivar host: where they are.
    @ivar sees_all: whether they see the handshakes of others.
    @ivar known: the number of the last handshake that they were told of.
    @ivar is_paused: whether they are slower to read than there is something to tell.
    """

    def __init__(self, request: Request, host: str, sees_all: bool, known: int) -> None:
        self.host = host
        self.sees_all = sees_all
        self.known = known
        self.is_paused = False
        self._request: Any = request
        self._resumed: Callable[[], object] = lambda: None

    def begin(self, resumed: Callable[[], object]) -> None:
        """Begin the answer; what is given is called whenever there is room for more of it."""
        self._resumed = resumed
        self._request.registerProducer(self, True)
        # The headers are sent with it.
        self._request.write(b"retry: 3000\n\n")
        resumed()

    def write(self, data: bytes) -> None:
        """Tell them something."""
        self._request.write(data)

    def end(self) -> None:
        """End the answer and the connection: otherwise it would be kept for another request."""
        request = self._request
        channel = _connection_of(request)
        request.unregisterProducer()
        request.finish()
        if channel is not None:
            # It is the transport's producer, for which that would wait.
            channel.transport.unregisterProducer()
            channel.transport.loseConnection()

    def pauseProducing(self) -> None:
        """
        @see: L{IPushProducer.pauseProducing}
        """
        self.is_paused = True

    def resumeProducing(self) -> None:
        """
        @see: L{IPushProducer.resumeProducing}
        """
        self.is_paused = False
        self._resumed()

    def stopProducing(self) -> None:
        """
        @see: L{IPushProducer.stopProducing}
        """
        # The connection is lost, which is told otherwise too.
        self.is_paused = True


class Watching:
    """What there is at C{/handshakes}: see L{Handshakes.watch}."""

    def __init__(self, handshakes: Handshakes) -> None:
        self._handshakes = handshakes

    def render(self, request: Request) -> tuple[int, str, str] | int:
        """
        Answer a request.

        @return: C{NOT_DONE_YET}, or what is wrong: a status, a title and a sentence.
        """
        [mark] = request.args.get(b"after", [b""])[-1:]
        # A browser that has lost the connection says what it was told last.
        mark = (request.getHeader("last-event-id") or "").encode() or mark
        request.setHeader("Content-Type", _EVENTS)
        if not self._handshakes.watch(request, mark.decode("ascii", "replace")):
            return (
                http.SERVICE_UNAVAILABLE,
                "Too many are watching",
                "Close another window with this page, and reload.",
            )
        return NOT_DONE_YET


class PageSite(EndingSite):
    """The page's site: when its port is closed, nobody watches any more."""

    def __init__(self, page: IResource, handshakes: Handshakes) -> None:
        super().__init__(page)
        self._handshakes = handshakes

    def stopFactory(self) -> None:
        """End what is being answered, which would have no end."""
        self._handshakes.stop()
        super().stopFactory()


def _connection_of(request: Any) -> Any:
    """
    The HTTP connection of a request; L{None} where it is gone.  In HTTP/2 the request's channel is
    a stream of it.
    """
    return getattr(request.channel, "_conn", request.channel)


def _trace_of(request: Request) -> Trace | None:
    transport = getattr(_connection_of(request), "transport", None)
    recorder = getattr(transport, "recorder", None)
    trace = getattr(recorder, "trace", None)
    return trace if isinstance(trace, Trace) else None


def _host_of(address: str) -> str:
    """The host in what L{address_text} has written; nothing where there is none."""
    host, colon, port = address.rpartition(":")
    return host.strip("[]").removeprefix("::ffff:") if colon and port.isdecimal() else ""


def _sees_all(request: Request) -> bool:
    """Is somebody on this machine, who has asked for it as that?"""
    peer = getattr(request.getClientAddress(), "host", None)
    asked = without_port(request.getHeader("host") or "")
    return isinstance(peer, str) and is_local(peer) and is_local(asked.strip("[]"))


def _cut(trace: Trace) -> Trace:
    """The handshake, without what the application says after it."""
    events: list[Event] = []
    for each in trace.events:
        if isinstance(each, Read | Written):
            break
        events.append(each)
    left_out = trace.left_out if len(events) == len(trace.events) else 0
    return attrs.evolve(trace, events=events, left_out=left_out)


def _drawn(trace: Trace, title: str) -> Tag:
    drawing = diagram(_cut(trace), title)
    if len(as_bytes(drawing)) > LARGEST:
        drawing = tags.section(
            tags.h2(title), tags.p(f"This has more than {LARGEST} bytes, and is not shown.")
        )
    return drawing


def _folded(trace: Trace) -> Tag:
    """A handshake in a line, which unfolds."""
    done = next((each for each in trace.events if isinstance(each, Handshaken)), None)
    if done is None:
        came_to = one_line(str(getattr(trace.events[-1], "reason", "")) or "it has failed")
        kind = "bad"
    else:
        facts = dict(done.fields)
        came_to = f"{facts['version']}, {facts['group']}"
        kind = "good"
    return tags.details(
        tags.summary(
            tags.time(f"{trace.began:%H:%M:%S} UTC"),
            tags.span(f"{trace.peer}: {came_to}", class_="what"),
            class_=kind,
        ),
        _drawn(trace, "Step by step"),
        class_="further",
    )
