"""Tests, which mirror the package."""

from hypothesis import HealthCheck, settings

# How fast a machine is, and what else it does, is no fault of what is tested.
settings.register_profile(
    "twisted_bioconn",
    settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("twisted_bioconn")
