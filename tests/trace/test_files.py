"""Tests for L{twisted_bioconn.trace.files}, and for what endpoint strings have of traces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import DeferredQueue
from twisted.internet.endpoints import (
    clientFromString,
    quoteStringArgument,
    serverFromString,
)
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import serving
from tests.endpoint_material import Applications
from tests.peers.ours import PeerCase, Talk, Talks
from tests.peers.processes import reactor
from tests.peers.with_openssl import s_client
from tests.server.command import Command
from tests.shell import CHECKOUT
from tests.tls_material import expired
from tests.trace.material import TracedCase, trace_of
from tests.trace.test_outputs import EVENTS
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.policy import INTERMEDIATE
from twisted_bioconn.port_options import networks
from twisted_bioconn.trace import Trace, Tracer, pcapng
from twisted_bioconn.trace.files import AppendedFile, Sample, TraceFile, tracer_of
from twisted_bioconn.trace.verdict import Intent

_APPEND = """
import sys
from twisted_bioconn.trace.files import AppendedFile
file = AppendedFile(sys.argv[1], b"head\\n", 4000)
for at in range(200):
    file.append(f"{sys.argv[2]} {at}\\n".encode() * 3)
"""


class AppendedFileTests(SynchronousTestCase):
    """A file to which several may append."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.rotated = Path(f"{self.path}.1")

    def test_mode(self) -> None:
        """It is nobody else's, whatever it was."""
        self.path.touch(0o644)
        AppendedFile(str(self.path)).append(b"x")
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_rotates(self) -> None:
        """There are never more than two, each with its head, and none over its limit."""
        file = AppendedFile(str(self.path), b"head", 100)
        for at in range(50):
            file.append(b"%09d " % at)
            self.assertLessEqual(self.path.stat().st_size, 100)
        self.assertTrue(self.path.read_bytes().startswith(b"head"))
        self.assertTrue(self.rotated.read_bytes().startswith(b"head"))
        self.assertTrue(self.path.read_bytes().endswith(b"%09d " % 49))
        self.assertEqual(
            sorted(each.name for each in self.path.parent.glob(f"{self.path.name}*")),
            [self.path.name, self.rotated.name],
        )
        self.assertEqual(self.rotated.stat().st_mode & 0o777, 0o600)

    def test_large(self) -> None:
        """A piece that is larger than a file has one by itself."""
        file = AppendedFile(str(self.path), b"", 10)
        file.append(b"x" * 30)
        file.append(b"y")
        self.assertEqual(self.path.read_bytes(), b"y")
        self.assertEqual(self.rotated.read_bytes(), b"x" * 30)

    def test_processes(self) -> None:
        """Pieces of several processes stay whole, also where files are renamed meanwhile."""
        programs = [
            subprocess.Popen([sys.executable, "-c", _APPEND, str(self.path), name], cwd=CHECKOUT)
            for name in ("one", "two", "three")
        ]
        for each in programs:
            self.assertEqual(each.wait(60), 0)
        for path in (self.path, self.rotated):
            self.assertLessEqual(path.stat().st_size, 4000)
            head, *lines = path.read_text().splitlines()
            self.assertEqual(head, "head")
            self.assertEqual(len(lines) % 3, 0)
            for at in range(0, len(lines), 3):
                self.assertEqual(len(set(lines[at : at + 3])), 1)

    def test_other_things(self) -> None:
        """A link and a pipe are not written to: that is said, once, and is no error."""
        target = Path(self.mktemp())
        self.path.symlink_to(target)
        file = AppendedFile(str(self.path))
        file.append(b"x")
        file.append(b"x")
        self.assertFalse(target.exists())
        self.path.unlink()
        os.mkfifo(self.path)
        file.append(b"x")
        self.path.unlink()
        file.append(b"x")
        self.assertEqual(self.path.read_bytes(), b"x")

    def test_replace(self) -> None:
        file = AppendedFile(str(self.path))
        file.replace(b"one")
        file.replace(b"two")
        self.assertEqual(self.path.read_bytes(), b"two")
        self.assertEqual(len(list(self.path.parent.glob(f"{self.path.name}*"))), 1)


class TraceFileTests(TracedCase):
    """Traces in a file, in the form that its name says."""

    def write(self, suffix: str, *traces: Trace, **settings: Any) -> Path:
        path = Path(self.mktemp() + suffix).absolute()
        file = TraceFile(str(path), Intent(policy=INTERMEDIATE), **settings)
        for each in traces:
            file.write(each)
        return path

    def test_text(self) -> None:
        text = self.write(".log", *self.converse()).read_text("utf-8")
        self.assertEqual(text.count("Good: the handshake is done"), 2)
        self.assertEqual(text.count("ClientHello, "), 2)

    def test_json(self) -> None:
        lines = self.write(".jsonl", *self.converse()).read_text("ascii").splitlines()
        told = [json.loads(each)["event"] for each in lines]
        self.assertEqual((told.count("Trace"), told.count("Verdict")), (2, 2))

    def test_page(self) -> None:
        """The last ones, the newest first."""
        traces = [trace_of(*EVENTS, peer=f"192.0.2.{at}:443") for at in range(15)]
        page = self.write(".html", *traces).read_text("utf-8")
        self.assertEqual(page.count("<h2>"), 10)
        self.assertLess(page.index("192.0.2.14:443"), page.index("192.0.2.6:443"))
        self.assertNotIn("192.0.2.4:443", page)

    def test_capture(self) -> None:
        """One header, however many connections."""
        data = self.write(".pcapng", trace_of(*EVENTS), trace_of(*EVENTS)).read_bytes()
        self.assertEqual(data.count(pcapng.header()), 1)
        self.assertGreater(len(data), 1000)

    def test_failures(self) -> None:
        """Those alone, where they alone are wanted."""
        good = self.converse()
        bad = self.converse(server=serving(expired()), data=b"")
        path = self.write(".txt", *good, only_failures=True)
        self.assertFalse(path.exists())
        text = self.write(".txt", *good, *bad, only_failures=True).read_text("utf-8")
        self.assertEqual(text.count("Not good: "), 2)
        self.assertNotIn("\nGood: ", text)


class SampleTests(TracedCase):
    """Which connections are traced."""

    def test_every(self) -> None:
        sample = Sample(every=3)
        self.assertEqual(
            [sample.has(None) for _ in range(7)], [True, False, False, True, False, False, True]
        )

    def test_networks(self) -> None:
        sample = Sample(networks=networks("10.0.0.0/8, 2001:db8::/32"))
        for host, is_in in (
            ("10.1.2.3", True),
            ("11.1.2.3", False),
            ("::ffff:10.1.2.3", True),
            ("2001:db8::1%eth0", True),
            ("2001:db9::1", False),
        ):
            kind = IPv6Address if ":" in host else IPv4Address
            self.assertEqual(sample.has(kind("TCP", host, 1)), is_in, host)
        self.assertFalse(sample.has(UNIXAddress(b"/run/x")))
        self.assertFalse(sample.has(None))

    def test_layer(self) -> None:
        """One that is not traced is of the usual class; the address is the client's."""
        asked: list[Any] = []

        def sample(address: Any) -> bool:
            asked.append(address)
            return len(asked) == 2

        tracer = Tracer(self.traces.append, sample=sample)
        self.listen(Applications(), tracer=tracer)
        for _ in range(3):
            visitors = Applications()
            connecting = self.client_endpoint().connect(visitors)
            self.meet()
            self.successResultOf(connecting)
            visitors.one.transport.loseConnection()
            self.clock.settle()
        self.assertEqual([each.host for each in asked], ["127.0.0.1"] * 3)
        self.assertEqual(len(self.traces), 1)


class OptionTests(SynchronousTestCase):
    """The options of an endpoint string."""

    def mistake(self, given: Mapping[str, str]) -> str:
        return str(self.assertRaises(ConfigurationError, tracer_of, given))

    def test_mistakes(self) -> None:
        there = self.mktemp()
        os.mkdir(there)
        for given, part in (
            ({"trace": there}, "trace: "),
            ({"trace": "/nowhere/file"}, "trace: there is no directory /nowhere"),
            ({"unsafeKeyLog": "/nowhere/file"}, "unsafeKeyLog: there is no directory"),
            ({"trace": "x", "traceEvery": "0"}, "traceEvery=0"),
            ({"trace": "x", "traceFrom": "all"}, "traceFrom: 'all' is no network"),
            ({"trace": "x", "traceFailures": "maybe"}, "traceFailures=maybe"),
            ({"unsafeTraceSecrets": "yes"}, "unsafeTraceSecrets= needs trace="),
            ({"traceFrom": "10.0.0.0/8"}, "traceFrom= needs trace="),
        ):
            self.assertIn(part, self.mistake(given))

    def test_elsewhere(self) -> None:
        """A system without locks."""
        with mock.patch.dict(sys.modules, {"twisted_bioconn.trace.files": None}):
            error = self.assertRaises(
                ConfigurationError, clientFromString, reactor, "bioconn:localhost:1:trace=x"
            )
        self.assertIn("POSIX", str(error))

    def test_none(self) -> None:
        self.assertIsNone(tracer_of({}))


class EndpointStringTests(PeerCase):
    """The options, in the strings of a server and a client, with a real peer."""

    async def listen(self, **options: object) -> tuple[int, Talks]:
        """Serve with these options; when a trace was written, C{self.written} says so."""
        material, talks = self.material, Talks()
        given = {"certKey": material.server, "privateKey": material.server_key, **options}
        words = [f"{name}={quoteStringArgument(str(value))}" for name, value in given.items()]
        endpoint: Any = serverFromString(
            reactor, ":".join(["bioconn:0:interface=127.0.0.1", *words])
        )
        self.written: DeferredQueue[None] = DeferredQueue()
        write = endpoint.tracer._done

        def writing(trace: Trace) -> None:
            write(trace)
            self.written.put(None)

        endpoint.tracer._done = writing
        port = await endpoint.listen(talks)
        self.addCleanup(port.stopListening)
        return port.getHost().port, talks

    async def test_server(self) -> None:
        """Each connection is in the file when it has ended, and the one that fails is explained."""
        path, keys = self.directory / "trace.json", self.directory / "keys.log"
        port, talks = await self.listen(trace=path, unsafeKeyLog=keys)
        for version in ("-tls1_2", "-tls1_3"):
            s_client(self, port, version)
            (await talks.next()).close()
            await self.written.get()
        s_client(self, port, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
        await self.written.get()
        told = [json.loads(line) for line in path.read_text().splitlines()]
        verdicts = [each for each in told if each["event"] == "Verdict"]
        self.assertEqual([each["good"] for each in verdicts], [True, True, False])
        self.assertEqual(verdicts[-1]["cause"], "client_too_old")
        self.assertNotIn("Secret", {each["event"] for each in told})
        logged = keys.read_text()
        self.assertIn("CLIENT_RANDOM ", logged)
        self.assertIn("SERVER_TRAFFIC_SECRET_0 ", logged)
        for each in (path, keys):
            self.assertEqual(each.stat().st_mode & 0o777, 0o600)

    async def test_from_elsewhere(self) -> None:
        """With networks and a number, only those are traced that are meant."""
        path = self.directory / "trace.json"
        given = {"trace": path, "traceFrom": "127.0.0.0/8", "traceEvery": 2}
        port, talks = await self.listen(**given)
        for _ in range(3):
            program = s_client(self, port)
            (await talks.next()).close()
            await program.ended()
        for _ in range(2):
            await self.written.get()
        self.assertEqual(path.read_text().count('"event": "Trace"'), 2)

    async def test_client(self) -> None:
        path = self.directory / "trace.txt"
        talks = Talks()
        server = await self.serve(talks)
        talk = await self.connect(server.port, Talk(), trace=path, unsafeTraceSecrets="yes")
        (await talks.next()).close()
        await talk.gone()
        # The trace is complete when the application has been told.
        await deferLater(reactor, 0, lambda: None)
        text = path.read_text("utf-8")
        self.assertIn("Good: the handshake is done", text)

    async def test_key_log_alone(self) -> None:
        keys = self.directory / "keys.log"
        talks = Talks()
        server = await self.serve(talks)
        await self.connect(server.port, Talk(), unsafeKeyLog=keys)
        self.assertIn("CLIENT_HANDSHAKE_TRAFFIC_SECRET ", keys.read_text())


class ServerTests(SynchronousTestCase):
    """C{twistd bioconn}."""

    def test_workers(self) -> None:
        """All workers write to one file, which only its owner can read."""
        words = ("--workers", "2", "--listen", "0:trace=trace.jsonl", "--echo")
        front = Command(self, *words)
        port = front.port()
        for _ in range(4):
            with front.connect(port) as connection:
                connection.sendall(b"hello")
                self.assertEqual(connection.recv(5), b"hello")
        front.terminate()
        path = Path(front.directory) / "trace.jsonl"
        told = [json.loads(line) for line in path.read_text("ascii").splitlines()]
        good = [each["good"] for each in told if each["event"] == "Verdict"]
        self.assertEqual(good, [True] * 4)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
