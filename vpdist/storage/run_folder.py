"""The run folder: the paths in it, its preparation, and the two files that describe the run.

run.json records command, resolved configuration and versions; status.json records state, exit code and message.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from vpdist.errors import UsageError
from vpdist.storage.atomic_files import DamagedFile, read_json, read_limited, storage_error, write_json

SHARED_MARK = ".seen-by-all-"
"""A file by which ranks see that they share the folder begins with this."""
NEXT_TABLES = ".tables.next"
BEFORE_RETRY = "before_retry"
"""Where --retry-failed keeps store and parts until those of the retry are complete."""
SUBFOLDERS = ("parts", "tokens", "logs", "at_work")
TABLES = ("sequences.tsv", "chunks.tsv", "fragments.tsv")
LEGACY = ("prediction_results.txt", "prediction_results_highestscore.csv")
CALIBRATION = "calibration.json"
"""By what the tables' scores were judged."""
GZIPPED = tuple(f"{name}.gz" for name in TABLES)
CALL_FILES = ("virus.fna.gz", "virus.tsv", "regions.bed", "regions.gff3", "summary.tsv", "README.txt")
"""What is made from the tables; a folder of an earlier version may hold somebody else's file of such a name."""
REPORT, REPORT_MARK = "report.html", b"<title>vpdist: "
"""The file that `vpdist report` writes, and what only such a file has near its beginning."""
WITH_REPORT = ("report.png", "vpdist_mqc.json")
MARKED_BYTES = 2048
OTHERS_MAY_HAVE = (*CALL_FILES, *GZIPPED, CALIBRATION)
"""What people may have put beside a run of theirs, as `gzip -k` does: kept where no run has written it."""
TOP_FILES = (*TABLES, *GZIPPED, *LEGACY, CALIBRATION, "progress.jsonl", "run.json", "status.json")
"""In the order in which they are discarded: what tells that the folder holds a run goes last."""
NAMES = {
    "": re.compile("|".join([*map(re.escape, (*TOP_FILES, *CALL_FILES)), re.escape(SHARED_MARK) + "[0-9-]+"])),
    "parts": re.compile(r"unit-[0-9]{6,}\.h5"),
    "tokens": re.compile(
        r"(block|raw)-[0-9]{6,}\.h5|shard-[0-9]{5,}\.h5|(plan|names|equal-rows|row-bases)\.h5|store\.json|(stdin|files-from)(\.again)?"
    ),
    "logs": re.compile(r"rank[0-9]{5,}\.log"),
    "at_work": re.compile(r"rank[0-9]{5,}\.[0-9a-f.]+"),
}
"""Names that a run gives to files, by subfolder; '' is the run folder itself."""
TEMPORARY = re.compile(r"\.lock\..*\.tmp|\.(.+)\.[0-9a-f]+\.tmp")
"""A file that is being written: `.NAME.RANDOM.tmp`; versions before put a process's number there."""
LEFT_BEHIND = re.compile(r"raw-[0-9]{6,}\.h5|(stdin|files-from)\.again")
"""Files of `tokens` that a command removes itself, and that only it needs."""
RUN_FIELDS, STATUS_FIELDS = {"versions", "decisions"}, {"state", "exit_code", "failing_rank"}


class RunFolder:
    """Paths inside a run folder; docs/run-folder.md describes each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts, self.tokens, self.at_work = path / "parts", path / "tokens", path / "at_work"
        self.run, self.status, self.progress = path / "run.json", path / "status.json", path / "progress.jsonl"
        self.plan, self.store, self.names = (self.tokens / name for name in ("plan.h5", "store.json", "names.h5"))
        self.equal_rows, self.row_bases = self.tokens / "equal-rows.h5", self.tokens / "row-bases.h5"
        self.spool, self.input_list = self.tokens / "stdin", self.tokens / "files-from"
        self.next_tables, self.calibration = path / NEXT_TABLES, path / CALIBRATION
        self.before_retry = path / BEFORE_RETRY

    def log(self, rank: int) -> Path:
        return self.path / "logs" / f"rank{rank:05d}.log"

    def check_writable(self) -> None:
        """Raises UsageError where the path is no folder, StorageError where it cannot be written. Quick, for before
        anything slow is loaded."""
        try:
            self._check_folder()
            existing = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
            disk = os.statvfs(existing)
        except OSError as error:
            raise storage_error(self.path, error, "used") from error
        if existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK):
            reason = errno.EROFS if disk.f_flag & os.ST_RDONLY else errno.EACCES
            raise storage_error(self.path, OSError(reason, os.strerror(reason)))

    def holds_run(self) -> bool:
        """Whether run.json or status.json is there as a run writes it. Raises StorageError where it cannot tell."""
        return _has_fields(self.run, RUN_FIELDS) or _has_fields(self.status, STATUS_FIELDS)

    def check_own(self) -> None:
        """Raises UsageError where the path is no folder or holds files of something else. May raise OSError."""
        self._check_folder()
        if self.path.is_dir() and not self.holds_run() and (foreign := self._foreign()) is not None:
            raise UsageError(f"{self.path} holds {foreign} and no run; choose a new or empty folder")

    def _check_folder(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is not a folder")

    def check_holds_run(self) -> None:
        """Raises UsageError where there is no run.json, StorageError where that cannot be known."""
        try:
            if not self.run.exists():
                raise UsageError(f"{self.path} holds no run (there is no run.json)")
        except OSError as error:
            raise storage_error(self.path, error, "read") from error

    def prepare(self, *, restart: bool) -> None:
        """Create the folder with its subfolders; with `restart`, discard the files of an earlier run and no others.

        Raises UsageError for a folder that holds files of something else, StorageError where it cannot be written.
        """
        try:
            self.check_own()
            if restart and self.holds_run():
                self._discard()
            if self.linked is not None:
                raise UsageError(f"{self.linked} is a symbolic link; a run writes only inside its own folder")
            for folder in self._subfolders():
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(self.path, error) from error

    def _subfolders(self) -> list[Path]:
        return [self.path / name for name in SUBFOLDERS]

    @property
    def linked(self) -> Path | None:
        """A subfolder that is a symbolic link, which would lead out of the run folder; None where none is."""
        return next((folder for folder in self._subfolders() if folder.is_symlink()), None)

    def _foreign(self) -> str | None:
        """What a folder without a run holds that is none of a command that was killed before it wrote status.json."""
        for entry in sorted(self.path.iterdir()):
            if entry.name in SUBFOLDERS and (entry.is_dir() or entry.is_symlink()):
                inner = () if entry.is_symlink() else sorted(entry.iterdir())
                other = [path.name for path in inner if not _is_ours(entry.name, path.name)]
                if other:
                    return f"{entry.name}/{other[0]}"
            elif not (
                entry.name == "lock"
                or entry.name.startswith(".")
                or (entry == self.progress and self.log(0).exists())  # both are opened before status.json is written
            ):
                return entry.name
        return None

    def would_discard(self, path: Path) -> bool:
        """Whether `path` is a file that --restart removes."""
        folder = self.path.resolve()
        file = path.resolve()
        name = "" if file.parent == folder else file.parent.name
        return file.parent in (folder, *(folder / each for each in SUBFOLDERS)) and _is_ours(name, file.name)

    def _discard(self) -> None:
        for folder in self._subfolders():
            if folder.is_symlink():
                folder.unlink()
            elif folder.is_dir():
                for path in folder.iterdir():
                    if _is_ours(folder.name, path.name):
                        path.unlink()
        if self.before_retry.is_dir() and not self.before_retry.is_symlink():
            shutil.rmtree(self.before_retry)
        reports = [REPORT, *WITH_REPORT] if is_report(self.path / REPORT) else []
        if is_report(self.path / earlier_name(REPORT)):
            reports += map(earlier_name, (REPORT, *WITH_REPORT))
        for name in (*reports, *self.recorded_call_files(), *TOP_FILES):
            (self.path / name).unlink(missing_ok=True)

    def recorded_call_files(self) -> list[str]:
        """Those of OTHERS_MAY_HAVE that are this run's: run.json names them. Raises StorageError where it cannot be
        read."""
        try:
            tables = (read_json(self.run) or {}).get("tables")
        except DamagedFile:
            return []
        files = tables.get("files") if isinstance(tables, dict) else None
        return [name for name in OTHERS_MAY_HAVE if isinstance(files, dict) and name in files]

    def remove_temporary_files(self) -> None:
        """Remove what processes left behind that were killed. Raises StorageError."""
        for folder in (self.path, self.parts, self.tokens):
            left = [path for path in folder.glob(".*.tmp") if _is_ours(folder.name * (folder != self.path), path.name)]
            if folder == self.tokens:
                left += [path for path in folder.glob("*") if LEFT_BEHIND.fullmatch(path.name)]
            for path in left:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise storage_error(path, error, "removed") from error

    def status_time(self) -> int:
        """Modification time of status.json (ns), 0 where there is none. Raises StorageError."""
        try:
            return self.status.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return 0
        except OSError as error:
            raise storage_error(self.status, error, "read") from error

    def write_status(self, state: str, exit_code: int | None, message: str, failing_rank: int | None = None) -> None:
        """state: running, done, done_with_failures, failed or interrupted. Raises StorageError."""
        content = {"state": state, "exit_code": exit_code, "message": message, "failing_rank": failing_rank}
        write_json(self.status, content | {"updated": time.strftime("%Y-%m-%dT%H:%M:%S%z")})

    def update_run(self, **fields: Any) -> None:
        """Add fields to run.json. Raises StorageError."""
        write_json(self.run, (read_json(self.run) or {}) | fields)


def is_report(path: Path) -> bool:
    """Whether `path` is a file that `vpdist report` has written."""
    try:
        return REPORT_MARK in read_limited(path, MARKED_BYTES, cut=True)
    except OSError:
        return False


def earlier_name(name: str) -> str:
    """report.html -> report.earlier.html, of a report whose tables are replaced; MultiQC finds vpdist_mqc.earlier.json
    no more."""
    stem, suffix = os.path.splitext(name)
    return f"{stem}.earlier{suffix}"


def has_report(folder: Path) -> bool:
    """Whether a report is in the run folder, or was until its tables were replaced."""
    return is_report(folder / REPORT) or is_report(folder / earlier_name(REPORT))


def set_report_aside(folder: Path) -> None:
    """Before the tables in `folder` are replaced: give the report on them, and what was written with it, other names.
    The report goes last: whoever is killed in between does the rest next time. May raise OSError."""
    if is_report(folder / REPORT):
        for name in (*WITH_REPORT, REPORT):
            if (folder / name).is_file():
                os.replace(folder / name, folder / earlier_name(name))


def _is_ours(folder: str, name: str) -> bool:
    """Whether a run gives this name to a file of its subfolder `folder`, or to one that becomes such a file."""
    temporary = TEMPORARY.fullmatch(name)
    known = NAMES[folder]
    return bool(known.fullmatch(name) or (temporary and (temporary[1] is None or known.fullmatch(temporary[1]))))


def _has_fields(path: Path, fields: set[str]) -> bool:
    try:
        return fields <= (read_json(path) or {}).keys()
    except DamagedFile:
        return False
