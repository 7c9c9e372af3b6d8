"""L{AcmeSource}: two fronts, a real redis-server and C{pebble}."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.task import deferLater

from tests.certificates.acme.pebble import Pebble
from tests.certificates.acme.test_source_pebble import NAME, TlsAlpnCase
from tests.redis_server import RedisServer
from twisted_bioconn.certificates.acme.challenges import TlsAlpn01Solver
from twisted_bioconn.certificates.acme.source import AcmeSource
from twisted_bioconn.certificates.redis_store import RedisStore
from twisted_bioconn.certificates.source import Choice
from twisted_bioconn.certificates.store import StoreUnavailable
from twisted_bioconn.hello import ClientHello

reactor: Any = installed


class RedisTests(TlsAlpnCase):
    """Fronts on several machines: the authority comes to one of them only."""

    def front(self, pebble: Pebble, redis: RedisServer) -> AcmeSource:
        store = RedisStore(reactor, redis.url, passphrase=b"correct horse")
        return self.source(pebble, [TlsAlpn01Solver()], store=store)

    def leaf(self, source: AcmeSource) -> object:
        choice = source.find(ClientHello(server_name=NAME))
        assert isinstance(choice, Choice)
        return choice.certificate.leaf

    async def test_ordered_once(self) -> None:
        redis = await RedisServer.started(self)
        pebble, server = await self.start()
        fronts = [self.front(pebble, redis) for _ in range(2)]
        for server.source in fronts:
            await self.served(server.source)
        self.assertEqual(self.leaf(fronts[0]), self.leaf(fronts[1]))

    async def test_killed_in_the_middle(self) -> None:
        """
        Redis dies with an order under way, and comes back with nothing: it is gone on with, or
        ordered again, and both have what comes of it.
        """
        redis = await RedisServer.started(self)
        pebble, server = await self.start()
        fronts = [self.front(pebble, redis) for _ in range(2)]
        server.source = fronts[0]
        solvers = [each._tls_alpn[0] for each in fronts]
        await self.until(lambda: any(each.choice(NAME) for each in solvers))
        await redis.kill()
        for each in fronts:
            self.assertIsInstance(each.find(ClientHello(server_name=NAME)), Choice)
        await redis.start_again()
        await self.until(lambda: all(self.is_real(each) for each in fronts))
        await self.until(lambda: self.leaf(fronts[0]) == self.leaf(fronts[1]))

    async def test_served_without(self) -> None:
        """When there is one, it is served with no Redis, and put into an empty one."""
        redis = await RedisServer.started(self)
        pebble, server = await self.start()
        server.source = self.front(pebble, redis)
        found = await self.served(server.source)
        await redis.kill()
        self.assertEqual(self.leaf(server.source), found.leaf)
        await redis.start_again()
        store = RedisStore(reactor, redis.url, passphrase=b"correct horse")
        self.addCleanup(store.close)
        for _ in range(3000):
            try:
                if await store.names("acme/certificates/"):
                    break
            except StoreUnavailable:
                pass
            await deferLater(reactor, 0.1)
        other = self.front(pebble, redis)
        await self.until(lambda: self.is_real(other))
        self.assertEqual(self.leaf(other), found.leaf)

    def is_real(self, source: AcmeSource) -> bool:
        choice = source.find(ClientHello(server_name=NAME))
        assert isinstance(choice, Choice)
        return choice.certificate.leaf.issuer != choice.certificate.leaf.subject
