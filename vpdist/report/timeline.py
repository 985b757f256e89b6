"""How fast a run went and how even its ranks were, from progress.jsonl.

Enters: snapshots, of one command or of several that resumed each other. Leaves: at most about POINTS moments, and a row
for each rank of the last command that embedded. Promises: of a large file only so many lines are parsed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from vpdist.display.progress_lines import read_file
from vpdist.encoder_kinds import KINDS
from vpdist.errors import StorageError
from vpdist.monitoring.counters import RankRow, Snapshot
from vpdist.storage.atomic_files import open_regular

POINTS = 240
READ_WHOLE = 1 << 24
"""Bytes of a file of which all lines are read. Of a larger one only those that stand for themselves."""
MOST_RANKS = 1024
MOST_DRAWN = 64
"""Ranks whose speed is drawn over time; of more, some that are evenly spread."""
LONGEST_LINE = 1 << 24


def timeline(path: Path) -> dict[str, Any]:
    """`t` (seconds since the first snapshot, without pauses between commands), `tokens` of all ranks until then,
    `ranks` and the `mean` of their tokens, and `rates`: of some ranks the tokens of each interval of `t`. Empty where
    there is no file, or none that this version reads."""
    t: list[float] = []
    tokens: list[int] = []
    by_rank: list[dict[int, int]] = []
    """Of each moment, the tokens of each rank since its command began."""
    last: Snapshot | None = None
    before_s, before_tokens = 0.0, 0
    previous: Snapshot | None = None
    for snapshot in _some(path):
        if previous is not None and snapshot.elapsed < previous.elapsed:  # another command goes on
            before_s, before_tokens = t[-1], tokens[-1]
        t.append(round(before_s + snapshot.elapsed, 3))
        tokens.append(before_tokens + _tokens(snapshot))
        by_rank.append({row.rank: _of_rank(row) for row in snapshot.rows})
        previous = snapshot
        if _tokens(snapshot):
            last = snapshot
    ranks = [] if last is None else _ranks(last)
    mean = sum(rank["tokens"] for rank in ranks) / len(ranks) if ranks else 0
    return {"t": t, "tokens": tokens, "ranks": ranks[:MOST_RANKS], "mean": mean, "rates": _rates(by_rank)}


def _rates(by_rank: list[dict[int, int]]) -> list[dict[str, Any]]:
    """Of each drawn rank its number and the tokens of each interval; a rank that began again counts from 0."""
    numbers = sorted(set().union(*by_rank)) if by_rank else []
    step = max(1, -(-len(numbers) // MOST_DRAWN))
    return [
        {
            "rank": rank,
            "tokens": [
                after.get(rank, 0) - (before.get(rank, 0) if after.get(rank, 0) >= before.get(rank, 0) else 0)
                for before, after in pairwise(by_rank)
            ],
        }
        for rank in numbers[::step]
    ]


def _of_rank(row: RankRow) -> int:
    return sum(row.count(f"{kind}_tokens") for kind in KINDS)


def _tokens(snapshot: Snapshot) -> int:
    return sum(snapshot.totals[f"{kind}_tokens"] for kind in KINDS)


def _ranks(snapshot: Snapshot) -> list[dict[str, Any]]:
    return [
        {
            "rank": row.rank,
            "tokens": _of_rank(row),
            **{name: row.count(f"{name}_us") / 1e6 for name in ("compute", "write", "load")},
        }
        for row in snapshot.rows
    ]


def _some(path: Path) -> Iterator[Snapshot]:
    """Snapshots at even distances in the file, the first and the last ones included. Raises StorageError."""
    try:
        size = path.stat().st_size
        if size <= READ_WHOLE:
            yield from _thinned(list(read_file(path)))
            return
        with open_regular(path) as file:
            step, wanted, position = size / POINTS, 0.0, 0
            newest = b""
            while line := file.readline(LONGEST_LINE):
                position += len(line)
                newest = line
                if position < wanted:
                    continue
                for snapshot in _parsed(line):  # else the next line is tried
                    wanted, newest = position + step, b""
                    yield snapshot
            yield from _parsed(newest)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error


def _thinned(snapshots: list[Snapshot]) -> Iterator[Snapshot]:
    step = max(1, len(snapshots) // POINTS)
    yield from snapshots[:-1:step]
    yield from snapshots[-1:]


def _parsed(line: bytes) -> Iterator[Snapshot]:
    """A line as a snapshot; none where another version or a killed run wrote it."""
    try:
        yield Snapshot.from_json(line.decode())
    except ValueError:
        return
