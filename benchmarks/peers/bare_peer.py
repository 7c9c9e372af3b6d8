"""
The floor for memory: C{bare_peer.py PORT CERTIFICATE KEY}.

Each connection is a server end of pyOpenSSL's after its handshake, and nothing else: no protocol,
no transport, no back end.  C{SSL_MODE_RELEASE_BUFFERS} is on, so that no smaller one can be had.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import sys
from contextlib import suppress

from OpenSSL import SSL

_SSL_MODE_RELEASE_BUFFERS = 0x10


def main() -> None:
    """Serve until killed."""
    port, certificate, key = sys.argv[1:]
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.use_certificate_file(certificate)
    context.use_privatekey_file(key)
    context.set_mode(_SSL_MODE_RELEASE_BUFFERS)
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=4096)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    ends: dict[int, SSL.Connection] = {}
    done: set[int] = set()
    while True:
        for descriptor, _ in epoll.poll():
            if descriptor == listener.fileno():
                accepted = listener.accept()[0].detach()
                ends[accepted] = SSL.Connection(context, None)
                ends[accepted].set_accept_state()
                epoll.register(accepted, select.EPOLLIN)
                continue
            try:
                data = os.read(descriptor, 1 << 16)
            except OSError:
                data = b""
            end = ends[descriptor]
            if data and descriptor not in done:
                end.bio_write(data)
                try:
                    end.do_handshake()
                    done.add(descriptor)
                except SSL.WantReadError:
                    pass
                except SSL.Error:
                    data = b""
                with suppress(SSL.WantReadError, OSError):
                    os.write(descriptor, end.bio_read(1 << 16))
            if not data:
                epoll.unregister(descriptor)
                os.close(descriptor)
                del ends[descriptor]
                done.discard(descriptor)
                gc.collect(0)


if __name__ == "__main__":
    main()
