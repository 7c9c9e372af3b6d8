"""Several back ends behind the command."""

from __future__ import annotations

import re
import socket
from threading import Thread

from twisted.trial.unittest import SynchronousTestCase

from tests.server.command import Command
from twisted_bioconn.proxy_protocol import HeaderReader, ProxyAddress, ProxyHeader

DOWN = re.compile(
    r"back end (?P<which>\S+) is down: 3 checks have failed, the last one: Connection"
)


class BackEnd:
    """
    A server that takes a PROXY header, and answers with a status.

    @ivar headers: those of the connections that were no checks.
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        self.headers: list[ProxyHeader] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = Thread(target=self._serve, daemon=True)
        self._thread.start()
        case.addCleanup(self.stop)

    def stop(self) -> None:
        """Accept nobody any more."""
        # To close it does not wake who waits in it.
        try:
            self._listening.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
        self._thread.join(20)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(200)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        reader, header = HeaderReader(), None
        while header is None:
            header = reader.feed(connection.recv(65536))
        rest = reader.rest
        while b"\r\n\r\n" not in rest:
            rest += connection.recv(65536)
        if not header.is_local:
            self.headers.append(header)
        connection.sendall(b"HTTP/1.0 204 No Content\r\n\r\n")


class BackEndsTests(SynchronousTestCase):
    """C{--forward} twice."""

    def test_turns_header_and_checks(self) -> None:
        one, two = BackEnd(self), BackEnd(self)
        forwards = [f"localhost:{each.port}" for each in (one, two)]
        command = Command(
            self,
            *("--listen", "127.0.0.1:0", "--forward", forwards[0], "--forward", forwards[1]),
            *("--send-proxy", "v2-tls", "--health-check", "http:/", "--health-interval", "0.1"),
        )
        port = command.port()

        def ask() -> ProxyAddress:
            with command.connect(port) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                self.assertTrue(client.recv(100).startswith(b"HTTP/1.0 204"))
                return ProxyAddress(*client.getsockname())

        asked = [ask() for _ in range(4)]
        told = [*one.headers, *two.headers]
        self.assertEqual((len(one.headers), len(two.headers)), (2, 2))
        self.assertCountEqual([each.source for each in told], asked)
        for each in told:
            self.assertEqual(each.destination, ProxyAddress("127.0.0.1", port))
            self.assertEqual(each.authority, "localhost")
            assert each.tls is not None
            self.assertEqual(each.tls.version, "TLSv1.3")
        one.stop()
        self.assertEqual(command.wait_for(DOWN)["which"], forwards[0])
        for _ in range(4):
            ask()
        self.assertEqual(len(two.headers), 6)
        self.assertEqual(command.terminate(), 0)
