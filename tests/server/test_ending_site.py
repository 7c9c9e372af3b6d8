"""Tests for L{twisted_bioconn.server.ending_site}: SIGTERM, and clients that keep connections."""

from __future__ import annotations

import os
import signal
import ssl
from pathlib import Path

from tests.programs import require_module
from tests.server.command import Command
from tests.server.load import DRAINING, LifeCase

REQUEST = b"GET /a.txt HTTP/1.1\r\nHost: localhost\r\n\r\n"


class KeptTests(LifeCase):
    """They end when the server does, and it does not wait for what may never be asked for."""

    def serving(self, *alpn: str) -> tuple[Command, ssl.SSLSocket]:
        root = Path(self.mktemp()).absolute()
        root.mkdir()
        (root / "a.txt").write_text("what there is")
        # With nothing to end them, they would be cut, and the exit status be 1.
        command = Command(self, "--drain", "20", "--listen", "127.0.0.1:0", "--web", str(root))
        tls = command.connect(command.port(), alpn=alpn)
        self.addCleanup(tls.close)
        return command, tls

    def drain(self, command: Command) -> None:
        os.kill(command.pid, signal.SIGTERM)
        command.wait_for(DRAINING)

    def answer(self, tls: ssl.SSLSocket) -> bytes:
        said = b""
        while not said.endswith(b"what there is"):
            piece = tls.recv(4096)
            self.assertNotEqual(piece, b"", said)
            said += piece
        return said

    def test_idle(self) -> None:
        command, tls = self.serving("http/1.1")
        tls.sendall(REQUEST)
        self.assertNotIn(b"close", self.answer(tls).lower())
        self.drain(command)
        self.assertEqual(tls.recv(1), b"")
        tls.close()
        self.assertEqual(command.ended(), 0)

    def test_half_a_request(self) -> None:
        """What has begun is answered, and the answer says that it is the last one."""
        command, tls = self.serving("http/1.1")
        tls.sendall(REQUEST)
        self.answer(tls)
        tls.sendall(REQUEST[:-2])
        # What was sent before is read before the signal is looked at, or with it: whichever it is,
        # the request is answered or the connection ends, and nothing hangs.
        self.drain(command)
        tls.sendall(REQUEST[-2:])
        said = b""
        while piece := tls.recv(4096):
            said += piece
        if said:
            self.assertIn(b"connection: close", said.lower())
            self.assertTrue(said.endswith(b"what there is"))
        tls.close()
        self.assertEqual(command.ended(), 0)

    def test_http2(self) -> None:
        """GOAWAY is the last that it hears."""
        require_module("h2")
        from h2.connection import H2Connection
        from h2.events import ConnectionTerminated, StreamEnded

        command, tls = self.serving("h2")
        self.assertEqual(tls.selected_alpn_protocol(), "h2")
        connection = H2Connection()
        connection.initiate_connection()
        connection.send_headers(
            1,
            [
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", "localhost"),
                (":path", "/a.txt"),
            ],
            end_stream=True,
        )
        tls.sendall(connection.data_to_send())
        events: list[object] = []
        while not any(isinstance(each, StreamEnded) for each in events):
            events += connection.receive_data(tls.recv(65536))
            tls.sendall(connection.data_to_send())
        self.drain(command)
        while piece := tls.recv(65536):
            events += connection.receive_data(piece)
        self.assertIsInstance(events[-1], ConnectionTerminated)
        tls.close()
        self.assertEqual(command.ended(), 0)
