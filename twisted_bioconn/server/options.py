"""
The command line of C{twistd bioconn}::

    twistd -n bioconn --listen 8443 --forward localhost:8080

C{--listen} says where clients come in, and the target after it what they get. The pair may be
repeated. The same can be said in a file, which C{--config} names: see
L{config<twisted_bioconn.server.config>}. What the command line says in single words wins over the
file; its pairs are added to those of the file.

Everything that can be found wrong before anything is started is found here, and is a line on stderr
for each thing and exit status 1.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from attrs import evolve
from twisted.python import usage

from twisted_bioconn import __version__
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.reactor import install_best_reactor
from twisted_bioconn.server._config_values import FORWARD_OPTIONS, forward_option_from_text
from twisted_bioconn.server._mistakes import Mistake, Mistakes, Words, masked
from twisted_bioconn.server.checking import later_user, unreadable_later
from twisted_bioconn.server.config import MOST_WORKERS, Configuration, Listening, read_config
from twisted_bioconn.server.hints import did_you_mean
from twisted_bioconn.server.holdings import LEAST
from twisted_bioconn.server.inspection import name_asked_for
from twisted_bioconn.server.logs import FORMATS, log_as
from twisted_bioconn.server.pairs import pairs_of
from twisted_bioconn.server.secrecy import blot_command_line
from twisted_bioconn.server.targets import Pair

_SCALARS = ("state", "workers", "drain", "status", "log", "max-buffered")


class Options(usage.Options):
    """
    The options. What they come to is in C{pairs}, once they are parsed.

    @ivar pairs: what to serve and where; empty where the page about itself is to be served.
    @ivar configuration: what the file and the command line say together.
    """

    synopsis = "[--listen ENDPOINT TARGET]..."
    longdesc = (
        "A TARGET is one of --forward, --web, --wsgi, --factory and --echo. With no option at all,"
        " https://localhost:8443/ is a page that shows what was negotiated with its visitor."
    )
    optParameters = [
        [
            "config",
            None,
            None,
            "A file of TOML that says the same as options do, and more at once.",
        ],
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
            None,
            "How many processes serve: a number from 1 to 1024, or 'auto' for one on each core that"
            " may be used (default: 1). One that ends is replaced; SIGTERM to the first process"
            " ends all.",
        ],
        [
            "drain",
            None,
            None,
            "After SIGTERM, for how many seconds connections may come to an end by themselves"
            " (default: 0).",
        ],
        [
            "status",
            None,
            None,
            "Where to tell what the server does: the path of a UNIX socket, a port of this"
            " machine's own, or a bioconn: endpoint that asks for client certificates; 'on' for the"
            " socket in the state directory, which is where commands such as 'bioconn status' ask.",
        ],
        [
            "log",
            None,
            None,
            "What the log looks like: 'text', or 'json' with an object a line (default: text).",
        ],
        [
            "max-buffered",
            None,
            None,
            "How many bytes to hold in all, in each process, for clients and back ends that do not"
            " read; with more, the one is reset that has not read for the longest time (default:"
            " any number).",
        ],
        [
            "explain",
            None,
            None,
            "Open nothing: say what a client gets that asks for this host name or IP address, and"
            " exit; with status 1 where there is no valid certificate for it.",
        ],
    ]
    optFlags = [
        [
            "check",
            None,
            "Open nothing: say everything that is wrong, with file, line and key, and exit; with"
            " status 1 where there is anything.",
        ],
        [
            "dump",
            None,
            "Open nothing: print, as a file for --config, what the file and the options come to"
            " together, and exit.",
        ],
        [
            "show-certificates",
            None,
            "Open nothing: print a table of the certificates, and exit; with status 1 where one has"
            " expired, has an error, or there is none.",
        ],
        [
            "unsafe-plain-target",
            None,
            "Forward in the clear to other machines, and to endpoints of which it is not known that"
            " they are encrypted.",
        ],
        [
            "trace-failures",
            None,
            "With --status: show each step of the last 200 handshakes that have failed. For this"
            " all connections are traced: a handshake costs some 70 % more CPU, and each message"
            " after it twice as much. It is off by default.",
        ],
    ]

    def __init__(self) -> None:
        # Twisted's default is not as fast.  Whoever has named one with --reactor has that.
        install_best_reactor()
        super().__init__()  # type: ignore[no-untyped-call]
        self.pairs: list[Pair] = []
        self.configuration = Configuration()
        self._config_path = ""
        self._scalars: dict[str, Any] | None = None
        # An endpoint, its targets, and how they are forwarded to.
        self._words: list[tuple[str, list[tuple[str, str]], dict[str, str]]] = []

    def opt_version(self) -> None:
        """Say which version this is, and exit."""
        print(f"twisted_bioconn {__version__}")
        raise SystemExit(0)

    def opt_listen(self, endpoint: str) -> None:
        """
        Where clients come in: an endpoint string, or PORT or ADDRESS:PORT for bioconn:PORT. In the
        short form, where no option says where certificates come from, it has one from the
        development authority.
        """
        self._words.append((endpoint, [], {}))

    def opt_forward(self, endpoint: str) -> None:
        """
        Relay to a client endpoint, or to HOST:PORT for tcp:HOST:PORT. One that is not encrypted has
        to be on this machine. Where it is repeated, there are several back ends.
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
        blot_command_line()
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            raise SystemExit(f"bioconn: {masked(self._explain(str(error)))}") from None
        except Mistakes as error:
            if self["check"]:
                # There is no file to look into.
                _print(f"{each}\n" for each in error.mistakes)
                raise SystemExit(1) from None
            lines = "\n".join(f"bioconn: {each}" for each in error.mistakes)
            raise SystemExit(lines) from None
        except ConfigurationError as error:
            raise SystemExit(f"bioconn: {masked(str(error))}") from None

    def postOptions(self) -> None:
        """
        Make of the words, and of the file, what they stand for.

        @raise ConfigurationError: something is wrong.
        @raise SystemExit: this was all that was asked for.
        """
        if self["explain"] is not None:
            self["explain"] = name_asked_for(self["explain"])
        if self["config"] is not None:
            # A reload may come when twistd has gone to another directory.
            self._config_path = os.path.abspath(self["config"])
        self.configuration, mistakes = self._read(self["config"])
        if self["check"]:
            self._check(mistakes)
        if self["dump"]:
            if mistakes:
                raise Mistakes(mistakes)
            _print([self.configuration.as_toml()])
        if self["check"] or self["dump"]:
            raise SystemExit(0)
        self.pairs = self._pairs(self.configuration, mistakes)
        self["state"] = self.configuration.state
        self["workers"] = _workers(self.configuration.workers)
        self["drain"] = self.configuration.drain
        self["status"] = self.configuration.status_place
        self["log"] = self.configuration.log
        log_as(self["log"], {} if self.parent is None else self.parent)
        self["max-buffered"] = self.configuration.max_buffered

    def reread(self) -> tuple[Configuration, list[Pair]]:
        """
        Read the file again; what the command line says stays. The old C{configuration} and C{pairs}
        stay what they are.

        @raise Mistakes: something is wrong.
        """
        path = None if self["config"] is None else self._config_path
        configuration, mistakes = self._read(path)
        return configuration, self._pairs(configuration, mistakes)

    def _read(self, path: str | None) -> tuple[Configuration, list[Mistake]]:
        """What file and command line say together, and what is wrong in the file."""
        configuration, mistakes = (Configuration(), []) if path is None else read_config(path)
        if self._scalars is None:
            self._scalars = self._own_scalars()
        listen = (*configuration.listen, *self._own_listen())
        if path is not None and not listen and not mistakes:
            mistakes = [Mistake(path, None, "there is no [[listen]] in it: nothing to serve")]
        places = {
            key: Words(f"--{key}" if value is True else f"--{key} {value}")
            for key, value in self._scalars.items()
        }
        return evolve(
            configuration,
            **{key.replace("-", "_"): value for key, value in self._scalars.items()},
            listen=listen,
            places={**configuration.places, **places},
        ), mistakes

    def _own_scalars(self) -> dict[str, Any]:
        """What the command line says, but for its pairs."""
        found: dict[str, Any] = {key: self[key] for key in _SCALARS if self[key] is not None}
        for key, text in found.items():
            if not text:
                raise ConfigurationError(f"--{key}: this is empty")
        if "workers" in found:
            found["workers"] = _workers_given(found["workers"])
        if "drain" in found:
            found["drain"] = _drain(found["drain"])
        if found.get("log", "text") not in FORMATS:
            raise ConfigurationError(f"--log {found['log']}: this must be {' or '.join(FORMATS)}")
        if self["trace-failures"]:
            found["trace-failures"] = True
        if "max-buffered" in found:
            found["max-buffered"] = _max_buffered(found["max-buffered"])
        return found

    def _own_listen(self) -> list[Listening]:
        """The pairs of the command line."""
        found = []
        for endpoint, targets, forwarding in self._words:
            if not targets:
                raise usage.UsageError(
                    f"--listen {endpoint}: no target follows it (--forward, --web, --wsgi,"
                    " --factory or --echo)"
                )
            option, value = targets[0]
            for another, _ in targets[1:]:
                if (option, another) != ("--forward", "--forward"):
                    raise usage.UsageError(
                        f"{another}: --listen {endpoint} has its target already ({option})"
                    )
            for each in forwarding:
                if option != "--forward":
                    raise usage.UsageError(f"--{each}: --listen {endpoint} has no --forward")
                if each.startswith("health-") and "health-check" not in forwarding:
                    raise usage.UsageError(
                        f"--{each} {forwarding[each]}: this is of no use without --health-check"
                    )
            key, words = option[2:], tuple(f"{each} {text}".rstrip() for each, text in targets)
            given: Any = {
                "forward": tuple(text for _, text in targets),
                "echo": True,
            }.get(key, value)
            listening = Listening(
                endpoint,
                unsafe_plain_target=key == "forward" and bool(self["unsafe-plain-target"]),
                forwarding={
                    each: forward_option_from_text(each, text) for each, text in forwarding.items()
                },
                place=Words(
                    f"--listen {endpoint}",
                    words,
                    {each: f"--{each} {text}" for each, text in forwarding.items()},
                ),
                **{key: given},
            )
            found.append(listening)
        return found

    def _pairs(self, configuration: Configuration, known: list[Mistake]) -> list[Pair]:
        from twisted.internet import reactor

        pairs, mistakes = pairs_of(reactor, configuration, known)
        if mistakes:
            raise Mistakes(mistakes)
        return pairs

    def _check(self, mistakes: list[Mistake]) -> None:
        """
        Say what is wrong in the file, in what it names, and on the command line.

        @raise SystemExit: something is.
        """
        from twisted.internet import reactor

        _, found = pairs_of(reactor, self.configuration, mistakes, is_check=True)
        what = "the command line" if self["config"] is None else self["config"]
        lines = [str(each) for each in found]
        if not lines:
            user = later_user(self.parent)
            if user is not None:
                notes = unreadable_later(self.configuration, user, self["config"])
                lines = [f"{note} (a warning)" for note in notes]
            lines.append(f"{what}: no mistakes")
        _print(f"{line}\n" for line in lines)
        if found:
            raise SystemExit(1)

    def _target(self, option: str, value: str) -> None:
        if not self._words:
            raise usage.UsageError(f"{option} {value}".rstrip() + ": no --listen before it")
        self._words[-1][1].append((option, value))

    def _forwarding(self, key: str, value: str) -> None:
        if not self._words:
            raise usage.UsageError(f"--{key} {value}: no --listen before it")
        self._words[-1][2][key] = value

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


def _forward_option(key: str, text: str) -> Callable[[Options, str], None]:
    """The method that takes an option which stands after C{--forward}."""

    def method(self: Options, value: str) -> None:
        self._forwarding(key, value)

    method.__doc__ = text
    return method


for _key, (_, _text) in FORWARD_OPTIONS.items():
    setattr(Options, f"opt_{_key.replace('-', '_')}", _forward_option(_key, _text))


def _print(parts: Iterable[str]) -> None:
    try:
        for part in parts:
            # A name of a file may be in no encoding.
            sys.stdout.write(part.encode("utf-8", "backslashreplace").decode())
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough, such as head(1).
        sys.stderr.close()


def _workers_given(text: str) -> int | str:
    """
    What C{--workers} says.
    """
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    count = int(text) if is_number else 0
    if text != "auto" and not 1 <= count <= MOST_WORKERS:
        raise ConfigurationError(
            f"--workers {text}: this must be a number from 1 to {MOST_WORKERS}, or 'auto'"
        )
    return count or text


def _max_buffered(text: str) -> int:
    """
    What C{--max-buffered} says, in bytes.
    """
    is_number = text.isascii() and text.isdigit() and len(text) < 16
    if not is_number or int(text) < LEAST:
        raise ConfigurationError(
            f"--max-buffered {text}: this must be a number of bytes, {LEAST} at least"
        )
    return int(text)


def _drain(text: str) -> float:
    """
    What C{--drain} says, in seconds.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    # Also false for what is no number at all, nan.
    if not 0 <= seconds < 1e9:
        raise ConfigurationError(f"--drain {text}: this must be a number of seconds")
    return seconds


def _workers(given: int | str) -> int:
    """
    How many processes there are to be.
    """
    if isinstance(given, int):
        count = given
    else:
        # A system that cannot say which cores we may use has them all for us.
        affinity = getattr(os, "sched_getaffinity", None)
        count = (os.cpu_count() or 1) if affinity is None else len(affinity(0))
        count = min(count, MOST_WORKERS) if hasattr(os, "fork") else 1
    if count > 1 and not hasattr(os, "fork"):
        raise ConfigurationError(f"--workers {given}: this system can have no more than 1")
    return count
