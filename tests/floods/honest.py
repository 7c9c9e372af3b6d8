"""
Honest clients, in a process of their own: they ask an echo, compare what comes back, and keep the
time.

    python -m tests.floods.honest ADDRESS PORT AUTHORITY

C{begin} on its input has them ask until C{end}, which has a line of JSON for an answer.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
from threading import Condition, Thread
from time import perf_counter, sleep

from tests.certificates.load_material import percentile

KEPT = 3
"""How many keep their connection; one more makes a new one for each request."""

PACE = 0.01
"""Seconds between two requests of one client."""

PATIENCE = 120.0
"""Seconds after which an answer is lost: no machine is as slow."""

SIZES = (1, 100, 1000, 20000)
"""Bytes of the requests, one after the other."""


class Turn:
    """
    Whether they ask, and who is still about it.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._goes = False
        self._asking = 0

    def begin(self) -> None:
        with self._changed:
            self._goes = True
            self._changed.notify_all()

    def end(self) -> None:
        """No more is asked, and all is answered."""
        with self._changed:
            self._goes = False
            self._changed.wait_for(lambda: not self._asking)

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._goes)
            self._asking += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._asking -= 1
            self._changed.notify_all()


class Client(Thread):
    """
    One client.

    @ivar times: seconds that each request took, with the connection where that is a new one.
    @ivar lost: what became of those that have no answer, or a wrong one.
    @ivar connections: how many it has made.
    """

    def __init__(
        self, address: tuple[str, int], context: ssl.SSLContext, turn: Turn, keeps: bool
    ) -> None:
        super().__init__(daemon=True)
        self.times: list[float] = []
        self.lost: list[str] = []
        self.connections = 0
        self.keeps = keeps
        self._address = address
        self._tls_context = context
        self._turn = turn
        self._tls: ssl.SSLSocket | None = None

    def run(self) -> None:
        number = 0
        while True:
            with self._turn:
                number += 1
                try:
                    self._ask(os.urandom(SIZES[number % len(SIZES)]))
                except Exception as error:
                    self.lost.append(f"{type(error).__name__}: {error}")
                    self._leave()
            sleep(PACE)

    def _ask(self, question: bytes) -> None:
        began = perf_counter()
        if self._tls is None:
            self.connections += 1
            plain = socket.create_connection(self._address, PATIENCE)
            self._tls = self._tls_context.wrap_socket(plain, server_hostname="localhost")
            self._tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tls.sendall(question)
        answer = bytearray()
        while len(answer) < len(question):
            data = self._tls.recv(65536)
            if not data:
                raise EOFError(f"it has ended after {len(answer)} of {len(question)} bytes")
            answer += data
        if answer != question:
            raise ValueError("other bytes have come back")
        self.times.append(perf_counter() - began)
        if not self.keeps:
            self._tls.unwrap()
            self._leave()

    def _leave(self) -> None:
        tls, self._tls = self._tls, None
        if tls is not None:
            tls.close()


def main(host: str, port: str, authority: str) -> None:
    """Do as the input says."""
    turn = Turn()
    context = ssl.create_default_context(cafile=authority)
    clients = [Client((host, int(port)), context, turn, at < KEPT) for at in range(KEPT + 1)]
    for each in clients:
        each.start()
    for line in sys.stdin:
        if line == "begin\n":
            for each in clients:
                each.times, each.lost, each.connections = [], [], 0
            turn.begin()
        else:
            # However slow it is, and we were to start, each has its connection by then.
            while not all(each.times or each.lost for each in clients):
                sleep(PACE)
            turn.end()
            print(json.dumps(_told(clients)), flush=True)


def _told(clients: list[Client]) -> dict[str, object]:
    told: dict[str, object] = {
        "made": sum(len(each.times) + len(each.lost) for each in clients),
        "lost": [lost for each in clients for lost in each.lost],
        "connections": sum(each.connections for each in clients),
    }
    for name, keeps in ("kept", True), ("new", False):
        times = [time for each in clients if each.keeps is keeps for time in each.times] or [0.0]
        told[name] = [1000 * percentile(times, part) for part in (0.5, 0.99)]
    return told


if __name__ == "__main__":
    main(*sys.argv[1:])
