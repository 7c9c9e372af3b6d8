"""
Floods by hostile peers against C{twistd bioconn}, with honest clients beside each.

    python -m tests.floods [WORD...]

A flood comes more than once: what the first leaves behind may be code that was loaded and memory
that the allocator keeps, what each leaves behind is a leak.
"""
