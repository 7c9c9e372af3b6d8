"""The example with a window: by a virtual display, and without the window."""

from __future__ import annotations

import re
from importlib.util import find_spec

from twisted.trial.unittest import SkipTest

from tests.example_material import ExampleCase, load
from tests.programs import require
from tests.server.contrast import contrast

# What a person does in the window.  The module is what the command runs.
USE = """
import sys
sys.path.insert(0, "examples")
from twisted_bioconn import install
install()
import async_client
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

async def until(reactor, condition):
    while not condition():
        await deferLater(reactor, 0.01)

def shown(window):
    window.root.update()
    for name, pane in window.panes.items():
        print(f"--- {name}\\n{pane.get('1.0', 'end').strip()}")
    print(f"--- status: {window.status['text']}")
    print(f"--- colour: {window.status['foreground']}")
    print(f"--- title: {window.root.title()}")
    edges = [each.winfo_x() + each.winfo_width() for each in (window.stop, *window.fields.values())]
    print(f"--- in sight: {max(edges) <= window.root.winfo_width()}")
    print(f"--- Get {window.get.state()}, Stop {window.stop.state()}", flush=True)

class Seen(async_client.Window):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        used = Deferred.fromCoroutine(self.use())
        used.addErrback(lambda why: why.printTraceback(sys.stdout))
        used.addCallback(lambda _: self.root.tk.call(self.root.protocol("WM_DELETE_WINDOW")))

    async def use(self):
        from twisted.internet import reactor
        {steps}

async_client.Window = Seen
react(async_client.main, {arguments})
"""

GET = """
        self.root.geometry("{size}")
        self.root.update()
        self.fields["server"].event_generate("<Return>")
        self.start()  # A second time is once too often, and does nothing.
        print("--- asked:", self.status["text"], self.get.state(), self.stop.state())
        await until(reactor, lambda: self.running is None)
        shown(self)
        self.root.update()
        from os import environ
        from twisted.internet.utils import getProcessOutput
        await getProcessOutput("{picture}", ["-window", "root", "{name}"], environ)
"""

STOP = """
        self.get.invoke()
        await until(reactor, lambda: "handshaking" in self.panes["trace"].get("1.0", "end"))
        self.stop.invoke()
        shown(self)
"""


class WindowTests(ExampleCase):
    """C{async_client.py} with its window."""

    def setUp(self) -> None:
        if find_spec("_tkinter") is None:
            raise SkipTest("this Python has no _tkinter; for Debian's it is in python3-tk")
        xvfb = require("Xvfb")
        super().setUp()
        display = self.shell.start(
            f"exec {xvfb} -displayfd 1 -screen 0 1024x768x24 -nolisten tcp 2>/dev/null"
        )
        self.shell.environ["DISPLAY"] = ":" + display.wait_for(r"(\d+)\n")[1]

    def use(self, steps: str, *arguments: str) -> str:
        """Use the window of a command with these arguments."""
        program = USE.replace("{steps}", steps.strip()).replace("{arguments}", repr(arguments))
        return self.shell.run_python(program)

    def get(self, size: str, name: str, *arguments: str) -> str:
        """Get a page in a window of this size; a picture of it is kept beside the test's files."""
        return self.use(GET.format(size=size, name=name, picture=require("import")), *arguments)

    def test_as_it_stands(self) -> None:
        """The command shows a window, and Ctrl-C ends it."""
        xwininfo = require("xwininfo")
        window = self.shell.start("exec python examples/async_client.py")
        self.shell.run(
            f"until {xwininfo} -name 'AsyncClient: Get, or Return, connects'; do sleep 0.1; done"
        )
        window.interrupt()
        window.ended()
        self.assertNotIn("Traceback", window.said)

    def test_answer(self) -> None:
        """The answer, the steps that led to it and the certificate, in both themes and sizes."""
        server = self.shell.start("bioconn")
        server.wait_for("A browser takes it")
        sizes = {"large-light": "900x600", "small-dark": "440x320"}
        for name, size in sizes.items():
            theme = name.partition("-")[2]
            said = self.get(
                f"{size}+0+0", f"{name}.png", "--theme", theme, "localhost", "8443", "/facts.json"
            )
            answer, trace, certificate, rest = re.split(
                r"(?m)^--- (?:trace|cert\w+|status).*", said
            )
            self.assertIn("--- asked: Asking localhost ('disabled',) ()", answer)
            self.assertIn('"version": "TLSv1.3"', answer)
            self.assertRegex(
                trace,
                r"\A\nconnecting to localhost, port 8443\nidle -> handshaking: .*\n"
                r"──▶ ClientHello, \d+ bytes\n──▶ \d+ bytes sent\n"
                r"(?s:.*)\n◀── ServerHello, \d+ bytes\n"
                r"(?s:.*)handshaking -> open: .*\nthe handshake is done: TLSv1\.3, \w+, \w+\n"
                r"(?s:.*)-> closed both ways: .*\nended cleanly: both sides have closed\n",
            )
            self.assertIn("localhost, 127.0.0.1, ::1", certificate)
            self.assertRegex(certificate, r"(?m)^SHA-256 +([0-9a-f]{8}\s+){8}")
            self.assertIn("title: AsyncClient: Done", rest)
            self.assertIn("--- in sight: True\n", rest)
            self.assertRegex(rest, r"Get \(\), Stop \('disabled',\)")
            self.assertGreater((self.shell.directory / f"{name}.png").stat().st_size, 2000)

    def test_refused(self) -> None:
        """Why a server is refused is said in words, in the colour for that."""
        server = self.shell.start("XDG_STATE_HOME=/$PWD/other bioconn")
        server.wait_for("A browser takes it")
        said = self.get("900x600+0+0", "refused.png")
        self.assertRegex(said, r"--- status: the certificate of CN=localhost, .* no authority that")
        self.assertIn(f"--- colour: {load('async_client').THEMES['light']['bad']}", said)
        self.assertRegex(said, r"\n──▶ fatal alert unknown_ca: .*\n──▶ 7 bytes sent\n")
        self.assertRegex(said, r"\nhandshaking -> failed: ")
        self.assertRegex(said, r"(?m)^for +localhost")
        self.assertNotIn("HTTP/", said)

    def test_stop(self) -> None:
        """Stop ends it, where a server says nothing."""
        silent = self.shell.start_python(
            """
            import socket
            with socket.create_server(("localhost", 4433)) as port:
                print("listening", flush=True)
                wire, _ = port.accept()
                while wire.recv(1000):
                    pass
            """
        )
        silent.wait_for("listening")
        said = self.use(STOP, "localhost", "4433")
        self.assertIn("--- status: Stopped\n", said)
        self.assertNotIn("Traceback", said)
        self.assertRegex(said, r"Get \(\), Stop \('disabled',\)")

    def test_no_display(self) -> None:
        """Where there is no display, that is said."""
        self.shell.environ["DISPLAY"] = ":99999"
        self.refused("python examples/async_client.py", "async_client: ", "display")


class NoWindowTests(ExampleCase):
    """C{async_client.py --no-window}."""

    COMMAND = "python examples/async_client.py --no-window"

    def test_answer(self) -> None:
        """The answer is on stdout, the rest on stderr."""
        server = self.shell.start("bioconn")
        server.wait_for("A browser takes it")
        said = self.shell.run(f"{self.COMMAND} localhost 8443 /facts.json 2>steps")
        self.assertRegex(said, r'\AHTTP/1\.\d 200 OK\n(?s:.*)"encrypted": true')
        self.assertNotIn("->", said)
        steps = (self.shell.directory / "steps").read_text("utf-8")
        self.assertRegex(steps, r"handshaking -> open: .*\nthe handshake is done: TLSv1\.3, ")
        self.assertNotIn("HTTP/1", steps)
        self.assertIn("for      localhost, 127.0.0.1, ::1\n", steps)

    def test_not_trusted(self) -> None:
        """A server that is not trusted gets no request; it is said why, with its certificate."""
        server = self.shell.start("XDG_STATE_HOME=/$PWD/other bioconn")
        server.wait_for("A browser takes it")
        said = self.shell.run(self.COMMAND, status=1)
        self.assertRegex(said, r"leads to no authority that is trusted here: .*\. Trust its auth")
        self.assertIn("for      localhost", said)
        self.assertNotIn("-> open", said)
        self.assertNotIn("Traceback", said)
        trusted = "--trust other/bioconn/ca.pem"
        self.assertIn("200 OK", self.shell.run(f"{self.COMMAND} {trusted}"))

    def test_another_name(self) -> None:
        """A certificate for another name is refused, in words."""
        program = """
            from twisted.internet import reactor
            from twisted.internet.endpoints import serverFromString
            from twisted.internet.protocol import Factory
            from twisted.protocols.wire import Echo
            from twisted_bioconn.certificates import development
            authority = development.DevelopmentAuthority(development.state_directory())
            with open("other.pem", "wb") as file:
                file.write(authority.issue(["other.example"]).to_pem())
            endpoint = serverFromString(reactor, "bioconn:4433:privateKey=other.pem")
            endpoint.listen(Factory.forProtocol(Echo))
            print("listening", flush=True)
            reactor.run()
        """
        self.shell.start_python(program).wait_for("listening")
        said = self.shell.run(f"{self.COMMAND} localhost 4433", status=1)
        self.assertRegex(said, r"async_client: .*other\.example")
        self.assertNotIn("is done", said)

    def answered(self, answer: str, closes: bool) -> str:
        """What comes of an answer by a server that ends with close_notify, or without."""
        end = "wire.unwrap()" if closes else "pass"
        server = self.shell.start_python(
            f"""
            import socket, ssl
            from twisted_bioconn.certificates import development
            directory = development.state_directory()
            development.DevelopmentAuthority(directory).leaf()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(directory + "/leaf.pem")
            with socket.create_server(("localhost", 4433)) as port:
                print("listening", flush=True)
                plain, _ = port.accept()
                with context.wrap_socket(plain, server_side=True) as wire:
                    wire.recv(1000)
                    try:
                        wire.sendall({answer})
                        {end}
                    except OSError:
                        pass
            """
        )
        server.wait_for("listening")
        said = self.shell.run(f"{self.COMMAND} localhost 4433 2>steps; echo status $?")
        return said + (self.shell.directory / "steps").read_text("utf-8")

    def test_cut(self) -> None:
        """An answer that was cut is not taken for a whole one."""
        said = self.answered("b'HTTP/1.0 200 OK\\r\\n\\r\\nhalf an'", closes=False)
        self.assertIn("half anstatus 1\n", said)
        self.assertIn("async_client: not all of the answer is there: the connection ended", said)

    def test_control_characters(self) -> None:
        """What would move a terminal's cursor, or colour it, is shown as something else."""
        said = self.answered("b'HTTP/1.0 200 OK\\r\\n\\r\\n\\x1b[31mred\\x07'", closes=True)
        self.assertIn("·[31mred·status 0\n", said)

    def test_endless(self) -> None:
        """An answer without end is left after a while."""
        said = self.answered("bytes(4 * 1024 * 1024)", closes=True)
        self.assertIn("status 1\n", said)
        self.assertIn("async_client: not all of the answer is there: more than 1048576", said)

    def test_mistakes(self) -> None:
        """One line says what is wrong."""
        said = self.shell.run(f"{self.COMMAND} localhost 1", status=1)
        self.assertIn("refused", said.splitlines()[-1])
        self.refused(f"{self.COMMAND} localhost 99999", "'99999' is no port")
        self.refused(f"{self.COMMAND} --trust none.pem localhost 1", "none.pem")
        self.refused(f"{self.COMMAND} 'no host' 443", "no host")

    def test_no_tls(self) -> None:
        """A server that speaks no TLS is called one."""
        server = self.shell.start("python -m http.server 8080 --bind 127.0.0.1")
        self.shell.wait_for_port(8080)
        said = self.shell.run(f"{self.COMMAND} localhost 8080", status=1)
        self.assertRegex(said, r"(?m)^async_client: .*HTTP")
        server.kill()

    def test_contrast(self) -> None:
        """All that is written stands out, in both themes (WCAG 2.2, 1.4.3: 4.5 to 1)."""
        for theme in load("async_client").THEMES.values():
            for back in ("paper", "panel"):
                for ink in ("ink", "bad"):
                    self.assertGreater(contrast(theme[ink], theme[back]), 4.5)
