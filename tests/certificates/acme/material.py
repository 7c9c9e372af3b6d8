"""What tests of the client and of the small authority have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.acme.authority import SmallAuthority
from tests.certificates.acme.issuing import csr_for
from tests.tls_material import ec_key
from twisted_bioconn.certificates.acme.client import (
    AcmeClient,
    AcmeError,
    AcmeUnavailable,
    Order,
)

BEGIN = 1.8e9
"""The time at which tests begin: a second in January 2027."""

NAMES = ("www.example.org", "example.org")

_T = TypeVar("_T")


class AuthorityCase(SynchronousTestCase):
    """
    A small authority in memory, and a client of it.

    @ivar answers: what challenges were to be answered by, by identifier and type.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(BEGIN)
        self.answers: dict[tuple[str, str], str] = {}
        self.authority = SmallAuthority(self.clock, self.validate)
        self.acme = self.client()

    def validate(self, type: str, identifier: str, token: str, key_authorization: str) -> None:
        self.answers[identifier, type] = key_authorization

    def client(self, key: object = None, **options: Any) -> AcmeClient:
        """Another client; with a key of its own, unless it is given one."""
        options.setdefault("agent", self.authority.agent())
        key = ec.generate_private_key(ec.SECP256R1()) if key is None else key
        return AcmeClient(self.clock, self.authority.directory_url, key, **options)

    def now(self, deferred: Deferred[_T]) -> _T:
        """What there is at once."""
        return self.successResultOf(deferred)

    def refused(self, deferred: Deferred[Any], code: str) -> AcmeError:
        """It is refused at once, for this reason."""
        error = self.failureResultOf(deferred, AcmeError).value
        self.assertEqual(error.type, f"urn:ietf:params:acme:error:{code}")
        return error  # type: ignore[no-any-return]

    def unavailable(self, deferred: Deferred[Any]) -> AcmeUnavailable:
        """The authority is found to be unavailable at once."""
        failure: Failure = self.failureResultOf(deferred, AcmeUnavailable)
        error: Any = failure.value
        self.assertNotIn("\n", str(error))
        return error  # type: ignore[no-any-return]

    def ordered(self, names: Sequence[str] = NAMES, **options: Any) -> Order:
        """A new order, with all its authorizations valid."""
        order = self.now(self.acme.new_order(names, **options))
        for url in order.authorizations:
            authorization = self.now(self.acme.get_authorization(url))
            if authorization.status == "pending":
                self.now(self.acme.answer(authorization.challenges[0]))
        return self.now(self.acme.get_order(order.url))

    def obtained(self, names: Sequence[str] = NAMES, **options: Any) -> Order:
        """An order that was finalized."""
        order = self.ordered(names, **options)
        return self.now(self.acme.finalize(order, csr_for(order.identifiers, ec_key(1))))
