"""The relay over real sockets, plain and with TLS on either side."""

from __future__ import annotations

import hashlib
import os
from itertools import product
from typing import cast

from twisted.internet import reactor as installed_reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocolFactory,
    IPullProducer,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.tcp import Connection
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.certificates.loading import load_authorities
from twisted_bioconn.context import ClientOptions, ServerOptions
from twisted_bioconn.endpoints import ClientEndpoint, ServerEndpoint
from twisted_bioconn.server import relay as relay_module
from twisted_bioconn.server.holdings import LEAST, Holdings
from twisted_bioconn.server.relay import RelayFactory


@implementer(IHalfCloseableProtocol, IPullProducer)
class Transfer(Protocol):
    """Sends one piece many times, hashes what comes, and half-closes when all is sent."""

    def __init__(self, piece: bytes, times: int) -> None:
        self._piece = piece
        self._left = times
        self._received = hashlib.sha256()
        self._sending = False
        self._heard_end = False
        self.begins = "at once"
        self.done: Deferred[str] = Deferred()

    def connectionMade(self) -> None:
        if self.begins == "at once":
            self._begin()

    def _begin(self) -> None:
        self._sending = True
        cast(IConsumer, self.transport).registerProducer(self, False)

    def resumeProducing(self) -> None:
        transport = cast(Connection, self.transport)
        if self._left:
            self._left -= 1
            transport.write(self._piece)
        else:
            self._sending = False
            transport.unregisterProducer()
            if self._heard_end:
                transport.loseConnection()
            else:
                transport.loseWriteConnection()

    def stopProducing(self) -> None:
        self._left = 0

    def dataReceived(self, data: bytes) -> None:
        self._received.update(data)

    def readConnectionLost(self) -> None:
        self._heard_end = True
        if self.begins != "at once":
            self._begin()
        elif not self._sending:
            cast(Connection, self.transport).loseConnection()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._heard_end and isinstance(reason.value, ConnectionDone):
            self.done.callback(self._received.hexdigest())
        else:
            self.done.errback(reason)


class OneFactory(Factory[Transfer]):
    """A factory for one protocol that is there already."""

    noisy = False

    def __init__(self, protocol: Transfer) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Transfer:
        return self._protocol


class SocketTests(TestCase):
    """One relay between two ends."""

    def setUp(self) -> None:
        self.clock = cast(IReactorTime, installed_reactor)
        authority = DevelopmentAuthority(self.mktemp())
        self.certificate = authority.issue()
        trusted = load_authorities(authority.certificate_path)
        self.options = ClientOptions("localhost", trust_roots=trusted)
        self.wrong_options = ClientOptions("db.example", trust_roots=trusted)

    async def listen(self, factory: IProtocolFactory, tls: bool = False) -> int:
        endpoint: IStreamServerEndpoint = TCP4ServerEndpoint(
            installed_reactor, 0, interface="127.0.0.1"
        )
        if tls:
            endpoint = ServerEndpoint(endpoint, ServerOptions(self.certificate))
        port = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        return cast(IPv4Address, port.getHost()).port

    def to(self, port: int, options: ClientOptions | None = None) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = TCP4ClientEndpoint(installed_reactor, "127.0.0.1", port)
        return endpoint if options is None else ClientEndpoint(endpoint, options, self.clock)

    async def relay(
        self, client: Transfer, server: Transfer, tls_in: bool = False, tls_out: bool = False
    ) -> None:
        port = await self.listen(OneFactory(server), tls_out)
        back_end = self.to(port, self.options if tls_out else None)
        port = await self.listen(RelayFactory(back_end, "back end", self.clock), tls_in)
        await self.to(port, self.options if tls_in else None).connect(OneFactory(client))

    async def transfer(self, tls_in: bool, tls_out: bool) -> None:
        """Eight mebibytes each way at once, each of which ends with a half-close."""
        times = 128
        up, down = os.urandom(65536), os.urandom(65536)
        client, server = Transfer(up, times), Transfer(down, times)
        await self.relay(client, server, tls_in, tls_out)
        self.assertEqual(
            await gatherResults([client.done, server.done]),
            [hashlib.sha256(sent * times).hexdigest() for sent in (down, up)],
        )

    async def test_plain_to_plain(self) -> None:
        await self.transfer(tls_in=False, tls_out=False)

    async def test_tls_to_plain(self) -> None:
        await self.transfer(tls_in=True, tls_out=False)

    async def test_plain_to_tls(self) -> None:
        await self.transfer(tls_in=False, tls_out=True)

    async def test_tls_to_tls(self) -> None:
        await self.transfer(tls_in=True, tls_out=True)

    async def test_one_way_after_the_other(self) -> None:
        """The client's end is told to the back end, which only then sends."""
        for tls_in, tls_out in product((False, True), repeat=2):
            answer = b"answer" * 10_000
            client, server = Transfer(b"question", 1), Transfer(answer, 50)
            server.begins = "when the other has ended"
            await self.relay(client, server, tls_in, tls_out)
            self.assertEqual(await server.done, hashlib.sha256(b"question").hexdigest())
            self.assertEqual(await client.done, hashlib.sha256(answer * 50).hexdigest())

    async def test_resets(self) -> None:
        """Whichever side is reset, the other one is too."""
        for tls_in, tls_out, client_resets in product((False, True), repeat=3):

            class Resetting(Transfer):
                def dataReceived(self, data: bytes) -> None:
                    cast(Connection, self.transport).abortConnection()

            endless = Transfer(b"x" * 65536, 1 << 20)
            resetting = Resetting(b"", 1 << 60)
            client, server = (resetting, endless) if client_resets else (endless, resetting)
            await self.relay(client, server, tls_in, tls_out)
            await self.assertFailure(resetting.done, ConnectionAborted)
            await self.assertFailure(endless.done, ConnectionLost)

    async def test_reset_while_bytes_are_sent(self) -> None:
        """The client sees no end in good order, which it could take for all of the answer."""
        for tls_in, tls_out in product((False, True), repeat=2):

            class Resetting(Transfer):
                def dataReceived(self, data: bytes) -> None:
                    cast(Connection, self.transport).abortConnection()

            for _ in range(5):
                client, server = Transfer(b"x" * 65536, 4), Resetting(b"", 1 << 60)
                server.done.addErrback(lambda _: None)
                await self.relay(client, server, tls_in, tls_out)
                await self.assertFailure(client.done, ConnectionLost)
                await server.done

    async def test_refused(self) -> None:
        gone = TCP4ServerEndpoint(installed_reactor, 0, interface="127.0.0.1")
        port = await gone.listen(Factory())
        number = cast(IPv4Address, port.getHost()).port
        await maybeDeferred(port.stopListening)
        relay = await self.listen(RelayFactory(self.to(number), "nothing", self.clock))
        client = Transfer(b"", 0)
        await self.to(relay).connect(OneFactory(client))
        self.assertEqual(await client.done, hashlib.sha256().hexdigest())

    async def test_back_end_with_a_wrong_name(self) -> None:
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        back_end = await self.listen(OneFactory(Transfer(b"", 0)), tls=True)
        target = self.to(back_end, self.wrong_options)
        relay = await self.listen(RelayFactory(target, "db", self.clock))
        client = Transfer(b"secret", 1)
        await self.to(relay).connect(OneFactory(client))
        self.assertEqual(await client.done, hashlib.sha256().hexdigest())
        said = [formatEvent(event) for event in events]
        [line] = [each for each in said if "cannot be forwarded to db" in each]
        self.assertIn("db.example", line)

    async def test_those_that_do_not_read(self) -> None:
        """Only so much is held for all of them: the one that has stood still longest is reset."""
        for tls_in in (False, True):
            await self.stand_still(tls_in)

    async def stand_still(self, tls_in: bool) -> None:
        holdings = Holdings(most=LEAST)
        self.patch(relay_module, "HOLDINGS", holdings)
        lines: list[str] = []
        dropped: Deferred[None] = Deferred()

        def hear(event: LogEvent) -> None:
            line = formatEvent(event)
            if "max-buffered" in line:
                lines.append(line)
                if len(lines) == 3:
                    dropped.callback(None)

        observer = cast(ILogObserver, hear)
        globalLogPublisher.addObserver(observer)

        class Endless(Factory[Transfer]):
            noisy = False

            def buildProtocol(self, addr: IAddress | None) -> Transfer:
                transfer = Transfer(b"x" * 65536, 1 << 20)
                transfer.done.addErrback(lambda _: None)
                ends.append(transfer)
                return transfer

        class Still(Transfer):
            def connectionMade(self) -> None:
                cast(Connection, self.transport).pauseProducing()

        ends: list[Transfer] = []
        port = await self.listen(Endless())
        port = await self.listen(RelayFactory(self.to(port), "back end", self.clock), tls_in)
        to = self.to(port, self.options if tls_in else None)
        while not dropped.called:
            still = Still(b"", 0)
            still.done.addErrback(lambda _: None)
            await to.connect(OneFactory(still))
            ends.append(still)
            await deferLater(self.clock, 0)
            if len(ends) > 100:
                await dropped
        globalLogPublisher.removeObserver(observer)
        self.assertGreaterEqual(holdings.dropped, 3)
        self.assertLessEqual(holdings.held, LEAST)
        self.assertGreater(holdings.held, 0)
        self.assertIn("127.0.0.1:", lines[0])
        for each in ends:
            cast(Connection, each.transport).abortConnection()
        while holdings.held:
            await deferLater(self.clock, 0.01)
