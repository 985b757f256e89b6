"""Who holds a lock: enough of a process to tell whether it still runs, where that can be told at all.

A process number means something only in one PID namespace of one boot of one machine: containers share a host name,
and another user's process may be hidden. There, and where there is no /proc, nothing is known.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path


class State(Enum):
    """What is known of a process."""

    RUNNING = "running"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds a lock. Empty fields are not known."""

    host: str = "unknown"
    pid: int = 0
    boot_id: str = ""
    namespaces: str = ""
    """Those of process numbers and of the clock that start times are counted by."""
    start_ticks: int = 0
    """Clock ticks from the boot to the start of the process: no step of the clock changes them."""
    token: str = ""
    """No other lock has it."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Holder:
        """The holder in a lock's content; an unknown one where it holds anything else, as after a power cut."""
        try:
            fields = json.loads(text)
            known = {name: type(default)(fields.get(name, default)) for name, default in asdict(cls()).items()}
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            return cls()
        return cls(**known)

    def state(self) -> State:
        """Whether the process runs, as far as this process can see."""
        mine = this_process()
        where = (self.host, self.boot_id, self.namespaces)
        if not all(where) or where != (mine.host, mine.boot_id, mine.namespaces) or self.pid < 1:
            return State.UNKNOWN
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return State.GONE
        except PermissionError:  # a process of another user
            pass
        found = _state_and_start(self.pid)
        if found is None:
            return State.UNKNOWN
        letter, ticks = found
        return State.RUNNING if ticks == self.start_ticks and letter not in "ZX" else State.GONE


def this_process() -> Holder:
    """This process as a holder, with a new token."""
    found = _state_and_start(os.getpid())
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        boot_id=_text("/proc/sys/kernel/random/boot_id"),
        namespaces=_namespaces(),
        start_ticks=found[1] if found is not None else 0,
        token=secrets.token_hex(8),
    )


def _text(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text().strip()
    return ""


def _namespaces() -> str:
    """Empty where the one of process numbers is not known; kernels before 5.6 have none of time."""
    links = []
    for name in ("pid", "time"):
        try:
            links.append(os.readlink(f"/proc/self/ns/{name}"))
        except OSError:
            links.append("")
    return " ".join(links).strip() if links[0] else ""


def _state_and_start(pid: int) -> tuple[str, int] | None:
    """The letter of a process's state and its start in clock ticks since the boot; None where they are not shown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
