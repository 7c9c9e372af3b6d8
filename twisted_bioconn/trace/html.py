"""
A trace as a page: a sequence diagram with time to scale, in which each message unfolds.

The page needs nothing but itself, and runs nothing: a policy in it forbids scripts and whatever
would come from elsewhere.  What peers have written is escaped by L{twisted.web.template}.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Final

from twisted.web.template import Flattenable, Tag, flattenString, tags

from .._content_policy import hash_source
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
    Read,
    Record,
    Trace,
    VerificationStep,
    Waited,
    Way,
    Worked,
    Written,
)
from .text import told_in_a_line, value_as_text
from .verdict import Verdict

__all__ = ["as_bytes", "diagram", "page", "page_of", "section"]

_STYLE: Final = (files("twisted_bioconn.trace") / "templates" / "trace.css").read_text("utf-8")
_POLICY: Final = f"default-src 'none'; style-src {hash_source(_STYLE)}; base-uri 'none'"

GAPS = 480
"""Pixels of all gaps between the events of a handshake: so high is the time that it took."""

LATER = 60
"""Pixels of a gap after it, at most."""

ROWS = 1000
"""Events that are drawn of a connection; all of them are in its table."""

_svg, _rect, _line, _path = (Tag(name) for name in ("svg", "rect", "line", "path"))

_DRAWN = (
    Message,
    Alert,
    ChangeCipherSpec,
    Bytes,
    Connected,
    Handshaken,
    VerificationStep,
    Judged,
    Read,
    Written,
    NotShown,
    LeftOut,
    Ended,
)


def page(traces: Sequence[Trace], verdict: Verdict | None = None, title: str = "") -> bytes:
    """
    A page of some connections.

    @param verdict: what they come to.
    @param title: what is traced.
    @return: HTML, in UTF-8.
    """
    title = title or (traces[0].peer if traces else "") or "a TLS connection"
    began = f"{traces[0].began:%Y-%m-%d %H:%M:%S} UTC" if traces else ""
    names = [f"Connection {at + 1}" if len(traces) > 1 else "" for at in range(len(traces))]
    sections = [section(trace, name) for trace, name in zip(traces, names, strict=True)]
    return page_of(sections, title, began, verdict)


def section(trace: Trace, name: str = "") -> bytes:
    """
    A connection, for L{page_of}.

    @param name: what it is called, where its trace has no title.
    """
    return as_bytes(diagram(trace, trace.title or name or "The connection"))


def page_of(
    sections: Iterable[bytes], title: str, about: str = "", verdict: Verdict | None = None
) -> bytes:
    """
    A page of what L{section} has made.

    @param about: what is below the title.
    """
    head = Tag("head")(
        tags.meta(charset="utf-8"),
        tags.meta(**{"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
        tags.meta(name="referrer", content="no-referrer"),
        tags.title(f"{_clean(title)} \N{EN DASH} TLS trace"),
    )
    pieces = [
        b'<!DOCTYPE html>\n<html lang="en">',
        as_bytes(head).removesuffix(b"</head>"),
        # As it is, which its hash demands.
        b"<style>" + _STYLE.encode() + b"</style></head><body><main>",
        as_bytes(tags.h1(_clean(title))),
        as_bytes(tags.p(_clean(about), class_="faint")) if about else b"",
        b"" if verdict is None else as_bytes(_verdict(verdict)),
        *sections,
        b"</main></body></html>\n",
    ]
    return b"".join(pieces)


def as_bytes(tree: Tag) -> bytes:
    """A tree that waits for nothing, as HTML in UTF-8."""
    found: list[bytes] = []
    flattenString(None, tree).addCallback(found.append)
    return found[0]


def _clean(text: str) -> str:
    return one_line(text)


def _sentence(text: str) -> str:
    """A sentence as it stands by itself."""
    text = _clean(text)
    return f"{text[:1].upper()}{text[1:]}."


def _verdict(verdict: Verdict) -> Tag:
    inside: list[Flattenable] = [
        tags.h2("Good" if verdict.good else "Not good"),
        tags.p(_sentence(verdict.sentence)),
    ]
    if verdict.advice:
        inside.append(tags.p(_sentence(verdict.advice)))
    if verdict.agreed:
        inside.append(_fields(verdict.agreed))
    if verdict.better:
        inside.append(tags.h3("What would be better"))
        inside.append(tags.ul(*(tags.li(_sentence(each)) for each in verdict.better)))
    return tags.section(*inside, class_=f"verdict {'good' if verdict.good else 'bad'}")


def diagram(trace: Trace, name: str) -> Tag:
    """
    The sequence diagram of a connection, for a page that has a style for it.

    @param name: what stands above it.
    """
    role, other = ("client", "server") if trace.is_client else ("server", "client")
    drawn = [each for each in trace.events if isinstance(each, _DRAWN)]
    rows = _rows(trace, drawn[:ROWS])
    more: Flattenable = ""
    if len(drawn) > ROWS:
        more = tags.p(f"{len(drawn) - ROWS} more events are in the table alone.", class_="faint")
    return tags.section(
        tags.h2(_clean(name)),
        _scale(trace),
        tags.div(
            tags.span(f"we, the {role} ", tags.span(_clean(trace.local), class_="faint")),
            tags.span(f"the {other} ", tags.span(_clean(trace.peer), class_="faint")),
            class_="ends",
        ),
        tags.ol(*rows),
        more,
        tags.details(
            tags.summary(tags.span(f"All {len(trace.events)} events", class_="what")),
            tags.div(
                tags.table(
                    *(
                        tags.tr(tags.td(_milliseconds(each.at)), tags.td(_told(each)))
                        for each in trace.events
                    )
                ),
                class_="inside",
            ),
        ),
        tags.p(f"{trace.left_out} more are left out.", class_="faint") if trace.left_out else "",
    )


def _told(event: Event) -> str:
    return _clean(told_in_a_line(event))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


# The bar


def _handshake_end(trace: Trace) -> float:
    for each in trace.events:
        if isinstance(each, Handshaken):
            return each.at
    return trace.events[-1].at if trace.events else 0.0


def _scale(trace: Trace) -> Tag:
    """The handshake on a bar: what was waited for and worked, and when bytes went."""
    end = _handshake_end(trace)
    if end <= 0:
        return tags.figure()
    waited = worked = 0.0
    shapes: list[Tag] = []
    for each in trace.events:
        if each.at > end:
            break
        if isinstance(each, Waited | Worked):
            kind = "wait" if isinstance(each, Waited) else "work"
            begin = max(each.at - each.seconds, 0.0)
            shapes.append(_box(begin / end, (each.at - begin) / end, 6, 16, f"f-{kind}"))
            if kind == "wait":
                waited += each.at - begin
            else:
                worked += each.seconds
        elif isinstance(each, Bytes):
            shapes.append(_box(each.at / end, 0.0, 0, 28, f"f-{each.way.value}"))
    drawing = _svg.clone()(*shapes, role="img", class_="scale")
    label = f"{_milliseconds(end)}: {_milliseconds(waited)} waited, {_milliseconds(worked)} at work"
    drawing(**{"aria-label": label})
    legend: list[Flattenable] = []
    for kind, told in (
        ("wait", f"waiting for the peer, {_milliseconds(waited)}"),
        ("work", f"OpenSSL at work here, {_milliseconds(worked)}"),
        ("sent", "bytes sent"),
        ("received", "bytes received"),
    ):
        swatch = _svg.clone()(
            _rect.clone()(width="11", height="11", class_=f"f-{kind}"),
            width="11",
            height="11",
            class_="swatch",
        )
        legend.append(tags.span(swatch, told, class_="key"))
    done = "The handshake" if trace.is_done else "What there was of a handshake"
    return tags.figure(
        drawing, tags.figcaption(f"{done}, to scale: {_milliseconds(end)}. ", tags.br(), *legend)
    )


def _box(begin: float, width: float, top: int, height: int, kind: str) -> Tag:
    box = _rect.clone()(
        x=f"{min(begin, 0.997) * 100:.3f}%",
        y=str(top),
        height=str(height),
        class_=kind,
    )
    return box(width=f"{width * 100:.3f}%" if width else "2")


# The sequence


def _rows(trace: Trace, drawn: Sequence[Event]) -> list[Tag]:
    rows: list[Tag] = []
    end = _handshake_end(trace) or 1.0
    before = 0.0
    records = _records(trace)
    for event in drawn:
        gap = event.at - before
        height = round(gap / end * GAPS)
        told = _milliseconds(gap) if height >= 14 else ""
        if event.at > end and height > LATER:
            height, told = LATER, f"{told}, not to scale"
        if height >= 2:
            is_wait = isinstance(event, Bytes) and event.way is Way.RECEIVED
            kind = "f-wait" if is_wait else "f-work"
            bar = _svg.clone()(
                _rect.clone()(width="3", height=str(height), class_=kind),
                width="3",
                height=str(height),
            )
            rows.append(tags.li(bar(class_="bar"), tags.span(told), class_="gap"))
        before = event.at
        rows.append(_row(event, records.get(id(event), [])))
    return rows


def _records(trace: Trace) -> dict[int, list[Record]]:
    """The records that came to their end with some bytes, by the identity of those."""
    found: dict[int, list[Record]] = {}
    last: dict[Way, list[Record]] = {}
    for each in trace.events:
        if isinstance(each, Bytes):
            last[each.way] = found[id(each)] = []
        elif isinstance(each, Record) and each.way in last:
            last[each.way].append(each)
    return found


def _row(event: Event, records: Sequence[Record]) -> Tag:
    when = tags.time(_milliseconds(event.at))
    if isinstance(event, Message):
        head = [tags.span(_clean(event.name), class_="what")]
        head.append(tags.span(f"{event.length} bytes", class_="bytes"))
        return tags.li(_unfolding(when, head, event.fields), _arrow(event.way), class_=_kind(event))
    if isinstance(event, Handshaken):
        head = [tags.span(_told(event), class_="what")]
        return tags.li(_unfolding(when, head, event.fields), class_=_kind(event))
    if isinstance(event, Bytes):
        number = f"{len(records)} record{'s' if len(records) != 1 else ''} complete"
        head = [tags.span(f"{event.size} bytes {event.way.value}, {number}", class_="note")]
        fields = tuple(
            (
                each.kind,
                f"{each.length} bytes, {'encrypted' if each.encrypted else 'in the clear'},"
                f" version {each.version}",
            )
            for each in records
        )
        return tags.li(_unfolding(when, head, fields))
    is_wire = isinstance(event, Alert | ChangeCipherSpec)
    arrow = _arrow(event.way) if isinstance(event, Alert | ChangeCipherSpec) else ""
    kind = _kind(event)
    told = tags.span(_told(event), class_="what" if is_wire or kind else "note")
    return tags.li(tags.div(when, told, class_="row"), arrow, class_=kind)


def _kind(event: Event) -> str:
    if isinstance(event, Alert) and event.fatal:
        return f"{event.way.value} bad"
    if isinstance(event, Message | Alert | ChangeCipherSpec):
        return event.way.value
    if isinstance(event, Judged):
        return "good" if event.accepted else "bad"
    if isinstance(event, VerificationStep):
        return "" if event.good else "bad"
    if isinstance(event, Handshaken):
        return "good"
    return "bad" if isinstance(event, NotShown | LeftOut) else ""


def _unfolding(when: Tag, head: Sequence[Tag], fields: Fields) -> Tag:
    if not fields:
        return tags.div(when, *head, class_="row")
    return tags.details(tags.summary(when, *head), tags.div(_fields(fields), class_="inside"))


def _fields(fields: Sequence[tuple[str, object]]) -> Tag:
    inside: list[Tag] = []
    for name, value in fields:
        if isinstance(value, tuple) and value and isinstance(value[0], tuple):
            for at, each in enumerate(value):
                inside.append(tags.dt(_clean(f"{name} {at + 1} of {len(value)}")))
                inside.append(tags.dd(_fields(each)))
        else:
            inside.append(tags.dt(_clean(name)))
            inside.append(tags.dd(_clean(value_as_text(value))))
    return tags.dl(*inside)


def _arrow(way: Way) -> Tag:
    line = _line.clone()(x1="0", x2="100%", y1="5", y2="5")
    line(**{"stroke-width": "1.5"})
    if way is Way.SENT:
        head = _svg.clone()(_path.clone()(d="M-9,0 L0,5 L-9,10 z"), x="100%", overflow="visible")
    else:
        head = _svg.clone()(_path.clone()(d="M9,0 L0,5 L9,10 z"), x="0", overflow="visible")
    drawing = _svg.clone()(line, head, class_="arrow")
    return drawing(**{"aria-hidden": "true"})
