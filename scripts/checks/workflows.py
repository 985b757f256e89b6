"""`python -m scripts.checks.workflows`: what lies in workflows/, tried with the programs that it is for.

    make check-workflows      # creates the environment of these programs, build/workflows, first

Snakemake lints its file and runs it on two samples; miniwdl checks the WDL task, planemo the Galaxy wrapper, nf-core's
rules the Nextflow module, whose script and stub bash runs; the images' steps are run in order (container_steps.py).
A line with a verdict for each; exits with 1 if one has failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
WORKFLOWS = REPOSITORY / "workflows"
PROGRAMS = REPOSITORY / "build" / "workflows" / "bin"
CONTIGS = WORKFLOWS / "galaxy" / "test-data" / "contigs.fa"


class FailedError(Exception):
    """A check that has failed; its text says why."""


def called(*command: str | Path, folder: Path = REPOSITORY) -> str:
    """What a command told. It finds this environment's vpdist. Raises FailedError with that text."""
    path = os.pathsep.join((str(Path(sys.executable).parent), str(PROGRAMS), os.environ["PATH"]))
    ended = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if ended.returncode:
        raise FailedError(f"{Path(command[0]).name} ended with {ended.returncode}:\n{ended.stdout}")
    return ended.stdout


def snakemake() -> str:
    """Lint the Snakefile, and run it on two samples."""
    with tempfile.TemporaryDirectory(prefix="vpdist-snakemake-") as name:
        folder = Path(name)
        shutil.copytree(WORKFLOWS / "snakemake", folder / "workflow")
        shutil.copy(CONTIGS, folder)
        (folder / "mine.yaml").write_text("samples:\n  one: contigs.fa\n  two: [contigs.fa]\noptions: --offline\n")
        command = (PROGRAMS / "snakemake", "-s", "workflow/Snakefile", "--configfile", "mine.yaml")
        called(*command, "--lint", folder=folder)
        called(*command, "--cores", "2", folder=folder)
        tables = [folder / "results" / sample / "sequences.tsv" for sample in ("one", "two")]
        sections = [table.with_name("vpdist_mqc.json") for table in tables]
        rows = [len(table.read_text().splitlines()) for table in tables]
        if rows != [3, 3] or not all(section.exists() for section in sections):
            raise FailedError(f"rows of the tables: {rows}")
        return "linted; run on two samples"


def miniwdl() -> str:
    """Check types and names, warnings being errors."""
    options = ("--strict", "--no-outside-imports", "--suppress", "CommandShellCheck")
    called(PROGRAMS / "miniwdl", "check", *options, WORKFLOWS / "wdl" / "vpdist.wdl")
    return "checked, no warning"


def planemo() -> str:
    """Lint the wrapper, warnings being errors."""
    called(PROGRAMS / "planemo", "lint", "--fail_level", "warn", WORKFLOWS / "galaxy" / "vpdist_predict.xml")
    return "linted, no warning"


def nf_core() -> str:
    """Its rules that need neither its server nor Nextflow."""
    module = WORKFLOWS / "nextflow" / "vpdist" / "predict"
    told = called(PROGRAMS / "python", "-m", "scripts.checks.nf_core_module", module)
    return told.strip().splitlines()[-1]


def nextflow() -> str:
    """The module's script and its stub, run by bash with Nextflow's variables filled in: both leave the same files."""
    left = []
    for block in ("script", "stub"):
        with tempfile.TemporaryDirectory(prefix="vpdist-nextflow-") as name:
            shutil.copy(CONTIGS, name)
            called("bash", "-euo", "pipefail", "-c", nextflow_script(block), folder=Path(name))
            expected = (
                "one/sequences.tsv",
                "one/virus.fna.gz",
                "one/report.html",
                "one_vpdist_mqc.json",
                "versions.yml",
            )
            if absent := [path for path in expected if not Path(name, path).exists()]:
                raise FailedError(f"{block}: leaves no {', '.join(absent)}")
            left.append(Path(name, "versions.yml").read_text())
    if left[0] != left[1]:
        raise FailedError(f"versions.yml differ: {left}")
    return f"script and stub run; versions.yml: {' '.join(left[0].split())}"


def nextflow_script(block: str) -> str:
    """What Nextflow hands to bash for `script` or `stub` of the module: one sample, the built-in model, two cores."""
    text = (WORKFLOWS / "nextflow" / "vpdist" / "predict" / "main.nf").read_text()
    body = text.split(f"    {block}:\n", 1)[1].split('"""')[1]
    values = {
        "sequences": CONTIGS.name,
        "prefix": "one",
        "use": "--model mini --offline",
        "device": "cpu",
        "ranks": "2",
        "args": "--no-embeddings",
        "task.process": "VPDIST_PREDICT",
    }
    for name, value in values.items():
        body = body.replace(f"${{{name}}}", value)
    return textwrap.dedent(body).replace("\\\\", "\\").replace("\\$", "$")


def images() -> str:
    """The steps of the Dockerfile and of the Apptainer definition."""
    told = called(sys.executable, "-m", "scripts.checks.container_steps").strip().splitlines()
    return "; ".join(line for line in told if line.startswith(("skipped", "Dockerfile: ", "vpdist.def: ")))


CHECKS: dict[str, Callable[[], str]] = {
    check.__name__: check for check in (snakemake, miniwdl, planemo, nf_core, nextflow, images)
}


def main() -> int:
    """Run the checks that are named, else all."""
    failed = False
    for name in sys.argv[1:] or CHECKS:
        try:
            print(f"{name:<10} ok     {CHECKS[name]()}", flush=True)
        except FailedError as error:
            print(f"{name:<10} FAILED {error}", flush=True)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
