"""
The soak's command, and all of the load with the real server.

That the whole of it runs takes half a minute, and is for those who set BIOCONN_SLOW=1; without it,
each kind of load is done once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path
from time import monotonic
from typing import cast
from unittest.mock import patch
from xml.etree import ElementTree

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from benchmarks.__main__ import main
from benchmarks.plot import THEMES
from benchmarks.processes import Failed
from benchmarks.soak.command import Soak
from benchmarks.soak.honest import LONG, honest_kinds, long_clients
from benchmarks.soak.hostile import hostile_kinds
from benchmarks.soak.operator import Reloader, Replacer, operator_kinds
from benchmarks.soak.samples import take_sample
from benchmarks.soak.scene import Scene, wait_until
from tests.server.command import ROOT

LIMIT = 120.0
"""Seconds after which nothing is waited for any more."""


class CommandTests(SynchronousTestCase):
    def test_wrong(self) -> None:
        """A sentence that names the option, and status 2."""
        with patch("sys.stderr", StringIO()) as err:
            status = self.assertRaises(SystemExit, main, ["soak", "--seconds", "0"])
        self.assertEqual(status.code, 2)
        self.assertIn("--seconds: 0 is not more than 0", err.getvalue())

    def test_again(self) -> None:
        """There has to be an outcome."""
        path = Path(self.mktemp())
        for content, reason in (
            (None, "No such file"),
            ("{", "Expecting property name"),
            ("[]", "this is no outcome of a soak"),
        ):
            if content is not None:
                path.write_text(content, "utf-8")
            with patch("sys.stderr", StringIO()) as err:
                self.assertEqual(main(["soak", "--again", str(path)]), 1)
            self.assertIn(reason, err.getvalue())


class SceneTests(SynchronousTestCase):
    """All of it, with the real server."""

    def setUp(self) -> None:
        if not sys.platform.startswith("linux"):
            raise SkipTest("the soak reads Linux's /proc")

    def test_each_kind(self) -> None:
        """Each kind of load does what it should, once; those that wait long are left out."""
        # The path of a socket is short.
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        with Scene(Path(directory.name)) as scene:
            # Who has looked whether it runs is about to go.
            gone = wait_until(lambda: take_sample(scene)["connections"] == 0, LIMIT)
            self.assertTrue(gone)
            self.assertGreater(take_sample(scene)["resident"], 10)
            self.assertGreater(sum(scene.types().values()), 100)
            long = long_clients(scene)
            self.addCleanup(long.drop)
            kinds = [*honest_kinds(scene, long), *hostile_kinds(scene)]
            kinds += operator_kinds(scene, Reloader(scene))[2:]
            for kind in kinds:
                if "silence" not in kind.name and "slow" not in kind.name:
                    received, resumed = kind.unit()
                    self.assertFalse(resumed, kind.name)
                if "resumed" in kind.name:
                    received, resumed = kind.unit()
                    self.assertEqual((received, resumed), (200, True), kind.name)
            for _ in range(LONG):
                long()
            self.assertGreaterEqual(take_sample(scene)["connections"], LONG)
            reloader = Reloader(scene)
            for _ in range(4):
                reloader()
            Replacer(scene)()
            # All the reloads have cut nobody off.
            for _ in range(LONG):
                long()
            long.close()

    def test_dead(self) -> None:
        """A server that has ended ends the soak, with its last words."""

        class Server:
            def check(self) -> None:
                raise Failed("bioconn ended with status 1: out of memory")

        class There:
            server = Server()

        soak = Soak.__new__(Soak)
        soak.scene, soak.seconds = cast(Scene, There()), 60.0
        failure = self.assertRaises(Failed, soak._wait, monotonic() - 59.9)
        self.assertIn("out of memory", str(failure))

    def test_command(self) -> None:
        """A soak of seconds: all is done, and all is written."""
        if not os.environ.get("BIOCONN_SLOW"):
            raise SkipTest("takes long: set BIOCONN_SLOW=1 to run it")
        directory = Path(self.mktemp()).resolve()
        told, log = directory / "soak.json", directory / "soak.log"
        words = ["--seconds", "10", "--every", "1", "--plot", str(directory)]
        words += ["--json", str(told), "--log", str(log)]
        directory.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks", "soak", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": ROOT},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        found = json.loads(told.read_text("utf-8"))
        self.assertGreater(len(found["samples"]), 0)
        lost, let_in, no_effect = found["parts"].values()
        for kinds in (lost, let_in, no_effect):
            self.assertEqual(
                {name: each["failed"] for name, each in kinds.items()}, dict.fromkeys(kinds, 0)
            )
            self.assertGreater(sum(each["done"] for each in kinds.values()), 0)
        self.assertEqual([each["what"] for each in found["verdicts"] if each["met"] is False], [])
        self.assertIn("listening on", log.read_text("utf-8"))
        for theme in THEMES:
            ElementTree.parse(directory / f"soak-{theme}.svg")
