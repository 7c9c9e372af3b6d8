"""
Why two sides could not agree: what a client has offered, beside what a policy has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ._causes import Cause
from .hello import ClientHello
from .policy import Policy

__all__ = [
    "Found",
    "cipher_name",
    "ciphers_offered",
    "group_name",
    "groups_offered",
    "no_shared_cipher",
    "no_shared_group",
    "no_shared_signature",
    "no_shared_version",
    "signature_name",
    "version_bounds",
    "version_name",
    "versions_offered",
]

Found = tuple[Cause, dict[str, str]]
"""A cause, and the facts for what is said of it."""

_SSL3, _TLS12, _TLS13 = 0x0300, 0x0303, 0x0304

_VERSIONS: Final = {
    0x0002: "SSL 2",
    0x0300: "SSL 3.0",
    0x0301: "TLS 1.0",
    0x0302: "TLS 1.1",
    0x0303: "TLS 1.2",
    0x0304: "TLS 1.3",
}

_CIPHERS: Final = {
    0xC02B: "ECDHE-ECDSA-AES128-GCM-SHA256",
    0xC02F: "ECDHE-RSA-AES128-GCM-SHA256",
    0xC02C: "ECDHE-ECDSA-AES256-GCM-SHA384",
    0xC030: "ECDHE-RSA-AES256-GCM-SHA384",
    0xCCA9: "ECDHE-ECDSA-CHACHA20-POLY1305",
    0xCCA8: "ECDHE-RSA-CHACHA20-POLY1305",
    0x1301: "TLS_AES_128_GCM_SHA256",
    0x1302: "TLS_AES_256_GCM_SHA384",
    0x1303: "TLS_CHACHA20_POLY1305_SHA256",
    0x1304: "TLS_AES_128_CCM_SHA256",
    0x1305: "TLS_AES_128_CCM_8_SHA256",
    # Of those that no policy has, what old clients offer mostly.
    0x0004: "RC4-MD5",
    0x0005: "RC4-SHA",
    0x000A: "DES-CBC3-SHA",
    0x002F: "AES128-SHA",
    0x0033: "DHE-RSA-AES128-SHA",
    0x0035: "AES256-SHA",
    0x0039: "DHE-RSA-AES256-SHA",
    0x003C: "AES128-SHA256",
    0x003D: "AES256-SHA256",
    0x009C: "AES128-GCM-SHA256",
    0x009D: "AES256-GCM-SHA384",
    0x009E: "DHE-RSA-AES128-GCM-SHA256",
    0x009F: "DHE-RSA-AES256-GCM-SHA384",
    0xC009: "ECDHE-ECDSA-AES128-SHA",
    0xC00A: "ECDHE-ECDSA-AES256-SHA",
    0xC013: "ECDHE-RSA-AES128-SHA",
    0xC014: "ECDHE-RSA-AES256-SHA",
    0xC023: "ECDHE-ECDSA-AES128-SHA256",
    0xC024: "ECDHE-ECDSA-AES256-SHA384",
    0xC027: "ECDHE-RSA-AES128-SHA256",
    0xC028: "ECDHE-RSA-AES256-SHA384",
}
"""OpenSSL's names, by the numbers of IANA's registry of TLS parameters."""

_SIGNALS = frozenset({0x00FF, 0x5600})
"""They are among the ciphers and are none: RFC 5746, section 3.3; RFC 7507, section 2."""

_GROUPS: Final = {
    0x0015: "secp224r1",
    0x0016: "secp256k1",
    0x0017: "secp256r1",
    0x0018: "secp384r1",
    0x0019: "secp521r1",
    0x001A: "brainpoolP256r1",
    0x001B: "brainpoolP384r1",
    0x001C: "brainpoolP512r1",
    0x001D: "X25519",
    0x001E: "X448",
    0x0100: "ffdhe2048",
    0x0101: "ffdhe3072",
    0x0102: "ffdhe4096",
    0x11EB: "SecP256r1MLKEM768",
    0x11EC: "X25519MLKEM768",
    0x11ED: "SecP384r1MLKEM1024",
    0x6399: "X25519Kyber768Draft00",
}
"""RFC 8446, section 4.2.7; RFC 8422, section 5.1.1; IANA's registry."""

_SIGNATURES: Final = {
    0x0201: "rsa_pkcs1_sha1",
    0x0203: "ecdsa_sha1",
    0x0301: "rsa_pkcs1_sha224",
    0x0303: "ecdsa_sha224",
    0x0401: "rsa_pkcs1_sha256",
    0x0403: "ecdsa_secp256r1_sha256",
    0x0501: "rsa_pkcs1_sha384",
    0x0503: "ecdsa_secp384r1_sha384",
    0x0601: "rsa_pkcs1_sha512",
    0x0603: "ecdsa_secp521r1_sha512",
    0x0804: "rsa_pss_rsae_sha256",
    0x0805: "rsa_pss_rsae_sha384",
    0x0806: "rsa_pss_rsae_sha512",
    0x0807: "ed25519",
    0x0808: "ed448",
    0x0809: "rsa_pss_pss_sha256",
    0x080A: "rsa_pss_pss_sha384",
    0x080B: "rsa_pss_pss_sha512",
}
"""RFC 8446, section 4.2.3; RFC 5246, section 7.4.1.4.1."""

_MOST = 6
"""Names that a sentence lists; of more it says how many."""


def version_name(version: int) -> str:
    """A version of TLS, by its number on the wire, as people call it."""
    return _VERSIONS.get(version, f"version {version:#06x}")


def cipher_name(number: int) -> str:
    """A cipher suite, or one of the signals that are among them, by OpenSSL's name."""
    if number in _SIGNALS:
        return "(renegotiation info)" if number == 0x00FF else "(fallback)"
    return _CIPHERS.get(number, f"{number:#06x}")


def group_name(number: int) -> str:
    """A group, by its usual name."""
    return _GROUPS.get(number, f"{number:#06x}")


def signature_name(number: int) -> str:
    """A signature scheme, by RFC 8446's name."""
    return _SIGNATURES.get(number, f"{number:#06x}")


def version_bounds(policy: Policy | None, settings: Mapping[str, object]) -> tuple[int, int]:
    """
    The oldest and the newest version that we speak, as far as that is known.

    @param settings: C{sslmethod} counts where C{policy} is not set, as in an endpoint's string.
    """
    bounds = (
        (_TLS12, _TLS13)
        if policy is None
        else (int(policy.minimum_version), int(policy.maximum_version))
    )
    if settings.get("sslmethod") == "TLSv1_2_METHOD" and "policy" not in settings:
        return _TLS12, _TLS12
    return bounds


def versions_offered(hello: ClientHello | None, first: bytes) -> tuple[int, ...]:
    """
    The versions that a client has offered; none where nobody can say.

    @param first: the first bytes of the connection.  A client older than TLS 1.2 names there the
        newest version that it speaks (RFC 5246, appendix E.1).
    """
    if hello is not None:
        return hello.versions
    if len(first) >= 11 and first[0] == 22 and first[5] == 1:
        legacy = first[9] << 8 | first[10]
        if _SSL3 <= legacy < _TLS12:
            return (legacy,)
    return ()


def no_shared_version(offered: tuple[int, ...], bounds: tuple[int, int]) -> Found:
    """Why no version was agreed on."""
    oldest, newest = bounds
    if not offered or max(offered) < oldest:
        best = max(offered, default=None)
        if best == _SSL3:
            return Cause.SSL3_HELLO, {}
        offer = "an older version" if best is None else version_name(best)
        return Cause.CLIENT_TOO_OLD, {"offer": offer}
    if min(offered) > newest:
        return (
            Cause.CLIENT_TOO_NEW,
            {"offer": version_name(min(offered)), "need": version_name(newest)},
        )
    # OpenSSL counts a version for which there is no certificate as one that is not spoken.
    return Cause.NO_CERTIFICATE, {}


def no_shared_cipher(
    hello: ClientHello | None, policy: Policy | None, bounds: tuple[int, int]
) -> Found:
    """
    Why no cipher was agreed on: in TLS 1.2 a cipher needs a group, and a certificate of its kind.
    """
    if hello is None or policy is None:
        return Cause.NO_SHARED_CIPHER, {"offer": ciphers_offered(hello)}
    shared = {
        name
        for number in hello.cipher_suites
        if (name := _CIPHERS.get(number, ""))
        in (policy.ciphersuites_tls13 if _is_13(hello, bounds) else policy.ciphers_tls12)
    }
    if not shared or _is_13(hello, bounds):
        return Cause.NO_SHARED_CIPHER, {"offer": ciphers_offered(hello)}
    if hello.groups and not _shared(hello.groups, _GROUPS, policy.groups):
        return no_shared_group(hello, policy)
    kinds = {name.split("-")[1] for name in shared}
    if kinds == {"ECDSA"}:
        return Cause.ECDSA_ONLY_CLIENT, {"offer": ciphers_offered(hello)}
    if kinds == {"RSA"}:
        return Cause.RSA_ONLY_CLIENT, {"offer": ciphers_offered(hello)}
    return no_shared_signature(hello, policy)


def no_shared_group(hello: ClientHello | None, policy: Policy | None) -> Found:
    """No group was agreed on."""
    need = "those here" if policy is None else ", ".join(policy.groups)
    return Cause.NO_SHARED_GROUP, {"offer": groups_offered(hello), "need": need}


def no_shared_signature(hello: ClientHello | None, policy: Policy | None) -> Found:
    """Why no signature algorithm was agreed on: it needs a certificate with a key for it."""
    offered = () if hello is None else hello.signature_algorithms
    offer = {"offer": _listed(offered, _SIGNATURES)}
    if not offered:
        return Cause.NO_CERTIFICATE, {}
    if policy is not None and not _shared(offered, _SIGNATURES, policy.signature_algorithms):
        need = ", ".join(policy.signature_algorithms)
        return Cause.NO_SHARED_SIGNATURE, {**offer, "need": need}
    kinds = {_SIGNATURES.get(number, "").partition("_")[0] for number in offered}
    if "rsa" not in kinds and "ecdsa" in kinds:
        return Cause.ECDSA_ONLY_CLIENT, offer
    if "ecdsa" not in kinds and "rsa" in kinds:
        return Cause.RSA_ONLY_CLIENT, offer
    return Cause.NO_CERTIFICATE, {}


def ciphers_offered(hello: ClientHello | None) -> str:
    """The ciphers that a client has offered, for a sentence."""
    offered = () if hello is None else hello.cipher_suites
    return _listed([each for each in offered if each not in _SIGNALS], _CIPHERS)


def groups_offered(hello: ClientHello | None) -> str:
    """The groups that a client has offered, for a sentence."""
    return _listed(() if hello is None else hello.groups, _GROUPS)


def _is_13(hello: ClientHello, bounds: tuple[int, int]) -> bool:
    return _TLS13 in hello.versions and bounds[1] >= _TLS13


def _shared(offered: Iterable[int], names: Mapping[int, str], ours: Iterable[str]) -> bool:
    return not {names.get(number) for number in offered}.isdisjoint(ours)


def _listed(numbers: Iterable[int], names: Mapping[int, str]) -> str:
    found = [names.get(number, f"{number:#06x}") for number in numbers]
    if not found:
        return "nobody knows which ones it has"
    more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return ", ".join(found[:_MOST]) + more
