"""Whether the newest snapshot of a run folder is of its last command, which may not have recorded anything yet.

Enters: a snapshot, and what status.json and the lock say. Leaves: yes or no, and a sentence where it is no.
"""

from __future__ import annotations

from datetime import datetime

from vpdist.monitoring.counters import Snapshot
from vpdist.monitoring.facts import RankFacts
from vpdist.storage.run_state import RunState
from vpdist.text import printable

GOES_ON = ("running", "dead", "unknown")
"""States of a command that has not said how it ended."""
WRITTEN_IN_S = 1.0
"""status.json tells whole seconds."""


def is_of_last_command(snapshot: Snapshot, found: RunState) -> bool:
    """Whether `snapshot` is of the command that `found` speaks of, and not of one before it."""
    if found.state not in GOES_ON:
        return snapshot.ended is None or (snapshot.ended == "") == found.state.startswith("done")
    by = snapshot.facts[0] if snapshot.facts else RankFacts()
    if by.pid and found.pid and (by.host, by.pid) != (found.host, found.pid):
        return False
    return snapshot.ended is None or snapshot.time >= _seconds(found.updated) + WRITTEN_IN_S


def _seconds(updated: str) -> float:
    """Unix time at which status.json was written; infinity where that is not known."""
    try:
        return datetime.strptime(updated, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return float("inf")


def later_command(found: RunState) -> str:
    """What became of a command that has recorded no progress."""
    who = f"process {found.pid} on {printable(found.host)}" if found.pid else "the process that worked in it"
    if found.state == "dead":
        return f"dead: {who} is gone, before it recorded any progress; run the same command again to resume"
    if found.state in GOES_ON:
        return f"a later command is at work ({who}), and has recorded no progress yet"
    why = printable(found.message.splitlines()[0]) if found.message else ""
    return f"a later command has ended: {found.state.replace('_', ' ')}" + (f": {why}" if why else "")
