"""The README: every command and every snippet in it runs, and prints what it says."""

from __future__ import annotations

import re
import signal
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from attrs import frozen
from twisted.internet.endpoints import clientFromString, quoteStringArgument, serverFromString
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tests.programs import missing, require
from tests.shell import CHECKOUT, Running, Shell
from twisted_bioconn.certificates.development import DevelopmentAuthority
from twisted_bioconn.endpoints import CLIENT_OPTIONS, SERVER_OPTIONS, ClientEndpoint, ServerEndpoint

README = CHECKOUT / "README.md"

# The commands that are not run here, and why.
NOT_RUN = {
    "python3 -m venv venv": "the shell of these tests is in an environment that is there",
    "venv/bin/pip install .": "it fetches packages; tests.test_packaging installs the checkout",
    "venv/bin/pip install '.[test]'": "it fetches packages; the tests run because it was run",
}

_F = TypeVar("_F", bound=Callable[..., object])


@frozen
class Block:
    """
    A block of code.

    @ivar section: the heading above it.
    @ivar language: C{sh}, C{python}, or C{text} for what the block before it prints.
    """

    section: str
    language: str
    text: str


@cache
def blocks() -> tuple[Block, ...]:
    """All blocks of the README, in its order."""
    found = []
    section, language, text = "", None, ""
    for line in README.read_text("utf-8").splitlines(keepends=True):
        if line.startswith("```"):
            if language is None:
                language, text = line.strip("`\n"), ""
            else:
                found.append(Block(section, language, text))
                language = None
        elif language is not None:
            text += line
        elif line.startswith("#"):
            section = line.lstrip("#").strip()
    return tuple(found)


def section(name: str) -> Callable[[_F], _F]:
    """Say which section of the README a test runs."""

    def mark(test: _F) -> _F:
        test.section = name  # type: ignore[attr-defined]
        return test

    return mark


class ReadmeTests(SynchronousTestCase):
    """A test for each section, which takes its blocks one after the other, and all of them."""

    def setUp(self) -> None:
        name = getattr(self, self._testMethodName).section
        self.left = deque(block for block in blocks() if block.section == name)
        self.shell = Shell(self)
        self.state = self.shell.home / ".local" / "state" / "bioconn"
        if name not in ("Run it", "Test it"):
            DevelopmentAuthority(str(self.state)).leaf()
            [setup] = [block.text for block in blocks() if block.section == "Ways in"]
            self.shell.before = setup

    def take(self, language: str) -> str:
        """The next block."""
        block = self.left.popleft()
        self.assertEqual(block.language, language, block.text)
        return block.text.rstrip("\n")

    def start(self, wait: int | str) -> Running:
        """Start the next command, and wait until it listens on a port or has said something."""
        running = self.shell.start(self.take("sh"))
        if isinstance(wait, int):
            self.shell.wait_for_port(wait)
        else:
            running.wait_for(wait)
        return running

    def printed(self) -> str:
        """The pattern of what the next block says is printed."""
        text = self.take("text").replace("/home/you", str(self.shell.home))
        return "(?s:.*)".join(map(re.escape, text.split("…")))

    def run_next(self, status: int = 0) -> None:
        """Run the next command to its end; it prints what the block after it says."""
        said = self.shell.run(self.take("sh"), status)
        self.assertRegex(said, rf"{self.printed()}\n*\Z")

    def curl(self, url: str) -> str:
        """Get a page, whose certificate is for development."""
        require("curl")
        return self.shell.run(f"curl -sS --cacert $DEV/ca.pem {url}")

    def finish(self) -> None:
        """Nothing of the section may be left."""
        self.assertEqual(list(self.left), [])

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
        self.assertEqual(run, {block.section for block in blocks()})

    def test_continuous_integration(self) -> None:
        """C{.ci/run} runs the first block that has trial in it: the one under "Test it"."""
        self.assertIn("readme_command", (CHECKOUT / ".ci" / "run").read_text("utf-8"))
        first = next(block for block in blocks() if re.search(r"\btrial\b", block.text))
        self.assertEqual(first.section, "Test it")

    def test_option_tables(self) -> None:
        """The tables have the options that there are, with what they take."""
        for kind, options in (("server", SERVER_OPTIONS), ("client", CLIENT_OPTIONS)):
            table = README.read_text("utf-8").partition(f"| {kind} option |")[2]
            rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", table.partition("\n\n")[0], re.MULTILINE)
            self.assertEqual(rows, list(options.items()))

    def test_deadlines(self) -> None:
        """The deadlines are those that the tables have."""
        reactor = MemoryReactorClock()
        directory = self.mktemp()
        DevelopmentAuthority(directory).leaf()
        key = quoteStringArgument(f"{directory}/leaf.pem")
        server = serverFromString(reactor, f"bioconn:0:privateKey={key}")
        client = clientFromString(reactor, "bioconn:localhost:1")
        assert isinstance(server, ServerEndpoint) and isinstance(client, ClientEndpoint)
        defaults = dict(re.findall(r"(?m)^\| `(\w+)` \| .*? \| (\d+|off)\b", README.read_text()))
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

    def test_links(self) -> None:
        """What it links to is there."""
        for target in re.findall(r"\]\(([^)]+)\)", README.read_text("utf-8")):
            self.assertTrue((CHECKOUT / target).exists(), target)
