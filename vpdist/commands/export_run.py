"""`vpdist export`: a finished run's embeddings, with names and calls, in one file of another format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import vpdist
from vpdist.config import one_of
from vpdist.encoder_kinds import KINDS, pooling_text
from vpdist.errors import UsageError
from vpdist.results import exported
from vpdist.results.embedded_run import EmbeddedRun, finished_run
from vpdist.results.exported import FORMATS, Source
from vpdist.results.gathered import FRAGMENT, PER, SEQUENCE, gathered
from vpdist.storage.run_folder import RunFolder

FORMAT = "vpdist-export-1"


def export_path(run: Path, form: str, per: str) -> Path:
    """Where a run is exported to unless a file is named: beside its folder."""
    folder = run.absolute()
    return folder.with_name(f"{folder.name}-{per}s.{form}")


def export_run(
    run: Path,
    form: str,
    per: str = SEQUENCE,
    target: Path | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[Path, int]:
    """Write the embeddings of the run in folder `run`; returns the file's path and its number of rows.

    Args:
        form: h5, npz, parquet or h5ad.
        per: sequence or fragment.
        target: a file that is not there yet; None: `export_path`.
        progress: called while parts are read, with how many were and how many there are.

    Raises UsageError, StorageError.
    """
    one_of("to", form, FORMATS)
    one_of("per", per, PER)
    exported.require(form)
    folder = RunFolder(run)
    folder.check_holds_run()
    path = export_path(run, form, per) if target is None else target
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path}: is there already; remove it, or name another file with -o")
    found = finished_run(folder, KINDS)
    with gathered(folder, found, per, path, progress) as rows:
        exported.export(path, form, Source(folder.path, per, rows, _attributes(found, per)))
        return path, len(rows)


def _attributes(run: EmbeddedRun, per: str) -> dict[str, str]:
    """What is to be known of the numbers."""
    pooling = pooling_text(run.header.models, run.header.poolings)
    if per != FRAGMENT:
        pooling += "; of a sequence: mean over its fragments"
    models = {f"{kind}_model": run.header.models[kind] for kind in run.kinds}
    about = {"format": FORMAT, "vpdist": vpdist.__version__, "per": per, "pooling": pooling, "plan": run.header.plan}
    return about | models | {"dtype": run.header.dtype}
