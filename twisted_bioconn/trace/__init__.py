"""
Every step of a TLS connection, to be looked at.

A L{Tracer} is put on a L{TLSConnectorFactory<twisted_bioconn.protocol.TLSConnectorFactory>}, or
given to an endpoint, and gives a L{Trace} of each connection: its events, typed and in their order.
Messages come from OpenSSL's own callback, so that those are shown too which cross the wire
encrypted; records and bytes come from the connector.  What a trace becomes is the concern of
L{text}, L{html}, L{pcapng}, L{jsonlines} and L{log}; whether all was well, of L{verdict}.

A connection that is not traced costs nothing more than before: a traced one is of other classes.
What a trace costs when it is taken is in C{docs/trace.md}.

Unless it is asked for by C{unsafe_secrets} or C{unsafe_plaintext}, a trace has no key and no
plaintext of the application's, and of tickets and Finished messages the length alone.
"""

from __future__ import annotations

from .events import Event, Trace, Way
from .tracer import Tracer, TracerLimits

__all__ = ["Event", "Trace", "Tracer", "TracerLimits", "Way"]
