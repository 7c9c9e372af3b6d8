"""Certificates and revocation lists as metrics."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

import attrs
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.certificates.files import FileSource
from twisted_bioconn.certificates.metrics import CertificateCollector
from twisted_bioconn.certificates.revocation import CRLFacts, TrustFiles
from twisted_bioconn.certificates.source import CertificateFacts, CertificateSource, Found
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.hello import ClientHello


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class Source(CertificateSource):
    """Says what it is told to."""

    def __init__(self, *facts: CertificateFacts) -> None:
        self._facts = facts

    def find(self, hello: ClientHello) -> Found:
        return None

    def facts(self) -> Sequence[CertificateFacts]:
        return self._facts


@attrs.define
class Trust:
    """As much of L{TrustFiles} as is asked for."""

    lists: list[CRLFacts]
    last_error: str | None = None

    def paths(self) -> list[str]:
        return ["clients.pem"]

    def crl_facts(self) -> list[CRLFacts]:
        return self.lists


def facts(
    source: str, end: float | None, *names: str, error: str | None = None
) -> CertificateFacts:
    return CertificateFacts(
        names=names,
        source=source,
        not_before=None if end is None else moment(end - 50),
        not_after=None if end is None else moment(end),
        next_renewal=None if end is None else moment(end - 10),
        last_error=error,
    )


class MetricsTests(SynchronousTestCase):
    """What a scrape gets."""

    def scrape(self, *options: ServerOptions, most: int = 10_000) -> dict[str, float]:
        registry = CollectorRegistry()
        registry.register(CertificateCollector(options, now=lambda: 100.0, most=most))
        text = generate_latest(registry).decode()
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                key = f"{sample.name}{{{labels}}}"
                self.assertNotIn(key, found, "Prometheus takes a series once")
                found[key] = sample.value
        return found

    def test_certificates(self) -> None:
        options = ServerOptions(
            Source(facts("a.pem", 120, "a.example"), facts("b.pem", 130, "b.example", "c", "d"))
        )
        found = self.scrape(options, options)
        self.assertEqual(found["bioconn_certificates{}"], 2)
        prefix = "bioconn_certificate"
        a, b = "{name=a.example,source=a.pem}", "{name=b.example (+2),source=b.pem}"
        self.assertEqual(found[f"{prefix}_not_after_seconds{a}"], 120)
        self.assertEqual(found[f"{prefix}_not_before_seconds{a}"], 70)
        self.assertEqual(found[f"{prefix}_next_renewal_seconds{b}"], 120)
        self.assertEqual(found[f"{prefix}_error{{source=a.pem}}"], 0)

    def test_error(self) -> None:
        found = self.scrape(ServerOptions(Source(facts("a.pem", None, error="it is empty"))))
        self.assertEqual(found["bioconn_certificate_error{source=a.pem}"], 1)
        self.assertEqual(found["bioconn_certificates{}"], 0)

    def test_two_in_one_place(self) -> None:
        """The one that clients get: it is valid, the newer is not yet."""
        found = self.scrape(
            ServerOptions(Source(facts("a.pem", 500, "a"), facts("a.pem", 110, "a")))
        )
        self.assertEqual(found["bioconn_certificate_not_after_seconds{name=a,source=a.pem}"], 110)

    def test_too_many(self) -> None:
        """Those that expire first are told, and how many there are."""
        source = Source(*(facts(f"{n}.pem", 200 - n, str(n)) for n in range(5)))
        found = self.scrape(ServerOptions(source), most=2)
        ends = [value for key, value in found.items() if "not_after" in key]
        self.assertEqual(sorted(ends), [196, 197])
        self.assertEqual(found["bioconn_certificates{}"], 5)

    def test_path_in_no_encoding(self) -> None:
        found = self.scrape(ServerOptions(Source(facts(os.fsdecode(b"\xff.pem"), 120, "a"))))
        self.assertIn("bioconn_certificate_error{source=\\udcff.pem}", found)

    def test_revocation_lists(self) -> None:
        options = ServerOptions(Source())
        lists = [
            CRLFacts(path="r.pem", issuer="CN=x", next_update=moment(90), is_stale=True),
            CRLFacts(path="r.pem", issuer="CN=y", next_update=moment(150), is_stale=False),
            CRLFacts(path="r.pem", issuer="CN=x", next_update=moment(95), is_stale=True),
        ]
        options._trust = cast(TrustFiles, Trust(lists, "it is gone"))
        found = self.scrape(options)
        x, y = "{issuer=CN=x,path=r.pem}", "{issuer=CN=y,path=r.pem}"
        self.assertEqual((found[f"bioconn_crl_next_update_seconds{x}"]), 95)
        self.assertEqual((found[f"bioconn_crl_stale{x}"], found[f"bioconn_crl_stale{y}"]), (1, 0))
        self.assertEqual(found["bioconn_client_authorities_error{path=clients.pem}"], 1)

    def test_real_file(self) -> None:
        path = self.mktemp()
        pair = DevelopmentAuthority(self.mktemp()).issue(["a.example"])
        with open(path, "wb") as pem:
            pem.write(pair.to_pem())
        found = self.scrape(ServerOptions(FileSource(path)))
        key = f"bioconn_certificate_not_after_seconds{{name=a.example,source={path}}}"
        self.assertEqual(found[key], pair.not_valid_after.timestamp())
