"""The engine for wherever the names below pyOpenSSL's public API are gone: see L{_openssl}."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL

from ._engine import BUFFER_SIZE, MAX_RECORD, Buffer, Form, copy_of, go_on, is_closed, shut_down
from ._held import held_by
from ._server_flight import resumes_session


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
        done = go_on(self.connection)
        held = held_by(self.connection)
        if held is not None and held.has_changed:
            # Where a session is resumed, the certificate that was taken away was of no use.
            raise SSL.Error([("SSL routines", "", "callback failed")])
        return done

    def read(self, pieces: list[bytes]) -> bool:
        while True:
            try:
                pieces.append(self.connection.recv(BUFFER_SIZE))
            except SSL.WantReadError:
                return False
            except SSL.ZeroReturnError:
                return True
            except SSL.SysCallError:
                if is_closed(self.connection):
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

    def decrypt(self, ciphertext: Any, count: int, form: Form = Form.BYTES) -> Buffer | None:
        self.feed(copy_of(ciphertext, count))
        return None

    def encrypt(self, plaintext: Any, count: int) -> Buffer | None:
        return None

    def close(self) -> bool:
        return shut_down(self.connection)

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
