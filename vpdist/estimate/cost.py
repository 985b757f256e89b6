"""`vpdist plan --manifest FILE --price P`: device hours and money of all objects, from a sample of them.

The sampled objects go through the dry run of `vpdist plan`: their fragments and tokens are counted exactly, a few of
their batches are timed. What a byte of them holds and takes, times the bytes of all objects, is the estimate; its range
is that of the sample. Rates are those of this machine at this moment, or the one that is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from vpdist.commands.early_checks import check_paths
from vpdist.commands.run_inputs import RunInputs
from vpdist.config import Settings
from vpdist.cpu_quota import machine_memory
from vpdist.estimate import object_sample
from vpdist.estimate.dry_run import forecast
from vpdist.estimate.forecast import Forecast
from vpdist.estimate.object_sample import Range
from vpdist.estimate.object_work import ObjectWork, object_work
from vpdist.planning import room
from vpdist.sequences.manifest import Manifest, sizes
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.run_folder import RunFolder
from vpdist.text import NAME_LETTERS, bytes_text, number_of, printable, shortened

HOUR = 3600
Row = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRequest:
    """What is asked of a manifest."""

    manifest: Manifest
    price: float | None
    """Money per device hour."""
    rate: float | None
    """Tokens of all encoders per second and device; None to measure."""
    sample: int
    """Objects to count, about."""
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The estimate of all objects of a manifest. Ranges are 95 % intervals over samples."""

    objects: int
    object_bytes: int
    sampled_objects: int
    sampled_bytes: int
    seed: int
    bases: Range
    fragments: Range
    tokens: Range | None = None
    """Of all encoders; None without models, as are the following."""
    shards: int = 1
    """Fewest shards of the manifest, so that each one is planned on a machine like this."""
    disk: dict[str, Range] = field(default_factory=dict)
    """Bytes of parts, tokens and tables."""
    device: str = ""
    """What a device hour is an hour of."""
    rate: float | None = None
    """Tokens per second and device: given, or measured while encoders compute."""
    hours: Range | None = None
    """Device hours."""
    price: float | None = None
    money: Range | None = None
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """One object: the fields."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def lines(self) -> list[str]:
        """The estimate as text: labels and what they say, aligned."""
        return [f"{label:<11}{text}".rstrip() for label, text in self._rows()]

    def _rows(self) -> Iterator[Row]:
        yield from (("", warning) for warning in self.warnings)
        yield "objects", f"{self.objects:,} ({bytes_text(self.object_bytes)})"
        counted = f"{self.sampled_objects:,} of them ({bytes_text(self.sampled_bytes)})"
        yield "", f"counted: {counted}, drawn by size with --seed {self.seed}"
        yield "bases", _range(self.bases)
        yield "fragments", _range(self.fragments)
        if self.tokens is None:
            yield "", "tokens, disk and device hours depend on the models: name --model"
            return
        yield "tokens", _range(self.tokens)
        if self.shards > 1:
            yield "shards", f"at least {self.shards:,}: --manifest FILE --shard i/{self.shards}"
        for name, size in self.disk.items():
            low, high = (bytes_text(round(bound)) for bound in (size.low, size.high))
            yield "disk" if name == "parts" else "", f"{name} {bytes_text(round(size.expected))} ({low} to {high})"
        if self.hours is not None:
            yield "time", f"{_range(self.hours)} hours of {self.device}"
        if self.rate is not None:
            yield "", f"at {self.rate:,.0f} tokens/s while encoders compute"
        if self.money is not None:
            yield "money", f"{_range(self.money)} at {self.price:,.2f} per device hour"


def _range(numbers: Range) -> str:
    return f"{_number(numbers.expected)} ({_number(numbers.low)} to {_number(numbers.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def estimate(settings: Settings, ranks: int, request: CostRequest) -> Cost:
    """The cost of all objects on ranks like those of this machine, `ranks` of them side by side.

    `settings`: with `dry_run`; inputs are replaced by the sampled objects. Raises InputError for an object that cannot
    be read, and what the dry run raises.
    """
    manifest = request.manifest
    size = sizes(manifest)
    formats = object_sample.formats([entry.path for entry in manifest.entries])
    strata = object_sample.draw(size, formats, request.sample, request.seed)
    drawn = np.sort(np.concatenate([np.zeros(0, np.int64), *(stratum.drawn for stratum in strata)]))
    about: dict[str, Any] = {"objects": len(size), "object_bytes": int(size.sum()), "seed": request.seed}
    about |= {"sampled_objects": len(drawn), "sampled_bytes": int(size[drawn].sum())}
    empty = _empty(manifest, size)
    if not len(drawn):
        return Cost(**about, bases=Range(0, 0, 0), fragments=Range(0, 0, 0), warnings=empty)
    settings = replace(settings, inputs=tuple(manifest.entries[number].location for number in drawn.tolist()))
    check_paths(settings)
    found: list[ObjectWork] = []

    def counted(folder: RunFolder, summary: StoreSummary, inputs: RunInputs) -> None:
        found.append(object_work(folder, summary, inputs))

    planned = forecast(settings, ranks, None, timed=request.rate is None, counted=counted)
    (work,) = found

    def total(values: np.ndarray) -> Range:
        """Of all objects, from values of the drawn ones."""
        of_all = np.zeros(len(size))
        of_all[drawn] = values
        return object_sample.total(size, strata, of_all)

    warnings = [*empty, *(f"of the sampled objects: {warning}" for warning in planned.warnings)]
    cost = Cost(**about, bases=total(work.bases), fragments=total(work.fragments), warnings=warnings)
    if planned.work is None:
        return cost
    shares = work.fragments / max(1, work.fragments.sum())
    disk = {} if planned.disk is None else {name: getattr(planned.disk, name) for name in ("parts", "tokens", "tables")}
    shards = room.shards_needed(round(cost.fragments.high), machine_memory())
    hours, rate = total(_hours(planned, work, request.rate)), request.rate
    if planned.time is not None:
        hours = hours.plus(len(planned.work.ranks) * planned.time.overhead * shards / HOUR)
        rate = sum(planned.work.tokens.values()) / sum(rank.embed_s for rank in planned.work.ranks)
    return replace(
        cost,
        tokens=total(work.tokens),
        shards=shards,
        disk={name: total(size_of_sample * shares) for name, size_of_sample in disk.items()},
        device=_device(planned, request.rate),
        rate=rate,
        hours=hours,
        price=request.price,
        money=None if request.price is None else hours.times(request.price),
    )


def _empty(manifest: Manifest, size: np.ndarray) -> list[str]:
    """A warning of objects that hold nothing or are not there, and hence count for nothing."""
    empty = np.flatnonzero(size == 0)
    if not len(empty):
        return []
    if len(empty) == len(size):
        return ["warning: all objects are empty or not there"]
    first = shortened(printable(manifest.entries[int(empty[0])].path), NAME_LETTERS)
    more = f" and {number_of(len(empty) - 1, 'other')}" if len(empty) > 1 else ""
    return [f"warning: empty or not there, and not counted: {first}{more}"]


def _hours(planned: Forecast, work: ObjectWork, rate: float | None) -> np.ndarray:
    """(drawn objects,) device hours of each, without start-up.

    While one rank reads, and while tables are written, every rank of the run is paid for.
    """
    if rate is not None:
        return work.tokens / rate / HOUR
    if planned.time is None or planned.work is None:
        return np.zeros(len(work.bases))
    ranks = planned.work.ranks
    per_cost = sum(rank.embed_s for rank in ranks) / max(1, sum(rank.cost for rank in ranks))
    reading = planned.time.ingest * work.bases / max(1, work.bases.sum())
    others = (planned.time.plan + planned.time.tables) * work.fragments / max(1, work.fragments.sum())
    return (per_cost * work.cost + len(ranks) * (reading + others)) / HOUR


def _device(planned: Forecast, rate: float | None) -> str:
    if rate is not None:
        return "a device of that rate, embedding alone"
    work = planned.work
    if work is None or work.device != "cpu":
        return "a GPU like this machine's"
    return "a core like this machine's" if work.threads == 1 else f"{work.threads} cores like this machine's"
