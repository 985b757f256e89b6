"""The tests that are marked `cuda`, in a process of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from scripts.gpu.setting import Setting
from scripts.gpu.verdicts import Verdict, held

COMMAND = (sys.executable, "-m", "pytest", "-m", "cuda", "-q", "--continue-on-collection-errors")
"""A file that cannot be imported hides no others."""
COUNT = re.compile(r"(\d+) (passed|failed|skipped|error|errors|deselected|xfailed)\b")
REPOSITORY = Path(__file__).resolve().parents[2]
LINES = 40
"""Of what pytest says, that are kept where tests fail."""


def cuda_tests(setting: Setting) -> Iterator[Verdict]:
    """`make test-cuda`, or what it would run."""
    done = subprocess.run(COMMAND, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (setting.work / "pytest.txt").write_text(done.stdout)
    yield judged(done.stdout, done.returncode)


def judged(output: str, code: int) -> Verdict:
    """The verdict on what pytest said: at least one test passed, and none failed."""
    lines = output.strip().splitlines() or [""]
    counts = {kind: int(number) for number, kind in COUNT.findall(lines[-1])}
    told = [f"{counts[kind]} {kind}" for kind in ("passed", "failed", "error", "errors", "skipped") if kind in counts]
    reasons = "; ".join(line.removeprefix("SKIPPED ") for line in lines if line.startswith("SKIPPED "))
    holds = code == 0 and counts.get("passed", 0) > 0
    value = ", ".join(told) or lines[-1]
    said = "" if holds else "\n".join([*lines[-LINES:], f"ended with status {code}"])
    return held("tests marked cuda", holds, value, "none fails", reasons, said)
