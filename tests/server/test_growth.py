"""
The relay under load: much at once in both directions, with a reader that is slow.

What comes out is what went in, and the process does not grow. With BIOCONN_SLOW=1 in the
environment it is a gibibyte each way.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import ssl
from collections.abc import Callable
from threading import Event, Thread
from time import monotonic
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from tests.server.command import Command
from twisted_bioconn.certificates.development import DevelopmentAuthority

MEBIBYTE = 1024 * 1024
SIZE = (1024 if os.environ.get("BIOCONN_SLOW") else 64) * MEBIBYTE

#: How much the process may grow, in bytes.
GROWTH = 16 * MEBIBYTE

#: A sender that can send nothing for so long has filled every buffer on the way, in seconds.
STALLED = 0.3


class Peer:
    """
    One end: sends SIZE bytes and receives as many, at the same time.

    @ivar stalled: it cannot send any more, for the other end does not read.
    @ivar may_read: it reads from when this is set.
    @ivar held: how much the buffers on the way had taken when it stalled, in bytes.
    """

    def __init__(self, connection: socket.socket, seed: int, piece: int) -> None:
        """
        @param piece: how much it reads at once, in bytes.
        """
        connection.setblocking(False)
        self.stalled = Event()
        self.may_read = Event()
        self.held = 0
        self._socket = connection
        self._block = memoryview(hashlib.shake_128(bytes([seed])).digest(MEBIBYTE))
        self._piece = piece
        self._sent = 0
        self._received = 0
        self._hash = hashlib.sha256()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def what_it_sends(self) -> str:
        """The checksum of it."""
        checksum = hashlib.sha256()
        for _ in range(SIZE // MEBIBYTE):
            checksum.update(self._block)
        return checksum.hexdigest()

    def what_it_got(self) -> str:
        """Wait for the end; the checksum of all that came."""
        self._thread.join(600)
        return self._hash.hexdigest() if self._received == SIZE else f"{self._received} bytes"

    def _run(self) -> None:
        last = monotonic()
        while self._sent < SIZE or self._received < SIZE:
            reading = [self._socket] if self._received < SIZE and self.may_read.is_set() else []
            writing = [self._socket] if self._sent < SIZE else []
            select.select(reading, writing, [], 0.02)
            if writing and self._try(self._send):
                last = monotonic()
            if not self.stalled.is_set() and monotonic() - last > STALLED:
                self.held = self._sent
                self.stalled.set()
            if reading:
                self._try(self._receive)

    @staticmethod
    def _try(step: Callable[[], None]) -> bool:
        try:
            step()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    def _send(self) -> None:
        offset = self._sent % MEBIBYTE
        self._sent += self._socket.send(self._block[offset : offset + 65536])

    def _receive(self) -> None:
        data = self._socket.recv(self._piece)
        if not data:
            raise ConnectionError("the relay ended the connection")
        self._received += len(data)
        self._hash.update(data)


def resident(pid: int, which: str) -> int:
    """What a process has in memory, VmRSS, or has had at most, VmHWM, in bytes."""
    with open(f"/proc/{pid}/status") as status:
        [line] = [line for line in status if line.startswith(f"{which}:")]
    return int(line.split()[1]) * 1024


def forget_peak(pid: int) -> None:
    """From now on VmHWM is counted anew: proc(5), clear_refs."""
    with open(f"/proc/{pid}/clear_refs", "w") as file:
        file.write("5")


@skipUnless(os.path.exists("/proc/self/clear_refs"), "it takes Linux to measure a process")
class GrowthTests(SynchronousTestCase):
    """One relay for each combination of plain and TLS."""

    def relay(self, tls_in: bool, tls_out: bool) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        back_end = f"127.0.0.1:{listening.getsockname()[1]}"
        as_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if tls_out:
            authority = DevelopmentAuthority(self.mktemp())
            key = os.path.join(authority.directory, "back-end.pem")
            with open(key, "wb") as file:
                file.write(authority.issue().to_pem())
            as_server.load_cert_chain(key)
            back_end = f"bioconn:{back_end}:trustRoots={authority.certificate_path}"
        listen = "127.0.0.1:0" if tls_in else "tcp:0:interface=127.0.0.1"
        command = Command(self, "--listen", listen, "--forward", back_end)
        port = command.port()
        as_client = ssl.create_default_context(cafile=command.authority if tls_in else None)

        def connect() -> tuple[socket.socket, socket.socket]:
            # The relay asks for the back end when the client is let in, so the two handshakes
            # come one after the other, and whoever has to speak for the second is another thread.
            servers: list[socket.socket] = []

            def accept() -> None:
                server, _ = listening.accept()
                if tls_out:
                    server = as_server.wrap_socket(server, server_side=True)
                servers.append(server)

            accepting = Thread(target=accept, daemon=True)
            accepting.start()
            client = socket.create_connection(("127.0.0.1", port))
            self.addCleanup(client.close)
            if tls_in:
                client = as_client.wrap_socket(client, server_hostname="localhost")
                self.addCleanup(client.close)
            accepting.join(300)
            [server] = servers
            self.addCleanup(server.close)
            return client, server

        # What the first connection takes, code that is loaded late above all, is not counted.
        for end in connect():
            end.close()
        client, server = connect()
        client.sendall(b"x")
        self.assertEqual(server.recv(1), b"x")
        forget_peak(command.pid)
        before = resident(command.pid, "VmRSS")

        slow, fast = Peer(client, 1, 16384), Peer(server, 2, 262144)
        # Nobody reads until all the buffers on the way are full, in both directions.
        for peer in (slow, fast):
            self.assertTrue(peer.stalled.wait(300))
            self.assertLess(peer.held, SIZE)
        for peer in (slow, fast):
            peer.may_read.set()
        self.assertEqual(slow.what_it_got(), fast.what_it_sends())
        self.assertEqual(fast.what_it_got(), slow.what_it_sends())
        self.assertLess(resident(command.pid, "VmHWM") - before, GROWTH)
        self.assertEqual(command.terminate(), 0)

    def test_plain_to_plain(self) -> None:
        self.relay(tls_in=False, tls_out=False)

    def test_tls_to_plain(self) -> None:
        self.relay(tls_in=True, tls_out=False)

    def test_plain_to_tls(self) -> None:
        self.relay(tls_in=False, tls_out=True)

    def test_tls_to_tls(self) -> None:
        self.relay(tls_in=True, tls_out=True)
