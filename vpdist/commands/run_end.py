"""What is told at the end of a run beside the counts: calls as bars, the best sequences, how the devices were used.

Enters: sequences.tsv as it was written, or sequences.tsv.gz, and the last snapshot. Leaves: lines for the user.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from vpdist.monitoring.counters import COUNTER_INDEX, Snapshot
from vpdist.results.table_files import opened_text
from vpdist.text import NAME_LETTERS, count_text, number_of, printable, shortened

BAR_CELLS = 30
BEST = 5
LARGEST_TABLE = 1 << 29
"""Bytes of a table that is read again for its best sequences; reading takes about two seconds per million rows."""
LARGEST_COMPRESSED = LARGEST_TABLE // 4
TOLD = {"virus": "virus", "uncertain": "uncertain", "non-virus": "non-virus", "NA": "no call"}
BY_SCORE = (
    "a sequence is called virus where its virus score is at least the other; no call: no chunk has an open frame, or "
    "it is too short, filtered or failed"
)
BY_CALIBRATION = (
    "these are the calls by calibrated probability (column `call`): uncertain is what is neither at the limits chosen; "
    "no call: nothing is scored, or its length is not calibrated"
)


@dataclass(slots=True)
class Calls:
    """What one column of sequences.tsv says."""

    counts: Counter[str] = field(default_factory=Counter)
    best: list[tuple[float, int, str]] = field(default_factory=list)
    """Score, length and name of sequences called virus with the highest scores, the best first."""

    def add(self, call: str, score: bytes, length: bytes, name: bytes) -> None:
        self.counts[call] += 1
        if call != "virus":
            return
        entry = (float(score), int(length), name.decode(errors="replace"))
        if len(self.best) < BEST:
            heapq.heappush(self.best, entry)
        elif entry > self.best[0]:
            heapq.heapreplace(self.best, entry)


def read_calls(table: Path) -> tuple[Calls, str]:
    """Calls and best sequences of a sequences.tsv, and what the calls mean: those by calibration where there are any.
    Raises StorageError; ValueError for what is no such table."""
    by_score, calibrated = Calls(), Calls()
    with opened_text(table) as file:
        columns = file.readline().rstrip(b"\n").split(b"\t")
        places = [columns.index(name) for name in (b"seq_name", b"length", b"virus_score", b"prediction")]
        name, length, score, prediction = places
        call = columns.index(b"call") if b"call" in columns else None
        for line in file:
            cells = line.rstrip(b"\n").split(b"\t")
            by_score.add(cells[prediction].decode(), cells[score], cells[length], cells[name])
            if call is not None:
                calibrated.add(cells[call].decode(), cells[score], cells[length], cells[name])
    calls, meaning = (calibrated, BY_CALIBRATION) if calibrated.counts.keys() - {"NA"} else (by_score, BY_SCORE)
    calls.best.sort(reverse=True)
    return calls, meaning


def call_lines(table: Path) -> list[str]:
    """Bars of the calls, what they mean, and the best sequences; nothing of a very large table."""
    if table.stat().st_size > (LARGEST_COMPRESSED if table.suffix == ".gz" else LARGEST_TABLE):
        return []
    calls, meaning = read_calls(table)
    total = calls.counts.total()
    if not total:
        return []
    most = max(calls.counts.values())
    lines = [
        f"{told:<9} {calls.counts[call]:>10,} {100 * calls.counts[call] / total:5.1f} % "
        f"{'#' * round(BAR_CELLS * calls.counts[call] / most)}".rstrip()
        for call, told in TOLD.items()
        if call != "uncertain" or meaning is BY_CALIBRATION
    ]
    lines.append(meaning)
    if calls.best:
        named = (
            f"{shortened(printable(name), NAME_LETTERS)} ({length:,} bases, {score:.3f})"
            for score, length, name in calls.best
        )
        lines.append(f"highest virus scores: {', '.join(named)}")
    return lines


def device_line(snapshot: Snapshot) -> str:
    """Device hours, share of the hardware's limit, balance, energy, and what was kept of an earlier command."""
    rows, run = snapshot.rows, snapshot.run
    seconds = len(rows) * snapshot.elapsed
    used = f"{seconds:.1f} device seconds" if seconds < 360 else f"{count_text(seconds / 3600)} device hours"
    facts = [f"{number_of(len(rows), 'rank')}, {used}"]
    compute = [row.count("compute_us") for row in rows]
    possible = sum(
        seconds_us * facts_of.limit_mflops for seconds_us, facts_of in zip(compute, snapshot.facts, strict=False)
    )
    work = sum(row.counters[COUNTER_INDEX["work_mflop"]] for row in rows)
    if possible and work:
        facts.append(f"{100 * work * 1e6 / possible:.0f} % of the hardware's limit while computing")
    if sum(compute) and len(rows) > 1:
        facts.append(f"the busiest rank computed {max(compute) * len(rows) / sum(compute):.2f} times the mean")
    energy = [row.energy_j for row in rows if row.energy_j > 0]
    if energy:
        facts.append(f"{sum(energy) / 3.6e6:.3g} kWh")
    if run.kept_units:
        facts.append(f"{run.kept_units:,} of {run.n_units:,} units were there already")
    if run.recomputed_units:
        facts.append(f"{number_of(run.recomputed_units, 'unit')} computed again")
    if run.deduplicated:
        facts.append(f"{run.deduplicated:,} of {run.n_fragments:,} fragments equal to others and not embedded again")
    return "; ".join(facts)


def hosts(snapshot: Snapshot | None) -> dict[str, dict[str, object]]:
    """For run.json: the ranks and devices of each host."""
    found: dict[str, dict[str, object]] = {}
    for rank, facts in enumerate(snapshot.facts if snapshot is not None else ()):
        host = found.setdefault(facts.host, {"ranks": [], "devices": []})
        ranks, devices = host["ranks"], host["devices"]
        assert isinstance(ranks, list)
        assert isinstance(devices, list)
        ranks.append(rank)
        if facts.device not in devices:
            devices.append(facts.device)
    return found


def end_lines(table: Path, snapshot: Snapshot | None, *, called: bool) -> list[str]:
    """All of this. Raises OSError, StorageError."""
    lines = call_lines(table) if called else []
    return [*lines, device_line(snapshot)] if snapshot is not None else lines
