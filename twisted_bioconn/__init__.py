"""TLS for any Twisted protocol, over memory BIOs."""
