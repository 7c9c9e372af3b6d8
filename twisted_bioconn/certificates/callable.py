"""
Certificates from a program's own code, and sources put together from others.

With L{MemorySource} and L{CallableSource} a key need never touch a disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from inspect import iscoroutine
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, gatherResults, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..client_policy import ClientCertificate, ClientPolicy
from ..errors import ConfigurationError
from ..hello import ClientHello
from .loading import CertifiedKey
from .names import ByName, NameTable, facts_about, names_of
from .revocation import TrustFiles
from .source import CertificateFacts, CertificateSource, Choice, Found
from .watching import Watch

__all__ = ["Answer", "CallableSource", "FirstOf", "MemorySource", "PerName"]

Answer = CertifiedKey | Choice | None
"""What a callable may answer: L{None} where it has no certificate for the client."""

_log = Logger()


class CallableSource(CertificateSource):
    """
    Asks a callable which certificate a client gets.

    It is called for each connection: what is dear to find it has to remember itself, and by the
    same L{CertifiedKey}, which what is made of it hangs on.  An exception, or an answer of another
    type, refuses the client that asked: what would have been asked of it is not known, and the
    default may ask for less.
    """

    def __init__(
        self,
        call: Callable[
            [ClientHello], Answer | Deferred[Answer] | Coroutine[Deferred[Any], Any, Answer]
        ],
        default: CertifiedKey | None = None,
    ) -> None:
        """
        @param call: given the hello; may be C{async}, or return a Deferred, which is cancelled when
            the client has left or its time is up.
        @param default: the certificate for clients that the callable has none for.
        """
        self._call = call
        self._default = None if default is None else Choice(default)

    def find(self, hello: ClientHello) -> Found | Deferred[Found]:
        """What the callable says."""
        answer = self._call(hello)
        if iscoroutine(answer):
            answer = Deferred.fromCoroutine(answer)
        if isinstance(answer, Deferred):
            return answer.addCallback(self._found)
        return self._found(answer)

    def default(self, hello: ClientHello) -> Found:
        """The default that was given, if one was."""
        return self._default

    def facts(self) -> Sequence[CertificateFacts]:
        """Of the default; nothing is known of the others."""
        if self._default is None:
            return ()
        return (facts_about(self._default.certificate, "the default of a callable"),)

    def _found(self, answer: object) -> Found:
        if isinstance(answer, CertifiedKey):
            return Choice(answer)
        if answer is None or isinstance(answer, Choice):
            return answer
        raise TypeError(
            f"{_title(self._call)} answers with a {type(answer).__name__}, where a CertifiedKey, a"
            " Choice or None is needed"
        )


def _title(call: object) -> str:
    """A callable without what is bound to it, which may be a key."""
    return getattr(call, "__qualname__", None) or type(call).__name__


_Certificates = Mapping[str, CertifiedKey] | Iterable[CertifiedKey]


class MemorySource(CertificateSource):
    """
    Certificates that are held in memory.
    """

    def __init__(
        self,
        certificates: _Certificates,
        default: CertifiedKey | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        @param certificates: certificates, for the names that they have; or by name, for that name
            alone.  A name may begin with C{*.}.
        @param default: for clients that ask for another name, or none; if there is none, the first
            certificate.
        @param now: the present time, in seconds since 1970.
        @raise ConfigurationError: one of the names is no name of a server.
        """
        self._now = now
        self.replace(certificates, default)

    def replace(self, certificates: _Certificates, default: CertifiedKey | None = None) -> None:
        """
        Have these in place of all that were there.  For parameters see L{__init__}.

        @raise ConfigurationError: as L{__init__}; what was there is as it was.
        """
        table = NameTable(now=self._now)
        names: dict[CertifiedKey, tuple[str, ...]] = {}
        if isinstance(certificates, Mapping):
            ByName(certificates)  # are these names?
            for name, certificate in certificates.items():
                names[certificate] = (*names.get(certificate, ()), name)
        else:
            names = {certificate: names_of(certificate) for certificate in certificates}
        for number, certificate in enumerate(names, 1):
            table.put(f"memory ({number})", [certificate], names=names[certificate])
        chosen = default or next(iter(names), None)
        self._default = None if chosen is None else Choice(chosen)
        if chosen is not None:
            names.setdefault(chosen, names_of(chosen))
        self._names = names
        self._table = table

    def find(self, hello: ClientHello) -> Found:
        """The best certificate for the name."""
        found = self._table.find(hello)
        return None if found is None else Choice(found)

    def default(self, hello: ClientHello) -> Found:
        """The default."""
        return self._default

    def renew(self, name: str | None = None) -> Deferred[Sequence[str]]:
        """Nothing: who has put it here renews it."""
        return succeed(
            [
                f"{each.names[0] if each.names else 'no name'}: it is held in memory, and not"
                " renewed here"
                for each in self.facts()
                if each.is_for(name)
            ]
        )

    def facts(self) -> Sequence[CertificateFacts]:
        """Of each certificate, with the names that it is served for."""
        return [
            attrs.evolve(facts_about(certificate, "memory"), names=names)
            for certificate, names in self._names.items()
        ]


class FirstOf(CertificateSource):
    """
    Several sources, one after the other: what the first has for a client is what it gets.
    """

    def __init__(self, sources: Iterable[CertificateSource]) -> None:
        """
        @raise ConfigurationError: there is none.
        """
        self._sources = tuple(sources)
        if not self._sources:
            raise ConfigurationError("a source of certificates is needed, and there is none")

    @property
    def only(self) -> CertifiedKey | None:
        """That of the one source, where there is one alone."""
        return self._sources[0].only if len(self._sources) == 1 else None

    @property
    def policies(self) -> Sequence[ClientPolicy | TrustFiles]:
        """Those of all."""
        return [policy for source in self._sources for policy in source.policies]

    def find(self, hello: ClientHello) -> Found | Deferred[Found]:
        """
        What the first source has that has anything for it.  Where one fails, the client is refused:
        what that source would have asked of it is not known.
        """
        return self._find(hello, 0)

    def _find(self, hello: ClientHello, first: int) -> Found | Deferred[Found]:
        for number in range(first, len(self._sources)):
            found = self._sources[number].find(hello)
            if isinstance(found, Deferred):
                return found.addCallback(self._next, hello, number + 1)
            if found is not None:
                return found
        return None

    def _next(self, found: Found, hello: ClientHello, following: int) -> Found | Deferred[Found]:
        return self._find(hello, following) if found is None else found

    def default(self, hello: ClientHello) -> Found:
        """The first default that there is."""
        return next(filter(None, (source.default(hello) for source in self._sources)), None)

    def start(self, reactor: Any) -> None:
        """Start all."""
        for source in self._sources:
            source.start(reactor)

    def stop(self) -> Deferred[None]:
        """Stop all."""
        return _all(source.stop() for source in self._sources)

    def reload(self) -> Deferred[None]:
        """Have all reload, at the same time."""
        return _all(source.reload() for source in self._sources)

    def renew(self, name: str | None = None) -> Deferred[Sequence[str]]:
        """Have all renew, at the same time."""
        return gatherResults([source.renew(name) for source in self._sources]).addCallback(
            lambda found: [sentence for each in found for sentence in each]
        )

    def facts(self) -> Sequence[CertificateFacts]:
        """Those of all."""
        return [fact for source in self._sources for fact in source.facts()]


def _all(deferreds: Iterable[Deferred[None]]) -> Deferred[None]:
    """Wait for all; what fails is logged, and holds up none of the others."""

    def failed(failure: Failure) -> None:
        _log.failure("one of several sources of certificates has failed", failure)

    each = [deferred.addErrback(failed) for deferred in deferreds]
    return DeferredList(each).addCallback(lambda _: None)


_STRICTNESS = list(ClientCertificate)
"""What is asked of clients, from the least to the most."""


def _strictness(policy: ClientPolicy | TrustFiles) -> int:
    mode = policy.policy.mode if isinstance(policy, TrustFiles) else policy.mode
    return _STRICTNESS.index(mode)


class PerName(CertificateSource):
    """
    Another source, with what is asked of clients by the name that they ask for.

    The name is that of the hello, whichever certificate that leads to.  A client that names nobody,
    or somebody unknown for whom nothing is said, is asked the most that anybody is asked by one of
    the names in the certificate that it gets, or by the address that it came to: to leave the name
    out lets nobody in.  What the other source has said itself about a client stands.
    """

    def __init__(
        self, source: CertificateSource, policies: Mapping[str, ClientPolicy | TrustFiles]
    ) -> None:
        """
        @param policies: by name; a name that begins with C{*.} is for all that differ from it in
            the first label, unless they are there themselves.
        @raise ConfigurationError: one of the names is no name of a server.
        """
        self._source = source
        self._policies = ByName(policies)
        self._all = tuple(dict.fromkeys(policies.values()))
        self._files = [each for each in self._all if isinstance(each, TrustFiles)]
        self._watches: list[Watch] = []

    @property
    def only(self) -> CertifiedKey | None:
        """There is none, unless no name has a policy."""
        return None if len(self._policies) else self._source.only

    @property
    def policies(self) -> Sequence[ClientPolicy | TrustFiles]:
        """Those of the names, and the other source's."""
        return [*self._all, *self._source.policies]

    def find(self, hello: ClientHello) -> Found | Deferred[Found]:
        """What the other source has, with what the name asks."""
        found = self._source.find(hello)
        if isinstance(found, Deferred):
            return found.addCallback(self._with_policy, hello, hello.server_name is None)
        return self._with_policy(found, hello, hello.server_name is None)

    def default(self, hello: ClientHello) -> Found:
        """The other source's, with what the name asks."""
        return self._with_policy(self._source.default(hello), hello, True)

    def start(self, reactor: Any) -> None:
        """Start the other source, and watch the files of policies."""
        self._source.start(reactor)
        if not self._watches:
            self._watches = [Watch(reactor, each.paths, each.reload) for each in self._files]
            for watch in self._watches:
                watch.start()
            for each in self._files:
                each.reload()  # they may have changed since they were loaded

    def stop(self) -> Deferred[None]:
        """Stop the other source, and watch no more."""
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.stop()
        return self._source.stop()

    def reload(self) -> Deferred[None]:
        """Have the other source reload, and load the files of policies."""
        for each in self._files:
            each.reload()
            each.look()
        return self._source.reload()

    def renew(self, name: str | None = None) -> Deferred[Sequence[str]]:
        """The other source's."""
        return self._source.renew(name)

    def facts(self) -> Sequence[CertificateFacts]:
        """The other source's."""
        return self._source.facts()

    def _with_policy(self, found: Found, hello: ClientHello, by_certificate: bool) -> Found:
        if found is None or found.clients is not None or found.ends_with_handshake:
            return found
        policy = None if hello.server_name is None else self._policies.find(hello.server_name)
        if policy is None and by_certificate:
            policy = self._strictest(hello.local_address, found.certificate)
        if isinstance(policy, TrustFiles):
            policy = policy.policy
        return found if policy is None else attrs.evolve(found, clients=policy)

    def _strictest(
        self, address: str | None, certificate: CertifiedKey
    ) -> ClientPolicy | TrustFiles | None:
        """The most that is asked by any of the names that lead to a certificate."""
        found: list[ClientPolicy | TrustFiles | None] = []
        if address is not None:
            found.append(self._policies.find(address))
        for name in names_of(certificate):
            found += [self._policies.get(name), self._policies.find(name)]
            if name.startswith("*."):
                found += self._policies.under(name[2:])
        return max((each for each in found if each is not None), key=_strictness, default=None)
