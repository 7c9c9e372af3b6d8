"""Tests for L{twisted_bioconn.connector}: flights of any size."""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SkipTest

from tests.engines import EngineCase, on_both_engines
from tests.faults import DEMAND
from tests.tls_material import (
    DAY,
    HOST,
    NOW,
    VERSIONS,
    Party,
    authority,
    client,
    client_connection,
    context,
    ec_key,
    pem,
    server,
    server_connection,
)
from twisted_bioconn import _openssl
from twisted_bioconn.connector import Connector, State

TRUSTED = [authority().certificate]
KIB = 1024
_GET_MAX_CERT_LIST, _SET_MAX_CERT_LIST = 50, 51
"""C{SSL_CTRL_} numbers for C{SSL_CTX_ctrl}."""


@on_both_engines
class LargeChainTests(EngineCase):
    """Chains of certificates as large as OpenSSL takes: 100 KiB is its limit for a message."""

    def test_both_ways(self) -> None:
        """A chain of 95 KiB each way, delivered whole and in pieces."""
        for version in VERSIONS:
            for split in (None, 1000):
                versions = (version, version)
                own, its = client().padded(88 * KIB), server().padded(88 * KIB)
                made = context(True, own=own, trusted=TRUSTED, versions=versions)
                connection = client_connection(made)
                for_server = context(False, own=its, trusted=TRUSTED, versions=versions)
                other = server_connection(for_server)
                _openssl.set_verification(connection, DEMAND, None)
                _openssl.set_verification(other, DEMAND, None)
                loop = self.connectors(connection, other)
                loop.to_client.split = loop.to_server.split = split
                loop.server.write(b"hello")
                loop.client.write(b"hello")
                loop.pump()
                self.assertEqual(loop.received_by_client, b"hello")
                self.assertEqual(loop.received_by_server, b"hello")
                self.assertGreater(loop.to_client.sent, 88 * KIB)
                self.assertGreater(loop.to_server.sent, 88 * KIB)
                for connector, party in ((loop.client, its), (loop.server, own)):
                    facts = connector.negotiated
                    assert facts is not None
                    self.assertEqual(facts.peer_chain[0], party.certificate)

    def test_larger_flight(self) -> None:
        """A chain and a list of authorities, in one flight of more than 140 KiB."""
        for version in VERSIONS:
            versions = (version, version)
            its = server().padded(88 * KIB)
            for_server = context(False, own=its, trusted=TRUSTED, versions=versions)
            for each in authorities(60):
                for_server.add_client_ca(each)
            other = server_connection(for_server)
            _openssl.set_verification(other, DEMAND, None)
            made = context(True, own=client(), trusted=TRUSTED, versions=versions)
            loop = self.connectors(client_connection(made), other)
            loop.pump()
            self.assertEqual((loop.client.state, loop.server.state), (State.OPEN, State.OPEN))
            self.assertGreater(loop.to_client.sent, 140 * KIB)

    def test_too_large_for_openssl(self) -> None:
        """
        A message of more than 100 KiB is refused: C{SSL_CTX_set_max_cert_list} is not to be had in
        Python.
        """
        for version in VERSIONS:
            its = server().padded(200 * KIB)
            made = context(True, trusted=TRUSTED, versions=(version, version))
            for_server = context(False, own=its, versions=(version, version))
            loop = self.connectors(client_connection(made), server_connection(for_server))
            loop.pump()
            assert loop.client_error is not None and loop.server_error is not None
            self.assertEqual(
                loop.client_error.sentence,
                "the peer sent a message larger than OpenSSL takes; for a chain of certificates"
                " that is 100 KiB",
            )
            self.assertEqual(loop.client_error.alert, loop.server_error.alert)


class PythonPeer:
    """An end of Python's own ssl module, over two memory BIOs, that takes a chain of any size."""

    def __init__(self, made: ssl.SSLContext, is_client: bool) -> None:
        library = ctypes.CDLL(_ssl.__file__)
        try:
            control = library.SSL_CTX_ctrl
        except AttributeError:
            raise SkipTest("OpenSSL cannot be reached behind this Python's ssl module") from None
        control.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
        control.restype = ctypes.c_long
        # The first thing in a Python SSLContext is the address of OpenSSL's.
        pointer = ctypes.c_void_p.from_address(id(made) + object.__basicsize__)
        if control(pointer, _GET_MAX_CERT_LIST, 0, None) != 100 * KIB:
            raise SkipTest("this Python's SSLContext is not laid out as is known here")
        control(pointer, _SET_MAX_CERT_LIST, KIB * KIB, None)
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        host = HOST if is_client else None
        self.end = made.wrap_bio(self.into, self.out, not is_client, host)

    def meet(self, connector: Connector) -> None:
        """Complete the handshake with a connector."""
        while connector.state is not State.OPEN:
            self.go_on()
            moved = self.out.read()
            connector.feed(moved)
            answer = b"".join(iter(connector.take, b""))
            self.into.write(answer)
            if not moved and not answer:
                raise AssertionError("the handshake stands still")
        self.into.write(b"".join(iter(connector.take, b"")))
        self.go_on()

    def go_on(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.end.do_handshake()


@on_both_engines
class LargerChainTests(EngineCase):
    """A peer that takes more gets more: we send a chain of any size."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = self.file(pem(authority().certificate))

    def file(self, data: bytes) -> str:
        path = Path(self.mktemp())
        path.write_bytes(data)
        return str(path)

    def key(self, party: Party) -> bytes:
        return party.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def test_of_a_server(self) -> None:
        """200 KiB from our server."""
        for version in VERSIONS:
            its = server().padded(200 * KIB)
            made = ssl.create_default_context(cafile=self.authority)
            peer = PythonPeer(made, is_client=True)
            for_server = context(False, own=its, versions=(version, version))
            connector = Connector(server_connection(for_server), False)
            peer.meet(connector)
            connector.write(b"hello")
            for piece in iter(connector.take, b""):
                peer.into.write(piece)
            self.assertEqual(peer.end.read(100), b"hello")
            seen = peer.end.getpeercert(binary_form=True)
            self.assertEqual(seen, its.certificate.public_bytes(Encoding.DER))

    def test_of_a_client(self) -> None:
        """200 KiB from our client."""
        for version in VERSIONS:
            own = client().padded(200 * KIB)
            made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.authority)
            made.load_cert_chain(self.file(pem(server().certificate) + self.key(server())))
            made.verify_mode = ssl.CERT_REQUIRED
            peer = PythonPeer(made, is_client=False)
            for_client = context(True, own=own, trusted=TRUSTED, versions=(version, version))
            connector = Connector(client_connection(for_client), True)
            peer.into.write(connector.take())
            peer.meet(connector)
            connector.write(b"hello")
            for piece in iter(connector.take, b""):
                peer.into.write(piece)
            self.assertEqual(peer.end.read(100), b"hello")
            seen = peer.end.getpeercert(binary_form=True)
            self.assertEqual(seen, own.certificate.public_bytes(Encoding.DER))


def authorities(count: int) -> list[x509.Certificate]:
    """Certificates of authorities with names of a thousand bytes."""
    made = []
    for number in range(count):
        part = x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, f"{number:02}" + "x" * 60)
        name = x509.Name([part] * 14)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name)
        builder = builder.public_key(ec_key().public_key()).serial_number(number + 1)
        builder = builder.not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
        made.append(builder.sign(ec_key(), SHA256()))
    return made
