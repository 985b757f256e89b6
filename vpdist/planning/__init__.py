"""Fragments to units of about equal cost, units to ranks.

Enters: lengths and hashes of all fragments. Leaves: a plan that depends on the input alone, and
each rank's share of it.
"""
