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
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from cryptography import x509
from OpenSSL import SSL, crypto

BUFFER_SIZE = 256 * 1024
"""
Bytes decrypted or drained in one go.  Larger than the cache halves the throughput, smaller
costs a join more.
"""

MAX_RECORD = 16 * 1024
"""Bytes of plaintext in one record at most: RFC 8446, section 5.1."""

Check = Callable[[Sequence[x509.Certificate]], None]
"""Looks at a chain (leaf first) that OpenSSL has found good, and raises where it is refused."""

HOSTNAME_MISMATCH = 62
CERTIFICATE_REJECTED = 28
"""C{X509_V_ERR_} numbers of our own refusals: both send the alert bad_certificate."""


class Verification:
    """
    What became of the verification of one connection's peer.

    @ivar check: what is asked once OpenSSL has found the chain good.
    @ivar again: what is asked in its place of a resumed session, at which OpenSSL verifies
        nothing.
    @ivar code: the C{X509_V_ERR_} number of the refusal, 0 where there was none.
    @ivar certificate: the certificate that was refused.
    @ivar failure: the exception with which C{check} refused it, if it was C{check}.
    """

    __slots__ = ("_seen", "again", "certificate", "check", "code", "failure")

    def __init__(self, check: Check | None, again: Check | None = None) -> None:
        self.check = check
        self.again = again or check
        self.code = 0
        self.certificate: x509.Certificate | None = None
        self.failure: BaseException | None = None
        self._seen: dict[int, x509.Certificate] = {}

    def step(self, ok: bool, code: int, depth: int, certificate: x509.Certificate) -> int:
        """
        One call of OpenSSL's verify callback, which comes from the root to the leaf.

        @return: the C{X509_V_ERR_} number with which to refuse the chain, 0 to go on.
        """
        if not ok:
            self.code = code or CERTIFICATE_REJECTED
            self.certificate = certificate
            return self.code
        self._seen[depth] = certificate
        if depth == 0:
            chain = [self._seen[at] for at in sorted(self._seen)]
            self._seen = {}
            self._ask(self.check, chain)
        return self.code

    def ask_again(self, chain: Sequence[x509.Certificate]) -> bool:
        """
        Judge the peer of a resumed session.

        @return: whether it is refused.
        """
        self._ask(self.again, chain)
        return self.failure is not None

    def _ask(self, check: Check | None, chain: Sequence[x509.Certificate]) -> None:
        """Whatever the check raises is a refusal: this fails closed."""
        if check is None:
            return
        try:
            check(chain)
        except BaseException as failure:
            self.certificate = chain[0]
            self.failure = failure
            self.code = getattr(failure, "x509_error", CERTIFICATE_REJECTED)


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

    def close(self) -> None:
        """Make OpenSSL send close_notify."""

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


_verifications: WeakKeyDictionary[SSL.Connection, Verification] = WeakKeyDictionary()


def verification_of(connection: SSL.Connection) -> Verification | None:
    """What L{set_verification} set on this connection."""
    try:
        return _verifications.get(connection)
    except TypeError:
        # A connection of somebody else's making need not be hashable or weakly referable.
        return None


SessionKeeper = Callable[[SSL.Session], None]
"""Keeps a session for the next connection to the same peer."""

_keepers: WeakKeyDictionary[SSL.Connection, SessionKeeper] = WeakKeyDictionary()


def keep_session(connection: SSL.Connection, keeper: SessionKeeper) -> None:
    """Have the session of this client's connection kept, once it has one worth keeping."""
    _keepers[connection] = keeper


def session_keeper_of(connection: SSL.Connection) -> SessionKeeper | None:
    """What L{keep_session} set on this connection."""
    try:
        return _keepers.get(connection)
    except TypeError:
        return None


class PublicEngine:
    """The engine on public methods of L{OpenSSL.SSL.Connection} alone."""

    __slots__ = ("_hello", "connection")

    can_choose_alerts = False
    can_set_groups = False

    def __init__(self, connection: SSL.Connection) -> None:
        self.connection = connection
        self._hello = bytearray()
        if isinstance(connection, SSL.Connection):
            connection.set_options(SSL.OP_NO_RENEGOTIATION)

    def feed(self, ciphertext: bytes) -> None:
        view = memoryview(ciphertext)
        while view:
            view = view[self.connection.bio_write(view) or len(view) :]
        self._notice(ciphertext)

    def handshake(self) -> bool:
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        return True

    def read(self, pieces: list[bytes]) -> bool:
        while True:
            try:
                pieces.append(self.connection.recv(BUFFER_SIZE))
            except SSL.WantReadError:
                return False
            except SSL.ZeroReturnError:
                return True

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
        self._notice(ciphertext)
        return ciphertext

    def close(self) -> None:
        self.connection.shutdown()

    def forget(self) -> None:
        self.connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)

    def resumed(self) -> bool:
        return _hello_resumes(bytes(self._hello))

    def verification_error(self) -> int | None:
        return None

    def renew_bios(self) -> bool:
        return False

    def _notice(self, ciphertext: bytes) -> None:
        """
        Keep the start of what the server sends: there is no public call that tells whether a
        session was resumed, but the server's first flight does, and it is in the clear.
        """
        kept = self._hello
        if len(kept) < MAX_RECORD and (
            kept or (ciphertext[:1] == b"\x16" and ciphertext[5:6] == b"\x02")
        ):
            kept += ciphertext[: MAX_RECORD - len(kept)]


def _hello_resumes(flight: bytes) -> bool:
    """
    Whether this server flight resumes a session: in TLS 1.3 the server hello has the extension
    pre_shared_key (RFC 8446, section 4.2.11); in TLS 1.2 there is no certificate in the flight
    (RFC 5246, section 7.3).
    """
    messages = bytearray()
    at = 0
    while flight[at : at + 1] == b"\x16":
        size = int.from_bytes(flight[at + 3 : at + 5], "big")
        messages += flight[at + 5 : at + 5 + size]
        at += 5 + size
    kinds: list[int] = []
    at = 0
    while at + 4 <= len(messages):
        kind, size = messages[at], int.from_bytes(messages[at + 1 : at + 4], "big")
        kinds.append(kind)
        body = bytes(messages[at + 4 : at + 4 + size])
        if kind == 2:
            extensions = _server_hello_extensions(body)
            # 43 is supported_versions: this is TLS 1.3; 41 is pre_shared_key.
            if 43 in extensions and body[2:34] != _RETRY_RANDOM:
                return 41 in extensions
        at += 4 + size
    return 2 in kinds and 11 not in kinds


_RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""By this random a server hello is a HelloRetryRequest: RFC 8446, section 4.1.3."""


def _server_hello_extensions(body: bytes) -> set[int]:
    """The numbers of the extensions in a server hello: RFC 8446, section 4.1.3."""
    at = 2 + 32
    at += 1 + (body[at] if at < len(body) else 0)
    at += 2 + 1  # the cipher suite and the compression method
    end = at + 2 + int.from_bytes(body[at : at + 2], "big")
    at += 2
    found = set()
    while at + 4 <= min(end, len(body)):
        found.add(int.from_bytes(body[at : at + 2], "big"))
        at += 4 + int.from_bytes(body[at + 2 : at + 4], "big")
    return found


def _public_set_verification(
    connection: SSL.Connection, mode: int, check: Check | None, again: Check | None = None
) -> None:
    verification = Verification(check, again)
    _verifications[connection] = verification

    def verify(_: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int) -> bool:
        return not verification.step(bool(ok), code, depth, certificate.to_cryptography())

    connection.set_verify(mode, verify)


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
        "SSL_set_bio SSL_set_mode "
        "SSL_set_verify SSL_write X509_STORE_CTX_get_current_cert X509_STORE_CTX_get_error "
        "X509_STORE_CTX_get_error_depth X509_STORE_CTX_get_ex_data X509_STORE_CTX_set_error "
        "X509_up_ref"
    ).split()
    _missing = [name for name in _NEEDED if not hasattr(_lib, name)]
    _probe = SSL.Connection(SSL.Context(SSL.TLS_METHOD))
    _missing += [
        name
        for name in ("_ssl", "_into_ssl", "_from_ssl", "_raise_ssl_error", "_reverse_mapping")
        if not hasattr(_probe, name)
    ]
    if not hasattr(crypto.X509, "_from_raw_x509_ptr"):
        _missing.append("_from_raw_x509_ptr")
    HAVE_PRIVATE_NAMES = not _missing
    del _probe
except (ImportError, AttributeError):
    HAVE_PRIVATE_NAMES = False


class _ThreadBuffer(threading.local):
    """A buffer for each thread, made when the thread first needs it."""

    def __init__(self) -> None:
        self.cdata = _ffi.new("char[]", BUFFER_SIZE)


if HAVE_PRIVATE_NAMES:
    _thread = _ThreadBuffer()
    _buffer = _ffi.buffer
    _NULL = _ffi.NULL
    _BIO_get_mem_data = _lib.BIO_get_mem_data
    _BIO_read = _lib.BIO_read
    _BIO_write = _lib.BIO_write
    _ERR_clear_error = _lib.ERR_clear_error
    _SSL_read = _lib.SSL_read
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
            verification = _verifications[SSL.Connection._reverse_mapping[ssl]]
            raw = _lib.X509_STORE_CTX_get_current_cert(store_context)
            _lib.X509_up_ref(raw)
            certificate = crypto.X509._from_raw_x509_ptr(raw).to_cryptography()
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

    __slots__ = ("_from_ssl", "_into_ssl", "_ssl", "connection")

    can_choose_alerts = True
    can_set_groups = True

    def __init__(self, connection: SSL.Connection) -> None:
        self.connection = connection
        self._ssl = ssl = connection._ssl
        self._into_ssl = connection._into_ssl
        self._from_ssl = connection._from_ssl
        connection.set_options(SSL.OP_NO_RENEGOTIATION)
        # A memory BIO takes everything, so that one call can write all records; an idle
        # connection needs no record buffers.
        _lib.SSL_clear_mode(ssl, _lib.SSL_MODE_ENABLE_PARTIAL_WRITE)
        _lib.SSL_set_mode(ssl, _lib.SSL_MODE_RELEASE_BUFFERS)

    def feed(self, ciphertext: bytes) -> None:
        _BIO_write(self._into_ssl, ciphertext, len(ciphertext))

    def handshake(self) -> bool:
        _ERR_clear_error()
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return False
        return True

    def read(self, pieces: list[bytes]) -> bool:
        # An error that somebody else left in the queue would be taken for ours.
        _ERR_clear_error()
        ssl = self._ssl
        buffer = _thread.cdata
        filled = 0
        while True:
            count = _SSL_read(ssl, buffer + filled, BUFFER_SIZE - filled)
            if count <= 0:
                if filled:
                    pieces.append(_buffer(buffer, filled)[:])
                return self._read_stopped(count)
            filled += count
            # OpenSSL reads no further than the record at hand, and that was returned whole, so
            # that nothing in the BIO is nothing to come: that saves the call which only says so.
            if not _BIO_get_mem_data(self._into_ssl, _NULL):
                pieces.append(_buffer(buffer, filled)[:])
                return False
            if filled > BUFFER_SIZE - MAX_RECORD:
                pieces.append(_buffer(buffer, filled)[:])
                filled = 0

    def _read_stopped(self, count: int) -> bool:
        try:
            self.connection._raise_ssl_error(self._ssl, count)
        except SSL.WantReadError:
            return False
        except SSL.ZeroReturnError:
            return True
        return False

    def write(self, plaintext: bytes) -> int:
        _ERR_clear_error()
        count: int = _SSL_write(self._ssl, plaintext, len(plaintext))
        if count <= 0:
            with suppress(SSL.WantReadError):
                self.connection._raise_ssl_error(self._ssl, count)
            return 0
        return count

    def drain(self) -> bytes:
        buffer = _thread.cdata
        count = _BIO_read(self._from_ssl, buffer, BUFFER_SIZE)
        if count < BUFFER_SIZE:
            return _buffer(buffer, count)[:] if count > 0 else b""
        pieces = [_buffer(buffer, count)[:]]
        while count == BUFFER_SIZE:
            count = _BIO_read(self._from_ssl, buffer, BUFFER_SIZE)
            if count > 0:
                pieces.append(_buffer(buffer, count)[:])
        return b"".join(pieces)

    def close(self) -> None:
        _ERR_clear_error()
        self.connection.shutdown()

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
    _verifications[connection] = Verification(check, again)
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
