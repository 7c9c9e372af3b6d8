"""A trace for programs: a JSON object for each event, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from enum import Enum

import attrs

from .events import Event, Fields, Trace
from .verdict import Verdict

__all__ = ["event_as_json", "lines", "verdict_as_json", "verdict_line"]


def lines(trace: Trace, verdict: Verdict | None = None) -> Iterator[str]:
    """
    The lines of a trace, each with its end.

    The first is of the connection, those after it of its events, and the last of the verdict.
    Bytes are in hex.
    """
    head = {
        "event": "Trace",
        "began": trace.began.isoformat(),
        "role": "client" if trace.is_client else "server",
        "local": trace.local,
        "peer": trace.peer,
        "title": trace.title,
    }
    yield _line(head)
    for event in trace.events:
        when = trace.began + timedelta(seconds=event.at)
        yield _line({**event_as_json(event), "time": when.isoformat()})
    if verdict is not None:
        yield verdict_line(verdict)


def verdict_line(verdict: Verdict) -> str:
    """The line of a verdict, with its end."""
    return _line(verdict_as_json(verdict))


def _line(said: object) -> str:
    return json.dumps(said, ensure_ascii=True) + "\n"


def event_as_json(event: Event) -> dict[str, object]:
    """An event as what JSON has."""
    found: dict[str, object] = {"event": type(event).__name__}
    for field in attrs.fields(type(event)):
        value = getattr(event, field.name)
        if field.name == "fields":
            value = _fields(value)
        elif field.name == "at":
            value = round(value, 6)
        elif isinstance(value, Enum):
            value = value.value
        elif isinstance(value, bytes):
            value = value.hex()
        found[field.name] = value
    return found


def _fields(fields: Fields) -> dict[str, object]:
    return {name: _value(value) for name, value in fields}


def _value(value: object) -> object:
    if not isinstance(value, tuple):
        return value
    return [_fields(each) if isinstance(each, tuple) else each for each in value]


def verdict_as_json(verdict: Verdict) -> dict[str, object]:
    """A verdict as what JSON has."""
    return {
        "event": "Verdict",
        "good": verdict.good,
        "sentence": verdict.sentence,
        "cause": None if verdict.cause is None else verdict.cause.value,
        "advice": verdict.advice or None,
        "setting": None if verdict.explanation is None else verdict.explanation.setting,
        "remedy": None if verdict.explanation is None else verdict.explanation.remedy.value,
        "agreed": dict(verdict.agreed),
        "better": list(verdict.better),
    }
