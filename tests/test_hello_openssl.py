"""
L{twisted_bioconn.hello} against OpenSSL.

What a hello is read as here decides which certificate a client gets, and what is asked of it, and
OpenSSL reads the same bytes afterwards.  Where the two read different things, a client could be
taken for one by the rules and for another by OpenSSL.  To refuse what OpenSSL takes is no such
thing.
"""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.garbling import garbled
from tests.hello_agreement import agree
from tests.hello_material import (
    ALPN,
    SERVER_NAME,
    block,
    host_name,
    message,
    openssl_hello,
    records,
)

Extension = tuple[int, bytes]


def parts(flight: bytes) -> tuple[bytes, list[Extension]]:
    """The fixed part of a hello in one record, and its extensions."""
    body = flight[9:]
    at = 35 + body[34]
    at += 2 + int.from_bytes(body[at : at + 2], "big")
    at += 1 + body[at]
    fixed, at = body[:at], at + 2
    found = []
    while at < len(body):
        kind, size = (int.from_bytes(body[each : each + 2], "big") for each in (at, at + 2))
        found.append((kind, body[at + 4 : at + 4 + size]))
        at += 4 + size
    return fixed, found


FIXED, EXTENSIONS = parts(openssl_hello())
GOOD = [
    (SERVER_NAME, host_name(b"www.example.org")),
    (ALPN, block(2, block(1, b"h2"), block(1, b"http/1.1"))),
]


def flight_of(extensions: list[Extension], tail: bytes = b"") -> bytes:
    """OpenSSL's hello with these before its own extensions."""
    listed = (kind.to_bytes(2, "big") + block(2, body) for kind, body in [*extensions, *EXTENSIONS])
    return records(b"\1" + block(3, FIXED, block(2, *listed), tail))


LETTERS = st.sampled_from([b"a", b"B.", b".", b"-", b"_", b"1", b"%", b":", b"\0", b" ", b"\xff"])
NAMES = st.lists(LETTERS, max_size=8).map(b"".join) | st.sampled_from(
    [b"1.2.3.4", b"::1", b"::1%1", b"::ffff:1.2.3.4", b"1.2.3.4.", b"x" * 63 + b".a", b"x" * 256]
)
PROTOCOLS = st.lists(st.binary(max_size=3).map(lambda name: block(1, name)), max_size=3)
ODD = st.one_of(
    NAMES.map(lambda name: (SERVER_NAME, host_name(name))),
    NAMES.map(lambda name: (SERVER_NAME, block(2, host_name(name)[2:], b"\0", block(2, b"x")))),
    garbled(GOOD[0][1]).map(lambda body: (SERVER_NAME, body)),
    PROTOCOLS.map(lambda names: (ALPN, block(2, *names))),
    garbled(GOOD[1][1]).map(lambda body: (ALPN, body)),
    st.tuples(st.sampled_from([0x0A0A, 0xFF01, 21, 17513]), st.binary(max_size=4)),
)


class AgreementTests(SynchronousTestCase):
    """
    A hello that both read, they read the same; and one that OpenSSL takes though it is wrong, is
    for us to refuse.
    """

    def test_good(self) -> None:
        """That there is something to compare."""
        told = agree(flight_of(GOOD))
        self.assertEqual(set(told.names), {b"www.example.org"})
        self.assertEqual(told.protocols, (b"h2", b"http/1.1"))
        self.assertEqual(set(agree(flight_of([])).names), {None})

    @given(st.lists(ODD, max_size=3), st.permutations(GOOD), st.integers(0, 2))
    @settings(deadline=None, max_examples=400)
    @example([(SERVER_NAME, host_name(b"other.example"))], GOOD, 2)
    @example([(ALPN, block(2, block(1, b"acme-tls/1")))], GOOD, 2)
    def test_odd_extensions(self, odd: list[Extension], good: list[Extension], count: int) -> None:
        agree(flight_of([*odd, *good[:count]]))
        agree(flight_of([*good[:count], *odd]))

    @given(garbled(flight_of(GOOD)[:400]), st.integers(0, 2))
    @settings(deadline=None, max_examples=400)
    def test_garbled(self, beginning: bytes, lost: int) -> None:
        whole = beginning + flight_of(GOOD)[400:]
        agree(whole[: len(whole) - lost])

    @given(st.binary(max_size=3))
    @settings(deadline=None, max_examples=20)
    def test_after_the_extensions(self, tail: bytes) -> None:
        agree(flight_of(GOOD, tail))

    @given(st.lists(st.integers(0, 255), min_size=1, max_size=4))
    @settings(deadline=None, max_examples=50)
    def test_in_pieces(self, sizes: list[int]) -> None:
        """Records of odd sizes, of other kinds and with nothing in them."""
        whole = flight_of(GOOD)[5:]
        flight, at = b"", 0
        for size in sizes:
            kind = 22 if size % 5 else 21
            flight += bytes([kind, 3, 1 + size % 3]) + block(2, whole[at : at + size])
            at += size
        agree(flight + records(whole[at:]))

    def test_before_tls_13(self) -> None:
        """A hello of TLS 1.2 with a name, and one with nothing that could have one."""
        suites = (0xC02B, 0xC02F)
        groups = (10, block(2, b"\0\x17"))
        signatures = (13, block(2, b"\4\3"))
        told = agree(records(message(*GOOD, groups, signatures, suites=suites)))
        self.assertEqual(set(told.names), {b"www.example.org"})
        self.assertEqual(told.protocols, (b"h2", b"http/1.1"))
        told = agree(records(message(tail=b"", suites=suites)))
        self.assertEqual(told.names, [None])
