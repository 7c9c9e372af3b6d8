"""
An hour of mixed load on C{twistd bioconn}, and whether anything grows in it:
C{python -m benchmarks soak}.

The load is paced and light.  It is not how much there is of it that finds what grows, but that
there is something of everything: clients that are honest, and counted to the byte; clients that
fail in each way that there is; and an operator, who reloads, replaces certificates and has them
renewed.
"""
