"""
When to renew, when to try again, and a clock that keeps to that.

All times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from attrs import evolve
from cryptography import x509
from twisted.internet.interfaces import IDelayedCall

from .records import RenewalRecord, Trouble

__all__ = [
    "LEAST_WANTED_AGE",
    "Alarm",
    "advised_time",
    "after_failure",
    "asking_time",
    "blocked_until",
    "moment",
    "renewal_time",
]

HOUR = 3600.0
DAY = 24 * HOUR

_SHORT_LIFE = 10 * DAY
"""Certificates that live shorter are renewed at half of their life, others at two thirds."""

_SPREAD = 1 / 30
"""Over which part of its life the renewals of a certificate are spread."""

_LAST_CALL = 1 / 10
"""How much of a certificate's life has to be left, whatever an authority advises."""

_FIRST_WAIT = 60.0
_LONGEST_WAIT = 12 * HOUR
_LONGEST_REFUSAL = 31 * DAY

_VALIDATIONS = 5
"""
How many validations may fail in an hour.  Let's Encrypt allows as many for each name and account
(https://letsencrypt.org/docs/rate-limits/, "Authorization Failures per Identifier per Account").
"""

_SELDOM, _OFTEN = DAY, 3 * HOUR
"""How long to wait before an authority is asked again for its advice: at most, and at least."""

_AFTER_NO_ADVICE = 6 * HOUR  # RFC 9773, section 4.3.3

LEAST_WANTED_AGE = 600.0
"""
How old a certificate is at least before an operator may have it renewed, in seconds: authorities
count how often that is (https://letsencrypt.org/docs/rate-limits/, "New Certificates per Exact Set
of Identifiers").
"""


def moment(seconds: float) -> datetime:
    """A time, as far as there is one."""
    return datetime.fromtimestamp(max(0.0, min(seconds, 253402300799.0)), UTC)


def _dates(leaf: x509.Certificate) -> tuple[float, float]:
    return leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()


def renewal_time(leaf: x509.Certificate, fraction: float) -> float:
    """
    When to renew a certificate whose authority gives no advice: with a third of its life left, or
    half if it lives for less than ten days, and a little earlier.

    @param fraction: from 0 to 1: how much of a little.
    """
    begin, end = _dates(leaf)
    life = end - begin
    left = life / 2 if life < _SHORT_LIFE else life / 3
    return end - left - fraction * life * _SPREAD


def advised_time(leaf: x509.Certificate, start: float, end: float, fraction: float) -> float:
    """
    When to renew a certificate within the window that its authority advises (RFC 9773, section
    4.2), but in any case while there is time left to do it.
    """
    begin, expiry = _dates(leaf)
    return min(start + fraction * (end - start), expiry - (expiry - begin) * _LAST_CALL)


def asking_time(now: float, leaf: x509.Certificate, retry_after: float | None) -> float:
    """
    When to ask for advice again: as the authority says, but at least daily and at most every three
    hours, or ten times in a life.
    """
    begin, end = _dates(leaf)
    wait = _AFTER_NO_ADVICE if retry_after is None else retry_after
    return now + max(min(wait, _SELDOM), min(_OFTEN, (end - begin) / 10))


def is_asking_due(record: RenewalRecord | None, certificate: str, now: float) -> bool:
    """
    Whether to ask for advice.

    @param certificate: its identifier.
    """
    if record is None or record.certificate != certificate:
        return True
    # What is further away was written by a clock that was wrong.
    return not now < record.ask_again <= now + _SELDOM


def after_failure(
    trouble: Trouble,
    error: str,
    *,
    now: float,
    retry_after: float | None,
    is_rate_limited: bool = False,
    failed_validation: bool,
    jitter: float,
) -> Trouble:
    """
    What is to be kept of a failure.

    @param retry_after: in how many seconds the authority wants to be asked again.  A month is too
        long for an authority that is out of order: only for a rate limit is all of it waited.
    @param is_rate_limited: whether it was a rate limit (RFC 8555, section 6.6).
    @param jitter: from 0 to 1.
    """
    wait = min(
        _FIRST_WAIT * 2.0 ** min(trouble.failures, 20) * (1 + jitter / 4),
        _LONGEST_WAIT,
    )
    advised = wait if retry_after is None else retry_after
    recent = tuple(each for each in trouble.failed_validations if now - HOUR < each <= now)
    return evolve(
        trouble,
        failures=trouble.failures + 1,
        retry=now + min(max(wait, advised), _LONGEST_WAIT),
        refused_until=now + min(advised, _LONGEST_REFUSAL) if is_rate_limited else 0.0,
        failed_validations=(*recent, now)[-_VALIDATIONS:] if failed_validation else recent,
        error=error,
    )


def blocked_until(trouble: Trouble, now: float, *, hurry: bool = False) -> float:
    """
    Before when not to try again; 0 where nothing is in the way.

    @param hurry: whether an operator wants it tried: then no wait counts, but the authority's
        limits do.
    """
    # Later times than can be were written by a clock that was wrong, and would be for ever.
    waits = [
        until
        for until, longest in (
            (0.0 if hurry else trouble.retry, _LONGEST_WAIT),
            (trouble.refused_until, _LONGEST_REFUSAL),
        )
        if until <= now + longest
    ]
    recent = [each for each in trouble.failed_validations if now - HOUR < each <= now]
    if len(recent) >= _VALIDATIONS:
        waits.append(recent[-_VALIDATIONS] + HOUR)
    return max([0.0, *waits])


class Alarm:
    """
    Rings at a time of the wall clock.

    A reactor's clock stands still while the machine sleeps, and an operator may set the other one;
    so it is looked at once an hour.
    """

    def __init__(self, reactor: Any, now: Callable[[], float], ring: Callable[[], object]) -> None:
        """
        @param now: the wall clock.
        @param ring: what to call; the alarm is off by then.
        """
        self._reactor = reactor
        self._now = now
        self._ring = ring
        self._call: IDelayedCall | None = None
        self.when: float | None = None

    def set(self, when: float) -> None:
        """Ring then, and not when it was set to before."""
        self.cancel()
        self.when = when
        self._call = self._reactor.callLater(
            min(max(0.0, when - self._now()), HOUR), self._look, when
        )

    def _look(self, when: float) -> None:
        self._call = None
        if self._now() < when:
            self.set(when)
            return
        self.when = None
        self._ring()

    def cancel(self) -> None:
        """Do not ring."""
        self.when = None
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
