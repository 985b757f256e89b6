"""Checks of what vpdist depends on and reads: known vulnerabilities, hashes of pinned packages, fuzzed readers.

`make check` runs the audit; the others are started by hand.
"""
