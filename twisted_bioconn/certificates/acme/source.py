"""
Certificates from an authority, as a source: ordered, kept and renewed with nobody's help.
"""

from __future__ import annotations

import ipaddress
import random as random_module
from collections.abc import Callable, Sequence
from time import time
from typing import Any, Protocol, runtime_checkable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_bioconn.errors import ConfigurationError

from ...hello import ClientHello
from ..development import general_names
from ..source import CertificateFacts, CertificateSource, Choice, Found
from ..store import Store, StoreUnavailable
from .accounts import Accounts
from .answers import Answers
from .authorities import Authority
from .challenges import ACME_TLS, Solver, TlsAlpn01Solver
from .client import AcmeClient
from .keeper import Keeper, Means
from .on_demand import Allow, OnDemand, OnDemandLimits
from .records import CERTIFICATES, CHALLENGES, RENEWALS, TROUBLES

__all__ = ["AcmeSource"]

_KEY_TYPES = ("ec", "rsa")

_STOPPED_WITHIN = 10.0
"""Seconds after which L{AcmeSource.stop} no longer waits for what is being tidied up."""

_AGAIN = 30.0
"""Seconds after which a look at a store that could not be asked is taken again."""


@runtime_checkable
class _ReadsAtOnce(Protocol):
    """
    A store that can be read before there is a reactor.
    """

    def get_now(self, name: str) -> bytes | None: ...


class AcmeSource(CertificateSource):
    """
    One certificate for some names, and, where that is wanted, one for each other name that a
    program allows.

    Until the first is there a self-signed one stands in, so that the port answers, to authorities
    too.  Fronts that share the store share the certificate: one of them orders it.
    """

    _log = Logger()

    def __init__(
        self,
        names: Sequence[str],
        *,
        contact: Sequence[str] = (),
        authorities: Sequence[Authority],
        store: Store,
        challenges: Sequence[Solver] | None = None,
        key_type: str = "ec",
        now: Callable[[], float] = time,
        random: Callable[[], float] = random_module.random,
        allow: Allow | None = None,
        on_demand: OnDemandLimits | None = None,
        client: Callable[..., AcmeClient] = AcmeClient,
    ) -> None:
        """
        @param names: DNS names (a C{*} for the first label is allowed; not ASCII: see UTS 46) and
            IP addresses.  There may be none where there is C{allow}.
        @param contact: whom an authority may write to: C{mailto:} URLs, or addresses.
        @param authorities: the next is tried where one fails.
        @param challenges: how names are proved, in order of preference; C{tls-alpn-01} by default.
        @param key_type: C{ec} (P-256) or C{rsa} (2048 bits).
        @param now: the present time, in seconds since the epoch.
        @param random: a number from 0 to 1.
        @param allow: says for which other DNS names there may be certificates.  It may return a
            Deferred.
        @param on_demand: how much may be done for those.
        @param client: what makes a client, as L{AcmeClient} is made.
        @raise ConfigurationError: these do not fit together.
        """
        if challenges is None:
            challenges = (TlsAlpn01Solver(now),)
        self._names = tuple(
            str(name.value) for name in (general_names(names) if names or allow is None else ())
        )
        self._known = frozenset(self._names)
        _check(self._names, authorities, challenges, key_type)
        self._now = now
        self._store = store
        self._solvers = tuple(challenges)
        self._tls_alpn = [each for each in challenges if isinstance(each, TlsAlpn01Solver)]
        self._answers = Answers(store, challenges, now)
        means = Means(
            store=store,
            authorities=tuple(authorities),
            accounts=Accounts(store, tuple(contact), client),
            solvers=self._solvers,
            answers=self._answers,
            key_type=key_type,
            now=now,
            random=random,
        )
        self._keeper = Keeper(self._names, means) if self._names else None
        self._on_demand = (
            None if allow is None else OnDemand(allow, means, on_demand or OnDemandLimits())
        )
        self._reactor: Any = None
        self._stop_watching: Callable[[], None] | None = None
        self._again: IDelayedCall | None = None
        self._to_look_at: set[str] = set()
        self._looking: Deferred[None] | None = None
        self._load_at_once()

    def _load_at_once(self) -> None:
        if self._keeper is None or not isinstance(self._store, _ReadsAtOnce):
            return
        try:
            self._keeper.load_at_once(self._store.get_now)
        except (StoreUnavailable, ConfigurationError) as error:
            self._log.warn("{name}: {error}", name=self._names[0], error=error)

    def find(self, hello: ClientHello) -> Found | Deferred[Found]:
        if hello.alpn == (ACME_TLS,):
            return self._challenge(hello.server_name)
        name = hello.server_name
        if name is None:
            name = _address(hello.local_address)
            if name is None or name not in self._known:
                return None
        if self._keeper is not None and self._has(name):
            return Choice(self._keeper.serve(name))
        if self._on_demand is not None and hello.server_name is not None:
            return self._on_demand.find(name)
        return None

    def default(self, hello: ClientHello) -> Found:
        # An authority that asks for an answer which is not here must not get one.
        if self._keeper is None or ACME_TLS in hello.alpn:
            return None
        return Choice(self._keeper.serve())

    def _challenge(self, name: str | None) -> Found:
        choices = (each.choice(name) for each in self._tls_alpn)
        return next((each for each in choices if each is not None), None)

    def _has(self, name: str) -> bool:
        return name in self._known or f"*.{name.partition('.')[2]}" in self._known

    def start(self, reactor: Any) -> None:
        if self._reactor is not None:
            return
        for solver in self._solvers:
            solver.start(reactor)
        self._reactor = reactor
        self._stop_watching = self._store.watch(self._changed)
        self._changed("")
        if self._on_demand is not None:
            self._on_demand.start(reactor)
        if self._keeper is not None:
            self._keeper.start(reactor)

    def stop(self) -> Deferred[None]:
        if self._reactor is None:
            return succeed(None)
        reactor, self._reactor = self._reactor, None
        if self._stop_watching is not None:
            self._stop_watching()
        if self._again is not None and self._again.active():
            self._again.cancel()
        if self._looking is not None:
            self._looking.cancel()
        self._to_look_at.clear()
        stopped = Deferred.fromCoroutine(self._stopped())
        # What is left then goes on in the background, and has a deadline of its own.
        waiting: Deferred[None] = Deferred()
        late = reactor.callLater(_STOPPED_WITHIN, waiting.callback, None)

        def done(result: object) -> None:
            if isinstance(result, Failure):
                self._log.failure("while certificates are no longer looked after", result)
            if late.active():
                late.cancel()
                waiting.callback(None)

        stopped.addBoth(done)
        return waiting

    async def _stopped(self) -> None:
        for keeper in [] if self._keeper is None else [self._keeper]:
            await keeper.stop()
        if self._on_demand is not None:
            await self._on_demand.stop()
        if self._reactor is None:  # it was not started again meanwhile
            for solver in self._solvers:
                await solver.stop()
            self._answers.clear()

    def reload(self) -> Deferred[None]:
        if self._reactor is None:
            self._load_at_once()
            return succeed(None)
        for keeper in self._keepers():
            keeper.hurry()
        self._changed("")
        return self._looked()

    def renew(self, name: str | None = None) -> Deferred[Sequence[str]]:
        return succeed(
            [
                f"{each.names[0]}: {each.renew()}"
                for each in self._keepers()
                if each.facts().is_for(name)
            ]
        )

    def facts(self) -> Sequence[CertificateFacts]:
        return [keeper.facts() for keeper in self._keepers()]

    def _keepers(self) -> list[Keeper]:
        on_demand = [] if self._on_demand is None else self._on_demand.keepers()
        return on_demand if self._keeper is None else [self._keeper, *on_demand]

    def _looked(self) -> Deferred[None]:
        """
        Fires when what is being looked at has been.
        """
        looked: Deferred[None] = Deferred()
        if self._looking is None:
            looked.callback(None)
        else:
            self._looking.addBoth(lambda _: looked.callback(None))
        return looked

    def _changed(self, name: str) -> None:
        """
        Something in the store has changed.  It is looked at once, however often we are told.

        @param name: what; empty where it may be anything.
        """
        if self._reactor is None:
            return
        if name.startswith(CHALLENGES) or not name:
            self._to_look_at.add(name)
        elif name.startswith((CERTIFICATES, RENEWALS, TROUBLES)):
            self._to_look_at.add(name.rpartition("/")[2])
        if self._to_look_at and self._looking is None:
            self._looking = Deferred.fromCoroutine(self._look())
            self._looking.addErrback(self._cannot_look).addCallback(self._look_is_over)

    async def _look(self) -> None:
        keepers: dict[str, Keeper] = {}
        while self._to_look_at:
            name = self._to_look_at.pop()
            if not name:
                self._to_look_at.clear()  # it is all looked at
                await self._answers.look()
                for keeper in self._keepers():
                    await keeper.changed()
            elif name.startswith(CHALLENGES):
                await self._answers.look(name)
            else:
                keepers = keepers or {each.identity: each for each in self._keepers()}
                if name in keepers:
                    await keepers[name].changed()

    def _cannot_look(self, failure: Failure) -> None:
        if self._reactor is None:
            return
        if not failure.check(StoreUnavailable):
            self._log.failure("the store cannot be looked at", failure)
        # Told once by the keepers.  A store that was away says so when it is back, but this may
        # have been a single value.
        self._to_look_at.clear()
        if self._again is None or not self._again.active():
            self._again = self._reactor.callLater(_AGAIN, self._changed, "")

    def _look_is_over(self, _: object) -> None:
        self._looking = None


def _address(text: str | None) -> str | None:
    try:
        return None if text is None else str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _check(
    names: Sequence[str],
    authorities: Sequence[Authority],
    solvers: Sequence[Solver],
    key_type: str,
) -> None:
    if key_type not in _KEY_TYPES:
        raise ConfigurationError(f"a key can be {' or '.join(_KEY_TYPES)}, not {key_type!r}")
    if not authorities:
        raise ConfigurationError("there is no authority to have certificates from")
    kinds = [each.kind for each in solvers]
    if not kinds:
        raise ConfigurationError("there is no challenge by which names could be proved")
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise ConfigurationError(f"there are two ways to answer {kind}, where one is enough")
    for name in names:
        if any(solver.can_prove(name) for solver in solvers):
            continue
        if name.startswith("*."):
            raise ConfigurationError(
                f"{name} has a wildcard, which can be proved by dns-01 only, and that is not set up"
            )
        raise ConfigurationError(f"{name} cannot be proved by {', '.join(kinds)}")
