"""
The benchmarks' programs: how they are started, talked with and ended.  Nothing here is timed.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import accounting, traffic
from benchmarks.peers import HERE
from benchmarks.processes import Failed, Program, free_port


class ProgramTests(SynchronousTestCase):
    def program(self, *words: str, talks: bool = False) -> Program:
        """Start Python, and end it with the test."""
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        core = min(os.sched_getaffinity(0))
        program = Program("it", [sys.executable, *words], directory, core, talks=talks)
        self.addCleanup(program.stop)
        return program

    def test_sink(self) -> None:
        """The back end of uploads answers each 1 MiB, and nothing before."""
        port = free_port()
        sink = self.program(str(HERE / "backend" / "sink.py"), str(port))
        sink.wait_until_listening(port)
        with socket.create_connection(("127.0.0.1", port), 10.0) as client:
            for _ in range(2):
                client.sendall(bytes(traffic.MEBIBYTE - 1))
                client.setblocking(False)
                self.assertRaises(BlockingIOError, client.recv, 1)
                client.settimeout(10.0)
                client.sendall(b".")
                answer = b""
                while len(answer) < len(traffic.SMALL):
                    answer += client.recv(1000)
                self.assertEqual(answer, traffic.SMALL)

    def test_stop_ends_children(self) -> None:
        """What it has started ends with it."""
        port = free_port()
        script = (
            "import socket, subprocess, sys, time;"
            "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
            f"listener = socket.create_server(('127.0.0.1', {port}));"
            "time.sleep(600)"
        )
        program = self.program("-c", script)
        program.wait_until_listening(port)
        processes = accounting.tree(program.pid)
        self.assertEqual(len(processes), 2)
        program.stop()
        # An orphan stays for a moment, until init has seen that it is dead.
        left = [process for process in processes if self.runs(process)]
        self.assertEqual(left, [])

    def runs(self, process: int) -> bool:
        """Whether a process exists and is not on its way out."""
        try:
            status = Path(f"/proc/{process}/stat").read_text("utf-8")
            pending = Path(f"/proc/{process}/status").read_text("utf-8")
        except (FileNotFoundError, ProcessLookupError):
            return False
        killed = any(
            int(line.split()[1], 16) & 1 << 8
            for line in pending.splitlines()
            if line.startswith(("SigPnd", "ShdPnd"))
        )
        return not killed and status.rpartition(")")[2].split()[0] not in "ZX"

    def test_last_words(self) -> None:
        """One that ends before it listens says why."""
        program = self.program("-c", "raise SystemExit('no such certificate')")
        failure = self.assertRaises(Failed, program.wait_until_listening, free_port())
        self.assertEqual(str(failure), "it ended with status 1: no such certificate")

    def test_check(self) -> None:
        """Whether it still runs can be asked at any time."""
        program = self.program("-c", "input(); raise SystemExit('it is over')", talks=True)
        program.check()
        stdin = program._process.stdin
        assert stdin is not None
        stdin.write(b"\n")
        stdin.flush()
        program._process.wait(60.0)
        self.assertEqual(
            str(self.assertRaises(Failed, program.check)), "it ended with status 1: it is over"
        )

    def test_answer(self) -> None:
        """JSON in, JSON out."""
        script = "import json, sys; print(json.dumps([json.load(sys.stdin), 2]))"
        self.assertEqual(
            self.program("-c", script, talks=True).answer({"a": 1}, 30.0), [{"a": 1}, 2]
        )

    def test_no_answer(self) -> None:
        """One that fails has no answer."""
        program = self.program("-c", "raise SystemExit(3)", talks=True)
        failure = self.assertRaises(Failed, program.answer, {}, 30.0)
        self.assertEqual(str(failure), "it ended with status 3")

    def test_not_startable(self) -> None:
        """A program that is not there is a failure and no traceback."""
        core = min(os.sched_getaffinity(0))
        directory = Path(self.mktemp())
        directory.mkdir()
        self.assertRaises(Failed, Program, "it", ["/no/such/program"], directory, core)
