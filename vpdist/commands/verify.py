"""`vpdist verify`: checks digests and completeness of plan, token store, parts, and the row counts of tables.

Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vpdist.commands import resolve_config
from vpdist.errors import StorageError, UsageError
from vpdist.planning import plan_file, token_shards
from vpdist.results import parts
from vpdist.results.parts import part_header
from vpdist.sequences import store_summary, token_store
from vpdist.sequences.store_summary import StoreSummary
from vpdist.storage.atomic_files import open_regular
from vpdist.storage.hdf5_files import DamagedFile
from vpdist.storage.run_folder import RunFolder


def problems(path: Path) -> Iterator[str]:
    """The problems of the run in `path`, a line each; none if it is complete and undamaged.

    Raises UsageError where there is no run, StorageError where its run.json or store.json cannot be read.
    """
    folder = RunFolder(path)
    recorded = resolve_config.recorded_config(folder)
    if recorded is None:
        raise UsageError(f"{path} holds no run (there is no run.json)")
    summary = store_summary.load_summary(folder)
    if summary is None:
        yield f"{folder.store}: is missing: the run is not complete"
        return
    for block in store_summary.block_paths(folder, summary):
        try:
            token_store.read_block(block)
        except DamagedFile as error:
            yield str(error)
    try:
        plan, plan_id = plan_file.map_plan(folder.plan, n_fragments=summary.n_fragments)
    except DamagedFile as error:
        yield str(error)
        return
    for shard in range(len(plan.shard_unit) - 1):
        if not token_shards.shard_is_valid(folder.tokens, shard, plan, plan_id):
            path_of_shard = token_shards.shard_path(folder.tokens, shard)
            yield f"{path_of_shard}: is missing, damaged, or belongs to another plan"
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
                n = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")) - 1
        except OSError as error:
            yield f"{path / name}: cannot be read: {error.strerror or error}"
            continue
        if n != n_rows:
            yield f"{path / name}: has {n} rows, the run has {n_rows}"


def verify(path: Path) -> list[str]:
    """All problems of the run in `path`. Raises UsageError, StorageError."""
    try:
        return list(problems(path))
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror or error}") from error
