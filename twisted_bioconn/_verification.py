"""What becomes of the verification of a connection's peer, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cryptography import x509
from OpenSSL import SSL, crypto

from ._engine import kept_on

Check = Callable[[Sequence[x509.Certificate]], object]
"""
Looks at a chain (leaf first) that OpenSSL has found good, and raises where it is refused.

One with a true attribute C{even_if_untrusted} is shown a leaf that OpenSSL refuses, too, so that
its own reason is the one that is told; the leaf stays refused.
"""

Tolerance = Callable[[int, x509.Certificate | None], bool]
"""
Whether a fault, by its C{X509_V_ERR_} number, of a certificate is no reason to refuse the chain.
"""


def tolerate_anything(code: int, certificate: x509.Certificate | None) -> bool:
    """A L{Tolerance} with which nothing is verified: the verdict is the check's."""
    return True


UNSPECIFIED = 1
HOSTNAME_MISMATCH = 62
CERTIFICATE_REJECTED = 28
"""
C{X509_V_ERR_} numbers of our own refusals.  The last two send the alert bad_certificate; the first
is what OpenSSL makes of a refusal for which it was given no number, and sends internal_error.
"""


class Verification:
    """
    What became of the verification of one connection's peer.

    @ivar check: what is asked once OpenSSL has found the chain good.
    @ivar again: what is asked in its place of a resumed session, at which OpenSSL verifies
        nothing.
    @ivar tolerates: whether a fault that OpenSSL has found in a certificate is to be passed over.
    @ivar chooses_alert: whether OpenSSL can be told the number of a refusal of ours.
    @ivar asked: whether this handshake had anything to verify.
    @ivar is_known: whether the session that is to be resumed was verified, and nothing that this
        looked at can have changed.
    @ivar code: the C{X509_V_ERR_} number of the refusal, 0 where there was none.
    @ivar certificate: the certificate that was refused.
    @ivar failure: the exception with which C{check} refused it, if it was C{check}.
    """

    __slots__ = (
        "_found",
        "_seen",
        "again",
        "asked",
        "certificate",
        "check",
        "chooses_alert",
        "code",
        "failure",
        "is_known",
        "tolerates",
    )

    def __init__(
        self,
        check: Check | None,
        again: Check | None = None,
        tolerates: Tolerance | None = None,
        *,
        chooses_alert: bool = True,
    ) -> None:
        self.check = check
        self.again = again or check
        self.tolerates = tolerates
        self.chooses_alert = chooses_alert
        self.asked = False
        self.is_known = False
        self.code = 0
        self.certificate: x509.Certificate | None = None
        self.failure: BaseException | None = None
        self._found = 0
        self._seen: dict[int, x509.Certificate] = {}

    @property
    def sent_code(self) -> int:
        """The C{X509_V_ERR_} number by which OpenSSL chose the alert."""
        if self.chooses_alert or self.failure is None:
            return self.code
        return self._found or UNSPECIFIED

    def step(self, ok: bool, code: int, depth: int, certificate: crypto.X509 | None) -> int:
        """
        One call of OpenSSL's verify callback, which comes from the root to the leaf.

        @param certificate: the one at this depth; L{None} where the fault is the chain's.
        @return: the C{X509_V_ERR_} number with which to refuse the chain, 0 to go on.
        """
        self.asked = True
        found = None
        try:
            found = None if certificate is None else certificate.to_cryptography()
        except Exception as failure:
            # OpenSSL can read it and cryptography cannot: nobody here could say what is in it.
            if ok:
                self.failure = failure
                self.code = CERTIFICATE_REJECTED
                return self.code
        if not ok and self._is_tolerated(code, found):
            if found is not None:
                self._seen[depth] = found
        elif not ok:
            self.code = self._found = code or CERTIFICATE_REJECTED
            self.certificate = found
            if depth == 0 and found is not None and getattr(self.check, "even_if_untrusted", False):
                self._ask(self.check, [found])
        elif found is not None:
            self._seen[depth] = found
            if depth == 0:
                chain = [self._seen[at] for at in sorted(self._seen)]
                self._seen = {}
                self._ask(self.check, chain)
        return self.code

    def _is_tolerated(self, code: int, certificate: x509.Certificate | None) -> bool:
        return self.tolerates is not None and self.tolerates(code, certificate)

    def ask_again(self, chain: Sequence[x509.Certificate]) -> bool:
        """
        Judge the peer of a resumed session.

        @return: whether it is refused.
        """
        self._ask(self.again, chain)
        return self.failure is not None

    def _ask(self, check: Check | None, chain: Sequence[x509.Certificate]) -> None:
        """Whatever the check raises is a refusal: this fails closed."""
        if check is None:
            return
        try:
            check(chain)
        except BaseException as failure:
            self.certificate = chain[0]
            self.failure = failure
            code = getattr(failure, "x509_error", None)
            # 0 would be no refusal.
            self.code = code if isinstance(code, int) and code > 0 else CERTIFICATE_REJECTED


# This is kept on the connection.  A weak dictionary would do as long as nothing in it refers to the
# connection; but a check of the user's may, and the exception that it raised does, by its
# traceback: then neither is ever freed.
_NAME = "_bioconn_verification"


def keep_verification(connection: SSL.Connection, verification: Verification) -> None:
    """Keep a verification on its connection."""
    setattr(connection, _NAME, verification)


def verification_of(connection: SSL.Connection) -> Verification | None:
    """What L{_openssl.set_verification} set on this connection."""
    found = kept_on(connection, _NAME)
    # A connection of somebody else's making may have an answer to every name.
    return found if isinstance(found, Verification) else None
