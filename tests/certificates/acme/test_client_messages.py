"""L{twisted_bioconn.certificates.acme.messages} and C{errors}: what an authority says."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.certificates.acme.errors import AcmeError, Problem, in_one_line
from twisted_bioconn.certificates.acme.messages import (
    ExternalAccount,
    NotAcme,
    Order,
    Reader,
    identifier,
    is_url,
)
from twisted_bioconn.errors import ConfigurationError

READINGS: list[Callable[[Reader], Any]] = [
    Reader.as_directory,
    Reader.as_challenge,
    lambda reader: reader.as_order("https://a/", None),
    lambda reader: reader.as_authorization("https://a/", None),
    lambda reader: reader.as_renewal_info(None),
    lambda reader: reader.as_problem(400),
]

URL = "https://authority.example/1"
DIRECTORY = {
    "newNonce": URL,
    "newAccount": URL,
    "newOrder": URL,
    "revokeCert": URL,
    "keyChange": URL,
    "renewalInfo": URL,
    "meta": {
        "termsOfService": URL,
        "website": URL,
        "caaIdentities": ["a.example"],
        "externalAccountRequired": True,
        "profiles": {"classic": "as ever"},
    },
}
PROBLEM = {
    "type": "urn:ietf:params:acme:error:compound",
    "detail": "several",
    "subproblems": [
        {
            "type": "urn:ietf:params:acme:error:dns",
            "detail": "no such name",
            "identifier": {"type": "dns", "value": "a.example"},
        }
    ],
}
ORDER = {
    "status": "invalid",
    "expires": "2027-01-15T08:00:00.123456789Z",
    "identifiers": [{"type": "dns", "value": "A.example"}],
    "authorizations": [URL],
    "finalize": URL,
    "certificate": URL,
    "error": PROBLEM,
    "replaces": "AA.AA",
    "profile": "classic",
}
CHALLENGE = {"type": "http-01", "url": URL, "status": "invalid", "token": "a-_0", "error": PROBLEM}
AUTHORIZATION = {
    "identifier": {"type": "dns", "value": "a.example"},
    "status": "pending",
    "expires": "2027-01-15T09:00:00+01:00",
    "wildcard": True,
    "challenges": [CHALLENGE],
}
RENEWAL_INFO = {
    "suggestedWindow": {"start": "2027-01-15T08:00:00Z", "end": "2027-01-15T09:00:00Z"},
    "explanationURL": URL,
}

WHOLE = (DIRECTORY, CHALLENGE, ORDER, AUTHORIZATION, RENEWAL_INFO, PROBLEM)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(URL),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
MEMBERS = sorted(
    {
        *(*DIRECTORY, *ORDER, *CHALLENGE, *AUTHORIZATION, *RENEWAL_INFO, *PROBLEM),
        *("start", "end", "value", "profiles", "website", "caaIdentities"),
    }
)


def read(reading: Callable[[Reader], Any], value: Any) -> Any:
    return reading(Reader(value, "thing"))


class ReaderTests(SynchronousTestCase):
    """L{Reader}."""

    def test_order(self) -> None:
        """All of an order."""
        order = Reader(ORDER, "order").as_order(URL, 5.0)
        self.assertEqual(
            order,
            Order(
                url=URL,
                status="invalid",
                identifiers=("a.example",),
                authorizations=(URL,),
                finalize=URL,
                certificate=URL,
                expires=datetime(2027, 1, 15, 8, 0, 0, 123456, tzinfo=UTC),
                error=Problem(
                    "urn:ietf:params:acme:error:compound",
                    "several",
                    0,
                    (("a.example", "urn:ietf:params:acme:error:dns", "no such name"),),
                ),
                retry_after=5.0,
                replaces="AA.AA",
                profile="classic",
            ),
        )

    def test_others(self) -> None:
        """All of the others."""
        directory = Reader(DIRECTORY, "directory").as_directory()
        self.assertEqual(directory.profiles, {"classic": "as ever"})
        self.assertEqual(directory.caa_identities, ("a.example",))
        self.assertEqual((directory.renewal_info, directory.website), (URL, URL))
        self.assertTrue(directory.external_account_required)
        authorization = Reader(AUTHORIZATION, "authorization").as_authorization(URL, None)
        self.assertEqual(authorization.expires, datetime(2027, 1, 15, 8, tzinfo=UTC))
        self.assertTrue(authorization.wildcard)
        self.assertEqual([each.token for each in authorization.challenges], ["a-_0"])
        info = Reader(RENEWAL_INFO, "information").as_renewal_info(None)
        self.assertEqual(info.end, datetime(2027, 1, 15, 9, tzinfo=UTC))

    def test_least(self) -> None:
        """What may be left out, or be null."""
        least = dict.fromkeys(("newNonce", "newAccount", "newOrder"), URL)
        directory = Reader({**least, "meta": None}, "directory").as_directory()
        self.assertEqual((directory.profiles, directory.renewal_info), ({}, None))
        self.assertFalse(directory.external_account_required)
        challenge = {"type": "new-01", "url": URL, "status": "pending", "token": None}
        self.assertEqual(Reader(challenge, "challenge").as_challenge().token, "")

    def test_wrong(self) -> None:
        """What is missing or bad is named."""
        cases: list[tuple[int, dict[str, Any], dict[str, Any], str]] = [
            (0, DIRECTORY, {"newOrder": None}, "the thing has no 'newOrder'"),
            (0, DIRECTORY, {"newOrder": "http://a/"}, "the thing has a bad 'newOrder'"),
            (0, DIRECTORY, {"meta": []}, "the thing's 'meta' is no JSON object"),
            (0, DIRECTORY, {"meta": {"profiles": {"a": 1}}}, "a bad 'profiles'"),
            (0, DIRECTORY, {"meta": {"externalAccountRequired": 1}}, "a bad 'externalAccount"),
            (0, DIRECTORY, {"meta": {"caaIdentities": [1]}}, "a bad 'caaIdentities'"),
            (1, CHALLENGE, {"token": "../../etc/passwd"}, "the thing has a bad 'token'"),
            (1, CHALLENGE, {"token": "a\n"}, "the thing has a bad 'token'"),
            (1, CHALLENGE, {"token": "a b"}, "the thing has a bad 'token'"),
            (1, CHALLENGE, {"status": "\ud800"}, "the thing has a bad 'status'"),
            (2, ORDER, {"expires": "2027-01-15T08:00:00"}, "the thing has a bad 'expires'"),
            (2, ORDER, {"expires": "soon"}, "the thing has a bad 'expires'"),
            (2, ORDER, {"expires": "0001-01-01T00:00:00+05:00"}, "the thing has a bad 'expires'"),
            (2, ORDER, {"authorizations": ["file:///etc"]}, "a bad 'authorizations'"),
            (2, ORDER, {"authorizations": [URL] * 1001}, "a bad 'authorizations'"),
            (2, ORDER, {"identifiers": ["a"]}, "the thing's 'identifiers' is no JSON object"),
            (2, ORDER, {"error": "bad"}, "the thing's 'error' is no JSON object"),
            (3, AUTHORIZATION, {"identifier": None}, "the thing's 'identifier' has no 'value'"),
            (4, RENEWAL_INFO, {"suggestedWindow": None}, "has no 'start'"),
        ]
        for number, whole, changes, message in cases:
            with self.assertRaises(NotAcme) as caught:
                read(READINGS[number], {**whole, **changes})
            self.assertIn(message, str(caught.exception))

    def test_no_json(self) -> None:
        """What is no JSON, or too deep."""
        for wrong in (b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000):
            self.assertRaises(NotAcme, Reader.of, wrong, "thing")

    @given(st.binary(max_size=100))
    def test_any_bytes(self, text: bytes) -> None:
        """Any bytes are read, or are not ACME."""
        for reading in READINGS:
            try:
                reading(Reader.of(text, "thing"))
            except NotAcme as error:
                self.assertNotIn("\n", str(error))

    @given(
        st.sampled_from(
            [
                *zip(
                    READINGS,
                    (DIRECTORY, CHALLENGE, ORDER, AUTHORIZATION, RENEWAL_INFO),
                    strict=False,
                )
            ]
        ),
        st.dictionaries(st.sampled_from(MEMBERS), JSON, max_size=4),
    )
    def test_any_json(self, case: tuple[Callable[[Reader], Any], Any], changes: Any) -> None:
        """Whatever a member is, it is read as what it has to be, or is not ACME."""
        reading, whole = case
        try:
            value = read(reading, {**whole, **changes})
        except NotAcme:
            return
        # What was read can be written again.
        json.dumps(attrs.asdict(value), default=str).encode()
        for name in ("url", "finalize", "new_order"):
            self.assertTrue(is_url(getattr(value, name, URL)))

    @given(JSON)
    def test_any_problem(self, value: Any) -> None:
        """There is always a sentence to say what the problem is."""
        for wrapped in (value, {"type": value, "detail": value, "subproblems": [value, PROBLEM]}):
            if isinstance(wrapped, dict):
                error = AcmeError(Reader(wrapped, "problem").as_problem(400), 5.0)
                self.assertTrue(str(error).isprintable())
                self.assertTrue(str(error))


class ProblemTests(SynchronousTestCase):
    """L{Problem} and L{AcmeError}."""

    def test_sentence(self) -> None:
        """A sentence, with each part's own."""
        problem = Reader(PROBLEM, "problem").as_problem(400)
        self.assertEqual(
            str(AcmeError(problem)), "several (compound); a.example: no such name (dns)"
        )

    def test_least(self) -> None:
        """RFC 7807: a problem may have nothing to say."""
        problem = Reader({}, "problem").as_problem(403)
        self.assertEqual(
            (problem.type, problem.detail, str(problem)), ("about:blank", "", "about:blank")
        )
        self.assertEqual(Reader({"title": "Oh"}, "problem").as_problem(403).detail, "Oh")

    def test_error(self) -> None:
        """The error has all that its problem has."""
        problem = Problem("urn:ietf:params:acme:error:rateLimited", "slow", 429)
        error = AcmeError(problem, 7.0)
        self.assertEqual(
            (error.type, error.code, error.detail, error.status, error.subproblems),
            (problem.type, "rateLimited", "slow", 429, ()),
        )
        self.assertTrue(error.is_rate_limited)
        self.assertEqual(error.retry_after, 7.0)

    def test_one_line(self) -> None:
        """A terminal obeys nothing of what a stranger says, and it ends."""
        self.assertEqual(in_one_line("a\r\n\x1b[2Jb"), "a   [2Jb")
        self.assertLess(len(in_one_line("x" * 10_000)), 310)


class NameTests(SynchronousTestCase):
    """L{identifier}, L{is_url} and L{ExternalAccount}."""

    def test_identifier(self) -> None:
        """Names and addresses, each in one spelling."""
        for name, type, value in (
            ("WWW.Example.org", "dns", "www.example.org"),
            ("*.example.org", "dns", "*.example.org"),
            ("192.0.2.1", "ip", "192.0.2.1"),
            ("2001:DB8:0:0::1", "ip", "2001:db8::1"),
        ):
            found = identifier(name)
            self.assertEqual((found.typ.name, found.value), (type, value))

    def test_url(self) -> None:
        """With TLS, and fit for a request line."""
        self.assertTrue(is_url("https://a.example/b?c=d"))
        self.assertTrue(is_url("HTTPS://a.example"))
        for wrong in (
            *(
                "",
                "https://",
                "http://a/",
                "//a/",
                "https:/a",
                "https://a/ b",
                "https://a/\r\nX: y",
            ),
            *("https://ä/", "https://a/" + "b" * 2048),
        ):
            self.assertFalse(is_url(wrong), wrong)

    def test_external(self) -> None:
        """A key as authorities hand it out; it is not shown."""
        for text in ("-_8", " -_8=\n", "+/8="):
            account = ExternalAccount.from_text("kid", text)
            self.assertEqual(account.hmac_key, b"\xfb\xff")
            self.assertNotIn("xfb", repr(account))
        for wrong in ("", "a b", "ä", "a"):
            error = self.assertRaises(ConfigurationError, ExternalAccount.from_text, "kid-1", wrong)
            self.assertEqual(str(error), "the HMAC key of the external account is not base64url")
