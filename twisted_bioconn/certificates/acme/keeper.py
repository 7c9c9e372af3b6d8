"""
One certificate, for some names, that is had and renewed by itself.

What there is lies in the store; a L{Keeper} has a copy of it, which it serves.  When there is
something to do, it takes the lease, looks into the store again, for another front may have done it
meanwhile, and does it.  Whatever fails, what there is goes on to be served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_bioconn.errors import ConfigurationError

from ..loading import CertifiedKey
from ..source import CertificateFacts
from ..store import Store, StoreUnavailable
from .accounts import Accounts
from .answers import Answers
from .authorities import Authority, identity
from .challenges import Solver
from .client import AcmeClient, AcmeError, AcmeUnavailable, RenewalInfo, certificate_id
from .kept import covers, key_type, predecessor, usable, was_before
from .leases import LEASE_SECONDS, HeldLease
from .orders import CertificateWanted, OrderFailed, Ordering, general_name, order_name
from .records import (
    CERTIFICATES,
    LEASES,
    ORDERS,
    RENEWALS,
    TROUBLES,
    CertificateRecord,
    RenewalRecord,
    Trouble,
    TroublesRecord,
    dump,
    load,
    parse,
)
from .renewal import (
    DAY,
    HOUR,
    LEAST_WANTED_AGE,
    Alarm,
    advised_time,
    after_failure,
    asking_time,
    blocked_until,
    is_asking_due,
    moment,
    renewal_time,
)
from .stand_in import stand_in

__all__ = ["Keeper", "Leave", "Means"]

_LEAST_PAUSE = 10.0
"""Seconds between two times of work, whatever a store or an authority says."""

_STORE_WAIT, _LONGEST_STORE_WAIT = 15.0, 300.0
_POSTPONED = 600.0
"""Seconds until an order that may not be made yet is thought of again; up to twice of it."""

_LEAST_AGE, _LEAST_AGE_OF_LIFE = 6 * HOUR, 1 / 10
"""How old a certificate is at least before it is renewed, in seconds and in parts of its life."""


@frozen
class Means:
    """
    What all the keepers of a source work with.

    @ivar solvers: in order of preference.
    @ivar now: the present time, in seconds since the epoch.
    @ivar random: a number from 0 to 1.
    """

    store: Store
    authorities: Sequence[Authority]
    accounts: Accounts
    solvers: Sequence[Solver]
    answers: Answers
    key_type: str
    now: Callable[[], float]
    random: Callable[[], float]


class Leave(Enum):
    """Whether there may be an order."""

    GRANTED = "granted"
    LATER = "later"
    """There have been too many of late."""
    REFUSED = "refused"


class Phase(Enum):
    """What a keeper is at."""

    STOPPED = "stopped"
    """Nothing: it serves what it has."""
    RESTING = "resting"
    """It waits for its alarm."""
    WORKING = "working"
    """It has the lease, or asks for it."""


class Keeper:
    """
    Keeps one certificate.

    @ivar names: DNS names in ASCII and IP addresses; the first is what it is called by.
    @ivar identity: the C{ID} under which it is kept.
    @ivar certificate: what there is; L{None} before the first.
    """

    _log = Logger()

    def __init__(
        self,
        names: Sequence[str],
        means: Means,
        permitted: Callable[[], Deferred[Leave]] | None = None,
    ) -> None:
        """
        @param permitted: asked before each order whether there may be one.
        """
        self.names = tuple(names)
        self._means = means
        self._permitted = permitted
        self.identity = identity(names[0], means.key_type, *sorted(names))
        self._wanted = CertificateWanted(self.identity, self.names, means.key_type)
        self.certificate: CertifiedKey | None = None
        self._record: CertificateRecord | None = None
        self._is_stored = True
        self._predecessor: CertifiedKey | None = None
        self._stand_in: CertifiedKey | None = None
        self._advice: RenewalRecord | None = None
        self._troubles = TroublesRecord()
        self._store_error: str | None = None
        self._store_failures = 0
        self._phase = Phase.STOPPED
        self._has_changed = False
        self._is_elsewhere = False
        self._reactor: Any = None
        self._alarm: Alarm | None = None
        self._work: Deferred[None] | None = None
        self._begun = 0.0
        self._pause_until = 0.0
        self._hurry = False
        self._waiting: list[Deferred[CertifiedKey | None]] = []
        self._to_replace: CertificateRecord | None = None

    # What is served.

    def serve(self, name: str | None = None) -> CertifiedKey:
        """
        The certificate; before the first, that of before the names were changed, if it has the name
        asked for; else one that no client trusts.
        """
        if self.certificate is not None:
            return self.certificate
        if self._predecessor is not None and (name is None or covers(self._predecessor, name)):
            return self._predecessor
        now = self._means.now()
        if self._stand_in is None or self._stand_in.not_valid_after.timestamp() <= now:
            self._stand_in = stand_in([general_name(each) for each in self.names], now)
        return self._stand_in

    def wait(self) -> Deferred[CertifiedKey | None]:
        """
        The certificate, as soon as there is one; L{None} if the first attempt to have it fails.
        """
        if self.certificate is not None:
            return succeed(self.certificate)
        waiting: Deferred[CertifiedKey | None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(self.certificate)

    def facts(self) -> CertificateFacts:
        """What there is, for an operator."""
        found = self.certificate
        directory = self._means.authorities[0].directory_url
        if self._record is not None:
            directory = self._record.directory
        errors = [each.error for each in self._troubles.authorities.values() if each.error]
        if self._store_error is not None:
            errors.append(self._store_error)
        return CertificateFacts(
            names=self.names,
            source=self._title(directory),
            key_type="" if found is None else key_type(found),
            not_before=None if found is None else found.leaf.not_valid_before_utc,
            not_after=None if found is None else found.not_valid_after,
            next_renewal=moment(self._renewal()) if found is not None else None,
            last_error="; ".join(errors) or None,
        )

    def _title(self, directory: str) -> str:
        known = {each.directory_url: each.title for each in self._means.authorities}
        return known.get(directory, directory)

    # From rest to work, and back.

    def start(self, reactor: Any) -> None:
        """Begin to look after it.  To start twice changes nothing."""
        if self._phase is not Phase.STOPPED:
            return
        self._reactor = reactor
        self._alarm = Alarm(reactor, self._means.now, self._start_work)
        self._phase = Phase.RESTING
        if self._work is None:  # else it is being stopped
            self._start_work()

    def stop(self) -> Deferred[None]:
        """Stop.  An order that is under way is gone on with another time."""
        self._phase = Phase.STOPPED
        if self._alarm is not None:
            self._alarm.cancel()
        self._tell()
        work = self._work
        if work is None:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        work.addBoth(lambda _: stopped.callback(None))
        work.cancel()
        return stopped

    def hurry(self) -> None:
        """Try what has failed again now, as far as the authorities' limits go."""
        self._hurry = True
        self._pause_until = 0.0
        if self._phase is Phase.RESTING:
            self._rest()

    def renew(self) -> str:
        """
        Have another one now, although the time for it has not come.  The authorities' limits hold.

        @return: what was begun, or why nothing was.
        """
        if self._phase is Phase.STOPPED:
            return "nothing is ordered, for nobody looks after it just now"
        now = self._means.now()
        if self._record is not None and 0 <= now - self._record.issued < LEAST_WANTED_AGE:
            issued = moment(self._record.issued)
            return f"nothing is ordered, for it was issued just now, at {issued:%H:%M} UTC"
        self._to_replace = self._record
        self.hurry()
        until = {each.title: self._blocked_until(each, now) for each in self._means.authorities}
        title = min(until, key=until.__getitem__)
        if until[title] > now:
            return f"{title} wants no order before {moment(until[title]):%Y-%m-%d %H:%M} UTC"
        return f"{'a' if self._record is None else 'another'} certificate is ordered from {title}"

    def _start_work(self) -> None:
        self._phase = Phase.WORKING
        self._is_elsewhere = False
        self._begun = self._means.now()
        self._work = Deferred.fromCoroutine(self._run())
        self._work.addErrback(self._failed_work).addCallback(lambda _: self._done())

    def _failed_work(self, failure: Failure) -> None:
        if failure.check(CancelledError):  # by stop, or with the lease
            return
        self._pause_until = self._means.now() + HOUR
        self._log.failure("{name}: nothing can be done for an hour", failure, name=self.names[0])

    def _done(self) -> None:
        self._work = None
        self._hurry = False
        if not self._is_elsewhere:
            self._tell()
        if self._phase is not Phase.STOPPED:
            self._rest()
            if self._has_changed:
                Deferred.fromCoroutine(self.changed())

    def _rest(self) -> None:
        self._phase = Phase.RESTING
        if self._alarm is not None:
            self._alarm.set(self._next())

    def _next(self) -> float:
        """
        When there is something to do.
        """
        now = self._means.now()
        due = self._due()
        if due <= now or self._hurry:
            blocked = min(self._blocked_until(each, now) for each in self._means.authorities)
            due = max(due, blocked)
        if self._advice is not None and self._issuer() is not None:
            due = min(due, self._advice.ask_again)
        if not self._is_stored or self._is_asking_due(now):
            due = now
        soonest = max(self._pause_until, self._begun + _LEAST_PAUSE)
        # A wall clock that was set back must not make us wait for the time that it showed.
        return max(due, min(soonest, now + HOUR))

    def _blocked_until(self, authority: Authority, now: float) -> float:
        trouble = self._troubles.authorities.get(authority.directory_url, Trouble())
        return blocked_until(trouble, now, hurry=self._hurry)

    def _renewal(self) -> float:
        """
        When the certificate is to be renewed; a time that is past where there is none.
        """
        if self.certificate is None or self._record is None:
            return 0.0
        leaf = self.certificate.leaf
        begin, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
        fraction = self._record.fraction
        due = renewal_time(leaf, fraction)
        advice = self._advice
        if advice is not None and advice.start is not None and advice.end is not None:
            due = advised_time(leaf, advice.start, advice.end, fraction)
        # An authority that would have each certificate renewed at once is not obeyed for ever.
        oldest = self._record.issued + min(_LEAST_AGE, (end - begin) * _LEAST_AGE_OF_LIFE)
        return min(max(due, oldest), end) if self._record.issued <= self._means.now() else due

    def _due(self) -> float:
        """When there is to be another one, also where it is an operator who wants it."""
        is_wanted = self._to_replace is not None and self._to_replace == self._record
        return 0.0 if is_wanted else self._renewal()

    def _issuer(self) -> Authority | None:
        """
        The authority that the certificate is from, where it has anything to say about it.
        """
        if self._record is None or self._certificate_id() is None:
            return None
        directory = self._record.directory
        return next(
            (each for each in self._means.authorities if each.directory_url == directory), None
        )

    def _certificate_id(self) -> str | None:
        if self.certificate is None:
            return None
        with suppress(ConfigurationError):
            return certificate_id(self.certificate.leaf)
        return None

    # What is in the store.

    def load_at_once(self, get: Callable[[str], bytes | None]) -> None:
        """
        Take the certificate from a store that can be read with no reactor.

        @param get: reads a value.
        """
        name = CERTIFICATES + self.identity
        self._take(parse(CertificateRecord, name, get(name)))

    async def changed(self) -> None:
        """
        Look what has changed in the store, when there is nobody at work who knows better.
        """
        self._has_changed = self._phase is Phase.WORKING
        if not self._has_changed:
            with suppress(StoreUnavailable):  # it tells when it is back
                await self.look()

    async def look(self) -> None:
        """
        Look what is in the store.

        @raise StoreUnavailable: it cannot be asked.
        """
        store = self._means.store
        record = await load(
            store, CertificateRecord, CERTIFICATES + self.identity, is_precious=True
        )
        advice = await load(store, RenewalRecord, RENEWALS + self.identity)
        troubles = await load(store, TroublesRecord, TROUBLES + self.identity)
        self._take(record)
        self._advice = advice if advice and advice.certificate == self._certificate_id() else None
        self._troubles = troubles or TroublesRecord()
        if self._store_error is not None:
            self._store_error = None
            self._store_failures = 0
            self._pause_until = 0.0
        if self.certificate is None and self._predecessor is None:
            self._predecessor = await predecessor(store, self.names)
        if self.certificate is not None:
            self._tell()
        if self._phase is Phase.RESTING:
            self._rest()

    def _take(self, record: CertificateRecord | None) -> None:
        """
        Serve what was in the store, if it is better than what we have.
        """
        self._is_stored = self._record is None or record == self._record
        if record is None or record == self._record:
            return
        found = usable(record, self.names[0])
        if self._record is not None and self.certificate is not None:
            if was_before(record, found, self._record, self.certificate):
                return
            self._is_stored = True
        if found is None or set(record.names) != set(self.names):
            return
        now = moment(self._means.now())
        is_newer = self.certificate is not None
        if self.certificate is not None and (
            found.not_valid_after <= now < self.certificate.not_valid_after
        ):
            return
        self.certificate, self._record = found, record
        self._predecessor = self._stand_in = None
        if is_newer:
            self._log.info(
                "{name}: another front has renewed the certificate, valid until {end:%Y-%m-%d}",
                name=self.names[0],
                end=found.not_valid_after,
            )

    # The work.

    async def _run(self) -> None:
        """
        Do what is to be done.
        """
        try:
            await self.look()
            if self._is_due():
                lease = await self._means.store.lease(LEASES + self.identity, LEASE_SECONDS)
                if lease is None:
                    # Whoever has it is at it, or has died.
                    self._is_elsewhere = True
                    spread = 1 + self._means.random() / 4
                    self._pause_until = self._means.now() + LEASE_SECONDS * spread / 2
                    return
                held = HeldLease(self._reactor, lease, self._lost)
                try:
                    await self.look()
                    if self._is_due():
                        await self._attend()
                finally:
                    await held.let_go()
        except StoreUnavailable as error:
            self._without_store(error)

    def _is_due(self) -> bool:
        now = self._means.now()
        if not self._is_stored or self._is_asking_due(now):
            return True
        return self._due() <= now and any(
            self._blocked_until(each, now) <= now for each in self._means.authorities
        )

    def _is_asking_due(self, now: float) -> bool:
        found = self._certificate_id()
        return (
            found is not None
            and self._issuer() is not None
            and is_asking_due(self._advice, found, now)
        )

    def _lost(self) -> None:
        self._log.warn("{name}: the lease is lost: another front may be at it", name=self.names[0])
        self._pause_until = self._means.now() + LEASE_SECONDS
        if self._work is not None:
            self._work.cancel()

    def _without_store(self, error: StoreUnavailable) -> None:
        wait = min(_STORE_WAIT * 2.0 ** min(self._store_failures, 10), _LONGEST_STORE_WAIT)
        self._store_failures += 1
        self._pause_until = self._means.now() + wait * (1 + self._means.random() / 4)
        if self._store_error is None:
            self._log.warn("{name}: {error}", name=self.names[0], error=error)
        self._store_error = str(error)

    async def _attend(self) -> None:
        if not self._is_stored and self._record is not None:
            await self._keep(self._record)
        await self._ask_for_advice()
        if self._due() > self._means.now():
            return
        leave = Leave.GRANTED if self._permitted is None else await self._permitted()
        if leave is Leave.REFUSED:
            self._log.info("{name}: no certificate is allowed any more", name=self.names[0])
            self._pause_until = self._means.now() + HOUR
        elif leave is Leave.LATER:
            self._pause_until = self._means.now() + _POSTPONED * (1 + self._means.random())
        else:
            await self._obtain()

    async def _ask_for_advice(self) -> None:
        """
        Ask when the authority would have the certificate renewed.  It need not say.
        """
        now = self._means.now()
        authority, found = self._issuer(), self._certificate_id()
        if authority is None or found is None or self.certificate is None:
            return
        if not self._is_asking_due(now):
            return
        info: RenewalInfo | None = None
        retry_after: float | None = DAY
        try:
            info = await self._advice_of(authority, self.certificate)
        except (AcmeError, AcmeUnavailable, ConfigurationError) as error:
            retry_after = getattr(error, "retry_after", None)
            self._log.info(
                "{name}: {authority} does not say when to renew: {error}",
                name=self.names[0],
                authority=authority.title,
                error=error,
            )
        ask_again = asking_time(
            now, self.certificate.leaf, retry_after if info is None else info.retry_after
        )
        self._advice = evolve(
            self._advice or RenewalRecord(found, None, None, ask_again), ask_again=ask_again
        )
        if info is not None:
            self._advice = evolve(
                self._advice, start=info.start.timestamp(), end=info.end.timestamp()
            )
        await self._means.store.put(RENEWALS + self.identity, dump(self._advice))

    async def _advice_of(self, authority: Authority, found: CertifiedKey) -> RenewalInfo | None:
        client = await self._means.accounts.client(self._reactor, authority)
        try:
            return await client.renewal_info(found.leaf)
        finally:
            await client.close()

    async def _obtain(self) -> None:
        """
        Have a certificate from the first authority that gives one.
        """
        under_way = await self._means.store.names(f"{ORDERS}{self.identity}/")
        for authority in sorted(
            self._means.authorities,
            key=lambda each: order_name(self._wanted, each) not in under_way,
        ):
            if self._blocked_until(authority, self._means.now()) > self._means.now():
                continue
            try:
                found = await self._obtained_from(authority)
            except (AcmeError, AcmeUnavailable, OrderFailed, ConfigurationError) as error:
                await self._trouble(authority, error)
            else:
                await self._adopt(authority, found)
                return

    async def _obtained_from(self, authority: Authority) -> CertifiedKey:
        accounts = self._means.accounts
        client = await accounts.client(self._reactor, authority)
        try:
            await accounts.known(client, authority)
            try:
                return await self._ordering(authority, client).run()
            except AcmeError as error:
                if error.code != "accountDoesNotExist":
                    raise
            self._log.warn(
                "{name}: {authority} does not know our account any more: it is made again",
                name=self.names[0],
                authority=authority.title,
            )
            await accounts.known(client, authority, anew=True)
            return await self._ordering(authority, client).run()
        finally:
            await client.close()

    def _ordering(self, authority: Authority, client: AcmeClient) -> Ordering:
        trouble = self._troubles.authorities.get(authority.directory_url, Trouble())
        is_renewal = self._record is not None and self._record.directory == authority.directory_url
        return Ordering(
            self._reactor,
            self._means.store,
            client,
            authority,
            self._wanted,
            solvers=self._means.solvers,
            answers=self._means.answers,
            now=self._means.now,
            failures=len(trouble.failed_validations),
            current=self.certificate,
            replaces=self._certificate_id() if is_renewal else None,
        )

    async def _trouble(self, authority: Authority, error: Exception) -> None:
        now = self._means.now()
        trouble = after_failure(
            self._troubles.authorities.get(authority.directory_url, Trouble()),
            f"{authority.title}: {error}",
            now=now,
            retry_after=getattr(error, "retry_after", None),
            is_rate_limited=getattr(error, "is_rate_limited", False),
            failed_validation=getattr(error, "failed_validation", False),
            jitter=self._means.random(),
        )
        self._troubles = evolve(
            self._troubles,
            authorities={**self._troubles.authorities, authority.directory_url: trouble},
        )
        self._log.error(
            "{name}: no certificate from {error}; it is tried again at {then:%Y-%m-%d %H:%M} UTC",
            name=self.names[0],
            error=trouble.error,
            then=moment(blocked_until(trouble, now)),
        )
        await self._means.store.put(TROUBLES + self.identity, dump(self._troubles))

    async def _adopt(self, authority: Authority, found: CertifiedKey) -> None:
        """
        Serve a new certificate, and keep it.
        """
        record = CertificateRecord(
            names=self.names,
            pem=found.to_pem().decode("ascii"),
            directory=authority.directory_url,
            fraction=self._means.random(),
            issued=self._means.now(),
        )
        self.certificate, self._record = found, record
        self._is_stored = False
        self._predecessor = self._stand_in = self._advice = None
        self._troubles = TroublesRecord()
        self._log.info(
            "{name}: a new certificate from {authority}, valid until {end:%Y-%m-%d}",
            name=self.names[0],
            authority=authority.title,
            end=found.not_valid_after,
        )
        self._tell()
        await self._keep(record)

    async def _keep(self, record: CertificateRecord) -> None:
        """
        Put the certificate into the store, and forget what has led to it.
        """
        store = self._means.store
        await store.put(CERTIFICATES + self.identity, dump(record))
        self._is_stored = True
        await store.delete(TROUBLES + self.identity)
        for name in await store.names(f"{ORDERS}{self.identity}/"):
            await store.delete(name)
