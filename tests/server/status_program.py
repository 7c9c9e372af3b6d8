"""
A program for L{tests.server.test_status_page}: a status site whose server has had ten minutes.

    python -m tests.server.status_program well|ill|new

It says where it listens, and ends with its input.
"""

from __future__ import annotations

import math
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from tests.server.status_material import having
from tests.server.test_facts import USUAL
from tests.server.test_ledger import layer
from twisted_bioconn.certificates.source import CertificateFacts
from twisted_bioconn.explanations import Cause, Explanation, Side
from twisted_bioconn.limits import Limit
from twisted_bioconn.server.drain import State
from twisted_bioconn.server.history import INTERVAL, LENGTH, Sample
from twisted_bioconn.server.ledger import Account, Ledger
from twisted_bioconn.server.status import Status, StatusSite
from twisted_bioconn.server.status_ports import status_port

OLD = Explanation(
    Cause.CLIENT_TOO_OLD,
    "192.0.2.7:50123 offers TLS 1.0 at most; policy=intermediate needs TLS 1.2",
    Side.CLIENT,
    "policy",
    "Update the client",
)
EXPIRED = Explanation(
    Cause.CLIENT_CERTIFICATE_EXPIRED,
    "the certificate of 198.51.100.20:40222, CN=ci, has expired 3 days ago",
    Side.CLIENT,
    "clientAuthorities",
    "Renew the client's certificate",
)
HOSTILE = Explanation(
    Cause.UNKNOWN_NAME,
    "203.0.113.9:1234 asks for <img src=x onerror=alert(1)>, and there is no certificate for it",
    Side.SERVER,
    "certificates",
    "Add a certificate for that name",
)


class Server:
    """
    What there would be of a server.
    """

    def __init__(self, mood: str) -> None:
        self.mood = mood
        self.ledger = Ledger(reactor)
        self.ledger.logs = False
        self.front = self.ledger.account("--listen 443", "forward to app.internal:8080")
        self.front.address = "203.0.113.1:443"
        self.status = Status(ledger=self.ledger, options=lambda: [having(*self.certificates())])
        self.status.state = lambda: State.SERVING
        self.number = 0
        self.live: list[Any] = []
        if mood == "new":
            return
        self.other = self.ledger.account("--listen 8443:clientAuthorities=ca.pem", "/srv/www")
        self.other.address = "203.0.113.1:8443"
        self.ledger.started -= 3.3 * 86400
        self.ledger._began -= 3.3 * 86400
        self.remember()

    def certificates(self) -> list[CertificateFacts]:
        now = datetime.now(UTC)

        def one(name: str, left: float, life: float, **more: Any) -> CertificateFacts:
            end = now + timedelta(days=left)
            return CertificateFacts(
                names=(name, f"www.{name}"),
                not_before=end - timedelta(days=life),
                not_after=end,
                **{"source": "acme-v02.api.letsencrypt.org", "key_type": "EC secp256r1", **more},
            )

        if self.mood == "new":
            return []
        renewal = now + timedelta(days=33)
        found = [one("shop.example", 62.4, 90, next_renewal=renewal), one("api.example", 81, 90)]
        found.append(
            one("legacy.example", 233, 365, key_type="RSA 2048", source="/etc/pki/legacy.pem")
        )
        if self.mood == "ill":
            error = "the authority says: too many certificates already issued for example"
            found.append(one("mail.example", 5.2, 90, last_error=error))
            found.append(one("old.example", -1.5, 90, source="/etc/pki/old.pem"))
        return found

    def remember(self) -> None:
        """Ten minutes, told to the history; the counts go on from there."""
        failed = {"http": 40, "client_too_old": 212, "client_certificate_expired": 3}
        done, received, sent = 900_000.0, 4e9, 88e9
        now = self.ledger.now()
        ill = self.mood == "ill"
        for number in range(LENGTH):
            wave = math.sin(number / 40) + 0.4 * math.sin(number / 7) + 0.2 * math.sin(number * 1.7)
            done += 2 * (40 + 14 * wave)
            received += 2 * (3e6 + 1.1e6 * wave)
            sent += 2 * (22e6 + 9e6 * wave)
            if number % 60 == 7:
                failed["client_too_old"] += 1
            if ill and number > 240:
                failed["client_certificate_expired"] += 31
            slow = 0.04 if ill and number > 240 else 0.0
            self.status.history.samples.append(
                Sample(
                    moment=now - (LENGTH - 1 - number) * INTERVAL,
                    connections=round(1180 + 240 * wave) - (400 if ill and number > 250 else 0),
                    done=round(done),
                    failed=dict(failed),
                    refused={},
                    received=round(received),
                    sent=round(sent),
                    p50=0.0021 + 0.0004 * wave + slow / 3,
                    p99=0.011 + 0.004 * abs(wave) + slow,
                )
            )
        for _ in range(820 if ill else 1210):
            self.begin(self.front)
        self.front.results.update(closed_silent=17_280, **failed)
        self.front.results["ok"] = round(done)
        self.front.negotiated[USUAL.version, USUAL.group, True] = round(0.61 * done)
        self.front.negotiated[USUAL.version, "x25519", False] = round(0.39 * done)
        self.front._received, self.front._sent = round(received), round(sent)
        if ill:
            self.other.limits[Limit.PER_ADDRESS] += 1
            for _ in range(30):
                self.fail(EXPIRED)
        self.fail(HOSTILE)
        self.fail(OLD)

    def begin(self, account: Account) -> None:
        """One more is let in."""
        self.number += 1
        seconds = 0.0017 + 0.00008 * (self.number % 10) + (0 if self.number % 50 else 0.011)
        if self.mood == "ill":
            seconds *= 5
        tls: Any = layer(self.number)
        account.begun(tls)
        account.let_in(tls, attrs.evolve(USUAL, handshake_seconds=seconds))
        # What it carries is counted by other means here.
        tls.traffic = (0, 0)
        self.live.append(tls)

    def fail(self, why: Explanation) -> None:
        """One fails."""
        self.other.not_let_in(None, "192.0.2.7:50123", why, 0.1)

    def go_on(self) -> None:
        """A tenth of a second passes."""
        ill = self.mood == "ill"
        for _ in range(4):
            self.begin(self.front)
            tls = self.live.pop(0)
            self.front.ended(tls, Failure(connectionDone.value))
        if ill:
            self.fail(EXPIRED)
            self.other.limits[Limit.PER_ADDRESS] += 1
        self.front._received += 300_000
        self.front._sent += 2_200_000


class Input(Protocol):
    """Whoever has started this is there as long as this is."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        reactor.stop()


def main(mood: str) -> None:
    server = Server(mood)
    # The port's number is not known before.
    place = status_port(reactor, "127.0.0.1:0")

    def listening(port: Any) -> None:
        print(f"http://127.0.0.1:{port.getHost().port}/", flush=True)

    listen = place.endpoint.listen(StatusSite(server.status, place.audience))
    listen.addCallback(listening)
    if mood != "new":
        LoopingCall(server.go_on).start(0.1)
    StandardIO(Input())
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
