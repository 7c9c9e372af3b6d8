"""The command as a program: what it says, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import stat
from textwrap import dedent
from unittest import skipUnless

from h2.connection import H2Connection
from h2.events import DataReceived
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.peers.processes import free_port
from tests.server.command import DAEMON, MODULE, TWIST, TWISTD, Command
from twisted_bioconn.certificates.development import DevelopmentAuthority

STARTS = (MODULE, TWISTD, TWIST)


class CommandCase(SynchronousTestCase):
    """Runs the command."""

    def one_line(self, *words: str, start: tuple[str, ...] = MODULE) -> str:
        """The line that a command which cannot start says on stderr, and that it says no more."""
        command = Command(self, *words, start=start)
        self.assertEqual(command.ended(), 1)
        self.assertEqual(len(command.errors), 1, command.errors)
        self.assertFalse(os.path.exists(command.state))
        return command.errors[0]

    def taken_port(self) -> int:
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        port: int = taken.getsockname()[1]
        return port


class RefusedTests(CommandCase):
    """Commands that cannot start: one line, exit status 1."""

    def test_mistyped_option(self) -> None:
        for start in STARTS:
            line = self.one_line("--lsten", "8443", "--echo", start=start)
            self.assertEqual(line, "bioconn: there is no option --lsten, did you mean --listen?")

    def test_option_of_twistd(self) -> None:
        line = self.one_line("--nodaemon", start=TWISTD)
        self.assertIn("put it before 'bioconn'", line)

    def test_mistyped_endpoint_option(self) -> None:
        line = self.one_line("--listen", "tcp:0:interfaec=::1", "--echo")
        self.assertIn("--listen tcp:0:interfaec=::1: ", line)

    def test_mistyped_option_of_ours(self) -> None:
        line = self.one_line("--listen", "bioconn:0:polcy=modern", "--echo")
        self.assertIn("--listen bioconn:0:polcy=modern: ", line)
        self.assertIn("did you mean policy?", line)
        line = self.one_line("--listen", "tcp:0", "--forward", "bioconn:localhost:1:trustRoot=x")
        self.assertIn("did you mean trustRoots?", line)

    def test_mistyped_option_after_a_short_form(self) -> None:
        command = Command(self, "--listen", "0:polcy=modern", "--echo")
        self.assertEqual(command.ended(), 1)
        [line] = command.errors
        self.assertIn("bioconn: --listen 0:polcy=modern: ", line)
        self.assertIn("did you mean policy?", line)

    def test_state_that_cannot_be_kept(self) -> None:
        blocked = self.mktemp()
        with open(blocked, "w"):
            pass
        for words in ((), ("--listen", "0", "--echo")):
            command = Command(self, "--state", os.path.abspath(blocked), *words)
            self.assertEqual(command.ended(), 1)
            [line] = command.errors
            self.assertIn("is a file, not a directory", line)

    def test_no_key(self) -> None:
        self.assertIn("server.pem", self.one_line("--listen", "bioconn:0", "--echo"))

    def test_plain_target(self) -> None:
        line = self.one_line("--listen", "tcp:0", "--forward", "192.0.2.1:80")
        self.assertIn("--forward 192.0.2.1:80: it is plain, and not on this machine", line)

    def test_unreadable_key(self) -> None:
        line = self.one_line("--listen", "ssl:0:privateKey=absent.pem", "--echo")
        self.assertIn("absent.pem", line)

    def test_no_such_directory(self) -> None:
        self.assertIn("there is none", self.one_line("--listen", "tcp:0", "--web", "absent"))

    def test_no_such_module(self) -> None:
        line = self.one_line("--listen", "tcp:0", "--wsgi", "absent_module:app")
        self.assertIn("there is no module absent_module", line)

    def test_taken_port(self) -> None:
        """What was opened before is closed again: its socket is gone from the file system."""
        port = self.taken_port()
        taken = f"tcp:{port}:interface=127.0.0.1"
        for start in STARTS:
            command = Command(
                self,
                *("--listen", "unix:first", "--echo", "--listen", taken, "--echo"),
                start=start,
            )
            self.assertEqual(command.ended(), 1)
            self.assertEqual(command.errors, [f"bioconn: --listen {taken}: Address already in use"])
            self.assertEqual(os.listdir(command.directory), [])

    def test_slow_endpoint_that_fails(self) -> None:
        """An endpoint that needs the reactor to find out that it cannot listen."""
        plugins = self.mktemp()
        os.makedirs(os.path.join(plugins, "twisted", "plugins"))
        with open(os.path.join(plugins, "twisted", "plugins", "slow_endpoint.py"), "w") as file:
            file.write(
                dedent(
                    """
                    from twisted.internet.interfaces import IStreamServerEndpointStringParser
                    from twisted.internet.task import deferLater
                    from twisted.plugin import IPlugin
                    from zope.interface import implementer

                    @implementer(IPlugin, IStreamServerEndpointStringParser)
                    class Slow:
                        prefix = "slow"
                        def parseStreamServer(self, reactor, *rest):
                            self.reactor = reactor
                            return self
                        def listen(self, factory):
                            return deferLater(self.reactor, 0.1, lambda: 1 / 0)

                    slow = Slow()
                    """
                )
            )
        for start in STARTS:
            command = Command(
                self,
                *("--listen", "unix:first", "--echo", "--listen", "slow:", "--echo"),
                start=start,
                python_path=[os.path.abspath(plugins)],
            )
            self.assertEqual(command.ended(), 1)
            self.assertEqual(len(command.errors), 1, command.errors)
            self.assertIn("bioconn: --listen slow:: ZeroDivisionError", command.errors[0])
            self.assertEqual(os.listdir(command.directory), [])


@skipUnless(hasattr(os, "pidfd_open"), "it takes Linux to wait for a process of somebody else's")
class DaemonTests(CommandCase):
    """C{twistd bioconn} without C{--nodaemon}."""

    def test_life(self) -> None:
        """It is started, serves, and is gone after SIGTERM, and its pid file too."""
        port = free_port()
        command = Command(self, "--listen", f"127.0.0.1:{port}", "--web", ".", start=DAEMON)
        self.assertEqual(command.ended(), 0)
        self.assertEqual((command.lines, command.errors), ([], []))
        with open(os.path.join(command.directory, "its.pid")) as file:
            pid = int(file.read())
        watched = os.pidfd_open(pid)
        self.addCleanup(os.close, watched)
        try:
            with command.connect(port) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                self.assertIn(b"its.pid", client.makefile("rb").read())
        finally:
            os.kill(pid, signal.SIGTERM)
        self.assertEqual(select.select([watched], [], [], 300)[0], [watched])
        self.assertEqual(sorted(os.listdir(command.directory)), ["its.log", "state"])
        with open(os.path.join(command.directory, "its.log")) as log:
            self.assertIn(
                f"curl --cacert {command.authority} https://localhost:{port}/", log.read()
            )

    def test_taken_port(self) -> None:
        """
        The process that was started reports what its daemon could not do, and has status 1.
        """
        # twistd passes 100 bytes on to the terminal.
        taken = f"tcp:{self.taken_port()}"
        command = Command(self, "--listen", taken, "--echo", start=DAEMON)
        self.assertEqual(command.ended(), 1)
        self.assertIn("Address already in use", command.errors[0])
        # The daemon itself may end a moment later than who started it.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            with open(os.path.join(command.directory, "its.pid")) as file:
                watched = os.pidfd_open(int(file.read()))
            self.addCleanup(os.close, watched)
            self.assertEqual(select.select([watched], [], [], 300)[0], [watched])
        self.assertEqual(os.listdir(command.directory), ["its.log"])
        with open(os.path.join(command.directory, "its.log")) as log:
            self.assertIn(f"bioconn: --listen {taken}: Address already in use", log.read())


class RunningTests(CommandCase):
    """Commands that start."""

    def test_echo_and_sigterm(self) -> None:
        for start in STARTS:
            command = Command(self, "--listen", "tcp:0:interface=127.0.0.1", "--echo", start=start)
            with socket.create_connection(("127.0.0.1", command.port())) as client:
                client.sendall(b"hello")
                client.shutdown(socket.SHUT_WR)
                self.assertEqual(client.makefile("rb").read(), b"hello")
            self.assertEqual(command.terminate(), 0)
            self.assertEqual(command.errors, [])

    def test_sigterm_with_a_connection_open(self) -> None:
        command = Command(self, "--listen", "tcp:0:interface=127.0.0.1", "--echo")
        with socket.create_connection(("127.0.0.1", command.port())) as client:
            client.sendall(b"hello")
            self.assertEqual(client.recv(5), b"hello")
            self.assertEqual(command.terminate(), 0)

    def test_sockets_are_gone_when_it_ends(self) -> None:
        command = Command(self, "--listen", "unix:app.sock", "--echo")
        command.wait_for(re.compile(": listening on app.sock$"))
        with socket.socket(socket.AF_UNIX) as client:
            # The whole path would be too long for one.
            client.connect(os.path.relpath(os.path.join(command.directory, "app.sock")))
            client.sendall(b"x")
            self.assertEqual(client.recv(1), b"x")
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(os.listdir(command.directory), [])

    def test_relay_of_a_relay(self) -> None:
        inner = Command(self, "--listen", "tcp:0:interface=127.0.0.1", "--echo")
        target = f"127.0.0.1:{inner.port()}"
        outer = Command(self, "--listen", "tcp:0:interface=127.0.0.1", "--forward", target)
        with socket.create_connection(("127.0.0.1", outer.port())) as client:
            client.sendall(b"x" * 100_000)
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(client.makefile("rb").read(), b"x" * 100_000)

    def test_back_end_that_is_not_there(self) -> None:
        gone = socket.create_server(("127.0.0.1", 0))
        target = f"127.0.0.1:{gone.getsockname()[1]}"
        gone.close()
        command = Command(self, "--listen", "tcp:0:interface=127.0.0.1", "--forward", target)
        with socket.create_connection(("127.0.0.1", command.port())) as client:
            self.assertEqual(client.recv(1), b"")
        self.assertEqual(command.terminate(), 0)
        said = [line for line in command.lines if "cannot be forwarded" in line]
        self.assertEqual(len(said), 1)
        self.assertIn(target, said[0])
        self.assertIn("refused", said[0])

    def test_wsgi(self) -> None:
        modules = self.mktemp()
        os.makedirs(modules)
        with open(os.path.join(modules, "hello_app.py"), "w") as file:
            file.write(
                dedent(
                    """
                    def application(environ, start_response):
                        body = environ["wsgi.url_scheme"].encode()
                        start_response("200 OK", [("Content-Length", str(len(body)))])
                        return [body]
                    """
                )
            )
        command = Command(
            self,
            *("--listen", "tcp:0:interface=127.0.0.1", "--wsgi", "hello_app:application"),
            python_path=[os.path.abspath(modules)],
        )
        with socket.create_connection(("127.0.0.1", command.port())) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
        self.assertIn(b" 200 OK", head)
        self.assertEqual(body, b"http")
        self.assertEqual(command.terminate(), 0)

    def test_wsgi_that_does_not_come_to_an_end(self) -> None:
        modules = self.mktemp()
        os.makedirs(modules)
        with open(os.path.join(modules, "endless_app.py"), "w") as file:
            file.write(
                dedent(
                    """
                    def application(environ, start_response):
                        start_response("200 OK", [])
                        yield b"begun"
                        while True:
                            yield b"x" * 65536
                    """
                )
            )
        command = Command(
            self,
            *("--listen", "tcp:0:interface=127.0.0.1", "--wsgi", "endless_app:application"),
            python_path=[os.path.abspath(modules)],
        )
        with socket.create_connection(("127.0.0.1", command.port())) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            self.assertTrue(client.recv(1))
            self.assertEqual(command.terminate(), 0)


class TLSTests(CommandCase):
    """With TLS."""

    def test_page(self) -> None:
        """With no option: the page, and the line that gets it."""
        try:
            socket.create_server(("127.0.0.1", 8443)).close()
        except OSError:
            raise SkipTest("something else has the port 8443 on this machine") from None
        command = Command(self)
        curl = f"    curl --cacert {command.authority} https://localhost:8443/"
        command.wait_for(re.compile(f"^{re.escape(curl)}$"))
        self.assertEqual(
            stat.S_IMODE(os.stat(f"{command.state}/bioconn/ca-key.pem").st_mode), 0o600
        )
        addresses = ["127.0.0.1"]
        with contextlib.suppress(OSError):
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
            addresses.append("::1")
        for address in addresses:
            with command.connect(8443, address) as client:
                client.sendall(b"GET /facts.json HTTP/1.1\r\nHost: localhost:8443\r\n")
                client.sendall(b"Connection: close\r\n\r\n")
                head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
                self.assertIn(b" 200 OK", head)
                facts = json.loads(body)
                self.assertEqual(facts["version"], client.version())
                self.assertEqual(facts["server_name"], "localhost")
        second = Command(self)
        self.assertEqual(second.ended(), 1)
        self.assertEqual(
            second.errors, ["bioconn: https://localhost:8443/: Address already in use"]
        )
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(command.errors, [])

    def test_echo(self) -> None:
        command = Command(self, "--state", "kept", "--listen", "127.0.0.1:0", "--echo")
        port = command.port()
        line = command.wait_for(re.compile("clients have to trust (?P<path>.*)$"))
        self.assertEqual(line["path"], os.path.join(command.directory, "kept", "ca.pem"))
        with command.connect(port, authority=line["path"]) as client:
            client.sendall(b"hello")
            self.assertEqual(client.recv(5), b"hello")
        self.assertFalse(os.path.exists(command.state))

    def test_http2(self) -> None:
        command = Command(self, "--listen", "127.0.0.1:0", "--web", ".")
        with open(os.path.join(command.directory, "index.html"), "w") as file:
            file.write("the index")
        with command.connect(command.port(), alpn=["h2", "http/1.1"]) as client:
            self.assertEqual(client.selected_alpn_protocol(), "h2")
            connection = H2Connection()
            connection.initiate_connection()
            headers = [
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", "localhost"),
                (":path", "/"),
            ]
            connection.send_headers(1, headers, end_stream=True)
            body = b""
            while b"the index" not in body:
                client.sendall(connection.data_to_send())
                for event in connection.receive_data(client.recv(65536)):
                    body += event.data if isinstance(event, DataReceived) else b""

    def test_tunnel(self) -> None:
        """Plain here, TLS on the way, plain there."""
        far = Command(self, "--listen", "127.0.0.1:0", "--echo")
        target = f"bioconn:localhost:{far.port()}:trustRoots={far.authority}"
        near = Command(self, "--listen", "tcp:0:interface=127.0.0.1", "--forward", target)
        with socket.create_connection(("127.0.0.1", near.port())) as client:
            client.sendall(b"x" * 100_000)
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(client.makefile("rb").read(), b"x" * 100_000)

    def test_tunnel_to_somebody_else(self) -> None:
        far = Command(self, "--listen", "127.0.0.1:0", "--echo")
        # The system's authorities do not know this one.
        target = f"bioconn:localhost:{far.port()}"
        near = Command(self, "--listen", "tcp:0:interface=127.0.0.1", "--forward", target)
        with socket.create_connection(("127.0.0.1", near.port())) as client:
            client.sendall(b"secret")
            with contextlib.suppress(ConnectionResetError):
                self.assertEqual(client.recv(1), b"")
        self.assertEqual(near.terminate(), 0)
        said = [line for line in near.lines if "cannot be forwarded" in line]
        self.assertEqual(len(said), 1, near.lines)

    def test_wsgi_is_told_of_tls(self) -> None:
        modules = self.mktemp()
        os.makedirs(modules)
        with open(os.path.join(modules, "environ_app.py"), "w") as file:
            file.write(
                dedent(
                    """
                    def application(environ, start_response):
                        wanted = [key for key in environ if key.startswith(("SSL_", "HTTPS"))]
                        body = "\\n".join(f"{key}={environ[key]}" for key in wanted).encode()
                        start_response("200 OK", [("Content-Length", str(len(body)))])
                        return [body]
                    """
                )
            )
        clients = DevelopmentAuthority(self.mktemp())
        pair = os.path.abspath(self.mktemp())
        with open(pair, "wb") as pem:
            pem.write(clients.issue_client("ada").to_pem())
        command = Command(
            self,
            *("--listen", f"127.0.0.1:0:clientAuthorities={clients.certificate_path}"),
            *("--wsgi", "environ_app:application"),
            python_path=[os.path.abspath(modules)],
        )
        with command.connect(command.port(), pair=pair) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            said = client.makefile("rb").read().decode()
            version = client.version()
        for fact in (
            "HTTPS=on",
            f"SSL_PROTOCOL={version}",
            "SSL_TLS_SNI=localhost",
            "SSL_CLIENT_VERIFY=SUCCESS",
            "SSL_CLIENT_S_DN=CN=ada",
            "SSL_CLIENT_CERT=-----BEGIN CERTIFICATE-----",
        ):
            self.assertIn(fact, said)
