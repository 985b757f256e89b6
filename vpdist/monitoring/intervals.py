"""How often ranks exchange and show progress, and how long silence is borne."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """How often and how long, in seconds."""

    stall_timeout_s: float = 1800.0
    """A rank silent for longer ends the run."""
    stalled_s: float = 10.0
    """A rank silent for longer is shown as stalled."""
    round_s: float = 1.0
    """What N batches between two rounds should take."""
    idle_s: float = 2.0
    """A rank that has no N batches to report takes part in a round after this time all the same."""
    waiting_s: float = 0.25
    """The least time between rounds, which also is a waiting rank's pace."""
    beat_s: float = 2.0
    """Between settings of a rank's key, and readings of memory and utilisation."""
    overdue_s: float = 3.0
    """A round under way for longer is overdue: rank 0 looks at the keys."""
    alarm_s: float = 0.5
    """Between looks at whether another rank has noticed a loss."""
    roll_call_s: float = 1.0
    """Time that survivors of a loss have to say so."""
    grace_s: float = 4.0
    """Time that the main thread has to leave after a loss, before the process is ended."""
    orderly_grace_s: float = 15.0
    """The same where the ranks that are gone left in order."""
