"""
C{dns-01}: a TXT record beside the name (RFC 8555, section 8.4), set by a program or a plugin.

It is the one way to prove a wildcard.
"""

from __future__ import annotations

import ipaddress
import os
import shlex
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredLock, fail, maybeDeferred
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from twisted_bioconn.errors import ConfigurationError

from .challenges import Solver, SolverError
from .records import Answer

__all__ = ["ENTRY_POINTS", "CommandHook", "Dns01Solver", "DnsRecords", "records_named"]

ENTRY_POINTS = "twisted_bioconn.dns01"
"""The group of entry points that L{records_named} looks in."""

_LONGEST_CHANGE = 300.0
"""After how many seconds a plugin that has not set a record is given up."""

_TAIL = 300
"""How much of what a program says last is repeated, in characters."""

_LINGER = 1.0
"""For how many seconds after a program's end something it has started may write to its pipes."""


class DnsRecords(ABC):
    """
    Sets TXT records.  Whoever has these two methods can be one.
    """

    def start(self, reactor: Any) -> None:
        """Be ready.  Plugins need not have this."""
        return

    @abstractmethod
    def set_record(self, name: str, value: str) -> Deferred[None]:
        """
        Add a TXT record to those that a name has: a name and its wildcard need one each, at the
        same time.

        @param name: a full name such as C{_acme-challenge.example.org}, with no dot at its end.
        """

    @abstractmethod
    def remove_record(self, name: str, value: str) -> Deferred[None]:
        """Remove a record that L{set_record} has set.  One that is not there is no error."""


class CommandHook(DnsRecords):
    """
    Runs a program with the arguments C{set NAME VALUE} or C{unset NAME VALUE}, after its own.
    """

    def __init__(self, command: str | Sequence[str], *, timeout: float = 120.0) -> None:
        """
        @param command: the program and its arguments, as a list or as a shell would split them.
        @param timeout: after how many seconds the program is killed.
        @raise ConfigurationError: there is no such program.
        """
        try:
            self._command = shlex.split(command) if isinstance(command, str) else list(command)
        except ValueError as error:
            raise ConfigurationError(
                f"dns-01: the command {command!r} cannot be split into words: {error}"
            ) from None
        if not self._command:
            raise ConfigurationError("dns-01: the command is empty")
        program = shutil.which(self._command[0])
        if program is None:
            raise ConfigurationError(
                f"dns-01: there is no program {self._command[0]!r}, or it may not be run"
            )
        self._program = os.path.abspath(program)
        self._timeout = timeout
        self._reactor: Any = None

    def start(self, reactor: Any) -> None:
        self._reactor = reactor

    def set_record(self, name: str, value: str) -> Deferred[None]:
        return self._run("set", name, value)

    def remove_record(self, name: str, value: str) -> Deferred[None]:
        return self._run("unset", name, value)

    def _run(self, *arguments: str) -> Deferred[None]:
        title = f"{self._command[0]} {arguments[0]} {arguments[1]}"
        run = _Run(self._reactor, title, self._timeout)
        try:
            self._reactor.spawnProcess(run, self._program, [*self._command, *arguments], env=None)
        except OSError as error:
            run.give_up()
            return fail(SolverError(f"{title} cannot be run: {error.strerror}"))
        return run.done


class _Run(ProcessProtocol):
    """
    One run of a program.

    @ivar done: fires when it has ended well.
    """

    def __init__(self, reactor: Any, title: str, timeout: float) -> None:
        self._reactor = reactor
        self._title = title
        self._tail = b""
        self._deadline: IDelayedCall = reactor.callLater(timeout, self._late, timeout)
        self.done: Deferred[None] = Deferred(lambda _: self._kill())

    def give_up(self) -> None:
        """It has never begun."""
        self._deadline.cancel()

    @property
    def _process(self) -> IProcessTransport:
        assert self.transport is not None
        return self.transport

    def connectionMade(self) -> None:
        self._process.closeStdin()

    def errReceived(self, data: bytes) -> None:
        # Twice as much as is shown: what is cut here may be whitespace.
        self._tail = (self._tail + data)[-2 * _TAIL :]

    def processExited(self, reason: Failure) -> None:
        # What it has left running in the background may hold its pipes open for ever.
        self._cancel_deadline()
        self._deadline = self._reactor.callLater(_LINGER, self._process.loseConnection)

    def processEnded(self, reason: Failure) -> None:
        self._cancel_deadline()
        if self.done.called:  # it was too late, or not wanted any more
            return
        if reason.check(ProcessDone):
            self.done.callback(None)
            return
        error: Any = reason.value
        code, signal = error.exitCode, error.signal
        ended = (
            f"was ended by signal {signal}" if code is None else f"has failed with status {code}"
        )
        words = " ".join(self._tail.decode("utf-8", "replace").split())[-_TAIL:]
        said = "".join(each if each.isprintable() else "?" for each in words)
        self.done.errback(SolverError(f"{self._title} {ended}{f': {said}' if said else ''}"))

    def _late(self, timeout: float) -> None:
        self._kill()
        self.done.errback(SolverError(f"{self._title} has not ended within {timeout:g} s"))

    def _kill(self) -> None:
        self._cancel_deadline()
        if self.transport is not None:
            self.transport.signalProcess("KILL")
            self.transport.loseConnection()

    def _cancel_deadline(self) -> None:
        if self._deadline.active():
            self._deadline.cancel()


def records_named(name: str) -> DnsRecords:
    """
    The plugin that an installed package offers under a name, by an entry point in the group
    L{ENTRY_POINTS}: an object with C{set_record} and C{remove_record}, or a callable with no
    argument that makes one.

    @raise ConfigurationError: there is none, or it cannot be loaded.
    """
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none is installed"
        raise ConfigurationError(f"dns-01: there is no plugin {name!r} ({known})")
    try:
        loaded = found[name].load()
        records: DnsRecords = loaded if hasattr(loaded, "__self__") else _made(loaded)
    except Exception as error:  # it is somebody else's code
        raise ConfigurationError(f"dns-01: the plugin {name!r} cannot be loaded: {error}") from None
    for method in ("set_record", "remove_record"):
        if not callable(getattr(records, method, None)):
            raise ConfigurationError(f"dns-01: the plugin {name!r} has no {method}")
    return records


def _made(loaded: Any) -> Any:
    return loaded() if isinstance(loaded, type) or not hasattr(loaded, "set_record") else loaded


class Dns01Solver(Solver):
    """
    Answers by TXT records.
    """

    kind = "dns-01"
    on_every_front = False

    def __init__(self, records: DnsRecords, *, propagation: float = 0.0) -> None:
        """
        @param records: where the records are set.
        @param propagation: how many seconds it takes until all of the zone's servers have one.
        @raise ConfigurationError: that is no number of seconds.
        """
        if not 0 <= propagation <= 3600:
            raise ConfigurationError(
                f"dns-01: a propagation of {propagation} is not from 0 to 3600 seconds"
            )
        self._records = records
        self.propagation = propagation
        self._reactor: Any = None
        # Programs that read a zone, change it and write it are seldom made to run side by side.
        self._lock = DeferredLock()

    def can_prove(self, name: str) -> bool:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return True
        return False  # RFC 8738, section 7

    def _begin(self, reactor: Any) -> None:
        self._reactor = reactor
        start = getattr(self._records, "start", None)
        if start is not None:
            start(reactor)

    def show(self, answer: Answer) -> Deferred[None]:
        return self._changed(self._records.set_record, answer)

    def hide(self, answer: Answer) -> Deferred[None]:
        return self._changed(self._records.remove_record, answer)

    def _changed(
        self, change: Callable[[str, str], Deferred[None]], answer: Answer
    ) -> Deferred[None]:
        name = f"_acme-challenge.{answer.identifier}"

        def run() -> Deferred[None]:
            return maybeDeferred(change, name, answer.dns_value).addTimeout(
                _LONGEST_CHANGE, self._reactor
            )

        changed: Deferred[None] = self._lock.run(run)
        return changed.addErrback(_as_solver_error, name).addCallback(lambda _: None)


def _as_solver_error(failure: Failure, name: str) -> Failure:
    if failure.check(SolverError, CancelledError):
        return failure
    reason = failure.getErrorMessage() or type(failure.value).__name__
    return Failure(SolverError(f"the record {name} cannot be changed: {reason}"))
