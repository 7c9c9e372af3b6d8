"""Tests for L{twisted_bioconn.starttls.backend}."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.starttls.material import cut
from twisted_bioconn.starttls import NAMES, BackendFilter, StartTLSError, make_backend_filter

GREETINGS = {
    "smtp": b"220-mx.example.org ESMTP\r\n220 be patient\r\n",
    "lmtp": b"220 mx.example.org LMTP\r\n",
    "imap": b"* OK [CAPABILITY IMAP4rev1] ready\r\n",
    "pop3": b"+OK ready <1896.697170952@dbc.mtview.ca.us>\r\n",
}
REFUSALS = {
    "smtp": b"554-no\r\n554 go away\r\n",
    "lmtp": b"421 busy\r\n",
    "imap": b"* BYE busy\r\n",
    "pop3": b"-ERR busy\r\n",
}


def made(name: str) -> BackendFilter:
    """The filter of a protocol that has one."""
    found = make_backend_filter(name)
    assert found is not None
    return found


class FilterTests(SynchronousTestCase):
    """What passes."""

    def test_which(self) -> None:
        """Those protocols in which the server speaks first and the client does not expect it."""
        self.assertEqual(
            [name for name in NAMES if make_backend_filter(name) is not None], list(GREETINGS)
        )

    def test_greeting(self) -> None:
        """It is kept back, and nothing else; until then the client is not to be heard."""
        for name, greeting in GREETINGS.items():
            backend = made(name)
            self.assertEqual((backend.feed(greeting[:-1]), backend.has_greeted), (b"", False))
            self.assertEqual((backend.feed(greeting[-1:]), backend.has_greeted), (b"", True))
            for said in (b"250-a\r\n", b"\0\xff", greeting, b"x" * 100_000):
                self.assertEqual(backend.feed(said), said)
            self.assertEqual(made(name).feed(greeting + b"\0more"), b"\0more")

    def test_refusal(self) -> None:
        """The client gets it as the answer to what it says first."""
        for name, refusal in REFUSALS.items():
            backend = made(name)
            self.assertEqual((backend.feed(refusal), backend.has_greeted), (refusal, True))

    @settings(deadline=None)
    @given(st.sampled_from([*GREETINGS]), st.booleans(), st.lists(st.integers(0, 200), max_size=8))
    def test_pieces(self, name: str, is_refused: bool, where: list[int]) -> None:
        """The pieces in which it comes make no difference."""
        first = (REFUSALS if is_refused else GREETINGS)[name]
        backend = made(name)
        passed = b"".join(backend.feed(each) for each in cut(first + b"250 more", where))
        self.assertEqual(passed, (first if is_refused else b"") + b"250 more")

    @settings(deadline=None)
    @given(st.sampled_from([*GREETINGS]), st.lists(st.binary()))
    def test_garbage(self, name: str, pieces: list[bytes]) -> None:
        """There is no error but the one."""
        backend = made(name)
        for piece in pieces:
            try:
                backend.feed(piece)
            except StartTLSError as error:
                self.assertIn(f"{name}: the server behind ", str(error))


class FailureTests(SynchronousTestCase):
    """What does not pass."""

    def fails(self, name: str, said: bytes, sentence: str) -> None:
        error = self.assertRaises(StartTLSError, made(name).feed, said)
        self.assertEqual(str(error), f"{name}: the server behind {sentence}")

    def test_strange(self) -> None:
        """What cannot be read."""
        for name, line in (
            ("smtp", b"* OK a"),
            ("smtp", b"250 a"),
            ("smtp", b"354 a"),
            ("lmtp", b""),
            ("imap", b"+OK a"),
            ("imap", b"* BAD a"),
            ("pop3", b"220 a"),
        ):
            told = f"sent a greeting that cannot be read: {line.decode()!r}"
            self.fails(name, line + b"\r\n", told)
        self.fails("smtp", b"220-a\r\n554 b\r\n", "sent a greeting that cannot be read: '554 b'")

    def test_authenticated(self) -> None:
        """A server that takes all that come from the front for somebody."""
        self.fails("imap", b"* preauth hi\r\n", "takes any client as authenticated: '* preauth hi'")

    def test_bounds(self) -> None:
        """A greeting has an end."""
        for name, longest in (("smtp", 2048), ("imap", 8192), ("pop3", 2048)):
            self.fails(
                name, b"2" * longest, f"broke the protocol: a line is longer than {longest} bytes"
            )
        self.fails("smtp", b"220-a\r\n" * 50, "sent a greeting of more than 50 lines")
        self.assertEqual(made("smtp").feed(b"220-a\r\n" * 49 + b"220 b\r\nc"), b"c")
