"""The status of a server that runs, asked for from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from tests.server.command import MODULE, ROOT, Command

_CHECKS = re.compile(r"reloaded: \d+ certificates are served")


class StatusTests(SynchronousTestCase):
    """C{--status}, with all that serves."""

    def start(self, *words: str) -> tuple[Command, int]:
        command = Command(
            self, "--status", "unix:s.sock", "--listen", "127.0.0.1:0", "--echo", *words
        )
        return command, command.port()

    def ask(self, command: Command, *words: str, socket: str = "s.sock", status: int = 0) -> Any:
        """What a command says, as JSON."""
        environ = {**os.environ, "PYTHONPATH": ROOT}
        done = subprocess.run(
            [sys.executable, *MODULE, *words, "--json", "--socket", socket],
            cwd=command.directory,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.assertEqual(done.returncode, status, done.stderr)
        return json.loads(done.stdout) if done.stdout else None

    def connected(self, command: Command, port: int) -> ssl.SSLSocket:
        tls = command.connect(port)
        self.addCleanup(tls.close)
        tls.sendall(b"hello")
        self.assertEqual(tls.recv(5), b"hello")
        return tls

    def connected_to_both(self, command: Command, port: int, status: Callable[[], Any]) -> int:
        """Connect until each of two workers has a connection; how many there are then."""
        for count in range(1, 65):
            self.connected(command, port)
            told = status()
            if all(each["connections"] for each in told["processes"]):
                self.assertEqual(told["connections"]["open"], count)
                return count
        self.fail("one worker has had none of 64 connections")

    def named(self, connection: dict[str, Any]) -> tuple[int, int]:
        return connection["process"], connection["number"]

    def counts(self, command: Command) -> Counter[str]:
        """What Prometheus is told, summed up by metric."""
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(command.status("/metrics")):
            for sample in family.samples:
                found[sample.name] += int(sample.value)
        return found

    def test_connection(self) -> None:
        """It is there to be seen, and to be dropped; and it is a line in the log when it ends."""
        command, port = self.start()
        tls = self.connected(command, port)
        told = self.ask(command, "connections")
        [connection] = told["connections"] if isinstance(told, dict) else told
        self.assertEqual(connection["version"], "TLSv1.3")
        self.ask(command, "close", str(connection["number"]))
        with self.assertRaises((ConnectionError, ssl.SSLError, AssertionError)):
            self.assertNotEqual(tls.recv(1), b"")
        command.wait_for(re.compile(r"-> .* localhost TLSv1\.3 .* lasted "))
        self.ask(command, "reload")
        command.wait_for(_CHECKS)
        self.assertEqual(os.stat(os.path.join(command.directory, "s.sock")).st_mode & 0o777, 0o600)
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(command.errors, [])

    def test_workers(self) -> None:
        """Each has a place of its own, and the first one tells of all."""
        command, port = self.start("--workers", "2")
        for _ in range(2):
            command.wait_for(re.compile("status: "))
        count = self.connected_to_both(command, port, lambda: self.ask(command, "status"))
        alone = self.ask(command, "connections", socket="s.sock.1")
        told = self.ask(command, "connections")
        self.assertEqual(len(told), count)
        pids = {each["process"] for each in told}
        self.assertEqual(len(pids), 2)
        other = alone[0]
        self.assertIn((other["process"], other["number"]), {self.named(each) for each in told})
        self.ask(command, "close", f"{other['process']}.{other['number']}")
        self.ask(command, "close", f"{other['process']}.999999", status=1)
        command.wait_for(re.compile(r"lasted .*: closed by the operator"))
        self.assertNotIn(self.named(other), map(self.named, self.ask(command, "connections")))
        counts = self.counts(command)
        self.assertEqual(counts["bioconn_connections_begun_total"], count)
        self.assertEqual(counts["bioconn_connections"], count - 1)
        # What one has counted that is no more still counts, and its connections do not.
        os.kill(other["process"], signal.SIGKILL)
        command.wait_for(re.compile(r"worker 1, pid \d+, has ended with SIGKILL"))
        command.wait_for(re.compile(r"status: \S*s\.sock\.1$"))
        status = self.ask(command, "status")
        self.assertEqual(status["connections"]["begun"], count)
        self.assertEqual(status["connections"]["open"], count - len(alone))
        self.assertEqual(
            [(each["worker"], each["state"]) for each in status["processes"]],
            [(0, "serving"), (1, "serving")],
        )
        self.assertEqual(self.counts(command)["bioconn_connections_begun_total"], count)
        self.ask(command, "reload")
        command.wait_for(re.compile("Received SIGHUP, passed on to the workers"))
        self.ask(command, "drain")
        self.assertEqual(command.ended(), 0)

    def test_workers_at_a_port(self) -> None:
        """They tell the first of themselves, where the place is no path, and nothing stays."""
        # The path of a socket is short.
        link = tempfile.mkdtemp(prefix="b")
        self.addCleanup(shutil.rmtree, link)
        self.patch(os, "environ", {**os.environ, "TMPDIR": link})
        command = Command(
            self,
            *("--status", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--echo", "--workers", "2"),
        )
        port = command.port()
        places = [command.wait_for(re.compile(r"status: (\S+)$"))[1] for _ in range(2)]
        [directory] = os.listdir(link)
        self.assertEqual(os.stat(os.path.join(link, directory)).st_mode & 0o777, 0o700)
        [address] = [each for each in places if each.startswith("http:")]
        self.assertEqual(address, "http://127.0.0.1:0/")
        places.remove(address)
        self.connected(command, port)
        told = self.ask(command, "status", socket=places[0])
        self.assertEqual(told["worker"], 1)
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(os.listdir(link), [])

    def test_limits_of_workers(self) -> None:
        """They are for all of them together, and a worker that is killed has no connections."""
        command = Command(
            self,
            *("--status", "unix:s.sock", "--workers", "2"),
            *("--listen", "127.0.0.1:0:maxConnections=4", "--echo"),
        )
        port = command.port()

        def connect() -> None:
            # Whether one is let in is known when there is an echo.
            with contextlib.suppress(OSError, AssertionError):
                self.connected(command, port)

        for _ in range(2):
            command.wait_for(re.compile("status: "))
        for _ in range(12):
            connect()
        status = self.ask(command, "status")
        self.assertEqual(status["connections"]["open"], 4)
        self.assertEqual(status["refused"], {"maxConnections": 8})
        os.kill(status["processes"][1]["pid"], signal.SIGKILL)
        command.wait_for(re.compile(r"status: \S*s\.sock\.1$"))
        for _ in range(12):
            connect()
        self.assertEqual(self.ask(command, "status")["connections"]["open"], 4)
        self.assertEqual(command.terminate(), 0)

    def test_reloaded_configuration(self) -> None:
        """A port that is new has its account."""
        directory = os.path.abspath(self.mktemp())
        os.makedirs(directory)
        path = os.path.join(directory, "front.toml")
        first = 'status = "unix:s.sock"\n[[listen]]\nendpoint = "127.0.0.1:0"\necho = true\n'
        with open(path, "w") as file:
            file.write(first)
        command = Command(self, "--config", path)
        self.connected(command, command.port()).close()
        with open(path, "a") as file:
            file.write('[[listen]]\nendpoint = "127.0.0.1:0:maxConnections=5"\necho = true\n')
        os.kill(command.pid, signal.SIGHUP)
        port = command.port()
        command.wait_for(_CHECKS)
        tls = self.connected(command, port)
        told = self.ask(command, "connections")
        # The first one may be about to end yet.
        self.assertIn("maxConnections=5", str(told))
        tls.close()
        self.assertEqual(command.terminate(), 0)
        self.assertEqual(command.errors, [])

    def test_no_such_place(self) -> None:
        """A place that cannot be had is said, and nothing is served."""
        command = Command(
            self, "--status", "unix:/dev/null/s.sock", "--listen", "127.0.0.1:0", "--echo"
        )
        self.assertEqual(command.ended(), 1)
        self.assertIn("/dev/null/s.sock", command.errors[-1])
        command = Command(self, "--status", "tcp:0", "--listen", "127.0.0.1:0", "--echo")
        self.assertEqual(command.ended(), 1)
        self.assertIn("without TLS the status is only for this machine", command.errors[-1])
