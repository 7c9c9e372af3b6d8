"""
Where the certificates of a server come from, seen from the server: one small interface.

A L{CertificateSource} is asked for each connection, with the client's hello, and says which
certificate it gets.  Files, a directory, PKCS #12, ACME, a callable are siblings behind it.  What
holds for all of them:

  - B{When reloading fails, the old state stays.}  A source that has served a certificate goes on to
    serve it, whatever becomes of the file that it came from, until there is a better one.
  - Asking is cheap: a look into a dictionary, never at a file.
  - A source may answer later, by a Deferred.  That delays the connection which asked, and no other.
    When its client leaves, or its time is up, the Deferred is cancelled.
  - What fails is a refusal.  Where a source raises, or its Deferred fails, the client gets nothing:
    neither another source's certificate nor a default, which may ask less of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, succeed

from ..client_policy import ClientPolicy
from ..hello import ClientHello
from .loading import CertifiedKey

if TYPE_CHECKING:
    from .revocation import TrustFiles

__all__ = ["CertificateFacts", "CertificateSource", "Choice", "Found"]


@attrs.frozen
class Choice:
    """
    What a connection gets.

    @ivar certificate: the certificate, its chain and its key.
    @ivar clients: what is asked of the client's certificate; L{None} for what the endpoint asks of
        everybody.
    @ivar ends_with_handshake: whether the handshake is all there is to this connection, as with
        C{acme-tls/1} (RFC 8737): no application ever hears of it.
    @ivar alpn: the one protocol to agree on, where the handshake is for that alone.
    """

    certificate: CertifiedKey
    clients: ClientPolicy | None = None
    ends_with_handshake: bool = False
    alpn: bytes | None = None


Found = Choice | None
"""What a source has for a hello; L{None} where it has nothing."""


@attrs.frozen(kw_only=True)
class CertificateFacts:
    """
    One certificate as an operator wants to see it.

    @ivar names: the names that it is served for.
    @ivar source: where it comes from: a path, an authority's URL.
    @ivar key_type: such as C{EC secp256r1} or C{RSA 2048}; empty where there is no certificate.
    @ivar not_before: from when on it is valid, aware, in UTC.
    @ivar not_after: when it expires.
    @ivar next_renewal: when the source will renew it by itself; L{None} where it does not.
    @ivar last_error: why the newest attempt to load or renew it has failed; L{None} where it has
        not.
    """

    names: tuple[str, ...]
    source: str
    key_type: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    next_renewal: datetime | None = None
    last_error: str | None = None

    def is_for(self, name: str | None) -> bool:
        """Whether it is served for this name; for L{None} any is."""
        if name is None or name in self.names:
            return True
        return "." in name and f"*.{name.partition('.')[2]}" in self.names


class CertificateSource(ABC):
    """
    Knows which certificate a client gets.

    L{find} and L{default} may be called before L{start}, with what was loaded when the source was
    made: all of a server's ports are opened before its reactor runs.
    """

    @property
    def only(self) -> CertifiedKey | None:
        """
        The one certificate that every client gets, whatever it asks for; L{None} where its hello
        has a say.
        """
        return None

    @abstractmethod
    def find(self, hello: ClientHello) -> Found | Deferred[Found]:
        """
        The certificate for the name that a client asks for; L{None} where there is none for it, or
        the client names nobody.
        """

    def default(self, hello: ClientHello) -> Found:
        """The certificate for clients that ask for no name, or for one that is not known here."""
        return None

    @property
    def policies(self) -> Sequence[ClientPolicy | TrustFiles]:
        """All that a L{Choice} of this source may ask of a client, where that is known before."""
        return ()

    def start(self, reactor: Any) -> None:
        """
        Begin to look after the certificates: watch files, renew.  To start twice changes nothing.

        @param reactor: a running reactor, or in tests a clock.
        """
        return

    def stop(self) -> Deferred[None]:
        """Stop what L{start} has begun; it can be started again."""
        return succeed(None)

    def reload(self) -> Deferred[None]:
        """
        Look at once for what has changed.  What cannot be loaded is logged, with its path and the
        reason, and the old state stays; the Deferred does not fail for it.
        """
        return succeed(None)

    def renew(self, name: str | None = None) -> Deferred[Sequence[str]]:
        """
        Renew now what is to be renewed before its time, because an operator says so.  What comes
        from files is looked at anew, which is all that can be done here.

        @param name: a host name or an address, as L{spelled<twisted_bioconn.certificates.names>}
            has it: only what is served for it; all if not given.
        @return: fires with what was begun, or why nothing was, a sentence each; with none where
            there is nothing for this name.  What comes of it is logged.
        """
        if not any(each.is_for(name) for each in self.facts()):
            return succeed(())
        return self.reload().addCallback(
            lambda _: [_looked_at(each) for each in self.facts() if each.is_for(name)]
        )

    def facts(self) -> Sequence[CertificateFacts]:
        """What there is, for an operator."""
        return ()


def _looked_at(facts: CertificateFacts) -> str:
    title = facts.names[0] if facts.names else "no name"
    said = f"{title}: looked at {facts.source} anew"
    if facts.last_error is not None:
        return f"{said}, which has failed: {facts.last_error}"
    if facts.not_after is None:
        return f"{said}, and there is no certificate"
    return f"{said}: its certificate is valid until {facts.not_after:%Y-%m-%d}"
