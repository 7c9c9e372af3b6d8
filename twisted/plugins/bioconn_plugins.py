"""
What L{twisted.plugin} finds of twisted_bioconn: names only.

Twisted imports this file at each start of C{twistd}, whatever it starts, so the two parsers of
endpoint strings import what they stand for (OpenSSL among it) when a string has their prefix.
"""

from typing import Any

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker
from twisted.internet.interfaces import (
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IStreamServerEndpointStringParser)
class _ServerParser:
    prefix = "bioconn"

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamServerEndpoint:
        from twisted_bioconn.endpoint_strings import ServerParser

        return ServerParser().parseStreamServer(reactor, *args, **kwargs)


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class _ClientParser:
    prefix = "bioconn"

    def parseStreamClient(self, reactor: Any, *args: Any, **kwargs: Any) -> IStreamClientEndpoint:
        from twisted_bioconn.endpoint_strings import ClientParser

        return ClientParser().parseStreamClient(reactor, *args, **kwargs)


class _Reactor(Reactor):
    def install(self) -> None:
        from twisted_bioconn.reactor import install

        install(self.shortName)


bioconn_server_endpoint = _ServerParser()
bioconn_client_endpoint = _ClientParser()

bioconn_service = ServiceMaker(
    "bioconn",
    "twisted_bioconn.server.service",
    "A TLS server before a plain service, a directory, a WSGI application or any factory.",
    "bioconn",
)

bioconn_reactor = _Reactor(
    "bioconn",
    "twisted_bioconn.reactor",
    "The platform's best reactor, with TLS by twisted_bioconn.",
)
bioconn_asyncio_reactor = _Reactor(
    "bioconn-asyncio",
    "twisted_bioconn.reactor",
    "The asyncio reactor, with TLS by twisted_bioconn.",
)
