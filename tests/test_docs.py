"""The pages in C{docs}: each snippet runs, each promise has its test, and Sphinx builds them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import deque
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.documents import DocumentCase, blocks
from tests.programs import require, require_module
from tests.shell import CHECKOUT
from twisted_bioconn._causes import Cause

DOCS = CHECKOUT / "docs"

PEERS = DOCS / "peers"
"""These have tests of their own: L{tests.test_docs_peers}."""

BUILD = 540
"""Seconds that a build may take."""


def pages() -> list[Path]:
    """All pages but those."""
    return sorted(page for page in DOCS.rglob("*.md") if PEERS not in page.parents)


class PageTests(DocumentCase):
    """A test for each page with code in it."""

    def setUp(self) -> None:
        super().setUp()
        self.make_certificate()
        self.shell.before = "DEV=~/.local/state/bioconn"

    def read(self, name: str, *programs: str) -> None:
        """Do what a page says, which needs these programs."""
        for program in programs:
            require(program)
        self.left = deque(blocks(DOCS / f"{name}.md"))
        self.assertTrue(self.left)
        self.run_all()
        self.finish()

    def test_tutorial(self) -> None:
        """The chat, in three ways."""
        self.read("tutorial", "openssl")

    def test_bytes(self) -> None:
        """One byte each way."""
        self.read("bytes")

    def test_left_out(self) -> None:
        """What the binding has not."""
        self.read("left-out")

    def test_acme(self) -> None:
        """A configuration without mistakes."""
        require_module("acme")
        self.read("how-to/acme")

    def test_client_certificates(self) -> None:
        """One is let in, and one is not."""
        self.read("how-to/client-certificates", "curl")

    def test_reload(self) -> None:
        """A broken file changes nothing."""
        self.read("how-to/reload", "curl")

    def test_starttls(self) -> None:
        """Both sides of it."""
        self.read("how-to/starttls", "curl")

    def test_treq(self) -> None:
        """A page, and a refusal."""
        self.read("how-to/treq")

    def test_trial(self) -> None:
        """Tests of a newcomer's own."""
        self.read("how-to/trial")

    def test_from_ssl(self) -> None:
        """By the prefix, and by the reactor."""
        self.read("how-to/from-ssl", "curl")

    def test_from_stunnel(self) -> None:
        """A tunnel."""
        self.read("how-to/from-stunnel", "curl")

    def test_from_txacme(self) -> None:
        """A configuration, and names on demand."""
        require_module("acme")
        self.read("how-to/from-txacme")


class TextTests(SynchronousTestCase):
    """What the pages say beside what runs."""

    def test_every_page(self) -> None:
        """Each page with code in it is run."""
        source = Path(__file__.removesuffix("c")).read_text("utf-8")
        run = set(re.findall(r'self\.read\("([\w/-]+)"', source))
        with_code = {str(page.relative_to(DOCS))[:-3] for page in pages() if blocks(page)}
        # Of that one tests.trace.test_docs runs what there is.
        self.assertEqual(run | {"trace"}, with_code)

    def test_promises(self) -> None:
        """Each promise of the threat model names tests that there are."""
        rows = re.findall(
            r"(?m)^\| (.+) \| (`tests/.*`) \|$", (DOCS / "threat-model.md").read_text("utf-8")
        )
        self.assertGreater(len(rows), 30)
        table = r"(?m)^\| promise \| test \|\n\| --- \| --- \|\n((?:\|.*\|\n)+)"
        promised = re.findall(table, (DOCS / "threat-model.md").read_text("utf-8"))
        self.assertEqual(sum(each.count("\n") for each in promised), len(rows))
        for promise, cell in rows:
            path = ""
            for word in re.findall(r"`([^`]*)`", cell):
                named = re.fullmatch(r"(?:(tests/[\w/]+\.py))?(?:: )?(test_\w+)?", word)
                assert named is not None, f"{promise}: {word}"
                path = named[1] or path
                text = (CHECKOUT / path).read_text("utf-8")
                self.assertIn(f"def {named[2] or 'test_'}", text, promise)

    def test_commands(self) -> None:
        """Each command with which a claim of the tests is shown is there."""
        rows = re.findall(
            r"(?m)^\| .+ \| `python -m ([\w.]+)[^`]*` \|$", (DOCS / "tested.md").read_text("utf-8")
        )
        self.assertGreater(len(rows), 8)
        for name in rows:
            self.assertIsNotNone(find_spec(name), name)

    def test_lines(self) -> None:
        """Each line of the log that a page explains is one that the program has."""
        sources = " ".join(
            path.read_text("utf-8") for path in (CHECKOUT / "twisted_bioconn").rglob("*.py")
        )
        sources = re.sub(r'"\s*\n?\s*f?"', "", sources)
        told = 0
        for page in (DOCS / "3am.md", DOCS / "how-to" / "reload.md", DOCS / "how-to" / "acme.md"):
            for table in re.findall(
                r"(?m)^\| line[^|]*\|.*\n((?:\|.*\n)+)", page.read_text("utf-8")
            ):
                for line in re.findall(r"(?m)^\| `([^`]+)` \|", table):
                    fixed = re.sub(r"^example\.org", "…", line).split("…")
                    for words in fixed:
                        if len(words) > 2:
                            self.assertIn(words.strip(), sources, f"{page.name}: {line}")
                            told += 1
        self.assertGreater(told, 25)

    def test_links_of_readme(self) -> None:
        """The README says where the pages are."""
        self.assertIn("docs/index.md", (CHECKOUT / "README.md").read_text("utf-8"))


class BuildTests(SynchronousTestCase):
    """Sphinx."""

    def test_build(self) -> None:
        """There is no warning, and the tables and the reference are there, whole."""
        for module in ("sphinx", "myst_parser", "furo", "pydoctor"):
            require_module(module)
        site = Path(self.mktemp()).absolute()
        done = subprocess.run(
            [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, site],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD,
            check=False,
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        causes = (site / "3am.html").read_text("utf-8")
        for cause in Cause:
            self.assertIn(f'id="cause-{cause.replace("_", "-")}"', causes)
        for name, option in (
            ("endpoint-strings", "server-options-handshaketimeout"),
            ("endpoint-strings", "client-options-pins"),
            ("configuration", "key-listen-handshaketimeout"),
            ("configuration", "key-route-passthrough"),
            ("command-line", "option-drain-seconds"),
        ):
            page = (site / "reference" / f"{name}.html").read_text("utf-8")
            self.assertIn(f'id="{option}"', page)
        api = site / "api"
        self.assertTrue((api / "twisted_bioconn.connector.Connector.html").exists())
        self.assertEqual(
            [path.name for path in api.glob("twisted_bioconn*._[!_]*.html")],
            [],
            "what is private is told",
        )
        for html in site.rglob("*.html"):
            if api in html.parents:
                continue
            for target in re.findall(r'href="([^"#?]+\.html)', html.read_text("utf-8")):
                if "://" not in target:
                    self.assertTrue((html.parent / target).exists(), f"{html.name}: {target}")
