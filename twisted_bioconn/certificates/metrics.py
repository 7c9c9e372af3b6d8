"""
Certificates and revocation lists as metrics, for Prometheus::

    REGISTRY.register(CertificateCollector([endpoint.options]))

There is one series for each certificate, not for each of its names: 10,000 certificates of one name
each are 10,000 series of every metric that is by certificate.  Beyond L{MOST} of them those that
expire first are told, and C{bioconn_certificates} says how many there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .source import CertificateFacts

if TYPE_CHECKING:
    from ..context import ServerOptions

__all__ = ["MOST", "CertificateCollector"]

MOST = 10_000
"""How many certificates, and how many revocation lists, there are series for at most."""

_LONGEST = 512
"""Characters of a label at most."""

_CERTIFICATE = ("name", "source")
_LIST = ("path", "issuer")


class CertificateCollector(Collector):
    """
    Collects what some servers' options know of their certificates, when it is asked.

    It has to be asked in the reactor's thread.
    """

    def __init__(
        self,
        options: Iterable[ServerOptions] | Callable[[], Iterable[ServerOptions]],
        *,
        now: Callable[[], float] = time.time,
        most: int = MOST,
    ) -> None:
        """
        @param options: those of all ports, or what says which there are.
        @param now: the present time, in seconds since 1970.
        @param most: see L{MOST}.
        """
        given = options if callable(options) else tuple(options)
        self._options = given if callable(given) else lambda: given
        self._now = now
        self._most = most

    def describe(self) -> Iterable[Metric]:
        """What there may be: to register this collects nothing."""
        return [*self._certificates([]), *self._trust([])]

    def collect(self) -> Iterable[Metric]:
        """What there is."""
        options = list({id(each): each for each in self._options()}.values())
        return [*self._certificates(options), *self._trust(options)]

    def _certificates(self, options: Iterable[ServerOptions]) -> list[Metric]:
        count = GaugeMetricFamily("bioconn_certificates", "How many certificates there are.")
        begin = GaugeMetricFamily(
            "bioconn_certificate_not_before_seconds",
            "When the certificate becomes valid, as Unix time. One series for a certificate: its"
            " first name, and how many more it has.",
            labels=_CERTIFICATE,
        )
        end = GaugeMetricFamily(
            "bioconn_certificate_not_after_seconds",
            "When the certificate expires, as Unix time. One series for a certificate: its first"
            " name, and how many more it has.",
            labels=_CERTIFICATE,
        )
        renewal = GaugeMetricFamily(
            "bioconn_certificate_next_renewal_seconds",
            "When the certificate is to be renewed by its source, as Unix time.",
            labels=_CERTIFICATE,
        )
        error = GaugeMetricFamily(
            "bioconn_certificate_error",
            "Whether the newest attempt to load or renew a certificate has failed.",
            labels=["source"],
        )
        served, failed = self._facts(options)
        count.add_metric([], len(served))
        told = sorted(served.items(), key=lambda each: _seconds(each[1].not_after))[: self._most]
        for labels, facts in told:
            for family, moment in (
                (begin, facts.not_before),
                (end, facts.not_after),
                (renewal, facts.next_renewal),
            ):
                if moment is not None:
                    family.add_metric(labels, moment.timestamp())
        # Those that have failed come first, where there are too many.
        for source, has_failed in sorted(failed.items(), key=lambda each: not each[1])[
            : self._most
        ]:
            error.add_metric([source], has_failed)
        return [count, begin, end, renewal, error]

    def _facts(
        self, options: Iterable[ServerOptions]
    ) -> tuple[dict[tuple[str, str], CertificateFacts], dict[str, bool]]:
        """By labels what there is of a certificate, and by source whether something has failed."""
        served: dict[tuple[str, str], CertificateFacts] = {}
        failed: dict[str, bool] = {}
        for each in options:
            for facts in () if each.source is None else each.source.facts():
                source = _label(facts.source)
                failed[source] = failed.get(source, False) or facts.last_error is not None
                if facts.not_after is None:
                    continue
                labels = _name(facts), source
                before = served.get(labels)
                if before is None or self._preference(facts) > self._preference(before):
                    served[labels] = facts
        return served, failed

    def _preference(self, facts: CertificateFacts) -> tuple[bool, float]:
        """Of two in one place a client gets the one that is valid, and then the later one."""
        begin, end = _seconds(facts.not_before), _seconds(facts.not_after)
        return begin <= self._now() < end, end

    def _trust(self, options: Iterable[ServerOptions]) -> list[Metric]:
        update = GaugeMetricFamily(
            "bioconn_crl_next_update_seconds",
            "When the revocation list is to be replaced by a newer one, as Unix time.",
            labels=_LIST,
        )
        stale = GaugeMetricFamily(
            "bioconn_crl_stale",
            "Whether the revocation list is out of date, or not valid yet.",
            labels=_LIST,
        )
        error = GaugeMetricFamily(
            "bioconn_client_authorities_error",
            "Whether the newest attempt to load authorities and revocation lists has failed.",
            labels=["path"],
        )
        # Of several lists of one issuer the last one counts.
        lists: dict[tuple[str, str], tuple[float, bool]] = {}
        failed: dict[str, bool] = {}
        for trust in (each.trust for each in options):
            if trust is None:
                continue
            path = _label(trust.paths()[0])
            failed[path] = failed.get(path, False) or trust.last_error is not None
            for facts in trust.crl_facts():
                labels = _label(facts.path), _label(facts.issuer)
                new = _seconds(facts.next_update), facts.is_stale
                lists[labels] = max(lists.get(labels, new), new, key=lambda each: each[0])
        for labels, (moment, is_stale) in sorted(lists.items(), key=lambda each: each[1])[
            : self._most
        ]:
            if moment != float("inf"):
                update.add_metric(labels, moment)
            stale.add_metric(labels, is_stale)
        for path, has_failed in list(failed.items())[: self._most]:
            error.add_metric([path], has_failed)
        return [update, stale, error]


def _name(facts: CertificateFacts) -> str:
    if not facts.names:
        return ""
    first, *more = facts.names
    return _label(f"{first} (+{len(more)})" if more else first)


def _label(text: str) -> str:
    # The name of a file may be no UTF-8, which the whole answer has to be.
    return text.encode("utf-8", "backslashreplace").decode()[:_LONGEST]


def _seconds(moment: datetime | None) -> float:
    return float("inf") if moment is None else moment.timestamp()
