"""Where keys are in TOML, and how it is written."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from itertools import count
from textwrap import dedent
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.server._toml import Path, dumps, positions


def paths(data: object, path: Path = ()) -> Iterator[Path]:
    """Of each key and each item in what L{tomllib} has read."""
    if path:
        yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from paths(value, (*path, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from paths(value, (*path, number))


#: Values that look like something else.  No key in them is one that the tests give.
VALUES = (
    "1",
    "-0.5e3",
    "true",
    "1979-05-27T07:32:00Z",
    '""',
    "''",
    '"# [no] = \\" \\\\"',
    '\'no = """ \\\'',
    '"""\n[no]\nno = 1\n[[no]] # \\""" \\\n"""',
    '"""two quotes at the end"""""',
    "'''\n[no]\n]}, no = '' \n'''",
    "'''one at the end''''",
    "[]",
    '[ # ]\n  [1, 2],\n\n  \'],\', # [\n  """\n]\n""",\n]',
    "{}",
)


@st.composite
def documents(draw: st.DrawFn) -> str:
    """TOML in which no two keys have one name, but for those of arrays of tables."""
    names = (f"k{number}x" for number in count())

    def name() -> str:
        return draw(st.sampled_from(["{}", '"{}"', "'{}'"])).format(next(names))

    def value(depth: int) -> str:
        kind = draw(st.integers(0, 6))
        if kind == 0 and depth:
            pairs = [f"{key()} = {value(depth - 1)}" for _ in range(draw(st.integers(1, 3)))]
            return "{ " + ", ".join(pairs) + "}"
        if kind == 1 and depth:
            blank = draw(st.sampled_from(["", " ", "\n", "\n# [\n  "]))
            items = [f"{blank}{value(depth - 1)}" for _ in range(draw(st.integers(1, 3)))]
            return "[" + ",".join(items) + f"{blank}]"
        return draw(st.sampled_from(VALUES))

    def key() -> str:
        return draw(st.sampled_from([".", " . "])).join(
            name() for _ in range(draw(st.integers(1, 3)))
        )

    def pairs() -> Iterator[str]:
        for _ in range(draw(st.integers(0, 3))):
            space = draw(st.sampled_from(["", " ", "\t"]))
            yield f"{space}{key()}{space}={space}{value(2)}"
            yield draw(st.sampled_from(["", "# no = 1", "  "]))

    lines = list(pairs())
    for _ in range(draw(st.integers(0, 3))):
        header = key()
        if draw(st.booleans()):
            lines += [f"[{header}] # [no]", *pairs()]
            continue
        for _ in range(draw(st.integers(1, 3))):
            lines += [f"[[{header}]]", *pairs()]
            if draw(st.booleans()):
                lines += [f"[{header}.{key()}]", *pairs()]
    return draw(st.sampled_from(["\n", "\r\n"])).join(lines)


class PositionTests(SynchronousTestCase):
    """L{positions}."""

    def lines(self, text: str) -> dict[Path, int]:
        text = dedent(text)
        tomllib.loads(text)
        return positions(text)

    def test_plain(self) -> None:
        found = self.lines("# a comment\na = 1\n\nb.c = 2\n[d] # e\nf = 3\n[d.g]\n")
        self.assertEqual(
            found,
            {
                ("a",): 2,
                ("b",): 4,
                ("b", "c"): 4,
                ("d",): 5,
                ("d", "f"): 6,
                ("d", "g"): 7,
            },
        )

    def test_arrays_of_tables(self) -> None:
        found = self.lines("[[a]]\nb = 1\n[[a.c]]\n[[a.c]]\nd = 1\n[[a]]\n[[a.c]]\n[a.e]\n")
        for path, line in (
            (("a",), 1),
            (("a", 0, "b"), 2),
            (("a", 0, "c", 1), 4),
            (("a", 0, "c", 1, "d"), 5),
            (("a", 1), 6),
            (("a", 1, "c", 0), 7),
            (("a", 1, "e"), 8),
        ):
            self.assertEqual(found[path], line, path)

    def test_quoted_keys(self) -> None:
        found = self.lines(r""""a.\u0062\t" = 1
            'c\d' . "" = 2
            """)
        self.assertEqual(found, {("a.b\t",): 1, ("c\\d",): 2, ("c\\d", ""): 2})

    def test_values_over_several_lines(self) -> None:
        for value in VALUES:
            found = self.lines(f"a = {value}\nb = 1")
            self.assertEqual(found[("b",)], value.count("\n") + 2, value)

    def test_items(self) -> None:
        found = self.lines("a = [\n 'x', 'y',\n\n [\n{ b = 1 }],\n]\n")
        self.assertEqual(
            [found["a", 0], found["a", 1], found["a", 2], found["a", 2, 0, "b"]], [2, 2, 4, 5]
        )

    @settings(deadline=None, max_examples=300)
    @given(documents())
    def test_any(self, text: str) -> None:
        """Each key is found, no other one is, and it stands in the line that is told."""
        found = positions(text)
        self.assertEqual(set(found), set(paths(tomllib.loads(text))))
        lines = text.split("\n")
        for path, line in found.items():
            if isinstance(path[-1], str):
                self.assertIn(path[-1], lines[line - 1])
        for number, line_text in enumerate(lines, 1):
            if line_text.startswith(("[[k", "[['k", '[["k')):
                self.assertIn(number, found.values())

    @settings(deadline=None, max_examples=300)
    @given(st.text(alphabet="a=[]{}\"'\\\n#,. 1", max_size=40))
    def test_what_is_no_toml(self, text: str) -> None:
        """Where it is TOML, the keys are found."""
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            return
        self.assertEqual(set(positions(text)), set(paths(data)))


class WritingTests(SynchronousTestCase):
    """L{dumps}."""

    def test_read_again(self) -> None:
        table: dict[str, Any] = {
            "a": 1,
            "b c": 0.1,
            "d": True,
            "e": 'quote " backslash \\ \x00 \x1b \x7f \x85 ü \U0001f600\r\n\t',
            "f": ["x", "y"],
            "l": [{"m": 1e22}, {}, {"n": "o"}],
        }
        text = dumps(table)
        self.assertEqual(tomllib.loads(text), table)
        self.assertTrue(text.endswith('[[l]]\n\n[[l]]\nn = "o"\n'), text)

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=["Cs"]))
            | st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
        )
    )
    def test_any(self, table: dict[str, Any]) -> None:
        self.assertEqual(tomllib.loads(dumps(table)), table)

    def test_half_of_a_pair(self) -> None:
        """A name of a file in no encoding."""
        self.assertRaises(ValueError, dumps, {"a": "\udc80"})
