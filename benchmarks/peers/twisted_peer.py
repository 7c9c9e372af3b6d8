"""
Twisted's own TLS: C{twisted_peer.py ROLE PORT BACKEND CERTIFICATE KEY AUTHORITY}.

The C{ssl:} endpoint and C{twisted.protocols.portforward}, as they come.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.internet import endpoints, protocol, reactor, ssl
from twisted.protocols import portforward


class Echo(protocol.Protocol):
    """Sends back what comes."""

    def dataReceived(self, data: bytes) -> None:
        """Send it back."""
        assert self.transport is not None
        self.transport.write(data)


class TLSConnecting:
    """What portforward takes for a reactor: it connects with TLS."""

    def __init__(self, authority: str) -> None:
        trusted = ssl.Certificate.loadPEM(Path(authority).read_bytes())
        self._options = ssl.optionsForClientTLS(
            "localhost", ssl.trustRootFromCertificates([trusted])
        )

    def connectTCP(self, host: str, port: int, factory: protocol.ClientFactory) -> None:
        """Connect."""
        reactor.connectSSL(host, port, factory, self._options)  # type: ignore[attr-defined]


class TLSProxyServer(portforward.ProxyServer):
    """A client's connection, whose other end is a TLS one."""

    connecting: TLSConnecting

    def connectionMade(self) -> None:
        """Connect to the back end, by way of what portforward takes for a reactor."""
        self.reactor: Any = self.connecting
        super().connectionMade()


def main() -> None:
    """Run what the command line asks for."""
    role, port, backend, certificate, key, authority = sys.argv[1:]
    factory: Any
    if role == "echo":
        factory = protocol.Factory.forProtocol(Echo)
        factory.noisy = False
    else:
        factory = portforward.ProxyFactory("127.0.0.1", int(backend))
        factory.noisy = False
        portforward.ProxyClientFactory.noisy = False
        if role == "tls":
            TLSProxyServer.connecting = TLSConnecting(authority)
            factory.protocol = TLSProxyServer
    endpoint = endpoints.serverFromString(
        reactor, f"ssl:{port}:interface=127.0.0.1:privateKey={key}:certKey={certificate}"
    )
    endpoint.listen(factory)
    reactor.run()


if __name__ == "__main__":
    main()
