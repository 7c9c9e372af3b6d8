"""
The PROXY header that a back end gets before anything else, TLS with it included, as HAProxy's
C{send-proxy-v2} has it on servers with C{ssl} too.

It tells what is known of the client: its addresses, which are those of an incoming header where one
has come, and its TLS.  Without it the back end would take the client for somebody else, so there is
no connection where it cannot be made.
"""

from __future__ import annotations

from contextlib import suppress
from enum import Enum
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate
from cryptography.x509.oid import NameOID
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, ISSLTransport

from twisted_bioconn._verification import tolerate_anything, verification_of
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.proxy_protocol import (
    ProxyAddress,
    ProxyHeader,
    dump_v1,
    dump_v2,
    tls_tlvs,
)

__all__ = ["SendProxy", "header_for", "header_of_our_own"]

#: Types of TLVs (section 2.2 of HAProxy's C{doc/proxy-protocol.txt}). These tell of TLS.
_ALPN, _AUTHORITY, _SSL = 0x01, 0x02, 0x20
#: And this one fills a header up.
_NOOP = 0x04


class SendProxy(Enum):
    """What a PROXY header tells a back end."""

    V1 = "v1"
    """The addresses, as text."""
    V2 = "v2"
    """The addresses, and what an incoming header has told beside them."""
    V2_TLS = "v2-tls"
    """Also the client's TLS: version, cipher, group, common name, ALPN, and the name asked for."""
    V2_TLS_CERTIFICATE = "v2-tls-cert"
    """Also the client's certificate."""


def header_for(transport: Any, how: SendProxy) -> bytes:
    """
    The header that tells of a client.

    @param transport: the connection to it, whose handshake is done.
    @raise ValueError: there can be none: one sentence says why.
    """
    header = ProxyHeader(
        source=_address(transport.getPeer()), destination=_address(transport.getHost())
    )
    if how is SendProxy.V1:
        return dump_v1(header)
    received: ProxyHeader | None = getattr(transport, "proxyHeader", None)
    passed_on = () if received is None else received.tlvs
    ours: tuple[tuple[int, bytes], ...] = ()
    not_theirs = {_NOOP}
    if how is not SendProxy.V2 and ISSLTransport.providedBy(transport):
        facts: Negotiated | None = getattr(transport, "negotiated", None)
        if facts is None:
            raise ValueError("what was negotiated with the client is not known")
        ours = _tls(facts, _is_verified(transport), how is SendProxy.V2_TLS_CERTIFICATE)
        # What a proxy before us may have told of these is not about the TLS that ends here.
        not_theirs |= {_ALPN, _AUTHORITY, _SSL}
    passed_on = tuple(each for each in passed_on if each[0] not in not_theirs)
    return dump_v2(
        ProxyHeader(
            source=header.source,
            destination=header.destination,
            transport=header.transport,
            tlvs=ours + passed_on,
        )
    )


def header_of_our_own(how: SendProxy) -> bytes:
    """
    The header of a connection that is nobody's but ours, to see whether a back end is well:
    C{LOCAL} (section 2.2), which version 1 does not have.
    """
    if how is SendProxy.V1:
        return dump_v1(ProxyHeader())
    return dump_v2(ProxyHeader(is_local=True))


def _address(address: IAddress | None) -> ProxyAddress | bytes:
    match address:
        case IPv4Address() | IPv6Address():
            return ProxyAddress(address.host, address.port)
        case UNIXAddress():
            # A client's socket most often has no name.
            return address.name or b""
    raise ValueError(f"a PROXY header cannot tell the address {address}")


def _tls(
    facts: Negotiated, is_verified: bool, with_certificate: bool
) -> tuple[tuple[int, bytes], ...]:
    certificate = facts.peer_certificate
    name = der = None
    if certificate is not None:
        name = _common_name(certificate)
        if with_certificate:
            der = certificate.public_bytes(Encoding.DER)
    return tls_tlvs(
        version=facts.version,
        cipher=facts.cipher or None,
        group=facts.group,
        alpn=facts.alpn,
        authority=facts.server_name,
        common_name=name,
        client_certificate=der,
        verified=is_verified and certificate is not None,
        resumed=facts.resumed,
    )


def _common_name(certificate: Certificate) -> str | None:
    """The last one, as with the rules over who may come in."""
    # What is in a certificate was chosen by a stranger, and a parser may refuse it.
    with suppress(ValueError):
        for each in reversed(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)):
            if isinstance(each.value, str):
                return each.value
    return None


def _is_verified(transport: Any) -> bool:
    """
    Whether the certificate of the client, if it has shown one, was verified: in the mode C{request}
    nobody does that, and of others' TLS it is not known.
    """
    verification = verification_of(transport.getHandle())
    return verification is not None and verification.tolerates is not tolerate_anything
