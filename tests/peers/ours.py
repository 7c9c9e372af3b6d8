"""Our end of a conversation with a peer: C{bioconn:} endpoints, and what they tell of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    clientFromString,
    quoteStringArgument,
    serverFromString,
)
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IProtocolNegotiationFactory,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import directlyProvides, implementer, providedBy

from tests.peers.material import Material
from tests.peers.processes import DEADLINE, Program, reactor
from tests.programs import require
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.protocol import TLSConnectorProtocol

GREETING = b"This is the other end.\n"
"""What L{page} answers."""

SCRIPTS = Path(__file__).parent / "scripts"

_P = TypeVar("_P", bound=Protocol)
_E = TypeVar("_E", bound=Exception)


class Noted(Protocol):
    """
    Stands between TLS and an application, and notes what becomes of the connection.
    """

    transport: TLSConnectorProtocol

    def __init__(self, server: Server, application: IProtocol) -> None:
        self._server = server
        self._application: Any = application
        directlyProvides(self, providedBy(application))

    def makeConnection(self, transport: Any) -> None:
        assert transport.negotiated is not None
        self._server.facts.append(transport.negotiated)
        self._server.connections.append(self)
        self.transport = transport
        self._application.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self._application.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._application.connectionLost(reason)
        self._server.lost(self, reason)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._application, name)


class Server(Factory):
    """
    A server of ours, which notes its connections.

    @ivar port: where it listens.
    @ivar facts: what was negotiated with each client that was let in.
    @ivar connections: those that are there.
    @ivar reasons: why those that are gone have ended.
    """

    noisy = False
    port = 0

    def __init__(self, wrapped: IProtocolFactory) -> None:
        self.wrapped = wrapped
        self.facts: list[Negotiated] = []
        self.connections: list[Noted] = []
        self.reasons: list[BaseException] = []
        self._waiting: list[tuple[int, Deferred[None]]] = []
        if IProtocolNegotiationFactory.providedBy(wrapped):
            directlyProvides(self, IProtocolNegotiationFactory)

    def acceptableProtocols(self) -> list[bytes]:
        names: list[bytes] = self.wrapped.acceptableProtocols()  # type: ignore[attr-defined]
        return names

    def doStart(self) -> None:
        self.wrapped.doStart()

    def doStop(self) -> None:
        self.wrapped.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Noted:
        application = self.wrapped.buildProtocol(addr)  # type: ignore[arg-type]
        assert application is not None
        return Noted(self, application)

    def lost(self, connection: Noted, reason: Failure) -> None:
        """A connection has ended."""
        self.connections.remove(connection)
        assert reason.value is not None
        self.reasons.append(reason.value)
        for count, done in [*self._waiting]:
            if len(self.reasons) >= count:
                self._waiting.remove((count, done))
                done.callback(None)

    async def ended(self, count: int) -> list[BaseException]:
        """
        Wait until so many connections have ended.

        @return: their reasons.
        """
        if len(self.reasons) < count:
            done: Deferred[None] = Deferred()
            self._waiting.append((count, done))
            await done.addTimeout(DEADLINE, reactor)
        return self.reasons

    async def stop(self) -> None:
        """Drop the connections that are there."""
        for connection in [*self.connections]:
            connection.transport.abortConnection()
        await self.ended(len(self.facts))


class _Page(Resource):
    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"text/plain")
        return GREETING


def page() -> Site:
    """A web server with one page."""
    return Site(_Page())


class Fetch(Protocol):
    """
    Asks for a page, as HTTP/1.0 does, and takes all that comes until the server closes.

    @ivar answer: fires with that.
    @ivar facts: what was negotiated.
    """

    facts: Negotiated

    def __init__(self) -> None:
        self.answer: Deferred[str] = Deferred()
        self._received = b""

    def connectionMade(self) -> None:
        assert self.transport is not None
        if isinstance(self.transport, TLSConnectorProtocol):
            assert self.transport.negotiated is not None
            self.facts = self.transport.negotiated
        self.transport.write(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        self._received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.answer.callback(self._received.decode("utf-8", "replace"))


class Talk(Protocol):
    """
    A conversation by hand.

    @ivar facts: what was negotiated.
    """

    def __init__(self) -> None:
        self.heard = b""
        self._seen = 0
        self._wanted = b""
        self._heard: Deferred[None] = Deferred()
        self._gone: Deferred[BaseException] = Deferred()

    def connectionMade(self) -> None:
        assert self.tls.negotiated is not None
        self.facts = self.tls.negotiated

    @property
    def tls(self) -> TLSConnectorProtocol:
        assert isinstance(self.transport, TLSConnectorProtocol)
        return self.transport

    def say(self, text: bytes) -> None:
        """Send this."""
        self.tls.write(text)

    def close(self) -> None:
        """End the connection."""
        self.tls.loseConnection()

    async def hear(self, text: bytes) -> None:
        """Wait until this comes, after what was waited for before."""
        self._wanted, self._heard = text, Deferred()
        self._look()
        await self._heard.addTimeout(DEADLINE, reactor)

    async def gone(self) -> BaseException:
        """
        Wait for the end of the connection.

        @return: its reason.
        """
        return await self._gone.addTimeout(DEADLINE, reactor)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        self._look()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.value is not None
        self._gone.callback(reason.value)

    def _look(self) -> None:
        if not self._wanted:
            return
        at = self.heard.find(self._wanted, self._seen)
        if at >= 0:
            self._seen = at + len(self._wanted)
            self._wanted = b""
            self._heard.callback(None)


@implementer(IHalfCloseableProtocol)
class HalfTalk(Talk):
    """
    A conversation whose directions end one by one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._read_ended: Deferred[None] = Deferred()

    def close_write(self) -> None:
        """End our direction."""
        self.tls.loseWriteConnection()

    async def peer_closed(self) -> None:
        """Wait for the peer's close_notify."""
        await self._read_ended.addTimeout(DEADLINE, reactor)

    def readConnectionLost(self) -> None:
        self._read_ended.callback(None)

    def writeConnectionLost(self) -> None:
        pass


class Talks(Factory):
    """
    Makes conversations, and hands them out as they begin.
    """

    noisy = False

    def __init__(self, kind: type[Talk] = Talk) -> None:
        self._kind = kind
        self._made: list[Talk] = []
        self._asked: list[Deferred[Talk]] = []

    def buildProtocol(self, addr: IAddress | None) -> Talk:
        talk = self._kind()
        self._made.append(talk)
        self._give()
        return talk

    async def next(self) -> Talk:
        """Wait for the next conversation."""
        asked: Deferred[Talk] = Deferred()
        self._asked.append(asked)
        self._give()
        return await asked.addTimeout(DEADLINE, reactor)

    def _give(self) -> None:
        while self._asked and self._made:
            # When the connection is made, which is after this.
            reactor.callLater(0, self._asked.pop(0).callback, self._made.pop(0))


class PeerCase(TestCase):
    """
    A test with a peer, and with certificates.
    """

    timeout = 600

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir(parents=True)
        # What some tests leave there is large.
        self.addCleanup(shutil.rmtree, self.directory)
        self.material = Material(self.directory)

    def stranger(self) -> Material:
        """Certificates of somebody whom nobody here trusts."""
        directory = self.directory / "stranger"
        directory.mkdir()
        return Material(directory)

    def run_program(
        self, name: str, *arguments: object, files: dict[int, int] | None = None
    ) -> Program:
        """
        Start a program.  It is killed when the test ends.

        @param name: its name, or its path.
        @param files: see L{Program}.
        """
        command = [require(name), *map(str, arguments)]
        program = Program(command, str(self.directory), files)
        self.addCleanup(lambda: Deferred.fromCoroutine(program.stop()))
        return program

    async def serve(self, factory: IProtocolFactory, **options: str | Path) -> Server:
        """
        Listen, on a port of the system's choice.

        @param options: of the endpoint's string.
        """
        material = self.material
        given: dict[str, str | Path] = {
            "interface": "127.0.0.1",
            "certKey": material.server,
            "privateKey": material.server_key,
            **options,
        }
        server = Server(factory)
        port = await serverFromString(reactor, _string("bioconn:0", given)).listen(server)
        server.port = port.getHost().port
        self.addCleanup(lambda: Deferred.fromCoroutine(server.stop()))
        self.addCleanup(port.stopListening)
        return server

    async def serve_plain(self, protocol: Protocol) -> int:
        """
        Serve one connection without TLS.

        @return: the port.
        """
        factory = Factory.forProtocol(lambda: protocol)
        factory.noisy = False
        port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory)
        self.addCleanup(lambda: protocol.transport and protocol.transport.abortConnection())  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    async def connect(
        self, port: int, protocol: _P, *, certificate: bool = False, **options: str | Path
    ) -> _P:
        """
        Connect to a server on this machine.

        @param certificate: whether to show the client's certificate.
        @param options: of the endpoint's string.
        """
        material = self.material
        given: dict[str, str | Path] = {"serverName": "localhost", "trustRoots": material.root}
        if certificate:
            given |= {"certificate": material.client, "privateKey": material.client_key}
        return await self._connect(
            _string(f"bioconn:127.0.0.1:{port}", {**given, **options}), protocol
        )

    async def connect_in_vain(self, port: int, *kinds: type[_E]) -> _E:
        """
        Do as L{connect}, which is to fail.

        @param kinds: with one of these.
        @return: the exception.
        """
        try:
            await self.connect(port, Talk())
        except kinds as error:
            return error
        raise AssertionError("it has connected")

    async def connect_plain(self, port: int, protocol: _P) -> _P:
        """Connect to a server on this machine without TLS."""
        return await self._connect(f"tcp:127.0.0.1:{port}", protocol)

    async def _connect(self, description: str, protocol: _P) -> _P:
        factory = Factory.forProtocol(lambda: protocol)
        factory.noisy = False
        await clientFromString(reactor, description).connect(factory)
        self.addCleanup(lambda: protocol.transport and protocol.transport.abortConnection())  # type: ignore[attr-defined]
        return protocol

    def assert_no_errors(self) -> None:
        """Nothing was logged as an error."""
        self.assertEqual(self.flushLoggedErrors(), [])


def _string(start: str, options: dict[str, str | Path]) -> str:
    pairs: Sequence[str] = [
        f"{name}={quoteStringArgument(str(value))}" for name, value in options.items()
    ]
    return ":".join([start, *pairs])


async def stays_up(case: PeerCase, server: Server, *, certificate: bool = False) -> None:
    """After whatever has happened to a server of L{page}, it serves the next one."""
    fetch = await case.connect(server.port, Fetch(), certificate=certificate)
    case.assertIn(GREETING.decode(), await fetch.answer)
