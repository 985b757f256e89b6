"""`python -m scripts.gpu.first_gpu` (`make first-gpu`): what holds on this GPU, in under ten minutes.

    python -m scripts.gpu.first_gpu --only speed idle        # some checks
    python -m scripts.gpu.first_gpu --rehearse               # all of them on the CPU, with tiny encoders

Every check is a process of its own with a time limit, so that none hides the others; what it found until it failed or
was ended stays. Prints a table of verdicts and writes it to bench/first-gpu.md after every check. Ends with 0, with 1
where a verdict failed, at once with 2 where there is no CUDA device.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from scripts.bench.goals import conditions
from scripts.gpu import cuda_tests, encoder_checks, limit_checks, run_checks, speed_checks
from scripts.gpu.setting import TINY, Setting, Sizes
from scripts.gpu.verdicts import FAILED, Checked, Verdict, any_failed, details, skipped, summary, table

TOTAL_S = 570.0
"""All checks together."""
REHEARSAL = 20.0
"""Times these limits, for a CPU that may be busy."""
LEAST_S = 15.0
"""A check is not begun with less time."""
GRACE_S = 10.0
"""Between the request to end and the kill: processes that a check has started are ended by it."""
NO_DEVICE = 2


@dataclass(frozen=True, slots=True)
class Check:
    """A check and its limit in seconds, some times what it takes on a current card."""

    name: str
    function: Callable[[Setting], Iterator[Verdict]]
    limit_s: float


CHECKS = (
    Check("driver", encoder_checks.driver, 45),
    Check("profiles", encoder_checks.profiles, 90),
    Check("speed", speed_checks.speed, 150),
    Check("idle", speed_checks.idle, 120),
    Check("against the CPU", run_checks.against_cpu, 120),
    Check("two ranks", run_checks.two_ranks, 90),
    Check("killed", run_checks.killed, 90),
    Check("mixed", encoder_checks.mixed, 60),
    Check("bucket", encoder_checks.bucket, 45),
    Check("rotation", encoder_checks.rotation, 45),
    Check("memory", limit_checks.memory, 90),
    Check("overflow", limit_checks.overflow, 90),
    Check("tests", cuda_tests.cuda_tests, 180),
)
"""The dearest figures first, in case that time runs out."""


def in_this_process(check: Check, setting: Setting, found: Path) -> None:
    """Run a check, and write each verdict to a file of JSON lines as soon as there is one."""
    setting.work.mkdir(parents=True, exist_ok=True)
    with open(found, "w", encoding="utf-8") as file:
        for verdict in check.function(setting):
            file.write(json.dumps(asdict(verdict)) + "\n")
            file.flush()


def verdicts_in(found: Path) -> list[Verdict]:
    """What a check has written; an unfinished last line is left out."""
    lines = found.read_text(encoding="utf-8").split("\n")[:-1] if found.exists() else []
    return [Verdict(**json.loads(line)) for line in lines]


def in_a_process(check: Check, command: Sequence[str], work: Path, left_s: float, slack: float = 1.0) -> Checked:
    """Run a check by a command that writes verdicts as `in_this_process` does, within `slack` times its limit and what
    is left."""
    if left_s < LEAST_S:
        return Checked(check.name, [skipped(check.name, f"only {max(0.0, left_s):.0f} s were left")], 0.0)
    stem = check.name.replace(" ", "-")
    found, log, limit_s = work / f"{stem}.jsonl", work / f"{stem}.log", min(slack * check.limit_s, left_s)
    found.unlink(missing_ok=True)
    started = time.monotonic()
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
            process.send_signal(signal.SIGINT)
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    verdicts = verdicts_in(found)
    if code != 0:
        why = f"did not end within {limit_s:.0f} s" if code is None else f"ended with status {code}: {last_line(log)}"
        verdicts.append(Verdict(what=f"{check.name}, to its end", outcome=FAILED, note=f"{why}; see {log}"))
    elif not verdicts:
        verdicts.append(Verdict(what=check.name, outcome=FAILED, note="no verdict"))
    return Checked(check.name, verdicts, time.monotonic() - started)


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no word"


def why_no_cuda() -> str:
    """Why torch finds no CUDA device, '' where it does."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    return f"torch {torch.__version__} needs an NVIDIA GPU and a driver for CUDA {torch.version.cuda}"


def heading() -> str:
    """Driver, capability, card, versions and command."""
    lines = [f"driver {encoder_checks.driver_version()}", conditions()]
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        lines[0] += (
            f", capability {major}.{minor}, CUDA of torch {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        )
    return "\n".join(lines)


def report(checks: Sequence[Checked]) -> str:
    parts = [f"```\n{heading()}\n```", table(checks), summary(checks), details(checks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def run_all(chosen: Sequence[Check], arguments: argparse.Namespace) -> list[Checked]:
    """Every chosen check in turn, the report written after each."""
    work = arguments.work / "first-gpu"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    started, done = time.monotonic(), list[Checked]()
    slack = REHEARSAL if arguments.rehearse else 1.0
    for check in chosen:
        options = ["--work", str(arguments.work), *(["--rehearse"] if arguments.rehearse else [])]
        command = [sys.executable, "-m", "scripts.gpu.first_gpu", "--here", check.name, *options]
        left_s = slack * arguments.total - (time.monotonic() - started)
        done.append(in_a_process(check, command, work, left_s, slack))
        for verdict in done[-1].verdicts:
            print(f"{verdict.what}: {verdict.value} {verdict.outcome}".rstrip(), file=sys.stderr, flush=True)
        (arguments.work / "first-gpu.md").write_text(report(done), encoding="utf-8")
    return done


def main() -> int:
    """Returns the exit code."""
    names = [check.name for check in CHECKS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these checks")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with tiny encoders")
    parser.add_argument(
        "--work", type=Path, default=Path("bench"), help="folder for the report, and for FOLDER/first-gpu"
    )
    parser.add_argument("--total", type=float, default=TOTAL_S, help="seconds of all checks together")
    parser.add_argument("--here", choices=names, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.rehearse and (why := why_no_cuda()):
        print(
            f"first-gpu: there is no CUDA device ({why}); --rehearse goes through the checks on a CPU", file=sys.stderr
        )
        return NO_DEVICE
    if arguments.here:
        device = torch.device("cpu") if arguments.rehearse else torch.device("cuda", 0)
        if arguments.rehearse:
            torch.set_num_threads(1)  # several spin, on busy cores for minutes
        work = arguments.work / "first-gpu"
        setting = Setting(device=device, work=work, sizes=TINY if arguments.rehearse else Sizes())
        [check] = [check for check in CHECKS if check.name == arguments.here]
        try:
            in_this_process(check, setting, work / f"{check.name.replace(' ', '-')}.jsonl")
        except KeyboardInterrupt:
            traceback.print_exc()
            return 130
        return 0
    done = run_all([check for check in CHECKS if check.name in arguments.only], arguments)
    print(report(done))
    return int(any_failed(done))


if __name__ == "__main__":
    sys.exit(main())
