"""`--manifest`: a table of input files or objects, in the order that is their identity, and the shares of `--shard`.

Enters: tab-separated text with a header: `path` (a path, relative to the manifest's folder, or a URL), and, in any
order, the optional columns `sample`, `size` (bytes, as the object lies there) and `records`. Other columns are let be.
Leaves: one entry per line. Promises: every fault names file and line; no object is looked at, but for its size where
shares are made and the manifest does not declare it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xxhash

from vpdist.errors import InputError, UsageError
from vpdist.storage.atomic_files import open_regular
from vpdist.text import NAME_LETTERS, printable, shortened, without_open_quotes
from vpdist.urls import InputPath, check_scheme, input_path, is_url, shown

PATH, SAMPLE, SIZE, RECORDS = "path", "sample", "size", "records"
COLUMNS = (PATH, SAMPLE, SIZE, RECORDS)
MANIFEST_LIMIT = 1 << 34
"""Bytes of a manifest at most."""
MOST = 1 << 48
"""More bytes or records than an object has."""
MISSING = ("", "NA")
"""How a cell says that nothing is declared."""


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One object."""

    path: str
    """As it stands in the manifest, a URL without its secrets: its name in tables and messages, the same wherever the
    manifest lies."""
    location: str
    """The whole URL, or the path with the manifest's folder before it."""
    sample: str
    """Name of the sample, '' where none is declared."""
    size: int | None
    """Declared bytes."""
    records: int | None
    """Declared records."""
    line: int
    """Where it stands, from 1: the header is line 1."""

    @property
    def is_url(self) -> bool:
        return is_url(self.path)

    @property
    def input(self) -> InputPath:
        """What to open."""
        return input_path(self.location)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All objects of a manifest, or a shard's."""

    path: Path
    entries: tuple[ManifestEntry, ...]
    digest: str
    """xxh3_128 (hex) of path, sample, size and records of every line of the whole manifest, in order."""
    names: str
    """The same of path and sample alone: sizes and records may be corrected before a retry."""
    n_objects: int
    """Of the whole manifest."""
    first: int = 0
    """Number of the first entry in the whole manifest, from 0."""

    @property
    def samples(self) -> list[str]:
        """Of each entry; none where none is declared."""
        samples = [entry.sample for entry in self.entries]
        return samples if any(samples) else []


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises InputError naming file and line: one that cannot be read, is no UTF-8, has no header with `path`, no lines, a
    line with another number of cells, an empty or repeated path, or a size or number of records that is none.
    """
    content = _content(path)
    lines = content.split("\n")
    columns = _header(path, lines[0].removesuffix("\r"))
    entries: list[ManifestEntry] = []
    digest, names = xxhash.xxh3_128(), xxhash.xxh3_128()
    line_of: dict[str, int] = {}
    for number, text in enumerate(lines[1:], 2):
        if not (text := text.removesuffix("\r")).strip():
            continue
        entry = _entry(path, number, columns, text.split("\t"))
        as_shown = without_open_quotes(printable(entry.path if entry.is_url else os.path.normpath(entry.path)))
        before = line_of.setdefault(as_shown, number)  # as it stands in tables, which count by it
        if before < number:
            raise _at(path, number, f"{_shown(entry.path)} is on line {before} as well")
        entries.append(entry)
        digest.update(repr((entry.path, entry.sample, entry.size, entry.records)).encode())
        names.update(repr((entry.path, entry.sample)).encode())
    if not entries:
        raise InputError("names no files", path=str(path))
    return Manifest(path, tuple(entries), digest.hexdigest(), names.hexdigest(), len(entries))


def _content(path: Path) -> str:
    try:
        with open_regular(path, follow=True) as file:  # a pipe could be read once, and would be waited for
            content = file.read(MANIFEST_LIMIT + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=str(path)) from error
    if len(content) > MANIFEST_LIMIT:
        raise InputError(f"has more than {MANIFEST_LIMIT >> 30} GiB; is this a manifest?", path=str(path))
    try:
        return content.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _at(path, line, "is not UTF-8; is this a manifest?") from error


def _header(path: Path, text: str) -> list[str]:
    columns = text.split("\t")
    if PATH not in columns:
        raise _at(
            path, 1, f"a manifest begins with a header that names the column `path`, this one with {_shown(text)!r}"
        )
    if twice := [name for name in COLUMNS if columns.count(name) > 1]:
        raise _at(path, 1, f"names the column `{twice[0]}` twice")
    return columns


def _entry(path: Path, line: int, columns: Sequence[str], cells: Sequence[str]) -> ManifestEntry:
    if len(cells) != len(columns):
        raise _at(path, line, f"has {len(cells)} cells, the header {len(columns)}")
    of = dict(zip(columns, cells, strict=True))
    name = of[PATH].strip()
    if not name or "\0" in name:
        raise _at(path, line, "names no file")
    location = name if is_url(name) else str(path.parent / name)
    try:
        check_scheme(name)
    except UsageError as error:
        raise _at(path, line, str(error)) from error
    sample = of.get(SAMPLE, "").strip()
    size, records = (_number(path, line, column, of.get(column, "").strip()) for column in (SIZE, RECORDS))
    return ManifestEntry(shown(name), location, "" if sample in MISSING else sample, size, records, line)


def _number(path: Path, line: int, column: str, text: str) -> int | None:
    if text in MISSING:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST)) and int(text) < MOST):
        raise _at(path, line, f"{column} is {_shown(text)!r}, not a number from 0 to {MOST - 1:,}")
    return int(text)


def _at(path: Path, line: int, reason: str) -> InputError:
    return InputError(reason, path=str(path), position=f"line {line}")


def _shown(text: str) -> str:
    return shortened(text, NAME_LETTERS)


def sizes(manifest: Manifest) -> np.ndarray:
    """(n,) int64 bytes of each entry: declared, else that of the file; 0 for a file that is not there.

    Raises InputError for a URL without a declared size: all jobs must cut alike, and asking for it takes each of them a
    request per object.
    """
    found = np.zeros(len(manifest.entries), np.int64)
    for number, entry in enumerate(manifest.entries):
        if entry.size is not None:
            found[number] = entry.size
        elif entry.is_url:
            raise _at(manifest.path, entry.line, f"{_shown(entry.path)} has no size, which --shard needs of a URL")
        else:
            try:
                found[number] = os.stat(entry.location).st_size
            except OSError:
                continue  # it fails when it is read, and its shard says so
    return found


def shard_bounds(size: np.ndarray, n: int) -> np.ndarray:
    """(n + 1,) where the shares of n jobs begin in the manifest: consecutive entries, cut where the sum of sizes comes
    nearest to each n-th of the whole. An entry counts one byte more than it has, so that empty ones are shared out,
    too. No share is larger than the mean and the largest entry together. With fewer entries than jobs some have none.
    """
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(size.astype(np.int64) + 1)))
    goals = before[-1] * np.arange(1, n, dtype=np.float64) / n
    after = np.searchsorted(before, goals)
    nearer = goals - before[np.maximum(after - 1, 0)] < before[after] - goals
    return np.concatenate(([0], np.maximum.accumulate(after - nearer), [len(size)])).astype(np.int64)


def shard_of(manifest: Manifest, number: int, count: int) -> Manifest:
    """The share of job `number` (from 1) of `count`. Raises InputError."""
    first, end = shard_bounds(sizes(manifest), count)[number - 1 : number + 1].tolist()
    return stretch(manifest, first, end)


def stretch(manifest: Manifest, first: int, end: int) -> Manifest:
    """The entries from number `first` to before `end`."""
    return replace(manifest, entries=manifest.entries[first:end], first=first)
