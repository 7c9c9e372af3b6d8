"""Tests for L{twisted_bioconn.server.ending_site}: SIGTERM, and clients that keep connections."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from tests.programs import require_module
from tests.server.command import Command
from tests.server.load import DRAINING, LifeCase
from twisted_bioconn.server.ending_site import FIRST_REQUEST, EndingSite

REQUEST = b"GET /a.txt HTTP/1.1\r\nHost: localhost\r\n\r\n"

UPLOAD = (
    b"POST /a.txt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
)


class HeldHandshake:
    """
    A client whose handshake the server cannot complete before L{send} is called.
    """

    def __init__(self, command: Command, alpn: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", command.port()))
        context = ssl.create_default_context(cafile=command.authority)
        context.set_alpn_protocols([alpn])
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.socket.sendall(self._out.read())
                self._in.write(self.socket.recv(65536))
            else:
                # What completes it at the other end is still here.
                return

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self.socket.sendall(self._out.read())

    def all(self) -> bytes:
        """What the server says until it closes, by a close_notify."""
        said = b""
        while True:
            try:
                piece = self._tls.read(65536)
            except ssl.SSLWantReadError:
                ciphertext = self.socket.recv(65536)
                if not ciphertext:
                    raise EOFError("it was cut") from None
                self._in.write(ciphertext)
            else:
                if not piece:
                    return said
                said += piece


class HTTP2:
    """
    A client of HTTP/2, with no connection of its own.

    @ivar events: what the server has said.
    """

    def __init__(self) -> None:
        require_module("h2")
        from h2.connection import H2Connection

        self.connection = H2Connection()
        self.connection.initiate_connection()
        self.events: list[Any] = []

    def ask(self, method: str = "GET") -> bytes:
        """
        Begin the next request.

        @return: what has to be sent.
        """
        number = self.connection.get_next_available_stream_id()
        words = {"method": method, "scheme": "https", "authority": "localhost", "path": "/a.txt"}
        headers = [(f":{name}", value) for name, value in words.items()]
        self.connection.send_headers(number, headers, end_stream=method == "GET")
        return self.connection.data_to_send()

    def hear(self, data: bytes) -> bytes:
        """
        @return: what has to be sent.
        """
        self.events += self.connection.receive_data(data)
        return self.connection.data_to_send()

    def has_heard(self, name: str) -> bool:
        return any(type(each).__name__ == name for each in self.events)

    def hear_until(self, tls: ssl.SSLSocket, name: str) -> None:
        while not self.has_heard(name):
            data = tls.recv(65536)
            if not data:
                raise EOFError(f"it has ended without {name}")
            tls.sendall(self.hear(data))

    @property
    def last(self) -> tuple[str, int]:
        """What was heard last, and the stream that it names."""
        event = self.events[-1]
        return type(event).__name__, getattr(event, "last_stream_id", 0)


class KeptTests(LifeCase):
    """They end when the server does, and it does not wait for what may never be asked for."""

    def command(self) -> Command:
        root = Path(self.mktemp()).absolute()
        root.mkdir()
        (root / "a.txt").write_text("what there is")
        # With nothing to end them, they would be cut, and the exit status be 1.
        return Command(self, "--drain", "20", "--listen", "127.0.0.1:0", "--web", str(root))

    def serving(self, *alpn: str) -> tuple[Command, ssl.SSLSocket]:
        command = self.command()
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

    def is_last(self, answer: bytes, status: int = 200) -> None:
        """It is a single answer, which says that there will be no other one."""
        self.assertEqual(answer.count(b"HTTP/1.1 "), 1, answer)
        self.assertIn(b"HTTP/1.1 %d " % status, answer)
        self.assertIn(b"connection: close", answer.lower())

    def rest(self, tls: ssl.SSLSocket) -> bytes:
        said = b""
        while piece := tls.recv(65536):
            said += piece
        return said

    def test_half_a_body(self) -> None:
        """The head was read long before."""
        command, tls = self.serving("http/1.1")
        tls.sendall(UPLOAD)
        self.assertEqual(tls.recv(4096), b"HTTP/1.1 100 Continue\r\n\r\n")
        tls.sendall(b"bo")
        self.drain(command)
        tls.sendall(b"dy")
        self.is_last(self.rest(tls), 405)
        tls.close()
        self.assertEqual(command.ended(), 0)

    def test_nothing_yet(self) -> None:
        """What is asked first is answered last."""
        command, tls = self.serving("http/1.1")
        self.drain(command)
        tls.sendall(REQUEST + REQUEST)
        self.is_last(self.rest(tls))
        tls.close()
        self.assertEqual(command.ended(), 0)

    def test_handshake_that_ends_later(self) -> None:
        command = self.command()
        client = HeldHandshake(command, "http/1.1")
        self.addCleanup(client.socket.close)
        self.drain(command)
        client.send(REQUEST)
        self.is_last(client.all())
        client.socket.close()
        self.assertEqual(command.ended(), 0)

    def test_http2(self) -> None:
        """GOAWAY is the last that it hears."""
        client = HTTP2()
        command, tls = self.serving("h2")
        self.assertEqual(tls.selected_alpn_protocol(), "h2")
        tls.sendall(client.ask())
        client.hear_until(tls, "StreamEnded")
        self.drain(command)
        client.hear(self.rest(tls))
        self.assertEqual(client.last, ("ConnectionTerminated", 1))
        tls.close()
        self.assertEqual(command.ended(), 0)

    def test_http2_half_a_body(self) -> None:
        client = HTTP2()
        command, tls = self.serving("h2")
        tls.sendall(client.ask() + client.ask("POST"))
        client.connection.ping(b"is it in")
        tls.sendall(client.connection.data_to_send())
        client.hear_until(tls, "PingAckReceived")
        self.drain(command)
        client.connection.send_data(3, b"body", end_stream=True)
        tls.sendall(client.connection.data_to_send())
        client.hear(self.rest(tls))
        self.assertEqual(client.last, ("ConnectionTerminated", 3))
        ended = [each for each in client.events if type(each).__name__ == "StreamEnded"]
        self.assertEqual({each.stream_id for each in ended}, {1, 3})
        tls.close()
        self.assertEqual(command.ended(), 0)

    def test_http2_nothing_yet(self) -> None:
        client = HTTP2()
        command, tls = self.serving("h2")
        tls.sendall(client.connection.data_to_send())
        client.hear_until(tls, "SettingsAcknowledged")
        self.drain(command)
        tls.sendall(client.ask())
        client.hear(self.rest(tls))
        self.assertTrue(client.has_heard("StreamEnded"))
        self.assertEqual(client.last, ("ConnectionTerminated", 1))
        tls.close()
        self.assertEqual(command.ended(), 0)

    def test_http2_handshake_that_ends_later(self) -> None:
        client = HTTP2()
        command = self.command()
        held = HeldHandshake(command, "h2")
        self.addCleanup(held.socket.close)
        self.drain(command)
        held.send(client.ask())
        client.hear(held.all())
        self.assertTrue(client.has_heard("StreamEnded"))
        self.assertEqual(client.last, ("ConnectionTerminated", 1))
        held.socket.close()
        self.assertEqual(command.ended(), 0)


class SilentTests(SynchronousTestCase):
    """Connections on which nothing was asked for, when the port is closed."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.site = EndingSite(Resource(), reactor=self.clock)
        self.site.doStart()

    def connect(self) -> tuple[Any, StringTransport]:
        channel, transport = self.site.buildProtocol(None), StringTransport()
        channel.makeConnection(transport)
        return channel, transport

    def test_they_have_some_time(self) -> None:
        _, transport = self.connect()
        self.site.doStop()
        self.clock.advance(FIRST_REQUEST - 0.1)
        self.assertFalse(transport.disconnecting)
        _, late = self.connect()
        self.clock.advance(0.1)
        self.assertTrue(transport.disconnecting)
        self.assertFalse(late.disconnecting)
        self.clock.advance(FIRST_REQUEST)
        self.assertTrue(late.disconnecting)

    def test_one_that_begins_in_time(self) -> None:
        """It may be slow: it has the time of any other request, and its answer is the last one."""
        channel, transport = self.connect()
        self.site.doStop()
        channel.dataReceived(b"GET")
        self.clock.advance(FIRST_REQUEST)
        self.assertFalse(transport.disconnecting)
        channel.dataReceived(b" / HTTP/1.1\r\n\r\n")
        self.assertIn(b"connection: close", transport.value().lower())
        self.assertTrue(transport.disconnecting)

    def test_one_that_has_gone(self) -> None:
        channel, transport = self.connect()
        self.site.doStop()
        transport.connected = False
        channel.connectionLost(None)
        self.clock.advance(FIRST_REQUEST)
        self.assertFalse(transport.disconnecting)

    def test_port_that_is_opened_again(self) -> None:
        """Its answers are not the last ones."""
        self.site.doStop()
        self.site.doStart()
        channel, transport = self.connect()
        channel.dataReceived(b"GET / HTTP/1.1\r\n\r\n")
        self.assertIn(b"404", transport.value())
        self.assertNotIn(b"close", transport.value().lower())
        self.assertFalse(transport.disconnecting)
