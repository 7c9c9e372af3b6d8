"""
The traces of the handshakes that have failed last, for the status.

Which connection fails is known in the end, so that all are traced for it.  Of a trace there is text
with an end to it: so many failures are kept (L{KEPT<twisted_bioconn.server.ledger.KEPT>}), and of
each L{LARGEST} bytes at most.  There is no key and no plaintext in it.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import attrs

from twisted_bioconn.trace import Trace, Tracer, TracerLimits
from twisted_bioconn.trace.text import trace_as_text

__all__ = ["LARGEST", "LIMITS", "FailureTrace", "FailureTraces"]

LIMITS = TracerLimits(events=200, octets=0)
"""How much is kept of a connection, while there is one."""

LARGEST = 32 * 1024
"""Bytes of the text of a trace at most."""


@attrs.define(eq=False)
class FailureTrace:
    """
    The trace of a handshake that has failed.

    @ivar number: no other of this process has it.
    @ivar text: in UTF-8; empty until the connection has ended.
    """

    number: int
    text: bytes = attrs.field(default=b"", repr=False)


class FailureTraces:
    """
    Traces connections, and makes text of those whose handshakes fail.

    @ivar tracer: traces them.
    """

    def __init__(self) -> None:
        self.tracer = Tracer(self._ended, limits=LIMITS)
        self._next_number = count(1).__next__
        # By the identity of the trace, which they keep.
        self._pending: dict[int, tuple[Trace, FailureTrace]] = {}

    def of(self, tls: Any) -> FailureTrace | None:
        """
        The trace of a connection that fails now; L{None} where it is traced for somebody else, or
        not at all.  What is told of its end is yet to come.

        @param tls: its TLS layer.
        """
        recorder = getattr(tls, "recorder", None)
        if recorder is None or getattr(tls, "_tracer", None) is not self.tracer:
            # Somebody else's may have keys in it.
            return None
        kept = FailureTrace(self._next_number())
        self._pending[id(recorder.trace)] = recorder.trace, kept
        return kept

    def _ended(self, trace: Trace) -> None:
        _, kept = self._pending.pop(id(trace), (None, None))
        if kept is not None:
            kept.text = _text_of(trace)


def _text_of(trace: Trace) -> bytes:
    told = bytearray()
    for line in trace_as_text(trace):
        octets = line.encode("utf-8", "backslashreplace") + b"\n"
        if len(told) + len(octets) > LARGEST - 100:
            told += b"The rest is left out: this would have more than %d bytes.\n" % LARGEST
            break
        told += octets
    return bytes(told)
