"""Each example, run as a program."""

from __future__ import annotations

import ast
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.example_material import EXAMPLES, MAKE_LEAF, STATE, ExampleCase
from tests.programs import require


class EchoTests(ExampleCase):
    """C{echo_server.py} and C{echo_client.py}."""

    def test_as_they_stand(self) -> None:
        """With no argument the one finds the other, and trusts it."""
        server = self.shell.start("python examples/echo_server.py")
        server.wait_for(r"listening: bioconn:4433:")
        said = self.shell.run("python examples/echo_client.py")
        self.assertRegex(said, r"\Ahello\nover TLSv1\.3, TLS_AES_\w+, \w+\n\Z")

    def test_endpoints(self) -> None:
        """TLS comes with the endpoint strings, and goes with them."""
        server = self.shell.start("python examples/echo_server.py tcp:8080")
        server.wait_for("listening: tcp:8080")
        said = self.shell.run("python examples/echo_client.py tcp:localhost:8080 'good evening'")
        self.assertEqual(said, "good evening\n")

    def test_unknown_server(self) -> None:
        """The client does not talk to a server whose authority it does not trust."""
        server = self.shell.start("python examples/echo_server.py")
        server.wait_for("listening")
        self.refused(
            "python examples/echo_client.py bioconn:localhost:4433",
            "echo_client: the certificate of CN=localhost does not verify",
        )

    def test_mistakes(self) -> None:
        """One line says what is wrong."""
        self.refused("python examples/echo_client.py", "refused")
        self.refused("python examples/echo_client.py bioconn:localhost", "port")
        self.refused("python examples/echo_server.py bioconn:4433:polcy=modern", "policy?")
        server = self.shell.start("python examples/echo_server.py tcp:4433")
        server.wait_for("listening")
        self.refused("python examples/echo_server.py", "4433", "in use")

    def test_interrupt(self) -> None:
        """Ctrl-C ends the server, with nothing said."""
        server = self.shell.start("exec python examples/echo_server.py")
        server.wait_for("listening: .*\n")
        # It says so before it is there to hear of Ctrl-C.
        self.shell.run("python examples/echo_client.py")
        server.interrupt()
        self.assertEqual(server.ended(), 0, server.said)
        self.assertRegex(server.said, r"\Alistening: .*\n\Z")


class ChatTests(ExampleCase):
    """C{chat.py}."""

    def talk(self, endpoint: str, connect: str) -> None:
        """Two people talk over this endpoint."""
        server = self.shell.start(f"python examples/chat.py {endpoint}")
        server.wait_for(f"listening: {endpoint.partition(':')[0]}")
        first = self.shell.start(connect)
        first.wait_for("Your name\\?\n")
        first.type("Ada\n")
        first.wait_for("Here: Ada\n")
        second = self.shell.start(connect)
        second.wait_for("Your name\\?\n")
        second.type("Ada\n")
        second.wait_for("Another name\\?\n")
        second.type("Grace\n")
        second.wait_for("Here: Ada, Grace\n")
        first.wait_for("Grace has come\n")
        second.type("a moth\n")
        first.wait_for("Grace: a moth\n")
        second.kill()
        first.wait_for("Grace has left\n")
        self.assertNotIn("moth", second.said)

    def test_plain(self) -> None:
        """Behind C{tcp:}."""
        plain = "import socket, sys, threading, os\n"
        self.talk("tcp:4000", f"python -c '{plain}{_PIPE}' localhost 4000")

    def test_tls(self) -> None:
        """Behind C{bioconn:}."""
        openssl = require("openssl")
        self.shell.run("python -c '" + MAKE_LEAF + "'")
        self.talk(
            f"bioconn:4000:privateKey={STATE}/leaf.pem".replace("~", str(self.shell.home)),
            f"{openssl} s_client -quiet -verify_return_error -verify_hostname localhost"
            f" -connect localhost:4000 -CAfile {STATE}/ca.pem",
        )

    def test_by_default(self) -> None:
        """With no argument it is plain."""
        server = self.shell.start("python examples/chat.py")
        server.wait_for("listening: tcp:4000:interface=127.0.0.1\n")

    def test_mistake(self) -> None:
        """One line says what is wrong."""
        self.refused("python examples/chat.py bioconn:4000:privateKey=none.pem", "none.pem")


_PIPE = """
wire = socket.create_connection(sys.argv[1:3])
def send():
    while typed := os.read(0, 4096):
        wire.sendall(typed)
threading.Thread(target=send, daemon=True).start()
while arrived := wire.recv(4096):
    os.write(1, arrived)
"""


class StartTLSTests(ExampleCase):
    """C{starttls.py}."""

    def test_both(self) -> None:
        """The client gets the secret, encrypted."""
        server = self.shell.start("python examples/starttls.py server")
        server.wait_for("listening: port 4001\n")
        self.assertEqual(
            self.shell.run("python examples/starttls.py client"),
            "in the clear: go ahead\nencrypted: the cat is in the bag\n",
        )

    def test_in_the_clear(self) -> None:
        """The secret is not told in the clear, nor to what came in the clear before TLS."""
        server = self.shell.start("python examples/starttls.py server")
        server.wait_for("listening")
        program = """
            import socket, ssl
            plain = socket.create_connection(("localhost", 4001))
            lines = plain.makefile("rb")
            plain.sendall(b"SECRET\\r\\n")
            print(lines.readline())
            plain.sendall(b"STARTTLS\\r\\nSECRET\\r\\n")
            print(lines.readline())
            context = ssl.create_default_context(cafile={path!r})
            encrypted = context.wrap_socket(plain, server_hostname="localhost")
            encrypted.sendall(b"HELP\\r\\n")
            print(encrypted.recv(100))
        """
        authority = str(self.shell.home / ".local/state/bioconn/ca.pem")
        self.assertEqual(
            self.shell.run_python(program.replace("{path!r}", repr(authority))),
            "b'STARTTLS first\\r\\n'\nb'go ahead\\r\\n'\nb'STARTTLS or SECRET\\r\\n'\n",
        )

    def test_no_tls(self) -> None:
        """A server that does not agree to TLS is left, and so is one that is not trusted."""
        plain = self.shell.start("python examples/echo_server.py tcp:4001")
        plain.wait_for("listening")
        said = self.shell.run("python examples/starttls.py client", status=1)
        self.assertIn("starttls: no TLS here\n", said)
        plain.kill()
        server = self.shell.start("XDG_STATE_HOME=/$PWD/other python examples/starttls.py server")
        server.wait_for("listening")
        said = self.shell.run("python examples/starttls.py client", status=1)
        self.assertIn("the certificate of CN=localhost does not verify", said)
        self.assertNotIn("Traceback", said)

    def test_mistakes(self) -> None:
        """One line says what is wrong."""
        self.refused("python examples/starttls.py", "usage: ")
        self.refused("python examples/starttls.py client 1", "refused")
        self.refused("python examples/starttls.py server 99999", "port")


class TreqTests(ExampleCase):
    """C{treq_get.py}."""

    def test_page(self) -> None:
        """With no argument it asks the server that runs with no option."""
        server = self.shell.start("bioconn")
        server.wait_for("A browser takes it")
        said = self.shell.run("python examples/treq_get.py")
        self.assertRegex(said, r'\A200 application/json\n(?s:.)*"version": "TLSv1\.3"')
        self.assertIn('"server_name": "localhost"', said)
        url = "https://localhost:8443/"
        said = self.shell.run(f"python examples/treq_get.py {url} {STATE}/ca.pem")
        self.assertRegex(said, r"\A200 text/\w+")
        self.refused(
            f"python examples/treq_get.py {url}",
            f"{url}: the certificate of CN=localhost does not verify",
        )

    def test_mistakes(self) -> None:
        """One line says what is wrong."""
        self.refused(
            "python examples/treq_get.py", "https://localhost:8443/facts.json: ", "refused"
        )
        self.refused("python examples/treq_get.py https://localhost/ none.pem", "none.pem")


class AllTests(SynchronousTestCase):
    """The examples, all of them."""

    def test_docstrings(self) -> None:
        """Each opens with what it shows and the command that runs it, and is tested."""
        modules = Path(__file__).parent.glob("test_examples*.py")
        tests = "".join(module.read_text("utf-8") for module in modules)
        for example in sorted(EXAMPLES.glob("*.py")):
            docstring = ast.get_docstring(ast.parse(example.read_text("utf-8"))) or ""
            self.assertIn(f"\n    python examples/{example.name}", docstring)
            self.assertIn(f"python examples/{example.name}", tests)
