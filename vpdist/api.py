"""`import vpdist`: sequences in, a run as Python objects out. The package's own names lead here when they are used.

A run is computed by the command in processes of its own, as from a shell: one rank per GPU, and nothing of torch in the
process that calls. What ends the command is raised here as the error that the command line would have told.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike, fsdecode, fspath
from pathlib import Path
from typing import IO, Any

from vpdist import errors
from vpdist.config import OPTIONS, Settings
from vpdist.environment import current_folder_off_path, launch_context
from vpdist.errors import EXIT_FAILURES_LISTED, EXIT_OK, InputError, UsageError, VpdistError
from vpdist.results.opened_run import Run
from vpdist.text import MESSAGE_LETTERS, shortened

OWN = ("inputs", "output", "files_from", "model", "progress")
"""Options that are arguments here, or make no sense."""
NAMED = "vpdist: "
"""With what a message of the command begins."""
OF_THE_LAUNCHER = re.compile(r"[IWEF]\d{4} \d\d:|Traceback ")
"""With what a line of torch's launcher begins."""
PROGRAM = "from vpdist.started_by_api import main; main()"
Sequences = str | PathLike[str] | Mapping[str, Any] | Iterable[Any]


class Result(Run):
    """The run of a call, with its tables and embeddings. A temporary one is removed with its last reference."""

    def __init__(self, path: Path, temporary: tempfile.TemporaryDirectory[str] | None = None) -> None:
        super().__init__(path)
        self._temporary = temporary

    @property
    def message(self) -> str:
        """What the command said at its end, warnings first."""
        return str(self.status.get("message", ""))

    @property
    def failures(self) -> bool:
        """Whether fragments have no usable embedding; their sequences have the status `failed`."""
        return self.status.get("exit_code") == EXIT_FAILURES_LISTED


def predict(
    sequences: Sequences,
    model: str | PathLike[str] | None = None,
    *,
    output: str | PathLike[str] | None = None,
    progress: str = "none",
    **options: Any,
) -> Result:
    """Call every sequence virus or not, as `vpdist predict` does.

    Args:
        sequences: the path of a FASTA or FASTQ file, or several; or sequences in memory: a mapping of names to
            letters, or pairs of both.
        model: as --model.
        output: the run folder; without, a temporary one that is removed with the result. Given again, it is resumed.
        progress: none, or log, bars or auto, which write to standard error.
        options: further options of the command by their names: consensus="max", nproc=2, embeddings=False.

    Raises UsageError, InputError, WeightsError, StorageError or Interrupted of `vpdist.errors`. KeyboardInterrupt stops
    the run so that it can be resumed.
    """
    return _run("predict", sequences, model, output, progress, options)


def embed(
    sequences: Sequences,
    model: str | PathLike[str] | None = None,
    *,
    output: str | PathLike[str] | None = None,
    progress: str = "none",
    **options: Any,
) -> Result:
    """Only embed, as `vpdist embed` does: the tables have no scores. Arguments and errors as in `predict`."""
    return _run("embed", sequences, model, output, progress, options)


def open_run(path: str | PathLike[str]) -> Run:
    """The run in a folder. Raises UsageError where there is none."""
    return Run(path)


def _run(
    command: str,
    sequences: Sequences,
    model: str | PathLike[str] | None,
    output: str | PathLike[str] | None,
    progress: str,
    options: Mapping[str, Any],
) -> Result:
    if launch_context().launched:
        raise UsageError("vpdist starts its ranks itself: call it outside of torchrun, or run `vpdist` under it")
    paths, records = _inputs(sequences)
    temporary = None if output is not None else tempfile.TemporaryDirectory(prefix="vpdist-")
    folder = Path(output) if temporary is None else Path(temporary.name) / "run"  # type: ignore[arg-type]
    arguments = [command, "-o", fspath(folder), "--progress", progress]
    arguments += [] if model is None else ["--model", fspath(model)]
    arguments += list(_flags(options))
    for text in map(fsdecode, (*arguments, *paths)):
        if "\0" in text:
            raise UsageError(f"{text!r} holds a NUL, which no path and no option can")
    with tempfile.TemporaryFile() as told:
        code = _ended([*arguments, "--", *paths], records, told if progress == "none" else None)
        told.seek(0)
        message = told.read().decode(errors="replace").strip()
    if code in (EXIT_OK, EXIT_FAILURES_LISTED):
        return Result(folder, temporary)
    raise _error(code, message or f"the command ended with {code}, see its messages")


def _inputs(sequences: Sequences) -> tuple[list[str], Iterable[tuple[str, str]] | None]:
    """The paths of files, or "-" and the records that are piped there. Raises UsageError."""
    if isinstance(sequences, str | PathLike):
        return _paths([sequences]), None
    if isinstance(sequences, Mapping):
        return ["-"], _checked(sequences.items())
    items = list(sequences)
    if items and all(isinstance(item, str | PathLike) for item in items):
        return _paths(items), None
    return ["-"], _checked(items)


def _paths(items: Iterable[str | PathLike[str]]) -> list[str]:
    """Paths as texts. Raises UsageError for "-": nothing is on the command's standard input."""
    paths = [fspath(item) for item in items]
    if "-" in paths:
        raise UsageError('"-": standard input is not read here; give sequences in memory, or ./- for a file')
    return paths


def _checked(pairs: Iterable[Any]) -> list[tuple[str, str]]:
    """Names and letters. Raises UsageError for anything else, InputError for what no FASTA file could hold."""
    records = []
    for number, pair in enumerate(pairs, 1):
        if isinstance(pair, str | bytes) or not isinstance(pair, Iterable) or len(found := tuple(pair)) != 2:
            raise UsageError(
                f"sequence {number}: give paths, a mapping of names to letters, or pairs of name and letters"
            )
        name, letters = found
        text = letters.decode("ascii", "replace") if isinstance(letters, bytes | bytearray) else str(letters)
        if not isinstance(name, str):
            raise UsageError(f"sequence {number}: its name is {name!r}, not a text")
        if any(mark in name for mark in "\r\n"):
            raise InputError("its name holds a line break", path="sequences", record=name)
        if any(mark in text for mark in "\r\n>#"):
            raise InputError("its letters hold a line break, '>' or '#'", path="sequences", record=name)
        records.append((name, text))
    return records


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    """Options as they are typed. Raises UsageError for one that the command does not have."""
    defaults = Settings.__dataclass_fields__
    for name, value in options.items():
        if name == "nproc":
            yield from ("--nproc", str(value))
        elif name not in OPTIONS or name in OWN:
            raise UsageError(f"{name}: there is no such option")
        elif isinstance(defaults[name].default, bool):
            if not isinstance(value, bool):
                raise UsageError(f"{name} is {value!r}: give True or False")
            if value is not defaults[name].default:
                yield OPTIONS[name].flags_of(name)[-1]
        elif value is not None:
            yield from (OPTIONS[name].flags_of(name)[-1], str(value))


def _ended(arguments: list[str], records: Iterable[tuple[str, str]] | None, told: IO[bytes] | None) -> int:
    """Run the command and return its exit code; `records` are piped to it, `told` takes what it says."""
    piped = subprocess.DEVNULL if records is None else subprocess.PIPE
    with current_folder_off_path():
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments], stdin=piped, stderr=told, start_new_session=True
        )
    try:
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:  # it has ended, and says why
                for name, letters in records or ():
                    stdin.write(f">{name}\n{letters}\n".encode("utf-8", "surrogateescape"))
        return process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)  # it stops so that it can be resumed
        process.wait()
        raise


def _own_words(message: str) -> str:
    """What vpdist itself said last on standard error, without what the launcher of its ranks says after it."""
    lines = message.splitlines()
    first = max((number for number, line in enumerate(lines) if line.startswith(NAMED)), default=0)
    end = next((number for number in range(first, len(lines)) if OF_THE_LAUNCHER.match(lines[number])), len(lines))
    return "\n".join(lines[first:end]).removeprefix(NAMED) or message


def _error(code: int, message: str) -> VpdistError:
    """The error that ended the command."""
    text = shortened(_own_words(message), MESSAGE_LETTERS)
    kinds: dict[int, type[VpdistError]] = {
        kind.exit_code: kind for kind in (UsageError, errors.WeightsError, errors.StorageError)
    }
    if code == InputError.exit_code:
        error: VpdistError = InputError.__new__(InputError)
        Exception.__init__(error, text)
        return error
    if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        return errors.Interrupted(text, code)
    return kinds.get(code, VpdistError)(text)
