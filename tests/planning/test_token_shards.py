"""Tokens in plan order: every row's tokens come back as they went into the token store."""

from pathlib import Path

import numpy as np
import pytest

from tests.tiny_models import TinyModels
from vpdist.encoder_kinds import KINDS
from vpdist.planning import plan_file, token_shards
from vpdist.planning.fragment_order import FragmentKeys
from vpdist.planning.plan import EncoderCost, Limits, Plan, build
from vpdist.planning.token_shards import TokenShards
from vpdist.sequences import token_store
from vpdist.sequences.blocks import TokenBlock
from vpdist.sequences.tokenizers import load_tokenizer
from vpdist.storage.hdf5_files import DamagedFile

COST = EncoderCost(linear=10**6, attention=10**3)


@pytest.fixture(scope="module")
def blocks(models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A token store of several small blocks, with sequences that occur twice."""
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    lines, sequences = [], []
    for number in range(60):
        repeated = number % 5 == 4
        bases = sequences[-3] if repeated else "".join(rng.choice(list("ACGT"), rng.integers(40, 700)))
        sequences.append(bases)
        lines.append(f">s{number}\n{bases}\n")
    (folder / "in.fa").write_text("".join(lines))
    tokenizers = {kind: load_tokenizer(kind, getattr(models, kind)) for kind in KINDS}
    paths = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_store, "BLOCK_BASES", 4000)
        for raw in token_store.read_blocks([folder / "in.fa"], 200):
            path = token_store.block_path(folder, raw.index)
            token_store.write_block(path, token_store.tokenise_block(raw, tokenizers))
            paths.append(path)
    assert len(paths) > 3
    return paths


def keys_of(contents: list[TokenBlock]) -> FragmentKeys:
    return FragmentKeys(
        residues=np.concatenate([block.fragment_residues for block in contents]),
        tokens={kind: np.concatenate([block.tokens[kind].lengths for block in contents]) for kind in KINDS},
        nucleotide_hash=np.concatenate([block.nucleotide_hash for block in contents]),
        protein_hash=np.concatenate([block.protein_hash for block in contents]),
    )


@pytest.fixture(scope="module")
def written_shards(blocks: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, list[TokenBlock]]:
    folder = tmp_path_factory.mktemp("shards")
    contents = [token_store.read_block(path) for path in blocks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vpdist.planning.plan.SHARD_TOKEN_BYTES", 2000)
        plan = build(
            keys_of(contents), Limits(token_budget=400, unit_cost=10**9, unit_rows=50), dict.fromkeys(KINDS, COST)
        )
    assert len(plan.shard_unit) > 4
    assert plan.n_rows < len(plan.fragment)
    first = np.concatenate(([0], np.cumsum([len(block.fragment_chunk) for block in contents]))).astype(np.int64)
    for shard in range(len(plan.shard_unit) - 1):
        token_shards.write_shard(folder, shard, plan, plan.digest(), blocks, first)
    return folder, plan, contents


def test_every_row_has_the_tokens_of_each_of_its_fragments(written_shards: tuple[Path, Plan, list[TokenBlock]]) -> None:
    folder, plan, contents = written_shards
    shards = TokenShards(folder, plan, plan.digest(), {})
    of_fragment: dict[str, list[list[int]]] = {
        kind: [tokens[i].tolist() for tokens in (block.tokens[kind] for block in contents) for i in range(len(tokens))]
        for kind in KINDS
    }
    for unit in range(plan.n_units):
        tokens = shards.unit(unit)
        for position, row in enumerate(plan.rows(unit)):
            for kind in KINDS:
                tokens_of_row = tokens[kind][position].tolist()
                for fragment in plan.fragment[plan.row_start[row] : plan.row_start[row + 1]]:
                    assert of_fragment[kind][fragment] == tokens_of_row


def test_a_shard_does_not_depend_on_the_order_in_which_shards_are_made(
    written_shards: tuple[Path, Plan, list[TokenBlock]], blocks: list[Path], tmp_path: Path
) -> None:
    folder, plan, contents = written_shards
    first = np.concatenate(([0], np.cumsum([len(block.fragment_chunk) for block in contents]))).astype(np.int64)
    token_shards.write_shard(tmp_path, 2, plan, plan.digest(), blocks, first)
    assert token_shards.shard_path(tmp_path, 2).read_bytes() == token_shards.shard_path(folder, 2).read_bytes()


def test_a_shard_of_another_plan_is_refused(written_shards: tuple[Path, Plan, list[TokenBlock]]) -> None:
    folder, plan, _ = written_shards
    assert token_shards.shard_is_valid(folder, 0, plan, plan.digest(), {})
    assert not token_shards.shard_is_valid(folder, 0, plan, "another", {})
    with pytest.raises(DamagedFile, match="another plan"):
        TokenShards(folder, plan, "another", {}).unit(0)


def test_a_plan_can_be_mapped_again_and_damage_is_found(
    written_shards: tuple[Path, Plan, list[TokenBlock]], tmp_path: Path
) -> None:
    _, plan, _ = written_shards
    path = tmp_path / "plan.h5"
    plan_file.write_plan(path, plan, "basis")
    mapped, plan_id = plan_file.map_plan(path, "basis")
    assert plan.digest() == mapped.digest()
    plan_file.write_plan(tmp_path / "other.h5", plan, "another basis")
    assert plan_file.map_plan(tmp_path / "other.h5")[1] != plan_id == plan_file.map_plan(path)[1]
    with pytest.raises(DamagedFile, match="was made from 'basis'"):
        plan_file.map_plan(path, "another basis")
    content = bytearray(path.read_bytes())
    content[content.index(plan.fragment.tobytes()) + 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="digest of the plan"):
        plan_file.map_plan(path, "basis")
