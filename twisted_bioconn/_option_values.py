"""
What the options of an endpoint string say, as values.

Each function takes text as it stands in a string and gives what it means.  Whatever is wrong is a
L{ConfigurationError} of one sentence that names the option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from ssl import TLSVersion
from typing import Any, TypeVar

from .certificates.loading import CertifiedKey, load_certificates, read_file, read_passphrase
from .context import TLSMethod
from .errors import ConfigurationError
from .policy import Policy, policy_named
from .verify import Pin

_T = TypeVar("_T")


def take(
    keywords: Mapping[str, Any],
    known: Mapping[str, str],
    positional: Sequence[Any],
    names: Sequence[str],
) -> dict[str, str]:
    """
    The options of a string as text, all of them known.

    @param keywords: the options by name, as C{str} or C{bytes}.
    @param known: the options that there are, with what values they take.
    @param positional: the values without a name.
    @param names: which options may be given so.
    """
    if len(positional) > len(names):
        raise ConfigurationError(
            f"bioconn: cannot place {_told(positional[len(names)])!r}:"
            " each option is written NAME=VALUE"
        )
    taken = {}
    for option, value in keywords.items():
        if option not in known:
            raise ConfigurationError(f"bioconn: has no option {option!r}{_nearest(option, known)}")
        taken[option] = _text(value)
        # An empty interface is every interface, as in Twisted's own strings.
        if not taken[option] and option != "interface":
            raise ConfigurationError(f"{option}= has no value: it takes {known[option]}")
    for option, value in zip(names, positional, strict=False):
        if option in taken:
            raise ConfigurationError(
                f"bioconn: {option} is given twice, as {_told(value)!r} and as {option}="
            )
        taken[option] = _text(value)
    return taken


def _told(value: Any) -> str:
    """
    A value that is not where it should be.  It may be a part of a URL whose colons are written as
    they are, and have the password in it.
    """
    _, at, after = _text(value).rpartition("@")
    return f"***@{after}" if at else after


def _text(value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"bioconn: {value!r} is not UTF-8") from None


def _nearest(word: str, words: Mapping[str, object]) -> str:
    by_lower = {each.lower(): each for each in words}
    found = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[found[0]]}?" if found else ""


def whole_number(option: str, value: str) -> int:
    """A number from 0 up."""
    if not _is_number(value):
        raise ConfigurationError(f"{option}={value}: this must be a whole number")
    return int(value)


def positive_number(option: str, value: str) -> int:
    """A number from 1 up."""
    if not _is_number(value) or not int(value):
        raise ConfigurationError(f"{option}={value}: this must be a whole number above 0")
    return int(value)


def port_number(value: str) -> int:
    """A port; 0 is any that is free."""
    if not _is_number(value) or int(value) > 65535:
        raise ConfigurationError(f"{value!r} is no port: it must be a number from 0 to 65535")
    return int(value)


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdigit() and len(value) < 10


def seconds(option: str, value: str) -> float | None:
    """A deadline: a number of seconds, or C{off}."""
    if value == "off":
        return None
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    # Also false for what is no number at all, nan.
    if not 0 < number < 1e9:
        raise ConfigurationError(f"{option}={value}: this must be a number of seconds, or 'off'")
    return number


def time(option: str, value: str) -> float:
    """A number of seconds."""
    number = None if value == "off" else seconds(option, value)
    if number is None:
        raise ConfigurationError(f"{option}={value}: this must be a number of seconds")
    return number


def choice(option: str, value: str, choices: Mapping[str, _T]) -> _T:
    """One of several words."""
    if value in choices:
        return choices[value]
    hint = _nearest(value, choices)
    raise ConfigurationError(f"{option}={value}: it can be {', '.join(choices)}{hint}")


def yes_or_no(option: str, value: str) -> bool:
    """A switch."""
    return choice(option, value, {"yes": True, "no": False})


def alpn_names(value: str) -> tuple[bytes, ...]:
    """The value of C{alpn=}: names with commas between them."""
    try:
        names = tuple(name.strip().encode("utf-8") for name in value.split(","))
    except UnicodeEncodeError:  # so a command line has bytes that are no text
        raise ConfigurationError(f"alpn={ascii(value)[1:-1]}: this is not UTF-8") from None
    if not all(0 < len(name) < 256 for name in names):
        raise ConfigurationError(
            f"alpn={value}: this must be names of 1 to 255 bytes with commas between them"
        )
    return names


def policy(value: str) -> Policy:
    """The value of C{policy=}."""
    try:
        return policy_named(value)
    except ConfigurationError as error:
        raise ConfigurationError(f"policy: {error}") from None


def pins(value: str) -> list[Pin]:
    """The value of C{pins=}: SHA-256 digests, with C{sha256:} before them or not."""
    found = []
    for each in value.split(","):
        text = each.strip()
        try:
            found.append(Pin.parse(text if text.lower().startswith("sha256") else f"sha256:{text}"))
        except ConfigurationError as error:
            raise ConfigurationError(f"pins: {error}") from None
    return found


_METHODS: dict[str, TLSMethod] = {
    "TLS_METHOD": (None, None),
    "TLS_SERVER_METHOD": (None, None),
    "SSLv23_METHOD": (None, None),
    "TLSv1_2_METHOD": (TLSVersion.TLSv1_2, TLSVersion.TLSv1_2),
}
_METHODS_TOO_OLD = {"SSLv2_METHOD", "SSLv3_METHOD", "TLSv1_METHOD", "TLSv1_1_METHOD"}


def tls_method(value: str) -> TLSMethod:
    """The value of C{sslmethod=}: a method of OpenSSL's, as in C{ssl:}."""
    if value in _METHODS_TOO_OLD:
        raise ConfigurationError(
            f"sslmethod={value}: it speaks nothing newer than TLS 1.1, which is not secure;"
            " leave it out, or use policy=intermediate"
        )
    return choice("sslmethod", value, _METHODS)


def loaded(option: str, load: Callable[[], _T]) -> _T:
    """Load what an option names; a mistake says which option it was."""
    try:
        return load()
    except ConfigurationError as error:
        raise ConfigurationError(f"{option}: {error}") from None


def certified_key(given: Mapping[str, str], certificate: str, key: str) -> CertifiedKey:
    """
    A certificate with its key, and with what C{passphraseFile=} and C{extraCertChain=} name.

    @param certificate: the option that has the certificate's file.
    @param key: the option that has the key's file, if it is another one.
    """
    # Each is looked at by itself first, so that a mistake is told of the option that it is in.
    file, key_file = given[certificate], given.get(key, given[certificate])
    passphrase, extra = given.get("passphraseFile"), given.get("extraCertChain")
    if passphrase is not None:
        loaded("passphraseFile", lambda: read_passphrase(passphrase))
    if extra is not None:
        loaded("extraCertChain", lambda: load_certificates(read_file(extra), extra))
    if key_file != file:
        loaded(certificate, lambda: load_certificates(read_file(file), file))
    return loaded(
        certificate if key_file == file else key,
        lambda: CertifiedKey.from_files(file, key_file, passphrase, extra),
    )


def nested(description: str, parse: Callable[[Any, str], _T], reactor: Any) -> _T:
    """The endpoint that C{endpoint=} describes."""
    try:
        return parse(reactor, description)
    except ConfigurationError:
        raise
    except LookupError as error:
        # What systemd: raises for a socket that systemd did not hand over.
        raise ConfigurationError(
            f"endpoint={description}: it names something that is not there ({error})"
        ) from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        if isinstance(error.__cause__, StopIteration):
            # So Twisted's parser ends where an escape has begun.
            reason = "it ends in a backslash, which escapes nothing"
        raise ConfigurationError(f"endpoint={description}: {reason}") from None
