"""The two files that describe the whole token store: store.json with counts and digest, names.h5 with new names."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from vpdist.ragged import offsets_of
from vpdist.sequences import token_store
from vpdist.sequences.blocks import OFFSETS, Texts
from vpdist.sequences.input_report import InputReport
from vpdist.sequences.unique_names import resolve_names
from vpdist.storage import hdf5_files
from vpdist.storage.atomic_files import read_json, storage_error
from vpdist.storage.run_folder import RunFolder
from vpdist.text import NAME_LETTERS, number_of, shortened

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
    report: InputReport = field(default_factory=InputReport)
    """What reading the input found."""
    blocks_per_object: tuple[int, ...] = ()
    """Of a manifest whose objects have blocks of their own; 0 for one that failed. Empty without a manifest."""

    def to_dict(self) -> dict[str, Any]:
        """The content of store.json."""
        fields = asdict(self) | {"report": self.report.to_dict()}
        if self.report == InputReport():
            del fields["report"]  # nothing to tell
        if not self.blocks_per_object:
            del fields["blocks_per_object"]
        return fields

    def first_blocks(self) -> np.ndarray:
        """(objects + 1,) int64 number of each object's first block."""
        return offsets_of(self.blocks_per_object)

    @property
    def n_blocks(self) -> int:
        return len(self.fragments_per_block)

    @property
    def n_fragments(self) -> int:
        return sum(self.fragments_per_block)

    def first_fragment(self) -> np.ndarray:
        """(blocks + 1,) int64 number of each block's first fragment."""
        return offsets_of(self.fragments_per_block)

    def counts(self) -> str:
        """Of sequences, chunks and fragments, in words."""
        counted = ((self.n_records, "sequence"), (self.n_chunks, "chunk"), (self.n_fragments, "fragment"))
        return ", ".join(number_of(count, what) for count, what in counted)

    def warnings(self, inputs: Sequence[str], min_length: int) -> list[str]:
        """What users must be told of the input, a line each; `inputs` are its names. Raises StorageError."""
        lines = self.report.warnings(inputs)
        if self.n_records == 0:
            lines.append("warning: the input holds no sequences; the tables have headers only")
        elif self.n_chunks == 0:
            shortest = token_store.SHORTEST
            least = f"--min-length {min_length:,}" if min_length > shortest else f"{shortest} bases"
            all_of = "the only sequence is" if self.n_records == 1 else f"all {self.n_records:,} sequences are"
            lines.append(f"warning: {all_of} shorter than {least}, so nothing can be scored")
        elif self.n_fragments == 0:
            lines.append("warning: no chunk has an open reading frame, so nothing can be scored")
        if self.n_renamed:
            lines.append(
                f"warning: {number_of(self.n_renamed, 'sequence')} had the name of an earlier one, so a number was "
                f"added, for example {shortened(self.example_renamed, NAME_LETTERS)}"
            )
        return lines

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> StoreSummary:
        """Raises AttributeError, KeyError, TypeError or ValueError unless `fields` are those of a summary."""
        report = InputReport.from_dict(fields.get("report", {}))
        of_objects = tuple(fields.get("blocks_per_object", ()))
        counted = {"fragments_per_block": tuple(fields["fragments_per_block"]), "blocks_per_object": of_objects}
        new = cls(**fields | counted | {"report": report})
        counts = (new.n_records, new.n_chunks, new.n_bases, new.n_renamed, *new.fragments_per_block, *of_objects)
        if any(type(count) is not int or not 0 <= count < 1 << 48 for count in counts):
            raise ValueError("a count is not an integer from 0 to 2**48")
        if of_objects and sum(of_objects) != new.n_blocks:
            raise ValueError("the objects have another number of blocks than the store")
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
    except (hdf5_files.DamagedFile, AttributeError, TypeError, KeyError, ValueError) as error:
        logger.warning("%s is damaged: %s", folder.store, error)
        return None


def names_key(basis: str) -> str:
    """What names.h5 carries of the provenance key of its store."""
    return xxhash.xxh3_128_hexdigest(basis.encode())


def write_names(folder: RunFolder, basis: str, hashes: Sequence[np.ndarray], blocks: Sequence[Path]) -> dict[int, str]:
    """Number the repeated names of all blocks, and write the new ones to names.h5; returns them by record. `hashes`:
    of the names of each block. Raises DamagedFile, StorageError."""
    renamed = resolve_names(hashes, lambda: (token_store.read_table(path).names for path in blocks))
    names = Texts.pack(list(renamed.values()))
    datasets = {"record": np.array(list(renamed), np.int64), "names": names.flat, OFFSETS["names"]: names.offsets}
    hdf5_files.write_atomic(folder.names, datasets, {"basis": names_key(basis)})
    return renamed


def new_names(folder: RunFolder, summary: StoreSummary) -> dict[int, str]:
    """New names of records whose name had been used before, by record. Raises DamagedFile, also for the file of another
    run."""
    with hdf5_files.opened(folder.names) as file:
        if hdf5_files.attributes(file).get("basis") != names_key(summary.basis):
            raise hdf5_files.DamagedFile(f"{folder.names}: belongs to another run")
        if hdf5_files.dataset(file, "record").shape != (summary.n_renamed,):
            raise hdf5_files.DamagedFile(f"{folder.names}: does not hold {summary.n_renamed:,} names")
        most_bytes = token_store.DATASET_BYTES * max(1, summary.n_blocks)
        texts = hdf5_files.read(file, "names", most_bytes=most_bytes)
        names = Texts(texts, hdf5_files.read(file, OFFSETS["names"], most_bytes=8 * summary.n_renamed + 8))
        records = hdf5_files.read(file, "record")
        if records.dtype != np.int64 or not names.are_printable(len(records)):
            raise hdf5_files.DamagedFile(f"{folder.names}: does not hold names")
        return dict(zip(records.tolist(), names, strict=True))


def refuse_missing_blocks(folder: RunFolder, summary: StoreSummary) -> None:
    """Raises DamagedFile where blocks have no file. Lists the folder once: store.json may name millions of blocks.

    Raises StorageError where it cannot be listed.
    """
    try:
        present = {entry.name for entry in folder.tokens.iterdir()}
    except OSError as error:
        raise storage_error(folder.tokens, error, "read") from error
    names = (token_store.block_path(folder.tokens, block).name for block in range(summary.n_blocks))
    if (first := next((name for name in names if name not in present), None)) is not None:
        others = summary.n_blocks - sum(name.startswith("block-") for name in present) - 1
        more = f", and at least {others:,} other blocks are" if others > 0 else ""
        raise hdf5_files.DamagedFile(f"{folder.tokens / first}: is missing{more}")


def check_digest(folder: RunFolder, summary: StoreSummary) -> None:
    """Raises DamagedFile where blocks are missing, or a block is not one that the store was made of: of another run."""
    refuse_missing_blocks(folder, summary)
    paths = block_paths(folder, summary)
    if store_digest(summary.basis, map(token_store.raw_digest, paths)) != summary.digest:
        which = f"{paths[0]}" if len(paths) == 1 else f"{folder.tokens}: one of {len(paths):,} blocks"
        raise hdf5_files.DamagedFile(f"{which}: belongs to another run than store.json")


def block_paths(folder: RunFolder, summary: StoreSummary) -> list[Path]:
    return [token_store.block_path(folder.tokens, block) for block in range(summary.n_blocks)]


def records_per_source(folder: RunFolder, summary: StoreSummary, n_sources: int) -> np.ndarray:
    """(n_sources,) int64 number of records that each input file has. Raises DamagedFile."""
    counts = np.zeros(n_sources, np.int64)
    for path in block_paths(folder, summary):
        with hdf5_files.opened(path) as file:
            sources = hdf5_files.read(file, "sources", most_bytes=token_store.DATASET_BYTES)
            found = np.bincount(sources.astype(np.int64), minlength=n_sources)
        if len(found) > n_sources:
            raise hdf5_files.DamagedFile(f"{path}: a record comes from a file that the run did not read")
        counts += found
    return counts
