"""The examples that show the connector in memory, and when a handshake happens."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.example_material import ExampleCase, load
from twisted_bioconn.errors import UsageError


class MixedPortTests(ExampleCase):
    """C{mixed_port.py}."""

    def serve(self) -> None:
        """Start the server."""
        server = self.shell.start("python examples/mixed_port.py")
        server.wait_for("listening: bioconn:4433:")

    def test_both(self) -> None:
        """Each is told what it is, as the docstring says."""
        self.serve()
        said = self.shell.run("python examples/mixed_port.py ask")
        plain = "plain: you are plain: no secret for you\n"
        self.assertEqual(said, f"{plain}TLS:   you come by TLSv1.3: the cat is in the bag\n")
        documented = load("mixed_port").__doc__ or ""
        for line in said.splitlines():
            self.assertIn(f"    {line}\n", documented)

    def test_forged(self) -> None:
        """What only looks like TLS, or like a header that vouches for it, has no secret."""
        self.serve()
        program = """
            import socket
            for first in (
                b"\\x16\\x03\\x01\\x00\\x04\\x01\\x00\\x00\\x00",
                b"\\x16\\x03\\x01\\r\\n" + b"A" * 0x0d0a,
                b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\\r\\n",
            ):
                with socket.create_connection(("localhost", 4433)) as plain:
                    plain.sendall(first + b"the secret?\\r\\n")
                    print(plain.recv(1000))
        """
        said = self.shell.run_python(program).splitlines()
        # What begins as TLS does is answered in TLS, by an alert (RFC 8446, section 5.1).
        for answer in said[:2]:
            self.assertRegex(answer, r"\Ab'\\x15\\x03")
        self.assertRegex(said[2], r"\Ab'you are plain: no secret for you\\r")
        self.assertEqual(len(said), 3)

    def test_mistakes(self) -> None:
        """One line says what is wrong; nobody is asked who is not trusted."""
        self.refused("python examples/mixed_port.py answer", "usage: ")
        self.refused("python examples/mixed_port.py ask", "refused")
        server = self.shell.start("XDG_STATE_HOME=/$PWD/other python examples/mixed_port.py")
        server.wait_for("listening")
        said = self.shell.run("python examples/mixed_port.py ask", status=1)
        self.assertIn("mixed_port: the certificate of CN=localhost does not verify", said)
        self.assertNotIn("TLS:", said)


class POP3Tests(ExampleCase):
    """C{pop3.py}."""

    SESSION = r"""encrypted    client: USER ada
encrypted    server: \+OK USER accepted, send PASS
encrypted    client: PASS moth
encrypted    server: \+OK Authentication succeeded
encrypted    client: RETR 1
encrypted    server: \+OK \d+
encrypted    server: Subject: the cat
encrypted    server:[ ]
encrypted    server: It is in the bag.
encrypted    server: \.
encrypted    client: QUIT
encrypted    server: \+OK .*
"""
    DONE = r"handshake done: TLSv1\.3, \w+\n"
    GREETING = r"encrypted    server: \+OK <.*>\n"

    def serve(self) -> None:
        """Start the server."""
        server = self.shell.start("python examples/pop3.py server")
        server.wait_for("listening: bioconn:4001:")

    def test_handshakes(self) -> None:
        """The three ways to begin, each with the same message at its end."""
        self.serve()
        clear = r"in the clear server: \+OK .* ready\nin the clear client: STLS\n"
        agreed = r"in the clear server: \+OK .*\n"
        beginnings = {
            "stls": f"{clear}{agreed}{self.DONE}",
            "pop3s": f"{self.DONE}{self.GREETING}",
            "told": f"nothing happens before we say so: now\n{self.DONE}{self.GREETING}",
        }
        for how, beginning in beginnings.items():
            said = self.shell.run(f"python examples/pop3.py {how}")
            self.assertRegex(said, rf"\Aconnected\n{beginning}{self.SESSION}\Z")

    def test_greeting(self) -> None:
        """Over TLS the greeting comes to a client that says nothing at all."""
        self.serve()
        program = """
            import socket, ssl
            context = ssl.create_default_context(cafile={path})
            plain = socket.create_connection(("localhost", 4001))
            print(context.wrap_socket(plain, server_hostname="localhost").recv(1000))
        """
        authority = repr(str(self.shell.home / ".local/state/bioconn/ca.pem"))
        said = self.shell.run_python(program.replace("{path}", authority))
        self.assertIn("b'+OK <", said)

    def test_injected(self) -> None:
        """What comes in the clear after the server has agreed is not taken for what it says."""
        server = self.shell.start_python(
            """
            import socket
            with socket.create_server(("localhost", 4000)) as port:
                print("listening", flush=True)
                wire, _ = port.accept()
                with wire, wire.makefile("rb") as lines:
                    wire.sendall(b"+OK ready\\r\\n")
                    lines.readline()
                    wire.sendall(b"+OK\\r\\n+OK injected\\r\\n")
                    print("said:", lines.read(1), flush=True)
            """
        )
        server.wait_for("listening")
        said = self.shell.run("python examples/pop3.py stls", status=1)
        self.assertNotIn("injected", said)
        self.assertNotIn("USER", said)
        server.wait_for(r"said: b'\\x16'")

    def test_mistakes(self) -> None:
        """One line says what is wrong; a server that is not trusted hears no password."""
        self.refused("python examples/pop3.py", "usage: ")
        self.refused("python examples/pop3.py pop3s", "refused")
        server = self.shell.start("XDG_STATE_HOME=/$PWD/other python examples/pop3.py server")
        server.wait_for("listening: bioconn:4001:")
        for how in ("stls", "pop3s", "told"):
            said = self.shell.run(f"python examples/pop3.py {how}", status=1)
            self.assertIn("pop3: the certificate of CN=localhost does not verify", said)
            self.assertNotIn("PASS", said)
            self.assertNotIn("Traceback", said)


class MemoryPairTests(ExampleCase):
    """C{memory_pair.py}."""

    def test_both_ends(self) -> None:
        """A handshake of three flights, a line each way, and an end that both have seen."""
        said = self.shell.run("python examples/memory_pair.py")
        self.assertRegex(
            said,
            r"\Aclient -> server +\d+ bytes: handshake\n"
            r" +client: handshaking, server: handshaking\n"
            r"server -> client +\d+ bytes: handshake, change_cipher_spec(, application_data){4}\n"
            r" +client: open, server: handshaking\n"
            r"client -> server +\d+ bytes: change_cipher_spec(, application_data){2}\n"
            r" +client: open, server: open\n"
            r"server read b'hello from memory'\n",
        )
        self.assertIn("\nclient read b'hello back'\n", said)
        self.assertRegex(
            said,
            r" +client: closed both ways, server: closed both ways\n"
            r"TLSv1\.3, \w+, \w+, with localhost\n\Z",
        )

    def test_refused(self) -> None:
        """A server that has no certificate for the name is refused, and told by an alert."""
        said = self.shell.run("python examples/memory_pair.py example.org", status=1)
        self.assertIn("memory_pair: the certificate is not for example.org", said)
        self.assertRegex(
            said, r"client -> server +7 bytes: alert\n +client: failed, server: failed"
        )
        self.assertNotIn(" read ", said)

    def test_no_reactor(self) -> None:
        """There is no reactor in the process."""
        said = self.shell.run_python(
            """
            import sys
            sys.path.insert(0, "examples")
            import memory_pair
            print(memory_pair.main([]), "twisted.internet.reactor" in sys.modules)
            """
        )
        self.assertTrue(said.endswith("\n0 False\n"), said)


class BufferingTests(ExampleCase):
    """C{buffering.py}."""

    def test_readings(self) -> None:
        """Most readings gave way, the last of each arrived, and little ever waited."""
        said = self.shell.run("python examples/buffering.py")
        match = re.search(
            r"\Awritten:  3000 readings, 28670 bytes\n"
            r"waited:   at most 3 readings, (\d+) bytes\n"
            r"arrived:  (\d+) readings, \d+ bytes; then: closed by the peer, we may go on\n"
            r"the last: boiler 999, pump 999, vent 999\n\Z",
            said,
        )
        assert match is not None, said
        self.assertLess(int(match[1]), 40)
        self.assertLess(int(match[2]), 1500)


_readings = st.lists(
    st.tuples(st.sampled_from([b"boiler", b"pump", b"vent"]), st.integers(0, 9999))
    | st.integers(1, 40),
    max_size=60,
)


class LatestTests(SynchronousTestCase):
    """The buffer of C{buffering.py}."""

    @given(_readings)
    def test_any_order(self, steps: list[Any]) -> None:
        """However it is filled and taken from, whole lines come out, and the last of each."""
        latest = load("buffering").Latest()
        taken, last = b"", {}
        for step in steps:
            if isinstance(step, int):
                size = len(latest)
                piece = latest.take(step)
                self.assertEqual(len(piece), min(step, size))
                self.assertEqual(len(latest), size - len(piece))
                taken += piece
            else:
                sensor, value = step
                last[sensor] = value
                latest.append(b"%s %d\n" % step)
        taken += latest.take(len(latest))
        self.assertEqual((len(latest), latest.take(9)), (0, b""))
        seen = {}
        for line in taken.splitlines():
            sensor, value = line.split(b" ")
            seen[sensor] = int(value)
        self.assertEqual(seen, last)

    def test_no_reading(self) -> None:
        """What is not one line is refused, and changes nothing."""
        latest = load("buffering").Latest()
        latest.append(b"pump 1\n")
        for data in (b"pump 2", b"pump 2\npump 3\n", b"\n\n"):
            with self.assertRaises(UsageError):
                latest.append(data)
        self.assertEqual(latest.take(100), b"pump 1\n")

    def test_clear(self) -> None:
        """Nothing is left, not even of a line that was begun."""
        latest = load("buffering").Latest()
        latest.append(b"pump 1\n")
        latest.take(3)
        latest.append(b"vent 1\n")
        latest.clear()
        self.assertEqual(len(latest), 0)
