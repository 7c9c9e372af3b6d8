"""What every store does, whatever it keeps its values in."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as installed
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.redis_server import RedisServer
from twisted_bioconn.certificates import sealing
from twisted_bioconn.certificates.directory_store import GRACE, DirectoryStore
from twisted_bioconn.certificates.redis_store import RedisStore
from twisted_bioconn.certificates.store import (
    LARGEST_VALUE,
    LONGEST_LEASE,
    LONGEST_NAME,
    Store,
    StoreUnavailable,
    Watchers,
    check_name,
    is_name,
)
from twisted_bioconn.errors import ConfigurationError

reactor: Any = installed

NAMES = (
    "a",
    "a/b",
    "a/b/c",
    "a/b.value",
    "a.value/b",
    "a.lease/b",
    "certificates/example.org",
    "certificates/*.example.org",
    "certificates/Example.org",
    "certificates/2001:db8::1",
    "accounts/ops@example.org",
    "answers/-_AZaz09",
    "long/" + ".".join(["a" * 63] * 3 + ["b" * 61]),
    "long/" + "*" * 253,
    "long/" + "a" * 199 + ".b",
    "long/" + "a" * 200 + ".b",
    "/".join("w" * 7 for _ in range(LONGEST_NAME // 8)),
)
"""Names that are there to be mixed up."""

NO_NAMES = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "a/.b",
    ".a",
    "a\0b",
    "a\nb",
    "a\n",
    "a b",
    "a%2Fb",
    "a\\b",
    "ä",
    "a" * (LONGEST_NAME + 1),
)
"""What is no name."""

PATIENCE = 100.0
"""Seconds that a wait may take, which takes a second at most where nothing else runs."""


class StoreContract:
    """
    The tests, for a test case that makes stores.
    """

    def store(self) -> Store:
        """Another front's store, on the same disk or server."""
        raise NotImplementedError

    async def until_expired(self, name: str) -> None:
        """Wait until that lease, given for L{lease_seconds}, has ended for everybody."""
        raise NotImplementedError

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until this holds."""
        raise NotImplementedError

    lease_seconds: float
    """A length of a lease that can be waited for."""

    async def test_a_value_is_what_was_put(self: Any) -> None:
        """Any bytes can be a value, and the newest counts."""
        one, other = self.store(), self.store()
        for value in (b"", b"\0", b"12", b"1.5", bytes(range(256)) * 40, b"\r\n$3\r\n", b"\xff"):
            await one.put("a/b", value)
            self.assertEqual(await other.get("a/b"), value)
        self.assertIsNone(await one.get("a"))
        self.assertIsNone(await one.get("a/b/c"))

    async def test_the_largest_value(self: Any) -> None:
        """It is kept; a larger one is refused, and changes nothing."""
        store = self.store()
        await store.put("a", b"\xaa" * LARGEST_VALUE)
        for change in (store.put, store.create):
            error = await self.fails(change("a", b"b" * (LARGEST_VALUE + 1)), ConfigurationError)
            self.assertIn("the value of a has 1048577 bytes", str(error))
        self.assertEqual(await store.get("a"), b"\xaa" * LARGEST_VALUE)

    async def test_names_are_not_mixed_up(self: Any) -> None:
        """Each has its own value, also where one is the beginning of another."""
        store = self.store()
        for name in NAMES:
            self.assertTrue(await store.create(name, name.encode()))
            self.assertIsNotNone(await store.lease(name, 30))
        other = self.store()
        for name in NAMES:
            self.assertEqual(await other.get(name), name.encode())
        self.assertEqual(list(await other.names("")), sorted(NAMES))
        for name in NAMES:
            await other.delete(name)
            self.assertIsNone(await store.get(name))
        self.assertEqual(list(await store.names("")), [])

    async def test_names_by_prefix(self: Any) -> None:
        """A prefix is text, and no pattern; it need not be whole words."""
        store = self.store()
        for name in NAMES:
            await store.put(name, b"")
        for prefix in ("a", "a/", "a/b", "a/b.", "certificates/*", "certificates/E", "x", "", "*"):
            self.assertEqual(
                list(await store.names(prefix)),
                sorted(name for name in NAMES if name.startswith(prefix)),
            )
        for prefix in ("[a]", "../", "/", "\0", "%", "a\n", "ä"):
            self.assertEqual(list(await store.names(prefix)), [])

    async def test_what_is_no_name(self: Any) -> None:
        """It is refused everywhere, in one sentence."""
        store = self.store()
        for name in NO_NAMES:
            for asked in (
                store.get(name),
                store.put(name, b""),
                store.create(name, b""),
                store.delete(name),
                store.lease(name, 1),
            ):
                error = await self.fails(asked, ConfigurationError)
                self.assertIn("is no name for a value in a store", str(error))
                self.assertLess(len(str(error)), 900)

    async def test_one_creates(self: Any) -> None:
        """Of several who create a value, one does, and its value is there."""
        stores = [self.store() for _ in range(4)]
        asked = [store.create("a", b"%d" % n) for n, store in enumerate(stores)]
        made = [await each for each in asked]
        self.assertEqual(sorted(made), [False, False, False, True])
        self.assertEqual(await stores[0].get("a"), b"%d" % made.index(True))
        await stores[0].delete("a")
        self.assertTrue(await stores[1].create("a", b"again"))

    async def test_delete_nothing(self: Any) -> None:
        """That is no error."""
        store = self.store()
        await store.delete("not/there")
        await store.put("a", b"")
        await store.delete("a")
        await store.delete("a")

    async def test_one_has_the_lease(self: Any) -> None:
        """Of several who want a lease, one gets it, and nobody else until it is given back."""
        stores = [self.store() for _ in range(4)]
        for _ in range(5):
            asked = [store.lease("a", 30) for store in stores * 3]
            given = [await each for each in asked]
            held = [each for each in given if each is not None]
            self.assertEqual(len(held), 1)
            await held[0].release()

    async def test_a_lease_expires(self: Any) -> None:
        """Another gets it, and the one who had it can do nothing about that."""
        one, other = self.store(), self.store()
        lost = await one.lease("a", self.lease_seconds)
        self.assertIsNone(await other.lease("a", self.lease_seconds))
        await self.until_expired("a")
        held = await other.lease("a", 30)
        self.assertIsNotNone(held)
        self.assertFalse(await lost.extend(30))
        await lost.release()
        self.assertIsNone(await one.lease("a", 30))
        self.assertTrue(await held.extend(30))
        await held.release()
        self.assertFalse(await held.extend(30))
        self.assertIsNotNone(await one.lease("a", 30))

    async def test_a_lost_lease_stays_lost(self: Any) -> None:
        """Also where nobody else wants it."""
        store = self.store()
        lost = await store.lease("a", self.lease_seconds)
        await self.until_expired("a")
        self.assertFalse(await lost.extend(30))
        self.assertFalse(await lost.extend(30))
        await lost.release()
        await lost.release()
        self.assertIsNotNone(await self.store().lease("a", 30))

    async def test_a_lease_is_extended(self: Any) -> None:
        """It ends later."""
        one, other = self.store(), self.store()
        lease = await one.lease("a", self.lease_seconds)
        self.assertTrue(await lease.extend(3000))
        await other.lease("b", self.lease_seconds)
        await self.until_expired("b")
        self.assertIsNone(await other.lease("a", 30))
        self.assertTrue(await lease.extend(30))

    async def test_the_length_of_a_lease(self: Any) -> None:
        """It must be one, and not for ever."""
        store = self.store()
        held = await store.lease("held", 30)
        for seconds in (0, -1, float("nan"), float("inf"), LONGEST_LEASE + 1):
            for asked in (store.lease("a", seconds), held.extend(seconds)):
                error = await self.fails(asked, ConfigurationError)
                self.assertIn(f"a lease cannot last {seconds} seconds", str(error))
        self.assertIsNotNone(await store.lease("a", LONGEST_LEASE))

    async def test_all_who_watch_are_told(self: Any) -> None:
        """Of the changes of others and of their own."""
        one, other = self.store(), self.store()
        told: list[list[str]] = [[], [], []]
        stops = [
            store.watch(each.append) for store, each in zip((one, other, other), told, strict=True)
        ]
        await self.until_heard(one, other, told)
        await one.put("a", b"1")
        await self.until(lambda: all("a" in each for each in told))
        await other.create("b/*", b"")
        await self.until(lambda: all("b/*" in each for each in told))
        await one.delete("a")
        await self.until(lambda: all("a" in each[each.index("b/*") :] for each in told))
        for each in told:
            each.clear()
        self.assertFalse(await one.create("b/*", b""))
        await one.delete("a")
        stops[1]()
        stops[1]()
        await other.put("c", b"")
        await self.until(lambda: "c" in told[0] and "c" in told[2])
        self.assertEqual([set(each) for each in told], [{"c"}, set(), {"c"}])

    async def until_heard(self: Any, one: Store, other: Store, told: list[list[str]]) -> None:
        """Wait until those who watch are sure to be told."""

    async def test_one_who_watches_fails(self: Any) -> None:
        """The others are told, and it is logged."""
        store = self.store()
        told: list[str] = []
        store.watch(lambda name: 1 // 0)
        store.watch(told.append)
        await self.until_heard(store, store, [told])
        await store.put("a", b"")
        await self.until(lambda: "a" in told)
        self.assertNotEqual(self.flushLoggedErrors(ZeroDivisionError), [])

    async def test_leases_end_with_the_store(self: Any) -> None:
        """Nobody has to wait for one who has closed its store."""
        one, other = self.store(), self.store()
        lease = await one.lease("a", 30)
        gone = await one.lease("b", 30)
        await gone.release()
        await one.close()
        self.assertIsNotNone(await other.lease("a", 30))
        self.assertFalse(await lease.extend(30))
        await lease.release()

    async def test_a_closed_store(self: Any) -> None:
        """It says so, tells nobody, and leaves nothing behind."""
        store = self.store()
        told: list[str] = []
        stop = store.watch(told.append)
        await self.until_heard(store, store, [told])
        await store.put("a", b"")
        await store.close()
        told.clear()
        await store.close()
        for asked in (
            store.get("a"),
            store.put("a", b""),
            store.create("a", b""),
            store.delete("a"),
            store.names(""),
            store.lease("a", 1),
        ):
            self.assertIn("is closed", str(await self.fails(asked, StoreUnavailable)))
        stop()
        store.watch(told.append)()
        await self.store().put("a", b"")
        self.assertEqual(told, [])

    async def test_anything_in_any_order(self: Any) -> None:
        """Two fronts agree with a dictionary, whatever they do."""
        chance = random.Random(5)
        stores = [self.store(), self.store()]
        expected: dict[str, bytes] = {}
        for _ in range(300):
            store = chance.choice(stores)
            name = chance.choice(NAMES)
            value = chance.randbytes(chance.choice((0, 1, 40, 4000)))
            match chance.randrange(5):
                case 0:
                    await store.put(name, value)
                    expected[name] = value
                case 1:
                    made = await store.create(name, value)
                    self.assertEqual(made, name not in expected)
                    expected.setdefault(name, value)
                case 2:
                    await store.delete(name)
                    expected.pop(name, None)
                case 3:
                    self.assertEqual(await store.get(name), expected.get(name))
                case 4:
                    prefix = name[: chance.randrange(len(name))]
                    self.assertEqual(
                        list(await store.names(prefix)),
                        sorted(each for each in expected if each.startswith(prefix)),
                    )

    async def fails(self: Any, asked: Awaitable[Any], kind: type[Exception]) -> Exception:
        """The exception with which this fails, whose message is one line."""
        try:
            result = await asked
        except kind as error:
            self.assertNotIn("\n", str(error))
            return error
        raise self.failureException(f"{kind.__name__} was not raised, but {result!r} returned")


class DirectoryStoreTests(StoreContract, TestCase):
    """A directory, with a clock that stands still until it is moved."""

    lease_seconds = 60.0

    def setUp(self) -> None:
        """The directory is made by the store."""
        self.path = Path(self.mktemp())
        self.clock = Clock()

    def store(self) -> Store:
        """Another front's."""
        return DirectoryStore(self.clock, str(self.path), now=lambda: 1e9 + self.clock.seconds())

    async def until_expired(self, name: str) -> None:
        """Move the clock."""
        self.clock.advance(self.lease_seconds + GRACE)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Move the clock by less than a second."""
        for _ in range(9):
            self.clock.advance(0.1)
        self.assertTrue(holds())

    async def test_a_closed_store(self) -> None:
        """As for all, and there is nothing left for the reactor to call."""
        await super().test_a_closed_store()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RedisStoreTests(StoreContract, TestCase):
    """A real redis-server."""

    # What is asked while it lasts has to be answered meanwhile, also by a machine with much to do.
    lease_seconds = 3.0
    timeout = 300

    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        """It is started; its keys are made at little cost."""
        self.patch(sealing, "_COST", 2)
        self.server = await RedisServer.started(self)

    def store(self) -> Store:
        """Another front's."""
        store = RedisStore(reactor, self.server.url, passphrase=b"passphrase")
        self.addCleanup(store.close)
        return store

    async def until_expired(self, name: str) -> None:
        """The server has a clock of its own: ask until it has forgotten."""
        store = self.store()
        assert isinstance(store, RedisStore)
        await self.become(lambda: store._ask("EXISTS", f"bioconn:lease:{name}"), 0)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Look now and then."""
        end = reactor.seconds() + PATIENCE
        while not holds():
            if reactor.seconds() > end:
                self.fail(f"it was not so within {PATIENCE:g} seconds")
            await deferLater(reactor, 0.01)

    async def until_heard(self, one: Store, other: Store, told: list[list[str]]) -> None:
        """All are told the empty string first."""
        await self.until(lambda: all("" in each for each in told))
        for each in told:
            each.clear()

    async def become(self, ask: Callable[[], Awaitable[Any]], wanted: Any) -> None:
        """Ask until this is the answer."""
        end = reactor.seconds() + PATIENCE
        while await ask() != wanted:
            if reactor.seconds() > end:
                self.fail(f"it did not become {wanted!r}")
            await deferLater(reactor, 0.01)


class NameTests(SynchronousTestCase):
    """What is a name."""

    def test_names(self) -> None:
        """Those above are, and the others are not."""
        self.assertEqual([name for name in NAMES if not is_name(name)], [])
        self.assertEqual([name for name in NO_NAMES if is_name(name)], [])

    @given(st.text(max_size=20) | st.text("ab./*:%\n", max_size=12))
    @settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
    def test_a_name_stays_below(self, name: str) -> None:
        """No name leads out of the directory of its store."""
        if is_name(name):
            check_name(name)
            self.assertTrue(name.isascii())
            self.assertFalse(any(word.startswith(".") or not word for word in name.split("/")))
        else:
            self.assertRaises(ConfigurationError, check_name, name)


class WatchersTests(SynchronousTestCase):
    """Those who are told."""

    def test_one_that_is_removed_while_others_are_told(self) -> None:
        """It is told no more."""
        watchers = Watchers()
        told: list[str] = []
        removes: list[Callable[[], None]] = []
        watchers.add(lambda name: [remove() for remove in removes])
        removes.append(watchers.add(told.append))
        watchers.tell("a")
        self.assertEqual(told, [])
        self.assertEqual(len(watchers), 1)

    def test_the_same_one_twice(self) -> None:
        """Each time counts."""
        watchers = Watchers()
        told: list[str] = []
        remove = watchers.add(told.append)
        watchers.add(told.append)
        remove()
        watchers.tell("a")
        self.assertEqual(told, ["a"])
