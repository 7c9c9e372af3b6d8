"""A source of certificates for tests: what it has is what a test says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from tests.context_material import certified
from tests.tls_material import FOR_SERVERS, Party, authority, certificate, ec_key
from twisted_bioconn.certificates.source import CertificateSource, Choice, Found
from twisted_bioconn.hello import ClientHello


def named(name: str, key: int = 1) -> Party:
    """A server's certificate for one name."""
    from cryptography import x509

    made = certificate(
        name, authority(), key=ec_key(key), names=[x509.DNSName(name)], usage=FOR_SERVERS
    )
    return Party(made, ec_key(key))


def choice(name: str, **what: Any) -> Choice:
    """The choice of a certificate for this name."""
    return Choice(certified(named(name)), **what)


class Told(CertificateSource):
    """
    A source that gives what it was told to.

    @ivar answers: by name; a Deferred, or an exception, as it is.
    @ivar asked: the hellos that it was asked with.
    """

    def __init__(
        self, answers: Mapping[str, Any] | None = None, default: Choice | None = None
    ) -> None:
        self.answers = dict(answers or {})
        self.asked: list[ClientHello] = []
        self._default = default

    def find(self, hello: ClientHello) -> Found | Deferred[Found]:
        self.asked.append(hello)
        answer = self.answers.get(hello.server_name or "")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def default(self, hello: ClientHello) -> Found:
        return self._default
