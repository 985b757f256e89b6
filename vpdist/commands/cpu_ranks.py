"""How many ranks a command starts on a CPU when nobody says: ranks of one thread, as many as cores, if it is worth it.

Threads that compute one product wait for each other many times in a batch, and spin meanwhile: beside other programs
they take the time that those need, and are slower than a single thread. Ranks wait for nothing (BENCHMARKS.md has the
times). But each rank holds all weights, and takes seconds to start.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

from vpdist.config import MOST_RANKS_HERE, Settings
from vpdist.cpu_quota import available_cores
from vpdist.encoders.hub import local_folder
from vpdist.encoders.shape import EncoderShape, encoder_shape
from vpdist.storage.atomic_files import read_json
from vpdist.storage.run_folder import RunFolder

MEMORY_SHARE = 0.5
"""Of the memory that is free, for all ranks."""
RANK_BYTES = 1 << 30
"""Memory of a rank besides its weights: Python, torch, a batch's temporaries, a unit's rows."""
RANK_FLOPS = 50e9
"""Operations per second of a core, about."""
WORTH_S = 60.0
"""Seconds of one core from which on several ranks are started; a start takes a few."""
TOKENS_PER_BASE = 0.33
"""Where a chunk has one open frame: residues. A nucleotide encoder has a few less."""


def cpu_ranks(settings: Settings) -> int:
    """Ranks to start on this machine's CPU, at least 1.

    With `--threads`, with models that were not downloaded yet, or for little work: 1. A run that is resumed keeps its
    threads per rank, so that its numbers stay the same.
    """
    if settings.threads is not None or not settings.models:
        return 1
    folders = {kind: local_folder(model) for kind, model in settings.models.items()}
    shapes = {kind: encoder_shape(folder) for kind, folder in folders.items() if folder is not None}
    if len(shapes) < len(folders):
        return 1
    cores = min(available_cores(), MOST_RANKS_HERE)
    threads = None if settings.dry_run else _recorded_threads(RunFolder(settings.output))
    if threads is not None:
        return max(1, cores // threads)
    if _seconds(shapes, settings.inputs) < WORTH_S:
        return 1
    free = psutil.virtual_memory().available
    return max(1, min(cores, int(MEMORY_SHARE * free / (RANK_BYTES + weight_bytes(shapes)))))


def weight_bytes(shapes: Mapping[str, EncoderShape]) -> int:
    """Memory of the weights of all encoders in float32; half of it in a narrower format."""
    return sum(4 * shape.parameters for shape in shapes.values())


def _seconds(shapes: Mapping[str, EncoderShape], inputs: tuple[str, ...]) -> float:
    """Seconds of one core for all inputs, about; infinite for standard input, lists and manifests."""
    if not inputs or "-" in inputs:
        return float("inf")
    n_bases = sum(Path(name).stat().st_size for name in inputs)
    operations = sum(shape.linear_flops_per_token for shape in shapes.values())
    return n_bases * TOKENS_PER_BASE * operations / RANK_FLOPS


def _recorded_threads(folder: RunFolder) -> int | None:
    """The threads per rank of the run in `folder`, None where there is none that says."""
    resolved = (read_json(folder.run) or {}).get("decisions")
    threads = resolved.get("threads") if isinstance(resolved, dict) else None
    return threads if type(threads) is int and threads > 0 else None
