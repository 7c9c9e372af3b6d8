"""
Secrets that are planted, and what finds them again in whatever form they were written.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import unquote_to_bytes

import attrs
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

PIECE = 24
"""Bytes of a longer secret that are looked for by themselves: a part of it is one, too."""

SHORTEST = 10
"""Bytes of a secret: what is shorter is found everywhere."""

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@attrs.frozen
class Secret:
    """
    Something that is to be found nowhere.

    @ivar name: what it is called where it was found.
    @ivar value: its bytes.
    @ivar numbers: what is as good, as a number.
    """

    name: str
    value: bytes = attrs.field(repr=False)
    numbers: tuple[int, ...] = attrs.field(default=(), repr=False)

    def __attrs_post_init__(self) -> None:
        assert len(self.value) >= SHORTEST, self.name

    @property
    def pieces(self) -> Iterator[bytes]:
        """What is looked for."""
        for start in range(0, len(self.value), PIECE):
            piece = self.value[start : start + PIECE]
            yield piece if len(piece) >= SHORTEST else self.value[-PIECE:]


def of_key(name: str, key: PrivateKey) -> list[Secret]:
    """What is secret in a private key, however it is encoded: its scalar, its primes."""
    numbers: Mapping[str, int]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return [Secret(name, seed, (int.from_bytes(seed, "big"),))]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        numbers = {"scalar": key.private_numbers().private_value}
    else:
        found = key.private_numbers()
        numbers = {each: getattr(found, each) for each in ("p", "q", "d", "dmp1", "dmq1", "iqmp")}
    secrets = []
    for each, number in numbers.items():
        octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
        secrets.append(Secret(f"{name}: {each}", octets, (number,)))
        secrets.append(Secret(f"{name}: {each}, little endian", octets[::-1]))
    return secrets


# The forms


def _escaped(data: bytes) -> bytes:
    """What C{repr()}, C{json.dumps()} and shells write with backslashes."""
    named = dict(zip(b"nrt0ebfva", b"\n\r\t\0\x1b\b\f\v\a", strict=True))

    def one(match: re.Match[bytes]) -> bytes:
        code, short = match[1] or match[2], match[3]
        if code is None:
            return bytes([named.get(short[0], short[0])])
        number = int(code, 16)
        # What is above is of an encoding that is not known here: it is looked for in both.
        return bytes([number]) if number < 256 else chr(number).encode("utf-8", "replace")

    return re.sub(rb"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|(.))", one, data, flags=re.DOTALL)


def _octal(data: bytes) -> bytes:
    """What C has for bytes that are no text."""
    return re.sub(rb"\\([0-3][0-7]{2})", lambda match: bytes([int(match[1], 8)]), data)


def _hexadecimal(data: bytes) -> bytes:
    """With what stands between two digits taken out: spaces, colons, C{0x}, ends of lines."""
    return re.sub(rb"(?:0x|\\+x|\\+[nrt]|[\s:,.-])+", b"", data).lower()


_BASE64 = bytes.maketrans(b"-_", b"+/")


def _lines(data: bytes) -> bytes:
    """One line, as ends of lines may be anywhere in base64, and may be escaped."""
    return re.sub(rb'\\+[nrt]|[\s"\']+', b"", data).translate(_BASE64)


def _octets(data: bytes) -> bytes:
    """What was there before bytes were taken for Latin-1 and written as UTF-8."""
    return data.decode("utf-8", "replace").encode("latin-1", "replace")


_ENTITIES = {b"lt": b"<", b"gt": b">", b"amp": b"&", b"quot": b'"', b"apos": b"'"}


def _without_references(data: bytes) -> bytes:
    """What was there before it was put into HTML."""

    def one(match: re.Match[bytes]) -> bytes:
        if match[3]:
            return _ENTITIES[match[3]]
        number = int(match[1]) if match[1] else int(match[2], 16)
        return bytes([number]) if number < 256 else match[0]

    names = b"|".join(_ENTITIES)
    return re.sub(rb"&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|(" + names + rb"));", one, data)


_RENDERINGS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    ("raw", lambda data: data),
    ("escaped", _escaped),
    ("escaped twice", lambda data: _escaped(_escaped(data))),
    ("octal", _octal),
    ("quoted", unquote_to_bytes),
    ("quoted twice", lambda data: unquote_to_bytes(unquote_to_bytes(data))),
    ("quoted in a form", lambda data: unquote_to_bytes(data.replace(b"+", b" "))),
    ("markup", _without_references),
)
"""What is done to data before a secret is looked for in it as it is."""


def _alignments(piece: bytes) -> Iterator[bytes]:
    """What is sure to be there in base64 of whatever has this in it."""
    for before in range(3):
        text = b64encode(b"\0" * before + piece)
        # The first characters are of what is before as well, the last ones of what follows.
        start = (0, 2, 3)[before]
        over = (before + len(piece)) % 3
        yield text[start : len(text) - (0, 3, 2)[over]] if over else text[start:]


class Finder:
    """
    Looks for secrets.
    """

    def __init__(self, secrets: Iterable[Secret]) -> None:
        self.secrets = list(secrets)
        self._plain: list[tuple[bytes, str]] = []
        self._hexadecimal: list[tuple[bytes, str]] = []
        self._base64: list[tuple[bytes, str]] = []
        self._decimal: list[tuple[bytes, str]] = []
        for each in self.secrets:
            for piece in each.pieces:
                self._plain.append((piece, each.name))
                self._hexadecimal.append((piece.hex().encode(), each.name))
                self._base64 += [(text, each.name) for text in _alignments(piece)]
            for number in each.numbers:
                # It may be cut.
                self._decimal.append((str(number)[:40].encode(), each.name))

    def find(self, data: bytes) -> set[tuple[str, str]]:
        """
        The secrets that are in some data.

        @return: the name of each, and its form.
        """
        found = set()
        for form, rendered in self._rendered(data):
            found |= {(name, form) for piece, name in self._plain if piece in rendered}
        for form, rendered, wanted in (
            ("hexadecimal", _hexadecimal(data), self._hexadecimal),
            ("base64", _lines(data), self._base64),
            ("base64, quoted", _lines(unquote_to_bytes(data)), self._base64),
            ("decimal", re.sub(rb"(?<=\d)[_,\s](?=\d)", b"", data), self._decimal),
        ):
            found |= {(name, form) for piece, name in wanted if piece in rendered}
        return found

    def _rendered(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        seen: set[bytes] = set()
        for what, octets in (("", data), (" in UTF-8", _octets(data))):
            for form, render in _RENDERINGS:
                rendered = render(octets)
                if rendered not in seen:
                    seen.add(rendered)
                    yield form + what, rendered
