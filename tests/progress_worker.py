"""One rank of a small distributed job, for tests: `progress_worker.py FOLDER SCENARIO...`, one scenario after another.

Each scenario writes FOLDER/SCENARIO.RANK.json with what happened, and rank 0's FOLDER/SCENARIO.jsonl.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import ClassVar

from vpdist.distributed import runtime
from vpdist.distributed.lost_ranks import AgreedLoss, LostRanks
from vpdist.environment import launch_context
from vpdist.errors import Interrupted, PeerLost, VpdistError
from vpdist.monitoring import exchange
from vpdist.monitoring.counters import COUNTERS
from vpdist.monitoring.gather import Gather
from vpdist.monitoring.intervals import Intervals
from vpdist.session.progress import Progress

FOLDER = Path(sys.argv[1])
PATIENCE_S = 600.0
PATIENT = Intervals(stall_timeout_s=PATIENCE_S, roll_call_s=PATIENCE_S, grace_s=PATIENCE_S, orderly_grace_s=PATIENCE_S)
"""Of ranks that end in order, however slow the machine is."""
HANGING = {("killed", 2), ("orphan", 1)}
"""Scenarios and ranks that are forced out, a moment after the loss."""
SURVIVORS = {"killed": {0, 2}, "leaving": {0, 1, 2}}
"""Ranks that answer the roll call."""
ROLL_CALL_S = 0.5
"""How long others, who do not come, are waited for."""
SILENT_S = 10.0
"""After which a rank of `silent` is lost."""
SHOWN_AT = (5, 15, 25, 35)
"""Batches before which `show` waits."""
BATCH = {"batches": 1, "fragments": 10, "nucleotide_tokens": 600, "protein_tokens": 400}


def patient_gather(this_rank: runtime.Runtime, timeout_s: float) -> Gather:
    """Rounds that give up only long after a test would: what ends sooner has not waited for them."""
    return Gather(this_rank, timeout_s + 2 * PATIENCE_S)


exchange.Gather = patient_gather  # type: ignore[misc,assignment]


class PatientLostRanks(LostRanks):
    """Its roll call waits for the survivors, however long they take, and for a moment for the others."""

    survivors: ClassVar[set[int]] = set()

    def _roll_call(self, reason: str) -> AgreedLoss:
        while any(self._keys.get(f"{self._present}/{rank}") is None for rank in self.survivors - {self._rank}):
            time.sleep(0.02)
        self._roll_call_s = ROLL_CALL_S
        return super()._roll_call(reason)


exchange.LostRanks = PatientLostRanks  # type: ignore[misc]


def write_report(name: str, **facts: object) -> None:
    """Write FOLDER/name.json, complete or not at all."""
    path = FOLDER / f"{name}.json"
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps({"time": time.time(), "pid": os.getpid(), **facts}))
    temporary.rename(path)


class Job:
    """A rank in one scenario."""

    def __init__(self, this_rank: runtime.Runtime, scenario: str) -> None:
        self.rank, self.scenario = this_rank.rank, scenario
        PatientLostRanks.survivors = SURVIVORS.get(scenario, set())
        bars = scenario.startswith("bars")
        self.progress = Progress(
            this_rank,
            "auto" if bars else "none",
            FOLDER / f"{scenario}.jsonl",
            sys.stderr if bars else None,
            stall_timeout_s=PATIENCE_S,
            intervals=self.intervals(),
            on_forced_exit=self.forced,
        )
        write_report(f"{scenario}.{self.rank}.started")

    def intervals(self) -> Intervals:
        if (self.scenario, self.rank) in HANGING:
            return replace(PATIENT, grace_s=1.0, orderly_grace_s=1.0)
        if self.scenario in ("uneven", "killed", "leaving", "orphan"):
            return PATIENT
        return replace(PATIENT, stalled_s=1.0, overdue_s=0.6, beat_s=0.3)

    def forced(self, failure: VpdistError, keys: runtime.KeyStore) -> int:
        write_report(f"{self.scenario}.{self.rank}.forced", line=str(failure))
        return failure.exit_code

    def work(self, batches: int, seconds: float) -> None:
        self.progress.stage("embed", planned_tokens=1000 * batches)
        for _ in range(batches):
            time.sleep(seconds)
            self.progress.add(**BATCH)

    def work_until_released(self) -> None:
        """Batches until the test opens the gate."""
        self.progress.stage("embed", planned_tokens=100_000)
        self.wait_for("release", every_batch=BATCH)

    def wait_for(self, gate: str, every_batch: Mapping[str, int] = {}) -> None:
        """Until the test opens this gate."""
        path = FOLDER / f"{self.scenario}.{gate}"
        until = time.monotonic() + PATIENCE_S
        while not path.exists():
            if time.monotonic() > until:
                raise TimeoutError(f"{path.name} was not opened within {PATIENCE_S:.0f} s")
            time.sleep(0.02)
            self.progress.add(**every_batch)

    def run(self) -> None:
        rank = self.rank
        match self.scenario:
            case "uneven":
                self.work((40, 80, 120, 160)[rank], 0.01)
            case "idle":
                if rank != 1:
                    self.work(30, 0.01)
            case "slow":
                self.work(15, 0.0)
                if rank == 2:
                    self.wait_for("release")
            case "stopped":
                self.work_until_released()
            case "silent":
                self.progress.stage("embed", planned_tokens=100_000)
                self.wait_for("impatient", every_batch=BATCH)  # until a rank was stopped
                exchanging = self.progress._exchange
                exchanging._intervals = replace(exchanging._intervals, stall_timeout_s=SILENT_S)
                self.wait_for("release", every_batch=BATCH)
            case "killed" | "orphan":
                self.progress.stage("embed", planned_tokens=1_000_000)
                self.work(20, 0.01)
                if self.scenario == "killed" and rank == 1:
                    write_report("killed")
                    os.kill(os.getpid(), signal.SIGKILL)
                if rank == 2 or (self.scenario == "orphan" and rank == 1):
                    threading.Event().wait()  # hangs: checks for no failure
                self.work_until_released()
            case "leaving":
                self.work(20, 0.01)
                if rank == 3:
                    self.progress.abort("x.fa, record 7: no sequence")
                    write_report("leaving.3", error="")
                    os._exit(3)
                self.work_until_released()
            case _:
                self.show()

    def show(self) -> None:
        """What a terminal gets to see; each step waits until the test has seen the one before."""
        self.progress.stage("ingest")
        for _ in range(30):
            self.progress.add(records=100, bases=100_000, fragments=300)
        self.wait_for("ingest")
        self.progress.stage("embed", planned_tokens=1000 * 50 * (1 + self.rank))
        for batch in range(50 * (1 + self.rank)):
            if batch in SHOWN_AT:
                self.wait_for(str(SHOWN_AT.index(batch)))
            self.progress.add(**BATCH)
            if batch == 10 and self.rank == 0:
                self.progress.message("message above \x1b[2J the bars")
            if batch == 20 and self.rank == 1:
                print("a line that somebody else writes", file=sys.stderr, flush=True)
            if batch == 40 and self.rank == 1 and self.scenario == "bars_failing":
                raise OSError("rank 1 fails")


def interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(f"stopped by {signal.Signals(number).name}", 128 + number)


def main() -> None:
    this_rank = runtime.start(launch_context())
    for scenario in sys.argv[2:]:
        if scenario.startswith("bars"):
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGTERM, interrupt)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's, when another rank was killed
        job = Job(this_rank, scenario)
        error = ""
        try:
            job.run()
            job.progress.close()
        except (PeerLost, Interrupted, OSError) as failure:
            error = f"{type(failure).__name__}: {failure}"
            job.progress.abort(str(failure))
            if this_rank.rank == 0 and scenario.startswith("bars"):
                print(f"ended: {failure}", file=sys.stderr, flush=True)
        matrix = job.progress._exchange._liveness.matrix
        write_report(
            f"{scenario}.{this_rank.rank}",
            error=error,
            batches=matrix[:, COUNTERS.index("batches")].tolist(),
            tokens=matrix[:, COUNTERS.index("nucleotide_tokens")].tolist(),
        )
        if error and scenario.startswith("bars"):
            sys.exit(1)
    runtime.stop()


if __name__ == "__main__":
    main()
