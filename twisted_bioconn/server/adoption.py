"""
Listening sockets that outlive the port that opened them.

A port that listens where another one does, which is about to go, has to have its very socket: a
second one could not be bound, and what waits in the queue of the first would be lost.  The other
one is in a process that this one replaces (L{upgrade<twisted_bioconn.server.upgrade>}), or in this
one, with a configuration that is no longer wanted (L{reloading<twisted_bioconn.server.reloading>}).

Endpoints know nothing of this.  While one is told to listen, the reactor's C{listenTCP} and
C{listenUNIX} are ours: they look among the sockets that there are for one that was opened for the
same words, and keep account of what is asked for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from attrs import define, frozen
from twisted.internet import endpoints, tcp
from twisted.python.lockfile import FilesystemLock

try:
    from twisted.internet import unix
except ImportError:  # pragma: no cover
    _UNIXPort: Any = object
else:
    _UNIXPort = unix.Port

__all__ = ["Asked", "Held", "Sockets", "leave"]


@frozen
class Asked:
    """
    What a port was asked for.  Port 0 is any port, and stays so for the one that comes after it.

    @ivar kind: C{tcp}, C{unix}, or C{fd} for a socket of somebody else's, such as systemd's.
    @ivar at: the interface, or the path.
    @ivar port: the port, or the number of the descriptor.
    """

    kind: str
    at: str
    port: int


@define(eq=False)
class Held:
    """
    Sockets that wait for a port to take them.

    @ivar asked: for what they were opened.
    @ivar sockets: the port's, and those of its workers beside it.
    @ivar taken: the port that has them now.
    """

    asked: Asked
    sockets: list[socket.socket]
    taken: Any = None

    def close(self) -> None:
        """Let go of what was not taken."""
        for each in self.sockets:
            each.close()
        self.sockets = []


class AdoptedUNIXPort(_UNIXPort):  # type: ignore[misc]
    """
    A port on a socket that somebody else has bound.  Its name in the file system is theirs, until
    they are gone.
    """

    _owns = False
    _wants_lock = False
    _shouldShutdown = False
    _preexistingSocket: Any

    @classmethod
    def on(cls, reactor: Any, own: socket.socket, path: bytes, factory: Any) -> Any:
        """A port that listens on a socket."""
        made: Any = cls(path, factory, reactor=reactor)
        made._preexistingSocket = own
        made.startListening()
        return made

    def startListening(self) -> None:
        """Begin to accept.  The name has its mode, and the queue its length."""
        tcp._reservedFD.reserve()
        self.factory.doStart()
        self.socket, self._preexistingSocket = self._preexistingSocket, None
        self.socket.setblocking(False)
        self.fileno = self.socket.fileno
        self.connected = True
        self.numberAccepts = 100
        self.startReading()

    @property
    def _path(self) -> bytes:
        """Its name.  It has another one since Twisted 26.10, and the old one is then as given."""
        path: Any = getattr(self, "_bindPath", self.port)
        return bytes(path)

    def own(self, before: Any = None) -> None:
        """
        Its name is ours from now on.

        @param before: the port that had it, where that is in this process.
        """
        self._owns = True
        if before is not None:
            self.lockFile, before.lockFile = before.lockFile, None
        elif self._wants_lock:
            lock = FilesystemLock(self._path + b".lock")
            with suppress(OSError):
                self.lockFile = lock if lock.lock() else None

    def connectionLost(self, reason: Any) -> None:
        """It is closed; with its name, if that is ours."""
        if self._owns and os.path.exists(self._path):
            super().connectionLost(reason)
        else:
            if self.lockFile is not None:
                self.lockFile.unlock()
            tcp.Port.connectionLost(self, reason)


def leave(port: Any) -> None:
    """
    Have a port accept no more, with its socket open and its name there for whoever else has them.
    """
    port.stopReading()
    if isinstance(port, tcp.Port) and port.connected:
        # A port that has paused would read again by itself.
        port.disconnecting = True
        port.connected = False
        port.socket.close()
        assert port.factory is not None
        port.factory.doStop()


class Sockets:
    """
    The listening sockets of this process.

    @ivar twins: those of a port's workers beside its own.
    """

    def __init__(self, inherited: Iterable[Held] = ()) -> None:
        """
        @param inherited: those of the process that this one is to replace.
        """
        self._held = list(inherited)
        self._inherited = list(self._held)
        self._asked: WeakKeyDictionary[Any, Asked] = WeakKeyDictionary()
        self.twins: WeakKeyDictionary[Any, list[socket.socket]] = WeakKeyDictionary()

    @contextmanager
    def used_by(self, reactor: Any) -> Iterator[None]:
        """
        While this lasts, ports that are opened with a reactor get the sockets that are held.
        """
        wrappers: dict[str, Callable[..., Callable[..., Any]]] = {
            "listenTCP": self._tcp,
            "listenUNIX": self._unix,
            "adoptStreamPort": self._descriptor,
        }
        # A reactor that opens no ports of one kind has no method for it.
        replaced = {name for name in wrappers if hasattr(reactor, name)}
        before = {name: vars(reactor)[name] for name in replaced if name in vars(reactor)}
        for name in replaced:
            setattr(reactor, name, wrappers[name](reactor, getattr(reactor, name)))
        # An endpoint of systemd's closes its descriptor when the port has one of its own. Whoever
        # comes later has to find it again, and nothing else there.
        adopted: Any = endpoints.AdoptedStreamServerEndpoint
        close, adopted._close = adopted._close, staticmethod(_keep)
        try:
            yield
        finally:
            adopted._close = close
            for name in replaced:
                if name in before:
                    setattr(reactor, name, before[name])
                else:
                    delattr(reactor, name)

    def lend(self, port: Any) -> Held | None:
        """
        Hold the socket of a port that is still open for one that is opened in its place.

        @return: L{None} for a port of which it is not known what it was asked for.
        """
        asked = self._asked.get(port)
        if asked is None or asked.kind == "fd" or not hasattr(port, "socket"):
            return None
        held = Held(asked, [port.socket.dup()])
        self._held.append(held)
        return held

    def take_back(self, held: Held) -> None:
        """Hold it no longer."""
        if held in self._held:
            self._held.remove(held)
        held.close()

    def open_ports(self) -> list[tuple[Asked, Any]]:
        """What there is to be inherited, and by what words."""
        return [
            (asked, port)
            for port, asked in list(self._asked.items())
            if asked.kind != "fd" and getattr(port, "connected", False)
        ]

    @property
    def adopted(self) -> list[int]:
        """Which of those that were inherited are in use, by their places in the list."""
        return [place for place, held in enumerate(self._inherited) if held.taken is not None]

    def holds(self, asked: Asked) -> bool:
        """Whether a port that is opened for this would get a socket that is held."""
        return any(held.asked == asked for held in self._held)

    def own(self) -> None:
        """The process that these were inherited from has let go of them."""
        for held in self._inherited:
            if isinstance(held.taken, AdoptedUNIXPort):
                held.taken.own()
        for held in self._held:
            held.close()
        self._held, self._inherited = [], []

    def _take(self, asked: Asked) -> Held | None:
        for held in self._held:
            if held.asked == asked:
                self._held.remove(held)
                return held
        return None

    def _opened(self, asked: Asked, port: Any) -> Any:
        # What is no port of the usual kind may not even take a weak reference.
        with suppress(TypeError):
            self._asked[port] = asked
        return port

    def _tcp(self, reactor: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        adopt: Any = getattr(reactor, "adoptStreamPort", None)

        def listen(port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
            asked = Asked("tcp", interface, port)
            held = None if adopt is None else self._take(asked)
            if held is None:
                return self._opened(asked, original(port, factory, backlog, interface))
            own, *twins = held.sockets
            held.sockets = []
            own.setblocking(False)
            made = adopt(own.fileno(), own.family, factory)
            # The port has one of its own.
            own.close()
            made.backlog = backlog
            with suppress(OSError):
                made.socket.listen(backlog)
            self.twins[made] = twins
            held.taken = made
            return self._opened(asked, made)

        return listen

    def _unix(self, reactor: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        def listen(
            address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0
        ) -> Any:
            asked = Asked("unix", os.fsdecode(address), 0)
            held = self._take(asked)
            if held is None:
                return self._opened(asked, original(address, factory, backlog, mode, wantPID))
            own = held.sockets.pop(0)
            held.close()
            path = os.fsencode(address)
            made = AdoptedUNIXPort.on(reactor, own, path, factory)
            made._wants_lock = bool(wantPID)
            with suppress(OSError):
                own.listen(backlog)
                if path[:1] != b"\0":
                    os.chmod(path, mode)
            held.taken = made
            return self._opened(asked, made)

        return listen

    def _descriptor(self, reactor: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        def adopt(number: int, family: int, factory: Any) -> Any:
            # It stays open for those after us, and is no business of what we start.
            os.set_inheritable(number, False)
            if family == getattr(socket, "AF_UNIX", None):
                # Twisted's would shut it down in the end, and remove its name.
                own = socket.fromfd(number, family, socket.SOCK_STREAM)
                path = os.fsencode(own.getsockname())
                made: Any = AdoptedUNIXPort.on(reactor, own, path, factory)
            else:
                made = original(number, family, factory)
            return self._opened(Asked("fd", "", number), made)

        return adopt


def _keep(number: int) -> None:
    """Leave a descriptor open."""


def inherited(entries: Sequence[Sequence[Any]]) -> list[Held]:
    """
    The sockets that another process has handed down.

    @param entries: kind, place, port, and the numbers of the descriptors.
    @raise OSError: one of them is no socket.
    """
    found = []
    for kind, at, port, numbers in entries:
        sockets = []
        for number in numbers:
            os.set_inheritable(number, False)
            sockets.append(socket.socket(fileno=number))
        found.append(Held(Asked(kind, at, port), sockets))
    return found
