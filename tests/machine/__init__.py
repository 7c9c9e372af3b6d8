"""Faults of the machine under the command, with honest clients beside them."""
