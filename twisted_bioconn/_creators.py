"""
Whatever Twisted takes for a context factory, as one callable that makes connections.

Twisted's own option objects are taken too, and two of their faults are mended on the way: a host
name check that lets a certificate pass when it cannot be parsed, and an ALPN callback that ends the
handshake of a server whose application has no protocol names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from OpenSSL import SSL
from twisted.internet._sslverify import ClientTLSOptions, OpenSSLCertificateOptions
from twisted.internet.interfaces import IProtocolNegotiationFactory

from ._openssl import set_verification
from .verify import HostVerifier

Creator = Callable[[Any], SSL.Connection]
"""Makes the connection of a TLS protocol."""

ALPNCallback = Callable[[SSL.Connection, list[bytes]], object]


class NoApplicationProtocol(SSL.Error):
    """The client offers protocols, the application has some, and there is none in common."""

    def __init__(self) -> None:
        super().__init__([("SSL routines", "", "no application protocol")])


def acceptable_protocols(protocol: Any, others: Sequence[bytes] = ()) -> tuple[bytes, ...]:
    """
    The ALPN names that the application of a TLS protocol speaks, best first.

    @param protocol: its factory's C{wrappedFactory} may be an C{IProtocolNegotiationFactory}.
    @param others: names from elsewhere, after the application's.
    """
    wrapped = getattr(getattr(protocol, "factory", None), "wrappedFactory", None)
    factory = IProtocolNegotiationFactory(wrapped, None)
    names = () if factory is None else tuple(factory.acceptableProtocols())
    return names + tuple(name for name in others if name not in names)


def select_protocol(names: Sequence[bytes], offered: Sequence[bytes]) -> Any:
    """
    Choose an ALPN name: RFC 7301, section 3.2.

    @param names: what the server's application speaks, best first.
    @return: the name, or pyOpenSSL's mark to go on without ALPN where the application has none.
    @raise NoApplicationProtocol: it has some, and none of those offered.
    """
    for name in names:
        if name in offered:
            return name
    if names:
        raise NoApplicationProtocol
    return SSL.NO_OVERLAPPING_PROTOCOLS


def _context_for(options: OpenSSLCertificateOptions) -> Callable[[int], SSL.Context]:
    others = tuple(options._acceptableProtocols or ())

    class ALPNContext(SSL.Context):
        """A context whose ALPN callback is ours, whichever is set."""

        def set_alpn_select_callback(self, callback: ALPNCallback) -> None:
            super().set_alpn_select_callback(
                lambda connection, offered: select_protocol(
                    acceptable_protocols(connection.get_app_data(), others), offered
                )
            )

    return ALPNContext


def _verifying(creator: Creator, options: ClientTLSOptions) -> Creator:
    verifier = HostVerifier(options._hostnameASCII)
    mode = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT

    def unverified(protocol: Any) -> SSL.Connection:
        """
        What C{clientConnectionForTLS} does, less its verify callback.  To set that and replace
        it would leave a cycle through C which holds the protocol.
        """
        connection = options._createConnection(protocol)
        if options._sendServerName:
            connection.set_tlsext_host_name(options._hostnameBytes)
        connection.set_connect_state()
        connection.set_app_data(protocol)
        return connection

    make = unverified if type(options) is ClientTLSOptions else creator

    def verifying(protocol: Any) -> SSL.Connection:
        connection = make(protocol)
        set_verification(connection, mode, verifier)
        return connection

    return verifying


def connection_creator(creator: Creator, options: object) -> Creator:
    """
    The creator, with the faults of Twisted's own options mended.

    @param creator: what Twisted made of the options.
    @param options: what the user handed in.
    """
    if isinstance(options, ClientTLSOptions):
        return _verifying(creator, options)
    if isinstance(options, OpenSSLCertificateOptions) and options._contextFactory is SSL.Context:
        options._contextFactory = _context_for(options)  # type: ignore[assignment]
        # A context that was made before has the fault in it; the next one is made with ours.
        options._context = None
    return creator
