"""Tests for L{twisted_bioconn.server.status} and L{twisted_bioconn.server.status_reports}."""

from __future__ import annotations

import os
import re
from base64 import b64encode
from datetime import timedelta
from hashlib import sha256
from importlib.resources import files
from typing import Any

import attrs
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionAborted
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.context_material import serving
from tests.server.contrast import contrast
from tests.server.status_material import Answer, StatusCase, having
from tests.server.test_facts import NOW, USUAL, certificate
from tests.server.test_ledger import SENTENCE, layer
from twisted_bioconn import __version__
from twisted_bioconn.certificates.source import CertificateFacts
from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.explanations import Cause
from twisted_bioconn.limits import Limit
from twisted_bioconn.server.drain import State
from twisted_bioconn.server.status import Controls
from twisted_bioconn.server.status_ports import Audience

PATHS = (
    *("/", "/status", "/history", "/connections", "/certificates", "/failures"),
    *("/healthz", "/readyz", "/metrics"),
)
CERTIFIED = attrs.evolve(USUAL, peer_chain=(certificate(),), server_name="front.example")


class ReportTests(StatusCase):
    """What is told."""

    def test_status(self) -> None:
        """Counts of all ports and of each."""
        one = self.ledger.account("--listen 8443", "an echo")
        one.address = "127.0.0.1:8443"
        two = self.ledger.account("--listen 9443")
        for account in (one, two):
            for port in (1, 2):
                tls = layer(port)
                account.begun(tls)
                if port == 1:
                    account.let_in(tls, attrs.evolve(USUAL, resumed=account is two))
            account.not_let_in(None, "192.0.2.1:1", SENTENCE, 1)
            silent = attrs.evolve(SENTENCE, cause=Cause.CLOSED_SILENT)
            account.not_let_in(None, "192.0.2.1:1", silent, 1)
        two.refused(Limit.CONNECTIONS)
        two.ended(next(iter(two.open)), Failure(ConnectionAborted()))
        self.clock.advance(90)
        self.status.worker = 3
        told = self.ask("/status").told
        self.assertEqual(told["version"], __version__)
        self.assertEqual((told["pid"], told["worker"]), (os.getpid(), 3))
        self.assertEqual((told["state"], told["obstacles"]), ("serving", []))
        self.assertEqual(told["uptime"], 90)
        self.assertEqual(told["started"], NOW.isoformat(timespec="milliseconds"))
        self.assertEqual(
            told["connections"], {"handshake": 2, "open": 1, "closing": 0, "begun": 4, "plain": 0}
        )
        self.assertEqual(
            told["handshakes"],
            {
                "done": 2,
                "failed": 2,
                "silent": 2,
                "resumed": 1,
                "results": {"ok": 2, "http": 2, "closed_silent": 2},
                "versions": {"TLSv1.3": 2},
                "groups": {"X25519MLKEM768": 2},
            },
        )
        self.assertEqual(told["ends"], {"aborted": 1})
        self.assertEqual(told["refused"], {"maxConnections": 1})
        self.assertEqual(told["bytes"], {"received": 4 * 1234, "sent": 4 * 5678})
        self.assertEqual(told["sample"]["connections"], 3)
        self.assertEqual(
            told["listeners"][0],
            {
                "name": "--listen 8443",
                "target": "an echo",
                "address": "127.0.0.1:8443",
                "connections": {"handshake": 1, "open": 1, "closing": 0, "begun": 2, "plain": 0},
                "handshakes": {"done": 1, "failed": 1, "silent": 1},
                "refused": {},
                "bytes": {"received": 2 * 1234, "sent": 2 * 5678},
            },
        )
        self.assertEqual([each["name"] for each in told["listeners"]][1:], ["--listen 9443"])

    def test_nothing(self) -> None:
        """A server to which nothing has happened yet has an answer to all."""
        for path in PATHS:
            self.assertEqual(self.ask(path).code, 200, path)

    def test_connections(self) -> None:
        """They are told a page at a time."""
        account = self.ledger.account("port")
        for port in range(250):
            account.begun(layer(port))
        self.clock.advance(5)
        told = self.ask("/connections").told
        self.assertEqual((told["total"], told["offset"], told["limit"]), (250, 0, 100))
        self.assertEqual(len(told["connections"]), 100)
        first = told["connections"][0]
        self.assertEqual((first["number"], first["peer"]), (1, "192.0.2.7:0"))
        self.assertEqual(first["began"], NOW.isoformat(timespec="milliseconds"))
        told = self.ask("/connections?offset=240&limit=20").told
        numbers = [each["number"] for each in told["connections"]]
        self.assertEqual(numbers, list(range(241, 251)))
        self.assertEqual(self.ask("/connections?limit=5000").told["limit"], 1000)
        self.assertEqual(self.ask("/connections?offset=9999").told["connections"], [])
        for query in ("limit=x", "limit=-1", "offset=1e3", "offset=%ff", f"limit={'9' * 50}"):
            answer = self.ask(f"/connections?{query}")
            self.assertEqual(answer.code, 400)
            self.assertIn("is to be a number", answer.told["error"])

    def test_certificates(self) -> None:
        """Those that expire first are in front; one that two ports share is told once."""
        soon = CertificateFacts(
            names=tuple(f"{number}.example" for number in range(30)),
            source="/etc/pki/many.pem",
            key_type="RSA 2048",
            not_before=NOW - timedelta(days=60),
            not_after=NOW + timedelta(days=30),
            next_renewal=NOW + timedelta(days=1),
        )
        late = attrs.evolve(soon, names=("late.example",), not_after=NOW + timedelta(days=99))
        broken = CertificateFacts(names=(), source="/etc/x.pem", last_error="it is empty")
        options = having(late, broken, soon)
        self.status.options = lambda: [options, options, having(soon)]
        told = self.ask("/certificates").told
        self.assertEqual(told["total"], 3)
        first, second, third = told["certificates"]
        self.assertEqual(first["names"], [f"{number}.example" for number in range(20)])
        self.assertEqual(first["more_names"], 10)
        self.assertEqual((first["days_left"], first["lifetime_days"]), (30, 90))
        self.assertEqual(first["next_renewal"], (NOW + timedelta(days=1)).isoformat())
        self.assertEqual(second["days_left"], 99)
        self.assertEqual(
            third,
            {
                "names": [],
                "more_names": 0,
                "source": "/etc/x.pem",
                "key": "",
                "not_before": None,
                "not_after": None,
                "days_left": None,
                "lifetime_days": None,
                "next_renewal": None,
                "last_error": "it is empty",
            },
        )

    def test_one_certificate(self) -> None:
        """Where there is no source, there is the certificate."""
        self.status.options = lambda: [serving()]
        [told] = self.ask("/certificates").told["certificates"]
        self.assertIn("www.example.org", told["names"])
        self.assertEqual(told["source"], "memory")

    def test_failures(self) -> None:
        """The newest is in front."""
        account = self.ledger.account("port")
        account.not_let_in(None, "192.0.2.1:1", SENTENCE, 1)
        self.clock.advance(1)
        account.not_let_in(None, "192.0.2.2:2", SENTENCE, 0.12345)
        told = self.ask("/failures").told["failures"]
        self.assertEqual([each["peer"] for each in told], ["192.0.2.2:2", "192.0.2.1:1"])
        self.assertEqual(
            told[0],
            {
                "when": (NOW + timedelta(seconds=1)).isoformat(timespec="milliseconds"),
                "listener": "port",
                "peer": "192.0.2.2:2",
                "cause": "http",
                "sentence": "it is HTTP",
                "remedy": "client",
                "setting": "plain",
                "advice": "use https",
                "waited": 0.123,
                "trace": None,
            },
        )

    def test_history(self) -> None:
        """The site itself sees to it that there is some."""
        [sample] = self.ask("/history").told["samples"]
        self.assertEqual(sample["moment"], NOW.timestamp())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_metrics(self) -> None:
        self.ledger.account("port")
        answer = self.ask("/metrics")
        self.assertTrue(answer.headers["content-type"].startswith("text/plain; version=0.0.4"))
        self.assertIn('bioconn_connections{listener="port",state="open"} 0.0', answer.text)
        answer = self.ask("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        self.assertTrue(answer.text.endswith("# EOF\n"))

    def test_memory(self) -> None:
        """
        What it is used for, told to those who may also tell the server what to do: to count objects
        takes a while.
        """
        objects = [_Counted() for _ in range(7)]
        self.clock.callLater(5, objects.clear)
        self.status.worker = 2
        answer = self.ask("/memory", audience=Audience.OWNER, here=UNIXAddress("/s"))
        [told] = answer.told["processes"]
        self.assertEqual((told["pid"], told["worker"]), (os.getpid(), 2))
        # One is the history's.
        self.assertEqual(told["delayed_calls"], {"call": 2, "deadline": 0})
        self.assertEqual(told["types"][f"{__name__}._Counted"], 7)
        self.assertEqual(told["objects"], sum(told["types"].values()))
        self.assertGreater(told["python_blocks"], 1000)
        answer = self.ask("/memory", audience=Audience.MACHINE)
        self.assertEqual(answer.code, 403)
        self.assertIn("use the UNIX socket", answer.told["error"])


class _Counted:
    """An object of a type of its own, which the collector looks after."""


class LifeTests(StatusCase):
    """Whether the server is alive, and whether it is ready."""

    def readiness(self) -> tuple[int, str]:
        answer = self.ask("/readyz")
        return answer.code, answer.text

    def test_life(self) -> None:
        for state in State:
            expected = (503, f"not ready: {state.value}\n")
            if state is State.SERVING:
                expected = (200, "ready\n")
            self.state = state
            self.assertEqual(self.readiness(), expected)
            self.assertEqual(self.ask("/healthz").text, "alive\n")
            self.assertEqual(self.ask("/status").told["state"], state.value)

    def test_checks(self) -> None:
        """Others have a say, and say why."""
        says: list[str | None] = ["no back end is up", None, "no certificate"]
        self.status.checks = [lambda each=each: each for each in says]  # type: ignore[misc]
        self.assertEqual(self.readiness(), (503, "not ready: no back end is up, no certificate\n"))
        self.assertEqual(
            self.ask("/status").told["obstacles"], ["no back end is up", "no certificate"]
        )


class MethodTests(StatusCase):
    """GET and HEAD to read, and paths that are there."""

    def test_head(self) -> None:
        for path in PATHS:
            if path in ("/metrics", "/history"):
                continue  # there is more of it with each question
            got, asked = self.ask(path), self.ask(path, "HEAD")
            self.assertEqual((asked.code, asked.body), (got.code, b""), path)
            self.assertEqual(asked.headers["content-length"], str(len(got.body)), path)

    def test_others(self) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "NOSUCH"):
            answer = self.ask("/status", method)
            self.assertEqual((answer.code, answer.headers["allow"]), (405, "GET, HEAD"))

    def test_absent(self) -> None:
        for path in ("/x", "/status/", "//", "/../etc/passwd", "/<script>", "/%0a%1b"):
            answer = self.ask(path)
            self.assertEqual(answer.code, 404)
            self.assertTrue(answer.told["error"].isprintable())

    def test_headers(self) -> None:
        """Nothing is kept, guessed, passed on or framed, whatever the answer is."""
        for answer in (*map(self.ask, PATHS), self.ask("/x"), self.ask("/", host="x")):
            for name, value in {
                "cache-control": "no-store",
                "x-content-type-options": "nosniff",
                "referrer-policy": "no-referrer",
                "cross-origin-resource-policy": "same-origin",
                "cross-origin-opener-policy": "same-origin",
                "content-length": str(len(answer.body)),
            }.items():
                self.assertEqual(answer.headers[name], value)
            self.assertNotIn("access-control-allow-origin", answer.headers)


class AdmissionTests(StatusCase):
    """Who may ask."""

    def test_hosts(self) -> None:
        """On a port, the server has to be called by a name that is surely its own."""
        for host, code in {
            "localhost": 200,
            "localhost:9090": 200,
            "LOCALHOST:9090": 200,
            "127.0.0.1:9090": 200,
            "[::1]:9090": 200,
            "[::1]": 200,
            "evil.example": 403,
            "evil.example:9090": 403,
            "localhost.evil.example": 403,
            "127.0.0.1.evil.example:9090": 403,
            "localhost:": 403,
            "": 403,
        }.items():
            self.assertEqual(self.ask("/status", host=host).code, code, host)
        self.assertEqual(self.ask("/status", host=None).code, 403)
        error = self.ask("/status", host="evil\x1b.example").told["error"]
        self.assertTrue(error.isprintable())

    def test_own_address(self) -> None:
        """The address that it listens on is its own as well."""
        for here, host in (
            (IPv4Address("TCP", "192.0.2.1", 9090), "192.0.2.1:9090"),
            (IPv6Address("TCP", "2001:db8::1", 9090), "[2001:db8::1]:9090"),
        ):
            self.assertEqual(self.ask("/status", host=host, here=here).code, 200)
            self.assertEqual(self.ask("/status", host=host).code, 403)

    def test_socket(self) -> None:
        """Nobody can make a browser ask a UNIX socket."""
        for host in ("anything", None):
            answer = self.ask(
                "/status", host=host, audience=Audience.OWNER, here=UNIXAddress("/run/s")
            )
            self.assertEqual(answer.code, 200)

    def test_origins(self) -> None:
        """Another page's request is refused, whatever it asks for."""
        for path in PATHS:
            for origin, code in {
                "http://localhost:9090": 200,
                "http://localhost:9091": 403,
                "https://localhost:9090": 403,
                "http://evil.example": 403,
                "null": 403,
            }.items():
                self.assertEqual(self.ask(path, Origin=origin).code, code, (path, origin))
        for site, code in {
            "same-origin": 200,
            "none": 200,
            "same-site": 403,
            "cross-site": 403,
        }.items():
            self.assertEqual(self.ask("/", Sec_Fetch_Site=site).code, code, site)

    def test_certified(self) -> None:
        """Where a certificate is what lets in, each request is looked at for one."""
        more: dict[str, Any] = {"audience": Audience.CERTIFIED, "host": "front.example:9443"}
        self.assertEqual(self.ask("/status", **more).code, 403)
        self.assertEqual(
            self.ask("/status", negotiated=attrs.evolve(CERTIFIED, peer_chain=()), **more).code, 403
        )
        self.assertEqual(self.ask("/status", negotiated=CERTIFIED, **more).code, 200)
        origin = "https://front.example:9443"
        self.assertEqual(self.ask("/", negotiated=CERTIFIED, Origin=origin, **more).code, 200)
        more["host"] = "evil.example"
        self.assertEqual(self.ask("/status", negotiated=CERTIFIED, **more).code, 403)


class ControlTests(StatusCase):
    """What can be done."""

    def setUp(self) -> None:
        super().setUp()
        self.did: list[str] = []

        def doing(what: str, said: str | None = None) -> Any:
            def do() -> str | None:
                self.did.append(what)
                return said

            return do

        self.status.controls = Controls(
            reload=doing("reload", "1 of 3 has changed"),
            renew=lambda name: doing("renew" if name is None else f"renew {name}")(),
            drain=doing("drain"),
        )

    def test_done(self) -> None:
        answer = self.order("/control/reload")
        self.assertEqual((answer.code, answer.told["said"]), (200, "1 of 3 has changed"))
        self.assertEqual(self.order("/control/renew").told, {"done": "renew", "said": None})
        self.order("/control/renew/*.a%2fb.example")
        self.assertEqual(self.order("/control/renew/%ff").code, 400)
        self.order("/control/drain")
        self.assertEqual(self.did, ["reload", "renew", "renew *.a/b.example", "drain"])

    def test_close(self) -> None:
        tls: Any = layer()
        self.ledger.account("port").begun(tls)
        for path, code in {
            "/control/close/2": 404,
            "/control/close/": 404,
            "/control/close/x": 404,
            "/control/close/-1": 404,
            f"/control/close/{'9' * 5000}": 404,
            "/control/close/1": 200,
        }.items():
            self.assertEqual(self.order(path).code, code, path)
        self.assertTrue(tls.aborted)

    def test_certified(self) -> None:
        """Whoever has shown a certificate may do it too."""
        here = IPv4Address("TCP", "192.0.2.1", 9443)
        more: dict[str, Any] = {"audience": Audience.CERTIFIED, "here": here}
        host = "front.example"
        answer = self.order("/control/renew", host=host, negotiated=CERTIFIED, **more)
        self.assertEqual(answer.code, 200)
        self.assertEqual(self.order("/control/renew", host=host, **more).code, 403)
        self.assertEqual(self.did, ["renew"])

    def test_refused(self) -> None:
        """Nothing is done for whoever may not have it done, or does not ask as they should."""
        path = "/control/drain"
        self.assertEqual(self.order(path, audience=Audience.MACHINE).code, 403)
        self.assertEqual(self.order(path, Origin="http://evil.example").code, 403)
        self.assertEqual(self.order(path, Sec_Fetch_Site="cross-site").code, 403)
        self.assertEqual(self.ask(path, "POST", audience=Audience.OWNER).code, 403)
        for method in ("GET", "HEAD", "PUT", "OPTIONS"):
            answer = self.ask(path, method, audience=Audience.OWNER, X_Bioconn_Control="1")
            self.assertEqual((answer.code, answer.headers["allow"]), (405, "POST"))
        for other in ("/control/", "/control/reboot", "/control/drain/1", "/control/renew/"):
            self.assertEqual(self.order(other).code, 404)
        self.assertEqual(self.did, [])

    def test_absent(self) -> None:
        """A server may have nothing to renew."""
        self.status.controls = Controls()
        for what in ("reload", "renew", "drain"):
            answer = self.order(f"/control/{what}")
            self.assertEqual(answer.code, 501)
            self.assertEqual(answer.told["error"], f"this server has nothing to {what}")

    def test_failed(self) -> None:
        """A mistake of the operator's is told; what else fails is the log's."""
        self.status.controls.reload = lambda: fail(ConfigurationError("a.toml:3: no such key"))
        answer = self.order("/control/reload")
        self.assertEqual(answer.code, 409)
        self.assertEqual(answer.told["error"], "reload: a.toml:3: no such key")

        def bad() -> None:
            raise ZeroDivisionError("a secret")

        self.status.controls.reload = bad
        answer = self.order("/control/reload")
        self.assertEqual(answer.code, 500)
        self.assertEqual(answer.told["error"], "reload has failed: the log has the reason")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_late(self) -> None:
        """What takes time is answered when it is done; nobody need wait for it."""
        waiting: Deferred[str] = Deferred()
        self.status.controls.renew = lambda _: waiting
        with self.assertRaises(IndexError):
            self.order("/control/renew")
        waiting.callback("done at last")


class PageTests(StatusCase):
    """The page as it is sent; a browser looks at it in L{test_status_page}."""

    STYLE = (files("twisted_bioconn.server") / "templates" / "status.css").read_text("utf-8")
    SCRIPT = (files("twisted_bioconn.server") / "templates" / "status.js").read_text("utf-8")

    def page(self) -> Answer:
        return self.ask("/")

    def test_policy(self) -> None:
        """Nothing runs but its own script, by its hash, and that asks nobody but this server."""
        answer = self.page()
        policy = dict(
            directive.strip().split(" ", 1)
            for directive in answer.headers["content-security-policy"].split(";")
        )
        expected = {
            "default-src": "'none'",
            "img-src": "data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        for element, directive in (("style", "style-src"), ("script", "script-src")):
            # A browser hashes the element's text as it stands in the source.
            [text] = re.findall(f"<{element}>(.*?)</{element}>", answer.text, re.DOTALL)
            digest = b64encode(sha256(text.encode()).digest()).decode()
            expected[directive] = f"'sha256-{digest}'"
        self.assertEqual(policy, expected)

    def test_self_contained(self) -> None:
        """Nothing comes from elsewhere, and nothing that is told becomes markup."""
        text = self.page().text
        self.assertNotRegex(text, r' (style|on\w+)="|@import|url\(|<(iframe|object|embed|form)\b')
        found = re.findall(r' (?:href|src)="([^"]*)"', text)
        for each in found:
            self.assertRegex(each, r"^(/\w+$|data:image/)")
        for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
            self.assertNotIn(word, self.SCRIPT)

    def test_elements(self) -> None:
        """The script finds all that it looks for."""
        text = self.page().text
        for found in re.findall(r'\$\("([\w-]+)"\)|say\("([\w-]+)"|id: "([\w-]+)"', self.SCRIPT):
            [name] = filter(None, found)
            self.assertEqual(text.count(f'id="{name}"'), 1, name)


class StyleTests(SynchronousTestCase):
    """The style, in light and in dark."""

    STYLE = PageTests.STYLE

    def colours(self) -> tuple[dict[str, str], dict[str, str]]:
        """The colours by their names, in light and in dark."""
        light, dark = re.findall(r":root \{([^}]*)\}", self.STYLE)
        found = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block)) for block in (light, dark)]
        return found[0], found[1]

    def test_both(self) -> None:
        light, dark = self.colours()
        self.assertEqual(light.keys(), dark.keys())
        for name in light:
            self.assertNotEqual(light[name], dark[name])

    def test_contrast(self) -> None:
        """Text stands out from what is behind it (WCAG 2.2, 1.4.3: 4.5 to 1); so do lines."""

        for colours in self.colours():
            for name in colours.keys() - {"paper", "panel", "rule"}:
                for back in (colours["paper"], colours["panel"]):
                    self.assertGreaterEqual(contrast(colours[name], back), 4.5, name)

    def test_colours(self) -> None:
        """No colour is left out of the two lists."""
        beyond = re.sub(r":root \{[^}]*\}", "", self.STYLE)
        self.assertNotRegex(beyond, r"#[0-9a-f]{3,6}\b(?! )|rgba?\(")
        for name in re.findall(r"var\(--(\w+)", beyond):
            self.assertIn(name, {*self.colours()[0], "accent", "series"})
