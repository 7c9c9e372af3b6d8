"""Tests for L{twisted_bioconn.certificates.directory}: what becomes of it as files change."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from unittest import SkipTest

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from twisted.logger import capturedLogs

from tests.certificates.load_material import quiet
from tests.certificates.material import BEGIN, DAY, SECRET, key_pem
from tests.certificates.placed import (
    STEP,
    asking,
    certified,
    lines,
    one_step_at_a_time,
    private_pem,
)
from tests.certificates.test_directory import DirectoryCase
from twisted_bioconn.certificates import directory, files
from twisted_bioconn.certificates.directory import DirectorySource
from twisted_bioconn.certificates.loading import read_file
from twisted_bioconn.certificates.source import Choice

NAME = "a.example.org"


class ReloadCase(DirectoryCase):
    """A test with a certificate that becomes another, and one beside it that stays."""

    def setUp(self) -> None:
        super().setUp()
        self.old, self.new, self.other = (
            certified(NAME),
            certified(NAME, "new.example.org"),
            certified("z.example.org"),
        )
        self.bundle("z.pem", self.other)

    def assertOld(self, source: DirectorySource) -> None:
        self.assertServed(source, NAME, self.old)
        self.assertServed(source, "z.example.org", self.other)

    def assertNew(self, source: DirectorySource) -> None:
        self.assertServed(source, NAME, self.new)
        self.assertServed(source, "new.example.org", self.new)
        self.assertServed(source, "z.example.org", self.other)
        self.assertEqual(self.errors(source), {})


class RenewalTests(ReloadCase):
    """What programs do when they have a new certificate."""

    def test_certbot(self) -> None:
        """At whatever link it is."""
        self.certbot(NAME, self.old, 1, "live")
        source = self.source()
        for part in ("privkey", "cert", "chain", "fullchain"):
            name = f"live/{NAME}/{part}.pem"
            os.unlink(self.path(name))
            self.reload(source)
            self.assertOld(source)
            self.link(f"../../archive/{NAME}/{part}1.pem", name)
            self.reload(source)
        self.write(f"archive/{NAME}/privkey2.pem", private_pem(self.new))
        self.write(f"archive/{NAME}/fullchain2.pem", self.new.chain_pem())
        self.reload(source)
        self.assertOld(source)
        self.link(f"../../archive/{NAME}/privkey2.pem", f"live/{NAME}/privkey.pem")
        self.reload(source)
        self.assertOld(source)
        self.link(f"../../archive/{NAME}/fullchain2.pem", f"live/{NAME}/fullchain.pem")
        self.reload(source)
        self.assertNew(source)

    def test_kubernetes(self) -> None:
        self.secret(self.old, 1, NAME)
        source = self.source()
        self.secret(self.new, 2, NAME)
        shutil.rmtree(self.path(f"{NAME}/..2026_1"))
        self.reload(source)
        self.assertNew(source)

    def test_any_order(self) -> None:
        for chain, key in (("a.crt", "a.key"), ("a/tls.crt", "a/tls.key"), ("b.pem", "c.key")):
            for order in (1, -1):
                self.pair(chain, key, self.old)
                source = self.source()
                data = {chain: self.new.chain_pem(), key: private_pem(self.new)}
                first, second = [chain, key][::order]
                self.write(first, data[first])
                logged = self.reload(source)
                self.assertEqual(len(logged), 1)
                self.assertIn(
                    f"{self.path(chain)}; the certificate before it is served on", logged[0]
                )
                self.assertOld(source)
                self.write(second, data[second])
                self.assertEqual(len(self.reload(source)), 1)
                self.assertNew(source)
            os.unlink(self.path(chain))
            os.unlink(self.path(key))

    def test_half_written(self) -> None:
        self.bundle("a.pem", self.old)
        source = self.source()
        whole = self.new.to_pem()
        end_of_leaf = whole.index(b"-----END CERTIFICATE")
        for tenth in range(10):
            self.write("a.pem", whole[: end_of_leaf * tenth // 10])
            self.reload(source)
            self.assertOld(source)
            self.assertIn("a.pem", self.errors(source))
        self.write("a.pem", whole)
        self.reload(source)
        self.assertNew(source)

    def test_expired(self) -> None:
        """What has expired already is no renewal."""
        self.bundle("a.pem", self.old)
        source = self.source()
        self.bundle("a.pem", certified(NAME, end=BEGIN + DAY / 2))
        self.assertEqual(
            self.reload(source),
            [
                f"the certificate in {self.path('a.pem')} has expired on 2026-01-01 12:00 UTC;"
                " the certificate before it is served on"
            ],
        )
        self.assertOld(source)
        self.assertDefault(source, self.old)
        self.bundle("a.pem", self.new)
        self.reload(source)
        self.assertNew(source)

    def test_not_yet_valid(self) -> None:
        self.bundle("a.pem", self.old)
        source = self.source()
        coming = certified(NAME, begin=BEGIN + 2 * DAY)
        self.bundle("a.pem", coming)
        self.reload(source)
        self.assertOld(source)
        self.time = (BEGIN + 3 * DAY).timestamp()
        self.assertServed(source, NAME, coming)
        self.reload(source)
        self.assertEqual(self.errors(source), {})

    def test_same_content(self) -> None:
        """What is made of a certificate hangs on the object, so that is kept."""
        for name in ("a.pem", "b.crt"):
            self.bundle(name, self.old)
        self.pair("c.crt", "c.key", self.new)
        source = self.source()
        before = list(map(self.served, (source, source), (NAME, "new.example.org")))
        for name in ("a.pem", "b.crt"):
            self.bundle(name, self.old)
        self.pair("c.crt", "c.key", self.new)
        self.assertEqual(self.reload(source), [])
        after = list(map(self.served, (source, source), (NAME, "new.example.org")))
        for one, other in zip(before, after, strict=True):
            self.assertIs(one, other)

    def test_passphrase(self) -> None:
        """A file that could not be decrypted is read again when the passphrase is another."""
        secret = self.write("passphrase", b"wrong")
        encrypted = key_pem(self.old.key, encryption=BestAvailableEncryption(SECRET))
        self.write("a.pem", encrypted + self.old.chain_pem())
        source = self.source(secret)
        self.assertIn("passphrase is wrong", self.errors(source)["a.pem"])
        os.unlink(secret)
        self.assertEqual(
            self.reload(source), [f"{secret} does not exist; the one before is used on"]
        )
        self.write("passphrase", SECRET)
        self.reload(source)
        self.assertOld(source)
        self.assertEqual(self.errors(source), {})


class BadTests(ReloadCase):
    """What is bad replaces nothing that is good."""

    def test_spoiled(self) -> None:
        """However it is spoiled; and what is put back is served again."""
        path = self.bundle("a.pem", self.old)
        source = self.source()
        for spoil, reason in (
            (lambda: self.write("a.pem", b""), f"{path} is empty"),
            (lambda: self.write("a.pem", b"hello"), f"{path} is not PEM"),
            (lambda: self.write("a.pem", private_pem(self.old)), f"{path} holds no certificate"),
            (
                lambda: self.write("a.pem", self.new.chain_pem() + private_pem(self.old)),
                f"the private key in {path} belongs to no certificate in {path}",
            ),
            (lambda: self.replace(os.mkdir), f"{path} is a directory, not a file"),
            (lambda: self.replace(os.mkfifo), f"{path} is not a regular file"),
            (lambda: self.replace(self.dangle), f"{path} is a link to what does not exist"),
        ):
            spoil()
            logged = self.reload(source)
            self.assertEqual(len(logged), 1, logged)
            self.assertTrue(logged[0].startswith(reason), logged[0])
            self.assertTrue(logged[0].endswith("; the certificate before it is served on"))
            self.assertOld(source)
            self.assertTrue(self.errors(source)["a.pem"].startswith(reason))
            self.assertEqual(self.reload(source), [])
            if os.path.isdir(path):
                os.rmdir(path)
            else:
                os.unlink(path)
            self.bundle("a.pem", self.old)
            self.assertEqual(self.reload(source), [])
            self.assertOld(source)
            self.assertEqual(self.errors(source), {})

    def replace(self, make: Callable[[str], None]) -> None:
        os.unlink(self.path("a.pem"))
        make(self.path("a.pem"))

    def dangle(self, path: str) -> None:
        os.symlink("nowhere", path)

    def test_told_for_each_content(self) -> None:
        """Who tries to mend a file hears that it is still bad."""
        self.bundle("a.pem", self.old)
        source = self.source()
        self.write("a.pem", b"hello")
        self.assertEqual(len(self.reload(source)), 1)
        self.write("a.pem", b"hello")
        self.assertEqual(len(self.reload(source)), 0)
        self.write("a.pem", b"hello again")
        self.assertEqual(len(self.reload(source)), 1)

    def test_not_permitted(self) -> None:
        path = self.bundle("a.pem", self.old)
        live = certified("live.example.org")
        self.certbot("live.example.org", live, 1, "live")
        source = self.source()
        os.chmod(path, 0)
        os.chmod(self.path("live"), 0)
        self.addCleanup(os.chmod, self.path("live"), 0o755)

        def look() -> None:
            self.assertEqual(len(self.reload(source)), 4)
            self.assertEqual(self.reload(source), [])

        self.as_nobody(look)
        self.assertOld(source)
        self.assertServed(source, "live.example.org", live)
        self.assertEqual(self.errors(source)["a.pem"], f"{path} cannot be read: Permission denied")
        os.chmod(path, 0o600)
        os.chmod(self.path("live"), 0o755)
        self.reload(source)
        self.assertEqual(self.errors(source), {})

    def test_directory_gone(self) -> None:
        """Everything is served on, and what is there when it is back."""
        self.bundle("a.pem", self.old)
        source = self.source()
        os.rename(self.directory, f"{self.directory}.away")
        reason = f"the directory {self.directory} cannot be read: No such file or directory"
        self.assertEqual(self.reload(source), [f"{reason}; what was in it is served on"])
        self.assertEqual(self.reload(source), [])
        self.assertOld(source)
        self.assertEqual(self.errors(source), {".": reason})
        os.rename(f"{self.directory}.away", self.directory)
        self.bundle("a.pem", self.new)
        self.reload(source)
        self.assertNew(source)


class RemovalTests(ReloadCase):
    """What is removed."""

    def test_removed(self) -> None:
        path = self.bundle("a.pem", self.old)
        source = self.source()
        os.unlink(path)
        self.assertEqual(
            self.reload(source), [f"{path} is not there any more: it is served no more"]
        )
        self.assertServed(source, NAME, None)
        self.assertDefault(source, self.other)
        self.bundle("a.pem", self.new)
        self.reload(source)
        self.assertNew(source)

    def test_removed_directory(self) -> None:
        self.certbot(NAME, self.old, 1)
        source = self.source()
        shutil.rmtree(self.path(NAME))
        self.reload(source)
        self.assertServed(source, NAME, None)
        self.assertEqual(self.errors(source), {})

    def test_last(self) -> None:
        """The last that there is is served on, until there is another."""
        source = self.source()
        os.unlink(self.path("z.pem"))
        reason = f"{self.path('z.pem')} is not there any more"
        self.assertEqual(
            self.reload(source), [f"{reason}; it is served on, as there is nothing else"]
        )
        self.assertEqual(self.reload(source), [])
        self.assertServed(source, "z.example.org", self.other)
        self.assertDefault(source, self.other)
        self.assertEqual(self.errors(source), {"z.pem": reason})
        self.bundle("a.pem", self.old)
        self.reload(source)
        self.assertServed(source, "z.example.org", None)
        self.assertDefault(source, self.old)


class WorkTests(ReloadCase):
    """What a reload costs."""

    def test_only_what_has_changed(self) -> None:
        self.patch(files, "_GRAIN", 0)
        self.bundle("a.pem", self.old)
        self.pair("b.crt", "b.key", certified("b.example.org"))
        self.certbot("c", certified("c.example.org"), 1)
        source = self.source()
        read: list[str] = []

        def reading(path: str) -> bytes:
            read.append(path)
            return read_file(path)

        self.patch(directory, "read_file", reading)
        self.reload(source)
        self.assertEqual(read, [])
        self.bundle("a.pem", self.new)
        self.reload(source)
        self.assertEqual(read, [self.path("a.pem")])

    def test_changed_just_now(self) -> None:
        """What was changed within the same tick of the kernel's clock is read again."""
        self.patch(files, "_GRAIN", 10**12)
        path = self.bundle("a.pem", self.old)
        source = self.source()
        seen = os.stat(path)
        self.bundle("a.pem", self.new)
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        self.reload(source)
        self.assertNew(source)

    def test_in_slices(self) -> None:
        """The reactor gets its turn, and what is asked for meanwhile is one reload more."""
        self.patch(directory, "in_slices", one_step_at_a_time)
        self.bundle("a.pem", self.old)
        source = self.source()
        source.start(self.clock)
        self.clock.pump([STEP] * 100)
        scans: list[int] = []
        scan = source._scan

        def counted() -> Iterator[None]:
            scans.append(1)
            return scan()

        self.patch(source, "_scan", counted)
        first = source.reload()
        self.clock.pump([STEP] * 3)
        self.assertNoResult(first)
        self.assertOld(source)
        self.bundle("a.pem", self.new)
        later = [source.reload() for _ in range(5)]
        self.clock.pump([STEP] * 200)
        self.successResultOf(first)
        for each in later:
            self.successResultOf(each)
        self.assertNew(source)
        self.assertEqual(len(scans), 2)

    def test_stopped_in_the_middle(self) -> None:
        """Wherever it is given up, whoever waits hears, and it can be done again."""
        self.patch(directory, "in_slices", one_step_at_a_time)
        certificates = [self.old, self.new]
        self.bundle("a.pem", self.old)
        source = self.source()
        for steps in range(30):
            self.bundle("a.pem", certificates[steps % 2])
            source.start(self.clock)
            waiting = [source.reload(), source.reload()]
            self.clock.pump([STEP] * steps)
            source.stop()
            for each in waiting:
                self.successResultOf(each)
            self.assertEqual(self.clock.getDelayedCalls(), [])
        self.bundle("a.pem", self.new)
        self.reload(source)
        self.assertNew(source)

    def test_watched(self) -> None:
        """Changes are seen where only looking is possible."""
        self.certbot(NAME, self.old, 1, "live")
        source = self.source()
        source.start(self.clock)
        source.start(self.clock)
        self.certbot(NAME, self.new, 2, "live")
        self.clock.pump([0.1] * 60)
        self.assertNew(source)
        self.certbot("b.example.org", one := certified("b.example.org"), 1, "live")
        self.clock.pump([0.1] * 80)
        self.assertServed(source, "b.example.org", one)
        source.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_hundred_reloads(self) -> None:
        """Neither descriptors nor objects become more."""
        quiet(self)
        self.bundle("a.pem", self.old)
        self.pair("b.crt", "b.key", self.old)
        source = self.source()

        def swap(times: int) -> tuple[int, int]:
            for number in range(times):
                certificate = (self.old, self.new)[number % 2]
                self.bundle("a.pem", certificate)
                self.pair("b.crt", "b.key", certificate)
                self.write("bad.pem", b"%d" % number)
                self.reload(source)
            gc.collect()
            return len(os.listdir("/proc/self/fd")), len(gc.get_objects())

        descriptors, objects = swap(10)
        more_descriptors, more_objects = swap(100)
        self.assertEqual(more_descriptors, descriptors)
        self.assertLess(more_objects - objects, 100)


class ManyTests(DirectoryCase):
    """Ten thousand names."""

    def test_ten_thousand(self) -> None:
        if not os.environ.get("BIOCONN_SLOW"):
            raise SkipTest("takes long: set BIOCONN_SLOW=1 to run it")
        for number in range(10_000):
            name = f"{number}.example.org"
            self.bundle(f"{name}.pem", certified(name))
        self.write("77.example.org.pem", b"broken")
        with capturedLogs() as events:
            source = self.source()
        self.assertEqual(len(lines(events)), 1)
        self.assertEqual(len([fact for fact in source.facts() if fact.names]), 9_999)
        # How long it takes to find one of so many is for tests.certificates.test_many_names.
        found = source.find(asking("4711.example.org"))
        assert isinstance(found, Choice)
        self.assertEqual(found.certificate.names, ("4711.example.org",))
        self.assertIsNone(source.find(asking("77.example.org")))
        self.assertIsNone(source.find(asking("unknown.example.com")))
