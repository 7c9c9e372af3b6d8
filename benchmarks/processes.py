"""
Programs that are started for a measurement, each on its core, and ended after it.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent
"""The directory that holds this package and the library."""

_SYSTEM_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where servers are kept, and a plain user's PATH does not look."""

KEEP_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=8388608:glibc.malloc.trim_threshold=67108864"
}
"""
Variables that make glibc's malloc keep memory that was freed.

By default a program that allocates buffers of 256 KiB gives them back to the kernel, and faults
them in again page by page, each time or never, as the layout of its heap happens to be
(mallopt(3), M_TRIM_THRESHOLD).  That can cost more than all the encryption.
"""

_LAST_WORDS = 400
"""Characters of a program's output that go into the reason of a failure."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A measurement did not come about; the sentence says why."""


def search_path() -> str:
    """PATH, and the directories of servers."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_PATHS])


def find(program: str) -> str | None:
    """The path of a program, or L{None} if it is not installed."""
    return shutil.which(program, path=search_path())


def environment(directory: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    What a program is started with: nothing of the user's but the search paths, and what chooses
    between the library's ways to OpenSSL.
    """
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    kept = {name: value for name, value in os.environ.items() if name.startswith("BIOCONN_")}
    return {
        **kept,
        "PATH": search_path(),
        "PYTHONPATH": python_path,
        "LC_ALL": "C",
        "HOME": str(directory),
        **(more or {}),
    }


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Program:
    """
    A running program, in a process group of its own.

    It is told to end when the one that started it ends, however that happens; and L{stop}, or
    leaving C{with}, ends it and all that it started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        directory: Path,
        core: int | None,
        more: Mapping[str, str] | None = None,
        talks: bool = False,
    ) -> None:
        """
        @param name: what to call it where it fails.
        @param directory: where it runs; its output goes to a file there.
        @param core: the only core that it may use; L{None} for any.
        @param more: variables of its environment beside those that all have.
        @param talks: whether its stdin and stdout are ours.
        @raise Failed: it cannot be started.
        """
        self.name = name
        self._log = directory / f"{name.replace(' ', '-')}.log"

        def prepare() -> None:
            if core is not None:
                os.sched_setaffinity(0, {core})
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        with open(self._log, "wb") as log:
            try:
                self._process = subprocess.Popen(
                    command,
                    cwd=directory,
                    env=environment(directory, more),
                    stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if talks else log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=prepare,
                )
            except OSError as error:
                raise Failed(f"{name} cannot be started: {error.strerror}") from error

    @property
    def pid(self) -> int:
        """The process id, which is the process group's too."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_until_listening(self, *ports: int, limit: float = 20.0) -> None:
        """
        Wait until connections are accepted on all of these ports.

        @param limit: seconds.
        @raise Failed: it ended, or took longer.
        """
        deadline = time.monotonic() + limit
        for port in ports:
            while True:
                self.check()
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                    break
                if time.monotonic() > deadline:
                    raise self._failed(f"does not listen on port {port} after {limit:g} s")
                time.sleep(0.02)

    def check(self) -> None:
        """
        @raise Failed: it has ended.
        """
        if self._process.poll() is not None:
            raise self._failed(f"ended with status {self._process.returncode}")

    def answer(self, question: object, limit: float) -> Any:
        """
        Give it JSON, and take the JSON that it answers with before it ends.

        @param limit: seconds.
        @raise Failed: it did not, or took longer.
        """
        try:
            said, _ = self._process.communicate(json.dumps(question).encode("utf-8"), limit)
        except subprocess.TimeoutExpired:
            raise self._failed(f"has no answer after {limit:g} s") from None
        if self._process.returncode != 0:
            raise self._failed(f"ended with status {self._process.returncode}")
        return json.loads(said)

    def stop(self) -> None:
        """End it and what it started: asked first, and killed where that does not help."""
        with suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.killpg(self.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(2.0)
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _failed(self, what: str) -> Failed:
        words = self._log.read_text("utf-8", "replace").strip()
        last = " / ".join(words[-_LAST_WORDS:].splitlines())
        return Failed(f"{self.name} {what}" + (f": {last}" if last else ""))


def python_module(name: str, *words: str) -> list[str]:
    """The command that runs a module of this package with this Python."""
    return [sys.executable, "-m", f"benchmarks.{name}", *words]
