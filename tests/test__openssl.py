"""Tests for L{twisted_bioconn._openssl}: the two engines, and the choice between them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from cryptography import x509
from OpenSSL import SSL, _util, crypto
from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase

from tests.engines import EngineCase, on_both_engines
from tests.faults import client_of, flush, meet, server_of
from tests.tls_material import (
    TLS12,
    TLS13,
    VERSIONS,
    client_connection,
    pair,
)
from twisted_bioconn import _engine, _openssl
from twisted_bioconn._engine import ROOM
from twisted_bioconn._openssl import (
    FastEngine,
    engine_for,
)
from twisted_bioconn._public_engine import PublicEngine
from twisted_bioconn.connector import Connector, State
from twisted_bioconn.errors import UsageError
from twisted_bioconn.negotiated import channel_binding

TWINS = ("set_verification", "set_groups", "set_signature_algorithms")


class Without:
    """Something else, but for one name that it has."""

    def __init__(self, whole: object, name: str) -> None:
        self._whole = whole
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            raise AttributeError(name)
        return getattr(self._whole, name)


class ChoiceTests(SynchronousTestCase):
    """Which engine is used is decided when the module is imported."""

    def imported(self) -> ModuleType:
        """The module, imported anew under another name."""
        spec = importlib.util.spec_from_file_location(
            "twisted_bioconn._openssl_anew", _openssl.__file__
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def environment(self, value: str | None) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "BIOCONN_PUBLIC_API"}
        if value is not None:
            environment["BIOCONN_PUBLIC_API"] = value
        self.patch(os, "environ", environment)

    def assertPublic(self, module: ModuleType, have_private_names: bool) -> None:
        self.assertTrue(module.PUBLIC_API_ONLY)
        self.assertEqual(module.HAVE_PRIVATE_NAMES, have_private_names)
        for name in TWINS:
            self.assertIs(getattr(module, name), getattr(module, "_public_" + name))
        connection, _ = pair()
        self.assertIsInstance(module.engine_for(connection), module.PublicEngine)
        self.assertFalse(module.has_extended_master_secret(connection))

    def assertFast(self, module: ModuleType) -> None:
        self.assertFalse(module.PUBLIC_API_ONLY)
        for name in TWINS:
            self.assertIs(getattr(module, name), getattr(module, "_fast_" + name))
        self.assertIsInstance(module.engine_for(pair()[0]), module.FastEngine)

    def test_no_memory_of_cffi(self) -> None:
        """Where there is no cffi any more, a buffer is copied."""
        there = sys.modules["OpenSSL._util"]
        self.addCleanup(sys.modules.__setitem__, "OpenSSL._util", there)
        sys.modules["OpenSSL._util"] = None  # type: ignore[assignment]
        spec = importlib.util.spec_from_file_location(
            "twisted_bioconn._engine_anew", _engine.__file__
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.assertEqual(module.data_of(memoryview(b"data")), b"data")
        self.assertEqual(module.copy_of(b"data", 2), b"da")

    def test_private_names(self) -> None:
        """Where they are, they are used."""
        for value in (None, "", "0"):
            self.environment(value)
            self.assertFast(self.imported())

    def test_environment(self) -> None:
        """C{BIOCONN_PUBLIC_API=1} is enough."""
        self.environment("1")
        self.assertPublic(self.imported(), have_private_names=True)

    def test_no_binding(self) -> None:
        """pyOpenSSL without its module, or the module without its names."""
        self.environment(None)
        modules: dict[str, Any] = sys.modules
        self.addCleanup(modules.__setitem__, "OpenSSL._util", _util)
        for there in (None, ModuleType("OpenSSL._util")):
            modules["OpenSSL._util"] = there
            self.assertPublic(self.imported(), have_private_names=False)

    def test_each_name_of_the_binding(self) -> None:
        """One function less is one too few."""
        self.environment(None)
        for name in _openssl._NEEDED:
            self.patch(_util, "lib", Without(_util.lib, name))
            self.assertPublic(self.imported(), have_private_names=False)
            self.patch(_util, "lib", _util.lib._whole)

    def test_each_name_of_the_connection(self) -> None:
        """The same for the attributes of pyOpenSSL's objects."""
        self.environment(None)
        whole = SSL.Connection, SSL.Context, crypto.X509
        connection, _ = pair()
        for name in ("_ssl", "_into_ssl", "_from_ssl", "_raise_ssl_error", "_reverse_mapping"):
            self.patch(SSL, "Connection", lambda made, name=name: Without(whole[0](made), name))
            module = self.imported()
            self.assertFalse(module.HAVE_PRIVATE_NAMES)
            self.assertTrue(module.PUBLIC_API_ONLY)
        self.patch(SSL, "Connection", lambda made: connection)
        self.patch(SSL, "Context", lambda method: Without(whole[1](method), "_context"))
        self.assertFalse(self.imported().HAVE_PRIVATE_NAMES)
        self.patch(SSL, "Connection", whole[0])
        self.patch(SSL, "Context", whole[1])
        self.patch(crypto, "X509", Without(whole[2], "_from_raw_x509_ptr"))
        self.assertFalse(self.imported().HAVE_PRIVATE_NAMES)

    def test_connection_of_another_class(self) -> None:
        """One that is not pyOpenSSL's own is used through its public methods alone."""

        class Wrapped(SSL.Connection):
            """A wrapper, such as a program may have."""

        class Fake:
            """A test's fake."""

            __slots__ = ()

        for connection in (Wrapped(client_of(TLS12)), Fake()):
            self.assertIsInstance(engine_for(connection), PublicEngine)  # type: ignore[arg-type]
            self.assertFalse(_openssl.has_extended_master_secret(connection))  # type: ignore[arg-type]


@on_both_engines
class TwinTests(EngineCase):
    """What the twin on the public API cannot do, by name; and that the other can."""

    def test_choose_alerts(self) -> None:
        """Refused by a check of ours, the peer is told internal_error and not why."""
        kind = PublicEngine if self.public_api else FastEngine
        self.assertEqual(kind.can_choose_alerts, not self.public_api)

        def refuse(chain: Sequence[x509.Certificate]) -> None:
            raise ValueError("no")

        loop = meet(client_of(TLS13), server_of(TLS13), client_check=refuse)
        loop.pump()
        assert loop.server_error is not None
        self.assertEqual(
            loop.server_error.alert, "internal_error" if self.public_api else "bad_certificate"
        )

    def test_set_groups(self) -> None:
        """OpenSSL's own list stays, with X25519MLKEM768 first."""
        kind = PublicEngine if self.public_api else FastEngine
        self.assertEqual(kind.can_set_groups, not self.public_api)
        made = client_of(TLS13)
        _openssl.set_groups(made, ["secp384r1"])
        loop = meet(made, server_of(TLS13))
        loop.pump()
        facts = loop.client.negotiated
        assert facts is not None
        self.assertEqual(facts.group, "X25519MLKEM768" if self.public_api else "secp384r1")

    def test_set_signature_algorithms(self) -> None:
        """OpenSSL's own list stays."""
        made = client_of(TLS13)
        _openssl.set_signature_algorithms(made, ["rsa_pss_rsae_sha256"])
        loop = meet(made, server_of(TLS13))
        loop.pump()
        self.assertIs(loop.client.state, State.OPEN if self.public_api else State.FAILED)

    def test_names_that_openssl_does_not_know(self) -> None:
        """They are refused by the one, and not seen by the other."""
        made = client_of(TLS13)
        for call, what in (
            (_openssl.set_groups, "group"),
            (_openssl.set_signature_algorithms, "signature algorithm"),
        ):
            if self.public_api:
                call(made, ["X25519", "nonsense"])
                continue
            error = self.assertRaises(ValueError, call, made, ["X25519", "nonsense"])
            self.assertEqual(
                str(error), f"this OpenSSL does not know every {what} of X25519, nonsense"
            )
        # Nothing is left behind for others to stumble over.
        loop = meet(made, server_of(TLS13))
        loop.pump()
        self.assertIs(loop.client.state, State.OPEN)

    def test_renew_bios(self) -> None:
        """The BIOs of bulk traffic stay as large as they grew."""
        for version in VERSIONS:
            loop = self.connectors(*pair(version))
            loop.pump()
            for _ in range(3):
                loop.client.write(bytes(1_000_000))
                loop.server.write(bytes(1_000_000))
                loop.pump()
                self.assertEqual(loop.client.renew_bios(), not self.public_api)
                self.assertEqual(loop.server.renew_bios(), not self.public_api)
            self.assertEqual(loop.received_by_client, bytes(3_000_000))
            self.assertEqual(loop.received_by_server, bytes(3_000_000))

    def test_number_of_a_refusal(self) -> None:
        """Without a verification of ours there is no number."""
        engine = engine_for(client_connection())
        self.assertIs(engine.verification_error(), None)
        made = client_of(TLS13)
        made.set_verify(SSL.VERIFY_PEER)
        loop = meet(made, server_of(TLS13, None))
        loop.pump()
        self.assertIs(loop.client._engine.verification_error(), None)

    def test_exporter_in_tls12(self) -> None:
        """tls-exporter needs to know of the extended master secret (RFC 9266, section 2)."""
        loop = self.connectors(*pair(TLS12))
        loop.pump()
        if self.public_api:
            error = self.assertRaises(UsageError, loop.client.channel_binding)
            self.assertEqual(
                str(error), "tls-exporter needs TLS 1.3, or TLS 1.2 with extended master secret"
            )
        else:
            self.assertEqual(loop.client.channel_binding(), loop.server.channel_binding())
            self.assertTrue(_openssl.has_extended_master_secret(loop.client.connection))
        self.assertEqual(len(channel_binding(loop.client.connection, True, KIND)), 32)


KIND = "tls-server-end-point"


@on_both_engines
class EngineTests(EngineCase):
    """One engine by itself."""

    def opened(self, version: int = TLS13) -> tuple[Connector, Connector]:
        loop = self.connectors(*pair(version))
        loop.pump()
        return loop.client, loop.server

    def test_drain_whole_buffers(self) -> None:
        """What fills the buffer to the last byte is drained, and what is more than that."""
        for size in (0, 1, ROOM - 1, ROOM, ROOM + 1, 3 * ROOM):
            client_, _ = self.opened()
            data = os.urandom(size)
            # Only the private names reach the BIO from this side.
            _util.lib.BIO_write(client_.connection._from_ssl, data, size)
            self.assertEqual(client_._engine.drain(), data)
            self.assertEqual(client_._engine.drain(), b"")

    def test_no_memory_for_a_bio(self) -> None:
        """What OpenSSL has no memory for ends the connection: it is not passed over."""
        for call, result, size, at_once in (
            ("_BIO_write", -1, 10, False),
            ("_BIO_write", 3, 10, True),
            ("_BIO_new_mem_buf", None, 100_000, True),
        ):
            client_, server_ = self.opened()
            server_.write(bytes(size))
            ciphertext = flush(server_)
            engine = client_._engine
            if isinstance(engine, PublicEngine):
                return
            patcher = MonkeyPatcher(
                (_openssl, call, lambda *_, result=result: result or _openssl._NULL)
            )
            given = (ciphertext, len(ciphertext))
            patcher.runWithPatches(
                self.assertRaises,
                MemoryError,
                *((engine.decrypt, *given) if at_once else (engine.feed, ciphertext)),
            )

    def test_no_memory_for_fresh_bios(self) -> None:
        """Then those that are there go on."""
        client_, server_ = self.opened()
        if isinstance(client_._engine, PublicEngine):
            return
        new, left = _openssl._BIO_new, 1

        def some(method: Any) -> Any:
            nonlocal left
            left -= 1
            return new(method) if left >= 0 else _openssl._NULL

        self.patch(_openssl, "_BIO_new", some)
        self.assertFalse(client_._engine.renew_bios())
        client_.feed(flush(server_))
        server_.write(b"hello")
        client_.feed(flush(server_))
        self.assertEqual(client_.read(), b"hello")

    def test_write_after_forget(self) -> None:
        """OpenSSL refuses to go on after it was told that all is over; that is an error."""
        for version in VERSIONS:
            client_, _ = self.opened(version)
            client_.forget()
            error = self.assertRaises(SSL.Error, client_._engine.write, b"more")
            self.assertIn("protocol is shutdown", str(error))

    def test_no_side(self) -> None:
        """A connection that was not told which side it is can neither begin nor close."""
        for call in ("handshake", "close"):
            engine = engine_for(SSL.Connection(client_of(TLS13)))
            self.assertRaises(SSL.Error, getattr(engine, call))

    def test_read_and_write_of_a_socket(self) -> None:
        """OpenSSL's word for the end of a socket is passed on, where it is no close_notify."""

        class Cut(SSL.Connection):
            """It finds its socket at an end."""

            def do_handshake(self) -> None:
                raise SSL.SysCallError(-1, "Unexpected EOF")

            def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
                raise SSL.SysCallError(-1, "Unexpected EOF")

        engine = PublicEngine(Cut(client_of(TLS13)))
        self.assertRaises(SSL.SysCallError, engine.handshake)
        self.assertRaises(SSL.SysCallError, engine.read, [])
        cut = Cut(client_of(TLS13))
        cut.set_connect_state()
        connector = Connector(cut, True)
        self.assertRaises(SSL.Error, connector.take)
        self.assertEqual(str(connector.error), "the connection ended in mid-handshake")

    def test_error_of_the_system(self) -> None:
        """The same for the engine that asks OpenSSL itself."""
        client_, _ = self.opened()

        def fail(*_: object) -> None:
            raise SSL.SysCallError(-1, "Unexpected EOF")

        self.patch(SSL.Connection, "_raise_ssl_error", fail)
        self.patch(_openssl, "_SSL_get_error", lambda *_: _util.lib.SSL_ERROR_SYSCALL)
        engine = client_._engine
        engine.feed(b"\x17")
        self.assertRaises(SSL.SysCallError, engine.read, [])

    def test_end_in_the_handshake(self) -> None:
        """What OpenSSL calls an error in the handshake is the peer's close, where that has come."""

        def fail(*_: object) -> None:
            raise SSL.SysCallError(-1, "Unexpected EOF")

        self.patch(SSL.Connection, "_raise_ssl_error", fail)
        self.patch(_openssl, "_SSL_get_error", lambda *_: _util.lib.SSL_ERROR_SYSCALL)
        for closed, kind in ((False, SSL.SysCallError), (True, SSL.ZeroReturnError)):
            self.patch(_engine, "is_closed", lambda _, closed=closed: closed)
            self.assertRaises(kind, FastEngine(pair()[0]).handshake)

    def test_failing_write(self) -> None:
        """An engine that cannot write says why."""
        client_, _ = self.opened()

        def fail(*_: object) -> None:
            raise SSL.Error([("SSL routines", "", "odd thing")])

        self.patch(_openssl, "_SSL_write", lambda *_: -1)
        self.patch(_openssl, "_SSL_get_error", lambda *_: _util.lib.SSL_ERROR_SYSCALL)
        self.patch(SSL.Connection, "_raise_ssl_error", fail)
        self.assertRaises(SSL.Error, client_._engine.write, b"x")
        if not self.public_api:
            self.assertRaises(SSL.Error, client_._engine.encrypt, b"x", 1)

    def test_fake(self) -> None:
        """A fake whose methods return nothing is fed all the same; one with no more is drained."""
        written: list[bytes] = []

        class Fake:
            """Takes everything and says nothing."""

            def bio_write(self, data: bytes) -> None:
                written.append(bytes(data))

        engine = PublicEngine(Fake())  # type: ignore[arg-type]
        engine.feed(b"")
        engine.feed(b"hello")
        self.assertEqual(written, [b"hello"])
        self.assertEqual(engine.drain(), b"")

    def test_interrupted(self) -> None:
        """What is no Exception, such as an interrupt, leaves the connector usable."""
        client_, server_ = self.opened()
        engine = client_._engine

        class Interrupted:
            """An engine that is interrupted, once."""

            def __init__(self) -> None:
                self.due = {"read", "encrypt", "handshake"}

            def __getattr__(self, name: str) -> Any:
                if name in self.due:
                    self.due.discard(name)
                    return self.interrupt
                return getattr(engine, name)

            def interrupt(self, *_: object) -> None:
                raise KeyboardInterrupt

        client_._engine = Interrupted()
        self.assertRaises(KeyboardInterrupt, client_.read)
        self.assertFalse(client_.inside_openssl)
        client_.write(b"lost")
        self.assertRaises(KeyboardInterrupt, client_.take)
        self.assertFalse(client_.inside_openssl)
        client_.write(b"sent")
        server_.feed(flush(client_))
        self.assertEqual(server_.read(), b"sent")
        fresh = self.connectors(*pair()).client
        engine = fresh._engine
        fresh._engine = Interrupted()
        self.assertRaises(KeyboardInterrupt, fresh.start_handshake)
        self.assertFalse(fresh.inside_openssl)

    def test_failing_after_the_read(self) -> None:
        """An engine that cannot write what a read has set free: what was read is not lost."""
        for plaintext in (b"plaintext", b""):
            client_, server_ = self.opened()
            server_.write(plaintext)
            client_.feed(flush(server_))
            engine = client_._engine

            class Failing:
                """An engine that takes nothing, then fails."""

                taken = 0

                def __getattr__(self, name: str, engine: Any = engine) -> Any:
                    return getattr(engine, name)

                def encrypt(self, data: bytes, count: int) -> None:
                    """Nothing is done."""

                def write(self, data: bytes) -> int:
                    self.taken += 1
                    if self.taken > 1:
                        raise SSL.Error([("SSL routines", "", "odd thing")])
                    return 0

            client_._engine = Failing()
            client_.write(b"blocked")
            self.assertEqual(client_.take(), b"")
            self.assertEqual(client_.read(), plaintext)
            self.assertTrue(client_.wants_write)
            error = self.assertRaises(SSL.Error, client_.take)
            self.assertEqual(str(error), "odd thing")

    def test_failing_close(self) -> None:
        """An engine that cannot close fails the connection."""
        client_, _ = self.opened()
        engine = client_._engine

        class Failing:
            """An engine that cannot close."""

            def __getattr__(self, name: str) -> Any:
                return getattr(engine, name)

            def close(self) -> bool:
                raise SSL.Error(["not", "a", "queue"])

        client_._engine = Failing()
        error = self.assertRaises(SSL.Error, client_.close)
        self.assertEqual(str(error), "the peer broke the TLS protocol")
        self.assertIs(client_.state, State.FAILED)
