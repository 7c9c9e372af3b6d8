"""
One certificate, from files that may change at any time.

What is common to all that serve from files is here too: to tell by its content what a file is, and
what becomes of a place where a certificate was found and something else is now, L{Held}.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from ..errors import ConfigurationError
from ..hello import ClientHello
from . import loading
from .loading import CertifiedKey, PrivateKey, load_certificates, read_file, read_passphrase
from .names import NameTable, facts_about, names_of
from .pkcs12 import load_pkcs12
from .source import CertificateFacts, CertificateSource, Choice, Found
from .watching import Signature, Watch, sign

__all__ = ["FileSource", "Held", "is_pkcs12", "load", "load_key", "signature_of", "tell_served"]

_log = Logger()

_ANY_HELLO = ClientHello()

_GRAIN = 20_000_000
"""Nanoseconds in which a file may be changed twice with the time of the first: a tick is 10 ms."""


def signature_of(path: str) -> Signature | None:
    """
    What the file of a path is, to be asked before it is read.

    @return: L{None} where it was changed just now, or cannot be seen: what is read then says
        nothing about the next time.
    """
    signature = sign(path)
    if not signature or abs(time.time_ns() - signature[-1]) < _GRAIN:
        return None
    return signature


def is_pkcs12(data: bytes) -> bool:
    """Whether this is in DER form, as PKCS #12 is and PEM is not (X.690, section 8.9)."""
    return data.startswith(b"\x30")


def load_key(pem: bytes, passphrase: bytes | None, where: str) -> PrivateKey:
    """
    The first private key in PEM text.

    @param where: what to call the text in a message.
    @raise ConfigurationError: there is none, or it cannot be used.
    """
    found = loading._private_key(loading._blocks(pem, where), passphrase, where)
    return loading._usable(found, f"the private key in {where}")


def load(
    certificate: str,
    key: str | None = None,
    passphrase_file: str | None = None,
    extra_chain: str | None = None,
) -> CertifiedKey:
    """
    Take key and chain from files of any kind: what a file is, is told by its content.

    @param certificate: the path of a PKCS #12 file, or of certificates in PEM; with the private
        key, if C{key} is L{None}.
    @param passphrase_file: see L{read_passphrase}.
    @param extra_chain: the path of more certificates to look for intermediates in.
    @raise ConfigurationError: one of them cannot be read, or they do not fit together.
    """
    data = read_file(certificate)
    if not is_pkcs12(data):
        return CertifiedKey.from_files(certificate, key, passphrase_file, extra_chain)
    if key is not None:
        raise ConfigurationError(
            f"{certificate} is a PKCS #12 file, which has its own key: {key} cannot be used with it"
        )
    passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
    found = load_pkcs12(data, passphrase, certificate)
    if extra_chain is None:
        return found
    more = load_certificates(read_file(extra_chain), extra_chain)
    return CertifiedKey.from_objects(found.leaf, found.key, (*found.intermediates, *more))


@attrs.define
class Held:
    """
    What is served of one place, over all that becomes of what is there.

    @ivar where: the place, as a path.
    @ivar certificate: the newest good one.
    @ivar earlier: the one before, where the newest is not valid yet, or any more, and this is.
    @ivar refusal: why what is there now is no good one.
    @ivar untimely: why the newest good one is not valid now.
    """

    where: str
    certificate: CertifiedKey | None = None
    earlier: CertifiedKey | None = None
    refusal: str | None = None
    untimely: str | None = None

    @property
    def served(self) -> tuple[CertifiedKey, ...]:
        """All that is to be served, the newest first."""
        return tuple(each for each in (self.certificate, self.earlier) if each is not None)

    @property
    def error(self) -> str | None:
        """What an operator should know."""
        return self.refusal or self.untimely

    def take(self, new: CertifiedKey, now: float) -> None:
        """
        Have a good one in place of the present.  Where it is the same, the present one is kept: so
        is what others have made of it.
        """
        before = self.served
        self.certificate = next((each for each in before if each == new), new)
        self.refusal = None
        self.earlier = next(
            (
                each
                for each in before
                if each is not self.certificate and _not_valid(each, self.where, now) is None
            ),
            None,
        )
        self.look(now)

    def look(self, now: float) -> None:
        """Time has passed: the newest may have become valid, or have ceased to be."""
        if self.certificate is not None:
            self.untimely = _not_valid(self.certificate, self.where, now)
            if self.untimely is None:
                self.earlier = None

    def refuse(self, reason: str) -> None:
        """What is there now is no good one: what is served is so still."""
        self.refusal = reason

    def outcome(self) -> str:
        """What becomes of it, where there is an error."""
        if self.certificate is None:
            return "it is passed over"
        if self.refusal is None and self.earlier is None:
            return "it is served all the same, as there is no other"
        return "the certificate before it is served on"

    def facts(self) -> list[CertificateFacts]:
        """
        One for each that is served.  What is wrong is said of the newest; where nothing is served,
        that is all.
        """
        if self.certificate is None:
            return [CertificateFacts(names=(), source=self.where, last_error=self.error)]
        return [
            facts_about(each, self.where, self.error if each is self.certificate else None)
            for each in self.served
        ]


def tell_served(held: Held) -> None:
    """Log what is served of a place from now on, if there is nothing else to say of it."""
    if held.certificate is not None and held.untimely is None:
        _log.info(
            "{where} is served for {names}; it expires on {end:%Y-%m-%d %H:%M} UTC",
            where=held.where,
            names=", ".join(names_of(held.certificate)) or "no name",
            end=held.certificate.not_valid_after,
        )


def _not_valid(certificate: CertifiedKey, where: str, now: float) -> str | None:
    """Why a certificate is not valid now; L{None} where it is."""
    begin, end = certificate.leaf.not_valid_before_utc, certificate.leaf.not_valid_after_utc
    if now < begin.timestamp():
        return f"the certificate in {where} is not valid before {begin:%Y-%m-%d %H:%M} UTC"
    if now >= end.timestamp():
        return f"the certificate in {where} has expired on {end:%Y-%m-%d %H:%M} UTC"
    return None


class FileSource(CertificateSource):
    """
    One certificate for everybody, from a PEM bundle, a pair of files, or a PKCS #12 file.

    It is loaded anew when one of the files changes.  What cannot be used then is logged, and the
    certificate before is served on; so a key and its chain may be written in any order.
    """

    def __init__(
        self,
        certificate: str,
        key: str | None = None,
        passphrase_file: str | None = None,
        extra_chain: str | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        For the parameters see L{load}.

        @param now: the present time, in seconds since 1970.
        @raise ConfigurationError: there is no certificate to begin with.
        """
        self._files = (certificate, key, passphrase_file, extra_chain)
        self._where = certificate
        self._now = now
        self._held = Held(certificate)
        self._table = NameTable(now=now)
        self._watch: Watch | None = None
        self._signatures = self._sign()
        self._held.take(load(*self._files), now())
        self._serve((), None)

    @property
    def only(self) -> CertifiedKey | None:
        """The certificate: no hello has a say."""
        return self._table.of(self._where, _ANY_HELLO)

    def find(self, hello: ClientHello) -> Found:
        """The certificate, if it is for this name."""
        found = self._table.find(hello)
        return None if found is None else Choice(found)

    def default(self, hello: ClientHello) -> Found:
        """The certificate."""
        found = self._table.of(self._where, hello)
        return None if found is None else Choice(found)

    def start(self, reactor: Any) -> None:
        """Begin to watch the files."""
        if self._watch is None:
            self._watch = Watch(reactor, self._paths, self.reload)
            self._watch.start()
            self.reload()  # they may have changed since they were read

    def stop(self) -> Deferred[None]:
        """Watch them no more."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()
        return succeed(None)

    def reload(self) -> Deferred[None]:
        """Load the files, if one of them has changed."""
        held = self._held
        before, error = held.served, held.error
        signatures = self._sign()
        if signatures == self._signatures and None not in signatures:
            held.look(self._now())
        else:
            self._signatures = signatures
            try:
                held.take(load(*self._files), self._now())
            except ConfigurationError as refusal:
                held.refuse(str(refusal))
        self._serve(before, error)
        return succeed(None)

    def facts(self) -> Sequence[CertificateFacts]:
        """Of the certificate that is served, and of one that waits for its time."""
        return self._held.facts()

    def _paths(self) -> list[str]:
        return [path for path in self._files if path is not None]

    def _sign(self) -> list[Signature | None]:
        return [signature_of(path) for path in self._paths()]

    def _serve(self, before: Sequence[CertifiedKey], error: str | None) -> None:
        """Serve what is held, where that is something else now, and tell what there is to tell."""
        held = self._held
        if held.error is not None and held.error != error:
            _log.error("{error}; {outcome}", error=held.error, outcome=held.outcome())
        if list(map(id, held.served)) != list(map(id, before)):
            self._table.put(self._where, held.served)
            tell_served(held)
