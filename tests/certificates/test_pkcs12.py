"""L{twisted_bioconn.certificates.pkcs12}."""

from __future__ import annotations

import subprocess
import warnings

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.certificates.material import (
    BUNDLE,
    KEY,
    LEAF,
    LOWER_CERTIFICATE,
    OTHER,
    OWNER,
    ROOT_CERTIFICATE,
    SECRET,
    STRANGER,
    UPPER_CERTIFICATE,
    FileCase,
    key_pem,
    pem,
)
from tests.programs import require
from twisted_bioconn.certificates.loading import LARGEST_FILE, CertifiedKey
from twisted_bioconn.certificates.pkcs12 import load_pkcs12
from twisted_bioconn.errors import ConfigurationError

CHAIN = (LEAF, LOWER_CERTIFICATE, UPPER_CERTIFICATE)


def archive(
    certificate: x509.Certificate | None = LEAF,
    others: tuple[x509.Certificate, ...] = CHAIN[1:],
    encryption: KeySerializationEncryption | None = None,
    key: pkcs12.PKCS12PrivateKeyTypes | None = OWNER.key,
) -> bytes:
    """A PKCS #12 file of cryptography's making."""
    return pkcs12.serialize_key_and_certificates(
        b"name", key, certificate, others, encryption or NoEncryption()
    )


def rounds(
    count: int, algorithm: pkcs12.PBES = pkcs12.PBES.PBESv2SHA256AndAES256CBC
) -> KeySerializationEncryption:
    return (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(count)
        .key_cert_algorithm(algorithm)
        .hmac_hash(hashes.SHA256())
        .build(SECRET)
    )


PLAIN = archive()
ENCRYPTED_ARCHIVE = archive(encryption=rounds(1000))
UNREADABLE = (
    "it cannot be decrypted: the passphrase is wrong, the file is damaged, or its cipher is not"
    " supported"
)
UNREADABLE_WITHOUT = "it cannot be read: it is encrypted, and no passphrase was given, or damaged"


class LoadTests(FileCase):
    """L{load_pkcs12}."""

    def good(self, data: bytes, passphrase: bytes | None = None) -> CertifiedKey:
        it = load_pkcs12(data, passphrase, "it")
        self.assertEqual(it.chain, CHAIN)
        self.assertEqual(key_pem(it.key), KEY)
        return it

    def refused(self, data: bytes, passphrase: bytes | None = None) -> str:
        return self.refusal(load_pkcs12, data, passphrase, "it")

    def test_encrypted(self) -> None:
        for encryption in (
            BestAvailableEncryption(SECRET),
            rounds(1000),
            rounds(2048, pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC),
        ):
            self.good(archive(encryption=encryption), SECRET)

    def test_plain(self) -> None:
        """A passphrase is not needed; one that is given for a whole directory does no harm."""
        for passphrase in (None, b"", SECRET):
            self.good(archive(), passphrase)

    def test_chain_in_any_order(self) -> None:
        """And the root is left out, as is what has nothing to do with it."""
        self.good(archive(others=(ROOT_CERTIFICATE, UPPER_CERTIFICATE, OTHER, LOWER_CERTIFICATE)))

    def test_leaf_that_the_file_does_not_name(self) -> None:
        """OpenSSL goes by an attribute; the key's own half is what counts."""
        self.good(archive(certificate=None, others=(LOWER_CERTIFICATE, *CHAIN)))

    def test_made_by_openssl(self) -> None:
        openssl = require("openssl")
        bundle = self.file("bundle.pem", BUNDLE + pem(LOWER_CERTIFICATE))
        secret = self.file("secret", SECRET)
        for options in ((), ("-legacy",), ("-nomac",), ("-keypbe", "NONE", "-certpbe", "NONE")):
            command = [openssl, "pkcs12", "-export", "-in", bundle, "-passout", f"file:{secret}"]
            made = subprocess.run(
                [*command, *options], check=True, capture_output=True, timeout=300
            )
            self.good(made.stdout, SECRET)

    def test_made_by_java(self) -> None:
        keytool = require("keytool")
        path = self.path("store.p12")
        command = f"{keytool} -genkeypair -alias a -keyalg EC -groupname secp256r1 -dname CN=java"
        subprocess.run(
            [*command.split(), "-storetype", "PKCS12", "-keystore", path, "-storepass", "changeit"],
            check=True,
            capture_output=True,
            timeout=600,
        )
        with open(path, "rb") as file:
            it = load_pkcs12(file.read(), b"changeit", "it")
        self.assertEqual(it.leaf.subject.rfc4514_string(), "CN=java")

    def test_indefinite_length(self) -> None:
        """BER, as browsers write it: no warning is shown for it."""
        data = archive()
        self.assertEqual(data[:2], b"\x30\x82")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.good(b"\x30\x80" + data[4:] + b"\0\0")

    def test_more_after_it(self) -> None:
        """As a line end that a tool has put there."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.good(archive() + b"\n")

    def test_wrong_passphrase(self) -> None:
        self.assertEqual(self.refused(ENCRYPTED_ARCHIVE, b"wrong"), UNREADABLE)
        self.assertEqual(self.refused(ENCRYPTED_ARCHIVE), UNREADABLE_WITHOUT)
        self.assertEqual(self.refused(ENCRYPTED_ARCHIVE, b""), UNREADABLE_WITHOUT)

    def test_odd_passphrases(self) -> None:
        self.assertEqual(
            self.refused(ENCRYPTED_ARCHIVE, b"a\0b"), "the passphrase for it has a NUL in it"
        )
        for passphrase in (b"\xff\xfe", b"x" * 100_000):
            self.assertEqual(self.refused(ENCRYPTED_ARCHIVE, passphrase), UNREADABLE)

    def test_nothing_of_it_in_a_traceback(self) -> None:
        error = self.assertRaises(
            ConfigurationError, load_pkcs12, ENCRYPTED_ARCHIVE, b"wrong", "it"
        )
        self.assertIs(error.__cause__, None)
        self.assertTrue(error.__suppress_context__)

    def test_something_missing(self) -> None:
        for made, sentence in (
            (archive(key=None), "it holds no private key"),
            (archive(certificate=None, key=None), "it holds no private key"),
            (archive(certificate=None, others=()), "it holds no certificate"),
        ):
            self.assertEqual(self.refused(made), sentence)

    def test_key_of_another(self) -> None:
        expected = "the private key in it belongs to no certificate in it"
        self.assertEqual(self.refused(archive(None, CHAIN, key=STRANGER.key)), expected)

    def test_unsupported_key(self) -> None:
        self.assertIn(
            "the private key in it is of the kind DSAPrivateKey",
            self.refused(archive(None, CHAIN, key=dsa.generate_private_key(1024))),
        )

    def test_something_else(self) -> None:
        key = OWNER.key
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        der = "it is in DER form and not PKCS #12: a certificate or a key has to be in PEM form"
        for data, sentence in (
            (b"", "it is empty"),
            (b" \r\n", "it is empty"),
            (BUNDLE, "it is PEM, where PKCS #12 is needed"),
            (b"hello", "it is not PKCS #12: it does not begin as DER does"),
            (LEAF.public_bytes(Encoding.DER), der),
            (key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), der),
            (key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), der),
        ):
            self.assertEqual(self.refused(data), sentence)

    def test_too_large(self) -> None:
        self.assertEqual(
            self.refused(archive() + bytes(LARGEST_FILE)), f"it is larger than {LARGEST_FILE} bytes"
        )

    def test_cut(self) -> None:
        for tenth in range(1, 10):
            cut = ENCRYPTED_ARCHIVE[: len(ENCRYPTED_ARCHIVE) * tenth // 10]
            self.assertEqual(self.refused(cut, SECRET), "it is damaged: it is cut short", tenth)

    @given(length=st.integers(0, len(ENCRYPTED_ARCHIVE) - 1))
    @settings(deadline=None)
    def test_cut_anywhere(self, length: int) -> None:
        sentence = self.refused(ENCRYPTED_ARCHIVE[:length], SECRET)
        expected = "it is damaged: it is cut short" if length else "it is empty"
        self.assertEqual(sentence, expected)

    def survive(self, data: bytes, passphrase: bytes | None) -> None:
        try:
            it = load_pkcs12(data, passphrase, "it")
            self.assertEqual(it.leaf, LEAF)
        except ConfigurationError as error:
            self.assertNotIn("\n", str(error))
            self.assertIn("it", str(error))

    @given(st.data())
    @settings(deadline=None, max_examples=200)
    def test_garbled(self, data: st.DataObject) -> None:
        """Without encryption and a check, all of it reaches the parsers."""
        openly = bytearray(PLAIN)
        for position in data.draw(st.lists(st.integers(0, len(openly) - 1), max_size=3)):
            openly[position] = data.draw(st.integers(0, 255))
        self.survive(bytes(openly), None)

    @given(
        st.integers(0, len(ENCRYPTED_ARCHIVE) - 1),
        st.binary(max_size=20),
        st.binary(max_size=20),
    )
    @settings(deadline=None, max_examples=100)
    def test_garbled_when_encrypted(self, position: int, instead: bytes, passphrase: bytes) -> None:
        data = ENCRYPTED_ARCHIVE[:position] + instead + ENCRYPTED_ARCHIVE[position + len(instead) :]
        self.survive(data, SECRET)
        self.survive(data, passphrase)

    @given(st.binary(max_size=300))
    @settings(deadline=None)
    def test_anything(self, data: bytes) -> None:
        self.survive(data, None)
        self.survive(b"\x30\x80\x02\x01\x03" + data, SECRET)
