"""
What systemd is told: sd_notify(3), with nothing but a socket.

A unit of C{Type=notify-reload} is up when the ports are open, is reloading from SIGHUP until that
is done, and stops while connections come to their end.  Where C{NOTIFY_SOCKET} is not set nothing
is said.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

from twisted.logger import Logger

__all__ = ["Notifier"]

_log = Logger()

_SEND_SECONDS = 0.5
"""Seconds that systemd may take to have room for one more message."""


class Notifier:
    """
    Says how the service is, over a socket of systemd's.

    @ivar interval: seconds between two signs of life, which is half of what systemd waits for one
        (sd_watchdog_enabled(3)); L{None} where it does not wait for any.
    """

    def __init__(self, address: str = "", interval: float | None = None) -> None:
        """
        @param address: a path, or C{@} and a name in the abstract namespace; nothing is said if it
            is empty, or of another kind.
        """
        self.interval: float | None = None
        self._socket: socket.socket | None = None
        if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        connection.settimeout(_SEND_SECONDS)
        try:
            # Now, as twistd may go to another root directory, or become another user.
            connection.connect("\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            connection.close()
            _log.warn("NOTIFY_SOCKET: systemd is told nothing: {error}", error=error)
        else:
            self._socket, self.interval = connection, interval

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> Notifier:
        """What systemd asks of this process."""
        interval = None
        with suppress(ValueError):
            microseconds = int(environ.get("WATCHDOG_USEC", "0"))
            if microseconds > 0 and environ.get("WATCHDOG_PID", str(os.getpid())) == str(
                os.getpid()
            ):
                interval = microseconds / 2e6
        return cls(environ.get("NOTIFY_SOCKET", ""), interval)

    def ready(self, status: str) -> None:
        """The ports are open, or what SIGHUP was for is done."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """What SIGHUP is for has begun."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reloading")

    def stopping(self, status: str, seconds: float) -> None:
        """
        The service is on its way out.

        @param seconds: how long that may take.
        """
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", f"STATUS={status}")

    def status(self, text: str) -> None:
        """What there is to tell, in one line."""
        self._tell(f"STATUS={text}")

    def alive(self) -> None:
        """A sign of life.  Where there is no room for it, there are enough of them."""
        self._tell("WATCHDOG=1", flags=getattr(socket, "MSG_DONTWAIT", 0))

    def succeeded_by(self, pid: int) -> None:
        """Another process is the service from now on, and this one has no more to say."""
        self._tell(f"MAINPID={pid}")
        self.close()

    def close(self) -> None:
        """Say no more: another process does, or is to."""
        connection, self._socket = self._socket, None
        self.interval = None
        if connection is not None:
            connection.close()

    def _tell(self, *lines: str, flags: int = 0) -> None:
        if self._socket is not None:
            # Whether anyone listens makes no difference to what we do.
            with suppress(OSError):
                self._socket.send("\n".join(lines).encode("utf-8", "replace"), flags)
