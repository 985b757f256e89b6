"""Benchmarks, `make bench`: figures beside their goals, as rows of a Markdown table for BENCHMARKS.md.

Each also runs alone; `goals.py` has the rows and the conditions that are printed with them.
"""
