"""Programs that a test starts, talks with, and stops."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from random import SystemRandom
from typing import Any, TypeVar

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

DEADLINE = 200.0
"""
Seconds in which a program must say or do what is waited for: what takes longer never comes, however
slow the machine is.
"""

LOWEST = 10_000
"""Ports below are some service's, more often than not."""

# Not what hypothesis seeds: another process of the same test run must not have the same.
_CHANCE = SystemRandom()

reactor: Any = installed

_T = TypeVar("_T")

# Where it is there, the kernel ends a program whose test run was killed.
_SETPRIV = shutil.which("setpriv")


class Program(ProcessProtocol):
    """
    A running program.

    @ivar said: what it has written to stdout and stderr, as far as those are no files.
    """

    def __init__(
        self, command: Sequence[str], directory: str, files: Mapping[int, int] | None = None
    ) -> None:
        """
        @param command: the program's path, and its arguments.
        @param directory: where it runs.
        @param files: by the program's descriptor (0, 1, 2), one of ours that it is to be.
        """
        self.said = ""
        self._name = " ".join(command)
        self._seen = 0
        self._pattern: re.Pattern[str] | None = None
        self._match: Deferred[re.Match[str]] = Deferred()
        self._status: int | None = None
        self._enders: list[Deferred[None]] = []
        if _SETPRIV is not None:
            command = [_SETPRIV, "--pdeathsig", "KILL", *command]
        reactor.spawnProcess(
            self,
            command[0],
            list(command),
            # Nothing of the user's: no proxy, no language, no file of settings.
            {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "HOME": directory},
            directory,
            childFDs={0: "w", 1: "r", 2: "r", **(files or {})},
        )

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._status is not None

    def write(self, text: str | bytes) -> None:
        """Type this into its stdin."""
        assert self.transport is not None
        self.transport.write(text.encode("utf-8") if isinstance(text, str) else text)

    def end_input(self) -> None:
        """Close its stdin."""
        assert self.transport is not None
        self.transport.closeStdin()

    async def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until it says this, after what was waited for before."""
        self._pattern = re.compile(pattern)
        self._match = Deferred()
        self._look()
        match = await self._in_time(self._match, f"did not say {pattern!r}")
        self._seen = match.end()
        return match

    async def ended(self, seconds: float = DEADLINE) -> int:
        """
        Wait for it to end.

        @param seconds: for how long.
        @return: its exit status; where a signal ended it, that signal's number below zero.
        """
        if self._status is None:
            ended: Deferred[None] = Deferred()
            self._enders.append(ended)
            await self._in_time(ended, "did not end", seconds)
        assert self._status is not None
        return self._status

    async def succeeded(self, seconds: float = DEADLINE) -> str:
        """
        Wait for it to end with status 0.

        @param seconds: for how long.
        @return: what it has said.
        """
        status = await self.ended(seconds)
        if status != 0:
            raise self._wrong(f"ended with status {status}")
        return self.said

    async def stop(self) -> None:
        """Kill it, unless it has ended."""
        if self._status is None:
            assert self.transport is not None
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess("KILL")
            await self.ended()

    def outReceived(self, data: bytes) -> None:
        self.said += data.decode("utf-8", "replace")
        self._look()

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        how: Any = reason.value
        self._status = how.exitCode if how.exitCode is not None else -how.signal
        if self._pattern is not None:
            pattern, self._pattern = self._pattern, None
            self._match.errback(self._wrong(f"ended without saying {pattern.pattern!r}"))
        for ended in self._enders:
            ended.callback(None)

    def _look(self) -> None:
        if self._pattern is None:
            return
        match = self._pattern.search(self.said, self._seen)
        if match is not None:
            self._pattern = None
            self._match.callback(match)
        elif self._status is not None:
            pattern, self._pattern = self._pattern, None
            self._match.errback(self._wrong(f"had ended without saying {pattern.pattern!r}"))

    async def _in_time(self, deferred: Deferred[_T], what: str, seconds: float = DEADLINE) -> _T:
        try:
            return await deferred.addTimeout(seconds, reactor)
        except TimeoutError:
            self._pattern = None
            raise self._wrong(f"{what} within {seconds:g} seconds") from None

    def _wrong(self, what: str) -> AssertionError:
        return AssertionError(f"{self._name}\n{what}; it has said:\n{self.said[-6000:]}")


def free_port() -> int:
    """
    A port that nothing listened on a moment ago.

    Where there are such, it is none of those that the system gives whoever wants any port (Linux's
    ip_local_port_range, ip(7)): a connection, or another test, would have it before it is used.
    """
    for port in (*(_CHANCE.randrange(LOWEST, first_for_any()) for _ in range(50)), 0):
        with socket.socket() as bound, suppress(OSError):
            bound.bind(("127.0.0.1", port))
            found: int = bound.getsockname()[1]
            return found
    raise AssertionError("there is no free port")


def first_for_any() -> int:
    """The first of those; where that is not known, so that there is only L{LOWEST} below it."""
    with suppress(OSError), open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        return max(int(file.read().split()[0]), LOWEST + 1)
    return LOWEST + 1


async def on_free_port(start: Callable[[int], Awaitable[_T]]) -> tuple[int, _T]:
    """
    Start a program that cannot choose a port by itself.

    Somebody else may take the port before the program does; then it gets another.

    @param start: starts it on this port, and raises L{AssertionError} where it will not.
    """
    for _ in range(2):
        port = free_port()
        with suppress(AssertionError):
            return port, await start(port)
    port = free_port()
    return port, await start(port)
