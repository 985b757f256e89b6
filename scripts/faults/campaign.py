"""`python -m scripts.faults.campaign virus.fa.gz host.fa.gz --work faults [--into docs/faults.md]`: inject every fault.

Runs the real program under the real launchers and prints what each fault costs. Encoders are small ones with random
weights unless --models names a folder with dnabert-s and esm-2. `--into` replaces the table between the marks of a
Markdown file. Exits with 1 and a list if any expectation is not met.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TextIO

import dnaio

from scripts.bench.goals import conditions
from scripts.demo.make_models import make_classifier, make_dnabert_s, make_esm2
from scripts.faults.bad_records import crash_and_nan, hanging, out_of_memory, with_faults, write_marked
from scripts.faults.gate import Gate
from scripts.faults.kills_and_signals import KILLS, SIGNALS, DisturbedRuns, signal_rank
from scripts.faults.launched_runs import Job, Launch, standalone, tables
from scripts.faults.non_fatal import NON_FATAL
from scripts.faults.report import Row, as_markdown, judged, merged
from scripts.faults.two_nodes import node_lost, node_silent, rendezvous_lost

BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"


def disturbed_row(name: str, disturbed: DisturbedRuns) -> Row:
    """The row of all launches and runs of `disturbed`."""
    return Row(
        name,
        len(disturbed.stopped),
        sum(run.lost + run.twice for run in disturbed.finished),
        f"{sum(run.repeated for run in disturbed.finished)}",
        tuple(stop.stop_s for stop in disturbed.stopped),
        tuple(run.finish_s for run in disturbed.finished),
        tuple(disturbed.faults()),
        tuple(disturbed.late()),
    )


def elastic(job: Job, folder: Path, undisturbed: list[bytes], rng: random.Random, kills: int = 2) -> Row:
    """torchrun --max-restarts=3: random ranks are killed and restarted by torchrun, held between batches until the last
    kill."""
    problems = []
    killed_at = 0.0
    gate = Gate(folder.with_name(f"{folder.name}.gate"))
    held = with_faults(job, hold=gate.rule(free_batches=rng.randint(3, 10)))
    with Launch(held, folder, standalone(3, "--max-restarts=3")) as launch:
        for _ in range(kills):
            if not launch.wait_until(partial(gate.holds, launch, 3), "three ranks between batches"):
                problems.append("the run ended before a rank was killed")
                break
            victims = set(launch.ranks().values())
            killed_at = time.monotonic()
            signal_rank(signal.SIGKILL)(launch, rng)
            launch.wait_until(partial(_all_gone, launch, victims), "the end of all ranks")
        gate.open()
        launch.end()
        if launch.agent.returncode != 0:
            problems.append(f"torchrun ended with {launch.agent.returncode}: {launch.console_text()[-3000:]}")
    seconds = time.monotonic() - killed_at
    if not problems and json.loads((folder / "run.json").read_text())["launcher_restarts"] != kills:
        problems.append("run.json counts another number of restarts")
    return judged("a rank killed twice, `--max-restarts=3`", folder, undisturbed, (), (seconds,), problems)


def _all_gone(launch: Launch, processes: set[int]) -> bool:
    return processes.isdisjoint(launch.processes())


def run_undisturbed(job: Job, folder: Path, ranks: int = 1) -> float:
    """Run the job; returns the seconds that took."""
    started = time.monotonic()
    with Launch(job, folder, standalone(ranks)) as launch:
        launch.end()
        if launch.agent.returncode != 0:
            raise RuntimeError(f"the undisturbed run failed: {launch.console_text()}")
    return time.monotonic() - started


def campaign(job: Job, work: Path, kills: int, tries: int, seed: int, log: TextIO) -> list[Row]:
    """Inject every fault; returns a row for each."""
    rng = random.Random(seed)
    run_undisturbed(job, work / "undisturbed")
    expected = tables(work / "undisturbed")
    seconds = run_undisturbed(job, work / "undisturbed3", ranks=3)

    def new_runs(name: str) -> DisturbedRuns:
        folder = work / name
        folder.mkdir(parents=True)
        return DisturbedRuns(job, folder, work / "undisturbed", seconds, rng, log)

    rows = []
    killing = new_runs("kills")
    killing.disturb_all([rng.choice(KILLS) for _ in range(kills)])
    rows.append(disturbed_row("a random rank or the agent killed, resumed on 1 to 5 ranks", killing))
    for number, disturbance in enumerate((*KILLS, *SIGNALS)):
        each = new_runs(f"disturbance{number}")
        each.disturb_all([disturbance] * tries, always_finish=True)
        rows.append(disturbed_row(disturbance.name, each))
    by_itself: dict[str, Callable[[Path], Row]] = {
        "elastic": lambda folder: elastic(job, folder, expected, rng),
        "node1": lambda folder: node_lost(job, folder, expected, killed=1),
        "node0": lambda folder: node_lost(job, folder, expected, killed=0),
        "silent": lambda folder: node_silent(job, folder, expected),
        "rendezvous": lambda folder: rendezvous_lost(job, folder, expected),
    }
    for name, attempt in by_itself.items():
        n = max(tries, 5) if name == "elastic" else tries
        rows.append(merged([attempt(work / f"{name}-{number}") for number in range(n)]))
    marked = replace(job, source=write_marked(job.source, work / "marked.fa", "WMH"))
    half = replace(marked, options=tuple(each.replace("float32", "bfloat16") for each in job.options))
    run_undisturbed(marked, work / "marked")
    run_undisturbed(half, work / "marked16")
    rows.append(crash_and_nan(marked, work / "crash", work / "marked"))
    rows.append(crash_and_nan(half, work / "crash16", work / "marked16"))
    rows.append(hanging(marked, work / "hanging", work / "marked"))
    rows.append(out_of_memory(marked, work / "memory", work / "marked"))
    rows += [non_fatal_row(name, job, work, number) for number, name in enumerate(NON_FATAL)]
    return rows


def non_fatal_row(name: str, job: Job, work: Path, number: int) -> Row:
    """The row of a fault that ends no process; needs `work`/undisturbed."""
    started = time.monotonic()
    problems = NON_FATAL[name](job, work / "undisturbed", work / f"non_fatal{number}")
    return Row(name, 1, 0, "-", (), (time.monotonic() - started,), tuple(problems))


def small_job(sources: list[Path], contigs: int, work: Path, models: Path | None) -> Job:
    """The first contigs of each source, with `models` or small random encoders, and a random classifier."""
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
    return Job.of(work / "contigs.fa", models, make_classifier(work / "classifier.safetensors", models, hidden=16))


def put_into(path: Path, table: str) -> None:
    """Replace the text between the marks."""
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
    report = f"{as_markdown(rows)}\n\n```\n{conditions()}\n```"
    print(report)
    if arguments.into:
        put_into(arguments.into, report)
    problems = [f"{row.fault}: {problem}" for row in rows for problem in row.missed]
    sys.exit("\n".join(problems) or 0)


if __name__ == "__main__":
    main()
