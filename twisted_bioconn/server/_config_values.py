"""
What the values in a configuration file may be.

Each function here takes a value as L{tomllib} gives it and gives what it means.  A text for a
number, C{"8443"}, is a mistake and not a number: what a file says is what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum

from twisted_bioconn.access import rules_from
from twisted_bioconn.endpoint_strings import SERVER_OPTIONS
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.holdings import LEAST
from twisted_bioconn.server.logs import FORMATS

__all__ = [
    "FORWARD_OPTIONS",
    "READERS",
    "OptionKind",
    "Setting",
    "Wrong",
    "forward_option",
    "forward_option_from_text",
    "is_path",
    "kind_of",
    "option_text",
    "seconds",
    "switch",
    "text",
    "texts",
]

Setting = str | int | float | bool | tuple[str, ...]
"""The value of an option of the endpoint string, as TOML has it."""


class OptionKind(Enum):
    """What TOML has for an option of the endpoint string; see L{kind_of}."""

    PORT = "a port number"
    WHOLE = "a whole number"
    SECONDS = "a number of seconds"
    SECONDS_OR_OFF = 'a number of seconds, or "off"'
    SWITCH = "true or false"
    RULES = "a list of rules"
    LIST = "a list of texts"
    TEXT = "a text"


def kind_of(option: str) -> OptionKind:
    """
    What TOML has for an option, by what the endpoint string takes for it.

    @raise KeyError: there is no such option.
    """
    takes = SERVER_OPTIONS[option]
    if takes == "a port number":
        return OptionKind.PORT
    if takes.startswith("a number of seconds"):
        return OptionKind.SECONDS_OR_OFF if takes.endswith("or 'off'") else OptionKind.SECONDS
    if takes.startswith("a number of "):
        return OptionKind.WHOLE
    if takes == "yes or no":
        return OptionKind.SWITCH
    if takes.startswith("rules "):
        return OptionKind.RULES
    if "with commas between them" in takes:
        return OptionKind.LIST
    return OptionKind.TEXT


FORWARD_OPTIONS: dict[str, tuple[OptionKind, str]] = {
    "balance": (
        OptionKind.TEXT,
        "Which of several back ends a client gets: roundRobin (the default) or leastConnections.",
    ),
    "send-proxy": (
        OptionKind.TEXT,
        "The PROXY header that back ends get: v1, v2, v2-tls (with the client's TLS) or v2-tls-cert"
        " (and its certificate). By default they get none.",
    ),
    "health-check": (
        OptionKind.TEXT,
        "What back ends are asked, to see whether they are well: tcp, tls or http:PATH. By default"
        " they are asked nothing.",
    ),
    "health-host": (OptionKind.TEXT, "The host that a health check over HTTP asks for."),
    "health-interval": (OptionKind.SECONDS, "Seconds between two health checks (default: 5)."),
    "health-timeout": (OptionKind.SECONDS, "Seconds that a health check may take (default: 5)."),
    "health-rise": (
        OptionKind.WHOLE,
        "How many health checks have to succeed until a back end is up again (default: 2).",
    ),
    "health-fall": (
        OptionKind.WHOLE,
        "How many health checks have to fail until a back end is down (default: 3).",
    ),
    "max-fails": (
        OptionKind.WHOLE,
        "How many connections to a back end have to fail until it is down (default: 3).",
    ),
    "fail-window": (
        OptionKind.SECONDS,
        "Within how many seconds as many connections have to fail (default: 10).",
    ),
    "fail-time": (
        OptionKind.SECONDS,
        "Seconds until a back end that is down is tried again (default: 10); they double each time"
        " that this fails.",
    ),
}
"""The keys beside C{forward}: what each takes, and what it is for."""


def is_path(option: str, options: Mapping[str, str] = SERVER_OPTIONS) -> bool:
    """
    Does an option name a file or a directory?

    @param options: those that there are, and what they take.
    """
    takes = options.get(option, "")
    return takes.startswith(("a file name", "the name of a file", "the name of a directory"))


def option_text(value: Setting) -> str:
    """A value as an endpoint string has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(value) if isinstance(value, tuple) else str(value)


class Wrong(ValueError):
    """
    A value is not what it must be.

    @ivar item: the number of what is wrong in a list.
    """

    def __init__(self, sentence: str, item: int | None = None) -> None:
        super().__init__(sentence)
        self.item = item


_NAMES = {
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


def _must_be(what: str, value: object) -> Wrong:
    given = _NAMES.get(type(value), "a date or time")
    # What somebody is used to from endpoint strings.
    is_quoted = isinstance(value, str) and ("number" in what or "true" in what)
    hint = ": leave the quotes out" if is_quoted else ""
    return Wrong(f"this must be {what}, and is {given}{hint}")


def text(value: object, _: object = None) -> str:
    """A text that is not empty."""
    if not isinstance(value, str):
        raise _must_be("a text", value)
    if not value:
        raise Wrong("this is empty")
    if "\0" in value:
        raise Wrong("there is a NUL in it")
    return value


def switch(value: object, _: object = None) -> bool:
    """A switch."""
    if not isinstance(value, bool):
        raise _must_be("true or false", value)
    return value


def _whole(value: object, _: object = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _must_be("a whole number", value)
    # As endpoint strings have it.
    if not 0 <= value < 10**9:
        raise Wrong("this must be a number from 0 to 999999999")
    return value


def _port(value: object, _: object = None) -> int:
    number = _whole(value)
    if number > 65535:
        raise Wrong("this must be a number from 0 to 65535")
    return number


def log(value: object, _: object = None) -> str:
    """What the log looks like."""
    if value not in FORMATS:
        raise Wrong(f"this must be {' or '.join(FORMATS)}")
    return str(value)


def max_buffered(value: object, _: object = None) -> int:
    """A number of bytes."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise _must_be("a whole number", value)
    if not LEAST <= value < 10**15:
        raise Wrong(f"this must be a number of bytes, {LEAST} at least")
    return value


def seconds(value: object, _: object = None) -> float:
    """A number of seconds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _must_be("a number of seconds", value)
    if not math.isfinite(value) or not 0 <= value < 1e9:
        raise Wrong("this must be a number of seconds from 0 to 999999999")
    return value


def seconds_or_off(value: object) -> float | str:
    if value == "off":
        return "off"
    if not isinstance(value, int | float):
        raise _must_be('a number of seconds, or "off"', value)
    return seconds(value)


def texts(value: object, _: object = None) -> tuple[str, ...]:
    """A list of texts, or one text."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list):
        raise _must_be("a list of texts", value)
    if not items:
        raise Wrong("this list is empty")
    for number, item in enumerate(items):
        try:
            text(item)
        except Wrong as error:
            raise Wrong(str(error), number) from None
    return tuple(items)


def _names(value: object) -> tuple[str, ...]:
    """A list of what stands with commas between them in an endpoint string, or that text itself."""
    if isinstance(value, str):
        parts = tuple(each.strip() for each in text(value).split(","))
        if not all(parts):
            raise Wrong("there is nothing between two commas")
        return parts
    items = texts(value)
    for number, item in enumerate(items):
        if "," in item:
            raise Wrong("there is a comma in it: each has its own quotes", number)
    return items


def _rules(value: object) -> tuple[str, ...]:
    """Rules as L{twisted_bioconn.access} has them."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise Wrong("this list is empty: nobody would be let in")
    found: list[str] = []
    for number, item in enumerate(items):
        try:
            found += map(str, rules_from([item], "").rules)
        except ConfigurationError as error:
            raise Wrong(str(error).removeprefix(": "), number) from None
    return tuple(found)


READERS: dict[OptionKind, Callable[[object], Setting]] = {
    OptionKind.PORT: _port,
    OptionKind.WHOLE: _whole,
    OptionKind.SECONDS: seconds,
    OptionKind.SECONDS_OR_OFF: seconds_or_off,
    OptionKind.SWITCH: switch,
    OptionKind.RULES: _rules,
    OptionKind.LIST: _names,
    OptionKind.TEXT: text,
}


def forward_option(key: str, value: object) -> Setting:
    """The value of one of L{FORWARD_OPTIONS}."""
    kind, _ = FORWARD_OPTIONS[key]
    found = READERS[kind](value)
    if not found:
        raise Wrong("this must be above 0")
    return found


def forward_option_from_text(key: str, text: str) -> Setting:
    """
    The same, of a word of the command line.

    @raise ConfigurationError: this is no value for it.
    """
    kind, _ = FORWARD_OPTIONS[key]
    value: object = text
    if kind is not OptionKind.TEXT:
        try:
            value = int(text) if text.isascii() and text.isdigit() else float(text)
        except ValueError:
            raise ConfigurationError(f"--{key} {text}: this must be {kind.value}") from None
    try:
        return forward_option(key, value)
    except Wrong as error:
        raise ConfigurationError(f"--{key} {text}: {error}") from None
