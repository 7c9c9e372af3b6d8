"""Tests, which mirror the package."""

import signal

from hypothesis import HealthCheck, settings

# How fast a machine is, and what else it does, is no fault of what is tested.
settings.register_profile(
    "twisted_bioconn",
    settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("twisted_bioconn")

# What a shell starts in the background ignores it, and so would each program that a test starts,
# and then interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
