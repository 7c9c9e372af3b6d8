"""Certificates with names and dates, and files of them, for the tests of sources."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, Cooperator, TaskStopped
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.python.util import runAsEffectiveUser

from tests.certificates.material import (
    BEGIN,
    DAY,
    LOWER,
    LOWER_CERTIFICATE,
    NOBODY,
    FileCase,
    key_pem,
)
from twisted_bioconn.certificates.loading import CertifiedKey, PrivateKey
from twisted_bioconn.certificates.source import CertificateSource, Choice
from twisted_bioconn.certificates.watching import in_slices
from twisted_bioconn.hello import ClientHello

STEP = 2**-10
"""Seconds between two steps of L{one_step_at_a_time}."""

ECDSA_ONLY = (0x0403,)
RSA_ONLY = (0x0804, 0x0401)


def new_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def rsa_key() -> PrivateKey:
    return rsa.generate_private_key(65537, 2048)


@cache
def ed25519_key() -> PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def certified(
    *names: str,
    key: PrivateKey | None = None,
    begin: datetime = BEGIN,
    end: datetime = BEGIN + 90 * DAY,
) -> CertifiedKey:
    """A certificate of those names, by LOWER, whose own certificate goes with it."""
    private = new_key() if key is None else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(LOWER.name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if names:
        alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    return CertifiedKey((builder.sign(LOWER.key, SHA256()), LOWER_CERTIFICATE), private)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName._init_without_validation(name)


def asking(
    name: str | None = None, algorithms: tuple[int, ...] = (), address: str | None = None
) -> ClientHello:
    """The hello of a client that asks for a name."""
    return ClientHello(
        server_name=name,
        signature_algorithms=algorithms,
        versions=(0x0304,),
        local_address=address,
    )


def private_pem(certificate: CertifiedKey) -> bytes:
    return key_pem(certificate.key)


def lines(events: Iterable[LogEvent]) -> list[str]:
    """What was logged, as text."""
    return [formatEvent(event) for event in events]


class SourceCase(FileCase):
    """A test of a source, at a time that it sets, on a reactor that is a clock."""

    def setUp(self) -> None:
        super().setUp()
        self.time = BEGIN.timestamp() + 86400
        self.clock = Clock()

    def now(self) -> float:
        return self.time

    def as_nobody(self, call: Callable[[], None]) -> None:
        """Call as somebody who is not root, who may read everything."""
        if os.geteuid() == 0:
            runAsEffectiveUser(NOBODY, NOBODY, call)
        else:
            call()

    def write(self, name: str, data: bytes) -> str:
        """Write a file, and make the directories that it is in."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def bundle(self, name: str, certificate: CertifiedKey) -> str:
        return self.write(name, certificate.to_pem())

    def pair(self, chain: str, key: str, certificate: CertifiedKey) -> None:
        self.write(chain, certificate.chain_pem())
        self.write(key, private_pem(certificate))

    def link(self, target: str, name: str) -> None:
        """Make a link, in place of one that is there."""
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, f"{path}.new")
        os.replace(f"{path}.new", path)

    def reload(self, source: CertificateSource) -> list[str]:
        """
        Reload, and see that no error but what is logged comes of it.

        @return: the lines that were logged.
        """
        with capturedLogs() as events:
            done = source.reload()
            while self.clock.getDelayedCalls() and not done.called:
                self.clock.advance(0)
            self.assertIsNone(self.successResultOf(done))
        return lines(events)

    def assertFound(self, found: object, expected: CertifiedKey | None) -> None:
        if expected is None:
            self.assertIsNone(found)
            return
        assert isinstance(found, Choice)
        self.assertEqual(found, Choice(expected))

    def served(self, source: CertificateSource, name: str) -> CertifiedKey:
        found = source.find(asking(name))
        assert isinstance(found, Choice)
        return found.certificate

    def assertServed(
        self, source: CertificateSource, name: str | None, expected: CertifiedKey | None
    ) -> None:
        self.assertFound(source.find(asking(name)), expected)

    def assertDefault(self, source: CertificateSource, expected: CertifiedKey) -> None:
        self.assertFound(source.default(asking()), expected)

    def errors(self, source: CertificateSource) -> dict[str, str]:
        """What is wrong, by path."""
        return {
            os.path.relpath(fact.source, self.directory): fact.last_error
            for fact in source.facts()
            if fact.last_error is not None
        }


def one_step_at_a_time(clock: Clock | None, steps: Iterator[object]) -> Deferred[None]:
    """What takes the place of C{in_slices}, where each slice is to be one step."""
    if clock is None:
        return in_slices(None, steps)
    task = Cooperator(lambda: lambda: True, lambda tick: clock.callLater(STEP, tick)).cooperate(
        steps
    )
    done: Deferred[None] = Deferred(lambda _: task.stop())
    task.whenDone().addCallbacks(
        lambda _: done.callback(None), lambda failure: failure.trap(TaskStopped) and None
    )
    return done
