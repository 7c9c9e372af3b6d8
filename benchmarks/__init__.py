"""
C{python -m benchmarks}: what a connection costs here, and what it costs other programs.

The package is run from the repository and is not installed with the library.  L{peers} has the
programs and their configurations, L{load} is the load generator, L{works} says what is measured,
L{results} makes figures into tables, and L{plot} draws them.
"""
