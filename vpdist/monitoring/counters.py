"""What a rank counts, and what all ranks counted at one moment.

A rank's state is one int64 vector: its counters, their values when the present stage began, and a few state fields.
Counters are sums that only grow, so vectors of several ranks can be added; rates are made by whoever draws.
A `Snapshot` is the matrix of all ranks, judged (who waits, who is silent) and readable; one JSON line each way.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from vpdist.encoder_kinds import KINDS

STAGES = ("start", "ingest", "plan", "layout", "load", "embed", "classify", "check", "tables")

COUNTERS = (
    "records",
    "units",
    "batches",
    "fragments",
    *(f"{kind}_tokens" for kind in KINDS),
    "padded_tokens",
    "bases",
    "bytes_written",
    "failures",
    "load_us",
    "compute_us",
    "write_us",
    "progress_us",
)
"""`progress_us` is what telling costs: time in `Progress.add` and in logging, CPU time of progress's threads."""

STATE_FIELDS = (
    "stage",
    "planned_tokens",
    "planned_units",
    "shared",
    "waiting",
    "done",
    "added",
    "memory_bytes",
    "utilisation",
    "tick",
    "beat",
)
"""`added`: batches or blocks counted since the stage began; `tick` and `beat`: see Liveness."""

COUNTER_INDEX = {name: index for index, name in enumerate(COUNTERS)}
FIRST_BASE = len(COUNTERS)
FIRST_STATE = 2 * len(COUNTERS)
WIDTH = FIRST_STATE + len(STATE_FIELDS)
STAGE, PLANNED_TOKENS, PLANNED_UNITS, SHARED, WAITING, DONE, ADDED, MEMORY, UTILISATION, TICK, BEAT = range(
    FIRST_STATE, WIDTH
)

STATES = ("running", "waiting", "done", "stalled", "lost")
LATEST_S = 1e11
"""Seconds: more than any clock shows."""
NO_UTILISATION = -1


def empty_vector() -> np.ndarray:
    """A rank's vector before it has done anything: (WIDTH,) int64."""
    vector = np.zeros(WIDTH, dtype=np.int64)
    vector[UTILISATION] = NO_UTILISATION
    return vector


def _is_time(value: object) -> bool:
    """Whether a value is seconds, of a span or since 1970."""
    return type(value) in (int, float) and 0 <= value < LATEST_S  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class RankRow:
    """One rank at one moment."""

    rank: int
    state: str
    """running, waiting (for other ranks), done, stalled, or lost."""
    stage: str
    silent_s: float
    """Seconds without a sign of life: of its main thread while it works on batches, else of its process."""
    planned_tokens: int
    """Tokens it will embed in this stage; 0 where that is not known."""
    planned_units: int
    """Units it will do in this stage; 0 where that is not known."""
    shared: bool
    """Whether the planned figures are a fair share of a pool that all ranks draw from."""
    memory_bytes: int
    utilisation: int
    """Of its device, in percent; -1 where nobody can say."""
    counters: tuple[int, ...]
    """Since the run began, in the order of COUNTERS."""
    base: tuple[int, ...]
    """The counters when this stage began."""

    def count(self, name: str) -> int:
        """A counter since the run began."""
        return self.counters[COUNTER_INDEX[name]]

    def in_stage(self, name: str) -> int:
        """A counter since this stage began."""
        index = COUNTER_INDEX[name]
        return self.counters[index] - self.base[index]

    @property
    def tokens(self) -> int:
        """Tokens of all encoders since this stage began."""
        return sum(self.in_stage(f"{kind}_tokens") for kind in KINDS)

    def is_sound(self) -> bool:
        """Whether all values are of the kinds a run has."""
        numbers = (self.rank, self.planned_tokens, self.planned_units, self.memory_bytes, self.utilisation)
        return (
            all(type(number) is int and abs(number) < 1 << 63 for number in (*numbers, *self.counters, *self.base))
            and self.state in STATES
            and self.stage in STAGES
            and type(self.shared) is bool
            and _is_time(self.silent_s)
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All ranks at one moment, as rank 0 knows them.

    As JSON (one line of progress.jsonl, field `v` = 1): `time` (Unix seconds), `elapsed` (seconds since the run began),
    `source` ("round": gathered; "keys": a round is overdue and rank 0 looked at the key store), `ended` (null while
    the run goes on, "" after success, else why it ended), `stage` of the run, `totals` (counter -> sum over ranks
    since the run began), `columns` (names of the counters) and `ranks`: a list of objects with the fields of
    `RankRow`, whose `counters` and `base` are lists in the order of `columns`.
    """

    time: float
    elapsed: float
    source: str
    rows: tuple[RankRow, ...]
    ended: str | None = None

    @property
    def totals(self) -> dict[str, int]:
        """Every counter summed over ranks, since the run began."""
        return {name: sum(row.counters[index] for row in self.rows) for name, index in COUNTER_INDEX.items()}

    @property
    def stage(self) -> str:
        """The stage of the rank that is furthest behind among those at work."""
        at_work = [row for row in self.rows if row.state not in ("waiting", "done", "lost")] or self.rows
        return min((row.stage for row in at_work), key=STAGES.index)

    @property
    def outline(self) -> tuple[object, ...]:
        """What, when it changes, deserves to be told at once: stages, states and the end."""
        return (self.ended, *((row.stage, row.state) for row in self.rows))

    def to_json(self) -> str:
        """One line of progress.jsonl, without the line's end."""
        fields = {
            "v": 1,
            "time": round(self.time, 3),
            "elapsed": round(self.elapsed, 3),
            "source": self.source,
            "ended": self.ended,
            "stage": self.stage,
            "totals": self.totals,
            "columns": COUNTERS,
            "ranks": [asdict(row) for row in self.rows],
        }
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Snapshot:
        """Read a line of progress.jsonl. Raises ValueError where it is none."""
        try:
            fields = json.loads(line)
            order = [fields["columns"].index(name) for name in COUNTERS]
            rows = tuple(
                RankRow(
                    **{
                        **row,
                        "counters": tuple(row["counters"][index] for index in order),
                        "base": tuple(row["base"][index] for index in order),
                    }
                )
                for row in fields["ranks"]
            )
            found = cls(fields["time"], fields["elapsed"], fields["source"], rows, fields["ended"])
            if not found.is_sound():
                raise TypeError("a value is none that a run has")
            return found
        except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a line of progress.jsonl: {error!r}") from error

    def is_sound(self) -> bool:
        """Whether all values are of the kinds a run has: a line of progress.jsonl may hold anything."""
        texts_are_texts = type(self.source) is str and (self.ended is None or type(self.ended) is str)
        return (
            texts_are_texts
            and len(self.rows) > 0
            and _is_time(self.time)
            and _is_time(self.elapsed)
            and all(row.is_sound() for row in self.rows)
        )
