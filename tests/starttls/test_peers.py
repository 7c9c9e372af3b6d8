"""Other people's clients, on real sockets and with real TLS, with L{twisted_bioconn.starttls}."""

from __future__ import annotations

import imaplib
import os
import poplib
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable
from threading import Thread

from twisted.trial.unittest import SynchronousTestCase

from tests.programs import require
from tests.socket_material import certificate_for_localhost, key_pem
from tests.starttls.material import server
from tests.tls_material import authority, ec_key, pem
from twisted_bioconn.starttls import NAMES, DialogueState

DEADLINE = 120.0  # seconds

Behind = Callable[[bytes], bytes] | bytes
"""What answers to what comes by TLS; or all that is said before the connection is closed."""


class Front(Thread):
    """
    A front for one connection, with a server behind it that is made up.

    @ivar port: where it listens.
    @ivar heard: what has come by TLS.
    @ivar said: what it has sent before TLS.
    @ivar failure: what went wrong.
    """

    def __init__(self, name: str, certificate: str, behind: Behind) -> None:
        super().__init__(daemon=True)
        self._dialogue = server(name)
        self._behind = behind
        self._for_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._for_tls.load_cert_chain(certificate)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(DEADLINE)
        self.port: int = self._listening.getsockname()[1]
        self.heard = self.said = b""
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            connection, _ = self._listening.accept()
            with connection:
                connection.settimeout(DEADLINE)
                self._talk(connection)
        except Exception as error:
            self.failure = error
        finally:
            self._listening.close()

    def _talk(self, connection: socket.socket) -> None:
        self._say(connection, self._dialogue.start())
        while self._dialogue.state is DialogueState.TALKING:
            data = connection.recv(65536)
            assert data, "the client has gone before TLS"
            self._say(connection, self._dialogue.feed(data))
        if self._dialogue.state is DialogueState.CLOSED:
            return
        with self._for_tls.wrap_socket(connection, server_side=True) as secure:
            if isinstance(self._behind, bytes):
                secure.sendall(self._behind)
                secure.unwrap()
                return
            while True:
                data = secure.recv(65536)
                if not data:
                    break
                self.heard += data
                secure.sendall(self._behind(data))

    def _say(self, connection: socket.socket, data: bytes) -> None:
        self.said += data
        connection.sendall(data)


class PeerCase(SynchronousTestCase):
    """A test with a front."""

    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)
        self.certificate = self.file("server.pem", key_pem(ec_key(1)) + certificate_for_localhost())
        self.roots = self.file("roots.pem", pem(authority().certificate))

    def file(self, name: str, content: bytes) -> str:
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def front(self, name: str, behind: Behind) -> Front:
        front = Front(name, self.certificate, behind)
        front.start()
        self.addCleanup(front.join, DEADLINE)
        return front

    def done(self, front: Front) -> Front:
        """It has ended well."""
        front.join(DEADLINE)
        self.assertFalse(front.is_alive())
        self.assertIsNone(front.failure)
        return front

    def run_program(self, *command: object) -> tuple[int, bytes]:
        """Run a program; returns its status and all that it has written."""
        path = require(str(command[0]))
        done = subprocess.run(
            [path, *map(str, command[1:])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE,
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": self.directory},
            check=False,
        )
        return done.returncode, done.stdout


class AllProtocolsTests(PeerCase):
    """Programs that know how TLS begins in many protocols."""

    def test_openssl(self) -> None:
        """C{openssl s_client -starttls} knows all of ours."""
        for name in NAMES:
            front = self.front(name, b"said by TLS\n")
            status, said = self.run_program(
                *("openssl", "s_client", "-connect", f"127.0.0.1:{front.port}", "-starttls"),
                *("postgres" if name == "postgresql" else name, "-name", "localhost"),
                *("-CAfile", self.roots, "-verify_return_error", "-verify_hostname", "localhost"),
                "-quiet",
            )
            self.done(front)
            self.assertEqual((status, b"said by TLS\n" in said), (0, True), (name, said))

    def test_gnutls(self) -> None:
        """C{gnutls-cli --starttls-proto} knows all but the one between servers."""
        for name in set(NAMES) - {"xmpp-server"}:
            front = self.front(name, b"said by TLS\n")
            status, said = self.run_program(
                *("gnutls-cli", "--port", front.port, "--x509cafile", self.roots),
                *("--starttls-proto", "postgres" if name == "postgresql" else name, "localhost"),
            )
            self.done(front)
            self.assertEqual((status, b"said by TLS\n" in said), (0, True), (name, said))


class CurlTests(PeerCase):
    """C{curl --ssl-reqd}."""

    def curl(self, *arguments: object) -> tuple[int, bytes]:
        return self.run_program(
            *("curl", "-q", "-sS", "--ssl-reqd", "--cacert", self.roots, "--max-time", DEADLINE),
            *arguments,
        )

    def test_smtp(self) -> None:
        """A command, by TLS."""

        def behind(data: bytes) -> bytes:
            return b"250 by TLS\r\n"

        front = self.front("smtp", behind)
        status, said = self.curl(f"smtp://localhost:{front.port}", "--request", "NOOP")
        self.assertEqual(status, 0, said)
        self.assertIn(b"by TLS", said)
        self.assertIn(b"NOOP\r\n", self.done(front).heard)


class PsqlTests(PeerCase):
    """C{psql}."""

    def psql(self, front: Front, more: str) -> bytes:
        where = f"host=localhost hostaddr=127.0.0.1 port={front.port} user=a dbname=a"
        status, said = self.run_program("psql", f"{where} sslrootcert={self.roots} {more}")
        self.assertNotEqual(status, 0)
        return said

    def test_tls(self) -> None:
        """The server is verified, and what it says by TLS is read."""
        fields = b"SFATAL\0C28000\0Msaid by TLS\0\0"
        error = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
        front = self.front("postgresql", lambda data: error)
        self.assertIn(b"said by TLS", self.psql(front, "sslmode=verify-full"))
        self.assertIn(b"user\0a\0", front.heard)

    def test_plain(self) -> None:
        """Without TLS it is told what is missing."""
        front = self.front("postgresql", lambda data: b"")
        said = self.psql(front, "sslmode=disable gssencmode=disable")
        self.assertIn(b"this server requires SSL", said)
        self.done(front)


class PythonTests(PeerCase):
    """The clients that come with Python."""

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.roots)

    def test_smtplib(self) -> None:
        """It says hello anew."""

        def behind(data: bytes) -> bytes:
            return (b"221" if data == b"QUIT\r\n" else b"250") + b" by TLS\r\n"

        front = self.front("smtp", behind)
        with smtplib.SMTP("localhost", front.port, "me", DEADLINE) as peer:
            peer.starttls(context=self.context())
            self.assertEqual(peer.ehlo(), (250, b"by TLS"))
        self.assertEqual(self.done(front).heard, b"ehlo me\r\nQUIT\r\n")

    def test_poplib(self) -> None:
        """It finds STLS in the list."""
        front = self.front("pop3", lambda data: b"+OK by TLS\r\n")
        peer = poplib.POP3("localhost", front.port, DEADLINE)
        self.assertEqual(peer.capa(), {"STLS": []})
        peer.stls(self.context())
        self.assertEqual(peer.noop(), b"+OK by TLS")
        peer.quit()
        self.assertEqual(self.done(front).heard, b"NOOP\r\nQUIT\r\n")

    def test_imaplib(self) -> None:
        """It asks anew what the server can do."""

        def behind(data: bytes) -> bytes:
            tag = data.partition(b" ")[0]
            return b"* CAPABILITY IMAP4rev1 XTLS\r\n" + tag + b" OK by TLS\r\n"

        front = self.front("imap", behind)
        peer = imaplib.IMAP4("localhost", front.port, DEADLINE)
        self.assertIn("STARTTLS", peer.capabilities)
        peer.starttls(self.context())
        self.assertEqual(peer.capabilities, ("IMAP4REV1", "XTLS"))
        peer.shutdown()
        self.done(front)
