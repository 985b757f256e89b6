"""Fragments to units of about equal cost, units to ranks.

Enters: lengths and hashes of all fragments. Leaves: a plan, the same on every rank and for any number of ranks, and the
units of each rank.
"""
