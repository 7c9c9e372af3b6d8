"""Clients that do not read, back ends that stall, and peers that vanish."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable

from twisted.trial.unittest import SkipTest

from tests.certificates.load_material import SLOW
from tests.floods.ground import MEBIBYTE, PATIENCE, Flood, Ground
from tests.floods.peers import BackEnd, all_ended, reset, tls
from tests.server.command import ROOT

BRIEF = not SLOW

_IDLE = ":handshakeTimeout=2:idleTimeout=2:closeTimeout=1"

HELD = 1.5 * MEBIBYTE
"""Bytes that a connection may hold for somebody who does not read."""

# Slow readers

TO_COME = 100 * MEBIBYTE


def bulk(ground: Ground) -> str:
    """A back end that has much to send."""
    block = bytes(MEBIBYTE)

    def serve(end: socket.socket) -> None:
        for _ in range(TO_COME // MEBIBYTE):
            end.sendall(block)
        end.recv(1)

    return f"127.0.0.1:{BackEnd(ground, serve).port}"


def slow_readers(ground: Ground) -> str:
    """Clients for whom there is much to come, and who read a little now and then."""
    count, seconds = (8, 1.0) if BRIEF else (40, 4.0)
    before = peak = ground.size
    clients = [tls(ground) for _ in range(count)]
    end, got = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for each in clients:
            got += len(each.recv(4096))
        peak = max(peak, ground.size)
        time.sleep(0.05)
    # Half of them are gone with a word, half without.
    for number, each in enumerate(clients):
        if number % 2:
            reset(each)
        else:
            each.close()
    each_held = ground.most("held", (peak - before) / count)
    ground.must(each_held < HELD, f"{each_held:.0f} bytes are held for each")
    return (
        f"{count} readers of {TO_COME // MEBIBYTE} MiB each, {got / count / 1024:.0f} KiB read,"
        f" {each_held / 1024:.0f} KiB held each at most"
    )


# Back ends that stall


def _back_end(serve: Callable[[socket.socket], object]) -> Callable[[Ground], str]:
    return lambda ground: f"127.0.0.1:{BackEnd(ground, serve).port}"


def _never_reads(end: socket.socket) -> None:
    waiting = select.poll()
    # It waits for an end, of any kind, and for that alone.
    waiting.register(end, select.POLLRDHUP)
    waiting.poll(1000 * PATIENCE)


def _half(end: socket.socket) -> None:
    """Half an answer."""
    asked = end.recv(65536)
    end.sendall(asked[: len(asked) // 2])
    while end.recv(65536):
        pass


def _half_and_reset(end: socket.socket) -> None:
    asked = end.recv(65536)
    end.sendall(asked[: len(asked) // 2])
    reset(end)


def not_read(ground: Ground) -> str:
    """Send until no more is taken, to a back end that does not read."""
    count = 4 if BRIEF else 20
    before = peak = ground.size
    clients = [tls(ground) for _ in range(count)]
    sent = 0
    block = bytes(65536)
    for each in clients:
        each.settimeout(0.3)
        with contextlib.suppress(OSError):
            while True:
                each.sendall(block)
                sent += len(block)
        peak = max(peak, ground.size)
    each_held = ground.most("held", (peak - before) / count)
    ground.must(each_held < HELD, f"{each_held:.0f} bytes are held for each")
    all_ended(ground, clients)
    return (
        f"{count} clients, {sent / count / MEBIBYTE:.1f} MiB taken of each,"
        f" {each_held / 1024:.0f} KiB held each at most"
    )


def half_answered(ground: Ground) -> str:
    """Wait for the other half of an answer, which never comes."""
    count = 10 if BRIEF else 100
    clients = [_asks(ground) for _ in range(count)]
    for each in clients:
        ground.must(each.recv(1000) == bytes(50), "half an answer has not come")
    all_ended(ground, clients)
    return f"{count} clients with half an answer"


def reset_midway(ground: Ground) -> str:
    """Get half an answer and a reset, which must not look like its end."""
    count = 20 if BRIEF else 200
    ends: list[str] = []
    for _ in range(count):
        with _asks(ground) as client:
            try:
                while client.recv(1000):
                    pass
            except OSError as error:
                ends.append(type(error).__name__)
    ground.must(len(ends) == count, f"{count - len(ends)} ends were as if nothing was wrong")
    return f"{count} clients with half an answer"


def _asks(ground: Ground) -> ssl.SSLSocket:
    # An end with no close_notify is to be an error.
    client = tls(ground, suppress_ragged_eofs=False)
    client.sendall(bytes(100))
    return client


def full(ground: Ground) -> str:
    """A back end whose queue is full, so that the kernel answers nobody."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=0)
    ground.case.addCleanup(listening.close)
    address = listening.getsockname()
    waiting = []
    for _ in range(8):
        each = socket.socket()
        ground.case.addCleanup(each.close)
        each.setblocking(False)
        each.connect_ex(address)
        waiting.append(each)
    return f"127.0.0.1:{address[1]}"


def not_accepted(ground: Ground) -> str:
    """Wait for a back end that accepts nobody: until that is told, or, in brief, not as long."""
    count = 10 if BRIEF else 100
    clients = [tls(ground) for _ in range(count)]
    if BRIEF:
        time.sleep(0.5)
        for each in clients:
            each.close()
        return f"{count} clients that go after 0.5 s"
    began = time.monotonic()
    all_ended(ground, clients)
    return f"{count} clients, let go after {time.monotonic() - began:.1f} s"


# Peers that vanish

HERE, THERE = "198.18.0.1", "198.18.0.2"
"""Addresses of a network that is nobody's (RFC 2544), between two ends that are ours."""

INSIDE = "BIOCONN_FLOODS_INSIDE"
"""In the environment of whoever has a network of its own."""

_DEVICES = "flood0", "flood1"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def can_have_a_network() -> bool:
    """Whether there is a network of our own to be had."""
    if sys.platform != "linux" or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        return False
    probe = "ip link set lo up && ip link add flood0 type veth peer name flood1"
    done = subprocess.run(["unshare", "-rn", "sh", "-c", probe], capture_output=True, check=False)
    return done.returncode == 0


def lay_cable(ground: Ground) -> None:
    """A cable to another network, which is there as long as a process in it."""
    process = subprocess.Popen(
        ["unshare", "-n", sys.executable, "-m", "tests.floods.vanishing", THERE],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def end() -> None:
        process.kill()
        process.communicate()

    ground.case.addCleanup(end)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    here, there = _DEVICES
    _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", str(process.pid))
    _ip("address", "add", f"{HERE}/24", "dev", here)
    _ip("link", "set", here, "up")
    ground.elsewhere = process


def half_open(ground: Ground) -> str:
    """Peers in all states, whose cable is pulled out: no end comes, and no reset."""
    process = ground.elsewhere
    if process is None:
        raise SkipTest("there is no network of its own")
    assert process.stdin is not None and process.stdout is not None
    count = 10 if BRIEF else 60
    _ip("link", "set", _DEVICES[0], "up")
    before = ground.descriptors
    process.stdin.write(f"{HERE} {ground.port} {count} {ground.authority}\n")
    process.stdin.flush()
    told = process.stdout.readline().strip()
    ground.connections += 4 * count
    ground.must(told == "open", f"the peers say: {told}")
    ground.must(ground.descriptors > before, "there were no connections")
    _ip("link", "set", _DEVICES[0], "down")
    began = time.monotonic()
    ground.until(lambda: ground.descriptors <= before, "they are ended")
    took = time.monotonic() - began
    process.stdin.write("close\n")
    process.stdin.flush()
    ground.must(process.stdout.readline() == "closed\n", "the peers do not end")
    return (
        f"{count} silent, {count} within a hello, {count} idle, {count} with an answer on its way:"
        f" {took:.1f} s"
    )


FLOODS = (
    Flood("slow readers", slow_readers, ":closeTimeout=1", bulk),
    Flood("back end does not read", not_read, _IDLE, _back_end(_never_reads)),
    Flood("back end answers half", half_answered, _IDLE, _back_end(_half)),
    Flood("back end resets midway", reset_midway, _IDLE, _back_end(_half_and_reset)),
    Flood("back end does not accept", not_accepted, ":closeTimeout=1", full),
    Flood("half-open", half_open, _IDLE, interface=HERE, cable=lay_cable),
)
