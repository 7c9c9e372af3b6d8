"""
OpenSSL as pyOpenSSL has it, and a page: what OpenSSL itself does, in the very version that ours
runs on, with no line of ours between it and the wire.

It prints the port of each of its configurations, in their order, and ends when its input does.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

from cryptography import x509
from OpenSSL import SSL
from OpenSSL._util import lib
from OpenSSL.crypto import X509

from tests.conformance.configurations import BODY, WITHOUT_NAMES, Configuration

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)

_MODES = {
    None: SSL.VERIFY_NONE,
    "require": SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
    "verifyIfGiven": SSL.VERIFY_PEER,
}


def context_of(how: Configuration, directory: Path) -> SSL.Context:
    """The context of a configuration."""
    policy = how.policy
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(policy.minimum_version)
    context.set_max_proto_version(policy.maximum_version)
    if policy.ciphers_tls12:
        context.set_cipher_list(":".join(policy.ciphers_tls12).encode())
    context.set_tls13_ciphersuites(":".join(policy.ciphersuites_tls13).encode())
    raw = context._context
    assert lib.SSL_CTX_set1_curves_list(raw, ":".join(policy.groups).encode())
    assert lib.SSL_CTX_set1_sigalgs_list(raw, ":".join(policy.signature_algorithms).encode())
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_id(how.name.encode())
    context.use_certificate_chain_file(str(directory / how.certificate))
    context.use_privatekey_file(str(directory / how.certificate))

    def select(_: SSL.Connection, offered: list[bytes]) -> bytes:
        if b"http/1.1" not in offered:
            # What it raises becomes no_application_protocol.
            raise ValueError("no protocol")
        return b"http/1.1"

    context.set_alpn_select_callback(select)
    if how.clients is not None:
        for each in x509.load_pem_x509_certificates((directory / "root.pem").read_bytes()):
            store = context.get_cert_store()
            assert store is not None
            store.add_cert(X509.from_cryptography(each))
            context.add_client_ca(each)
        context.set_verify(_MODES[how.clients])
    return context


def _serve(connection: SSL.Connection) -> None:
    # Not by reading: what comes right after the handshake would be taken for TLS 1.2's.
    connection.do_handshake()
    heard = b""
    while True:
        heard += connection.recv(65536)
        while b"\r\n\r\n" in heard:
            heard = heard.partition(b"\r\n\r\n")[2]
            connection.sendall(_ANSWER)


def listen(how: Configuration, directory: Path) -> int:
    """
    Serve a configuration.

    @return: the port.
    """
    context = context_of(how, directory)
    # A name is acknowledged where somebody looks at it.
    context.set_tlsext_servername_callback(lambda _: None)

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = SSL.Connection(context, self.request)
            connection.set_accept_state()
            with suppress(SSL.Error, ValueError, OSError):
                try:
                    _serve(connection)
                except SSL.ZeroReturnError:
                    connection.shutdown()
            with suppress(OSError):
                self.request.shutdown(socket.SHUT_WR)

    server: Any = ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    port: int = server.server_address[1]
    return port


if __name__ == "__main__":
    for each in WITHOUT_NAMES:
        print(f"listening on 127.0.0.1:{listen(each, Path(sys.argv[1]))}", flush=True)
    sys.stdin.read()
