"""A trace in the log, by C{twisted.logger}."""

from __future__ import annotations

import attrs
from twisted.logger import Logger, LogLevel

from .events import Alert, Event, Judged, Read, Secret, Trace, Written
from .jsonlines import event_as_json
from .text import told_in_a_line
from .verdict import Verdict

__all__ = ["log_trace"]

_log = Logger(namespace="twisted_bioconn.trace")


def log_trace(trace: Trace, verdict: Verdict | None = None, log: Logger = _log) -> None:
    """
    Log each event, at the level C{debug}, and the verdict, at the level C{info}.

    An event of the log has what the trace's has under the key C{tls}.  Keys and plaintext are left
    out, whatever the trace has.
    """
    for each in trace.events:
        event: Event = each
        if isinstance(event, Secret):
            # A log is kept, and read by many.
            continue
        if isinstance(event, Read | Written):
            event = attrs.evolve(event, plaintext=None)
        is_bad = (isinstance(event, Alert) and event.fatal) or (
            isinstance(event, Judged) and not event.accepted
        )
        log.emit(
            LogLevel.info if is_bad else LogLevel.debug,
            "{peer}: {told}",
            peer=trace.peer,
            told=told_in_a_line(event),
            tls=event_as_json(event),
        )
    if verdict is not None:
        log.info(
            "{peer}: {verdict}",
            peer=trace.peer,
            verdict=verdict.sentence,
            cause=None if verdict.cause is None else verdict.cause.value,
        )
