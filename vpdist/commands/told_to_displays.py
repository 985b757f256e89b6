"""What displays are told beside the counters: what runs, what was kept, the device's limit, steps of tables."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from pathlib import Path

from vpdist.commands.resolve_config import ResolvedConfig
from vpdist.config import Settings
from vpdist.embedding.unit_pipeline import UnitWork
from vpdist.encoders.products import quick_products_rate
from vpdist.planning.plan import Plan
from vpdist.results.parts import part_path
from vpdist.sequences.store_summary import StoreSummary
from vpdist.session.coordination import Control
from vpdist.session.progress import Progress
from vpdist.session.session import Session
from vpdist.storage.atomic_files import storage_error
from vpdist.storage.run_folder import RunFolder
from vpdist.text import number_of
from vpdist.train_settings import TrainSettings
from vpdist.training.head_lengths import head_lengths, shortest_chunk_of
from vpdist.training.labelled import Labelled

STAGES = ("ingest", "plan", "layout", "load", "embed", "check", "tables")
NAMED_INPUTS = 3
"""Inputs that a display names; of the others it tells the number."""
STEPS_PER_BLOCK, FRAGMENTS_PER_STEP = 25, 300
STEPS_PER_FILE, FRAGMENTS_PER_FILE_STEP = 50, 400
LAST_STEPS = 50
"""Steps of tables are about as long as reading the scores of a unit, two thousandths of a second: those of a block's
rows, of each of the files beside the tables, and of putting all of them in their place."""


def describe_command(session: Session, settings: Settings, resolved: ResolvedConfig) -> None:
    """On rank 0: which command works on which input, and the stages that will come. Of a run inside another command,
    which has told that itself: its stages, and what follows them there."""
    progress = session.progress
    if not progress.after:
        command = "predict" if settings.classifier is not None else "embed"
        _describe(progress, command, resolved.input_names, settings.output)
    progress.describe(told=(resolved.dtype,), coming=(*STAGES, *progress.after.get(session.name, ())))


def describe_training(progress: Progress, settings: Settings, training: TrainSettings, labelled: Labelled) -> None:
    """The same of `vpdist train`: the first run, rows and fit; for each further classifier the same again; the
    calibration's run; the judgement. A run inside is named as its session is, its stages are told when it begins."""
    shortest = shortest_chunk_of(training.shortest_chunk, training.heads) or 0
    heads = head_lengths(training.heads, settings.bases_per_chunk, shortest)
    inside = [f"head-{head.length}" for head in heads]
    last = ("calibration-run", "judge")  # the run of pieces is left out where there are none
    progress.after = {"": ("rows", "fit", *inside, *last), "calibration-run": ("judge",)}
    for number, name in enumerate(inside, 1):
        progress.after[name] = ("rows", "fit", *inside[number:], *last)
    _describe(progress, "train", labelled.inputs, labelled.model)
    progress.describe(coming=("groups", *STAGES, *progress.after[""]))


def describe_classify(progress: Progress, output: Path, resolved: ResolvedConfig, plan: Plan) -> None:
    """The same of `vpdist classify`."""
    _describe(progress, "classify", resolved.input_names, output)
    progress.describe(coming=("classify", "tables"), n_units=plan.n_units, **_fragments(plan))


def _describe(progress: Progress, command: str, inputs: Sequence[str], output: Path) -> None:
    names = tuple(Path(name).name or name for name in inputs)
    progress.describe(command=command, inputs=names[:NAMED_INPUTS], n_inputs=len(names), output=str(output))


def _fragments(plan: Plan) -> dict[str, int]:
    return {"n_fragments": len(plan.fragment), "deduplicated": len(plan.fragment) - plan.n_rows}


def describe_work(
    session: Session, work: UnitWork, left: Collection[int], crashes: Container[int], attempt: int
) -> None:
    """On rank 0, before any rank computes of the units `left`: how many there are, how many need not be computed again,
    and how many are. In a later attempt all of them are, since their parts were damaged. Raises StorageError."""
    progress, n_units = session.progress, work.plan.n_units
    if attempt == 0:
        progress.describe(n_units=n_units, kept_units=n_units - len(left), recomputed_units=0, **_fragments(work.plan))
        again = units_begun(session.folder, left, crashes)
    else:
        again = len(left)
    run = progress.run
    progress.describe(recomputed_units=run.recomputed_units + again)
    if attempt == 0 and run.kept_units:
        progress.message(f"resumed, {run.kept_units:,} of {number_of(n_units, 'unit')} kept")
    if again:
        why = "their parts were damaged" if attempt else "an earlier command has not left a valid part of them"
        progress.message(f"{number_of(again, 'unit')} computed again: {why}")
    told = [str(work.header.dtype)]
    if run.kept_units:
        told.append(f"resumed, {run.kept_units:,} of {n_units:,} units kept")
    if progress.run.recomputed_units:
        told.append(f"{number_of(progress.run.recomputed_units, 'unit')} recomputed")
    if run.deduplicated:
        told.append(f"{run.deduplicated:,} of {run.n_fragments:,} fragments deduplicated")
    progress.describe(told=tuple(told))


def units_begun(folder: RunFolder, left: Collection[int], crashes: Container[int]) -> int:
    """How many of the units `left` were computed before, wholly or in part: they have a part that is not valid, or a
    process has crashed in them (`crashes`). Raises StorageError."""
    try:
        present = {entry.name for entry in folder.parts.iterdir()}
    except OSError as error:
        raise storage_error(folder.parts, error, "read") from error
    return sum(unit in crashes or part_path(folder.parts, unit).name in present for unit in left)


def measure_limit(progress: Progress, work: UnitWork) -> None:
    """The rate of plain products of the encoder that has most to do, while the encoders are loaded anyway."""
    encoder = max(work.encoders.values(), key=lambda each: each.shape.linear_flops_per_token)
    rate = quick_products_rate(encoder.shape, work.token_budget, encoder.dtype, encoder.device)
    progress.tell_limit(rate)


class TableSteps:
    """The steps of the stage `tables` on rank 0; each method is called after what it names."""

    def __init__(self, control: Control, summary: StoreSummary, n_units: int, *, files: int) -> None:
        """`n_units`: whose scores are read; `files`: passes that write files beside the tables."""
        self._control, self._blocks = control, iter(summary.fragments_per_block)
        self._per_file = STEPS_PER_FILE + summary.n_fragments // FRAGMENTS_PER_FILE_STEP
        if control.progress is not None:
            rows = sum(map(_block_steps, summary.fragments_per_block))
            control.progress.plan_steps(n_units + rows + files * self._per_file + LAST_STEPS)

    def unit(self) -> None:
        """The scores of a unit are read."""
        self._add(1)
        self._control.raise_if_ending()

    def block(self) -> None:
        """The rows of a block are written."""
        self._add(_block_steps(next(self._blocks, 0)))
        self._control.raise_if_ending()

    def file(self) -> None:
        """A file beside the tables is written."""
        self._add(self._per_file)

    def end(self) -> None:
        """All files are in their place."""
        self._add(LAST_STEPS)

    def _add(self, steps: int) -> None:
        if self._control.progress is not None:
            self._control.progress.add(steps=steps)


def _block_steps(fragments: int) -> int:
    return STEPS_PER_BLOCK + fragments // FRAGMENTS_PER_STEP
