"""
The command: C{python -m benchmarks}.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from attrs import asdict

from .machine import machine, versions
from .material import make_material
from .peers import PEERS, Peer, Site, peer_named
from .plot import draw
from .processes import Failed, Program
from .results import BARE_END, Results, as_json, report
from .terminal import interrupt, positive, say
from .works import WORKS, Bench, Settings, Work

Choice = TypeVar("Choice")


def main(words: Sequence[str] | None = None) -> int:
    """
    Run.

    @return: the exit status: 0, or 1 where nothing could be measured, or 2 for a wrong option.
    """
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["soak"]:
        from .soak.command import main as soak

        return soak(words[1:])
    options = parser().parse_args(words)
    if options.list:
        print(listing())
        return 0
    if not sys.platform.startswith("linux"):
        print("python -m benchmarks: it reads Linux's /proc, and this is another system.")
        return 1
    signal.signal(signal.SIGTERM, interrupt)
    settings = Settings(
        seconds=options.seconds,
        connections=options.connections,
        idle=options.idle,
        soak=options.soak,
        group=options.group,
    )
    _raise_limits()
    allowed = sorted(os.sched_getaffinity(0))
    load_core, server_core = allowed[0], allowed[-1]
    # This process does nothing while the others run; it must not do that on the server's core.
    os.sched_setaffinity(0, {load_core})
    results = Results()
    peers = []
    for peer in options.peers:
        reason = peer.missing()
        if reason is None:
            peers.append(peer)
        else:
            results.left_out[peer.name] = reason
    about = {
        "machine": machine(server=server_core, load=load_core),
        "versions": versions(peers),
        "options": {"rounds": options.rounds, **asdict(settings)},
    }
    say(_headline(about))
    for name, reason in results.left_out.items():
        say(f"{name} is left out: {reason}")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as temporary:
        directory = Path(temporary)
        site = Site(directory, make_material(directory), server_core)
        bench = Bench(site, load_core, settings, results)
        backend: list[Program] = []
        try:
            backend = bench.start_backend()
            run(bench, options.work, peers, options.rounds)
        except Failed as failure:
            print(f"python -m benchmarks: {failure}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            say("Interrupted: what follows is what there is so far.")
        finally:
            for program in backend:
                program.stop()
    print(report(results, settings.soak))
    if options.json is not None:
        text = json.dumps(as_json(results, about, settings.soak), indent=1)
        options.json.write_text(text + "\n", "utf-8")
    if options.plot is not None:
        options.plot.mkdir(parents=True, exist_ok=True)
        for theme in ("light", "dark"):
            path = options.plot / f"plot-{theme}.svg"
            path.write_text(draw(results, about, theme), "utf-8")
            say(f"{path} is drawn.")
    return 0 if results.figures else 1


def run(bench: Bench, works: Sequence[Work], peers: list[Peer], rounds: int) -> None:
    """
    Measure: in each round, for each kind of work, everybody once.

    So what is compared lies seconds apart, and what changes on the machine in the meantime hits
    all of them.
    """
    begun = time.monotonic()
    for each in range(rounds):
        bench.first_round = each == 0
        for work in works:
            for column in work.columns_for(peers):
                seconds = time.monotonic() - begun
                say(f"{seconds:6.0f} s  round {each + 1} of {rounds}  ({work.letter})  {column}")
                try:
                    work.measure(bench, column)
                except Failed as failure:
                    for row in work.rows:
                        # Those before the failure have their figure.
                        if bench.results.rounds(row, column) <= each:
                            bench.results.fail(row, column, str(failure))
                    say(f"          no figure: {failure}")


def parser() -> argparse.ArgumentParser:
    """What the command line may have."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What a TLS connection costs here and elsewhere, side by side.",
        epilog="`python -m benchmarks soak --help` tells of another one: an hour of mixed load.",
    )
    found.add_argument(
        "--peers",
        type=lambda text: _chosen(text, peer_named),
        default=list(PEERS),
        metavar="NAME,…",
        help="whom to measure; default: all (see --list)",
    )
    found.add_argument(
        "--work",
        type=lambda text: _chosen(text, _work_named),
        default=list(WORKS.values()),
        metavar="LETTER,…",
        help="what to measure; default: all (see --list)",
    )
    found.add_argument("--rounds", type=_whole, default=5, metavar="N", help="default: 5")
    found.add_argument(
        "--seconds",
        type=positive,
        default=2.0,
        metavar="S",
        help="that count, of each measurement; default: 2",
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    found.add_argument(
        "--plot", type=Path, metavar="DIR", help="draw plot-light.svg and plot-dark.svg there"
    )
    found.add_argument("--list", action="store_true", help="say what there is, and end")
    found.add_argument(
        "--connections",
        type=_whole,
        default=Settings().connections,
        metavar="N",
        help="for memory; default: %(default)s",
    )
    found.add_argument(
        "--idle",
        type=_whole,
        default=Settings().idle,
        metavar="N",
        help="connections that say nothing; fewer if descriptors are short; default: %(default)s",
    )
    found.add_argument(
        "--soak",
        type=float,
        default=0.0,
        metavar="S",
        help="watch idle connections for growth, once, for so many seconds (600 for the target)",
    )
    found.add_argument(
        "--group",
        metavar="NAME",
        help="the only group that clients offer, by OpenSSL's name; default: OpenSSL's list",
    )
    return found


def listing() -> str:
    """What there is to choose from."""
    lines = ["Work:"]
    lines += [f"  {work.letter}  {work.title}" for work in WORKS.values()]
    lines += ["Peers:"]
    for peer in PEERS:
        reason = peer.missing()
        state = f"left out: {reason}" if reason else peer.versions()
        roles = ", ".join(role.value for role in peer.commands)
        lines.append(f"  {peer.name:<11} {peer.title} ({roles}); {state}")
    lines.append(f"  {BARE_END:<11} for memory only: the floor")
    return "\n".join(lines)


def _work_named(letter: str) -> Work:
    if letter not in WORKS:
        raise LookupError(f"there is no work {letter!r}: {', '.join(WORKS)}")
    return WORKS[letter]


def _chosen(text: str, named: Callable[[str], Choice]) -> list[Choice]:
    try:
        return [named(word.strip()) for word in text.split(",")]
    except LookupError as error:
        raise argparse.ArgumentTypeError(str(error.args[0])) from None


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _raise_limits() -> None:
    """Have as many descriptors as may be had; what is started from here has them too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _headline(about: dict[str, Any]) -> str:
    where, what = about["machine"], about["versions"]
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['system']};"
        f" load average {where['load average before']:.2f} before; "
        + ", ".join(f"{name} {number}" for name, number in what.items())
    )


if __name__ == "__main__":
    sys.exit(main())
