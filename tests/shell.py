"""
A shell in which the commands of the documentation run as they stand.

They have a network of their own where the system gives one, so that a port number in them is free
whatever else runs on the machine.  Otherwise one test at a time has the machine's, and is skipped
where a port is taken.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from socket import create_server
from textwrap import dedent
from threading import Thread
from time import monotonic
from typing import IO

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.programs import require

CHECKOUT = Path(__file__).parent.parent

PORTS = (4000, 4001, 4433, 8080, 8443)
"""The ports that the documentation and the examples name."""

DEADLINE = 300.0
"""Seconds in which a program has to say what is waited for, or to end."""

# What an installation would put beside the environment's Python.
_PROGRAMS = {
    "python": "",
    "bioconn": "-m twisted_bioconn",
    "trial": "-m twisted.trial",
    "twist": "-m twisted",
    "twistd": "-c 'from twisted.scripts.twistd import run; run()'",
}

# Brings up the loopback interface (netdevice(7)) of a network that is empty, and keeps that network
# until its input ends.
_NETWORK = """
import fcntl, socket, struct, sys
with socket.socket() as probe:
    name = struct.pack("16sh14x", b"lo", 0x1)  # IFF_UP
    fcntl.ioctl(probe, 0x8914, name)  # SIOCSIFFLAGS
print("up", flush=True)
sys.stdin.read()
"""

# Kills a command and all that it started when the process that runs the tests is gone.
_GUARD = '(read _ < "$LIFELINE"; kill -KILL 0) >/dev/null 2>&1 &'

_WAIT_FOR_PORT = """
import socket, sys, time
while True:
    try:
        socket.create_connection(("localhost", int(sys.argv[1]))).close()
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
"""


@cache
def _can_have_a_network() -> bool:
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    probe = ["unshare", "-rn", "--kill-child", sys.executable, "-c", _NETWORK]
    done = subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0


class Running:
    """
    A command that runs.

    @ivar said: what it has written, to stdout and to stderr.
    """

    def __init__(self, command: list[str], directory: Path, environ: dict[str, str]) -> None:
        self.said = ""
        held, lifeline = os.pipe()
        self._lifeline: int | None = lifeline
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env={**environ, "LIFELINE": f"/dev/fd/{held}"},
            pass_fds=(held,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # It may start others, and is killed with all of them.
            start_new_session=True,
        )
        os.close(held)
        self._pieces: SimpleQueue[bytes] = SimpleQueue()
        assert self._process.stdout is not None
        self._reader = Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_for(self, pattern: str, seconds: float = DEADLINE) -> re.Match[str]:
        """Wait until all that it has said so far has this in it."""
        end = monotonic() + seconds
        while True:
            match = re.search(pattern, self.said)
            if match is not None:
                return match
            if not self._more(end):
                raise AssertionError(f"it did not say {pattern!r}\n{self.said}")

    def type(self, text: str) -> None:
        """Write this to its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        os.killpg(self.pid, signal.SIGINT)

    def ended(self) -> int:
        """
        Close its stdin, and wait for it to end.

        @return: its exit status.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        end = monotonic() + DEADLINE
        while self._more(end):
            pass
        if monotonic() >= end:
            raise AssertionError(f"it did not end\n{self.said}")
        return self._process.wait()

    def kill(self) -> None:
        """End it and all that it started."""
        if self._lifeline is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._lifeline)
        self._lifeline = None
        self._reader.join(DEADLINE)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()

    def _read(self, stdout: IO[bytes]) -> None:
        while piece := os.read(stdout.fileno(), 65536):
            self._pieces.put(piece)
        self._pieces.put(b"")

    def _more(self, end: float) -> bool:
        try:
            piece = self._pieces.get(timeout=max(0.0, end - monotonic()))
        except Empty:
            return False
        self.said += piece.decode(errors="replace")
        return bool(piece)


class Shell:
    """
    A newcomer's shell: in a directory with the examples, and a virtual environment that is active.

    @ivar directory: where commands run.
    @ivar home: the user's home directory.
    @ivar before: what was typed before each command.
    @ivar environ: the environment of commands.
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        self._case = case
        self._sh = require("sh")
        self.directory = Path(case.mktemp()).absolute()
        self.home = self.directory / "home"
        self.home.mkdir(parents=True)
        for name in ("examples", "tests", "twisted_bioconn"):
            (self.directory / name).symlink_to(CHECKOUT / name)
        self.before = ""
        programs = self.directory / "venv" / "bin"
        programs.mkdir(parents=True)
        for name, arguments in _PROGRAMS.items():
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
            program.chmod(0o755)
        # What it would do is done already.
        (programs / "activate").touch()
        self.environ = {
            "HOME": str(self.home),
            "LC_ALL": "C.UTF-8",
            "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONUNBUFFERED": "1",
        }
        self._enter = self._network()

    def _network(self) -> list[str]:
        if not _can_have_a_network():
            self._lock()
            return []
        command = ["unshare", "-rn", sys.executable, "-c", _NETWORK]
        network = Running(command, self.directory, self.environ)
        self._case.addCleanup(network.kill)
        network.wait_for("up")
        enter = ["nsenter", "--preserve-credentials", "--user", "--net"]
        return [*enter, "--target", str(network.pid), "--"]

    def _lock(self) -> None:
        import fcntl

        lock = open(__file__, "rb")  # noqa: SIM115
        self._case.addCleanup(lock.close)
        fcntl.flock(lock, fcntl.LOCK_EX)
        for port in PORTS:
            try:
                create_server(("127.0.0.1", port)).close()
            except OSError as error:
                raise SkipTest(f"port {port}: {error.strerror}") from error

    def start(self, command: str) -> Running:
        """Start a command that goes on until it is ended, at the latest with the test."""
        running = Running(
            [*self._enter, self._sh, "-c", f"{_GUARD}\n{self.before}\n{command}"],
            self.directory,
            self.environ,
        )
        self._case.addCleanup(running.kill)
        return running

    def run(self, command: str, status: int = 0, typed: str = "") -> str:
        """
        Run a command to its end.

        @param status: the exit status that it has to have.
        @param typed: what it finds on its stdin.
        @return: what it has written.
        """
        running = self.start(command)
        running.type(typed)
        ended = running.ended()
        self._case.assertEqual(ended, status, f"{command}\n{running.said}")
        return running.said

    def run_python(self, program: str) -> str:
        """Run a program to its end, and return what it has written."""
        return self.run(self._python(program))

    def start_python(self, program: str) -> Running:
        """Start a program."""
        return self.start(self._python(program))

    def wait_for_port(self, port: int) -> None:
        """Wait until somebody listens."""
        self.run(f"python -c {shlex.quote(_WAIT_FOR_PORT)} {port}")

    def _python(self, program: str) -> str:
        return f"python -c {shlex.quote(dedent(program))}"
