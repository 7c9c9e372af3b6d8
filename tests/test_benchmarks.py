"""
The benchmarks' own parts: what they read, reckon, render and draw.  Nothing here is timed.
"""

from __future__ import annotations

import json
import os
import socket
import string
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import __main__ as command
from benchmarks import accounting, engines, traffic
from benchmarks.latency import ACTIVE, percentile
from benchmarks.machine import cpu_model
from benchmarks.material import Material, make_material
from benchmarks.peers import (
    BARE,
    HERE,
    OURS,
    PEERS,
    Peer,
    Role,
    common_values,
    peer_named,
    relayed_connections,
    render,
    said_version,
)
from benchmarks.plot import THEMES, draw
from benchmarks.processes import Failed
from benchmarks.results import (
    BARE_END,
    BEST,
    ONE_WORKER,
    ROWS,
    TARGETS,
    TWO_WORKERS,
    Results,
    Target,
    Verdict,
    as_json,
    report,
    table,
    verdicts,
)
from benchmarks.works import WORKS, Bench, Settings, Work, idle_connections

STAT = "4242 (a (b) c) S 17 4242 4242 0 -1 4194560 9 0 0 0 310 25 4 1 20 0 3 0 99 1000 5"

ABOUT: dict[str, Any] = {
    "machine": {"cpu": "A <fast> & small one", "system": "Linux 6.1"},
    "versions": {"Python": "3.11.7", "Twisted": "26.10.0"},
    "options": {"rounds": 5},
}


def costs(row: str, **columns: float) -> Results:
    """Results of five rounds, which brought the same each time."""
    results = Results()
    for _ in range(5):
        for column, cost in columns.items():
            results.add(row, column, cost)
    return results


class AccountingTests(SynchronousTestCase):
    def test_stat(self) -> None:
        """The parent, and the times of the process and of its children that have ended."""
        self.assertEqual(accounting.parse_stat(STAT), (17, 310 + 25 + 4 + 1))

    def test_pss(self) -> None:
        """Pss is read, and not what begins with it."""
        text = "00-ff ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss_Dirty: 8 kB\nPss:   795 kB\n"
        self.assertEqual(accounting.parse_pss(text), 795 * 1024)

    def test_no_pss(self) -> None:
        """A process that has ended has none."""
        self.assertRaises(ValueError, accounting.parse_pss, "")
        self.assertRaises(ValueError, accounting.parse_pss, "Pss: 1 MB")

    def test_core(self) -> None:
        """All that is neither idle nor waiting, of one core."""
        text = "cpu 9 9 9 9 9 9 9 9 9 9\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 1 2 4 800 900 8 16 32 64 0"
        self.assertEqual(accounting.parse_core(text, 1), 63)
        self.assertRaises(ValueError, accounting.parse_core, text, 2)

    def test_descendants(self) -> None:
        """Children of children too, whatever the order; nobody else."""
        parents = [(5, 4), (4, 2), (3, 1), (2, 1), (6, 2), (1, 0)]
        self.assertEqual(sorted(accounting.descendants(parents, 2)), [2, 4, 5, 6])

    def test_this_process(self) -> None:
        """The kernel's figures for the process that runs this."""
        # Ended children, whom other tests may have started, are in both.
        taken = accounting.cpu_seconds(os.getpid())
        self.assertGreater(taken, 0)
        self.assertGreater(accounting.memory(os.getpid()), 1 << 20)
        self.assertIn(os.getpid(), accounting.tree(os.getppid()))
        with socket.socket(), socket.socket():
            with_two = accounting.sockets(os.getpid())[os.getpid()]
        self.assertEqual(with_two - accounting.sockets(os.getpid())[os.getpid()], 2)

    def test_gone(self) -> None:
        """A process that has ended has no accounts."""
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        self.assertRaises(accounting.Gone, accounting.cpu_seconds, ended.pid)
        self.assertRaises(accounting.Gone, accounting.memory, ended.pid)


class TrafficTests(SynchronousTestCase):
    def test_requests(self) -> None:
        """Each is 200 bytes long and ends its head."""
        for question in (
            traffic.request("small"),
            traffic.request("small", last=True),
            traffic.request(traffic.BIG_NAME),
            traffic.request("sink", body=traffic.MEBIBYTE),
        ):
            self.assertEqual(len(question), 200)
            self.assertEqual(question.index(b"\r\n\r\n"), 196)
        self.assertIn(b"\r\nConnection: close\r\n", traffic.request("small", last=True))

    def test_length(self) -> None:
        """An answer's length is its head's and its body's."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n"
        self.assertEqual(traffic.complete_length(head + b"..."), len(head) + 200)

    def test_other_answers(self) -> None:
        """What is not the answer to expect is not counted as one."""
        for said in (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ):
            self.assertRaises(ConnectionError, traffic.complete_length, said)

    def hello(self, group: int, share: bytes) -> bytes:
        """The record of a ServerHello, or of a HelloRetryRequest, with a session id."""
        key_share = (51).to_bytes(2, "big") + (2 + len(share)).to_bytes(2, "big")
        extensions = b"\x00\x2b\x00\x02\x03\x04" + key_share + group.to_bytes(2, "big") + share
        body = b"\x03\x03" + bytes(32) + b"\x20" + bytes(32) + b"\x13\x02\x00"
        body += len(extensions).to_bytes(2, "big") + extensions
        message = b"\x02" + len(body).to_bytes(3, "big") + body
        return b"\x16\x03\x03" + len(message).to_bytes(2, "big") + message

    def test_group(self) -> None:
        """The group of the last ServerHello; what follows it is encrypted."""
        ccs = b"\x14\x03\x03\x00\x01\x01"
        encrypted = b"\x17\x03\x03\x00\x02..."
        self.assertEqual(
            traffic.group_of(self.hello(0x1D, b"\0\x20" + bytes(32)) + ccs + encrypted), "x25519"
        )
        retried = self.hello(0x17, b"") + ccs + self.hello(0x11EC, b"\0\4....")
        self.assertEqual(traffic.group_of(retried), "X25519MLKEM768")
        self.assertEqual(traffic.group_of(self.hello(0x1234, b"")), "0x1234")
        self.assertEqual(traffic.group_of(b"HTTP/1.1 400 Bad Request"), "unknown")
        self.assertEqual(traffic.group_of(b""), "unknown")


class LatencyTests(SynchronousTestCase):
    def test_percentile(self) -> None:
        """The nearest rank, in whatever order the values come."""
        values = [float(value) for value in range(100, 0, -1)]
        self.assertEqual(percentile(values, 0.5), 50)
        self.assertEqual(percentile(values, 0.99), 99)
        self.assertEqual(percentile(values, 1.0), 100)
        self.assertEqual(percentile([7.0], 0.01), 7)
        self.assertRaises(ValueError, percentile, [], 0.5)

    def test_idle_connections(self) -> None:
        """As many as are wanted, unless descriptors are short."""
        self.assertEqual(idle_connections(10_000, 1_000_000), 10_000)
        few = idle_connections(10_000, 4096)
        self.assertLess(few + ACTIVE, relayed_connections(4096))
        self.assertLess(2 * relayed_connections(4096), 4096)
        self.assertGreater(few, 1500)
        self.assertEqual(idle_connections(10_000, 100), 0)


class ResultsTests(SynchronousTestCase):
    def test_median(self) -> None:
        """One round that went wrong changes little; the spread tells of it."""
        results = Results()
        for cost in (1.0, 50.0, 2.0):
            results.add("request", OURS, cost, rate=cost, busy=0.5)
        self.assertEqual(results.cost("request", OURS), 2.0)
        self.assertEqual(results.figures["request"][OURS].spread, 24.5)
        self.assertEqual(results.rounds("request", OURS), 3)
        self.assertEqual(results.rounds("request", "nginx"), 0)
        self.assertIsNone(results.cost("request", "nginx"))

    def test_ratio_of_pairs(self) -> None:
        """Figures of one measurement are compared with each other, round by round."""
        results = Results()
        for alone, among in ((1.0, 2.0), (10.0, 10.0), (3.0, 9.0)):
            results.add("idle", OURS, among, **{"alone p99": alone, "among p99": among})
        self.assertEqual(results.figures["idle"][OURS].ratio("among p99", "alone p99"), 2.0)

    def test_best(self) -> None:
        """The best is another one, and no floor."""
        results = costs("fresh", **{OURS: 1.0, BARE_END: 0.5, "nginx": 3.0, "haproxy": 2.0})
        self.assertEqual(results.best("fresh"), ("haproxy", 2.0))
        self.assertIsNone(costs("fresh", **{OURS: 1.0, BARE_END: 0.5}).best("fresh"))
        self.assertIsNone(Results().best("fresh"))

    def verdict(self, results: Results, target: Target) -> tuple[str, bool | None]:
        """What is measured, and whether it is what it should be."""
        found = target.verdict(results)
        return found.measured, found.met

    def test_target(self) -> None:
        """At most so many times another's, that very ratio included."""
        target = Target("connect", "haproxy", 1.5)
        self.assertEqual(
            self.verdict(costs("connect", bioconn=3.0, haproxy=2.0), target), ("1.500", True)
        )
        self.assertEqual(
            self.verdict(costs("connect", bioconn=3.1, haproxy=2.0), target), ("1.550", False)
        )

    def test_target_best(self) -> None:
        """The best peer is named."""
        results = costs("upload", bioconn=0.8, nginx=2.0, hitch=1.0)
        self.assertEqual(
            self.verdict(results, Target("upload", BEST, 0.9)), ("0.800 (hitch)", True)
        )

    def test_target_few_rounds(self) -> None:
        """With fewer than five rounds of either, nothing is said to be met."""
        results = costs("connect", bioconn=1.0)
        results.add("connect", "haproxy", 2.0)
        self.assertEqual(self.verdict(results, Target("connect", "haproxy", 1.0)), ("0.500", None))

    def test_target_not_measured(self) -> None:
        """Without one of the two there is no ratio."""
        for results in (Results(), costs("connect", bioconn=1.0), costs("connect", haproxy=1.0)):
            for other in (BEST, "haproxy"):
                self.assertEqual(self.verdict(results, Target("connect", other, 1.0)), ("", None))

    def by_work(self, results: Results, work: str, soak: float = 0.0) -> list[Verdict]:
        return [verdict for verdict in verdicts(results, soak) if verdict.work == work]

    def test_memory(self) -> None:
        """So much above the floor; after traffic neither more nor less; no growth in a soak."""
        kib = 1024.0
        results = costs("fresh", **{OURS: 30 * kib, BARE_END: 24 * kib})
        results.figures |= costs("exchanged", bioconn=27.5 * kib).figures
        results.add("soaked", OURS, 28 * kib)
        fresh, exchanged, soaked = self.by_work(results, "h", 600.0)
        self.assertEqual((fresh.measured, fresh.met), ("+6.0 KiB", True))
        self.assertEqual((exchanged.measured, exchanged.met), ("-2.5 KiB", False))
        self.assertEqual((soaked.measured, soaked.met), ("+0.5 KiB", True))
        self.assertIsNone(self.by_work(results, "h", 60.0)[2].met)

    def test_latency(self) -> None:
        """p99 with against p99 without."""
        results = Results()
        for _ in range(5):
            results.add("idle", OURS, 1.4, **{"alone p99": 1.0, "among p99": 1.4})
            results.add("slow", OURS, 1.4, **{"alone p99": 1.0, "beside p99": 1.4})
        self.assertEqual([each.met for each in self.by_work(results, "i")], [True])
        self.assertEqual([each.met for each in self.by_work(results, "j")], [False])

    def test_workers(self) -> None:
        """Costs within a twentieth, in either direction; the worst share and resumption count."""
        results = costs("workers-connect", **{ONE_WORKER: 1.0, TWO_WORKERS: 0.9})
        for each in range(5):
            results.add("workers-request", ONE_WORKER, 1.0)
            share = 0.3 if each == 2 else 0.5
            results.add("workers-request", TWO_WORKERS, 1.04, share=share, resumed=1.0)
        self.assertEqual(
            [(each.measured, each.met) for each in self.by_work(results, "k")],
            [("1.040", True), ("0.900", False), ("30%", False), ("100%", True)],
        )

    def test_all_is_reported(self) -> None:
        """Tables, verdicts, and what there is no figure for, each with its reason."""
        results = costs("request", bioconn=20e-6, haproxy=25e-6)
        results.left_out["ghostunnel"] = "ghostunnel is not installed"
        results.fail("resume", "twisted", "it does not resume")
        results.negotiated["haproxy"] = "TLSv1.3, x25519"
        results.foreign += [0.01, 0.4, 0.02]
        text = report(results)
        lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
        self.assertRegex(lines["bioconn"], r"\| +20.0 \| +0.80 \| +0% \|")
        self.assertIn("- ghostunnel is left out: ghostunnel is not installed", text)
        self.assertIn("resumed, twisted: it does not resume", text)
        self.assertIn(
            "2% of the time (median of the measurements with a closed loop; at most 40%)", text
        )

    def test_targets_reported(self) -> None:
        """Those of the work that was asked for, whether there are figures for them or not."""
        results = costs("request", bioconn=20e-6, haproxy=40e-6)
        results.fail("resume", "twisted", "it does not resume")
        lines = [line for line in report(results).splitlines() if line.startswith("| (")]
        self.assertEqual(len(lines), 2)
        self.assertRegex(lines[0], r"\(c\) .* bioconn / haproxy .* 0.500 .* met \|")
        self.assertRegex(lines[1], r"\(e\) .* bioconn / the best peer .* not measured .* \? \|")

    def test_json(self) -> None:
        """All of it is JSON, every round included."""
        results = costs("request", bioconn=20e-6, haproxy=25e-6)
        found = json.loads(json.dumps(as_json(results, ABOUT, 0.0)))
        column = found["rows"]["request"]["columns"][OURS]
        self.assertEqual(column["rounds"], [20e-6] * 5)
        self.assertAlmostEqual(column["ratio to the best peer"], 0.8)
        self.assertEqual(found["machine"], ABOUT["machine"])
        self.assertEqual(len(found["targets"]), len(verdicts(results)))

    def test_table(self) -> None:
        """It is Markdown, and lines up."""
        self.assertEqual(
            table(("", "cost"), (("nginx", "7"), ("us", "12345"))).splitlines(),
            [
                "|       |  cost |",
                "| ----- | ----: |",
                "| nginx |     7 |",
                "| us    | 12345 |",
            ],
        )

    def test_rows_have_their_work(self) -> None:
        """Every row is somebody's, and every target is about a row."""
        self.assertEqual(sorted(ROWS), sorted(row for work in WORKS.values() for row in work.rows))
        for work in WORKS.values():
            self.assertEqual({ROWS[row].work for row in work.rows}, {work.letter})
        self.assertLessEqual({target.row for target in TARGETS}, set(ROWS))


class PeersTests(SynchronousTestCase):
    def material(self, directory: Path) -> Material:
        return Material(*(directory / f"{name}.pem" for name in ("ca", "crt", "key", "both")))

    def rendered(self) -> Iterator[tuple[Peer, Role, list[str], str]]:
        """Every peer in every role: its command, and its configuration's text."""
        directory = Path(self.mktemp()).resolve()
        directory.mkdir()
        for peer in (*PEERS, BARE):
            for role in peer.commands:
                words, values = render(
                    peer, role, directory, self.material(directory), 40001, 40002
                )
                configuration = Path(values["configuration"])
                text = configuration.read_text("utf-8") if configuration.exists() else ""
                yield peer, role, words, text

    def test_every_peer_renders(self) -> None:
        """Nothing is left to fill in; the ports and the certificate are where they belong."""
        for peer, role, words, text in self.rendered():
            said = f"{peer.name} as {role.value}: {words} {text}"
            everything = " ".join([*words, text])
            self.assertNotIn("$", everything, said)
            self.assertIn("40001", everything, said)
            self.assertTrue("crt.pem" in everything or "both.pem" in everything, said)
            if role in (Role.RELAY, Role.TLS):
                self.assertIn("40002", everything, said)
            if role is Role.TLS:
                self.assertIn("ca.pem", everything, said)

    def test_every_configuration_is_used(self) -> None:
        """There is no file that no command names, and none is missing."""
        used = {HERE / "backend" / "nginx.conf"}
        for peer in PEERS:
            for role, words in peer.commands.items():
                template = peer.template(role)
                self.assertEqual(
                    any("$configuration" in word for word in words), template is not None
                )
                if template is not None:
                    used.add(template)
        self.assertEqual(used, set(HERE.glob("*/*.conf")))

    def test_backend_renders(self) -> None:
        """So does what all of them forward to."""
        values = common_values(Path("/d"), self.material(Path("/d")))
        values.update(plain="1", tls="2", files="/f", small="...")
        text = (HERE / "backend" / "nginx.conf").read_text("utf-8")
        self.assertNotIn("$", string.Template(text).substitute(values))

    def test_no_such_role(self) -> None:
        """A program that cannot do something says so."""
        failure = self.assertRaises(
            Failed,
            render,
            peer_named("hitch"),
            Role.TLS,
            Path("/d"),
            self.material(Path("/d")),
            1,
            2,
        )
        self.assertIn("hitch", str(failure))

    def test_missing(self) -> None:
        """What is not installed is named."""
        peer = Peer("x", "x", {}, program="no-such-program-of-ours")
        self.assertEqual(peer.missing(), "no-such-program-of-ours is not installed")
        peer = Peer("x", "x", {}, modules=("no_such_module_of_ours",))
        self.assertIn("no_such_module_of_ours is not installed", str(peer.missing()))
        self.assertIsNone(Peer("x", "x", {}, modules=("json",)).missing())

    def test_said_version(self) -> None:
        """The version, and the OpenSSL that runs, not the one that it was built with."""
        nginx = (
            "nginx version: nginx/1.22.1\nbuilt with OpenSSL 3.0.22 (running with OpenSSL 3.0.19)"
        )
        self.assertEqual(said_version(nginx), "1.22.1 (OpenSSL 3.0.19)")
        haproxy = (
            "HAProxy version 2.6.12-1+deb12u4 2026/10/17\n"
            "Built with OpenSSL version : OpenSSL 3.0.22 25 Aug 2026\n"
            "Running on OpenSSL version : OpenSSL 3.0.19 27 Jan 2026\n"
        )
        self.assertEqual(said_version(haproxy), "2.6.12-1+deb12u4 (OpenSSL 3.0.19)")
        stunnel = (
            "stunnel 5.68 on x86_64-pc-linux-gnu platform\n"
            "Compiled with OpenSSL 3.0.9 30 May 2023\n"
            "Running  with OpenSSL 3.0.19 27 Jan 2026\n"
        )
        self.assertEqual(said_version(stunnel), "5.68 (OpenSSL 3.0.19)")
        self.assertEqual(said_version("hitch 1.7.2\n"), "1.7.2")
        self.assertEqual(said_version("what?"), "unknown")

    def test_cpu_model(self) -> None:
        """The processor by its name."""
        self.assertEqual(cpu_model("processor\t: 0\nmodel name\t: A: B\n"), "A: B")


class WorksTests(SynchronousTestCase):
    def test_columns(self) -> None:
        """Who can do it, of those asked for; the floor and the engines always."""
        peers = [peer_named("hitch"), peer_named("uvloop")]
        self.assertEqual(WORKS["a"].columns_for(peers), ["hitch", "uvloop"])
        self.assertEqual(WORKS["f"].columns_for(peers), ["uvloop"])
        self.assertEqual(WORKS["g"].columns_for(peers), ["uvloop"])
        self.assertEqual(WORKS["h"].columns_for(peers), ["hitch", "uvloop", BARE_END])
        self.assertEqual(WORKS["k"].columns_for(peers), [ONE_WORKER, TWO_WORKERS])
        self.assertEqual(WORKS["l"].columns_for(peers), list(engines.ENGINES))

    def run_with(self, measure: Any, rounds: int) -> tuple[Results, list[str]]:
        """Run one kind of work for two peers."""
        done: list[str] = []
        results = Results()

        def noted(bench: Bench, column: str) -> None:
            done.append(column)
            measure(bench, column)

        bench = Bench(None, 0, Settings(), results)  # type: ignore[arg-type]
        work = Work("c", "", ("request", "connect"), Role.RELAY, noted)
        peers = [peer_named("nginx"), peer_named("haproxy")]
        with patch.object(command, "say"):
            command.run(bench, [work], peers, rounds)
        return results, done

    def test_rounds_are_interleaved(self) -> None:
        """Everybody once, then everybody again."""
        _, done = self.run_with(lambda bench, column: None, 2)
        self.assertEqual(done, ["nginx", "haproxy"] * 2)

    def test_failure(self) -> None:
        """One that fails is noted for what it has no figure of, and the others go on."""

        def measure(bench: Bench, column: str) -> None:
            bench.results.add("request", column, 1.0)
            if column == "nginx":
                raise Failed("it rains")
            bench.results.add("connect", column, 1.0)

        results, _ = self.run_with(measure, 2)
        self.assertEqual(results.failures, {"connect": {"nginx": "it rains"}})
        self.assertEqual(results.rounds("connect", "haproxy"), 2)


class PlotTests(SynchronousTestCase):
    def results(self) -> Results:
        """Of two rows, one of them with a peer that cannot do it."""
        results = costs("download", bioconn=1e-3, nginx=2e-3)
        results.figures |= costs("resume", bioconn=3e-4, nginx=2e-4).figures
        results.fail("resume", "twisted", "it does not resume")
        return results

    def drawn(self, theme: str) -> ElementTree.Element:
        return ElementTree.fromstring(draw(self.results(), ABOUT, theme))

    def test_well_formed(self) -> None:
        """It is SVG, of the size that it says, and everything lies within."""
        for theme in THEMES:
            root = self.drawn(theme)
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
            width, height = float(root.attrib["width"]), float(root.attrib["height"])
            self.assertEqual(root.attrib["viewBox"], f"0 0 {width:g} {height:g}")
            for element in root:
                x, y = float(element.get("x", 0)), float(element.get("y", 0))
                self.assertTrue(0 <= x <= width and 0 <= y <= height, element.attrib)
                if element.get("width") and element.get("rx") == "2":
                    self.assertLessEqual(x + float(element.attrib["width"]), width)

    def test_bars(self) -> None:
        """Lengths are as the costs are, the cheapest first, and ours has the colour."""
        bars = [each.attrib for each in self.drawn("light") if each.get("rx") == "2"]
        ours, nginx = bars[:2]
        self.assertApproximates(float(nginx["width"]), 2 * float(ours["width"]), 0.2)
        self.assertEqual(ours["fill"], THEMES["light"].ours)
        self.assertEqual(nginx["fill"], THEMES["light"].bar)
        self.assertEqual(
            [bar["fill"] == THEMES["light"].ours for bar in bars], [True, False, False, True]
        )

    def test_words(self) -> None:
        """Names, figures, the machine, and who cannot do it."""
        words = [each.text for each in self.drawn("dark")]
        for word in ("nginx", "2000", "1000", "300", "does not resume"):
            self.assertIn(word, words)
        self.assertTrue(any("A <fast> & small one" in (word or "") for word in words))

    def test_themes_differ(self) -> None:
        """One for each kind of page."""
        self.assertNotEqual(
            draw(self.results(), ABOUT, "light"), draw(self.results(), ABOUT, "dark")
        )

    def test_nothing(self) -> None:
        """With no figures it is still a picture."""
        ElementTree.fromstring(draw(Results(), ABOUT, "light"))


class EnginesTests(SynchronousTestCase):
    def test_bytes_arrive(self) -> None:
        """Each kind carries bulk and messages both ways, and all agree on the cipher suite."""
        directory = Path(self.mktemp())
        directory.mkdir()
        material = make_material(directory)
        files = [str(each) for each in (material.certificate, material.key, material.authority)]
        for name, make in engines.ENGINES.items():
            pair = make(*files)
            engines.shake_hands(pair)
            client, server = pair
            self.assertEqual((client.suite(), server.suite()), (engines.SUITE,) * 2, name)
            for size in (1, 200, 100_000, 300_000):
                engines.move(client, server, bytes(size))
                engines.move(server, client, bytes(size))

    def test_lost_bytes(self) -> None:
        """An engine that loses some is found out."""

        class Losing:
            piece = 10

            def write(self, plaintext: bytes) -> list[bytes]:
                return [plaintext]

            def read(self, ciphertext: bytes) -> int:
                return len(ciphertext) - 1

        end: Any = Losing()
        self.assertRaises(RuntimeError, engines.move, end, end, b"abc")

    def test_cut(self) -> None:
        """Writes run together, and reads are of a size."""
        self.assertEqual(engines.cut([b"abc", b"de", b"f"], 4), [b"abcd", b"ef"])
        self.assertEqual(engines.cut([b"abcde"], 5), [b"abcde"])


class CommandTests(SynchronousTestCase):
    @contextmanager
    def output(self) -> Iterator[tuple[StringIO, StringIO]]:
        with patch("sys.stdout", StringIO()) as out, patch("sys.stderr", StringIO()) as err:
            yield out, err

    def test_list(self) -> None:
        """What there is to choose from, and what is left out."""
        with (
            self.output() as (out, _),
            patch.object(Peer, "missing", lambda peer: "it is not here"),
        ):
            self.assertEqual(command.main(["--list"]), 0)
        for name in (*(peer.name for peer in PEERS), *(work.title for work in WORKS.values())):
            self.assertIn(name, out.getvalue())
        self.assertIn("left out: it is not here", out.getvalue())

    def test_choice(self) -> None:
        """Peers and work by name, in the order that was asked for."""
        options = command.parser().parse_args(["--peers", "nginx,bioconn", "--work", "c, a"])
        self.assertEqual([peer.name for peer in options.peers], ["nginx", "bioconn"])
        self.assertEqual([work.letter for work in options.work], ["c", "a"])

    def test_wrong(self) -> None:
        """A sentence that names the option, and status 2."""
        for words, sentence in (
            (["--work", "a,z"], "--work: there is no work 'z'"),
            (["--peers", "apache"], "--peers: there is no peer 'apache'"),
            (["--rounds", "0"], "--rounds: 0 is less than 1"),
            (["--seconds", "nan"], "--seconds: nan is not more than 0"),
        ):
            with self.output() as (_, err):
                status = self.assertRaises(SystemExit, command.main, words)
            self.assertEqual(status.code, 2)
            self.assertIn(sentence, err.getvalue())
