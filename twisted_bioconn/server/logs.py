"""
The log as JSON, a line for each event: for programs that collect logs.

A line has C{time} (RFC 3339), C{level}, C{from} (the module) and C{message}, which is the text that
people read; then what the event has of its own, as numbers and texts: of a connection that ended
its peer, port, name, version, cipher, group, bytes, seconds and why.  Where there is one,
C{traceback} is last.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, formatEvent

from twisted_bioconn.errors import ConfigurationError

__all__ = ["FORMATS", "json_line", "log_as"]

FORMATS = ("text", "json")
"""What the log may look like."""

_TWISTED = frozenset({"format", "message", "isError", "system", "time", "why", "line"})
"""What Twisted's events have beside what they are about; or what C{message} says already."""


def json_line(event: LogEvent) -> str:
    """
    A line for an event.

    Objects are left out: nobody has seen to it that there is no secret in what they are written as.
    """
    level = event.get("log_level")
    moment = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    told: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": getattr(level, "name", "info"),
        "from": event.get("log_namespace") or event.get("log_system") or "-",
        "message": formatEvent(event),
    }
    for key, value in event.items():
        own = not key.startswith("log_") and key not in _TWISTED and key not in told
        if own and (value is None or isinstance(value, str | int | float)):
            told[key] = value
    failure = event.get("log_failure")
    if failure is not None:
        told["traceback"] = failure.getTraceback()
    return json.dumps(told, default=str) + "\n"


def log_as(form: str, twistd: MutableMapping[str, Any]) -> None:
    """
    Have twistd write its log in another form, to where it writes it anyway.

    @param form: one of L{FORMATS}.
    @param twistd: its options; they are looked at when the log begins.
    @raise ConfigurationError: there is no such form, or it does not fit the other options.
    """
    if form not in FORMATS:
        raise ConfigurationError(f"log={form}: this must be text or json")
    if form == "text":
        return
    for other in ("logger", "syslog"):
        if twistd.get(other):
            raise ConfigurationError(f"log={form}: this does not go with twistd's --{other}")

    _twistd.clear()
    _twistd.update(twistd)
    # Twisted imports what it finds there, once it has parsed all options.
    twistd["logger"] = f"{__name__}.{json_observer.__name__}"


_twistd: dict[str, Any] = {}
"""The options of the twistd that this process is."""


def json_observer() -> ILogObserver:
    """What writes the log as JSON to where L{log_as} was told."""
    # Twisted has the file, its rotation and SIGUSR1 in one, and gives none of them away.
    from twisted.scripts import twistd

    text: Any = twistd._SomeApplicationRunner.loggerFactory(_twistd)  # type: ignore[attr-defined]
    return FileLogObserver(text._getLogObserver()._outFile, json_line)
