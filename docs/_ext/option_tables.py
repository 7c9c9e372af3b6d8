"""
Directives that print the options there are, from where the program has them.

C{{server-options}} and C{{client-options}} are those of endpoint strings, C{{configuration}} the
keys of a file, and C{{command-line}} the options of C{bioconn} and its commands.  What is missing
here, or has gone from the program, ends the build.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import attrs
from docutils import nodes
from markdown_tables import TableDirective
from sphinx.application import Sphinx

from twisted_bioconn._option_help import CLIENT_HELP, SERVER_HELP, Help
from twisted_bioconn.endpoint_strings import CLIENT_OPTIONS, SERVER_OPTIONS
from twisted_bioconn.server import config
from twisted_bioconn.server._config_values import FORWARD_OPTIONS, OptionKind, kind_of
from twisted_bioconn.server._mistakes import TARGETS
from twisted_bioconn.server.control import COMMANDS
from twisted_bioconn.server.options import Options

_TAKES = {
    "str": "a text",
    "str | None": "a text",
    "int | None": "a whole number",
    "bool": "true or false",
    "float": OptionKind.SECONDS.value,
    "int | str": "a whole number, or a text",
    "tuple[str, ...]": "a list of texts, or one text",
}
"""What TOML has for the annotations of the configuration's attributes."""


class ServerOptions(TableDirective):
    """The options of a server's string."""

    takes, told = SERVER_OPTIONS, SERVER_HELP

    def made(self) -> list[nodes.Node]:
        """As L{TableDirective.made}."""
        _same(self.takes, self.told)
        rows = (
            (f"`{name}`", takes, self.told[name].default, self.told[name].meaning)
            for name, takes in self.takes.items()
        )
        return self.table(("option", "takes", "default", "meaning"), rows, self.name)


class ClientOptions(ServerOptions):
    """The options of a client's string."""

    takes, told = CLIENT_OPTIONS, CLIENT_HELP


class Configuration(TableDirective):
    """
    The keys of a file: of the top, of C{[[listen]]} or of C{[[listen.route]]}.

    The attributes of L{config}'s classes have the keys, what they take and their defaults; what
    they are for, the command line says, or the class.
    """

    required_arguments = 1

    def made(self) -> list[nodes.Node]:
        """As L{TableDirective.made}."""
        rows = {"top": self.top, "listen": self.listen, "route": self.route}[self.arguments[0]]
        head = ("key", "takes", "default", "meaning")
        return self.table(head, list(rows()), f"key-{self.arguments[0]}")

    def top(self) -> Iterator[tuple[str, ...]]:
        """Of the top."""
        rows = list(self.of_class(config.Configuration, without={"places", "listen"}))
        _same(
            (row[0].strip("`") for row in rows), config._keys_of(config.Configuration) - {"listen"}
        )
        yield from rows

    def listen(self) -> Iterator[tuple[str, ...]]:
        """Of a listener: its own, those of the endpoint string, those for back ends."""
        own = list(self.of_class(config.Listening, {"options", "forwarding", "routes", "place"}))
        told = SERVER_HELP | {"endpoint": Help("")}
        options = [
            (f"`{name}`", _takes(name), told[name].default, told[name].meaning)
            for name in SERVER_OPTIONS
            if name != "endpoint"
        ]
        forwarding = [
            (f"`{name}`", kind.value, *_parted(text))
            for name, (kind, text) in FORWARD_OPTIONS.items()
        ]
        first, *targets = own
        rows = [first, *options, *targets, *forwarding]
        keys = config._keys_of(config.Listening) - {"route"}
        _same((row[0].strip("`") for row in rows), keys)
        yield from rows

    def route(self) -> Iterator[tuple[str, ...]]:
        """Of a route: what is not of its target."""
        rows = list(self.of_class(config.Routing, {"target"}))
        _same((row[0].strip("`") for row in rows), config._ROUTE_KEYS)
        yield from rows

    def of_class(self, kind: type[Any], without: set[str]) -> Iterator[tuple[str, ...]]:
        """The attributes of a class that are keys."""
        told = _ivars(kind)
        for field in attrs.fields(kind):
            if field.name in without:
                continue
            key = config._KEYS.get(field.name, field.name)
            meaning, default = told.get(field.name, ""), _default(field.default)
            if key in TARGETS or not meaning or kind is config.Configuration:
                told_default, meaning = _parted(_of_command_line(key))
                default = told_default or default
            kind_name = field.type.__name__ if isinstance(field.type, type) else str(field.type)
            yield f"`{key}`", _TAKES[kind_name], default, meaning


class CommandLine(TableDirective):
    """The options of C{bioconn}, or, with the argument C{commands}, its commands."""

    optional_arguments = 1

    def made(self) -> list[nodes.Node]:
        """As L{TableDirective.made}."""
        if self.arguments:
            rows = [(f"`bioconn {name}`", f"{about}") for name, (_, about) in COMMANDS.items()]
            return self.table(("command", ""), rows, "command")
        pairs = ("listen", *TARGETS, *FORWARD_OPTIONS)
        names = [*pairs, *(str(each[0]) for each in (*Options.optParameters, *Options.optFlags))]
        methods = {
            name.removeprefix("opt_").replace("_", "-")
            for name in vars(Options)
            if name.startswith("opt_")
        }
        _same(methods - {"version"}, pairs)
        rows = [
            (f"`--{name}{_argument(name)}`", _of_command_line(name)) for name in [*names, "version"]
        ]
        return self.table(("option", "meaning"), rows, "option")


def _takes(name: str) -> str:
    """What TOML has for an option of the endpoint string; of a text, also what it may be."""
    kind = kind_of(name)
    return f"a text: {SERVER_OPTIONS[name]}" if kind is OptionKind.TEXT else kind.value


def _same(one: Iterable[str], other: Iterable[str]) -> None:
    one, other = list(one), list(other)
    if sorted(one) != sorted(other):
        odd = sorted({*one} ^ {*other})
        raise ValueError(f"these options are in one place only: {', '.join(odd)}")


def _ivars(kind: type[Any]) -> dict[str, str]:
    """What a class says of its attributes, in Markdown."""
    text = inspect.cleandoc(kind.__doc__ or "")
    found = re.findall(r"(?ms)^@ivar (\w+): (.*?)(?=^@|\Z)", text)
    return {name: _markdown(said) for name, said in found}


def _markdown(epytext: str) -> str:
    text = " ".join(epytext.split()).rstrip(".")
    text = re.sub(r"L\{([^<}]*)(?:<[^>]*>)?\}", r"`\1`", text)
    return re.sub(r"C\{([^}]*)\}", r"`\1`", text)


def _of_command_line(name: str) -> str:
    """What the command line says of an option."""
    for each in (*Options.optParameters, *Options.optFlags):
        if each[0] == name:
            return _code(str(each[-1]))
    method = getattr(Options, f"opt_{name.replace('-', '_')}")
    return _code(" ".join(inspect.cleandoc(method.__doc__).split()))


def _code(text: str) -> str:
    """Words that are typed as they stand, as code."""
    text = re.sub(r"(?<![\w`])((?:tcp|bioconn):[A-Z:]*)(?![\w`])", r"`\1`", text)
    return re.sub(r"(?<![\w`/])(\$?[~/A-Z][A-Z_~/.a-z]*[A-Z_/][\w.:/]*)(?![\w`])", _spelled, text)


def _spelled(match: re.Match[str]) -> str:
    word = match[1].rstrip(".,:")
    is_typed = re.search(r"[$~/_:]", word) is not None or word in ("PORT", "MODULE")
    return f"`{word}`{match[1][len(word) :]}" if is_typed else match[1]


def _parted(text: str) -> tuple[str, str]:
    """A default that stands in brackets, and the rest."""
    text = text.rstrip(".")
    found = re.search(r" \(default: (.*?)\)(?=$|[;.])", text)
    if found is None:
        return "", text
    return found[1], text[: found.start()] + text[found.end() :]


def _default(value: object) -> str:
    if value in (None, (), False) or isinstance(value, attrs.Factory):  # type: ignore[arg-type]
        return ""
    return f"`{value}`"


def _argument(name: str) -> str:
    """What stands after an option."""
    words = {
        "listen": "ENDPOINT",
        "forward": "ENDPOINT",
        "web": "DIRECTORY",
        "wsgi": "MODULE:NAME",
        "factory": "MODULE:NAME",
        "config": "FILE",
        "state": "DIRECTORY",
        "workers": "NUMBER",
        "drain": "SECONDS",
        "status": "ENDPOINT",
        "log": "FORMAT",
        "max-buffered": "BYTES",
        "explain": "NAME",
    }
    if name in FORWARD_OPTIONS:
        kinds = {OptionKind.WHOLE: "NUMBER", OptionKind.SECONDS: "SECONDS"}
        return f" {kinds.get(FORWARD_OPTIONS[name][0], 'WORD')}"
    has_none = {"echo", "version", *(str(each[0]) for each in Options.optFlags)}
    return "" if name in has_none else f" {words[name]}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("server-options", ServerOptions)
    app.add_directive("client-options", ClientOptions)
    app.add_directive("configuration", Configuration)
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
