"""The two files that describe the whole token store: store.json with counts and digest, names.h5 with new names."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from vpdist.ragged import offsets_of
from vpdist.sequences import token_store
from vpdist.sequences.blocks import OFFSETS, Texts
from vpdist.storage import hdf5_files
from vpdist.storage.atomic_files import read_json
from vpdist.storage.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSummary:
    """The token store as a whole (tokens/store.json)."""

    basis: str
    """Its provenance key: inputs, chunking, tokenizers."""
    digest: str
    """See `store_digest`."""
    n_records: int
    n_chunks: int
    n_bases: int
    fragments_per_block: tuple[int, ...]
    n_renamed: int
    """Records whose name had been used before; their new names are in names.h5."""
    example_renamed: str
    """One of the new names, '' where there is none."""

    @property
    def n_blocks(self) -> int:
        return len(self.fragments_per_block)

    @property
    def n_fragments(self) -> int:
        return sum(self.fragments_per_block)

    def first_fragment(self) -> np.ndarray:
        """(blocks + 1,) int64 number of each block's first fragment."""
        return offsets_of(self.fragments_per_block)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> StoreSummary:
        """Raises KeyError, TypeError or ValueError unless `fields` are those of a summary."""
        new = cls(**fields | {"fragments_per_block": tuple(fields["fragments_per_block"])})
        counts = (new.n_records, new.n_chunks, new.n_bases, new.n_renamed, *new.fragments_per_block)
        if any(type(count) is not int or not 0 <= count < 1 << 48 for count in counts):
            raise ValueError("a count is not an integer from 0 to 2**48")
        if any(type(text) is not str for text in (new.basis, new.digest, new.example_renamed)):
            raise ValueError("a text field is not a string")
        return new


def store_digest(provenance_key: str, raw_digests: Iterable[str]) -> str:
    """xxh3_128 (hex) of what a token store was made from, and of its blocks before translation."""
    digest = xxhash.xxh3_128(provenance_key.encode())
    for raw_digest in raw_digests:
        digest.update(raw_digest.encode())
    return digest.hexdigest()


def load_summary(folder: RunFolder, provenance_key: str | None = None) -> StoreSummary | None:
    """The summary of a complete token store; None where there is none, it is damaged, or has another
    provenance key. Raises StorageError where it cannot be read."""
    try:
        content = read_json(folder.store)
        if content is None or (provenance_key is not None and content.get("basis") != provenance_key):
            return None
        return StoreSummary.from_dict(content)
    except (hdf5_files.DamagedFile, TypeError, KeyError, ValueError) as error:
        logger.warning("%s is damaged: %s", folder.store, error)
        return None


def new_names(folder: RunFolder) -> dict[int, str]:
    """New names of records whose name had been used before, by record. Raises DamagedFile."""
    with hdf5_files.opened(folder.names) as file:
        names = Texts(hdf5_files.read(file, "names"), hdf5_files.read(file, OFFSETS["names"]))
        records = hdf5_files.read(file, "record")
        if records.dtype != np.int64 or not names.are_printable(len(records)):
            raise hdf5_files.DamagedFile(f"{folder.names}: does not hold names")
        return dict(zip(records.tolist(), names, strict=True))


def block_paths(folder: RunFolder, summary: StoreSummary) -> list[Path]:
    return [token_store.block_path(folder.tokens, block) for block in range(summary.n_blocks)]
