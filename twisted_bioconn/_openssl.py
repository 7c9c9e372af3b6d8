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
from typing import Any

from OpenSSL import SSL, crypto

from ._engine import (
    BUFFER_SIZE,
    MAX_RECORD,
    ROOM,
    Buffer,
    Engine,
    Form,
    copy_of,
    explain_end,
    is_closed,
    kept_on,
    shut_down,
)
from ._held import keeps_to_its_name
from ._public_engine import PublicEngine
from ._verification import (
    CERTIFICATE_REJECTED,
    Check,
    Tolerance,
    Verification,
    keep_verification,
    verification_of,
)


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


# What is ours to know of a connection is kept on it: see L{_verification}.
_KEEPER = "_bioconn_session_keeper"


SessionKeeper = Callable[[SSL.Session], None]
"""Keeps a session for the next connection to the same peer."""


def keep_session(connection: SSL.Connection, keeper: SessionKeeper) -> None:
    """Have the session of this client's connection kept, once it has one worth keeping."""
    setattr(connection, _KEEPER, keeper)


def session_keeper_of(connection: SSL.Connection) -> SessionKeeper | None:
    """What L{keep_session} set on this connection."""
    keeper: SessionKeeper | None = kept_on(connection, _KEEPER)
    return keeper if isinstance(connection, SSL.Connection) else None


def _public_set_verification(
    connection: SSL.Connection,
    mode: int,
    check: Check | None,
    again: Check | None = None,
    tolerates: Tolerance | None = None,
) -> None:
    keep_verification(connection, Verification(check, again, tolerates, chooses_alert=False))
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


def _public_hold_names(context: SSL.Context) -> None:
    nothing = SSL.Context(SSL.TLS_METHOD)

    def look(connection: SSL.Connection) -> None:
        if not keeps_to_its_name(connection):
            # What it raised would end on stderr.  With no certificate there is no handshake.
            connection.set_context(nothing)

    context.set_tlsext_servername_callback(look)


def _public_share_store(context: SSL.Context, store: crypto.X509Store) -> bool:
    """There is no public call for it: each context has a copy of its own."""
    return False


try:
    from OpenSSL._util import exception_from_error_queue
    from OpenSSL._util import ffi as _ffi
    from OpenSSL._util import lib as _lib

    _NEEDED = (
        "BIO_free BIO_get_mem_data BIO_new BIO_new_mem_buf BIO_read BIO_s_mem "
        "BIO_set_mem_eof_return BIO_write ERR_clear_error SSL_CTX_set_cert_store "
        "SSL_CTX_set_tlsext_servername_callback "
        "SSL_ERROR_SSL SSL_ERROR_WANT_READ SSL_ERROR_ZERO_RETURN SSL_TLSEXT_ERR_ALERT_FATAL "
        "SSL_do_handshake SSL_set_shutdown SSL_CTX_set1_curves_list SSL_CTX_set1_sigalgs_list "
        "SSL_MODE_ENABLE_PARTIAL_WRITE "
        "SSL_MODE_RELEASE_BUFFERS SSL_clear_mode SSL_set_options SSL_get_extms_support "
        "SSL_get_ex_data_X509_STORE_CTX_idx SSL_get_verify_result SSL_read SSL_session_reused "
        "SSL_set_bio SSL_set_mode SSL_set_verify SSL_get_error SSL_write "
        "X509_STORE_CTX_get_current_cert X509_STORE_CTX_get_error X509_STORE_CTX_get_error_depth "
        "X509_STORE_CTX_get_ex_data X509_STORE_CTX_set_error X509_STORE_up_ref X509_up_ref"
    ).split()
    _missing = [name for name in _NEEDED if not hasattr(_lib, name)]
    _context = SSL.Context(SSL.TLS_METHOD)
    for _holder, _names in (
        (SSL.Connection(_context), "_ssl _into_ssl _from_ssl _raise_ssl_error _reverse_mapping"),
        (_context, "_context _verify_helper _alpn_select_helper"),
        (crypto.X509, "_from_raw_x509_ptr"),
        (crypto.X509Store(), "_store"),
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
    return _ffi.new("char[]", ROOM)


if HAVE_PRIVATE_NAMES:
    _thread = _ThreadBuffer()
    _buffer = _ffi.buffer
    _NULL = _ffi.NULL
    _BIO_free = _lib.BIO_free
    _BIO_get_mem_data = _lib.BIO_get_mem_data
    _BIO_new = _lib.BIO_new
    _BIO_new_mem_buf = _lib.BIO_new_mem_buf
    _BIO_read = _lib.BIO_read
    _BIO_s_mem = _lib.BIO_s_mem
    _BIO_set_mem_eof_return = _lib.BIO_set_mem_eof_return
    _BIO_write = _lib.BIO_write
    _ERR_clear_error = _lib.ERR_clear_error
    _SSL_read = _lib.SSL_read
    _SSL_do_handshake = _lib.SSL_do_handshake
    _SSL_get_error = _lib.SSL_get_error
    _SSL_ERROR_SSL = _lib.SSL_ERROR_SSL
    _SSL_ERROR_WANT_READ = _lib.SSL_ERROR_WANT_READ
    _SSL_ERROR_ZERO_RETURN = _lib.SSL_ERROR_ZERO_RETURN
    _SSL_set_bio = _lib.SSL_set_bio
    _SSL_set_shutdown = _lib.SSL_set_shutdown
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

    # cffi prints what a callback raises, and returns this.
    @_ffi.callback("int (*)(SSL *, int *, void *)", error=_lib.SSL_TLSEXT_ERR_ALERT_FATAL)  # type: ignore[untyped-decorator]
    def _server_name_callback(ssl: Any, alert: Any, _: Any) -> int:
        """OpenSSL has read a client hello: is its name the one that was decided by?"""
        if keeps_to_its_name(SSL.Connection._reverse_mapping[ssl]):
            return 0
        alert[0] = _ILLEGAL_PARAMETER
        return _lib.SSL_TLSEXT_ERR_ALERT_FATAL  # type: ignore[no-any-return]


_ILLEGAL_PARAMETER = 47
"""The alert of RFC 8446, section 4.1.2, for a second client hello that may not be."""

_MUCH = 32 * 1024
"""Bytes of ciphertext from which on it does not pay any more to copy them into a BIO."""

_MORE = 1
"""SSL_read has not been asked for all that there is."""


_BYTES, _DATA = Form.BYTES, Form.DATA
"""Global names are cheaper than attributes of an Enum."""


def _formed(buffer: Any, size: int, form: Form) -> Buffer:
    if form is _DATA:
        return buffer, size
    return _buffer(buffer, size)[:] if form is _BYTES else _buffer(buffer, size)


class FastEngine:
    """The engine on pyOpenSSL's own binding."""

    __slots__ = ("_early", "_from_ssl", "_into_ssl", "_ssl", "connection")

    can_choose_alerts = True
    can_set_groups = True

    def __init__(self, connection: SSL.Connection) -> None:
        self.connection = connection
        self._ssl = ssl = connection._ssl
        self._into_ssl = connection._into_ssl
        self._from_ssl = connection._from_ssl
        # What decrypt has come to, where read() has to go on from that: plaintext, and what
        # SSL_read said last, or how it was taken.
        self._early: tuple[list[bytes], int | bool | SSL.Error] | None = None
        _lib.SSL_set_options(ssl, SSL.OP_NO_RENEGOTIATION)
        # A memory BIO takes everything, so that one call can write all records; an idle
        # connection needs no record buffers.
        _lib.SSL_clear_mode(ssl, _lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
        _lib.SSL_set_mode(ssl, _lib.SSL_MODE_RELEASE_BUFFERS)

    def feed(self, ciphertext: bytes) -> None:
        if _BIO_write(self._into_ssl, ciphertext, len(ciphertext)) != len(ciphertext):
            # A memory BIO takes everything, as long as there is memory.
            raise MemoryError

    def handshake(self) -> bool:
        _ERR_clear_error()
        result = _SSL_do_handshake(self._ssl)
        if result == 1:
            return True
        if _SSL_get_error(self._ssl, result) != _SSL_ERROR_WANT_READ:
            try:
                self.connection._raise_ssl_error(self._ssl, result)
            except SSL.SysCallError:
                explain_end(self.connection)
                raise
        return False

    def read(self, pieces: list[bytes]) -> bool:
        early, self._early = self._early, None
        if early is not None:
            plaintexts, stop = early
            pieces += plaintexts
            if isinstance(stop, SSL.Error):
                raise stop
            if isinstance(stop, bool):
                return stop
            if stop != _MORE:
                return self._read_stopped(stop)
        # An error that somebody else left in the queue would be taken for ours.
        _ERR_clear_error()
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
                count = _SSL_read(ssl, buffer + filled, ROOM - filled)
                if count <= 0:
                    return self._read_stopped(count)
                filled += count
                # OpenSSL reads no further than the record at hand, and that was returned whole,
                # so that nothing in the BIO is nothing to come: that saves the call which only
                # says so.
                if not _BIO_get_mem_data(self._into_ssl, _NULL):
                    return False
                if filled > ROOM - MAX_RECORD:
                    pieces.append(_buffer(buffer, filled)[:])
                    filled = 0
        finally:
            if filled:
                pieces.append(_buffer(buffer, filled)[:])
            thread.cdata = buffer

    def decrypt(self, ciphertext: Any, count: int, form: Form = Form.BYTES) -> Buffer | None:
        buffer = _thread.cdata
        if count >= _MUCH and buffer is not None and not _BIO_get_mem_data(self._into_ssl, _NULL):
            return self._decrypt_much(ciphertext, count, form)
        if _BIO_write(self._into_ssl, ciphertext, count) != count:
            raise MemoryError
        # There is one SSL_read, and it fills the buffer as the last thing it does: no callback of
        # OpenSSL's comes in between.
        if buffer is None:
            return None
        got = _SSL_read(self._ssl, buffer, BUFFER_SIZE)
        if got <= 0:
            self._early = [], got
            return None
        # Nothing in the BIO is nothing to come, as in read().  Should OpenSSL have written, that
        # goes out before what is encrypted next.
        if not _BIO_get_mem_data(self._into_ssl, _NULL):
            return _formed(buffer, got, form)
        self._early = [_buffer(buffer, got)[:]], _MORE
        return None

    def _decrypt_much(self, ciphertext: Any, count: int, form: Form) -> Buffer | None:
        """
        Decrypt out of where it was received: to be written to, a memory BIO is first filled with
        zeros, and it keeps the size that it grew to.
        """
        ssl, thread = self._ssl, _thread
        buffer, thread.cdata = thread.cdata, None
        received = _BIO_new_mem_buf(ciphertext, count)
        if received == _NULL:
            raise MemoryError
        self._replace_into(received)
        _BIO_set_mem_eof_return(self._into_ssl, -1)
        _ERR_clear_error()
        filled = 0
        stop: int | bool | SSL.Error = _MORE
        try:
            while filled <= ROOM - MAX_RECORD:
                got = _SSL_read(ssl, buffer + filled, ROOM - filled)
                if got <= 0:
                    # This has to be asked as long as OpenSSL has that BIO.
                    stop = self._read_stopped(got)
                    break
                filled += got
        except SSL.Error as error:
            stop = error
        finally:
            left = _BIO_get_mem_data(self._into_ssl, _NULL)
            self._replace_into(_BIO_new(_BIO_s_mem()))
            if left:
                self.feed(copy_of(ciphertext, count)[-left:])
            thread.cdata = buffer
        if stop is False and not _BIO_get_mem_data(self._from_ssl, _NULL):
            return _formed(buffer, filled, form) if filled else b""
        self._early = [_buffer(buffer, filled)[:]] if filled else [], stop
        return None

    def _replace_into(self, into: Any) -> None:
        # The SSL object frees the one that it had.
        _SSL_set_bio(self._ssl, into, self._from_ssl)
        self.connection._into_ssl = self._into_ssl = into

    def encrypt(self, plaintext: Any, count: int) -> Buffer | None:
        buffer = _thread.cdata
        if buffer is None:
            return None
        written = _SSL_write(self._ssl, plaintext, count)
        if written <= 0:
            self._write_stopped(written)
            return None
        size = _BIO_read(self._from_ssl, buffer, ROOM)
        if size < ROOM:
            return _buffer(buffer, size)
        return _buffer(buffer, size)[:] + self.drain()

    def _read_stopped(self, count: int) -> bool:
        error = self._why(count)
        if error == _SSL_ERROR_WANT_READ:
            return False
        if error != _SSL_ERROR_ZERO_RETURN:
            try:
                self.connection._raise_ssl_error(self._ssl, count)
            except SSL.SysCallError:
                if not is_closed(self.connection):
                    raise
        return True

    def write(self, plaintext: bytes) -> int:
        _ERR_clear_error()
        count: int = _SSL_write(self._ssl, plaintext, len(plaintext))
        return count if count > 0 else self._write_stopped(count)

    def _why(self, result: int) -> int:
        """
        Why a call of OpenSSL's has come to this result: an C{SSL_ERROR_} number.

        SSL_get_error(3) takes whatever is in the queue of errors for its own, and to clear that
        before each small message would cost a tenth of it.  So it is looked at here: what OpenSSL's
        TLS has to say is always there, and what is not of TLS, somebody else has left.

        @raise OpenSSL.SSL.Error: it has failed; whatever a callback raised comes out too.
        """
        error: int = _SSL_get_error(self._ssl, result)
        if error == _SSL_ERROR_SSL:
            context = self.connection._context
            for helper in (context._verify_helper, context._alpn_select_helper):
                if helper is not None:
                    # What a callback has raised comes first.
                    helper.raise_if_problem()
            try:
                exception_from_error_queue(SSL.Error)
            except SSL.Error as failure:
                if any(library == "SSL routines" for library, _, _ in failure.args[0]):
                    raise
            error = _SSL_get_error(self._ssl, result)
        return error

    def _write_stopped(self, count: int) -> int:
        if self._why(count) != _SSL_ERROR_WANT_READ:
            self.connection._raise_ssl_error(self._ssl, count)
        return 0

    def drain(self) -> bytes:
        buffer = _thread.cdata
        if buffer is None:
            buffer = _new_buffer()
        count = _BIO_read(self._from_ssl, buffer, ROOM)
        if count < ROOM:
            return _buffer(buffer, count)[:] if count > 0 else b""
        pieces = [_buffer(buffer, count)[:]]
        while count == ROOM:
            count = _BIO_read(self._from_ssl, buffer, ROOM)
            if count > 0:
                pieces.append(_buffer(buffer, count)[:])
        return b"".join(pieces)

    def close(self) -> bool:
        _ERR_clear_error()
        return shut_down(self.connection)

    def forget(self) -> None:
        _SSL_set_shutdown(self._ssl, SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)

    def resumed(self) -> bool:
        return bool(_lib.SSL_session_reused(self._ssl))

    def verification_error(self) -> int | None:
        return _lib.SSL_get_verify_result(self._ssl) or None

    def renew_bios(self) -> bool:
        if _BIO_get_mem_data(self._into_ssl, _NULL) or _BIO_get_mem_data(self._from_ssl, _NULL):
            return False
        into, from_ = _BIO_new(_BIO_s_mem()), _BIO_new(_BIO_s_mem())
        if _NULL in (into, from_):
            # There is no memory for them: those that it has go on.
            _BIO_free(into)
            _BIO_free(from_)
            return False
        # The SSL object takes both over and frees those that it had.
        _SSL_set_bio(self._ssl, into, from_)
        self.connection._into_ssl = self._into_ssl = into
        self.connection._from_ssl = self._from_ssl = from_
        return True


def _fast_set_verification(
    connection: SSL.Connection,
    mode: int,
    check: Check | None,
    again: Check | None = None,
    tolerates: Tolerance | None = None,
) -> None:
    keep_verification(connection, Verification(check, again, tolerates))
    _lib.SSL_set_verify(connection._ssl, mode, _verify_callback)


def _fast_set_groups(context: SSL.Context, names: Sequence[str]) -> None:
    _set_list(context, names, "SSL_CTX_set1_curves_list", "group")


def _fast_set_signature_algorithms(context: SSL.Context, names: Sequence[str]) -> None:
    _set_list(context, names, "SSL_CTX_set1_sigalgs_list", "signature algorithm")


def _fast_hold_names(context: SSL.Context) -> None:
    _lib.SSL_CTX_set_tlsext_servername_callback(context._context, _server_name_callback)


def _fast_share_store(context: SSL.Context, store: crypto.X509Store) -> bool:
    # The context takes over one reference: SSL_CTX_set_cert_store(3).
    _lib.X509_STORE_up_ref(store._store)
    _lib.SSL_CTX_set_cert_store(context._context, store._store)
    return True


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


hold_names = _public_hold_names if PUBLIC_API_ONLY else _fast_hold_names
"""
Have the names in all client hellos of a connection be the one that L{_held} has; where it has none,
have the name kept with the session: TLS 1.2 knows it then when it resumes.
"""


share_store = _public_share_store if PUBLIC_API_ONLY else _fast_share_store
"""Have a context use this store; false where it cannot be told to."""


def engine_for(connection: SSL.Connection) -> Engine:
    """The engine that drives this connection."""
    if PUBLIC_API_ONLY or type(connection) is not SSL.Connection:
        return PublicEngine(connection)
    return FastEngine(connection)
