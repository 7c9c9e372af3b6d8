"""The ports of a process, and what they have accepted."""

from __future__ import annotations

from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.server.adoption import Sockets
from twisted_bioconn.server.openings import Accepted, Openings, why_not


class AcceptedTests(SynchronousTestCase):
    """Which connections are open."""

    def test_count(self) -> None:
        class Transport:
            connected = True

        class Port:
            transport = Transport

        port = Port()
        accepted = Accepted()
        accepted.watch(port)
        first, second = port.transport(), port.transport()
        self.assertEqual((accepted.are_open, accepted.count), (True, 2))
        first.connected = False
        self.assertEqual((accepted.are_open, accepted.count), (True, 1))
        second.connected = False
        self.assertEqual((accepted.are_open, accepted.count), (False, 0))

    def test_port_of_another_kind(self) -> None:
        accepted = Accepted()
        accepted.watch(object())
        self.assertFalse(accepted.are_open)

    def test_openings(self) -> None:
        """Those of ports that were closed count as long as they last."""
        openings = Openings(MemoryReactor(), Sockets())

        class Transport:
            connected = True

        open_one, closed_one = Accepted(), Accepted()
        openings._accepted = [open_one, closed_one]
        last = Transport()
        closed_one._transports.add(last)
        self.assertTrue(openings.are_in_use)
        self.assertEqual(openings.count, 1)
        last.connected = False
        self.assertFalse(openings.are_in_use)
        self.assertEqual(openings._accepted, [])


class ReasonTests(SynchronousTestCase):
    """Why a port cannot be opened."""

    def test_reasons(self) -> None:
        taken = OSError(98, "Address already in use")
        for error, reason in (
            (CannotListenError("", 80, taken), "Address already in use"),
            (taken, "Address already in use"),
            (ConfigurationError("key.pem is damaged"), "key.pem is damaged"),
            (RuntimeError("so\nit is"), "RuntimeError: so it is"),
        ):
            self.assertEqual(why_not(error), reason)
