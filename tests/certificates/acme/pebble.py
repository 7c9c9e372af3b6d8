"""
Let's Encrypt's C{pebble} as an authority, with a name server of our own.

All names lead to 127.0.0.1, and TXT records are what a test sets them to.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.names import dns
from twisted.names.error import DomainError
from twisted.names.server import DNSServerFactory
from twisted.trial.unittest import TestCase

from tests.peers.processes import Program, free_port, on_free_port
from tests.programs import require
from tests.tls_material import authority, certificate, ec_key, pem
from twisted_bioconn.certificates.loading import load_certificates
from twisted_bioconn.http import treq_client

reactor: Any = installed

Answers = tuple[list[dns.RRHeader], list[dns.RRHeader], list[dns.RRHeader]]


class Names:
    """
    The names of a test.

    @ivar texts: TXT records by name, without a dot at the end.
    @ivar nowhere: names that do not exist.
    @ivar asked: what was asked for, each a name and a type's number.
    """

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.nowhere: set[str] = set()
        self.asked: list[tuple[str, int]] = []

    def query(self, query: dns.Query, timeout: Sequence[int] | None = None) -> Deferred[Answers]:
        """Answer, as L{twisted.internet.interfaces.IResolver} has it."""
        name = str(query.name).lower().rstrip(".")
        self.asked.append((name, query.type))
        if name in self.nowhere:
            return fail(DomainError(name))
        records: list[Any] = []
        if query.type == dns.A:
            records = [dns.Record_A("127.0.0.1", ttl=0)]
        elif query.type == dns.TXT:
            records = [dns.Record_TXT(each.encode(), ttl=0) for each in self.texts.get(name, ())]
        found = [dns.RRHeader(query.name.name, query.type, dns.IN, 0, record) for record in records]
        return succeed((found, [], []))

    def listen(self, test: TestCase) -> int:
        """
        Answer on a port of the loopback, until the end of the test: over UDP, and over TCP for
        pebble 2.5 and newer.
        """
        factory = DNSServerFactory(clients=[self])
        factory.noisy = False
        while True:
            protocol = dns.DNSDatagramProtocol(controller=factory)
            protocol.noisy = False
            udp = reactor.listenUDP(0, protocol, interface="127.0.0.1")
            number: int = udp.getHost().port
            try:
                tcp = reactor.listenTCP(number, factory, interface="127.0.0.1")
            except CannotListenError:
                udp.stopListening()
                continue
            for port in (udp, tcp):
                test.addCleanup(port.stopListening)
            return number


@attrs.frozen
class Pebble:
    """
    A pebble that runs.

    @ivar directory_url: where its directory is.
    @ivar management_url: where it shows its roots, and what became of certificates.
    @ivar trust_roots: who vouches for both servers.
    @ivar names: what it looks names up in.
    @ivar program: the program, for a test to stop or to read.
    """

    directory_url: str
    management_url: str
    trust_roots: tuple[x509.Certificate, ...]
    names: Names
    program: Program

    async def root(self, number: int = 0) -> x509.Certificate:
        """The root of its default chain, or of an alternate one."""
        return load_certificates(await self._managed(f"roots/{number}"), "pebble's root")[0]

    async def status(self, serial: int) -> dict[str, Any]:
        """What has become of the certificate of this serial number."""
        status: dict[str, Any] = json.loads(
            await self._managed(f"cert-status-by-serial/{serial:x}")
        )
        return status

    async def _managed(self, page: str) -> bytes:
        web = treq_client(reactor, trust_roots=self.trust_roots)
        response = await web.get(f"{self.management_url}/{page}")
        content: bytes = await response.content()
        if response.code != 200:
            raise AssertionError(f"pebble has no {page}: {content!r}")
        return content


async def start_pebble(
    test: TestCase,
    *,
    http_port: int = 1,
    tls_port: int = 1,
    nonce_reject: int = 5,
    authorization_reuse: int = 50,
    eab: Mapping[str, str] | None = None,
    strict: bool = True,
    alternate_roots: int = 0,
    chain_length: int = 1,
    always_valid: bool = False,
    names: Names | None = None,
) -> Pebble:
    """
    Start pebble, until the end of the test.

    @param http_port: where it validates C{http-01}.
    @param tls_port: where it validates C{tls-alpn-01}.
    @param nonce_reject: how many of a hundred good nonces it refuses.
    @param authorization_reuse: how many of a hundred valid authorizations it uses again.
    @param eab: the HMAC keys of external accounts, in base64url, by key identifier; where there are
        some, one is needed.
    @param alternate_roots: how many chains it has beside the default one.
    @param chain_length: how many intermediates are in a chain.
    @param always_valid: whether it finds each challenge answered without a look.
    @param names: for a pebble that comes after another.
    """
    pebble = require("pebble")
    names = names or Names()
    resolver = names.listen(test)
    directory = tempfile.mkdtemp()
    test.addCleanup(shutil.rmtree, directory)
    files = _files(directory)
    environment = {
        "PEBBLE_VA_NOSLEEP": 1,
        "PEBBLE_WFE_NONCEREJECT": nonce_reject,
        "PEBBLE_AUTHZREUSE": authorization_reuse,
        "PEBBLE_ALTERNATE_ROOTS": alternate_roots,
        "PEBBLE_CHAIN_LENGTH": chain_length,
        **({"PEBBLE_VA_ALWAYS_VALID": 1} if always_valid else {}),
    }
    management = 0

    async def on(port: int) -> Program:
        nonlocal management
        management = free_port()
        configuration = {
            "listenAddress": f"127.0.0.1:{port}",
            "managementListenAddress": f"127.0.0.1:{management}",
            **files,
            "httpPort": http_port,
            "tlsPort": tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": bool(eab),
            "externalAccountMACKeys": dict(eab or {}),
        }
        path = os.path.join(directory, "pebble.json")
        with open(path, "w") as file:
            json.dump({"pebble": configuration}, file)
        command = [
            *(require("env"), *(f"{name}={value}" for name, value in environment.items())),
            *(pebble, "-config", path, "-dnsserver", f"127.0.0.1:{resolver}"),
            f"-strict={str(strict).lower()}",
        ]
        program = Program(command, directory)
        test.addCleanup(program.stop)
        await program.wait_for("ACME directory available at")
        await _answers(port)
        await _answers(management)
        return program

    port, program = await on_free_port(on)
    return Pebble(
        f"https://localhost:{port}/dir",
        f"https://localhost:{management}",
        (authority().certificate,),
        names,
        program,
    )


def _files(directory: str) -> dict[str, str]:
    """The certificate and key of pebble's own server."""
    key = ec_key(7)
    made = certificate("pebble", authority(), key=key, names=[x509.DNSName("localhost")])
    contents = {
        "certificate": pem(made),
        "privateKey": key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        ),
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = os.path.join(directory, f"{name}.pem")
        with open(paths[name], "wb") as file:
            file.write(content)
    return paths


async def _answers(port: int) -> None:
    """Wait until somebody answers on a port: pebble says that it does before it does."""
    web = treq_client(reactor, trust_roots=[authority().certificate], timeout=5)
    for attempt in range(50):
        try:
            await (await web.get(f"https://localhost:{port}/")).content()
            return
        except Exception as error:
            last = error
        await _pause(0.02 * (attempt + 1))
    raise AssertionError(f"pebble does not answer on port {port}: {last}")


def _pause(seconds: float) -> Deferred[None]:
    paused: Deferred[None] = Deferred()
    reactor.callLater(seconds, paused.callback, None)
    return paused
