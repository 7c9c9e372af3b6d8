"""
What has to stay secret, looked for in all that the program writes.
"""
