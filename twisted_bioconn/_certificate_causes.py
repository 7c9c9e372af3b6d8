"""Why a certificate of the peer's was refused, by us."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from service_identity import VerificationError

from ._agreement import Found
from ._causes import Cause
from .verify import CertificateRefused, subject_of, verify_error_string

if TYPE_CHECKING:
    from .explanations import FailedHandshake

__all__ = ["refused_by_check", "unverified"]

_EARLY, _EXPIRED, _UNKNOWN_ISSUER = 9, 10, (2, 20)
_WRONG_HOST = 62

_OF_CODE: Final[dict[int, str]] = {
    2: "UNKNOWN_AUTHORITY",
    3: "CRL_MISSING",
    5: "CRL_INVALID",
    7: "BAD_SIGNATURE",
    8: "CRL_INVALID",
    9: "NOT_YET_VALID",
    10: "EXPIRED",
    11: "CRL_STALE",
    12: "CRL_STALE",
    15: "CRL_INVALID",
    16: "CRL_INVALID",
    18: "SELF_SIGNED",
    19: "UNKNOWN_AUTHORITY",
    20: "UNKNOWN_AUTHORITY",
    21: "INTERMEDIATE_MISSING",
    22: "PATH_TOO_LONG",
    23: "REVOKED",
    24: "NOT_AUTHORITY",
    25: "PATH_TOO_LONG",
    26: "WRONG_PURPOSE",
    32: "NOT_AUTHORITY",
    33: "CRL_MISSING",
    34: "CRITICAL_EXTENSION",
    35: "CRL_INVALID",
    36: "CRL_INVALID",
    44: "CRL_INVALID",
    47: "NAME_CONSTRAINTS",
    48: "NAME_CONSTRAINTS",
    49: "NAME_CONSTRAINTS",
    51: "NAME_CONSTRAINTS",
    54: "CRL_INVALID",
    62: "WRONG_HOST",
    64: "WRONG_HOST",
    66: "WEAK",
    67: "WEAK",
    68: "WEAK",
    79: "NOT_AUTHORITY",
}
"""
What C{X509_V_ERR_} numbers are called at the end of causes' names: X509_STORE_CTX_get_error(3).
"""

_CODES = {verify_error_string(code): code for code in range(1, 100)}
"""The numbers, by the words in which L{verify<twisted_bioconn.verify>} says them."""

_MORE_WORDS: Final[dict[int, str]] = {
    5: "the signature on it cannot be read",
    8: "the signature on it is wrong",
    13: "the date at which it begins cannot be read",
    14: "the date at which it ends cannot be read",
    15: "its date cannot be read",
    16: "its next date cannot be read",
    35: "its issuer may not sign such lists",
    36: "it has a critical extension that nobody here understands",
    37: "it is a part of a chain in which nothing else may be",
    41: "one of its extensions makes no sense",
    42: "one of its policies makes no sense",
    44: "it is for other certificates",
    54: "its own chain does not verify",
}
"""Words for numbers for which L{verify<twisted_bioconn.verify>} has none."""

_UNREADABLE: Final = "the certificate of the peer was refused: "
"""It has no subject: OpenSSL could read it, and cryptography could not."""

# What is in front of these words was chosen by the peer, what comes after them was not.
_SENTENCES: Final = (
    (_EXPIRED, re.compile(r"(.*) expired ([a-z0-9 ]+ ago, at [0-9: UTC-]+)", re.DOTALL)),
    (_EARLY, re.compile(r"(.*) is (valid from [0-9: UTC-]+) only", re.DOTALL)),
    (0, re.compile(r"(.*) does not verify(?: any more)?: (.*)", re.DOTALL)),
)


def refused_by_check(failure: FailedHandshake, error: VerificationError) -> Found:
    """What it was that a check of ours refused; it may say so by a C{X509_V_ERR_} number."""
    code = getattr(error, "x509_error", None) or getattr(error.__cause__, "x509_error", None)
    sentence = str(error)
    if code is None and not failure.is_server:
        if not isinstance(error, CertificateRefused):
            # It is service_identity's own.
            code = _WRONG_HOST
        elif " is none of the pinned ones: " in sentence:
            return Cause.SERVER_CERTIFICATE_PIN, {"reason": sentence}
    if sentence.startswith(_UNREADABLE):
        return Cause.CERTIFICATE_MALFORMED, {"reason": sentence.removeprefix(_UNREADABLE)}
    if code not in _OF_CODE and _told(sentence) is None:
        side = "CLIENT" if failure.is_server else "SERVER"
        return Cause[f"{side}_CERTIFICATE_RULE"], {"reason": sentence}
    return unverified(failure, sentence, code)


def unverified(failure: FailedHandshake, sentence: str, code: int | None = None) -> Found:
    """
    What it was that OpenSSL refused.

    @param sentence: what L{verify.explain<twisted_bioconn.verify.explain>} has said.
    @param code: the C{X509_V_ERR_} number; L{None} where only the sentence tells it.
    """
    side = "CLIENT" if failure.is_server else "SERVER"
    told = _told(sentence)
    if told is None and code is None and " was refused: " in sentence:
        return Cause[f"{side}_CERTIFICATE_RULE"], {"reason": sentence}
    number, whose, words = told or (0, "the certificate", sentence)
    code = code or number
    name = _OF_CODE.get(code, "INVALID")
    words = _MORE_WORDS.get(code, words)
    if whose == "the certificate of the peer":
        # It could not be read.
        whose = "the certificate"
    facts = {"whose": whose, "reason": words, "when": words}
    certificate = _one_of(failure.chain, whose)
    if certificate is not None:
        facts |= _facts_of(certificate, code, failure.now)
        if code in _UNKNOWN_ISSUER and _comes_alone(certificate, failure):
            name = "INTERMEDIATE_MISSING"
    found = Cause.__members__.get(f"{side}_CERTIFICATE_{name}")
    if found is None:
        found = Cause[f"{side}_CERTIFICATE_INVALID"]
    return found, facts


def _told(sentence: str) -> tuple[int, str, str] | None:
    """The number, the certificate and the words of a sentence; L{None} for one of another kind."""
    for code, pattern in _SENTENCES:
        match = pattern.fullmatch(sentence)
        if match is not None:
            code = code or _code(match[2])
            if code:
                return code, match[1], match[2]
    return None


def _code(words: str) -> int:
    number = words.removeprefix("verification error ")
    if number != words and number.isdecimal():
        return int(number)
    return _CODES.get(words, 0)


def _one_of(chain: tuple[x509.Certificate, ...], whose: str) -> x509.Certificate | None:
    """The certificate that was refused, of those that are known."""
    for each in chain:
        if whose == f"the certificate of {subject_of(each)}":
            return each
    return chain[0] if chain else None


def _facts_of(certificate: x509.Certificate, code: int, now: datetime) -> dict[str, str]:
    facts = {
        "whose": f"the certificate of {subject_of(certificate)}",
        "usage": _usage(certificate),
    }
    # A name or a date may be one that Python cannot hold.
    with suppress(ValueError, OverflowError):
        issuer = certificate.issuer.rfc4514_string()[:200]
        facts["issuer"] = issuer or "an authority without a name"
        if code == _EXPIRED:
            end = certificate.not_valid_after_utc
            facts["when"] = f"{_span(now - end)} ago, on {end:%Y-%m-%d}"
        elif code == _EARLY:
            begin = certificate.not_valid_before_utc
            facts["when"] = f"it begins in {_span(begin - now)}, on {begin:%Y-%m-%d}"
    return facts


def _span(span: timedelta) -> str:
    days = span.days
    if days < 1:
        return "less than a day"
    return "1 day" if days == 1 else f"{days} days"


_USAGES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.CODE_SIGNING: "codeSigning",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "emailProtection",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSPSigning",
}


def _usage(certificate: x509.Certificate) -> str:
    for each in _extensions(certificate):
        if isinstance(each, x509.ExtendedKeyUsage):
            return ", ".join(_USAGES.get(usage, usage.dotted_string) for usage in each)
    return "not given"


def _extensions(certificate: x509.Certificate) -> list[x509.ExtensionType]:
    try:
        return [each.value for each in certificate.extensions]
    except Exception:
        # A hostile certificate can make a parser raise anything.
        return []


def _comes_alone(certificate: x509.Certificate, failure: FailedHandshake) -> bool:
    """
    Whether an intermediate is likely to be missing, rather than the authority to be a strange one:
    the peer sent a leaf alone, which says where its issuer's certificate can be had (RFC 5280,
    section 4.2.2.1), or whose issuer belongs to an organization that is trusted.
    """
    extensions = _extensions(certificate)
    if any(isinstance(each, x509.BasicConstraints) and each.ca for each in extensions):
        return False
    for each in extensions:
        if isinstance(each, x509.AuthorityInformationAccess) and any(
            access.access_method == AuthorityInformationAccessOID.CA_ISSUERS for access in each
        ):
            return True
    trusted = failure.settings.get("clientAuthorities" if failure.is_server else "trustRoots")
    if not isinstance(trusted, list | tuple):
        return False
    with suppress(ValueError):
        organizations = _organizations(certificate.issuer)
        return any(
            not organizations.isdisjoint(_organizations(each.subject))
            for each in trusted
            if isinstance(each, x509.Certificate)
        )
    return False


def _organizations(name: x509.Name) -> set[str | bytes]:
    return {each.value for each in name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)}
