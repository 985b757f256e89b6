"""Materials to a token store, its plan, the tokens in the plan's order, and loaded encoders: all before embedding.

`predict` and the dry run (`vpdist plan`) share them, so that a dry run counts what a run will do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from vpdist import decide, hdf5, ingest, layout
from vpdist.calls import part_header
from vpdist.control import Control
from vpdist.embed import UnitWork
from vpdist.encoders import DTYPES, Encoder, load_encoder
from vpdist.errors import InputError, StorageError
from vpdist.ingest import StoreSummary
from vpdist.layout import TokenShards
from vpdist.materials import Materials
from vpdist.plan import Plan, build
from vpdist.runfolder import RunFolder
from vpdist.tokens import load_tokenizer
from vpdist.weights import encoder_shape

log = logging.getLogger(__name__)


def token_store(control: Control, folder: RunFolder, made_of: Materials) -> StoreSummary:
    """The token store: kept where it is whole and made from the same input, else filled by all ranks.

    Raises InputError naming file, record and position; StorageError.
    """
    decisions = made_of.decisions
    tokenizers = {kind: load_tokenizer(kind, model) for kind, model in made_of.models.items()}
    fingerprints = [tokenizer.fingerprint for tokenizer in tokenizers.values()]
    basis = repr((decisions.input, decisions.chunk_length, decisions.min_length, fingerprints))
    kept = ingest.keep(control, folder, basis)
    if kept is not None:
        return kept
    try:
        return ingest.ingest(
            control,
            folder,
            made_of.paths,
            basis,
            chunk_length=decisions.chunk_length,
            min_length=decisions.min_length,
            tokenizers=tokenizers,
        )
    except InputError as error:
        if error.path != str(folder.spool):
            raise
        raise InputError(error.reason, path="-", record=error.record, position=error.position) from error


def make_plan(control: Control, folder: RunFolder, summary: StoreSummary, made_of: Materials) -> tuple[Plan, str]:
    """Rank 0 makes the plan (unless the folder has it), all ranks map it and compare its digest.

    Returns the plan and its identity. Raises StorageError.
    """
    shapes = {kind: encoder_shape(model) for kind, model in made_of.models.items()}
    limits = decide.limits(made_of.decisions, shapes)
    costs = {kind: decide.cost_of(shape) for kind, shape in shapes.items()}
    basis = f"{summary.digest} {limits} {sorted(costs.items())}"

    def make() -> str:
        try:
            return layout.map_plan(folder.plan, basis, n_fragments=summary.n_fragments)[1]
        except hdf5.DamagedFile as reason:
            log.info("a new plan: %s", reason)
        # The keys are let go before the plan is written.
        plan = build(ingest.fragment_keys(folder, summary), limits, costs)
        layout.write_plan(folder.plan, plan, basis)
        return layout.map_plan(folder.plan, basis, n_fragments=summary.n_fragments)[1]

    expected = control.from_first("plan", make)
    plan, plan_id = layout.map_plan(folder.plan, basis, n_fragments=summary.n_fragments)
    if plan_id != expected:
        raise StorageError(f"{folder.plan}: rank {control.runtime.rank} sees another plan than rank 0")
    return plan, plan_id


def lay_out(control: Control, folder: RunFolder, summary: StoreSummary, plan: Plan, plan_id: str) -> None:
    """Write the tokens in the plan's order, every rank its share; shards that are there and whole are kept."""
    blocks, first_fragment = ingest.block_paths(folder, summary), summary.first_fragment()

    def make(shard: int) -> None:
        if not layout.shard_is_valid(folder.tokens, shard, plan, plan_id):
            layout.lay_out(folder.tokens, shard, plan, plan_id, blocks, first_fragment)

    control.share("layout", len(plan.shard_unit) - 1, make)


def load_work(
    folder: RunFolder,
    made_of: Materials,
    plan: Plan,
    plan_id: str,
    device: torch.device,
    check: Callable[[], None],
) -> UnitWork:
    """Load the encoders, calling `check` after each. Raises WeightsError, and whatever `check` raises."""
    decisions = made_of.decisions
    wide: dict[str, Encoder] = {}

    def in_float32(kind: str) -> Encoder:
        if kind not in wide:
            wide[kind] = load_encoder(made_of.models[kind], kind, torch.float32, device)
        return wide[kind]

    encoders: dict[str, Encoder] = {}
    for kind, model in made_of.models.items():
        encoders[kind] = load_encoder(model, kind, DTYPES[decisions.dtype], device)
        check()
    return UnitWork(
        plan=plan,
        shards=TokenShards(folder.tokens, plan, plan_id),
        encoders=encoders,
        in_float32=in_float32,
        classifier=made_of.classifier,
        header=part_header(plan_id, decisions),
        token_budget=decisions.token_budget,
        stored=np.dtype(decisions.embedding_dtype),
        folder=folder.parts,
    )
