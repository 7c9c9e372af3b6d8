"""Targets for what is in files, in strings of endpoints and in rules."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from unittest.mock import patch

from tests.tls_material import client
from twisted_bioconn import _option_values as values
from twisted_bioconn._certificate_options import client_trust
from twisted_bioconn.access import Peer, parse_rules, rules_from
from twisted_bioconn.certificates import _derivation, revocation
from twisted_bioconn.certificates.files import load_key
from twisted_bioconn.certificates.loading import CertifiedKey, load_certificates
from twisted_bioconn.certificates.names import facts_about, names_of
from twisted_bioconn.certificates.pkcs12 import load_pkcs12
from twisted_bioconn.endpoint_strings import SERVER_OPTIONS, limits, preamble_options
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server import _toml, addresses
from twisted_bioconn.server._config_values import is_path
from twisted_bioconn.server._mistakes import Mistakes
from twisted_bioconn.server.config import load_config, read_config

__all__ = ["access_rules", "configuration", "endpoint_options", "pem", "pkcs12"]

_LONGEST_ERROR = 4000
_ROUNDS = 20_000
"""Rounds at most here: that it is bounded is what matters, and not how long a second is."""

PASSPHRASE = b"open sesame"


def _sentence(error: Exception, data: bytes, repeats: bool = False) -> None:
    """
    An error is a sentence in one line, no longer than what it is about allows.

    @param repeats: whether it may repeat what it is about, which was written by who reads it.
    """
    said = str(error)
    assert said
    assert len(said) <= _LONGEST_ERROR + 40 * len(data), len(said)
    if not (repeats and any(each < 32 for each in data)):
        assert "\n" not in said and "\0" not in said, said


# Rules


def access_rules(data: bytes) -> None:
    """Rules in one line: written as they were read they say the same, and they decide."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        rules = parse_rules(text)
    except ConfigurationError as error:
        _sentence(error, data)
        return
    again = str(rules)
    assert again.isprintable()
    assert parse_rules(again) == rules, again
    assert rules_from([str(each) for each in rules.rules], "a file") == rules
    tables = [
        {each.kind.value: each.value or True for each in rule.conditions}
        for rule in rules.rules
        if len({each.kind for each in rule.conditions}) == len(rule.conditions)
    ]
    if len(tables) == len(rules.rules):
        assert rules_from(tables, "a file") == rules
    for peer in (
        Peer(),
        Peer((client().certificate,), "192.0.2.7", "www.example.org"),
        Peer((), "2001:db8::7%eth0", "www.example.org", b"h2"),
    ):
        decision = rules.decide(peer)
        assert decision.reason.isprintable(), decision.reason
        assert decision.allowed is (decision.rule is not None)
        if rules.needs_certificate and not peer.chain:
            assert not decision.allowed


# Options

_TIMES = ("handshakeTimeout", "closeTimeout", "idleTimeout", "timeout")


def endpoint_options(data: bytes) -> None:
    """The options of an endpoint's string, but for those that name files, or what listens."""
    with suppress(ConfigurationError):
        try:
            _read_options(data.decode("utf-8", "surrogateescape"))
        except ConfigurationError as error:
            _sentence(error, data, repeats=True)
            raise


def _read_options(text: str) -> None:
    with suppress(ConfigurationError):
        addresses.server_description(text)
    positional, keywords = addresses.parse(text)
    given = values.take(keywords, SERVER_OPTIONS, positional[1:], ("port",))
    plain = {name: value for name, value in given.items() if not is_path(name, SERVER_OPTIONS)}
    for name in ("port", "backlog"):
        if name in plain:
            with suppress(ConfigurationError):
                values.port_number(plain[name])
            values.whole_number(name, plain[name])
    for name in _TIMES:
        if name in plain:
            seconds = values.seconds(name, plain[name])
            assert seconds is None or 0 < seconds < float("inf"), seconds
    found = limits(plain)
    assert found.connections is None or found.connections > 0
    preamble_options(plain)
    for name, read in (
        ("alpn", values.alpn_names),
        ("policy", values.policy),
        ("sslmethod", values.tls_method),
    ):
        if name in plain:
            read(plain[name])
    with suppress(ConfigurationError):
        values.pins(text)
    client_trust({name: plain[name] for name in ("allow", "clientCertificate") if name in plain})


# The configuration


@cache
def _path() -> str:
    """Where a file of it is put: one for this process."""
    directory = tempfile.TemporaryDirectory(prefix="bioconn-fuzz-")
    _kept.append(directory)
    return os.path.join(directory.name, "bioconn.toml")


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _places(value: object, at: _toml.Path = ()) -> Iterator[_toml.Path]:
    """Where there is something, by what the standard library reads."""
    inner: Iterator[tuple[str | int, object]]
    if isinstance(value, Mapping):
        inner = iter(value.items())
    elif isinstance(value, list):
        inner = iter(enumerate(value))
    else:
        return
    for key, each in inner:
        yield (*at, key)
        yield from _places(each, (*at, key))


def configuration(data: bytes) -> None:
    """A configuration in TOML: its mistakes are told, and where; without any, it can be written."""
    with open(_path(), "wb") as file:
        file.write(data)
    try:
        found, mistakes = read_config(_path())
    except Mistakes as error:
        _sentence(error, data)
        assert len(error.mistakes) == 1
        if "nested too deeply" in str(error):
            return
        # The standard library is the judge of what is TOML,
        with suppress(ValueError, RecursionError):
            tomllib.loads(data.decode("utf-8").replace("\r\n", "\n"))
            raise AssertionError(f"this is TOML: {error}") from None
        return
    text = data.decode("utf-8").replace("\r\n", "\n")
    # and of what is where.
    lines = _toml.positions(text)
    for place in _places(tomllib.loads(text)):
        assert place in lines, place
        assert 1 <= lines[place] <= text.count("\n") + 1
    for mistake in mistakes:
        assert "\n" not in str(mistake), mistake
    try:
        written = found.as_toml()
    except ConfigurationError as error:
        _sentence(error, data)
        return
    if mistakes:
        return
    with open(_path(), "w", encoding="utf-8", newline="") as file:
        file.write(written)
    again = load_config(_path())
    assert again.as_toml() == written, written
    assert not found.differences(found)


# Certificates


def _use(certificate: CertifiedKey) -> None:
    """What is asked of one that has been loaded."""
    names_of(certificate)
    facts_about(certificate, "a file")


def pem(data: bytes) -> None:
    """PEM text, as certificates, as a key with and without a passphrase, and as revocations."""
    with patch.object(_derivation, "MOST_ROUNDS", _ROUNDS):
        for load in (
            lambda: load_certificates(data, "a file"),
            lambda: load_key(data, None, "a file"),
            lambda: load_key(data, PASSPHRASE, "a file"),
            lambda: _use(CertifiedKey.from_pem(data, passphrase=PASSPHRASE, where="a file")),
            lambda: revocation._parse(data, "a file"),
        ):
            try:
                load()
            except ConfigurationError as error:
                _sentence(error, data)


def pkcs12(data: bytes) -> None:
    """A PKCS #12 file, with a passphrase and without one."""
    with patch.object(_derivation, "MOST_ROUNDS", _ROUNDS):
        for passphrase in (None, PASSPHRASE):
            try:
                _use(load_pkcs12(data, passphrase, "a file"))
            except ConfigurationError as error:
                _sentence(error, data)
