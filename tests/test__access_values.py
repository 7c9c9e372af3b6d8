"""Tests for L{twisted_bioconn._access_values}, beside those for L{twisted_bioconn.access}."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn._access_values import MEANINGS, URI, Kind, mailbox

SEGMENTS = st.sampled_from(["a", "b", "c", "*", "**"])
PATHS = st.lists(SEGMENTS, max_size=8)
PLAIN_PATHS = st.lists(st.sampled_from("abc"), max_size=8)


def matches(pattern: list[str], path: list[str]) -> bool:
    """By the definition, whatever it costs."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(matches(pattern[1:], path[at:]) for at in range(len(path) + 1))
    return bool(path) and pattern[0] in ("*", path[0]) and matches(pattern[1:], path[1:])


class URITests(SynchronousTestCase):
    """L{URI}."""

    @given(PATHS, PLAIN_PATHS)
    def test_patterns(self, pattern: list[str], path: list[str]) -> None:
        """A pattern matches what it means."""
        rule = URI("spiffe", "example.org", tuple(pattern))
        shown = URI("spiffe", "example.org", tuple(path))
        self.assertEqual(rule.matches(shown), matches(pattern, path))
        self.assertFalse(rule.matches(URI("spiffe", "example.net", tuple(path))))
        self.assertFalse(rule.matches(URI("https", "example.org", tuple(path))))

    @given(PLAIN_PATHS, st.data())
    def test_patterns_that_match(self, path: list[str], data: st.DataObject) -> None:
        """What was made of a path by putting wildcards in it matches that path."""
        pattern: list[str] = []
        for segment in path:
            pattern += data.draw(
                st.sampled_from([[segment], ["*"], ["**"], [segment, "**"], ["**", segment], []])
                if pattern[-1:] == ["**"]
                else st.sampled_from([[segment], ["*"], ["**"], [segment, "**"], ["**", segment]])
            )
        rule = URI("x", "y", tuple(pattern))
        self.assertTrue(rule.matches(URI("x", "y", tuple(path))), pattern)

    @given(
        st.text()
        | st.from_regex(r"\A[a-zA-Z]{1,3}://[a-zA-Z.:@0-9]{0,6}(/[a-zA-Z.*%?#]{0,3}){0,4}\Z")
    )
    def test_one_reading(self, text: str) -> None:
        """It is refused, or what it is read as is read so again, and is itself a match."""
        try:
            uri = URI.parse(text)
        except ValueError as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertEqual(URI.parse(str(uri)), uri)
            self.assertTrue(uri.matches(uri))
            self.assertEqual(str(uri).lower(), text.lower().removesuffix("/"))
            self.assertFalse({"", ".", ".."} & {*uri.segments})

    def test_cost(self) -> None:
        """A path that nearly matches costs no more than its length times the pattern's."""
        rule = URI("x", "y", (*(("**", "a") * 500), "b"))
        begun = time.process_time()
        self.assertFalse(rule.matches(URI("x", "y", ("a",) * 1000)))
        self.assertLess(time.process_time() - begun, 5.0)


class MeaningTests(SynchronousTestCase):
    """Values of all kinds."""

    @given(st.sampled_from(Kind), st.text() | st.from_regex(r"\A[a-zA-Z0-9.:/@*%-]{0,20}\Z"))
    def test_one_spelling(self, kind: Kind, text: str) -> None:
        """It is refused, or the spelling in which it is compared is spelled so."""
        try:
            meaning = MEANINGS[kind](text)
        except ValueError as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertEqual(MEANINGS[kind](str(meaning)), meaning)

    def test_mailbox_of_a_certificate(self) -> None:
        """A C{*} is a character like others there (RFC 5322, section 3.2.3)."""
        self.assertEqual(mailbox("a*@Example.org"), "a*@example.org")

    def test_kinds(self) -> None:
        """Each has a meaning."""
        self.assertEqual(set(MEANINGS), set(Kind))
