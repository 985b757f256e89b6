"""`python -m scripts.checks.read_by_multiqc`: whether MultiQC itself reads what `vpdist report --multiqc` writes.

A file of made-up counts is written as a report writes it, MultiQC makes its own report of it in strict mode, and the
table that it leaves must have every sample with its numbers; of a name MultiQC may cut what follows a dot.
`make check-multiqc` installs MultiQC first, into an environment of its own: it brings a gigabyte of packages that
nothing else here needs.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpdist.report.multiqc import NAME, write_multiqc

ENVIRONMENT = Path(__file__).parents[2] / "build" / "multiqc"
SECONDS = 1800.0
NAMES = (
    *("reads/sample_1.fa.gz", "other/sample_1.fa.gz", "gut.sorted.fna", "soil.contigs.fa", "soil.scaffolds.fa"),
    *("two words.fa", "<b>bold</b>.fa", "=1+1.fa", "0012.fa", "NA.fa", "\u00e4\u00f6.fa", "empty.fa"),
)
"""Of input files: equal names in two folders, endings that MultiQC cleans away elsewhere, markup, numbers, nothing."""

Counts = dict[str, dict[str, int]]


def found() -> Path | None:
    """MultiQC's program: of this environment, of `make check-multiqc`, or on the search path."""
    for folder in (Path(sys.executable).parent, ENVIRONMENT / "bin"):
        if (folder / "multiqc").exists():
            return folder / "multiqc"
    program = shutil.which("multiqc")
    return Path(program) if program else None


def made_up() -> dict[str, Any]:
    """What a report counts, as `write_multiqc` takes it: another number in every place, zeros for the last file."""
    sources = [
        {"name": name, "sequences": 100 * k + 60, "scored": 90 * k + 50, "virus": 7 * k + 3}
        for k, name in enumerate(NAMES[:-1], 1)
    ]
    return {"sources": [*sources, {"name": NAMES[-1], "sequences": 0, "scored": 0, "virus": 0}]}


def written(folder: Path, meta: Mapping[str, Any]) -> Counts:
    """Write the file; returns its samples and counts."""
    content = json.loads(write_multiqc(folder, meta).read_text())
    return {str(sample): dict(counts) for sample, counts in content["data"].items()}


def as_read(program: Path, folder: Path) -> Counts:
    """Samples and counts as MultiQC has them after it has read `folder`; raises RuntimeError where it fails."""
    target = folder / "read"
    command = [program, "--strict", "--outdir", target, "--config", _settings(folder), folder / NAME]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=SECONDS, check=False)
    table = target / "multiqc_data" / "multiqc_vpdist_calls.txt"
    if ended.returncode != 0 or not table.exists() or not (target / "multiqc_report.html").exists():
        raise RuntimeError(
            f"MultiQC ended with {ended.returncode} and has not read {NAME}: {ended.stdout}{ended.stderr}"
        )
    with open(table, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row.pop("Sample"): {name: round(float(value)) for name, value in row.items()} for row in rows}


def differences(expected: Counts, read: Counts) -> list[str]:
    """A line for each sample that is not there, or has another name or other numbers; all have different numbers."""
    names = {tuple(counts.values()): name for name, counts in read.items()}
    lines = []
    for sample, counts in expected.items():
        name = names.pop(tuple(counts.values()), None)
        if name is None or read[name] != counts or name not in (sample, sample.partition(".")[0]):
            lines.append(f"{sample}: {counts} was written, and is read as {name}")
    return [*lines, *(f"{name}: {read[name]} is read, and was not written" for name in names.values())]


def _settings(folder: Path) -> Path:
    """Nothing is fetched: MultiQC asks for its newest version otherwise."""
    path = folder / "settings.yaml"
    path.write_text("no_version_check: true\n")
    return path


def main() -> int:
    program = found()
    if program is None:
        print("there is no MultiQC: make check-multiqc installs it", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        expected = written(Path(name), made_up())
        read = as_read(program, Path(name))
    differing = differences(expected, read)
    print("\n".join(differing), end="\n" * bool(differing))
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=SECONDS)
    print(f"{version.stdout.strip()}: {len(expected)} samples written, {len(read)} read")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
