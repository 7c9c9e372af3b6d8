"""
Whatever Twisted takes for a context factory, as one callable that makes connections.

Twisted's own option objects are taken too, and two of their faults are mended on the way: a host
name check that lets a certificate pass when it cannot be parsed, and an ALPN callback that ends the
handshake of a server whose application has no protocol names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import unwrap
from typing import Any
from weakref import WeakSet

import attrs
from cryptography import x509
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet._sslverify import ClientTLSOptions, OpenSSLCertificateOptions
from twisted.internet.interfaces import IProtocolNegotiationFactory

from ._openssl import set_verification
from .verify import CertificateRefused, HostVerifier

Creator = Callable[[Any], SSL.Connection]
"""Makes the connection of a TLS protocol."""

_CLIENT_CONNECTION_FOR_TLS = ClientTLSOptions.clientConnectionForTLS


class CompleteOptions:
    """
    Options of our own: their connections need nothing more done to them.

    @ivar reads_hello: whether a server's connection can be made only when its client's hello has
        been read.
    """

    reads_hello: bool = False


def new_connection(context: SSL.Context, protocol: Any) -> SSL.Connection:
    """
    A connection of a context.

    @param protocol: its TLS protocol, which may have a way of its own to make one: a traced one
        has.
    """
    make = getattr(type(protocol), "newConnection", None)
    connection: SSL.Connection = (
        SSL.Connection(context) if make is None else make(protocol, context)
    )
    return connection


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


_mended: WeakSet[SSL.Context] = WeakSet()


def setup_for_alpn(context: SSL.Context, others: Sequence[bytes]) -> None:
    """
    Have a context choose ALPN names by L{select_protocol}: those of the application, then others.

    This takes the arguments of Twisted's function of that name and can stand in its place.
    """
    names = tuple(others)

    def select(connection: SSL.Connection, offered: Sequence[bytes]) -> Any:
        return select_protocol(acceptable_protocols(connection.get_app_data(), names), offered)

    if not isinstance(context, SSL.Context):
        # A stand-in of some test's.
        context.set_alpn_select_callback(select)
        return
    # pyOpenSSL lets nobody change a context that has made connections; to change which callback
    # will be called does those no harm.
    unwrap(SSL.Context.set_alpn_select_callback)(context, select)
    _mended.add(context)


def _selecting(creator: Creator, options: OpenSSLCertificateOptions) -> Creator:
    def selecting(protocol: Any) -> SSL.Connection:
        connection = creator(protocol)
        # The context may have been made before, and may be shared.
        context = connection.get_context()
        if context not in _mended:
            setup_for_alpn(context, options._acceptableProtocols or ())
        return connection

    return selecting


@attrs.frozen
class _TwistedVerifier:
    """
    Verifies as Twisted's options do: a host name that does not match is told even where the chain
    is bad too, and with service_identity's own words as well, which programs look for.
    """

    host: str
    even_if_untrusted = True

    def __call__(self, chain: Sequence[x509.Certificate]) -> None:
        try:
            HostVerifier(self.host)(chain)
        except CertificateRefused as refused:
            mismatch = refused.__cause__
            if isinstance(mismatch, VerificationError):
                raise CertificateRefused(
                    f"{refused.sentence} ({mismatch})", refused.x509_error, mismatch.errors
                ) from mismatch
            raise


def _verifying(options: ClientTLSOptions) -> Creator:
    verifier = _TwistedVerifier(options._hostnameASCII)
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

    def verifying(protocol: Any) -> SSL.Connection:
        connection = unverified(protocol)
        set_verification(connection, mode, verifier)
        return connection

    return verifying


def complete_creator(is_client: bool, options: object) -> Creator | None:
    """What makes connections by options of our own; L{None} for others."""
    name = "clientConnectionForTLS" if is_client else "serverConnectionForTLS"
    create: Creator | None = getattr(options, name, None)
    return create if isinstance(options, CompleteOptions) else None


def connection_creator(creator: Creator, options: object) -> Creator:
    """
    The creator, with the faults of Twisted's own options mended.

    @param creator: what Twisted made of the options.
    @param options: what the user handed in.
    """
    if isinstance(options, ClientTLSOptions):
        # A subclass with a way of its own to verify wants that one.
        overridden = type(options).clientConnectionForTLS is not _CLIENT_CONNECTION_FOR_TLS
        return creator if overridden else _verifying(options)
    if isinstance(options, OpenSSLCertificateOptions):
        return _selecting(creator, options)
    return creator
