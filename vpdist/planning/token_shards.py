"""Token shards: the tokens in plan order, so that a unit is one contiguous read.

tokens/shard-00000.h5 holds the tokens of consecutive units, gathered from the blocks of the token store. A shard
depends on the plan only and is made by whichever rank is free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from vpdist.encoder_kinds import KINDS
from vpdist.planning.plan import Plan
from vpdist.ragged import Ragged
from vpdist.storage import hdf5_files
from vpdist.storage.hdf5_files import DamagedFile


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.h5"


def shard_is_valid(folder: Path, shard: int, plan: Plan, plan_id: str, fewest: Mapping[str, int]) -> bool:
    """Whether a shard exists, is undamaged and belongs to this plan. `fewest`: see `TokenShards`."""
    try:
        _map_shard(folder, shard, plan, plan_id, fewest)
    except DamagedFile:
        return False
    return True


def _map_shard(folder: Path, shard: int, plan: Plan, plan_id: str, fewest: Mapping[str, int]) -> dict[str, Ragged]:
    """A shard's tokens by kind, mapped from disk, digests and offsets checked. Raises DamagedFile."""
    path = shard_path(folder, shard)
    with hdf5_files.opened(path) as file:
        attributes = hdf5_files.attributes(file)
        if (attributes.get("plan"), attributes.get("shard")) != (plan_id, shard):
            raise DamagedFile(f"{path}: belongs to another plan, or is another shard of it")
        return _mapped(file, len(plan.shard_rows(shard)), fewest, verify=True)


def _mapped(file: h5py.File, n: int, fewest: Mapping[str, int], *, verify: bool) -> dict[str, Ragged]:
    """Tokens by kind of the n sequences of a shard or block, of at least `fewest` tokens each. Raises DamagedFile."""
    mapped: dict[str, Ragged] = {}
    for name, kind in KINDS.items():
        if not hdf5_files.has(file, kind.token_datasets[0]):
            continue
        tokens = Ragged(*(hdf5_files.map_dataset(file, dataset, verify=verify) for dataset in kind.token_datasets))
        if tokens.flat.dtype != kind.token_type or not tokens.is_sound(n=n, least=fewest.get(name, 1)):
            raise DamagedFile(f"{file.filename}: does not hold the {name} tokens of {n} sequences")
        mapped[name] = tokens
    return mapped


def write_shard(
    folder: Path, shard: int, plan: Plan, plan_id: str, blocks: Sequence[Path], first_fragment: np.ndarray
) -> None:
    """Gather the rows of one shard of the plan from the token store's blocks and write it to `folder`.

    `blocks` are the files of the token store, in input order; `first_fragment`, (blocks + 1,), is the number of each
    block's first fragment. Raises DamagedFile for a block, StorageError when the shard cannot be written.
    """
    shard_rows = plan.shard_rows(shard)
    wanted = plan.fragment[plan.row_start[shard_rows.start : shard_rows.stop]]
    by_fragment = np.argsort(wanted, kind="stable")
    bounds = np.searchsorted(wanted[by_fragment], first_fragment)
    pieces: dict[str, list[tuple[np.ndarray, Ragged]]] = {kind: [] for kind in KINDS}
    for block in np.flatnonzero(np.diff(bounds)).tolist():
        rows = by_fragment[bounds[block] : bounds[block + 1]]
        with hdf5_files.opened(blocks[block]) as file:
            mapped = _mapped(file, int(first_fragment[block + 1] - first_fragment[block]), {}, verify=False)
        for kind, tokens in mapped.items():
            pieces[kind].append((rows, tokens.take(wanted[rows] - first_fragment[block])))
    datasets: dict[str, np.ndarray] = {}
    for kind, of_kind in pieces.items():
        if of_kind:
            joined = _joined(of_kind, len(shard_rows))
            datasets |= zip(KINDS[kind].token_datasets, (joined.flat, joined.offsets), strict=True)
    hdf5_files.write_atomic(shard_path(folder, shard), datasets, {"plan": plan_id, "shard": shard})


def _joined(pieces: list[tuple[np.ndarray, Ragged]], n_rows: int) -> Ragged:
    """The tokens of a shard's rows, from (row numbers, their tokens). Empties `pieces`, so that memory is freed."""
    lengths = np.zeros(n_rows, dtype=np.int64)
    for rows, tokens in pieces:
        lengths[rows] = tokens.lengths
    joined = Ragged.from_lengths(np.empty(lengths.sum(), pieces[0][1].flat.dtype), lengths)
    while pieces:
        rows, tokens = pieces.pop()
        shift = joined.offsets[rows] - tokens.offsets[:-1]
        joined.flat[np.arange(len(tokens.flat)) + np.repeat(shift, tokens.lengths)] = tokens.flat
    return joined


class TokenShards:
    """Reads units' tokens; keeps the latest shard mapped.

    `fewest`: the smallest length of a sequence that each encoder can embed, by kind; 1 where nothing is said.
    """

    def __init__(self, folder: Path, plan: Plan, plan_id: str, fewest: Mapping[str, int]) -> None:
        self.folder, self.plan, self.plan_id, self.fewest = folder, plan, plan_id, fewest
        self._shard = -1
        self._mapped: dict[str, Ragged] = {}

    def unit(self, unit: int) -> dict[str, Ragged]:
        """The unit's tokens by kind of encoder that runs. Raises DamagedFile."""
        shard = int(np.searchsorted(self.plan.shard_unit, unit, side="right")) - 1
        if shard != self._shard:
            # checking the digest also reads every page that is about to be used
            self._mapped, self._shard = _map_shard(self.folder, shard, self.plan, self.plan_id, self.fewest), shard
        rows, first = self.plan.rows(unit), self.plan.shard_rows(shard).start
        return {kind: tokens.between(rows.start - first, rows.stop - first) for kind, tokens in self._mapped.items()}
