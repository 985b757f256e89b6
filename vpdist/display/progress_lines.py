"""Lines of progress.jsonl: whole snapshots, and between them what has changed.

A whole line has `ranks` (see `Snapshot`). With many ranks most lines have `changes` instead, which keeps a day of 512
ranks under 100 MB: `columns` has differences to the line before, one per rank, of the counters that have moved (those
of other counters follow in a later line), `readings` the devices' values, one per rank, in some lines, and `ranks` the
other fields of ranks by number where they differ. `totals` is exact in every line. Readers of earlier versions skip
lines with `changes`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vpdist.monitoring.counters import COUNTER_INDEX, COUNTERS, UNKNOWN, RankRow, Snapshot
from vpdist.monitoring.facts import RunFacts
from vpdist.storage.atomic_files import open_regular

READINGS = ("memory_bytes", "utilisation", "power_mw", "temperature", "throttle", "energy_j")
UNRECORDED = ("rank", "counters", "base", "silent_s", *READINGS)


def changes_json(before: Snapshot, after: Snapshot, columns: Iterable[str], *, readings: bool) -> tuple[str, Snapshot]:
    """A line with what has changed since `before`, of the counters in `columns`, with the devices' values or without;
    and the snapshot that a reader has after it, which is `after` but for what is left out. Both have the same ranks."""
    places = [(name, COUNTER_INDEX[name]) for name in columns]
    moved: dict[str, list[int]] = {}
    for name, at in places:
        differences = [new.counters[at] - old.counters[at] for old, new in zip(before.rows, after.rows, strict=True)]
        if any(differences):
            moved[name] = differences
    written = {at for _, at in places}
    ranks: dict[str, dict[str, Any]] = {}
    rows = []
    for old, new in zip(before.rows, after.rows, strict=True):
        fields = _other_fields(old, new)
        counters = tuple(new.counters[at] if at in written else old.counters[at] for at in range(len(COUNTERS)))
        if new.stage != old.stage:  # its counters when the stage began
            fields |= {"counters": new.counters, "base": new.base}
            counters = new.counters
            for differences in moved.values():
                differences[new.rank] = 0
        if fields:
            ranks[str(new.rank)] = fields
        told = {name: getattr(new, name) for name in READINGS} if readings else {}
        rows.append(replace(old, **{**fields, **told, "counters": counters}))
    changes: dict[str, Any] = {"columns": moved} | ({"ranks": ranks} if ranks else {})
    if readings:
        changes["readings"] = _readings(before, after)
    line = after.head() | {"changes": changes}
    if after.run != before.run:
        line["run"] = after.run.to_fields()
    text = json.dumps(line, separators=(",", ":"))
    return text, replace(after, rows=tuple(rows), facts=before.facts)


def _readings(before: Snapshot, after: Snapshot) -> dict[str, list[int]]:
    """The devices' values by name; those that no device tells, nor has told before, are left out."""
    told = [name for name in READINGS if any(getattr(row, name) != UNKNOWN for row in (*before.rows, *after.rows))]
    return {name: [getattr(row, name) for row in after.rows] for name in told}


def _other_fields(old: RankRow, new: RankRow) -> dict[str, Any]:
    """Fields of a rank that differ, but for counters."""
    fields = {
        name: getattr(new, name)
        for name in RankRow.__dataclass_fields__
        if name not in UNRECORDED and getattr(new, name) != getattr(old, name)
    }
    if new.state in ("stalled", "lost") or "state" in fields:
        fields["silent_s"] = new.silent_s
    return fields


def _known(told: dict[str, Any]) -> dict[str, Any]:
    """The fields of a rank that this version knows; a later one may tell more."""
    return {name: value for name, value in told.items() if name in RankRow.__dataclass_fields__}


def applied(before: Snapshot, line: dict[str, Any]) -> Snapshot:
    """The snapshot of a line with `changes`. Raises ValueError if it is not one that follows `before`."""
    try:
        changes = line["changes"]
        columns = [
            (COUNTER_INDEX[name], values) for name, values in changes["columns"].items() if name in COUNTER_INDEX
        ]
        rows = [list(row.counters) for row in before.rows]
        for at, differences in columns:
            for counters, difference in zip(rows, differences, strict=True):
                counters[at] += difference
        others = {rank: _known(told) for rank, told in changes.get("ranks", {}).items()}
        read = changes.get("readings", {}).items()
        readings = [{name: column[at] for name, column in read if name in READINGS} for at in range(len(rows))]
        made = tuple(
            replace(row, **_with_tuples({"counters": counters} | told | others.get(str(row.rank), {})))
            for row, counters, told in zip(before.rows, rows, readings, strict=True)
        )
        run = RunFacts.from_fields(line["run"]) if "run" in line else before.run
        snapshot = Snapshot(
            line["time"], line["elapsed"], line["source"], made, line["ended"], line.get("note", ""), run, before.facts
        )
        if not snapshot.is_sound():
            raise TypeError("a value has a wrong type or range")
        return snapshot
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"not a line of progress.jsonl: {error!r}") from error


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if name in ("counters", "base") else value for name, value in fields.items()}


class Reader:
    """Reads lines in their order."""

    def __init__(self) -> None:
        self._before: Snapshot | None = None

    def read(self, line: str) -> Snapshot | None:
        """The snapshot after this line; None for a line that cannot be read, or that follows one that is not there."""
        try:
            if '"changes":' not in line:
                made = Snapshot.from_json(line)
                if not made.facts and self._before is not None and len(self._before.facts) == len(made.rows):
                    made = replace(made, facts=self._before.facts)
                self._before = made
                return made
            fields = json.loads(line)
            self._before = applied(self._before, fields) if self._before is not None else None
        except (ValueError, RecursionError):  # incomplete, because an earlier run was killed
            if '"changes":' in line:
                self._before = None
            return None
        return self._before


def read_file(path: Path) -> Iterator[Snapshot]:
    """All snapshots of a progress.jsonl, the oldest first. Raises OSError."""
    reader = Reader()
    with open_regular(path) as file:
        for line in file:
            if (made := reader.read(line.decode(errors="replace"))) is not None:
                yield made
