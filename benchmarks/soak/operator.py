"""
What an operator does meanwhile, again and again: each unit is done when a client sees its effect.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from itertools import cycle

from .honest import client_context
from .scene import ACME, SITES, Scene, wait_until
from .tally import Done, Kind

_LIMIT = 60.0
"""Seconds until the effect has to be seen."""


class NoEffect(Exception):
    """What an operator did has had no effect; the sentence says what it was."""


class Reloader:
    """
    Reloads with one configuration, then with the other, then with one that is wrong.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._turns = cycle(("changed", "wrong", "as before", "the same"))

    def __call__(self) -> Done:
        """
        Reload.

        @raise NoEffect: the port that is to be there is not, or the other way round.
        """
        turn = next(self._turns)
        scene = self._scene
        begin = scene.log.stat().st_size
        if turn == "wrong":
            scene.misconfigure()
        else:
            scene.configure(changed=turn == "changed")
        scene.hang_up()
        # With a wrong one all is as it was, and that was with the other port.
        expected = turn in ("changed", "wrong")
        if not wait_until(
            lambda: _said(scene, turn, begin) and _is_open(scene.ports.extra) == expected, _LIMIT
        ):
            raise NoEffect(f"the reload ({turn}) has not come about")
        return 0, False

    def settle(self) -> None:
        """
        Have the configuration of the beginning.

        @raise NoEffect: it is not taken.
        """
        scene = self._scene
        scene.configure(changed=False)
        scene.hang_up()
        if not wait_until(lambda: not _is_open(scene.ports.extra), _LIMIT):
            raise NoEffect("the configuration of the beginning is not taken")


_SAYS = {
    "changed": b"the configuration is loaded anew",
    "as before": b"the configuration is loaded anew",
    "wrong": b"nothing is changed",
    "the same": b"reloaded",
}
"""What the log says after a reload."""


def _said(scene: Scene, turn: str, begin: int) -> bool:
    """
    Whether the log says that a reload is over.

    @param begin: how long it was before.
    """
    with open(scene.log, "rb") as log:
        log.seek(begin)
        return _SAYS[turn] in log.read()


def _is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), _LIMIT):
        return True
    return False


class Replacer:
    """
    Puts another file in the place of a certificate's, which is noticed with no word.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._names = cycle(SITES)
        self._plain = client_context(scene)
        self._welcome = client_context(scene, pair="welcome.pem")

    def __call__(self) -> Done:
        """
        Replace the next one.

        @raise NoEffect: clients still get the one before.
        """
        name = next(self._names)
        serial = self._scene.replace(name)
        asked = SITES[name][0].replace("*", "any")
        context = self._welcome if name == "client" else self._plain

        def served() -> bool:
            return self._scene.serial(self._scene.port, asked, context) == serial

        if not wait_until(served, _LIMIT, 0.5):
            raise NoEffect(f"the certificate for {asked} that was replaced is served on")
        return 0, False


class Renewer:
    """
    Has a certificate renewed: ordered anew, where there is an authority; else looked at anew.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._context: ssl.SSLContext | None = None
        if scene.has_acme:
            self._context = ssl.create_default_context(cafile=scene.path("pebble-root.pem"))

    def __call__(self) -> Done:
        """
        Renew.

        @raise NoEffect: clients still get the one before.
        """
        scene, context = self._scene, self._context
        if context is None:
            scene.renew()
            return 0, False
        before = scene.serial(scene.acme_port, ACME, context)
        said = scene.renew(ACME)
        # Authorities count how often one is renewed, and so does the server.
        if "another certificate is ordered" in said and not wait_until(
            lambda: scene.serial(scene.acme_port, ACME, context) != before, _LIMIT, 0.5
        ):
            raise NoEffect(f"{said}, but clients still get the one before")
        return 0, False


def operator_kinds(scene: Scene, reloader: Reloader) -> list[Kind]:
    """What there is to do, and how often."""

    def looks() -> Done:
        for path in ("/status", "/connections", "/certificates", "/failures", "/history"):
            scene.ask(path)
        return 0, False

    # Not in step with the samples, which would always be those of the same moment.
    return [
        Kind("reload", 31.0, reloader),
        Kind("certificate replaced", 19.0, Replacer(scene)),
        Kind("certificate renewed", 61.0, Renewer(scene)),
        Kind("status read", 10.0, looks),
    ]
