"""Tests for L{twisted_bioconn.observing}: what an endpoint tells of its connections."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure

from tests.context_material import ROOTS, serving
from tests.endpoint_material import Application
from tests.test_preamble import RECORD, V1, PreambleCase
from twisted_bioconn.explanations import Cause, Explanation
from twisted_bioconn.limits import Limit, Limits
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.observing import Observer
from twisted_bioconn.port_options import Plain, PreambleOptions, networks
from twisted_bioconn.protocol import TLSConnectorProtocol


class Noting(Observer):
    """
    Notes what it is told.

    @ivar told: in order, by name, with what tells one connection from another.
    """

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.explanations: list[Explanation] = []
        self.traffic = (0, 0)

    def refused(self, limit: Limit) -> None:
        self.told.append(("refused", limit))

    def begun(self, tls: TLSConnectorProtocol) -> None:
        self.told.append(("begun",))

    def let_in(self, tls: TLSConnectorProtocol, facts: Negotiated) -> None:
        self.told.append(("let in", facts.version))

    def not_let_in(
        self, tls: TLSConnectorProtocol | None, peer: str, explanation: Explanation, waited: float
    ) -> None:
        self.told.append(("not let in", tls is not None, explanation.cause, waited))
        self.explanations.append(explanation)

    def plain(self, transport: Any, peer: IAddress | None) -> None:
        self.told.append(("plain", peer))

    def plain_ended(self, peer: IAddress | None, lasted: float, reason: Failure) -> None:
        self.told.append(("plain ended", peer, lasted, type(reason.value).__name__))

    def ended(self, tls: TLSConnectorProtocol, reason: Failure) -> None:
        self.told.append(("ended", reason.type.__name__))  # type: ignore[union-attr]
        self.traffic = tls.traffic


class ObserverTests(PreambleCase):
    """What is told, and when."""

    def observe(self, before: PreambleOptions | None = None, **settings: Any) -> Noting:
        noting = Noting()
        self.serve(before, observer=noting, **settings)
        return noting

    def test_let_in(self) -> None:
        noting = self.observe()
        application = self.visit()
        assert isinstance(application, Application)
        self.assertEqual(noting.told, [("begun",), ("let in", "TLSv1.3")])
        self.theirs.one.transport.write(bytes(5000))
        self.clock.settle()
        application.transport.write(bytes(3000))
        application.transport.loseConnection()
        self.clock.settle()
        self.assertEqual(noting.told[2:], [("ended", "ConnectionDone")])
        received, sent = noting.traffic
        self.assertGreater(received, 3000 + 300)
        self.assertGreater(sent, 5000 + 300)
        self.assertLess(received + sent, 14000)

    def test_not_let_in(self) -> None:
        """The cause is one of those that a metric can have, and is told once."""
        noting = self.observe(options=serving(client_authorities=ROOTS))
        self.visit()
        names = [each[0] for each in noting.told]
        self.assertEqual(names, ["begun", "not let in", "ended"])
        self.assertEqual(noting.told[1][1:3], (True, Cause.CLIENT_CERTIFICATE_MISSING))
        self.assertEqual(noting.explanations[0].setting, "clientCertificate")

    def test_strangers(self) -> None:
        """Those who have not come as far as TLS."""
        noting = self.observe()
        self.raw().transport.loseConnection()
        self.clock.settle()
        self.raw()
        self.wait(10)
        self.raw(b"\x16\x03").transport.loseConnection()
        self.clock.settle()
        self.assertEqual({each[:2] for each in noting.told}, {("not let in", False)})
        self.assertEqual(len({each[2] for each in noting.told}), 3)
        self.assertEqual(noting.told[1][3], 10.0)
        # Of the scan of a port there is no line in the log.
        self.assertEqual(len(self.lines), 2)

    def test_other_protocols(self) -> None:
        noting = self.observe()
        self.raw(b"GET / HTTP/1.1\r\n\r\n")
        self.assertEqual([each[0] for each in noting.told], ["begun", "not let in", "ended"])
        self.assertEqual(noting.explanations[0].setting, "plain")

    def test_limits(self) -> None:
        noting = self.observe(limits=Limits(connections=1))
        self.raw()
        self.raw(RECORD)
        self.assertEqual(noting.told, [("refused", Limit.CONNECTIONS)])

    def test_plain(self) -> None:
        noting = self.observe(PreambleOptions(plain=Plain.FORWARD, proxies=networks("127.0.0.1")))
        self.raw(V1 + b"hello")
        [(what, peer)] = noting.told
        self.assertEqual((what, peer.host), ("plain", "192.0.2.7"))

    def test_plain_end(self) -> None:
        """Its end is told of too, when it has one, whether or not its connections are counted."""
        for limits in (None, Limits(connections=5)):
            noting = self.observe(PreambleOptions(plain=Plain.FORWARD), limits=limits)
            raw = self.raw(b"hello")
            self.wait(5)
            raw.transport.loseConnection()
            self.clock.settle()
            self.assertEqual([each[0] for each in noting.told], ["plain", "plain ended"])
            self.assertEqual(noting.told[1][2:], (5.0, "ConnectionDone"))

    def test_nothing_comes_of_it(self) -> None:
        """An observer need not be interested in all."""
        self.serve(observer=Observer(), limits=Limits(connections=1))
        application = self.visit()
        self.raw()
        application.transport.loseConnection()
        self.clock.settle()
        self.serve(PreambleOptions(plain=Plain.FORWARD), observer=Observer())
        self.raw(b"hello")
        self.serve(observer=Observer())
        self.raw(b"hello")
        self.visit(unsafe_skip_verification=True)
