"""What has happened lately: ranks that fall silent, report again, or are lost; failures; throttled devices.

Enters: snapshots, the older first. Leaves: short sentences with their times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from vpdist.monitoring.counters import Snapshot

KEPT = 50
NAMED = 3
"""Ranks that a sentence names."""
TOO_HOT, POWER_BRAKE = 0x20 | 0x40, 0x80
"""Bits of NVML's throttle reasons: software's and hardware's slowdown because of heat; an outside power brake."""


def throttle_text(bits: int) -> str:
    """Why a device's clock is lowered, in a word; '' where it is not, or only by its usual power limit."""
    if bits & TOO_HOT:
        return "too hot"
    return "power brake" if bits & POWER_BRAKE else ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened at `time` (Unix seconds)."""

    time: float
    text: str


class Events:
    """The last events of a run, the newest last."""

    def __init__(self) -> None:
        self.last: deque[Event] = deque(maxlen=KEPT)
        self._states: tuple[str, ...] = ()
        self._throttles: tuple[str, ...] = ()
        self._failures = 0

    def observe(self, snapshot: Snapshot) -> None:
        """Note what differs from the snapshot before."""
        states = tuple(row.state for row in snapshot.rows)
        throttles = tuple(throttle_text(max(0, row.throttle)) for row in snapshot.rows)
        failures = snapshot.totals["failures"]
        if len(states) != len(self._states):
            self._states, self._throttles = ("running",) * len(states), ("",) * len(states)
        add = self._adder(snapshot.time)
        if states != self._states:
            pairs = list(zip(self._states, states, strict=True))
            silent = [rank for rank, (old, new) in enumerate(pairs) if new == "stalled" != old]
            again = [
                rank for rank, (old, new) in enumerate(pairs) if old == "stalled" and new not in ("stalled", "lost")
            ]
            lost = [rank for rank, (old, new) in enumerate(pairs) if new == "lost" != old]
            add(silent, "silent")
            add(again, "reports again", "report again")
            add(lost, "lost")
        for why in sorted(set(throttles) - {""}):
            new = [
                rank
                for rank, (old, text) in enumerate(zip(self._throttles, throttles, strict=True))
                if text == why != old
            ]
            add(new, f"throttled: {why}")
        if failures > self._failures:
            rows = failures - self._failures
            self.last.append(Event(snapshot.time, f"{rows:,} {'row has' if rows == 1 else 'rows have'} no embedding"))
        self._states, self._throttles, self._failures = states, throttles, failures

    def _adder(self, time: float):  # type: ignore[no-untyped-def]
        def add(ranks: Sequence[int], what: str, of_several: str = "") -> None:
            if ranks:
                said = what if len(ranks) == 1 else of_several or what
                self.last.append(Event(time, f"{ranks_text(ranks)} {said}"))

        return add


def ranks_text(ranks: Sequence[int]) -> str:
    """rank 5; ranks 5, 7; 40 ranks (5, 7, 9 and others)."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    named = ", ".join(map(str, ranks[:NAMED]))
    return f"ranks {named}" if len(ranks) <= NAMED else f"{len(ranks):,} ranks ({named} and others)"
