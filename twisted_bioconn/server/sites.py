"""
What C{twistd bioconn} can serve by itself: a directory, a WSGI application, a factory of the
user's, an echo.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from os import getcwd
from threading import Thread
from traceback import extract_tb
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.application.service import Service
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorThreads,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool
from twisted.web.http import Request
from twisted.web.resource import IResource
from twisted.web.server import Site
from twisted.web.static import File
from twisted.web.wsgi import WSGIResource
from zope.interface import implementer

from twisted_bioconn.errors import ConfigurationError
from twisted_bioconn.negotiated import Negotiated
from twisted_bioconn.protocol import TLSConnectorProtocol
from twisted_bioconn.server.ending_site import EndingSite
from twisted_bioconn.server.hints import did_you_mean
from twisted_bioconn.server.relay import StreamTransport, sending

#: How long the WSGI requests that are being answered may take when the server stops, in seconds.
WSGI_GRACE = 5.0

#: A WSGI application, PEP 3333.
Application = Callable[[dict[str, Any], Callable[..., Any]], Any]


def negotiated_of(source: object) -> Negotiated | None:
    """
    What the handshake agreed on.

    @param source: an HTTP request, of HTTP/1.1 or HTTP/2, or a transport.
    @return: the facts; L{None} where there is no TLS, or not ours, or the connection is gone.
    """
    channel = getattr(source, "channel", None)
    # In HTTP/2 a request's channel is a stream, with no transport to show; the connection that
    # carries it has one.
    transport = source if channel is None else getattr(channel, "_conn", channel).transport
    return cast("Negotiated | None", getattr(transport, "negotiated", None))


class StaticFile(File):
    """
    A directory of files, and a list of them where it has no C{index.html}.

    A file of a kind that is not known is bytes, not HTML as Twisted has it: a page made by somebody
    who can only put a file there is not run as one of this site's.
    """

    contentTypes = {
        **File.contentTypes,
        # What the operating system's own list may lack, by IANA's registry.
        ".avif": "image/avif",
        ".js": "text/javascript",
        ".json": "application/json",
        ".md": "text/markdown",
        ".mjs": "text/javascript",
        ".svg": "image/svg+xml",
        ".wasm": "application/wasm",
        ".webmanifest": "application/manifest+json",
        ".webp": "image/webp",
        ".woff2": "font/woff2",
    }

    def __init__(
        self, path: str, defaultType: str = "application/octet-stream", *rest: Any, **named: Any
    ) -> None:
        super().__init__(path, defaultType, *rest, **named)
        self.indexNames = ["index.html", "index.htm"]

    def getChild(self, path: bytes, request: Request) -> IResource:
        """
        @see: L{File.getChild}
        """
        # No file has such a name here. A NUL is an error to the operating system, and the other
        # would be one in the log, which anybody could fill with it.
        try:
            name = path.decode("utf-8")
        except UnicodeDecodeError:
            name = "\0"
        if "\0" in name:
            return cast(IResource, self.childNotFound)
        return cast(IResource, super().getChild(path, request))  # type: ignore[no-untyped-call]


def static_site(directory: str) -> Site:
    """
    Serve the files of a directory.
    """
    return EndingSite(StaticFile(directory))


def tls_environ(request: Request) -> dict[str, Any]:
    """
    What a WSGI application is told of the connection's TLS, under mod_ssl's names where it has any.

    C{bioconn.negotiated} is the L{Negotiated} itself.
    """
    if not request.isSecure():
        return {}
    environ: dict[str, Any] = {"HTTPS": "on"}
    negotiated = negotiated_of(request)
    if negotiated is None:
        return environ
    environ["bioconn.negotiated"] = negotiated
    environ["SSL_PROTOCOL"] = negotiated.version
    environ["SSL_CIPHER"] = negotiated.cipher
    environ["SSL_CLIENT_VERIFY"] = "NONE"
    if negotiated.server_name is not None:
        environ["SSL_TLS_SNI"] = negotiated.server_name
    certificate = negotiated.peer_certificate
    if certificate is not None:
        environ["SSL_CLIENT_VERIFY"] = "SUCCESS"
        environ["SSL_CLIENT_CERT"] = certificate.public_bytes(Encoding.PEM).decode("ascii")
        environ["SSL_CLIENT_S_DN"] = _distinguished_name(lambda: certificate.subject)
        environ["SSL_CLIENT_I_DN"] = _distinguished_name(lambda: certificate.issuer)
    return environ


def _distinguished_name(name: Callable[[], x509.Name]) -> str:
    """
    A name as RFC 4514 writes it, in the bytes-in-a-str form of PEP 3333; empty where it is none.
    """
    try:
        text = name().rfc4514_string()
    except ValueError:
        return ""
    return text.encode("utf-8").decode("latin-1")


@implementer(IResource)
class WSGISite:
    """
    A WSGI application that finds the facts of TLS in its environ.
    """

    isLeaf = True

    def __init__(
        self, reactor: IReactorThreads, pool: ThreadPool, application: Application
    ) -> None:
        self._reactor = reactor
        self._pool = pool
        self._application = application

    def render(self, request: Request) -> int:
        """
        @see: L{IResource.render}
        """
        facts = tls_environ(request)
        if isinstance(request.host, UNIXAddress):
            # PEP 3333 demands a port and Twisted's environ a host; a UNIX socket has neither.
            request.host = IPv4Address("TCP", "", 443 if facts else 80)
            request.client = IPv4Address("TCP", "", 0)

        def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
            environ.update(facts)
            return self._application(environ, start_response)

        resource = WSGIResource(self._reactor, self._pool, application)
        return cast(int, resource.render(request))

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        """
        @see: L{IResource.getChildWithDefault}
        """
        raise RuntimeError("a WSGI application has no child resources")

    def putChild(self, path: bytes, child: IResource) -> None:
        """
        @see: L{IResource.putChild}
        """
        raise RuntimeError("a WSGI application has no child resources")


class WSGIThreads(Service):
    """
    The threads that WSGI applications run in.

    When the server stops, the requests under way have L{WSGI_GRACE} seconds to end. An application
    writes by asking the reactor and waiting for it, so the reactor must not wait for its thread:
    threads that are not done by then are left, and die with the process.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self.pool = ThreadPool(minthreads=0, maxthreads=20, name="wsgi")
        self.pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
        self._clock = clock

    def startService(self) -> None:
        """
        @see: L{Service.startService}
        """
        super().startService()  # type: ignore[no-untyped-call]
        self.pool.start()

    def stopService(self) -> Deferred[None]:
        """
        @see: L{Service.stopService}
        """
        super().stopService()  # type: ignore[no-untyped-call]
        deadline = self._clock.seconds() + WSGI_GRACE
        polling = LoopingCall(lambda: self._settle(polling, deadline))
        polling.clock = self._clock
        done = polling.start(0.05)
        return done.addCallback(lambda _: None)

    def _settle(self, polling: LoopingCall, deadline: float) -> None:
        busy = len(self.pool.working)
        if busy and self._clock.seconds() < deadline:
            return
        polling.stop()
        if busy:
            self._log.warn("{busy} WSGI requests are cut short", busy=busy)
        else:
            self.pool.stop()


@implementer(IHalfCloseableProtocol, IPushProducer)
class Echo(Protocol):
    """
    Send back what comes, no faster than it is read; at the end of it, close.
    """

    def connectionMade(self) -> None:
        """
        The connection is its own producer: while it has too much to send, it does not read.
        """
        self._transport = transport = cast(StreamTransport, self.transport)
        self.dataReceived = sending(transport)  # type: ignore[assignment, method-assign]
        if isinstance(transport, TLSConnectorProtocol):
            transport.forwardTo(transport.sendReceived)
        transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        """
        @see: L{IPushProducer.pauseProducing}
        """
        self._transport.pauseProducing()

    def resumeProducing(self) -> None:
        """
        @see: L{IPushProducer.resumeProducing}
        """
        self._transport.resumeProducing()

    def stopProducing(self) -> None:
        """
        @see: L{IPushProducer.stopProducing}
        """

    def readConnectionLost(self) -> None:
        """
        @see: L{IHalfCloseableProtocol.readConnectionLost}
        """
        # With a producer registered, Twisted's transports wait for more.
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        @see: L{IHalfCloseableProtocol.writeConnectionLost}
        """


class EchoFactory(Factory[Echo]):
    """
    Builds an L{Echo} for each connection.
    """

    noisy = False
    protocol = Echo


def load_object(option: str, description: str) -> Any:
    """
    Import what C{MODULE:NAME} names; C{NAME} may have dots in it.

    Modules in the working directory are found, however the server was started.

    @raise ConfigurationError: there is no such thing, or the import failed.
    """
    module_name, _, name = description.partition(":")
    if not module_name or not name:
        raise ConfigurationError(f"{option} {description}: this is not MODULE:NAME")
    if getcwd() not in sys.path:
        sys.path.insert(0, getcwd())
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _import_failed(option, description, error) from error
        raise ConfigurationError(
            f"{option} {description}: there is no module {error.name}"
        ) from None
    except (Exception, SystemExit) as error:
        raise _import_failed(option, description, error) from error
    where = module_name
    for part in name.split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, (choice for choice in dir(found) if choice[0] != "_"))
            raise ConfigurationError(f"{option} {description}: {where} has no {part}{near}")
        found = getattr(found, part)
        where = f"{where}.{part}"
    return found


def _import_failed(option: str, description: str, error: BaseException) -> ConfigurationError:
    """
    One line with what went wrong inside a module, and where.
    """
    frames = extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return ConfigurationError(f"{option} {description}: {describe(error)}{place}")


def describe(error: BaseException) -> str:
    """
    An exception in one line.
    """
    text = " ".join(str(error).split())
    kind = type(error).__name__
    return f"{kind}: {text}" if text else kind


def load_application(option: str, description: str) -> Application:
    """
    The WSGI application that C{MODULE:NAME} names.

    @raise ConfigurationError: there is no such thing, or it cannot be called.
    """
    found = load_object(option, description)
    if not callable(found):
        raise ConfigurationError(f"{option} {description}: {_kind(found)} is no WSGI application")
    return cast(Application, found)


def load_factory(option: str, description: str) -> IProtocolFactory:
    """
    The protocol factory that C{MODULE:NAME} names, or that it returns when it is called.

    @raise ConfigurationError: there is no such thing, it is not a factory, or calling it failed.
    """
    found = load_object(option, description)
    if not IProtocolFactory.providedBy(found):
        if not callable(found):
            raise ConfigurationError(
                f"{option} {description}: {_kind(found)} is neither an IProtocolFactory nor a"
                " callable that returns one"
            )
        try:
            found = found()
        except Exception as error:
            raise _import_failed(option, description, error) from error
        if not IProtocolFactory.providedBy(found):
            raise ConfigurationError(
                f"{option} {description}: what it returns, {_kind(found)}, is no IProtocolFactory"
            )
    return found


def _kind(found: object) -> str:
    """
    What sort of thing somebody named by mistake.
    """
    return "None" if found is None else f"an object of type {type(found).__name__}"
