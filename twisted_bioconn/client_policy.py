"""
What a server asks of its clients' certificates.

A L{ClientPolicy} is a value: who is trusted, what was revoked, and how strict to be.  One that is
to change is replaced by another.  A server keeps a base context for each policy that it has in use,
and a session that was agreed on under one is never resumed under another.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import attrs
from cryptography import x509

from ._verification import Check
from .access import Kind, Rules
from .errors import ConfigurationError

__all__ = ["ANYBODY", "CRLMode", "ClientCertificate", "ClientPolicy"]


class ClientCertificate(Enum):
    """Whether a server wants a certificate of its clients."""

    NONE = "none"
    """None is asked for."""
    REQUEST = "request"
    """One is asked for, any will do, and the verdict is left to the check."""
    VERIFY_IF_GIVEN = "verifyIfGiven"
    """One is asked for; where there is one it has to be good."""
    REQUIRE = "require"
    """None is let in without a good one."""


class CRLMode(Enum):
    """What becomes of a client where a revocation list is missing or out of date."""

    HARD = "hard"
    """It is refused: nobody can say that its certificate was not revoked."""
    SOFT = "soft"
    """It is let in if no list at hand has its certificate, and the stale list is told of."""


def _certificates(given: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    return tuple(given)


def _lists(
    given: Iterable[x509.CertificateRevocationList],
) -> tuple[x509.CertificateRevocationList, ...]:
    return tuple(given)


# Compared by identity: a server looks it up for each connection.
@attrs.frozen(eq=False, weakref_slot=True)
class ClientPolicy:
    """
    Whom a server lets in, by certificate.

    @ivar mode: whether clients need a certificate.
    @ivar authorities: who signs for clients; each is an end of a chain, an intermediate too.
    @ivar crls: lists of what was revoked; where there is one, there has to be one for each
        authority in a client's chain, as L{crl_mode} has it.
    @ivar crl_mode: how strict that is.
    @ivar check: asked about a client's chain, leaf first, when it has been found good; it raises to
        refuse.  A client that shows no certificate is none of its concern.  In the mode C{REQUEST}
        nothing was verified before.
    @ivar rules: who may come in, of those who are found good, and of those who need show nothing;
        L{None} for all of them.
    @raise ConfigurationError: this does not fit together.
    @raise TypeError: C{mode} is no L{ClientCertificate}.
    """

    # Anything else would ask for no certificate at all.
    mode: ClientCertificate = attrs.field(
        default=ClientCertificate.NONE, validator=attrs.validators.instance_of(ClientCertificate)
    )
    authorities: tuple[x509.Certificate, ...] = attrs.field(
        default=(), converter=_certificates, repr=False
    )
    crls: tuple[x509.CertificateRevocationList, ...] = attrs.field(
        default=(), converter=_lists, repr=False
    )
    crl_mode: CRLMode = CRLMode.HARD
    check: Check | None = None
    rules: Rules | None = None

    def __attrs_post_init__(self) -> None:
        if self.rules is not None:
            self._check_rules(self.rules)
        verifies = self.mode in (ClientCertificate.REQUIRE, ClientCertificate.VERIFY_IF_GIVEN)
        if verifies and not self.authorities:
            raise ConfigurationError(
                f"clientCertificate={self.mode.value} needs clientAuthorities:"
                " there is nobody whose signature would let a client in"
            )
        if self.mode is ClientCertificate.REQUEST and self.check is None and self.rules is None:
            raise ConfigurationError(
                "clientCertificate=request leaves the verdict to rules, and there are none:"
                " use verifyIfGiven or require"
            )
        if self.check is not None and self.mode is ClientCertificate.NONE:
            raise ConfigurationError(
                "a check of client certificates needs client authorities: it would never be asked"
            )
        if self.crls and not verifies:
            raise ConfigurationError(
                "crl= needs clientAuthorities=: without them no client's certificate is verified"
            )

    def _check_rules(self, rules: Rules) -> None:
        mode = self.mode
        if mode is ClientCertificate.NONE and rules.check is None:
            for rule in rules.rules:
                if rule.needs_certificate:
                    raise ConfigurationError(
                        f"allow={rule}: it is about client certificates, and without"
                        " clientAuthorities= none is asked for"
                    )
        if mode is ClientCertificate.REQUEST:
            for rule in rules.rules:
                kinds = {each.kind for each in rule.conditions}
                if rule.needs_certificate and Kind.PIN not in kinds:
                    raise ConfigurationError(
                        f"allow={rule}: with clientCertificate=request nobody has verified what a"
                        " certificate says; of an own key, pin= tells"
                    )


ANYBODY = ClientPolicy()
"""No certificate is asked for."""
