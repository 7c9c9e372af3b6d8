"""L{AcmeSource} and C{pebble}, over real ports, with each kind of challenge."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from typing import Any

from OpenSSL.crypto import X509, PKey
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, serverFromString
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.certificates.acme.pebble import Names, Pebble, start_pebble
from tests.peers.processes import free_port
from twisted_bioconn.certificates.acme.authorities import Authority
from twisted_bioconn.certificates.acme.challenges import Solver, TlsAlpn01Solver
from twisted_bioconn.certificates.acme.client import ExternalAccount
from twisted_bioconn.certificates.acme.dns_challenge import CommandHook, Dns01Solver, DnsRecords
from twisted_bioconn.certificates.acme.http_challenge import Http01Solver
from twisted_bioconn.certificates.acme.source import AcmeSource
from twisted_bioconn.certificates.directory_store import DirectoryStore
from twisted_bioconn.certificates.loading import CertifiedKey, issued
from twisted_bioconn.certificates.source import Choice
from twisted_bioconn.certificates.store import Store
from twisted_bioconn.hello import ClientHello, HelloReader

reactor: Any = installed

NAME = "www.example.org"

PATIENCE = 500.0
"""Seconds that a wait may take: what takes longer never ends."""

HOOK = """#!/bin/sh
# Has the test's name server know a record: a file for each.
case "$1" in
    set) echo "$2" > "$0.$3" ;;
    unset) rm "$0.$3" ;;
esac
"""


class ByHello(Protocol):
    """Reads a hello, and goes on with what the source has for it."""

    factory: ByHelloFactory

    def connectionMade(self) -> None:
        self.reader = HelloReader()
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        hello = self.reader.feed(data)
        if hello is None:
            return
        transport: Any = self.transport
        assert self.factory.source is not None
        choice = self.factory.source.find(hello)
        if not isinstance(choice, Choice):
            transport.abortConnection()
            return
        self.factory.served.append((hello.server_name, choice.ends_with_handshake))
        found = choice.certificate
        options = CertificateOptions(
            privateKey=PKey.from_cryptography_key(found.key),
            certificate=X509.from_cryptography(found.leaf),
            extraCertChain=[X509.from_cryptography(each) for each in found.intermediates],
            acceptableProtocols=None if choice.alpn is None else [choice.alpn],
        )
        self.dataReceived = lambda data: None  # type: ignore[method-assign]
        transport.startTLS(options)
        transport.protocol.dataReceived(self.received)


class ByHelloFactory(Factory):
    """
    A server that has a source.

    @ivar served: the names that were asked for, and whether it was for a challenge.
    """

    noisy = False

    def __init__(self) -> None:
        self.protocol = ByHello  # type: ignore[assignment]
        self.source: AcmeSource | None = None
        self.served: list[tuple[str | None, bool]] = []


class SourceCase(TestCase):
    """What tests with pebble do over and over."""

    timeout = 600

    def setUp(self) -> None:
        self.directory = self.mktemp()
        self.names = Names()

    def source(
        self, pebble: Pebble, solvers: Sequence[Solver], *names: str, **options: Any
    ) -> AcmeSource:
        store: Store = options.pop("store", None) or DirectoryStore(reactor, self.directory)
        self.addCleanup(store.close)
        eab = options.pop("eab", None)
        source = AcmeSource(
            names or [NAME],
            contact=["ops@example.org"],
            authorities=[Authority(pebble.directory_url, trust_roots=pebble.trust_roots, eab=eab)],
            store=store,
            challenges=solvers,
            **options,
        )
        source.start(reactor)
        self.addCleanup(source.stop)
        return source

    async def served(self, source: AcmeSource, name: str = NAME) -> CertifiedKey:
        """What is served when it is an authority's."""
        for _ in range(5000):
            choice = source.find(ClientHello(server_name=name))
            assert isinstance(choice, Choice)
            found = choice.certificate
            if found.leaf.issuer != found.leaf.subject:
                return found
            error = source.facts()[0].last_error
            if error is not None:
                raise AssertionError(error)
            await deferLater(reactor, 0.1)
        raise AssertionError("no certificate, and no reason")

    async def until(self, condition: Callable[[], bool]) -> None:
        end = reactor.seconds() + PATIENCE
        while not condition():
            if reactor.seconds() > end:
                raise AssertionError("it does not come about")
            # Some of what is waited for does not last.
            await deferLater(reactor, 0.02)

    async def finished(self, source: AcmeSource) -> None:
        """Wait until what is left to be tidied up is, too."""
        keeper: Any = source._keeper
        await self.until(lambda: keeper._work is None)

    def assertTidy(self) -> None:
        """Nothing is left of the order, and nobody else can read what is kept."""
        kept = []
        for path, _, files in os.walk(self.directory):
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o700)
            for each in files:
                file = os.path.join(path, each)
                self.assertEqual(stat.S_IMODE(os.stat(file).st_mode), 0o600)
                kept.append(os.path.relpath(file, self.directory))
        self.assertEqual([each for each in kept if "orders" in each or "challenges" in each], [])
        self.assertEqual(len([each for each in kept if "certificates" in each]), 1)
        self.assertEqual(len([each for each in kept if "accounts" in each]), 1)


class TlsAlpnCase(SourceCase):
    """A test with a TLS server, which has what a source has for each hello."""

    async def start(self, **options: Any) -> tuple[Pebble, ByHelloFactory]:
        server = ByHelloFactory()
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = await endpoint.listen(server)
        self.addCleanup(port.stopListening)
        pebble = await start_pebble(self, tls_port=port.getHost().port, names=self.names, **options)
        return pebble, server


class TlsAlpnTests(TlsAlpnCase):
    """C{tls-alpn-01}."""

    async def test_obtained(self) -> None:
        """Several names and an address, with half of all nonces refused."""
        pebble, server = await self.start(nonce_reject=50, authorization_reuse=0)
        names = (NAME, "example.org", "127.0.0.1")
        server.source = self.source(pebble, [TlsAlpn01Solver()], *names)
        found = await self.served(server.source)
        self.assertEqual(set(found.names), set(names))
        self.assertTrue(issued(await pebble.root(), found.chain[-1]))
        asked = {name for name, ends in server.served if ends}
        self.assertEqual(asked, {NAME, "example.org", "1.0.0.127.in-addr.arpa"})
        await self.finished(server.source)
        self.assertTidy()

    async def test_restarted(self) -> None:
        """The certificate and the account are there after a restart, and nothing is ordered."""
        pebble, server = await self.start()
        server.source = self.source(pebble, [TlsAlpn01Solver()])
        found = await self.served(server.source)
        await server.source.stop()
        before = len(server.served)
        again = self.source(pebble, [TlsAlpn01Solver()])
        self.assertEqual((await self.served(again)).leaf, found.leaf)
        self.assertEqual(len(server.served), before)

    async def test_external_account(self) -> None:
        text = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
        pebble, server = await self.start(eab={"kid-1": text})
        eab = ExternalAccount.from_text("kid-1", text)
        server.source = self.source(pebble, [TlsAlpn01Solver()], eab=eab)
        await self.served(server.source)

    async def test_two_fronts(self) -> None:
        """Two that share a directory: one orders, both serve; pebble comes to one only."""
        pebble, server = await self.start()
        other = self.source(pebble, [TlsAlpn01Solver()])
        server.source = self.source(pebble, [TlsAlpn01Solver()])
        first = await self.served(other)
        second = await self.served(server.source)
        self.assertEqual(first.leaf, second.leaf)


class HttpTests(SourceCase):
    """C{http-01}, by a port of our own that is there only while it is needed."""

    async def test_obtained(self) -> None:
        port = free_port()
        pebble = await start_pebble(self, http_port=port, names=self.names)
        solver = Http01Solver(f"tcp:{port}:interface=127.0.0.1")
        source = self.source(pebble, [solver])
        await self.served(source)
        await self.finished(source)
        self.assertTidy()
        # It is free again.
        listening = await serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1").listen(
            Factory.forProtocol(Protocol)
        )
        await listening.stopListening()


class DnsTests(SourceCase):
    """C{dns-01}, by a plugin and by a program."""

    async def test_plugin(self) -> None:
        """A name and its wildcard need two records at a time."""
        names = self.names
        most = 0

        class Records(DnsRecords):
            async def _set(self, name: str, value: str) -> None:
                nonlocal most
                names.texts.setdefault(name, []).append(value)
                most = max(most, len(names.texts[name]))

            def set_record(self, name: str, value: str) -> Deferred[None]:
                return Deferred.fromCoroutine(self._set(name, value))

            async def _remove(self, name: str, value: str) -> None:
                names.texts[name].remove(value)

            def remove_record(self, name: str, value: str) -> Deferred[None]:
                return Deferred.fromCoroutine(self._remove(name, value))

        pebble = await start_pebble(self, names=names, authorization_reuse=0)
        source = self.source(pebble, [Dns01Solver(Records())], "example.org", "*.example.org")
        found = await self.served(source, "example.org")
        self.assertEqual(set(found.names), {"example.org", "*.example.org"})
        await self.finished(source)
        self.assertEqual(most, 2)
        self.assertEqual(names.texts, {"_acme-challenge.example.org": []})

    async def test_program(self) -> None:
        self.hooks = os.path.abspath(self.mktemp())
        os.mkdir(self.hooks)
        path = os.path.join(self.hooks, "hook")
        with open(path, "w") as file:
            file.write(HOOK)
        os.chmod(path, 0o700)
        hooks = self.hooks

        class FromFiles(dict[str, list[str]]):
            def get(self, name: str, default: Any = ()) -> Any:
                found = []
                for each in os.listdir(hooks):
                    if each.startswith("hook."):
                        with open(os.path.join(hooks, each)) as file:
                            if file.read().strip() == name:
                                found.append(each.removeprefix("hook."))
                return found

        self.names.texts = FromFiles()
        pebble = await start_pebble(self, names=self.names)
        source = self.source(pebble, [Dns01Solver(CommandHook([path]))])
        await self.served(source)
        await self.finished(source)
        self.assertEqual(os.listdir(self.hooks), ["hook"])
