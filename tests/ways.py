"""
Go each of the ways that lead to TLS in Twisted, and say which class was met at its end.

C{python -m tests.ways WHEN NAME FILES}: with WHEN C{first}, C{install(NAME)} of
L{twisted_bioconn.reactor} comes before anything of Twisted's; with C{last} it comes after a reactor
and all that uses TLS; with C{never} it does not come. FILES is a directory with
C{server/server.pem} (chain and key of localhost) and C{authorities/ca.pem}. Prints JSON: the
reactor's class, and of each way the classes at the server's end and at the client's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def name_of(value: object) -> str:
    """The class of an object, in full."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def go(files: Path) -> dict[str, Any]:
    """Go all the ways on the reactor that is installed, or on Twisted's default."""
    from twisted.internet import endpoints, ssl, task
    from twisted.internet.defer import Deferred
    from twisted.internet.protocol import ClientFactory, Factory, Protocol

    reactor: Any = import_module("twisted.internet.reactor")
    certificate = (files / "server" / "server.pem").read_bytes()
    for_server = ssl.PrivateCertificate.loadPEM(certificate).options()
    authority = ssl.Certificate.loadPEM((files / "authorities" / "ca.pem").read_bytes())

    def for_client() -> Any:
        return ssl.optionsForClientTLS("localhost", authority)

    class Echo(Protocol):
        """The server's end."""

        transport: Any
        start_tls = False
        met = ""

        def connectionMade(self) -> None:
            if self.start_tls:
                self.transport.startTLS(for_server)
                self.met = name_of(self.transport.protocol)
            else:
                self.met = name_of(self.transport)

        def dataReceived(self, data: bytes) -> None:
            self.transport.write(data + self.met.encode())

    class Ask(Protocol):
        """The client's end: tells both classes once something came through, both ways."""

        transport: Any
        start_tls = False
        met = ""

        def __init__(self) -> None:
            self.answer: Deferred[list[str]] = Deferred()
            self.gone: Deferred[None] = Deferred()
            self.received = b""

        def connectionMade(self) -> None:
            if self.start_tls:
                self.transport.startTLS(for_client())
                self.met = name_of(self.transport.protocol)
            else:
                self.met = name_of(self.transport)
            self.transport.write(b"server: ")

        def dataReceived(self, data: bytes) -> None:
            self.received += data
            if len(self.received) > len("server: "):
                answer = self.received.decode().removeprefix("server: ")
                self.answer.callback([answer, self.met])
                self.transport.loseConnection()

        def connectionLost(self, reason: Any = None) -> None:
            if not self.received:
                self.answer.errback(reason)
            self.gone.callback(None)

    class AskOverStartTLS(Ask):
        start_tls = True

    class EchoOverStartTLS(Echo):
        start_tls = True

    async def way(port: Any, connect: Callable[[int], Awaitable[Ask]]) -> list[str]:
        client = await connect(port.getHost().port)
        answer = await client.answer
        await client.gone
        await port.stopListening()
        return answer

    async def by_endpoint(description: str, port: int) -> Ask:
        client = endpoints.clientFromString(reactor, description.format(port=port))
        protocol: Ask = await client.connect(Factory.forProtocol(Ask))
        return protocol

    def by_method(connect: Callable[..., Any], *more: Any) -> Callable[[int], Awaitable[Ask]]:
        def begin(port: int) -> Awaitable[Ask]:
            made: Deferred[Ask] = Deferred()
            kind = Ask if more else AskOverStartTLS

            class Connecting(ClientFactory):
                def buildProtocol(self, addr: Any) -> Ask:
                    protocol = kind()
                    made.callback(protocol)
                    return protocol

                def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
                    made.errback(reason)

            connect("127.0.0.1", port, Connecting(), *more)
            return made

        return begin

    async def main(_: Any) -> None:
        echo = Factory.forProtocol(Echo)
        starting = Factory.forProtocol(EchoOverStartTLS)
        local = {"interface": "127.0.0.1"}
        trust = str(files / "authorities").replace(":", "\\:")
        pem = str(files / "server" / "server.pem").replace(":", "\\:")
        directory = str(files / "server").replace(":", "\\:")

        def endpoint(description: str) -> Any:
            server = endpoints.serverFromString(reactor, f"{description}:interface=127.0.0.1")
            return server.listen(echo)

        result = {
            "listenSSL, connectSSL": await way(
                reactor.listenSSL(0, echo, for_server, **local),
                by_method(reactor.connectSSL, for_client()),
            ),
            "startTLS": await way(
                reactor.listenTCP(0, starting, **local), by_method(reactor.connectTCP)
            ),
            "ssl: endpoints": await way(
                await endpoint(f"ssl:0:privateKey={pem}"),
                lambda port: by_endpoint(
                    f"ssl:localhost:{{port}}:caCertsDir={trust}:hostname=localhost", port
                ),
            ),
            "tls: endpoints": await way(
                await endpoint(f"tls:{directory}:0"),
                lambda port: by_endpoint(f"tls:localhost:{{port}}:trustRoots={trust}", port),
            ),
        }
        print(json.dumps({"reactor": name_of(reactor), "ways": result}))

    task.react(lambda clock: Deferred.fromCoroutine(main(clock)))


if __name__ == "__main__":
    when, name, directory = sys.argv[1:]
    if when == "last":
        for module in ("_newtls", "endpoints", "reactor", "ssl"):
            import_module(f"twisted.internet.{module}")
    if when != "never":
        from twisted_bioconn.reactor import install

        install(name or None)
    go(Path(directory))
