"""Tests for L{twisted_bioconn.trace}."""
