"""
The parts that contexts of servers and of clients are made of.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

import idna
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509Store, X509StoreFlags

from . import _openssl
from .certificates.loading import CertifiedKey, read_file
from .errors import ConfigurationError
from .policy import Policy
from .verify import is_ip_address

TLSMethod = tuple[int | None, int | None]
"""The oldest and the newest version; L{None} for the policy's."""

DHE_CIPHERS = ("DHE-RSA-AES128-GCM-SHA256", "DHE-RSA-AES256-GCM-SHA384")
"""What Diffie-Hellman parameters are good for: RFC 5288's, forward secret and authenticated."""

DHE_GROUPS = ("ffdhe2048", "ffdhe3072")
"""
Where a client names groups of this kind, a server that has none of them may not use C{DHE} at all,
whatever parameters it has: RFC 7919, section 4.
"""

_NO_AUTO_CHAIN = 0x8
"""
SSL_MODE_NO_AUTO_CHAIN, which pyOpenSSL has no name for (SSL_CTX_set_mode(3)): what is sent is the
chain that was given.  Without it OpenSSL builds one out of whom we trust, roots and all.
"""

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\Z")
"""Labels and their lengths by RFC 1035, section 2.3.4; underscores are in use, whatever it says."""


def ascii_host(host: str) -> str:
    """
    A host name or an IP address as it stands in a certificate and in a client hello.

    @raise ConfigurationError: it is no host name.
    """
    if is_ip_address(host):
        return str(ipaddress.ip_address(host))
    name = host.removesuffix(".").lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii").removesuffix(".")
        except idna.IDNAError as error:
            raise ConfigurationError(f"{host!r} is no host name: {error}") from None
    if is_ip_address(name):
        return name
    if not _HOST_NAME.match(name):
        raise ConfigurationError(f"{host!r} is no host name")
    return name


def new_context(policy: Policy, versions: TLSMethod, extra_ciphers: Sequence[str]) -> SSL.Context:
    """
    A context of a policy.

    @param extra_ciphers: ciphers of TLS 1.2 beside the policy's.
    @raise ConfigurationError: the policy has none of these versions.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    oldest, newest = _narrowed(policy, versions)
    context.set_min_proto_version(oldest)
    context.set_max_proto_version(newest)
    context.set_mode(_NO_AUTO_CHAIN)
    ciphers = (*policy.ciphers_tls12, *extra_ciphers)
    if ciphers:
        context.set_cipher_list(":".join(ciphers).encode("ascii"))
    context.set_tls13_ciphersuites(":".join(policy.ciphersuites_tls13).encode("ascii"))
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    if policy.server_preference:
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    return context


def _narrowed(policy: Policy, versions: TLSMethod) -> tuple[int, int]:
    oldest = max(policy.minimum_version, versions[0] or 0)
    newest = min(policy.maximum_version, versions[1] or policy.maximum_version)
    if oldest > newest:
        raise ConfigurationError(
            f"policy={policy.name} and the given TLS versions have no version in common"
        )
    return oldest, newest


def set_groups(context: SSL.Context, groups: Sequence[str], key_shares: int = 0) -> None:
    """
    Set a policy's groups, as far as this OpenSSL knows them.

    @param key_shares: for how many of them a client sends its key share at once.  The first, which
        an older server does not have, would else cost it a round trip.
    """
    starred = [f"*{name}" if at < key_shares else name for at, name in enumerate(groups)]
    for names in (starred, groups):
        try:
            _openssl.set_groups(context, names)
        except ValueError:
            continue
        return
    known = [name for name in groups if _knows_group(name)]
    if not known:
        raise ConfigurationError(f"this OpenSSL knows none of the groups {', '.join(groups)}")
    _openssl.set_groups(context, known)


def _knows_group(name: str) -> bool:
    try:
        _openssl.set_groups(SSL.Context(SSL.TLS_METHOD), [name])
    except ValueError:
        return False
    return True


def signature_algorithms(policy: Policy, key: CertifiedKey | None) -> tuple[str, ...]:
    """
    A policy's signature algorithms, and the one of a key that it has no word about.

    @raise ConfigurationError: the policy leaves no way to sign with this key.
    """
    names = policy.signature_algorithms
    if key is None:
        return names
    private = key.key
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return (*names, "ed25519")
    if isinstance(private, ed448.Ed448PrivateKey):
        return (*names, "ed448")
    if isinstance(private, rsa.RSAPrivateKey) and not any(each.startswith("rsa") for each in names):
        raise ConfigurationError(
            f"policy={policy.name} has no RSA keys, and the certificate has one:"
            " use policy=intermediate, or an ECDSA certificate"
        )
    if isinstance(private, ec.EllipticCurvePrivateKey) and not any(
        private.curve.name.replace("secp", "ecdsa_secp") in each for each in names
    ):
        raise ConfigurationError(
            f"policy={policy.name} has no keys on the curve {private.curve.name}:"
            " use secp256r1 or secp384r1"
        )
    return names


def use_certificate(context: SSL.Context, key: CertifiedKey) -> None:
    """
    Have a context show a certificate.

    @raise ConfigurationError: OpenSSL refuses it.
    """
    try:
        context.use_certificate(key.leaf)
        for certificate in key.intermediates:
            context.add_extra_chain_cert(certificate)
        context.use_privatekey(key.key)
        context.check_privatekey()
    except SSL.Error as error:
        reasons = ", ".join(reason for _, _, reason in error.args[0] or ())
        raise ConfigurationError(f"OpenSSL refuses the certificate or its key: {reasons}") from None


def trust(authorities: Iterable[x509.Certificate], store: X509Store | None = None) -> X509Store:
    """
    Have a store trust these and nobody else.

    Each of them is an end of a chain, an intermediate too: whoever lists one means just that one.

    @param store: a context's own; by default a new one.
    """
    store = store or X509Store()
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)
    for certificate in authorities:
        store.add_cert(X509.from_cryptography(certificate))
    return store


def wire_names(alpn: Iterable[bytes]) -> tuple[bytes, ...]:
    """
    ALPN names, as they go to the wire.

    @raise ConfigurationError: one of them is none.
    """
    names = tuple(alpn)
    for name in names:
        if not isinstance(name, bytes) or not 0 < len(name) < 256:
            raise ConfigurationError(f"{name!r} is no ALPN name: RFC 7301 has 1 to 255 bytes")
    return names


def load_dh_parameters(context: SSL.Context, path: str) -> None:
    """
    Have a context use the Diffie-Hellman parameters of a file.

    @raise ConfigurationError: there are none, or they are too short.
    """
    try:
        read_file(path)
        context.load_tmp_dh(path)
    except ConfigurationError as error:
        raise ConfigurationError(f"dhParameters: {error}") from None
    except SSL.Error as error:
        reasons = {reason for _, _, reason in error.args[0] or ()}
        raise ConfigurationError(
            f"dhParameters: the parameters in {path} are too short to be secure"
            if "dh key too small" in reasons
            else f"dhParameters: {path} has no Diffie-Hellman parameters in PEM"
        ) from None
