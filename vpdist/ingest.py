"""Reads to token store: rank 0 reads the input once and hands blocks on, all ranks translate and tokenise them.

Parsing is far quicker than tokenising, so one reader feeds many ranks, and an input that cannot be split (gz, standard
input) is no special case. Which rank does a block has no influence on it. store.json is written last and makes the
store complete.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from vpdist import hdf5, store
from vpdist.blocks import OFFSETS, Texts
from vpdist.control import Control
from vpdist.encoder_kinds import KINDS
from vpdist.errors import StorageError
from vpdist.files import read_json, write_json
from vpdist.names import name_hashes, resolve_names
from vpdist.plan import FragmentKeys
from vpdist.ragged import offsets_of
from vpdist.runfolder import RunFolder
from vpdist.tokens import FragmentTokenizer

log = logging.getLogger(__name__)

LATE_S = 60.0
"""Seconds that a network file system may take to show one rank what another has written."""
READ, TOTAL, KEPT, DONE = "ingest/read", "ingest/total", "ingest/kept", "ingest/done"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSummary:
    """The token store as a whole (tokens/store.json)."""

    basis: str
    """What it was made from: inputs, chunking, tokenizers."""
    digest: str
    """xxh3_128 (hex) over the blocks' raw digests."""
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
        fields = dict(fields)
        fields["fragments_per_block"] = tuple(fields["fragments_per_block"])
        found = cls(**fields)
        counts = (found.n_records, found.n_chunks, found.n_bases, found.n_renamed, *found.fragments_per_block)
        if any(type(count) is not int or not 0 <= count < 1 << 48 for count in counts):
            raise ValueError("a count is not a number that can be")
        if any(type(text) is not str for text in (found.basis, found.digest, found.example_renamed)):
            raise ValueError("a text is none")
        return found


def load_summary(folder: RunFolder, basis: str | None = None) -> StoreSummary | None:
    """The complete token store in a folder, None where there is none or it was made from something else."""
    try:
        content = read_json(folder.store)
        if content is None or (basis is not None and content.get("basis") != basis):
            return None
        return StoreSummary.from_dict(content)
    except (StorageError, TypeError, KeyError, ValueError) as error:
        log.warning("%s is damaged: %s", folder.store, error)
        return None


def new_names(folder: RunFolder) -> dict[int, str]:
    """New names of records whose name had been used before, by record. Raises DamagedFile."""
    with hdf5.opened(folder.names) as file:
        names = Texts(hdf5.read(file, "names"), hdf5.read(file, OFFSETS["names"]))
        records = hdf5.read(file, "record")
        if records.dtype != np.int64 or not names.are_printable(len(records)):
            raise hdf5.DamagedFile(f"{folder.names}: holds no names")
        return dict(zip(records.tolist(), names, strict=True))


def _is_complete(folder: RunFolder, basis: str) -> bool:
    """Whether store.json and names.h5 are there and made from `basis`."""
    try:
        return load_summary(folder, basis) is not None and new_names(folder) is not None
    except hdf5.DamagedFile as error:
        log.warning("made again: %s", error)
        return False


def keep(control: Control, folder: RunFolder, basis: str) -> StoreSummary | None:
    """The token store of an earlier run, if it was made from the same and every block of it is whole; else None.

    Raises StorageError when this rank sees another store.json than rank 0.
    """
    have = control.from_first("store/have", lambda: str(_is_complete(folder, basis)))
    if have == "False":
        return None
    summary = load_summary(folder, basis)
    if summary is None:
        raise StorageError(f"{folder.store}: rank {control.runtime.rank} sees another one than rank 0")
    paths = block_paths(folder, summary)

    def check(block: int) -> None:
        try:
            store.read_block(paths[block])
        except hdf5.DamagedFile as error:
            log.warning("made again: %s", error)
            control.runtime.keys.add("store/bad")

    control.share("store/check", len(paths), check)
    return summary if control.runtime.keys.add("store/bad", 0) == 0 else None


def block_paths(folder: RunFolder, summary: StoreSummary) -> list[Path]:
    return [store.block_path(folder.tokens, block) for block in range(summary.n_blocks)]


def ingest(
    control: Control,
    folder: RunFolder,
    paths: Sequence[Path],
    basis: str,
    *,
    chunk_length: int,
    min_length: int,
    tokenizers: Mapping[str, FragmentTokenizer],
) -> StoreSummary:
    """Fill the token store, every rank its share; blocks that are there already and fit the input are kept.

    Raises InputError naming file, record and position; StorageError.
    """
    digests: list[str] = []
    fingerprints = {kind: tokenizer.fingerprint for kind, tokenizer in tokenizers.items()}

    def read() -> None:
        for raw in store.read_blocks(paths, chunk_length, min_length):
            digests.append(raw.digest())
            path = store.block_path(folder.tokens, raw.index)
            if store.block_is_valid(path, digests[-1], fingerprints):
                control.publish(f"{KEPT}/{raw.index}", "1")
            else:
                store.write_raw(store.raw_path(folder.tokens, raw.index), raw)
            control.publish(READ, str(len(digests)))
            _count(control, records=len(raw.names))
            control.check()
        control.publish(TOTAL, str(len(digests)))

    def tokenise(index: int) -> None:
        if control.runtime.keys.get(f"{KEPT}/{index}") is not None:
            return
        raw_path = store.raw_path(folder.tokens, index)
        _wait_for(control, raw_path)
        raw = store.read_raw(raw_path)
        block = store.tokenise_block(raw, tokenizers)
        size = store.write_block(store.block_path(folder.tokens, index), block)
        raw_path.unlink()
        _count(control, bases=len(raw.bases.flat), bytes_written=size)

    if control.is_first:
        read()
    while True:
        index = control.draw("ingest")
        control.wait_until(lambda index=index: index < _published(control, READ) or _total(control) is not None)  # type: ignore[misc]
        total = _total(control)
        if total is not None and index >= total:
            break
        tokenise(index)
        control.publish(f"{DONE}/{index}", "1")
    control.from_first("store", lambda: _summarise(control, folder, basis, digests))
    summary = load_summary(folder, basis)
    if summary is None:
        raise hdf5.DamagedFile(f"{folder.store}: is not what rank 0 has written")
    return summary


def _wait_for(control: Control, path: Path) -> None:
    """Wait for a file that rank 0 has written; a network file system may show it late. Raises StorageError."""
    until = time.monotonic() + LATE_S

    def is_there() -> bool:
        if not path.exists() and time.monotonic() > until:
            raise StorageError(f"{path}: rank 0 has written it, rank {control.runtime.rank} cannot see it")
        return path.exists()

    control.wait_until(is_there)


def _published(control: Control, key: str) -> int:
    return int(control.runtime.keys.get(key) or 0)


def _total(control: Control) -> int | None:
    value = control.runtime.keys.get(TOTAL)
    return None if value is None else int(value)


def _count(control: Control, **counters: int) -> None:
    if control.progress is not None:
        control.progress.add(**counters)


def _summarise(control: Control, folder: RunFolder, basis: str, digests: Sequence[str]) -> str:
    """Write names.h5 and store.json from the blocks, each as soon as it is done; returns the store's digest."""
    digest = xxhash.xxh3_128(basis.encode())
    n_records = n_chunks = n_bases = 0
    fragments: list[int] = []
    hashes: list[np.ndarray] = []
    for index, raw_digest in enumerate(digests):
        digest.update(raw_digest.encode())
        control.wait_for(f"{DONE}/{index}")
        table = store.read_table(store.block_path(folder.tokens, index))
        n_records += len(table.names)
        n_chunks += len(table.chunk_record)
        n_bases += int(table.lengths.sum())
        fragments.append(len(table.fragment_chunk))
        hashes.append(name_hashes(table.names))
        control.check()
    renamed = resolve_names(
        hashes,
        lambda: (store.read_table(store.block_path(folder.tokens, index)).names for index in range(len(digests))),
    )
    names = Texts.pack(list(renamed.values()))
    datasets = {"record": np.array(list(renamed), np.int64), "names": names.flat, OFFSETS["names"]: names.offsets}
    hdf5.write_atomic(folder.names, datasets, {"basis": xxhash.xxh3_128_hexdigest(basis.encode())})
    summary = StoreSummary(
        basis=basis,
        digest=digest.hexdigest(),
        n_records=n_records,
        n_chunks=n_chunks,
        n_bases=n_bases,
        fragments_per_block=tuple(fragments),
        n_renamed=len(renamed),
        example_renamed=next(iter(renamed.values()), ""),
    )
    write_json(folder.store, asdict(summary))
    return summary.digest


def fragment_keys(folder: RunFolder, summary: StoreSummary) -> FragmentKeys:
    """What the plan needs of every fragment, gathered from the blocks. Raises DamagedFile."""
    n = summary.n_fragments
    keys = FragmentKeys(
        residues=np.zeros(n, np.int32),
        tokens={kind: np.zeros(n, np.int32) for kind in KINDS},
        nucleotide_hash=np.zeros(n, np.uint64),
        protein_hash=np.zeros(n, np.uint64),
    )
    first = summary.first_fragment().tolist()
    for path, start, end in zip(block_paths(folder, summary), first[:-1], first[1:], strict=True):
        with hdf5.opened(path) as file:
            keys.residues[start:end] = hdf5.read(file, "fragment_residues")
            keys.nucleotide_hash[start:end] = hdf5.read(file, "nucleotide_hash")
            keys.protein_hash[start:end] = hdf5.read(file, "protein_hash")
            for kind, tokens in keys.tokens.items():
                _, offsets = KINDS[kind].token_datasets
                if hdf5.has(file, offsets):
                    tokens[start:end] = np.diff(hdf5.read(file, offsets))
    return keys
