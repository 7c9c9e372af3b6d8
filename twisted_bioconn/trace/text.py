"""A trace for a terminal: what crossed the wire on arrows, and what happened between."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping
from typing import IO

from .._transport import one_line
from .events import (
    Alert,
    Bytes,
    ChangeCipherSpec,
    Connected,
    Ended,
    Event,
    Fields,
    Handshaken,
    Judged,
    LeftOut,
    Message,
    NotShown,
    OpenSSLState,
    Read,
    Record,
    Secret,
    Trace,
    Transition,
    VerificationStep,
    Waited,
    Way,
    Worked,
    Written,
)
from .verdict import Verdict

__all__ = ["Style", "style_for", "told_in_a_line", "trace_as_text", "verdict_as_text"]

_ARROWS = {Way.SENT: "──▶", Way.RECEIVED: "◀──"}
_PLAIN_ARROWS = {Way.SENT: "-->", Way.RECEIVED: "<--"}

_DETAILS = (Record, OpenSSLState, Worked, Transition, Secret)
"""What is shown only where all of it is to be."""

_MARGIN = 18
"""Characters before what is told: the time, and an arrow."""

_LABEL = 24
"""Characters for the name of a field."""


class Style:
    """
    How a text looks.

    @ivar colour: whether it is coloured.
    @ivar width: characters of a line.
    @ivar arrows: what stands for the two ways.
    @ivar is_plain: whether all of it has to be ASCII.
    """

    def __init__(self, colour: bool = False, width: int = 100, is_plain: bool = False) -> None:
        self.colour = colour
        self.width = max(width, 50)
        self.is_plain = is_plain
        self.arrows = _PLAIN_ARROWS if is_plain else _ARROWS

    def paint(self, text: str, how: str) -> str:
        """
        Colour a text.

        @param how: C{"sent"}, C{"received"}, C{"good"}, C{"bad"}, C{"faint"} or C{"bold"}.
        """
        if not self.colour:
            return text
        code = {
            "sent": "36",
            "received": "35",
            "good": "32",
            "bad": "31",
            "faint": "2",
            "bold": "1",
        }[how]
        return f"\x1b[{code}m{text}\x1b[0m"


def style_for(stream: IO[str], environ: Mapping[str, str] = os.environ) -> Style:
    """
    What suits a stream: colour where it is a terminal, unless C{NO_COLOR} is set
    (https://no-color.org/) or the terminal is a dumb one.
    """
    is_terminal = stream.isatty()
    width = 100
    if is_terminal:
        try:
            width = min(os.get_terminal_size(stream.fileno()).columns, 120)
        except (OSError, ValueError):
            width = 80
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    colour = is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return Style(colour, width, is_plain=not encoding.startswith("utf"))


def trace_as_text(
    trace: Trace, style: Style | None = None, everything: bool = False
) -> Iterator[str]:
    """
    The lines of a trace, without their ends.

    @param everything: whether records, OpenSSL's states and the like are among them.
    """
    style = style or Style()
    role = "client" if trace.is_client else "server"
    other = "server" if trace.is_client else "client"
    head = f"{trace.title}: " if trace.title else ""
    head += f"we are the {role} {trace.local}; the {other} is {trace.peer}"
    for part in _wrap(_clean(head, style), style.width):
        yield style.paint(part, "bold")
    before: Way | None = None
    for event in trace.events:
        if isinstance(event, _DETAILS) and not everything:
            continue
        way = getattr(event, "way", None)
        if way is not None and way is not before and not isinstance(event, Bytes):
            # A flight begins.
            before = way
            yield ""
        yield from _event_lines(event, style)
    if trace.left_out:
        yield from _line(0, "", f"{trace.left_out} more events are left out", style, at=None)


def _event_lines(event: Event, style: Style) -> Iterator[str]:
    way = getattr(event, "way", None)
    is_wire = isinstance(event, Message | Alert | ChangeCipherSpec)
    arrow = style.arrows[way] if way is not None and is_wire else ""
    yield from _line(0, arrow, told_in_a_line(event), style, at=event.at, how=_how(event))
    fields = getattr(event, "fields", ())
    yield from _field_lines(fields, style, 1)


def _how(event: Event) -> str | None:
    if isinstance(event, Alert):
        return "bad" if event.fatal else event.way.value
    if isinstance(event, Message):
        return event.way.value
    if isinstance(event, Judged):
        return "good" if event.accepted else "bad"
    if isinstance(event, VerificationStep):
        return None if event.good else "bad"
    if isinstance(event, Handshaken):
        return "good"
    if isinstance(event, NotShown | LeftOut):
        return "bad"
    return None if isinstance(event, Ended | Connected | Read | Written) else "faint"


def _line(
    indent: int, arrow: str, text: str, style: Style, at: float | None, how: str | None = None
) -> Iterator[str]:
    room = style.width - _MARGIN - indent
    first = f"{at * 1000:9.1f} ms " if at is not None else " " * 13
    lead = f"{first} {arrow:<3}"
    for part in _wrap(_clean(text, style), room):
        told = style.paint(part, how) if how else part
        marked = style.paint(lead, "faint") if not arrow else lead
        yield f"{marked} {' ' * indent}{told}".rstrip()
        lead = " " * len(lead)


def _field_lines(fields: Fields, style: Style, indent: int) -> Iterator[str]:
    for name, value in fields:
        if isinstance(value, tuple) and value and isinstance(value[0], tuple):
            for at, each in enumerate(value):
                label = f"{name} {at + 1} of {len(value)}"
                yield " " * (_MARGIN + indent) + style.paint(_clean(label, style), "faint")
                yield from _field_lines(each, style, indent + 2)
            continue
        text = value_as_text(value)
        room = style.width - _MARGIN - _LABEL - indent
        lead = style.paint(f"{_clean(name, style):<{_LABEL - 1}} ", "faint")
        for part in _wrap(_clean(text, style), max(room, 12)):
            yield f"{' ' * (_MARGIN + indent)}{lead}{part}".rstrip()
            lead = " " * _LABEL


def _wrap(text: str, room: int) -> list[str]:
    return textwrap.wrap(text, room, break_on_hyphens=False) or [""]


def value_as_text(value: object) -> str:
    """What a field has, in a line."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _clean(text: str, style: Style) -> str:
    text = one_line(text)
    if style.is_plain:
        return text.encode("ascii", "backslashreplace").decode("ascii")
    return text


def told_in_a_line(event: Event) -> str:
    """What has happened, in a line."""
    match event:
        case Message():
            return f"{event.name}, {event.length} bytes"
        case Alert():
            kind = "fatal alert" if event.fatal else "alert"
            return f"{kind} {event.name}: {event.meaning}"
        case ChangeCipherSpec():
            return "ChangeCipherSpec"
        case Record():
            what = "encrypted record" if event.encrypted else "record"
            return f"{event.way.value}: {what} {event.kind}, {event.length} bytes"
        case Bytes():
            return f"{event.size} bytes {event.way.value}"
        case Connected():
            return f"connected to {event.peer}"
        case Transition():
            return f"{event.before} -> {event.after}: {event.step}"
        case OpenSSLState():
            return f"OpenSSL: {event.state}"
        case Read():
            return f"{event.size} bytes of plaintext read{_shown(event.plaintext)}"
        case Written():
            return f"{event.size} bytes of plaintext written{_shown(event.plaintext)}"
        case Waited():
            return f"waited {event.seconds * 1000:.1f} ms {event.what}"
        case Worked():
            return f"OpenSSL worked {event.seconds * 1000:.1f} ms"
        case VerificationStep():
            found = "good" if event.good else event.reason
            return f"certificate {event.depth}, {event.subject}: {found}"
        case Judged():
            return ("accepted: " if event.accepted else "refused: ") + event.sentence
        case Handshaken():
            return "the handshake is done"
        case Secret():
            return f"key log: {event.line}"
        case NotShown():
            return f"not shown: {event.why}"
        case LeftOut():
            return f"left out: {event.why}"
        case Ended():
            return f"ended{' cleanly' if event.clean else ''}: {event.reason}"
        case _:
            return type(event).__name__


def _shown(plaintext: bytes | None) -> str:
    if plaintext is None:
        return ""
    text = plaintext[:2000].decode("utf-8", "backslashreplace")
    return f": {one_line(text)}" + ("…" if len(plaintext) > 2000 else "")


def verdict_as_text(verdict: Verdict, style: Style | None = None) -> Iterator[str]:
    """The lines of a verdict, without their ends."""
    style = style or Style()
    mark = "good" if verdict.good else "bad"
    word = "Good" if verdict.good else "Not good"
    yield from _wrapped(f"{word}: {verdict.sentence}.", "", style, mark)
    if verdict.advice:
        yield from _wrapped(f"{verdict.advice}.", "  ", style, None)
    if verdict.agreed:
        yield ""
        for name, text in verdict.agreed:
            yield from _wrapped(text, f"  {name:<14}", style, None)
    if verdict.better:
        yield ""
        yield style.paint("What would be better:", "bold")
        for each in verdict.better:
            yield from _wrapped(f"{each}.", "  - ", style, None)


def _wrapped(text: str, lead: str, style: Style, how: str | None) -> Iterator[str]:
    room = max(style.width - len(lead), 30)
    for part in _wrap(_clean(text, style), room):
        yield lead + (style.paint(part, how) if how else part)
        lead = " " * len(lead)
