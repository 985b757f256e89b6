"""What is counted: every rank's counters to all ranks about once a second, beside the computation.

Enters: counters that only grow. Leaves: snapshots of all ranks, and the failure of a rank that was lost.
"""
