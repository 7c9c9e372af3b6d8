"""What the commands have in common on their way to and from a terminal."""

from __future__ import annotations

import argparse
import sys
from types import FrameType
from typing import NoReturn


def say(line: str) -> None:
    """Tell how it goes, beside the tables."""
    print(line, file=sys.stderr, flush=True)


def positive(text: str) -> float:
    """
    An option's number.

    @raise argparse.ArgumentTypeError: it is not more than 0.
    """
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return number


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM is as Ctrl-C."""
    raise KeyboardInterrupt
