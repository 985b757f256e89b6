"""A run from its opening to its end: what ranks agree on, what a signal does, how a failure is reported.

Enters: a command's stages. Leaves: an exit code, status.json, and one message on the console, whatever happens.
"""
