"""
What is wrong in what an operator has written, and where it is written.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server._toml import Path, positions
from twisted_bioconn.server.facts import whole_sentence

__all__ = [
    "TARGETS",
    "Mistake",
    "Mistakes",
    "Place",
    "Source",
    "Words",
    "blotted",
    "masked",
    "shown",
]

TARGETS = ("forward", "web", "wsgi", "factory", "echo")
"""The keys of which a listener has one: what its clients get."""

_LARGEST = 1 << 20
"""Bytes of a configuration file."""

_SCHEME = r"(?:rediss?|(?:redis\+)?unix)"
_NAME = r"\br[edis]{2,6}[\"']?\s*=\s*[\"']?"  # C{redis=}, however it is misspelt
_PASSWORDS = (
    # In an endpoint string each colon of the URL has backslashes before it: more of them than those
    # between options have, where it is a string within a string.
    re.compile(
        rf"(?i)({_SCHEME}(?P<escape>\\+)://(?:(?!\\+:)[^:@\s])*(?P=escape):)"
        r"(?:(?P=escape):|\\+(?![\\:])|[^:\n\\])*(?=@)"
    ),
    re.compile(rf"(?i)({_SCHEME}://[^:@\s]*:)(?:\S*|[^\n]*?)(?=@)"),
    # What is not as it should be: it has no user, but the password in its place; it has another
    # scheme, or none.
    re.compile(rf"(?i)({_SCHEME}\\*://)(?!\*\*\*@)[^:@\n\\]+(?=@)"),
    re.compile(rf"(?i)({_NAME})(?!{_SCHEME}\\*://)[^\n\"']*(?=@)"),
    # Other URLs, and what is left of one that was taken apart at its colons.
    re.compile(
        r"(?i)((?:\b[a-z][a-z\d+.-]*\\*:|(?<![\w:/]))//(?:[^:@\s/\\]*\\*:)?+)(?!\*\*\*@)"
        r"[^@\s/\"']*(?=@)"
    ),
    # An option that there is not.
    re.compile(
        r"(?i)(\b(?:\w*password|\w*passphrase|\w*secret|\w*hmac\w*)[\"']?\s*=\s*)"
        r"(?:\\.|[^:\s\\])+"
    ),
)


def masked(text: str) -> str:
    """
    Text, also one with an endpoint string in it, without the passwords of its URLs.
    """
    for password in _PASSWORDS:
        text = password.sub(r"\1***", text)
    return text


def blotted(text: str) -> str:
    """The same, with a star for each byte of them, as the file system encodes it."""

    def stars(match: re.Match[str]) -> str:
        return match[1] + "*" * len(os.fsencode(match[0][len(match[1]) :]))

    for password in _PASSWORDS:
        text = password.sub(stars, text)
    return text


def shown(value: object) -> str:
    """What C{repr} says of a value in which an operator may have written a password."""
    return masked(repr(value))


@frozen
class Mistake:
    """
    One thing that is wrong.

    @ivar where: the file and the line, or the words of the command line.
    @ivar key: the key in the file; L{None} where it is none.
    @ivar sentence: what is wrong.
    """

    where: str = field(repr=shown)
    key: str | None
    sentence: str = field(repr=shown)

    @property
    def order(self) -> tuple[bool, int]:
        """Those of a file come by their lines, before those of the command line."""
        line = re.search(r":(\d+)(?::\d+)?\Z", self.where)
        is_word = self.where.startswith("--")
        return is_word, int(line[1]) if line is not None and not is_word else 0

    def __str__(self) -> str:
        parts = [self.where, *([] if self.key is None else [self.key]), self.sentence]
        return masked(": ".join(whole_sentence(part) for part in parts))


class Mistakes(ConfigurationError):
    """
    All that is wrong.

    @ivar mistakes: each of them, in the order of the file.
    """

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(map(str, self.mistakes)))


@frozen
class Source:
    """
    A configuration file that was read.

    @ivar path: of the file, as the user wrote it.
    @ivar data: what is in it.
    @ivar lines: where its keys are.
    """

    path: str
    data: Mapping[str, Any] = field(repr=False)
    lines: Mapping[Path, int]

    @classmethod
    def read(cls, path: str) -> Source:
        """
        Read a file.

        @raise Mistakes: it cannot be read, or is no TOML.
        """
        text = _text(path)
        try:
            data = tomllib.loads(text)
            lines = positions(text)
        except RecursionError:
            raise Mistakes([Mistake(path, None, "it is nested too deeply")]) from None
        except ValueError as error:
            # tomllib says where as part of its sentence; and int() refuses 5000 digits.
            said = re.fullmatch(
                r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL
            )
            if said is None:
                raise Mistakes([Mistake(path, None, f"this is no TOML: {error}")]) from None
            line = said[2] or str(text.count("\n") + (not text.endswith("\n")))
            where = f"{path}:{line}" + (f":{said[3]}" if said[3] else "")
            wrong = said[1][:1].lower() + said[1][1:]
            raise Mistakes([Mistake(where, None, f"this is no TOML: {wrong}")]) from None
        return cls(path, data, lines)

    def mistake(self, path: Path, sentence: str) -> Mistake:
        """
        Something wrong at a key.

        @param path: of the key, or of what would be within it and is not there.
        """
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        where = f"{self.path}:{self.lines[known]}" if known else self.path
        keys = [part for part in path if isinstance(part, str)]
        return Mistake(where, keys[-1] if keys else None, sentence)


def _text(path: str) -> str:
    def wrong(sentence: str) -> Mistakes:
        return Mistakes([Mistake(path, None, sentence)])

    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise wrong(f"it cannot be read: {error.strerror}") from None
    except ValueError:  # a name with a NUL in it
        raise wrong("there can be no file of this name") from None
    if len(data) > _LARGEST:
        raise wrong(f"it is larger than {_LARGEST} bytes")
    try:
        # As TOML has the ends of lines.
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise Mistakes([Mistake(f"{path}:{line}", None, "this is not UTF-8")]) from None


@frozen(eq=False)
class Place:
    """
    A table in a file.

    @ivar source: the file.
    @ivar path: of the table.
    @ivar wrong: the keys in it that are known to be wrong. What is said of them after that is only
        a consequence.
    """

    source: Source
    path: Path = ()
    wrong: frozenset[str] = frozenset()

    def mistake(self, key: str | None, sentence: str, item: int | None = None) -> Mistake:
        """
        Something wrong at a key of the table, or with the table.

        @param item: the number, from 0, of what is wrong in a list.
        """
        below = () if key is None else (key,) if item is None else (key, item)
        return self.source.mistake((*self.path, *below), sentence)


@frozen(eq=False)
class Words:
    """
    A place on the command line.

    @ivar listen: what the user wrote for where to listen.
    @ivar target: what the user wrote for each target, in their order.
    @ivar others: what the user wrote for other keys.
    @ivar wrong: nothing is known to be wrong there.
    """

    listen: str = field(repr=shown)
    target: tuple[str, ...] = field(default=(), repr=shown)
    others: Mapping[str, str] = field(factory=dict, repr=shown)
    wrong: frozenset[str] = field(default=frozenset(), init=False)

    def mistake(self, key: str | None, sentence: str, item: int | None = None) -> Mistake:
        """
        Something wrong in them.

        @param key: what a file has for it.
        """
        words = self.others.get(key or "", self.listen)
        if key in TARGETS and self.target:
            words = self.target[item or 0]
        return Mistake(words, None, sentence)
