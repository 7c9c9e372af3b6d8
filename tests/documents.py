"""
Documents whose code is run as it stands: the README, and the pages in C{docs}.
"""

from __future__ import annotations

import re
from collections import deque
from functools import cache
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.shell import Running, Shell
from twisted_bioconn.certificates.development import DevelopmentAuthority


@frozen
class Block:
    """
    A block of code.

    @ivar section: the heading above it.
    @ivar language: C{sh}, C{python}, or C{text} for what the block before it prints.
    @ivar name: the file that it is, which the line before has; empty where it is none.
    """

    section: str
    language: str
    name: str
    text: str


@cache
def blocks(path: Path) -> tuple[Block, ...]:
    """All blocks of a document, in its order, but for directives of Sphinx's."""
    found = []
    section, before, language, text = "", "", None, ""
    for line in path.read_text("utf-8").splitlines(keepends=True):
        if line.startswith("```"):
            if language is None:
                language, text = line.strip("`\n"), ""
            else:
                if not language.startswith("{"):
                    named = re.fullmatch(r"`([\w.-]+)`.*:\n", before)
                    found.append(Block(section, language, named[1] if named else "", text))
                language, before = None, ""
        elif language is not None:
            text += line
        else:
            if line.startswith("#"):
                section = line.lstrip("#").strip()
            if line.strip():
                before = line
    assert language is None, f"{path}: a block does not end"
    return tuple(found)


def printed(text: str, home: Path) -> str:
    """The pattern of what a block says is printed; C{…} stands for anything."""
    text = text.rstrip("\n").replace("/home/you", str(home))
    return "(?s:.*)".join(map(re.escape, text.split("…")))


class DocumentCase(SynchronousTestCase):
    """
    A test that takes blocks of a document one after the other, and all of them.

    @ivar left: those that it has not taken.
    @ivar shell: where it runs them.
    @ivar state: the state directory of what runs there.
    """

    left: deque[Block]

    def setUp(self) -> None:
        self.shell = Shell(self)
        self.state = self.shell.home / ".local" / "state" / "bioconn"

    def make_certificate(self) -> None:
        """What the server makes when it first runs."""
        DevelopmentAuthority(str(self.state)).leaf()

    def take(self, language: str) -> str:
        """The next block."""
        block = self.left.popleft()
        self.assertEqual(block.language, language, block.text)
        return block.text.rstrip("\n")

    def printed(self) -> str:
        """The pattern of what the next block says is printed."""
        return printed(self.take("text"), self.shell.home)

    def finish(self) -> None:
        """Nothing may be left."""
        self.assertEqual(list(self.left), [])

    def run_all(self) -> None:
        """
        Do what a reader does: write the files, start the commands, and see that each says what the
        block after it has.  One with no such block has to end well.  A heading ends what runs.
        """
        section = ""
        started: list[Running] = []
        while self.left:
            block = self.left.popleft()
            if block.section != section:
                section = block.section
                while started:
                    started.pop().kill()
            if block.name:
                (self.shell.directory / block.name).write_text(block.text)
                continue
            self.assertIn(block.language, ("sh", "python"), block.text)
            is_told = bool(self.left) and self.left[0].language == "text"
            is_python = block.language == "python"
            if not is_told:
                run = self.shell.run_python if is_python else self.shell.run
                run(block.text)
                continue
            start = self.shell.start_python if is_python else self.shell.start
            started.append(start(block.text))
            started[-1].wait_for(self.printed())
