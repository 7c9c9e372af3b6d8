"""
The configuration of C{twistd bioconn}: what its command line and a TOML file can say::

    workers = 2
    drain = 30

    [[listen]]
    port = 8443
    privateKey = "/etc/bioconn/example.pem"
    allow = ["dns=*.example.org"]
    forward = "localhost:8080"

Each key of the top is an option of the command line, without its C{--}. A C{[[listen]]} table is
C{--listen} and its target. Where to listen is C{endpoint}, as after C{--listen}, or C{port} with
C{interface}; each option that the endpoint string C{bioconn:} has is a key too, a number where it
takes a number, a list where it takes values with commas between them. Names of files are relative
to the directory in which the server runs, as they are on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from attrs import evolve, field, frozen
from cattrs import (
    AttributeValidationNote,
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from twisted_bioconn._certificate_options import TRUST_OPTIONS
from twisted_bioconn.endpoint_strings import SERVER_OPTIONS
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server import _config_values as values
from twisted_bioconn.server import _toml
from twisted_bioconn.server._config_values import (
    FORWARD_OPTIONS,
    READERS,
    Setting,
    Wrong,
    kind_of,
    option_text,
)
from twisted_bioconn.server._mistakes import (
    TARGETS,
    Mistake,
    Mistakes,
    Place,
    Source,
    Words,
    masked,
    shown,
)
from twisted_bioconn.server.hints import did_you_mean
from twisted_bioconn.server.status_ports import default_socket

__all__ = [
    "MOST_WORKERS",
    "TARGETS",
    "Configuration",
    "Listening",
    "Mistakes",
    "Routing",
    "load_config",
    "read_config",
]

_T = TypeVar("_T")

#: More than any machine has cores is a mistake.
MOST_WORKERS = 1024


@frozen
class Routing:
    """
    Where some of a listener's clients go, by what their hellos ask for.

    @ivar names: host names; one that begins with C{*.} is for all that differ from it in the first
        label.
    @ivar alpn: protocols.
    @ivar passthrough: whether TLS does not end here, but where they go.
    @ivar target: what they get.  Of it, only the target is used, and those options that say what
        is asked of clients.
    """

    target: Listening
    names: tuple[str, ...] = ()
    alpn: tuple[str, ...] = ()
    passthrough: bool = False


@frozen
class Listening:
    """
    Where clients come in, and what they get there.

    @ivar endpoint: what stands after C{--listen}.
    @ivar options: of the endpoint string C{bioconn:}, beside those that C{endpoint} has itself.
    @ivar forward: the back ends.
    @ivar forwarding: how clients are shared out among them, and what they are asked and told; the
        keys are those of L{FORWARD_OPTIONS<twisted_bioconn.server._config_values>}.
    @ivar unsafe_plain_target: whether they may be plain and on other machines.
    @ivar routes: where some of the clients go instead: the first that is for them.
    @ivar place: where this is written.
    """

    endpoint: str | None = field(default=None, repr=shown)
    options: Mapping[str, Setting] = field(factory=dict, repr=shown)
    forward: tuple[str, ...] = field(default=(), repr=shown)
    forwarding: Mapping[str, Setting] = field(factory=dict, repr=shown)
    web: str | None = None
    wsgi: str | None = None
    factory: str | None = None
    echo: bool = False
    unsafe_plain_target: bool = False
    routes: tuple[Routing, ...] = ()
    place: Place | Words | None = field(default=None, eq=False, repr=False)

    @property
    def targets(self) -> list[str]:
        """The keys of the targets that it has."""
        return [key for key in TARGETS if getattr(self, key) not in (None, (), False)]

    @property
    def label(self) -> str:
        """Where it is, in a word."""
        if self.endpoint is not None:
            return masked(self.endpoint)
        interface, port = str(self.options.get("interface", "")), self.options.get("port", "")
        if not interface:
            return str(port)
        return f"[{interface}]:{port}" if ":" in interface else f"{interface}:{port}"

    def mistake(self, key: str | None, sentence: str, item: int | None = None) -> Mistake:
        """
        Something wrong with a key of it, or with all of it.

        @param item: the number, from 0, of what is wrong in a list.
        """
        if self.place is None:
            return Mistake(f"listen {self.label}", key, sentence)
        return self.place.mistake(key, sentence, item)

    @property
    def is_of_command_line(self) -> bool:
        """Whether it is written on the command line, and not in a file."""
        return isinstance(self.place, Words)

    @property
    def wrong(self) -> frozenset[str]:
        """The keys that are known to be wrong."""
        return frozenset() if self.place is None else self.place.wrong


@frozen
class Configuration:
    """
    All that there is to say.

    @ivar state: the directory in which the development authority is kept; L{None} for the one that
        the environment has.
    @ivar workers: how many processes serve, or C{"auto"}.
    @ivar drain: the seconds that connections have to end by themselves, when the server is to end.
    @ivar status: the endpoint string of the status site, or C{"on"}; L{None} for none.
    @ivar log: what the log looks like, one of L{FORMATS}.
    @ivar max_buffered: how many bytes may be held in all for those that do not read; L{None} for
        any number.
    @ivar trace_failures: whether the status has the traces of handshakes that have failed.
    @ivar listen: where clients come in.
    @ivar places: where the other keys are written.
    """

    state: str | None = None
    workers: int | str = 1
    drain: float = 0
    status: str | None = field(default=None, repr=shown)
    listen: tuple[Listening, ...] = ()
    max_buffered: int | None = None
    trace_failures: bool = False
    log: str = "text"
    places: Mapping[str, Place | Words] = field(factory=dict, eq=False, repr=False)

    @property
    def status_place(self) -> str | None:
        """
        Where the status site is: C{"on"} is for the socket at which commands look for it.

        @raise ConfigurationError: there is no state directory.
        """
        return default_socket(self.state) if self.status == "on" else self.status

    def mistake(self, key: str, sentence: str) -> Mistake:
        """Something wrong with a key of the top."""
        place = self.places.get(key)
        return Mistake(key, None, sentence) if place is None else place.mistake(key, sentence)

    def differences(self, other: Configuration) -> list[str]:
        """
        What another configuration has changed, in words. Files are not looked into.

        @param other: the one that takes the place of this.
        @return: a sentence for each key of the top, and for each listener that has changed.
        """
        tops = [evolve(each, listen=()) for each in (self, other)]
        said = _changes(*map(_as_table, tops))
        before, after = _by_label(self.listen), _by_label(other.listen)
        for label, each in before.items():
            if label not in after:
                said.append(f"listen {label} is gone")
            elif each != after[label]:
                # Passwords are all told alike.
                changes = _changes(_as_table(each), _as_table(after[label]))
                said.append(f"listen {label}: {', '.join(changes) or 'a password is another'}")
        return said + [f"listen {label} is new" for label in after if label not in before]

    def as_toml(self) -> str:
        """
        A file that says the same, without passwords.

        @raise ConfigurationError: there is text that TOML cannot have.
        """
        try:
            return _toml.dumps(_as_table(self))
        except ValueError as error:
            raise ConfigurationError(f"--dump: {error}") from None


def load_config(path: str) -> Configuration:
    """
    Read a configuration file.

    @raise Mistakes: something is wrong in what it says. Nothing that it names is looked at.
    """
    configuration, mistakes = read_config(path)
    if mistakes:
        raise Mistakes(mistakes)
    return configuration


def read_config(path: str) -> tuple[Configuration, list[Mistake]]:
    """
    Read what can be read of a configuration file.

    @return: the configuration without what is wrong in it, and what that is.
    @raise Mistakes: there is no file of TOML.
    """
    source = Source.read(path)
    top = dict(source.data)
    tables = top.pop("listen", [])
    configuration, place, mistakes = _structured(source, (), top, Configuration)
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        mistakes.append(source.mistake(("listen",), "this must be [[listen]] tables"))
        tables = []
    listen = []
    for number, table in enumerate(tables):
        at: _toml.Path = ("listen", number)
        own = {key: value for key, value in table.items() if key != "route"}
        listening, its_place, more = _structured(source, at, own, Listening)
        routes, of_routes = _routes(source, at, table.get("route", []))
        listen.append(evolve(listening, place=its_place, routes=routes))
        mistakes += [*more, *_at_odds(listen[-1], own), *of_routes]
    places = dict.fromkeys(top, place)
    mistakes.sort(key=lambda each: each.order)
    return evolve(configuration, listen=tuple(listen), places=places), mistakes


def _at_odds(listening: Listening, table: Mapping[str, object]) -> Iterator[Mistake]:
    """
    Keys of a listener that exclude, or need, each other.

    @param table: its keys in the order of the file.
    """
    wrong, has_port = listening.wrong, "port" in listening.options
    if listening.endpoint is not None and has_port:
        yield listening.mistake("port", "endpoint says where to listen: it has the port")
    if listening.endpoint is None and not has_port and not wrong & {"port", "endpoint"}:
        yield listening.mistake(None, "neither port nor endpoint says where to listen")
    targets = [key for key in table if key in listening.targets]
    if not targets and not wrong & set(TARGETS):
        yield listening.mistake(None, f"it has no target: {_listed(TARGETS)}")
    for another in targets[1:]:
        yield listening.mistake(another, f"it has its target already: {targets[0]}")
    unsafe = ["unsafe-plain-target"] if listening.unsafe_plain_target else []
    for key in [*unsafe, *listening.forwarding]:
        if not listening.forward and not wrong & set(TARGETS):
            yield listening.mistake(key, "this is of no use without forward")
        elif key.startswith("health-") and not {"health-check"} & {*listening.forwarding, *wrong}:
            yield listening.mistake(key, "this is of no use without health-check")


def _routes(
    source: Source, path: _toml.Path, tables: object
) -> tuple[tuple[Routing, ...], list[Mistake]]:
    """The routes of a listener, and what is wrong in them."""
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        wrong = source.mistake((*path, "route"), "this must be [[listen.route]] tables")
        return (), [wrong]
    found: list[Routing] = []
    mistakes: list[Mistake] = []
    for number, table in enumerate(tables):
        at = (*path, "route", number)
        own: dict[str, Any] = {}
        for key, read in _ROUTE_KEYS.items():
            try:
                if key in table:
                    own[key] = read(table[key])
            except Wrong as error:
                place = (*at, key) if error.item is None else (*at, key, error.item)
                mistakes.append(source.mistake(place, str(error)))
        rest = {key: value for key, value in table.items() if key not in _ROUTE_KEYS}
        target, its_place, more = _structured(source, at, rest, Listening)
        target = evolve(target, place=its_place)
        mistakes += more
        for key in rest:
            is_of_port = key in target.options and key not in TRUST_OPTIONS
            if is_of_port or (key == "endpoint" and target.endpoint is not None):
                mistakes.append(source.mistake((*at, key), "this belongs in [[listen]]"))
        # All else that may be wrong is about the target.
        complete = evolve(target, endpoint="0", options={})
        mistakes += _at_odds(complete, rest)
        if not any(key in table for key in ("names", "alpn")):
            mistakes.append(target.mistake(None, "neither names nor alpn says who goes there"))
        if own.get("passthrough") and not target.forward and target.targets:
            mistakes.append(target.mistake("passthrough", "this needs forward: TLS ends there"))
        if own.get("passthrough"):
            # What goes on is TLS.
            target = evolve(target, unsafe_plain_target=True)
        asked = {key: target.options[key] for key in target.options if key in TRUST_OPTIONS}
        found.append(Routing(evolve(target, endpoint=None, options=asked), **own))
    return tuple(found), mistakes


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


# From a file


def _workers(value: object, _: object = None) -> int | str:
    if value == "auto":
        return "auto"
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_WORKERS:
        raise Wrong(f'this must be a number from 1 to {MOST_WORKERS}, or "auto"')
    return value


def _option(key: str, given: object) -> Setting:
    """An option of the endpoint string."""
    # An empty interface is every interface, as in Twisted's own strings.
    return "" if key == "interface" and given == "" else READERS[kind_of(key)](given)


def _settings(
    table: Mapping[str, Any], keys: Iterable[str], read: Callable[[str, object], Setting]
) -> dict[str, Setting]:
    """Some of the keys of a table; what is wrong is told as L{cattrs} tells it."""
    found: dict[str, Setting] = {}
    errors: list[Exception] = []
    for key, given in table.items():
        if key not in keys:
            continue
        try:
            found[key] = read(key, given)
        except Wrong as error:
            error.add_note(AttributeValidationNote(f"in {key}", key, None))
            errors.append(error)
    if errors:
        raise ClassValidationError("[[listen]]", errors, Listening)
    return found


def _option_names() -> set[str]:
    """The options that are keys: C{endpoint} is what stands after C{--listen}."""
    return set(SERVER_OPTIONS) - {"endpoint"}


_converter = Converter(forbid_extra_keys=True)
_listening = make_dict_structure_fn(
    Listening,
    _converter,
    _cattrs_forbid_extra_keys=True,
    endpoint=override(struct_hook=values.text),
    options=override(omit=True),
    forwarding=override(omit=True),
    forward=override(struct_hook=values.texts),
    web=override(struct_hook=values.text),
    wsgi=override(struct_hook=values.text),
    factory=override(struct_hook=values.text),
    echo=override(struct_hook=values.switch),
    unsafe_plain_target=override(struct_hook=values.switch, rename="unsafe-plain-target"),
    routes=override(omit=True),
    place=override(omit=True),
)

_ROUTE_KEYS: dict[str, Callable[[object], Any]] = {
    "names": values.texts,
    "alpn": values.texts,
    "passthrough": values.switch,
}


def _structure_listening(table: Mapping[str, Any], _: object) -> Listening:
    names = _option_names()
    own = {key: table[key] for key in table if key not in {*names, *FORWARD_OPTIONS}}
    errors: list[Exception] = []

    def read(structure: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return structure()
        except ClassValidationError as error:
            errors.extend(error.exceptions)
            return otherwise

    listening: Listening = read(lambda: _listening(own, Listening), Listening())
    options: dict[str, Setting] = read(lambda: _settings(table, names, _option), {})
    forwarding: dict[str, Setting] = read(
        lambda: _settings(table, FORWARD_OPTIONS, values.forward_option), {}
    )
    if errors:
        raise ClassValidationError("[[listen]]", errors, Listening)
    return evolve(listening, options=options, forwarding=forwarding)


_converter.register_structure_hook(Listening, _structure_listening)
_converter.register_structure_hook(
    Configuration,
    make_dict_structure_fn(
        Configuration,
        _converter,
        _cattrs_forbid_extra_keys=True,
        state=override(struct_hook=values.text),
        workers=override(struct_hook=_workers),
        drain=override(struct_hook=values.seconds),
        status=override(struct_hook=values.text),
        log=override(struct_hook=values.log),
        max_buffered=override(struct_hook=values.max_buffered, rename="max-buffered"),
        trace_failures=override(struct_hook=values.switch, rename="trace-failures"),
        listen=override(omit=True),
        places=override(omit=True),
    ),
)
_unstructure_listening = make_dict_unstructure_fn(
    Listening,
    _converter,
    _cattrs_omit_if_default=True,
    options=override(omit=True),
    forwarding=override(omit=True),
    unsafe_plain_target=override(rename="unsafe-plain-target"),
    routes=override(omit=True),
    place=override(omit=True),
)
_converter.register_unstructure_hook(
    Configuration,
    make_dict_unstructure_fn(
        Configuration,
        _converter,
        max_buffered=override(rename="max-buffered"),
        trace_failures=override(rename="trace-failures", omit_if_default=True),
        listen=override(omit=True),
        places=override(omit=True),
    ),
)


def _structured(
    source: Source, path: _toml.Path, table: Mapping[str, Any], kind: type[_T]
) -> tuple[_T, Place, list[Mistake]]:
    """
    What a table says without the keys that are wrong, its place, and what is wrong.
    """
    try:
        return _converter.structure(table, kind), Place(source, path), []
    except ClassValidationError as error:
        errors = error.exceptions
    mistakes: list[Mistake] = []
    given: set[str] = set()
    wrong: set[str] = set()
    for each in errors:
        if isinstance(each, ForbiddenExtraKeysError):
            for key in each.extra_fields:
                sentence, meant = _unknown(key, kind)
                mistakes.append(source.mistake((*path, key), sentence))
                given.add(key)
                wrong |= {key, meant}
            continue
        [note] = [n for n in each.__notes__ if isinstance(n, AttributeValidationNote)]
        key = _KEYS.get(note.name, note.name)
        item = each.item if isinstance(each, Wrong) else None
        found = source.mistake((*path, key) if item is None else (*path, key, item), str(each))
        mistakes.append(found)
        given.add(key)
        wrong.add(key)
    rest = {key: value for key, value in table.items() if key not in given}
    place = Place(source, path, frozenset(wrong))
    return _converter.structure(rest, kind), place, mistakes


_KEYS = {
    "max_buffered": "max-buffered",
    "trace_failures": "trace-failures",
    "unsafe_plain_target": "unsafe-plain-target",
}
"""The keys that are no names in Python."""


def _keys_of(kind: type[object]) -> set[str]:
    if kind is Configuration:
        others = {"trace-failures", "listen"}
        return {"state", "workers", "drain", "status", "log", "max-buffered", *others}
    others = {"endpoint", "unsafe-plain-target", "route"}
    return {*_option_names(), *FORWARD_OPTIONS, *TARGETS, *others}


def _unknown(key: str, kind: type[object]) -> tuple[str, str]:
    """What to say of a key that is not known here, and which key was meant; C{""} if none."""
    where, other = "at the top", cast("type[object]", Listening)
    if kind is Listening:
        where, other = "in [[listen]]", Configuration
    if key in _keys_of(other):
        hint = "[[listen]]" if other is Listening else "the top, above the first [[listen]]"
        return f"this belongs in {hint}", ""
    words = re.split("[-_]", key)
    camel = words[0] + "".join(word.capitalize() for word in words[1:])
    known = _keys_of(kind)
    near = f", did you mean {camel}?" if camel in known else did_you_mean(key, known)
    return f"there is no such key {where}{near}", near[len(", did you mean ") : -1]


# What it is told as


def _as_table(thing: Configuration | Listening) -> dict[str, Any]:
    """What TOML has for it, without passwords."""
    if isinstance(thing, Listening):
        found: dict[str, Any] = _unstructure_listening(thing)
        back_ends = found.pop("forward", ())
        options = {key: thing.options[key] for key in SERVER_OPTIONS if key in thing.options}
        endpoint = {} if thing.endpoint is None else {"endpoint": found.pop("endpoint")}
        found = {**endpoint, **options, **found}
        if back_ends:
            found["forward"] = back_ends[0] if len(back_ends) == 1 else tuple(back_ends)
        found.update(
            {key: thing.forwarding[key] for key in FORWARD_OPTIONS if key in thing.forwarding}
        )
        if thing.routes:
            found["route"] = [_route_table(each) for each in thing.routes]
    else:
        found = _converter.unstructure(thing)
        found["listen"] = [_as_table(each) for each in thing.listen]
    return {key: _masked(key, value) for key, value in found.items() if value not in (None, [])}


def _route_table(route: Routing) -> dict[str, Any]:
    found: dict[str, Any] = {"names": route.names, "alpn": route.alpn}
    found = {key: value for key, value in found.items() if value}
    target = route.target
    if route.passthrough:
        found["passthrough"] = True
        target = evolve(target, unsafe_plain_target=False)
    return {**found, **_as_table(target)}


def _masked(key: str, value: Any) -> Any:
    if isinstance(value, str):
        # What is wrong in it, if anything, depends on what it is for.
        return masked(f"{key}={value}").removeprefix(f"{key}=")
    return tuple(map(masked, value)) if isinstance(value, tuple) else value


def _told(value: Any) -> str:
    if isinstance(value, list):
        tables = (" ".join(f"{key} {_told(each[key])}" for key in each) for each in value)
        return "; ".join(tables)
    return ", ".join(value) if isinstance(value, tuple) else option_text(value)


def _by_label(listen: Sequence[Listening]) -> dict[str, Listening]:
    """The listeners by where they are; a port that is any, for one, may be there twice."""
    found: dict[str, Listening] = {}
    for each in listen:
        label, number = each.label, 2
        while label in found:
            label, number = f"{each.label} ({number})", number + 1
        found[label] = each
    return found


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """In words, key by key."""
    said = []
    for key in dict.fromkeys([*before, *after]):
        if key not in after:
            said.append(f"{key} is gone")
        elif key not in before:
            said.append(f"{key} is new: {_told(after[key])}")
        elif before[key] != after[key]:
            said.append(f"{key}: {_told(before[key])} -> {_told(after[key])}")
    return said
