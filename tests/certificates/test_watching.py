"""Tests for L{twisted_bioconn.certificates.watching}."""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from tests.certificates.load_material import quiet
from tests.certificates.placed import lines, one_step_at_a_time
from twisted_bioconn.certificates import watching
from twisted_bioconn.certificates.watching import Watch, in_slices, sign

try:
    from twisted.internet import inotify
except ImportError:  # not on this system
    inotify = None  # type: ignore[assignment]

reactor: Any = global_reactor


class Oops(Exception):
    """What somebody who is told may raise."""


class Place:
    """Files in a directory of a test."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        os.makedirs(directory)

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def write(self, name: str, data: str = "") -> str:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(data)
        return path

    def link(self, target: str, name: str) -> str:
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, f"{path}.new")
        os.replace(f"{path}.new", path)
        return path


class InSlicesTests(SynchronousTestCase):
    """L{in_slices}."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.time = 0.0
        self.patch(time, "monotonic", lambda: self.time)
        self.patch(time, "time", lambda: self.time)

    def steps(self, number: int, seconds: float = 0.004) -> Iterator[int]:
        for step in range(number):
            self.time += seconds
            self.taken = step + 1
            yield step

    def test_few(self) -> None:
        self.assertIsNone(self.successResultOf(in_slices(self.clock, self.steps(2))))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_many(self) -> None:
        """The reactor has its turn at least each 10 ms."""
        done = in_slices(self.clock, self.steps(100))
        seen = [self.taken]
        while not done.called:
            call: Any = self.clock.calls.pop()
            self.assertEqual(self.clock.calls, [])
            call.func(*call.args)
            seen.append(self.taken)
        self.assertEqual(self.taken, 100)
        self.assertLessEqual(max(b - a for a, b in zip([0, *seen], seen, strict=False)), 3)

    def test_no_reactor(self) -> None:
        self.successResultOf(in_slices(None, self.steps(100)))
        self.assertEqual(self.taken, 100)

    def test_failure(self) -> None:
        """At once, or later."""

        def broken(good: int) -> Iterator[int]:
            yield from self.steps(good)
            raise Oops

        self.failureResultOf(in_slices(self.clock, broken(0)), Oops)
        done = in_slices(self.clock, broken(10))
        self.clock.advance(1)
        self.failureResultOf(done, Oops)

    def test_cancelled(self) -> None:
        done = in_slices(self.clock, self.steps(100))
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SignTests(SynchronousTestCase):
    """L{sign}."""

    def test_sign(self) -> None:
        """It tells each state of a file from the others, as far as it can be known."""
        place = Place(self.mktemp())
        path = place.write("a", "one")
        one = sign(path)
        self.assertEqual(sign(path), one)
        times = os.stat(path)
        place.write("a", "two")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns - 1))
        two = sign(path)
        self.assertNotEqual(two, one)
        os.unlink(path)
        self.assertEqual(sign(path), ())
        self.assertEqual(sign("a\0b"), ())


class PollingTests(SynchronousTestCase):
    """L{Watch} where looking is all there is."""

    def setUp(self) -> None:
        self.place = Place(self.mktemp())
        self.clock = Clock()
        self.told: list[float] = []
        self.paths = [self.place.path("a.pem")]
        self.answer: Callable[[], object] = lambda: None

    def changed(self) -> object:
        self.told.append(self.clock.seconds())
        return self.answer()

    def watch(self, **options: Any) -> Watch:
        watch = Watch(self.clock, lambda: self.paths, self.changed, **options)
        watch.start()
        self.addCleanup(watch.stop)
        return watch

    def wait(self, seconds: float) -> None:
        self.clock.pump([0.125] * int(seconds * 8))

    def test_nothing(self) -> None:
        self.place.write("a.pem", "one")
        watch = self.watch()
        self.wait(60)
        self.assertEqual(self.told, [])
        self.assertFalse(watch.uses_inotify)

    def test_changes(self) -> None:
        """Each is told once, whatever it is."""
        self.watch(interval=1, settle=0.25)
        path = self.place.path("a.pem")
        for number, change in enumerate(
            (
                lambda: self.place.write("a.pem", "one"),
                lambda: self.place.write("a.pem", "other"),
                lambda: os.chmod(path, 0),
                lambda: os.unlink(path),
                lambda: os.mkdir(path),
                lambda: self.place.write("a.pem/x", "in a directory"),
                lambda: shutil.rmtree(path),
                lambda: os.symlink("b.pem", path),
                lambda: self.place.write("b.pem", "where the link leads to"),
            ),
            1,
        ):
            # What a file is says little where two changes are in one tick of the kernel's clock.
            change()
            self.wait(5)
            expected = number if number != 8 else 7  # a link to nothing is as good as nothing
            expected = expected if number < 9 else 8
            self.assertEqual(len(self.told), expected, number)

    def test_much_to_watch(self) -> None:
        """What changes before all is watched is told."""
        self.patch(watching, "in_slices", one_step_at_a_time)
        self.watch(interval=1)
        self.place.write("a.pem", "one")
        self.wait(3)
        self.assertEqual(len(self.told), 1)
        self.wait(10)
        self.assertEqual(len(self.told), 1)

    def test_settles(self) -> None:
        """It is told when no more has come for a time."""
        self.watch(interval=1, settle=0.25)
        self.place.write("a.pem", "one")
        self.wait(1)
        self.place.write("a.pem", "one, and more")
        self.wait(0.25)
        self.assertEqual(self.told, [])
        self.wait(0.25)
        self.assertEqual(self.told, [1.5])

    def test_never_settles(self) -> None:
        """It is told nevertheless, 2 seconds after the first."""
        self.watch(interval=1, settle=0.5)
        for number in range(40):
            self.place.write("a.pem", "x" * number)
            self.wait(0.125)
        self.assertEqual(self.told[0], 3.0)

    def test_busy(self) -> None:
        """It is not told again before it has done with the last."""
        waiting: Deferred[None] = Deferred()
        self.answer = lambda: waiting
        self.watch(interval=1)
        self.place.write("a.pem", "one")
        self.wait(5)
        self.place.write("a.pem", "one, and more")
        self.wait(60)
        self.assertEqual(len(self.told), 1)
        waiting.callback(None)
        self.wait(5)
        self.assertEqual(len(self.told), 2)

    def test_failure(self) -> None:
        """What comes of it is logged, and it is told of the next."""

        def broken() -> None:
            raise Oops

        self.watch(interval=1)
        for number, answer in enumerate((broken, lambda: fail(Oops())), 1):
            self.answer = answer
            self.place.write("a.pem", "x" * number)
            self.wait(5)
            self.assertEqual(len(self.told), number)
            self.assertEqual(len(self.flushLoggedErrors(Oops)), 1)

    def test_paths_fail(self) -> None:
        broken = [True]

        def paths() -> list[str]:
            if broken[0]:
                raise Oops
            return self.paths

        watch = Watch(self.clock, paths, self.changed)
        watch.start()
        self.addCleanup(watch.stop)
        self.assertEqual(len(self.flushLoggedErrors(Oops)), 1)
        broken[0] = False
        self.wait(10)
        self.place.write("a.pem", "one")
        before = len(self.told)
        self.wait(10)
        self.assertEqual(len(self.told), before + 1)

    def test_stop(self) -> None:
        """Nothing is left, whenever it is stopped; and it can be started again."""
        for eighths in range(1, 20):
            watch = Watch(self.clock, lambda: self.paths, self.changed, interval=1)
            watch.start()
            watch.start()
            self.place.write("a.pem", "x" * eighths)
            self.wait(eighths / 8)
            watch.stop()
            watch.stop()
            self.assertEqual(self.clock.getDelayedCalls(), [])
        before = len(self.told)
        watch.start()
        self.place.write("a.pem", "again")
        self.wait(5)
        self.assertEqual(len(self.told), before + 1)
        watch.stop()

    def test_stopped_while_told(self) -> None:
        """By who is told, or while it is at work, which is cancelled."""
        watch = self.watch()
        self.answer = watch.stop
        self.place.write("a.pem", "one")
        self.wait(10)
        self.assertEqual((len(self.told), self.clock.getDelayedCalls()), (1, []))
        cancelled: list[object] = []
        self.answer = lambda: Deferred(cancelled.append)
        watch.start()
        self.place.write("a.pem", "other")
        self.wait(10)
        watch.stop()
        self.assertEqual((len(cancelled), self.clock.getDelayedCalls()), (1, []))


class InotifyTests(TestCase):
    """L{Watch} with inotify."""

    timeout = 300

    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        if inotify is None:
            raise SkipTest("there is no inotify on this system")
        self.place = Place(os.path.abspath(self.mktemp()))
        self.next: Deferred[None] | None = None
        self.told = 0
        # A reactor that runs has descriptors of its own.
        return deferLater(reactor, 0).addCallback(lambda _: self.count())

    def count(self) -> None:
        # What earlier tests have left behind is closed whenever it is collected.
        gc.collect()
        self.descriptors = len(os.listdir("/proc/self/fd"))

    def changed(self) -> None:
        self.told += 1
        waiting, self.next = self.next, None
        if waiting is not None:
            waiting.callback(None)

    def watch(self, *names: str) -> Watch:
        paths = [self.place.path(name) for name in names]
        watch = Watch(reactor, lambda: paths, self.changed, settle=0.02)
        watch.start()
        self.assertTrue(watch.uses_inotify)
        self.addCleanup(self.stop, watch)
        return watch

    def stop(self, watch: Watch) -> None:
        watch.stop()
        self.assertEqual(len(os.listdir("/proc/self/fd")), self.descriptors)

    async def after(self, change: Callable[[], object]) -> None:
        """Wait until a change has been told: the looks are too seldom to tell it in time."""
        waiting: Deferred[None] = Deferred()
        self.next = waiting
        change()
        await waiting

    async def settled(self) -> None:
        """Wait until what is told twice, because the way is another, has been."""
        told = None
        while told != self.told:
            told = self.told
            await deferLater(reactor, 0.06)

    def run_all(self, watch: Watch, changes: list[Callable[[], object]]) -> Deferred[None]:
        async def run() -> None:
            for change in changes:
                await self.after(change)
                await self.settled()

        return Deferred.fromCoroutine(run())

    def test_file(self) -> Deferred[None]:
        """Whatever happens to it."""
        path = self.place.path("a.pem")
        return self.run_all(
            self.watch("a.pem"),
            [
                lambda: self.place.write("a.pem", "one"),
                lambda: self.place.write("a.pem", "two"),
                lambda: os.chmod(path, 0),
                lambda: os.unlink(path),
                lambda: os.mkdir(path),
                lambda: self.place.write("a.pem/x"),
                lambda: shutil.rmtree(path),
                lambda: os.rename(self.place.write("b", "three"), path),
            ],
        )

    def test_certbot(self) -> Deferred[None]:
        """The link, and the file that it leads to."""
        self.place.write("archive/a/1.pem", "one")
        self.place.write("archive/a/2.pem", "two")
        self.place.link("../../archive/a/1.pem", "live/a/fullchain.pem")
        return self.run_all(
            self.watch("live/a/fullchain.pem"),
            [
                lambda: self.place.link("../../archive/a/2.pem", "live/a/fullchain.pem"),
                lambda: self.place.write("archive/a/2.pem", "three"),
            ],
        )

    def test_kubernetes(self) -> Deferred[None]:
        """The link in the middle of the way, again and again."""

        def update(number: int) -> None:
            self.place.write(f"..{number}/tls.crt", str(number))
            self.place.link(f"..{number}", "..data")
            if number:
                shutil.rmtree(self.place.path(f"..{number - 1}"))

        update(0)
        self.place.link("..data/tls.crt", "tls.crt")
        return self.run_all(
            self.watch("tls.crt"),
            [
                lambda: update(1),
                lambda: update(2),
                lambda: self.place.write("..2/tls.crt", "in place"),
            ],
        )

    def test_way(self) -> Deferred[None]:
        """A directory far up is exchanged, removed, made again."""
        self.place.write("top/middle/a.pem", "one")
        self.place.write("other/middle/a.pem", "two")
        top = self.place.path("top")
        return self.run_all(
            self.watch("top/middle/a.pem"),
            [
                lambda: os.rename(top, self.place.path("away")),
                lambda: os.rename(self.place.path("other"), top),
                lambda: self.place.write("top/middle/a.pem", "three"),
                lambda: shutil.rmtree(top),
                lambda: self.place.write("top/middle/a.pem", "four"),
                lambda: self.place.write("top/middle/a.pem", "five"),
            ],
        )

    def test_parent_link(self) -> Deferred[None]:
        """A link above the file, with C{..} after it."""
        self.place.write("one/deep/x")
        self.place.write("one/a.pem", "one")
        self.place.write("two/deep/x")
        self.place.write("two/a.pem", "two")
        self.place.link("one/deep", "link")
        return self.run_all(
            self.watch("link/../a.pem"),
            [
                lambda: self.place.write("one/a.pem", "other"),
                lambda: self.place.link(self.place.path("two/deep"), "link"),
                lambda: self.place.write("two/a.pem", "other"),
            ],
        )

    def test_directory(self) -> Deferred[None]:
        """All that is in it."""
        os.mkdir(self.place.path("d"))
        return self.run_all(
            self.watch("d"),
            [
                lambda: self.place.write("d/a.pem"),
                lambda: os.rename(self.place.path("d/a.pem"), self.place.path("d/b.pem")),
                lambda: os.unlink(self.place.path("d/b.pem")),
            ],
        )

    async def test_other_files(self) -> None:
        """What is beside the way tells nothing; and what comes in one go is told once."""
        # What begins in several slices, as on a machine that others keep busy, tells once for that.
        self.patch(watching, "SLICE", 100.0)
        self.place.write("d/a.pem", "one")
        self.watch("d/a.pem")
        self.place.write("other", "x")
        self.place.write("d/other", "x")
        await deferLater(reactor, 0.1)
        self.assertEqual(self.told, 0)

        def change() -> None:
            for number in range(100):
                self.place.write("d/a.pem", str(number))

        await self.after(change)
        await self.settled()
        self.assertEqual(self.told, 1)

    def test_loop(self) -> Deferred[None]:
        """A link that leads to itself is watched as far as it goes."""
        self.place.link("a.pem", "a.pem")
        return self.run_all(
            self.watch("a.pem"),
            [lambda: os.replace(self.place.write("b"), self.place.path("a.pem"))],
        )

    async def test_hundred_changes(self) -> None:
        """Neither descriptors nor objects nor watches become more."""
        quiet(self)
        watch = self.watch("live/a.pem")

        async def swap(times: int) -> tuple[int, int, int]:
            for number in range(times):
                self.place.write(f"{number % 2}/a.pem", str(number))
                await self.after(partial(self.place.link, f"{number % 2}", "live"))
            await self.settled()
            gc.collect()
            descriptors = len(os.listdir("/proc/self/fd"))
            return descriptors, len(gc.get_objects()), len(watch._watched)

        descriptors, objects, watches = await swap(4)
        more_descriptors, more_objects, more_watches = await swap(100)
        self.assertEqual((more_descriptors, more_watches), (descriptors, watches))
        self.assertEqual(len(watch._notifier._watchpoints), watches)
        self.assertLess(more_objects - objects, 200)

    async def test_reactor_that_ends(self) -> None:
        """It closes the descriptor before the watch does, and somebody may have its number then."""
        watch = self.watch("a.pem")
        await self.settled()
        notifier = watch._notifier
        reactor.removeReader(notifier)
        notifier.connectionLost(Failure(ConnectionDone()))
        number = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(os.close, number)
        self.assertFalse(await watch._arm())
        watch.stop()
        self.assertEqual(os.fstat(number).st_rdev, os.stat(os.devnull).st_rdev)

    def test_nothing_left(self) -> None:
        """Neither a descriptor nor a delayed call."""
        before = len(reactor.getReaders())
        watch = self.watch("a.pem")
        watch.stop()
        self.assertEqual(len(reactor.getReaders()), before)
        self.assertEqual([call for call in reactor.getDelayedCalls() if "Watch" in str(call)], [])
        watch.start()

    def test_no_more_instances(self) -> None:
        """Where there are too many users, files are looked at, and that is said."""
        with (
            mock.patch.object(watching, "_Notifier", side_effect=inotify.INotifyError),
            capturedLogs() as events,
        ):
            watch = Watch(reactor, list, self.changed)
            watch.start()
        self.addCleanup(watch.stop)
        self.assertFalse(watch.uses_inotify)
        self.assertIn("fs.inotify.max_user_instances", lines(events)[0])

    def test_no_more_watches(self) -> None:
        """Where there are too many watches, too; nothing is left open."""
        with (
            mock.patch.object(watching._Notifier, "watch", side_effect=inotify.INotifyError),
            capturedLogs() as events,
        ):
            watch = Watch(reactor, lambda: [self.place.directory], self.changed)
            watch.start()
        self.addCleanup(self.stop, watch)
        self.assertFalse(watch.uses_inotify)
        self.assertIn("fs.inotify.max_user_watches", lines(events)[0])
        self.assertEqual(len(os.listdir("/proc/self/fd")), self.descriptors)

    def test_asked_not_to(self) -> None:
        watch = Watch(reactor, list, self.changed, polling=True)
        watch.start()
        self.addCleanup(self.stop, watch)
        self.assertFalse(watch.uses_inotify)
