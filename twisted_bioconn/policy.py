"""
Named TLS policies: which versions, ciphers, groups and signatures a side agrees to.

The tables are data and nothing else: names that OpenSSL understands, but no OpenSSL object. What
turns them into a context is L{twisted_bioconn.context}.

Both policies are Mozilla's, version 6.0 of its server side TLS guidelines, taken over whole:

  - C{intermediate}, for nearly everybody: TLS 1.2 and 1.3, forward secrecy and authenticated
    encryption alone, RSA and ECDSA certificates;
  - C{modern}, where every peer is recent: TLS 1.3 alone, ECDSA certificates alone.

Version 6.0 is the first one that names a hybrid post-quantum group, X25519MLKEM768, and it names it
first. The guidelines are kept in the repository C{mozilla/ssl-config-generator} as
C{src/static/guidelines/6.0.json}; its change log there dates them.

One table is ours to derive. Mozilla says which signatures and keys a I{certificate} may have, not
which C{signature_algorithms} (RFC 8446, section 4.2.3) the handshake offers:

  - C{ecdsa-with-SHA256}, C{-SHA384} and C{-SHA512} are the code points
    C{ecdsa_secp256r1_sha256}, C{ecdsa_secp384r1_sha384} and C{ecdsa_secp521r1_sha512};
  - an RSA key signs TLS 1.3 handshakes with RSASSA-PSS alone, and TLS 1.2 handshakes with PKCS#1
    too, where the client is one of the older ones that the guidelines still count in;
  - the list also tells a peer which signatures its chain may carry, and many intermediates that
    issue a C{sha256WithRSAEncryption} leaf are themselves signed with SHA-384: so each RSA form
    comes with all of SHA-2, SHA-256 first. No list has SHA-1, DSA or EdDSA.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from difflib import get_close_matches
from ssl import TLSVersion
from types import MappingProxyType
from typing import Final

from attrs import frozen

from twisted_bioconn.errors import ConfigurationError

__all__ = ["INTERMEDIATE", "MODERN", "POLICIES", "Policy", "policy_named"]


@frozen(kw_only=True)
class Policy:
    """
    What one side of a connection agrees to.

    Every tuple is in order of preference, the most wanted first.

    @ivar name: what a user calls it: C{policy=modern}.
    @ivar date: when its source was published.
    @ivar source: the address of its source.
    @ivar minimum_version: the oldest TLS version. It is an L{int}, the protocol's number on the
        wire, and what C{Context.set_min_proto_version} takes.
    @ivar maximum_version: the newest TLS version, in the same form.
    @ivar ciphers_tls12: OpenSSL's names of the TLS 1.2 cipher suites; empty where
        L{minimum_version} leaves no room for TLS 1.2 (OpenSSL refuses an empty cipher list: leave
        that call out).
    @ivar ciphersuites_tls13: the TLS 1.3 cipher suites.
    @ivar groups: the key exchange groups, for C{SSL_CTX_set1_curves_list}. Joined by colons as they
        stand, they make a client send one key share, the first group's, and a server without that
        group costs it a HelloRetryRequest: one round trip more. OpenSSL 3.5 and newer send a
        share for each name that has an asterisk before it.
    @ivar signature_algorithms: RFC 8446's names, for C{SSL_CTX_set1_sigalgs_list}.
    @ivar server_preference: whether the server's order of ciphers wins over the client's. Where all
        of them are good, the client knows better which one its hardware does fast.
    """

    name: str
    date: date
    source: str
    minimum_version: TLSVersion
    maximum_version: TLSVersion
    ciphers_tls12: tuple[str, ...]
    ciphersuites_tls13: tuple[str, ...]
    groups: tuple[str, ...]
    signature_algorithms: tuple[str, ...]
    server_preference: bool


_DATE: Final = date(2026, 4, 6)
_SOURCE: Final = "https://ssl-config.mozilla.org/guidelines/6.0.json"

_CIPHERSUITES_TLS13: Final = (
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
)

# Mozilla writes "prime256v1", the same curve under X9.62's name; TLS calls it secp256r1.
_GROUPS: Final = ("X25519MLKEM768", "X25519", "secp256r1", "secp384r1")

_ECDSA: Final = (
    "ecdsa_secp256r1_sha256",
    "ecdsa_secp384r1_sha384",
    "ecdsa_secp521r1_sha512",
)

_RSA: Final = (
    "rsa_pss_rsae_sha256",
    "rsa_pss_rsae_sha384",
    "rsa_pss_rsae_sha512",
    "rsa_pkcs1_sha256",
    "rsa_pkcs1_sha384",
    "rsa_pkcs1_sha512",
)

MODERN: Final = Policy(
    name="modern",
    date=_DATE,
    source=_SOURCE,
    minimum_version=TLSVersion.TLSv1_3,
    maximum_version=TLSVersion.TLSv1_3,
    ciphers_tls12=(),
    ciphersuites_tls13=_CIPHERSUITES_TLS13,
    groups=_GROUPS,
    signature_algorithms=_ECDSA,
    server_preference=False,
)
"""TLS 1.3 alone, with ECDSA certificates: a server with an RSA key has no place in it."""

INTERMEDIATE: Final = Policy(
    name="intermediate",
    date=_DATE,
    source=_SOURCE,
    minimum_version=TLSVersion.TLSv1_2,
    maximum_version=TLSVersion.TLSv1_3,
    ciphers_tls12=(
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ),
    ciphersuites_tls13=_CIPHERSUITES_TLS13,
    groups=_GROUPS,
    signature_algorithms=_ECDSA + _RSA,
    server_preference=False,
)
"""TLS 1.2 and 1.3, with RSA or ECDSA certificates: the one for a public server."""

POLICIES: Final[Mapping[str, Policy]] = MappingProxyType(
    {policy.name: policy for policy in (INTERMEDIATE, MODERN)}
)
"""Every policy by its name, the default first."""


def policy_named(name: str) -> Policy:
    """
    Find a policy by what the user calls it.

    @raise ConfigurationError: there is none of that name; the sentence says which is nearest.
    """
    policy = POLICIES.get(name)
    if policy is not None:
        return policy
    known = " and ".join(POLICIES)
    nearest = get_close_matches(name.strip().lower(), POLICIES, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else "."
    raise ConfigurationError(f"There is no policy {name!r} (there are {known}){hint}")
