"""`vpdist plan`: the stages of a run counted, a few batches timed.

Enters: the settings of a run. Leaves: a forecast of balance, disk, memory and time, as text or JSON. Nothing stays on
disk, and what is counted is counted by the stages that a run uses.
"""
