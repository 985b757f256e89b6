"""What a rank counts, and what all ranks counted at one moment.

A rank's state is one int64 vector: its counters, their values when the present stage began, and a few state fields.
Counters are sums that only grow, so vectors of several ranks can be added; displays compute rates from them.
A `Snapshot` is the matrix of all ranks with each rank's state (waiting, stalled, ...); it is one line of JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import IntEnum, auto
from functools import cached_property

import numpy as np

from vpdist.encoder_kinds import KINDS
from vpdist.monitoring.facts import RankFacts, RunFacts, facts_from_json, facts_json

STAGES = (
    *("start", "groups", "ingest", "plan", "layout", "load", "embed", "classify", "check", "tables"),
    *("rows", "fit", "judge"),
)

SCORE_BINS = tuple(f"score_{eighth}" for eighth in range(8))
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
    "wait_us",
    "work_mflop",
    "steps",
    *SCORE_BINS,
)
"""`progress_us` is the cost of monitoring: time in `Progress.add` and in logging, CPU time of monitoring's threads.
`wait_us` is time spent waiting for other ranks. `work_mflop` counts operations of the encoders' layers and attention,
in millions, as the plan's cost does. `steps` is what a stage without planned tokens or units has done, in its own
measure (bytes of input read, parts checked, blocks written). `score_0` to `score_7` count rows by virus score, in
eighths."""

COUNTER_INDEX = {name: index for index, name in enumerate(COUNTERS)}
TOKEN_PLACES = tuple(COUNTER_INDEX[f"{kind}_tokens"] for kind in KINDS)
FIRST_BASE = len(COUNTERS)
FIRST_STATE = 2 * len(COUNTERS)


class Cell(IntEnum):
    """Where a rank's state is in its vector, behind the counters and their base."""

    STAGE = FIRST_STATE
    PLANNED_TOKENS = auto()
    PLANNED_UNITS = auto()
    SHARED = auto()
    WAITING = auto()
    DONE = auto()
    ADDED = auto()
    """Batches or blocks counted since the stage began."""
    MEMORY = auto()
    UTILISATION = auto()
    PLANNED_WORK = auto()
    """In millions of operations, as the counter `work_mflop`."""
    PLANNED_STEPS = auto()
    POWER_MW = auto()
    TEMPERATURE = auto()
    THROTTLE = auto()
    """Reasons for a lower clock, as NVML's bits; see telemetry.py."""
    ENERGY_J = auto()
    TICK = auto()
    """See Liveness, as for BEAT."""
    BEAT = auto()


WIDTH = FIRST_STATE + len(Cell)
STATES = ("running", "waiting", "done", "stalled", "lost")
LATEST_S = 1e11
"""Seconds; times in a snapshot lie below."""
EARLIEST_S = -1e10
"""Unix time of the year 1653; a clock that is not set may show a time before 1970."""
UNKNOWN = -1
READINGS = (Cell.UTILISATION, Cell.POWER_MW, Cell.TEMPERATURE, Cell.THROTTLE, Cell.ENERGY_J)
"""Cells that are UNKNOWN where the device does not tell."""


FIRST_COUNTERS = frozenset(COUNTERS[: COUNTERS.index("wait_us")])
"""Those that every version has counted."""


def _in_order(values: list[int], order: list[int | None]) -> tuple[int, ...]:
    """Values in the order of COUNTERS, 0 for those that are not there."""
    return tuple(0 if index is None else values[index] for index in order)


def empty_vector() -> np.ndarray:
    """A rank's vector at its start: (WIDTH,) int64."""
    vector = np.zeros(WIDTH, dtype=np.int64)
    vector[list(READINGS)] = UNKNOWN
    return vector


def _is_time(value: object, earliest: float = 0.0) -> bool:
    """Whether a value is a duration or a time, in seconds."""
    return type(value) in (int, float) and earliest <= value < LATEST_S  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class RankRow:
    """One rank at one moment."""

    rank: int
    state: str
    """running, waiting (for other ranks), done, stalled, or lost."""
    stage: str
    silent_s: float
    """Seconds without a report: from its main thread while it computes batches, else from its process."""
    planned_tokens: int
    """Tokens it will embed in this stage; 0 where that is not known."""
    planned_units: int
    """Units it will do in this stage; 0 where that is not known."""
    shared: bool
    """Whether units are assigned dynamically; then the planned numbers are an equal share of all."""
    memory_bytes: int
    utilisation: int
    """Of its device, in percent; -1 where it is not known."""
    counters: tuple[int, ...]
    """Since the run began, in the order of COUNTERS."""
    base: tuple[int, ...]
    """The counters when this stage began."""
    planned_work: int = 0
    """Work of this stage in millions of operations; 0 where that is not known."""
    planned_steps: int = 0
    """Steps of this stage; 0 where that is not known."""
    power_mw: int = UNKNOWN
    """Of its device, in thousandths of a watt."""
    temperature: int = UNKNOWN
    """Of its device, in degrees Celsius."""
    throttle: int = UNKNOWN
    """Why its device's clock is lowered, as NVML's bits."""
    energy_j: int = UNKNOWN
    """That its device has taken since the run began, in joules."""

    def count(self, name: str) -> int:
        """Value of a counter since the run began."""
        return self.counters[COUNTER_INDEX[name]]

    def in_stage(self, name: str) -> int:
        """Value of a counter since this stage began."""
        index = COUNTER_INDEX[name]
        return self.counters[index] - self.base[index]

    @property
    def tokens(self) -> int:
        """Tokens of all encoders since this stage began."""
        counters, base = self.counters, self.base
        return sum([counters[place] - base[place] for place in TOKEN_PLACES])

    def is_sound(self) -> bool:
        """Whether all values have the types and ranges of a run's."""
        numbers = (self.rank, *(getattr(self, name) for name in WHOLE_NUMBERS))
        return (
            all(type(number) is int and abs(number) < 1 << 63 for number in (*numbers, *self.counters, *self.base))
            and self.state in STATES
            and self.stage in STAGES
            and type(self.shared) is bool
            and _is_time(self.silent_s)
        )


WHOLE_NUMBERS = (
    *("planned_tokens", "planned_units", "memory_bytes", "utilisation"),
    *("planned_work", "planned_steps", "power_mw", "temperature", "throttle", "energy_j"),
)
"""Fields of RankRow that are numbers of any size; the last six are left out of JSON where they say nothing."""
SAYS_NOTHING = {"planned_work": 0, "planned_steps": 0} | dict.fromkeys(WHOLE_NUMBERS[6:], UNKNOWN)


def row_fields(row: RankRow) -> dict[str, object]:
    """A row as an object of progress.jsonl."""
    fields = {name: getattr(row, name) for name in RankRow.__dataclass_fields__}
    return {name: value for name, value in fields.items() if name not in SAYS_NOTHING or value != SAYS_NOTHING[name]}


@dataclass(frozen=True)
class Snapshot:
    """All ranks at one moment, as rank 0 knows them.

    As JSON (one line of progress.jsonl, field `v` = 1): `time` (Unix seconds), `elapsed` (seconds since the run began),
    `source` ("round": gathered; "keys": a round is overdue and rank 0 read the key store), `ended` (null while the run
    goes on, "" after success, else why it ended), `stage` of the run, `totals` (counter -> sum over ranks since the run
    began), `columns` (names of the counters) and `ranks`: a list of objects with the fields of `RankRow`, whose
    `counters` and `base` are lists in the order of `columns`; and `note`, `run` (fields of `RunFacts`) and `facts` (of
    each rank, see `RankFacts`), where there are such. Lines between whole ones: see display/progress_lines.py.
    """

    time: float
    elapsed: float
    source: str
    rows: tuple[RankRow, ...]
    ended: str | None = None
    note: str = ""
    """What the stage has reached, in words; the bars show as much as fits, up to a comma."""
    run: RunFacts = field(default_factory=RunFacts)
    facts: tuple[RankFacts, ...] = ()
    """Of each rank; empty while none is known."""

    @cached_property
    def totals(self) -> dict[str, int]:
        """Every counter summed over ranks, since the run began. Summed once: displays ask for it several times."""
        columns = zip(*(row.counters for row in self.rows), strict=True)
        return dict(zip(COUNTERS, map(sum, columns), strict=True))

    @cached_property
    def stage(self) -> str:
        """The earliest stage of the ranks that run or are stalled, or else of all."""
        active = [row for row in self.rows if row.state not in ("waiting", "done", "lost")] or self.rows
        return min((row.stage for row in active), key=STAGES.index)

    @property
    def stages_and_states(self) -> tuple[object, ...]:
        """What is recorded immediately when it changes: stages, states and the end."""
        return (self.ended, *((row.stage, row.state) for row in self.rows))

    def head(self) -> dict[str, object]:
        """What every line of progress.jsonl begins with."""
        return {
            "v": 1,
            "time": round(self.time, 3),
            "elapsed": round(self.elapsed, 3),
            "source": self.source,
            "ended": self.ended,
            "stage": self.stage,
            "totals": self.totals,
        } | ({"note": self.note} if self.note else {})

    def to_json(self) -> str:
        """One line of progress.jsonl, without the line's end."""
        fields = self.head() | {"columns": COUNTERS, "ranks": [row_fields(row) for row in self.rows]}
        if self.run != RunFacts():
            fields["run"] = self.run.to_fields()
        if self.facts:
            fields["facts"] = facts_json(self.facts)
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Snapshot:
        """Read a line of progress.jsonl, also of a version that tells less or more. Raises ValueError for others."""
        try:
            fields = json.loads(line)
            places = {name: index for index, name in enumerate(fields["columns"])}
            order = [places[name] if name in FIRST_COUNTERS else places.get(name) for name in COUNTERS]
            rows = tuple(
                RankRow(
                    **{name: value for name, value in row.items() if name in RankRow.__dataclass_fields__}
                    | {name: _in_order(row[name], order) for name in ("counters", "base")}
                )
                for row in fields["ranks"]
            )
            snapshot = cls(
                fields["time"],
                fields["elapsed"],
                fields["source"],
                rows,
                fields["ended"],
                fields.get("note", ""),
                RunFacts.from_fields(fields["run"]) if "run" in fields else RunFacts(),
                facts_from_json(fields["facts"]) if "facts" in fields else (),
            )
            if not snapshot.is_sound():
                raise TypeError("a value has a wrong type or range")
            return snapshot
        except (KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a line of progress.jsonl: {error!r}") from error

    def is_sound(self) -> bool:
        """Whether all values have the types and ranges of a run's: a line of progress.jsonl may hold anything."""
        return (
            type(self.source) is str
            and type(self.note) is str
            and (self.ended is None or type(self.ended) is str)
            and len(self.rows) > 0
            and len(self.facts) in (0, len(self.rows))
            and _is_time(self.time, EARLIEST_S)
            and _is_time(self.elapsed)
            and all(row.is_sound() for row in self.rows)
        )
