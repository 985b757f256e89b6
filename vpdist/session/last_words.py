"""The sentence by which a run ends, left where torchrun prints root causes from: it stands below its traceback then.

`torchrun` names a file to each rank (TORCHELASTIC_ERROR_FILE), reads those of ranks that have failed, and prints the
text of the first one by time. Only the rank that reports to the user writes one.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

from vpdist.environment import agent_error_file
from vpdist.text import printable_lines


def tell_agent(message: str) -> None:
    """Leave `message` for the launcher's agent, if there is one that asks. The console and status.json have it, too."""
    path = agent_error_file()
    if path is None:
        return
    before_others = int(time.time()) - 1  # ranks without a file count as failed when the agent looks, maybe this second
    content: dict[str, Any] = {"message": printable_lines(message), "timestamp": before_others}
    with contextlib.suppress(OSError):  # a full disk: the console has the message
        path.write_text(json.dumps(content))
