"""Pieces of the labelled sequences, embedded by `vpdist train` as a run of their own: for calibration, figures, heads.

Rank 0 chooses and writes them, all ranks embed them: resumable as any run, discarded where it is of other pieces.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vpdist.commands.predict import Predict
from vpdist.config import ResolvedConfig, Settings
from vpdist.session.session import Session
from vpdist.storage.atomic_files import replacing, storage_error
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.table_switch import FileDigest
from vpdist.training.labelled import Labelled
from vpdist.training.pieces import Pieces, texts


@dataclass(frozen=True, slots=True)
class EmbeddedPieces:
    """Pieces whose run is done."""

    pieces: Pieces | None
    """On rank 0; the others have none."""
    session: Session
    """Of their run."""


def piece_settings(settings: Settings, resolved: ResolvedConfig, path: Path, output: Path, **changes: Any) -> Settings:
    """The settings of a run on the pieces in `path`: those of `vpdist train`, with what was `resolved` for its own run,
    and with `changes`."""
    given: dict[str, Any] = {
        "inputs": (str(path),),
        "output": output,
        "min_length": 0,
        "reuse": None,
        "chunk_length": resolved.chunk_length,
        "dtype": resolved.dtype,
        "embedding_dtype": resolved.embedding_dtype,
        "token_budget": resolved.token_budget,
        "threads": resolved.threads,
    }
    return replace(settings, **(given | changes))


def embed_pieces(
    session: Session, settings: Settings, labelled: Labelled, choose: Callable[[], Pieces], names: Iterable[bytes]
) -> EmbeddedPieces | None:
    """Embed what `choose` returns on rank 0; None where these are no pieces. On every rank. Raises as `predict` does.

    `session`: of the run, inside that of the command; `settings`: of the run, its input is the file that is written;
    `names`: of the pieces.
    """
    control, path = session.control, Path(settings.inputs[0])
    pieces: Pieces | None = None

    def make() -> str:
        nonlocal pieces
        pieces = choose()
        unknown = settings.replace_unknown
        bases = texts(pieces, labelled.paths, control.raise_if_ending, replace_unknown=unknown)
        records = (b">%b\n%b\n" % each for each in zip(names, bases, strict=False))
        write_pieces(path, records, session.folder, restart=settings.restart and control.runtime.attempt == 0)
        return str(len(pieces))

    if int(control.broadcast_from_rank_0("train/pieces", make)) == 0:
        return None
    control.wait_for_file(path)
    control.wait_for_file(session.folder.parts)
    outcome = Predict(replace(settings, restart=False), session).stages()
    if control.is_first:
        session.end("done_with_failures" if outcome.failures else "done", 0, outcome.message)
    return EmbeddedPieces(pieces, session)


def write_pieces(path: Path, records: Iterator[bytes], folder: RunFolder, *, restart: bool) -> None:
    """Write the file and prepare the run; one of other pieces is discarded, before the file has changed: killed in
    between, all is made again. Raises InputError, StorageError."""
    written = path.with_name(f"next-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(written) as file:
            file.writelines(records)
        same = path.exists() and FileDigest.of(path) == FileDigest.of(written)
        folder.prepare(restart=restart or not same)
        if same:
            written.unlink()
        else:
            os.replace(written, path)
    except OSError as error:
        raise storage_error(path, error) from error
    folder.remove_temporary_files()
