"""
The ports of workers: open in their parent, so that what waits in a queue is lost with none of them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReadDescriptor
from twisted.python.failure import Failure

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.limits import Limiter
from twisted_bioconn.server.adoption import leave as leave_open
from twisted_bioconn.server.forked import HeldFactory, WorkerPort, twins
from twisted_bioconn.server.seats import MOST_RETIRED

__all__ = ["SharedPorts"]


class SharedPorts:
    """
    Ports that are opened by one process, and served by those that are forked from it.

    @ivar count: how many of those there are to be.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._held: dict[int, HeldFactory] = {}
        self._ports: list[Any] = []
        self._twins: list[list[socket.socket]] = []
        #: Of the ports that have limits.
        self._limiters: list[Limiter] = []
        self._rows: set[int] = set()

    def hold(self, factory: IProtocolFactory) -> None:
        """
        Do not start a factory here when its port is opened, but in each worker. One that takes no
        attributes is left alone.
        """
        if id(factory) in self._held:
            return
        with suppress(AttributeError, TypeError):
            self._held[id(factory)] = HeldFactory(factory)

    def share(
        self, port: IListeningPort, inherited: Sequence[socket.socket] | None = None
    ) -> list[socket.socket]:
        """
        Have the workers listen on a port.

        @param inherited: the sockets beside the port's own that were the workers' of the program
            which this one takes the place of; L{None} where it takes nobody's.
        @return: the sockets that the workers have beside the port's own.
        @raise ConfigurationError: it is of a kind that cannot be shared.
        """
        if not IReadDescriptor.providedBy(port):
            raise ConfigurationError(f"--workers {self.count}: this port cannot be shared")
        limiter = _limiter_of(port)
        if limiter is not None:
            limiter.share(self.count * (1 + MOST_RETIRED))
            self._limiters.append(limiter)
        row = twins(port, self.count, inherited)
        self._ports.append(port)
        self._twins.append(row)
        return row

    def close(self, left: Collection[Any] = ()) -> None:
        """
        Close the ports, in this process.

        @param left: those that another program has taken over.
        """
        for port in self._ports[:]:
            self.close_one(port, port in left)

    def close_one(self, port: Any, leaving: bool = False) -> None:
        """
        Close a port in this process, if it is not closed yet; workers that have it keep it.

        @param leaving: another one has its socket, and its name.
        """
        if port not in self._ports:
            return
        place = self._ports.index(port)
        for twin in self._twins[place]:
            twin.close()
        del self._ports[place], self._twins[place]
        limiter = _limiter_of(port)
        if limiter in self._limiters:
            self._limiters.remove(limiter)
        if leaving:
            leave_open(port)
            return
        with suppress(OSError, AttributeError):
            # Workers may still have it: it is closed, not shut down.
            port._shouldShutdown = False
            port.stopReading()
            port.connectionLost(Failure(ConnectionDone()))

    def forget(self, factories: Iterable[IProtocolFactory]) -> None:
        """Factories that workers do not need from now on."""
        for factory in factories:
            self._held.pop(id(factory), None)

    def start_factories(self) -> None:
        """Start, in a worker, the factories that were held."""
        for held in self._held.values():
            held.start()

    def take_row(self) -> int:
        """A number that no other process has, for one that is about to be forked."""
        row = next(each for each in count() if each not in self._rows)
        self._rows.add(row)
        return row

    def free_row(self, row: int) -> None:
        """The process that had this number is no more, and what it had counted is nobody's."""
        self._rows.discard(row)
        for limiter in self._limiters:
            limiter.process_ended(row)

    @property
    def ports(self) -> list[WorkerPort]:
        """The ports, in a worker."""
        return [WorkerPort(port) for port in self._ports]

    def take_own(self, index: int, row: int) -> None:
        """
        In a worker, have its own sockets alone.

        @param index: the worker's number.
        @param row: its process's.
        """
        for limiter in self._limiters:
            limiter.be_process(row)
        for port, sockets in zip(self._ports, self._twins, strict=True):
            if sockets and index:
                os.dup2(sockets[index - 1].fileno(), port.fileno(), inheritable=False)
            for twin in sockets:
                twin.close()


def _limiter_of(port: Any) -> Limiter | None:
    limiter = getattr(getattr(port, "factory", None), "limiter", None)
    return limiter if isinstance(limiter, Limiter) else None
