"""Snapshots of runs on many GPUs that are made up, through the code that makes real ones.

Every counter and every reading of every rank moves, each rank at a pace of its own that drifts, so lines of
progress.jsonl are as long as they get while ranks compute.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vpdist.monitoring.counters import COUNTER_INDEX, SCORE_BINS, STAGES, Cell, Snapshot, empty_vector
from vpdist.monitoring.emitter import SNAPSHOT_S_PER_RANK
from vpdist.monitoring.facts import RankFacts, RunFacts
from vpdist.monitoring.intervals import Intervals
from vpdist.monitoring.liveness import Liveness

PER_NODE = 8
BEGAN = 1.78e9
PER_S = {
    "batches": 4.0,
    "fragments": 230.0,
    "nucleotide_tokens": 25_600.0,
    "protein_tokens": 38_400.0,
    "padded_tokens": 700.0,
    "bases": 115_000.0,
    "units": 0.02,
    "bytes_written": 1.1e6,
    "load_us": 3e4,
    "compute_us": 8.8e5,
    "write_us": 1e4,
    "progress_us": 2e3,
    "wait_us": 2e2,
    "work_mflop": 3.5e8,
} | dict(zip(SCORE_BINS, (60.0, 30.0, 15.0, 8.0, 8.0, 12.0, 30.0, 67.0), strict=True))
"""Of a rank: counters, by their growth."""


def interval_s(ranks: int) -> float:
    """Seconds between the snapshots of a run on so many ranks."""
    return max(Intervals().round_s, ranks * SNAPSHOT_S_PER_RANK)


class Simulated:
    """Vectors of ranks that embed, and what is made of them. `step` is what rank 0 does for one snapshot."""

    def __init__(self, ranks: int, hours: float = 24.0, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._every_s, self.elapsed = interval_s(ranks), 0.0
        self._pace, self._drift = self._rng.normal(1, 0.02, ranks), np.zeros(ranks)
        self._liveness = Liveness(ranks, 0.0, Intervals().stalled_s)
        self._places = [COUNTER_INDEX[name] for name in PER_S]
        self._sums = np.zeros((ranks, len(PER_S)))
        self._vectors = np.tile(empty_vector(), (ranks, 1))
        self._vectors[:, Cell.STAGE] = STAGES.index("embed")
        for cell, name in ((Cell.PLANNED_WORK, "work_mflop"), (Cell.PLANNED_UNITS, "units")):
            self._vectors[:, cell] = round(PER_S[name] * hours * 3600)
        self._vectors[:, Cell.PLANNED_TOKENS] = round(64_000 * hours * 3600)
        device = ("NVIDIA H100 80GB HBM3", 80 << 30, 660_000_000)
        self._facts = tuple(
            RankFacts(f"node{rank // PER_NODE:04}", 40_000 + rank, device[0], rank % PER_NODE, *device[1:])
            for rank in range(ranks)
        )
        stages = (("start", 0.0), ("ingest", 0.1), ("plan", 131.2), ("load", 139.4), ("embed", 170.5))
        coming, units = ("check", "tables"), round(PER_S["units"] * hours * 3600) * ranks
        self._run = RunFacts("predict", ("reads.fa.gz",), 1, "RUN", ("float16",), stages, coming, units)

    def advance(self) -> np.ndarray:
        """The vectors of the next snapshot, (ranks, WIDTH) int64: what the gather brings."""
        ranks = len(self._vectors)
        self.elapsed += self._every_s
        self._drift = 0.97 * self._drift + self._rng.normal(0, 0.01, ranks)
        jitter = self._rng.normal(1, 0.02, (ranks, len(PER_S)))
        growth = np.array(list(PER_S.values())) * self._every_s
        self._sums += np.maximum(0, growth * (self._pace + self._drift)[:, None] * jitter)
        self._vectors[:, self._places] = self._sums
        self._vectors[:, Cell.ADDED] = self._sums[:, 0]
        self._vectors[:, [Cell.TICK, Cell.BEAT]] += 1
        self._vectors[:, Cell.MEMORY] = self._rng.integers(58 << 30, 62 << 30, ranks)
        self._vectors[:, Cell.UTILISATION] = self._rng.integers(88, 100, ranks)
        self._vectors[:, Cell.POWER_MW] = self._rng.integers(600_000, 690_000, ranks)
        self._vectors[:, Cell.TEMPERATURE] = self._rng.integers(58, 75, ranks)
        self._vectors[:, Cell.THROTTLE] = 0
        self._vectors[:, Cell.ENERGY_J] = round(650 * self.elapsed)
        return self._vectors.copy()

    def step(self, vectors: np.ndarray) -> Snapshot:
        self._liveness.observe(vectors, self.elapsed)
        return self._liveness.snapshot(
            self.elapsed,
            time=BEGAN + self.elapsed,
            elapsed=self.elapsed,
            source="round",
            run=self._run,
            facts=self._facts,
        )


def snapshots(ranks: int, hours: float, seed: int = 0) -> Iterator[Snapshot]:
    """All snapshots of so many hours."""
    simulated = Simulated(ranks, hours, seed)
    while simulated.elapsed < hours * 3600:
        yield simulated.step(simulated.advance())
