"""Records that crash the process, yield NaN or fit nowhere, in the real program: its encoders are made to misbehave.

See faulty/sitecustomize.py for how. All else must come out as in an undisturbed run.
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

SABOTAGE = Path(__file__).with_name("faulty")
MARKS = {"W": "TGG", "M": "ATG", "H": "CAT"}
"""Codon of each residue that marks a record."""


def write_marked(source: Path, target: Path, marks: str) -> Path:
    """`source` and behind it, for each residue of `marks`, a record whose protein holds eight of it in a row."""
    rng = random.Random(0)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT" if a + b + c not in ("TAA", "TAG", "TGA")]
    with open(target, "w", encoding="utf-8") as file:
        file.write(source.read_text())
        for mark in marks:
            bases = [rng.choice(codons) for _ in range(166)]
            bases[80:88] = [MARKS[mark]] * 8
            file.write(f">marked_{mark}\n{''.join(bases)}AC\n")
    return target


def sabotage(**faults: object) -> dict[str, str]:
    """The environment in which encoders misbehave."""
    return {"PYTHONPATH": str(SABOTAGE), "VPDIST_FAULTS": json.dumps(faults)}


def sabotaged(job: Job, **faults: object) -> Job:
    """The job with misbehaving encoders."""
    return replace(job, environment=sabotage(**faults))


def fragment_rows(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "fragments.tsv", newline="", encoding="utf-8") as file:
        return {row["fragment_id"]: row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


def differences(folder: Path, reference: Path, failed: str, tolerance: float = 0.0) -> list[str]:
    """What is wrong with scores, when exactly the records marked by a residue of `failed` should have none."""
    problems = []
    found, expected = fragment_rows(folder), fragment_rows(reference)
    if found.keys() != expected.keys():
        problems.append("other fragments")
    bad = {row["seq_name"] for row in found.values() if row["virus_score"] == "NA"}
    if bad != {f"marked_{mark}" for mark in failed}:
        problems.append(f"failed: {sorted(bad)}")
    for name in found.keys() & expected.keys():
        mine, other = found[name], expected[name]
        if mine["virus_score"] == "NA":
            continue
        scores = [abs(float(mine[each]) - float(other[each])) for each in ("virus_score", "nonvirus_score")]
        if max(scores) > tolerance or mine["prediction"] != other["prediction"]:
            problems.append(f"{name}: {mine} instead of {other}")
    return problems


def poisoned(job: Job, folder: Path, reference: Path, attempts: int = 3) -> Row:
    """A record that crashes the process and one that yields NaN; torchrun starts the ranks again. All else has the
    bits of an undisturbed run."""
    launcher = standalone(2, f"--max-restarts={attempts - 1}")
    started = time.monotonic()
    with Launch(sabotaged(job, crash="W", nan="M"), folder, launcher) as launch:
        launch.end()
        told = launch.told()
    dtype = job.options[job.options.index("--dtype") + 1]
    name = f"a record that crashes the process, one that yields NaN ({dtype})"
    row = _listed(name, folder, reference, "WM", told, started)
    logs = "".join(path.read_text() for path in (folder / "logs").iterdir())
    if ("retried in float32" in logs) == (dtype == "float32"):
        row = replace(row, problems=(*row.problems, "not retried in float32, or in vain"))
    return row


def hangs(job: Job, folder: Path, reference: Path, patience_s: int = 15, attempts: int = 3) -> Row:
    """A record at which a process hangs for ever: given up twice, then set aside by the child process."""
    job = sabotaged(replace(job, options=(*job.options, "--stall-timeout", str(patience_s))), hang="H")
    started = time.monotonic()
    with Launch(job, folder, standalone(2, f"--max-restarts={attempts - 1}")) as launch:
        launch.end()
        told = launch.told()
    name = f"a record at which the process hangs, `--stall-timeout {patience_s}`"
    return _listed(name, folder, reference, "H", told, started)


def does_not_fit(job: Job, folder: Path, reference: Path) -> Row:
    """The memory holds three sequences at a time, and one record not even alone."""
    started = time.monotonic()
    with Launch(sabotaged(job, too_large="H", most_rows=3), folder, standalone(2)) as launch:
        launch.end()
        told = launch.told()
    name = "out of memory beyond three sequences; a record that does not fit"
    return _listed(name, folder, reference, "H", told, started, tolerance=1e-5)


def _listed(
    name: str, folder: Path, reference: Path, failed: str, told: str, started: float, tolerance: float = 0.0
) -> Row:
    """Judge a run that should have ended with exit code 5."""
    seconds = time.monotonic() - started
    found = status(folder)
    if (found.get("state"), found.get("exit_code")) != ("done_with_failures", 5):
        return Row(name, 1, 0, "-", (), (), (f"{name}: status.json says {found}; {told[-3000:]}",))
    problems = differences(folder, reference, failed, tolerance)
    return Row(name, 1, sum(lost_and_twice(folder)), str(repeated(folder).total()), (), (seconds,), tuple(problems))
