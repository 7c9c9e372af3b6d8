"""
Clients of a server, in a network whose cable is going to be pulled out.

    python -m tests.floods.vanishing ADDRESS

Each line of its input, C{HOST PORT COUNT AUTHORITY}, has so many of each kind connect; C{close} has
them let go.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time

PATIENCE = 60.0


def _up(address: str) -> None:
    """The other end of the cable is put in at some time."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = subprocess.run(["ip", "link", "show", "flood1"], capture_output=True, check=False)
        if found.returncode == 0:
            subprocess.run(["ip", "address", "add", f"{address}/24", "dev", "flood1"], check=True)
            subprocess.run(["ip", "link", "set", "flood1", "up"], check=True)
            return
        time.sleep(0.02)
    raise SystemExit("there is no cable")


def _opened(host: str, port: int, count: int, authority: str) -> list[socket.socket]:
    context = ssl.create_default_context(cafile=authority)
    ends: list[socket.socket] = []
    for number in range(4 * count):
        end = socket.create_connection((host, port), PATIENCE)
        if number % 4 == 1:
            end.sendall(b"\x16\x03\x01\x01\x00\x01")
        elif number % 4 > 1:
            end = context.wrap_socket(end, server_hostname="localhost")
            if number % 4 == 3:
                end.sendall(bytes(500_000))
        ends.append(end)
    return ends


def main(address: str) -> None:
    """Do as the input says."""
    print("here", flush=True)
    _up(address)
    ends: list[socket.socket] = []
    for line in sys.stdin:
        if line == "close\n":
            for each in ends:
                each.close()
            ends = []
            print("closed", flush=True)
            continue
        host, port, count, authority = line.split()
        try:
            ends = _opened(host, int(port), int(count), authority)
        except OSError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        else:
            print("open", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
