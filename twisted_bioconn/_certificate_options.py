"""
What an endpoint string says of certificates, and of clients' certificates, as objects.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import _option_values as values
from .access import parse_rules
from .certificates.development import state_directory
from .certificates.files import FileSource, is_pkcs12, load
from .certificates.loading import load_authorities, read_file, read_passphrase
from .certificates.revocation import TrustFiles, load_crls
from .certificates.source import CertificateSource
from .client_policy import ClientCertificate, ClientPolicy, CRLMode
from .errors import ConfigurationError

if TYPE_CHECKING:
    from .certificates.acme.authorities import Authority
    from .certificates.acme.challenges import Solver
    from .certificates.store import Store

CERTIFICATE_OPTIONS: dict[str, str] = {
    "certificates": "the name of a directory",
    "acme": "whom an authority may write to: addresses with commas between them",
    "names": "host names and addresses with commas between them",
    "acmeDirectory": "URLs or names of authorities with commas between them",
    "acmeAuthorities": "the name of a file or a directory",
    "acmeChallenge": "tls-alpn-01, http-01, http-01@ENDPOINT or dns-01@COMMAND, with commas between"
    " them",
    "acmeBinding": "a file name",
    "acmeProfile": "the name of a profile",
    "acmeChain": "the common name of an issuer",
    "state": "the name of a directory",
    "redis": "a URL: redis://HOST:PORT/NUMBER",
}
"""The options that say where certificates come from, and what values they take."""

TRUST_OPTIONS: dict[str, str] = {
    "clientAuthorities": "the name of a file or a directory, or system",
    "clientCertificate": "require, verifyIfGiven or request",
    "crl": "the name of a file or a directory",
    "crlMode": "hard or soft",
    "allow": "rules with commas between them",
}
"""The options that say what is asked of clients, and of their certificates."""

SYSTEM = "system"
"""The authorities that the system trusts: anybody can have a certificate from one of them."""

_ONLY_WITH_ACME = (
    "names",
    "acmeDirectory",
    "acmeAuthorities",
    "acmeChallenge",
    "acmeBinding",
    "acmeProfile",
    "acmeChain",
    "state",
    "redis",
)
_FILES = ("privateKey", "certKey", "extraCertChain")

_MODES = {
    "require": ClientCertificate.REQUIRE,
    "verifyIfGiven": ClientCertificate.VERIFY_IF_GIVEN,
    "request": ClientCertificate.REQUEST,
}


def certificate_source(reactor: Any, given: Mapping[str, str]) -> CertificateSource:
    """
    Where the certificates of a server come from.

    @raise ConfigurationError: the options exclude each other, or what they name cannot be used.
    """
    if "acme" not in given:
        for option in _ONLY_WITH_ACME:
            if option in given:
                raise ConfigurationError(
                    f"{option}= is of no use without acme=: it says how certificates are had from"
                    " an authority"
                )
    named = next((option for option in _FILES if option in given), None)
    for option in ("acme", "certificates"):
        if option in given and named is not None:
            raise ConfigurationError(
                f"{option}= and {named}= exclude each other: put what {named}= names into a"
                " directory for certificates="
            )
    sources: list[CertificateSource] = []
    if "acme" in given:
        sources.append(_acme(reactor, given))
    if "certificates" in given:
        sources.append(_directory(given))
    if not sources:
        return _files(given)
    if len(sources) == 1:
        return sources[0]
    from .certificates.callable import FirstOf

    return FirstOf(sources)


def _files(given: Mapping[str, str]) -> FileSource:
    # As in ssl:, a key file alone may hold the certificate too.
    given = {"privateKey": "server.pem", **given}
    certificate = "certKey" if "certKey" in given else "privateKey"
    file, key = given[certificate], given["privateKey"]
    # It is loaded once to tell a mistake of the option that it is in, as it was written.
    if is_pkcs12(values.loaded(certificate, lambda: read_file(file))):
        passphrase, extra = given.get("passphraseFile"), given.get("extraCertChain")
        values.loaded(
            certificate, lambda: load(file, None if key == file else key, passphrase, extra)
        )
    else:
        values.certified_key(given, certificate, "privateKey")
    return FileSource(
        os.path.abspath(file),
        None if key == file else os.path.abspath(key),
        _lasting(given.get("passphraseFile")),
        _lasting(given.get("extraCertChain")),
    )


def _lasting(path: str | None) -> str | None:
    """The same file, also when the process has gone elsewhere: twistd may, as it starts."""
    return None if path is None else os.path.abspath(path)


def _directory(given: Mapping[str, str]) -> CertificateSource:
    from .certificates.directory import DirectorySource

    passphrase = None if "redis" in given else given.get("passphraseFile")
    if passphrase is not None:
        values.loaded("passphraseFile", lambda: read_passphrase(passphrase))
    directory = given["certificates"]
    return values.loaded(
        "certificates", lambda: DirectorySource(os.path.abspath(directory), _lasting(passphrase))
    )


def _acme(reactor: Any, given: Mapping[str, str]) -> CertificateSource:
    try:
        from .certificates.acme.source import AcmeSource
    except ImportError as error:
        raise ConfigurationError(
            f"acme= needs more packages ({error}): pip install 'twisted_bioconn[acme]'"
        ) from None
    if "names" not in given:
        raise ConfigurationError("acme= needs names=: what the certificate is to be for")
    names = _listed("names", given["names"])
    contact = [] if given["acme"] == "none" else _listed("acme", given["acme"])
    authorities = _authorities(given)
    challenges = [
        _solver(each)
        for each in _listed("acmeChallenge", given.get("acmeChallenge", "tls-alpn-01"))
    ]
    store = _store(reactor, given)
    return values.loaded(
        "acme",
        lambda: AcmeSource(
            names, contact=contact, authorities=authorities, store=store, challenges=challenges
        ),
    )


def _authorities(given: Mapping[str, str]) -> list[Authority]:
    from .certificates.acme.authorities import Authority
    from .certificates.acme.messages import ExternalAccount

    trusted = given.get("acmeAuthorities")
    roots = (
        None
        if trusted is None
        else values.loaded("acmeAuthorities", lambda: load_authorities(trusted))
    )
    binding = given.get("acmeBinding")
    account = None
    if binding is not None:
        words = values.loaded("acmeBinding", lambda: read_file(binding)).split()
        if len(words) != 2:
            raise ConfigurationError(
                f"acmeBinding: {binding} is not the identifier of an account and its HMAC key, on a"
                " line each"
            )
        kid, key = (word.decode("utf-8", "replace") for word in words)
        account = values.loaded("acmeBinding", lambda: ExternalAccount.from_text(kid, key))
    return [
        values.loaded(
            "acmeDirectory",
            lambda url=url: Authority(  # type: ignore[misc]
                url, roots, account, given.get("acmeProfile"), given.get("acmeChain")
            ),
        )
        for url in _listed("acmeDirectory", given.get("acmeDirectory", "letsencrypt"))
    ]


def _solver(text: str) -> Solver:
    from .certificates.acme.challenges import TlsAlpn01Solver
    from .certificates.acme.dns_challenge import CommandHook, Dns01Solver, records_named
    from .certificates.acme.http_challenge import Http01Solver

    kind, _, argument = text.partition("@")
    if kind == "tls-alpn-01" and not argument:
        return TlsAlpn01Solver()
    if kind == "http-01":
        endpoint = f"tcp:{argument}" if argument.isdigit() else argument
        return Http01Solver(endpoint or "tcp:80")
    if kind == "dns-01" and argument:
        # A plugin has the name of one; a program is found by its path.
        by_path = "/" in argument or os.sep in argument
        return values.loaded(
            "acmeChallenge",
            lambda: Dns01Solver(CommandHook(argument) if by_path else records_named(argument)),
        )
    raise ConfigurationError(
        f"acmeChallenge={text}: this takes {CERTIFICATE_OPTIONS['acmeChallenge']}"
    )


def _store(reactor: Any, given: Mapping[str, str]) -> Store:
    if "redis" not in given:
        from .certificates.directory_store import DirectoryStore

        directory = values.loaded("state", lambda: state_directory(given.get("state")))
        return DirectoryStore(reactor, os.path.join(directory, "acme"))
    passphrase_file = given.get("passphraseFile")
    if passphrase_file is None:
        raise ConfigurationError(
            "redis= needs passphraseFile=: keys are not put there but encrypted"
        )
    passphrase = values.loaded("passphraseFile", lambda: read_passphrase(passphrase_file))
    try:
        from .certificates.redis_store import RedisStore
    except ImportError as error:
        raise ConfigurationError(
            f"redis= needs more packages ({error}): pip install 'twisted_bioconn[redis]'"
        ) from None
    return RedisStore(reactor, given["redis"], passphrase=passphrase)


def _listed(option: str, text: str) -> list[str]:
    found = [each.strip() for each in text.split(",")]
    if not all(found):
        raise ConfigurationError(f"{option}={text}: there is nothing between two commas")
    return found


def client_trust(given: Mapping[str, str]) -> TrustFiles | ClientPolicy | None:
    """
    What is asked of clients' certificates; L{None} where none is asked for.

    @raise ConfigurationError: the options do not fit together, or what they name cannot be used.
    """
    authorities = given.get("clientAuthorities")
    crl, mode = given.get("crl"), given.get("crlMode")
    rules = None
    if "allow" in given:
        rules = values.loaded("allow", lambda: parse_rules(given["allow"]))
    # Who may come in for what is in no certificate need not show one.
    lets_others_in = rules is not None and not rules.needs_certificate
    wanted = given.get("clientCertificate", "verifyIfGiven" if lets_others_in else "require")
    chosen = values.choice("clientCertificate", wanted, _MODES)
    if chosen is ClientCertificate.REQUEST and rules is None:
        raise ConfigurationError(
            "clientCertificate=request leaves the verdict to rules, and there are none:"
            " use allow=, or verifyIfGiven or require"
        )
    if authorities is None:
        if "clientCertificate" in given and chosen is not ClientCertificate.REQUEST:
            raise ConfigurationError(
                f"clientCertificate={wanted} needs clientAuthorities:"
                " there is nobody whose signature would let a client in"
            )
        if crl is not None:
            raise ConfigurationError(
                "crl= needs clientAuthorities=: without them no client's certificate is verified"
            )
    if mode is not None and crl is None:
        raise ConfigurationError("crlMode= needs crl=: there is no list to be strict about")
    if authorities is None:
        if rules is None:
            return None
        if chosen is not ClientCertificate.REQUEST:
            chosen = ClientCertificate.NONE
        return ClientPolicy(chosen, rules=rules)
    if authorities == SYSTEM:
        if rules is None:
            raise ConfigurationError(
                "clientAuthorities=system lets in whoever has a certificate from anybody whom the"
                " system trusts: say who may come in with allow=, or allow=anyone"
            )
        authorities = _system_authorities()
    strictness = values.choice(
        "crlMode", mode or "hard", {"hard": CRLMode.HARD, "soft": CRLMode.SOFT}
    )
    # As with certificates: a mistake is told as it was written.
    values.loaded("clientAuthorities", lambda: load_authorities(authorities))
    if crl is not None:
        values.loaded("crl", lambda: load_crls(crl))
    try:
        return TrustFiles(
            os.path.abspath(authorities),
            _lasting(crl),
            mode=chosen,
            crl_mode=strictness,
            rules=rules,
        )
    except ConfigurationError as error:
        # It names its option; what led to it is in the sentence.
        raise ConfigurationError(str(error)) from None


def _system_authorities() -> str:
    """Where the system keeps the authorities that it trusts."""
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, paths.capath):
        if path is not None and os.path.exists(path):
            return path
    raise ConfigurationError("clientAuthorities=system: this system has no list of authorities")
