"""Traced connections in memory, and traces made by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.endpoint_material import Applications, EndpointCase
from twisted_bioconn.trace import Trace, Tracer, Way
from twisted_bioconn.trace.events import Event

BEGAN = datetime(2026, 11, 26, 12, 0, 0, tzinfo=UTC)

HOSTILE = "</style><script>alert(1)</script>\"'&\x1b[31m\n\u202e"
"""What somebody may write into a certificate, or send as a name."""


def trace_of(*events: Event, **more: Any) -> Trace:
    """A trace with these events."""
    given: dict[str, Any] = {
        "began": BEGAN,
        "is_client": True,
        "local": "192.0.2.1:50000",
        "peer": "192.0.2.7:443",
        **more,
    }
    return Trace(events=list(events), **given)


class TracedCase(EndpointCase):
    """
    A test of two ends in memory, both traced.

    @ivar traces: of the connections that have ended.
    """

    def setUp(self) -> None:
        super().setUp()
        self.traces: list[Trace] = []

    def tracer(self, **settings: Any) -> Tracer:
        return Tracer(self.traces.append, **settings)

    def converse(
        self,
        options: Any = None,
        server: Any = None,
        *,
        data: bytes = b"hello",
        settings: dict[str, Any] | None = None,
    ) -> tuple[Trace, Trace]:
        """
        A client says something, the server answers, and both close.

        @param settings: of the tracers.
        @return: the client's trace, and the server's.
        """
        self.traces.clear()
        tracer = self.tracer(**(settings or {}))
        answering = Applications(data=lambda app: app.transport.write(b"answer"))
        self.listen(answering, server, tracer=tracer)
        visitors = Applications()
        connecting = self.client_endpoint(options, tracer=tracer).connect(visitors)
        self.meet()
        if visitors.built and data:
            visitors.one.transport.write(data)
            self.clock.settle()
            self.clock.advance(1)
            visitors.one.transport.loseConnection()
            self.successResultOf(connecting)
        else:
            self.failureResultOf(connecting)
        self.clock.settle()
        self.wait(2)
        [client] = [each for each in self.traces if each.is_client]
        [other] = [each for each in self.traces if not each.is_client]
        return client, other


def names(trace: Trace, way: Way | None = None) -> list[str]:
    """The messages of a trace by their names."""
    return [each.name for each in trace.messages if way is None or each.way is way]


def of(trace: Trace, kind: type[Any]) -> list[Any]:
    """The events of a kind."""
    return [each for each in trace.events if isinstance(each, kind)]
