"""What is wrong with a token store: of every block whether it is whole, and whether it is a block of this run.

Enters: a run folder and its store.json. Leaves: the problems found, a line each. Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

from vpdist.sequences import store_summary, token_store
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.hdf5_files import DamagedFile
from vpdist.storage.run_folder import RunFolder


def problems(folder: RunFolder, summary: StoreSummary) -> Iterator[str]:
    """The problems of the blocks and of names.h5. Raises StorageError where the folder cannot be read."""
    try:
        store_summary.refuse_missing_blocks(folder, summary)
        if (yield from _of_blocks(folder, summary)):
            store_summary.check_digest(folder, summary)
    except DamagedFile as error:
        yield str(error)
    try:
        names = store_summary.new_names(folder, summary)
    except DamagedFile as error:
        yield str(error)
        return
    if names and not 0 <= min(names) <= max(names) < summary.n_records:
        yield f"{folder.names}: renames a record that there is not"


def _of_blocks(folder: RunFolder, summary: StoreSummary) -> Generator[str, None, bool]:
    """Problems of the blocks by themselves, and of what they have together; returns whether all could be read."""
    n_records = n_chunks = n_bases = 0
    readable = True
    for number, path in enumerate(store_summary.block_paths(folder, summary)):
        try:
            block = token_store.read_block(path)
        except DamagedFile as error:
            yield str(error)
            readable = False
            continue
        begins, expected = (block.index, block.first_record), (number, n_records)
        if begins[0] != number or (begins != expected and readable):
            yield f"{path}: is block {begins[0]} from record {begins[1]}, not block {number} from {n_records}"
        if (n_fragments := len(block.fragment_chunk)) != (told := summary.fragments_per_block[number]):
            yield f"{path}: has {n_fragments:,} fragments, store.json says {told:,}"
        n_records += len(block.lengths)
        n_chunks += len(block.chunk_record)
        n_bases += int(block.lengths.sum())
    found, recorded = (n_records, n_chunks, n_bases), (summary.n_records, summary.n_chunks, summary.n_bases)
    if readable and found != recorded:
        yield f"{folder.store}: counts {recorded} records, chunks and bases, but the blocks have {found}"
    return readable
