"""Runs that are killed or signalled at random moments, checked, and resumed until they are done.

Everything random comes from the caller's generator; each choice and its outcome is written to the caller's log.
"""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from scripts.faults.bad_records import with_faults
from scripts.faults.gate import Gate
from scripts.faults.launched_runs import (
    Job,
    Launch,
    lost_and_twice,
    part_paths,
    repeated,
    standalone,
    status,
    tables,
    unreadable,
)
from scripts.faults.report import late

RESUMES = "run the same command again to resume"
CAUSES = re.compile(r"^={20,}\n.*^={20,}$", re.DOTALL | re.MULTILINE)
"""Where torchrun lists what its workers ended with: the last words stand there once more."""
MOST_REPEATED = 1
"""Units that one process may fail when it is stopped."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A signal or kill that ends a launch."""

    name: str
    do: Callable[[Launch, random.Random], None]
    exit_code: int
    """Expected in status.json."""
    within_s: float
    """Seconds within which all processes must have ended."""
    message: str = RESUMES
    """End of the one line on the console."""
    options: tuple[str, ...] = ()
    """Of torchrun."""


def signal_rank(number: int) -> Callable[[Launch, random.Random], None]:
    """Send a signal to a random rank."""

    def do(launch: Launch, rng: random.Random) -> None:
        ranks = launch.ranks()
        if ranks:
            launch.signal(ranks[rng.choice(sorted(ranks))], number)

    return do


def signal_agent(number: int) -> Callable[[Launch, random.Random], None]:
    """Send a signal to the agent, or to the only process."""
    return lambda launch, rng: launch.signal(launch.agent.pid, number)


def cancel_as_slurm(launch: Launch, rng: random.Random) -> None:
    """SIGTERM to every process of the step, 30 s later SIGKILL to what is left."""
    for pid in launch.processes():
        launch.signal(pid, signal.SIGTERM)
    until = time.monotonic() + 30
    while launch.processes() and time.monotonic() < until:
        launch.agent.poll()
        time.sleep(0.05)
    for pid in launch.processes():
        launch.signal(pid, signal.SIGKILL)


HANDLED = ("--signals-to-handle=SIGTERM,SIGINT,SIGUSR1",)
KILLS = (
    Disturbance("a rank killed (SIGKILL)", signal_rank(signal.SIGKILL), 143, 5.0, message=f"lost; {RESUMES}"),
    Disturbance("the agent killed (SIGKILL)", signal_agent(signal.SIGKILL), 143, 10.0),
)
SIGNALS = (
    Disturbance("SIGTERM to the agent", signal_agent(signal.SIGTERM), 143, 20.0),
    Disturbance("SIGINT to the agent", signal_agent(signal.SIGINT), 130, 20.0),
    Disturbance("SIGUSR1 to the agent, which passes it on", signal_agent(signal.SIGUSR1), 143, 20.0, options=HANDLED),
    Disturbance("SIGUSR1 to the agent, which dies of it", signal_agent(signal.SIGUSR1), 143, 20.0),
    Disturbance("SIGTERM to a rank", signal_rank(signal.SIGTERM), 143, 20.0),
    Disturbance("SIGINT to a rank", signal_rank(signal.SIGINT), 130, 20.0),
    Disturbance("SIGUSR1 to a rank", signal_rank(signal.SIGUSR1), 143, 20.0),
    Disturbance("Slurm: SIGTERM to all, SIGKILL after 30 s", cancel_as_slurm, 143, 20.0),
)


@dataclass(frozen=True, slots=True)
class StoppedLaunch:
    """A launch that was disturbed."""

    disturbance: Disturbance
    ranks: int
    stop_s: float
    faults: tuple[str, ...]
    """Every expectation that was not met."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that was disturbed and resumed until it was done."""

    lost: int
    twice: int
    repeated: int
    finish_s: float
    """From the last resume to the end."""
    faults: tuple[str, ...]


class DisturbedRuns:
    """Runs of one job, disturbed one by one, each until it is done."""

    def __init__(
        self,
        job: Job,
        work: Path,
        undisturbed: Path,
        seconds: float,
        rng: random.Random,
        log: TextIO,
    ) -> None:
        """`undisturbed` is the folder of a reference run, `seconds` the duration of an undisturbed launch."""
        self.job, self.work, self.seconds, self.rng, self.log = job, work, seconds, rng, log
        self._tables, self._n_units = tables(undisturbed), len(part_paths(undisturbed))
        self.stopped: list[StoppedLaunch] = []
        self.finished: list[FinishedRun] = []
        self._gate = Gate(work / "gate")
        self._n_runs = 0

    def disturb_all(self, disturbances: Sequence[Disturbance], *, always_finish: bool = False) -> None:
        """Apply each disturbance in turn, to three ranks at first, to one to five on every resume; then finish.

        Ranks are held between batches until the disturbance ends them. A disturbance after the last part may find the
        run done; that is checked, and the disturbance is applied to another run.
        """
        left = list(disturbances)
        while left:
            folder = self._new_folder()
            ranks = 3
            while left and self._disturb(folder, ranks, left[0]):
                left.pop(0)
                ranks = self.rng.randint(1, 5)
                if always_finish or self._n_units - len(part_paths(folder)) < 6 * ranks:
                    break
            self._finish(folder, ranks)

    def _new_folder(self) -> Path:
        self._n_runs += 1
        return self.work / f"run{self._n_runs}"

    def _moment(self, folder: Path, ranks: int, free_batches: int) -> tuple[str, Callable[[Launch], bool]]:
        """A random moment: its name, and a function that returns whether it has come."""
        moment_s = self.rng.uniform(0.2, 1.0) * self.seconds
        kind = self.rng.random()
        if kind < 0.6:
            return f"{free_batches} batches each", lambda launch: self._gate.holds(launch, ranks)
        if kind < 0.9:  # at any stage up to the gate
            return (
                f"{moment_s:.2f} s",
                lambda launch: time.monotonic() - launch.started > moment_s and len(launch.ranks()) == ranks,
            )
        return "the last part", lambda launch: len(part_paths(folder)) == self._n_units

    def _disturb(self, folder: Path, ranks: int, disturbance: Disturbance) -> bool:
        """Start a launch and disturb it; returns whether the disturbance came before the run was done."""
        launcher = standalone(ranks, *disturbance.options)
        units_each = (self._n_units - len(part_paths(folder))) // ranks
        free_batches = self.rng.randint(1, max(1, units_each // 2))
        moment, has_come = self._moment(folder, ranks, free_batches)
        hold = self._gate.rule(free_batches=free_batches)
        job = self.job if moment == "the last part" else with_faults(self.job, hold=hold)
        self._write(f"{folder.name}: {ranks} ranks; {disturbance.name} after {moment}")
        earlier = status(folder).get("updated")
        with Launch(job, folder, launcher) as launch:
            if not launch.wait_until(lambda: has_come(launch), f"{moment} in {folder.name}"):
                self._must_be_done(launch)
                return False
            running = launch.ranks()
            recorded = status(folder)
            began = bool(running) and recorded.get("state") == "running" and recorded.get("updated") != earlier
            disturbed_at = time.monotonic()
            disturbance.do(launch, self.rng)
            launch.end()
            stop_s = time.monotonic() - disturbed_at
            if status(folder).get("state") == "done":
                self._write("  the run was done already")
                return False
            faults = self._faults_of_stop(folder, disturbance, launch.console_text(), began and ranks > 1)
        self.stopped.append(StoppedLaunch(disturbance, ranks, stop_s, tuple(faults)))
        self._write(f"  stopped in {stop_s:.2f} s with {len(part_paths(folder))} parts {faults or ''}")
        return True

    def _must_be_done(self, launch: Launch) -> None:
        """Raises RuntimeError unless a launch that ended by itself succeeded."""
        if launch.agent.returncode != 0:
            raise RuntimeError(f"ended by itself with {launch.agent.returncode}:\n{launch.console_text()[-4000:]}")

    def _faults_of_stop(self, folder: Path, disturbance: Disturbance, console: str, survivors: bool) -> list[str]:
        faults = [f"unreadable: {reason}" for reason in unreadable(folder)]
        recorded = status(folder)
        if survivors and recorded.get("exit_code") != disturbance.exit_code:
            faults.append(f"status.json holds {recorded}")
        said = CAUSES.sub("", console)
        if survivors and (said.count(disturbance.message), said.count(RESUMES)) != (1, 1):
            faults.append(f"{disturbance.message!r} is not once on the console: {console[-2000:]}")
        return faults

    def _finish(self, folder: Path, ranks: int) -> None:
        """Resume the run, undisturbed, and check its results."""
        started = time.monotonic()
        with Launch(self.job, folder, standalone(ranks)) as launch:
            launch.end()
            code, console = launch.agent.returncode, launch.console_text()
        seconds = time.monotonic() - started
        if code != 0:
            raise RuntimeError(f"{folder} was not finished on {ranks} ranks (exit code {code}):\n{console[-4000:]}")
        faults = [] if tables(folder) == self._tables else ["the tables differ from those of an undisturbed run"]
        lost, twice = lost_and_twice(folder)
        again = repeated(folder)
        faults += [f"process {pid} repeated {n} units" for pid, n in again.items() if n > MOST_REPEATED]
        if left := sorted((folder / "at_work").iterdir()):
            faults.append(f"left behind: {left}")
        self.finished.append(FinishedRun(lost, twice, again.total(), seconds, tuple(faults)))
        self._write(
            f"{folder.name}: {ranks} ranks: done in {seconds:.1f} s, {again.total()} units repeated {faults or ''}"
        )

    def _write(self, text: str) -> None:
        self.log.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self.log.flush()

    def faults(self) -> list[str]:
        """Every expectation that was not met, except those on time."""
        faults = [f"{stop.disturbance.name}: {fault}" for stop in self.stopped for fault in stop.faults]
        for run in self.finished:
            faults += run.faults
            if run.lost or run.twice:
                faults.append(f"{run.lost} fragments lost, {run.twice} twice")
        return faults

    def late(self) -> list[str]:
        """Every stop that took longer than promised."""
        return [
            f"{stop.disturbance.name}: {each}"
            for stop in self.stopped
            for each in late([stop.stop_s], stop.disturbance.within_s)
        ]
