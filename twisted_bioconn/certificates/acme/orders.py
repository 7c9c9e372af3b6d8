"""
One order with one authority (RFC 8555, section 7.4), from wherever it stands.

Everything that the authority will remember is in the store before the authority hears of it.  So
whatever dies, and whenever, the next one to come along finds how far the order had got, here or at
the authority, and goes on there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from attrs import evolve, frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from twisted_bioconn.errors import ConfigurationError

from ..loading import CertifiedKey, PrivateKey, load_certificates
from ..store import Store
from .answers import Answers
from .authorities import Authority
from .challenges import Solver, SolverError
from .client import AcmeClient, AcmeError, AcmeUnavailable, Authorization, Challenge, Order
from .records import ORDERS, Answer, OrderRecord, dump, load

__all__ = ["CertificateWanted", "OrderFailed", "Ordering", "general_name"]

_T = TypeVar("_T")

SHARED_WITHIN = 1.5
"""Seconds until all fronts show an answer: L{Store.watch} tells them within one."""

VALIDATED_WITHIN = 600.0
ISSUED_WITHIN = 600.0
"""For how many seconds an order is waited for.  What is not ready by then is taken up later."""

ORDERED_WITHIN = 3600.0
"""
For how many seconds an order is worked on at a time, beside what its proofs take to be seen: the
lease is held meanwhile, and an authority that is slow at each step must not keep it for ever.
"""

LONGEST_ORDER = 7 * 24 * 3600.0
"""
After how many seconds an order that has come to nothing is given up.  Let's Encrypt keeps one for
as long.
"""

_FIRST_POLL, _LAST_POLL = 1.0, 15.0
_LONGEST_TOKEN = 128
_LARGEST_CHAIN = 128 * 1024
_ANSWER_LIFE = 3600.0

_SKEW = 3600.0
"""How many seconds an authority's clock may be ahead of ours."""


class OrderFailed(Exception):
    """
    The order is lost, and another one may do better; one sentence says why.

    @ivar failed_validation: whether the authority could not validate a name: they count those.
    """

    def __init__(self, sentence: str, *, failed_validation: bool = False) -> None:
        super().__init__(sentence)
        self.failed_validation = failed_validation


@frozen
class CertificateWanted:
    """
    What is to be had.

    @ivar identity: the C{ID} under which it is kept.
    @ivar names: DNS names in ASCII and IP addresses.
    @ivar key_type: C{ec} or C{rsa}.
    """

    identity: str
    names: tuple[str, ...]
    key_type: str


def general_name(name: str) -> x509.GeneralName:
    """What a certificate says for a name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def key_text(key: PrivateKey) -> str:
    """A key in PEM, B{not encrypted}."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def key_from(text: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None:
    """A key from PEM; L{None} where it cannot be read."""
    try:
        key = load_pem_private_key(text.encode(), None)
    except Exception:  # cryptography's have no common base
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None


class Ordering:
    """
    Takes an order to its end.
    """

    def __init__(
        self,
        reactor: Any,
        store: Store,
        client: AcmeClient,
        authority: Authority,
        wanted: CertificateWanted,
        *,
        solvers: Sequence[Solver],
        answers: Answers,
        now: Callable[[], float],
        failures: int = 0,
        current: CertifiedKey | None = None,
        replaces: str | None = None,
    ) -> None:
        """
        @param client: one that has an account.
        @param solvers: in order of preference.
        @param now: the present time, in seconds since the epoch.
        @param failures: how many validations have failed of late: another solver is tried each
            time.
        @param current: the certificate that there is: an order that has led to it is done with.
        @param replaces: the certificate that is to be replaced, as RFC 9773, section 4.1, names it.
        """
        self._reactor = reactor
        self._store = store
        self._client = client
        self._authority = authority
        self._wanted = wanted
        self._solvers = solvers
        self._answers = answers
        self._now = now
        self._failures = failures
        self._current = current
        self._replaces = replaces
        self._name = order_name(wanted, authority)

    async def run(self) -> CertifiedKey:
        """
        Have the certificate.  It is kept by nobody yet: the order stays in the store until
        L{forget}.

        @raise OrderFailed: there has to be another order; this one is forgotten.
        @raise AcmeError: the authority has refused something.
        @raise AcmeUnavailable: the authority cannot be asked, or has not decided yet.
        @raise StoreUnavailable: the store cannot be asked.
        @raise ConfigurationError: the authority does not offer what is asked for.
        """

        def late(result: CertifiedKey | Failure, seconds: float) -> CertifiedKey | Failure:
            if isinstance(result, Failure) and result.check(CancelledError):
                raise AcmeUnavailable(
                    f"the order has not come to an end within {seconds:g} seconds: it is looked at"
                    " again later"
                )
            return result

        within = ORDERED_WITHIN + max((each.propagation for each in self._solvers), default=0.0)
        running = Deferred.fromCoroutine(self._run())
        return await running.addTimeout(within, self._reactor, late)

    async def _run(self) -> CertifiedKey:
        try:
            record, order = await self._order()
            if len(order.authorizations) > len(self._wanted.names):
                raise OrderFailed(
                    f"the authority wants more proofs ({len(order.authorizations)}) than there are"
                    f" names ({len(self._wanted.names)})"
                )
            if order.status == "pending":
                order = await self._validated(order)
            if order.status == "ready":
                order = await self._finalized(order, record)
            if order.status == "processing":
                order = await self._settled(
                    order, "processing", ISSUED_WITHIN, "issued", order.retry_after
                )
            if order.status != "valid" or order.certificate is None:
                raise OrderFailed(_why(order))
            return await self._fetched(order, record)
        except OrderFailed:
            await self.forget()
            raise

    async def forget(self) -> None:
        """Forget the order."""
        await self._store.delete(self._name)

    async def _order(self) -> tuple[OrderRecord, Order]:
        """
        The order that is under way, or a new one.
        """
        left = await load(self._store, OrderRecord, self._name)
        record = left if left is not None and self._is_ours(left) else None
        if record is not None and record.begun is None:
            # An earlier version has not said when it was begun.
            record = evolve(record, begun=self._now())
            await self._store.put(self._name, dump(record))
        order = None
        if record is not None and record.url is not None:
            order = await self._under_way(record.url)
            record = record if order is not None else None
        if left is not None and (order is None or order.status != "pending"):
            # Whoever has died may have died with its answers shown.
            await self._answers.withdraw(self._wanted.identity)
        if record is None:
            key = await self._new_key()
            record = OrderRecord(
                self._wanted.names, key_text(key), self._authority.profile, begun=self._now()
            )
            await self._store.put(self._name, dump(record))
        if order is None:
            order = await self._new_order()
            record = evolve(record, url=order.url, begun=self._now())
            await self._store.put(self._name, dump(record))
        return record, order

    async def _under_way(self, url: str) -> Order | None:
        """
        An order that was made before; L{None} where nothing can come of it.
        """
        try:
            order = await self._client.get_order(url)
        except AcmeError as error:
            if error.is_rate_limited or error.code == "accountDoesNotExist":
                raise
            return None  # the authority knows nothing of it any more
        # One that is past its time is invalid, though an authority may not say so.
        has_expired = order.expires is not None and order.expires.timestamp() <= self._now()
        return None if order.status == "invalid" or has_expired else order

    def _is_ours(self, record: OrderRecord) -> bool:
        """
        Whether an order in the store is for what is wanted now.
        """
        key = key_from(record.key)
        return (
            key is not None
            and record.names == self._wanted.names
            and record.profile == self._authority.profile
            # A time that is as far ahead was written by a clock that was wrong.
            and (record.begun is None or abs(self._now() - record.begun) < LONGEST_ORDER)
            # One who has died between the last two steps has left the order behind.
            and (self._current is None or key.public_key() != self._current.key.public_key())
        )

    async def _new_key(self) -> PrivateKey:
        if self._wanted.key_type == "ec":
            return ec.generate_private_key(ec.SECP256R1())

        def generate() -> rsa.RSAPrivateKey:
            return rsa.generate_private_key(65537, 2048)

        # It takes up to half a second, in which nothing else would be served.
        if IReactorThreads.providedBy(self._reactor):
            return await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), generate)
        return generate()

    async def _new_order(self) -> Order:
        profile = self._authority.profile
        if self._replaces is not None:
            try:
                return await self._client.new_order(
                    self._wanted.names, profile=profile, replaces=self._replaces
                )
            except AcmeError as error:
                # RFC 9773, section 5: it was replaced already, or the authority does not know it.
                if error.is_rate_limited or error.code not in (
                    "alreadyReplaced",
                    "malformed",
                    "conflict",
                    "unauthorized",
                ):
                    raise
        return await self._client.new_order(self._wanted.names, profile=profile)

    async def _validated(self, order: Order) -> Order:
        """
        Prove the names, until the order is C{ready}.
        """
        authorizations = [
            await self._client.get_authorization(url) for url in dict.fromkeys(order.authorizations)
        ]
        tokens: dict[str, Authorization] = {}
        try:
            shown = []
            for each in authorizations:
                if each.status == "pending":
                    shown.append((each, *await self._shown(each, tokens)))
            wait = max((_until_seen(solver) for _, solver, _ in shown), default=0.0)
            if wait:
                await self._sleep(wait)
            for _, _, challenge in shown:
                if challenge.status == "pending":
                    # Where there was no answer it may have been heard: the authorization tells.
                    with suppress(AcmeUnavailable):
                        await self._client.answer(challenge)
            for each, solver, _ in shown:
                await self._authorized(each, solver)
            for each in authorizations:
                if each.status not in ("pending", "valid"):
                    raise OrderFailed(
                        f"the authorization for {each.identifier} is {_word(each.status)}",
                        failed_validation=each.status == "invalid",
                    )
            return await self._settled(order, "pending", VALIDATED_WITHIN, "validated", 0.0)
        finally:
            await self._answers.withdraw(self._wanted.identity)

    async def _shown(
        self, authorization: Authorization, tokens: dict[str, Authorization]
    ) -> tuple[Solver, Challenge]:
        """
        Show an answer to one of the challenges.

        @param tokens: those that are in use, and by what: this one is added.
        """
        name = authorization.identifier
        full_name = _full_name(authorization)
        # An authority must not have us vouch for names that were never asked for.
        if full_name not in self._wanted.names:
            raise OrderFailed(
                f"the authority wants a proof for {_word(full_name)}, which was not ordered"
            )
        offered = {each.type: each for each in authorization.challenges if each.token}
        able = [
            solver
            for solver in self._solvers
            if solver.kind in offered and solver.can_prove(full_name)
        ]
        if not able:
            kinds = ", ".join(_word(each) for each in offered) or "nothing"
            raise OrderFailed(
                f"none of what the authority takes for {full_name} ({kinds}) is set up"
            )
        first = self._failures % len(able)
        reasons = []
        for solver in [*able[first:], *able[:first]]:
            challenge = offered[solver.kind]
            if len(challenge.token) > _LONGEST_TOKEN:
                raise OrderFailed(f"the authority's token for {full_name} is too long")
            # Answers are kept by token: of two with one token only the last would be shown.
            other = tokens.setdefault(challenge.token, authorization)
            if other is not authorization:
                raise OrderFailed(
                    f"the authority has given {_word(_full_name(other))} and {full_name} the same"
                    " token, which has to be unique (RFC 8555, section 8.3)"
                )
            answer = Answer(
                kind=solver.kind,
                identifier=name,
                token=challenge.token,
                key_authorization=self._client.key_authorization(challenge),
                certificate=self._wanted.identity,
                expires=self._now() + _ANSWER_LIFE + solver.propagation,
            )
            try:
                await self._answers.publish(answer)
            except SolverError as error:
                reasons.append(str(error))
            else:
                return solver, challenge
        raise OrderFailed(f"nothing can be shown for {full_name}: {'; '.join(reasons)}")

    async def _authorized(self, authorization: Authorization, solver: Solver) -> None:
        """
        Wait until the authority has validated a name.
        """
        found = await self._poll(
            lambda: self._client.get_authorization(authorization.url),
            lambda each: each.status != "pending",
            VALIDATED_WITHIN,
            f"{authorization.identifier} is not validated",
        )
        if found.status == "valid":
            return
        problem = next((each.error for each in found.challenges if each.error is not None), None)
        reason = f": {problem}" if problem is not None else f" ({_word(found.status)})"
        raise OrderFailed(
            f"{authorization.identifier} could not be validated by {solver.kind}{reason}",
            failed_validation=True,
        )

    async def _finalized(self, order: Order, record: OrderRecord) -> Order:
        key = key_from(record.key)
        if key is None:
            raise OrderFailed("the key of the order cannot be read")
        names = [general_name(name) for name in self._wanted.names]
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(key, SHA256())
        )
        try:
            return await self._client.finalize(order, csr)
        except (AcmeError, AcmeUnavailable):
            # It may have been done all the same, now or by one who has died.
            found = await self._client.get_order(order.url)
            if found.status == "ready":
                raise
            return found

    async def _settled(
        self,
        order: Order,
        unsettled: str,
        within: float,
        what: str,
        first: float | None = None,
    ) -> Order:
        """
        Wait until an order is no longer in a state.
        """
        found = await self._poll(
            lambda: self._client.get_order(order.url),
            lambda each: each.status != unsettled,
            within,
            f"the order is not {what}",
            first=first,
        )
        if found.status == "invalid":
            raise OrderFailed(_why(found), failed_validation=what == "validated")
        return found

    async def _poll(
        self,
        ask: Callable[[], Awaitable[_T]],
        done: Callable[[_T], bool],
        within: float,
        what: str,
        first: float | None = 0.0,
    ) -> _T:
        """
        Ask again and again, less and less often, or as the authority says.

        @param within: for how many seconds at most.
        @param first: after how many seconds to begin.
        """
        end = self._reactor.seconds() + within
        pause = _FIRST_POLL
        wait = pause if first is None else first
        while True:
            if wait > end - self._reactor.seconds():
                # The lease is given back meanwhile.
                raise AcmeUnavailable(f"{what} yet: it is looked at again later", wait)
            if wait:
                await self._sleep(wait)
            try:
                found = await ask()
            except AcmeUnavailable as error:
                if self._reactor.seconds() >= end:
                    raise
                advised = error.retry_after
            else:
                if done(found):
                    return found
                advised = getattr(found, "retry_after", None)
            pause = min(pause * 1.5, _LAST_POLL)
            wait = pause if advised is None else max(advised, _FIRST_POLL)

    async def _fetched(self, order: Order, record: OrderRecord) -> CertifiedKey:
        """
        The certificate, if it is what was ordered.
        """
        chains = await self._client.certificates(order)
        preferred = self._authority.preferred_chain
        pem = next(
            (each for each in chains if preferred is not None and _has_issuer(each, preferred)),
            chains[0],
        )
        if len(pem) > _LARGEST_CHAIN:
            raise OrderFailed(f"the new certificate has a chain of {len(pem)} bytes")
        try:
            found = CertifiedKey.from_pem(pem, record.key.encode(), where="the new certificate")
            names = found.names
        except ConfigurationError as error:
            raise OrderFailed(str(error)) from None
        self._check(found, names)
        return found

    def _check(self, found: CertifiedKey, names: Sequence[str]) -> None:
        missing = set(self._wanted.names) - {name.lower() for name in names}
        if missing:
            raise OrderFailed(f"the new certificate is not for {', '.join(sorted(missing))}")
        now = datetime.fromtimestamp(self._now(), UTC)
        if found.not_valid_after <= now:
            raise OrderFailed(
                f"the new certificate has expired on {found.not_valid_after:%Y-%m-%d}, if the"
                f" clock is right ({now:%Y-%m-%d})"
            )
        begin = found.leaf.not_valid_before_utc
        if begin.timestamp() > self._now() + _SKEW:
            raise OrderFailed(
                f"the new certificate is not valid before {begin:%Y-%m-%d %H:%M} UTC, if the clock"
                f" is right ({now:%Y-%m-%d %H:%M})"
            )

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self._reactor, seconds)


def order_name(wanted: CertificateWanted, authority: Authority) -> str:
    """What an order is called in the store."""
    return f"{ORDERS}{wanted.identity}/{authority.identity}"


def _full_name(authorization: Authorization) -> str:
    name = authorization.identifier
    return f"*.{name}" if authorization.wildcard else name


def _until_seen(solver: Solver) -> float:
    return max(solver.propagation, SHARED_WITHIN if solver.on_every_front else 0.0)


def _why(order: Order) -> str:
    if order.error is not None:
        return f"the order has failed: {order.error}"
    return f"the order is {_word(order.status)}, and the authority does not say why"


def _word(text: str) -> str:
    return text if text.isascii() and text.isprintable() and len(text) <= 260 else "unreadable"


def _has_issuer(pem: bytes, common_name: str) -> bool:
    try:
        chain = load_certificates(pem, "it")
    except ConfigurationError:
        return False
    return any(
        name.value == common_name
        for certificate in chain
        for name in certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    )
