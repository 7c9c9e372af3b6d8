"""Certificates for both ends, as the files that programs want."""

from __future__ import annotations

from pathlib import Path

import trustme
from attrs import frozen
from cryptography import x509


@frozen
class Material:
    """
    One root, and a server's and a client's certificate, each below an intermediate.

    @ivar root: the root's certificate, for who is to trust it.
    @ivar intermediate: the intermediate's certificate.
    @ivar server: the server's certificate (for C{localhost} and 127.0.0.1) and the intermediate.
    @ivar rsa_server: the same with an RSA key.
    @ivar client: the client's certificate and the intermediate.
    """

    root: Path
    intermediate: Path
    server: Path
    server_key: Path
    rsa_server: Path
    rsa_server_key: Path
    client: Path
    client_key: Path

    @classmethod
    def make(cls, directory: Path) -> Material:
        """Make all of it, new, in this directory."""
        root = trustme.CA(organization_name="root", key_type=trustme.KeyType.ECDSA)
        below = root.create_child_ca(key_type=trustme.KeyType.ECDSA)

        def write(name: str, *blobs: trustme.Blob) -> Path:
            path = directory / name
            path.write_bytes(b"".join(blob.bytes() for blob in blobs))
            return path

        def issue(name: str, leaf: trustme.LeafCert) -> tuple[Path, Path]:
            chain = write(f"{name}.pem", *leaf.cert_chain_pems)
            return chain, write(f"{name}-key.pem", leaf.private_key_pem)

        names = ("localhost", "127.0.0.1")
        server = issue("server", below.issue_cert(*names, key_type=trustme.KeyType.ECDSA))
        rsa = issue("rsa-server", below.issue_cert(*names, key_type=trustme.KeyType.RSA))
        client = issue(
            "client",
            below.issue_cert("device@example.org", common_name="device", key_type=trustme.KeyType.ECDSA),
        )
        return cls(
            write("root.pem", root.cert_pem),
            write("intermediate.pem", below.cert_pem),
            *server,
            *rsa,
            *client,
        )


def certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates in a file, in their order."""
    return tuple(x509.load_pem_x509_certificates(path.read_bytes()))
