"""The leases of a store that is a directory."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.certificates.test_directory_store import NOW, DirectoryCase
from twisted_bioconn.certificates import directory_store
from twisted_bioconn.certificates.directory_store import GRACE, DirectoryStore


class LeaseFileTests(DirectoryCase):
    """A lease in files."""

    def test_an_operator_sees_who_has_it(self) -> None:
        """Owner, host, process and end."""
        self.result(self.store().lease("a", 10))
        turn = json.loads((self.path / "a.lease" / "1").read_text())
        self.assertEqual(set(turn), {"owner", "host", "pid", "expires"})
        self.assertEqual((turn["pid"], turn["expires"]), (os.getpid(), NOW + 10))

    def test_clocks_that_differ(self) -> None:
        """A machine whose clock is fast by less than the grace does not take what is held."""
        here, fast = self.store(), self.store(GRACE - 0.1)
        lease = self.result(here.lease("a", 10))
        self.clock.advance(9.9)
        self.assertIsNone(self.result(fast.lease("a", 10)))
        self.assertTrue(self.result(lease.extend(10)))
        self.clock.advance(10.1)
        self.assertIsNotNone(self.result(fast.lease("a", 10)))
        self.assertFalse(self.result(lease.extend(10)))

    def test_a_slow_clock(self) -> None:
        """Its machine's lease is over when its own clock says so, and others wait longer."""
        here, slow = self.store(), self.store(1 - GRACE)
        lease = self.result(slow.lease("a", 10))
        self.clock.advance(10.9)
        self.assertIsNone(self.result(here.lease("a", 10)))
        self.assertIsNotNone(lease)

    def test_files_do_not_grow_in_number(self) -> None:
        """One turn's file is there."""
        store = self.store()
        for _ in range(30):
            lease = self.result(store.lease("a", 10))
            self.result(lease.extend(5))
            self.result(lease.release())
        self.assertEqual(self.files(), ["a.lease/30"])

    def test_a_damaged_turn(self) -> None:
        """It was nobody's, and neither was one that would last for years."""
        store = self.store()
        turns = [
            b"",
            b"\0" * 100,
            b"[]",
            b"{}",
            b"[" * 100_000,
            b'{"owner": "a", "host": "b", "pid": 1, "expires": 1e999}',
            b'{"owner": "a", "host": "b", "pid": 1, "expires": NaN}',
            b'{"owner": "a", "host": "b", "pid": 1, "expires": "soon"}',
            b'{"owner": "a", "host": "b", "pid": null, "expires": 1000000010}',
            b'{"owner": "a", "host": "b", "pid": 1, "expires": 2000000000}',
        ]
        for number, turn in enumerate(turns):
            folder = self.path / f"{number}.lease"
            folder.mkdir()
            (folder / "7").write_bytes(turn)
            (folder / "README").write_bytes(b"")
            self.assertIsNotNone(self.result(store.lease(str(number), 10)), turn)
            self.assertEqual(sorted(os.listdir(folder)), ["8", "README"])

    @given(st.binary(max_size=80))
    @settings(deadline=None)
    def test_any_bytes_as_a_turn(self, data: bytes) -> None:
        """They are a turn or none."""
        turn = directory_store._Turn.from_json(data)
        self.assertIn(type(turn), (directory_store._Turn, type(None)))

    def test_somebody_removes_everything(self) -> None:
        """Whoever comes then has the lease, and the one before notices."""
        store = self.store()
        lost = self.result(store.lease("a", 10))
        os.unlink(self.path / "a.lease" / "1")
        os.rmdir(self.path / "a.lease")
        held = self.result(self.store().lease("a", 10))
        self.assertFalse(self.result(lost.extend(10)))
        self.assertTrue(self.result(held.extend(10)))
        also_lost = self.result(store.lease("b", 10))
        os.unlink(self.path / "b.lease" / "1")
        os.rmdir(self.path / "b.lease")
        self.assertFalse(self.result(also_lost.extend(10)))
        self.assertIsNone(self.result(also_lost.release()))

    def test_close_on_a_broken_disk(self) -> None:
        """The leases end by themselves."""
        store = self.store()
        self.result(store.lease("a", 10))

        def broken(*arguments: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.patch(directory_store, "write_private", broken)
        self.assertIsNone(self.result(store.close()))


EXAMPLES = 1000 if os.environ.get("BIOCONN_SLOW") else 100
"""How many orders are tried."""


Turn = tuple[int, int, float]
"""Whose turn it is, how many steps it takes, and how many seconds pass before."""

SCHEDULES = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 9), st.sampled_from([0.0, 0.0, 4.0, 8.0, 70.0])),
    max_size=12,
)
ORDERS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.just(0.0)), max_size=12)


class Interleaving:
    """
    Runs callables in threads, of which one at a time makes one step: what it does on the disk.
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        self._here = threading.local()
        self.parties: list[Party] = []
        for module, name in (
            (directory_store, "create_private"),
            (directory_store, "write_private"),
            (directory_store, "read_whole"),
            (directory_store, "_turns"),
            (directory_store, "_forget"),
        ):
            case.patch(module, name, self._stepping(getattr(module, name)))

    def _stepping(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*arguments: Any) -> Any:
            party: Party | None = getattr(self._here, "party", None)
            if party is not None:
                party.pause()
            return call(*arguments)

        return stepping

    def add(self, call: Callable[[], object]) -> None:
        """Have another one run."""
        self.parties.append(Party(self._here, call))

    def run(self, schedule: Sequence[Turn], between: Callable[[float], None]) -> None:
        """
        Run all to their ends.

        @param schedule: whose turn it is; when it is at an end, all come one after another.
        @param between: called before each step with the seconds that pass.
        """
        rest = ((number, 50, 0.0) for number in range(len(self.parties)))
        for number, steps, seconds in (*schedule, *rest):
            party = self.parties[number % len(self.parties)]
            for _ in range(steps):
                if party.is_running:
                    between(seconds)
                    party.step()
                    seconds = 0.0
        between(0.0)
        for party in self.parties:
            party.join()
            if party.error is not None:
                raise party.error


class Party:
    """One thread of them."""

    def __init__(self, here: threading.local, call: Callable[[], object]) -> None:
        self.is_running = True
        self.error: Exception | None = None
        self._call = call
        self._here = here
        self._go = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Have it do its next step."""
        self._go.release()
        assert self._done.acquire(timeout=200)

    def pause(self) -> None:
        """Called in it: wait until the next step is to be done."""
        self._done.release()
        assert self._go.acquire(timeout=200)

    def join(self) -> None:
        """See that it has ended."""
        self._thread.join(200)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self._here.party = self
        assert self._go.acquire(timeout=200)
        try:
            self._call()
        except Exception as error:
            self.error = error
        self.is_running = False
        self._done.release()


class RaceTests(DirectoryCase):
    """Several go for one lease, and each step of one may come between any two of another."""

    def setUp(self) -> None:
        """What is on the disk is of no concern here."""
        super().setUp()
        self.patch(os, "fsync", lambda descriptor: None)
        self.turns = Interleaving(self)

    def holders(self, stores: Sequence[DirectoryStore]) -> int:
        """How many may believe that they have the lease."""
        return sum(
            lease._turn.expires > store._now() for store in stores for lease in store._leases
        )

    def race(self, schedule: Sequence[Turn], before: str) -> int:
        """
        Let some contend with one who had the lease and extends or releases it.

        @param before: what the one who had it does.
        @return: how many have it in the end.
        """
        self.path = Path(self.mktemp()).absolute()
        self.clock = Clock()
        stores = [self.store(), self.store(1.0), self.store(-1.0), self.store(GRACE / 2)]
        if before != "nothing":
            lease = self.result(stores[0].lease("a", 10))
        self.clock.advance(10 + GRACE + 2 if before == "expired" else 9.9)
        turns = self.turns
        turns.parties = []

        def contend(store: DirectoryStore, gives_back: bool) -> None:
            got = self.result(store.lease("a", 60))
            if got is not None and gives_back:
                self.result(got.release())

        if before == "extend":
            turns.add(lambda: self.result(lease.extend(60)))
        elif before == "release":
            turns.add(lambda: self.result(lease.release()))
        for number, store in enumerate(stores[1:] * 2):
            gives_back = number % 2 == 0 and before != "expired"
            turns.add(partial(contend, store, gives_back))

        def between(seconds: float) -> None:
            self.assertLessEqual(self.holders(stores), 1)
            self.clock.advance(seconds)

        turns.run(schedule, between)
        return self.holders(stores)

    @given(SCHEDULES, st.sampled_from(["extend", "release", "expired", "nothing"]))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    # The one who extends sleeps before it writes, until another has taken over.
    @example([(0, 3, 0.0), (2, 20, 8.0), (0, 9, 0.0)], "extend")
    # One who has seen that the lease has ended sleeps while it is extended after all.
    @example([(0, 3, 0.0), (2, 3, 8.0), (0, 9, 0.0), (2, 9, 0.0)], "extend")
    # One who has seen no turn, or one that has ended, sleeps until the next has come and gone.
    @example([(3, 2, 0.0), (0, 30, 0.0), (1, 30, 0.0), (3, 30, 0.0)], "nothing")
    @example([(0, 9, 0.0), (4, 3, 0.0), (1, 30, 0.0), (2, 30, 0.0), (4, 30, 0.0)], "release")
    def test_never_two(self, schedule: list[Turn], before: str) -> None:
        """Whatever the order, and whatever time passes between two steps."""
        self.assertLessEqual(self.race(schedule, before), 1)

    @given(ORDERS)
    @settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    def test_one_takes_over(self, schedule: list[Turn]) -> None:
        """Where no time passes, one of those who want an expired lease has it in the end."""
        self.assertEqual(self.race(schedule, "expired"), 1)


CONTENDER = """
import os, sys
from twisted.internet.task import Clock
from twisted_bioconn.certificates.directory_store import DirectoryStore
store = DirectoryStore(Clock(), sys.argv[1])
got = []
for _ in range(int(sys.argv[2])):
    store.lease("a", 3600).addCallback(got.append)
    lease = got.pop()
    if lease is None:
        continue
    os.close(os.open(sys.argv[1] + "/alone", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    number = int(store.get_now("count") or b"0")
    store.put("count", b"%d" % (number + 1))
    os.unlink(sys.argv[1] + "/alone")
    print("held", flush=True)
    lease.release()
"""


class ProcessTests(TestCase):
    """Real processes."""

    timeout = 300

    async def test_processes_contend(self) -> None:
        """What each does while it has the lease, it does alone, and nothing of it is lost."""
        path = Path(self.mktemp()).absolute()
        store = DirectoryStore(Clock(), str(path))
        running = [
            getProcessOutputAndValue(
                sys.executable, ["-c", CONTENDER, str(path), "200"], os.environ, os.getcwd()
            )
            for _ in range(3)
        ]
        held = 0
        for each in running:
            out, err, status = await each
            self.assertEqual((err, status), (b"", 0))
            held += out.count(b"held")
        self.assertGreater(held, 10)
        self.assertEqual(store.get_now("count"), b"%d" % held)
