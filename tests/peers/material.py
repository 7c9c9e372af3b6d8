"""Certificates for both ends, as the files that programs want."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import trustme
from cryptography import x509


class Material:
    """
    One root, and a server's and a client's certificate, each below an intermediate.

    @ivar root: the root's certificate, for who is to trust it.
    @ivar intermediate: the intermediate's certificate.
    @ivar server: the server's certificate, for C{localhost} and 127.0.0.1, and the intermediate.
    @ivar client: the client's certificate and the intermediate.
    """

    def __init__(self, directory: Path) -> None:
        """
        Make all of it, new, in this directory.
        """
        self._directory = directory
        root = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self._authority = root.create_child_ca(key_type=trustme.KeyType.ECDSA)
        self.root = self._write("root.pem", root.cert_pem)
        self.intermediate = self._write("intermediate.pem", self._authority.cert_pem)
        self.server, self.server_key = self.issue("server", "localhost", "127.0.0.1")
        self.client, self.client_key = self.issue("client", "device@example.org")

    def issue(
        self,
        name: str,
        *identities: str,
        expired: bool = False,
        key_type: trustme.KeyType = trustme.KeyType.ECDSA,
    ) -> tuple[Path, Path]:
        """
        Issue one more certificate.

        @param name: of the files.
        @return: the file of the certificate and the intermediate, and the file of the key.
        """
        leaf = self._authority.issue_cert(
            *identities,
            not_before=datetime(2001, 1, 1),
            not_after=datetime(2002, 1, 1) if expired else None,
            key_type=key_type,
        )
        return (
            self._write(f"{name}.pem", *leaf.cert_chain_pems),
            self._write(f"{name}-key.pem", leaf.private_key_pem),
        )

    def _write(self, name: str, *blobs: trustme.Blob) -> Path:
        path = self._directory / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return path


def certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates in a file, in their order."""
    return tuple(x509.load_pem_x509_certificates(path.read_bytes()))
