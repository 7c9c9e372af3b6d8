"""
What objects say of themselves: an object gets into a log by C{repr()} or C{str()}, in a message, in
a traceback, or as an argument of a call that has failed.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Iterator
from typing import Any

import attrs
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from twisted.internet.endpoints import quoteStringArgument
from twisted.trial.unittest import SynchronousTestCase

import twisted_bioconn
from tests.certificates.material import FULL_CHAIN, KEY, OWNER, FileCase, key_pem
from tests.programs import require_module
from tests.secrets.planted import Finder, Secret, of_key
from twisted_bioconn.certificates.acme.messages import ExternalAccount
from twisted_bioconn.certificates.acme.records import (
    AccountRecord,
    Answer,
    CertificateRecord,
    OrderRecord,
)
from twisted_bioconn.certificates.loading import CertifiedKey
from twisted_bioconn.certificates.redis_line import RedisServer
from twisted_bioconn.certificates.sealing import Seal
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server._mistakes import Words
from twisted_bioconn.server.config import load_config
from twisted_bioconn.server.options import Options
from twisted_bioconn.server.service import makeService
from twisted_bioconn.testing import Loopback, example_connections

PASSWORD = b"a password: of Redis's / 7f3a"
PASSPHRASE = b"a passphrase for keys 91cc"
HMAC_KEY = b"a key of an ACME account that is elsewhere"
REQUEST = b"GET /?token=of-a-visitor-2b6e HTTP/1.1\r\nAuthorization: Basic dmlzaXRvcg==\r\n\r\n"

SECRETS = (
    Secret("password", PASSWORD),
    Secret("passphrase", PASSPHRASE),
    Secret("HMAC key", HMAC_KEY),
    Secret("request", REQUEST[10:40]),
    *of_key("key", OWNER.key),  # type: ignore[arg-type]
)


def classes() -> Iterator[type]:
    """All classes of the package that have their fields in a table."""
    for module in pkgutil.walk_packages(twisted_bioconn.__path__, "twisted_bioconn."):
        if module.name.endswith("__main__"):
            continue
        for found in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(found) and found.__module__ == module.name and attrs.has(found):
                yield found


class FieldTests(SynchronousTestCase):
    """Fields, by what they are called."""

    # What a field is called that has a secret in it.
    SECRET = re.compile(
        "pass(word|phrase)$|secret|hmac|authorization$|^pem$|^key$|plaintext|^data$|^line$|^text$"
        "|^(first_)?bytes$|first_bytes|description|^options$|^endpoint$|^words$|^listen$|^others$"
    )

    #: Those that are called so and have none.
    OPEN = {
        "FailureTrace.text",  # it is not shown either, as it is long
        "Mistake.key",  # of a file
        "Forward.endpoint",
        "Forward.forward",
        "Listen.endpoint",
        "Listener.endpoint",
        "Listener.key",  # a name and a digest
        "Listener.options",
        "Listener.words",
        "Pair.key",
        "Pair.listen",
        "Configuration.listen",
        "Route.options",
        "Shown.options",
        "Status.options",
        "StatusPort.endpoint",
        "StatusPort.words",  # it is made without
        "_File.key",  # cryptography says nothing of it
        "Read.bytes",
    }

    def shown(self, kind: Any, value: str) -> set[str]:
        """The fields that are in the representation of an object that has this value in each."""
        made = kind.__new__(kind)
        names = {}
        for field in attrs.fields(kind):
            names[field.name] = f"{field.name}: {value}"
            object.__setattr__(made, field.name, names[field.name])
        try:
            said = repr(made) + str(made)
        except Exception:
            # It is written by hand, for values that are of a kind.
            return set()
        return {name for name, text in names.items() if text in said}

    def test_named(self) -> None:
        """What is called a secret is not shown."""
        found = set()
        url = "redis://user:7f3a-a-password@host"
        for kind in classes():
            shown = {f"{kind.__name__}.{each}" for each in self.shown(kind, url)}
            found |= {each for each in shown if self.SECRET.search(each.partition(".")[2])}
        self.assertEqual(found - self.OPEN, set())


class ObjectTests(FileCase):
    """Objects, as there are in a server and a client that run."""

    def setUp(self) -> None:
        super().setUp()
        self.finder = Finder(SECRETS)

    def reachable(self, *roots: object) -> Iterator[object]:
        """All objects of the package's, and all exceptions, that are held by these."""
        seen: set[int] = set()
        left = list(roots)
        while left:
            each = left.pop()
            if id(each) in seen or isinstance(each, types.ModuleType | type):
                continue
            seen.add(id(each))
            module = type(each).__module__
            if module.startswith("twisted_bioconn") or isinstance(each, BaseException):
                yield each
            left += gc.get_referents(each)

    def assert_silent(self, *roots: object, least: int = 1) -> None:
        kinds = set()
        for each in self.reachable(*roots):
            kinds.add(type(each).__qualname__)
            for say in (repr, str, ascii, "{!r}".format):
                found = self.finder.find(say(each).encode("utf-8", "surrogateescape"))
                self.assertEqual(found, set(), type(each))
        self.assertGreaterEqual(len(kinds), least, kinds)

    def listing(self) -> str:
        """A configuration with all the secrets that it can have."""
        self.file("chain.pem", FULL_CHAIN)
        encryption = BestAvailableEncryption(PASSPHRASE)
        self.file("key.pem", key_pem(OWNER.key, encryption=encryption))
        self.file("phrase", PASSPHRASE + b"\n")
        self.file("binding", b"kid-1\n" + HMAC_KEY.hex().encode() + b"\n")
        quoted = "a%20password%3A%20of%20Redis%27s%20%2F%207f3a"
        return "\n".join(
            [
                f'state = "{self.path("state")}"',
                "[[listen]]",
                "port = 0",
                f'privateKey = "{self.path("key.pem")}"',
                f'certKey = "{self.path("chain.pem")}"',
                f'passphraseFile = "{self.path("phrase")}"',
                "echo = true",
                "[[listen]]",
                "port = 0",
                'acme = "none"',
                'names = ["a.example"]',
                'acmeDirectory = "https://127.0.0.1:1/"',
                f'acmeBinding = "{self.path("binding")}"',
                f'redis = "redis://:{quoted}@127.0.0.1:1"',
                f'passphraseFile = "{self.path("phrase")}"',
                "echo = true",
                "",
            ]
        )

    def test_server(self) -> None:
        """A server, made of its command line and of a file."""
        require_module("acme")
        require_module("txredisapi")
        config = self.file("bioconn.toml", self.listing().encode())
        quoted = quoteStringArgument(
            "redis://me:a%20password%3A%20of%20Redis%27s%20%2F%207f3a@[::1]:1"
        )
        words = (
            "bioconn:0:acme=none:names=b.example:acmeDirectory=https\\://127.0.0.1\\:1/"
            f":redis={quoted}:passphraseFile={self.path('phrase')}"
        )
        options = Options()
        options.parseOptions(["--config", config, "--listen", words, "--echo"])
        front = makeService(options)
        self.assert_silent(options, front, least=30)
        self.assert_silent(load_config(config), options.configuration, *options.pairs)
        self.assertIsInstance(options.configuration.listen[-1].place, Words)

    def test_certificates(self) -> None:
        """Keys, and what goes into a store."""
        key = KEY.decode()
        self.assert_silent(
            CertifiedKey.from_pem(FULL_CHAIN, KEY),
            ExternalAccount("kid", HMAC_KEY),
            RedisServer.from_url("redis://:a%20password%3A%20of%20Redis%27s%20%2F%207f3a@h"),
            Seal(PASSPHRASE, "store"),
            AccountRecord(directory="https://a.example/", key=key),
            CertificateRecord(names=("a",), pem=key, directory="d", issued=1.0, fraction=0.5),
            OrderRecord(names=("a",), key=key),
            Answer(
                kind="http-01",
                identifier="a",
                token="t",
                key_authorization=HMAC_KEY.decode(),
                certificate="",
                expires=1.0,
            ),
        )

    def test_connection(self) -> None:
        """Both ends of a connection, with what they have read and are yet to send."""
        loop = Loopback(*example_connections())
        loop.pump()
        loop.client.write(REQUEST)
        loop.server.write(REQUEST[::-1] + REQUEST)
        self.assert_silent(loop)
        loop.pump()
        self.assert_silent(loop)

    def test_mistakes(self) -> None:
        """What is said of a file that cannot be what it should."""
        for data in (KEY[:200], KEY.replace(b"\n", b" "), KEY.replace(b"M", b"-"), KEY + KEY[:-40]):
            path = self.file("bad.pem", data)
            error = self.assertRaises(ConfigurationError, CertifiedKey.from_files, path)
            self.assert_silent(error)
            self.assertIsNone(error.__cause__)
