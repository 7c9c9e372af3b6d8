"""Files, sockets and OpenSSL at the other end, for tests of endpoints on the real reactor."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from tests.context_material import FFDHE2048, dh_parameters
from tests.endpoint_material import Application
from tests.protocol_material import Peer
from tests.tls_material import (
    authority,
    certificate,
    chained_server,
    client,
    ec_key,
    pem,
    rsa_server,
)
from twisted_bioconn.server.keepalive import KEEPALIVE

SECRET = b"correct horse"


def key_pem(key: Any, secret: bytes | None = None) -> bytes:
    """A private key, encrypted if there is a secret."""
    encryption = NoEncryption() if secret is None else BestAvailableEncryption(secret)
    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return made


def certificate_for_localhost() -> bytes:
    """A server's, for C{localhost}."""
    return pem(certificate("local", authority(), key=ec_key(1), names=[x509.DNSName("localhost")]))


def is_kept_alive(test: TestCase, end: socket.socket) -> bool:
    """Whether the kernel asks for the other end of this socket, as often as it is to."""
    if not end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE):
        return False
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            number = getattr(socket, name)
            test.assertEqual(end.getsockopt(socket.IPPROTO_TCP, number), value)
    return True


def greeting(application: Application) -> None:
    """What a server says first."""
    application.transport.write(b"hello")


def firing(deferred: Deferred[None]) -> Callable[[Application], None]:
    """What fires this, once."""

    def fire(_: Application) -> None:
        if not deferred.called:
            deferred.callback(None)

    return fire


def one(protocol: Any) -> Any:
    """A factory for one protocol that is there already."""
    return Factory.forProtocol(lambda: protocol)


class Talking(Peer):
    """
    OpenSSL at the other end.

    @ivar answered: fires with this when bytes have come, or the connection is lost.
    """

    def __init__(self, made: SSL.Context, is_client: bool) -> None:
        super().__init__(made, is_client)
        self.answered: Deferred[Talking] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.received:
            self._tell()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._tell()

    def _tell(self) -> None:
        answered, self.answered = self.answered, Deferred()
        answered.callback(self)


class SocketCase(TestCase):
    """A test with files and sockets."""

    timeout = 300

    def setUp(self) -> None:
        # Not trial's directory: the address of a UNIX socket may have no more than 107 bytes.
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        os.mkdir(self.path("authorities"))
        os.mkdir(self.path("strangers"))
        local = certificate_for_localhost()
        for name, content in {
            "server.pem": key_pem(ec_key(1)) + local,
            "key.pem": key_pem(ec_key(1)),
            "encrypted.pem": key_pem(ec_key(1), SECRET),
            "passphrase": SECRET,
            "cert.pem": local,
            "chained.pem": pem(chained_server().certificate),
            "chain.pem": b"".join(map(pem, chained_server().intermediates)),
            "rsa.pem": key_pem(rsa_server().key) + pem(rsa_server().certificate),
            "dh.pem": dh_parameters(FFDHE2048),
            "client.pem": pem(client().certificate) + key_pem(client().key),
            "client-cert.pem": pem(client().certificate),
            "client-key.pem": key_pem(client().key),
            "authorities/ca.pem": pem(authority().certificate),
            "authorities/notes.txt": b"not a certificate",
            "strangers/ca.pem": pem(authority("nobody").certificate),
        }.items():
            with open(self.path(name), "wb") as file:
                file.write(content)

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    async def listen(self, endpoint: Any, factory: Any) -> Any:
        """Listen until the end of the test; returns the address."""
        port = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        return port.getHost()

    async def serve(self, description: str, factory: Any) -> Any:
        """Listen by a string, in which C{DIR} stands for the directory; returns the address."""
        return await self.listen(
            serverFromString(reactor, description.replace("DIR", self.directory)), factory
        )

    def connect(self, description: str, factory: Any) -> Any:
        """Connect by a string, in which C{DIR} stands for the directory."""
        return clientFromString(reactor, description.replace("DIR", self.directory)).connect(
            factory
        )
