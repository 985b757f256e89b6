"""Reads to token store: rank 0 reads the input once and writes raw blocks, all ranks translate and tokenise them.

Reading takes about 5 µs a record, tokenising 120 µs a fragment, so one reader feeds dozens of ranks, and an input that
cannot be split (gz, standard input) is no special case. A block does not depend on the rank that computes it.
store.json is written last and makes the store complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import BinaryIO

import numpy as np

from vpdist.errors import StorageError
from vpdist.sequences import store_summary, token_store
from vpdist.sequences.blocks import RawBlock
from vpdist.sequences.input_files import call_while_waiting, input_size
from vpdist.sequences.input_report import InputReport
from vpdist.sequences.read_objects import ReadObject, read_objects
from vpdist.sequences.store_summary import (
    StoreSummary,
    block_paths,
    check_digest,
    load_summary,
    new_names,
    store_digest,
)
from vpdist.sequences.tokenizers import FragmentTokenizer
from vpdist.sequences.unique_names import name_hashes
from vpdist.session.coordination import Control
from vpdist.storage import hdf5_files
from vpdist.storage.atomic_files import write_json
from vpdist.storage.run_folder import RunFolder
from vpdist.urls import InputPath, Url

logger = logging.getLogger(__name__)

READ, TOTAL, KEPT, DONE = "ingest/read", "ingest/total", "ingest/kept", "ingest/done"
"""Keys: blocks read so far, blocks in all once that is known; of each block whether it was kept, or is done."""


def _is_complete(folder: RunFolder, provenance_key: str) -> bool:
    """Whether undamaged store.json and names.h5 with this provenance key exist, and the blocks that they belong to."""
    summary = load_summary(folder, provenance_key)
    if summary is None:
        return False
    try:
        check_digest(folder, summary)
        new_names(folder, summary)
    except hdf5_files.DamagedFile as error:
        logger.warning("the token store is not reused: %s", error)
        return False
    return True


def reuse_existing(control: Control, folder: RunFolder, provenance_key: str) -> StoreSummary | None:
    """The token store of an earlier run, if it has this provenance key and every block is valid; else None.

    Raises StorageError when this rank cannot read the store.json that rank 0 has read.
    """
    if control.broadcast_from_rank_0("store/have", lambda: str(_is_complete(folder, provenance_key))) == "False":
        return None
    summary = load_summary(folder, provenance_key)
    if summary is None:
        raise StorageError(f"{folder.store}: rank {control.runtime.rank} reads another version of it than rank 0")
    paths = block_paths(folder, summary)

    def validate(block: int) -> None:
        try:
            token_store.read_block(paths[block])
        except hdf5_files.DamagedFile as error:
            logger.warning("the token store is not reused: %s", error)
            control.runtime.keys.add("store/bad")

    control.share_dynamically("store/check", len(paths), validate)
    return summary if control.runtime.keys.add("store/bad", 0) == 0 else None


def ingest(
    control: Control,
    folder: RunFolder,
    paths: Sequence[InputPath],
    provenance_key: str,
    *,
    chunk_length: int,
    min_length: int,
    tokenizers: Mapping[str, FragmentTokenizer],
    replace_unknown: bool = False,
    refuse_changed_input: Callable[[], None] = lambda: None,
    objects: Sequence[ReadObject] | None = None,
) -> StoreSummary:
    """Fill the token store with all ranks. Valid blocks of an earlier run of the same input are kept.
    `refuse_changed_input` is called on rank 0 when all input is read. `objects`, on rank 0: those of a manifest, which
    are read instead of `paths`; one that cannot be read is listed in the summary's report.

    Raises InputError naming file, record and position, and StorageError.
    """
    fingerprints = {kind: tokenizer.fingerprint for kind, tokenizer in tokenizers.items()}
    taken = _RawBlocks(control, folder, fingerprints)

    def read() -> None:
        if objects is not None:
            read_objects(objects, (chunk_length, min_length), taken, replace_unknown=replace_unknown)
        else:
            position = InputPosition(paths, control)
            blocks = partial(token_store.read_blocks, replace_unknown=replace_unknown, opened=position.opened)
            for raw in blocks(paths, chunk_length, min_length, taken.report):
                taken.take(raw)
                taken.publish(position.advance())
        refuse_changed_input()
        control.publish(TOTAL, str(len(taken.digests)))

    def tokenise(index: int) -> None:
        if control.runtime.keys.get(f"{KEPT}/{index}") is not None:
            return
        raw_path = token_store.raw_path(folder.tokens, index)
        control.wait_for_file(raw_path)
        raw = token_store.read_raw(raw_path)
        block = token_store.tokenise_block(raw, tokenizers)
        size = token_store.write_block(token_store.block_path(folder.tokens, index), block)
        raw_path.unlink()
        _count(control, bases=len(raw.bases.flat), bytes_written=size)

    if control.is_first:
        read()
    while _wait_for_block(control, index := control.next_index("ingest")):
        tokenise(index)
        control.publish(f"{DONE}/{index}", "1")
    control.broadcast_from_rank_0("store", lambda: _summarise(control, folder, provenance_key, taken, fingerprints))
    summary = load_summary(folder, provenance_key)
    if summary is None:
        raise hdf5_files.DamagedFile(f"{folder.store}: is not the one that rank 0 has written")
    return summary


class _RawBlocks:
    """On rank 0: blocks as they are read, put where the ranks that tokenise them find them."""

    def __init__(self, control: Control, folder: RunFolder, tokenizers: Mapping[str, str]) -> None:
        self.report = InputReport()
        self.digests: list[str] = []
        """Of all blocks that are published."""
        self.blocks_per_object: list[int] = []
        self._control, self._tokens, self._tokenizers = control, folder.tokens, tokenizers
        self._waiting: list[tuple[str, int, bool]] = []
        """Digest and records of blocks that are not published yet, and whether the store has them already."""

    def plan_bytes(self, n_bytes: int) -> None:
        """So many are to be read."""
        if self._control.progress is not None:
            self._control.progress.plan_steps(n_bytes)

    def opened(self, file: BinaryIO) -> None:
        """The next object is read from now on; while its host is silent the run can end."""
        call_while_waiting(file, self._control.raise_if_ending)

    def take(self, raw: RawBlock) -> None:
        """The next block. It is not seen by others before it is published."""
        digest = raw.digest()
        kept = token_store.block_is_valid(token_store.block_path(self._tokens, raw.index), digest, self._tokenizers)
        if not kept:
            token_store.write_raw(token_store.raw_path(self._tokens, raw.index), raw)
        self._waiting.append((digest, len(raw.names), kept))
        self._control.raise_if_ending()

    def publish(self, n_bytes: int) -> None:
        """All ranks may go on with what was taken; `n_bytes` of the input have been read for it."""
        n_records = 0
        for digest, records, kept in self._waiting:
            if kept:
                self._control.publish(f"{KEPT}/{len(self.digests)}", "1")
            self.digests.append(digest)
            n_records += records
        self._waiting.clear()
        self._control.publish(READ, str(len(self.digests)))
        _count(self._control, records=n_records, steps=n_bytes)

    def end_object(self, n_bytes: int, *, kept: bool) -> None:
        """Publish the blocks of an object, or drop them."""
        self.blocks_per_object.append(len(self._waiting) if kept else 0)
        if not kept:
            for index in range(len(self.digests), len(self.digests) + len(self._waiting)):
                token_store.raw_path(self._tokens, index).unlink(missing_ok=True)
            self._waiting.clear()
        self.publish(n_bytes)


class InputPosition:
    """How many bytes of the input's files have been read."""

    def __init__(self, paths: Sequence[InputPath], control: Control) -> None:
        retries = control.retries
        self._sizes = [input_size(path, retries) if isinstance(path, Url) or path.is_file() else 0 for path in paths]
        if control.progress is not None:
            control.progress.plan_steps(sum(self._sizes))
        self._raise_if_ending = control.raise_if_ending
        self._file: BinaryIO | None = None
        self._files_before, self._told = -1, 0

    def opened(self, file: BinaryIO) -> None:
        """The next file is read from now on."""
        call_while_waiting(file, self._raise_if_ending)
        self._file = file
        self._files_before += 1

    def advance(self) -> int:
        """Bytes that have been read since the last call."""
        if self._file is None:
            return 0
        here = self._sizes[self._files_before] if self._file.closed else self._file.tell()
        position = max(self._told, sum(self._sizes[: self._files_before]) + here)
        advanced, self._told = position - self._told, position
        return advanced


def _wait_for_block(control: Control, index: int) -> bool:
    """Wait until rank 0 has read this block, or all input; returns whether there is such a block."""
    control.wait_until(lambda: index < (_number(control, READ) or 0) or _number(control, TOTAL) is not None)
    total = _number(control, TOTAL)
    return total is None or index < total


def _number(control: Control, key: str) -> int | None:
    value = control.runtime.keys.get(key)
    return None if value is None else int(value)


def _count(control: Control, **counters: int) -> None:
    if control.progress is not None:
        control.progress.add(**counters)


def _summarise(
    control: Control,
    folder: RunFolder,
    provenance_key: str,
    read: _RawBlocks,
    tokenizers: Mapping[str, str],
) -> str:
    """Write names.h5 and store.json once all blocks are done; returns the store's digest.

    Raises DamagedFile for a block that was not made from what this rank has read, whoever says that it is done.
    """
    n_records = n_chunks = n_bases = 0
    fragments: list[int] = []
    hashes: list[np.ndarray] = []
    paths = [token_store.block_path(folder.tokens, index) for index in range(len(read.digests))]
    for index, (path, raw_digest) in enumerate(zip(paths, read.digests, strict=True)):
        control.wait_for(f"{DONE}/{index}")
        table = token_store.read_table(path)
        if (table.raw_digest, table.tokenizers) != (raw_digest, tokenizers):
            raise hdf5_files.DamagedFile(f"{path}: was not made from this run's input")
        n_records += len(table.names)
        n_chunks += len(table.chunk_record)
        n_bases += int(table.lengths.sum())
        fragments.append(len(table.fragment_chunk))
        hashes.append(name_hashes(table.names))
        control.raise_if_ending()
    renamed = store_summary.write_names(folder, provenance_key, hashes, paths)
    summary = StoreSummary(
        basis=provenance_key,
        digest=store_digest(provenance_key, read.digests),
        n_records=n_records,
        n_chunks=n_chunks,
        n_bases=n_bases,
        fragments_per_block=tuple(fragments),
        n_renamed=len(renamed),
        example_renamed=next(iter(renamed.values()), ""),
        report=read.report,
        blocks_per_object=tuple(read.blocks_per_object),
    )
    write_json(folder.store, summary.to_dict())
    return summary.digest
