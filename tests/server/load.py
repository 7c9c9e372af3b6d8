"""The command under load, for tests of how it ends, reloads, and makes way for a new version."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import signal
import socket
import time
from collections.abc import Callable, Sequence
from textwrap import dedent
from threading import Event, Thread
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from tests.honest import exactly
from tests.server.command import TWISTD, Command

STARTED = re.compile(r"worker (?P<index>\d+): pid (?P<pid>\d+)$")
DRAINING = re.compile(r"Shutting down\. (?P<count>\d+) connections have (?P<seconds>\S+) s to end")
SUCCEEDED = re.compile(r"the new version serves, as pid (?P<pid>\d+)")

#: twistd, whose command line is what is in the file C{words} in its directory after a reload.
RECONFIGURED = """
import shlex
import twisted_bioconn.server.service as service
from twisted_bioconn.server.options import Options
from twisted_bioconn.server.reloading import Proposal
from twisted.scripts.twistd import run

make = service.makeService

def makeService(options):
    def reconfigure():
        with open("words") as file:
            fresh = Options()
            fresh.parent = options.parent
            fresh.parseOptions(shlex.split(file.read()))
        return Proposal(make(fresh).listeners)

    front = make(options)
    front.reconfigure = reconfigure
    return front

service.makeService = makeService
run()
"""

#: Protocols that say which process they are in, and then send back what comes.
ECHOES = """
    import os
    from twisted.internet.protocol import Factory, Protocol

    class Echo(Protocol):
        def connectionMade(self):
            self.transport.write(b"%10d" % os.getpid())

        def dataReceived(self, data):
            self.transport.write(data)

    class Echoes(Factory):
        protocol = Echo
        noisy = False

    class More(Echoes):
        pass
    """

LOCAL = "tcp:0:interface=127.0.0.1"
ECHO = ("--listen", LOCAL, "--factory", "echoes:Echoes")


class Pump(Thread):
    """
    Sends to an echo, and compares what comes back, until it is told that it is enough.

    @ivar served_by: the process at the other end.
    @ivar pumped: bytes that have come back.
    @ivar failure: what went wrong.
    """

    CHUNK = 32 * 1024

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        super().__init__()
        self._connection = connect()
        self._connection.settimeout(300)
        self.served_by = int(exactly(self._connection, 10))
        self.pumped = 0
        self.failure: Exception | None = None
        self.enough = Event()
        self._sent, self._received = hashlib.sha256(), hashlib.sha256()
        self.start()

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                data = os.urandom(self.CHUNK)
                self._connection.sendall(data)
                self._sent.update(data)
                self._received.update(exactly(self._connection, len(data)))
                self.pumped += len(data)
        except Exception as error:
            self.failure = error
        finally:
            self._connection.close()

    @property
    def is_exact(self) -> bool:
        """Whether all has come back as it was sent."""
        return self.failure is None and self._sent.digest() == self._received.digest()

    def finish(self) -> None:
        self.enough.set()
        self.join(300)


class Callers(Thread):
    """
    Connects again and again, so many times a second, and has each connection served.

    @ivar served: how often each process has answered.
    @ivar failures: what went wrong.
    """

    def __init__(self, port: int, rate: float) -> None:
        super().__init__()
        self._port = port
        self._rate = rate
        self.served: dict[int, int] = {}
        self.failures: list[Exception] = []
        self.enough = Event()
        self.start()

    def run(self) -> None:
        begun, count = time.monotonic(), 0
        while not self.enough.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._port), 300) as client:
                    client.sendall(b"?")
                    answer = b""
                    while len(answer) < 11:
                        data = client.recv(20)
                        if not data:
                            raise EOFError("cut")
                        answer += data
                pid = int(answer[:10])
                self.served[pid] = self.served.get(pid, 0) + 1
            except Exception as error:
                self.failures.append(error)
            count += 1
            self.enough.wait(max(0.0, begun + count / self._rate - time.monotonic()))

    def finish(self) -> None:
        self.enough.set()
        self.join(300)


@skipUnless(hasattr(signal, "SIGUSR2"), "it takes the signals of POSIX")
class LifeCase(SynchronousTestCase):
    """
    Runs the command, and puts load on it.

    @cvar kind: what it is run as.
    """

    kind: type[Command] = Command

    def begin(
        self,
        *words: str,
        start: Sequence[str] = TWISTD,
        reconfigured: Sequence[str] | None = None,
    ) -> Command:
        """
        Start the command, with L{ECHOES} to be found.

        @param reconfigured: what its command line is to be after a reload.
        """
        modules = os.path.abspath(self.mktemp())
        os.makedirs(modules)
        self.module = os.path.join(modules, "echoes.py")
        with open(self.module, "w") as file:
            file.write(dedent(ECHOES))
        if reconfigured is None:
            return self.kind(self, *words, start=start, python_path=[modules])
        # It is there from the start, where the command looks for it.
        found = os.path.join(modules, "words")
        with open(found, "w") as file:
            file.write(shlex.join(reconfigured))
        linked = ("-c", f"import os; os.symlink({found!r}, 'words')\n{RECONFIGURED}", *start[2:])
        return self.kind(self, *words, start=linked, python_path=[modules])

    def pumps(self, count: int, connect: Callable[[], socket.socket]) -> list[Pump]:
        pumps = [Pump(connect) for _ in range(count)]
        for pump in pumps:
            self.addCleanup(pump.finish)
        return pumps

    def plain(self, port: int) -> Callable[[], socket.socket]:
        return lambda: socket.create_connection(("127.0.0.1", port))

    def is_refused(self, port: int) -> bool:
        """Whether nobody is let in there: the log may say so before the port is closed."""
        try:
            self.plain(port)().close()
        except ConnectionRefusedError:
            return True
        return False

    def all_pump(self, pumps: Sequence[Pump], amount: int = 4 * Pump.CHUNK) -> None:
        """Wait until each has pumped so many bytes more."""
        goals = [pump.pumped + amount for pump in pumps]
        self.until(
            lambda: all(
                pump.pumped >= goal or pump.failure for pump, goal in zip(pumps, goals, strict=True)
            )
        )

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + 300
        while not done():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def all_exact(self, pumps: Sequence[Pump]) -> None:
        for pump in pumps:
            pump.finish()
        self.assertEqual([pump.failure for pump in pumps], [None] * len(pumps))
        self.assertTrue(all(pump.is_exact for pump in pumps))

    def is_gone(self, pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
        return False

    def succeeded(self, command: Command) -> int:
        """
        Wait for a new version to serve.

        @return: its pid.
        """
        pid = int(command.wait_for(SUCCEEDED)["pid"])
        self.end_later(pid)
        return pid

    def end_later(self, pid: int) -> None:
        def end() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        self.addCleanup(end)

    def write(self, command: Command, *words: str) -> None:
        """What the command line is to be after a reload."""
        with open(os.path.join(command.directory, "words"), "w") as file:
            file.write(shlex.join(words))

    def hang_up(self, command: Command, said: re.Pattern[str]) -> str:
        os.kill(command.pid, signal.SIGHUP)
        return command.wait_for(said)[0].rpartition(": ")[2]

    def status_of(self, command: Command) -> int:
        """Its exit status; what has taken its place may go on."""
        return command._process.wait(300)
