"""Tests for L{twisted_bioconn.certificates.development}."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.material import (
    DAY,
    SECOND,
    AuthorityCase,
    Signer,
    key_pem,
    pem,
)
from twisted_bioconn.certificates import development
from twisted_bioconn.certificates.development import (
    AUTHORITY_LIFE,
    LEAF_LIFE,
    DevelopmentAuthority,
    state_directory,
)
from twisted_bioconn.certificates.loading import (
    CertifiedKey,
    load_certificates,
    read_file,
    write_private,
)
from twisted_bioconn.errors import ConfigurationError


class StateDirectoryTests(SynchronousTestCase):
    """L{state_directory}."""

    def test_order(self) -> None:
        environ = {"HOME": "/home/a"}
        self.assertEqual(state_directory(None, environ), "/home/a/.local/state/bioconn")
        environ["XDG_STATE_HOME"] = "/xdg"
        self.assertEqual(state_directory(None, environ), "/xdg/bioconn")
        environ["STATE_DIRECTORY"] = "/var/lib/one"
        self.assertEqual(state_directory(None, environ), "/var/lib/one")
        self.assertEqual(state_directory("/given", environ), "/given")

    def test_several_of_systemd(self) -> None:
        environ = {"STATE_DIRECTORY": "/var/lib/one:/var/lib/two", "HOME": "/home/a"}
        self.assertEqual(state_directory(None, environ), "/var/lib/one")

    def test_empty_or_relative_is_not_set(self) -> None:
        environ = {"STATE_DIRECTORY": "", "XDG_STATE_HOME": "relative", "HOME": "/home/a"}
        self.assertEqual(state_directory("", environ), "/home/a/.local/state/bioconn")

    def test_absolute(self) -> None:
        """A program that changes its directory, as a daemon does, still finds it."""
        self.assertEqual(state_directory("a/../b", {}), os.path.join(os.getcwd(), "b"))
        home = os.path.expanduser("~")
        self.assertEqual(state_directory("~/b", {}), os.path.join(home, "b"))

    def test_process_environment(self) -> None:
        with mock.patch.dict(os.environ, {"STATE_DIRECTORY": "/var/lib/one"}):
            self.assertEqual(state_directory(), "/var/lib/one")

    def test_home_of_the_user(self) -> None:
        with mock.patch.object(os.path, "expanduser", return_value="/home/b"):
            self.assertEqual(state_directory(None, {}), "/home/b/.local/state/bioconn")

    def test_homeless(self) -> None:
        with mock.patch.object(os.path, "expanduser", return_value="~"):
            error = self.assertRaises(ConfigurationError, state_directory, None, {})
        self.assertEqual(
            str(error),
            "there is no state directory: none was given, and none of STATE_DIRECTORY,"
            " XDG_STATE_HOME and HOME is set",
        )


class CreationTests(AuthorityCase):
    """The authority's first use, and its second."""

    def test_files(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        above = os.path.join(self.state, "above")
        self.state = os.path.join(above, "state")
        self.certificate_path = os.path.join(self.state, "ca.pem")
        authority = self.authority()
        self.assertEqual(stat.S_IMODE(os.stat(above).st_mode), 0o700)
        authority.leaf()
        modes = {
            name: stat.S_IMODE(os.stat(os.path.join(self.state, name)).st_mode)
            for name in (".", *os.listdir(self.state))
        }
        self.assertEqual(
            modes, {".": 0o700, "ca.pem": 0o644, "ca-key.pem": 0o600, "leaf.pem": 0o600}
        )
        self.assertEqual(authority.certificate_path, self.certificate_path)
        self.assertNotIn(b"KEY", read_file(self.certificate_path))

    def test_certificate(self) -> None:
        self.authority()
        (certificate,) = load_certificates(read_file(self.certificate_path), "ca.pem")
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        self.assertIsInstance(key.curve, ec.SECP256R1)
        self.assertEqual(
            certificate.subject.rfc4514_string(),
            f"CN=bioconn development CA ({socket.gethostname()})",
        )
        self.assertEqual(certificate.not_valid_after_utc, self.time + AUTHORITY_LIFE)
        self.assertLessEqual(certificate.not_valid_before_utc, self.time)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        self.assertTrue(constraints.critical)
        self.assertEqual(constraints.value, x509.BasicConstraints(ca=True, path_length=0))
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        self.assertTrue(usage.critical)
        self.assertTrue(usage.value.key_cert_sign and usage.value.crl_sign)
        self.assertFalse(usage.value.digital_signature)
        identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        self.assertEqual(identifier.value, x509.SubjectKeyIdentifier.from_public_key(key))

    def test_odd_host_names(self) -> None:
        for host, title in (
            ("h" * 64, "bioconn development CA (" + "h" * 39 + ")"),
            ("b\xfcro\udcff", "bioconn development CA (b?ro?)"),
        ):
            self.state = self.path(title)
            with mock.patch.object(socket, "gethostname", return_value=host):
                self.authority()
            path = os.path.join(self.state, "ca.pem")
            (certificate,) = load_certificates(read_file(path), "ca.pem")
            self.assertEqual(certificate.subject.rfc4514_string(), f"CN={title}")

    def test_kept(self) -> None:
        self.authority()
        before = self.contents()
        self.time += 100 * DAY
        self.authority()
        self.assertEqual(self.contents(), before)

    def test_abandoned(self) -> None:
        """What a crash has left is removed: it holds keys.  What is being written is not."""
        directory = DevelopmentAuthority(self.mktemp()).directory
        now = datetime.now(UTC).timestamp()
        names = (".ca-key.pem.abcd_123", ".leaf.pem.ABCD0123", ".ca.pem.abcdefgh", ".mine.abcdefgh")
        for name in names:
            for age, ending in ((3700, ""), (3500, "a" * 8)):
                path = os.path.join(directory, name[: -len(ending)] + ending if ending else name)
                with open(path, "wb"):
                    pass
                os.utime(path, (now - age, now - age))
        DevelopmentAuthority(directory)
        self.assertEqual(
            sorted(os.listdir(directory)),
            sorted(
                [
                    ".ca-key.pem.aaaaaaaa",
                    ".ca.pem.aaaaaaaa",
                    ".leaf.pem.aaaaaaaa",
                    ".mine.aaaaaaaa",
                    ".mine.abcdefgh",
                    "ca-key.pem",
                    "ca.pem",
                ]
            ),
        )

    def test_unlink_that_fails(self) -> None:
        """A disk that fails us in the middle gets the same line as one that does at once."""

        def fail(*_: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        self.patch(os, "fsync", fail)
        self.patch(os, "unlink", fail)
        path = self.mktemp()
        error = self.assertRaises(ConfigurationError, write_private, path, b"data")
        self.assertEqual(str(error), f"{path} cannot be written: Read-only file system")

    def test_relative(self) -> None:
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.directory)
        authority = DevelopmentAuthority("state")
        os.chdir(before)
        self.assertEqual(authority.certificate_path, self.certificate_path)
        authority.leaf()
        self.assertTrue(os.path.exists(self.leaf_path))

    def test_directory_that_is_there(self) -> None:
        """It is somebody's: its mode stays as it is."""
        os.mkdir(self.state)
        os.chmod(self.state, 0o755)
        self.authority()
        self.assertEqual(stat.S_IMODE(os.stat(self.state).st_mode), 0o755)

    def test_read_only_once_made(self) -> None:
        """All that is kept is used with no right to write."""
        before = self.authority().leaf()
        with (
            mock.patch.object(development, "write_private", side_effect=AssertionError),
            mock.patch.object(development, "write_public", side_effect=AssertionError),
            mock.patch.object(development, "create_private", side_effect=AssertionError),
        ):
            self.assertEqual(self.authority().leaf(), before)

    def test_directory_is_a_file(self) -> None:
        self.file("state", b"")
        self.assertEqual(self.refusal(self.authority), f"{self.state} is a file, not a directory")

    def test_directory_cannot_be_made(self) -> None:
        self.state = os.path.join(self.file("file", b""), "state")
        self.assertEqual(
            self.refusal(self.authority),
            f"the directory {self.state} cannot be made: Not a directory",
        )

    def test_directory_cannot_be_written(self) -> None:
        os.mkdir(self.state, 0o555)
        sentence = self.unprivileged(self.authority)
        self.assertEqual(sentence, f"{self.key_path} cannot be written: Permission denied")

    def test_no_time_zone_needed_for_the_default_clock(self) -> None:
        authority = DevelopmentAuthority(self.state)
        left = authority.not_valid_after - datetime.now(UTC)
        self.assertLess(abs(left - AUTHORITY_LIFE), DAY)


class ConcurrencyTests(AuthorityCase):
    """Several that start at once in one directory agree on one authority."""

    def test_threads(self) -> None:
        """Each sees an empty directory, and none goes on before all have made a pair."""
        many = 4
        barrier = threading.Barrier(many, timeout=300)
        make = development._new_authority

        def make_together(now: datetime) -> CertifiedKey:
            made = make(now)
            barrier.wait()
            return made

        self.patch(development, "_new_authority", make_together)
        with ThreadPoolExecutor(many) as threads:
            running = [threads.submit(self.authority) for _ in range(many)]
            authorities = [each.result() for each in running]
        self.check([authority.issue() for authority in authorities])
        self.assertEqual(sorted(self.contents()), ["ca-key.pem", "ca.pem"])

    def test_processes(self) -> None:
        program = (
            "import sys; from twisted_bioconn.certificates.development import *\n"
            "print(flush=True); sys.stdin.read()\n"
            "print(DevelopmentAuthority(sys.argv[1]).leaf().to_pem().decode())\n"
        )
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        running = [
            subprocess.Popen(
                [sys.executable, "-c", program, self.state],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(3)
        ]
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        for process in running:
            assert process.stdin is not None
            process.stdin.close()
        leaves = []
        for process in running:
            assert process.stdout is not None
            with process.stdout:
                leaves.append(CertifiedKey.from_pem(process.stdout.read()))
            self.assertEqual(process.wait(60), 0)
        self.check(leaves)

    def test_between_the_two_files(self) -> None:
        """Who comes when there is the key, and the certificate is about to be there."""
        first = self.authority()
        os.unlink(self.certificate_path)
        second = self.authority()
        self.check([first.issue(), second.issue()])

    def check(self, leaves: Iterable[CertifiedKey]) -> None:
        (certificate,) = load_certificates(read_file(self.certificate_path), "ca.pem")
        CertifiedKey.from_files(self.certificate_path, self.key_path)
        for leaf in leaves:
            leaf.leaf.verify_directly_issued_by(certificate)


class DamageTests(AuthorityCase):
    """An authority that others were told to trust is not replaced."""

    def setUp(self) -> None:
        super().setUp()
        self.authority().leaf()

    def refused(self, reason: str) -> None:
        """The authority is refused for that reason, and nothing is changed by it."""
        before = self.contents()
        self.assertEqual(self.refusal(self.authority), f"{reason}; {self.recovery()}")
        self.assertEqual(self.contents(), before)

    def test_recovery(self) -> None:
        """What the sentence says helps."""
        write_private(self.key_path, b"")
        self.refused(f"{self.key_path} is empty")
        os.unlink(self.key_path)
        os.unlink(self.certificate_path)
        leaf = self.authority().leaf()
        (certificate,) = load_certificates(read_file(self.certificate_path), "ca.pem")
        leaf.leaf.verify_directly_issued_by(certificate)

    def test_key_is_lost(self) -> None:
        os.unlink(self.key_path)
        self.refused(f"{self.certificate_path} is there without its key {self.key_path}")

    def test_certificate_is_lost(self) -> None:
        """The copy for others is made again."""
        before = self.contents()
        os.unlink(self.certificate_path)
        self.authority()
        self.assertEqual(self.contents(), before)

    def test_certificate_is_lost_and_the_other_damaged(self) -> None:
        os.unlink(self.certificate_path)
        key = read_file(self.key_path).split(b"-----BEGIN CERT")[0]
        write_private(self.key_path, key)
        self.refused(f"{self.key_path} holds no certificate (only: PRIVATE KEY)")

    def test_cut_certificate(self) -> None:
        write_private(self.certificate_path, read_file(self.certificate_path)[:200])
        self.refused(f"{self.certificate_path} is damaged: its PEM block 1 is cut short")

    def test_cut_key(self) -> None:
        write_private(self.key_path, read_file(self.key_path)[:100])
        self.refused(f"{self.key_path} is damaged: its PEM block 1 is cut short")

    def test_mismatch(self) -> None:
        other = DevelopmentAuthority(self.path("other"), self.now)
        shutil.copy(other.certificate_path, self.certificate_path)
        self.refused(
            f"the private key in {self.key_path} belongs to no certificate in"
            f" {self.certificate_path}"
        )

    def test_not_an_authority(self) -> None:
        leaf = self.authority().issue()
        write_private(self.certificate_path, leaf.chain_pem())
        write_private(self.key_path, leaf.to_pem())
        self.refused(f"{self.certificate_path} is not an authority's")

    def test_no_constraints(self) -> None:
        owner = Signer.named("owner")
        write_private(self.certificate_path, pem(owner.certify(owner)))
        write_private(self.key_path, key_pem(owner.key))
        self.refused(f"{self.certificate_path} is not an authority's")

    def test_another_kind_of_key(self) -> None:
        owner = Signer.named("owner", ed25519.Ed25519PrivateKey.generate())
        extension = x509.BasicConstraints(ca=True, path_length=0)
        write_private(self.certificate_path, pem(owner.certify(owner, extension=extension)))
        write_private(self.key_path, key_pem(owner.key))
        self.refused(f"{self.key_path} holds no EC key")

    def test_bad_signature(self) -> None:
        """A certificate that parses, with a bit of it flipped."""
        owner, other = Signer.named("owner"), Signer.named("other")
        extension = x509.BasicConstraints(ca=True, path_length=0)
        write_private(self.certificate_path, pem(other.certify(owner, extension=extension)))
        write_private(self.key_path, key_pem(owner.key))
        self.refused(f"{self.certificate_path} is damaged: it has a bad signature")

    def test_not_permitted(self) -> None:
        """A file that this user may not read is no reason to throw it away."""
        os.chmod(self.state, 0o755)
        os.chmod(self.key_path, 0)
        sentence = self.unprivileged(self.authority)
        self.assertEqual(sentence, f"{self.key_path} cannot be read: Permission denied")


class AuthorityClockTests(AuthorityCase):
    """The end of an authority, and its beginning."""

    def test_expired(self) -> None:
        authority = self.authority()
        authority.leaf()
        self.time += AUTHORITY_LIFE - SECOND
        self.authority()
        authority.issue()
        self.time += SECOND
        sentence = f"{self.certificate_path} has expired on {self.time:%Y-%m-%d}; {self.recovery()}"
        for call in (
            self.authority,
            authority.issue,
            authority.leaf,
            lambda: authority.issue_client("a"),
        ):
            self.assertEqual(self.refusal(call), sentence)

    def test_not_valid_yet(self) -> None:
        authority = self.authority()
        begin = self.time - development.SKEW
        self.time = begin
        self.authority()
        self.time -= SECOND
        sentence = (
            f"{self.certificate_path} is not valid before {begin:%Y-%m-%d %H:%M} UTC: set the"
            f" clock, or, {self.recovery()}"
        )
        self.assertEqual(self.refusal(self.authority), sentence)
        self.assertEqual(self.refusal(authority.leaf), sentence)

    def test_expires_soon(self) -> None:
        authority = self.authority()
        self.assertFalse(authority.expires_soon)
        self.time += AUTHORITY_LIFE - LEAF_LIFE
        self.assertFalse(authority.expires_soon)
        self.time += SECOND
        self.assertTrue(authority.expires_soon)
        self.assertTrue(self.authority().expires_soon)

    def test_leaves_end_with_it(self) -> None:
        authority = self.authority()
        self.time += AUTHORITY_LIFE - 10 * DAY
        leaf = authority.leaf()
        self.assertEqual(leaf.not_valid_after, authority.not_valid_after)
        # It is not replaced by one that would end no later.
        self.assertEqual(authority.seconds_until_renewal(), (10 * DAY).total_seconds())
        self.time += 10 * DAY - SECOND
        self.assertEqual(authority.leaf(), leaf)
        self.assertEqual(authority.seconds_until_renewal(), 1)
