"""
TCP transports of our own reactor: Twisted's, with a shorter path for each message and connection.

A protocol that can do without an object of its own for what was received sets C{receiver}: see
L{Stream}.  Everything else is Twisted's own code.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from errno import EINPROGRESS, EISCONN, EMFILE, ENFILE, ENOBUFS, ENOMEM
from typing import Any

from twisted.internet import main, tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.logger import Logger
from twisted.python import log
from twisted.python.failure import Failure

from ._room import ROOM
from ._transport import Stream

_ACCEPTS = 64
"""Connections accepted in one turn at most: those that are there already want to be served too."""


_STREAM = int(socket.SOCK_STREAM)
# There is no reactor of ours where there is no such flag.
_STREAM_AT_ONCE = _STREAM | getattr(socket, "SOCK_NONBLOCK", 0)

PAUSE = 0.25
"""Seconds for which a port accepts nobody after there was no room for one more."""

_EXHAUSTED = (EMFILE, ENFILE, ENOBUFS, ENOMEM)
"""accept(2): no descriptors are left, in this process or in the system, or no memory."""

_log = Logger()

_DONE = Failure(ConnectionDone())


class Connection(Stream, tcp.Connection):
    """What a connection that was accepted and one that we made have in common."""

    def doRead(self) -> object:  # type: ignore[override]
        """Receive, and have the protocol take it."""
        receiver = self.receiver
        if receiver is None:
            return tcp.Connection.doRead(self)
        inbox = self.reactor.inbox  # type: ignore[attr-defined]
        try:
            count = self.socket.recv_into(inbox.view)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not count:
            return main.CONNECTION_DONE
        receiver(inbox.data, count)
        return None

    def send(self, data: Any) -> None:
        """
        @see: L{Stream.send}
        """
        sent = 0
        if (
            not (self.dataBuffer or self._tempDataLen or self.TLS or self._aborting)
            and self.connected
        ):
            try:
                sent = self.socket.send(data)
            except OSError:
                # What is wrong will be found when the reactor sends it.
                pass
            else:
                if sent == len(data):
                    return
        self.write(bytes(data[sent:]))  # type: ignore[no-untyped-call]

    def send_received(self, data: Any, count: int) -> None:
        """
        @see: L{Stream.send_received}
        """
        self.send(self.reactor.inbox.view[:count])  # type: ignore[attr-defined]

    def loseConnection(self) -> None:
        """
        Close the connection when all that was written is sent.

        Where nothing is left to be sent, it is no use to ask the kernel whether it takes that.
        """
        if (
            self.connected
            and not self.disconnecting
            and self.producer is None
            and not (self.TLS or self._writeDisconnecting or self._writeDisconnected)
            and not (self.dataBuffer or self._tempDataLen)
        ):
            self.disconnecting = 1
            self.reactor.removeReader(self)
            self.reactor.deadlines.soon(self._close)  # type: ignore[attr-defined]
        else:
            super().loseConnection()  # type: ignore[no-untyped-call]

    def _close(self) -> None:
        if self.connected and not (self._aborting or self.dataBuffer or self._tempDataLen):
            if self.producer is None:
                self.connectionLost(_DONE)
            else:
                # It came since then.  Twisted's own code knows for which kind to wait.
                self.startWriting()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Any) -> None:
        """The connection is gone."""
        self.receiver = None
        super().connectionLost(reason)


class Server(Connection, tcp.Server):
    """A connection that was accepted, or one that was there when it was made a transport."""

    sessionno = 0

    def __init__(
        self,
        sock: socket.socket,
        protocol: IProtocol,
        client: tuple[Any, ...],
        server: Port | None,
        sessionno: int,
        reactor: Any,
    ) -> None:
        # What Twisted's does, less the texts that nobody may ever read.
        self.reactor = reactor
        self._tempDataBuffer = []
        self._tempDataLen = 0
        sock.setblocking(False)
        self.socket = sock
        self.fileno = sock.fileno
        self.protocol = protocol
        if len(client) != 2:
            self._addressType = IPv6Address
        self.server = server  # type: ignore[assignment]
        self.client = client
        if sessionno:
            self.sessionno = sessionno
        self.connected = 1
        reactor.addReader(self)

    def connectionLost(self, reason: Failure) -> None:
        """The connection is gone."""
        if not hasattr(self, "socket"):
            return
        self.receiver = None
        self.disconnected = 1
        self.connected = 0
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        self.reactor.removeReader(self)
        self.reactor.removeWriter(self)
        protocol = self.protocol
        del self.protocol
        self._closeSocket(not isinstance(reason.value, ConnectionAborted))  # type: ignore[no-untyped-call]
        del self.socket
        del self.fileno
        protocol.connectionLost(reason)

    @property
    def hostname(self) -> str:  # type: ignore[override]
        """The address of the peer."""
        return str(self.client[0])

    @property
    def logstr(self) -> str:  # type: ignore[override]
        """How the old C{twisted.python.log} calls it."""
        prefix = self._getLogPrefix(getattr(self, "protocol", None))
        return f"{prefix},{self.sessionno},{self.hostname}"

    @property
    def repstr(self) -> str:
        """How it is shown to a programmer."""
        name = type(getattr(self, "protocol", None)).__name__
        number = None if self.server is None else self.server._realPortNumber
        return f"<{name} #{self.sessionno} on {number}>"

    @repstr.setter
    def repstr(self, text: str) -> None:
        """Twisted gives an adopted connection its text.  Ours is made when it is asked for."""


class Client(Connection, tcp.Client):
    """A connection that we made."""


class Connected(Server):
    """A connection that we made, and that took no waiting."""

    _tlsClientDefault = True


class Port(tcp.Port):
    """
    A port with a shorter way for each connection.

    @ivar pauses: how often it has stopped accepting because there was no room for more.
    @ivar has_room: says, before each is accepted, whether there are descriptors for all that one
        more connection takes; L{None} where nobody knows better than the kernel.
    """

    transport: Any = Server
    pauses = 0
    has_room: Callable[[], bool] | None = None
    _waiting_for_room = False

    def doRead(self) -> None:
        """Accept those who wait."""
        accept, family = self.socket._accept, int(self.addressFamily)  # type: ignore[union-attr]
        limit, accepted = min(self.numberAccepts, _ACCEPTS), 0
        has_room = self.has_room
        while accepted < limit:
            try:
                if has_room is not None and not has_room():
                    raise OSError(EMFILE, os.strerror(EMFILE))
                fd, peer = accept()
            except BlockingIOError:
                break
            except MemoryError:
                # What comes out of here closes the port.
                self._pause(OSError(ENOMEM, os.strerror(ENOMEM)))
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(error)
                else:
                    # Twisted's own code knows what to do about each error.
                    super().doRead()  # type: ignore[no-untyped-call]
                return
            accepted += 1
            try:
                self._accepted(socket.socket(family, _STREAM, 0, fd), peer)
            except MemoryError:
                ROOM.is_gone()
            except BaseException:
                log.err()
        # To be told that there is nobody costs as much as to accept one: do not ask for more than
        # the last time, unless there were as many.
        self.numberAccepts = min(2 * limit, _ACCEPTS) if accepted == limit else max(1, accepted)
        if self._waiting_for_room and accepted:
            self._waiting_for_room = False
            _log.info("accepting again on {port}", port=self._realPortNumber)

    def _pause(self, error: OSError) -> None:
        """
        There are no descriptors left, or no memory: who comes waits in the kernel's queue until
        there are, and is not turned away.
        """
        self.pauses += 1
        if not self._waiting_for_room:
            self._waiting_for_room = True
            _log.error(
                "accepting nobody on {port} for now: {reason}",
                port=self._realPortNumber,
                reason=error.strerror,
            )
        self.stopReading()  # type: ignore[no-untyped-call]
        self.reactor.callLater(PAUSE, self._resume)  # type: ignore[attr-defined]

    def _resume(self) -> None:
        if self.connected and not self.disconnecting:
            self.startReading()  # type: ignore[no-untyped-call]

    def _accepted(self, connection: socket.socket, peer: tuple[Any, ...]) -> None:
        if len(peer) == 4 and peer[3]:
            # A link-local address of IPv6, which means nothing without its scope.
            flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
            peer = (socket.getnameinfo(peer, flags)[0], *peer[1:])
        try:
            protocol = self.factory.buildProtocol(self._buildAddr(peer))  # type: ignore[no-untyped-call, union-attr]
        except BaseException:
            # Whoever keeps what is logged keeps this frame, and with it the socket, open.
            connection.close()
            raise
        if protocol is None:
            connection.close()
            return
        number = self.sessionno
        self.sessionno = number + 1
        transport = self.transport(connection, protocol, peer, self, number, self.reactor)
        protocol.makeConnection(transport)


class Connector(tcp.Connector):
    """Makes connections of our own kind."""

    def _makeTransport(self) -> Client:
        return Client(self.host, self.port, self.bindAddress, self, self.reactor)  # type: ignore[no-untyped-call]


def connect_at_once(
    reactor: Any, host: str, port: int, build: Callable[[IAddress], IProtocol | None]
) -> IProtocol | None:
    """
    Connect to an address of this machine, where the kernel answers before the call returns.

    @param host: an IP address.
    @param build: makes the protocol.
    @return: the protocol, connected; L{None} if that needs some waiting, is refused, or C{build}
        had no protocol.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address: tuple[Any, ...] = (host, port, 0, 0) if ":" in host else (host, port)
    try:
        connection = socket.socket(family, _STREAM_AT_ONCE)
    except OSError:
        # Most likely there are no descriptors left.  Whoever tries again will say so.
        return None
    try:
        code = connection.connect_ex(address)
        if code == EINPROGRESS:
            # The kernel says so in any case, and then sees to the other end's answer.
            code = connection.connect_ex(address)
        protocol = None
        if code in (0, EISCONN):
            kind = IPv6Address if ":" in host else IPv4Address
            protocol = build(kind("TCP", *address))
        if protocol is None:
            connection.close()
            return None
    except BaseException:
        connection.close()
        raise
    transport = Connected(connection, protocol, address, None, 0, reactor)
    try:
        protocol.makeConnection(transport)
    except BaseException:
        # The transport is in the reactor already.  Nobody else will close it.
        transport.abortConnection()  # type: ignore[no-untyped-call]
        raise
    return protocol
