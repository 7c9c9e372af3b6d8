"""
What reads a stranger's bytes, given any bytes: C{python -m tests.fuzz TARGET --seconds N}.

A target is a function that takes bytes.  It lets out only what is a finding: every error that the
documentation of what is read has is caught, and what has to hold is asserted.
"""
