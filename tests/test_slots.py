"""Connections that end in every way: none of them is counted for ever."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger

from tests.context_material import ROOTS, certified, serving
from tests.endpoint_material import Application, Applications
from tests.test__gate import first_flight
from tests.test_preamble import RECORD, V1, PreambleCase
from tests.tls_material import HOST, client, stranger
from twisted_bioconn.access import parse_rules
from twisted_bioconn.client_policy import ClientCertificate, ClientPolicy
from twisted_bioconn.limits import Limits
from twisted_bioconn.port_options import Plain, PreambleOptions, Route, networks

_log = Logger()

COUNT = 10_000 if os.environ.get("BIOCONN_SLOW") else 400


class SlotTests(PreambleCase):
    """A port with everything that it may have."""

    def begin(self) -> None:
        self.raw_application = Applications()
        policy = ClientPolicy(
            ClientCertificate.VERIFY_IF_GIVEN,
            ROOTS,
            rules=parse_rules("cn=client,address=127.0.0.1"),
        )
        self.serve(
            PreambleOptions(plain=Plain.FORWARD, plain_after=5.0, proxies=networks("127.0.0.1")),
            options=serving(clients=policy),
            routes=[
                Route(factory=self.raw_application, names=("raw.example",), passes_through=True)
            ],
            limits=Limits(connections=8, per_address=6, per_network=7, handshakes=4, lifetime=60.0),
        )

    def ways(self) -> list[Callable[[random.Random], object]]:
        """What a client may do."""

        def left(data: bytes, how: str) -> Callable[[random.Random], object]:
            def leave(choice: random.Random) -> None:
                peer = self.raw(data, choice.choice((0, 1, 7)))
                if peer.lost is None and peer.transport is not None:
                    getattr(peer.transport, how)()

            return leave

        hello = first_flight(HOST)
        bytes_of = (
            b"",
            V1[:10],
            V1,
            V1 + hello[:3],
            V1 + hello[:100],
            V1 + hello,
            V1 + RECORD,
            V1 + b"GET / HTTP/1.1\r\n\r\n",
            V1 + first_flight("raw.example"),
            b"\x16no header",
            V1.replace(b"192.0.2.7", b"127.0.0.1") + hello,
        )
        ways = [
            left(data, how)
            for data in bytes_of
            for how in ("loseConnection", "abortConnection", "loseWriteConnection")
        ]

        def visit(choice: random.Random) -> None:
            own = choice.choice((None, certified(client()), certified(stranger())))
            header = choice.choice((V1, V1.replace(b"192.0.2.7", b"127.0.0.1")))
            options = {} if own is None else {"certificate": own}
            found = self.visit(header, **options)
            if not isinstance(found, Application):
                return
            for end in (found, *self.theirs.built):
                if choice.random() < 0.5 and end.lost is None and end.transport is not None:
                    how = choice.choice(("loseConnection", "abortConnection"))
                    getattr(end.transport, how)()
                    return

        def wait(choice: random.Random) -> None:
            self.wait(choice.choice((1, 6, 11)), 1.0)
            self.theirs.built.clear()
            self.raw_application.built.clear()

        return [*ways, *[visit] * 20, wait]

    def test_all_ways(self) -> None:
        self.begin()
        choice = random.Random(2026)
        ways = self.ways()
        for _ in range(COUNT):
            choice.choice(ways)(choice)
            self.lines.clear()
        limiter = self.listener.factory.limiter
        for _ in range(10):
            self.raw()
        self.wait(70, 1.0)
        self.assertEqual((limiter.connections, limiter.handshakes), (0, 0))
        self.assertEqual(dict(limiter._by_address), {})
        # It was full, too.
        self.assertGreater(limiter.refused.total(), 0)
        _log.info("{count} connections, refused: {refused}", count=COUNT, refused=limiter.refused)
        limiter.stop()
        self.clock.advance(20)
        self.assertLeftNothing()

    def visit(self, ahead: bytes = b"", **options: Any) -> Any:
        """As ever; L{None} where the port has no place for it."""
        limiter = self.listener.factory.limiter
        if limiter.connections >= limiter.limits.connections:
            limiter.admit()
            return None
        return super().visit(ahead, **options)
