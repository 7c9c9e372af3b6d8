"""Traces the connections of a factory, and hands the traces on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from ..context import ClientOptions
from ..protocol import TLSConnectorProtocol
from . import _callbacks
from .events import Event, Trace
from .layer import TracedConnector, TracedProtocol
from .recorder import Recorder, TracerLimits

__all__ = ["Tracer", "TracerLimits"]

_log = Logger()


class _Making:
    """Stands for a protocol, where a connection that shows its messages is made for none."""

    def newConnection(self, context: SSL.Context) -> SSL.Connection:
        return _callbacks.new_connection(context)


class Tracer:
    """
    Traces connections.

    What takes the traces may fail: that is said in the log, and no connection suffers.

    @ivar begun: how many traces have begun.
    """

    def __init__(
        self,
        done: Callable[[Trace], object],
        *,
        limits: TracerLimits | None = None,
        keeps_bytes: bool = False,
        unsafe_secrets: bool = False,
        unsafe_plaintext: bool = False,
        title: str = "",
        sample: Callable[[IAddress | None], bool] | None = None,
        log_key: Callable[[str], object] | None = None,
        each: Callable[[Trace, Event], object] | None = None,
    ) -> None:
        """
        @param done: is given the trace of each connection when it has ended.
        @param limits: how much is kept of each.
        @param keeps_bytes: whether ciphertext is kept, as L{pcapng} needs it.
        @param unsafe_secrets: whether keys are kept: who has them can decrypt the connection.
        @param unsafe_plaintext: whether what the application sends and gets is kept.
        @param title: what the connections are called.
        @param sample: says by a peer's address whether its connection is traced, where that is
            known before; all are if not given.
        @param log_key: is given each line of a key log.
        @param each: is given each event when it happens, and the trace that it is of.
        """
        self._done = done
        self._limits = limits
        self._keeps_bytes = keeps_bytes
        self._unsafe_secrets = unsafe_secrets
        self._unsafe_plaintext = unsafe_plaintext
        self._title = title
        self._sample = sample
        self._log_key = log_key
        self._each = each
        self.begun = 0

    def trace(self, factory: Any) -> None:
        """
        Trace the connections of a factory from now on.

        @param factory: a L{TLSConnectorFactory<twisted_bioconn.protocol.TLSConnectorFactory>}.
        """
        factory.protocol = self._layer

    def _layer(self, factory: Any, wrapped: Any, connecting: bool = True) -> TLSConnectorProtocol:
        address = getattr(wrapped, "_addr", None)
        if self._sample is not None and not self._sample(address):
            return TLSConnectorProtocol(factory, wrapped, connecting)
        return TracedProtocol(self, factory, wrapped, connecting)

    def begin(self, is_client: bool, local: str, peer: str) -> Recorder:
        """A connection is there: begin its trace."""
        self.begun += 1
        recorder = Recorder(
            is_client,
            title=self._title,
            limits=self._limits,
            keeps_bytes=self._keeps_bytes,
            unsafe_secrets=self._unsafe_secrets,
            unsafe_plaintext=self._unsafe_plaintext,
            log_key=self._log_key,
            told=None if self._each is None else self._tell,
        )
        recorder.connected(local, peer)
        return recorder

    def client_connector(
        self, options: ClientOptions, local: str = "", peer: str = ""
    ) -> TracedConnector:
        """
        A connector whose connection is traced, for those who carry its bytes themselves.

        When it is over, C{recorder.ended} of it is to be called, and L{end} with its C{trace}.

        @param options: whom to talk to, and what to believe.
        @param local: our address, as people write it, and C{peer} is the server's.
        """
        recorder = self.begin(True, local, peer)
        recorder.shows_messages()
        return TracedConnector(recorder, options.clientConnectionForTLS(_Making()), True)

    def _tell(self, trace: Trace, event: Event) -> None:
        assert self._each is not None
        try:
            self._each(trace, event)
        except Exception:
            _log.failure("An event of a trace could not be handed on")

    def end(self, trace: Trace) -> None:
        """A connection is gone: hand its trace on."""
        try:
            self._done(trace)
        except Exception:
            _log.failure("A trace could not be handed on")
