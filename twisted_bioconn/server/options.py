"""
The command line of C{twistd bioconn}.

    twistd -n bioconn --listen 8443 --forward localhost:8080

C{--listen} says where clients come in, and the target after it what they get. The pair may be
repeated. Everything that can be found wrong before anything is started is found here, and is one
line on stderr and exit status 1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import (
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.python import usage

from twisted_bioconn import __version__
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.reactor import install_best_reactor
from twisted_bioconn.server.addresses import (
    client_description,
    client_endpoint,
    connect_timeout,
    leaves_in_the_clear,
    parse,
    server_description,
    server_endpoint,
)
from twisted_bioconn.server.hints import did_you_mean
from twisted_bioconn.server.relay import CONNECT_TIMEOUT
from twisted_bioconn.server.sites import Application, load_application, load_factory

#: More than any machine has cores is a mistake.
MOST_WORKERS = 1024


@frozen
class Forward:
    """Relay to a back end; L{None} for the timeout where the endpoint has its own (seconds)."""

    description: str
    endpoint: IStreamClientEndpoint
    connect_timeout: float | None


@frozen
class Web:
    """Serve a directory."""

    directory: str


@frozen
class WSGI:
    """Run a WSGI application."""

    application: Application


@frozen
class Custom:
    """Whatever the user's factory does."""

    factory: IProtocolFactory


@frozen
class Echo:
    """Send back what comes."""


Target = Forward | Web | WSGI | Custom | Echo


@frozen
class Listen:
    """
    Where clients come in.

    @ivar text: as the user wrote it.
    @ivar description: the endpoint string that this means.
    @ivar endpoint: the endpoint; L{None} where it is to have the development certificate, which is
        made when everything else is known to be right.
    """

    text: str
    description: str
    endpoint: IStreamServerEndpoint | None


@frozen
class Pair:
    """A listening endpoint and its target."""

    listen: Listen
    target: Target


class Options(usage.Options):
    """
    The options. What they come to is in C{pairs}, once they are parsed.

    @ivar pairs: what to serve and where; empty where the page about itself is to be served.
    """

    synopsis = "[--listen ENDPOINT TARGET]..."
    longdesc = (
        "A TARGET is one of --forward, --web, --wsgi, --factory and --echo. With no option at all,"
        " https://localhost:8443/ is a page that shows what was negotiated with its visitor."
    )
    optParameters = [
        [
            "state",
            None,
            None,
            "The directory in which the development authority is kept (default: $STATE_DIRECTORY,"
            " else $XDG_STATE_HOME/bioconn, else ~/.local/state/bioconn).",
        ],
        [
            "workers",
            None,
            "1",
            "How many processes serve: a number from 1 to 1024, or 'auto' for one on each core that"
            " may be used. One that ends is replaced; SIGTERM to the first process ends all.",
        ],
    ]
    optFlags = [
        [
            "unsafe-plain-target",
            None,
            "Forward in the clear to other machines, and to endpoints of which it is not known that"
            " they are encrypted.",
        ],
    ]

    def __init__(self) -> None:
        # Twisted's default is not as fast.  Whoever has named one with --reactor has that.
        install_best_reactor()
        super().__init__()  # type: ignore[no-untyped-call]
        self.pairs: list[Pair] = []
        self._words: list[tuple[str, list[tuple[str, str]]]] = []

    def opt_version(self) -> None:
        """Say which version this is, and exit."""
        print(f"twisted_bioconn {__version__}")
        raise SystemExit(0)

    def opt_listen(self, endpoint: str) -> None:
        """
        Where clients come in: an endpoint string, or PORT or ADDRESS:PORT for bioconn:PORT. In the
        short form, without privateKey=, it has a certificate from the development authority.
        """
        self._words.append((endpoint, []))

    def opt_forward(self, endpoint: str) -> None:
        """
        Relay to a client endpoint, or to HOST:PORT for tcp:HOST:PORT. One that is not encrypted has
        to be on this machine.
        """
        self._target("--forward", endpoint)

    def opt_web(self, directory: str) -> None:
        """
        Serve the files of a directory.
        """
        self._target("--web", directory)

    def opt_wsgi(self, application: str) -> None:
        """
        Run the WSGI application MODULE:NAME.
        """
        self._target("--wsgi", application)

    def opt_factory(self, factory: str) -> None:
        """
        Use the Twisted protocol factory MODULE:NAME, or the one that it returns when called.
        """
        self._target("--factory", factory)

    def opt_echo(self) -> None:
        """
        Send back what comes.
        """
        self._target("--echo", "")

    def parseArgs(self, *words: str) -> None:
        """
        @see: L{usage.Options.parseArgs}
        """
        if words:
            raise usage.UsageError(f"{words[0]!r} follows no option that takes it")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse the command line.

        @raise SystemExit: it is wrong. Twisted would print all the options there are, on stdout,
            and what is wrong below them.
        """
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            raise SystemExit(f"bioconn: {self._explain(str(error))}") from None
        except ConfigurationError as error:
            raise SystemExit(f"bioconn: {error}") from None

    def postOptions(self) -> None:
        """
        Make of the words what they stand for.

        @raise ConfigurationError: one of them is wrong.
        """
        self["workers"] = _workers(self["workers"])
        for endpoint, targets in self._words:
            if not targets:
                raise usage.UsageError(
                    f"--listen {endpoint}: no target follows it (--forward, --web, --wsgi,"
                    " --factory or --echo)"
                )
            option, value = targets[0]
            if len(targets) > 1:
                raise usage.UsageError(
                    f"{targets[1][0]}: --listen {endpoint} has its target already ({option})"
                )
        # In two steps, so that all of the command line is known to make sense before a user's
        # module is imported.
        listens = [_listen(endpoint) for endpoint, _ in self._words]
        for listen, (_, [(option, value)]) in zip(listens, self._words, strict=True):
            self.pairs.append(Pair(listen, self._targeted(option, value)))

    def _target(self, option: str, value: str) -> None:
        if not self._words:
            raise usage.UsageError(f"{option} {value}".rstrip() + ": no --listen before it")
        self._words[-1][1].append((option, value))

    def _targeted(self, option: str, value: str) -> Target:
        match option:
            case "--forward":
                return _forward(value, bool(self["unsafe-plain-target"]))
            case "--web":
                return _web(value)
            case "--wsgi":
                return WSGI(load_application(option, value))
            case "--factory":
                return Custom(load_factory(option, value))
            case _:
                return Echo()

    def _explain(self, sentence: str) -> str:
        """
        Add to getopt's sentence about an unknown option the one that was meant.
        """
        unknown = re.fullmatch(r"option (?P<dashes>--?)(?P<name>\S+) not recognized", sentence)
        if unknown is None:
            return sentence
        dashes, name = unknown.groups()
        known: Any = self.parent
        if known is not None and (
            name in known.shortOpt.replace(":", "")
            if dashes == "-"
            else name in (option.rstrip("=") for option in known.longOpt)
        ):
            return f"{dashes}{name} is an option of the command before: put it before 'bioconn'"
        near = did_you_mean(name, (option.rstrip("=") for option in self.longOpt), "--")
        return f"there is no option {dashes}{name}{near}"


def _workers(text: str) -> int:
    """
    How many processes there are to be.
    """
    if text == "auto":
        # A system that cannot say which cores we may use has them all for us.
        affinity = getattr(os, "sched_getaffinity", None)
        count = (os.cpu_count() or 1) if affinity is None else len(affinity(0))
        count = min(count, MOST_WORKERS) if hasattr(os, "fork") else 1
    else:
        is_number = text.isascii() and text.isdigit() and len(text) < 10
        count = int(text) if is_number else 0
        if not 1 <= count <= MOST_WORKERS:
            raise ConfigurationError(
                f"--workers {text}: this must be a number from 1 to {MOST_WORKERS}, or 'auto'"
            )
    if count > 1 and not hasattr(os, "fork"):
        raise ConfigurationError(f"--workers {text}: this system can have no more than 1")
    return count


def _listen(text: str) -> Listen:
    from twisted.internet import reactor

    try:
        description, is_short = server_description(text)
        if is_short and not {"privateKey", "certKey"} & set(parse(description)[1]):
            return Listen(text, description, None)
        return Listen(text, description, server_endpoint(reactor, description))
    except ConfigurationError as error:
        raise ConfigurationError(f"--listen {text}: {error}") from error


def _forward(text: str, in_the_clear: bool) -> Forward:
    from twisted.internet import reactor

    try:
        description = client_description(text)
        reason = None if in_the_clear else leaves_in_the_clear(description)
        if reason is not None:
            raise ConfigurationError(
                f"{reason}; --unsafe-plain-target allows it, bioconn:HOST:PORT encrypts it"
            )
        endpoint = client_endpoint(reactor, description)
    except ConfigurationError as error:
        raise ConfigurationError(f"--forward {text}: {error}") from error
    own_timeout = connect_timeout(description) is not None
    return Forward(text, endpoint, None if own_timeout else CONNECT_TIMEOUT)


def _web(directory: str) -> Web:
    if not os.path.isdir(directory):
        problem = "this is no directory" if os.path.exists(directory) else "there is none"
        raise ConfigurationError(f"--web {directory}: {problem}")
    if not os.access(directory, os.R_OK | os.X_OK):
        raise ConfigurationError(f"--web {directory}: it cannot be read")
    # twistd may go to another directory before it starts.
    return Web(os.path.abspath(directory))
