"""A finished run as one file that a browser opens: `vpdist report`.

Enters: the tables, run.json and progress.jsonl of a run folder. Leaves: report.html, which asks nobody for anything.
"""
