"""
The one room that calls pyOpenSSL below its public API, with a public-API twin.

An engine drives one L{OpenSSL.SSL.Connection} over its two memory BIOs and knows nothing of
states: it pushes bytes in, pulls bytes out, and says what OpenSSL said.  There are two.

L{FastEngine} calls OpenSSL through the binding that pyOpenSSL itself uses.  It saves the
exception which the public methods raise each time there is no more to read, one of two copies,
and the loop over 16 KiB pieces on each write.

L{PublicEngine} does the same with public methods alone.  It is used where the private names are
gone, where C{BIOCONN_PUBLIC_API=1} is in the environment, and for a connection that is not
pyOpenSSL's own (a wrapper, a test's fake).  It cannot choose the alert with which a certificate
is refused, nor the groups and signature algorithms of a context, nor give a connection fresh BIOs.

pyOpenSSL's functions run with the interpreter's lock released, so the buffer that they fill
belongs to the thread: two connections in two threads must never see each other's plaintext.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from OpenSSL import SSL, crypto

from ._server_flight import resumes_session
from ._verification import (
    CERTIFICATE_REJECTED,
    Check,
    Verification,
    keep_verification,
    verification_of,
)

BUFFER_SIZE = 256 * 1024
"""
Bytes decrypted or drained in one go.  Larger than the cache halves the throughput, smaller
costs a join more.
"""

MAX_RECORD = 16 * 1024
"""Bytes of plaintext in one record at most: RFC 8446, section 5.1."""

_OVERHEAD = 22
"""Bytes that the protection of a record adds at least: RFC 8446, section 5.2, with any AEAD."""

_OUT_SIZE = BUFFER_SIZE + 4096
"""Room for what becomes of L{BUFFER_SIZE} bytes of plaintext, and for one more byte."""

Buffer = bytes | Any
"""Bytes, or a buffer of some, which is good until the next call of an engine in its thread."""


class Inbox:
    """
    Where a reactor receives ciphertext, for whichever connection it is.

    @ivar view: to be written to.
    @ivar data: the same, for OpenSSL.
    """

    __slots__ = ("data", "view")

    def __init__(self) -> None:
        if PUBLIC_API_ONLY:
            self.data: Any = bytearray(BUFFER_SIZE)
            self.view = memoryview(self.data)
        else:
            self.data = _ffi.new("char[]", BUFFER_SIZE)
            self.view = memoryview(_ffi.buffer(self.data))


class Engine(Protocol):
    """What the connector asks of OpenSSL."""

    connection: SSL.Connection

    def feed(self, ciphertext: bytes) -> None:
        """Push what arrived from the wire into the BIO that OpenSSL reads from."""

    def handshake(self) -> bool:
        """
        Go on with the handshake.

        @return: whether it is done.
        @raise OpenSSL.SSL.Error: it failed; whatever a callback raised comes out too.
        """

    def read(self, pieces: list[bytes]) -> bool:
        """
        Decrypt all that has been fed, appending plaintext to C{pieces}.

        @return: whether the peer's close_notify has been read.
        @raise OpenSSL.SSL.Error: a record was bad; C{pieces} has what came before it.
        """

    def write(self, plaintext: bytes) -> int:
        """
        Encrypt.

        @return: the number of bytes taken; 0 where OpenSSL wants to read first.
        """

    def drain(self) -> bytes:
        """All that OpenSSL has for the wire."""

    def decrypt(self, ciphertext: Any, count: int) -> bytes | None:
        """
        Push what arrived, and decrypt it where it is one record with plaintext and no more.

        @param ciphertext: C{bytes}, or the C{data} of an L{Inbox}.
        @param count: the number of bytes that arrived.
        @return: the plaintext; L{None} where it is anything else, and C{read} has to be called.
        """

    def encrypt(self, plaintext: Any, count: int) -> Buffer | None:
        """
        Encrypt, and give all that OpenSSL has for the wire.

        @param plaintext: C{bytes}, or the C{data} of an L{Inbox}.
        @param count: the number of bytes.

        @return: L{None} where nothing was done, and C{write} has to be called.
        """

    def close(self) -> bool:
        """
        Make OpenSSL send close_notify.

        @return: whether it did; otherwise it wants to read first.
        """

    def forget(self) -> None:
        """Say that the connection ended well, so that its session can be resumed."""

    def resumed(self) -> bool:
        """Whether the handshake resumed an earlier session."""

    def verification_error(self) -> int | None:
        """The C{X509_V_ERR_} number of a refused certificate, where it can be known."""

    def renew_bios(self) -> bool:
        """
        Give a drained connection fresh BIOs: a memory BIO keeps the size it grew to.

        @return: whether that was possible.
        """


# What is ours to know of a connection is kept on it: see L{_verification}.
_KEEPER = "_bioconn_session_keeper"


SessionKeeper = Callable[[SSL.Session], None]
"""Keeps a session for the next connection to the same peer."""


def keep_session(connection: SSL.Connection, keeper: SessionKeeper) -> None:
    """Have the session of this client's connection kept, once it has one worth keeping."""
    setattr(connection, _KEEPER, keeper)


def session_keeper_of(connection: SSL.Connection) -> SessionKeeper | None:
    """What L{keep_session} set on this connection."""
    keeper: SessionKeeper | None = getattr(connection, _KEEPER, None)
    return keeper if isinstance(connection, SSL.Connection) else None


def _is_closed(connection: SSL.Connection) -> bool:
    """
    Whether the peer's close_notify has come, though OpenSSL has called it an error: it does where a
    peer says user_canceled first (RFC 8446, section 6.1).
    """
    return bool(connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN)


def _go_on(connection: SSL.Connection) -> bool:
    """Go on with the handshake; say whether it is done."""
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return False
    except SSL.SysCallError:
        if _is_closed(connection):
            raise SSL.ZeroReturnError from None
        raise
    return True


def _shut_down(connection: SSL.Connection) -> bool:
    try:
        connection.shutdown()
    except SSL.Error as error:
        # A message of the peer's after the handshake came in two records, and one of them is not
        # here yet: OpenSSL will not begin another of ours in the middle.
        if "shutdown while in init" not in str(error):
            raise
        return False
    return True


class PublicEngine:
    """The engine on public methods of L{OpenSSL.SSL.Connection} alone."""

    __slots__ = ("_arrived", "_sent", "connection")

    can_choose_alerts = False
    can_set_groups = False

    def __init__(self, connection: SSL.Connection) -> None:
        self.connection = connection
        # How each direction begins.  There is no public call that tells whether a session was
        # resumed, but the server's first flight does, and it is in the clear.
        self._arrived, self._sent = bytearray(), bytearray()
        if isinstance(connection, SSL.Connection):
            connection.set_options(SSL.OP_NO_RENEGOTIATION)

    def feed(self, ciphertext: bytes) -> None:
        view = memoryview(ciphertext)
        while view:
            view = view[self.connection.bio_write(view) or len(view) :]
        _keep_start(self._arrived, ciphertext)

    def handshake(self) -> bool:
        return _go_on(self.connection)

    def read(self, pieces: list[bytes]) -> bool:
        while True:
            try:
                pieces.append(self.connection.recv(BUFFER_SIZE))
            except SSL.WantReadError:
                return False
            except SSL.ZeroReturnError:
                return True
            except SSL.SysCallError:
                if _is_closed(self.connection):
                    return True
                raise

    def write(self, plaintext: bytes) -> int:
        view = memoryview(plaintext)
        taken = 0
        while taken < len(view):
            try:
                taken += self.connection.send(view[taken : taken + MAX_RECORD])
            except SSL.WantReadError:
                break
        return taken

    def drain(self) -> bytes:
        if not hasattr(self.connection, "bio_read"):
            # A stand-in that does no more than its test asks of it.
            return b""
        pieces = []
        size = BUFFER_SIZE
        while size == BUFFER_SIZE:
            # Less than was asked for is all there is: that saves asking again.
            try:
                piece = self.connection.bio_read(BUFFER_SIZE)
            except SSL.WantReadError:
                break
            pieces.append(piece)
            size = len(piece)
        ciphertext = b"".join(pieces)
        _keep_start(self._sent, ciphertext)
        return ciphertext

    def decrypt(self, ciphertext: Any, count: int) -> bytes | None:
        self.feed(copy_of(ciphertext, count))
        return None

    def encrypt(self, plaintext: Any, count: int) -> Buffer | None:
        return None

    def close(self) -> bool:
        return _shut_down(self.connection)

    def forget(self) -> None:
        self.connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)

    def resumed(self) -> bool:
        return resumes_session(bytes(self._arrived)) or resumes_session(bytes(self._sent))

    def verification_error(self) -> int | None:
        return None

    def renew_bios(self) -> bool:
        return False


def _keep_start(start: bytearray, ciphertext: bytes) -> None:
    if len(start) < MAX_RECORD:
        start += ciphertext[: MAX_RECORD - len(start)]


def _public_set_verification(
    connection: SSL.Connection, mode: int, check: Check | None, again: Check | None = None
) -> None:
    keep_verification(connection, Verification(check, again, chooses_alert=False))
    connection.set_verify(mode, _public_verify)


def _public_verify(
    connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int
) -> bool:
    # A closure over the verification would keep it, and all that it refers to, in C.
    verification = verification_of(connection)
    return verification is not None and not verification.step(bool(ok), code, depth, certificate)


def _public_set_groups(context: SSL.Context, names: Sequence[str]) -> None:
    """There is no public call for it: OpenSSL's own list stays, with X25519MLKEM768 first."""


def _public_set_signature_algorithms(context: SSL.Context, names: Sequence[str]) -> None:
    """There is no public call for it: OpenSSL's own list stays."""


try:
    from OpenSSL._util import ffi as _ffi
    from OpenSSL._util import lib as _lib

    _NEEDED = (
        "BIO_get_mem_data BIO_new BIO_read BIO_s_mem BIO_write ERR_clear_error "
        "SSL_CTX_set1_curves_list SSL_CTX_set1_sigalgs_list SSL_MODE_ENABLE_PARTIAL_WRITE "
        "SSL_MODE_RELEASE_BUFFERS SSL_clear_mode SSL_get_extms_support "
        "SSL_get_ex_data_X509_STORE_CTX_idx SSL_get_verify_result SSL_read SSL_session_reused "
        "SSL_set_bio SSL_set_mode SSL_set_verify SSL_want_read SSL_write "
        "X509_STORE_CTX_get_current_cert X509_STORE_CTX_get_error X509_STORE_CTX_get_error_depth "
        "X509_STORE_CTX_get_ex_data X509_STORE_CTX_set_error X509_up_ref"
    ).split()
    _missing = [name for name in _NEEDED if not hasattr(_lib, name)]
    _context = SSL.Context(SSL.TLS_METHOD)
    for _holder, _names in (
        (SSL.Connection(_context), "_ssl _into_ssl _from_ssl _raise_ssl_error _reverse_mapping"),
        (_context, "_context"),
        (crypto.X509, "_from_raw_x509_ptr"),
    ):
        _missing += [name for name in _names.split() if not hasattr(_holder, name)]
    HAVE_PRIVATE_NAMES = not _missing
    del _context, _holder
except (ImportError, AttributeError):
    HAVE_PRIVATE_NAMES = False


class _ThreadBuffer(threading.local):
    """A buffer for each thread, made when the thread first needs it."""

    def __init__(self) -> None:
        self.cdata: Any = _new_buffer()


def _new_buffer() -> Any:
    return _ffi.new("char[]", _OUT_SIZE)


if HAVE_PRIVATE_NAMES:
    _thread = _ThreadBuffer()
    _buffer = _ffi.buffer
    _NULL = _ffi.NULL
    _BIO_get_mem_data = _lib.BIO_get_mem_data
    _BIO_read = _lib.BIO_read
    _BIO_write = _lib.BIO_write
    _ERR_clear_error = _lib.ERR_clear_error
    _SSL_read = _lib.SSL_read
    _SSL_want_read = _lib.SSL_want_read
    _SSL_write = _lib.SSL_write

    @_ffi.callback("int (*)(int, X509_STORE_CTX *)")  # type: ignore[untyped-decorator]
    def _verify_callback(ok: int, store_context: Any) -> int:
        """
        OpenSSL's verify callback for every connection that has a L{Verification}.

        One for all: a callback made for each connection costs memory, and a reference cycle
        through C that no collector sees.  An exception must not leave it, and returning 0 (also
        what cffi returns for an exception) refuses.
        """
        code = CERTIFICATE_REJECTED
        try:
            ssl = _lib.X509_STORE_CTX_get_ex_data(
                store_context, _lib.SSL_get_ex_data_X509_STORE_CTX_idx()
            )
            verification = verification_of(SSL.Connection._reverse_mapping[ssl])
            raw = _lib.X509_STORE_CTX_get_current_cert(store_context)
            certificate = None
            if raw != _NULL:
                _lib.X509_up_ref(raw)
                certificate = crypto.X509._from_raw_x509_ptr(raw)
            if verification is not None:
                code = verification.step(
                    bool(ok),
                    _lib.X509_STORE_CTX_get_error(store_context),
                    _lib.X509_STORE_CTX_get_error_depth(store_context),
                    certificate,
                )
        finally:
            if code:
                _lib.X509_STORE_CTX_set_error(store_context, code)
        return not code


class FastEngine:
    """The engine on pyOpenSSL's own binding."""

    __slots__ = ("_at_boundary", "_early", "_from_ssl", "_into_ssl", "_ssl", "connection")

    can_choose_alerts = True
    can_set_groups = True

    def __init__(self, connection: SSL.Connection) -> None:
        self.connection = connection
        self._ssl = ssl = connection._ssl
        self._into_ssl = connection._into_ssl
        self._from_ssl = connection._from_ssl
        # Whether OpenSSL is known to hold no part of a record: then what arrives begins with one.
        self._at_boundary = False
        # What an SSL_read of decrypt has come to, where read() has to go on from that.
        self._early: bytes | int | None = None
        connection.set_options(SSL.OP_NO_RENEGOTIATION)
        # A memory BIO takes everything, so that one call can write all records; an idle
        # connection needs no record buffers.
        _lib.SSL_clear_mode(ssl, _lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
        _lib.SSL_set_mode(ssl, _lib.SSL_MODE_RELEASE_BUFFERS)

    def feed(self, ciphertext: bytes) -> None:
        _BIO_write(self._into_ssl, ciphertext, len(ciphertext))

    def handshake(self) -> bool:
        _ERR_clear_error()
        return _go_on(self.connection)

    def read(self, pieces: list[bytes]) -> bool:
        early, self._early = self._early, None
        if early is not None:
            if isinstance(early, int):
                return self._read_stopped(early)
            pieces.append(early)
            if not _BIO_get_mem_data(self._into_ssl, _NULL):
                return False
        self._at_boundary = False
        ssl = self._ssl
        # A callback of OpenSSL's may use another connection, which must not overwrite what is
        # decrypted here: as long as this needs the thread's buffer, the thread has none.
        thread = _thread
        buffer = thread.cdata
        if buffer is None:
            buffer = _new_buffer()
        thread.cdata = None
        filled = 0
        try:
            while True:
                count = _SSL_read(ssl, buffer + filled, BUFFER_SIZE - filled)
                if count <= 0:
                    return self._read_stopped(count)
                filled += count
                # OpenSSL reads no further than the record at hand, and that was returned whole,
                # so that nothing in the BIO is nothing to come: that saves the call which only
                # says so.
                if not _BIO_get_mem_data(self._into_ssl, _NULL):
                    self._at_boundary = True
                    return False
                if filled > BUFFER_SIZE - MAX_RECORD:
                    pieces.append(_buffer(buffer, filled)[:])
                    filled = 0
        finally:
            if filled:
                pieces.append(_buffer(buffer, filled)[:])
            thread.cdata = buffer

    def decrypt(self, ciphertext: Any, count: int) -> bytes | None:
        _BIO_write(self._into_ssl, ciphertext, count)
        # There is one SSL_read, and it fills the buffer as the last thing it does: no callback of
        # OpenSSL's comes in between.
        buffer = _thread.cdata
        if buffer is None or not self._at_boundary:
            return None
        got = _SSL_read(self._ssl, buffer, BUFFER_SIZE)
        if got <= 0:
            self._early = got
            return None
        plaintext: bytes = _buffer(buffer, got)[:]
        # Two records would need twice as much around them.  One with plaintext in it cannot have
        # made OpenSSL write anything.
        if _OVERHEAD <= count - got < 2 * _OVERHEAD:
            return plaintext
        self._early = plaintext
        return None

    def encrypt(self, plaintext: Any, count: int) -> Buffer | None:
        buffer = _thread.cdata
        if buffer is None:
            return None
        written = _SSL_write(self._ssl, plaintext, count)
        if written <= 0:
            self._write_stopped(written)
            return None
        size = _BIO_read(self._from_ssl, buffer, _OUT_SIZE)
        if size < _OUT_SIZE:
            return _buffer(buffer, size)
        return _buffer(buffer, size)[:] + self.drain()

    def _read_stopped(self, count: int) -> bool:
        if self._waits():
            return False
        try:
            self.connection._raise_ssl_error(self._ssl, count)
        except SSL.ZeroReturnError:
            pass
        except SSL.SysCallError:
            if not _is_closed(self.connection):
                raise
        return True

    def write(self, plaintext: bytes) -> int:
        count: int = _SSL_write(self._ssl, plaintext, len(plaintext))
        return count if count > 0 else self._write_stopped(count)

    def _waits(self) -> bool:
        """
        Whether OpenSSL only waits for more to read.

        An error that somebody else has left in the queue would be taken for ours by SSL_get_error,
        and to clear the queue before each call would cost a tenth of a small message.
        """
        if not _SSL_want_read(self._ssl):
            return False
        _ERR_clear_error()
        return True

    def _write_stopped(self, count: int) -> int:
        if not self._waits():
            self.connection._raise_ssl_error(self._ssl, count)
        return 0

    def drain(self) -> bytes:
        buffer = _thread.cdata
        if buffer is None:
            buffer = _new_buffer()
        count = _BIO_read(self._from_ssl, buffer, _OUT_SIZE)
        if count < _OUT_SIZE:
            return _buffer(buffer, count)[:] if count > 0 else b""
        pieces = [_buffer(buffer, count)[:]]
        while count == _OUT_SIZE:
            count = _BIO_read(self._from_ssl, buffer, _OUT_SIZE)
            if count > 0:
                pieces.append(_buffer(buffer, count)[:])
        return b"".join(pieces)

    def close(self) -> bool:
        _ERR_clear_error()
        return _shut_down(self.connection)

    def forget(self) -> None:
        self.connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)

    def resumed(self) -> bool:
        return bool(_lib.SSL_session_reused(self._ssl))

    def verification_error(self) -> int | None:
        return _lib.SSL_get_verify_result(self._ssl) or None

    def renew_bios(self) -> bool:
        into, from_ = _lib.BIO_new(_lib.BIO_s_mem()), _lib.BIO_new(_lib.BIO_s_mem())
        # The SSL object takes both over and frees those that it had.
        _lib.SSL_set_bio(self._ssl, into, from_)
        self.connection._into_ssl = self._into_ssl = into
        self.connection._from_ssl = self._from_ssl = from_
        return True


def _fast_set_verification(
    connection: SSL.Connection, mode: int, check: Check | None, again: Check | None = None
) -> None:
    keep_verification(connection, Verification(check, again))
    _lib.SSL_set_verify(connection._ssl, mode, _verify_callback)


def _fast_set_groups(context: SSL.Context, names: Sequence[str]) -> None:
    _set_list(context, names, "SSL_CTX_set1_curves_list", "group")


def _fast_set_signature_algorithms(context: SSL.Context, names: Sequence[str]) -> None:
    _set_list(context, names, "SSL_CTX_set1_sigalgs_list", "signature algorithm")


def _set_list(context: SSL.Context, names: Sequence[str], call: str, what: str) -> None:
    _ERR_clear_error()
    if not getattr(_lib, call)(context._context, ":".join(names).encode("ascii")):
        _ERR_clear_error()
        raise ValueError(f"this OpenSSL does not know every {what} of {', '.join(names)}")


def has_extended_master_secret(connection: SSL.Connection) -> bool:
    """Whether a TLS 1.2 handshake used RFC 7627; L{False} where that cannot be known."""
    if PUBLIC_API_ONLY or type(connection) is not SSL.Connection:
        return False
    return bool(_lib.SSL_get_extms_support(connection._ssl) == 1)


def copy_of(ciphertext: Any, count: int) -> bytes:
    """A copy of so many bytes of what C{Engine.decrypt} takes."""
    if type(ciphertext) is bytes:
        return ciphertext[:count]
    return bytes(ciphertext[:count] if PUBLIC_API_ONLY else _ffi.buffer(ciphertext, count))


PUBLIC_API_ONLY = not HAVE_PRIVATE_NAMES or os.environ.get("BIOCONN_PUBLIC_API") == "1"
"""Whether the public-API twin is in use."""

set_verification = _public_set_verification if PUBLIC_API_ONLY else _fast_set_verification
"""Have the peer of a connection verified, in a given mode, and C{check} asked in the end."""

set_groups = _public_set_groups if PUBLIC_API_ONLY else _fast_set_groups
"""Set the groups of a context, by OpenSSL's names, best first."""

set_signature_algorithms = (
    _public_set_signature_algorithms if PUBLIC_API_ONLY else _fast_set_signature_algorithms
)
"""Set the signature algorithms of a context, by OpenSSL's names, best first."""


def engine_for(connection: SSL.Connection) -> Engine:
    """The engine that drives this connection."""
    if PUBLIC_API_ONLY or type(connection) is not SSL.Connection:
        return PublicEngine(connection)
    return FastEngine(connection)
