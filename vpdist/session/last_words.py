"""The sentence by which a run ends, told once more where the launcher's agent would push it up: below its traceback.

`torchrun` names a file to each rank (TORCHELASTIC_ERROR_FILE), reads those of ranks that have failed, and prints the
text of the first one by time. Of a signal to itself it prints a traceback of its own and reads no file; then a small
process waits for its end. Only the rank that reports to the user does either.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from vpdist.environment import PARENT, agent_error_file, launch_context
from vpdist.session import after_agent
from vpdist.text import printable_lines


def with_log(message: str, log: Path | None) -> str:
    """The message, and below it where the log is, if there is one that can be seen."""
    return f"{message}\nlog: {log}" if log is not None and os.path.exists(log) else message  # Path.exists may raise


def tell_agent(message: str) -> None:
    """Leave `message` for the launcher's agent, if there is one that asks. The console and status.json have it, too."""
    path = agent_error_file()
    if path is None:
        return
    before_others = int(time.time()) - 1  # ranks without a file count as failed when the agent looks, maybe this second
    content: dict[str, Any] = {"message": printable_lines(message), "timestamp": before_others}
    with contextlib.suppress(OSError):  # a full disk: the console has the message
        path.write_text(json.dumps(content))


def say_after_agent(message: str, console: TextIO) -> None:
    """Once torch's agent has ended by a signal, write `message` to the terminal; nothing where there is no terminal,
    no such agent, or where the agent goes on. vpdist's own launcher prints nothing that would stand below."""
    context = launch_context()
    if agent_error_file() is None or context.store_secret or context.orphaned or not sys.executable:
        return
    with contextlib.suppress(OSError, ValueError):  # the terminal was closed, no process can be started: it was told
        if not console.isatty():
            return
        agent = os.pidfd_open(PARENT)
        try:
            subprocess.Popen(
                [sys.executable, "-I", "-S", after_agent.__file__, str(agent), f"vpdist: {printable_lines(message)}\n"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=console,
                pass_fds=(agent,),
                start_new_session=True,  # the agent sends its signals to this rank's session
            )
        finally:
            os.close(agent)
