"""Fault injection, `make test-faults`: the real program under real launchers, killed, signalled, given bad records.

`campaign.py` injects every fault and prints the table of docs/faults.md; tests/end_to_end/ runs a short form.
"""
