"""Tables that directives make, of cells in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


class TableDirective(SphinxDirective):
    """
    A directive that puts Markdown in its place.

    What is not as the directive expects is an error of the page, with the line.  An exception would
    be lost behind those that it causes.
    """

    def run(self) -> list[nodes.Node]:
        """As C{Directive.run}."""
        try:
            return self.made()
        except (AttributeError, KeyError, ValueError) as error:
            raise self.error(f"{self.name}: {error!r}") from error

    def made(self) -> list[nodes.Node]:
        """What stands there."""
        raise NotImplementedError

    def parsed(self, lines: Iterable[str]) -> list[nodes.Node]:
        """What Markdown comes to."""
        made = nodes.section()
        made.document = self.state.document
        source = f"<{self.name}>"
        self.state.nested_parse(StringList(list(lines), source), 0, made)
        return list(made.children)

    def table(
        self, head: Sequence[str], rows: Iterable[Sequence[str]], prefix: str = ""
    ) -> list[nodes.Node]:
        """
        A table.

        @param prefix: where it is given, each row has an address: this, C{-} and its first cell.
        """
        lines = [_row(head), _row(["---"] * len(head))]
        names = []
        for row in rows:
            lines.append(_row(row))
            names.append(row[0].strip("`"))
        made = self.parsed(lines)
        [table] = made
        assert isinstance(table, nodes.table)
        table["classes"] += ["options", f"of-{prefix}"]
        if prefix:
            [body] = table.findall(nodes.tbody)
            for name, each in zip(names, body.children, strict=True):
                each["ids"].append(nodes.make_id(f"{prefix}-{name}"))  # type: ignore[index]
        return made


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |"
