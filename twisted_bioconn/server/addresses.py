"""
What the words after C{--listen} and C{--forward} mean.

Both are Twisted's endpoint strings, with a short form each: after C{--listen} a bare C{PORT} or
C{ADDRESS:PORT} is a C{bioconn:} endpoint, after C{--forward} a bare C{HOST:PORT} is a C{tcp:} one.
Options may follow the short forms as they do the long ones (C{8443:privateKey=key.pem}).
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

from OpenSSL.crypto import Error as CryptoError
from OpenSSL.SSL import Error as TLSError
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    _parse,
    clientFromString,
    quoteStringArgument,
    serverFromString,
)
from twisted.internet.interfaces import (
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import getPlugins

from twisted_bioconn.endpoints import ClientEndpoint
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.hints import did_you_mean
from twisted_bioconn.server.local import LocalEndpoint, is_local

#: The parsers that Twisted has built in, of servers and of clients; the others are plugins.
_BUILT_IN = ("tcp", "unix", "ssl")

#: Clients that are TLS whatever their options say.
_TLS_CLIENTS = ("ssl", "tls", "bioconn")

_BRACKETED = re.compile(r"\[(?P<address>[^]]+)\]:(?P<rest>.+)", re.DOTALL)


def server_kinds() -> set[str]:
    """The prefixes of server endpoints that are known here, in lower case."""
    plugins = getPlugins(IStreamServerEndpointStringParser)
    return {*_BUILT_IN, *(plugin.prefix.lower() for plugin in plugins)}


def client_kinds() -> set[str]:
    """The prefixes of client endpoints that are known here, in lower case."""
    plugins = getPlugins(IStreamClientEndpointStringParserWithReactor)
    return {*_BUILT_IN, *(plugin.prefix.lower() for plugin in plugins)}


def parse(description: str) -> tuple[list[str], dict[str, str]]:
    """
    Take an endpoint string apart, as Twisted does it: what is decided here about a string has to be
    true of the endpoint that Twisted makes of it.

    @raise ConfigurationError: it ends in the middle of an escape, or the name of an option is not
        ASCII.
    """
    try:
        return _parse(description)  # type: ignore[no-any-return]
    except RuntimeError:
        raise ConfigurationError("it ends in a backslash, which escapes nothing") from None
    except UnicodeEncodeError:
        raise ConfigurationError("the name of an option in it is not ASCII") from None


def server_description(text: str) -> tuple[str, bool]:
    """
    The endpoint string for what stands after C{--listen}.

    @return: the string, and whether C{text} was a short form.
    @raise ConfigurationError: it is neither.
    """
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed is not None:
        return _listening_at(bracketed["address"], bracketed["rest"]), True
    arguments, _ = parse(text)
    first = arguments[0] if arguments else ""
    kinds = server_kinds()
    if first.lower() in kinds:
        return text, False
    if first.isdecimal() and text.startswith(first):
        return f"bioconn:{text}", True
    address, colon, rest = text.partition(":")
    if colon and (address.lower() == "localhost" or _is_address(address)):
        return _listening_at(address, rest), True
    near = did_you_mean(first, kinds)
    raise ConfigurationError(
        f"{first or text!r} is neither a port, nor an address, nor a kind of endpoint{near}"
    )


def _listening_at(address: str, rest: str) -> str:
    if address.lower() == "localhost":
        address = "127.0.0.1"
    elif not _is_address(address):
        raise ConfigurationError(f"{address!r} is not an address")
    if not rest.split(":")[0].isdecimal():
        raise ConfigurationError("no port stands after the address")
    return f"bioconn:{rest}:interface={quoteStringArgument(address)}"


def client_description(text: str) -> str:
    """
    The endpoint string for what stands after C{--forward}.

    @raise ConfigurationError: it is neither an endpoint string nor C{HOST:PORT}.
    """
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed is not None:
        if not _is_address(bracketed["address"]):
            raise ConfigurationError(f"{bracketed['address']!r} is not an address")
        return f"tcp:{quoteStringArgument(bracketed['address'])}:{bracketed['rest']}"
    arguments, _ = parse(text)
    kinds = client_kinds()
    if arguments and arguments[0].lower() in kinds:
        return text
    if len(arguments) == 2 and arguments[0] and arguments[1].isdecimal():
        return f"tcp:{text}"
    if len(arguments) == 1 and arguments[0].isdecimal():
        raise ConfigurationError(f"no host, did you mean localhost:{text}?")
    first = arguments[0] if arguments else text
    raise ConfigurationError(
        f"this is neither HOST:PORT nor an endpoint: there is no kind {first!r}"
        f"{did_you_mean(first, kinds)}"
    )


def leaves_in_the_clear(description: str) -> str | None:
    """
    Would bytes that are forwarded to this client endpoint cross a network unencrypted?

    What is allowed has to be known to be safe: an endpoint that is TLS (C{bioconn:}, C{tls:},
    C{ssl:}), a UNIX socket, or C{tcp:} to a loopback address or to C{localhost}. No other name is
    looked up: what it stands for may change. Of the endpoints that others have brought along
    nothing is known, and so they are refused too.

    @return: the reason to refuse it, or L{None}.
    """
    arguments, named = parse(description)
    kind = arguments[0].lower()
    if kind == "unix" or kind in _TLS_CLIENTS:
        return None
    if kind != "tcp":
        return f"nothing is known here of how {kind!r} endpoints carry bytes"
    # Where a string names two hosts, Twisted takes one of them.
    hosts = [named["host"]] if "host" in named else []
    if len(arguments) != 2 or not hosts:
        hosts += arguments[1:2]
    if all(is_local(host) for host in hosts):
        return None
    return "it is plain, and not on this machine"


def connect_timeout(description: str) -> str | None:
    """The C{timeout} that a client endpoint string has, as it is written there."""
    return parse(description)[1].get("timeout")


def server_endpoint(reactor: Any, description: str) -> IStreamServerEndpoint:
    """
    Make a server endpoint of a string.

    @raise ConfigurationError: it cannot be made.
    """
    try:
        return serverFromString(reactor, description)  # type: ignore[no-any-return]
    except Exception as error:
        raise ConfigurationError(_sentence(error, description)) from error


def client_endpoint(reactor: Any, description: str) -> IStreamClientEndpoint:
    """
    Make a client endpoint of a string.

    @raise ConfigurationError: it cannot be made.
    """
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, description)
    except Exception as error:
        raise ConfigurationError(_sentence(error, description)) from error
    if isinstance(endpoint, ClientEndpoint):
        endpoint.endpoint = _without_detour(reactor, endpoint.endpoint)
        return endpoint
    return _without_detour(reactor, endpoint)


def _without_detour(reactor: Any, endpoint: IStreamClientEndpoint) -> IStreamClientEndpoint:
    """The same endpoint, with a shorter way to this machine where there is one."""
    if not hasattr(reactor, "inbox") or getattr(endpoint, "_bindAddress", None) is not None:
        return endpoint
    if isinstance(endpoint, TCP4ClientEndpoint):
        host = endpoint._host
    elif isinstance(endpoint, HostnameEndpoint):
        host = endpoint._hostText
    else:
        return endpoint
    return LocalEndpoint(reactor, endpoint, host, endpoint._port) if is_local(host) else endpoint


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


_NO_NUMBER = re.compile(
    r"(?:invalid literal for int|could not convert string to float).*: (?P<text>.+)"
)
_NO_SUCH_OPTION = re.compile(r"unexpected keyword argument '(?P<name>\w+)'")


def _sentence(error: Exception, description: str) -> str:
    """
    Why an endpoint cannot be made. Twisted's own parsers are functions which are called with what
    the string says, and what they raise speaks of functions.
    """
    kind = description.partition(":")[0]
    text = " ".join(str(error).split())
    if isinstance(error, ConfigurationError):
        return text
    if isinstance(error, TypeError):
        unknown = _NO_SUCH_OPTION.search(text)
        if unknown is not None:
            return f"{kind}: has no option {unknown['name']!r}"
        return f"{kind}: has too few or too many parts, or one of them twice ({text})"
    no_number = _NO_NUMBER.match(text)
    if no_number is not None:
        return f"{no_number['text']} is not a number"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, CryptoError | TLSError) and error.args and error.args[0]:
        return f"the certificate or key cannot be used: {error.args[0][0][-1]}"
    return text or type(error).__name__
