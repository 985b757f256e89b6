"""How often the end of a run lay inside the range that was shown as time left.

`python -m scripts.checks.time_left RUN...` reads what runs have recorded (progress.jsonl) and goes through their
snapshots as a display does. Counted are snapshots from a tenth of the run on that name a time left.
`--record OUT` makes recordings first, by real launches (recorded_runs.py, some minutes on two cores).
`--simulate RANKS` makes runs up instead: both schedules, even ranks and one at half speed, paces that drift.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.goals import Row, conditions, table
from scripts.checks import recorded_runs
from vpdist.display.progress_lines import read_file
from vpdist.display.rates import Rates
from vpdist.display.time_left import CHECK_S_PER_UNIT
from vpdist.monitoring.counters import COUNTER_INDEX, COUNTERS, RankRow, Snapshot
from vpdist.monitoring.facts import RunFacts

FROM = 0.1
"""Of the run: earlier snapshots are not counted."""
INSIDE_PERCENT = 80.0
"""Of the snapshots: wanted."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Of one run."""

    snapshots: int
    """From a tenth of it on."""
    told: int
    """Of those, with a time left."""
    inside: int
    """Of those, with the truth inside."""
    width: float
    """Mean width of the range, as a share of the time that was left."""


def last_command(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """Those of the last command that a run folder has recorded."""
    made: list[Snapshot] = []
    for snapshot in snapshots:
        if made and snapshot.elapsed < made[-1].elapsed:
            made = []
        made.append(snapshot)
    return made


def judge(snapshots: Sequence[Snapshot]) -> Judged:
    """Of a whole run, the older snapshots first; the last one is its end."""
    rates, end = Rates(), snapshots[-1].elapsed
    counted = told = inside = 0
    width = 0.0
    for snapshot in snapshots[:-1]:
        rates.observe(snapshot)
        if snapshot.elapsed < FROM * end:
            continue
        counted += 1
        if rates.run_left is None:
            continue
        told, left = told + 1, end - snapshot.elapsed
        inside += rates.run_left.least <= left <= rates.run_left.most
        width += (rates.run_left.most - rates.run_left.least) / max(1e-3, left)
    return Judged(counted, told, inside, width / max(1, told))


def simulated(ranks: int, *, shared: bool, slow: bool, seed: int, seconds: float = 3000.0) -> Iterator[Snapshot]:
    """The snapshots of a run that is made up: each rank has its own pace, which drifts; with `slow`, one has half."""
    rng = random.Random(seed)
    own = [rng.gauss(1.0, 0.03) * (0.5 if slow and rank == ranks - 1 else 1.0) for rank in range(ranks)]
    share = 1_000_000
    pool, done = ranks * share, [0.0] * ranks
    drift = [0.0] * ranks
    check_s, elapsed = seconds / 100, 0.0
    pace = share / seconds
    began_check: float | None = None
    while True:
        elapsed += 1.0
        if began_check is None:
            for rank in range(ranks):
                drift[rank] = 0.97 * drift[rank] + rng.gauss(0, 0.015)
                step = pace * own[rank] * (1 + drift[rank])
                done[rank] = done[rank] + step if shared else min(share, done[rank] + step)
            if (sum(done) >= pool) if shared else (min(done) >= share):
                began_check = elapsed
        embedding = began_check is None
        rows = tuple(
            _row(rank, "embed" if embedding else "check", int(done[rank]), share if embedding else 0, shared)
            for rank in range(ranks)
        )
        ended = "" if began_check is not None and elapsed >= began_check + check_s else None
        units = int(check_s * ranks / CHECK_S_PER_UNIT * 0.7)
        run = RunFacts(command="predict", coming=("check",) if embedding else (), n_units=units)
        yield Snapshot(1e9 + elapsed, elapsed, "round", rows, ended, "", run)
        if ended is not None:
            return


def _row(rank: int, stage: str, tokens: int, planned: int, shared: bool) -> RankRow:
    counters = [0] * len(COUNTERS)
    counters[COUNTER_INDEX["nucleotide_tokens"]] = tokens
    base = counters if stage == "check" else [0] * len(COUNTERS)
    return RankRow(rank, "running", stage, 0.0, planned, 0, shared, 0, -1, tuple(counters), tuple(base))


def row_of(name: str, snapshots: Sequence[Snapshot]) -> Row:
    """A whole run, judged."""
    judged = judge(snapshots)
    note = (
        f"{judged.inside} of {judged.told} that tell one, of {judged.snapshots} snapshots; mean width "
        f"{100 * judged.width:.0f} % of the time left"
    )
    share = 100 * judged.inside / judged.told if judged.told else None
    return Row(f"time left holds the end, {name}", share, "%", at_least=INSIDE_PERCENT, note=note)


def recorded_row(name: str, run: Path) -> Row:
    return row_of(name, last_command(read_file(run / "progress.jsonl")))


def simulated_rows(ranks: int, seconds: float = 3000.0) -> Iterator[Row]:
    """Three runs of each case that are made up."""
    for shared in (False, True):
        for slow in (False, True):
            name = recorded_runs.name_of("dynamic" if shared else "static", slow)
            for seed in range(3):
                snapshots = list(simulated(ranks, shared=shared, slow=slow, seed=seed, seconds=seconds))
                yield row_of(f"{name}, made up ({ranks} ranks, seed {seed})", snapshots)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--record", type=Path, metavar="OUT", help="record runs in this folder, and read them")
    parser.add_argument("--seed", type=int, default=recorded_runs.SEED, help="of the recorded runs' sample")
    parser.add_argument("--simulate", type=int, metavar="RANKS", help="runs that are made up, with so many ranks")
    options = parser.parse_args()
    print(conditions(), flush=True)
    rows = [recorded_row(str(run), run) for run in options.runs]
    if options.record is not None:
        rows += [recorded_row(name, run) for name, run in recorded_runs.record(options.record, seed=options.seed)]
    if options.simulate:
        rows += simulated_rows(options.simulate)
    print(table(rows))


if __name__ == "__main__":
    main()
