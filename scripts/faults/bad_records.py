"""Records that crash the process, hang it, yield NaN or do not fit into memory, in the real program.

faulty/sitecustomize.py injects these faults into the encoders. All other records must have the results of an
undisturbed run.
"""

from __future__ import annotations

import csv
import json
import random
import time
from dataclasses import replace
from pathlib import Path

from scripts.faults.launched_runs import Job, Launch, lost_and_twice, repeated, standalone, status
from scripts.faults.report import Row

FAULTY = Path(__file__).with_name("faulty")
MARKS = {"W": "TGG", "M": "ATG", "H": "CAT"}
"""Codon of each residue by which a record is marked."""


def write_marked(source: Path, target: Path, marks: str) -> Path:
    """`source`, followed by a record for each residue of `marks`, with eight of it in a row in its protein."""
    rng = random.Random(0)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in ("TAA", "TAG", "TGA")]
    with open(target, "w", encoding="utf-8") as file:
        file.write(source.read_text())
        for mark in marks:
            bases = [rng.choice(codons) for _ in range(166)]
            bases[80:88] = [MARKS[mark]] * 8
            file.write(f">marked_{mark}\n{''.join(bases)}AC\n")
    return target


def fault_environment(**faults: object) -> dict[str, str]:
    """Environment variables that inject faults; see faulty/sitecustomize.py for their names."""
    return {"PYTHONPATH": str(FAULTY), "VPDIST_FAULTS": json.dumps(faults)}


def with_faults(job: Job, **faults: object) -> Job:
    """The job with injected faults."""
    return replace(job, environment=fault_environment(**faults))


def fragment_rows(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "fragments.tsv", newline="", encoding="utf-8") as file:
        return {row["fragment_id"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


def differences(folder: Path, reference: Path, failed: str, tolerance: float = 0.0) -> list[str]:
    """Differences from the reference; exactly the records marked by a residue of `failed` should have no score."""
    problems = []
    rows, expected = fragment_rows(folder), fragment_rows(reference)
    if rows.keys() != expected.keys():
        problems.append("other fragments")
    bad = {row["seq_name"] for row in rows.values() if row["virus_score"] == "NA"}
    if bad != {f"marked_{mark}" for mark in failed}:
        problems.append(f"failed: {sorted(bad)}")
    for name in rows.keys() & expected.keys():
        mine, other = rows[name], expected[name]
        if mine["virus_score"] == "NA":
            continue
        scores = [abs(float(mine[each]) - float(other[each])) for each in ("virus_score", "nonvirus_score")]
        if max(scores) > tolerance or mine["prediction"] != other["prediction"]:
            problems.append(f"{name}: {mine} instead of {other}")
    return problems


def crash_and_nan(job: Job, folder: Path, reference: Path, attempts: int = 3) -> Row:
    """A record that crashes the process and one that yields NaN; torchrun restarts the ranks. All other scores are
    bit-identical to those of an undisturbed run."""
    launcher = standalone(2, f"--max-restarts={attempts - 1}")
    started = time.monotonic()
    with Launch(with_faults(job, crash="W", nan="M"), folder, launcher) as launch:
        launch.end()
        console = launch.console_text()
    dtype = job.options[job.options.index("--dtype") + 1]
    name = f"a record that crashes the process, one that yields NaN ({dtype})"
    row = _listed(name, folder, reference, "WM", console, started)
    logs = "".join(path.read_text() for path in (folder / "logs").iterdir())
    if ("retried in float32" in logs) == (dtype == "float32"):
        row = replace(row, problems=(*row.problems, "a retry in float32 was missing, or not needed"))
    return row


def hanging(job: Job, folder: Path, reference: Path, timeout_s: int = 15, attempts: int = 3) -> Row:
    """A record that hangs the process: `--stall-timeout` ends it twice, then the child process excludes the record."""
    job = with_faults(replace(job, options=(*job.options, "--stall-timeout", str(timeout_s))), hang="H")
    started = time.monotonic()
    with Launch(job, folder, standalone(2, f"--max-restarts={attempts - 1}")) as launch:
        launch.end()
        console = launch.console_text()
    name = f"a record at which the process hangs, `--stall-timeout {timeout_s}`"
    return _listed(name, folder, reference, "H", console, started)


def out_of_memory(job: Job, folder: Path, reference: Path) -> Row:
    """Three sequences fit into memory at a time; one record does not even fit alone."""
    started = time.monotonic()
    with Launch(with_faults(job, too_large="H", most_rows=3), folder, standalone(2)) as launch:
        launch.end()
        console = launch.console_text()
    name = "out of memory beyond three sequences; a record that does not fit"
    return _listed(name, folder, reference, "H", console, started, tolerance=1e-5)


def _listed(
    name: str, folder: Path, reference: Path, failed: str, console: str, started: float, tolerance: float = 0.0
) -> Row:
    """The report on a run that should have ended with exit code 5."""
    seconds = time.monotonic() - started
    recorded = status(folder)
    if (recorded.get("state"), recorded.get("exit_code")) != ("done_with_failures", 5):
        return Row(name, 1, 0, "-", (), (), (f"{name}: status.json holds {recorded}; {console[-3000:]}",))
    problems = differences(folder, reference, failed, tolerance)
    return Row(name, 1, sum(lost_and_twice(folder)), str(repeated(folder).total()), (), (seconds,), tuple(problems))
