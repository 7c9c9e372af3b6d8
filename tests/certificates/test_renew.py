"""What sources do that is asked for by an operator: L{CertificateSource.renew}."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import certified
from tests.source_material import named
from twisted_bioconn.certificates.callable import CallableSource, FirstOf, MemorySource, PerName
from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.certificates.directory import DirectorySource
from twisted_bioconn.certificates.files import FileSource
from twisted_bioconn.certificates.source import CertificateFacts, CertificateSource
from twisted_bioconn.client_policy import ANYBODY
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.renewing import renew

ONE, OTHER = "one.example", "other.example"


class RenewCase(SynchronousTestCase):
    """Has certificates in files."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.authority = DevelopmentAuthority(os.path.abspath(self.mktemp()))

    def put(self, *names: str) -> str:
        path = os.path.join(self.directory, f"{names[0]}.pem")
        with open(path, "wb") as file:
            file.write(self.authority.issue(names).to_pem())
        return path

    def sentences(self, source: CertificateSource, name: str | None = None) -> Sequence[str]:
        found: Sequence[str] = self.successResultOf(source.renew(name))
        return found


class SourceTests(RenewCase):
    """Each kind."""

    def test_file(self) -> None:
        """It is looked at anew: what is there now is served."""
        source = FileSource(self.put(ONE))
        before = source.only
        path = self.put(ONE)
        [sentence] = self.sentences(source, ONE)
        self.assertRegex(
            sentence,
            rf"one\.example: looked at {path} anew: its certificate is valid until \d{{4}}-",
        )
        self.assertIsNot(source.only, before)
        self.assertEqual(self.sentences(source, OTHER), ())

    def test_broken_file(self) -> None:
        """What is wrong with it is said, and the old one is served on."""
        source = FileSource(self.put(ONE))
        before = source.only
        with open(self.put(ONE), "w") as file:
            file.write("nothing")
        [sentence] = self.sentences(source)
        self.assertIn(" anew, which has failed: ", sentence)
        self.assertIs(source.only, before)

    def test_directory(self) -> None:
        """A name that is new there is found by a look at all, and by that name when it is known."""
        self.put(ONE)
        source = DirectorySource(self.directory)
        self.assertEqual(len(self.sentences(source)), 1)
        self.put(OTHER)
        self.assertEqual(len(self.sentences(source)), 2)
        [sentence] = self.sentences(source, OTHER)
        self.assertTrue(sentence.startswith(f"{OTHER}: looked at "), sentence)

    def test_memory(self) -> None:
        """There is nothing to be done, and that is said."""
        source = MemorySource([certified(named(ONE)), certified(named(OTHER))])
        self.assertEqual(
            self.sentences(source, ONE), [f"{ONE}: it is held in memory, and not renewed here"]
        )
        self.assertEqual(len(self.sentences(source)), 2)

    def test_callable(self) -> None:
        source = CallableSource(lambda _: None)
        self.assertEqual(self.sentences(source), ())

    def test_several(self) -> None:
        memory = MemorySource([certified(named(OTHER))])
        source = PerName(FirstOf([FileSource(self.put(ONE)), memory]), {ONE: ANYBODY})
        self.assertEqual(len(self.sentences(source)), 2)
        [sentence] = self.sentences(source, OTHER)
        self.assertIn("it is held in memory", sentence)

    def test_none_yet(self) -> None:
        """A certificate that is not there yet."""

        class Waiting(MemorySource):
            renew = CertificateSource.renew

            def facts(self) -> Sequence[CertificateFacts]:
                return [CertificateFacts(names=(), source="somewhere")]

        self.assertEqual(
            self.sentences(Waiting([])),
            ["no name: looked at somewhere anew, and there is no certificate"],
        )


class NameTests(SynchronousTestCase):
    """Which certificate is for a name."""

    def test_names(self) -> None:
        facts = CertificateFacts(names=("a.example", "*.b.example", "192.0.2.1"), source="x")
        for name, expected in {
            None: True,
            "a.example": True,
            "x.b.example": True,
            "*.b.example": True,
            "192.0.2.1": True,
            "b.example": False,
            "x.y.b.example": False,
            "example": False,
        }.items():
            self.assertIs(facts.is_for(name), expected, name)


class ServerTests(RenewCase):
    """All that a server has."""

    def renew(self, *sources: Any, name: str | None = None) -> str:
        renewing: Any = renew([ServerOptions(each) for each in sources], name)
        told: str = self.successResultOf(renewing)
        return told

    def wrong(self, *sources: Any, name: str | None = None) -> str:
        served = [ServerOptions(each) for each in sources]
        waiting: Deferred[str] | None = None
        try:
            waiting = renew(served, name)
        except ConfigurationError as error:
            return str(error)
        return str(self.failureResultOf(waiting, ConfigurationError).value)

    def test_all(self) -> None:
        """Each source once, though several ports have it."""
        source = FileSource(self.put(ONE))
        told = self.renew(source, certified(named(OTHER)), source)
        first, second = told.split("; ")
        self.assertEqual(
            first, f"{OTHER}: it is renewed in time by who has made it, and not before"
        )
        self.assertTrue(second.startswith(f"{ONE}: looked at "), second)

    def test_names(self) -> None:
        """However it is spelled."""
        source = FileSource(self.put("xn--bcher-kva.example", ONE))
        for name in (ONE, "ONE.example.", "b\u00fccher.example"):
            self.assertIn("looked at", self.renew(source, name=name))
        self.assertEqual(
            self.wrong(source, name="onne.example"),
            "no certificate is served for onne.example, did you mean one.example?",
        )
        self.assertEqual(
            self.wrong(source, name="a b\x1b"),
            "a b\\x1b is neither a host name nor an IP address",
        )
        self.assertEqual(self.wrong(), "there are no certificates that could be renewed here")

    def test_failing(self) -> None:
        """What fails in one source is logged, and does not hold up the others."""

        class Failing(MemorySource):
            def renew(self, name: str | None = None) -> Deferred[Sequence[str]]:
                raise ZeroDivisionError("a secret")

        told = self.renew(Failing([certified(named(OTHER))]), FileSource(self.put(ONE)))
        self.assertTrue(
            told.startswith("what one source has is not renewed, and the log says why;")
        )
        self.assertIn("looked at", told)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_many(self) -> None:
        """An answer has an end."""
        source = MemorySource([certified(named(f"n{number}.example")) for number in range(30)])
        told = self.renew(source).split("; ")
        self.assertEqual((len(told), told[-1]), (21, "and 10 more"))
