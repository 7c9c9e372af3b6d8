r"""
May this peer come in.

Rules over a client's certificate, which was verified before, over the address that it comes from,
and over the name that it asks for.  One that matches is enough.  In text they have commas between
them::

    dns=*.example.org, cn=deploy, uri=spiffe://example.org/ns/*/sa/web, network=10.0.0.0/8

Conditions that must hold together have C{&} between them: C{ou=ops & network=10.0.0.0/8}, or
C{name=admin.example.org & ou=ops} for who may ask for one name.  A value that has a comma, a C{&}
or a double quote in it, or a space at an end, stands in double quotes, in which C{""} is one of
them: C{cn="Doe, John"}.  What the kinds of conditions are, L{Kind} says.

Everything fails closed.  What cannot be read in a certificate is what it does not have, and an
exception of any kind is a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import iscoroutinefunction

import attrs
from cryptography import x509

from ._access_peer import OF_NO_CERTIFICATE, Peer, Shown, described, in_line, whereabouts
from ._access_values import MEANINGS, URI, Kind, Network
from ._verification import Check
from .errors import ConfigurationError
from .verify import CertificateRefused

__all__ = [
    "AccessRefused",
    "Condition",
    "Decision",
    "Kind",
    "Peer",
    "Rule",
    "Rules",
    "parse_rules",
    "rules_from",
]

_MOST_RULES = 5  # in one sentence

_BY_NAME = {kind.value: kind for kind in Kind}
_OTHER_NAMES = {
    "commonname": Kind.CN,
    "subject": Kind.CN,
    "unit": Kind.OU,
    "host": Kind.DNS,
    "san": Kind.DNS,
    "spiffe": Kind.URI,
    "url": Kind.URI,
    "mail": Kind.EMAIL,
    "fingerprint": Kind.PIN,
    "sha256": Kind.PIN,
    "sni": Kind.NAME,
    "servername": Kind.NAME,
    "ca": Kind.ISSUER,
    "ip": Kind.ADDRESS,
    "cidr": Kind.NETWORK,
    "all": Kind.ANYONE,
    "any": Kind.ANYONE,
}
"""What people may call them, to be told what they are called here."""

_SINGLE = frozenset({Kind.CN, Kind.PIN, Kind.ADDRESS, Kind.NAME})
"""Of these a peer has one at most."""


def _kind(given: Kind | str) -> Kind:
    if isinstance(given, Kind):
        return given
    found = _BY_NAME.get(given)
    if found is None:
        raise ConfigurationError(f"there is no kind of rule called {in_line(given)}{_hint(given)}")
    return found


def _hint(word: str) -> str:
    words = _OTHER_NAMES | _BY_NAME
    near = get_close_matches(word.strip().lower(), words, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {words[near[0]].value}?"
    return f"; there are {', '.join(_BY_NAME)}"


@attrs.frozen
class Condition:
    """
    One thing that must be so of a peer.

    @ivar kind: what is looked at; it can be given by its name.
    @ivar value: what it must be, in the one spelling in which it is compared.
    @raise ConfigurationError: this kind has no such value.
    """

    kind: Kind = attrs.field(converter=_kind)
    value: str = ""
    _meaning: object = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        kind, given = self.kind, self.value
        if kind is Kind.ANYONE and given:
            raise ConfigurationError(f"anyone={in_line(given)}: anyone takes no value")
        if kind is not Kind.ANYONE and not given.strip():
            raise ConfigurationError(f"{kind.value}= has no value")
        try:
            if not given.isprintable():
                raise ValueError("it has a character in it that cannot be printed")
            meaning = MEANINGS[kind](given)
        except ValueError as error:
            raise ConfigurationError(f"{kind.value}={in_line(given)}: {error}") from None
        object.__setattr__(self, "value", str(meaning))
        object.__setattr__(self, "_meaning", meaning)

    def __str__(self) -> str:
        if self.kind is Kind.ANYONE:
            return "anyone"
        value = self.value
        if re.search('[,&"]', value) or value != value.strip():
            value = '"' + value.replace('"', '""') + '"'
        return f"{self.kind.value}={value}"

    @property
    def is_key(self) -> bool:
        """Whether it can be looked up by what a peer shows: L{Shown.keys}."""
        if isinstance(self._meaning, URI):
            return not self._meaning.is_pattern
        return self.kind is not Kind.NETWORK

    def holds(self, shown: Shown) -> bool:
        """Whether it is so of a peer."""
        meaning = self._meaning
        if isinstance(meaning, URI):
            return any(meaning.matches(each) for each in shown.uris)
        if isinstance(meaning, Network):
            return shown.address is not None and shown.address in meaning
        return self.value in shown.keys(self.kind)


def _conditions(given: Iterable[Condition]) -> tuple[Condition, ...]:
    return tuple(given)


@attrs.frozen
class Rule:
    """
    Conditions that must all hold of a peer.

    @ivar conditions: at least one.
    @raise ConfigurationError: they do not fit together.
    """

    conditions: tuple[Condition, ...] = attrs.field(converter=_conditions)

    def __attrs_post_init__(self) -> None:
        if not self.conditions:
            raise ConfigurationError("a rule has no conditions: it would let everybody in")
        kinds = [each.kind for each in self.conditions]
        if len(set(self.conditions)) < len(kinds):
            raise ConfigurationError(f"{in_line(str(self))}: the same condition is given twice")
        for kind in _SINGLE:
            if kinds.count(kind) > 1:
                raise ConfigurationError(
                    f"{in_line(str(self))}: no peer has more than one {kind.value}, so that this"
                    " would never match"
                )
        if Kind.ANYONE in kinds and not OF_NO_CERTIFICATE.issuperset({*kinds} - {Kind.ANYONE}):
            raise ConfigurationError(
                f"{in_line(str(self))}: anyone stands alone, or with an address, a network or a"
                " name"
            )

    def __str__(self) -> str:
        return "&".join(map(str, self.conditions))

    @property
    def needs_certificate(self) -> bool:
        """Whether it lets in nobody who has shown no certificate."""
        return any(each.kind not in OF_NO_CERTIFICATE for each in self.conditions)


@attrs.frozen
class Decision:
    """
    Whether a peer may come in.

    @ivar allowed: whether it may.
    @ivar reason: why, in one sentence of one line, for a log.
    @ivar rule: the rule that lets it in; L{None} where there is none.
    """

    allowed: bool
    reason: str
    rule: Rule | None = None


class AccessRefused(CertificateRefused):
    """
    A peer whose certificate is good may not come in.
    """


def _rules(given: Iterable[Rule]) -> tuple[Rule, ...]:
    return tuple(given)


def _table(rules: Rules) -> _Table:
    return _Table(rules.rules)


@attrs.frozen
class Rules:
    """
    Who may come in.  As text it is what L{parse_rules} reads.

    @ivar rules: the rules, of which one must match.
    @ivar check: asked in place of rules.  It answers L{True} to let a peer in, and L{False} or an
        exception, whose text is told as the reason, to refuse it.  It is asked about those too who
        have shown no certificate.  Any other answer, such as a Deferred, is a refusal.
    @raise ConfigurationError: there are no rules, or they do not fit together.
    """

    rules: tuple[Rule, ...] = attrs.field(default=(), converter=_rules)
    check: Callable[[Peer], bool] | None = None
    _found: _Table = attrs.field(
        init=False, eq=False, repr=False, default=attrs.Factory(_table, takes_self=True)
    )

    def __attrs_post_init__(self) -> None:
        if self.check is not None:
            if self.rules:
                raise ConfigurationError("there are both rules and a check: give one of them")
            if iscoroutinefunction(self.check):
                raise ConfigurationError("the check must answer at once: it is a coroutine")
        elif not self.rules:
            raise ConfigurationError("there are no rules: nobody would be let in")
        known: set[frozenset[Condition]] = set()
        for rule in self.rules:
            if frozenset(rule.conditions) in known:
                raise ConfigurationError(f"{in_line(str(rule))}: the same rule is given twice")
            known.add(frozenset(rule.conditions))
        if frozenset([Condition(Kind.ANYONE)]) in known:
            for rule in self.rules:
                if rule.needs_certificate and str(rule) != Kind.ANYONE.value:
                    raise ConfigurationError(
                        f"{in_line(str(rule))}: anyone, which is given too, makes it mean nothing"
                    )

    def __str__(self) -> str:
        if self.check is not None:
            return f"the check {_name_of(self.check)}"
        return ",".join(map(str, self.rules))

    @property
    def needs_certificate(self) -> bool:
        """
        Whether nobody is let in who has shown no certificate: each rule asks for something in one.
        Of a check that is not known.
        """
        return self.check is None and all(rule.needs_certificate for rule in self.rules)

    @property
    def needs_name(self) -> bool:
        """
        Whether a rule is about the name that a peer asks for.  Of a check that is not known.
        """
        return any(each.kind is Kind.NAME for rule in self.rules for each in rule.conditions)

    def decide(self, peer: Peer) -> Decision:
        """Whether a peer may come in, and why."""
        shown = Shown(peer)
        if self.check is not None:
            return _asked(self.check, shown)
        rule = self._found.find(shown)
        if rule is not None:
            who = described(shown, {each.kind for each in rule.conditions})
            return Decision(True, f"{who} may come in by {in_line(str(rule))}", rule)
        return Decision(False, self._refusal(shown))

    def as_check(
        self,
        address: str | None = None,
        server_name: str | None = None,
        alpn: bytes | None = None,
    ) -> Check:
        """
        A check of the chain of one connection, for L{ClientPolicy}.  It is for the modes in which
        chains are verified.  In C{REQUEST} they are not: but for its pin, a certificate says there
        whatever its owner likes.  In C{VERIFY_IF_GIVEN} the check is not asked about those without
        a certificate: L{decide} has to be.

        @return: it raises L{AccessRefused} to refuse.
        """

        def check(chain: Sequence[x509.Certificate]) -> None:
            decision = self.decide(Peer(tuple(chain), address, server_name, alpn))
            if not decision.allowed:
                raise AccessRefused(decision.reason)

        return check

    def _refusal(self, shown: Shown) -> str:
        some = [in_line(str(rule)) for rule in self.rules[:_MOST_RULES]]
        more = len(self.rules) - len(some)
        accepted = ", ".join(some) + (f" and {more} more" if more else "")
        kinds = {each.kind for rule in self.rules for each in rule.conditions}
        if shown.peer.chain:
            who = described(shown, kinds)
            return f"{who} is none of those that may come in: {accepted}"
        if self.needs_certificate:
            return f"showed no certificate, and only these may come in: {accepted}"
        if Kind.NAME in kinds:
            who = described(shown, kinds)
            return f"{who}, showed no certificate, and may not come in by any of: {accepted}"
        where = whereabouts(shown)
        return f"showed no certificate, and {where} is in no network that may come in: {accepted}"


class _Table:
    """Rules, to find one that matches: most of them are looked up, and the others tried."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._by_key: dict[Kind, dict[str, Rule]] = {}
        self._tried: list[Rule] = []
        for rule in rules:
            first, *others = rule.conditions
            if others or not first.is_key:
                self._tried.append(rule)
            else:
                self._by_key.setdefault(first.kind, {}).setdefault(first.value, rule)

    def find(self, shown: Shown) -> Rule | None:
        for kind, rules in self._by_key.items():
            for key in shown.keys(kind):
                if key in rules:
                    return rules[key]
        for rule in self._tried:
            if all(each.holds(shown) for each in rule.conditions):
                return rule
        return None


def _asked(check: Callable[[Peer], bool], shown: Shown) -> Decision:
    # Which name was asked for is not always known here.
    who = described(shown, frozenset(Kind) - {Kind.NAME})
    try:
        answer: object = check(shown.peer)
    except Exception as error:
        # An error of the check's own refuses as well as a reason does.
        return Decision(False, f"{who} was refused: {in_line(str(error)) or type(error).__name__}")
    if answer is True:
        return Decision(True, f"{who} may come in by the check {_name_of(check)}")
    if answer is False:
        return Decision(False, f"{who} was refused by the check {_name_of(check)}")
    return Decision(
        False,
        f"{who} was refused: the check {_name_of(check)} has answered with"
        f" {type(answer).__name__}, and neither with True nor with False",
    )


def _name_of(check: object) -> str:
    return in_line(getattr(check, "__qualname__", type(check).__qualname__))


def parse_rules(text: str) -> Rules:
    """
    Read rules out of one line: C{KIND=VALUE}, with commas between those of which one is enough,
    and C{&} between those which must hold together.

    @raise ConfigurationError: the line has a mistake.
    """
    return Rules(_read(text))


def _read(text: str) -> list[Rule]:
    return [
        Rule([_condition(part, rule) for part in _split(rule, "&")]) for rule in _split(text, ",")
    ]


def _split(text: str, separator: str) -> list[str]:
    """
    The parts of a text, of which each separator outside of quotes ends one.
    """
    parts = [""]
    # What is between quotes is every second piece.  A quote within quotes is two that have nothing
    # between them, outside.
    for at, piece in enumerate(text.split('"')):
        if at % 2:
            parts[-1] += f'"{piece}"'
        else:
            first, *others = piece.split(separator)
            parts[-1] += first
            parts += others
    if text.count('"') % 2:
        raise ConfigurationError(f"{in_line(text.strip())}: a double quote has no end")
    return parts


def _condition(text: str, rule: str) -> Condition:
    name, found, value = text.strip().partition("=")
    name, value = name.strip(), value.strip()
    if not found and name == Kind.ANYONE.value:
        return Condition(Kind.ANYONE)
    where = in_line(rule.strip())
    if not where:
        raise ConfigurationError(
            "there is an empty rule: nothing before or after a comma, or nothing at all"
        )
    if not found:
        part = "it" if name == rule.strip() else repr(in_line(name))
        raise ConfigurationError(
            f"{where}: {part} is not written KIND=VALUE; a value with a comma, & or double quote in"
            f" it stands in double quotes{_hint(name)}"
        )
    if '"' in value:
        inner = value[1:-1]
        if len(value) < 2 or value[0] + value[-1] != '""' or '"' in inner.replace('""', ""):
            raise ConfigurationError(
                f'{where}: double quotes stand around the whole value, and "" for one within it'
            )
        value = inner.replace('""', '"')
    try:
        kind = _kind(name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    if kind is Kind.ANYONE:
        raise ConfigurationError(f"{where}: anyone takes no value")
    return Condition(kind, value)


def rules_from(data: object, where: str) -> Rules:
    """
    Read rules out of what a TOML file has: a list of texts, each as for L{parse_rules}, of tables,
    or of both; or only one of these.

    The keys of a table are kinds, and the conditions of one table must all hold; to hold, one table
    of the list is enough.  Values in a table stand for themselves, with no quotes in them::

        [[allow]]
        ou = "ops"
        network = "10.0.0.0/8"

        [[allow]]
        cn = "Doe, John"

    C{anyone} is written C{anyone = true}.

    @param where: what has them, such as the file and the key, to be named where there is a mistake.
    @raise ConfigurationError: there is one.
    """
    items = data if isinstance(data, list) else [data]
    rules: list[Rule] = []
    for number, item in enumerate(items, 1):
        try:
            if isinstance(item, str):
                rules += _read(item)
            elif isinstance(item, Mapping):
                rules.append(Rule([_from_table(key, item[key]) for key in item]))
            else:
                raise ConfigurationError(
                    f"it must be text or a table, and not {type(item).__name__}"
                )
        except ConfigurationError as error:
            which = f", rule {number}" if len(items) > 1 else ""
            raise ConfigurationError(f"{where}{which}: {error}") from None
    try:
        return Rules(rules)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _from_table(key: object, value: object) -> Condition:
    kind = _kind(str(key))
    if kind is Kind.ANYONE:
        if value is not True:
            raise ConfigurationError("anyone can only be true")
        return Condition(kind)
    if not isinstance(value, str):
        raise ConfigurationError(f"{kind.value} takes text, and not {type(value).__name__}")
    return Condition(kind, value)
