"""The command line in a process that `vpdist.predict` has started: it stops, resumable, when its parent is gone."""

from __future__ import annotations

import os
import signal
import threading
import time

from vpdist.environment import PARENT

POLL_S = 1.0


def main() -> None:
    """Run the command line."""
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    from vpdist.cli import main as run

    run()


def _stop_without_parent() -> None:
    while os.getppid() == PARENT:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
