"""
What is asked of the clients of a route, by what a configuration says of the route and of its port.

A route that has C{clientAuthorities} of its own begins anew, for these are a rule by themselves.
So does one with C{clientCertificate = "none"}.  What any other does not say is as the port has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted_bioconn._certificate_options import TRUST_OPTIONS, client_trust
from twisted_bioconn.access import parse_rules
from twisted_bioconn.certificates.revocation import TrustFiles
from twisted_bioconn.client_policy import ANYBODY, ClientPolicy
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server._mistakes import TARGETS
from twisted_bioconn.server.config import Listening, Routing

__all__ = ["asked_by_port", "options_of_route", "route_trust", "ways_round"]

_NONE = "none"


def asked_by_port(given: Mapping[str, str]) -> dict[str, str]:
    """Those options of an endpoint string that say what is asked of clients."""
    return {key: given[key] for key in TRUST_OPTIONS if key in given}


def options_of_route(
    port: Mapping[str, str], own: Mapping[str, str], passes_through: bool = False
) -> dict[str, str]:
    """
    The options by which the clients of a route are judged.

    @param port: those of its port.
    @param own: those that are said of the route itself.
    @param passes_through: whether TLS ends behind it.
    """
    if passes_through:
        # Nobody here sees a certificate: of what is asked of the port's others, that can be asked
        # which is about none.
        if not own and "allow" in port and not _needs_certificates(port["allow"]):
            return {"allow": port["allow"]}
        return dict(own)
    if not own or "clientAuthorities" in own or own.get("clientCertificate") == _NONE:
        return dict(own)
    return {**port, **own}


def route_trust(
    given: Mapping[str, str], passes_through: bool = False
) -> TrustFiles | ClientPolicy | None:
    """
    What is asked of the clients of a route; L{None} for what is asked of all on its port.

    @param given: as L{options_of_route} has it.
    @raise ConfigurationError: the options do not fit together, or what they name cannot be used.
    """
    if not given:
        return None
    if passes_through:
        for key in given:
            if key != "allow":
                raise ConfigurationError(
                    f"{key}: TLS ends where this route goes, and nobody here sees a certificate"
                )
        return client_trust(given)
    if given.get("clientCertificate") != _NONE:
        return client_trust(given)
    rest = {key: value for key, value in given.items() if key != "clientCertificate"}
    for key in rest:
        if key != "allow":
            raise ConfigurationError(
                f"{key}: it is of no use with clientCertificate=none, by which nobody is asked for"
                " a certificate"
            )
    return client_trust(rest) or ANYBODY


def ways_round(listening: Listening, own: Sequence[Mapping[str, str]]) -> list[Routing]:
    """
    The routes whose clients are asked for something, and would get the same unasked if they came by
    another way: by that of all others, or by another route.

    @param listening: a port where nothing is asked.
    @param own: the options that are said of each of its routes.
    """
    routes = [
        (each, _restricts(options))
        for each, options in zip(listening.routes, own, strict=True)
        if not each.passthrough
    ]
    unasked = [listening, *(each.target for each, restricts in routes if not restricts)]
    return [
        each
        for each, restricts in routes
        if restricts and any(_is_same(each.target, other) for other in unasked)
    ]


def _restricts(own: Mapping[str, str]) -> bool:
    return bool(own) and ("allow" in own or own.get("clientCertificate") != _NONE)


def _is_same(one: Listening, other: Listening) -> bool:
    """Whether clients get the same."""
    return bool(one.targets) and all(getattr(one, key) == getattr(other, key) for key in TARGETS)


def _needs_certificates(text: str) -> bool:
    try:
        return any(rule.needs_certificate for rule in parse_rules(text).rules)
    except ConfigurationError:
        return True  # it is told of where it is written
