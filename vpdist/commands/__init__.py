"""One module per command, each a list of stages in the order of the data; and what the commands share.

Enters: settings from the command line, on every rank. Leaves: an exit code. Start reading at `predict`.
"""
