"""
AsyncClient: a window that gets a page over TLS, and shows each step on the way.

    python examples/async_client.py [--trust FILE] [--theme light|dark] [HOST [PORT [PATH]]]
    python examples/async_client.py --no-window [--trust FILE] [HOST [PORT [PATH]]]

With nothing given it is for C{https://localhost:8443/}, where C{bioconn} is, run in another
terminal.  Get and Return connect, Stop and Escape end it.  On the left is the answer, on the right
what happened until it was there, and below that the server's certificate.  A server that is not
who it should be is refused, and it is said why, and what to do about it.  Without a window the same
is written: the answer to stdout, the rest to stderr.  The exit status is 1 where there is no
answer, or not all of it.

L{Secure} is all of TLS here: an asynchronous socket on one side of a connector, and an application
on the other.  Of localhost the development authority is trusted, of others those that the system
trusts, and with C{--trust} those in a file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import TimeoutError
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import react
from twisted.python.failure import Failure

from twisted_bioconn import ClientOptions, PeerError, State, install
from twisted_bioconn.certificates.development import DevelopmentAuthority, state_directory
from twisted_bioconn.certificates.loading import load_authorities
from twisted_bioconn.explanations import FailedHandshake, explain
from twisted_bioconn.trace import Event, Tracer, Way
from twisted_bioconn.trace.events import (
    Connected,
    Handshaken,
    OpenSSLState,
    Record,
    Waited,
    Worked,
)
from twisted_bioconn.trace.layer import TracedConnector
from twisted_bioconn.trace.text import told_in_a_line
from twisted_bioconn.verify import names_of, subject_of

PATIENCE = 30.0
"""Seconds until the answer has to be there."""
LONGEST = 1024 * 1024
"""Bytes of an answer that are taken."""
ARROWS = {Way.SENT: "──▶ ", Way.RECEIVED: "◀── "}
DETAILS = (Connected, OpenSSLState, Record, Waited, Worked)
"""Events that are not shown."""

Tell = Callable[[str], object]


def step_of(event: Event) -> str:
    """An event of a trace, in a line."""
    way: Way | None = getattr(event, "way", None)
    told = ("" if way is None else ARROWS[way]) + told_in_a_line(event)
    if isinstance(event, Handshaken):
        facts = dict(event.fields)
        told += f": {facts['version']}, {facts['cipher']}, {facts['group']}"
    return printable(told)


class Secure(Protocol):
    """An asynchronous socket, with TLS on it by a connector."""

    transport: Any

    def __init__(
        self, connector: TracedConnector, request: bytes, show: Callable[[bytes], object]
    ) -> None:
        """
        @param request: what to say.
        @param show: is given what the server says.
        """
        self.connector, self.show = connector, show
        self.first, self.received, self.left = b"", 0, LONGEST
        self.error: BaseException | None = None
        self.ended: Deferred[None] = Deferred(lambda _: self.transport.abortConnection())
        # It waits in the connector until the handshake is done and the server verified.
        connector.write(request)

    def connectionMade(self) -> None:
        """There is a socket, and the client speaks first."""
        self.pump()

    def dataReceived(self, data: bytes) -> None:
        """Ciphertext: push it in, and see what comes out on either side."""
        self.first, self.received = (self.first + data)[:64], self.received + len(data)
        try:
            self.connector.feed(data)
            plaintext = self.connector.read()
        except PeerError as error:
            self.error = error
        else:
            self.show(plaintext[: self.left])
            self.left -= len(plaintext)
            if self.left < 0:
                self.error = ValueError(f"more than {LONGEST} bytes: the rest is left")
            if self.connector.state is State.REMOTE_CLOSED:
                self.connector.close()
        self.pump()
        if self.error is not None or self.connector.state is State.CLOSED:
            self.transport.loseConnection()

    def pump(self) -> None:
        """Send what there is to be sent; if the connector has failed, the alert that says why."""
        while ciphertext := self.connector.take():
            self.transport.write(ciphertext)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The socket is gone.  It is a good end where the server has said that it is the end."""
        try:
            self.connector.end_of_wire()
        except PeerError as error:
            self.error = self.error or error
        why = "both sides have closed" if self.error is None else sentence(self.error)
        self.connector.recorder.ended(self.error is None, self.error, why)
        if self.ended.called:
            return
        if self.error is not None:
            self.ended.errback(self.error)
        else:
            self.ended.callback(None)


class Client:
    """Gets pages, and says what there is to say."""

    def __init__(self, reactor: Any, trust: str | None) -> None:
        self.reactor, self.trust = reactor, trust

    def roots(self, host: str) -> tuple[x509.Certificate, ...] | None:
        """Whom to trust; L{None} for those that the system trusts."""
        if self.trust is None and host in ("localhost", "127.0.0.1", "::1"):
            return load_authorities(DevelopmentAuthority(state_directory()).certificate_path)
        return None if self.trust is None else load_authorities(self.trust)

    async def get(
        self,
        host: str,
        port: str,
        path: str,
        tell: Tell,
        show: Callable[[bytes], object],
        know: Tell,
    ) -> None:
        """
        @param show: is given the answer, in pieces.
        @param know: is told of the certificate.
        @raise Exception: there is no answer, or not all of it; as text it says why.
        """
        began = self.reactor.seconds()
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{port!r} is no port: 1 to 65535")
        options = ClientOptions(host, trust_roots=self.roots(host), alpn=[b"http/1.1"])
        words = quote("/" + path.removeprefix("/"), safe="/?&=%:@!$'()*+,;~#")
        request = f"GET {words} HTTP/1.0\r\nHost: {options.host}\r\n\r\n".encode("ascii")
        tell(f"connecting to {host}, port {port}")
        connector = Tracer(
            lambda trace: None,
            each=lambda trace, event: None if isinstance(event, DETAILS) else tell(step_of(event)),
        ).client_connector(options, peer=f"{host}:{port}")
        secure = Secure(connector, request, show)
        below = HostnameEndpoint(self.reactor, options.host, int(port), PATIENCE)
        await below.connect(Factory.forProtocol(lambda: secure))
        try:
            await secure.ended.addTimeout(PATIENCE, self.reactor)
        except CancelledError:
            raise
        except Exception as caught:
            error: BaseException = caught
            if isinstance(caught, TimedOut):
                error = TimeoutError(f"no answer within {PATIENCE:g} seconds")
            verification = connector.verification
            if connector.negotiated is not None:
                raise ValueError(f"not all of the answer is there: {sentence(error)}") from None
            refused = None if verification is None else verification.certificate
            failed = FailedHandshake(
                error=connector.refusal or error,
                is_server=False,
                peer=f"{host}:{port}",
                first_bytes=secure.first,
                received=secure.received,
                chain=() if refused is None else (refused,),
                policy=options.policy,
                alpn=options.alpn,
                settings={"serverName": host, "timeout": PATIENCE},
                waited=self.reactor.seconds() - began,
            )
            if refused is not None:
                know(details(refused))
            raise ValueError(str(explain(failed))) from None
        finally:
            facts = connector.negotiated
            if facts is not None and facts.peer_certificate is not None:
                know(details(facts.peer_certificate))
            connector.forget()


def details(certificate: x509.Certificate) -> str:
    """What a certificate says of itself."""
    key = certificate.public_key()
    digest = certificate.fingerprint(SHA256()).hex()
    rows = {
        "for": ", ".join(names_of(certificate)),
        "subject": subject_of(certificate),
        "issuer": certificate.issuer.rfc4514_string(),
        "from": f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC",
        "until": f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
        "serial": f"{certificate.serial_number:x}",
        "key": f"{type(key).__name__.strip('_')}, {getattr(key, 'key_size', 'fixed')} bits",
        "SHA-256": " ".join(digest[at : at + 8] for at in range(0, 64, 8)),
    }
    return "".join(f"{name:8} {printable(text)}\n" for name, text in rows.items())


def printable(text: str) -> str:
    """A text that does nothing to a terminal, or to a window: a stranger has written it."""
    return "".join(each if each.isprintable() or each in "\n\t" else "·" for each in text)


def words_of(data: bytes) -> str:
    """Some of an answer, to be shown."""
    return printable(data.decode("utf-8", "replace").replace("\r\n", "\n"))


def sentence(error: BaseException) -> str:
    """What went wrong."""
    return printable(str(error)) or type(error).__name__


THEMES = {
    "light": {
        "paper": "#ffffff",
        "ink": "#1f2328",
        "panel": "#eff1f4",
        "rule": "#c3cad3",
        "bad": "#b3261e",
    },
    "dark": {
        "paper": "#0d1117",
        "ink": "#f0f6fc",
        "panel": "#21262d",
        "rule": "#59636e",
        "bad": "#ff8a80",
    },
}


class Window:
    """The window."""

    def __init__(self, client: Client, asked: argparse.Namespace) -> None:
        """
        @raise TclError: there is no display.
        """
        import tkinter
        from tkinter import ttk

        self.client, self.colours = client, THEMES[asked.theme]
        self.running: Deferred[None] | None = None
        self.root = root = tkinter.Tk(className="AsyncClient")
        root.title("AsyncClient")
        root.geometry("900x600")
        root.minsize(440, 320)
        paper, ink, panel = (self.colours[name] for name in ("paper", "ink", "panel"))
        root.configure(background=panel)
        style = ttk.Style(root)
        style.theme_use("clam")
        style.configure(".", background=panel, foreground=ink, fieldbackground=paper)
        style.configure(".", troughcolor=paper, arrowcolor=ink, bordercolor=self.colours["rule"])
        style.configure(".", lightcolor=panel, darkcolor=panel)
        style.configure("TEntry", insertcolor=ink)
        style.map("TScrollbar", background=[("disabled", paper)])
        style.map("TButton", background=[("active", paper)], foreground=[("disabled", "#8b949e")])

        row = ttk.Frame(root, padding=6)
        row.pack(fill="x")
        self.fields = {}
        for column, (name, text) in enumerate(
            (("server", asked.host), ("port", asked.port), ("path", asked.path))
        ):
            ttk.Label(row, text=name.capitalize()).grid(row=0, column=2 * column, padx=3)
            field = self.fields[name] = ttk.Entry(row, width=6)
            field.insert(0, text)
            field.grid(row=0, column=2 * column + 1, sticky="ew")
            row.columnconfigure(2 * column + 1, weight=0 if name == "port" else 1)
        self.get = ttk.Button(row, text="Get", width=5, command=self.start)
        self.stop = ttk.Button(row, text="Stop", width=5, command=self.end)
        self.get.grid(row=0, column=6, padx=(6, 3))
        self.stop.grid(row=0, column=7)

        self.status = tkinter.Label(root, anchor="w", justify="left", background=panel, padx=10)
        self.status.pack(fill="x")
        self.status.bind("<Configure>", lambda at: self.status.config(wraplength=at.width - 20))
        sides = ttk.PanedWindow(root, orient="horizontal")
        sides.pack(fill="both", expand=True, padx=6, pady=6)
        right = ttk.PanedWindow(sides, orient="vertical")
        self.panes = {}
        for name, parent, weight in (
            ("answer", sides, 1),
            ("trace", right, 3),
            ("certificate", right, 2),
        ):
            frame = ttk.Frame(parent)
            ttk.Label(frame, text=name.capitalize()).pack(anchor="w")
            pane = self.panes[name] = tkinter.Text(
                frame,
                width=20,
                height=4,
                wrap="word",
                background=paper,
                foreground=ink,
                insertbackground=ink,
                relief="flat",
                highlightbackground=self.colours["rule"],
                highlightcolor=self.colours["rule"],
                padx=6,
                pady=4,
                state="disabled",
                font="TkFixedFont",
            )
            bar = ttk.Scrollbar(frame, command=pane.yview)
            pane.configure(yscrollcommand=bar.set)
            bar.pack(side="right", fill="y")
            pane.pack(fill="both", expand=True)
            parent.add(frame, weight=weight)
        sides.add(right, weight=1)
        root.bind("<Return>", lambda _: self.start())
        root.bind("<Escape>", lambda _: self.end())
        self.fields["server"].focus_set()
        self.say("Get, or Return, connects")

    def say(self, text: str, bad: bool = False) -> None:
        """What is going on, in a line."""
        self.status.config(text=text, foreground=self.colours["bad" if bad else "ink"])
        self.root.title(f"AsyncClient: {text.partition('. ')[0]}")
        self.get.state(["disabled" if self.running else "!disabled"])
        self.stop.state(["!disabled" if self.running else "disabled"])

    def add(self, name: str, text: str) -> None:
        """Put something at the end of a pane."""
        pane = self.panes[name]
        pane.configure(state="normal")
        pane.insert("end", text)
        pane.configure(state="disabled")
        if name == "trace":
            pane.see("end")

    def start(self) -> None:
        """Get it."""
        if self.running is not None:
            return
        for pane in self.panes.values():
            pane.configure(state="normal")
            pane.delete("1.0", "end")
            pane.configure(state="disabled")
        host, port, path = (self.fields[name].get().strip() for name in ("server", "port", "path"))
        self.running = Deferred.fromCoroutine(
            self.client.get(
                host,
                port,
                path,
                lambda step: self.add("trace", f"{step}\n"),
                lambda data: self.add("answer", words_of(data)),
                lambda text: self.add("certificate", text),
            )
        )
        self.say(f"Asking {host}")
        self.running.addCallbacks(self.good, self.bad)

    def good(self, _: object) -> None:
        """All of the answer is there."""
        self.running = None
        self.say("Done: the server is who it should be, and this is all of its answer")

    def bad(self, reason: Failure) -> None:
        """It is not."""
        assert reason.value is not None
        self.running = None
        stopped = reason.check(CancelledError) is not None
        self.say("Stopped" if stopped else sentence(reason.value), bad=not stopped)

    def end(self) -> None:
        """Stop."""
        if self.running is not None:
            self.running.cancel()


async def in_window(reactor: Any, client: Client, asked: argparse.Namespace) -> None:
    """Show the window until it is closed."""
    from twisted.internet import tksupport

    window = Window(client, asked)
    closed: Deferred[None] = Deferred()
    window.root.protocol("WM_DELETE_WINDOW", lambda: closed.callback(None))
    tksupport.install(window.root)
    try:
        await closed
        window.end()
    finally:
        tksupport.uninstall()
        window.root.destroy()


async def in_terminal(client: Client, asked: argparse.Namespace) -> None:
    """Write it."""

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def show(data: bytes) -> None:
        print(words_of(data), end="", flush=True)

    await client.get(asked.host, asked.port, asked.path, note, show, note)


async def main(reactor: Any, *given: str) -> None:
    """Get a page, in a window or without."""
    parser = argparse.ArgumentParser(prog="async_client.py", description="Gets a page over TLS.")
    parser.add_argument("--no-window", action="store_true", help="write to the terminal")
    parser.add_argument("--theme", choices=sorted(THEMES), default="light")
    parser.add_argument("--trust", metavar="FILE", help="who signs for the server")
    parser.add_argument("host", nargs="?", default="localhost", metavar="HOST")
    parser.add_argument("port", nargs="?", default="8443", metavar="PORT")
    parser.add_argument("path", nargs="?", default="/", metavar="PATH")
    asked = parser.parse_args(given)
    client = Client(reactor, asked.trust)
    try:
        if asked.no_window:
            await in_terminal(client, asked)
        else:
            await in_window(reactor, client, asked)
    except Exception as error:
        raise SystemExit(f"async_client: {sentence(error)}") from None


if __name__ == "__main__":
    install()
    react(main, sys.argv[1:])
