"""Options of the usual parties, for the tests of contexts, endpoints and HTTP clients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from attrs import define, field
from OpenSSL import SSL
from twisted.internet.interfaces import IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from zope.interface import implementer

from tests.engines import EngineCase
from tests.tls_material import HOST, Party, authority, server
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.context import ClientOptions, ServerOptions, SessionStore
from twisted_bioconn.errors import ConfigurationError, PeerError
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.testing import Loopback, Way

ROOTS = (authority().certificate,)


def certified(party: Party) -> CertifiedKey:
    """A party's certificate, chain and key, as the package's own class."""
    return CertifiedKey(party.chain, party.key)


def serving(party: Party | None = None, **options: Any) -> ServerOptions:
    """Options of a server; the usual one if no party is given."""
    return ServerOptions(certified(server() if party is None else party), **options)


def visiting(host: str = HOST, **options: Any) -> ClientOptions:
    """Options of a client that trusts the usual authority and keeps its sessions to itself."""
    if not options.get("unsafe_skip_verification"):
        options.setdefault("trust_roots", ROOTS)
    options.setdefault("sessions", SessionStore())
    return ClientOptions(host, **options)


@implementer(IProtocolNegotiationFactory)
class Speaking(Factory[Any]):
    """An application's factory that names protocols for ALPN."""

    noisy = False

    def __init__(self, *names: bytes) -> None:
        self.names = names

    def acceptableProtocols(self) -> list[bytes]:
        return list(self.names)


@define
class Wrapper:
    """What an application's factory is found by, from the protocol of a connection."""

    wrappedFactory: Any


@define
class Layer:
    """As much of a TLS protocol as an options object looks at."""

    factory: Wrapper


def layer(application: object = None) -> Layer:
    """The TLS protocol of an application's factory."""
    return Layer(Wrapper(application))


@define
class Meeting:
    """
    A handshake between two options objects, or OpenSSL connections, which went as far as it goes.
    """

    loop: Loopback

    @property
    def client_error(self) -> PeerError:
        """Why the client failed, which it has to."""
        assert self.loop.client_error is not None, "the client did not fail"
        return self.loop.client_error

    @property
    def server_error(self) -> PeerError:
        """Why the server failed, which it has to."""
        assert self.loop.server_error is not None, "the server did not fail"
        return self.loop.server_error

    @property
    def at_client(self) -> Negotiated:
        """What was agreed on, by the client."""
        return _facts(self.loop.client.negotiated, self.loop)

    @property
    def at_server(self) -> Negotiated:
        """What was agreed on, by the server."""
        return _facts(self.loop.server.negotiated, self.loop)

    def flights(self) -> list[tuple[Way, bytes]]:
        """What crossed, with what went the same way at once put together."""
        flights: list[tuple[Way, bytes]] = []
        for way, piece in self.loop.crossed:
            if flights and flights[-1][0] is way:
                flights[-1] = (way, flights[-1][1] + piece)
            else:
                flights.append((way, piece))
        return flights

    def hello(self) -> Hello:
        """The client's first hello."""
        return Hello.read(self.flights()[0][1])

    def end(self) -> Meeting:
        """Close both ends as a connection is closed, so that the session can be kept."""
        for end in (self.loop.client, self.loop.server):
            end.close()
        self.loop.pump()
        for end in (self.loop.client, self.loop.server):
            end.forget()
        return self


def _facts(facts: Negotiated | None, loop: Loopback) -> Negotiated:
    assert facts is not None, (loop.client_error, loop.server_error)
    return facts


class ContextCase(EngineCase):
    """A test in which options objects meet."""

    def meet(
        self,
        server: ServerOptions | SSL.Connection,
        client: ClientOptions | SSL.Connection,
        server_application: object = None,
        client_application: object = None,
    ) -> Meeting:
        """Let the two do their handshake, and say something to one another."""
        if isinstance(server, ServerOptions):
            server = server.serverConnectionForTLS(layer(server_application))
        if isinstance(client, ClientOptions):
            client = client.clientConnectionForTLS(layer(client_application))
        loop = self.connectors(client, server)
        loop.pump()
        if loop.client_error is None and loop.server_error is None:
            loop.client.write(b"question")
            loop.server.write(b"answer")
            loop.pump()
        if loop.client_error is None and loop.server_error is None:
            self.assertEqual(loop.received_by_server, b"question")
            self.assertEqual(loop.received_by_client, b"answer")
        return Meeting(loop)

    def refused(self, sentence: str, call: Any, *arguments: Any, **options: Any) -> str:
        """A mistake in what is asked for is told in this one sentence."""
        error = self.assertRaises(ConfigurationError, call, *arguments, **options)
        self.assertIn(sentence, str(error))
        self.assertNotIn("\n", str(error))
        return str(error)


@define
class Hello:
    """
    A ClientHello, read by RFC 8446, section 4.1.2, and with no help of OpenSSL's.
    """

    ciphers: list[int]
    extensions: dict[int, bytes] = field(repr=False)

    @classmethod
    def read(cls, flight: bytes) -> Hello:
        messages = b""
        while flight[:1] == b"\x16":
            size = int.from_bytes(flight[3:5], "big")
            messages += flight[5 : 5 + size]
            flight = flight[5 + size :]
        assert messages[:1] == b"\x01"
        body = _Bytes(messages[4 : 4 + int.from_bytes(messages[1:4], "big")])
        body.take(34)
        body.vector(1)
        ciphers = list(_Bytes(body.vector(2)).numbers())
        body.vector(1)
        extensions = {}
        found = _Bytes(body.vector(2))
        while found.left:
            kind = found.number()
            extensions[kind] = found.vector(2)
        return cls(ciphers, extensions)

    @property
    def versions(self) -> list[int]:
        """supported_versions: section 4.2.1."""
        return list(_Bytes(self.extensions[43][1:]).numbers())

    @property
    def groups(self) -> list[int]:
        """supported_groups: section 4.2.7."""
        return list(_Bytes(self.extensions[10][2:]).numbers())

    @property
    def signature_algorithms(self) -> list[int]:
        """Section 4.2.3."""
        return list(_Bytes(self.extensions[13][2:]).numbers())

    @property
    def key_shares(self) -> list[int]:
        """The groups that a share was sent for: section 4.2.8."""
        shares = _Bytes(self.extensions[51][2:])
        groups = []
        while shares.left:
            groups.append(shares.number())
            shares.vector(2)
        return groups

    @property
    def server_name(self) -> bytes | None:
        """RFC 6066, section 3."""
        return self.extensions[0][5:] if 0 in self.extensions else None

    @property
    def alpn(self) -> Sequence[bytes] | None:
        """RFC 7301, section 3.1."""
        if 16 not in self.extensions:
            return None
        names = _Bytes(self.extensions[16][2:])
        found = []
        while names.left:
            found.append(names.vector(1))
        return found


class _Bytes:
    """Bytes, taken from the front."""

    def __init__(self, left: bytes) -> None:
        self.left = left

    def take(self, size: int) -> bytes:
        taken, self.left = self.left[:size], self.left[size:]
        assert len(taken) == size
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def numbers(self) -> Iterator[int]:
        while self.left:
            yield self.number()

    def vector(self, octets: int) -> bytes:
        return self.take(int.from_bytes(self.take(octets), "big"))
