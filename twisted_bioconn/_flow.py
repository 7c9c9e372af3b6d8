"""
Backpressure, in both directions.

Outwards, the transport below tells a producer of the application when to wait: through a membrane,
since the handshake can make it wait too.  Inwards, the application pauses us.  Then nothing is
delivered, while the handshake goes on and what is written is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet._producer_helpers import _PullToPush
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.protocols import tls

from ._facts import ConnectionFacts
from ._phase import LIVE, Phase
from .connector import BEFORE_OPEN, State


class FlowControl(ConnectionFacts):
    """
    The part of L{TLSConnectorProtocol<twisted_bioconn.protocol.TLSConnectorProtocol>} that
    producers and consumers call.
    """

    _producer: Any = None
    _wireEnded = False
    _clock: IReactorTime | None = None
    _catchingUp: IDelayedCall | None = None

    # What the rest of the protocol has for us: to go on with C{loseConnection} if nothing that was
    # promised is left to be sent, and to deliver what came while the application had paused us.
    _end: Callable[[], None]
    _catchUp: Callable[[], None]

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        Let a producer write as fast as the transport takes it.

        @raise RuntimeError: there is one already.
        """
        if self._link.phase not in (Phase.CONNECTED, Phase.ENDING):
            producer.stopProducing()
            return
        if self._producer is not None:
            raise RuntimeError(
                f"cannot register producer {producer}:"
                f" {self._producer._producer} was never unregistered"
            )
        if not streaming:
            producer = _PullToPush(producer, self)
        membrane = tls._ProducerMembrane(producer)
        self.transport.registerProducer(membrane, True)
        self._producer = membrane
        if not streaming:
            producer.startStreaming()

    def unregisterProducer(self) -> None:
        """The producer has finished."""
        membrane, self._producer = self._producer, None
        if membrane is None:
            return
        if isinstance(membrane._producer, _PullToPush):
            membrane._producer.stopStreaming()
        self.transport.unregisterProducer()
        if self._link.phase is Phase.ENDING:
            self._end()

    def pauseProducing(self) -> None:
        """Deliver nothing until C{resumeProducing}; after C{loseConnection}, nothing any more."""
        connector = self._link.connector
        if self._link.paused or connector is None or self._link.phase not in LIVE:
            return
        self._link.paused = True
        if not self._link.delivering:
            self._holdTransport()

    def _holdTransport(self) -> None:
        """
        Pause the transport, if the application has paused us.

        Not within a delivery: whoever pauses there often resumes, or closes, before it returns.
        And not in the handshake, which needs the transport.
        """
        connector = self._link.connector
        if not self._link.paused or connector is None or connector.state in BEFORE_OPEN:
            return
        if self._link.phase in (Phase.CONNECTED, Phase.ENDING):
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """
        Deliver again, beginning with what came in the meantime.

        Not from within this call: an application that resumes may not be ready for bytes before
        it has returned.
        """
        connector = self._link.connector
        if not self._link.paused or connector is None or self._link.phase is Phase.CLOSING:
            return
        self._link.paused = False
        if self._link.phase not in LIVE or connector.state in BEFORE_OPEN:
            return
        self.transport.resumeProducing()
        if connector.unread or self._wireEnded or connector.state is not State.OPEN:
            self._scheduleCatchingUp()

    def stopProducing(self) -> None:
        """No more is wanted: close the connection."""
        self.loseConnection()

    def stopConsuming(self) -> None:
        """The producer is stopped: close the connection."""
        self.unregisterProducer()
        self.loseConnection()

    def _scheduleCatchingUp(self) -> None:
        if self._catchingUp is None:
            self._catchingUp = self._later(self._catchUp)

    def _later(self, call: Callable[[], None]) -> IDelayedCall | None:
        """Call when the clock turns; at once where there is no clock."""
        clock = self._clock
        if clock is None:
            call()
            return None
        # Our own reactor has a cheaper way to do that.
        deadlines = getattr(clock, "deadlines", None)
        return clock.callLater(0, call) if deadlines is None else deadlines.soon(call)
