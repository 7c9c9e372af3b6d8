"""The README: every command and every snippet in it runs, and prints what it says."""

from __future__ import annotations

import re
import signal
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.endpoints import clientFromString, quoteStringArgument, serverFromString
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.documents import DocumentCase, blocks
from tests.programs import missing, require
from tests.shell import CHECKOUT, Running
from twisted_bioconn._openssl import PUBLIC_API_ONLY
from twisted_bioconn._option_help import CLIENT_HELP, SERVER_HELP
from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.endpoint_strings import CLIENT_OPTIONS, SERVER_OPTIONS
from twisted_bioconn.endpoints import ClientEndpoint, ServerEndpoint

README = CHECKOUT / "README.md"

# The commands that are not run here, and why.
NOT_RUN = {
    "python3 -m venv venv": "the shell of these tests is in an environment that is there",
    "venv/bin/pip install .": "it fetches packages; tests.test_packaging installs the checkout",
    "venv/bin/pip install '.[test]'": "it fetches packages; the tests run because it was run",
}

_F = TypeVar("_F", bound=Callable[..., object])


def section(name: str) -> Callable[[_F], _F]:
    """Say which section of the README a test runs."""

    def mark(test: _F) -> _F:
        test.section = name  # type: ignore[attr-defined]
        return test

    return mark


class ReadmeTests(DocumentCase):
    """A test for each section, which takes its blocks one after the other, and all of them."""

    def setUp(self) -> None:
        super().setUp()
        name = getattr(self, self._testMethodName).section
        self.left = deque(block for block in blocks(README) if block.section == name)
        if name not in ("Run it", "Test it"):
            self.make_certificate()
            [setup] = [block.text for block in blocks(README) if block.section == "Ways in"]
            self.shell.before = setup

    def start(self, wait: int | str) -> Running:
        """Start the next command, and wait until it listens on a port or has said something."""
        running = self.shell.start(self.take("sh"))
        if isinstance(wait, int):
            self.shell.wait_for_port(wait)
        else:
            running.wait_for(wait)
        return running

    def run_next(self, status: int = 0) -> None:
        """Run the next command to its end; it prints what the block after it says."""
        said = self.shell.run(self.take("sh"), status)
        self.assertRegex(said, rf"{self.printed()}\n*\Z")

    def curl(self, url: str) -> str:
        """Get a page, whose certificate is for development."""
        require("curl")
        return self.shell.run(f"curl -sS --cacert $DEV/ca.pem {url}")

    @section("Run it")
    def test_run(self) -> None:
        """The page, by the printed line, over HTTP/2 and HTTP/1.1; then Ctrl-C."""
        if "HTTP2" not in self.shell.run(f"{require('curl')} --version"):
            raise missing("a curl with HTTP/2 is not installed")
        *setup, command = self.take("sh").split(" && ")
        self.assertEqual([step for step in setup if step not in NOT_RUN], [])
        server = self.shell.start(f"exec {command}")
        server.wait_for(self.printed())
        line = server.wait_for("(?m)^    (curl .*)$")[1]
        self.assertRegex(self.shell.run(f"{line} -sS"), self.printed())
        said = self.shell.run(f"{line} -sS --http1.1")
        self.assertRegex(said, r"Protocol \(ALPN\) +http/1\.1\n")
        self.assertTrue((self.state / "leaf.pem").exists())
        server.interrupt()
        # Twisted ends itself by the signal, once all is closed.
        self.assertEqual(server.ended(), -signal.SIGINT)
        self.assertNotIn("Traceback", server.said)
        self.finish()

    @section("Test it")
    def test_test(self) -> None:
        """The tests are found and run, with several workers; here two modules are enough."""
        *setup, command = self.take("sh").split(" && ")
        self.assertEqual([step for step in setup if step not in NOT_RUN], [])
        self.assertTrue(command.endswith(" tests"), command)
        self.shell.environ.pop("PYTHONPATH")
        said = self.shell.run(f"{command}.test_policy tests.test_testing")
        self.assertRegex(said, r"\nPASSED \(successes=\d+\)\n\Z")
        workers = (self.shell.directory / "_trial_temp").glob("[0-9]")
        self.assertEqual(len(list(workers)), 2)
        self.finish()

    @section("Ways in")
    def test_ways(self) -> None:
        """The files are there, under the name that the other sections use."""
        self.shell.run(f"{self.take('sh')}\nls $DEV/leaf.pem $DEV/ca.pem")
        self.finish()

    @section("An endpoint string")
    def test_endpoint_string(self) -> None:
        """The chat, the web server, the echo pair, and a mistake."""
        require("openssl")
        self.start("listening")
        client = self.shell.start(self.take("sh"))
        client.wait_for(self.printed())
        self.start(8443)
        self.assertIn("examples", self.curl("https://localhost:8443/"))
        self.start("listening")
        self.run_next()
        self.run_next(status=1)
        self.finish()

    @section("Certificates")
    def test_certificates(self) -> None:
        """A directory, what is said of it, and a callable."""
        require("openssl")
        front = self.start(8443)
        self.assertIn("examples", self.curl("https://localhost:8443/"))
        front.kill()
        self.run_next()
        server = self.shell.start_python(self.take("python"))
        self.shell.wait_for_port(4433)
        said = self.shell.run(self.take("sh"))
        # Versions of openssl differ in where they put spaces.
        self.assertEqual(said.replace(" ", ""), self.take("text").replace(" ", "") + "\n")
        server.kill()
        self.finish()

    @section("A reactor name")
    def test_reactor(self) -> None:
        """The web server, and STARTTLS."""
        self.start(8443)
        self.assertIn("examples", self.curl("https://localhost:8443/"))
        self.start("listening")
        self.run_next()
        self.finish()

    @section("A server")
    def test_server(self) -> None:
        """A plain service behind it, the same through a tunnel, and two ports at once."""
        self.shell.start("python -m http.server 8080 --bind 127.0.0.1")
        self.shell.wait_for_port(8080)
        front = self.start("8443 has|of localhost:8443")
        self.assertIn("examples", self.curl("https://localhost:8443/"))
        self.start(4001)
        self.assertIn("examples", self.curl("http://localhost:4001/"))
        front.kill()
        self.start("of localhost:4433")
        self.assertIn("examples", self.curl("https://localhost:8443/"))
        said = self.shell.run(
            "python examples/echo_client.py bioconn:localhost:4433:trustRoots=$DEV/ca.pem"
        )
        self.assertIn("hello", said)
        self.finish()

    @section("A server on several cores")
    def test_workers(self) -> None:
        """A plain service behind several processes."""
        self.shell.start("python -m http.server 8080 --bind 127.0.0.1")
        self.shell.wait_for_port(8080)
        front = self.start("8443 has|of localhost:8443")
        for _ in range(4):
            self.assertIn("examples", self.curl("https://localhost:8443/"))
        front.kill()
        self.finish()

    @section("A configuration file")
    def test_configuration(self) -> None:
        """It is right, it is served, and the server tells how it is."""
        self.shell.start("python -m http.server 8080 --bind 127.0.0.1")
        self.shell.wait_for_port(8080)
        self.run_next()
        front = self.start(8443)
        for _ in range(3):
            self.assertIn("examples", self.curl("https://localhost:8443/"))
        self.run_next()
        front.kill()
        self.finish()

    @section("See the handshake")
    def test_trace(self) -> None:
        """A handshake that is good, with its page and its capture file, and one that is not."""
        if PUBLIC_API_ONLY:
            raise SkipTest("messages are not shown on the public API")
        server = self.start("listening")
        self.run_next()
        for name in ("trace.html", "trace.pcapng"):
            self.assertTrue((self.shell.directory / name).stat().st_size > 1000)
        self.run_next(status=1)
        server.kill()
        self.finish()

    @section("Who may come in")
    def test_access(self) -> None:
        """A client without a certificate, from this machine."""
        server = self.start(8443)
        self.assertIn("examples", self.shell.run(f"{self.take('sh')} -sS"))
        server.kill()
        self.finish()

    @section("What comes before TLS")
    def test_before_tls(self) -> None:
        """Plain HTTP is told where TLS is; with TLS, there is the directory."""
        server = self.start(8443)
        require("curl")
        self.run_next()
        self.assertIn("examples", self.curl("https://localhost:8443/"))
        server.kill()
        self.finish()

    @section("In code")
    def test_code(self) -> None:
        """Both servers answer."""
        for _ in range(2):
            server = self.shell.start_python(self.take("python"))
            self.shell.wait_for_port(4433)
            said = self.shell.run(
                "python examples/echo_client.py bioconn:localhost:4433:trustRoots=$DEV/ca.pem"
            )
            self.assertRegex(said, r"\Ahello\nover TLSv1\.3")
            server.kill()
        self.finish()

    @section("treq")
    def test_treq(self) -> None:
        """The client gets the facts from the server."""
        server = self.shell.start("bioconn")
        server.wait_for("A browser takes it")
        self.run_next()
        self.finish()

    @section("Tests of your own")
    def test_own_tests(self) -> None:
        """The program prints what the README says."""
        said = self.shell.run_python(self.take("python"))
        self.assertRegex(said, rf"\A{self.printed()}\n\Z")
        self.finish()


class TextTests(SynchronousTestCase):
    """What the README says beside what runs."""

    def test_every_block(self) -> None:
        """Each section with a block in it has its test."""
        run = {
            getattr(test, "section", None)
            for name, test in vars(ReadmeTests).items()
            if name.startswith("test_")
        }
        self.assertEqual(run, {block.section for block in blocks(README)})

    def test_continuous_integration(self) -> None:
        """C{.ci/run} runs the first block that has trial in it: the one under "Test it"."""
        self.assertIn("readme_command", (CHECKOUT / ".ci" / "run").read_text("utf-8"))
        first = next(block for block in blocks(README) if re.search(r"\btrial\b", block.text))
        self.assertEqual(first.section, "Test it")

    def test_option_tables(self) -> None:
        """The tables have the options that there are, with what they take and are for."""
        for kind, options, told in (
            ("server", SERVER_OPTIONS, SERVER_HELP),
            ("client", CLIENT_OPTIONS, CLIENT_HELP),
        ):
            table = README.read_text("utf-8").partition(f"| {kind} option |")[2]
            rows = re.findall(
                r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*) \|$",
                table.partition("\n\n")[0],
                re.MULTILINE,
            )
            self.assertEqual(
                rows,
                [
                    (name, takes, told[name].default, told[name].meaning)
                    for name, takes in options.items()
                ],
            )
            self.assertEqual(list(told), list(options))

    def test_deadlines(self) -> None:
        """The deadlines are those that the tables have."""
        reactor = MemoryReactorClock()
        directory = self.mktemp()
        DevelopmentAuthority(directory).leaf()
        key = quoteStringArgument(f"{directory}/leaf.pem")
        server = serverFromString(reactor, f"bioconn:0:privateKey={key}")
        client = clientFromString(reactor, "bioconn:localhost:1")
        assert isinstance(server, ServerEndpoint) and isinstance(client, ClientEndpoint)
        told = (SERVER_HELP | CLIENT_HELP).items()
        defaults = {
            name: each.default.strip("`")
            for name, each in told
            if re.fullmatch(r"`(\d+|off)`", each.default)
        }
        self.assertEqual(
            defaults,
            {
                "handshakeTimeout": f"{server.handshake_timeout:g}",
                "closeTimeout": f"{server.close_timeout:g}",
                "idleTimeout": "off" if server.idle_timeout is None else "on",
                "timeout": f"{client.timeout:g}",
            },
        )
        self.assertEqual(client.close_timeout, server.close_timeout)

    def test_examples(self) -> None:
        """Each example is in the table, with commands that its docstring has too."""
        table = README.read_text("utf-8").partition("## Examples")[2].partition("\n## ")[0]
        named: dict[str, list[str]] = {}
        path = ""
        for row in re.findall(r"(?m)^\| (`python .*?) \| .+ \|$", table):
            for command in re.findall(r"`([^`]+)`", row):
                words = command.split()
                path = words[1] if words[0] == "python" else path
                named.setdefault(path, []).append(words[-1])
        examples = {f"examples/{each.name}" for each in (CHECKOUT / "examples").glob("*.py")}
        self.assertEqual(named.keys(), examples)
        for path, last_words in named.items():
            said = (CHECKOUT / path).read_text("utf-8").split('"""')[1]
            for word in last_words:
                self.assertIn(word, said, path)

    def test_links(self) -> None:
        """What it links to is there."""
        for target in re.findall(r"\]\(([^)]+)\)", README.read_text("utf-8")):
            self.assertTrue((CHECKOUT / target).exists(), target)
