"""How often ranks exchange progress, and how long a rank may be silent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """In seconds."""

    stall_timeout_s: float = 1800.0
    """A rank silent for longer ends the run."""
    stalled_s: float = 10.0
    """A rank silent for longer is shown as stalled."""
    round_s: float = 1.0
    """Intended time between rounds; the number of batches between them, N, follows from it."""
    idle_s: float = 2.0
    """A rank with fewer than N new batches joins a round after this time."""
    waiting_s: float = 0.25
    """Least time between rounds; a waiting rank joins one after this time."""
    beat_s: float = 2.0
    """Time between updates of a rank's key, and between readings of memory and utilisation."""
    overdue_s: float = 3.0
    """A round that takes longer is overdue: rank 0 reads the keys."""
    alarm_s: float = 0.5
    """Time between checks whether another rank has noticed a loss."""
    roll_call_s: float = 1.0
    """Time that survivors of a loss have to answer the roll call."""
    grace_s: float = 4.0
    """Time that the main thread has to exit after a loss, before the process is ended."""
    orderly_grace_s: float = 15.0
    """The same if the lost ranks published why they exit."""
