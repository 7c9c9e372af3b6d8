"""
Whom a server lets in, from files that may change at any time: authorities and revocation lists.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import CertificateRevocationList
from cryptography.x509.oid import ExtensionOID
from OpenSSL.crypto import X509Store
from twisted.logger import Logger

from .._verification import Check
from ..access import Rules
from ..client_policy import ClientCertificate, ClientPolicy, CRLMode
from ..errors import ConfigurationError
from . import loading
from .loading import AUTHORITY_SUFFIXES, files_in, load_authorities, read_file

__all__ = ["CRL_SUFFIXES", "LARGEST_CRL", "CRLFacts", "TrustFiles", "load_crls", "policy_of"]

LARGEST_CRL = 32 * 1024 * 1024
"""The most that is read of a file of revocation lists, in bytes: near a million certificates."""

CRL_SUFFIXES = (".pem", ".crl")
"""The files of a directory of revocation lists that count."""

_UNDERSTOOD = frozenset(
    {
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.CRL_NUMBER,
        ExtensionOID.ISSUING_DISTRIBUTION_POINT,
    }
)
"""The extensions that may be critical: OpenSSL knows what they mean."""

_log = Logger()


def load_crls(path: str) -> tuple[CertificateRevocationList, ...]:
    """
    All revocation lists of a file in PEM or DER form, or of every file in a directory whose name
    ends in one of L{CRL_SUFFIXES} and begins with no dot; each list once.

    @raise ConfigurationError: one of the files holds no list or cannot be read, a list is of a kind
        that would not be gone by, or the directory has no such file.
    """
    return tuple(each.crl for each in _load(path))


@attrs.frozen(eq=False)
class _List:
    """
    A revocation list.

    @ivar path: the file that it is from.
    @ivar digest: what it is known by.
    """

    path: str
    crl: CertificateRevocationList
    digest: bytes

    @property
    def issuer(self) -> str:
        """Who has issued it, in one line."""
        text = self.crl.issuer.rfc4514_string() or "an empty name"
        return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)

    def fault(self, now: datetime) -> str | None:
        """Why nobody goes by it now; L{None} where it holds."""
        begin, end = self.crl.last_update_utc, self.crl.next_update_utc
        if end is not None and end < now:
            return f"has expired on {end:%Y-%m-%d %H:%M} UTC"
        if begin > now:
            return f"is not valid before {begin:%Y-%m-%d %H:%M} UTC"
        return None


def _load(path: str) -> list[_List]:
    found: dict[bytes, _List] = {}
    for file in files_in(path, CRL_SUFFIXES):
        for crl in _parse(read_file(file, LARGEST_CRL), file):
            digest = crl.fingerprint(SHA256())
            found.setdefault(digest, _List(file, crl, digest))
    return list(found.values())


def _parse(data: bytes, where: str) -> list[CertificateRevocationList]:
    if data.startswith(b"\x30"):  # DER: X.690, section 8.9
        try:
            return [_usable(x509.load_der_x509_crl(data), where)]
        except ConfigurationError:
            raise
        except Exception as error:  # cryptography's have no common base
            raise ConfigurationError(
                f"{where} is in DER form and no revocation list that can be read"
            ) from error
    found = []
    blocks = loading._blocks(data, where)
    for number, block in enumerate(blocks, 1):
        if block.label == "X509 CRL":
            try:
                found.append(_usable(x509.load_pem_x509_crl(block.text), where))
            except ConfigurationError:
                raise
            except Exception as error:  # cryptography's have no common base
                raise ConfigurationError(
                    f"{where} is damaged: its PEM block {number} is no revocation list that can be"
                    " read"
                ) from error
    if not found:
        raise ConfigurationError(f"{where} holds no revocation list{loading._only(blocks)}")
    return found


def _usable(crl: CertificateRevocationList, where: str) -> CertificateRevocationList:
    """See that OpenSSL will go by it: where it does not, it says so no sooner than to a client."""
    _ = (crl.issuer, crl.last_update_utc, crl.next_update_utc)
    for extension in crl.extensions:
        if isinstance(extension.value, x509.DeltaCRLIndicator):
            raise ConfigurationError(
                f"{where} holds a delta revocation list, where a complete one is needed"
            )
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise ConfigurationError(
                f"{where} holds a revocation list with a critical extension that is not known:"
                f" {extension.oid.dotted_string}"
            )
    X509Store().add_crl(crl)
    return crl


@attrs.frozen(kw_only=True)
class CRLFacts:
    """
    A revocation list as an operator wants to see it.

    @ivar path: the file that it is from.
    @ivar issuer: whose it is.
    @ivar next_update: when the next one is due, aware, in UTC; L{None} where it does not say.
    @ivar is_stale: whether that time is over, or its own has not come: it is as if it were not
        there.
    """

    path: str
    issuer: str
    next_update: datetime | None
    is_stale: bool


class TrustFiles:
    """
    A client policy whose authorities and revocation lists come from files.

    @ivar policy: the present one.  It is another object only when its content is another: sessions
        hang on it.
    @ivar last_error: why the newest L{reload} has failed; L{None} where it has not.
    """

    policy: ClientPolicy
    last_error: str | None

    def __init__(
        self,
        authorities: str,
        crl: str | None = None,
        *,
        mode: ClientCertificate = ClientCertificate.REQUIRE,
        crl_mode: CRLMode = CRLMode.HARD,
        check: Check | None = None,
        rules: Rules | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        @param authorities: the path of a file or a directory: see L{load_authorities}.
        @param crl: the same for revocation lists: see L{load_crls}.
        @param now: the present time, in seconds since 1970.
        @raise ConfigurationError: one of them cannot be loaded, or the rest does not fit.
        """
        self._authorities = authorities
        self._crl = crl
        self._now = now
        self._told: frozenset[bytes] = frozenset()
        self.last_error = None
        found, self._lists = self._load()
        self.policy = ClientPolicy(
            mode=mode,
            authorities=found,
            crls=[each.crl for each in self._lists],
            crl_mode=crl_mode,
            check=check,
            rules=rules,
        )
        self.look()

    def reload(self) -> bool:
        """
        Load the files anew.  Where one of them cannot be loaded that is logged, once, and all stays
        as it was.

        @return: whether there is another policy now.
        """
        try:
            authorities, lists = self._load()
        except ConfigurationError as error:
            reason = str(error)
            if reason != self.last_error:
                _log.error("{reason}; what was loaded before is used on", reason=reason)
            self.last_error = reason
            self.look()
            return False
        self.last_error = None
        before = {each.digest for each in self._lists}
        self._lists = lists  # the same ones may be in other files now
        changed = before != {each.digest for each in lists} or set(authorities) != set(
            self.policy.authorities
        )
        if changed:
            self.policy = attrs.evolve(
                self.policy, authorities=authorities, crls=[each.crl for each in lists]
            )
            _log.info(
                "clients are verified by what is in {paths} now", paths=" and ".join(self._given())
            )
        self.look()
        return changed

    def look(self) -> None:
        """Time has passed: tell of each list that has become stale, once."""
        now = self._time()
        stale = [(each, fault) for each in self._lists if (fault := each.fault(now)) is not None]
        for each, fault in stale:
            if each.digest not in self._told:
                _log.warn(
                    "crl: the revocation list of {issuer} in {path} {fault}; {outcome}",
                    issuer=each.issuer,
                    path=each.path,
                    fault=fault,
                    outcome=self._outcome(),
                )
        self._told = frozenset(each.digest for each, _ in stale)

    def paths(self) -> list[str]:
        """What to watch: files and directories, and the files in these."""
        found = self._given()
        for path, suffixes in ((self._authorities, AUTHORITY_SUFFIXES), (self._crl, CRL_SUFFIXES)):
            try:
                found += [] if path is None else files_in(path, suffixes)
            except ConfigurationError:
                continue  # as a reload will say
        return list(dict.fromkeys(found))

    def crl_facts(self) -> list[CRLFacts]:
        """Of each list that is in use, for an operator."""
        now = self._time()
        return [
            CRLFacts(
                path=each.path,
                issuer=each.issuer,
                next_update=each.crl.next_update_utc,
                is_stale=each.fault(now) is not None,
            )
            for each in self._lists
        ]

    def _given(self) -> list[str]:
        return [self._authorities] if self._crl is None else [self._authorities, self._crl]

    def _time(self) -> datetime:
        # In whole seconds, as OpenSSL has it: a list holds to the end of its last one.
        return datetime.fromtimestamp(int(self._now()), UTC)

    def _outcome(self) -> str:
        if self.policy.crl_mode is CRLMode.SOFT:
            return "it is searched all the same"
        return "clients that it is for are refused until there is a newer one"

    def _load(self) -> tuple[tuple[x509.Certificate, ...], list[_List]]:
        try:
            authorities = load_authorities(self._authorities)
        except ConfigurationError as error:
            raise ConfigurationError(f"clientAuthorities: {error}") from None
        if self._crl is None:
            return authorities, []
        try:
            lists = _load(self._crl)
            for each in lists:
                _refuse_unsigned(each, authorities)
        except ConfigurationError as error:
            raise ConfigurationError(f"crl: {error}") from None
        return authorities, lists


def _refuse_unsigned(found: _List, authorities: tuple[x509.Certificate, ...]) -> None:
    """
    See that a list in the name of an authority is by one of that name, which may sign lists: else
    every client of it would be refused.  The issuer of another list may be an intermediate, which a
    client brings.
    """
    namesakes = [each for each in authorities if each.subject == found.crl.issuer]
    signers = [each for each in namesakes if _signed(found.crl, each)]
    if namesakes and not signers:
        raise ConfigurationError(
            f"the revocation list of {found.issuer} in {found.path} has another signature than that"
            " of the authority of this name"
        )
    if signers and not any(map(_may_sign_lists, signers)):
        raise ConfigurationError(
            f"the revocation list of {found.issuer} in {found.path} is by an authority whose"
            " certificate does not let it sign any (its key usage has no cRLSign)"
        )


def _signed(crl: CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except UnsupportedAlgorithm:
        return True  # OpenSSL may know it
    except (TypeError, ValueError):
        return False


def _may_sign_lists(authority: x509.Certificate) -> bool:
    """By RFC 5280, section 4.2.1.3."""
    try:
        return authority.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True
    except Exception:  # cryptography's have no common base
        return False


def policy_of(clients: ClientPolicy | TrustFiles) -> ClientPolicy:
    """What is asked of clients just now, wherever it comes from."""
    return clients if isinstance(clients, ClientPolicy) else clients.policy
