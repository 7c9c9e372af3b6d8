"""
Where a server's connection waits until its client's hello has said which certificate it gets.

There is no connection of OpenSSL's before that, and so nothing that costs much.  The bytes wait in
the connector; from the hello in them, a certificate is asked for; and with the answer, which may
come later, the handshake begins.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, NoReturn

import attrs
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from ._phase import LIVE
from .certificates.source import Choice, Found
from .connector import Connector
from .errors import ConfigurationError, UsageError
from .hello import ClientHello, HelloReader, MalformedHello

__all__ = ["Gate", "GateState"]

_log = Logger()

MOST_AHEAD = 64 * 1024
"""Bytes that a client may send while its certificate is looked for, before it has to wait."""


class GateState(Enum):
    """Where a connection stands before its handshake."""

    READING = "the hello is not whole yet"
    SHUT = "the hello is there, and nobody has begun the handshake"
    ASKING = "the certificate is looked for"
    PASSED = "the handshake goes on, or never will"


class Gate:
    """
    One connection that waits.

    @ivar state: what it waits for.
    @ivar hello: the client's hello, once it is there.
    """

    __slots__ = ("_ahead", "_asked", "_is_open", "_options", "_reader", "_tls", "hello", "state")

    def __init__(self, tls: Any, options: Any, is_open: bool) -> None:
        """
        @param tls: the TLS protocol.
        @param options: its L{ServerOptions<twisted_bioconn.context.ServerOptions>}.
        @param is_open: whether the handshake begins by itself.
        """
        self._tls = tls
        self._options = options
        self._is_open = is_open
        self._reader = HelloReader()
        self._asked: Deferred[Found] | None = None
        self._ahead = 0
        self.hello: ClientHello | None = None
        self.state = GateState.READING

    def feed(self, data: bytes) -> None:
        """
        Look at what the connector was fed.

        @raise PeerError: the client is refused.
        """
        if self.state is GateState.ASKING:
            self._ahead += len(data)
            if self._ahead > MOST_AHEAD:
                self._tls.transport.pauseProducing()
        if self.state is not GateState.READING:
            return
        try:
            hello = self._reader.feed(data)
        except MalformedHello as error:
            if error.alert is not None:
                self.state = GateState.PASSED
                self._connector.refuse(error.alert, str(error))
            self._pass(self._options.refusing_connection)
        else:
            if hello is not None:
                self.hello = hello
                self.state = GateState.SHUT
                if self._is_open:
                    self._ask(hello)

    def open(self) -> None:
        """
        The handshake may begin.

        @raise UsageError: it has already.
        @raise PeerError: the client is refused.
        """
        if self._is_open:
            raise UsageError("the handshake has begun already")
        self._is_open = True
        if self.state is GateState.SHUT and self.hello is not None:
            self._ask(self.hello)

    def leave(self) -> None:
        """Nobody waits any more."""
        self.state = GateState.PASSED
        asked, self._asked = self._asked, None
        if asked is not None:
            try:
                asked.cancel()
            except Exception:
                _log.failure("Unhandled error in what cancels the look-up of a certificate")

    @property
    def _connector(self) -> Connector:
        connector: Connector = self._tls._needConnector()
        return connector

    def _ask(self, hello: ClientHello) -> None:
        if hello.server_name is None:
            # The name that a client has not said may be an address: RFC 6066, section 3, has it
            # leave that out.
            address = getattr(self._tls.getHost(), "host", None)
            hello = self.hello = attrs.evolve(hello, local_address=address)
        self.state = GateState.ASKING
        try:
            found = self._options.choose(hello)
        except Exception:
            self._nothing(Failure())
        if not isinstance(found, Deferred):
            self._answer(found)
            return
        self._asked = found
        found.addCallback(self._later, self._answer).addErrback(self._later, self._nothing)
        found.addErrback(lambda failure: _log.failure("Unhandled error at a gate", failure))

    def _later(self, result: Any, go_on: Callable[[Any], None]) -> None:
        """The answer is here, perhaps in the call that has asked for it."""
        self._asked = None
        if self.state is GateState.ASKING and self._tls._link.phase in LIVE:
            self._tls._gateOpens(lambda: go_on(result))

    def _answer(self, found: Found) -> None:
        hello = self.hello
        assert hello is not None
        if found is None:
            self._unknown(hello)
        else:
            choice = found
            self._tls._endsWithHandshake = choice.ends_with_handshake
            self._pass(lambda tls: self._made(choice, hello, tls))

    def _made(self, choice: Choice, hello: ClientHello, tls: Any) -> SSL.Connection:
        try:
            connection: SSL.Connection = self._options.connection_for(choice, hello, tls)
        except Exception:
            self._nothing(Failure())
        return connection

    def _pass(self, make: Callable[[Any], SSL.Connection]) -> None:
        connector = self._connector
        connector.connection = make(self._tls)
        self.state = GateState.PASSED
        # It may have had to wait.
        self._tls.transport.resumeProducing()
        connector.start_handshake()

    def _unknown(self, hello: ClientHello) -> NoReturn:
        """There is no certificate for this client."""
        self.state = GateState.PASSED
        name = hello.server_name
        if name is None:
            self._connector.refuse(
                "handshake_failure", "there is no certificate for clients that ask for no name"
            )
        closes = self._options.unknown_name.value == "close"
        self._connector.refuse(
            None if closes else "unrecognized_name", f"there is no certificate for {name}"
        )

    def _nothing(self, failure: Failure) -> NoReturn:
        """It cannot be known which certificate is the one, or it is of no use."""
        self.state = GateState.PASSED
        name = self.name
        if failure.check(CancelledError) is not None:
            _log.warn("the look-up of a certificate for {name} was cancelled", name=name)
        elif failure.check(ConfigurationError) is not None:
            _log.error(
                "the certificate for {name} cannot be used: {why}", name=name, why=failure.value
            )
        else:
            _log.failure("No certificate could be looked up for {name}", failure, name=name)
        self._connector.refuse("internal_error", f"no certificate could be had for {name}")

    @property
    def name(self) -> str:
        """Whom the client has asked for, for a sentence."""
        hello = self.hello
        return (
            "clients that ask for no name"
            if hello is None
            else (hello.server_name or hello.local_address or "clients that ask for no name")
        )
