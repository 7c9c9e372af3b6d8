"""
The example that is many clients in one process.

With BIOCONN_SLOW=1 in the environment these are five thousand, in ten rounds.
"""

from __future__ import annotations

import os
import re
from itertools import cycle
from typing import Any
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.example_material import STATE, ExampleCase, load
from tests.server.contrast import contrast
from twisted_bioconn.certificates.development import DevelopmentAuthority

SUMMARY = r"""contexts:    {context}: \d+\.\d KB, \d+\.\d\d ms of CPU a device
memory:      \d+\.\d KB a device in the first round, \d+\.\d KB in the last
CPU:         \d+\.\d\d ms to connect, \d+\.\d\d ms for a session
handshakes:  {full} full, {resumed} resumed
connecting:  p50 \d+\.\d, p90 \d+\.\d, p99 \d+\.\d, max \d+\.\d ms
round trips: p50 \d+\.\d, p90 \d+\.\d, p99 \d+\.\d, max \d+\.\d ms
failed:      {failed}
"""


def summary(context: str, full: int, resumed: int, failed: int = 0) -> str:
    """The pattern of what is said at the end."""
    return SUMMARY.format(context=context, full=full, resumed=resumed, failed=failed)


class DevicesTests(ExampleCase):
    """C{devices.py}, as it stands."""

    def test_as_it_stands(self) -> None:
        """120 devices, each with 15 or 16 packets, and nothing but what is said at the end."""
        said = self.shell.run("python examples/devices.py")
        # Half of them have 15, and half 16.
        round_1 = (
            r"round 1: 120 devices connected in \d+\.\d s, 1860 round trips in \d+\.\d s,"
            r" \d+\.\d MB\n"
        )
        self.assertRegex(said, rf"\A{round_1}{summary('one for all', 120, 0)}\Z")

    def test_context_each(self) -> None:
        """With a context for each, too; sessions are resumed; and there is the histogram."""
        said = self.shell.run(
            "python examples/devices.py --devices 10 --rounds 3 --context each --histogram h.svg"
        )
        self.assertRegex(said, rf"{summary('one for each', 10, 20)}\Z")
        drawn = (self.shell.directory / "h.svg").read_text("utf-8")
        [_, median] = re.findall(r"p50 (\d+\.\d)", said)
        self.assertIn(f">p50 {median} ms</text>", drawn)

    def test_own_contexts(self) -> None:
        """A context for each is one for each, and a shared one is one."""
        module, authority = load("devices"), DevelopmentAuthority(self.mktemp())
        for context, count in (("shared", 1), ("each", 5)):
            asked = module.arguments(
                ["--devices", "5", "--context", context, "--trust", authority.certificate_path]
            )
            fleet = module.Fleet(Clock(), "localhost", 1, asked)
            self.assertEqual(len({id(options._context) for options in fleet.options}), count)

    def test_another_server(self) -> None:
        """The server may be another's."""
        server = self.shell.start("python examples/echo_server.py")
        server.wait_for("listening")
        command = f"python examples/devices.py --devices 5 --trust {STATE}/ca.pem localhost:4433"
        self.assertRegex(self.shell.run(command), rf"{summary('one for all', 5, 0)}\Z")

    def test_refused(self) -> None:
        """A refused connection is counted and named, and the exit status is 1."""
        said = self.shell.run("python examples/devices.py --devices 7 localhost:4433", status=1)
        self.assertRegex(
            said, rf"{summary('one for all', 0, 0, 7)} +7 × ConnectionRefusedError: .*refused.*\n\Z"
        )

    def test_not_trusted(self) -> None:
        """So is a server that is not who it should be."""
        server = self.shell.start("XDG_STATE_HOME=/$PWD/other python examples/echo_server.py")
        server.wait_for("listening")
        said = self.shell.run("python examples/devices.py --devices 7 localhost:4433", status=1)
        self.assertRegex(
            said,
            rf"{summary('one for all', 0, 0, 7)}"
            r" +7 × PeerError: the certificate of CN=localhost does not verify: .*\n\Z",
        )

    def test_lost(self) -> None:
        """So is a device that the server leaves in mid-session."""
        server = self.shell.start_python(
            """
            from twisted.internet.protocol import Factory, Protocol
            from twisted.internet.endpoints import serverFromString
            from twisted.internet import reactor
            from twisted_bioconn.certificates import development

            class Rude(Protocol):
                def dataReceived(self, data):
                    self.transport.loseConnection()

            directory = development.state_directory()
            development.DevelopmentAuthority(directory).leaf()
            endpoint = f"bioconn:4433:privateKey={directory}/leaf.pem"
            serverFromString(reactor, endpoint).listen(Factory.forProtocol(Rude))
            print("listening", flush=True)
            reactor.run()
            """
        )
        server.wait_for("listening")
        said = self.shell.run("python examples/devices.py --devices 7 localhost:4433", status=1)
        self.assertRegex(
            said,
            rf"{summary('one for all', 7, 0, 7)}"
            r" +7 × ConnectionError: the server has closed in mid-session\n\Z",
        )

    def test_terminal(self) -> None:
        """On a terminal there is a bar, and in the end none is left."""
        said = self.shell.run(
            "python -c 'import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))'"
            " python examples/devices.py --devices 40"
        )
        self.assertIn("\rround 1: connecting      [##", said)
        self.assertIn("] 40 of 40", said)
        self.assertRegex(said, r"sessions[^\n]*\r\x1b\[Kround 1: 40 devices")

    def test_mistakes(self) -> None:
        """One line says what is wrong."""
        for options, sentence in (
            ("localhost", "'localhost' is not HOST:PORT"),
            ("--devices 0", "at least 1"),
            ("--context none", "--context"),
        ):
            said = self.shell.run(f"python examples/devices.py {options}", status=2)
            self.assertIn(sentence, said.splitlines()[-1])
        self.refused("python examples/devices.py --trust none.pem localhost:1", "none.pem")

    def test_few_files(self) -> None:
        """A limit of open files that can be raised is raised."""
        said = self.shell.run("ulimit -S -n 150 && python examples/devices.py")
        self.assertRegex(said, rf"{summary('one for all', 120, 0)}\Z")

    def test_too_few_files(self) -> None:
        """One that cannot is named."""
        module = load("devices")

        def refuse(*_: object) -> None:
            raise ValueError("not allowed to raise maximum limit")

        self.patch(module.resource, "getrlimit", lambda _: (1024, 4096))
        self.patch(module.resource, "setrlimit", refuse)
        module.allow_files(1024)
        error = self.assertRaises(SystemExit, module.allow_files, 5100)
        self.assertEqual(
            str(error),
            "devices: 5100 open files are needed, and the limit is 4096: raise ulimit -n",
        )

    def test_massive(self) -> None:
        """Five thousand, ten times: none is lost, and memory does not grow."""
        if not os.environ.get("BIOCONN_SLOW"):
            raise SkipTest("takes minutes: set BIOCONN_SLOW=1 to run it")
        run = self.shell.start("python examples/devices.py --devices 5000 --rounds 10")
        for number in range(1, 11):
            run.wait_for(rf"round {number}: 5000 devices connected .*77500 round trips.*\n", 600)
        self.assertEqual(run.ended(), 0, run.said)
        self.assertRegex(run.said, rf"{summary('one for all', 5000, 45000)}\Z")
        memory = [float(figure) for figure in re.findall(r"([\d.]+) MB\n", run.said)]
        # Each device keeps a session from the first round on, and all is there in the third.
        self.assertLess(max(memory[2:]), 1.03 * memory[2], run.said)


class DeviceTests(SynchronousTestCase):
    """A device, in memory."""

    def setUp(self) -> None:
        self.module = load("devices")
        self.device = self.module.Device(1, self.module.Spread())
        self.transport = StringTransport()
        self.device.makeConnection(self.transport)
        self.device.send()

    def sent(self) -> bytes:
        """What it has sent since the last time."""
        data: bytes = self.transport.value()
        self.transport.clear()
        return data

    @given(st.lists(st.integers(1, 300), min_size=1, max_size=5))
    def test_session(self, sizes: list[int]) -> None:
        """All packets, one after the other, in whatever pieces they come back."""
        self.setUp()
        turns, packets = cycle(sizes), []
        while data := self.sent():
            packets.append(len(data))
            while data:
                size = next(turns)
                self.device.dataReceived(data[:size])
                data = data[size:]
        self.assertEqual(len(packets), 16)
        self.assertTrue(all(100 <= size <= 300 for size in packets), packets)
        self.assertTrue(self.transport.disconnecting)
        self.device.connectionLost()
        self.assertIsNone(self.successResultOf(self.device.ended))

    def test_wrong_echo(self) -> None:
        """Another byte ends it."""
        self.device.dataReceived(bytes([self.sent()[0] ^ 1]))
        error = self.failureResultOf(self.device.ended, ValueError)
        self.assertIn("not what was sent", str(error.value))
        self.assertTrue(self.transport.disconnected)

    def test_too_much(self) -> None:
        """So does one more."""
        self.device.dataReceived(self.sent() + b"x")
        self.failureResultOf(self.device.ended, ValueError)

    def test_cut(self) -> None:
        """What the connection ends with is what is told."""
        self.device.connectionLost(Failure(ConnectionLost("cut")))
        self.failureResultOf(self.device.ended, ConnectionLost)

    def test_patience(self) -> None:
        """A session that does not come to its end is lost, and named."""
        authority, clock = DevelopmentAuthority(self.mktemp()), Clock()
        asked = self.module.arguments(
            ["--devices", "1", "--trust", authority.certificate_path, "localhost:1"]
        )
        fleet = self.module.Fleet(clock, "localhost", 1, asked)
        ended: Deferred[Any] = Deferred.fromCoroutine(fleet.session(self.device))
        clock.advance(self.module.PATIENCE - 1)
        self.assertNoResult(ended)
        clock.advance(1)
        self.successResultOf(ended)
        reason = "TimeoutError: its session was not done within 120 seconds"
        self.assertEqual(dict(fleet.failures), {reason: 1})
        self.assertTrue(self.transport.disconnected)
        self.assertEqual(clock.getDelayedCalls(), [])


class SpreadTests(SynchronousTestCase):
    """Percentiles, and their picture."""

    def setUp(self) -> None:
        self.module = load("devices")

    @given(st.lists(st.floats(1e-5, 100.0), min_size=1, max_size=200), st.integers(1, 100))
    def test_percentile(self, durations: list[float], percent: int) -> None:
        """It is within the 2 % of a step of what a sorted list has."""
        spread = self.module.Spread()
        for duration in durations:
            spread.add(duration)
        exact = sorted(durations)[-(-percent * len(durations) // 100) - 1] * 1e3
        self.assertLess(abs(spread.percentile(percent) - exact), 0.021 * exact)

    def test_drawing(self) -> None:
        """It is well-formed, all bars are within it, and none is missing."""
        spread = self.module.Spread()
        for milliseconds in (0.3, 2, 2, 40, 700):
            spread.add(milliseconds / 1e3)
        root = ElementTree.fromstring(self.module.histogram(spread, "Round trips"))
        bars = root.findall("{http://www.w3.org/2000/svg}rect")
        heights = sorted(float(bar.attrib["height"]) for bar in bars)
        self.assertEqual(heights, [90.0, 90.0, 90.0, 180.0])
        for bar in bars:
            self.assertGreaterEqual(float(bar.attrib["x"]), 20)
            self.assertLessEqual(float(bar.attrib["x"]) + float(bar.attrib["width"]), 700)

    def test_no_durations(self) -> None:
        """Where all failed there is a picture of nothing."""
        drawn = self.module.histogram(self.module.Spread(), "Round trips")
        self.assertNotIn("<rect", drawn)
        ElementTree.fromstring(drawn)

    def test_contrast(self) -> None:
        """All that is written stands out, by day and by night (WCAG 2.2, 1.4.3: 4.5 to 1)."""
        drawn = self.module.histogram(self.module.Spread(), "Round trips")
        light, _, dark = drawn.partition("@media (prefers-color-scheme: dark)")
        for colours in (light, dark):
            [back] = re.findall("background: (#[0-9a-f]{6})", colours)
            used = re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", colours)
            self.assertEqual(len(used), 4)
            for colour in used:
                self.assertGreater(contrast(colour, back), 4.5)
