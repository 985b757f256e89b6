"""`vpdist verify`: open every file of a run, check digests and completeness. Changes nothing.

What a run holds is judged from its files: plan, token store, parts, and the numbers of rows in its tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vpdist import decide, ingest, layout, parts, store
from vpdist.calls import part_header
from vpdist.errors import StorageError, UsageError
from vpdist.files import open_regular
from vpdist.hdf5 import DamagedFile
from vpdist.ingest import StoreSummary
from vpdist.runfolder import RunFolder


def problems(path: Path) -> Iterator[str]:
    """What is wrong with the run in `path`, a line each; nothing if all holds.

    Raises UsageError where there is no run, StorageError where its run.json or store.json cannot be read.
    """
    folder = RunFolder(path)
    recorded = decide.recorded_decisions(folder)
    if recorded is None:
        raise UsageError(f"{path} holds no run (there is no run.json)")
    summary = ingest.load_summary(folder)
    if summary is None:
        yield f"{folder.store}: is absent: the run is not complete"
        return
    for block in ingest.block_paths(folder, summary):
        try:
            store.read_block(block)
        except DamagedFile as error:
            yield str(error)
    try:
        plan, plan_id = layout.map_plan(folder.plan, n_fragments=summary.n_fragments)
    except DamagedFile as error:
        yield str(error)
        return
    for shard in range(len(plan.shard_unit) - 1):
        if not layout.shard_is_valid(folder.tokens, shard, plan, plan_id):
            path_of_shard = layout.shard_path(folder.tokens, shard)
            yield f"{path_of_shard}: is absent, damaged, or belongs to another plan"
    yield from parts.damaged(
        folder.parts, range(plan.n_units), plan, part_header(plan_id, recorded), full=True
    ).values()
    yield from _wrong_tables(path, summary)


def _wrong_tables(path: Path, summary: StoreSummary) -> Iterator[str]:
    expected = {
        "sequences.tsv": summary.n_records,
        "chunks.tsv": summary.n_chunks,
        "fragments.tsv": summary.n_fragments,
    }
    for name, n_rows in expected.items():
        try:
            with open_regular(path / name) as file:
                found = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) - 1
        except OSError as error:
            yield f"{path / name}: cannot be read: {error.strerror or error}"
            continue
        if found != n_rows:
            yield f"{path / name}: has {found} rows, the run has {n_rows}"


def verify(path: Path) -> list[str]:
    """All problems of the run in `path`. Raises UsageError, StorageError."""
    try:
        return list(problems(path))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
