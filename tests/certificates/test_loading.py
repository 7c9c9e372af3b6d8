"""Tests for L{twisted_bioconn.certificates.loading}: files and bundles."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from base64 import b64encode
from unittest import mock

from cryptography.hazmat.primitives.asymmetric import (
    ec,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.material import (
    BUNDLE,
    EC_PARAMETERS,
    FULL_CHAIN,
    KEY,
    LEAF,
    LOWER_CERTIFICATE,
    OWNER,
    ROOT_CERTIFICATE,
    UPPER_CERTIFICATE,
    FileCase,
    pem,
)
from twisted_bioconn.certificates.loading import (
    LARGEST_FILE,
    CertifiedKey,
    create_private,
    load_authorities,
    load_certificates,
    read_file,
    read_passphrase,
    write_private,
    write_public,
)
from twisted_bioconn.errors import ConfigurationError


class ReadFileTests(FileCase):
    """L{read_file}, and what all that read a file refuse."""

    def every_reader(self, path: str) -> list[str]:
        good = self.file("good.pem", BUNDLE)
        return [
            self.refusal(read_file, path),
            self.refusal(read_passphrase, path),
            self.refusal(CertifiedKey.from_files, path),
            self.refusal(CertifiedKey.from_files, good, path),
            self.refusal(CertifiedKey.from_files, good, good, path),
            self.refusal(CertifiedKey.from_files, good, good, None, path),
        ]

    def test_missing(self) -> None:
        path = self.path("missing.pem")
        expected = f"{path} does not exist"
        self.assertEqual(self.every_reader(path), [expected] * 6)
        self.assertEqual(self.refusal(load_authorities, path), expected)

    def test_directory(self) -> None:
        self.assertEqual(
            self.every_reader(self.directory), [f"{self.directory} is a directory, not a file"] * 6
        )

    def test_not_permitted(self) -> None:
        path = self.file("forbidden.pem", BUNDLE)
        os.chmod(path, 0)
        expected = f"{path} cannot be read: Permission denied"
        self.assertEqual(self.unprivileged(read_file, path), expected)
        self.assertEqual(self.unprivileged(CertifiedKey.from_files, path), expected)

    def test_directory_not_permitted(self) -> None:
        forbidden = self.path("forbidden")
        os.mkdir(forbidden, 0)
        self.addCleanup(os.chmod, forbidden, 0o700)
        self.assertEqual(
            self.unprivileged(load_authorities, forbidden),
            f"{forbidden} cannot be read: Permission denied",
        )

    def test_under_a_file(self) -> None:
        path = os.path.join(self.file("file", b""), "leaf.pem")
        self.assertEqual(self.every_reader(path), [f"{path} cannot be read: Not a directory"] * 6)

    def test_nul(self) -> None:
        self.assertIn("'a\\x00b' is no path of a file", self.refusal(read_file, "a\0b"))

    def test_largest(self) -> None:
        data = bytes(LARGEST_FILE)
        self.assertEqual(read_file(self.file("large", data)), data)

    def test_too_large(self) -> None:
        path = self.path("huge.pem")
        with open(path, "wb") as file:
            file.truncate(LARGEST_FILE + 1)
        self.assertEqual(self.every_reader(path), [f"{path} is larger than 1048576 bytes"] * 6)

    def test_endless(self) -> None:
        """A device is not read at all."""
        self.assertEqual(self.refusal(read_file, "/dev/zero"), "/dev/zero is not a regular file")


class ReadPassphraseTests(FileCase):
    """L{read_passphrase}."""

    def test_first_line(self) -> None:
        for data in (b"a b", b"a b\n", b"a b\r\n", b"a b\nsecond\n"):
            self.assertEqual(read_passphrase(self.file("passphrase", data)), b"a b")

    def test_blanks_are_part_of_it(self) -> None:
        self.assertEqual(read_passphrase(self.file("passphrase", b" a\t\n")), b" a\t")

    def test_empty(self) -> None:
        for data in (b"", b"\n", b"\r\n", b"\nsecond\n"):
            path = self.file("passphrase", data)
            self.assertEqual(
                self.refusal(read_passphrase, path),
                f"{path} holds no passphrase: its first line is empty",
            )


class WriteTests(FileCase):
    """L{write_private}, L{write_public} and L{create_private}."""

    def mode(self, path: str) -> int:
        return stat.S_IMODE(os.stat(path).st_mode)

    def test_modes(self) -> None:
        for mask in (0, 0o022, 0o777):
            self.addCleanup(os.umask, os.umask(mask))
            write_private(self.path("private"), b"1")
            write_public(self.path("public"), b"2")
            self.assertTrue(create_private(self.path(f"created {mask}"), b"3"))
            self.assertEqual(self.mode(self.path("private")), 0o600)
            self.assertEqual(self.mode(self.path("public")), 0o644)
            self.assertEqual(self.mode(self.path(f"created {mask}")), 0o600)

    def test_replaces(self) -> None:
        """The mode of what is replaced does not live on, and its readers keep what they had."""
        path = self.file("key", b"old")
        os.chmod(path, 0o644)
        with open(path, "rb") as reader:
            write_private(path, b"new")
            self.assertEqual(reader.read(), b"old")
        self.assertEqual(read_file(path), b"new")
        self.assertEqual(self.mode(path), 0o600)
        self.assertEqual(os.listdir(self.directory), ["key"])

    def test_relative(self) -> None:
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.directory)
        write_private("key", b"data")
        self.assertEqual(read_file(self.path("key")), b"data")

    def test_never_readable_by_others(self) -> None:
        """Not for a moment: the data goes into a file that is private already."""
        modes = []

        def fsync(descriptor: int) -> None:
            modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))

        self.addCleanup(os.umask, os.umask(0))
        self.patch(os, "fsync", fsync)
        write_private(self.path("key"), b"data")
        self.assertEqual(modes, [0o600])

    def test_on_the_disk_before_it_has_its_name(self) -> None:
        path = self.file("key", b"old")
        contents = []

        def fsync(descriptor: int) -> None:
            contents.append((read_file(path), os.fstat(descriptor).st_size))

        self.patch(os, "fsync", fsync)
        write_private(path, b"longer")
        self.assertEqual(contents, [(b"old", 6)])

    def test_failure_leaves_all_as_it_was(self) -> None:
        path = self.file("key", b"old")
        with mock.patch.object(os, "fsync", side_effect=OSError(28, "No space left on device")):
            sentence = self.refusal(write_private, path, b"new")
        self.assertEqual(sentence, f"{path} cannot be written: No space left on device")
        self.assertEqual(read_file(path), b"old")
        self.assertEqual(os.listdir(self.directory), ["key"])

    def test_no_directory(self) -> None:
        path = os.path.join(self.directory, "missing", "key")
        for write in (write_private, write_public, create_private):
            self.assertEqual(
                self.refusal(write, path, b""),
                f"{path} cannot be written: No such file or directory",
            )

    def test_over_a_directory(self) -> None:
        sentence = self.refusal(write_private, self.directory, b"data")
        self.assertEqual(sentence, f"{self.directory} cannot be written: Is a directory")

    def test_create_keeps_what_is_there(self) -> None:
        path = self.file("key", b"old")
        self.assertFalse(create_private(path, b"new"))
        self.assertEqual(read_file(path), b"old")
        self.assertEqual(os.listdir(self.directory), ["key"])


class LoadCertificatesTests(FileCase):
    """L{load_certificates}."""

    def test_all_of_a_bundle(self) -> None:
        bundle = (ROOT_CERTIFICATE, LEAF, LOWER_CERTIFICATE)
        self.assertEqual(load_certificates(pem(*bundle), "bundle"), bundle)

    def test_other_layouts(self) -> None:
        """Line ends of any system, text around, indentation, no line end between files."""
        data = pem(LEAF, LOWER_CERTIFICATE)
        for layout in (
            data.replace(b"\n", b"\r\n"),
            data.replace(b"\n", b"\r"),
            b"\xef\xbb\xbf" + data,
            re.sub(b"^", b"    ", data, flags=re.MULTILINE),
            pem(LEAF).strip() + pem(LOWER_CERTIFICATE).strip(),
            b"subject=/CN=a\n---\n" + data + b"Verify return code: 0 (ok)\n--\n-",
            data.replace(b" CERTIFICATE", b" X509 CERTIFICATE"),
            KEY + EC_PARAMETERS + data,
        ):
            self.assertEqual(load_certificates(layout, "it"), (LEAF, LOWER_CERTIFICATE), layout)

    def test_empty(self) -> None:
        for data in (b"", b" \r\n\t"):
            self.assertEqual(self.refusal(load_certificates, data, "it"), "it is empty")

    def test_der(self) -> None:
        expected = "it is in DER or PKCS #12 form, where PEM is needed"
        key = OWNER.key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        for data in (
            LEAF.public_bytes(Encoding.DER),
            key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            pkcs12.serialize_key_and_certificates(b"", key, LEAF, None, NoEncryption()),
        ):
            self.assertEqual(self.refusal(load_certificates, data, "it"), expected)
            self.assertEqual(self.refusal(CertifiedKey.from_pem, data, where="it"), expected)

    def test_not_pem(self) -> None:
        self.assertEqual(
            self.refusal(load_certificates, b"hello\n", "it"),
            "it is not PEM: there is no -----BEGIN in it",
        )

    def test_none(self) -> None:
        self.assertEqual(
            self.refusal(load_certificates, EC_PARAMETERS + KEY + KEY, "it"),
            "it holds no certificate (only: EC PARAMETERS, PRIVATE KEY)",
        )

    def test_odd_label(self) -> None:
        """What stands where a label should is not repeated if it is none."""
        data = KEY.replace(b"PRIVATE KEY", b64encode(bytes(30)))
        self.assertEqual(
            self.refusal(load_certificates, data, "it"),
            "it holds no certificate (only: an unknown kind)",
        )

    def test_trusted_certificate(self) -> None:
        data = pem(LEAF) + pem(LOWER_CERTIFICATE).replace(b" CERT", b" TRUSTED CERT")
        self.assertEqual(
            self.refusal(load_certificates, data, "it"),
            "it has OpenSSL's trust settings in it (PEM block 2 is a TRUSTED CERTIFICATE), where"
            " plain certificates are needed",
        )

    def test_damage_is_placed(self) -> None:
        first, second = pem(LEAF), pem(LOWER_CERTIFICATE)
        unreadable = "it is damaged: its PEM block 2 is no certificate that can be read"
        cut = "it is damaged: its PEM block 2 is cut short"
        other_end = "it is damaged: its PEM block 2 ends as another kind"
        not_a_certificate = second.replace(second.splitlines()[1], second.splitlines()[2])
        for damaged, expected in (
            (first + not_a_certificate, unreadable),
            (first + second.replace(b"\nMII", b"\nM*I"), unreadable),
            (first + second[: len(second) // 2], cut),
            (first + second[:100] + first, cut),
            (first + second[100:], cut),
            (first + second[:-10], cut),
            (first + b"-----BEGIN CERTIF", cut),
            (first + b"-----BEG", cut),
            (first + second.replace(b"END CERTIFICATE", b"END CRL"), other_end),
        ):
            self.assertEqual(self.refusal(load_certificates, damaged, "it"), expected, damaged)

    def test_unreadable_name(self) -> None:
        """A certificate is parsed as far as its names before it is let in."""
        der = LEAF.public_bytes(Encoding.DER)
        # The string types of both names: a UTF8String that is no UTF-8.
        damaged = der.replace(b"www.example.org", b"www.example.\xff\xff\xff")
        data = (
            b"-----BEGIN CERTIFICATE-----\n" + b64encode(damaged) + b"\n-----END CERTIFICATE-----\n"
        )
        self.assertEqual(
            self.refusal(load_certificates, data, "it"),
            "it is damaged: its PEM block 1 is no certificate that can be read",
        )

    @given(length=st.integers(0, len(FULL_CHAIN)))
    @settings(deadline=None, max_examples=200)
    def test_cut_anywhere(self, length: int) -> None:
        """
        A cut bundle is refused, or what is missing began with the dashes of a next certificate:
        nothing can tell that one was to follow.
        """
        try:
            found = load_certificates(FULL_CHAIN[:length], "it")
        except ConfigurationError as error:
            self.assertTrue(str(error).startswith("it is "), error)
        else:
            self.assertEqual(found, (LEAF, LOWER_CERTIFICATE, UPPER_CERTIFICATE)[: len(found)])
            self.assertLessEqual(length - len(pem(*found)), len(b"-----"))


class LoadAuthoritiesTests(FileCase):
    """L{load_authorities}."""

    def test_file(self) -> None:
        path = self.file("authorities", pem(ROOT_CERTIFICATE, UPPER_CERTIFICATE))
        self.assertEqual(load_authorities(path), (ROOT_CERTIFICATE, UPPER_CERTIFICATE))

    def test_directory(self) -> None:
        """All files of the three suffixes, in the order of their names, each certificate once."""
        self.file("3.PEM", pem(LEAF, ROOT_CERTIFICATE))
        self.file("1.crt", pem(ROOT_CERTIFICATE, UPPER_CERTIFICATE))
        self.file("2.cer", pem(LOWER_CERTIFICATE))
        self.file("README", b"not this")
        self.file("old.pem~", b"nor this")
        os.symlink("nowhere", self.path(".#3.pem"))
        os.mkdir(self.path("4.pem"))
        self.assertEqual(
            load_authorities(self.directory),
            (ROOT_CERTIFICATE, UPPER_CERTIFICATE, LOWER_CERTIFICATE, LEAF),
        )

    def test_bad_file_in_a_directory(self) -> None:
        self.file("1.pem", pem(ROOT_CERTIFICATE))
        path = self.file("2.pem", KEY)
        self.assertEqual(
            self.refusal(load_authorities, self.directory),
            f"{path} holds no certificate (only: PRIVATE KEY)",
        )

    def test_empty_directory(self) -> None:
        self.file("README", b"")
        self.assertEqual(
            self.refusal(load_authorities, self.directory),
            f"the directory {self.directory} holds no file that ends in .pem, .crt, .cer",
        )


class ImportTests(SynchronousTestCase):
    """What the package stands on."""

    def test_no_reactor(self) -> None:
        program = (
            "import sys, twisted_bioconn.certificates.loading,"
            " twisted_bioconn.certificates.development;"
            " sys.exit('twisted.internet' in sys.modules)"
        )
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        status = subprocess.run([sys.executable, "-c", program], env=environ, check=False)
        self.assertEqual(status.returncode, 0)
