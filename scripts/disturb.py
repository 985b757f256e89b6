"""Disturb a run at a random moment, see that it stops as it should, and go on with it until it is done.

Everything random comes from the caller's generator; what was drawn and seen goes to the caller's log.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from launches import Job, Launch, lost_and_twice, part_paths, repeated, standalone, status, tables, unreadable

RESUMES = "the same command again resumes"
MOST_REPEATED = 1
"""Units that one process may lose when it is stopped."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Something that ends a launch."""

    name: str
    do: Callable[[Launch, random.Random], None]
    exit_code: int
    """What status.json says afterwards."""
    within_s: float
    """All processes are gone by then."""
    told: str = RESUMES
    """The end of the one line that people read."""
    options: tuple[str, ...] = ()
    """For torchrun."""


def signal_rank(number: int) -> Callable[[Launch, random.Random], None]:
    """To a random rank."""

    def do(launch: Launch, rng: random.Random) -> None:
        ranks = launch.ranks()
        if ranks:
            launch.signal(ranks[rng.choice(sorted(ranks))], number)

    return do


def signal_agent(number: int) -> Callable[[Launch, random.Random], None]:
    """To the agent (or to the only process)."""
    return lambda launch, rng: launch.signal(launch.agent.pid, number)


def as_slurm_does(launch: Launch, rng: random.Random) -> None:
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
    Disturbance("a rank killed (SIGKILL)", signal_rank(signal.SIGKILL), 143, 5.0, told=f"lost; {RESUMES}"),
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
    Disturbance("Slurm: SIGTERM to all, SIGKILL after 30 s", as_slurm_does, 143, 20.0),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """One disturbance and its outcome."""

    name: str
    ranks: int
    stop_s: float
    faults: tuple[str, ...]
    """What was not as it should be."""


@dataclass(frozen=True, slots=True)
class Finish:
    """A run that was disturbed and came to its end."""

    lost: int
    twice: int
    repeated: int
    finish_s: float
    """From the last resume to the end."""
    faults: tuple[str, ...]


class Chase:
    """Runs of one job, disturbed one by one, each until it is done."""

    def __init__(
        self,
        job: Job,
        work: Path,
        undisturbed: list[bytes],
        seconds: float,
        rng: random.Random,
        log: TextIO,
        slack: float = 1.0,
    ) -> None:
        """`undisturbed`: the tables to expect; `seconds`: how long a launch takes that is left alone; `slack`: times
        the seconds that are allowed to stop, where other programs use the machine as well."""
        self.slack = slack
        self.job, self.work, self.undisturbed, self.seconds, self.rng, self.log = (
            *(job, work, undisturbed, seconds, rng, log),
        )
        self.trials: list[Trial] = []
        self.finishes: list[Finish] = []
        self._n_runs = 0
        self._hit: set[int] = set()

    def disturb_all(self, disturbances: Sequence[Disturbance], *, always_finish: bool = False) -> None:
        """Disturb by each of these in turn: three ranks at first, one to five on every resume; then finish.

        A run that is done before its moment comes is checked, and the disturbance has its turn on another run.
        """
        left = list(disturbances)
        while left:
            folder = self._new_folder()
            ranks = 3
            while left and self._disturb(folder, ranks, left[0]):
                left.pop(0)
                ranks = self.rng.randint(1, 5)
                if always_finish:
                    break
            self._finish(folder, ranks)

    def _new_folder(self) -> Path:
        self._n_runs += 1
        self._hit = set()
        return self.work / f"run{self._n_runs}"

    def _disturb(self, folder: Path, ranks: int, disturbance: Disturbance) -> bool:
        """Whether the disturbance came in time."""
        launcher = standalone(ranks, *disturbance.options)
        before = len(part_paths(folder))
        n_parts = before + self.rng.randint(1, 12) if self.rng.random() < 0.6 else None
        moment_s = self.rng.uniform(0.2, 1.0) * self.seconds
        pause_s = self.rng.uniform(0, 0.1)
        self._say(f"{folder.name}: {ranks} ranks; {disturbance.name} after {n_parts or f'{moment_s:.2f} s'}")
        earlier = status(folder).get("updated")
        with Launch(self.job, folder, launcher) as launch:

            def ready() -> bool:
                if n_parts is not None:
                    return len(part_paths(folder)) >= n_parts
                return time.monotonic() - launch.started > moment_s

            if not launch.wait_until(ready, "the moment of the disturbance"):
                self._must_be_done(launch)
                return False
            time.sleep(pause_s)
            running = launch.ranks()
            found = status(folder)
            began = bool(running) and found.get("state") == "running" and found.get("updated") != earlier
            done = time.monotonic()
            disturbance.do(launch, self.rng)
            launch.end()
            stop_s = time.monotonic() - done
            if status(folder).get("state") == "done":
                self._say("  it was done already")
                return False
            self._hit |= set(running.values())
            faults = self._after(folder, disturbance, launch.told(), stop_s, began and ranks > 1)
        self.trials.append(Trial(disturbance.name, ranks, stop_s, tuple(faults)))
        self._say(f"  stopped in {stop_s:.2f} s with {len(part_paths(folder))} parts {faults or ''}")
        return True

    def _must_be_done(self, launch: Launch) -> None:
        """Raises RuntimeError unless a run that ended by itself did so because it was done."""
        if launch.agent.returncode != 0:
            raise RuntimeError(f"ended by itself with {launch.agent.returncode}:\n{launch.told()[-4000:]}")

    def _after(self, folder: Path, disturbance: Disturbance, told: str, stop_s: float, witnesses: bool) -> list[str]:
        faults = [f"unreadable: {reason}" for reason in unreadable(folder)]
        if stop_s > self.slack * disturbance.within_s:
            faults.append(f"stopped after {stop_s:.1f} s, {disturbance.within_s:.0f} s are allowed")
        found = status(folder)
        if witnesses and found.get("exit_code") != disturbance.exit_code:
            faults.append(f"status.json says {found}")
        if witnesses and (told.count(disturbance.told), told.count(RESUMES)) != (1, 1):
            faults.append(f"{disturbance.told!r} was not told once: {told[-2000:]}")
        return faults

    def _finish(self, folder: Path, ranks: int) -> None:
        """Let the run come to its end, and check everything about it."""
        started = time.monotonic()
        with Launch(self.job, folder, standalone(ranks)) as launch:
            launch.end()
            code, told = launch.agent.returncode, launch.told()
        seconds = time.monotonic() - started
        if code != 0:
            raise RuntimeError(f"{folder} was not finished on {ranks} ranks (exit code {code}):\n{told[-4000:]}")
        faults = [] if tables(folder) == self.undisturbed else ["the tables differ from those of an undisturbed run"]
        lost, twice = lost_and_twice(folder)
        again = repeated(folder)
        faults += [f"process {pid} repeated {n} units" for pid, n in again.items() if n > MOST_REPEATED]
        if left := sorted((folder / "at_work").iterdir()):
            faults.append(f"left behind: {left}")
        self.finishes.append(Finish(lost, twice, again.total(), seconds, tuple(faults)))
        self._say(
            f"{folder.name}: {ranks} ranks: done in {seconds:.1f} s, {again.total()} units repeated {faults or ''}"
        )

    def _say(self, text: str) -> None:
        self.log.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self.log.flush()

    def faults(self) -> list[str]:
        """Everything that was not as it should be."""
        found = [f"{trial.name}: {fault}" for trial in self.trials for fault in trial.faults]
        for finish in self.finishes:
            found += finish.faults
            if finish.lost or finish.twice:
                found.append(f"{finish.lost} fragments lost, {finish.twice} twice")
        return found
