"""The status page, as a browser shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.server.browser import Browser
from tests.server.command import ROOT


class StatusPageCase(SynchronousTestCase):
    """A browser, and a server to look at."""

    def open(self, mood: str, width: int = 1400) -> Browser:
        """The page of a server that is well, ill or new."""
        self.program = subprocess.Popen(
            [sys.executable, "-m", "tests.server.status_program", mood],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": ROOT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(self.close)
        browser = Browser(self)
        browser.look(width)
        assert self.program.stdout is not None
        self.address = self.program.stdout.readline().strip()
        browser.visit(self.address)
        browser.wait_for("document.body.className !== 'waiting' && $('open').textContent !== '–'")
        return browser

    def close(self) -> None:
        """End the server."""
        assert self.program.stdin is not None and self.program.stdout is not None
        self.program.kill()
        self.program.wait()
        self.program.stdin.close()
        self.program.stdout.close()

    def text(self, browser: Browser, name: str) -> str:
        return str(browser.evaluate(f"$('{name}').innerText"))


class LookTests(StatusPageCase):
    """It fits, in both widths and colours, and nothing is forbidden or wrong in it."""

    def check(self, mood: str) -> None:
        browser = self.open(mood)
        papers = set()
        for width, dark, view in browser.views():
            browser.wait_for(f"document.documentElement.clientWidth === {width}")
            browser.wait_for("PLOTS.every((plot) => plot.geometry.width === plot.svg.clientWidth)")
            # Nothing stands out at the side, of the page or of what it stands in.
            self.assertEqual(
                browser.evaluate(
                    "[...document.querySelectorAll('body *')].filter((each) => {"
                    " const box = each.getBoundingClientRect();"
                    " return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);"
                    " }).map((each) => `${each.tagName} ${each.className} ${each.textContent}`)"
                ),
                [],
                (width, dark),
            )
            columns = browser.evaluate(
                "new Set([...document.querySelectorAll('figure')]"
                ".map((each) => each.getBoundingClientRect().left)).size"
            )
            self.assertEqual(columns, 1 if width == 400 else 2)
            papers.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
            browser.keep_picture(f"{mood}-{view}")
        self.assertEqual(len(papers), 2)
        self.assertEqual(browser.complaints, [])

    def test_well(self) -> None:
        self.check("well")

    def test_ill(self) -> None:
        self.check("ill")

    def test_new(self) -> None:
        self.check("new")


class ContentTests(StatusPageCase):
    """What it says."""

    def test_well(self) -> None:
        """That all is well, in the first line, with numbers that go on."""
        browser = self.open("well")
        self.assertRegex(self.text(browser, "verdict"), r"^All is well: 1,2\d\d connections open")
        self.assertEqual(browser.evaluate("document.body.className"), "good")
        self.assertEqual(self.text(browser, "concerns"), "")
        self.assertIn("up for 3 days", self.text(browser, "process"))
        self.assertEqual(self.text(browser, "minutes"), "The last 10 minutes")
        self.assertEqual(browser.evaluate("samples.length > 290"), True)
        before = browser.evaluate("samples[samples.length - 1].done")
        oldest = browser.evaluate("samples[0].moment")
        browser.wait_for(f"samples[samples.length - 1].done > {before}")
        # It forgets what no plot shows any more.
        browser.wait_for(f"samples[0].moment > {oldest}")
        self.assertRegex(self.text(browser, "rate"), r"^\d\d(\.\d)?/s$")
        self.assertRegex(self.text(browser, "latency"), r"^\d+(\.\d+)? ms$")
        rows = browser.evaluate(
            "[...$('certificates').children].map((each) => each.className + ' ' + each.innerText)"
        )
        self.assertEqual(len(rows), 3)
        self.assertRegex(rows[0], r"^good shop\.example and 1 more\s+62 days left")
        self.assertIn("renewal 20", rows[0])

    def test_plots(self) -> None:
        """Each has its lines over the whole time, scales with round numbers, and a key."""
        browser = self.open("well")
        for name, lines in {
            "plot-connections": 1,
            "plot-handshakes": 2,
            "plot-latency": 2,
            "plot-traffic": 2,
        }.items():
            svg = f"$('{name}').querySelector('svg')"
            self.assertEqual(browser.evaluate(f"{svg}.querySelectorAll('.line').length"), lines)
            box = browser.evaluate(
                f"(({{ x, width, y, height }}) => [x, width, y, height])"
                f"({svg}.querySelector('.line').getBBox())"
            )
            width = browser.evaluate(f"{svg}.clientWidth")
            self.assertGreater(box[1], 0.8 * width, name)
            self.assertGreaterEqual(box[2], 0, name)
            self.assertLessEqual(box[2] + box[3], 168, name)
            label = browser.evaluate(f"{svg}.getAttribute('aria-label')")
            self.assertRegex(label, r"^[\w ]+: .*\d")
        scale = browser.evaluate(
            "[...$('plot-connections').querySelectorAll('text')].map((each) => each.textContent)"
        )
        self.assertEqual(scale, ["0", "1,000", "2,000", "10 min ago", "5 min ago", "now"])

    def test_pointer(self) -> None:
        """Below the pointer there is told what there was at that time."""
        browser = self.open("well")
        box = browser.evaluate(
            "(({ x, y, width, height }) => [x, y, width, height])"
            "($('plot-handshakes').querySelector('svg').getBoundingClientRect())"
        )
        browser.move(box[0] + box[2] / 2, box[1] + 60)
        browser.wait_for("!$('tip').hidden")
        told = self.text(browser, "tip").split()
        self.assertRegex(told[0], r"^\d\d:\d\d:\d\d$")
        self.assertEqual((told[1], told[3]), ("done:", "failed:"))
        self.assertEqual(browser.evaluate("document.querySelectorAll('.dot').length"), 2)
        browser.keep_picture("pointer", whole=False)
        browser.move(2, 2)
        browser.wait_for("$('tip').hidden")

    def test_ill(self) -> None:
        """The worst is in the first line, and the rest below it."""
        browser = self.open("ill")
        browser.wait_for("Object.keys(grown(status.sample.refused, before(60).refused)).length")
        browser.wait_for("$('concerns').innerText.includes('refused')")
        self.assertEqual(browser.evaluate("document.body.className"), "bad")
        said = self.text(browser, "verdict") + "\n" + self.text(browser, "concerns")
        self.assertIn("The certificate of old.example has expired: clients refuse it.", said)
        self.assertIn("maxPerAddress has been reached", said)
        self.assertIn("most of them for this cause: client certificate expired.", said)
        self.assertIn("mail.example was not loaded or renewed, 5 days left: the authority", said)
        self.assertIn("expired 36 hours ago", self.text(browser, "certificates"))
        failures = self.text(browser, "failures")
        self.assertIn("CN=ci, has expired 3 days ago.", failures)
        self.assertEqual(failures.count("CN=ci"), 1)
        self.assertRegex(failures, r"\d+ such of the last \d+ that failed, from 1 address")

    def test_hostile(self) -> None:
        """What a stranger has said is text."""
        browser = self.open("well")
        self.assertIn("asks for <img src=x onerror=alert(1)>,", self.text(browser, "failures"))
        self.assertEqual(browser.evaluate("document.querySelectorAll('img').length"), 0)

    def test_new(self) -> None:
        """A server to which nothing has happened yet says so, and has no holes."""
        browser = self.open("new")
        verdict = self.text(browser, "verdict")
        self.assertEqual(
            verdict, "All is well: 0 connections open, no handshake failed in the last minute."
        )
        text: Any = browser.evaluate("document.body.innerText")
        for word in ("NaN", "undefined", "Infinity", "null", "[object"):
            self.assertNotIn(word, text)
        self.assertEqual(self.text(browser, "certificates"), "This server has none.")
        self.assertEqual(self.text(browser, "failures"), "None has failed since the start.")

    def test_gone(self) -> None:
        """When the server is gone, the page says so, and that what it shows is old."""
        browser = self.open("well")
        self.program.kill()
        self.program.wait()
        browser.wait_for("document.body.className === 'lost'")
        self.assertEqual(self.text(browser, "verdict"), "The server does not answer.")
        self.assertRegex(self.text(browser, "updated"), r"^what is shown is of \d\d:\d\d:\d\d$")
        self.assertIn("It cannot be reached.", self.text(browser, "concerns"))
        self.assertIn("!", browser.evaluate("document.title"))
        browser.keep_picture("gone-1400-light")
