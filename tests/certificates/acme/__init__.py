"""Tests of L{twisted_bioconn.certificates.acme}, and authorities to test it with."""
