"""A client hello as OpenSSL reads it, beside what L{twisted_bioconn.hello} makes of it."""

from __future__ import annotations

import contextlib

import attrs
from OpenSSL import SSL

from tests.certificates.material import LEAF, OWNER
from tests.hello_material import read
from twisted_bioconn._held import Held, hold, keeps_to_its_name
from twisted_bioconn.hello import HANDSHAKE, MalformedHello

__all__ = ["Read", "agree"]


@attrs.define
class Read:
    """
    What OpenSSL has read.

    @ivar names: the names that it has told, each as often as it was asked.
    @ivar protocols: the protocols; L{None} where it has told none.
    """

    names: list[bytes | None] = attrs.field(factory=list)
    protocols: tuple[bytes, ...] | None = None


def server(told: Read, held: Held | None = None) -> SSL.Connection:
    """A server of OpenSSL's that notes what it reads."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_certificate(LEAF)
    assert OWNER.key is not None
    context.use_privatekey(OWNER.key)

    def name_told(connection: SSL.Connection) -> None:
        told.names.append(connection.get_servername())
        if held is not None:
            keeps_to_its_name(connection)

    def protocols_told(connection: SSL.Connection, protocols: list[bytes]) -> bytes:
        told.protocols = tuple(protocols)
        return protocols[0]

    context.set_tlsext_servername_callback(name_told)
    context.set_alpn_select_callback(protocols_told)
    connection = SSL.Connection(context, None)
    connection.set_accept_state()
    if held is not None:
        hold(connection, held)
    return connection


def spelled(name: bytes | None) -> str | None:
    return None if name is None else name.decode("latin-1").lower().removesuffix(".")


def agree(flight: bytes) -> Read:
    """
    See that what OpenSSL reads in a flight is what we do.

    @return: what it reads.
    @raise AssertionError: it is not.
    """
    told = Read()
    connection = server(told)
    connection.bio_write(flight)
    answer = b""
    with contextlib.suppress(SSL.Error):
        connection.do_handshake()
    with contextlib.suppress(SSL.WantReadError):
        answer = connection.bio_read(1)
    try:
        hello = read(flight)
    except MalformedHello as error:
        if error.alert is None:
            # Else nobody would tell the client what is wrong, who knows it.
            assert answer != HANDSHAKE[:1], str(error)
        return told
    if hello is None:
        assert told == Read(), told
        return told
    for name in told.names:
        if hello.server_name is not None and ":" in hello.server_name:
            # Of addresses there is more than one spelling; that they are the same is told by
            # what holds a connection to its name.
            held = Held(hello.server_name)
            again = server(Read(), held)
            again.bio_write(flight)
            with contextlib.suppress(SSL.Error):
                again.do_handshake()
            assert not held.has_changed, name
        else:
            assert spelled(name) == hello.server_name, (name, hello)
    if told.protocols is not None:
        assert told.protocols == hello.alpn, (told, hello)
    return told
