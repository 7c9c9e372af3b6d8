"""What a store has to itself that is a directory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.certificates.test_store_contract import NAMES
from twisted_bioconn.certificates.directory_store import DirectoryStore
from twisted_bioconn.certificates.store import StoreUnavailable, ValueUnreadable
from twisted_bioconn.errors import ConfigurationError

NOW = 1e9


class DirectoryCase(SynchronousTestCase):
    """A directory, and a clock for all who share it."""

    def setUp(self) -> None:
        """The stores make the directory."""
        self.path = Path(self.mktemp()).absolute()
        self.clock = Clock()

    def store(self, skew: float = 0.0) -> DirectoryStore:
        """Another machine's, whose clock is so many seconds fast."""
        return DirectoryStore(
            self.clock, str(self.path), now=lambda: NOW + skew + self.clock.seconds()
        )

    def result(self, deferred: Deferred[Any]) -> Any:
        """What a Deferred has."""
        return self.successResultOf(deferred)

    def unavailable(self, deferred: Deferred[Any]) -> str:
        """The sentence with which a Deferred has failed."""
        return str(self.failureResultOf(deferred, StoreUnavailable).value)

    def files(self) -> list[str]:
        """All files there are."""
        return sorted(
            os.path.relpath(os.path.join(folder, file), self.path)
            for folder, _, files in os.walk(self.path)
            for file in files
        )


class FileTests(DirectoryCase):
    """What is on the disk."""

    def test_modes(self) -> None:
        """All of it is for its owner alone, whatever the umask."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.path = self.path / "deep" / "er"
        store = self.store()
        self.result(store.put("a/b/c", b"secret"))
        self.result(store.lease("a/d", 10))
        modes = {
            os.path.relpath(path, self.path): path.stat().st_mode & 0o7777
            for path in (self.path.parent, self.path, *self.path.rglob("*"))
        }
        self.assertEqual(
            modes,
            {
                "..": 0o700,
                ".": 0o700,
                "a": 0o700,
                "a/b": 0o700,
                "a/b/c.value": 0o600,
                "a/d.lease": 0o700,
                "a/d.lease/1": 0o600,
            },
        )

    def test_file_names(self) -> None:
        """An operator finds what is looked for, and no name is too long or strange for a disk."""
        store = self.store()
        for name in NAMES:
            self.result(store.put(name, b""))
        files = self.files()
        self.assertIn("certificates/example.org.value", files)
        self.assertIn("certificates/%2A.example.org.value", files)
        self.assertIn("certificates/2001%3Adb8%3A%3A1.value", files)
        self.assertIn("accounts/ops@example.org.value", files)
        self.assertEqual(len(files), len(NAMES))
        for file in files:
            self.assertRegex(file, r"\A[A-Za-z0-9._@%/-]+\Z")
            self.assertLess(max(map(len, file.split("/"))), 240)

    def test_one_value_or_all(self) -> None:
        """A file that cannot be read is told from a disk that cannot."""
        store = self.store()
        self.result(store.put("a", b""))
        opened = os.open
        wrong = errno.EACCES

        def refuse(path: str, *arguments: Any) -> int:
            if path.endswith("a.value"):
                raise OSError(wrong, os.strerror(wrong), path)
            return opened(path, *arguments)

        self.patch(os, "open", refuse)
        for one in (errno.EACCES, errno.EISDIR, errno.EFBIG, errno.ELOOP):
            wrong = one
            error = self.failureResultOf(store.get("a"), ValueUnreadable).value
            self.assertEqual(
                str(error), f"{self.path}/a.value cannot be used: {os.strerror(wrong)}"
            )
            self.assertRaises(ValueUnreadable, store.get_now, "a")
        for one in (errno.EIO, errno.ENOTCONN, errno.EMFILE):
            wrong = one
            failure = self.failureResultOf(store.get("a"), StoreUnavailable)
            self.assertIsNone(failure.check(ValueUnreadable))

    def test_get_now(self) -> None:
        """It needs no Deferred."""
        store = self.store()
        self.assertIsNone(store.get_now("a"))
        self.result(store.put("a", b"1"))
        self.assertEqual(store.get_now("a"), b"1")
        self.assertRaises(ConfigurationError, store.get_now, "../a")

    def test_files_of_others(self) -> None:
        """They are no values, and do no harm."""
        store = self.store()
        self.result(store.put("a", b""))
        for file in ("README", ".b.value", "b c.value", "%62.value", "..value", "x%2fy.value"):
            (self.path / file).write_text("?")
        (self.path / "folder.value").mkdir()
        (self.path / "link.value").symlink_to(self.path / "a.value")
        (self.path / "loop").symlink_to(self.path)
        (self.path / "lost+found").mkdir(mode=0)
        self.assertEqual(self.result(store.names("")), ["a"])
        self.assertIn("folder.value", self.unavailable(store.get("folder")))

    def test_what_a_crash_has_left(self) -> None:
        """It is removed, once nobody can be writing it any more."""
        store = self.store()
        self.result(store.put("a/b", b""))
        self.result(store.lease("a/b", 10))
        left = [self.path / "a" / ".b.value.abcd_123", self.path / "a/b.lease" / ".1.abcd_123"]
        kept = [self.path / "a" / ".b.value", self.path / "a" / ".profile", self.path / "a/x.value"]
        for file in (*left, *kept):
            file.write_text("secret")
            os.utime(file, (NOW - 7200, NOW - 7200))
        young = self.path / "a" / ".b.value.abcd_124"
        young.write_text("secret")
        os.utime(young, (NOW - 60, NOW - 60))
        self.store()
        self.assertEqual([file.exists() for file in left], [False, False])
        self.assertEqual([file.exists() for file in (*kept, young)], [True] * 4)

    def test_no_directory(self) -> None:
        """What cannot be made is said as the store is made."""
        self.path.write_text("a file")
        error = self.assertRaises(ConfigurationError, self.store)
        self.assertEqual(str(error), f"the directory {self.path} cannot be made: Not a directory")
        self.path = self.path / "below"
        error = self.assertRaises(ConfigurationError, self.store)
        self.assertIn("cannot be made: Not a directory", str(error))

    def test_a_full_disk(self) -> None:
        """It is named, what was there stays, and no part of what was not written."""
        store = self.store()
        self.result(store.put("a", b"before"))

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self.patch(os, "fsync", full)
        for asked in (store.put("a", b"after"), store.create("b", b""), store.lease("c", 1)):
            self.assertRegex(
                self.unavailable(asked),
                rf"\A{self.path}/\S+ cannot be written: No space left on device\Z",
            )
        self.assertEqual(self.result(store.get("a")), b"before")
        self.assertEqual(self.files(), ["a.value"])

    def test_a_disk_that_can_only_be_read(self) -> None:
        """It can be read."""
        store = self.store()
        self.result(store.put("a/b", b"1"))

        def read_only(*arguments: object, **options: object) -> None:
            path = options.get("dir") or arguments[0]
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        self.patch(tempfile, "mkstemp", read_only)
        self.patch(os, "mkdir", read_only)
        self.patch(os, "unlink", read_only)
        for asked in (
            store.put("a/b", b"2"),
            store.put("c/d", b"2"),
            store.create("a/c", b""),
            store.delete("a/b"),
            store.lease("a", 1),
        ):
            said = self.unavailable(asked)
            self.assertIn("Read-only file system", said)
            self.assertIn(str(self.path), said)
        self.assertEqual(self.result(store.get("a/b")), b"1")
        self.assertEqual(self.result(store.names("")), ["a/b"])

    def test_what_cannot_be_read(self) -> None:
        """A value that grew, and one in a directory that is a file now."""
        store = self.store()
        self.result(store.put("a", b""))
        with (self.path / "a.value").open("wb") as file:
            file.truncate(2 * 1024 * 1024)
        self.assertEqual(
            self.unavailable(store.get("a")), f"{self.path}/a.value cannot be used: File too large"
        )
        (self.path / "b").write_text("")
        self.assertIn(f"{self.path}/b", self.unavailable(store.get("b/c")))
        self.assertIn(f"{self.path}/b", self.unavailable(store.put("b/c", b"")))
        os.mkfifo(self.path / "pipe.value")
        self.assertEqual(self.result(store.get("pipe")), b"")  # and no wait for a writer

    def test_a_file_that_another_machine_replaces(self) -> None:
        """NFS says so, and it is read again; not for ever."""
        store = self.store()
        self.result(store.put("a", b"1"))
        stale = [3]
        opened = os.open

        def open_stale(path: str, *arguments: Any) -> int:
            if stale[0] and path.endswith("a.value"):
                stale[0] -= 1
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
            return opened(path, *arguments)

        self.patch(os, "open", open_stale)
        self.assertEqual(self.result(store.get("a")), b"1")
        stale[0] = 100
        self.assertIn("cannot be used: Stale file handle", self.unavailable(store.get("a")))

    def test_it_is_on_the_disk(self) -> None:
        """The value before its name, and the name before anybody is told."""
        store = self.store()
        forced: list[str] = []
        fsync = os.fsync

        def noted(descriptor: int) -> None:
            forced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
            fsync(descriptor)

        if not os.path.isdir("/proc/self/fd"):
            raise SkipTest("there is no /proc here to tell which file is forced to the disk")
        self.result(store.put("a/b", b""))
        self.patch(os, "fsync", noted)
        self.result(store.put("a/b", b""))
        self.assertRegex(" ".join(forced), r"\A\.b\.value\.\S{8} a\Z")


class WatchTests(DirectoryCase):
    """What is told of changes."""

    def setUp(self) -> None:
        """One watches."""
        super().setUp()
        self.watching = self.store()
        self.told: list[str] = []
        self.stop = self.watching.watch(self.told.append)

    def take(self, seconds: float = 0.9) -> list[str]:
        """What is told in that time."""
        self.clock.pump([0.1] * round(seconds * 10))
        told, self.told[:] = list(self.told), []
        return told

    def test_each_change_once(self) -> None:
        """And nothing where there is no change."""
        store = self.store()
        self.assertEqual(self.take(), [])
        self.result(store.put("a/b/c", b""))
        self.result(store.put("d", b""))
        self.assertEqual(self.take(), ["a/b/c", "d"])
        self.result(store.put("d", b""))
        self.assertEqual(self.take(), ["d"])
        self.result(store.delete("a/b/c"))
        self.assertEqual(self.take(), ["a/b/c"])
        self.assertEqual(self.take(10), [])

    def test_own_changes(self) -> None:
        """They are told once, and not before the change is over."""
        self.result(self.watching.put("a", b""))
        self.result(self.watching.put("a", b"1"))
        self.result(self.watching.put("b", b""))
        self.result(self.watching.delete("b"))
        self.assertEqual(self.told, [])
        self.assertEqual(self.take(5), ["a", "b"])

    def test_within_a_tick(self) -> None:
        """A file system whose clock has two seconds to a tick hides no change for long."""
        store = self.store()
        stat = os.stat

        def coarse(path: Any, **options: Any) -> Any:
            found = stat(path, **options)

            class Status:
                st_mtime_ns = 1
                st_mode = found.st_mode

            return Status if S_ISDIR(found.st_mode) else found

        self.take()
        self.patch(os, "stat", coarse)
        self.take()
        self.result(store.put("a", b""))
        self.assertEqual(self.take(3), ["a"])

    def test_what_has_not_changed_is_not_read(self) -> None:
        """A look costs a question for each directory, and no more."""
        store = self.store()
        for number in range(20):
            self.result(store.put(f"a/{number}", b""))
            self.result(store.put(f"b/{number}", b""))
        self.take(10)
        read: list[str] = []
        scandir = os.scandir

        def noted(path: str) -> Any:
            read.append(os.path.relpath(path, self.path))
            return scandir(path)

        self.patch(os, "scandir", noted)
        self.take(10)
        self.assertEqual(read, [])
        self.result(store.put("a/1", b""))
        self.assertEqual(self.take(10), ["a/1"])
        self.assertEqual(read, ["a", "a"])

    def test_a_look_that_takes_long(self) -> None:
        """It takes no more than a twentieth of the time while nothing changes."""
        looks: list[float] = []
        took = 0.0
        look = self.watching._tree.look

        def slow() -> Any:
            looks.append(self.clock.seconds())
            self.clock.rightNow += took
            return look()

        self.patch(self.watching._tree, "look", slow)
        for took, expected in ((0.0, 0.5), (0.02, 0.5), (0.1, 2.0), (1.0, 20.0), (50.0, 60.0)):
            looks.clear()
            while len(looks) < 4:
                self.clock.advance(0.05)
            for before, after in pairwise(looks[1:]):
                self.assertApproximates(after - before - took, expected, 0.06)
        # What has changed is told, and the next look is soon.
        took = 1.0
        looks.clear()
        self.result(self.store().put("a", b""))
        while len(looks) < 3:
            self.clock.advance(0.05)
        self.assertIn("a", self.told)
        gaps = [after - before - took for before, after in pairwise(looks)]
        self.assertApproximates(gaps[0], 0.5, 0.06)
        self.assertApproximates(gaps[1], 20.0, 0.06)

    def test_leases_are_no_changes(self) -> None:
        """Nobody is told of them."""
        lease = self.result(self.store().lease("a/b", 10))
        self.result(lease.release())
        self.assertEqual(self.take(), [])

    def test_a_disk_that_is_gone_for_a_while(self) -> None:
        """It is said once that it is gone, and once that it is back; something may be missed."""
        self.take()
        away = self.path.with_suffix(".away")
        with capturedLogs() as logs:
            self.path.rename(away)
            self.assertEqual(self.take(20), [])
            away.rename(self.path)
            self.result(self.store().put("a", b""))
            self.assertEqual(self.take(), [""])
        said = [
            (event["log_level"], event.get("error") or event.get("path"))
            for event in logs
            if event["log_namespace"].endswith("DirectoryStore")
        ]
        self.assertEqual([level for level, _ in said], [LogLevel.warn, LogLevel.info])
        self.assertEqual(str(said[0][1]), f"{self.path} cannot be used: No such file or directory")
        self.result(self.store().put("a", b""))
        self.assertEqual(self.take(), ["a"])

    def test_a_directory_that_vanishes(self) -> None:
        """Its values are gone, and the rest is there."""
        self.result(self.watching.put("a/b", b""))
        self.result(self.watching.put("c", b""))
        self.take()
        (self.path / "a" / "b.value").unlink()
        (self.path / "a").rmdir()
        self.assertEqual(self.take(), ["a/b"])
        self.assertEqual(self.result(self.watching.names("")), ["c"])

    def test_nobody_watches_any_more(self) -> None:
        """Nothing is left for the reactor to call, and one may watch again."""
        self.result(self.watching.put("a", b""))
        self.take()
        self.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.result(self.store().put("a", b""))
        self.watching.watch(self.told.append)
        self.assertEqual(self.take(), [])
        self.result(self.store().put("a", b""))
        self.assertEqual(self.take(), ["a"])


class ModelTests(DirectoryCase):
    """A directory and a dictionary are asked the same."""

    def test_model(self) -> None:
        """Two fronts, of which one watches, and one may be made anew."""
        case = self
        self.patch(os, "fsync", lambda descriptor: None)

        class Model(RuleBasedStateMachine):
            names = st.sampled_from(NAMES)

            @initialize()
            def begin(self) -> None:
                case.path = Path(case.mktemp()).absolute()
                self.stores = [case.store(), case.store()]
                self.expected: dict[str, bytes] = {}
                self.seen: dict[str, bytes | None] = {}
                self.stores[0].watch(self.told)

            def told(self, name: str) -> None:
                self.seen[name] = self.stores[0].get_now(name)

            @rule(which=st.integers(0, 1), name=names, value=st.binary(max_size=20))
            def put(self, which: int, name: str, value: bytes) -> None:
                case.result(self.stores[which].put(name, value))
                self.expected[name] = value

            @rule(which=st.integers(0, 1), name=names, value=st.binary(max_size=20))
            def create(self, which: int, name: str, value: bytes) -> None:
                made = case.result(self.stores[which].create(name, value))
                assert made == (name not in self.expected)
                self.expected.setdefault(name, value)

            @rule(which=st.integers(0, 1), name=names)
            def delete(self, which: int, name: str) -> None:
                case.result(self.stores[which].delete(name))
                self.expected.pop(name, None)

            @rule()
            def restart(self) -> None:
                case.result(self.stores[1].close())
                self.stores[1] = case.store()

            @rule(seconds=st.sampled_from([0.1, 0.4, 1.0, 5.0]))
            def wait(self, seconds: float) -> None:
                case.clock.pump([0.1] * round(seconds * 10))

            @rule()
            def one_who_watches_knows_all(self) -> None:
                case.clock.pump([0.1] * 30)
                known = {name: value for name, value in self.seen.items() if value is not None}
                assert known == self.expected

            @invariant()
            def all_is_there(self) -> None:
                if hasattr(self, "expected"):
                    for store in self.stores:
                        assert case.result(store.names("")) == sorted(self.expected)

            def teardown(self) -> None:
                for store in getattr(self, "stores", ()):
                    case.result(store.close())

        Model.TestCase.settings = settings(
            max_examples=15,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        outcome = Model.TestCase("runTest").run()
        assert outcome is not None
        self.assertEqual([text for _, text in outcome.failures + outcome.errors], [])


WRITER = """
import sys
from twisted.internet.task import Clock
from twisted_bioconn.certificates.directory_store import DirectoryStore
store = DirectoryStore(Clock(), sys.argv[1])
print("ready", flush=True)
while True:
    for byte in (b"a", b"b"):
        store.put("value", byte * 100_000)
        store.lease("lease", 0.001)
        store.create("made", byte * 100_000)
        store.delete("made")
"""


class CrashTests(DirectoryCase):
    """A process that writes is killed."""

    def test_killed_while_it_writes(self) -> None:
        """A reader sees the one or the other value, whole, and the store goes on."""
        whole = {b"a" * 100_000, b"b" * 100_000}
        for _ in range(3):
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(self.path)], stdout=subprocess.PIPE
            )
            try:
                assert writer.stdout is not None
                self.assertEqual(writer.stdout.readline(), b"ready\n")
                store = self.store()
                seen = {store.get_now(name) for _ in range(300) for name in ("value", "made")}
            finally:
                writer.kill()
                writer.communicate(timeout=300)
            self.assertLessEqual(seen - {None}, whole)
            self.assertIn(self.store().get_now("value"), {None, *whole})
            self.assertIn(self.store().get_now("made"), {None, *whole})
        later = DirectoryStore(self.clock, str(self.path), now=lambda: time.time() + 4000)
        self.assertEqual([file for file in self.files() if "/." in f"/{file}"], [])
        self.assertIsNotNone(self.result(later.lease("lease", 10)))
