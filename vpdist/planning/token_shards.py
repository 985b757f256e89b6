"""The plan on disk, and the tokens laid out in its order, so that a unit is one contiguous read.

tokens/plan.h5 holds the plan's arrays; every rank maps them. tokens/shard-00000.h5 holds the tokens of consecutive
units, gathered from the blocks of the token store. A shard depends on the plan only and is made by whichever rank is
free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


def shard_is_valid(folder: Path, shard: int, plan: Plan, plan_id: str) -> bool:
    """Whether a shard of this plan is there and undamaged."""
    try:
        _map_shard(folder, shard, plan, plan_id)
    except DamagedFile:
        return False
    return True


def _map_shard(folder: Path, shard: int, plan: Plan, plan_id: str) -> dict[str, Ragged]:
    """A shard's tokens by kind, mapped from disk, digests and offsets checked. Raises DamagedFile."""
    path = shard_path(folder, shard)
    with hdf5_files.opened(path) as file:
        if hdf5_files.attributes(file).get("plan") != plan_id:
            raise DamagedFile(f"{path}: belongs to another plan")
        return _mapped(file, len(plan.shard_rows(shard)), verify=True)


def _mapped(file: h5py.File, n: int, *, verify: bool) -> dict[str, Ragged]:
    """Tokens of the n sequences of a shard or block, of each kind that is there. Raises DamagedFile."""
    mapped: dict[str, Ragged] = {}
    for name, kind in KINDS.items():
        if not hdf5_files.has(file, kind.token_datasets[0]):
            continue
        tokens = Ragged(*(hdf5_files.map_dataset(file, dataset, verify=verify) for dataset in kind.token_datasets))
        if tokens.flat.dtype != kind.token_type or not tokens.is_sound(n=n, least=kind.fewest_tokens):
            raise DamagedFile(f"{file.filename}: its {name} tokens are not those of {n} sequences")
        mapped[name] = tokens
    return mapped


def write_shard(
    folder: Path, shard: int, plan: Plan, plan_id: str, blocks: Sequence[Path], first_fragment: np.ndarray
) -> None:
    """Gather one shard's rows from the token store's blocks and write it.

    Args:
        folder: where the shard goes.
        shard: its number in `plan.shard_unit`.
        plan: the plan.
        plan_id: its identity.
        blocks: files of the token store, in input order.
        first_fragment: (blocks + 1,) number of each block's first fragment.

    Raises:
        DamagedFile: a block cannot be read.
        StorageError: the shard cannot be written.
    """
    shard_rows = plan.shard_rows(shard)
    wanted = plan.fragment[plan.row_start[shard_rows.start : shard_rows.stop]]
    by_fragment = np.argsort(wanted, kind="stable")
    bounds = np.searchsorted(wanted[by_fragment], first_fragment)
    pieces: dict[str, list[_Piece]] = {kind: [] for kind in KINDS}
    for block in np.flatnonzero(np.diff(bounds)).tolist():
        rows = by_fragment[bounds[block] : bounds[block + 1]]
        with hdf5_files.opened(blocks[block]) as file:
            mapped = _mapped(file, int(first_fragment[block + 1] - first_fragment[block]), verify=False)
        for kind, tokens in mapped.items():
            pieces[kind].append(_Piece(rows, tokens.take(wanted[rows] - first_fragment[block])))
    datasets: dict[str, np.ndarray] = {}
    for kind in KINDS:
        if pieces[kind]:
            joined = _joined(pieces[kind], len(shard_rows))
            datasets |= zip(KINDS[kind].token_datasets, (joined.flat, joined.offsets), strict=True)
    hdf5_files.write_atomic(shard_path(folder, shard), datasets, {"plan": plan_id, "shard": shard})


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows of a shard, as they lie in one block of the token store."""

    rows: np.ndarray
    tokens: Ragged


def _joined(pieces: list[_Piece], n_rows: int) -> Ragged:
    """The rows of all pieces in their order. Uses the pieces up."""
    lengths = np.zeros(n_rows, dtype=np.int64)
    for piece in pieces:
        lengths[piece.rows] = piece.tokens.lengths
    joined = Ragged.from_lengths(np.empty(lengths.sum(), pieces[0].tokens.flat.dtype), lengths)
    while pieces:
        piece = pieces.pop()
        tokens, shift = piece.tokens, joined.offsets[piece.rows] - piece.tokens.offsets[:-1]
        joined.flat[np.arange(len(tokens.flat)) + np.repeat(shift, tokens.lengths)] = tokens.flat
    return joined


class TokenShards:
    """Reads units' tokens; keeps the last shard mapped."""

    def __init__(self, folder: Path, plan: Plan, plan_id: str) -> None:
        self.folder, self.plan, self.plan_id = folder, plan, plan_id
        self._shard = -1
        self._mapped: dict[str, Ragged] = {}

    def unit(self, unit: int) -> dict[str, Ragged]:
        """The unit's tokens by kind, as far as encoders run. Raises DamagedFile."""
        shard = int(np.searchsorted(self.plan.shard_unit, unit, side="right")) - 1
        if shard != self._shard:
            self._open(shard)
        rows, first = self.plan.rows(unit), self.plan.shard_rows(shard).start
        return {kind: tokens.between(rows.start - first, rows.stop - first) for kind, tokens in self._mapped.items()}

    def _open(self, shard: int) -> None:
        # Reads every page that is about to be used.
        self._mapped = _map_shard(self.folder, shard, self.plan, self.plan_id)
        self._shard = shard
