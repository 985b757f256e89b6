"""The inputs that a run has read, and whether they are still the same: identity is content.

Names and times say nothing for certain: files are touched, copied back, mounted elsewhere. Sizes and sampled blocks
decide; where a name or a time differs as well, the input is read again and compared with the token store.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import xxhash

from vpdist.commands.early_checks import check_input
from vpdist.config import InputIdentity, ResolvedConfig
from vpdist.errors import InputError, UsageError
from vpdist.sequences import store_summary, token_store
from vpdist.sequences.blocks import RawBlock
from vpdist.sequences.input_files import call_while_waiting
from vpdist.sequences.input_report import InputReport
from vpdist.sequences.object_transports import ObjectState
from vpdist.sequences.read_objects import ReadObject, read_objects
from vpdist.sequences.remote_objects import object_identity, object_state, version_change
from vpdist.session.session import Session
from vpdist.storage.atomic_files import RECORD_LIMIT, read_json
from vpdist.storage.file_identity import FileIdentity
from vpdist.storage.object_stores import RETRIES, Retries
from vpdist.storage.run_folder import RunFolder
from vpdist.text import bytes_text
from vpdist.urls import InputPath, Url, input_path

InputState = FileIdentity | ObjectState
"""Of a file, or of an object at an address."""
SAMPLES, SAMPLE_BYTES = 16, 1 << 16
INPUT_BYTES = 170
"""What run.json has of an input beside its texts, at most."""
INPUT_PATHS = "input_paths"
"""In run.json: the absolute path of each input, null for standard input."""


def input_identity(names: Sequence[str], paths: Sequence[InputPath], retries: Retries = RETRIES) -> InputIdentity:
    """Name, size, modification time (ns) and digest of sampled blocks of each input. Raises InputError.

    Reads at most SAMPLES blocks and the end of each file. Of an object: its address without secrets, and in place of
    the time a digest of its version; three blocks are read.
    """
    identity = []
    for name, path in zip(names, paths, strict=True):
        if isinstance(path, Url):
            known = object_identity(path, retries)
            identity.append((known.url, known.size, _version_number(known.version), known.samples))
            continue
        check_input(name, path)
        try:
            status = path.stat()
            with open(path, "rb") as file:
                digest = xxhash.xxh3_128()
                step = max(SAMPLE_BYTES, status.st_size // SAMPLES)
                for position in [*range(0, status.st_size, step), max(0, status.st_size - SAMPLE_BYTES)]:
                    file.seek(position)
                    digest.update(file.read(SAMPLE_BYTES))
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}", path=name) from error
        identity.append((name, status.st_size, status.st_mtime_ns, digest.hexdigest()))
    return tuple(identity)


def _version_number(version: str) -> int:
    """What stands for an object's version in the place of a file's time."""
    return xxhash.xxh3_64_intdigest(version.encode()) >> 1


def file_identities(
    names: Sequence[str], paths: Sequence[InputPath], retries: Retries = RETRIES
) -> tuple[InputState, ...]:
    """The state of each input. Raises InputError."""
    identities: list[InputState] = []
    for name, path in zip(names, paths, strict=True):
        if isinstance(path, Url):
            identities.append(object_state(path, retries))
            continue
        try:
            identities.append(FileIdentity.of(path))
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}", path=name) from error
    return tuple(identities)


def refuse_changed_input(
    input_before: InputIdentity,
    identities_before: Sequence[InputState],
    paths: Sequence[InputPath],
    retries: Retries = RETRIES,
) -> None:
    """Raises InputError unless each input is the file that it was, from when the run began until now.

    Where only its inode differs, as some network file systems number files anew, the content is looked at again.
    """
    names = [entry[0] for entry in input_before]
    identities = file_identities(names, paths, retries)
    for entry, path, before, now in zip(input_before, paths, identities_before, identities, strict=True):
        if not isinstance(before, FileIdentity) or not isinstance(now, FileIdentity):
            refuse_changed_object(entry[0], before, now)
            if isinstance(now, ObjectState) and (now.size, _version_number(now.version)) != entry[1:3]:
                raise InputError("has changed while the run began; give the command again", path=entry[0])
            continue
        renumbered = now.inode != before.inode and input_identity([entry[0]], [path]) == (entry,)
        if (now.size, now.modified_ns) == entry[1:3] and (now == before or renumbered):
            continue
        raise InputError("has changed since the run began; give the command again once it is complete", path=entry[0])


def refuse_changed_object(name: str, before: InputState, now: InputState) -> None:
    """Raises InputError unless an object has the version that it had when the run began."""
    if before != now:
        what = version_change(before, now) if isinstance(before, ObjectState) and isinstance(now, ObjectState) else ""
        raise InputError(f"has changed since the run began: {what}; give the command again", path=name)


def refuse_other_content(
    session: Session,
    recorded: ResolvedConfig,
    found: InputIdentity,
    paths: Sequence[InputPath],
    objects: Sequence[ReadObject] | None = None,
) -> None:
    """On rank 0: where a name or time of the input differs from the recorded ones, read it and compare it with the
    token store. What was found equal is noted in run.json, and not read again the next time. `objects`: those of a
    manifest.

    Without a complete token store there is nothing to compare with: the stages make one, and its digest decides which
    parts are kept. Raises UsageError where the content differs, InputError, StorageError.
    """
    folder = session.folder
    if _names_and_times(found) == _names_and_times(recorded.input):
        return
    noted = xxhash.xxh3_128_hexdigest(json.dumps(found).encode())
    earlier = (read_json(folder.run) or {}).get("compared_input")
    summary = store_summary.load_summary(folder)
    if summary is None or earlier in (noted, [list(entry) for entry in found]):  # versions before noted all of it
        return
    session.progress.message("a name or time of the input differs: reading it to compare it with what was read before")
    taken = _Digests(session)
    replace = summary.report.replaced is not None
    rules = recorded.chunk_length, recorded.min_length
    if objects is not None:
        read_objects(objects, rules, taken, replace_unknown=replace)
    else:
        for block in token_store.read_blocks(paths, *rules, replace_unknown=replace):
            taken.take(block)
    digests = taken.digests
    if store_summary.store_digest(summary.basis, digests) != summary.digest:
        raise UsageError(
            f"{folder.path} belongs to another configuration: the input's sequences differ from those read before; "
            f"use another folder, or --restart to discard what it holds"
        )
    folder.update_run(compared_input=noted)


class _Digests:
    """The digests of blocks as they are read."""

    def __init__(self, session: Session) -> None:
        self.report, self.digests = InputReport(), list[str]()
        self._session, self._ended = session, 0

    def plan_bytes(self, n_bytes: int) -> None:
        """Nothing is shown of them."""

    def opened(self, file: BinaryIO) -> None:
        call_while_waiting(file, self._session.control.raise_if_ending)

    def take(self, raw: RawBlock) -> None:
        self.digests.append(raw.digest())
        self._session.progress.add()
        self._session.control.raise_if_ending()

    def end_object(self, n_bytes: int, *, kept: bool) -> None:
        """Forget the blocks of an object that failed."""
        if not kept:
            del self.digests[self._ended :]
        self._ended = len(self.digests)


def _names_and_times(inputs: InputIdentity) -> list[tuple[Path, int]]:
    return [(Path(name), time_ns) for name, _, time_ns, _ in inputs]


def input_paths(names: Sequence[str], paths: Sequence[InputPath]) -> list[str | None]:
    """What run.json keeps as INPUT_PATHS."""

    def told(path: InputPath) -> str:
        return str(path if isinstance(path, Url) else path.absolute())

    return [None if name == "-" else told(path) for name, path in zip(names, paths, strict=True)]


def refuse_large_record(names: Sequence[str], paths: Sequence[str | None], samples: Sequence[str] = ()) -> None:
    """Before inputs are looked at. Raises UsageError where run.json would become larger than what can be read: it has
    their names in `decisions` and, of those without records, in `files_without_records`, their paths and samples; and
    in `settings` what was named without a manifest."""
    told = (*names, *names, *names, *filter(None, paths), *samples)
    n_bytes = len(names) * INPUT_BYTES + sum(len(json.dumps(text)) for text in told)
    if n_bytes > RECORD_LIMIT:
        raise UsageError(
            f"run.json would name {len(names):,} inputs in {bytes_text(n_bytes)}, and may have "
            f"{bytes_text(RECORD_LIMIT)}; give them to more jobs (--manifest with --shard), or use shorter names"
        )


def located(folder: RunFolder, names: Sequence[str]) -> list[InputPath]:
    """Where the inputs of a run are looked for: by the names that it was given, else where they were then. Raises
    StorageError."""
    run = read_json(folder.run) or {}
    recorded = run.get(INPUT_PATHS)
    earlier = recorded if isinstance(recorded, list) and len(recorded) == len(names) else [None] * len(names)
    if "manifest" in run:  # whose names are relative to its own folder
        return [
            input_path(before if isinstance(before, str) else name) for name, before in zip(names, earlier, strict=True)
        ]
    paths = [folder.spool if name == "-" else input_path(name) for name in names]
    return [
        path if isinstance(path, Url) or path.exists() or not isinstance(before, str) else Path(before)
        for path, before in zip(paths, earlier, strict=True)
    ]
