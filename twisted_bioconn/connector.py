"""
One TLS connection over two memory BIOs, with no socket, no reactor and no clock.

General theory of operation
===========================

OpenSSL's SSL object is a filter with four openings.  On one side is the wire: ciphertext comes in
and ciphertext goes out.  On the other is the application: plaintext goes in and plaintext comes
out.  Normally OpenSSL does the wire side by itself, on a socket.  Here it is given two memory BIOs
instead, which are nothing but byte queues, and the L{Connector} moves bytes through all four
openings.  Whoever owns the connector moves them on from there, over whatever carries bytes.

The difficulty is that the four openings depend on each other.  Nothing can be encrypted before
the handshake is done, and the handshake needs several flights in both directions.  To read may
need a write: the peer's key update asks for ours.  A write after which nothing was read may have
put a flight into the BIO that nobody sends.  So each call here does the same three things in the
same order: it moves its own bytes, lets OpenSSL go on as far as it can, and leaves what came out
to be collected.  Nobody who calls it has to know which call of OpenSSL waits for which.

The owner's part is short::

    connector = Connector(connection)
    while ciphertext := connector.take():   # a client's first flight; a server has none yet
        send(ciphertext)

    # whenever bytes arrive
    connector.feed(arrived)
    plaintext = connector.read()
    ... the application has its say, and may call connector.write() and connector.close() ...
    while ciphertext := connector.take():
        send(ciphertext)

    # when the wire ends
    connector.end_of_wire()

L{take} is where plaintext is encrypted.  What is written waits in a buffer until then, so that
many small writes become one record; and it waits there too while the handshake is not done.  The
buffer is the owner's to choose and to bound, see L{WriteBuffer}.

Ends
----

TLS ends each direction by a close_notify of its own (RFC 8446, section 6.1).  L{close} ends ours
after all that was written; the peer may go on and L{read} goes on.  The end of the wire with no
close_notify may hide that somebody cut the stream: it is a L{TruncatedError}, never a clean end.

Errors
------

L{UsageError}: our caller did what the state does not allow.  Nothing has happened.  L{PeerError}:
the peer broke the rules, refused us or was refused; the connection has failed, and L{take} still
has the alert that tells the peer.  Bytes decrypted before the fault are handed out first: L{read}
returns them and raises at the next call.
"""

from __future__ import annotations

from typing import Any, NoReturn

from OpenSSL import SSL

from ._engine import BUFFER_SIZE, NO_ENGINE, Buffer, Engine, Form, copy_of
from ._failures import peer_error
from ._openssl import SessionKeeper, engine_for, session_keeper_of
from ._states import BEFORE_OPEN, TRANSITIONS, State, Step
from ._verification import Verification, verification_of
from .alerts import alert_record
from .buffer import WriteBuffer, WriteBufferLike
from .errors import Direction, PeerError, TruncatedError, UsageError
from .negotiated import Negotiated, channel_binding, negotiated_by
from .verify import verify_again

__all__ = [
    "BEFORE_OPEN",
    "TRANSITIONS",
    "Connector",
    "State",
    "Step",
    "WriteBuffer",
    "WriteBufferLike",
]

# The states in groups, for the questions that are asked of them on every call.
_OPEN = State.OPEN
"""A global name is cheaper than an attribute of an Enum."""
_WRITABLE = (State.IDLE, State.HANDSHAKING, State.OPEN, State.REMOTE_CLOSED)
_ENCRYPTING = (State.OPEN, State.REMOTE_CLOSED)
_READABLE = (State.OPEN, State.LOCAL_CLOSED)
_NO_MORE_COMES = (State.REMOTE_CLOSED, State.CLOSED, State.FAILED)


class Connector:
    """
    TLS over two memory BIOs: ciphertext in and out, plaintext in and out, and a state.

    @ivar state: where the connection is.
    @ivar error: why it has failed, in state FAILED.
    @ivar has_output: L{False} where L{take} has nothing for sure.
    """

    # error is kept here and never raised itself: a copy is.  What is raised gets a traceback, which
    # refers to this object, and grows each time.

    __slots__ = (
        "_blocked",
        "_buffer",
        "_close_asked",
        "_engine",
        "_established",
        "_fed",
        "_inside",
        "_keeper",
        "_must_read",
        "_outgoing",
        "_starts_by_itself",
        "_unread",
        "error",
        "has_output",
        "is_client",
        "state",
        "verification",
    )

    def __init__(
        self,
        connection: SSL.Connection | None,
        is_client: bool,
        buffer: WriteBufferLike | None = None,
        starts_by_itself: bool = True,
    ) -> None:
        """
        @param connection: made with no socket, and told which side it is by
            C{set_connect_state} or C{set_accept_state}.  L{None} where it is to come: once it is
            set, L{start_handshake} goes on with all that was fed.
        @param is_client: which side that was; OpenSSL cannot be asked.
        @param buffer: where plaintext waits; a bounded L{WriteBuffer} if not given.
        @param starts_by_itself: whether any first call begins the handshake.  Otherwise
            L{start_handshake} does.
        """
        self.is_client = is_client
        self._engine: Engine = NO_ENGINE
        self.verification: Verification | None = None
        self._keeper: SessionKeeper | None = None
        if connection is not None:
            self.connection = connection
        self._buffer: WriteBufferLike = WriteBuffer() if buffer is None else buffer
        self._starts_by_itself = starts_by_itself and connection is not None
        self._fed: list[bytes] = []
        self._unread = 0
        self._outgoing: list[bytes] = []
        self._blocked = b""
        self._close_asked = False
        self._inside = False
        self._must_read = False
        self.has_output = True
        self.state = State.IDLE
        self.error: PeerError | None = None
        self._established = False

    # Questions

    @property
    def connection(self) -> SSL.Connection:
        """
        The OpenSSL connection; L{None}, whatever its type says, as long as it is to come.  Set, it
        is put in the place of the one that was there.
        """
        return self._engine.connection

    @connection.setter
    def connection(self, connection: SSL.Connection) -> None:
        self._engine = engine_for(connection)
        self.verification = verification_of(connection)
        self._keeper = session_keeper_of(connection)

    @property
    def wants_read(self) -> bool:
        """Whether there is a use for more ciphertext."""
        if self.state is State.IDLE:
            return self._starts_by_itself
        return self.state not in _NO_MORE_COMES

    @property
    def wants_write(self) -> bool:
        """Whether L{take} has something for the wire."""
        if self._outgoing:
            return True
        if self.state in _ENCRYPTING:
            return not self._waits and (self.pending_plaintext > 0 or self._close_asked)
        # A server does not speak first.
        return self.state is State.IDLE and self._starts_by_itself and self.is_client

    @property
    def pending_plaintext(self) -> int:
        """Bytes written and not encrypted yet."""
        return len(self._buffer) + len(self._blocked)

    @property
    def pending_ciphertext(self) -> int:
        """Bytes encrypted and not taken yet."""
        return sum(map(len, self._outgoing))

    @property
    def unread(self) -> int:
        """
        Bytes fed and not looked at yet, because nobody read; just after the handshake perhaps
        fewer, as nobody can say how many of the last ones belonged to it.
        """
        return self._unread + sum(map(len, self._fed))

    @property
    def inside_openssl(self) -> bool:
        """Whether this call comes from one of OpenSSL's callbacks."""
        return self._inside

    @property
    def refusal(self) -> BaseException | None:
        """The exception with which a check of ours refused the peer; gone after L{forget}."""
        return None if self.verification is None else self.verification.failure

    @property
    def negotiated(self) -> Negotiated | None:
        """What the handshake agreed on, also after a later failure; L{None} until it is done."""
        if not self._established:
            return None
        return negotiated_by(self.connection, self._engine.resumed())

    def export_keying_material(
        self, label: bytes, length: int, context: bytes | None = None
    ) -> bytes:
        """
        C{length} bytes that both ends can derive and nobody else: RFC 8446, section 7.5.

        @raise UsageError: the handshake is not done, or OpenSSL derives no such bytes.
        """
        self._need_handshake("keying material")
        try:
            return self.connection.export_keying_material(label, length, context)
        except (SSL.Error, ValueError) as error:
            raise UsageError(f"there are no {length} bytes of keying material: {error}") from error

    def channel_binding(self, kind: str = "tls-exporter") -> bytes:
        """
        What binds a login to this very connection.

        @param kind: C{"tls-exporter"} (RFC 9266) or C{"tls-server-end-point"} (RFC 5929).
        @raise UsageError: the handshake is not done, or there is no such kind here.
        """
        self._need_handshake("a channel binding")
        return channel_binding(self.connection, self.is_client, kind)

    def _need_handshake(self, what: str) -> None:
        if not self._established or self.error is not None:
            raise UsageError(f"there is {what} once the handshake is done: {self.state.value}")

    # The wire side

    def start_handshake(self) -> None:
        """
        Begin the handshake.  A client's first flight is there to be taken afterwards.

        @raise UsageError: it has begun already.
        @raise PeerError: bytes fed earlier were refused.
        """
        if self.state is not State.IDLE:
            raise UsageError(f"the handshake has begun already: {self.state.value}")
        self._go(Step.START)
        self._handshake()

    def refuse(self, alert: str | None, sentence: str) -> NoReturn:
        """
        Refuse the peer of a connection that is to come.

        @param alert: the name of the alert that tells it; L{None} to tell nothing.
        @param sentence: why.
        @raise PeerError: always.
        """
        if alert is not None:
            self._outgoing.append(alert_record(alert))
            self.has_output = True
        self._fail(PeerError(sentence, alert, None if alert is None else Direction.SENT))
        self._raise()

    def feed(self, ciphertext: bytes) -> None:
        """
        Take bytes from the wire.  The handshake goes on with them; decrypting waits for L{read}.

        After the peer's close_notify or the end of the connection they are discarded.

        @raise TypeError: this is not bytes.
        @raise PeerError: the handshake failed.
        """
        if type(ciphertext) is not bytes:
            ciphertext = bytes(memoryview(ciphertext))
        state = self.state
        if not ciphertext or state in _NO_MORE_COMES:
            return
        self._fed.append(ciphertext)
        if state is State.HANDSHAKING:
            if not self._inside:
                self._handshake()
        elif state is State.IDLE and self._starts_by_itself:
            self.start_handshake()

    def read(self) -> bytes:
        """
        Decrypt all that has been fed.

        @return: the plaintext; C{b""} where there is none yet, or none will come (see
            L{state}).
        @raise PeerError: the connection has failed, and nothing decrypted before is left.
        """
        if self.state not in _READABLE or self._inside:
            if self.error is not None:
                self._raise()
            return b""
        engine = self._engine
        pieces: list[bytes] = []
        for ciphertext in self._fed:
            engine.feed(ciphertext)
        self._fed.clear()
        self._unread = 0
        self._must_read = False
        self._inside = True
        try:
            closed = engine.read(pieces)
        except Exception as error:
            self._fail(error)
            if not pieces:
                self._raise(error)
        else:
            # To read may have made OpenSSL write: the answer to a key update.
            self.collect()
            if closed and self.state in _READABLE:
                self._go(Step.REMOTE_CLOSE)
        finally:
            self._inside = False
        if pieces and self._keeper is not None and self.error is None:
            # In TLS 1.3 the tickets come after the handshake, before or with the first bytes.
            self._keep_session()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def decrypt(self, ciphertext: Any, count: int, form: Form = Form.BYTES) -> Buffer:
        """
        L{feed} and L{read} in one, for what a transport has received at this moment.

        @param ciphertext: C{bytes}, or the C{data} of the L{Inbox<_openssl.Inbox>} that was
            received into.
        @param count: the number of bytes.
        @param form: how to give the plaintext where that saves a copy; what is not bytes is good
            until the next call of any connector in this thread.
        @return: the plaintext, as L{read} does.
        @raise PeerError: the connection has failed.
        """
        if self.state is not _OPEN or self._inside or self._fed or self._keeper is not None:
            self.feed(copy_of(ciphertext, count))
            return self.read()
        self._inside = True
        try:
            plaintext = self._engine.decrypt(ciphertext, count, form)
        finally:
            self._inside = False
        if plaintext is None:
            return self.read()
        # If OpenSSL has not read all that it wanted, the next write will tell.
        self._must_read = False
        return plaintext

    def take(self) -> bytes:
        """
        Encrypt what was written and give the bytes that are to go to the wire next.

        @return: C{b""} where there is nothing more; so it is called until then.
        @raise PeerError: starting the handshake failed, or OpenSSL refused to encrypt.
        """
        ciphertext = self.take_buffer()
        return ciphertext if type(ciphertext) is bytes else bytes(ciphertext)

    def take_buffer(self) -> Buffer:
        """
        L{take} with a copy less: what it gives may be a buffer that is good until the next call of
        any connector in this thread.

        @raise PeerError: as L{take} does.
        """
        if not self.has_output:
            return b""
        if (
            self.state is not _OPEN
            or self._inside
            or self._must_read
            or self._close_asked
            or self._blocked
            or self._outgoing
        ):
            return self._take()
        # The buffer may tell somebody that it has drained, who must not encrypt what comes next
        # before this is.
        self._inside = True
        try:
            plaintext = self._buffer.take(BUFFER_SIZE)
            ciphertext = self._engine.encrypt(plaintext, len(plaintext)) if plaintext else b""
        except Exception as error:
            self._fail(error)
            self._raise(error)
        finally:
            self._inside = False
        if ciphertext is None:
            return self._encrypt_first(plaintext)
        self.has_output = len(self._buffer) > 0 or self._close_asked or len(self._outgoing) > 0
        return ciphertext

    def encrypt(self, plaintext: Any, count: int) -> Buffer:
        """
        L{write} and L{take_buffer} in one, for what is to be sent at this moment.

        There may be more to be taken: L{has_output}.

        @param plaintext: C{bytes}, or the C{data} of the L{Inbox<_openssl.Inbox>} that was
            received into.
        @param count: the number of bytes, at least one.
        @raise UsageError: as L{write} does.
        @raise PeerError: as L{take} does.
        """
        if self.has_output or self.state is not _OPEN or self._inside:
            self.write(copy_of(plaintext, count))
            return self.take_buffer()
        self._inside = True
        try:
            ciphertext = self._engine.encrypt(plaintext, count)
        except Exception as error:
            self._fail(error)
            self._raise(error)
        finally:
            self._inside = False
        if ciphertext is None:
            return self._encrypt_first(copy_of(plaintext, count))
        return ciphertext

    def _encrypt_first(self, plaintext: bytes) -> bytes:
        """Encrypt this before all that comes next; later, where OpenSSL wants to read first."""
        self._blocked = plaintext
        self.has_output = True
        self._encrypt()
        return self._all_outgoing()

    def _take(self) -> bytes:
        if self.state is State.IDLE and self._starts_by_itself:
            self.start_handshake()
        if (
            (len(self._buffer) or self._close_asked or self._blocked)
            and self.state in _ENCRYPTING
            and not (self._inside or self._must_read)
        ):
            if self._close_asked:
                self._write_close()
            else:
                self._encrypt()
        outgoing = self._all_outgoing()
        self.has_output = (
            self.state is State.IDLE
            or len(self._buffer) > 0
            or len(self._blocked) > 0
            or (self._close_asked and self.state in _ENCRYPTING)
        )
        return outgoing

    def _all_outgoing(self) -> bytes:
        outgoing, self._outgoing = self._outgoing, []
        return b"".join(outgoing)

    def collect(self) -> bytes:
        """See what OpenSSL has written by itself: L{take} gives it later."""
        ciphertext = self._engine.drain()
        if ciphertext:
            self._outgoing.append(ciphertext)
            self.has_output = True
        return ciphertext

    def end_of_wire(self) -> None:
        """
        The wire has ended: no ciphertext will come.

        Whatever is to be read should have been read before.

        @raise TruncatedError: it ended with no close_notify.
        """
        if self.state in _NO_MORE_COMES:
            return
        self._fail(
            TruncatedError(
                "the connection ended in mid-handshake"
                if self.state in BEFORE_OPEN
                else "the connection ended with no close_notify: bytes may be missing"
            )
        )
        self._raise()

    # The application's side

    def write(self, plaintext: bytes) -> None:
        """
        Take plaintext for the peer.  It is encrypted when L{take} is called and the handshake is
        done.

        @raise TypeError: this is not bytes.
        @raise UsageError: we have closed, the connection is over, or the buffer is full.
        """
        if type(plaintext) is not bytes:
            plaintext = bytes(memoryview(plaintext))
        if self.state not in _WRITABLE or self._close_asked:
            raise UsageError(
                "nothing can be written after close: "
                + (State.LOCAL_CLOSED.value if self._close_asked else self.state.value)
            )
        if plaintext:
            self._buffer.append(plaintext)
            self.has_output = True

    def discard(self) -> None:
        """Forget what was written and is not encrypted yet."""
        self._buffer.clear()
        self._blocked = b""

    def close(self) -> None:
        """
        End our direction: close_notify goes out after all that was written.

        While the handshake is not done this waits for it.  The peer's direction goes on.  To call
        it again changes nothing.
        """
        if self._close_asked or self.state not in _WRITABLE:
            return
        self._close_asked = self.has_output = True
        if self.state in _ENCRYPTING and not self._waits:
            self._write_close()

    def forget(self) -> None:
        """
        Let go of the connection.  The session of one that did not fail stays resumable.

        OpenSSL takes a session whose connection was freed with no shutdown for a broken one
        (SSL_shutdown(3)).
        """
        if self.state not in BEFORE_OPEN and self.state is not State.FAILED:
            if self._keeper is not None:
                self._keep_session()
            self._engine.forget()
        self._buffer.clear()
        if self.verification is not None:
            # By its traceback it leads back to the connection, which is to go with this object.
            self.verification.failure = None

    def renew_bios(self) -> bool:
        """
        Give memory back that bulk traffic has left in the BIOs.

        @return: whether it was possible: only in an open connection with nothing under way.
        """
        if self.state is not _OPEN or self._waits or self.wants_write or self.unread:
            return False
        return self._engine.renew_bios()

    # Inside

    @property
    def _waits(self) -> bool:
        """Whether nothing can be encrypted just now: we are in a callback, or OpenSSL must read."""
        return self._inside or self._must_read

    def _keep_session(self) -> None:
        keeper, self._keeper = self._keeper, None
        session = self.connection.get_session()
        if keeper is not None and session is not None:
            keeper(session)

    def _go(self, step: Step) -> None:
        self.state = TRANSITIONS[self.state][step]

    def _handshake(self) -> None:
        engine = self._engine
        verification = self.verification
        while True:
            fed, self._fed = self._fed, []
            for ciphertext in fed:
                engine.feed(ciphertext)
            self._inside = True
            try:
                done = engine.handshake()
                if done and verification and not (verification.asked or verification.is_known):
                    verify_again(verification, self.connection)
            except Exception as error:
                self._fail(error, b"".join(fed))
                self._raise(error)
            finally:
                self._inside = False
            self.collect()
            if self.error is not None:
                # A callback has seen the end of the wire.
                self._raise()
            if done or not self._fed:
                break
            # A callback has fed some more.
        if done:
            self._unread = sum(map(len, fed))
            self._go(Step.ESTABLISH)
            self._established = True
            if self._close_asked:
                self._write_close()

    def _encrypt(self) -> None:
        """Encrypt what is left of an earlier write, or else the next of what was written."""
        # As in L{take_buffer}.
        self._inside = True
        try:
            plaintext = self._blocked or self._buffer.take(BUFFER_SIZE)
            taken = self._engine.write(plaintext)
        except Exception as error:
            self._fail(error)
            self._raise(error)
        finally:
            self._inside = False
        # OpenSSL may want to read before it writes on: the rest of a message that came after the
        # handshake in two records.
        self._must_read = taken < len(plaintext)
        self._blocked = plaintext[taken:] if self._must_read else b""
        self.collect()

    def _write_close(self) -> None:
        while self._blocked or len(self._buffer):
            self._encrypt()
            if self._must_read or self.state not in _ENCRYPTING:
                # Then close_notify follows when the rest can be written; or else, where a callback
                # has seen the end of the wire, never.
                return
        try:
            written = self._engine.close()
        except Exception as error:
            self._fail(error)
            self._raise(error)
        self.collect()
        self._must_read = not written
        if written:
            self._go(Step.LOCAL_CLOSE)

    def _fail(self, error: Exception, last_fed: bytes = b"") -> None:
        """Fail, and say which alert it was, which way it went, and what was wrong."""
        sent = self.collect()
        if self.error is not None:
            # A callback has seen the end of the wire.
            return
        self._go(Step.FAIL)
        self._fed.clear()
        self.discard()
        self.error = peer_error(error, sent, last_fed, self.verification, self._engine)

    def _raise(self, cause: Exception | None = None) -> NoReturn:
        error = self.error
        assert error is not None
        raise type(error)(error.sentence, error.alert, error.direction, error.args[0]) from cause
