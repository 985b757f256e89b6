"""The stages before embedding: token store, plan, tokens in plan order, loaded encoders.

`predict` and the dry run (`vpdist plan`) share them, so that a dry run counts what a run will do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from vpdist.commands import input_identity, resolve_config
from vpdist.commands.run_inputs import RunInputs
from vpdist.cpu_quota import machine_memory
from vpdist.distributed.device import return_free_memory
from vpdist.embedding.unit_pipeline import UnitWork
from vpdist.embedding.wider_formats import WiderEncoders, wider_formats
from vpdist.encoders.encoder import DTYPES, Encoder, load_encoder
from vpdist.encoders.shape import encoder_shape
from vpdist.errors import InputError, StorageError
from vpdist.planning import fragment_keys, plan_file, room, row_bases, token_shards
from vpdist.planning.object_plans import build_by_object
from vpdist.planning.plan import Plan, build
from vpdist.planning.token_shards import TokenShards
from vpdist.results import parts
from vpdist.results.heads import Heads
from vpdist.results.parts import part_header
from vpdist.sequences import ingest, store_summary
from vpdist.sequences.store_summary import StoreSummary
from vpdist.sequences.tokenizers import load_tokenizer
from vpdist.session.coordination import Control
from vpdist.storage import hdf5_files
from vpdist.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)


def token_store(
    control: Control, folder: RunFolder, inputs: RunInputs, *, replace_unknown: bool = False
) -> StoreSummary:
    """The token store: an existing one where it is valid and made from the same input, else made by all ranks.
    `replace_unknown`: letters that are no nucleotides are read as N.

    Raises InputError naming file, record and position; StorageError.
    """
    resolved = inputs.resolved
    tokenizers = {kind: load_tokenizer(kind, model) for kind, model in inputs.models.items()}
    fingerprints = [tokenizer.fingerprint for tokenizer in tokenizers.values()]
    provenance_key = repr((resolved.input, resolved.chunk_length, resolved.min_length, fingerprints))
    if inputs.by_object:
        provenance_key += " by object"
    kept = ingest.reuse_existing(control, folder, provenance_key)
    if kept is not None:
        return kept
    try:
        return ingest.ingest(
            control,
            folder,
            inputs.paths,
            provenance_key,
            chunk_length=resolved.chunk_length,
            min_length=resolved.min_length,
            tokenizers=tokenizers,
            replace_unknown=replace_unknown,
            refuse_changed_input=lambda: input_identity.refuse_changed_input(
                () if inputs.by_object else inputs.found,
                inputs.identities,
                [] if inputs.by_object else inputs.paths,
                control.retries,
            ),
            objects=inputs.objects if inputs.by_object else None,
        )
    except InputError as error:
        if error.path != str(folder.spool):
            raise
        raise InputError(error.reason, path="-", record=error.record, position=error.position) from error


def make_plan(control: Control, folder: RunFolder, summary: StoreSummary, inputs: RunInputs) -> tuple[Plan, str]:
    """Rank 0 makes the plan, unless the folder has it; all ranks map it and compare its digest.

    Returns the plan and its identity. Raises StorageError, and UsageError for more fragments than memory holds.
    """
    shapes = {kind: encoder_shape(model) for kind, model in inputs.models.items()}
    limits = resolve_config.limits(inputs.resolved, shapes)
    costs = {kind: resolve_config.cost_of(shape) for kind, shape in shapes.items()}
    provenance_key = f"{summary.digest} {limits} {sorted(costs.items())}"

    def make() -> str:
        try:
            return plan_file.map_plan(folder.plan, provenance_key, n_fragments=summary.n_fragments)[1]
        except hdf5_files.DamagedFile as reason:
            logger.info("making a new plan: %s", reason)
        warning = room.check(summary.n_fragments, machine_memory(), by_object=bool(summary.blocks_per_object))
        if warning and control.progress is not None:
            control.progress.message(warning)
        if summary.blocks_per_object:
            keys = fragment_keys.fragment_keys(folder, summary)
            plan = build_by_object(keys, limits, costs, summary.first_fragment()[summary.first_blocks()])
            del keys  # before the plan is written
        else:  # which frees the keys as soon as the rows are known
            plan = build(fragment_keys.fragment_keys(folder, summary), limits, costs)
        plan_file.write_plan(folder.plan, plan, provenance_key)
        return plan_file.map_plan(folder.plan, provenance_key, n_fragments=summary.n_fragments)[1]

    expected = control.broadcast_from_rank_0("plan", make)
    plan, plan_id = plan_file.map_plan(folder.plan, provenance_key, n_fragments=summary.n_fragments)
    if plan_id != expected:
        raise StorageError(f"{folder.plan}: rank {control.runtime.rank} reads another plan than rank 0")
    return plan, plan_id


def lay_out_tokens(
    control: Control, folder: RunFolder, summary: StoreSummary, plan: Plan, plan_id: str, inputs: RunInputs
) -> None:
    """Write the tokens in plan order, each rank its share; valid shards are kept. Raises StorageError."""
    blocks, first_fragment = store_summary.block_paths(folder, summary), summary.first_fragment()
    fewest = _fewest_tokens(inputs)

    def make(shard: int) -> None:
        if not token_shards.shard_is_valid(folder.tokens, shard, plan, plan_id, fewest):
            token_shards.write_shard(folder.tokens, shard, plan, plan_id, blocks, first_fragment)

    control.share_dynamically("layout", len(plan.shard_unit) - 1, make)


def bases_of_rows(
    control: Control, folder: RunFolder, summary: StoreSummary, plan: Plan, plan_id: str, heads: Heads | None
) -> np.ndarray | None:
    """(r,) bases of each row's nucleotide string, mapped, where the model's classifiers go by them. Raises
    StorageError."""
    if heads is None or not heads.needs_bases:
        return None

    def make() -> str:
        row_bases.write_row_bases(folder, summary, plan, plan_id)
        return "1"

    control.broadcast_from_rank_0("row-bases", make)
    control.wait_for_file(folder.row_bases)
    return row_bases.map_row_bases(folder, plan, plan_id)


def _fewest_tokens(inputs: RunInputs) -> dict[str, int]:
    """The smallest length of a sequence that each encoder can embed, by kind."""
    return {kind: encoder_shape(model).family.fewest_tokens for kind, model in inputs.models.items()}


def check_room(control: Control, folder: RunFolder, inputs: RunInputs, plan: Plan, plan_id: str) -> None:
    """Rank 0 compares the size of the missing parts with the free disk space, before models are loaded. Raises
    StorageError on every rank."""

    def check() -> str:
        width = sum(encoder_shape(model).width for model in inputs.models.values())
        parts.check_room(folder.parts, plan, part_header(plan_id, inputs.resolved), width)
        return "1"

    control.broadcast_from_rank_0("room", check)


def load_work(
    folder: RunFolder,
    inputs: RunInputs,
    plan: Plan,
    plan_id: str,
    device: torch.device,
    raise_if_ending: Callable[[], None],
) -> UnitWork:
    """Load the encoders, calling `raise_if_ending` after each. Raises WeightsError, also where a model's files are no
    longer those that its fingerprint was made from."""
    resolved = inputs.resolved

    def load(kind: str, dtype: torch.dtype) -> Encoder:
        files = inputs.files[kind]
        return files.read(lambda: load_encoder(files.folder, kind, dtype, device))

    def release(kind: str, dtype: torch.dtype) -> None:
        return_free_memory(device)

    encoders: dict[str, Encoder] = {}
    for kind in inputs.files:
        encoders[kind] = load(kind, DTYPES[resolved.dtype])
        raise_if_ending()
    return UnitWork(
        plan=plan,
        shards=TokenShards(folder.tokens, plan, plan_id, _fewest_tokens(inputs)),
        files=inputs.files,
        encoders=encoders,
        wider=WiderEncoders(wider_formats(DTYPES[resolved.dtype], device), load, release),
        classifier=inputs.classifier,
        header=part_header(plan_id, resolved),
        token_budget=resolved.token_budget,
        stored=np.dtype(resolved.embedding_dtype),
        folder=folder.parts,
    )
