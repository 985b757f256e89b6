"""What a dry run has counted and measured, as the figures of its forecast."""

from __future__ import annotations

from collections.abc import Mapping

import psutil

from vpdist.config import ResolvedConfig
from vpdist.estimate.forecast import Counts, Memory, Rank, Time, Work
from vpdist.estimate.sample_files import SampledParts, SampledShards
from vpdist.estimate.timing_process import Timing
from vpdist.estimate.workload import Workload
from vpdist.planning.plan import deal
from vpdist.results.tables import Totals
from vpdist.sequences.store_summary import StoreSummary


def counts_of(summary: StoreSummary, totals: Totals, n_rows: int) -> Counts:
    """What there is, with `n_rows` fragments that are computed."""
    return Counts(
        sequences=summary.n_records,
        statuses=dict(totals.statuses),
        bases=summary.n_bases,
        chunks=summary.n_chunks,
        open_chunks=totals.open_chunks,
        fragments=summary.n_fragments,
        different_fragments=n_rows,
    )


def work_of_ranks(
    work: Workload, resolved: ResolvedConfig, n_ranks: int, seconds_per_cost: float, write_s: float
) -> Work:
    """The work of each rank, units dealt as the sampler does. `write_s`: seconds to write a part."""
    plan = work.plan
    unit_s = seconds_per_cost * plan.unit_cost + write_s

    def rank(units: list[int]) -> Rank:
        tokens, cost, embed_s = (column[units].sum() for column in (plan.unit_tokens, plan.unit_cost, unit_s))
        return Rank(units=len(units), tokens=int(tokens), cost=int(cost), embed_s=round(float(embed_s), 3))

    return Work(
        tokens={kind: int(lengths.sum()) for kind, lengths in work.lengths.items()},
        units=plan.n_units,
        device=resolved.device,
        dtype=resolved.dtype,
        threads=resolved.threads,
        token_budget=resolved.token_budget,
        ranks=[rank(units) for units in deal(plan.unit_cost, n_ranks)],
    )


def memory_of(timings: list[Timing], planning_bytes: int) -> Memory:
    """The most that any timed process took, and what there is; bytes."""
    return Memory(
        program=max(timing.program_bytes for timing in timings),
        encoders=max(timing.encoder_bytes for timing in timings),
        batches=max(timing.batch_bytes for timing in timings),
        planning=planning_bytes,
        device=timings[0].device_bytes,
        machine=psutil.virtual_memory().total,
    )


def time_of_stages(
    work: Work,
    timings: list[Timing],
    seconds: Mapping[str, float],
    reading_s: float,
    shards: SampledShards,
    sampled: SampledParts,
) -> Time:
    """Seconds of each stage; `seconds`: what those took that were run here, alone; `reading_s`: reading the input."""
    n_ranks = len(work.ranks)
    launched = 2 if n_ranks > 1 else 1  # a launcher imports torch, then its workers do
    units = max(rank.units for rank in work.ranks)
    return Time(
        launch=round(launched * max(timing.import_s for timing in timings), 3),
        start=round(seconds["start"], 3),
        load=round(max(timing.load_s for timing in timings), 3),
        ingest=round(max(reading_s, seconds["ingest"] / n_ranks), 3),
        plan=round(seconds["plan"] + shards.seconds / n_ranks, 3),
        embed=round(max(rank.embed_s for rank in work.ranks), 3),
        tables=round(seconds["tables"] + sampled.check_s * units, 3),
        timed_at_once=len(timings),
        timed_batches=sum(timing.batches for timing in timings),
    )
