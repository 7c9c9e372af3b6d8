"""What systemd is told, what it hands over, and the unit in C{examples}."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from queue import Queue
from threading import Thread
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from tests.server.command import ROOT, TWISTD
from tests.server.load import ECHO, LifeCase
from twisted_bioconn.server.systemd import Notifier

UNIT = os.path.join(ROOT, "examples", "bioconn.service")

#: Has two sockets for the command, as systemd would, and becomes it.
ACTIVATED = """
import os, socket, sys
found = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)]
found[1].bind("own.sock")
os.chmod("own.sock", 0o660)
found[1].listen()
numbers = [os.dup(each.fileno()) for each in found]
for place, number in enumerate(numbers):
    os.dup2(number, 30 + place)
for place in range(2):
    os.dup2(30 + place, 3 + place)
os.environ.update(LISTEN_FDS="2", LISTEN_FDNAMES="web:own", LISTEN_PID=str(os.getpid()))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@skipUnless(hasattr(socket, "AF_UNIX"), "it takes UNIX sockets")
class NotifierCase(SynchronousTestCase):
    """Stands where systemd does."""

    def listen(self, address: str) -> socket.socket:
        heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(heard.close)
        heard.bind("\0" + address[1:] if address[0] == "@" else address)
        heard.settimeout(300)
        return heard

    def path(self) -> str:
        # One in the test's own directory may be too long for a socket.
        path = f"/tmp/notify-{os.getpid()}-{id(self)}"

        def remove() -> None:
            if os.path.exists(path):
                os.remove(path)

        self.addCleanup(remove)
        return path


class NotifierTests(NotifierCase):
    """What it says, and to whom."""

    def test_what_it_says(self) -> None:
        """In both kinds of address."""
        for address in (self.path(), f"@notify-{os.getpid()}"):
            heard = self.listen(address)
            notifier = Notifier(address)
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            notifier.ready("serving")
            notifier.reloading()
            notifier.stopping("draining", 40.0)
            notifier.alive()
            notifier.status("one\ntwo"[:3])
            notifier.succeeded_by(17)
            notifier.ready("not any more")
            said = [heard.recv(1000).decode().split("\n") for _ in range(6)]
            moment = said[1].pop(1)
            self.assertEqual(
                said,
                [
                    ["READY=1", "STATUS=serving"],
                    ["RELOADING=1", "STATUS=reloading"],
                    ["STOPPING=1", "EXTEND_TIMEOUT_USEC=40000000", "STATUS=draining"],
                    ["WATCHDOG=1"],
                    ["STATUS=one"],
                    ["MAINPID=17"],
                ],
            )
            name, _, value = moment.partition("=")
            self.assertEqual(name, "MONOTONIC_USEC")
            self.assertTrue(before <= int(value) <= before + 60e6)
            heard.setblocking(False)
            self.assertRaises(BlockingIOError, heard.recv, 1)

    def test_nobody_to_be_told(self) -> None:
        """Not set, not there, of another kind, gone meanwhile."""
        for address in ("", "/nowhere/to/be/found", "vsock:2:1"):
            Notifier(address, 1.0).ready("serving")
            self.assertIsNone(Notifier(address, 1.0).interval)
        path = self.path()
        heard = self.listen(path)
        notifier = Notifier(path)
        heard.close()
        notifier.ready("serving")

    def test_environment(self) -> None:
        """How often there has to be a sign of life, if it is this process that it is asked of."""
        path = self.path()
        self.listen(path)
        own = str(os.getpid())
        for environ, interval in (
            ({}, None),
            ({"WATCHDOG_USEC": "3000000"}, 1.5),
            ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": own}, 1.5),
            ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
            ({"WATCHDOG_USEC": "0"}, None),
            ({"WATCHDOG_USEC": "soon"}, None),
        ):
            notifier = Notifier.from_environment({"NOTIFY_SOCKET": path, **environ})
            self.assertEqual(notifier.interval, interval)
            notifier.close()
        self.assertIsNone(Notifier.from_environment({"WATCHDOG_USEC": "3000000"}).interval)


class ServiceTests(NotifierCase, LifeCase):
    """The command, run by what stands for systemd."""

    def hear(self, address: str) -> Queue[list[str]]:
        """Read all the time, as systemd does: there is no room for more than a few messages."""
        heard = self.listen(address)
        said: Queue[list[str]] = Queue()

        def read() -> None:
            while message := heard.recv(1000):
                said.put(message.decode().split("\n"))

        def end() -> None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", "\0" + address[1:])
            thread.join()

        thread = Thread(target=read)
        thread.start()
        self.addCleanup(end)
        return said

    def transcript(self, heard: Queue[list[str]], until: str) -> list[str]:
        """What is said from now on, the signs of life and the moments left out."""
        said: list[str] = []
        while until not in said:
            lines = heard.get(timeout=300)
            said += [line for line in lines if not line.startswith(("MONOTONIC", "WATCHDOG"))]
        return said

    def is_alive(self, heard: Queue[list[str]]) -> None:
        for _ in range(3):
            self.assertEqual(heard.get(timeout=300), ["WATCHDOG=1"])

    def test_life(self) -> None:
        """Up, reloading, replaced by a new version, at its end."""
        for workers in ("1", "2"):
            address = f"@bioconn-{os.getpid()}-{workers}"
            heard = self.hear(address)
            environ = {**os.environ, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
            self.patch(os, "environ", environ)
            command = self.begin("--workers", workers, "--drain", "20", *ECHO)
            port = command.port()
            up = ["READY=1", "STATUS=serving"]
            self.assertEqual(self.transcript(heard, "STATUS=serving"), up)
            self.is_alive(heard)
            os.kill(command.pid, signal.SIGHUP)
            self.assertEqual(
                self.transcript(heard, "STATUS=serving"),
                ["RELOADING=1", "STATUS=reloading", *up],
            )
            [pump] = self.pumps(1, self.plain(port))
            os.kill(command.pid, signal.SIGUSR2)
            new = self.succeeded(command)
            self.assertEqual(self.transcript(heard, "STATUS=serving"), [f"MAINPID={new}", *up])
            self.all_exact([pump])
            self.assertEqual(self.status_of(command), 0)
            self.is_alive(heard)
            [pump] = self.pumps(1, self.plain(port))
            os.kill(new, signal.SIGTERM)
            end = ["STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000", "STATUS=draining"]
            self.assertEqual(self.transcript(heard, "STATUS=draining"), end)
            self.all_exact([pump])
            self.until(lambda: self.is_gone(new))  # noqa: B023

    def test_activation(self) -> None:
        """
        The sockets of several listeners are systemd's: by place and by name, with TLS and without,
        for a new version too; their names and modes are left alone.
        """
        for workers in ("1", "2"):
            command = self.begin(
                *("--workers", workers, "--listen", r"systemd:domain=INET:index=0"),
                *ECHO[2:],
                *("--listen", r"systemd:domain=UNIX:name=own", *ECHO[2:]),
                start=("-c", ACTIVATED, *TWISTD),
            )
            port = command.port()
            path = os.path.relpath(os.path.join(command.directory, "own.sock"))

            def local() -> socket.socket:
                client = socket.socket(socket.AF_UNIX)
                client.connect(path)  # noqa: B023
                return client

            pumps = [*self.pumps(1, self.plain(port)), *self.pumps(1, local)]
            self.all_pump(pumps)
            os.kill(command.pid, signal.SIGUSR2)
            new = self.succeeded(command)
            self.all_exact(pumps)
            self.assertEqual(self.status_of(command), 0)
            pumps = [*self.pumps(1, self.plain(port)), *self.pumps(1, local)]
            self.all_exact(pumps)
            os.kill(new, signal.SIGTERM)
            self.until(lambda: self.is_gone(new))  # noqa: B023
            self.assertEqual(os.stat(path).st_mode & 0o777, 0o660)
            self.assertEqual(command.errors, [])

    def test_activation_under_tls(self) -> None:
        """As what lies under an endpoint of ours."""
        pair = self.pair()
        listen = f"bioconn:endpoint=systemd\\:domain=INET\\:index=0:privateKey={pair}"
        command = self.begin("--listen", listen, *ECHO[2:], start=("-c", ACTIVATED, *TWISTD))
        port = command.port()
        pumps = self.pumps(1, lambda: command.connect(port, authority=pair))
        self.all_exact(pumps)
        self.assertEqual(command.terminate(), 0)

    def pair(self) -> str:
        from twisted_bioconn.certificates.development import DevelopmentAuthority

        directory = os.path.abspath(self.mktemp())
        pair = DevelopmentAuthority(directory).issue()
        path = os.path.join(directory, "pair.pem")
        with open(path, "wb") as file:
            file.write(pair.to_pem())
        with open(os.path.join(directory, "ca.pem"), "rb") as authority, open(path, "ab") as file:
            file.write(authority.read())
        return path


class UnitTests(SynchronousTestCase):
    """C{examples/bioconn.service}."""

    def run_analyze(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["systemd-analyze", *words], capture_output=True, text=True, timeout=300, check=False
        )

    def test_parsed(self) -> None:
        """It says how the command is started and stopped, and each key once or on purpose."""
        with open(UNIT) as file:
            text = file.read()
        for line in text.splitlines():
            self.assertRegex(line, r"^(#.*|\[\w+\]|[A-Z]\w+=.*|)$")
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(text)
        service = parser["Service"]
        self.assertEqual(service["Type"], "notify-reload")
        drain = re.search(r"--drain (\d+)", service["ExecStart"])
        assert drain is not None
        self.assertGreater(int(service["TimeoutStopSec"]), int(drain[1]) + 10)
        self.assertGreater(int(service["WatchdogSec"]), 0)

    @skipUnless(shutil.which("systemd-analyze"), "it takes systemd-analyze")
    def test_verified(self) -> None:
        """systemd has nothing against it, except that it may be too old for the kind of unit."""
        path = os.path.join(self.directory(), "bioconn.service")
        with open(UNIT) as file, open(path, "w") as copy:
            copy.write(file.read().replace("/usr/bin/python3", sys.executable))
        found = self.run_analyze("verify", path)
        said = [
            line
            for line in (found.stdout + found.stderr).splitlines()
            if "bioconn.service" in line and "service type, ignoring: notify-reload" not in line
        ]
        self.assertEqual((found.returncode, said), (0, []))

    @skipUnless(shutil.which("systemd-analyze"), "it takes systemd-analyze")
    def test_hardened(self) -> None:
        """By systemd's own measure, 10 is worst."""
        found = self.run_analyze("security", "--offline=true", UNIT)
        level = re.search(r"exposure level for bioconn.service: ([\d.]+)", found.stdout)
        if level is None:
            self.skipTest("systemd-analyze is too old")
        self.assertLess(float(level[1]), 2.5)

    def directory(self) -> str:
        directory: str = os.path.abspath(self.mktemp())
        os.makedirs(directory)
        return directory

    def test_command_line(self) -> None:
        """What it starts is a command line that we have."""
        from twisted_bioconn.server.options import Options

        with open(UNIT) as file:
            found = re.search("^ExecStart=(.*)$", file.read(), re.MULTILINE)
        assert found is not None
        python, *words = found[1].split()
        self.assertEqual((python, words[:2]), ("/usr/bin/python3", ["-m", "twisted_bioconn"]))
        options = Options()
        options.parseOptions(words[2:])
        self.assertEqual(len(options.pairs), 1)
