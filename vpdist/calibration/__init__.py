"""Scores of sequences to what may be believed of them: probability, false discovery, calls.

Pure functions over numpy arrays: any script can call them without a run. Nothing here reads a file or knows a table.
"""
