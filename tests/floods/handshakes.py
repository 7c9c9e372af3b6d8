"""Floods of connections and of handshakes."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections import Counter

from tests.certificates.load_material import SLOW
from tests.conformance.keys import HANDSHAKE
from tests.conformance.wire import Ended
from tests.floods.ground import Flood, Ground
from tests.floods.peers import HELLO_12, HELLO_13, Cut, Hostile, all_ended, opened, reset, tls

BRIEF = not SLOW

CROWD = 200 if BRIEF else 2000
DRIPPING = 50 if BRIEF else 500

_DEADLINE = ":handshakeTimeout=2:closeTimeout=1"


def silent(ground: Ground) -> str:
    """Connect, and say nothing."""
    before = ground.size
    crowd = [ground.connect() for _ in range(CROWD)]
    each = ground.most("each", (ground.size - before) / CROWD)
    ground.must(each < 4096, f"each costs {each:.0f} bytes")
    all_ended(ground, crowd)
    return f"{CROWD} connections, {each / 1024:.1f} KiB each at most"


def dripping(ground: Ground) -> str:
    """Say hello, a byte at a time, and never come to its end."""
    crowd = [ground.connect() for _ in range(DRIPPING)]
    hello = HELLO_13.write()
    flight = bytes([HANDSHAKE, 3, 1]) + len(hello).to_bytes(2, "big") + hello
    sent = 0

    def drip() -> None:
        nonlocal sent
        for each in crowd:
            with contextlib.suppress(OSError):
                each.send(flight[sent : sent + 1])
        sent += 1

    all_ended(ground, crowd, drip)
    return f"{DRIPPING} connections, {sent} bytes each"


def _in_pieces(ground: Ground, in_records: bool) -> str:
    count = 20 if BRIEF else 150
    outcomes: Counter[str] = Counter()
    clients = [Hostile(ground) for _ in range(count)]
    said = [client.prepared(HELLO_13) for client in clients]
    flights = []
    for client, hello in zip(clients, said, strict=True):
        if in_records:
            flight = b"".join(client.seal(HANDSHAKE, bytes([each])) for each in hello)
        else:
            flight = client.seal(HANDSHAKE, hello)
        flights.append(flight)
    # All of them at a time.
    pieces = len(flights[0])
    step = 6 if in_records else 1
    for at in range(0, pieces, step):
        for client, flight in zip(clients, flights, strict=True):
            client.raw(flight[at : at + step])
    for client in clients:
        try:
            client.server_hello()
            client.flight()
            client.finish()
            outcomes[client.echoes()] += 1
        except Ended as ended:
            outcomes[ended.what] += 1
        client.leave()
    ground.must(outcomes == {"served": count}, f"hellos in pieces: {dict(outcomes)}")
    return f"{count} hellos in {pieces // step} pieces: {_told(outcomes)}"


def in_segments(ground: Ground) -> str:
    """A hello in TCP segments of a byte."""
    return _in_pieces(ground, in_records=False)


def in_records(ground: Ground) -> str:
    """A hello in TLS records of a byte."""
    return _in_pieces(ground, in_records=True)


def _told(outcomes: Counter[str]) -> str:
    return ", ".join(f"{what} {number}" for what, number in outcomes.most_common())


def garbage(ground: Ground) -> str:
    """Random bytes in place of a hello, behind one, and in a connection that is open."""
    chance = random.Random(1)
    count = 40 if BRIEF else 300
    crowd = []
    for number in range(count):
        if number % 3 == 0:
            end = ground.connect()
        elif number % 3 == 1:
            client = Hostile(ground)
            client.hello(HELLO_13)
            end = client.socket
        else:
            end = opened(ground, older=bool(number % 2)).socket
        with contextlib.suppress(OSError):
            end.sendall(chance.randbytes(chance.randrange(1, 20000)))
        crowd.append(end)
    # What happens to begin like a record waits for its end until there is a deadline; where the
    # client was let in there is none, and it is for the client to go.
    with contextlib.suppress(OSError):
        for end in crowd[2::3]:
            end.shutdown(socket.SHUT_WR)
    all_ended(ground, crowd)
    return f"{count} connections: in place of a hello, behind it, and in open connections"


def churn(ground: Ground) -> str:
    """Connect and close; and the same with a handshake in between."""
    plain, shaken = (300, 60) if BRIEF else (3000, 600)
    began = time.monotonic()
    for number in range(plain):
        end = ground.connect()
        if number % 2:
            reset(end)
        else:
            end.close()
    for number in range(shaken):
        client = tls(ground)
        if number % 2:
            client.unwrap()
        client.close()
    took = time.monotonic() - began
    return (
        f"{plain} connections closed or reset, {shaken} closed after a handshake,"
        f" {(plain + shaken) / took:.0f} a second"
    )


def resets(ground: Ground) -> str:
    """A reset after each byte of what a client says in a handshake."""
    stride = 16 if BRIEF else 1
    told = []
    for name, hello in ("1.2", HELLO_12), ("1.3", HELLO_13):
        whole = Hostile(ground)
        whole.complete(hello)
        size = whole.sent
        whole.leave()
        for wait in (0.0,) if BRIEF else (0.0, 0.002):
            for at in range(0, size + 1, stride):
                client = Hostile(ground)
                client.left = at
                with contextlib.suppress(Cut):
                    if at:
                        client.complete(hello)
                # Sometimes the server has seen the bytes before it sees the reset.
                time.sleep(wait)
                client.reset()
        told.append(f"TLS {name}: {len(range(0, size + 1, stride))} of {size + 1} offsets")
    return ", ".join(told)


FLOODS = (
    Flood("silent", silent, _DEADLINE),
    Flood("dripping", dripping, _DEADLINE),
    Flood("hellos in segments of a byte", in_segments),
    Flood("hellos in records of a byte", in_records),
    Flood("garbage", garbage, _DEADLINE),
    Flood("churn", churn),
    Flood("resets at every byte", resets, _DEADLINE),
)
