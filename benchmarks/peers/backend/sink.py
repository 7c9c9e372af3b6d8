"""
The back end of uploads: takes 1 MiB and answers with 200 bytes, again and again.

nginx throws a request's body away in pieces of 4 KiB, which would make it the bottleneck.  Here
the kernel throws it away: with C{MSG_TRUNC}, tcp(7), nothing is copied.
"""

from __future__ import annotations

import select
import socket
import sys

UPLOAD = 1 << 20
ANSWER = b"." * 200


def main() -> None:
    """Serve on the port that the command line names."""
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
    listener.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    missing: dict[int, int] = {}
    # The kernel wants to be told of a buffer, and leaves it alone.
    buffer = bytearray(UPLOAD)
    while True:
        for descriptor, _ in epoll.poll():
            if descriptor == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                missing[connection.fileno()] = UPLOAD
                epoll.register(connection, select.EPOLLIN)
                continue
            connection = connections[descriptor]
            try:
                taken = connection.recv_into(buffer, missing[descriptor], socket.MSG_TRUNC)
            except OSError:
                taken = 0
            if not taken:
                del connections[descriptor], missing[descriptor]
                connection.close()
                continue
            missing[descriptor] -= taken
            if not missing[descriptor]:
                missing[descriptor] = UPLOAD
                connection.sendall(ANSWER)


if __name__ == "__main__":
    main()
