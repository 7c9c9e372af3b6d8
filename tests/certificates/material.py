"""Certificates, keys and files for the tests of this package."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, x25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from twisted.python.util import runAsEffectiveUser
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.certificates.loading import PrivateKey, read_file
from twisted_bioconn.errors import ConfigurationError

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
NOBODY = 65534


@frozen
class Signer:
    """A name and its key, to make certificates with."""

    name: x509.Name
    key: PrivateKey

    @classmethod
    def named(cls, title: str, key: PrivateKey | None = None) -> Signer:
        return cls(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)]),
            key or ec.generate_private_key(ec.SECP256R1()),
        )

    def certify(
        self, subject: Signer, days: int = 90, extension: x509.ExtensionType | None = None
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject.name)
            .issuer_name(self.name)
            .public_key(subject.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(BEGIN)
            .not_valid_after(BEGIN + days * DAY)
        )
        if extension is not None:
            builder = builder.add_extension(extension, critical=False)
        plain = isinstance(self.key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        return builder.sign(self.key, None if plain else SHA256())


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def key_pem(
    key: PrivateKey | dsa.DSAPrivateKey | x25519.X25519PrivateKey | mldsa.MLDSA44PrivateKey,
    format: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> bytes:
    return key.private_bytes(Encoding.PEM, format, encryption or NoEncryption())


ROOT = Signer.named("root")
UPPER = Signer.named("upper")
LOWER = Signer.named("lower")
OWNER = Signer.named("www.example.org")
STRANGER = Signer.named("stranger")
ROOT_CERTIFICATE = ROOT.certify(ROOT)
UPPER_CERTIFICATE = ROOT.certify(UPPER)
LOWER_CERTIFICATE = UPPER.certify(LOWER)
LEAF = LOWER.certify(OWNER)
OTHER = LOWER.certify(STRANGER)
KEY = key_pem(OWNER.key)
SECRET = b"correct horse"
ENCRYPTED = key_pem(OWNER.key, encryption=BestAvailableEncryption(SECRET))
FULL_CHAIN = pem(LEAF, LOWER_CERTIFICATE, UPPER_CERTIFICATE)
EC_PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
BUNDLE = pem(LEAF, UPPER_CERTIFICATE) + KEY


class FileCase(SynchronousTestCase):
    """A test with files of its own."""

    def setUp(self) -> None:
        # Not trial's own temporary directory, which may lie where other users cannot go.
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        os.chmod(self.directory, 0o755)

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def file(self, name: str, data: bytes) -> str:
        with open(self.path(name), "wb") as file:
            file.write(data)
        return self.path(name)

    def refusal(self, call: Callable[..., object], *args: object, **keywords: object) -> str:
        """The sentence that a call is refused with; it may have nothing secret in it."""
        error = self.assertRaises(ConfigurationError, call, *args, **keywords)
        sentence = str(error)
        self.assertNotIn("\n", sentence)
        self.assertNotIn(SECRET.decode(), sentence)
        self.assertNotRegex(sentence, "M[A-Za-z0-9+=]{40}", "is that key material?")
        return sentence

    def unprivileged(self, call: Callable[..., object], *args: object) -> str:
        """The refusal, for somebody who is not root: root may read and write everything."""
        if os.geteuid() != 0:
            return self.refusal(call, *args)
        sentence: str = runAsEffectiveUser(NOBODY, NOBODY, self.refusal, call, *args)
        return sentence


class AuthorityCase(FileCase):
    """A test with a state directory, and a clock that it sets."""

    def setUp(self) -> None:
        super().setUp()
        # The present, so that programs that have no other clock agree.
        self.time = datetime.now(UTC).replace(microsecond=0)
        self.state = self.path("state")
        self.certificate_path = os.path.join(self.state, "ca.pem")
        self.key_path = os.path.join(self.state, "ca-key.pem")
        self.leaf_path = os.path.join(self.state, "leaf.pem")

    def now(self) -> datetime:
        return self.time

    def authority(self) -> DevelopmentAuthority:
        return DevelopmentAuthority(self.state, self.now)

    def contents(self) -> dict[str, bytes]:
        return {name: read_file(os.path.join(self.state, name)) for name in os.listdir(self.state)}

    def recovery(self) -> str:
        return (
            "to have a new authority made, which clients must then be told to trust, remove"
            f" {self.certificate_path} and {self.key_path}"
        )
