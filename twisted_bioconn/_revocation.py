"""
Revocation lists of clients' certificates, as OpenSSL goes by them, and once more for sessions.

In a full handshake OpenSSL looks for a list for every certificate of the chain
(X509_V_FLAG_CRL_CHECK_ALL, X509_VERIFY_PARAM_set_flags(3)).  In a resumed one it looks at nothing,
so each certificate is verified again here, by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from OpenSSL import crypto
from OpenSSL.crypto import X509StoreFlags

from ._contexts import trust
from .client_policy import ClientPolicy, CRLMode
from .verify import CertificateRefused, subject_of, verify_error_string

__all__ = ["Revocation"]

_REVOKED = 23

_MISSING_OR_STALE = frozenset({3, 11, 12})
"""
C{X509_V_ERR_} numbers: there is no list, it is not valid yet, it has expired.
"""

_OTHER_ISSUER = frozenset({8, 33})
"""
The list is by the issuer of an authority that a chain ends with, and that chain does not reach it:
the list's signature is wrong by any other key, or its issuer is missing.
"""


class Revocation:
    """
    What was revoked, by the lists of a client policy.
    """

    def __init__(self, clients: ClientPolicy) -> None:
        self._crls = clients.crls
        self._anchors = frozenset(clients.authorities)
        self._is_soft = clients.crl_mode is CRLMode.SOFT
        self._store = trust(clients.authorities)
        self._add_lists(self._store, X509StoreFlags.CRL_CHECK)

    def watch(self, store: crypto.X509Store) -> None:
        """Have a context's store go by the lists."""
        self._add_lists(store, X509StoreFlags.CRL_CHECK | X509StoreFlags.CRL_CHECK_ALL)

    def _add_lists(self, store: crypto.X509Store, flags: int) -> None:
        for each in self._crls:
            store.add_crl(each)
        store.set_flags(flags)

    def tolerates(self, code: int, certificate: x509.Certificate | None) -> bool:
        """
        Whether a fault is only that of a list which may be missing: an authority that the policy
        names is trusted for being named, and in soft mode so is everybody's.
        """
        if code in _MISSING_OR_STALE and self._is_soft:
            return True
        return (code in _MISSING_OR_STALE or code in _OTHER_ISSUER) and certificate in self._anchors

    def refuse_listed(self, chain: Sequence[x509.Certificate]) -> None:
        """
        Refuse what a list at hand has, where OpenSSL was not able to make anything of that list and
        this was tolerated.

        @raise CertificateRefused: a certificate of the chain was revoked.
        """
        for each in chain:
            if self._is_listed(each):
                raise CertificateRefused(
                    f"the certificate of {subject_of(each)} does not verify:"
                    f" {verify_error_string(_REVOKED)}",
                    _REVOKED,
                )

    def check(self, chain: Sequence[x509.Certificate]) -> None:
        """
        Verify again that nothing in a chain was revoked.

        @param chain: from the leaf to the authority, already verified in all other ways.
        @raise CertificateRefused: something was, or nobody can say.
        """
        for at, certificate in enumerate(chain):
            code = self._verdict(certificate, chain[at + 1 :])
            if code and self.tolerates(code, certificate):
                # OpenSSL has stopped at what is wrong with the list and has not looked into it.
                code = _REVOKED if self._is_listed(certificate) else 0
            if code:
                raise CertificateRefused(
                    f"the certificate of {subject_of(certificate)} does not verify any more:"
                    f" {verify_error_string(code)}",
                    code,
                )

    def _verdict(self, certificate: x509.Certificate, others: Sequence[x509.Certificate]) -> int:
        context = crypto.X509StoreContext(
            self._store,
            crypto.X509.from_cryptography(certificate),
            chain=[crypto.X509.from_cryptography(each) for each in others],
        )
        try:
            context.verify_certificate()
        except crypto.X509StoreContextError as error:
            return int(error.errors[0])
        return 0

    def _is_listed(self, certificate: x509.Certificate) -> bool:
        return any(
            each.issuer == certificate.issuer
            and each.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
            for each in self._crls
        )
