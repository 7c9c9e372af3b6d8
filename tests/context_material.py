"""Options of the usual parties, for the tests of contexts, endpoints and HTTP clients."""

from __future__ import annotations

from base64 import encodebytes
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakValueDictionary

from attrs import define, field
from OpenSSL import SSL
from twisted.internet.interfaces import IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from zope.interface import implementer

from tests.engines import EngineCase
from tests.tls_material import HOST, Party, authority, server
from twisted_bioconn import context
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


# Primes, so that none has to be looked for: RFC 7919, appendix A.1, and RFC 2409, section 6.2.
FFDHE2048 = (
    "FFFFFFFFFFFFFFFFADF85458A2BB4A9AAFDC5620273D3CF1D8B9C583CE2D3695A9E13641146433FB"
    "CC939DCE249B3EF97D2FE363630C75D8F681B202AEC4617AD3DF1ED5D5FD65612433F51F5F066ED0"
    "856365553DED1AF3B557135E7F57C935984F0C70E0E68B77E2A689DAF3EFE8721DF158A136ADE735"
    "30ACCA4F483A797ABC0AB182B324FB61D108A94BB2C8E3FBB96ADAB760D7F4681D4F42A3DE394DF4"
    "AE56EDE76372BB190B07A7C8EE0A6D709E02FCE1CDF7E2ECC03404CD28342F619172FE9CE98583FF"
    "8E4F1232EEF28183C3FE3B1B4C6FAD733BB5FCBC2EC22005C58EF1837D1683B2C6F34A26C1B2EFFA"
    "886B423861285C97FFFFFFFFFFFFFFFF"
)
OAKLEY_1024 = (
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22"
    "514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6"
    "F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381"
    "FFFFFFFFFFFFFFFF"
)


def dh_parameters(prime: str) -> bytes:
    """PKCS #3's parameters in PEM: a sequence of two numbers, of which the second is 2."""
    octets = b"\0" + bytes.fromhex(prime)
    body = b"\x02\x82" + len(octets).to_bytes(2, "big") + octets + b"\x02\x01\x02"
    der = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    label = b"DH PARAMETERS-----"
    return b"-----BEGIN " + label + b"\n" + encodebytes(der) + b"-----END " + label + b"\n"


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


class OptionsCase(EngineCase):
    """A test in which options objects meet."""

    def setUp(self) -> None:
        super().setUp()
        # A context that another test's client still has may have been made by the other engine.
        self.patch(context, "_CLIENT_CONTEXTS", WeakValueDictionary())

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
