"""
A TLS client that does what it is told, step by step, and says how the server has taken it.

Each step is a method; L{Client.complete} takes all of them as they should be taken.  Whatever step
the server does not go along with raises L{Ended}, which says how it has ended the connection.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Self

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from tlslite.constants import (
    TLS_1_3_HRR,
    CertificateType,
    ExtensionType,
    HandshakeType,
)
from tlslite.messages import (
    Certificate,
    CertificateRequest,
    CertificateVerify,
    EncryptedExtensions,
    NewSessionTicket,
    NewSessionTicket1_0,
    ServerHello,
    ServerKeyExchange,
)
from tlslite.utils.codec import Parser

from tests.conformance.configurations import BODY
from tests.conformance.hellos import (
    COOKIE,
    KEY_SHARE,
    MASTER_SECRET,
    MODERN,
    PRE_SHARED_KEY,
    TICKET,
    VERSIONS,
    Hello,
    key_shares,
    message,
    vector,
)
from tests.conformance.keys import (
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    SUITES,
    TLS12,
    TLS13,
    Direction,
    Suite,
    agree,
    share,
)
from tests.conformance.wire import LONGEST, Ended, Wire
from tests.tls_material import HOST, Party


@attrs.frozen
class Session:
    """
    What a session is resumed by.

    @ivar secret: the pre-shared key of TLS 1.3, or the master secret of TLS 1.2.
    @ivar ticket: empty where it is resumed by its identifier.
    """

    version: int
    suite: Suite
    secret: bytes
    ticket: bytes
    session_id: bytes = b""
    age_add: int = 0


class Client(Wire):
    """
    One connection to a server.

    @ivar offered: the hello that was sent last.
    @ivar answer: the server's hello.
    @ivar retry: its request for another hello.
    @ivar encrypted: the extensions that TLS 1.3 encrypts.
    @ivar request: what the server wants of our certificate, if it wants one.
    @ivar scheme: what the server has signed by.
    @ivar tickets: the bodies of the messages with tickets.
    @ivar resumed: whether the server has resumed a session.
    @ivar updates: how often it has updated its keys.
    @ivar random: that of our first hello.
    @ivar verify_data: of our finished message of TLS 1.2.
    """

    answer: ServerHello
    suite: Suite

    def __init__(self, ports: Mapping[str, int], where: str) -> None:
        """
        @param ports: those of the server, by the names of its configurations.
        @param where: the name of one of them.
        """
        super().__init__(ports, where)
        self.offered = MODERN
        self.retry: ServerHello | None = None
        self.transcript = b""
        self.random = self.verify_data = b""
        self.encrypted: EncryptedExtensions | None = None
        self.request: CertificateRequest | None = None
        self.certificate: x509.Certificate | None = None
        self.scheme = 0
        self.tickets: list[bytes] = []
        self.resumed = False
        self.updates = 0
        self.offered_session: Session | None = None
        self._messages = b""
        self._secret = self._resumption = b""
        self._server_random = b""
        self._handshake_secrets = self._traffic = (b"", b"")
        self._server_key: tuple[int, bytes] = (0, b"")

    # The handshake

    def hello(self, said: Hello, version: int = 0x0301) -> None:
        """Say hello, in one record."""
        self.record(HANDSHAKE, self.prepared(said), version)

    def prepared(self, said: Hello) -> bytes:
        """The message of a hello, which is then taken to have been said."""
        self.offered = said
        written = said.write()
        self.random = self.random or written[6:38]
        self.transcript += written
        return written

    def say(self, written: bytes) -> None:
        """Send a message of the handshake, in records of its own."""
        self.transcript += written
        for at in range(0, len(written), LONGEST):
            self.record(HANDSHAKE, written[at : at + LONGEST])

    def hear(self) -> tuple[int, bytes]:
        """The kind and the body of the next message of the handshake."""
        while True:
            if len(self._messages) >= 4:
                size = 4 + int.from_bytes(self._messages[1:4], "big")
                if len(self._messages) >= size:
                    heard, self._messages = self._messages[:size], self._messages[size:]
                    self.transcript += heard
                    return heard[0], heard[4:]
            kind, body = self.read()
            if kind != HANDSHAKE:
                raise Ended(f"a record of the kind {kind} in the handshake")
            self._messages += body

    def any_hello(self) -> ServerHello:
        """Take the server's hello, whatever is in it."""
        kind, body = self.hear()
        self._expect(kind, HandshakeType.server_hello)
        return ServerHello().parse(Parser(bytearray(vector(3, body))))

    def server_hello(self) -> ServerHello:
        """Take the server's hello, and what it decides."""
        before = self.transcript
        answer = self.answer = self.any_hello()
        suite = SUITES.get(answer.cipher_suite)
        if suite is None:
            raise Ended(f"a hello with the cipher suite {answer.cipher_suite:#06x}")
        self.suite = suite
        kinds = {each.extType for each in answer.extensions}
        unasked = kinds - {each for each, _ in self.offered.extensions} - {ExtensionType.cookie}
        unasked -= {ExtensionType.renegotiation_info}  # a signal may have asked for it
        if unasked or len(kinds) < len(answer.extensions):
            raise Ended(f"a hello with the extensions {sorted(kinds)}")
        if ExtensionType.supported_versions not in kinds:
            self.version = TLS12
            self._server_random = bytes(answer.random)
            return answer
        if kinds - {VERSIONS, KEY_SHARE, PRE_SHARED_KEY, COOKIE}:
            raise Ended(f"a hello of TLS 1.3 with the extensions {sorted(kinds)}")
        if bytes(answer.session_id) != self.offered.session_id:
            raise Ended("a hello with another session's identifier")
        if answer.random == TLS_1_3_HRR:
            if self.retry is not None:
                raise Ended("a second request for a hello")
            self.retry = answer
            # RFC 8446, section 4.4.1.
            digest = self.suite.digest(before)
            self.transcript = message(254, digest) + self.transcript[len(before) :]
            return answer
        self.version = TLS13
        self._keys_13()
        return answer

    def _keys_13(self) -> None:
        suite = self.suite
        shared = self.answer.getExtension(ExtensionType.key_share).server_share
        chosen = self.answer.getExtension(ExtensionType.pre_shared_key)
        nothing = bytes(suite.size)
        psk = nothing
        if chosen is not None and self.offered_session is not None:
            self.resumed = True
            psk = self.offered_session.secret
        early = suite.hmac(nothing, psk)
        secret = agree(shared.group, bytes(shared.key_exchange))
        self._secret = suite.hmac(suite.derive(early, "derived", b""), secret)
        self._handshake_secrets = (
            suite.derive(self._secret, "c hs traffic", self.transcript),
            suite.derive(self._secret, "s hs traffic", self.transcript),
        )
        self.writer, self.reader = (Direction(suite, each) for each in self._handshake_secrets)

    def flight(self) -> None:
        """Take what the server says after its hello, until it is our turn."""
        if self.version == TLS12:
            self._flight_12()
            return
        while True:
            before = self.transcript
            kind, body = self.hear()
            parser = Parser(bytearray(vector(3, body)))
            if kind == HandshakeType.encrypted_extensions:
                self.encrypted = EncryptedExtensions().parse(parser)
                kinds = {each.extType for each in self.encrypted.extensions}
                if kinds - {each for each, _ in self.offered.extensions}:
                    raise Ended(f"the extensions {sorted(kinds)}")
            elif kind == HandshakeType.certificate_request:
                self.request = CertificateRequest((3, 4)).parse(parser)
            elif kind == HandshakeType.certificate:
                self._certificate(parser, (3, 4))
            elif kind == HandshakeType.certificate_verify:
                signed = CertificateVerify((3, 4)).parse(parser)
                content = _to_sign(self.suite.digest(before), "server")
                self._verify(signed.signatureAlgorithm, bytes(signed.signature), content)
            else:
                self._expect(kind, HandshakeType.finished)
                if body != self.suite.finished(self._handshake_secrets[1], before):
                    raise Ended("a wrong finished message")
                break
        suite = self.suite
        secret = suite.hmac(suite.derive(self._secret, "derived", b""), bytes(suite.size))
        self._secret = secret
        self._traffic = (
            suite.derive(secret, "c ap traffic", self.transcript),
            suite.derive(secret, "s ap traffic", self.transcript),
        )
        self.reader = Direction(suite, self._traffic[1])

    def finish(self, own: Party | None = None) -> None:
        """
        Say what is for us to say, and take the server's end of the handshake.

        @param own: our certificate and its key.
        """
        if self.version == TLS12:
            self._finish_12(own)
            return
        if self.request is not None:
            self.certify(own)
        self.say(self.finished())
        self.begin_traffic()

    def certify(self, own: Party | None) -> None:
        """Show this certificate, or that we have none, and sign."""
        self.say(self.certificate_message(own))
        if own is not None and self.version == TLS13:
            self.say(self.verify_message(own))

    def certificate_message(self, own: Party | None, context: bytes = b"") -> bytes:
        """RFC 8446, section 4.4.2; RFC 5246, section 7.4.2."""
        entries = b""
        for each in () if own is None else own.chain:
            entries += vector(3, each.public_bytes(Encoding.DER))
            entries += vector(2, b"") if self.version == TLS13 else b""
        body = vector(3, entries)
        return message(11, vector(1, context) + body if self.version == TLS13 else body)

    def verify_message(
        self, own: Party, scheme: int = 0x0403, context: str = "client", flip: bool = False
    ) -> bytes:
        """RFC 8446, section 4.4.3; RFC 5246, section 7.4.8; signed by ECDSA and SHA-256."""
        content = self.transcript
        if self.version == TLS13:
            content = _to_sign(self.suite.digest(content), context)
        assert isinstance(own.key, ec.EllipticCurvePrivateKey)
        signature = own.key.sign(content, ec.ECDSA(SHA256()))
        if flip:
            signature = signature[:-1] + bytes([signature[-1] ^ 1])
        return message(15, scheme.to_bytes(2, "big") + vector(2, signature))

    @property
    def group(self) -> int:
        """The group of the server's key of TLS 1.2."""
        return self._server_key[0]

    def finished(self) -> bytes:
        """Our finished message, as it should be now."""
        if self.version == TLS13:
            return message(20, self.suite.finished(self._handshake_secrets[0], self.transcript))
        self.verify_data = self._verify_data(b"client finished")
        return message(20, self.verify_data)

    def begin_traffic(self) -> None:
        """Encrypt with the keys of the application, in TLS 1.3."""
        self._resumption = self.suite.derive(self._secret, "res master", self.transcript)
        self.writer = Direction(self.suite, self._traffic[0])

    # TLS 1.2

    def _flight_12(self) -> None:
        if self._resumes_12():
            self.resumed = True
            assert self.offered_session is not None
            self._secret = self.offered_session.secret
            self.take_end()
            return
        while True:
            kind, body = self.hear()
            parser = Parser(bytearray(vector(3, body)))
            if kind == HandshakeType.certificate:
                self._certificate(parser, (3, 3))
            elif kind == HandshakeType.server_key_exchange:
                made = ServerKeyExchange(self.suite.number, (3, 3)).parse(parser)
                self._server_key = made.named_curve, bytes(made.ecdh_Ys)
                content = self.random + self._server_random + bytes(made.writeParams())
                scheme = made.hashAlg, made.signAlg
                self._verify(scheme, bytes(made.signature), content)
            elif kind == HandshakeType.certificate_request:
                self.request = CertificateRequest((3, 3)).parse(parser)
            else:
                self._expect(kind, HandshakeType.server_hello_done)
                return

    def _resumes_12(self) -> bool:
        session = self.offered_session
        if session is None or session.version != TLS12:
            return False
        said = self.offered.session_id
        return bool(said) and bytes(self.answer.session_id) == said

    def _finish_12(self, own: Party | None) -> None:
        if self.resumed:
            self.change()
            self.say(self.finished())
            return
        if self.request is not None:
            self.certify(own)
        self.exchange_keys()
        if self.request is not None and own is not None:
            self.say(self.verify_message(own))
        self.change()
        self.say(self.finished())
        self.take_end()

    def exchange_keys(self) -> None:
        """Send our key share of TLS 1.2, and come to a secret."""
        group, _ = self._server_key
        self.say(message(16, vector(1, share(group))))
        self.derive_12()

    def derive_12(self) -> None:
        """Come to a secret, after our key share was sent: RFC 5246, section 8.1; RFC 7627."""
        suite = self.suite
        group, theirs = self._server_key
        shared = agree(group, theirs)
        if self.answer.getExtension(MASTER_SECRET) is not None:
            digest = suite.digest(self.transcript)
            self._secret = suite.prf(shared, b"extended master secret", digest, 48)
        else:
            seed = self.random + self._server_random
            self._secret = suite.prf(shared, b"master secret", seed, 48)

    def _directions_12(self) -> tuple[Direction, Direction]:
        suite = self.suite
        size = 12 if suite.number in (0xCCA8, 0xCCA9) else 4
        seed = self._server_random + self.random
        block = suite.prf(self._secret, b"key expansion", seed, 2 * (suite.key_size + size))
        keys, ivs = block[: 2 * suite.key_size], block[2 * suite.key_size :]
        half = suite.key_size
        return (
            Direction(suite, key=keys[:half], iv=ivs[:size]),
            Direction(suite, key=keys[half:], iv=ivs[size:]),
        )

    def change(self, content: bytes = b"\x01") -> None:
        """Change to the agreed keys: RFC 5246, section 7.1."""
        self.record(CHANGE_CIPHER_SPEC, content)
        self.writer, _ = self._directions_12()

    def change_blindly(self) -> None:
        """Change the keys where nobody knows which: what comes next means nothing."""
        self.clear(CHANGE_CIPHER_SPEC, b"\x01")
        self.clear(HANDSHAKE, bytes(40))

    def take_end(self) -> None:
        """Take the server's ticket, if it has one, its change of keys and its finished message."""
        while True:
            kind, body = self.read()
            if kind == CHANGE_CIPHER_SPEC:
                break
            if kind != HANDSHAKE or body[:1] != b"\x04":
                raise Ended(f"a record of the kind {kind} before the change of keys")
            self.transcript += body
            self.tickets.append(body[4:])
        _, self.reader = self._directions_12()
        expected = self._verify_data(b"server finished")
        kind, body = self.hear()
        self._expect(kind, HandshakeType.finished)
        if body != expected:
            raise Ended("a wrong finished message")

    def _verify_data(self, label: bytes) -> bytes:
        return self.suite.prf(self._secret, label, self.suite.digest(self.transcript), 12)

    # What both have

    def _expect(self, kind: int, wanted: int) -> None:
        if kind != wanted:
            raise Ended(f"the message {kind} instead of {wanted}")

    def _certificate(self, parser: Parser, version: tuple[int, int]) -> None:
        chain = Certificate(CertificateType.x509, version).parse(parser).cert_chain
        self.certificate = x509.load_der_x509_certificate(bytes(chain.x509List[0].writeBytes()))

    def _verify(self, scheme: tuple[int, int], signature: bytes, content: bytes) -> None:
        assert self.certificate is not None
        self.scheme = scheme[0] << 8 | scheme[1]
        key = self.certificate.public_key()
        hashes: dict[int, HashAlgorithm] = {4: SHA256(), 5: SHA384(), 6: SHA512()}
        try:
            if isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, content, ec.ECDSA(hashes[scheme[0]]))
                return
            assert isinstance(key, rsa.RSAPublicKey)
            if scheme[0] == 8:
                hash = hashes[scheme[1]]
                pss = padding.PSS(padding.MGF1(hash), hash.digest_size)
                key.verify(signature, content, pss, hash)
            else:
                key.verify(signature, content, padding.PKCS1v15(), hashes[scheme[0]])
        except InvalidSignature:
            raise Ended("a wrong signature") from None

    def complete(self, said: Hello = MODERN, own: Party | None = None) -> Self:
        """All of a handshake, a second hello included if there has to be one."""
        self.hello(said)
        self.server_hello()
        if self.retry is not None and not self.version:
            self.hello(self.retried(said))
            self.server_hello()
        self.flight()
        self.finish(own)
        return self

    def retried(self, said: Hello) -> Hello:
        """The second hello, after the server has asked for one."""
        assert self.retry is not None
        chosen = self.retry.getExtension(ExtensionType.key_share)
        if chosen is None:
            return said
        return said.plus(KEY_SHARE, key_shares(chosen.selected_group)).but(random=self.random)

    def serves(self) -> str:
        """
        Ask for the page, and take it.

        @return: C{"serves"}.
        """
        self.record(APPLICATION_DATA, b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % HOST.encode())
        return self.takes()

    def takes(self) -> str:
        """Take the page, which was asked for."""
        page = b""
        while BODY not in page:
            page += self.take()
        return "serves"

    def take(self) -> bytes:
        """The content of the next record of the application; what else comes is noted."""
        while True:
            kind, body = self.read()
            if kind == APPLICATION_DATA:
                return body
            if kind != HANDSHAKE:
                raise Ended(f"a record of the kind {kind}")
            self._messages += body
            while len(self._messages) >= 4:
                self._note(*self.hear())

    def _note(self, kind: int, body: bytes) -> None:
        if kind == HandshakeType.new_session_ticket:
            self.tickets.append(body)
        elif kind == HandshakeType.key_update:
            assert self.reader is not None
            self.updates += 1
            self.reader.update()
        else:
            raise Ended(f"the message {kind} after the handshake")

    def open_session(
        self, said: Hello = MODERN, own: Party | None = None, where: str | None = None
    ) -> Session:
        """
        Have another connection to the same server, and keep its session.

        @param where: the name of the configuration, if it is another.
        """
        with Client(self.ports, where or self.where) as other:
            other.complete(said, own).serves()
            return other.session()

    def resuming(
        self, said: Hello, session: Session, *, identities: bytes | None = None, flip: bool = False
    ) -> Hello:
        """
        A hello that offers a session, with its binder: RFC 8446, section 4.2.11.

        @param identities: in place of the session's; the binder is of the session all the same.
        @param flip: whether the binder is wrong.
        """
        self.offered_session = session
        suite = session.suite
        if identities is None:
            identities = vector(2, session.ticket) + session.age_add.to_bytes(4, "big")
        binders = vector(2, vector(1, bytes(suite.size)))
        made = said.but(random=said.random or os.urandom(32))
        made = made.less(PRE_SHARED_KEY).plus(PRE_SHARED_KEY, vector(2, identities) + binders)
        truncated = self.transcript + made.write()[: -len(binders)]
        secret = suite.hmac(bytes(suite.size), session.secret)
        binder = suite.finished(suite.derive(secret, "res binder", b""), truncated)
        if flip:
            binder = binder[:-1] + bytes([binder[-1] ^ 1])
        return made.plus(PRE_SHARED_KEY, vector(2, identities) + vector(2, vector(1, binder)))

    def resuming_12(self, said: Hello, session: Session) -> Hello:
        """A hello of TLS 1.2 that offers a session: RFC 5077, section 3.4; RFC 5246, 7.4.1.2."""
        self.offered_session = session
        if not session.ticket:
            return said.but(session_id=session.session_id)
        return said.plus(TICKET, session.ticket).but(session_id=b"\x09" * 32)

    def session(self) -> Session:
        """
        What this session can be resumed by, after the server has served.

        @raise Ended: nothing.
        """
        if self.version == TLS13:
            if not self.tickets:
                raise Ended("no ticket")
            given = NewSessionTicket().parse(Parser(bytearray(vector(3, self.tickets[0]))))
            nonce = bytes(given.ticket_nonce)
            secret = self.suite.expand(self._resumption, "resumption", nonce)
            return Session(
                TLS13, self.suite, secret, bytes(given.ticket), age_add=given.ticket_age_add
            )
        if self.tickets:
            parser = Parser(bytearray(vector(3, self.tickets[0])))
            ticket = bytes(NewSessionTicket1_0().parse(parser).ticket)
            return Session(TLS12, self.suite, self._secret, ticket)
        session_id = bytes(self.answer.session_id)
        return Session(TLS12, self.suite, self._secret, b"", session_id)


def _to_sign(digest: bytes, side: str) -> bytes:
    """RFC 8446, section 4.4.3."""
    return b" " * 64 + f"TLS 1.3, {side} CertificateVerify".encode("ascii") + b"\0" + digest
