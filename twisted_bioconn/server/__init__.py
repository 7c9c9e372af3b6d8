"""What C{twistd bioconn} adds to the library."""
