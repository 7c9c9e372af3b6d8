"""A headless Chromium that shows pages, in the widths and colours that people have."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

LIMIT = 600
"""Seconds after which a browser is killed, and its test fails."""

WIDTHS = (400, 1400)
"""CSS pixels: a telephone's, and a desk's."""


def _high(descriptor: int) -> int:
    """The same file, under a descriptor that is out of the way."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return moved


class Browser:
    """
    One browser with one page, told what to do over a pair of pipes
    (https://chromedevtools.github.io/devtools-protocol/).

    @ivar complaints: what the console of the page was told: errors, and what its policy forbids.
    """

    def __init__(self, case: SynchronousTestCase) -> None:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if program is None:
            raise SkipTest("there is no Chromium")
        self.complaints: list[str] = []
        self._number = 0
        # Its lock is a socket, whose path has to be short.
        profile = tempfile.mkdtemp(prefix="browser-")
        case.addCleanup(shutil.rmtree, profile, True)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # It reads descriptor 3 and writes to descriptor 4, which ours must not be before.
        theirs_in, theirs_out = map(_high, (theirs_in, theirs_out))
        command = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        self._process = subprocess.Popen(
            [
                *("/bin/bash", "-c", command, "bash", str(theirs_in), str(theirs_out)),
                *(program, "--headless=new", "--remote-debugging-pipe", "--no-sandbox"),
                *(
                    "--disable-gpu",
                    "--hide-scrollbars",
                    "--disable-dev-shm-usage",
                    "--no-first-run",
                ),
                *("--disable-background-networking", f"--user-data-dir={profile}", "about:blank"),
            ],
            env={**os.environ, "HOME": profile},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs_in, theirs_out),
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in = os.fdopen(ours_in, "rb")
        self._out = os.fdopen(ours_out, "wb", buffering=0)
        self._buffer = b""
        self._session: str | None = None
        self._watchdog = Timer(LIMIT, self._process.kill)
        self._watchdog.start()
        case.addCleanup(self._end)
        [page] = [
            each["targetId"]
            for each in self._do("Target.getTargets")["targetInfos"]
            if each["type"] == "page"
        ]
        self._session = self._do("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._do(f"{domain}.enable")

    def _end(self) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.wait()
        self._in.close()
        with suppress(OSError):
            self._out.close()

    def _do(self, method: str, **parameters: Any) -> Any:
        """Have it do something, and wait until it is done."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._number:
                if "error" in told:
                    raise AssertionError(f"{method}: {told['error']}")
                return told["result"]

    def _next(self) -> Any:
        while b"\0" not in self._buffer:
            data = self._in.read1(1 << 20)
            if not data:
                raise AssertionError("the browser has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        told = json.loads(message)
        match told.get("method"):
            case "Log.entryAdded":
                self.complaints.append(told["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["params"]["exceptionDetails"])[:500])
        return told

    def look(self, width: int, dark: bool = False, height: int = 900) -> None:
        """Be so many CSS pixels wide, and like dark pages or light ones."""
        self._do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._do("Emulation.setEmulatedMedia", features=[scheme])

    def take_any_certificate(self) -> None:
        """Trust every server: nobody has told it of an authority for development."""
        self._do("Security.setIgnoreCertificateErrors", ignore=True)

    def run_scripts(self, on: bool) -> None:
        """Run the scripts of pages to come, or do not."""
        self._do("Emulation.setScriptExecutionDisabled", value=not on)

    def visit(self, address: str) -> None:
        """Go to a page."""
        self._do("Page.navigate", url=address)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, with what it promises."""
        told = self._do(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in told:
            raise AssertionError(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20.0) -> None:
        """Wait until an expression is true; it is looked at again and again, in the page."""
        found = self.evaluate(
            "new Promise((done) => { const end = performance.now() + "
            f"{seconds * 1000}; const look = () => {{ let is = false;"
            f" try {{ is = Boolean({expression}); }} catch {{}}"
            " if (is || performance.now() > end) done(is); else setTimeout(look, 50); }; look(); })"
        )
        if not found:
            text = self.evaluate("document.documentElement.innerText")
            raise AssertionError(f"{expression} was never true\n{self.complaints}\n{text}")

    def move(self, x: float, y: float) -> None:
        """Put the pointer somewhere."""
        self._do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def views(self) -> Iterator[tuple[int, bool, str]]:
        """
        Be narrow and wide, each light and dark.

        @return: the width, whether it is dark, and both in a word.
        """
        for width in WIDTHS:
            for dark in (False, True):
                self.look(width, dark)
                yield width, dark, f"{width}-{'dark' if dark else 'light'}"

    def width_needed(self) -> int:
        """How wide the page is, with what stands out at its side."""
        return int(self.evaluate("document.documentElement.scrollWidth"))

    def keep_picture(self, name: str, whole: bool = True) -> None:
        """Leave a picture, where somebody wants to look at pictures."""
        where = os.environ.get("BIOCONN_PICTURES")
        if where is not None:
            Path(where, f"{name}.png").write_bytes(self.picture(whole))

    def picture(self, whole: bool = True) -> bytes:
        """What it shows, as PNG: the whole page, or what is in the window."""
        shot = self._do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def page_height(self) -> int:
        """How high the whole page is."""
        return int(self.evaluate("document.documentElement.scrollHeight"))
