"""What a program of the model is made of, and how one is drawn."""

from __future__ import annotations

from typing import Literal

import attrs
from hypothesis import strategies

Side = Literal[0, 1]
"""Which of the two ends; 0 is TLS's server."""

SIDES: tuple[Side, Side] = (0, 1)


@attrs.frozen
class Action:
    """
    What an application does to its transport.

    @ivar what: the name of a method of L{tests.model.world.End}.
    @ivar sizes: bytes, where it writes; of each, where it writes several.
    """

    what: str
    sizes: tuple[int, ...] = ()


@attrs.frozen
class Act:
    """An application acts by itself."""

    side: Side
    action: Action


@attrs.frozen
class React:
    """An application acts from within what it is told next of this kind."""

    side: Side
    told: str
    action: Action


@attrs.frozen
class Wait:
    """Time passes, in seconds, in steps of a second or of all of it."""

    seconds: float


@attrs.frozen
class Turn:
    """The reactor turns so many times; until nothing is left to do, if L{None}."""

    times: int | None


@attrs.frozen
class Fault:
    """
    What the network does.

    @ivar what: C{reset}: this end is told that the other has reset.  C{cut}: it is told an end that
        the other has not sent.  C{stall}: it takes no more bytes.  C{drip}: the next bytes come to
        it one at a time.  C{heal}: it takes and gets all there is.
    """

    side: Side
    what: str


Step = Act | React | Wait | Turn | Fault


@attrs.frozen
class Setting:
    """
    What the two ends and the network between them are.

    @ivar half: which of the applications can go on when one direction is closed.
    @ivar streams: which of the transports are of our own reactor's kind.
    @ivar newest: whether TLS 1.3 is spoken, and not 1.2.
    @ivar capacity: bytes that the network takes off either end's hands.
    @ivar idle: seconds of silence after which an end closes; L{None} for never.
    @ivar open: whether the first step is done when the handshake is, and not before.
    """

    half: tuple[bool, bool]
    streams: tuple[bool, bool]
    newest: bool
    capacity: int
    idle: float | None
    open: bool


@attrs.frozen
class Program:
    """A setting, and what is done in it."""

    setting: Setting
    steps: list[Step]


SIZES = strategies.sampled_from([0, 1, 2, 100, 1000, 16384, 16385, 70_000])
TOLD = ("made", "data", "handshake", "read lost", "write lost", "resume", "lost")
ENDS = ("lose", "half_close", "abort", "stop_producing", "stop_consuming")
QUIET = ("pause", "resume", "unregister")


def _actions(*, may_raise: bool) -> strategies.SearchStrategy[Action]:
    writing = [
        strategies.builds(
            Action, strategies.sampled_from(["write", "send"]), strategies.tuples(SIZES)
        ),
        strategies.builds(
            Action, strategies.just("write_sequence"), strategies.tuples(SIZES, SIZES)
        ),
        strategies.builds(
            Action,
            strategies.sampled_from(["register_push", "register_pull"]),
            # To write nothing is to have a pull producer never asked again, on plain TCP as well.
            strategies.lists(SIZES.filter(bool), max_size=5).map(tuple),
        ),
    ]
    plain = [strategies.builds(Action, strategies.sampled_from(QUIET))] * 2
    ending = [strategies.builds(Action, strategies.sampled_from(ENDS + ("fail",) * may_raise))]
    return strategies.one_of(*writing, *plain, *ending)


_sides = strategies.sampled_from(SIDES)
_steps: strategies.SearchStrategy[Step] = strategies.one_of(
    strategies.builds(Act, _sides, _actions(may_raise=False)),
    strategies.builds(Act, _sides, _actions(may_raise=False)),
    strategies.builds(React, _sides, strategies.sampled_from(TOLD), _actions(may_raise=True)),
    strategies.builds(Turn, strategies.sampled_from([None, None, 1, 1, 2, 5])),
    strategies.builds(
        Wait, strategies.sampled_from([0.0, 0.1, 0.1, 0.1, 1.0, 1.0, 4.0, 11.0, 31.0])
    ),
    strategies.builds(
        Fault, _sides, strategies.sampled_from(["reset", "cut", "stall", "drip", "heal", "heal"])
    ),
)
_booleans = strategies.tuples(strategies.booleans(), strategies.booleans())
_settings = strategies.builds(
    Setting,
    _booleans,
    _booleans,
    strategies.booleans(),
    strategies.sampled_from([1 << 18, 1 << 18, 4096, 64]),
    strategies.sampled_from([None, None, 20.0]),
    strategies.sampled_from([True, True, False]),
)


def programs(length: int) -> strategies.SearchStrategy[Program]:
    """Programs of up to so many steps, and of half as many on average."""
    sizes = strategies.integers(0, length)
    steps = sizes.flatmap(lambda size: strategies.lists(_steps, min_size=size, max_size=size))
    return strategies.builds(Program, _settings, steps)
