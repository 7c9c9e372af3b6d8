"""
What TLS has to do with a client that does not do what it should, or does what few do.

Each case is a line of a table: what is sent, what must be seen, and the section that says so.  It
is put to C{twistd bioconn}, and for a comparison to OpenSSL with nothing around it and to nginx.
Where ours falls short of the RFC, and OpenSSL falls short just so, L{tests.conformance.known} says
why.  The client is L{tests.conformance.client}, on tlslite-ng's messages.

    python -m tests.conformance

prints what each server makes of each case.
"""
