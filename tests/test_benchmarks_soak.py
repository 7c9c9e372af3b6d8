"""
The soak's parts: its clients, its pace, and what is said of a line.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.material import make_material
from benchmarks.plot import THEMES
from benchmarks.soak.honest import exchange, finish
from benchmarks.soak.hostile import hello, old_hello, refused, sends
from benchmarks.soak.outcome import LET_IN, LOST, NO_EFFECT, Outcome
from benchmarks.soak.plot import PANELS, draw, thinned
from benchmarks.soak.samples import Recorder, Sample, parse_status, settled
from benchmarks.soak.scene import NAMES
from benchmarks.soak.tally import KEPT_REASONS, Count, Done, Kind, LetIn, Lost, Pace, Tally
from benchmarks.soak.verdicts import (
    AFTERWARDS,
    LINES,
    LONG_ENOUGH,
    Line,
    end_verdicts,
    growing,
    in_parts,
    line_verdicts,
    moved,
    slope,
)
from tests.test_benchmarks import ABOUT
from twisted_bioconn.hello import ClientHello, HelloReader

RESIDENT, OBJECTS = (
    next(each for each in LINES if each.name == name) for name in ("resident", "objects")
)

LIMIT = 120.0
"""Seconds after which a thread is not waited for any more."""


class ClientCase(SynchronousTestCase):
    """Has a server in a thread, with TLS, that does with a connection what a test says."""

    def setUp(self) -> None:
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        self.material = make_material(directory)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listening.close)
        self.port: int = self.listening.getsockname()[1]

    def serve(self, handle: Callable[[ssl.SSLSocket], object]) -> None:
        """Serve one connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.material.combined)

        def run() -> None:
            plain, _ = self.listening.accept()
            plain.settimeout(LIMIT)
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    handle(connection)
            except OSError:
                plain.close()

        thread = Thread(target=run, daemon=True)
        thread.start()
        self.addCleanup(thread.join, LIMIT)

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.material.authority)

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), LIMIT)
        connection = self.context().wrap_socket(plain, server_hostname="localhost")
        self.addCleanup(connection.close)
        return connection


def echo(change: Callable[[bytes, int], bytes]) -> Callable[[ssl.SSLSocket], None]:
    """
    @param change: what becomes of some bytes, before which so many have come; what is empty ends
        the connection.
    """

    def handle(connection: ssl.SSLSocket) -> None:
        seen = 0
        while data := connection.recv(1 << 16):
            back = change(data, seen)
            seen += len(data)
            if not back:
                return
            connection.sendall(back)
        connection.unwrap()

    return handle


def same(data: bytes, seen: int) -> bytes:
    return data


class HonestTests(ClientCase):
    """Each byte counts."""

    def test_whole(self) -> None:
        """What comes back is what was sent, wherever that began, and then the server ends."""
        self.serve(echo(same))
        connection = self.connect()
        for size, start in ((1, 0), (200, 1 << 19), ((1 << 20) + 7, (1 << 20) - 3)):
            self.assertEqual(exchange(connection, size, start), size)
        finish(connection)

    def test_slowly(self) -> None:
        """It may be read late, and little at a time."""
        with patch("benchmarks.soak.honest._SLOW_START", 0.1):
            self.serve(echo(same))
            self.assertEqual(exchange(self.connect(), 100_000, slowly=True), 100_000)

    def lost(self, change: Callable[[bytes, int], bytes], size: int) -> str:
        self.serve(echo(change))
        connection = self.connect()

        def ask() -> None:
            exchange(connection, size)
            finish(connection)

        return str(self.assertRaises(Lost, ask))

    def test_wrong(self) -> None:
        """One byte that is another one is found."""

        def change(data: bytes, seen: int) -> bytes:
            changed = bytearray(data)
            if seen <= 150_000 < seen + len(data):
                changed[150_000 - seen] ^= 1
            return bytes(changed)

        self.assertIn("some are not those that were sent", self.lost(change, 300_000))

    def test_early(self) -> None:
        """So is an end that comes too early."""
        # It comes in two records, of which one is answered.
        sentence = self.lost(lambda data, seen: b"" if seen else data, 20_000)
        self.assertRegex(sentence, r"^it ends \d+ of 20000 bytes early$")

    def test_nothing_comes(self) -> None:
        """What does not come in time is lost."""
        enough = Event()
        self.serve(lambda connection: enough.wait(LIMIT))
        self.addCleanup(enough.set)
        with patch("benchmarks.soak.honest._STANDSTILL", 0.2):
            failure = self.assertRaises(Lost, exchange, self.connect(), 10)
        self.assertEqual(str(failure), "10 of 10 bytes do not come in 0.2 s")


class HostileTests(ClientCase):
    """Whether a client was turned away is seen."""

    def test_hellos(self) -> None:
        """They are those of the versions that they are to be."""

        def read(data: bytes) -> ClientHello:
            found = HelloReader().feed(data)
            assert found is not None
            return found

        new, old = read(hello()), read(old_hello())
        self.assertEqual(new.server_name, NAMES[0])
        self.assertIn(0x0304, new.versions)
        self.assertEqual(max(old.versions), 0x0301)

    def test_let_in(self) -> None:
        """An answer is an answer."""
        self.serve(echo(same))
        failure = self.assertRaises(LetIn, refused, self.port, "localhost", self.context())
        self.assertIn("localhost is answered", str(failure))

    def test_turned_away(self) -> None:
        """None is none, after a handshake that succeeds or in the middle of it."""
        self.serve(lambda connection: connection.recv(1))
        self.assertEqual(refused(self.port, "localhost", self.context()), (0, False))
        self.serve(echo(same))
        untrusting = ssl.create_default_context()
        self.assertEqual(refused(self.port, "localhost", untrusting), (0, False))

    def test_garbage(self) -> None:
        """It is to bring an alert, or nothing."""
        self.serve(echo(same))
        self.assertEqual(sends(self.port, lambda: b"GET / HTTP/1.1\r\n\r\n"), (0, False))
        said = [b"HTTP/1.1 200 OK\r\n\r\n"]

        def answer() -> None:
            plain, _ = self.listening.accept()
            with plain:
                plain.recv(100)
                plain.sendall(said[0])

        thread = Thread(target=answer, daemon=True)
        thread.start()
        self.addCleanup(thread.join, LIMIT)
        failure = self.assertRaises(LetIn, sends, self.port, lambda: b"\x80")
        self.assertIn("HTTP/1.1 200", str(failure))


class PaceTests(SynchronousTestCase):
    """The threads of the load, and what they count."""

    def run_units(self, enough: int, *units: Callable[[], Done]) -> tuple[Tally, list[str]]:
        """Run kinds until there have been so many units of each."""
        tally = Tally()
        kinds = [Kind(f"kind {each}", 0.01, unit) for each, unit in enumerate(units)]
        pace = Pace(kinds, tally, 2.0)
        pace.start()
        ticks = Event()
        for _ in range(int(LIMIT / 0.01)):
            if all(sum(tally.total([kind.name])) >= enough for kind in kinds):
                break
            ticks.wait(0.01)
        return tally, pace.stop(LIMIT)

    def test_counts(self) -> None:
        """Units that are done and units that fail, with the first reasons."""

        def fail() -> Done:
            raise Lost("a byte is missing")

        tally, left = self.run_units(KEPT_REASONS + 2, lambda: (200, True), fail)
        self.assertEqual(left, [])
        good, bad = tally.counts.values()
        self.assertEqual((good.received, good.resumed), (200 * good.done, good.done))
        self.assertEqual((good.failed, bad.done), (0, 0))
        self.assertEqual(len(bad.reasons), KEPT_REASONS)
        self.assertRegex(bad.reasons[0], r"^after \d+ s: Lost: a byte is missing$")
        self.assertEqual(tally.total(tally.counts), (good.done, bad.failed))

    def test_under_way(self) -> None:
        """One that does not end is named, and not waited for without end."""
        enough = Event()
        self.addCleanup(enough.set)

        def unit() -> Done:
            enough.wait(LIMIT)
            return 0, False

        tally = Tally()
        pace = Pace([Kind("slow", 0.001, unit)], tally)
        pace.start()
        Event().wait(0.1)
        self.assertEqual(pace.stop(0.05), ["slow"])

    def test_no_more_than_said(self) -> None:
        """What took too long is not made up for."""
        moments: list[float] = []

        class Stop:
            """Time as the pace sees it."""

            now = 0.0

            def wait(self, seconds: float) -> bool:
                self.now += seconds
                return len(moments) >= 6

            def set(self) -> None:
                """It ends by itself."""

        stop = Stop()

        def unit() -> Done:
            moments.append(stop.now)
            stop.now += 35.0 if len(moments) == 2 else 1.0
            return 0, False

        with (
            patch("benchmarks.soak.tally.monotonic", lambda: stop.now),
            patch("benchmarks.soak.tally.Event", lambda: stop),
        ):
            pace = Pace([Kind("it", 10.0, unit)], Tally())
            pace.start()
            self.assertEqual(pace.stop(LIMIT), [])
        self.assertEqual(moments, [0.0, 10.0, 45.0, 55.0, 65.0, 75.0])


def line(name: str, length: float, value: Callable[[float], float]) -> list[Sample]:
    """Samples of one line, each five seconds."""
    times = [5.0 * each for each in range(int(length / 5) + 1)]
    return [{"seconds": seconds, name: value(seconds)} for seconds in times]


class VerdictTests(SynchronousTestCase):
    """What is flat, and what is not."""

    def test_moved(self) -> None:
        """Of the means of two windows; what comes before the first is warm-up."""
        samples = line("resident", 3600.0, lambda at: 50.0 if at < 599 else 80.0 + at / 3600)
        found = moved(samples, RESIDENT, 3600.0)
        assert found is not None
        self.assertApproximates(found, (3300.0 - 900.0) / 3600, 0.001)
        self.assertIsNone(moved(samples, OBJECTS, 3600.0))

    def test_slope(self) -> None:
        """Of the second half alone; some that are far off do not count."""
        samples = line("resident", 3600.0, lambda at: 80.0 + max(0.0, at - 1800) / 600)
        for sample in samples[::7]:
            sample["resident"] += 40
        found = slope(samples, RESIDENT, 3600.0)
        assert found is not None
        rise, error = found
        self.assertApproximates(rise, 6.0, 0.1)
        self.assertLess(error, 0.2)
        self.assertIsNone(slope(samples[:2], RESIDENT, 3600.0))
        self.assertIsNone(slope(samples, OBJECTS, 3600.0))

    def test_floor(self) -> None:
        """What comes and goes above a floor is none of its business."""
        floor = Line("objects", "", 1.0, 1.0, floor=True)
        for rise in (0.0, 6.0):
            samples = line("objects", 3600.0, lambda at: at % 300)
            for sample in samples:
                sample["objects"] += rise * sample["seconds"] / 3600
            by, fit = moved(samples, floor, 3600.0), slope(samples, floor, 3600.0)
            assert by is not None
            assert fit is not None
            self.assertApproximates(by, rise * 2400 / 3600, 0.01)
            self.assertApproximates(fit[0], rise, 0.01)

    def test_parts(self) -> None:
        points = [(1.0, 5.0), (2.0, 900.0), (9.0, 6.0), (25.0, 1.0)]
        self.assertEqual(in_parts(points, 10.0, median), [(5.0, 6.0), (25.0, 1.0)])
        self.assertEqual(in_parts(points, 10.0, min), [(5.0, 5.0), (25.0, 1.0)])

    def verdicts(self, name: str, samples: list[Sample], length: float) -> list[bool | None]:
        found = line_verdicts(samples, length)
        return [each.met for each in found if each.what.startswith(f"{name}:")]

    def test_lines(self) -> None:
        """Each by both of its bounds; what was not sampled has no verdict."""
        for name, value, expected in (
            ("resident", lambda at: 80.0, [True, True]),
            ("resident", lambda at: 80.0 + 3 * at / 3600, [False, False]),
            # Up in the first half, and flat from then on.
            ("resident", lambda at: 80.0 + min(at, 1700.0) / 600, [False, True]),
            ("resident", lambda at: 80.0 - 3 * at / 3600, [False, False]),
            ("descriptors", lambda at: 40.0 + 20 * at / 3600, [False, False]),
            ("descriptors", lambda at: 40.0 - 20 * at / 3600, [True, True]),
            ("objects", lambda at: 40.0 + 10 * at / 3600, [True, True]),
        ):
            samples = line(name, 3600.0, value)
            self.assertEqual(self.verdicts(name, samples, 3600.0), expected)
            self.assertEqual(self.verdicts("heap used", samples, 3600.0), [None, None])

    def test_short(self) -> None:
        """Of a short soak it is not said whether a line is flat."""
        samples = line("resident", 600.0, lambda at: at)
        self.assertEqual(self.verdicts("resident", samples, 600.0), [None, None])
        self.assertGreater(3600.0, LONG_ENOUGH)

    def test_end(self) -> None:
        """Less than before is no harm."""
        before = {"descriptors": 16.0, "delayed calls": 12.0, "deadlines": 0.0, "connections": 0.0}
        after = {**before, "delayed calls": 11.0, "deadlines": 1.0}
        found = end_verdicts(before, after)
        self.assertEqual([each.met for each in found], [True, True, False, True])
        self.assertEqual((found[2].measured, found[2].mark), ("1", "NO"))

    def test_growing(self) -> None:
        """Types that come to be more and more, and not those that come and go."""
        counts = [
            (
                30.0 * each,
                {
                    "leak": 100 + 5 * each,
                    "steady": 7,
                    "noise": 100 + 90 * (each % 2),
                    "slow": 10 + each // 30,
                    **({"new": each - 59} if each >= 60 else {}),
                },
            )
            for each in range(121)
        ]
        found = growing(counts, 3600.0)
        self.assertEqual([each.name for each in found], ["leak", "new"])
        self.assertEqual((found[0].first, found[0].last), (400, 700))
        self.assertApproximates(found[0].rise, 600.0, 0.1)
        self.assertEqual(growing(counts[:3], 60.0), [])


class SampleTests(SynchronousTestCase):
    def test_settled(self) -> None:
        """Of some samples the least of each line."""
        samples = iter(({"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 9.0, "b": 9.0}))
        pauses: list[None] = []
        found = settled(lambda: next(samples), 3, lambda: pauses.append(None))
        self.assertEqual((found, len(pauses)), ({"a": 2.0, "b": 1.0}, 2))

    def test_status(self) -> None:
        """Of what the kernel tells of a process, its memory."""
        text = "Name:\tx\nVmRSS:\t   2048 kB\nRssAnon:\t   1024 kB\nThreads:\t1\n"
        self.assertEqual(parse_status(text), {"resident": 2.0, "anonymous": 1.0})

    def test_failures(self) -> None:
        """A sample that cannot be taken is no end of it."""
        scene: Any = None
        recorder = Recorder(scene, 0.01, dict)
        wait = Event()
        answers: list[Exception | Sample] = [OSError("gone"), {"resident": 1.0}]

        def take(_: object) -> Sample:
            answer = answers.pop(0)
            if not answers:
                wait.set()
            if isinstance(answer, Exception):
                raise answer
            return answer

        with patch("benchmarks.soak.samples.take_sample", take):
            recorder.start()
            self.assertTrue(wait.wait(LIMIT))
            recorder._stop.set()
            recorder.stop()
        self.assertEqual(recorder.failures, ["OSError: gone"])
        self.assertEqual([each["resident"] for each in recorder.samples], [1.0])


class OutcomeTests(SynchronousTestCase):
    """What is told of it."""

    def outcome(self, samples: Sequence[Sample] = (), **more: Any) -> Outcome:
        about = {
            "machine": {**ABOUT["machine"], "cores": 2},
            "versions": {**ABOUT["versions"], "cryptography's OpenSSL": "OpenSSL 4.0.3"},
        }
        nothing = dict.fromkeys(AFTERWARDS, 0.0)
        given: dict[str, Any] = {
            "seconds": 3600.0,
            "left_out": None,
            "parts": {
                LOST: {"short": Count(done=9, received=1 << 20, resumed=9)},
                LET_IN: {"garbage": Count(done=1200)},
                NO_EFFECT: {},
            },
            **{name: [] for name in ("leftover", "complaints", "missed", "types")},
            **more,
        }
        return Outcome(about=about, before=nothing, after=nothing, samples=list(samples), **given)

    def marks(self, outcome: Outcome) -> dict[str, str]:
        return {each.what: each.mark for each in outcome.verdicts()}

    def test_good(self) -> None:
        """Where nothing was measured nothing is wrong, and it is said that it is not known."""
        outcome = self.outcome()
        marks = self.marks(outcome)
        self.assertEqual((marks[LOST], marks[LET_IN], marks[NO_EFFECT]), ("yes", "yes", "?"))
        self.assertTrue(outcome.is_good)
        self.assertEqual(
            outcome.summary(), "9 honest units, 0 lost; 1,200 clients turned away or gone, 0 let in"
        )
        self.assertRegex(outcome.report(), r"\| short \| +9 \| +0 \| +1.0 \| +100% \|")

    def test_bad(self) -> None:
        """One that is lost, or has not ended, or a traceback: each is enough, and is told."""
        lost = {"short": Count(done=9, failed=1, reasons=["after 7 s: it is cut"])}
        for more, words in (
            ({"parts": {LOST: lost}}, "- short: after 7 s: it is cut"),
            ({"leftover": ["bulk"]}, "- bulk: a unit has not ended"),
            ({"complaints": ["Traceback (most"]}, "    Traceback (most"),
        ):
            outcome = self.outcome(**more)
            self.assertFalse(outcome.is_good)
            self.assertIn(words, outcome.report())

    def test_notes(self) -> None:
        """What else there is to know."""
        samples = [{"seconds": 5.0, "late": 31.0, "server CPU": 0.125, "load CPU": 0.25}]
        growing = [(60.0 * each, {"a.Leak": 10 * each}) for each in range(60)]
        text = self.outcome(
            samples, left_out="it is not here", missed=["OSError: gone"], types=growing
        ).report()
        for words in (
            "No certificate was ordered: it is not here.",
            "1 samples could not be taken: OSError: gone",
            "The server had 12.5% of a core",
            "A sample came 31 s late",
        ):
            self.assertIn(words, text)
        self.assertRegex(text, r"\| a.Leak \| +300 \| +590 \| +\+600 \|")

    def test_json(self) -> None:
        """What is written is read as the same, and judged as the same."""
        outcome = self.outcome(line("resident", 3600.0, float), types=[(5.0, {"a": 1})])
        told = json.loads(json.dumps(outcome.as_json()))
        again = Outcome.from_json(told)
        self.assertEqual(again, outcome)
        self.assertEqual([each["met"] for each in told["verdicts"]].count(False), 2)
        wrongs: list[Any] = [[], {}, {**told, "samples": 3}]
        for wrong in wrongs:
            self.assertRaises(ValueError, Outcome.from_json, wrong)

    def test_drawn(self) -> None:
        """It is SVG, all lies within, and each line that was sampled is there."""
        names = [name for panel in PANELS for name in panel.lines]
        self.assertTrue({each.name for each in LINES} <= set(names))
        samples = [
            {"seconds": 5.0 * each, **dict.fromkeys(names, 10.0 + each % 3)} for each in range(721)
        ]
        for theme, colours in THEMES.items():
            root = ElementTree.fromstring(draw(self.outcome(samples), theme))
            width, height = float(root.attrib["width"]), float(root.attrib["height"])
            lines = [each for each in root if each.tag.endswith("polyline")]
            self.assertEqual(len(lines), len(names))
            self.assertIn(colours.ours, {each.attrib["stroke"] for each in lines})
            for each in lines:
                for point in each.attrib["points"].split():
                    x, y = map(float, point.split(","))
                    self.assertTrue(0 <= x <= width and 0 <= y <= height, point)
            words = [each.text for each in root]
            self.assertIn("An hour of mixed load on twistd bioconn", words)
            self.assertTrue(any(each and each.startswith("9 honest units") for each in words))

    def test_nothing_drawn(self) -> None:
        """With no samples it is still a picture."""
        ElementTree.fromstring(draw(self.outcome(), "light"))

    def test_thinned(self) -> None:
        """What stands out stays."""
        points = [(float(each), 1.0) for each in range(5000)]
        points[1234] = (1234.0, 99.0)
        found = thinned(points)
        self.assertLess(len(found), 500)
        self.assertIn((1234.0, 99.0), found)
        self.assertEqual(found, sorted(found))
        self.assertEqual(thinned(points[:9]), points[:9])
