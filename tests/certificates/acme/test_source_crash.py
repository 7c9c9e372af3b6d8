"""L{AcmeSource} dies at each of its steps, and the next one goes on."""

from __future__ import annotations

import os
from datetime import timedelta

from tests.certificates.acme.authority import Profile
from tests.certificates.acme.fronts import MINUTE, Front, FrontCase
from twisted_bioconn.certificates.acme.source import AcmeSource


class CrashTests(FrontCase):
    """
    A front dies of SIGKILL.  What it has not put into the store is gone; its lease ends by itself.
    """

    def setUp(self) -> None:
        super().setUp()
        self.authority.profiles = {"brief": Profile("a day", timedelta(days=1))}

    def living(self, front: Front, seconds: float = 30) -> tuple[AcmeSource, Front]:
        source = self.started(front=front)
        self.pass_time(seconds)
        return source, front

    def bury(self, source: AcmeSource) -> None:
        """Nothing of a process goes on when it is dead."""
        self.fronts[source].is_buried = True
        source.stop()
        self.sources.remove(source)

    def steps(self) -> int:
        """How many steps it takes to have the first certificate."""
        self.setUp()
        source, front = self.living(self.front())
        self.assertServed(source)
        steps = front.done
        source.stop()
        self.pass_time(15)
        return steps

    def check_recovery(self, die_at: int, dies_after: bool) -> None:
        self.setUp()
        front = self.front()
        front.die_at, front.dies_after = die_at, dies_after
        source, _ = self.living(front)
        self.assertTrue(front.is_dead, die_at)
        self.bury(source)
        source, _ = self.living(self.front(), 3 * MINUTE)
        found = self.assertServed(source)
        what = f"step {die_at}, {'after' if dies_after else 'before'}"
        self.assertEqual(len(self.authority.accounts), 1, what)
        self.assertEqual(len(self.authority.issued), 1, what)
        self.assertEqual(found.leaf, self.authority.issued[0].certificate, what)
        self.assertLessEqual(len(self.authority.orders), 2, what)
        if dies_after:
            # Nothing is left over that the next renewal could take for its own.
            self.pass_days(0.8)
            self.assertEqual(len(self.authority.issued), 2, what)
            self.assertNotEqual(self.assertServed(source).leaf, found.leaf, what)
        self.assertEqual(
            [each for each in self.shared.values if each.startswith("acme/challenges/")], [], what
        )
        source.stop()
        self.pass_time(15)

    def check_every_step(self, dies_after: bool) -> None:
        steps = self.steps()
        self.assertGreater(steps, 30)
        # All of them take ten seconds; a test that is run often takes every third.
        stride = 1 if os.environ.get("BIOCONN_SLOW") else 3
        for die_at in range(1, steps + 1, stride):
            self.check_recovery(die_at, dies_after)

    def test_before_each_step(self) -> None:
        self.check_every_step(False)

    def test_after_each_step(self) -> None:
        """Whoever dies of the answer does not know that it was done."""
        self.check_every_step(True)
