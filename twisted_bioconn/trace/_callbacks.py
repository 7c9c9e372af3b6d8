"""
What OpenSSL tells of a connection by its callbacks, brought to the recorder of that connection.

Contexts are shared, so a callback finds the recorder by the connection that OpenSSL names.  There
is one callback of each kind for all, it lives as long as the process, and nothing that goes wrong
in it leaves it.

OpenSSL copies the message callback of a context to each connection that is made
(SSL_CTX_set_msg_callback(3)), and has bindings to set it on a context alone.  So it is set for just
as long as a connection is made: others of that context have none.
"""

from __future__ import annotations

from inspect import unwrap
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from OpenSSL import SSL

from .. import _openssl
from .._engine import kept_on

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["attend", "log_keys", "new_connection", "shows_messages"]

_NAME = "_bioconn_recorder"
"""Where a connection has its recorder: see L{_verification<twisted_bioconn._verification>}."""

_HANDSHAKE, _ALERT, _HEADER = 22, 21, 256
"""What OpenSSL shows: SSL_CTX_set_msg_callback(3)."""

_CHANGE_CIPHER_SPEC = b"\x14"

_STATE_CHANGES = SSL.SSL_CB_LOOP
_ALERT_READ = SSL.SSL_CB_READ_ALERT
_ALERT_WRITTEN = SSL.SSL_CB_WRITE_ALERT


def _recorder_of(connection: Any) -> Recorder | None:
    recorder: Recorder | None = kept_on(connection, _NAME)
    return recorder


try:
    from OpenSSL._util import ffi as _ffi
    from OpenSSL._util import lib as _lib

    _HAVE_MESSAGES = all(
        hasattr(_lib, name) for name in ("SSL_CTX_set_msg_callback", "SSL_set_info_callback")
    )
except ImportError:
    _HAVE_MESSAGES = False


if _HAVE_MESSAGES:

    def _silent(*_: Any) -> None:
        """cffi would print what a callback has raised."""

    def _recorder_at(ssl: Any) -> Recorder | None:
        return _recorder_of(SSL.Connection._reverse_mapping.get(ssl))

    @_ffi.callback("void (*)(int, int, int, void *, size_t, SSL *, void *)", onerror=_silent)  # type: ignore[untyped-decorator]
    def _message_callback(
        written: int, _: int, kind: int, data: Any, size: int, ssl: Any, __: Any
    ) -> None:
        if kind not in (_HANDSHAKE, _ALERT, _HEADER):
            return
        recorder = _recorder_at(ssl)
        if recorder is None:
            return
        content = bytes(_ffi.buffer(data, size))
        if kind == _HANDSHAKE:
            recorder.message(bool(written), content)
        elif kind == _HEADER:
            # The message itself is not shown where TLS 1.2 has received it.
            if content[:1] == _CHANGE_CIPHER_SPEC:
                recorder.change_cipher_spec(bool(written))
        elif size == 2:
            recorder.alert(bool(written), content[0], content[1])

    @_ffi.callback("void (*)(const SSL *, int, int)", onerror=_silent)  # type: ignore[untyped-decorator]
    def _info_callback(ssl: Any, where: int, _: int) -> None:
        if where & _STATE_CHANGES:
            recorder = _recorder_at(ssl)
            if recorder is not None:
                recorder.openssl_state(_ffi.string(_lib.SSL_state_string_long(ssl)).decode())


def shows_messages() -> bool:
    """Whether OpenSSL can be made to show its messages."""
    return _HAVE_MESSAGES and not _openssl.PUBLIC_API_ONLY


_told: WeakSet[SSL.Context] = WeakSet()
"""Contexts whose connections tell L{_public_info} what happens."""


def _public_info(connection: SSL.Connection, where: int, result: int) -> None:
    recorder = _recorder_of(connection)
    if recorder is None:
        return
    try:
        if where & _STATE_CHANGES:
            recorder.openssl_state(connection.get_state_string().decode("ascii", "replace"))
        elif where in (_ALERT_READ, _ALERT_WRITTEN):
            recorder.alert(where == _ALERT_WRITTEN, result >> 8 & 0xFF, result & 0xFF)
    except Exception as error:
        recorder.not_shown(f"an event of OpenSSL's: {error}")


def new_connection(context: SSL.Context) -> SSL.Connection:
    """Make a connection that shows its messages, as far as OpenSSL can be made to."""
    if shows_messages():
        _lib.SSL_CTX_set_msg_callback(context._context, _message_callback)
        try:
            return SSL.Connection(context)
        finally:
            _lib.SSL_CTX_set_msg_callback(context._context, _ffi.NULL)
    # There is one for a context, and this one asks each connection whether it is traced.  Somebody
    # else's is left in its place.
    if context not in _told and getattr(context, "_info_callback", None) is None:
        unwrap(SSL.Context.set_info_callback)(context, _public_info)
        _told.add(context)
    return SSL.Connection(context)


def attend(connection: SSL.Connection, recorder: Recorder) -> None:
    """Have a connection that was made by L{new_connection} tell this recorder."""
    setattr(connection, _NAME, recorder)
    if shows_messages():
        _lib.SSL_set_info_callback(connection._ssl, _info_callback)


_logging: WeakSet[SSL.Context] = WeakSet()


def log_keys(connection: SSL.Connection) -> None:
    """
    Have a connection's recorder told its keys.

    The callback is the context's, from now on, and asks each connection whether it is to be told
    of; one that was there is called as before.
    """
    context = connection.get_context()
    if context in _logging:
        return
    before = getattr(context, "_keylog_callback", None)

    def log(logged: SSL.Connection, line: bytes) -> None:
        recorder = _recorder_of(logged)
        if recorder is not None:
            recorder.secret(line.decode("ascii", "replace"))
        if before is not None:
            before(logged._ssl, line)

    # pyOpenSSL lets nobody change a context that has made connections; this does those no harm.
    unwrap(SSL.Context.set_keylog_callback)(context, log)
    _logging.add(context)
