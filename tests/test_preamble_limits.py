"""Limits, in front of TLS: the places where they hold, and that what ends is counted no more."""

from __future__ import annotations

from typing import Any

from tests.test_preamble import FROM_HERE, RECORD, V1, V1_V6, PreambleCase
from twisted_bioconn.limits import Limits
from twisted_bioconn.port_options import Plain, PreambleOptions


class LimitTests(PreambleCase):
    """Limits, at the places where they hold."""

    def counts(self) -> tuple[int, int]:
        limiter = self.listener.factory.limiter
        return limiter.connections, limiter.handshakes

    def test_connections(self) -> None:
        """One too many is closed before there is anything for it."""
        self.serve(limits=Limits(connections=2))
        one, two, three = self.raw(), self.raw(), self.raw()
        self.assertEqual(
            [each.lost is not None for each in (one, two, three)], [False, False, True]
        )
        one.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(self.counts(), (1, 0))
        self.listener.factory.doStart()
        self.listener.factory.doStop()
        application = self.visit()
        self.assertEqual(self.counts(), (2, 0))
        application.transport.loseConnection()
        two.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(self.counts(), (0, 0))

    def test_address_behind_a_proxy(self) -> None:
        """Clients count, and not the proxy."""
        self.serve(FROM_HERE, limits=Limits(per_address=1))
        one = self.raw(V1 + RECORD)
        self.assertIsNone(one.lost)
        self.assertIsNotNone(self.raw(V1 + RECORD).lost)
        self.assertIsNone(self.raw(V1_V6 + RECORD).lost)
        one.transport.abortConnection()
        self.clock.settle()
        self.assertIsNone(self.raw(V1 + RECORD).lost)

    def test_address(self) -> None:
        self.serve(limits=Limits(per_network=1))
        self.assertIsNone(self.raw().lost)
        self.assertIsNotNone(self.raw().lost)

    def test_handshakes(self) -> None:
        """Who has said nothing has no handshake; the one too many ends at its first byte."""
        self.serve(limits=Limits(handshakes=1))
        self.raw()
        one = self.raw(RECORD)
        self.assertEqual(self.counts(), (2, 1))
        self.assertIsNotNone(self.raw(RECORD).lost)
        one.transport.abortConnection()
        self.clock.settle()
        self.assertEqual(self.counts(), (1, 0))
        application = self.visit()
        self.assertEqual(self.counts(), (2, 0))
        application.transport.abortConnection()
        self.clock.settle()
        self.assertEqual(self.counts(), (1, 0))

    def test_plain(self) -> None:
        """Plain connections count too, until they end."""
        self.serve(PreambleOptions(plain=Plain.FORWARD), limits=Limits(connections=1))
        self.raw(b"hello")
        self.assertIsNotNone(self.raw().lost)
        self.theirs.one.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(self.counts(), (0, 0))
        self.assertEqual(self.theirs.one.did, ["made", "data", "lost"])

    def test_no_certificate(self) -> None:
        """What cannot be made counts no more either."""
        self.serve(limits=Limits(connections=1))
        tls = self.listener.factory.tls

        def fail(_: object) -> Any:
            raise ZeroDivisionError

        self.patch(tls, "_creatorCallable", fail)
        self.raw(RECORD)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.counts(), (0, 0))
        self.assertLeftNothing()

    def test_short_life(self) -> None:
        """One that ends before leaves nothing to wait for; nor does one that is on its end."""
        self.serve(limits=Limits(lifetime=50.0))
        application = self.visit()
        tls = self.theirs.one.transport
        tls.abortConnection()
        tls._lifetimeExpired(50.0)
        self.clock.settle()
        self.assertIsNotNone(application.lost)
        self.assertNotIn("lasts longer", str(self.theirs.one.lost))
        self.assertLeftNothing()

    def test_no_certificate_and_no_limit(self) -> None:
        """What cannot be made ends the connection."""
        self.serve()

        def fail(_: object) -> Any:
            raise ZeroDivisionError

        self.patch(self.listener.factory.tls, "_creatorCallable", fail)
        peer = self.raw(RECORD)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIsNotNone(peer.lost)
        self.assertLeftNothing()

    def test_lifetime(self) -> None:
        """However busy: TLS, plain, or one that has said nothing."""
        self.serve(
            PreambleOptions(plain=Plain.FORWARD),
            limits=Limits(lifetime=5.0),
            handshake_timeout=None,
        )
        silent, plain = self.raw(), self.raw(b"hello")
        self.theirs.built.clear()
        application = self.visit()
        for _ in range(9):
            application.transport.write(b"x")
            self.wait(0.5)
        self.assertIsNone(application.lost)
        self.wait(0.5)
        for each in (silent, plain, application):
            self.assertIsNotNone(each.lost)
        self.assertIn("no connection lasts longer than 5 seconds", str(self.theirs.one.lost))
        self.assertEqual(self.counts(), (0, 0))
        self.assertLeftNothing()
