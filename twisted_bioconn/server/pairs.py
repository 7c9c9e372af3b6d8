"""
A configuration made into what it comes to: endpoints to listen on, and what clients get there.

All that can be found wrong before anything is started is found here, each thing by itself: what is
wrong is told and then left out, and what is left is looked at on. What is wrong only because of
what was left out is not told.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from hashlib import sha256
from tempfile import TemporaryDirectory
from typing import Any

from attrs import asdict, evolve
from twisted.internet.endpoints import quoteStringArgument

from twisted_bioconn._certificate_options import TRUST_OPTIONS
from twisted_bioconn._option_values import choice
from twisted_bioconn.certificates.development import DevelopmentAuthority, state_directory
from twisted_bioconn.certificates.loading import read_file
from twisted_bioconn.certificates.names import spelled
from twisted_bioconn.certificates.revocation import TrustFiles
from twisted_bioconn.client_policy import ClientPolicy
from twisted_bioconn.endpoint_strings import CLIENT_OPTIONS, SERVER_OPTIONS
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server._config_values import Setting, is_path, option_text
from twisted_bioconn.server._mistakes import Mistake, masked
from twisted_bioconn.server.addresses import (
    client_description,
    client_endpoint,
    connect_timeout,
    leaves_in_the_clear,
    parse,
    server_description,
    server_endpoint,
)
from twisted_bioconn.server.admission import (
    asked_by_port,
    options_of_route,
    route_trust,
    ways_round,
)
from twisted_bioconn.server.backends import BackEnds, Balance, Marks, SendProxy
from twisted_bioconn.server.checks import check_from_string
from twisted_bioconn.server.config import Configuration, Listening, Routing
from twisted_bioconn.server.relay import CONNECT_TIMEOUT
from twisted_bioconn.server.sites import load_application, load_factory
from twisted_bioconn.server.status_ports import status_port
from twisted_bioconn.server.targets import (
    WSGI,
    Custom,
    Echo,
    Forward,
    Listen,
    Pair,
    RouteTarget,
    Target,
    Web,
)

__all__ = ["pairs_of"]


def pairs_of(
    reactor: Any,
    configuration: Configuration,
    known: Iterable[Mistake] = (),
    is_check: bool = False,
) -> tuple[list[Pair], list[Mistake]]:
    """
    Make of a configuration what it stands for. Nothing is started.

    @param known: what is known to be wrong.
    @param is_check: whether nothing is to be written either, and the users' modules are to be
        imported even where something is wrong elsewhere.
    @return: the pairs of which nothing is wrong, and all that is wrong, in its order.
    """
    with ExitStack() as stack:
        making = _Making(reactor, stack, is_check, known)
        made = [making.listen(each) for each in configuration.listen]
        targets: list[Target | None] = [making.target(each) for each in configuration.listen]
        if configuration.status is not None:
            try:
                status_port(reactor, configuration.status_place or "")
            except (ConfigurationError, UnicodeEncodeError) as error:
                sentence = _without_name(_reason(error), "status", configuration.status)
                making.mistakes.append(configuration.mistake("status", sentence))
        elif configuration.trace_failures:
            sentence = "this needs status: there is nowhere to show the traces"
            making.mistakes.append(configuration.mistake("trace-failures", sentence))
        keeps_state = not made or any(each and each.endpoint is None for each in made)
        if is_check and keeps_state:
            problem = unusable_state(configuration.state)
            if problem is not None:
                making.mistakes.append(configuration.mistake("state", problem))
        routed = [
            [making.target(route.target) for route in each.routes] for each in configuration.listen
        ]
        for each in configuration.listen:
            making.look_at_routes(each)
        asked = [making.asked(each) for each in configuration.listen]
        if is_check or not making.mistakes:
            for number, each in enumerate(configuration.listen):
                targets[number] = targets[number] or making.imported(each)
                for at, route in enumerate(each.routes):
                    routed[number][at] = routed[number][at] or making.imported(route.target)
    pairs = [
        Pair(listen, target, _words(each), _key(each), _routes(each, ways, clients))
        for listen, target, each, ways, clients in zip(
            made, targets, configuration.listen, routed, asked, strict=True
        )
        if listen is not None and target is not None
    ]
    return pairs, sorted(dict.fromkeys(making.mistakes), key=lambda each: each.order)


def _routes(
    listening: Listening,
    targets: Sequence[Target | None],
    asked: Sequence[TrustFiles | ClientPolicy | None],
) -> tuple[RouteTarget, ...]:
    return tuple(
        RouteTarget(target, each.names, each.alpn, each.passthrough, clients)
        for each, target, clients in zip(listening.routes, targets, asked, strict=True)
        if target is not None
    )


def _key(listening: Listening) -> str:
    # There may be a password in it, which is part of what was asked for.
    told = asdict(_ordered(listening), filter=lambda field, _: bool(field.eq))
    digest = sha256(json.dumps(told).encode()).hexdigest()
    return f"{_name(listening)} {digest}"


def _ordered(listening: Listening) -> Listening:
    return evolve(
        listening,
        options=_sorted(listening.options),
        forwarding=_sorted(listening.forwarding),
        routes=tuple(evolve(each, target=_ordered(each.target)) for each in listening.routes),
    )


def _sorted(given: Mapping[str, Setting]) -> dict[str, Setting]:
    return dict(sorted(given.items()))


def _words(listening: Listening) -> str:
    [key, *_] = listening.targets
    value = getattr(listening, key)
    dashes = "--" if listening.is_of_command_line else ""
    return masked(
        " ".join(
            f"{dashes}{key} {each}".rstrip()
            for each in (value if isinstance(value, tuple) else ["" if value is True else value])
        )
    )


#: The options that say where certificates come from.
_SOURCES = ("privateKey", "certKey", "certificates", "acme")

#: Those of one certificate: where one of them is wrong, the others cannot be told to be right.
_SERVER_PAIR = ("privateKey", "certKey", "extraCertChain", "passphraseFile")
_CLIENT_PAIR = ("certificate", "privateKey", "passphraseFile")


class _Making:
    """
    @ivar mistakes: those that are known.
    """

    def __init__(
        self, reactor: Any, stack: ExitStack, is_check: bool, known: Iterable[Mistake]
    ) -> None:
        self._reactor = reactor
        self._stack = stack
        self._is_check = is_check
        self._directory: str | None = None
        self._stand_in: str | None = None
        self._by_port: dict[int, tuple[dict[str, str], set[str]]] = {}
        self.mistakes = list(known)

    def listen(self, listening: Listening) -> Listen | None:
        """Where clients come in; L{None} where something is wrong."""
        known = len(self.mistakes)
        found = (
            self._table(listening)
            if listening.endpoint is None
            else self._string(listening, listening.endpoint)
        )
        return found if len(self.mistakes) == known and not listening.wrong else None

    def _table(self, listening: Listening) -> Listen | None:
        given = {key: option_text(value) for key, value in listening.options.items()}
        # Where none is given, that is known to be wrong.
        given.setdefault("port", "0")
        return self._bioconn(listening, listening.label, given, True, None)

    def _string(self, listening: Listening, text: str) -> Listen | None:
        try:
            description, is_short = server_description(text)
            arguments, named = parse(description)
        except (ConfigurationError, UnicodeEncodeError) as error:
            self._say(listening, "endpoint", _reason(error))
            return None
        kind = arguments[0].lower()
        options = {key: listening.options[key] for key in listening.options if key != "port"}
        if kind != "bioconn":
            for key in options:
                self._say(
                    listening,
                    key,
                    f"{kind}: endpoints do not have it; endpoint ="
                    f" 'bioconn:endpoint={quoteStringArgument(text)}' does",
                )
            try:
                endpoint = server_endpoint(self._reactor, description)
            except ConfigurationError as error:
                self._say(listening, "endpoint", str(error))
                return None
            return Listen(text, description, endpoint, _name(listening))
        if len(arguments) > 2 or (len(arguments) == 2 and "port" in named):
            # It cannot be taken apart, and this says why.
            try:
                server_endpoint(self._reactor, description)
            except ConfigurationError as error:
                self._say(listening, "endpoint", str(error))
            return None
        given = dict(zip(("port",), arguments[1:], strict=False)) | named
        for key, value in options.items():
            if key in given:
                self._say(listening, key, "endpoint has it already")
            else:
                given[key] = option_text(value)
        return self._bioconn(listening, text, given, is_short, None if options else description)

    def _bioconn(
        self,
        listening: Listening,
        text: str,
        given: dict[str, str],
        is_short: bool,
        description: str | None,
    ) -> Listen | None:
        """
        @param given: the options of the endpoint string.
        @param is_short: whether it has a certificate for development where no option says another.
        @param description: the endpoint string; L{None} to have it made of the options.
        """
        for_development = is_short and not {*given, *listening.wrong}.intersection(_SOURCES)
        described = _described("bioconn", ("port",), given) if description is None else description
        tried = dict(given)
        if for_development or listening.wrong.intersection(_SOURCES):
            self._stand(tried)
        if self._is_check and "acme" in tried and "redis" not in tried:
            self._keep_elsewhere(listening, tried)
        wrong = set(listening.wrong)
        endpoint = None
        while endpoint is None:
            try:
                endpoint = server_endpoint(self._reactor, _described("bioconn", ("port",), tried))
            except ConfigurationError as error:
                before = dict(tried)
                named = self._named(listening, str(error), tried, SERVER_OPTIONS, wrong)
                self._without(listening, named, tried, wrong)
                if tried == before:
                    break
        self._by_port[id(listening)] = asked_by_port(tried), wrong
        return Listen(
            text,
            described,
            None if for_development else endpoint,
            _name(listening),
        )

    def _named(
        self,
        listening: Listening,
        sentence: str,
        tried: Mapping[str, str],
        known: Iterable[str],
        wrong: set[str],
        where: tuple[str | None, int | None] = (None, None),
    ) -> str | None:
        """
        Tell of a mistake, unless it is only a consequence of others.

        @return: the option that is wrong.
        """
        named = _options_in(sentence, {*known, *tried})
        key = next((each for each in named if each in tried), next(iter(named), None))
        having = _with_value(sentence, key, tried)
        if having != key:
            sentence, key = sentence.removeprefix(f"{key}: "), having
        if wrong.intersection(named):
            if (
                key is not None
                and key in tried
                and _is_path(key)
                and not os.path.exists(tried[key])
            ):
                self._read(listening, key, tried[key])
        else:
            place, item = where
            if place is None:
                place = key if key in listening.options else "endpoint"
                if listening.endpoint is None:
                    place = key
            shown = sentence
            if place == key and key is not None:
                shown = _without_name(sentence, key, tried.get(key, ""))
            self._say(listening, place, shown, item)
        if key is not None:
            wrong.add(key)
        return key

    def _without(
        self, listening: Listening, key: str | None, tried: dict[str, str], wrong: set[str]
    ) -> None:
        """Leave out what is wrong; what stands for it has nothing wrong."""
        if key == "port" or key == "endpoint":
            for each in ("port", "endpoint", "interface", "backlog"):
                tried.pop(each, None)
            tried["port"] = "0"
        elif key in _SERVER_PAIR and not {"acme", "certificates"} & set(tried):
            # Of the others it is known whether they can be read.
            for each in _SERVER_PAIR:
                if each in tried and each != key:
                    self._read(listening, each, tried[each])
            self._stand(tried)
        elif key is not None:
            tried.pop(key, None)
            if not any(each in tried for each in _SOURCES):
                self._stand(tried)

    def _read(self, listening: Listening, key: str, path: str) -> None:
        try:
            read_file(path)
        except ConfigurationError as error:
            place = key if listening.endpoint is None or key in listening.options else "endpoint"
            self._say(listening, place, str(error) if place == key else f"{key}: {error}")

    def _stand(self, tried: dict[str, str]) -> None:
        """Have a certificate with which the rest can be looked at."""
        for each in _SERVER_PAIR:
            tried.pop(each, None)
        if self._stand_in is None:
            authority = DevelopmentAuthority(self._scratch())
            authority.leaf()
            self._stand_in = os.path.join(authority.directory, "leaf.pem")
        if not {"acme", "certificates"} & set(tried):
            tried["privateKey"] = self._stand_in

    def _scratch(self) -> str:
        """A directory that is gone when all is made."""
        if self._directory is None:
            self._directory = self._stack.enter_context(TemporaryDirectory(prefix="bioconn-"))
        return self._directory

    def _keep_elsewhere(self, listening: Listening, tried: dict[str, str]) -> None:
        """A check writes nothing where state is kept, but looks whether it could."""
        problem = unusable_state(tried.get("state"))
        if problem is not None:
            is_key = listening.endpoint is None or "state" in listening.options
            self._say(listening, "state" if is_key else "endpoint", problem)
        tried["state"] = self._scratch()

    def look_at_routes(self, listening: Listening) -> None:
        """Whether there can be routes, and for these names."""
        for each in listening.routes:
            for number, name in enumerate(each.names):
                if spelled(name) is None:
                    self._say(
                        each.target, "names", f"{name}: no client can ask for that name", number
                    )
        if listening.routes and listening.endpoint is not None:
            try:
                kind = parse(server_description(listening.endpoint)[0])[0][0].lower()
            except (ConfigurationError, UnicodeEncodeError):
                return
            if kind != "bioconn":
                self._say(
                    listening, "route", f"{kind}: endpoints do not have it: they read no hello"
                )

    def asked(self, listening: Listening) -> list[TrustFiles | ClientPolicy | None]:
        """What is asked of the clients of each of its routes: see L{RouteTarget}."""
        # By no other endpoint anything is asked; that it can have no routes is told.
        port, wrong = self._by_port.get(id(listening), ({}, set()))
        own = [
            {key: option_text(value) for key, value in each.target.options.items()}
            for each in listening.routes
        ]
        is_open = not (wrong or {"allow", "clientAuthorities"} & port.keys())
        for each in ways_round(listening, own) if is_open else ():
            self._say(
                each.target,
                None,
                "who does not go by this route gets the same without its rules: say in [[listen]]"
                " too who may come in, with allow or clientAuthorities",
            )
        return [
            self._trust(each, options_of_route(port, options, each.passthrough), wrong)
            for each, options in zip(listening.routes, own, strict=True)
        ]

    def _trust(
        self, route: Routing, given: dict[str, str], wrong: Iterable[str]
    ) -> TrustFiles | ClientPolicy | None:
        wrong = {*wrong, *route.target.wrong}
        while True:
            try:
                return route_trust(given, route.passthrough)
            except ConfigurationError as error:
                key = self._named(route.target, str(error), given, TRUST_OPTIONS, wrong)
                if key not in given:
                    return None
                given = {each: given[each] for each in given if each != key}

    def target(self, listening: Listening) -> Target | None:
        """
        What clients get, where no module of a user's is needed to know it; L{None} where one is, or
        where something is wrong.
        """
        if listening.echo:
            return Echo()
        if listening.web is not None:
            return self._web(listening, listening.web)
        if not listening.forward:
            return None
        known = len(self.mistakes)
        found = [
            self._forward(listening, text, number) for number, text in enumerate(listening.forward)
        ]
        settings = self._forwarding(listening)
        if len(self.mistakes) > known:
            return None
        return self._balanced(listening, [each for each in found if each is not None], settings)

    def _balanced(
        self, listening: Listening, found: list[Forward], settings: dict[str, Any]
    ) -> Forward | None:
        if len(found) == 1 and not settings:
            return found[0]
        try:
            back_ends = BackEnds(
                [(each.endpoint, each.description) for each in found], self._reactor, **settings
            )
        except ConfigurationError as error:
            self._say(listening, "forward", str(error))
            return None
        limits = [each.connect_timeout for each in found if each.connect_timeout is not None]
        timeout = max(limits, default=None)
        return Forward(back_ends.description, found[0].endpoint, timeout, back_ends)

    def _forwarding(self, listening: Listening) -> dict[str, Any]:
        """What back ends are asked and told, as arguments of L{BackEnds}."""
        given = listening.forwarding
        found: dict[str, Any] = {}

        def read(key: str, name: str, make: Callable[[], object], said_of: str) -> None:
            try:
                found[name] = make()
            except ConfigurationError as error:
                # A sentence may name what it is about as it is called in Python.
                sentence = _without_name(str(error), said_of, str(given.get(key, "")))
                self._say(listening, key, sentence)

        for key, name, kind in (
            ("balance", "balance", Balance),
            ("send-proxy", "send_proxy", SendProxy),
        ):
            if key in given:
                words = {each.value: each for each in kind}
                read(key, name, partial(choice, key, str(given[key]), words), key)
        if "health-check" in given:
            check = partial(check_from_string, str(given["health-check"]))
            numbers = {
                key.removeprefix("health-"): given[key]
                for key in given
                if key.startswith("health-") and key not in ("health-check", "health-host")
            }
            read("health-check", "check", partial(check, **numbers), "check")
            if "health-host" in given and "check" in found:
                host = given["health-host"]
                read("health-host", "check", partial(check, **numbers, host=host), "health-host")
        marks = {
            key.replace("-", "_"): given[key]
            for key in ("max-fails", "fail-window", "fail-time")
            if key in given
        }
        if marks:
            found["marks"] = Marks(**marks)  # type: ignore[arg-type]
        return found

    def imported(self, listening: Listening) -> Target | None:
        """What clients get, where it is in a module of a user's."""
        known: list[tuple[str, str | None, Callable[[str, str], Target]]] = [
            ("wsgi", listening.wsgi, lambda option, text: WSGI(load_application(option, text))),
            ("factory", listening.factory, lambda option, text: Custom(load_factory(option, text))),
        ]
        for key, text, load in known:
            if text is None:
                continue
            try:
                return load("", text)
            except ConfigurationError as error:
                sentence = str(error).removeprefix(f" {text}: ")
                self._say(listening, key, self._about(listening, text, sentence))
        return None

    def _web(self, listening: Listening, directory: str) -> Web | None:
        if not os.path.isdir(directory):
            problem = "this is no directory" if os.path.exists(directory) else "there is none"
        elif not os.access(directory, os.R_OK | os.X_OK):
            problem = "it cannot be read"
        else:
            # twistd may go to another directory before it starts.
            return Web(os.path.abspath(directory))
        self._say(listening, "web", self._about(listening, directory, problem))
        return None

    def _forward(self, listening: Listening, text: str, number: int) -> Forward | None:
        item = number if listening.is_of_command_line or len(listening.forward) > 1 else None
        known = len(self.mistakes)
        try:
            description = client_description(text)
            reason = None if listening.unsafe_plain_target else leaves_in_the_clear(description)
            arguments, named = parse(description)
        except (ConfigurationError, UnicodeEncodeError) as error:
            self._say(listening, "forward", self._about(listening, text, _reason(error)), item)
            return None
        if reason is not None:
            dashes = "--" if listening.is_of_command_line else ""
            value = "" if listening.is_of_command_line else " = true"
            sentence = (
                f"{reason}; {dashes}unsafe-plain-target{value} allows it, bioconn:HOST:PORT"
                " encrypts it"
            )
            self._say(listening, "forward", self._about(listening, text, sentence), item)
        wrong: set[str] = set()
        is_ours = arguments[0].lower() == "bioconn" and len(arguments) == 3
        tried = {"host": arguments[1], "port": arguments[2], **named} if is_ours else {}
        endpoint = None
        while endpoint is None:
            try:
                endpoint = client_endpoint(self._reactor, description)
            except ConfigurationError as error:
                about = self._about(listening, text, str(error))
                where = ("forward", item)
                key = self._named(listening, about, tried, CLIENT_OPTIONS, wrong, where)
                if not is_ours or key in ("host", "port") or key not in tried:
                    break
                for each in _CLIENT_PAIR if key in _CLIENT_PAIR else (key,):
                    tried.pop(each, None)
                description = _described("bioconn", ("host", "port"), tried)
        if endpoint is None or len(self.mistakes) > known:
            return None
        own_timeout = connect_timeout(description) is not None
        return Forward(text, endpoint, None if own_timeout else CONNECT_TIMEOUT)

    def _about(self, listening: Listening, text: str, sentence: str) -> str:
        """A sentence about a value, which a word of the command line has in front of it anyway."""
        return sentence if listening.is_of_command_line else f"{text}: {sentence}"

    def _say(
        self, listening: Listening, key: str | None, sentence: str, item: int | None = None
    ) -> None:
        self.mistakes.append(listening.mistake(key, sentence, item))


def _reason(error: ConfigurationError | UnicodeEncodeError) -> str:
    if isinstance(error, ConfigurationError):
        return str(error)
    # Twisted makes names of functions' arguments of them.
    return "the name of an option in it is not ASCII"


def _name(listening: Listening) -> str:
    return f"{'--' if listening.is_of_command_line else ''}listen {listening.label}"


def _described(kind: str, positional: Iterable[str], given: Mapping[str, str]) -> str:
    """An endpoint string."""
    parts = [kind]
    parts += [quoteStringArgument(given[key]) for key in positional if key in given]
    parts += [
        f"{key}={quoteStringArgument(value)}"
        for key, value in given.items()
        if key not in positional
    ]
    return ":".join(parts)


_UNKNOWN_OPTION = re.compile(r"has no option '(\w+)'")


def _options_in(sentence: str, known: set[str]) -> list[str]:
    """The options that a sentence about an endpoint string names, in their order."""
    unknown = _UNKNOWN_OPTION.search(sentence)
    if unknown is not None:
        return [unknown[1]]
    first = re.match(r"(?:bioconn: )?(\w+) ", sentence)
    found = [first[1]] if first is not None else []
    found += re.findall(r"(?<![\w/.-])(\w+)(?=[=:])", sentence)
    return list(dict.fromkeys(each for each in found if each in known))


def unusable_state(given: str | None) -> str | None:
    """
    Why no state could be kept in a directory, which need not be there yet; L{None} if it could.

    @param given: the directory, as for L{state_directory}.
    """
    try:
        path = state_directory(given)
    except ConfigurationError as error:
        return str(error)
    while not os.path.lexists(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        return f"{path} is a file, not a directory"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"{path} cannot be written in"
    return None


def _with_value(sentence: str, key: str | None, tried: Mapping[str, str]) -> str | None:
    """The option that has the value which a sentence quotes; C{key} where that is none."""
    quoted = re.search(r"'([^']+)'", sentence)
    if quoted is None or (key is not None and quoted[1] in tried.get(key, "")):
        return key
    having = (each for each in tried if quoted[1] in tried[each].split(","))
    return next(having, key)


def _is_path(option: str) -> bool:
    """Does it name a file or a directory that must be there?"""
    return option != "state" and is_path(option)


def _without_name(sentence: str, key: str, value: str) -> str:
    """A sentence of what stands after the name of the option that it is about."""
    for prefix in (f"{key}={value}: ", f"{key}: ", f"bioconn: {key} "):
        if sentence.startswith(prefix):
            return sentence[len(prefix) :]
    return sentence.removeprefix("bioconn: ")
