"""Routes in a configuration file, and through a server that runs."""

from __future__ import annotations

import os
import re
import socket
import ssl
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from tests.server.command import Command
from twisted_bioconn.server.config import Listening, Routing, load_config, read_config

RIGHT = """
    [[listen]]
    port = 8443
    privateKey = "key.pem"
    echo = true

    [[listen.route]]
    names = ["a.example", "*.b.example"]
    web = "."

    [[listen.route]]
    alpn = ["mqtt"]
    passthrough = true
    forward = "192.0.2.1:8883"
    """

WRONG = """
    [[listen]]
    endpoint = "tcp:8443"
    echo = true

    [[listen.route]]
    name = ["a.example"]
    web = "."

    [[listen.route]]
    names = ["a.example", 3]
    passthrough = true
    echo = true
    plain = "refuse"

    [[listen.route]]
    names = ["*.*.x", "a.example"]

    [[listen.route]]
    alpn = "h2"
    forward = "192.0.2.1:80"
    """


class FileCase(SynchronousTestCase):
    """Has a file with a configuration."""

    def written(self, text: str) -> str:
        path: str = os.path.abspath(self.mktemp())
        with open(path, "w") as file:
            file.write(dedent(text).lstrip())
        return path


class RouteTests(FileCase):
    """What a file says of routes."""

    def test_right(self) -> None:
        [listening] = load_config(self.written(RIGHT)).listen
        self.assertEqual(
            listening.routes,
            (
                Routing(Listening(web="."), names=("a.example", "*.b.example")),
                Routing(
                    # What goes on is TLS.
                    Listening(forward=("192.0.2.1:8883",), unsafe_plain_target=True),
                    alpn=("mqtt",),
                    passthrough=True,
                ),
            ),
        )

    def test_dumped(self) -> None:
        """What is written is read as the same."""
        configuration = load_config(self.written(RIGHT))
        again = load_config(self.written(configuration.as_toml()))
        self.assertEqual(again, configuration)
        self.assertEqual(configuration.differences(again), [])

    def test_differences(self) -> None:
        before = load_config(self.written(RIGHT))
        after = load_config(self.written(RIGHT.replace("*.b.example", "c.example")))
        [difference] = before.differences(after)
        self.assertIn("listen 8443: route: names a.example, *.b.example web .", difference)
        self.assertIn("-> names a.example, c.example web .", difference)

    def test_no_tables(self) -> None:
        for text in ("route = 3", "route = [1]", 'route = "a.example"'):
            _, mistakes = read_config(self.written(f"[[listen]]\nport = 1\necho = true\n{text}\n"))
            [mistake] = mistakes
            self.assertIn("this must be [[listen.route]] tables", str(mistake))

    def test_mistakes(self) -> None:
        """All of them, each in its line."""
        path = self.written(WRONG)
        command = Command(self, "--config", path, "--check")
        self.assertEqual(command.ended(), 1)
        said = [line.removeprefix(f"{path}:") for line in (*command.lines, *command.errors)]
        found = [line for line in said if re.match(r"\d+: ", line)]
        self.assertEqual(
            sorted(found[:-1], key=lambda line: int(line.partition(":")[0])),
            [
                "5: route: neither names nor alpn says who goes there",
                "5: route: tcp: endpoints do not have it: they read no hello",
                "6: name: there is no such key in [[listen]], did you mean names?",
                "10: names: this must be a text, and is a number",
                "11: passthrough: this needs forward: TLS ends there",
                "13: plain: this belongs in [[listen]]",
                "15: route: it has no target: forward, web, wsgi, factory or echo",
                "16: names: *.*.x: no client can ask for that name",
            ],
        )
        self.assertTrue(found[-1].startswith("20: forward: 192.0.2.1:80: "), found[-1])


class ServingTests(FileCase):
    """A server with routes."""

    def first_bytes(self, command: Command, port: int, name: str) -> tuple[bytes, str]:
        """What a client gets that asks for a name, and whose certificate it is shown."""
        context = ssl.create_default_context(cafile=command.authority)
        context.check_hostname = False
        plain = socket.create_connection(("127.0.0.1", port))
        with context.wrap_socket(plain, server_hostname=name) as tls:
            tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return tls.recv(9), str(tls.version())

    def serve(self, *words: str) -> None:
        """
        By name: an echo, a directory, and another server that ends TLS itself.
        """
        behind = Command(self, "--listen", "127.0.0.1:0:sslmethod=TLSv1_2_METHOD", "--web", ".")
        behind_port = behind.port()
        path = self.written(
            f"""
            [[listen]]
            endpoint = "127.0.0.1:0"
            echo = true

            [[listen.route]]
            names = ["web.localhost"]
            web = "."

            [[listen.route]]
            names = ["raw.localhost"]
            passthrough = true
            forward = "127.0.0.1:{behind_port}"
            """
        )
        command = Command(self, "--config", path, *words)
        port = command.port()
        for _ in range(4):
            self.assertEqual(
                self.first_bytes(command, port, "other.localhost"), (b"GET / HTT", "TLSv1.3")
            )
            self.assertEqual(
                self.first_bytes(command, port, "web.localhost"), (b"HTTP/1.0 ", "TLSv1.3")
            )
            self.assertEqual(
                self.first_bytes(behind, port, "raw.localhost"), (b"HTTP/1.0 ", "TLSv1.2")
            )
        for each in (command, behind):
            self.assertEqual(each.terminate(), 0)
            self.assertEqual(each.errors, [])

    def test_serve(self) -> None:
        self.serve()

    def test_workers(self) -> None:
        self.serve("--workers", "2")
