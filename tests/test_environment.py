"""A process and the launcher that started it."""

import subprocess
import sys
import threading

from tests.launched import environment

WORKER = """
import sys
from vpdist.environment import ending_with_launcher, launch_context

with ending_with_launcher():
    print("up", flush=True)
    sys.stdin.read()
print(launch_context().launched, launch_context().orphaned)
"""


def test_a_process_goes_on_when_only_the_thread_ends_that_started_it() -> None:
    started: list[subprocess.Popen[str]] = []

    def start() -> None:
        context = {"RANK": "0", "WORLD_SIZE": "1"}
        command = [sys.executable, "-c", WORKER]
        worker = subprocess.Popen(
            command, env=environment() | context, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(worker)
        assert worker.stdout is not None
        worker.stdout.readline()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    (worker,) = started
    output, _ = worker.communicate(timeout=60)
    assert output == "True False\n"
    assert worker.returncode == 0
