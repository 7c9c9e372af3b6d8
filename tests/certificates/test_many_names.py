"""
A directory with very many names: how long it takes, and what each of them costs.

With BIOCONN_SLOW=1 in the environment these are ten thousand; otherwise they are five hundred.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time

from twisted.logger import Logger, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates.load_material import SLOW, live_contexts, name_of, resident, write_names
from twisted_bioconn.certificates.directory import DirectorySource
from twisted_bioconn.certificates.source import Choice
from twisted_bioconn.context import ServerOptions
from twisted_bioconn.hello import ClientHello

NAMES = 10_000 if SLOW else 500
IN_USE = 1_000 if SLOW else 100
BROKEN = 77

FEW = NAMES // 10
"""So many names are what all of them are compared with: seconds say more of a machine."""

MORE = 5
"""
How many times as long a look-up may take among all as among few, and the start for each name: what
grows with their number takes ten times as long.
"""

FOR_A_NAME = 16 * 1024
"""Bytes that a name may cost with a certificate, a chain of one, and an EC key."""

FOR_A_CONTEXT = 40 * 1024
"""Bytes that it may cost more once a client has asked for it."""

_log = Logger()


class ManyNamesTests(SynchronousTestCase):
    """Each name has a file of its own, and one of these is broken."""

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        write_names(self.directory, NAMES)
        self.broken = os.path.join(self.directory, f"{name_of(BROKEN)}.pem")
        with open(self.broken, "r+b") as file:
            file.truncate(300)

    def start(self, directory: str) -> float:
        """Seconds of this process's own that the start takes, at its best."""
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            with capturedLogs():
                ServerOptions(DirectorySource(directory))
            best = min(best, time.process_time() - began)
        return best

    def look_up(self, options: ServerOptions, name: str) -> float:
        """Seconds that the look-up of a name takes, at its best: what else runs is not its own."""
        hello = ClientHello(server_name=name, versions=(0x0304,))
        choose, clock, best = options.choose, time.perf_counter, float("inf")
        for _ in range(20):
            began = clock()
            for _ in range(1_000):
                choose(hello)
            best = min(best, (clock() - began) / 1_000)
        return best

    def test_many(self) -> None:
        """All but the broken one are served; what it takes is within bounds, and is logged."""
        before = resident()
        with capturedLogs() as events:
            source = DirectorySource(self.directory)
            options = ServerOptions(source)
        loaded = resident()
        [line] = map(formatEvent, events)
        self.assertIn(self.broken, line)
        served = 0
        for number in range(NAMES):
            found = source.find(ClientHello(server_name=name_of(number)))
            if number == BROKEN:
                self.assertIsNone(found)
            else:
                assert isinstance(found, Choice)
                self.assertEqual(found.certificate.names, (name_of(number),))
                served += 1
        self.assertEqual(served, NAMES - 1)
        errors = [fact.source for fact in source.facts() if fact.last_error is not None]
        self.assertEqual(errors, [self.broken])
        # To have found each has read its names: that is no cost of those who are not asked for.
        known = self.look_up(options, name_of(NAMES // 2))
        broken = self.look_up(options, name_of(BROKEN))
        unknown = self.look_up(options, "unknown.example.com")
        used = self.use(options)
        few = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, few)
        write_names(few, FEW)
        start_of_few, start = self.start(few), self.start(self.directory)
        options_of_few = ServerOptions(DirectorySource(few))
        of_few = max(
            self.look_up(options_of_few, name)
            for name in (name_of(FEW // 2), "unknown.example.com")
        )
        figures = (
            f"{NAMES} names, {served} served: start {start:.2f} s, of {FEW} {start_of_few:.2f} s;"
            f" look-up {known * 1e6:.2f} us, of an unknown name {unknown * 1e6:.2f} us, among"
            f" {FEW} {of_few * 1e6:.2f} us; memory for a name"
            f" {(loaded - before) / NAMES / 1024:.1f} KiB; for the context of one in use"
            f" {used / IN_USE / 1024:.1f} KiB more"
        )
        _log.info("{figures}", figures=figures)
        self.assertLess(start / NAMES, MORE * start_of_few / FEW, figures)
        self.assertLess(max(known, broken, unknown), MORE * of_few, figures)
        # What one file more or less costs does not show before there are many.
        spare = 4 * 1024 * 1024
        self.assertLess(loaded - before, NAMES * FOR_A_NAME + spare, figures)
        self.assertLess(used, IN_USE * FOR_A_CONTEXT + spare, figures)

    def use(self, options: ServerOptions) -> int:
        """
        Have clients ask for some of the names.

        @return: the bytes that this costs.
        """
        before = resident()
        contexts = len(list(live_contexts()))
        for number in range(BROKEN + 1, BROKEN + 1 + IN_USE):
            hello = ClientHello(server_name=name_of(number), versions=(0x0304,))
            found = options.choose(hello)
            assert isinstance(found, Choice)
            options.connection_for(found, hello, None)
        used = resident() - before
        self.assertEqual(len(list(live_contexts())) - contexts, IN_USE)
        return used

    def test_context_is_kept(self) -> None:
        """Who asks for a name again gets the context that there is, as long as it is in use."""
        options = ServerOptions(DirectorySource(self.directory))
        self.use(options)
        before = len(list(live_contexts()))
        hello = ClientHello(server_name=name_of(BROKEN + 1), versions=(0x0304,))
        for _ in range(10):
            found = options.choose(hello)
            assert isinstance(found, Choice)
            options.connection_for(found, hello, None)
        self.assertEqual(len(list(live_contexts())), before)
