"""
What L{tomllib} does not do: say in which line a key is, and write TOML.

The scanner reads text that L{tomllib} has accepted, and so need not know what is wrong TOML: it
knows where keys and values begin and end, and nothing of what they mean.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Path", "dumps", "positions"]

Path = tuple[str | int, ...]
"""Where something is: the keys, and the numbers in arrays from 0, that lead to it."""

_BLANK = re.compile(r"[ \t]*")
_BETWEEN = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN_VALUE = re.compile(r"[^,\]}#\n]*")
#: The longer ones first: each begins as a shorter one does. Up to two quotes may stand before those
#: which end a string (TOML 1.0, String).
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{1,2})?'
    r"|'''.*?'''(?:'{1,2})?"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


def positions(text: str) -> dict[Path, int]:
    """
    The lines, from 1, in which the keys, tables and items of arrays of a document begin.

    @param text: TOML that L{tomllib} reads.
    @raise ValueError: it is none.
    """
    return _Scanner(text).scan()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        self._ends = [match.end() for match in re.finditer("\n", text)]

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_BETWEEN)
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BETWEEN)
        return self._lines

    def _header(self) -> Path:
        """C{[TABLE]} or C{[[ARRAY OF TABLES]]}."""
        line = self._line()
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        *above, last = self._key()
        self._at += 2 if is_array else 1
        path: Path = ()
        for part in above:
            path += (part,)
            self._lines.setdefault(path, line)
            if path in self._counts:
                path += (self._counts[path] - 1,)
        path += (last,)
        if is_array:
            self._lines.setdefault(path, line)
            number = self._counts.get(path, 0)
            self._counts[path] = number + 1
            path += (number,)
        # It may have been told of before, as what another is in.
        self._lines[path] = line
        return path

    def _pair(self, table: Path) -> None:
        """C{KEY = VALUE}."""
        line = self._line()
        path = table
        for part in self._key():
            path += (part,)
            self._lines.setdefault(path, line)
        self._expect("=")
        self._value(path)

    def _key(self) -> list[str]:
        """The parts of a key; they may have dots between them and quotes around them."""
        parts = []
        while True:
            self._skip(_BLANK)
            quoted = _STRING.match(self._text, self._at)
            if quoted is not None:
                parts.append(_unquoted(quoted[0]))
            else:
                parts.append(self._take(_BARE_KEY))
            self._at = self._at if quoted is None else quoted.end()
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return parts
            self._at += 1

    def _value(self, path: Path) -> None:
        self._skip(_BLANK)
        string = _STRING.match(self._text, self._at)
        if string is not None:
            self._at = string.end()
        elif self._text.startswith("[", self._at):
            self._array(path)
        elif self._text.startswith("{", self._at):
            self._inline_table(path)
        else:
            self._skip(_PLAIN_VALUE)

    def _array(self, path: Path) -> None:
        self._at += 1
        number = 0
        self._skip(_BETWEEN)
        while not self._text.startswith("]", self._at):
            self._lines[(*path, number)] = self._line()
            self._value((*path, number))
            number += 1
            self._skip(_BETWEEN)
            if self._text.startswith(",", self._at):
                self._at += 1
                self._skip(_BETWEEN)
            elif not self._text.startswith("]", self._at):
                raise ValueError(f"an array has no end in line {self._line()}")
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        self._skip(_BETWEEN)
        while not self._text.startswith("}", self._at):
            self._pair(path)
            self._skip(_BETWEEN)
            if self._text.startswith(",", self._at):
                self._at += 1
                self._skip(_BETWEEN)
            elif not self._text.startswith("}", self._at):
                raise ValueError(f"a table has no end in line {self._line()}")
        self._at += 1

    def _line(self) -> int:
        return bisect_right(self._ends, self._at) + 1

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = self._skip(pattern)
        if not found:
            raise ValueError(f"there is no key in line {self._line()}")
        return found

    def _expect(self, character: str) -> None:
        if not self._text.startswith(character, self._at):
            raise ValueError(f"there is no {character} in line {self._line()}")
        self._at += 1


_ESCAPED = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def _unquoted(quoted: str) -> str:
    """What a quoted key says."""

    def meaning(escape: re.Match[str]) -> str:
        code = escape[1] or escape[2]
        return chr(int(code, 16)) if code else _ESCAPES.get(escape[3], escape[3])

    inner = quoted[1:-1]
    return inner if quoted[0] == "'" else _ESCAPED.sub(meaning, inner)


# Writing

Plain = str | int | float | bool | Sequence[str]
"""The values that can be written."""


def dumps(table: Mapping[str, Plain | Sequence[Mapping[str, Plain]]]) -> str:
    """
    The TOML of a table; the arrays of tables in it stand at the end.

    @raise ValueError: text cannot be written, for it has half of a surrogate pair in it.
    """
    lines, below = [], []
    for key, value in table.items():
        if isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            for each in value:
                assert isinstance(each, Mapping)
                below += _tables(_key_text(key), each)
        else:
            lines += _pairs({key: value})  # type: ignore[dict-item]
    text = "".join(f"{line}\n" for line in [*lines, *below]).lstrip("\n")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("there is text that is not Unicode") from None
    return text


def _tables(name: str, table: Mapping[str, Any]) -> list[str]:
    """One table of an array, and the arrays of tables in it."""
    plain, below = {}, []
    for key, value in table.items():
        if isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            for each in value:
                below += _tables(f"{name}.{_key_text(key)}", each)
        else:
            plain[key] = value
    return ["", f"[[{name}]]", *_pairs(plain), *below]


def _pairs(table: Mapping[str, Plain]) -> list[str]:
    return [f"{_key_text(key)} = {_value_text(value)}" for key, value in table.items()]


def _key_text(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _value_text(key)


def _value_text(value: Plain) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON writes text as TOML reads it, but for this one character.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_value_text, value))}]"
    return repr(value)
