"""Fronts that share a store in memory, and have certificates from the small authority."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from cryptography import x509
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IAgent
from zope.interface import implementer

from tests.certificates.acme.authority import Profile, Refused, SmallAuthority
from twisted_bioconn.certificates.acme.authorities import Authority
from twisted_bioconn.certificates.acme.challenges import Solver, TlsAlpn01Solver
from twisted_bioconn.certificates.acme.client import AcmeClient
from twisted_bioconn.certificates.acme.records import Answer
from twisted_bioconn.certificates.acme.source import AcmeSource
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.certificates.source import CertificateFacts, Choice
from twisted_bioconn.certificates.store import Lease, Store, StoreUnavailable, check_name
from twisted_bioconn.hello import ClientHello

START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR
RENEWED = 3.0
"""Days after which a certificate of the authority, which lives for four, was renewed once."""

NAME = "www.example.org"
ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


class Shared:
    """What is in a store, whoever looks."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.leases: dict[str, tuple[object, float]] = {}
        self.watchers: list[tuple[Front, Callable[[str], object]]] = []

    def tell(self, name: str) -> None:
        for front, changed in list(self.watchers):
            front.clock.callLater(0.5, front.told, changed, name)


class Front:
    """
    A process: a store and clients, with a death in common.

    @ivar done: how many steps it has taken: uses of the store, and requests.
    @ivar die_at: the step at which it dies.
    @ivar dies_after: whether it dies when the step was done, or before.
    @ivar is_store_gone: whether the store cannot be had.
    """

    def __init__(
        self, clock: Clock, shared: Shared, authorities: Mapping[str, SmallAuthority]
    ) -> None:
        self.clock = clock
        self.shared = shared
        self.authorities = authorities
        self.store = FrontStore(self)
        self.done = 0
        self.die_at: int | None = None
        self.dies_after = False
        self.is_dead = False
        self.is_buried = False
        self.is_store_gone = False
        self.clients = 0

    def told(self, changed: Callable[[str], object], name: str) -> None:
        if not self.is_dead and not self.is_store_gone:
            changed(name)

    def step(self, work: Callable[[], Deferred[Any]]) -> Deferred[Any]:
        """Take a step, or die of it; a process that is dead is never told how it went."""
        self.done += 1
        if self.is_buried:
            return fail(StoreUnavailable("it is dead"))
        if self.is_dead:
            return Deferred()
        if self.done != self.die_at:
            return work()
        self.is_dead = True
        if self.dies_after:
            work()
        return Deferred()

    def client(self, reactor: Any, url: str, key: object, **options: Any) -> AcmeClient:
        """What the source makes its clients with."""
        self.clients += 1
        options.pop("trust_roots")
        return AcmeClient(reactor, url, key, agent=_FrontAgent(self, url), **options)

    def use(self, name: str, work: Callable[[], Any]) -> Deferred[Any]:
        """Use the store."""
        check_name(name.rstrip("/") or "all")

        def used() -> Deferred[Any]:
            if self.is_store_gone:
                return fail(StoreUnavailable("the store is away"))
            return succeed(work())

        return self.step(used)


@implementer(IAgent)
class _FrontAgent:
    def __init__(self, front: Front, url: str) -> None:
        self._front = front
        self._agent = front.authorities[url].agent()

    def request(self, *args: Any, **options: Any) -> Deferred[Any]:
        return self._front.step(lambda: self._agent.request(*args, **options))


class InDns(Solver):
    """
    Records in DNS, which one of all fronts has set.

    @ivar hidden: the answers whose records were removed, in order.
    """

    kind = "dns-01"
    on_every_front = False

    def __init__(self) -> None:
        self.hidden: list[Answer] = []

    def show(self, answer: Answer) -> Deferred[None]:
        raise NotImplementedError

    def hide(self, answer: Answer) -> Deferred[None]:
        self.hidden.append(answer)
        return succeed(None)


class FrontStore(Store):
    """The store, seen from one front."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._values = front.shared.values

    def get(self, name: str) -> Deferred[bytes | None]:
        return self._front.use(name, lambda: self._values.get(name))

    def put(self, name: str, value: bytes) -> Deferred[None]:
        def work() -> None:
            self._values[name] = value
            self._front.shared.tell(name)

        return self._front.use(name, work)

    def create(self, name: str, value: bytes) -> Deferred[bool]:
        def work() -> bool:
            if name in self._values:
                return False
            self._values[name] = value
            return True

        return self._front.use(name, work)

    def delete(self, name: str) -> Deferred[None]:
        def work() -> None:
            if self._values.pop(name, None) is not None:
                self._front.shared.tell(name)

        return self._front.use(name, work)

    def names(self, prefix: str) -> Deferred[Sequence[str]]:
        return self._front.use(
            prefix, lambda: sorted(each for each in self._values if each.startswith(prefix))
        )

    def lease(self, name: str, seconds: float) -> Deferred[Lease | None]:
        def work() -> Lease | None:
            lease = _FrontLease(self._front, name)
            return lease if lease.take(seconds) else None

        return self._front.use(name, work)

    def watch(self, changed: Callable[[str], object]) -> Callable[[], None]:
        entry = (self._front, changed)
        self._front.shared.watchers.append(entry)
        return lambda: self._front.shared.watchers.remove(entry)

    def close(self) -> Deferred[None]:
        return succeed(None)


class _FrontLease(Lease):
    def __init__(self, front: Front, name: str) -> None:
        self._front = front
        self._name = name
        self._leases = front.shared.leases

    def take(self, seconds: float) -> bool:
        owner, end = self._leases.get(self._name, (self, 0.0))
        now = self._front.clock.seconds()
        if owner is not self and end > now:
            return False
        self._leases[self._name] = (self, now + seconds)
        return True

    def extend(self, seconds: float) -> Deferred[bool]:
        def work() -> bool:
            return self._leases.get(self._name, (None, 0))[0] is self and self.take(seconds)

        return self._front.use(self._name, work)

    def release(self) -> Deferred[None]:
        def work() -> None:
            if self._leases.get(self._name, (None, 0))[0] is self:
                del self._leases[self._name]

        return self._front.use(self._name, work)


class FrontCase(SynchronousTestCase):
    """
    A test with a clock, an authority and a store.

    @ivar validated: which challenges the authority has validated: type and identifier of each.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.rightNow = START
        self.shared = Shared()
        self.validated: list[tuple[str, str]] = []
        self.authorities: dict[str, SmallAuthority] = {}
        self.authority = self.new_authority("https://authority.example")
        self.sources: list[AcmeSource] = []
        self.fronts: dict[AcmeSource, Front] = {}
        self.addCleanup(self.stop_all)

    def new_authority(self, base: str, **options: Any) -> SmallAuthority:
        authority = SmallAuthority(self.clock, self.validate, **options)
        authority.base = base
        authority.profiles = {"brief": Profile("four days", timedelta(days=4))}
        self.authorities[authority.directory_url] = authority
        return authority

    def validate(
        self, type: str, identifier: str, token: str, key_authorization: str
    ) -> Deferred[None] | None:
        """What the authority does to validate: it may come to any front that lives."""
        self.validated.append((type, identifier))
        answer = b"\x04\x20" + sha256(key_authorization.encode()).digest()
        for source in self.sources:
            if self.fronts[source].is_dead:
                continue
            with suppress(ValueError):
                identifier = ipaddress.ip_address(identifier).reverse_pointer
            found = source.find(ClientHello(server_name=identifier, alpn=(b"acme-tls/1",)))
            if not isinstance(found, Choice):
                raise Refused("unauthorized", f"nothing is shown for {identifier}", 403)
            extension = found.certificate.leaf.extensions.get_extension_for_oid(ACME_IDENTIFIER)
            assert isinstance(extension.value, x509.UnrecognizedExtension)
            if extension.value.value != answer:
                raise Refused("unauthorized", f"another proof is shown for {identifier}", 403)
        return None

    def front(self) -> Front:
        return Front(self.clock, self.shared, self.authorities)

    def source(
        self,
        *names: str,
        front: Front | None = None,
        authorities: Sequence[Authority] | None = None,
        **options: Any,
    ) -> AcmeSource:
        front = front or self.front()
        options.setdefault("now", self.clock.seconds)
        options.setdefault("challenges", [TlsAlpn01Solver(self.clock.seconds)])
        source = AcmeSource(
            names or (() if "allow" in options else (NAME,)),
            contact=["ops@example.org"],
            authorities=authorities or [Authority(self.authority.directory_url)],
            store=front.store,
            random=lambda: 0.5,
            client=front.client,
            **options,
        )
        self.sources.append(source)
        self.fronts[source] = front
        return source

    def started(self, *names: str, **options: Any) -> AcmeSource:
        source = self.source(*names, **options)
        source.start(self.clock)
        return source

    def stop_all(self) -> None:
        for source in self.sources:
            source.stop()
        self.pass_time(15)  # that is how long it may take
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with each call at its time."""
        end = self.clock.seconds() + seconds
        while True:
            calls = self.clock.getDelayedCalls()
            then = min([each.getTime() for each in calls], default=end)
            if then > end:
                break
            self.clock.advance(max(0.0, then - self.clock.seconds()))
            if not calls:
                break
        self.clock.advance(end - self.clock.seconds())

    def pass_days(self, days: float) -> None:
        self.pass_time(days * DAY)

    def certificate(self, source: AcmeSource, name: str = NAME) -> CertifiedKey:
        choice = source.find(ClientHello(server_name=name))
        assert isinstance(choice, Choice), choice
        return choice.certificate

    def facts(self, source: AcmeSource) -> CertificateFacts:
        return source.facts()[0]

    def has_certificate(self, source: AcmeSource, name: str = NAME) -> bool:
        """Whether it is an authority's, not one that stands in."""
        found = self.certificate(source, name)
        return found.leaf.issuer != found.leaf.subject

    def assertServed(self, source: AcmeSource, name: str = NAME) -> CertifiedKey:
        found = self.certificate(source, name)
        self.assertNotEqual(found.leaf.issuer, found.leaf.subject, "it is the one that stands in")
        self.assertLessEqual(found.leaf.not_valid_before_utc.timestamp(), self.clock.seconds())
        self.assertGreater(found.not_valid_after.timestamp(), self.clock.seconds())
        return found
