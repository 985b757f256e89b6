"""Faults that end no process: a second run in a folder, other settings, damaged parts, too little work, a stopped rank.

Each is injected into the real program under torchrun and returns the list of expectations that were not met.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from scripts.faults.bad_records import with_faults
from scripts.faults.gate import Gate
from scripts.faults.launched_runs import Job, Launch, part_paths, standalone, status, tables

FREE_BATCHES = 8
"""What each rank may compute before it is held."""
Problems = list[str]


def ended(launch: Launch, code: int, message: str) -> Problems:
    """Wait for the end of a launch, which should have written `message` once. torchrun itself only returns 0 and 1."""
    launch.end()
    problems = []
    if launch.agent.returncode != min(code, 1):
        problems.append(f"torchrun ended with {launch.agent.returncode}")
    console = launch.console_text()
    if console.count(message) != 1:
        problems.append(f"{message!r} is {console.count(message)} times on the console: {console[-2000:]}")
    return problems


def second_run(job: Job, finished: Path, folder: Path) -> Problems:
    """The folder is in use: the second run is refused, the first is not affected."""
    gate = Gate(folder.with_name(f"{folder.name}.gate"))
    with Launch(with_faults(job, hold=gate.rule(free_batches=FREE_BATCHES)), folder, standalone(2)) as first:
        if not first.wait_until(lambda: gate.holds(first, 2), "two ranks between batches"):
            return ["the first run ended too early"]
        with Launch(job, folder, standalone(2)) as second:
            problems = ended(second, 2, "is in use: process")
        gate.open()
        return problems + ended(first, 0, "sequences called virus") + compared(folder, finished)


def other_settings(job: Job, finished: Path, folder: Path) -> Problems:
    """A setting that results depend on has changed: refused by its name, no file is changed."""
    shutil.copytree(finished, folder)
    before = status(folder)
    with Launch(replace(job, options=(*job.options, "--min-length", "77")), folder, standalone(2)) as launch:
        problems = ended(launch, 2, "--min-length was 0, is now 77")
    if status(folder) != before:
        problems.append(f"status.json was {before}, is {status(folder)}")
    return problems + compared(folder, finished)


def damaged_parts(job: Job, finished: Path, folder: Path) -> Problems:
    """One part is truncated, in another a bit has flipped: both are computed again, and no others."""
    shutil.copytree(finished, folder)
    paths = part_paths(folder)
    before = {path: path.stat().st_mtime_ns for path in paths}
    paths[0].write_bytes(paths[0].read_bytes()[:3000])
    content = bytearray(paths[1].read_bytes())
    content[len(content) // 2] ^= 1
    paths[1].write_bytes(content)
    with Launch(job, folder, standalone(2)) as launch:
        problems = ended(launch, 0, "sequences called virus")
    if [path for path in paths if path.stat().st_mtime_ns != before[path]] != paths[:2]:
        problems.append("other parts were computed again")
    return problems + compared(folder, finished)


def more_ranks_than_units(job: Job, finished: Path, folder: Path) -> Problems:
    """One unit for two ranks: the idle rank ends as well."""
    source = folder.with_suffix(".fa")
    source.write_text("".join(job.source.read_text().partition("\n")[0:2]) + "ATGGCTGCAGCC" * 12 + "\n")
    with Launch(replace(job, source=source), folder, standalone(2)) as launch:
        return ended(launch, 0, "1 sequence (1 ok)")


def no_sequences(job: Job, finished: Path, folder: Path) -> Problems:
    """An empty input: tables with headers only, and a warning."""
    source = folder.with_suffix(".fa")
    source.touch()
    with Launch(replace(job, source=source), folder, standalone(2)) as launch:
        launch.end()
        problems = (
            [] if "warning: the input holds no sequences" in launch.console_text() else [launch.console_text()[-2000:]]
        )
        if launch.agent.returncode != 0 or any(len(table.splitlines()) != 1 for table in tables(folder)):
            problems.append(f"torchrun ended with {launch.agent.returncode}")
    return problems


def stopped_rank(job: Job, finished: Path, folder: Path) -> Problems:
    """A stopped rank is reported as stalled, the others go on, and the run ends when it continues."""
    shown = re.compile(r"rank=1 state=stalled")
    options = tuple("log" if option == "none" else option for option in job.options)
    gate = Gate(folder.with_name(f"{folder.name}.gate"))
    held = with_faults(replace(job, options=options), hold=gate.rule(free_batches=FREE_BATCHES))
    with Launch(held, folder, standalone(3)) as launch:
        if not launch.wait_until(lambda: gate.holds(launch, 3), "three ranks between batches"):
            return ["the run ended too early"]
        rank = launch.ranks()[1]
        before = len(part_paths(folder))
        launch.signal(rank, signal.SIGSTOP)
        gate.open()
        if not launch.wait_until(
            lambda: shown.search(launch.console_text()) is not None, "a report of the stalled rank"
        ):
            return ["the run ended although a rank was stopped"]
        launch.wait_until(lambda: len(part_paths(folder)) > before, "parts of the others")
        launch.signal(rank, signal.SIGCONT)
        return ended(launch, 0, "sequences called virus") + compared(folder, finished)


def compared(folder: Path, finished: Path) -> Problems:
    """Compare the tables with those of the undisturbed run."""
    return [] if tables(folder) == tables(finished) else ["the tables differ from those of an undisturbed run"]


NON_FATAL: dict[str, Callable[[Job, Path, Path], Problems]] = {
    "a second run in the same folder": second_run,
    "other settings in the same folder": other_settings,
    "a part truncated, a bit flipped in another": damaged_parts,
    "more ranks than units": more_ranks_than_units,
    "an input without sequences": no_sequences,
    "a rank stopped with SIGSTOP, continued": stopped_rank,
}
