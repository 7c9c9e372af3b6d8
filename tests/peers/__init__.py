"""
Other people's TLS, talking with ours over real sockets.

L{tests.peers.test_matrix} has every peer in every combination of version, client certificate and
resumption; the other modules have what each peer alone can do.  The programs are started by the
tests, on ports that are free at that moment, and end with them.
"""
