"""
Certificates for names that nobody has listed, had when the first client asks for one.

A stranger chooses the names.  So nothing is done for a name that the program does not allow, and
all there is of it is bounded: how often the program is asked, how many names are seen to at once,
how many orders there are in an hour, how many certificates are kept.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from attrs import field, frozen, validators
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..._bucket import Bucket
from ..loading import CertifiedKey
from ..source import Choice, Found
from ..store import StoreUnavailable
from .keeper import Keeper, Leave, Means

__all__ = ["Allow", "OnDemand", "OnDemandLimits"]

Allow = Callable[[str], "bool | Deferred[bool]"]
"""Says whether there may be a certificate for a DNS name; nothing but C{True} is yes."""

_REFUSED_FOR = 60.0
_MOST_REFUSED = 10_000
_SHORTEST = 3  # characters, as in a.b


@frozen
class OnDemandLimits:
    """
    How much strangers can have done.

    @ivar asked_per_second: how often the program is asked for leave.
    @ivar at_once: how many names are seen to at once; clients that come with more get nothing.
    @ivar orders_per_hour: how many orders are made in an hour: first ones, those that are tried
        again, and renewals.  Let's Encrypt takes 300 in three hours
        (https://letsencrypt.org/docs/rate-limits/).
    @ivar kept: how many certificates are kept; those that were not asked for longest go first.
    @ivar permission_timeout: for how many seconds the program may think it over.
    @ivar first_timeout: for how many seconds clients wait for the first certificate.
    """

    asked_per_second: float = field(default=10.0, validator=validators.gt(0))
    at_once: int = field(default=10, validator=validators.gt(0))
    orders_per_hour: float = field(default=90.0, validator=validators.gt(0))
    kept: int = field(default=10_000, validator=validators.gt(0))
    permission_timeout: float = field(default=10.0, validator=validators.gt(0))
    first_timeout: float = field(default=60.0, validator=validators.gt(0))


class _Refused(Exception):
    """There is to be no certificate for this name just now."""


class OnDemand:
    """
    Has a keeper for each name that is allowed and asked for.  A certificate of an earlier process
    is in the store, and is looked after again from when it is next asked for.
    """

    _log = Logger()

    def __init__(self, allow: Allow, means: Means, limits: OnDemandLimits) -> None:
        self._allow = allow
        self._means = means
        self._limits = limits
        self._reactor: Any = None
        self._keepers: OrderedDict[str, Keeper] = OrderedDict()  # the one asked for last is last
        self._refused: OrderedDict[str, float] = OrderedDict()  # until when
        self._seeing_to: dict[str, Deferred[None]] = {}
        self._just_allowed: set[str] = set()  # and counted
        self._waiting: dict[str, list[Deferred[Found]]] = {}

    def keepers(self) -> list[Keeper]:
        """All that there are."""
        return list(self._keepers.values())

    def start(self, reactor: Any) -> None:
        """Begin to have certificates."""
        self._reactor = reactor
        seconds = reactor.seconds
        asked = self._limits.asked_per_second
        self._asking = Bucket(asked, max(1.0, 2 * asked), seconds)
        per_hour = self._limits.orders_per_hour
        burst = max(1.0, per_hour / 3)
        self._ordering = Bucket(per_hour / 3600, burst, seconds)
        # However many new names come, certificates that there are can be renewed.
        self._for_renewals = burst // 3
        for keeper in self._keepers.values():
            keeper.start(reactor)

    async def stop(self) -> None:
        """Have no more, and renew none; those that there are are served."""
        self._reactor = None
        for each in list(self._seeing_to.values()):
            each.cancel()
        for keeper in self.keepers():
            await keeper.stop()

    def find(self, name: str) -> Found | Deferred[Found]:
        """
        The certificate for a name, now, or when it is there.
        """
        keeper = self._keepers.get(name)
        if keeper is not None:
            self._keepers.move_to_end(name)
            if keeper.certificate is not None:
                return Choice(keeper.certificate)
        if name not in self._seeing_to and not self._begin(name, keeper):
            return None
        waiting = self._waiting.get(name)
        if waiting is None:  # it was all done at once
            keeper = self._keepers.get(name)
            found = None if keeper is None else keeper.certificate
            return None if found is None else Choice(found)
        result: Deferred[Found] = Deferred(waiting.remove)
        waiting.append(result)
        return result

    def _begin(self, name: str, keeper: Keeper | None) -> bool:
        """
        Begin to see to a name, if there may be one.
        """
        # One that has failed is tried again by its keeper, not by whoever asks.
        if self._reactor is None or keeper is not None or not _can_be_public(name):
            return False
        now = self._reactor.seconds()
        if self._refused.get(name, now) > now:
            return False
        if len(self._seeing_to) >= self._limits.at_once or not self._asking.take():
            return False
        self._waiting[name] = []
        seeing_to = Deferred.fromCoroutine(self._see_to(name))
        self._seeing_to[name] = seeing_to
        seeing_to.addTimeout(
            self._limits.permission_timeout + self._limits.first_timeout, self._reactor
        )
        seeing_to.addErrback(self._not_seen_to, name).addBoth(self._seen_to, name)
        return True

    async def _see_to(self, name: str) -> None:
        if not await self._is_allowed(name):
            raise _Refused
        keeper = Keeper(
            (name,), self._means, lambda: Deferred.fromCoroutine(self._leave(name, keeper))
        )
        await keeper.look()
        # What is in the store, also if it has expired, is served, and counts once it is renewed.
        if keeper.certificate is None:
            if not self._ordering.take(self._for_renewals):
                raise _Refused
            self._just_allowed.add(name)
        self._keepers[name] = keeper
        self._make_room()
        # Before it starts: it may fail as it does.
        first = keeper.wait()
        keeper.start(self._reactor)
        await first

    def _is_allowed(self, name: str) -> Deferred[bool]:
        """
        Ask the program.
        """

        def wrong(failure: Failure) -> bool:
            self._log.error(
                "{name}: whether there may be a certificate cannot be told: {error}",
                name=name,
                error=failure.getErrorMessage() or type(failure.value).__name__,
            )
            return False

        asked: Deferred[Any] = maybeDeferred(self._allow, name)
        asked.addTimeout(self._limits.permission_timeout, self._reactor)
        return asked.addErrback(wrong).addCallback(lambda answer: answer is True)

    async def _leave(self, name: str, keeper: Keeper) -> Leave:
        """
        Whether a keeper may order.
        """
        if name in self._just_allowed:
            self._just_allowed.discard(name)
            return Leave.GRANTED
        reserve = self._for_renewals if keeper.certificate is None else 0.0
        # The program is not asked for nothing.
        if not self._ordering.has(reserve):
            return Leave.LATER
        if not await self._is_allowed(name):
            if self._keepers.get(name) is keeper:
                del self._keepers[name]
                if self._reactor is not None:
                    # Not within its own work, which asks this.
                    self._reactor.callLater(0, keeper.stop)
            return Leave.REFUSED
        return Leave.GRANTED if self._ordering.take(reserve) else Leave.LATER

    def _make_room(self) -> None:
        while len(self._keepers) > self._limits.kept:
            name, oldest = self._keepers.popitem(last=False)
            self._just_allowed.discard(name)
            oldest.stop()

    def _not_seen_to(self, failure: Failure, name: str) -> None:
        if self._reactor is None:
            return
        if not failure.check(_Refused, StoreUnavailable):
            self._log.info("{name}: no certificate yet", name=name)
        if name not in self._keepers:
            self._refused[name] = self._reactor.seconds() + _REFUSED_FOR
            self._refused.move_to_end(name)
            if len(self._refused) > _MOST_REFUSED:
                self._refused.popitem(last=False)

    def _seen_to(self, result: object, name: str) -> None:
        self._seeing_to.pop(name, None)
        self._just_allowed.discard(name)
        keeper = self._keepers.get(name)
        found: CertifiedKey | None = None if keeper is None else keeper.certificate
        for each in self._waiting.pop(name, []):
            each.callback(None if found is None else Choice(found))


def _can_be_public(name: str) -> bool:
    """
    Whether an authority could have it: a DNS name of two labels or more.
    """
    labels = name.split(".")
    if len(name) < _SHORTEST or len(labels) < 2 or "*" in name or labels[-1].isdigit():
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return all(0 < len(label) < 64 for label in labels)
    return False
