"""C{{causes}}: why handshakes fail, from the tables that the lines of the log are made of."""

from __future__ import annotations

import re

from docutils import nodes
from markdown_tables import TableDirective
from sphinx.application import Sphinx

from twisted_bioconn import _sayings, _wire_sayings
from twisted_bioconn._causes import OWN, Cause, Saying, Who

TABLES: dict[str, dict[Cause, Saying]] = {
    "offers": _sayings._OFFERS,
    "client-certificates": _sayings._CLIENT_CERTIFICATES,
    "server-certificates": _sayings._SERVER_CERTIFICATES,
    "alerts": _sayings._ALERTS,
    "protocols": _wire_sayings._FOREIGN,
    "ends": _wire_sayings._ENDS,
    "rules": _wire_sayings._AGAINST_THE_RULES,
}
"""The tables by the argument of the directive."""

_WHO = {Who.US: "us", Who.PEER: "peer", Who.NEITHER: "nobody", Who.NETWORK: "network"}


class Causes(TableDirective):
    """One of the tables."""

    required_arguments = 1

    def made(self) -> list[nodes.Node]:
        """As L{TableDirective.made}."""
        rows = [
            (
                f"`{cause}`",
                _text(saying.sentence),
                _WHO[saying.who],
                _text(saying.advice),
                _option(saying),
            )
            for cause, saying in TABLES[self.arguments[0]].items()
        ]
        return self.table(("cause", "the line", "who", "what to do", "option"), rows, "cause")


def _text(template: str) -> str:
    """A template, with what differs from line to line set apart."""
    # What only some lines have is left out.
    template = template.replace("{or_policy}", "").replace("{them}", "peer")
    return re.sub(r"\{(\w+)\}", lambda match: f"*{match[1]}*", template)


def _option(saying: Saying) -> str:
    if saying.setting is None:
        return ""
    return "that of the certificate" if saying.setting == OWN else f"`{saying.setting}`"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    told = [cause for table in TABLES.values() for cause in table]
    if sorted(told) != sorted(Cause):
        raise ValueError(f"these causes are in no table, or in two: {set(told) ^ set(Cause)}")
    app.add_directive("causes", Causes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
