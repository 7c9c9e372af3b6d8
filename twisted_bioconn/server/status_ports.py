"""
Where the status of a server may be asked for, and by whom.

On a UNIX socket that is the socket's owner, on a loopback address whoever is on this machine, and
anywhere else those who show a certificate of an authority that the endpoint names.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from enum import Enum
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, UNIXServerEndpoint
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from zope.interface import implementer

from twisted_bioconn.certificates.development import state_directory
from twisted_bioconn.certificates.folders import make_folders
from twisted_bioconn.client_policy import ClientCertificate
from twisted_bioconn.endpoints import ServerEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server._mistakes import masked
from twisted_bioconn.server.addresses import parse, server_endpoint, server_kinds
from twisted_bioconn.server.local import is_local

__all__ = [
    "CONTROL_HEADER",
    "PROCESS_HEADER",
    "Audience",
    "StatusPort",
    "default_socket",
    "status_port",
]

SOCKET_MODE = 0o600
"""Who may connect to a socket in the file system: its owner, and root."""


CONTROL_HEADER = "X-Bioconn-Control"
"""
A request that changes something has to have this header, with any value: no page of another origin
can send it without asking before, and the answer to that is no.
"""

PROCESS_HEADER = "X-Bioconn-Process"
"""In each answer: the number of the process that it is of."""


class Audience(Enum):
    """Who can be at the other end."""

    OWNER = "the owner of the socket"
    MACHINE = "whoever is on this machine"
    CERTIFIED = "whoever has a certificate of the authority"


@attrs.frozen
class StatusPort:
    """
    A place where the status is to be had.

    @ivar endpoint: what listens there.
    @ivar audience: who can be at the other end.
    @ivar words: the place, as the user is told it.
    """

    endpoint: IStreamServerEndpoint
    audience: Audience
    words: str

    @property
    def may_control(self) -> bool:
        """Whether those who can ask may also tell the server what to do."""
        return self.audience is not Audience.MACHINE


def default_socket(state: str | None = None) -> str:
    """
    The path of the socket where no other place is asked for.

    @param state: the state directory, where one was given.
    @raise ConfigurationError: there is no state directory.
    """
    return os.path.join(state_directory(state), "control.sock")


_SHORT = re.compile(r"(?:(?P<host>[\w.-]+|\[[\da-fA-F:.]+\]):)?(?P<port>\d{1,5})", re.ASCII)


def status_port(reactor: Any, text: str) -> StatusPort:
    """
    The place that a user asks for: the path of a UNIX socket, C{PORT} or C{ADDRESS:PORT} of a
    loopback address, or the string of a C{unix:}, C{tcp:} or C{bioconn:} endpoint.

    @raise ConfigurationError: there is no such place, or strangers could come there.
    """
    try:
        return _port(reactor, text)
    except ConfigurationError as error:
        raise ConfigurationError(f"status={masked(text)}: {error}") from error


def _port(reactor: Any, text: str) -> StatusPort:
    if text.startswith(("/", "~", ".")):
        return _at_path(reactor, text)
    arguments, named = parse(text)
    kind = arguments[0].lower() if arguments else ""
    short = _SHORT.fullmatch(text)
    if short is not None and kind not in server_kinds():
        return _at_address(reactor, (short["host"] or "127.0.0.1").strip("[]"), int(short["port"]))
    if kind == "unix":
        path = named.get("address") or (arguments[1] if len(arguments) > 1 else "")
        strange = sorted(named.keys() - {"address"})
        if not path or strange or len(arguments) > 2:
            raise ConfigurationError("unix: takes one path here, and nothing else")
        return _at_path(reactor, path)
    if kind == "tcp":
        number = named.get("port") or (arguments[1] if len(arguments) > 1 else "")
        strange = sorted(named.keys() - {"port", "interface"})
        if not number.isdecimal() or strange or len(arguments) > 2:
            raise ConfigurationError("tcp: takes a port and interface= here, and nothing else")
        return _at_address(reactor, named.get("interface", ""), int(number))
    if kind == "bioconn":
        return _with_tls(reactor, text, named.get("interface", ""))
    raise ConfigurationError(
        "this is neither the path of a socket, nor a port of this machine's own, nor an endpoint"
        " of the kinds unix:, tcp: and bioconn:"
    )


_LONGEST_PATH = 100
"""Bytes: unix(7) has 108, with the zero at the end, and a worker's number comes behind it."""


def _at_path(reactor: Any, path: str) -> StatusPort:
    path = os.path.abspath(os.path.expanduser(path))
    if len(os.fsencode(path)) > _LONGEST_PATH:
        # From here the way may be shorter.
        shorter = os.path.join(".", os.path.relpath(path))
        path = min(path, shorter, key=lambda each: len(os.fsencode(each)))
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ConfigurationError(
            f"{path} has more than the {_LONGEST_PATH} bytes that the path of a socket may have"
        )
    return StatusPort(_Socket(reactor, path), Audience.OWNER, path)


def _at_address(reactor: Any, host: str, port: int) -> StatusPort:
    if port > 65535:
        raise ConfigurationError(f"there is no port {port}")
    host = "127.0.0.1" if host.lower() == "localhost" else host
    if not is_local(host):
        raise ConfigurationError(
            f"without TLS the status is only for this machine: use a UNIX socket,"
            f" tcp:{port}:interface=127.0.0.1, or bioconn: with clientAuthorities="
        )
    kind = TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return StatusPort(kind(reactor, port, interface=host), Audience.MACHINE, f"http://{shown}/")


def _with_tls(reactor: Any, text: str, interface: str) -> StatusPort:
    endpoint = server_endpoint(reactor, text)
    assert isinstance(endpoint, ServerEndpoint)
    clients = endpoint.options.clients
    if clients.authorities and clients.mode is ClientCertificate.REQUIRE:
        return StatusPort(endpoint, Audience.CERTIFIED, masked(text))
    # Where it is carried by another endpoint, that one says where.
    if is_local(interface) and "endpoint" not in parse(text)[1]:
        return StatusPort(endpoint, Audience.MACHINE, masked(text))
    raise ConfigurationError(
        "strangers could come here: set clientAuthorities=, with no clientCertificate= that lets in"
        " those who have none"
    )


@implementer(IStreamServerEndpoint)
class _Socket:
    """
    A UNIX socket for its owner alone, in a directory that is made where there is none.
    """

    def __init__(self, reactor: Any, path: str) -> None:
        self.path = path
        self._endpoint = UNIXServerEndpoint(reactor, path, mode=SOCKET_MODE, wantPID=False)

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Listen, in the place of a socket that a process has left which is no more.
        """
        return maybeDeferred(self._listen, protocolFactory)

    def _listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        make_folders(os.path.dirname(self.path) or ".")
        self._clear()
        # It has its mode from the start: Twisted sets it only when it is there, with what the umask
        # leaves of 0777.  A file that another thread makes meanwhile is its owner's alone, too.
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            return self._endpoint.listen(protocolFactory)  # type: ignore[no-any-return]
        finally:
            os.umask(before)

    def _clear(self) -> None:
        """
        Remove a socket that nobody listens on.

        Twisted's lock file has a process number in it, which in a container is most often 1: of
        the process that is gone, and of the one that asks.
        """
        try:
            mode = os.stat(self.path).st_mode
        except OSError:
            return
        if not stat.S_ISSOCK(mode):
            raise ConfigurationError(f"{self.path} is there, and is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(self.path)
            except ConnectionRefusedError:
                os.unlink(self.path)
            else:
                raise ConfigurationError(f"another process listens on {self.path}")
