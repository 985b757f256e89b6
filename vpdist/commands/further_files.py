"""What `predict` and `classify` write beside the three tables, into the same switch: see results/call_files.py.

Enter: the folder of the new tables, and where the inputs lie. Leave: the files, and what people must be told. The input
is read again for virus.fna.gz only, and not where the same tables had been made before. Where it cannot be read any
more, that file is left out and its absence is told: tables are not lost for it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vpdist.calibration import judging
from vpdist.commands.compare_configs import same_samples
from vpdist.commands.input_identity import input_identity, located
from vpdist.commands.manifest_inputs import object_rows
from vpdist.commands.run_inputs import RunInputs
from vpdist.config import ResolvedConfig, Settings
from vpdist.errors import InputError, StorageError
from vpdist.results import call_files, virus_fasta
from vpdist.results.call_files import VirusRows
from vpdist.sequences.input_files import input_size
from vpdist.sequences.store_summary import StoreSummary, records_per_source
from vpdist.session.session import Session
from vpdist.storage.atomic_files import read_json, storage_error
from vpdist.storage.run_folder import RunFolder
from vpdist.storage.table_switch import COMPLETE, FileDigest, TablesOrigin, recorded_tables
from vpdist.text import bytes_text, printable, without_open_quotes
from vpdist.urls import InputPath, Url, needs_network

logger = logging.getLogger(__name__)

FASTA = "virus.fna.gz"
TOLD_FROM = 1 << 30
"""Bytes of input from which on it is told that they are read again."""


@dataclass(slots=True, kw_only=True)
class FurtherFiles:
    """The files of one command on rank 0; call it with the folder of the new tables."""

    session: Session
    summary: StoreSummary
    resolved: ResolvedConfig
    paths: Sequence[InputPath]
    """Where each input is looked for."""
    called: bool
    """Whether there are calls; without, only summary.tsv and README.txt are written."""
    min_score: float
    gzip_tables: bool
    offline: bool = False
    """Whether no input in the network may be read."""
    told: list[str] = field(default_factory=list)
    """What people must know of the files."""
    file_done: Callable[[], None] = lambda: None
    """Called after each of `passes`."""

    @property
    def folder(self) -> RunFolder:
        return self.session.folder

    @property
    def passes(self) -> int:
        """How often tables or inputs are gone through, about equally long."""
        return 1 + 3 * self.called + self.gzip_tables

    def __call__(self, new: Path, judgement: dict[str, Any] | None) -> None:
        """Write them into `new`, the folder of the new tables; `judgement` is what run.json has of it. Raises
        StorageError."""
        ending = self.session.control.raise_if_ending
        sources = [without_open_quotes(printable(name)) for name in self.resolved.input_names]
        found = call_files.read_sequences(new, sources, self.min_score, ending)
        rows = object_rows(self.folder, self.summary, len(sources))
        call_files.write_summary(new, found.sources, called=self.called, objects=rows)
        self.file_done()
        about = [] if judgement is None else [*judging.warnings(judgement), *judging.by_score(judgement)]
        notes = [f"{told}." for told in about]
        if self.called:
            call_files.write_virus_table(new, found.virus, ending)
            self.file_done()
            call_files.write_regions(new, self.min_score, ending)
            self.file_done()
            if (missing := self._virus_fasta(new, found.virus)) is not None:
                notes.append(f"{FASTA} is not here: {missing}")
                self.told.append(f"warning: {FASTA} is not written: {missing}; `vpdist classify` can write it later")
            self.file_done()
            fasta = f"{FASTA}, " if missing is None else ""
            self.told.append(f"beside them: {fasta}virus.tsv, regions.bed, regions.gff3, summary.tsv, README.txt")
            if self.min_score > 0:
                what = f"{FASTA}, virus.tsv and the regions"
                notes.append(f"{what} hold what has a virus_score of at least {self.min_score:g} (--min-score).")
        if self.gzip_tables:
            call_files.compress_tables(new, ending)
            self.file_done()
        call_files.write_readme(new, notes)

    def _virus_fasta(self, new: Path, virus: VirusRows) -> str | None:
        """Write virus.fna.gz, or say why it cannot be. Raises StorageError."""
        if self._kept(new):
            return None
        counts = records_per_source(self.folder, self.summary, len(self.paths))
        first = np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))
        needed = virus_fasta.files_with(first, virus.record)
        try:
            self._check_inputs(needed)
            size = sum(input_size(self.paths[number], self.session.control.retries) for number in needed)
            if size >= TOLD_FROM:
                self.session.progress.message(f"reading {bytes_text(size)} of input again, for {FASTA}")
            ending = self.session.control.raise_if_ending
            with call_files.opened_names(new, virus) as expected:
                virus_fasta.write_virus_fasta(new / FASTA, self.paths, first, virus.record, expected, ending)
        except (InputError, OSError) as error:
            logger.warning("%s is not written: %s", FASTA, error)
            return printable(str(error))
        return None

    def _kept(self, new: Path) -> bool:
        """Whether the file that is there was made from the same calls; it is taken over then. Raises StorageError."""
        try:
            record, run = recorded_tables(self.folder), read_json(self.folder.run) or {}
        except StorageError:
            return False
        origin = run.get("tables_from")
        if record is None or record.state != COMPLETE or not isinstance(origin, dict) or FASTA not in record.files:
            return False
        if origin.get("min_score") != self.min_score:
            return False
        try:
            old = self.folder.path / FASTA
            same = record.files.get("virus.tsv") == FileDigest.of(new / "virus.tsv")
            if not same or FileDigest.of(old) != record.files[FASTA]:
                return False
            shutil.copyfile(old, new / FASTA)
        except OSError as error:
            raise storage_error(new / FASTA, error) from error
        return True

    def _check_inputs(self, needed: Sequence[int]) -> None:
        """Raises InputError unless these inputs are those that the run has read, by size and sampled blocks."""
        for number in needed:
            entry, path = self.resolved.input[number], self.paths[number]
            if self.offline and isinstance(path, Url) and needs_network(path.whole):
                raise InputError("--offline reads no objects", path=str(path))
            if not same_samples((entry,), input_identity([entry[0]], [path], self.session.control.retries)):
                raise InputError("is another file than the run has read", path=str(path))


def of_predict(session: Session, summary: StoreSummary, inputs: RunInputs, settings: Settings) -> FurtherFiles:
    """Those of `predict` or `embed`."""
    return FurtherFiles(
        session=session,
        summary=summary,
        resolved=inputs.resolved,
        paths=inputs.paths,
        called=inputs.classifier is not None,
        min_score=settings.min_score,
        gzip_tables=settings.gzip_tables,
    )


def of_merge(
    session: Session, summary: StoreSummary, resolved: ResolvedConfig, origin: TablesOrigin, *, gzip_tables: bool
) -> FurtherFiles:
    """Those of `merge`. Raises StorageError."""
    return FurtherFiles(
        session=session,
        summary=summary,
        resolved=resolved,
        paths=located(session.folder, resolved.input_names),
        called=bool(origin.classifier),
        min_score=origin.min_score,
        gzip_tables=gzip_tables,
    )


def of_classify(
    session: Session,
    summary: StoreSummary,
    resolved: ResolvedConfig,
    min_score: float,
    *,
    gzip_tables: bool,
    offline: bool,
) -> FurtherFiles:
    """Those of `classify`, from the record of a finished run. Raises StorageError."""
    return FurtherFiles(
        session=session,
        summary=summary,
        resolved=resolved,
        paths=located(session.folder, resolved.input_names),
        called=True,
        min_score=min_score,
        gzip_tables=gzip_tables,
        offline=offline,
    )
