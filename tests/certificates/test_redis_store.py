"""A store that is a Redis server, with a real one that comes and goes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import trustme
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import TestCase

from tests.redis_server import RedisServer as Server
from twisted_bioconn.certificates import redis_line, sealing
from twisted_bioconn.certificates.redis_store import RedisStore
from twisted_bioconn.certificates.store import StoreUnavailable, ValueUnreadable

reactor: Any = installed


class ServerTests(TestCase):
    """A real server that comes and goes."""

    timeout = 300

    def setUp(self) -> None:
        """Keys are made at little cost."""
        self.patch(sealing, "_COST", 2)

    def store(self, url: str, **options: Any) -> RedisStore:
        """A store that is closed when the test is over."""
        store = RedisStore(reactor, url, passphrase=options.pop("passphrase", b"p"), **options)
        self.addCleanup(store.close)
        return store

    async def until(self, holds: Callable[[], bool], seconds: float = 100.0) -> None:
        """Look now and then."""
        end = reactor.seconds() + seconds
        while not holds():
            if reactor.seconds() > end:
                self.fail(f"it was not so within {seconds:g} seconds")
            await deferLater(reactor, 0.01)

    async def sentence(self, asked: Any) -> str:
        """The sentence with which it fails."""
        try:
            result = await asked
        except StoreUnavailable as error:
            return str(error)
        raise self.failureException(f"it did not fail: {result!r}")

    async def test_killed_in_the_middle(self) -> None:
        """All that was asked is answered or refused, and both stores catch up when it is back."""
        server = await Server.started(self)
        one, other = self.store(server.url), self.store(server.url)
        told: list[str] = []
        other.watch(told.append)
        await self.until(lambda: "" in told)
        value = random.Random(1).randbytes(300_000)
        with capturedLogs() as logs:
            asked = [one.put(f"a/{number}", value) for number in range(50)]
            asked += [one.get("a/0") for _ in range(50)]  # type: ignore[misc]
            await asked[3]
            killing = Deferred.fromCoroutine(server.kill())
            outcomes: list[str] = []
            for each in asked:
                each.addCallbacks(
                    lambda _: outcomes.append("answered"),
                    lambda reason: outcomes.append(reason.trap(StoreUnavailable).__name__),
                )
            await killing
            await self.until(lambda: len(outcomes) == len(asked))
            self.assertEqual(set(outcomes), {"answered", "StoreUnavailable"})
            begun = reactor.seconds()
            for _ in range(20):
                self.assertIn(server.url, await self.sentence(one.get("a/0")))
            # None of them has waited for the deadline.
            self.assertLess(reactor.seconds() - begun, 10 * redis_line.DEADLINE)
            told.clear()
            await server.start_again()
            await self.until(lambda: "" in told)

            async def put_again() -> bool:
                try:
                    await one.put("b", b"again")
                except StoreUnavailable:
                    return False
                return True

            while not await put_again():
                await deferLater(reactor, 0.01)
            await self.until(lambda: "b" in told)
            self.assertEqual(await other.get("b"), b"again")
        said = [event for event in logs if event.get("log_namespace", "").endswith("RedisStore")]
        self.assertEqual(
            [event["log_level"] for event in said].count(LogLevel.warn), 2, "one for each store"
        )
        self.assertEqual([event["log_level"] for event in said].count(LogLevel.info), 2)

    async def test_a_server_that_hangs(self) -> None:
        """It is given up after the deadline, and used when it goes on."""
        server = await Server.started(self)
        store = self.store(server.url)
        await store.put("a", b"1")
        deadline = redis_line.DEADLINE
        self.patch(redis_line, "DEADLINE", 0.3)
        server.signal(SIGSTOP)
        try:
            asked = [store.get("a"), store.put("a", b"2")]
            for each in asked:
                self.assertIn("did not answer within", await self.sentence(each))
        finally:
            server.signal(SIGCONT)
        self.patch(redis_line, "DEADLINE", deadline)
        for _ in range(5000):
            try:
                self.assertIn(await store.get("a"), (b"1", b"2"))
                break
            except StoreUnavailable:
                await deferLater(reactor, 0.01)
        else:
            self.fail("it did not catch up")

    async def test_closed_while_it_connects(self) -> None:
        """Who waits is told, and nothing is left for the reactor."""
        server = await Server.started(self)
        store = self.store(server.url)
        asked = store.get("a")
        store.watch(lambda name: None)
        await store.close()
        self.assertIn("closed", await self.sentence(asked))

    async def test_what_is_in_the_server(self) -> None:
        """Names can be read there, values cannot; leases end by themselves."""
        server = await Server.started(self)
        store = self.store(f"{server.url}/2", prefix="front:")
        await store.put("a", b"a secret value")
        await store.lease("b", 10)
        ask = store._questions.ask
        self.assertEqual(sorted(await ask("KEYS", "*")), [b"front:lease:b", b"front:values"])
        self.assertEqual(await ask("HKEYS", "front:values"), [b"a"])
        self.assertNotIn(b"secret", await ask("HGET", "front:values", "a"))
        self.assertIn(await ask("PTTL", "front:lease:b"), range(1, 10_001))
        self.assertIsNone(await self.store(server.url, prefix="front:").get("a"))
        self.assertIsNone(await self.store(f"{server.url}/2").get("a"))
        same = self.store(f"{server.url}/2", prefix="front:")
        self.assertEqual(await same.get("a"), b"a secret value")

    async def test_another_passphrase(self) -> None:
        """It is said, and nothing is overwritten by reading."""
        server = await Server.started(self)
        one, other = self.store(server.url), self.store(server.url, passphrase=b"q")
        await one.put("a", b"1")
        self.assertIn("the passphrase is not the one", await self.sentence(other.get("a")))
        await self.assertFailure(other.get("a"), ValueUnreadable)
        self.assertEqual(await one.get("a"), b"1")
        await server.kill()
        with self.assertRaises(StoreUnavailable) as caught:
            await one.get("a")
        self.assertNotIsInstance(caught.exception, ValueUnreadable)

    async def test_a_value_moved_to_another_name(self) -> None:
        """It does not open there."""
        server = await Server.started(self)
        store = self.store(server.url)
        await store.put("a", b"1")
        sealed = await store._questions.ask("HGET", "bioconn:values", "a")
        await store._questions.ask("HSET", "bioconn:values", "b", sealed)
        self.assertIn("the value of b cannot be opened", await self.sentence(store.get("b")))

    async def test_password(self) -> None:
        """With one, with a wrong one, and with none."""
        server = await Server.started(self, "--requirepass", "sec:ret/@")
        good = server.url.replace("//", "//:sec%3Aret%2F%40@")
        await self.store(good).put("a", b"1")
        named = server.url.replace("//", "//default:sec%3Aret%2F%40@")
        self.assertEqual(await self.store(named).get("a"), b"1")
        wrong = self.store(server.url.replace("//", "//:wrong@"))
        self.assertRegex(
            await self.sentence(wrong.get("a")), "has refused a command: WRONGPASS [^\n]*"
        )
        self.assertIn("NOAUTH", await self.sentence(self.store(server.url).get("a")))
        database = self.store(f"{good}/999")
        self.assertIn("out of range", await self.sentence(database.get("a")))

    async def test_a_full_server(self) -> None:
        """What it refuses is said; what is there can be read."""
        server = await Server.started(self)
        store = self.store(server.url)
        await store.put("a", b"1")
        await store._questions.ask("CONFIG", "SET", "maxmemory", "1")
        self.assertIn("OOM", await self.sentence(store.put("b", b"x" * 1000)))
        self.assertEqual(await store.get("a"), b"1")

    async def test_socket(self) -> None:
        """A server with a socket in the file system."""
        server = await Server.started(self, "--unixsocket", "s", "--unixsocketperm", "700")
        path = Path(server.directory) / "s"
        store = self.store(f"redis+unix://{path}?db=1")
        await store.put("a", b"1")
        self.assertEqual(await self.store(f"{server.url}/1").get("a"), b"1")

    async def test_tls(self) -> None:
        """By our own connector, which verifies the server."""
        authority = trustme.CA()
        pair = authority.issue_cert("localhost")
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        pair.private_key_pem.write_to_path(str(directory / "key.pem"))
        pair.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
        roots = str(directory / "roots.pem")
        authority.cert_pem.write_to_path(roots)
        server = await Server.started(
            self,
            *("--tls-cert-file", str(directory / "cert.pem")),
            *("--tls-key-file", str(directory / "key.pem")),
            *("--tls-ca-cert-file", str(directory / "cert.pem"), "--tls-auth-clients", "no"),
            tls=True,
        )
        url = f"rediss://localhost:{server.port}"
        store = self.store(url, trust_roots=roots)
        told: list[str] = []
        store.watch(told.append)
        value = random.Random(2).randbytes(900_000)
        await store.put("a", value)
        self.assertEqual(await store.get("a"), value)
        await self.until(lambda: "a" in told or "" in told)
        others = str(directory / "others.pem")
        trustme.CA().cert_pem.write_to_path(others)
        wrong = self.store(url, trust_roots=others)
        self.assertRegex(
            await self.sentence(wrong.get("a")), r"\Arediss://localhost:\d+ cannot be connected to"
        )

    async def test_not_redis(self) -> None:
        """A server of another kind is given up."""

        class Other(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(b"\x15\x03\x03\x00\x02\x02\x16\xff\r\n" * 3)

        port = reactor.listenTCP(0, Factory.forProtocol(Other), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        store = self.store(f"redis://127.0.0.1:{port.getHost().port}")
        self.assertIn("does not speak Redis's protocol", await self.sentence(store.get("a")))

    async def test_many_names(self) -> None:
        """Ten thousand are one answer."""
        server = await Server.started(self)
        store = self.store(server.url)
        await store._questions.ask(
            "EVAL",
            "for n = 1, 10000 do redis.call('HSET', KEYS[1], ARGV[1] .. n, 'x') end",
            "1",
            "bioconn:values",
            "certificates/a-rather-long-name.example.org-",
        )
        self.assertEqual(len(await store.names("certificates/")), 10_000)
        some = await store.names("certificates/a-rather-long-name.example.org-77")
        self.assertEqual(len(some), 111)
