"""The certificates of the tests are as those that are issued: a strict client takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from OpenSSL.crypto import X509, X509Store, X509StoreContext, X509StoreFlags
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.material import make_material
from tests.tls_material import authority, chained_server, client, rsa_server, server
from twisted_bioconn.certificates.development import DevelopmentAuthority


def verify(chain: Sequence[x509.Certificate], root: x509.Certificate) -> None:
    """
    Verify as Python's C{ssl} does by default since 3.13.

    @raise OpenSSL.crypto.X509StoreContextError: OpenSSL does not.
    """
    store = X509Store()
    store.set_flags(X509StoreFlags.X509_STRICT | X509StoreFlags.PARTIAL_CHAIN)
    store.add_cert(X509.from_cryptography(root))
    first, *others = map(X509.from_cryptography, chain)
    X509StoreContext(store, first, others).verify_certificate()


class StrictTests(SynchronousTestCase):
    """OpenSSL takes each of them where it is told to be strict."""

    def test_of_tests(self) -> None:
        for party in (server(), rsa_server(), chained_server(), client()):
            verify(party.chain, authority().certificate)
        padded = server().padded(20_000)
        verify(padded.chain, authority().certificate)

    def test_of_benchmarks(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        material = make_material(directory)
        leaf, root = (
            x509.load_pem_x509_certificate(file.read_bytes())
            for file in (material.certificate, material.authority)
        )
        verify([leaf], root)

    def test_for_development(self) -> None:
        """What the package itself issues, which any client is to take."""
        directory = Path(self.mktemp()).absolute()
        issuer = DevelopmentAuthority(str(directory))
        [root] = x509.load_pem_x509_certificates(Path(issuer.certificate_path).read_bytes())
        for issued in (issuer.issue(), issuer.issue_client("Alice")):
            verify(issued.chain, root)
