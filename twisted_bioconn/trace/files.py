"""
Traces in a file, and keys in another, as the options of an endpoint string have them.

A file is nobody else's (mode 0600).  Several connections, and several processes, may write to one:
what is written of a connection is written in one piece, under a lock, and when the file would grow
over its limit it is renamed to its name with C{.1} behind it, in place of the one before.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import attrs
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from .. import _option_values as values
from ..errors import ConfigurationError
from ..policy import Policy
from ..port_options import Network, is_in, networks
from . import html, jsonlines, pcapng
from .events import Trace
from .text import trace_as_text, verdict_as_text
from .tracer import Tracer, TracerLimits
from .verdict import Intent, Verdict, verdict_on

__all__ = ["AppendedFile", "Sample", "TraceFile", "tracer_of"]

_log = Logger()

LARGEST = 16 * 1024 * 1024
"""Bytes of a file, after which another is begun."""

ON_PAGE = 10
"""Connections that are shown on a page, the last ones."""

_LIMITS = TracerLimits(events=1000, octets=1024 * 1024)
_NONE = TracerLimits(events=1, octets=0)


class AppendedFile:
    """
    A file that is appended to.

    What cannot be written is said in the log, once for each reason, and left out.
    """

    def __init__(self, path: str, head: bytes = b"", largest: int = LARGEST) -> None:
        """
        @param head: what each file begins with.
        @param largest: bytes of a file at most, unless a single piece has more.
        """
        # A daemon goes to another directory.
        self.path = os.path.abspath(path)
        self._head = head
        self._largest = largest
        self._said: str | None = None

    def append(self, data: bytes) -> None:
        """Write a piece."""
        self._try(lambda: self._append(data))

    def replace(self, data: bytes) -> None:
        """Write a file in place of the one that is there: whoever reads it has one or the other."""
        self._try(lambda: self._replace(data))

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            why = error.strerror or str(error)
            if why != self._said:
                self._said = why
                _log.error("{path}: no trace can be written: {why}", path=self.path, why=why)
        else:
            self._said = None

    def _append(self, data: bytes) -> None:
        descriptor = self._locked()
        try:
            size = os.fstat(descriptor).st_size
            if size and size + len(data) > self._largest:
                os.rename(self.path, f"{self.path}.1")
                os.close(descriptor)
                descriptor = self._locked()
                size = os.fstat(descriptor).st_size
            _write_all(descriptor, data if size else self._head + data)
        finally:
            # The lock goes with it.
            os.close(descriptor)

    def _locked(self) -> int:
        """The file that has the name, locked: another may have been renamed meanwhile."""
        while True:
            descriptor = _open(self.path, os.O_APPEND)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                found, named = os.fstat(descriptor), os.stat(self.path)
                if (found.st_dev, found.st_ino) == (named.st_dev, named.st_ino):
                    return descriptor
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _replace(self, data: bytes) -> None:
        temporary = f"{self.path}.{os.getpid()}.new"
        descriptor = _open(temporary, os.O_TRUNC)
        try:
            _write_all(descriptor, data)
        finally:
            os.close(descriptor)
        os.replace(temporary, self.path)


def _open(path: str, flags: int) -> int:
    """Open a file to be written, which is nobody else's."""
    flags |= os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(0, "this is no file")
        if stat.S_IMODE(mode) != 0o600:
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class TraceFile:
    """
    Traces in a file, whose name says in which form: C{.html} a page of the last ones, C{.pcapng} a
    capture file, C{.json} and C{.jsonl} a JSON object for each event, and else text.
    """

    def __init__(
        self, path: str, intent: Intent, only_failures: bool = False, largest: int = LARGEST
    ) -> None:
        """
        @param intent: what bears on the verdict.
        @param only_failures: whether those alone are written whose handshake has failed.
        """
        self._kind = os.path.splitext(path)[1].lower()
        self.is_capture = self._kind == ".pcapng"
        self._file = AppendedFile(path, pcapng.header() if self.is_capture else b"", largest)
        self._intent = intent
        self._only_failures = only_failures
        self._shown: deque[bytes] = deque(maxlen=ON_PAGE)

    def write(self, trace: Trace) -> None:
        """Write the trace of a connection that has ended."""
        verdict = verdict_on(trace, self._intent)
        if self._only_failures and (trace.is_done and verdict.explanation is None):
            return
        if self._kind == ".html":
            name = f"{trace.began:%Y-%m-%d %H:%M:%S} {trace.peer}: {_in_short(verdict)}"
            self._shown.appendleft(html.section(trace, name))
            self._file.replace(html.page_of(self._shown, "TLS connections"))
        else:
            self._file.append(self._as_bytes(trace, verdict))

    def _as_bytes(self, trace: Trace, verdict: Verdict) -> bytes:
        if self.is_capture:
            return b"".join(pcapng.blocks([trace]))
        if self._kind in (".json", ".jsonl"):
            return "".join(jsonlines.lines(trace, verdict)).encode("ascii")
        began = trace.began.isoformat(timespec="milliseconds")
        lines = [began, *trace_as_text(trace), "", *verdict_as_text(verdict), "", ""]
        return "\n".join(lines).encode("utf-8", "backslashreplace")


def _in_short(verdict: Verdict) -> str:
    return verdict.sentence if verdict.cause is None else verdict.cause.value.replace("_", " ")


class _KeyLog(AppendedFile):
    """A key log, as browsers write it where C{SSLKEYLOGFILE} is set."""

    def __call__(self, line: str) -> None:
        """Write a line."""
        self.append(f"{line}\n".encode("ascii", "replace"))


@attrs.frozen(kw_only=True)
class Sample:
    """
    Which connections are traced.

    @ivar every: 1 for each, 2 for each second one, and so on.
    @ivar networks: those from which they come; empty for any.
    """

    every: int = 1
    networks: tuple[Network, ...] = ()
    _count: Any = attrs.field(factory=count, eq=False)

    def has(self, address: IAddress | None) -> bool:
        """Whether the connection of a peer at this address is traced."""
        if self.networks and not is_in(getattr(address, "host", None), self.networks):
            return False
        return bool(next(self._count) % self.every == 0)


def tracer_of(
    given: Mapping[str, str], policy: Policy | None = None, alpn: tuple[bytes, ...] = ()
) -> Tracer | None:
    """
    What traces connections as the options of an endpoint string have it; L{None} for nothing.

    @param given: the options.
    @raise ConfigurationError: an option is wrong.
    """
    secrets, failures = (
        values.yes_or_no(option, given.get(option, "no"))
        for option in ("unsafeTraceSecrets", "traceFailures")
    )
    sample = Sample(
        every=values.positive_number("traceEvery", given.get("traceEvery", "1")),
        networks=values.loaded("traceFrom", lambda: networks(given["traceFrom"]))
        if "traceFrom" in given
        else (),
    )
    for option in ("traceEvery", "traceFrom", "traceFailures", "unsafeTraceSecrets"):
        if option in given and "trace" not in given:
            raise ConfigurationError(f"{option}= needs trace=: there is no file for traces")
    for option in ("trace", "unsafeKeyLog"):
        if option in given:
            _check_place(option, given[option])
    log_key = _KeyLog(given["unsafeKeyLog"]) if "unsafeKeyLog" in given else None
    if "trace" not in given:
        return None if log_key is None else Tracer(lambda _: None, limits=_NONE, log_key=log_key)
    skips = given.get("unsafeSkipVerification") == "yes"
    intent = Intent(policy=policy, alpn=alpn, settings=given, verifies=not skips)
    file = TraceFile(given["trace"], intent, failures)
    return Tracer(
        file.write,
        limits=_LIMITS,
        keeps_bytes=file.is_capture,
        unsafe_secrets=secrets,
        sample=sample.has,
        log_key=log_key,
    )


def _check_place(option: str, path: str) -> None:
    """
    @raise ConfigurationError: there can be no file.
    """
    directory = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise ConfigurationError(f"{option}: {path} is a directory")
    if not os.path.isdir(directory):
        raise ConfigurationError(f"{option}: there is no directory {directory}")
