"""The objects of a manifest, one after the other, each into blocks of its own: whole, or listed as failed.

A block never holds records of two objects, so what was read of one that fails is dropped, and the blocks of the others
are those of a manifest in which that one has no records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vpdist.errors import InputError
from vpdist.sequences import token_store
from vpdist.sequences.blocks import RawBlock
from vpdist.sequences.input_report import FailedObject, InputReport
from vpdist.text import NAME_LETTERS, shortened


@dataclass(frozen=True, slots=True)
class ReadObject:
    """What is known of an object before it is read."""

    path: Path
    n_bytes: int
    records: int | None = None
    """Declared number of records."""
    reason: str = ""
    """Why it fails, where that is known already; it is not read then."""
    refuse_changed: Callable[[], None] | None = None
    """Called when all is read; raises InputError where it is not what it was when the run began."""


class Taker(Protocol):
    """Where blocks go."""

    report: InputReport

    def plan_bytes(self, n_bytes: int) -> None:
        """So many are to be read."""

    def take(self, raw: RawBlock) -> None:
        """The next block."""

    def end_object(self, n_bytes: int, *, kept: bool) -> None:
        """The object that was read is whole, or what was taken of it counts for nothing."""


def read_objects(
    objects: Sequence[ReadObject], rules: tuple[int, int], taker: Taker, *, replace_unknown: bool = False
) -> None:
    """Read all objects. `rules`: chunk length and least length. An InputError of an object is in the report only."""
    taker.plan_bytes(sum(each.n_bytes for each in objects))
    n_blocks = n_records = 0
    for number, each in enumerate(objects):
        report, before, reason = InputReport(), (n_blocks, n_records, number), each.reason
        try:
            if not reason:
                for raw in token_store.read_blocks(
                    [each.path], *rules, report, replace_unknown=replace_unknown, before=before
                ):
                    taker.take(raw)
                    n_blocks, n_records = n_blocks + 1, n_records + len(raw.names)
                if each.records is not None and n_records - before[1] != each.records:
                    found = n_records - before[1]
                    raise InputError(f"has {found:,} records, declared are {each.records:,}", path=str(each.path))
                if each.refuse_changed is not None:
                    each.refuse_changed()
        except InputError as error:
            reason = told(error)
        if reason:
            n_blocks, n_records = before[:2]
            taker.report.failed.append(FailedObject(number, reason))
        else:
            taker.report.add(report, number)
        taker.end_object(each.n_bytes, kept=not reason)


def told(error: InputError) -> str:
    """An error without the path, which the object's name stands for."""
    record = None if error.record is None else f"record {shortened(error.record, NAME_LETTERS)}"
    where = ", ".join(part for part in (record, error.position) if part is not None)
    return f"{where}: {error.reason}" if where else error.reason
