"""The configuration file, with the command run as a program."""

from __future__ import annotations

import os
import re
import signal
import socket
from textwrap import dedent
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from tests.server.command import MODULE, TWIST, TWISTD, Command
from twisted_bioconn.certificates.development import DevelopmentAuthority


class CommandTests(SynchronousTestCase):
    """C{--check} as a program."""

    def check(self, text: str, status: int, start: tuple[str, ...], *words: str) -> list[str]:
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        path = os.path.join(directory, "front.toml")
        with open(path, "w") as file:
            file.write(dedent(text))
        command = Command(self, *words, "--config", path, "--check", start=start)
        self.assertEqual(command.ended(), status, command.errors)
        self.assertEqual(command.errors, [])
        # Nothing was started, and nothing is left.
        self.assertFalse(os.path.exists(command.state))
        self.assertEqual(os.listdir(command.directory), [])
        return [line.replace(path, "FILE") for line in command.lines]

    def test_mistakes(self) -> None:
        for start in (MODULE, TWISTD, TWIST):
            found = self.check(
                """\
                drian = 5

                [[listen]]
                port = 8443
                privateKey = "absent.pem"
                polcy = "modern"
                forward = "locahost:80"
                """,
                1,
                start,
            )
            self.assertEqual(
                found,
                [
                    "FILE:1: drian: there is no such key at the top, did you mean drain?",
                    "FILE:5: privateKey: absent.pem does not exist",
                    "FILE:6: polcy: there is no such key in [[listen]], did you mean policy?",
                    "FILE:7: forward: locahost:80: it is plain, and not on this machine;"
                    " unsafe-plain-target = true allows it, bioconn:HOST:PORT encrypts it",
                ],
            )

    def test_no_toml(self) -> None:
        [line] = self.check("a = 1\nb = = 2\n", 1, MODULE)
        self.assertTrue(line.startswith("FILE:2:5: this is no TOML: "), line)

    def test_no_mistakes(self) -> None:
        """A port that is taken is no mistake of the file: it is not opened."""
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        found = self.check(
            f"""\
            [[listen]]
            port = {taken.getsockname()[1]}
            interface = "127.0.0.1"
            echo = true
            [[listen]]
            port = 8444
            acme = "none"
            names = ["a.example"]
            echo = true
            """,
            0,
            MODULE,
        )
        self.assertEqual(found, ["FILE: no mistakes"])

    @skipUnless(os.name == "posix" and os.getuid() == 0, "it takes root to be somebody else")
    def test_another_user(self) -> None:
        """What this user may read, and the later one may not."""
        directory = os.path.realpath(self.mktemp())
        authority = DevelopmentAuthority(directory)
        authority.leaf()
        start = (*TWISTD[:-1], "--uid", "nobody", "bioconn")
        found = self.check(
            f"""\
            [[listen]]
            port = 8443
            privateKey = "{directory}/leaf.pem"
            echo = true
            """,
            0,
            start,
        )
        self.assertEqual(found[-1], "FILE: no mistakes")
        [line] = [line for line in found if line.startswith("FILE:3: privateKey: ")]
        self.assertRegex(
            line,
            rf"nobody \(uid \d+\) cannot read {re.escape(directory)}/leaf\.pem after the start.*:"
            r" a reload would fail \(a warning\)$",
        )


class RunningTests(SynchronousTestCase):
    """C{--config} alone."""

    def setUp(self) -> None:
        directory = os.path.abspath(self.mktemp())
        os.mkdir(directory)
        self.path = os.path.join(directory, "front.toml")

    def write(self, text: str) -> None:
        with open(self.path, "w") as file:
            file.write(dedent(text))

    def test_serves(self) -> None:
        self.write(
            """\
            [[listen]]
            port = 0
            interface = "127.0.0.1"
            alpn = ["echo"]
            echo = true

            [[listen]]
            endpoint = "tcp:0:interface=127.0.0.1"
            web = "."
            """
        )
        command = Command(self, "--config", self.path)
        port = command.port()
        self.assertIn("listen 127.0.0.1:0: listening on", command.lines[-1])
        command.port()
        self.assertIn("listen tcp:0:interface=127.0.0.1: listening on", command.lines[-1])
        command.wait_for(re.compile("clients have to trust"))
        with command.connect(port, alpn=["echo"]) as client:
            self.assertEqual(client.selected_alpn_protocol(), "echo")
            client.sendall(b"hello")
            self.assertEqual(client.recv(5), b"hello")
        self.assertEqual(command.terminate(), 0)

    def test_several_back_ends(self) -> None:
        """A client of the one that is not there gets the other."""
        gone = socket.create_server(("127.0.0.1", 0))
        dead = gone.getsockname()[1]
        gone.close()
        far = Command(self, "--listen", "tcp:0:interface=127.0.0.1", "--echo")
        self.write(
            f"""\
            [[listen]]
            endpoint = "tcp:0:interface=127.0.0.1"
            forward = ["127.0.0.1:{dead}", "127.0.0.1:{far.port()}"]
            """
        )
        command = Command(self, "--config", self.path)
        port = command.port()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"hello")
                self.assertEqual(client.recv(5), b"hello")
        self.assertEqual(command.terminate(), 0)

    def test_proxy_header(self) -> None:
        """A back end is told who the client is."""
        back_end = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(back_end.close)
        back_end.settimeout(300)
        self.write(
            f"""\
            [[listen]]
            endpoint = "tcp:0:interface=127.0.0.1"
            forward = "127.0.0.1:{back_end.getsockname()[1]}"
            send-proxy = "v1"
            """
        )
        command = Command(self, "--config", self.path)
        port = command.port()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"hello")
            client.shutdown(socket.SHUT_WR)
            accepted, _ = back_end.accept()
            with accepted, accepted.makefile("rb") as file:
                self.assertEqual(
                    file.read(),
                    b"PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\nhello"
                    % (client.getsockname()[1], port),
                )

    def test_start_with_mistakes(self) -> None:
        self.write("drian = 5\n[[listen]]\nport = 0\nweb = 'absent'\n")
        command = Command(self, "--config", self.path)
        self.assertEqual(command.ended(), 1)
        self.assertEqual(
            command.errors,
            [
                f"bioconn: {self.path}:1: drian: there is no such key at the top, did you mean"
                " drain?",
                f"bioconn: {self.path}:4: web: absent: there is none",
            ],
        )

    @skipUnless(hasattr(signal, "SIGHUP"), "there is no SIGHUP")
    def test_reload(self) -> None:
        """
        What did not change is not touched; what is wrong changes nothing; what changes is said.
        """
        kept = """\
            [[listen]]
            port = 0
            interface = "127.0.0.1"
            echo = true
            """
        self.write(kept + '[[listen]]\nendpoint = "unix:old.sock"\necho = true\n')
        command = Command(self, "--config", self.path)
        port = command.port()
        command.wait_for(re.compile("clients have to trust"))
        with command.connect(port) as client:
            self.write(kept + '[[listen]]\nendpoint = "unix:new.sock"\nehco = true\n')
            os.kill(command.pid, signal.SIGHUP)
            line = command.wait_for(re.compile(r"nothing is changed: (.*)"))
            self.assertIn(
                ":7: ehco: there is no such key in [[listen]], did you mean echo?", line[1]
            )
            self.write(kept + '[[listen]]\nendpoint = "unix:new.sock"\necho = true\n')
            os.kill(command.pid, signal.SIGHUP)
            command.wait_for(re.compile("the configuration file: listen unix:old.sock is gone"))
            command.wait_for(re.compile("the configuration file: listen unix:new.sock is new"))
            command.wait_for(re.compile("the configuration is loaded anew: .* 1 as before"))
            client.sendall(b"hello")
            self.assertEqual(client.recv(5), b"hello")
        with command.connect(port) as client:
            client.sendall(b"hello")
            self.assertEqual(client.recv(5), b"hello")
        self.assertEqual(command.terminate(), 0)

    @skipUnless(hasattr(signal, "SIGHUP"), "there is no SIGHUP")
    def test_reload_after_failure(self) -> None:
        """What could not be done is no part of what the next reload is compared with."""
        table = """\
            [[listen]]
            endpoint = "{}"
            echo = true
            """
        self.write(table.format("unix:old.sock"))
        command = Command(self, "--config", self.path)
        command.wait_for(re.compile("listening on"))
        # What answers has its reactor running, and hears signals.
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.path.relpath(os.path.join(command.directory, "old.sock")))
            client.sendall(b"hello")
            self.assertEqual(client.recv(5), b"hello")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            place = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            self.write("drain = 7\n" + dedent(table).format(place))
            os.kill(command.pid, signal.SIGHUP)
            command.wait_for(re.compile(f"nothing is changed: listen {place}: "))
        self.write("drain = 9\n" + dedent(table).format("unix:new.sock"))
        os.kill(command.pid, signal.SIGHUP)
        command.wait_for(re.compile("the configuration is loaded anew"))
        said = [line.partition("the configuration file: ")[2] for line in command.lines]
        self.assertEqual(
            [each for each in said if each],
            ["drain: 0 -> 9", "listen unix:old.sock is gone", "listen unix:new.sock is new"],
        )
        self.assertEqual(command.terminate(), 0)
