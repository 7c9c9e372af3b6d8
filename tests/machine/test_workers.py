"""A worker is killed: another takes its place, and nobody else notices."""

from __future__ import annotations

import os
import re
import signal
import time
from unittest import skipUnless

from tests.honest import Figures, Honest
from tests.machine.case import REQUESTS, SLOW, Drained, MachineCase, show

KILLS = 20 if SLOW else 4


@skipUnless(hasattr(os, "fork"), "it takes a system with fork")
class WorkerTests(MachineCase):
    """Two serve, and one of them is killed, again and again."""

    kind = Drained

    def test_killed(self) -> None:
        """
        What is lost are the connections of the one that was killed, each of them once.
        """
        command = self.command(
            *("--workers", "2", "--listen", "127.0.0.1:0", "--factory", "echoes:Echoes")
        )
        port = command.port()
        pids = self.started(command, 2)
        honest = self.honest(self.echoes(command, port), kept=8, callers=0, greeting=10)
        honest.part(REQUESTS)
        alone = honest.part(REQUESTS)
        beside = Figures()
        counted = self.metric(command, "bioconn_connections_begun_total")
        # What the levels are taken of: the parent, and those that serve now.
        served = [command.pid, *pids]

        def kill(place: int) -> None:
            nonlocal counted
            killed = served[place]
            of_it = sum(each.served_by == killed for each in honest.clients)
            part = honest.begin()
            os.kill(killed, signal.SIGKILL)
            command.wait_for(re.compile(f"pid {killed}, has ended with SIGKILL"))
            [served[place]] = self.started(command, 1)
            self.all_connected(honest, killed)
            honest.wait_for(REQUESTS)
            honest.begin()
            # Nobody else was lost.
            self.assertEqual(dict(part.lost_by), {killed: of_it} if of_it else {})
            now = self.metric(command, "bioconn_connections_begun_total")
            # The first worker tells of all.  Where it is killed, they count from zero again, which
            # Prometheus takes for what it is.
            if place == 2:
                self.assertGreaterEqual(now, counted)
            self.assertGreaterEqual(now, of_it)
            counted = now
            beside.kept += part.kept
            beside.lost += part.lost
            beside.lost_by += part.lost_by

        kills = 0

        def kill_each() -> None:
            nonlocal kills
            for _ in range(max(1, KILLS // 8)):
                for place in (1, 2):
                    kill(place)
                    kills += 1

        levels = self.levels_off(served, kill_each, honest)
        while kills < KILLS:
            kill_each()
        after = honest.part(REQUESTS)
        self.all_served(alone, after)
        self.assertEqual(self.metric(command, "bioconn_connections"), len(honest.clients))
        honest.finish()
        show(
            f"worker killed {kills} times of 2",
            f"connections_begun {counted}",
            (alone, beside, after),
            levels,
        )
        self.ends_well(command)

    def all_connected(self, honest: Honest, killed: int) -> None:
        """Wait until those that were lost are served by another."""
        end = time.monotonic() + 300
        while any(each.served_by == killed for each in honest.clients):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
