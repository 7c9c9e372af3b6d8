"""Tests for L{tests.secrets.planted}: what is planted is found, in whatever form."""

from __future__ import annotations

import json
import random
import textwrap
from base64 import b64encode, encodebytes, urlsafe_b64encode
from collections.abc import Callable
from html import escape
from urllib.parse import quote, quote_plus

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.secrets.planted import PIECE, SHORTEST, Finder, PrivateKey, Secret, of_key

NOISE = random.Random(1)


def noise(size: int) -> bytes:
    return NOISE.randbytes(size)


def latin(value: bytes) -> str:
    return value.decode("latin-1")


def colons(value: bytes) -> bytes:
    return value.hex(":").upper().encode()


def within_base64(before: int, after: int) -> Callable[[bytes], bytes]:
    return lambda value: b64encode(noise(before) + value + noise(after))


#: How a secret may be written.
FORMS: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda value: value,
    "hexadecimal": lambda value: value.hex().encode(),
    "HEXADECIMAL": lambda value: value.hex().upper().encode(),
    "colons": colons,
    "lines of colons": lambda value: b"    \n".join(
        colons(value)[start : start + 45] for start in range(0, len(value) * 3, 45)
    ),
    "spaces": lambda value: value.hex(" ").encode(),
    "0x": lambda value: b", ".join(b"0x%02x" % octet for octet in value),
    r"\x": lambda value: b"".join(b"\\x%02x" % octet for octet in value),
    "hexadecimal in JSON": lambda value: json.dumps(value.hex("\n")).encode(),
    **{
        f"base64, {before} before and {after} after": within_base64(before, after)
        for before in range(3)
        for after in range(3)
    },
    "base64url": lambda value: urlsafe_b64encode(noise(1) + value),
    "base64 without padding": lambda value: b64encode(value).rstrip(b"="),
    "base64 in lines": lambda value: encodebytes(noise(50) + value),
    "base64 in JSON": lambda value: json.dumps(encodebytes(noise(2) + value).decode()).encode(),
    "base64, quoted": lambda value: quote(b64encode(value), safe="").encode(),
    "quoted": lambda value: quote(value, safe="").encode(),
    "quoted in part": lambda value: quote(value).encode(),
    "quoted, in small letters": lambda value: b"".join(b"%%%02x" % octet for octet in value),
    "quoted in a form": lambda value: quote_plus(value).encode(),
    "quoted twice": lambda value: quote(quote(value)).encode(),
    "repr of bytes": lambda value: repr(value).encode(),
    "repr of text": lambda value: repr(latin(value)).encode(),
    "ascii of text": lambda value: ascii(latin(value)).encode(),
    "repr of repr": lambda value: repr(repr(value)).encode(),
    "JSON": lambda value: json.dumps(latin(value)).encode(),
    "JSON of UTF-8": lambda value: json.dumps(latin(value), ensure_ascii=False).encode(),
    "JSON of repr": lambda value: json.dumps(repr(value)).encode(),
    "octal": lambda value: b"".join(b"\\%03o" % octet for octet in value),
    "markup": lambda value: escape(latin(value)).encode("utf-8"),
    "references": lambda value: b"".join(b"&#%d;" % octet for octet in value),
    "UTF-8": lambda value: latin(value).encode("utf-8"),
}


#: Those in which base64 is still base64.
TEXTUAL = ("raw", "JSON", "JSON of repr", "quoted", "markup", *(f for f in FORMS if "repr" in f))


class FormTests(SynchronousTestCase):
    """Each form of a secret, within something else."""

    def assert_found(self, secret: Secret, data: bytes, form: str) -> None:
        found = Finder([secret]).find(b"something: " + data + b" and more")
        self.assertEqual({name for name, _ in found}, {secret.name}, (form, data))

    def test_forms(self) -> None:
        """A password, a key, and bytes of all kinds."""
        for value in (
            b"correct horse, battery & staple",
            b"\"quotes\" 'and' <markup> %41 \\x41 +",
            bytes(range(256)),
            noise(32),
            noise(SHORTEST),
            b"\0" * 5 + noise(11),
        ):
            for form, write in FORMS.items():
                self.assert_found(Secret("it", value), write(value), form)

    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(st.binary(min_size=SHORTEST, max_size=80))
    def test_any(self, value: bytes) -> None:
        for form, write in FORMS.items():
            self.assert_found(Secret("it", value), write(value), form)

    def test_part(self) -> None:
        """The beginning of a long one is enough, as where it was cut; and so is its end."""
        value = noise(300)
        for form, write in FORMS.items():
            for part in (value[: 2 * PIECE], value[-PIECE:]):
                self.assert_found(Secret("it", value), write(part), form)

    def test_nothing(self) -> None:
        """What is not there is not found."""
        finder = Finder([Secret(f"the {number}th", noise(16)) for number in range(50)])
        for data in (b"", noise(100_000), b64encode(noise(100_000)), noise(50_000).hex().encode()):
            self.assertEqual(finder.find(data), set())


class KeyTests(SynchronousTestCase):
    """A private key, as it is written to files and elsewhere."""

    KEYS: dict[str, PrivateKey] = {
        "EC": ec.generate_private_key(ec.SECP256R1()),
        "EC 384": ec.generate_private_key(ec.SECP384R1()),
        "RSA": rsa.generate_private_key(65537, 2048),
        "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    }

    def test_encodings(self) -> None:
        """PEM and DER, PKCS #1, SEC 1, PKCS #8 and OpenSSH, in all forms."""
        for kind, key in self.KEYS.items():
            finder = Finder(of_key("key", key))
            formats = [PrivateFormat.PKCS8]
            if kind != "Ed25519":
                formats.append(PrivateFormat.TraditionalOpenSSL)
            written = [
                key.private_bytes(encoding, each, NoEncryption())
                for encoding in (Encoding.PEM, Encoding.DER)
                for each in formats
            ]
            openssh = PrivateFormat.OpenSSH
            written.append(key.private_bytes(Encoding.PEM, openssh, NoEncryption()))
            for data in written:
                for form, write in FORMS.items():
                    # PEM is base64 already.
                    if b"-----" in data and form not in TEXTUAL:
                        continue
                    found = finder.find(b"it is " + write(data) + b".")
                    self.assertTrue(found, (kind, form, data))

    def test_numbers(self) -> None:
        """The scalar and the primes, as numbers of either base, and as OpenSSL prints them."""
        for kind, key in self.KEYS.items():
            for secret in of_key("key", key):
                finder = Finder([secret])
                for number in secret.numbers:
                    for text in (f"{number}", f"{number:_}", f"{number:x}", f"{number:#X}"):
                        self.assertTrue(finder.find(f"({text})".encode()), (kind, text))
                    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
                    printed = "\n".join(textwrap.wrap(octets.hex(":"), 45))
                    self.assertTrue(finder.find(textwrap.indent(printed, "    ").encode()), kind)

    def test_public(self) -> None:
        """The public half gives nothing away."""
        for key in self.KEYS.values():
            data = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            self.assertEqual(Finder(of_key("key", key)).find(data), set())
