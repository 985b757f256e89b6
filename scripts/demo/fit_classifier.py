"""`python -m scripts.demo.fit_classifier VIRUS_RUN OTHER_RUN classifier.safetensors`: fit a small classifier.

The runs are those of `vpdist embed` on sequences of viruses and on others. A fifth of the sequences is held out, and
accuracy and AUROC on them are printed. The same runs and seed give the same classifier.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch.nn.functional import cross_entropy

from scripts.demo.metrics import accuracy, auroc
from vpdist.commands.resolve_config import recorded_config
from vpdist.results.classifier import CHUNK_LENGTH, Classifier, save_classifier
from vpdist.storage import hdf5_files
from vpdist.storage.run_folder import RunFolder

HELD_OUT = 0.2
EPOCHS = 15
BATCH = 256
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-1


@dataclass(frozen=True, slots=True)
class Labelled:
    """Fragments of labelled sequences: embeddings (n, d) and (n, d'), the sequence each belongs to, its label."""

    nucleotide: np.ndarray
    protein: np.ndarray
    sequence: np.ndarray
    virus: np.ndarray

    @property
    def inputs(self) -> torch.Tensor:
        """(n, d + d'), nucleotide first."""
        return torch.from_numpy(np.concatenate([self.nucleotide, self.protein], axis=1).astype(np.float32))

    def select(self, chosen: np.ndarray) -> Labelled:
        return Labelled(self.nucleotide[chosen], self.protein[chosen], self.sequence[chosen], self.virus[chosen])


def read_run(run: Path, *, virus: bool) -> Labelled:
    """Every fragment of a run, in the order of fragments.tsv."""
    with (run / "fragments.tsv").open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = np.array([f"{run}: {row['seq_name']}" for row in rows])  # both runs may use a name
    parts: dict[str, list[np.ndarray]] = {"fragment": [], "nucleotide": [], "protein": []}
    for path in sorted((run / "parts").glob("unit-*.h5")):
        with hdf5_files.opened(path) as file:
            row = hdf5_files.read(file, "row")
            usable = hdf5_files.read(file, "failed")[row] == 0
            parts["fragment"].append(hdf5_files.read(file, "fragment")[usable])
            for name in ("nucleotide", "protein"):
                parts[name].append(hdf5_files.read(file, name)[row[usable]])
    if not parts["fragment"]:
        raise typer.BadParameter(f"{run}/parts has no parts")
    fragment = np.concatenate(parts["fragment"])
    order = np.argsort(fragment)
    nucleotide, protein = (np.concatenate(parts[name])[order] for name in ("nucleotide", "protein"))
    return Labelled(nucleotide, protein, names[fragment[order]], np.full(len(order), virus))


def chunk_length_of(*runs: Path) -> int | None:
    """The chunk length of all these runs, which the classifier belongs to; None where a run.json is missing."""
    found = {run: recorded_config(RunFolder(run)) for run in runs}
    lengths = {run: None if config is None else config.chunk_length for run, config in found.items()}
    if len(set(lengths.values()) - {None}) > 1:
        told = ", ".join(f"{run}: {length}" for run, length in lengths.items())
        raise typer.BadParameter(f"the runs have chunks of different lengths ({told})")
    return None if None in lengths.values() else lengths[runs[0]]


def split(data: Labelled, rng: np.random.Generator) -> tuple[Labelled, Labelled]:
    """Training and held-out fragments: a sequence's fragments stay together."""
    sequences = np.unique(data.sequence)
    held_out = rng.permutation(sequences)[: round(HELD_OUT * len(sequences))]
    chosen = np.isin(data.sequence, held_out)
    return data.select(~chosen), data.select(chosen)


def fit(training: Labelled, hidden: int, rng: np.random.Generator) -> Classifier:
    """Minimise cross-entropy with AdamW and cosine annealing of the learning rate."""
    inputs, labels = training.inputs, torch.from_numpy(training.virus.astype(np.int64))
    classifier = Classifier(inputs.shape[1], hidden)
    batches = -(-len(labels) // BATCH)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS * batches)
    classifier.train()
    for _ in range(EPOCHS):
        order = rng.permutation(len(labels))
        for batch in np.array_split(order, batches):
            optimiser.zero_grad()
            cross_entropy(classifier(inputs[batch]), labels[batch]).backward()
            optimiser.step()
            schedule.step()
    return classifier.eval()


def by_sequence(data: Labelled, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label and mean score of each sequence."""
    _, first, member = np.unique(data.sequence, return_index=True, return_inverse=True)
    return data.virus[first], np.bincount(member, scores) / np.bincount(member)


def main(
    virus: Annotated[Path, typer.Argument(help="Run folder of viral sequences.")],
    other: Annotated[Path, typer.Argument(help="Run folder of other sequences.")],
    output: Annotated[Path, typer.Argument(help="File to write (safetensors).")],
    hidden: Annotated[int, typer.Option(help="Width of the hidden layer.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed gives the same classifier.")] = 2026,
) -> None:
    """Fit a small classifier on the embeddings of two labelled runs."""
    chunk_length = chunk_length_of(virus, other)
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # sums depend on the number of threads
    rng = np.random.default_rng(seed)
    splits = [split(read_run(run, virus=run is virus), rng) for run in (virus, other)]
    training, held_out = (
        Labelled(*(np.concatenate([getattr(part, field) for part in parts]) for field in Labelled.__dataclass_fields__))
        for parts in zip(*splits, strict=True)
    )
    classifier = fit(training, hidden, rng)
    logits = classifier.logits(held_out.nucleotide, held_out.protein)
    margins = logits[:, 1] - logits[:, 0]
    sequence_virus, sequence_margins = by_sequence(held_out, margins)
    described = {"trained_on": "synthetic organisms; for trying out only", "seed": str(seed)}
    if chunk_length is None:
        print("warning: a run.json is missing, so the chunk length is not recorded")
    else:
        described[CHUNK_LENGTH] = str(chunk_length)
    save_classifier(classifier, output, described)
    print(f"{output}: fitted on {len(training.virus):,} fragments")
    for name, labels, scores in (
        ("fragments", held_out.virus, margins),
        ("sequences", sequence_virus, sequence_margins),
    ):
        print(
            f"held out: {len(labels):,} {name}, accuracy {accuracy(labels, scores):.3f}, "
            f"AUROC {auroc(labels, scores):.3f}"
        )


if __name__ == "__main__":
    typer.run(main)
