"""
Cases, and the verdict on what a server makes of them.

A case is a line of a table: its name, what must be seen, the section that says so, and what is
sent.  What is seen is a word or a few: the name of the alert that ends the connection; C{serves}
where the page comes; C{close_notify}; C{end} or C{reset} where TCP ends with no alert; or whatever
else the case itself looks for.  Where the RFC leaves a choice there is a C{|} between the words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.conformance.client import Client
from tests.conformance.hellos import Hello
from tests.conformance.known import BARE, DEVIATIONS, NGINX, OURS
from tests.conformance.servers import PORTS, SERVERS, Server
from tests.conformance.wire import Ended

How = Callable[[Client], "str | None"]
"""
What is sent.  It gives what is seen, or L{None} to have it waited for.
"""


@attrs.frozen
class Case:
    """
    A case.

    @ivar must: what must be seen.
    @ivar section: where that is written.
    @ivar ports: the configurations that it is put to.
    """

    name: str
    must: str
    section: str
    how: How
    ports: tuple[str, ...] = ("web",)

    @property
    def allowed(self) -> Sequence[str]:
        """All that may be seen."""
        return self.must.split("|")


def seen(case: Case, server: Server, port: str) -> str:
    """Put a case to a server, and say what is seen."""
    with Client(server.ports, port) as client:
        try:
            outcome = case.how(client)
            if outcome is None:
                client.wait()
        except Ended as ended:
            return ended.what
    return outcome


def says(said: Hello) -> How:
    """Go through a handshake that begins with this hello, and ask for the page."""
    return lambda client: client.complete(said).serves()


def verdict(case: Case, server: Server, port: str) -> tuple[str, str]:
    """
    Put a case to a server.

    @return: what is seen; and C{right}, C{known} for what is in L{DEVIATIONS}, or C{wrong}.
    """
    outcome = seen(case, server, port)
    if outcome in case.allowed:
        return outcome, "right"
    known = DEVIATIONS.get(case.name)
    if known is not None and outcome in known.seen.get(server.name, "").split("|"):
        return outcome, "known"
    return outcome, "wrong"


class Conformance(SynchronousTestCase):
    """A table of cases, each of which is a test for each server and each of its ports."""

    cases: Sequence[Case] = ()

    def check(self, case: Case, name: str, port: str) -> None:
        """Put a case to the server of this name."""
        server = SERVERS[name]()
        outcome, judged = verdict(case, server, port)
        said = f"{case.name}: {server.name} ({server.version}) on the port {port}"
        if judged == "wrong" and name == NGINX and not server.version.startswith("OpenSSL 3.0."):
            raise SkipTest(
                f"what nginx does is known on OpenSSL 3.0; on {server.version}: {outcome}"
            )
        if judged == "wrong":
            self.fail(f"{said}: {outcome}, but {case.section} says {case.must}")
        if judged == "known" and name == OURS:
            # What is said to be OpenSSL's has to be so where nothing of ours is near.
            bare = SERVERS[BARE]()
            where = port if port in bare.ports else "web"
            self.assertEqual(seen(case, bare, where), outcome, said)
        self.assertEqual(server.unhandled(), [], said)


_Case = TypeVar("_Case", bound=type[Conformance])

TABLES: list[Sequence[Case]] = []
"""All tables, as they are imported."""


def conforms(cases: Sequence[Case]) -> Callable[[_Case], _Case]:
    """Make tests of a table."""
    TABLES.append(cases)

    def decorate(into: _Case) -> _Case:
        into.cases = cases
        for case in cases:
            for name, ports in PORTS.items():
                for port in ports:
                    if port in case.ports:
                        _add(into, case, name, port)
        return into

    return decorate


def _add(into: type[Conformance], case: Case, name: str, port: str) -> None:
    def test(self: Conformance) -> None:
        self.check(case, name, port)

    words = re.sub(r"\W+", "_", case.name.lower()).strip("_")
    where = "" if port == case.ports[0] else f"_on_{port}"
    test.__name__ = f"test_{name.lower()}_{words}{where}"
    test.__doc__ = f"{case.section}: {case.name}."
    assert not hasattr(into, test.__name__), test.__name__
    setattr(into, test.__name__, test)
