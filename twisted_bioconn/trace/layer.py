"""
A connection that is traced: an engine, a connector and a protocol that tell what they do.

Each is a subclass of the one that is not traced, or stands in front of it, so that nothing there
has to ask whether there is a trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import attrs
from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure

from .. import _verification
from .._engine import Buffer, Engine, Form, copy_of
from .._transport import address_text
from .._verification import Verification
from ..alerts import alert_record
from ..connector import Connector, State, Step
from ..errors import PeerError
from ..protocol import TLSConnectorProtocol
from . import _callbacks
from .events import Way
from .recorder import Recorder

if TYPE_CHECKING:
    from .tracer import Tracer

__all__ = ["TracedConnector", "TracedProtocol"]


class _TracedEngine:
    """
    Stands in front of an engine.

    It has no short way of its own: all bytes go by C{feed}, C{read}, C{write} and C{drain}.  What
    arrives is written down where it does, as it may wait before it comes here.
    """

    def __init__(self, engine: Engine, recorder: Recorder) -> None:
        self._engine = engine
        self._recorder = recorder
        self.connection = engine.connection

    def feed(self, ciphertext: bytes) -> None:
        self._engine.feed(ciphertext)

    def handshake(self) -> bool:
        began = monotonic()
        try:
            return self._engine.handshake()
        finally:
            self._recorder.worked(monotonic() - began)

    def read(self, pieces: list[bytes]) -> bool:
        before = len(pieces)
        try:
            return self._engine.read(pieces)
        finally:
            self._recorder.read(b"".join(pieces[before:]))

    def write(self, plaintext: bytes) -> int:
        taken = self._engine.write(plaintext)
        self._recorder.written(plaintext[:taken])
        return taken

    def drain(self) -> bytes:
        ciphertext = self._engine.drain()
        if ciphertext:
            self._recorder.bytes_crossed(Way.SENT, ciphertext)
        return ciphertext

    def decrypt(self, ciphertext: Any, count: int, form: Form = Form.BYTES) -> Buffer | None:
        arrived = copy_of(ciphertext, count)
        self._recorder.bytes_crossed(Way.RECEIVED, arrived)
        self._engine.feed(arrived)
        return None

    def encrypt(self, plaintext: Any, count: int) -> Buffer | None:
        return None

    def close(self) -> bool:
        return self._engine.close()

    def forget(self) -> None:
        self._engine.forget()

    def resumed(self) -> bool:
        return self._engine.resumed()

    def verification_error(self) -> int | None:
        return self._engine.verification_error()

    def renew_bios(self) -> bool:
        return self._engine.renew_bios()


class _TracedVerification(Verification):
    """A verification whose steps are written down."""

    __slots__ = ("_recorder",)

    def __init__(self, verification: Verification, recorder: Recorder) -> None:
        super().__init__(verification.check, verification.again, verification.tolerates)
        for name in Verification.__slots__:
            setattr(self, name, getattr(verification, name))
        self._recorder = recorder

    def step(self, ok: bool, code: int, depth: int, certificate: crypto.X509 | None) -> int:
        result = super().step(ok, code, depth, certificate)
        self._recorder.verification_step(depth, _readable(certificate), ok, code)
        if result:
            self._recorder.refused(self.certificate, _sentence(self))
        elif depth == 0:
            self._recorder.judged(True, "the certificate has passed all that it had to")
        return result

    def ask_again(self, chain: Sequence[x509.Certificate]) -> bool:
        refused = super().ask_again(chain)
        if refused:
            self._recorder.refused(self.certificate, _sentence(self))
        else:
            self._recorder.judged(True, "the peer of the resumed session is still who it should be")
        return refused


def _readable(certificate: crypto.X509 | None) -> x509.Certificate | None:
    try:
        return None if certificate is None else certificate.to_cryptography()
    except Exception:
        # OpenSSL can read it and cryptography cannot.
        return None


def _sentence(verification: Verification) -> str:
    from ..verify import explain

    return explain(verification)


class TracedConnector(Connector):
    """A connector that writes down what it does."""

    __slots__ = ("recorder",)

    def __init__(self, recorder: Recorder, *arguments: Any) -> None:
        self.recorder = recorder
        super().__init__(*arguments)

    @property
    def connection(self) -> SSL.Connection:
        """
        @see: L{Connector.connection}
        """
        return self._engine.connection

    @connection.setter
    def connection(self, connection: SSL.Connection) -> None:
        recorder = self.recorder
        found = _verification.verification_of(connection)
        if found is not None and not isinstance(found, _TracedVerification):
            _verification.keep_verification(connection, _TracedVerification(found, recorder))
        Connector.connection.fset(self, connection)  # type: ignore[attr-defined]
        self._engine = _TracedEngine(self._engine, recorder)
        _callbacks.attend(connection, recorder)
        if recorder.keeps_secrets or recorder.log_key is not None:
            _callbacks.log_keys(connection)

    def feed(self, ciphertext: bytes) -> None:
        """
        @see: L{Connector.feed}
        """
        self.recorder.bytes_crossed(Way.RECEIVED, bytes(ciphertext))
        super().feed(ciphertext)

    def _go(self, step: Step) -> None:
        before = self.state
        super()._go(step)
        self.recorder.transition(step, before, self.state)

    def _handshake(self) -> None:
        super()._handshake()
        if self._established:
            try:
                facts = self.negotiated
            except PeerError as error:
                self.recorder.not_shown(str(error))
            else:
                assert facts is not None
                self.recorder.handshaken(facts)

    def refuse(self, alert: str | None, sentence: str) -> Any:
        """
        @see: L{Connector.refuse}
        """
        try:
            super().refuse(alert, sentence)
        finally:
            # No engine has made it.
            if alert is not None:
                record = alert_record(alert)
                self.recorder.alert(True, record[5], record[6])
                self.recorder.bytes_crossed(Way.SENT, record)


class TracedProtocol(TLSConnectorProtocol):
    """
    TLS for one connection, which is traced.

    @ivar recorder: L{None} before there is a transport.
    """

    recorder: Recorder | None = None

    def __init__(
        self, tracer: Tracer, factory: Any, wrapped: IProtocol, connecting: bool = True
    ) -> None:
        super().__init__(factory, wrapped, connecting)
        self._tracer = tracer

    def newConnection(self, context: SSL.Context) -> SSL.Connection:
        """Make a connection of OpenSSL's that shows its messages."""
        connection = _callbacks.new_connection(context)
        assert self.recorder is not None
        self.recorder.shows_messages()
        self._made = True
        return connection

    _made = False

    def newConnector(self, connection: SSL.Connection | None, *arguments: Any) -> Connector:
        """Make the connector."""
        assert self.recorder is not None
        if connection is not None and not self._made:
            self.recorder.hides_messages()
        return TracedConnector(self.recorder, connection, *arguments)

    def makeConnection(self, transport: Any) -> None:
        """
        Begin the trace, and do as C{TLSConnectorProtocol} does.
        """
        local, peer = (_address(getattr(transport, get, None)) for get in ("getHost", "getPeer"))
        is_client = bool(getattr(self.factory, "_isClient", False))
        self.recorder = self._tracer.begin(is_client, local, peer)
        super().makeConnection(transport)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """
        Do as C{TLSConnectorProtocol} does, and end the trace.
        """
        recorder, connector = self.recorder, self._link.connector
        told = self._reason
        super().connectionLost(reason)
        if recorder is None:
            return
        self.recorder = None
        failure = _Ending.of(told or reason, connector)
        recorder.ended(failure.clean, failure.error, failure.reason)
        self._tracer.end(recorder.trace)


@attrs.frozen
class _Ending:
    """How a connection has ended."""

    clean: bool
    error: BaseException | None
    reason: str

    @classmethod
    def of(cls, reason: Failure, connector: Connector | None) -> _Ending:
        """
        @param connector: as it was before it was forgotten.
        """
        state = None if connector is None else connector.state
        error = None if connector is None else connector.error
        if state is State.CLOSED:
            return cls(True, None, "both sides have closed")
        if error is not None:
            return cls(False, reason.value or error, error.sentence)
        value = reason.value
        if isinstance(value, ConnectionAborted):
            return cls(False, value, "we have given it up")
        clean = isinstance(value, ConnectionDone) and state is State.REMOTE_CLOSED
        return cls(clean, None if clean else value, str(value) or type(value).__name__)


def _address(get: Any) -> str:
    return "" if get is None else address_text(get())
