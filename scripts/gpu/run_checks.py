"""Whole runs on one device: against float32 on a CPU, on two ranks, killed and resumed.

All runs have the same contigs of mixed lengths, and small encoders with random weights. The run on one rank with which
others are compared is made by whichever check comes first.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from scripts.bench.parity import ALLOWED, cosine
from scripts.demo.make_models import make_classifier, make_dnabert_s, make_esm2
from scripts.faults.bad_records import fragment_rows, with_faults
from scripts.faults.gate import Gate
from scripts.faults.launched_runs import Job, Launch, lost_and_twice, part_paths, standalone, tables
from scripts.gpu.encoder_checks import LEAST_COSINE
from scripts.gpu.setting import Setting, write_contigs
from scripts.gpu.verdicts import Verdict, bounded, held
from vpdist.config import Settings
from vpdist.encoders.encoder import DTYPES
from vpdist.results import parts

EMBEDDING_ERROR = 2e-5
"""Of a number of an embedding in float32, as in the tests of parity; over the largest number, where that exceeds 1."""
SCORE_ERROR = 1e-5
"""Of a score in float32."""
BUDGET = 2048
"""Tokens of a batch, so that a run has some dozens."""
FREE_BATCHES = 5
VISIBLE = "CUDA_VISIBLE_DEVICES"
RUN_S = 900.0
"""No run takes longer, however busy the machine is; a check has a time limit of its own."""


def models(setting: Setting) -> tuple[Path, Path]:
    """The folder with small encoders on disk, and their classifier."""
    folder = setting.work / "small"
    classifier = folder / "classifier.safetensors"
    if not classifier.exists():
        nucleotide, protein = setting.sizes.small
        make_dnabert_s(folder / "dnabert-s", nucleotide.layers, nucleotide.width, 2026, safetensors=True)
        make_esm2(folder / "esm-2", protein.layers, protein.width, 2027)
        make_classifier(classifier, folder, hidden=64)
    return folder, classifier


def mixed_contigs(setting: Setting) -> Path:
    """Contigs from one codon to some chunks, most of them short."""
    path = setting.work / "mixed.fa"
    if not path.exists():
        lengths = np.exp(np.random.default_rng(3).uniform(np.log(3), np.log(2500), setting.sizes.contigs))
        write_contigs(path, lengths.astype(int))
    return path


def job(setting: Setting, device: str, dtype: str) -> Job:
    """A run of the mixed contigs with the small encoders."""
    folder, classifier = models(setting)
    options = ("--threads", "1", "--token-budget", str(BUDGET), "--progress", "none", "--embedding-dtype", "float32")
    made = Job.of(mixed_contigs(setting), folder, classifier, *options, "--device", device, "--dtype", dtype)
    return replace(made, environment=one_card(os.environ))


def one_card(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables with which a process and those that it starts see the first of the GPUs that are visible here."""
    return {VISIBLE: (variables.get(VISIBLE) or "0").split(",")[0]}


def settings_of(
    setting: Setting,
    contigs: Path,
    output: Path,
    models: Path,
    classifier: Path,
    *,
    device: str,
    budget: int | None = None,
) -> Settings:
    """Of a run within this process."""
    return Settings(
        inputs=(str(contigs),),
        output=output,
        nucleotide_model=str(models / "dnabert-s"),
        protein_model=str(models / "esm-2"),
        classifier=classifier,
        token_budget=budget or setting.sizes.tokens,
        threads=1,
        device=device,
        progress="none",
    )


def run(job: Job, folder: Path, ranks: int = 1) -> Path:
    """Run it to its end, unless that has been done. Raises RuntimeError with its last words where it fails."""
    if not (folder / "fragments.tsv").exists():
        with Launch(job, folder, standalone(ranks)) as launch:
            launch.end(RUN_S)
            if launch.agent.returncode:
                raise RuntimeError(
                    f"{folder.name} ended with {launch.agent.returncode}: {launch.console_text()[-500:]}"
                )
    return folder


def one_rank(setting: Setting) -> Path:
    """The run on one rank of the device, in the number format that `auto` takes."""
    return run(job(setting, setting.device.type, "auto"), setting.work / "one-rank")


def embeddings(folder: Path) -> dict[str, np.ndarray]:
    """(fragments, width) by kind, in the order of fragments.tsv."""
    found: dict[str, np.ndarray] = {}
    n = len(fragment_rows(folder))
    for unit in range(len(part_paths(folder))):
        part = parts.read(folder / "parts", unit, ("fragment", "row", "nucleotide", "protein"))
        for kind in ("nucleotide", "protein"):
            rows = found.setdefault(kind, np.full((n, part[kind].shape[1]), np.nan, dtype=np.float32))
            rows[part["fragment"]] = part[kind][part["row"]]
    return found


def virus_scores(folder: Path) -> np.ndarray:
    """(fragments,); NaN where there is none."""
    texts = [row["virus_score"] for row in fragment_rows(folder).values()]
    return np.array([float(text) if text != "NA" else np.nan for text in texts])


def against_cpu(setting: Setting) -> Iterator[Verdict]:
    """`predict` on the device against float32 on the CPU: in float32, and in the format that `auto` takes."""
    exact = run(job(setting, "cpu", "float32"), setting.work / "cpu-float32")
    same = run(job(setting, setting.device.type, "float32"), setting.work / "device-float32")
    expected, expected_scores = embeddings(exact), virus_scores(exact)
    found = embeddings(same)
    for kind, rows in expected.items():
        error = float(np.abs(found[kind] - rows).max() / max(1.0, np.abs(rows).max()))
        yield bounded(f"float32, {kind} embeddings, largest error", error, at_most=EMBEDDING_ERROR)
    error = float(np.abs(virus_scores(same) - expected_scores).max())
    yield bounded(
        "float32, scores, largest error", error, at_most=SCORE_ERROR, note=f"{len(expected_scores)} fragments"
    )
    half = one_rank(setting)
    yield from agreement(setting.dtype, expected, expected_scores, half)


def agreement(
    dtype: str, expected: dict[str, np.ndarray], expected_scores: np.ndarray, folder: Path
) -> Iterator[Verdict]:
    """A run in a number format against what float32 gives."""
    for kind, rows in embeddings(folder).items():
        yield bounded(
            f"{dtype}, {kind}, least cosine", float(cosine(rows, expected[kind]).min()), at_least=LEAST_COSINE
        )
    allowed, scores = ALLOWED.get(DTYPES[dtype], SCORE_ERROR), virus_scores(folder)
    yield bounded(f"{dtype}, scores, largest error", float(np.abs(scores - expected_scores).max()), at_most=allowed)
    clear = np.abs(expected_scores - 0.5) > allowed
    equal = ((scores > 0.5) == (expected_scores > 0.5))[clear]
    what = f"{dtype}, calls of which float32 is sure"
    yield held(what, bool(equal.all() and clear.any()), f"{equal.sum()} of {clear.sum()} equal", "all")


def two_ranks(setting: Setting) -> Iterator[Verdict]:
    """One and two ranks on the same card: the tables byte for byte."""
    one = one_rank(setting)
    two = run(job(setting, setting.device.type, "auto"), setting.work / "two-ranks", ranks=2)
    yield held("two ranks against one, tables byte for byte", tables(one) == tables(two))
    yield held("two ranks, fragments lost or twice", lost_and_twice(two) == (0, 0), str(lost_and_twice(two)), "(0, 0)")


def killed(setting: Setting) -> Iterator[Verdict]:
    """SIGKILL in the middle of a run, held there; the same command again gives the tables of an undisturbed run."""
    one, folder = one_rank(setting), setting.work / "killed"
    gate = Gate(setting.work / "gate")
    plain = job(setting, setting.device.type, "auto")
    faulty = with_faults(plain, hold=gate.rule(free_batches=FREE_BATCHES))
    faulty = replace(faulty, environment={**plain.environment, **faulty.environment})
    with Launch(faulty, folder, standalone(1)) as launch:
        held_there = launch.wait_until(lambda: gate.holds(launch, 1), "the gate", RUN_S)
        launch.signal(launch.agent.pid, signal.SIGKILL)
        launch.end(RUN_S)
        code = launch.agent.returncode
    done = len(part_paths(folder))
    in_the_middle = held_there and code == -signal.SIGKILL and done < len(part_paths(one))
    yield held(
        "killed in the middle", in_the_middle, f"{done} of {len(part_paths(one))} parts", note=f"ended with {code}"
    )
    run(plain, folder)
    yield held("resumed, tables byte for byte", tables(folder) == tables(one))
    yield held(
        "resumed, fragments lost or twice", lost_and_twice(folder) == (0, 0), str(lost_and_twice(folder)), "(0, 0)"
    )
