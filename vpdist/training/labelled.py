"""What `vpdist train` is given and where it writes, and the records of the labelled files.

Enters: the files of both labels. Leaves: a table of their records; sequences that have both labels are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash

from vpdist.errors import InputError, UsageError
from vpdist.sequences.records import read_records
from vpdist.storage.atomic_files import open_regular
from vpdist.text import NAME_LETTERS, shortened
from vpdist.train_settings import LabelledFile

COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


@dataclass(frozen=True, slots=True)
class Labelled:
    """The files of `vpdist train`. What it writes lies in the model's folder."""

    model: Path
    files: tuple[LabelledFile, ...]
    groups: Path | None = None
    gbff: tuple[Path, ...] = ()

    @property
    def run(self) -> Path:
        """The run folder with the embeddings."""
        return self.model / "run"

    @property
    def fit(self) -> Path:
        """Where the fit keeps what it needs to be continued."""
        return self.model / "fit"

    @property
    def state(self) -> Path:
        """Parameters and optimizer after the last epoch."""
        return self.fit / "state.safetensors"

    @property
    def calibration_run(self) -> Path:
        """The run folder with the embeddings of the pieces by which scores are calibrated."""
        return self.model / "calibration-run"

    @property
    def pieces(self) -> Path:
        """The sequences of that run."""
        return self.fit / "pieces.fa"

    def virus(self, records: Records) -> np.ndarray:
        """(n,) bool, the label of each record."""
        return np.array([file.virus for file in self.files])[records.file]

    def of_head(self, length: int) -> Labelled:
        """The same sequences for a classifier of shorter chunks, in a folder of its own, with `head_pieces`."""
        return replace(self, model=self.model / f"head-{length}")

    @property
    def head_pieces(self) -> Path:
        """The sequences of the run in such a folder."""
        return self.model / "pieces.fa"

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files)

    @property
    def paths(self) -> list[Path]:
        return [Path(file.path) for file in self.files]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources in the order of the files, each once."""
        return tuple(dict.fromkeys(file.source for file in self.files))

    def forget(self) -> None:
        """Remove what `--restart` must not go on from, of all classifiers: states of fits, their rows, and the pieces,
        without which a run on them is discarded."""
        of_heads = (*self.model.glob("head-*/fit/*"), *self.model.glob("head-*/pieces.fa"))
        for old in (self.state, self.pieces, *self.fit.glob("rows-*.npy"), *of_heads):
            old.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises InputError for a file of groups or annotations that cannot be read, UsageError for a folder that is
        no folder. Quick, for before anything slow is loaded."""
        if self.model.exists() and not self.model.is_dir():
            raise UsageError(f"{self.model} is not a folder")
        if (self.model / "model.json").exists() and not (self.run / "run.json").exists():
            raise UsageError(f"{self.model} holds a model that was not made there by vpdist train; name another folder")
        for path in (*([self.groups] if self.groups else ()), *self.gbff):
            try:
                open_regular(path, follow=True).close()
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror or error}", path=str(path)) from error


@dataclass(frozen=True, slots=True)
class Records:
    """The n records of all files, in the order of the token store."""

    names: list[str]
    """As in the files, hence maybe repeated."""
    lengths: np.ndarray
    """(n,) int64, bases."""
    file: np.ndarray
    """(n,) int32, index of the file."""

    @property
    def n_bases(self) -> int:
        return int(self.lengths.sum())


def read_labelled(
    labelled: Labelled, raise_if_ending: Callable[[], None] = lambda: None, *, replace_unknown: bool = False
) -> Records:
    """The records of all files; `raise_if_ending` is called between them.

    Raises InputError naming both records where a sequence, or its reverse complement, has both labels, and where a
    label has no sequences.
    """
    number = {str(Path(file.path)): index for index, file in enumerate(labelled.files)}
    names: list[str] = []
    lengths: list[int] = []
    files: list[int] = []
    first: dict[int, int] = {}  # record of each digest, with the label of the file
    for record in read_records(labelled.paths, replace_unknown=replace_unknown):
        raise_if_ending()
        index, file = len(names), number[record.source]
        names.append(record.name)
        lengths.append(len(record.sequence))
        files.append(file)
        if not record.sequence:
            continue
        reverse = record.sequence.translate(COMPLEMENT)[::-1]
        before = first.setdefault(xxhash.xxh3_128_intdigest(min(record.sequence, reverse)), index)
        if labelled.files[files[before]].virus != labelled.files[file].virus:
            one = f"{shortened(names[before], NAME_LETTERS)} of {labelled.files[files[before]].path}"
            raise InputError(
                f"has the same sequence as {one}, which has the other label; a sequence is virus or not",
                path=record.source,
                record=record.name,
            )
    for virus, option in ((True, "--virus"), (False, "--other")):
        if not any(labelled.files[file].virus == virus for file in set(files)):
            empty = next(file.path for file in labelled.files if file.virus == virus)
            raise InputError(f"the files of {option} hold no sequences", path=empty)
    return Records(names, np.array(lengths, np.int64), np.array(files, np.int32))
