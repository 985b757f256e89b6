"""One rank of a run without stages, for tests: `session_worker.py FOLDER BAD_RANK HOW STUCK_RANK`.

BAD_RANK runs out of disk space (HOW: storage) or has a bug on its exchange's thread (HOW: bug); STUCK_RANK reacts to
nothing.
"""

import functools
import sys
import threading
import time
from pathlib import Path

from vpdist.environment import launch_context
from vpdist.errors import StorageError
from vpdist.monitoring.intervals import Intervals
from vpdist.monitoring.telemetry import Telemetry
from vpdist.session import run_session, session, signals
from vpdist.session.progress import Progress
from vpdist.storage.run_folder import RunFolder

HASTY = Intervals(beat_s=0.3, grace_s=1.0, orderly_grace_s=1.0)
PATIENT = Intervals(beat_s=0.3, grace_s=600.0, orderly_grace_s=600.0)
"""Of ranks that can end in order, however slow the machine is."""


def broken_read(telemetry: Telemetry) -> None:
    raise ZeroDivisionError("nothing is between zero readings")


def work(bad_rank: int, how: str, stuck_rank: int, opened: session.Session) -> session.Outcome:
    opened.begin()
    opened.control.barrier("begun")
    rank = opened.control.runtime.rank
    if rank == bad_rank and how == "storage":
        raise StorageError("no space left")
    if rank == bad_rank:
        Telemetry.read = broken_read  # type: ignore[method-assign,assignment]
    if rank == stuck_rank:
        threading.Event().wait()
    while True:
        opened.control.raise_if_ending()
        time.sleep(0.02)


def main() -> int:
    folder, bad_rank, how, stuck_rank = sys.argv[1:]
    intervals = HASTY if launch_context().rank == int(stuck_rank) else PATIENT
    run_session.Progress = functools.partial(Progress, intervals=intervals)  # type: ignore[misc,assignment]
    signals.SECOND_SIGNAL_AFTER_S = 600.0  # Ctrl-C reaches a rank twice, from the terminal and from a slow agent
    return run_session.run_session(
        RunFolder(Path(folder)),
        functools.partial(work, int(bad_rank), how, int(stuck_rank)),
        device="cpu",
        progress="none",
        stall_timeout=600.0,
    )


if __name__ == "__main__":
    sys.exit(main())
