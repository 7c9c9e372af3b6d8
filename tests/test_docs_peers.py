"""
The pages on other TLS fronts, in C{docs/peers}: each has a configuration of theirs and ours.

Both run, on ports that are free, and what a page says that is seen of ours is seen of theirs too.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineReceiver
from twisted.scripts._twistd_unix import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from tests.peers.ours import PeerCase, page
from tests.peers.processes import DEADLINE, Program, free_port, reactor
from tests.peers.servers import Home
from tests.peers.with_nginx import need_streams
from tests.programs import require
from tests.shell import CHECKOUT, PORTS
from twisted_bioconn.endpoint_strings import CLIENT_OPTIONS, SERVER_OPTIONS
from twisted_bioconn.server._config_values import FORWARD_OPTIONS
from twisted_bioconn.server.options import Options

PAGES = CHECKOUT / "docs" / "peers"

WEB, MAIL = 8080, 4000
"""On these ports the pages have what is behind: a web server, and a mail server."""

OTHER_NAMES = {"stunnel": ("stunnel4",)}

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
"""Where Debian keeps it; in other builds it is compiled in."""


@frozen
class Block:
    """
    A block of code.

    @ivar language: C{sh} for a command, C{text} for what the command before it prints; else it is a
        file.
    @ivar name: the file's, which the line before has.
    """

    language: str
    name: str
    text: str


def blocks(name: str) -> list[Block]:
    """All blocks of a page, in its order."""
    made = []
    text = (PAGES / f"{name}.md").read_text("utf-8")
    for match in re.finditer(r"(?ms)^```(\w+)\n(.*?)^```$", text):
        named = re.search(r"`([\w.-]+)`:\n\n\Z", text[: match.start()])
        made.append(Block(match[1], "" if named is None else named[1], match[2]))
    return made


class Mail(LineReceiver):
    """A mail server, as far as is needed."""

    def connectionMade(self) -> None:
        self.sendLine(b"220 mail.example.org ESMTP")

    def lineReceived(self, line: bytes) -> None:
        self.sendLine(b"221 bye" if line.upper() == b"QUIT" else b"250 OK")
        if line.upper() == b"QUIT":
            assert self.transport is not None
            self.transport.loseConnection()


class PageCase(PeerCase):
    """
    A test of one page.
    """

    timeout = 600

    async def prepare(self) -> None:
        """Make the files that the pages name, and what is behind."""
        self.home = Home(self)
        self.ports = {port: free_port() for port in PORTS}
        for port, factory in ((WEB, page()), (MAIL, Factory.forProtocol(Mail))):
            self.ports[port] = await self.listen(factory)
        material = self.material
        self.home.write("ca.pem", material.root.read_text())
        for name, identity in (
            ("server.pem", "localhost"),
            ("sites/localhost.pem", "localhost"),
            ("client.pem", "client.example.org"),
            ("other.pem", "other.example.org"),
        ):
            chain, key = material.issue("issued", identity)
            self.home.write(name, key.read_text() + chain.read_text())

    async def listen(self, factory: IProtocolFactory) -> int:
        """Serve something in the clear; returns the port."""
        port: Any = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        number: int = port.getHost().port
        return number

    def placed(self, text: str) -> str:
        """The same, on ports that are free."""
        return re.sub(
            rf"\b({'|'.join(map(str, self.ports))})\b",
            lambda match: str(self.ports[int(match[0])]),
            text,
        )

    def write(self, block: Block) -> None:
        """Write a file of theirs."""
        text = self.placed(block.text)
        if block.language == "nginx" and STREAM_MODULE.exists():
            text = f"load_module {STREAM_MODULE};\n{text}"
        self.home.write(block.name, text)

    async def run_page(self, name: str, is_ours: bool) -> None:
        """
        Start what a page starts, and see that it does what the page says.

        @param is_ours: ours, or theirs.
        """
        left = blocks(name)
        first = next(at for at, block in enumerate(left) if block.text.startswith("bioconn "))
        theirs, ours, checks = left[:first], left[first], left[first + 1 :]
        starts = [block.text for block in theirs if block.language == "sh"]
        for start in starts:
            if not is_ours:
                program = shlex.split(start)[0]
                found = require(program, *OTHER_NAMES.get(program, ()))
        await self.prepare()
        if is_ours:
            bioconn = f"exec {shlex.quote(sys.executable)} -m twisted_bioconn"
            command = f"PYTHONPATH={shlex.quote(str(CHECKOUT))}\nexport PYTHONPATH\n"
            command += bioconn + ours.text.removeprefix("bioconn")
            running = [self.start(command, in_our_name=True)]
        else:
            for block in theirs:
                if block.language != "sh":
                    self.write(block)
            running = [
                self.start(f"exec {found}{start.removeprefix(shlex.split(start)[0])}")
                for start in starts
            ]
        for port in PORTS:
            if port not in (WEB, MAIL) and re.search(rf"\b{port}\b", ours.text):
                await self.wait_for_port(self.ports[port], running)
        self.assertTrue(checks)
        for check, answer in zip(checks[::2], checks[1::2], strict=True):
            self.assertEqual((check.language, answer.language), ("sh", "text"))
            require(shlex.split(check.text)[0])
            done = self.start(check.text, in_our_name=True)
            said = (await done.succeeded()).replace("\r\n", "\n")
            wanted = "(?s:.*)".join(map(re.escape, answer.text.split("…")))
            self.assertRegex(said, rf"\A{wanted}\Z", check.text)
            self.assertFalse(any(program.has_ended for program in running))

    def start(self, command: str, in_our_name: bool = False) -> Program:
        """Start a command, in the directory with the files."""
        command = f"cd {self.home.path}\n{self.placed(command)}"
        return self.home.run("sh", "-c", command, in_our_name=in_our_name)

    async def wait_for_port(self, port: int, running: list[Program]) -> None:
        """Wait until one of the programs listens."""
        end = reactor.seconds() + DEADLINE
        while True:
            try:
                (await self.connect_plain(port, LineReceiver())).transport.abortConnection()  # type: ignore[union-attr]
                return
            except ConnectError:
                said = "\n".join(program.said for program in running)
                self.assertLess(reactor.seconds(), end, said)
                self.assertFalse(any(program.has_ended for program in running), said)
            await deferLater(reactor, 0.05, lambda: None)


class OursTests(PageCase):
    """The translations."""

    async def test_stunnel(self) -> None:
        """stunnel's."""
        await self.run_page("stunnel", True)

    async def test_hitch(self) -> None:
        """hitch's."""
        await self.run_page("hitch", True)

    async def test_ghostunnel(self) -> None:
        """ghostunnel's."""
        await self.run_page("ghostunnel", True)

    async def test_nginx(self) -> None:
        """That of nginx's module for streams."""
        await self.run_page("nginx-stream", True)


class TheirsTests(PageCase):
    """What was translated; few systems have a package of ghostunnel."""

    async def test_stunnel(self) -> None:
        """stunnel."""
        await self.run_page("stunnel", False)

    async def test_hitch(self) -> None:
        """hitch."""
        await self.run_page("hitch", False)

    async def test_nginx(self) -> None:
        """nginx."""
        need_streams()
        await self.run_page("nginx-stream", False)


class TableTests(SynchronousTestCase):
    """The tables of options."""

    def test_pages(self) -> None:
        """Each page there is has its tests."""
        names = {path.stem for path in PAGES.glob("*.md")}
        self.assertEqual(names, {"stunnel", "hitch", "ghostunnel", "nginx-stream"})

    def test_ours(self) -> None:
        """Each option that is said to be ours is one."""
        words = {option.rstrip("=") for option in ServerOptions().longOpt}
        words |= {str(each[0]) for each in (*Options.optParameters, *Options.optFlags)}
        words |= {name.removeprefix("opt_") for name in dir(Options) if name.startswith("opt_")}
        words |= set(FORWARD_OPTIONS)
        options = {*SERVER_OPTIONS, *CLIENT_OPTIONS}
        for path in sorted(PAGES.glob("*.md")):
            told = 0
            for theirs, ours in rows(path.read_text("utf-8")):
                for span in re.findall(r"`([^`]+)`", ours):
                    for word in re.findall(r"--([a-z-]+)", span):
                        self.assertIn(word, words, f"{path.name}: {theirs}: {span}")
                        told += 1
                    for option in re.findall(r"(?:^|(?<!\\):)([A-Za-z]+)=", span):
                        self.assertIn(option, options, f"{path.name}: {theirs}: {span}")
                        told += 1
            self.assertGreater(told, 15, path.name)

    def test_theirs(self) -> None:
        """No option of theirs is in a page twice."""
        for path in sorted(PAGES.glob("*.md")):
            found = [
                name
                for theirs, _ in rows(path.read_text("utf-8"))
                for name in re.findall(r"`[^`]+`(?: \(\w+\))?", theirs)
            ]
            self.assertEqual(sorted(found), sorted(set(found)), path.name)
            self.assertGreater(len(found), 35, path.name)


def rows(text: str) -> list[tuple[str, str]]:
    """What the rows of a page's tables have: what is theirs, and what is ours."""
    found = re.findall(r"(?m)^\| (`[^|]*) \| ([^|]*) \|$", text)
    assert found
    return found
