"""
Authorities: where each is, and what is asked of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from hashlib import sha256
from urllib.parse import urlsplit

from attrs import field, frozen
from cryptography import x509

from twisted_bioconn.errors import ConfigurationError

from .messages import ExternalAccount

__all__ = ["KNOWN_AUTHORITIES", "Authority", "directory_url", "identity"]

KNOWN_AUTHORITIES: dict[str, str] = {
    "letsencrypt": "https://acme-v02.api.letsencrypt.org/directory",
    "letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
    "zerossl": "https://acme.zerossl.com/v2/DV90",
    "google": "https://dv.acme-v02.api.pki.goog/directory",
    "google-staging": "https://dv.acme-v02.test-api.pki.goog/directory",
    "actalis": "https://acme-api.actalis.com/acme/directory",
    "sslcom": "https://acme.ssl.com/sslcom-dv-ecc",
}
"""The directories (RFC 8555, section 7.1.1) of authorities that everybody trusts, by name."""

_NAMES = {url: name for name, url in KNOWN_AUTHORITIES.items()}


def directory_url(text: str) -> str:
    """
    The URL of an authority's directory, from that URL or a name in L{KNOWN_AUTHORITIES}.

    @raise ConfigurationError: it is neither.
    """
    known = KNOWN_AUTHORITIES.get(text.lower())
    if known is not None:
        return known
    try:
        parts = urlsplit(text)
        sound = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    # RFC 8555, section 6.1: all of it goes over HTTPS.
    if not sound or not text.isascii() or not text.isprintable() or " " in text:
        near = get_close_matches(text.lower(), KNOWN_AUTHORITIES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigurationError(
            f"{text!r} is neither the https: URL of an authority's directory nor one of"
            f" {', '.join(KNOWN_AUTHORITIES)}{hint}"
        )
    return text


@frozen
class Authority:
    """
    One authority, and how certificates are to be had from it.

    @ivar directory_url: its directory, as a URL or by a name in L{KNOWN_AUTHORITIES}.
    @ivar trust_roots: who signs for the authority's own server; L{None} for whom the system trusts.
    @ivar eab: the account elsewhere that ours is bound to (RFC 8555, section 7.3.4).
    @ivar profile: which of the kinds of certificate that the authority offers.
    @ivar preferred_chain: the common name of an issuer: of several chains the first that has it is
        served, and the authority's own choice where none has.
    @raise ConfigurationError: the directory is neither a URL nor a known name.
    """

    directory_url: str = field(converter=directory_url)
    trust_roots: Sequence[x509.Certificate] | None = field(default=None, repr=False)
    eab: ExternalAccount | None = field(default=None, repr=False)
    profile: str | None = None
    preferred_chain: str | None = None

    @property
    def title(self) -> str:
        """What to call it: its known name, or its URL."""
        return _NAMES.get(self.directory_url, self.directory_url)

    @property
    def identity(self) -> str:
        """A word for a L{Store}'s names that no other authority has."""
        return identity(urlsplit(self.directory_url).hostname or "", self.directory_url)


def identity(readable: str, *parts: str) -> str:
    """
    A word for a L{Store}'s names: it can be read, and differs where any of the parts do.

    @param readable: a DNS name or an IP address.
    """
    digest = sha256("\0".join(parts).encode()).hexdigest()[:16]
    return f"{readable.replace(':', '-')[:100]}-{digest}"
