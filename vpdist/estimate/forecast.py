"""The result of `vpdist plan`, as aligned text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from vpdist.encoder_kinds import CLASSIFIED, options
from vpdist.text import bytes_text, number_of, span_text

RANKS_LISTED = 16
"""Of more ranks than this only the busiest and the least busy are listed."""
Row = tuple[str, str]
"""A label and a text."""
STATUSES = {"ok": "to be scored", "no_open_frame": "no open frame", "too_short": "too short", "filtered": "filtered"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Content of the input."""

    sequences: int
    statuses: dict[str, int]
    """As in sequences.tsv; ok: will be scored."""
    bases: int
    chunks: int
    open_chunks: int
    fragments: int
    different_fragments: int
    """Those to embed: equal fragments are embedded once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One rank's share."""

    units: int
    tokens: int
    cost: int
    """Thousands of floating-point operations."""
    embed_s: float
    """Estimated time in the encoders and writing parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work of the encoders, and how it is dealt to ranks."""

    tokens: dict[str, int]
    """Per encoder, of the different fragments."""
    units: int
    device: str
    dtype: str
    threads: int
    token_budget: int
    ranks: list[Rank]

    @property
    def busiest(self) -> float:
        """Cost of the busiest rank over the mean; 1 where there is no work."""
        costs = [rank.cost for rank in self.ranks]
        return max(costs) * len(costs) / sum(costs) if sum(costs) else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Bytes of the finished run folder, without logs."""

    parts: int
    tokens: int
    tables: int
    where: str
    """The run folder, '' where none was named."""
    free: int | None
    """Free bytes in the run folder."""
    virus_files: int = 0
    """At most: what is made from the tables, were every sequence called virus."""

    @property
    def total(self) -> int:
        return self.parts + self.tokens + self.tables + self.virus_files


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes a rank needs. On CUDA, encoders and batches are on the device."""

    program: int
    encoders: int
    batches: int
    planning: int
    """Of rank 0 while it plans and while it writes tables, program included."""
    device: int
    """Memory of one device; 0 on a CPU."""
    machine: int
    """Memory of this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """Estimated seconds of each step."""

    launch: float
    """Launcher, process start, imports."""
    start: float
    """Models, classifier and input resolved and compared."""
    load: float
    """Encoders loaded."""
    ingest: float
    """Sequences to tokens."""
    plan: float
    """Plan, and tokens in plan order."""
    embed: float
    """Encoders and parts, on the busiest rank."""
    tables: float
    """Parts checked, tables written."""
    timed_at_once: int
    """Processes timed side by side on this machine."""
    timed_batches: int

    @property
    def overhead(self) -> float:
        """Start-up, which does not depend on the amount of work."""
        return self.launch + self.start + self.load

    @property
    def total(self) -> float:
        return self.overhead + self.ingest + self.plan + self.embed + self.tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The whole forecast. Without models only counts; without fragments neither memory nor time."""

    counts: Counts
    warnings: list[str] = field(default_factory=list)
    """What a run would warn of."""
    work: Work | None = None
    disk: Disk | None = None
    memory: Memory | None = None
    time: Time | None = None

    def to_json(self) -> str:
        """One object: the fields, and the totals that follow from them."""
        fields = asdict(self)
        if self.work is not None:
            fields["work"]["busiest_over_mean"] = round(self.work.busiest, 4)
        if self.disk is not None:
            fields["disk"]["total"] = self.disk.total
        if self.time is not None:
            fields["time"] |= {"overhead": round(self.time.overhead, 3), "total": round(self.time.total, 3)}
        return json.dumps(fields, indent=2, ensure_ascii=False)

    def lines(self) -> list[str]:
        """The forecast as text: labels and what they say, aligned."""
        return [f"{label:<11}{text}".rstrip() for label, text in self._rows()]

    def _rows(self) -> Iterator[Row]:
        yield from (("", warning) for warning in self.warnings)
        yield from _counts(self.counts)
        if self.work is None:
            yield "", "tokens, units, balance, disk, memory and time depend on the models:"
            yield "", f"name --model, or {options(CLASSIFIED)}"
            return
        yield from _work(self.work)
        if self.disk is not None:
            yield from _disk(self.disk)
        if self.memory is not None:
            yield from _memory(self.memory)
        if self.time is not None:
            yield from _time(self.time, len(self.work.ranks))
        elif not self.counts.fragments:
            reason = "no chunk has an open frame" if self.counts.chunks else "no sequence has a chunk"
            yield "time", f"{reason}: there is nothing to embed"


def _counts(counts: Counts) -> Iterator[Row]:
    yield "sequences", f"{counts.sequences:,} ({counts.bases:,} bases)"
    for status, meaning in STATUSES.items():
        if counts.statuses.get(status):
            yield "", f"{counts.statuses[status]:,} {meaning}"
    yield "chunks", f"{counts.chunks:,}, of which {counts.open_chunks:,} have an open frame"
    yield "fragments", f"{counts.fragments:,} ({counts.different_fragments:,} different)"


def _work(work: Work) -> Iterator[Row]:
    yield "tokens", ", ".join(f"{number:,} {kind}" for kind, number in work.tokens.items())
    per_rank = f"{work.dtype} on {work.device}, {number_of(work.threads, 'thread')} per rank"
    yield "batches", f"{work.token_budget:,} tokens, {per_rank}"
    yield "units", f"{work.units:,} for {number_of(len(work.ranks), 'rank')}"
    busy = [rank for rank in work.ranks if rank.units]
    if len(busy) < len(work.ranks):
        yield "", f"{number_of(len(work.ranks) - len(busy), 'rank')} idle"
    if len(work.ranks) > 1 and busy:
        yield "balance", f"busiest rank {work.busiest:.3f} x mean"
        mean = sum(rank.cost for rank in work.ranks) / len(work.ranks)
        for label, rank in _listed(work.ranks):
            share = f"{rank.cost / mean:.3f} x mean"
            yield "", f"{label:<10} {rank.units:>7,} units {rank.tokens:>15,} tokens   {share}"


def _listed(ranks: list[Rank]) -> list[tuple[str, Rank]]:
    """All ranks; of more than RANKS_LISTED the busiest and the least busy."""
    if len(ranks) <= RANKS_LISTED:
        return [(f"rank {number}", rank) for number, rank in enumerate(ranks)]
    in_order = sorted(ranks, key=lambda rank: rank.cost)
    return [("busiest", in_order[-1]), ("least busy", in_order[0])]


def _disk(disk: Disk) -> Iterator[Row]:
    sizes = ", ".join(f"{name} {bytes_text(getattr(disk, name))}" for name in ("parts", "tokens", "tables"))
    yield "disk", f"{bytes_text(disk.total)}: {sizes}"
    yield "", f"and at most {bytes_text(disk.virus_files)} of virus sequences, their table and regions"
    if disk.free is not None:
        fits = "enough" if disk.free > disk.total else "NOT ENOUGH"
        yield "", f"{bytes_text(disk.free)} free at {disk.where}: {fits}"


def _memory(memory: Memory) -> Iterator[Row]:
    on_device = memory.encoders + memory.batches
    parts = f"encoders {bytes_text(memory.encoders)}, batches {bytes_text(memory.batches)}"
    if memory.device:
        yield "memory", f"{bytes_text(on_device)} of {bytes_text(memory.device)} on each device: {parts}"
        yield "", f"{bytes_text(memory.program)} of the machine per rank"
    else:
        yield "memory", f"{bytes_text(memory.program + on_device)} per rank: {parts}, rest the program"
    machine = f"this machine has {bytes_text(memory.machine)}"
    yield "", f"{bytes_text(memory.planning)} on rank 0 while it plans; {machine}"


def _time(time: Time, ranks: int) -> Iterator[Row]:
    yield "time", f"about {span_text(time.total)} on {number_of(ranks, 'rank')} like those of this machine"
    steps = {
        "embedding": time.embed,
        "reading and tokenising": time.ingest,
        "planning": time.plan,
        "checks and tables": time.tables,
    }
    for step, seconds in steps.items():
        yield "", f"{_seconds(seconds):>9}  {step}"
    yield "", f"{_seconds(time.overhead):>9}  start-up (launcher and imports {_seconds(time.launch)}, "
    yield "", f"{'':>9}  looking models up {_seconds(time.start)}, loading them {_seconds(time.load)})"
    together = "1 process" if time.timed_at_once == 1 else f"{time.timed_at_once} processes"
    yield "", f"from {time.timed_batches} batches, timed in {together} at once"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 99.95 else span_text(seconds)
