"""The command, run as a program."""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import Sequence
from threading import Thread, Timer
from typing import IO

from twisted.trial.unittest import SynchronousTestCase

#: The directory that holds C{twisted_bioconn} and C{twisted/plugins}.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: A program that takes longer than this, in seconds, is killed and fails its test.
LIMIT = 600

MODULE = ("-m", "twisted_bioconn")
_TWISTD = ("-c", "from twisted.scripts.twistd import run; run()")
TWISTD = (*_TWISTD, "--nodaemon", "--pidfile=", "bioconn")
DAEMON = (*_TWISTD, "--pidfile=its.pid", "--logfile=its.log", "bioconn")
TWIST = ("-m", "twisted", "--log-format=text", "bioconn")

_LISTENING = re.compile(r": listening on .*:(?P<port>\d+)$")


class Command:
    """
    A running C{twistd bioconn}.

    @ivar lines: what it has written to stdout.
    @ivar directory: where it runs, and keeps its state.
    """

    def __init__(
        self,
        case: SynchronousTestCase,
        *words: str,
        start: Sequence[str] = MODULE,
        python_path: Sequence[str] = (),
    ) -> None:
        self.directory = os.path.abspath(case.mktemp())
        os.makedirs(self.directory)
        self.state = os.path.join(self.directory, "state")
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, *python_path])}
        environ["XDG_STATE_HOME"] = self.state
        environ.pop("STATE_DIRECTORY", None)
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, *start, *words],
            cwd=self.directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._errors: list[str] = []
        self._reader: Thread | None = None
        assert self._process.stderr is not None
        self._listener = Thread(target=self._listen, args=(self._process.stderr,))
        self._listener.start()
        self._watchdog = Timer(LIMIT, self._process.kill)
        self._watchdog.start()
        case.addCleanup(self._end)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def authority(self) -> str:
        """Who signs its certificates for development, where no C{--state} is given."""
        return os.path.join(self.state, "bioconn", "ca.pem")

    def connect(
        self,
        port: int,
        address: str = "127.0.0.1",
        authority: str | None = None,
        alpn: Sequence[str] = (),
        pair: str | None = None,
    ) -> ssl.SSLSocket:
        """
        Connect to it with TLS.

        @param authority: whom to trust; its authority for development, if not given.
        @param pair: the file with a certificate for us and its key.
        """
        context = ssl.create_default_context(cafile=authority or self.authority)
        context.set_alpn_protocols(alpn)
        if pair is not None:
            context.load_cert_chain(pair)
        plain = socket.create_connection((address, port))
        return context.wrap_socket(plain, server_hostname="localhost")

    def status(self, path: str, place: str = "s.sock") -> str:
        """
        What its status says at a path.

        @param place: the socket, in its directory.
        """
        told = http.client.HTTPConnection("localhost")
        told.sock = socket.socket(socket.AF_UNIX)
        try:
            # The path of a socket is short.
            told.sock.connect(os.path.relpath(os.path.join(self.directory, place)))
            told.request("GET", path)
            return told.getresponse().read().decode()
        finally:
            told.close()

    def port(self) -> int:
        """Wait for the next port that it says it is listening on."""
        match = self.wait_for(_LISTENING)
        return int(match["port"])

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Wait for a line on stdout."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            match = pattern.search(self.lines[-1])
            if match is not None:
                return match
        raise AssertionError(f"it ended without: {pattern.pattern}\n{self._said()}")

    def read_on(self) -> None:
        """
        Read all that it writes from now on, which L{wait_for} finds no more: one that says more
        than a pipe holds would wait for us.
        """
        self._reader = Thread(target=self._read_all)
        self._reader.start()

    def _read_all(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))

    def terminate(self) -> int:
        """
        Tell it to end.

        @return: its exit status.
        """
        self._process.terminate()
        return self.ended()

    def stop(self) -> None:
        """Tell it to end, and do not wait."""
        self._process.terminate()

    def ended(self) -> int:
        """
        Wait for it to end.

        @return: its exit status.
        """
        assert self._process.stdout is not None
        if self._reader is not None:
            self._reader.join()
        self.lines += self._process.stdout.read().splitlines()
        return self._process.wait()

    @property
    def errors(self) -> list[str]:
        """What it has written to stderr, once it has ended."""
        self._listener.join()
        return "".join(self._errors).splitlines()

    def _listen(self, stderr: IO[str]) -> None:
        self._errors.append(stderr.read())

    def _said(self) -> str:
        return "\n".join([*self.lines, *self.errors])

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._watchdog.cancel()
        self._listener.join()
        if self._reader is not None:
            self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
