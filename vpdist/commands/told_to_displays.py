"""What displays are told beside the counters: what runs, what was kept, the device's limit, steps of tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vpdist.commands.resolve_config import ResolvedConfig
from vpdist.config import Settings
from vpdist.embedding.unit_pipeline import UnitWork
from vpdist.encoders.products import quick_products_rate
from vpdist.planning.plan import Plan
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.coordination import Control
from vpdist.session.progress import Progress

STAGES = ("ingest", "plan", "layout", "load", "embed", "check", "tables")
NAMED_INPUTS = 3
"""Inputs that a display names; of the others it tells the number."""
STEPS_PER_BLOCK = 100
"""Writing the rows of a block takes about this many times as long as reading the scores of a unit."""


def describe_command(progress: Progress, settings: Settings, resolved: ResolvedConfig) -> None:
    """On rank 0: which command works on which input, and the stages that will come."""
    names = tuple(Path(name).name or name for name in resolved.input_names)
    progress.describe(
        command="predict" if settings.classifier is not None else "embed",
        inputs=names[:NAMED_INPUTS],
        n_inputs=len(names),
        output=str(settings.output),
        told=(resolved.dtype,),
        coming=STAGES,
    )


def describe_work(progress: Progress, work: UnitWork, n_left: int) -> None:
    """On rank 0: how many units there are, and how many need not be computed again."""
    n_units = work.plan.n_units
    kept = n_units - n_left
    told = [str(work.header.dtype)]
    if kept:
        told.append(f"resumed, {kept:,} of {n_units:,} units kept")
    n_fragments = len(work.plan.fragment)
    progress.describe(told=tuple(told), n_units=n_units, kept_units=kept, n_fragments=n_fragments)


def measure_limit(progress: Progress, work: UnitWork) -> None:
    """The rate of plain products of the encoder that has most to do, while the encoders are loaded anyway."""
    encoder = max(work.encoders.values(), key=lambda each: each.shape.linear_flops_per_token)
    rate = quick_products_rate(encoder.shape, work.token_budget, encoder.dtype, encoder.device)
    progress.tell_limit(rate)


def table_steps(control: Control, summary: StoreSummary, plan: Plan) -> tuple[Callable[[], None], Callable[[], None]]:
    """What to call for each unit whose scores are read, and for each block whose rows are written."""
    progress = control.progress

    def after(steps: int) -> Callable[[], None]:
        def call() -> None:
            if progress is not None:
                progress.add(steps=steps)
            control.raise_if_ending()

        return call

    if progress is not None:
        progress.plan_steps(plan.n_units + STEPS_PER_BLOCK * len(summary.fragments_per_block))
    return after(1), after(STEPS_PER_BLOCK)
