"""
A new version of the program in the place of this one, with no connection refused.

On SIGUSR2 the program is started again, by the same command line, with what is installed and
configured now.  It inherits the listening sockets, and opens its ports on them
(L{adoption<twisted_bioconn.server.adoption>}).  When all are open it says so; then the old one
accepts no more, and ends with its last connection.  As the sockets are the same all the time,
whoever comes meanwhile is accepted by one or the other.  A new one that does not get so far changes
nothing: the old one says why, and goes on.

Between the two there is a socket.  The new one writes one line of JSON: C{{"ready": PID, "adopted":
[…]}}, or C{{"failed": REASON}}.  The old one answers with one byte: to take over, or to end.  When
the old one dies without a word, the new one takes over.

What the new one writes to stderr before that is kept in a file: it says why the start failed.

twistd refuses to start while its pid file names a process that lives.  So the file is renamed, with
C{.old} behind its name, until the new one serves; it has written its own by then.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from enum import Enum, auto
from typing import IO, Any

from twisted.internet import endpoints
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from zope.interface import implementer

from twisted_bioconn._transport import one_line
from twisted_bioconn.server.adoption import Asked, Held, inherited

__all__ = ["Listening", "Predecessor", "Progress", "Successor"]

_log = Logger()

VARIABLE = "BIOCONN_INHERITED"
"""Names, in the environment of a new version, what it inherits."""

START_SECONDS = 60.0
"""How long a new version may take to open its ports."""

ANSWER_SECONDS = 10.0
"""How long the old one may take to answer the new one."""

_TAKE_OVER, _END = b"t", b"e"

_LONGEST_REASON = 500  # characters

# What is to have a pid of its own in its environment is started by this: exec keeps the pid.
_WITH_PID = (
    "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid());"
    " os.execv(sys.argv[1], sys.argv[1:])"
)


class Progress(Enum):
    """How far a new version has got."""

    STARTING = auto()
    READY = auto()
    """It has opened its ports."""
    FAILED = auto()
    """It will not."""


class Successor:
    """
    The new version, as the old one sees it.

    @ivar pid: the process that is ready.
    @ivar reason: why it has failed, in one line.
    @ivar adopted: the ports whose sockets it uses.
    """

    def __init__(self, twistd: MutableMapping[str, Any] | None = None) -> None:
        """
        @param twistd: twistd's own options, of which the pid file is used.
        """
        self.progress = Progress.STARTING
        self.pid = 0
        self.reason = ""
        self.adopted: list[Any] = []
        self._ports: list[Any] = []
        self._twistd = {} if twistd is None else twistd
        self._pid_file: str = self._twistd.get("pidfile") or ""
        self._said = b""
        self._link: socket.socket | None = None
        self._errors: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self, ports: Iterable[tuple[Asked, Any, Iterable[socket.socket]]], directory: str
    ) -> None:
        """
        Start it.

        @param ports: what each port was asked for, the port, and the sockets beside its own.
        @param directory: where this one was started.
        @raise OSError: it cannot be.
        """
        entries, numbers = [], []
        for asked, port, twins in ports:
            sockets = [port.fileno(), *(twin.fileno() for twin in twins)]
            entries.append((asked.kind, asked.at, asked.port, sockets))
            self._ports.append(port)
            numbers += sockets
        self._link, theirs = socket.socketpair()
        self._link.setblocking(False)
        # It may outlive us as a process of its own, and then has to have our stderr.
        stderr = os.dup(2)
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            environ = {
                name: value
                for name, value in os.environ.items()
                # It may have a pid of its own, as a daemon does.
                if name != "WATCHDOG_PID"
            }
            environ[VARIABLE] = json.dumps(
                {"link": theirs.fileno(), "stderr": stderr, "sockets": entries}
            )
            command = [sys.executable, *sys.orig_argv[1:]]
            activated = _from_systemd()
            if activated:
                environ["LISTEN_FDS"] = str(len(activated))
                command = [sys.executable, "-I", "-S", "-c", _WITH_PID, *command]
            self._move_pid_file()
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=environ,
                pass_fds=[*activated, *numbers, theirs.fileno(), stderr],
                stderr=self._errors,
            )
        except BaseException:
            self._put_pid_file_back()
            self._link.close()
            raise
        finally:
            theirs.close()
            os.close(stderr)
        _log.info("starting a new version, as pid {pid}", pid=self._process.pid)

    def fileno(self) -> int:
        """Where there is something to read when it has something to say."""
        return -1 if self._link is None else self._link.fileno()

    def hear(self) -> Progress:
        """
        Read what it says.

        @return: what has become of it.
        """
        assert self._link is not None
        try:
            said = self._link.recv(65536)
        except (BlockingIOError, InterruptedError):
            return self.progress
        except OSError:
            said = b""
        self._said += said
        if said and b"\n" not in self._said:
            return self.progress
        try:
            message = json.loads(self._said)
        except ValueError:
            message = {}
        if "ready" in message:
            self.pid = message["ready"]
            self.adopted = [self._ports[place] for place in message["adopted"]]
            self.progress = Progress.READY
        else:
            self.give_up(message.get("failed") or self._last_words())
        return self.progress

    def take_over(self) -> None:
        """Have it be the service from now on: we accept no more."""
        assert self._link is not None
        for port in self.adopted:
            lock, port.lockFile = getattr(port, "lockFile", None), None
            if lock is not None:
                lock.unlock()
        if self._pid_file:
            # It is the other's now, and not for twistd to remove when this process ends.
            self._twistd["pidfile"] = ""
            with suppress(OSError):
                os.remove(self._pid_file + ".old")
        with suppress(OSError):
            self._link.send(_TAKE_OVER)
        self.close()
        _log.info("the new version serves, as pid {pid}: accepting no more", pid=self.pid)

    def give_up(self, reason: str) -> None:
        """
        Let there be no new version.

        @param reason: why not.
        """
        if self._link is not None:
            with suppress(OSError):
                self._link.send(_END)
        if self._process is not None and self._process.poll() is None:
            with suppress(OSError):
                self._process.send_signal(signal.SIGTERM)
        self.close()
        self._put_pid_file_back()
        self.progress, self.reason = Progress.FAILED, one_line(reason)
        _log.error(
            "the new version has not started, and this one goes on: {reason}", reason=self.reason
        )

    def close(self) -> None:
        """Let go of what there is to be heard of it."""
        if self._link is not None:
            self._link.close()
        if self._errors is not None:
            self._errors.close()
        self._link = self._errors = None

    def _last_words(self) -> str:
        """Why it has ended, where it has not said so in a message."""
        assert self._process is not None
        assert self._errors is not None
        try:
            # It has closed its end, so it is about to be gone.
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "it has said nothing"
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4096))
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        how = f"it has ended with {status}"
        return f"{lines[-1].strip()[:_LONGEST_REASON]} ({how})" if lines else how

    def _move_pid_file(self) -> None:
        if self._pid_file:
            try:
                os.rename(self._pid_file, self._pid_file + ".old")
            except OSError as error:
                _log.warn("the pid file cannot be renamed: {error}", error=error)

    def _put_pid_file_back(self) -> None:
        if self._pid_file:
            with suppress(OSError):
                os.rename(self._pid_file + ".old", self._pid_file)


def _from_systemd() -> list[int]:
    """
    The sockets of socket activation, which twistd's C{systemd:} endpoints know by their places.
    """
    found = endpoints._SystemdParser._sddaemon.inheritedDescriptors()
    with suppress(OSError):
        for number in found:
            os.fstat(number)
        return list(found)
    return []


class Predecessor:
    """
    The old version, as the new one sees it.

    @ivar sockets: what it has handed down.
    """

    def __init__(self, link: socket.socket, stderr: int, sockets: list[Held]) -> None:
        """
        @param link: the socket to it.
        @param stderr: a descriptor of what is stderr when we serve.
        """
        self.sockets = sockets
        self._link: socket.socket | None = link
        self._stderr: int | None = stderr

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Predecessor | None:
        """
        The one that has started this process; L{None} where it is the first.
        """
        text = environ.pop(VARIABLE, None)
        if text is None:
            return None
        try:
            given = json.loads(text)
            sockets = inherited(given["sockets"])
            link = socket.socket(fileno=given["link"])
            stderr = int(given["stderr"])
            os.set_inheritable(stderr, False)
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.error("{name}: {error!r}", name=VARIABLE, error=error)
            return None
        link.set_inheritable(False)
        link.settimeout(ANSWER_SECONDS)
        return cls(link, stderr, sockets)

    def restore_stderr(self) -> None:
        """
        From now on stderr is what it was for the old version, with what was said meanwhile.
        """
        number, self._stderr = self._stderr, None
        if number is None:
            return
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        with suppress(OSError):
            os.lseek(2, 0, os.SEEK_SET)
            said = os.read(2, 65536)
            os.dup2(number, 2)
            if said:
                os.write(2, said)
        os.close(number)

    def ready(self, adopted: list[int]) -> bool:
        """
        Say that the ports are open, and wait for the answer, which comes at once.

        @param adopted: which of the sockets are in use.
        @return: whether we are to take over.
        """
        self.restore_stderr()
        answer = self._say({"ready": os.getpid(), "adopted": adopted})
        return answer != _END

    def failed(self, reason: str) -> None:
        """Say why this process is not going to serve."""
        self._say({"failed": reason})

    def close(self) -> None:
        """Let go of what only our parent is to have."""
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if self._stderr is not None:
            os.close(self._stderr)
            self._stderr = None

    def _say(self, message: dict[str, Any]) -> bytes:
        answer = b""
        if self._link is not None:
            # One that has died has nothing against it that we take over.
            with suppress(OSError):
                self._link.sendall(json.dumps(message).encode() + b"\n")
                answer = self._link.recv(1)
        self.close()
        return answer


@implementer(IReadDescriptor)
class Listening:
    """
    Tells of a new version's progress, where a reactor runs.
    """

    def __init__(self, reactor: Any, successor: Successor, told: Callable[[], object]) -> None:
        """
        @param told: called when it is ready, or has failed.
        """
        self._reactor = reactor
        self._successor = successor
        self._told = told
        # It stays the same for the reactor, when it is closed too.
        number = successor.fileno()
        self.fileno = lambda: number
        self._late = reactor.callLater(START_SECONDS, self._is_late)
        reactor.addReader(self)

    def logPrefix(self) -> str:
        """
        @see: L{twisted.internet.interfaces.ILoggingContext}
        """
        return "Successor"

    def doRead(self) -> None:
        """
        @see: L{twisted.internet.interfaces.IReadDescriptor.doRead}
        """
        self._reactor.removeReader(self)
        if self._successor.hear() is Progress.STARTING:
            self._reactor.addReader(self)
            return
        self._late.cancel()
        self._told()

    def connectionLost(self, reason: Any) -> None:
        """
        The reactor ends: there is to be no new version.
        """
        self.cancel("this one is shutting down")

    def cancel(self, reason: str) -> None:
        """Let there be no new version."""
        if self._late.active():
            self._late.cancel()
        if self._successor.progress is Progress.STARTING:
            self._reactor.removeReader(self)
            self._successor.give_up(reason)

    def _is_late(self) -> None:
        self._reactor.removeReader(self)
        self._successor.give_up(f"it has not opened its ports in {START_SECONDS:g} s")
        self._told()
