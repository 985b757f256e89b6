"""Inject every fault into the real program under the real launchers, and print what it cost.

    python scripts/faults.py virus.fa.gz host.fa.gz --contigs 40 --work faults [--kills 50] [--tries 3] [--seed 0]
        [--into docs/faults.md]

Encoders are small ones with random weights unless --models names a folder with dnabert-s and esm-2. `--into` puts the
table between the marks in a Markdown file. Ends with 1 and a list where anything was not as it should be.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import dnaio
import torch
from disturb import KILLS, SIGNALS, Chase, signal_rank
from launches import Job, Launch, lost_and_twice, part_paths, repeated, standalone, status, tables
from make_models import make_dnabert_s, make_esm2
from mishaps import MISHAPS
from two_nodes import nodes
from verdicts import conditions

from vpdist.classifier import Classifier, save_classifier
from vpdist.weights import encoder_shape

SABOTAGE = Path(__file__).with_name("faulty")
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"
MARKS = {"W": "TGG", "M": "ATG", "H": "CAT"}
"""Codon of each residue that marks a record."""
MARKED = {"crash": "W", "nan": "M", "too_large": "H"}


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    fault: str
    tries: int
    lost: int
    repeated: str
    stop_s: tuple[float, ...]
    finish_s: tuple[float, ...]
    problems: tuple[str, ...] = ()


def figures(seconds: Iterable[float]) -> str:
    """Median and worst."""
    found = list(seconds)
    return f"{statistics.median(found):.1f} / {max(found):.1f}" if found else "-"


def as_markdown(rows: Iterable[Row]) -> str:
    """The table."""
    lines = ["| fault | tries | lost | repeated | s to stop | s to finish |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row.fault} | {row.tries} | {row.lost} | {row.repeated} | {figures(row.stop_s)} | {figures(row.finish_s)} |"
        for row in rows
    ]
    return "\n".join(lines)


def chased(name: str, chase: Chase) -> Row:
    """A chase's line."""
    return Row(
        name,
        len(chase.trials),
        sum(finish.lost + finish.twice for finish in chase.finishes),
        f"{sum(finish.repeated for finish in chase.finishes)}",
        tuple(trial.stop_s for trial in chase.trials),
        tuple(finish.finish_s for finish in chase.finishes),
        tuple(chase.faults()),
    )


# torchrun goes on by itself


def elastic(job: Job, folder: Path, undisturbed: list[bytes], rng: random.Random, kills: int = 2) -> Row:
    """torchrun --max-restarts=3: random ranks are killed, and nobody gives the command again."""
    problems = []
    killed_at = 0.0
    with Launch(job, folder, standalone(3, "--max-restarts=3")) as launch:
        for _ in range(kills):
            wanted = len(part_paths(folder)) + rng.randint(3, 10)
            if not launch.wait_until(partial(_all_at_work, launch, folder, wanted)):
                problems.append("done before it was killed")
                break
            victims = set(launch.ranks().values())
            killed_at = time.monotonic()
            signal_rank(signal.SIGKILL)(launch, rng)
            launch.wait_until(partial(_all_gone, launch, victims))
        launch.end()
        if launch.agent.returncode != 0:
            problems.append(f"torchrun ended with {launch.agent.returncode}: {launch.told()[-3000:]}")
    seconds = time.monotonic() - killed_at
    if not problems and json.loads((folder / "run.json").read_text())["launcher_restarts"] != kills:
        problems.append("run.json counts other restarts")
    return _judged("a rank killed twice, `--max-restarts=3`", folder, undisturbed, (), (seconds,), problems)


def _all_at_work(launch: Launch, folder: Path, n_parts: int) -> bool:
    return len(launch.ranks()) == 3 and len(part_paths(folder)) >= n_parts


def _all_gone(launch: Launch, processes: set[int]) -> bool:
    return processes.isdisjoint(launch.processes())


def node_lost(
    job: Job, folder: Path, undisturbed: list[bytes], *options: str, killed: int = 1, fast: bool = False
) -> Row:
    """Two nodes; one agent is killed and started again; the run finishes by itself."""
    options = ("--max-restarts=3", *options)
    if fast:  # torch bears 15 s of silence before it takes a node for dead
        options = (*options, "--rdzv-conf=keep_alive_interval=1,keep_alive_max_attempt=3")
    problems = []
    with nodes() as two:

        def start(node: int) -> Launch:
            environment = two.environment(node)
            return Launch(job, folder, two.launcher(node, *options, host=1 - killed), environment)

        agents = [start(0), start(1)]
        with agents[0], agents[1]:
            if not agents[0].wait_until(lambda: len(part_paths(folder)) >= 5):
                problems.append(f"did not begin: {agents[0].told()[-2000:]}")
            lost_at = time.monotonic()
            agents[killed].agent.kill()
            stop_s = agents[killed].end()
            with start(killed) as again:
                survivor = agents[1 - killed]
                for each in (survivor, again):
                    each.end()
                    if each.agent.returncode != 0:
                        problems.append(f"an agent ended with {each.agent.returncode}: {each.told()[-3000:]}")
        seconds = time.monotonic() - lost_at
        name = "an agent of two killed, comes back" + (" (own networks)" if two.namespaces else " (loopback)")
    return _judged(name, folder, undisturbed, (stop_s,), (seconds,), problems)


# Records and memory


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


def sabotaged(job: Job, **faults: object) -> Job:
    """The job with misbehaving encoders."""
    return replace(job, environment={"PYTHONPATH": str(SABOTAGE), "VPDIST_FAULTS": json.dumps(faults)})


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
    return _listed("a record that crashes the process, one that yields NaN", folder, reference, "WM", told, started)


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


def _judged(
    name: str,
    folder: Path,
    undisturbed: list[bytes],
    stop_s: tuple[float, ...],
    finish_s: tuple[float, ...],
    problems: list[str],
) -> Row:
    lost = 0
    if not problems:
        lost = sum(lost_and_twice(folder))
        if tables(folder) != undisturbed:
            problems.append("the tables differ from those of an undisturbed run")
    return Row(name, 1, lost, str(repeated(folder).total()), stop_s, finish_s, tuple(problems))


def together(rows: list[Row]) -> Row:
    """Several tries of one fault as one line."""
    return Row(
        rows[0].fault,
        sum(row.tries for row in rows),
        sum(row.lost for row in rows),
        str(sum(int(row.repeated) for row in rows if row.repeated.isdigit())),
        tuple(second for row in rows for second in row.stop_s),
        tuple(second for row in rows for second in row.finish_s),
        tuple(problem for row in rows for problem in row.problems),
    )


def undisturbed(job: Job, folder: Path, ranks: int = 1) -> float:
    """Run the job, and return the seconds that took."""
    started = time.monotonic()
    with Launch(job, folder, standalone(ranks)) as launch:
        launch.end()
        if launch.agent.returncode != 0:
            raise RuntimeError(f"the undisturbed run failed: {launch.told()}")
    return time.monotonic() - started


def campaign(job: Job, work: Path, kills: int, tries: int, seed: int, log: TextIO) -> list[Row]:
    """Every fault, and its line."""
    rng = random.Random(seed)
    undisturbed(job, work / "undisturbed")
    expected = tables(work / "undisturbed")
    seconds = undisturbed(job, work / "undisturbed3", ranks=3)

    def chase(name: str) -> Chase:
        folder = work / name
        folder.mkdir(parents=True)
        return Chase(job, folder, expected, seconds, rng, log)

    rows = []
    killing = chase("kills")
    killing.disturb_all([rng.choice(KILLS) for _ in range(kills)])
    rows.append(chased("a random rank or the agent killed, resumed on 1 to 5 ranks", killing))
    for number, disturbance in enumerate((*KILLS, *SIGNALS)):
        each = chase(f"disturbance{number}")
        each.disturb_all([disturbance] * tries, always_finish=True)
        rows.append(chased(disturbance.name, each))
    several: dict[str, Callable[[Path], Row]] = {
        "elastic": lambda folder: elastic(job, folder, expected, rng),
        "node": lambda folder: node_lost(job, folder, expected),
    }
    for name, attempt in several.items():
        rows.append(together([attempt(work / f"{name}{number}") for number in range(max(tries, 5))]))
    marked = replace(job, source=write_marked(job.source, work / "marked.fa", "WMH"))
    undisturbed(marked, work / "marked")
    rows.append(poisoned(marked, work / "poisoned", work / "marked"))
    rows.append(does_not_fit(marked, work / "memory", work / "marked"))
    rows += [mishap(name, job, work, number) for number, name in enumerate(MISHAPS)]
    return rows


def mishap(name: str, job: Job, work: Path, number: int) -> Row:
    """The line of a fault that ends no process; needs `work`/undisturbed."""
    started = time.monotonic()
    problems = MISHAPS[name](job, work / "undisturbed", work / f"mishap{number}")
    return Row(name, 1, 0, "-", (), (time.monotonic() - started,), tuple(problems))


def small_job(sources: list[Path], contigs: int, work: Path, models: Path | None) -> Job:
    """The first contigs of each source, small encoders unless there are others, a random classifier."""
    work.mkdir(parents=True)
    with open(work / "contigs.fa", "w", encoding="utf-8") as file:
        for source in sources:
            with dnaio.open(source) as reader:
                for _, record in zip(range(contigs), reader, strict=False):
                    file.write(f">{record.name}\n{record.sequence}\n")
    if models is None:
        models = work / "models"
        make_dnabert_s(models / "dnabert-s", 2, 48, 0, safetensors=True)
        make_esm2(models / "esm-2", 2, 32, 1)
    torch.manual_seed(0)
    width = sum(encoder_shape(models / name).width for name in ("dnabert-s", "esm-2"))
    save_classifier(Classifier(width, 16).eval(), work / "classifier.safetensors", {"chunk_length": "500"})
    return Job(work / "contigs.fa", models / "dnabert-s", models / "esm-2", work / "classifier.safetensors")


def put_into(path: Path, table: str) -> None:
    """Replace what stands between the marks."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("--contigs", type=int, default=40, help="of each source")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    job = small_job(arguments.sources, arguments.contigs, arguments.work, arguments.models)
    rows = campaign(job, arguments.work, arguments.kills, arguments.tries, arguments.seed, sys.stderr)
    told = f"{as_markdown(rows)}\n\n{conditions()}; `python {' '.join(sys.argv)}`"
    print(told)
    if arguments.into:
        put_into(arguments.into, told)
    problems = [f"{row.fault}: {problem}" for row in rows for problem in row.problems]
    sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
