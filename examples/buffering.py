"""
A buffering scheme of one's own, on the connector's hooks: old readings give way to new ones.

    python examples/buffering.py

A connector asks four things of the buffer for what is written and not encrypted yet: C{append},
C{take}, C{clear} and its length.  Nothing is encrypted before it can be sent, so a buffer may
change its mind until then.  This one is for a gauge on a slow line.  Of each sensor the reading
that waits gives way to the one that comes after it: the line is never behind by more than a reading
of each, and what memory it takes depends on the number of sensors alone::

    written:  3000 readings, 28670 bytes
    waited:   at most 3 readings, 29 bytes
    arrived:  780 readings, 7426 bytes; then: closed by the peer, we may go on
    the last: boiler 999, pump 999, vent 999

On the other side it is the owner who says when to read: what was fed and not read waits encrypted,
and C{unread} tells how much of it there is.
"""

from __future__ import annotations

from twisted_bioconn import Connector, State, UsageError
from twisted_bioconn.testing import example_connections

SENSORS = ("boiler", "pump", "vent")
TURNS = 1000
SLOW = 16
"""Bytes that the line takes in a turn."""


class Latest:
    """
    A L{WriteBufferLike<twisted_bioconn.buffer.WriteBufferLike>} of lines, the last of each sensor.

    @ivar most_lines: the largest number of lines that ever waited.
    @ivar most_bytes: the largest number of bytes.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, bytes] = {}
        self._cut = b""
        self.most_lines = self.most_bytes = 0

    def __len__(self) -> int:
        return len(self._cut) + sum(map(len, self._waiting.values()))

    def append(self, data: bytes) -> None:
        """
        Take a line: C{sensor value}.

        @raise UsageError: it is none, and nothing could tell what it replaces.
        """
        if not data.endswith(b"\n") or data.count(b"\n") != 1:
            raise UsageError(f"a reading is one line, and this is none: {data[:40]!r}")
        # The place in the queue stays with the sensor: none can starve the others.
        self._waiting[data.partition(b" ")[0]] = data
        self.most_lines = max(self.most_lines, len(self._waiting))
        self.most_bytes = max(self.most_bytes, len(self))

    def take(self, limit: int) -> bytes:
        """What goes out now, up to C{limit} bytes.  A line that is begun will be ended."""
        taken = self._cut
        while len(taken) < limit and self._waiting:
            taken += self._waiting.pop(next(iter(self._waiting)))
        self._cut = taken[limit:]
        return taken[:limit]

    def clear(self) -> None:
        """The connection is over."""
        self._waiting.clear()
        self._cut = b""


def main() -> None:
    """A gauge writes faster than the line takes it."""
    for_client, for_server = example_connections()
    buffer = Latest()
    gauge, station = Connector(for_client, True, buffer), Connector(for_server, False)
    while station.state is not State.OPEN:
        station.feed(gauge.take())
        gauge.feed(station.take())

    written, readings, line = 0, b"", b""
    for turn in range(TURNS):
        for sensor in SENSORS:
            reading = f"{sensor} {turn}\n".encode()
            gauge.write(reading)
            written += len(reading)
        if not line:
            line = gauge.take()  # Only now is anything encrypted: what is the latest now.
        sent, line = line[:SLOW], line[SLOW:]
        station.feed(sent)
        if turn % 10 == 9:
            readings += station.read()  # In its own time.
    gauge.close()
    station.feed(line)
    while rest := gauge.take():
        station.feed(rest)
    readings += station.read()

    lines = readings.decode().splitlines()
    last = dict(line.split() for line in lines)
    print(f"written:  {TURNS * len(SENSORS)} readings, {written} bytes")
    print(f"waited:   at most {buffer.most_lines} readings, {buffer.most_bytes} bytes")
    print(f"arrived:  {len(lines)} readings, {len(readings)} bytes; then: {station.state.value}")
    print("the last: " + ", ".join(f"{sensor} {value}" for sensor, value in sorted(last.items())))


if __name__ == "__main__":
    main()
