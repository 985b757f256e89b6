"""`python -m scripts.mini.make --virus FA... --other [NAME=]FA... [--work mini] [--into FOLDER]`: make `mini`.

Writes the two encoders, which are a config.json each, fits the classifier by `vpdist train` and copies the model into
FOLDER, by default that of the package. The same files and seed give the same model. WORK keeps embeddings and the fit's
state, and goes on there. `--without FA...` names sequences that the model is to be judged on: none of their accessions
is used.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import dnaio

from scripts.mini.genomes import genomes, headers_of
from vpdist.models.bundle import CARD_FILE, MODEL_FILE, is_model, read_model
from vpdist.models.head_files import files_of
from vpdist.training.groups import accession

NAME = "mini"
DESCRIPTION = (
    "A small composition model, mainly for phages and coding sequence: a tenth of prokaryotic and a seventh of "
    "eukaryotic coding sequence is called virus; half of prokaryotic and nearly all human chunks get no score."
)
ENCODERS = ("nucleotide", "protein")
CHUNK_LENGTH = 500
FIT = {
    "optimizer": "adamw",
    "learning-rate": "0.002",
    "weight-decay": "0.1",
    "batch-size": "1024",
    "epochs": "16",
    "patience": "16",
    "learning-rate-schedule": "cosine",
    "keep": "last",
    "class-weights": "balanced",
    "hidden": "768",
    "dropout": "0.55",
    "validation-share": "0.01",
    "test-share": "0.02",
    "calibration-share": "0.05",
}
"""Options of `vpdist train`."""
HEADS_HIDDEN = 384
"""So that both classifiers have 4 MB."""
COPIED = (MODEL_FILE, CARD_FILE, *(f"encoders/{kind}/config.json" for kind in ENCODERS))
"""Beside the files that make a row's numbers."""


def write_encoders(folder: Path) -> None:
    """The folders of the encoders: all that they are is their name."""
    for kind in ENCODERS:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        (folder / kind / "config.json").write_text(json.dumps({"model_type": f"{kind}_composition"}) + "\n")


def keep_apart(files: Sequence[str], judged: Sequence[Path], folder: Path) -> list[str]:
    """Copies of `files` (each may have NAME= before it), as plain FASTA in `folder`, without the accessions that are in
    `judged`."""
    accessions = {accession(record.name) for record in records_of(judged)}
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for text in files:
        name, equals, path = text.rpartition("=")
        target = folder / Path(path).name.removesuffix(".gz")
        n = left_out = 0
        with target.open("w", encoding="ascii") as file:
            for n, record in enumerate(records_of([Path(path)]), 1):  # noqa: B007 - n is told below
                if accession(record.name) in accessions:
                    left_out += 1
                else:
                    file.write(f">{record.name}\n{record.sequence}\n")
        print(f"{path}: {left_out:,} of {n:,} sequences are left out", flush=True)
        kept.append(f"{name}{equals}{target}")
    return kept


def records_of(paths: Sequence[Path]) -> Iterator[dnaio.SequenceRecord]:
    for path in paths:
        with dnaio.open(path) as reader:
            yield from reader


def write_genomes(files: Sequence[str], path: Path) -> None:
    """The genome of each sequence whose name tells it: genomes are kept on one side, too."""
    paths = [Path(text.rpartition("=")[2]) for text in files]
    path.write_text("".join(f"{name}\t{genome}\n" for name, genome in genomes(headers_of(paths))))


def train(
    virus: Sequence[str],
    other: Sequence[str],
    work: Path,
    *,
    oversample: Sequence[str],
    heads: str | None,
    seed: int,
    nproc: int | None,
    licence: str,
) -> Path:
    """The folder of the fitted model. Raises CalledProcessError."""
    write_encoders(work / "encoders")
    write_genomes([*virus, *other], work / "genomes.tsv")
    model = work / NAME
    command = [sys.executable, "-m", "vpdist", "train", "-o", str(model), "--name", NAME, "--description", DESCRIPTION]
    command += ["--groups", str(work / "genomes.tsv")]
    for text in oversample:
        command += ["--oversample", text]
    for option, files in (("--virus", virus), ("--other", other)):
        for file in files:
            command += [option, file]
    for kind in ENCODERS:
        command += [f"--{kind}-model", str(work / "encoders" / kind)]
    for option, value in FIT.items():
        command += [f"--{option}", value]
    command += ["--chunk-length", str(CHUNK_LENGTH), "--seed", str(seed), "--licence", licence, "--replace-unknown"]
    if heads is not None:
        command += ["--heads", heads, "--heads-hidden", str(HEADS_HIDDEN)]
    if nproc is not None:
        command += ["--nproc", str(nproc)]
    subprocess.run(command, check=True)
    return model


def copy(model: Path, into: Path) -> None:
    """Replace the model in `into`, if there is one, by that in `model`, without embeddings and history."""
    if is_model(into):
        shutil.rmtree(into)
    for name in (*COPIED, *(entry.file for _, entry in files_of(read_model(model).model))):
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model / name, into / name)
    read_model(into).check_classifier()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--virus", nargs="+", required=True, help="FASTA of viruses")
    parser.add_argument("--other", nargs="+", required=True, help="FASTA of others, NAME=FILE to count them by name")
    parser.add_argument("--without", nargs="*", type=Path, default=[], help="FASTA that the model is to be judged on")
    parser.add_argument("--oversample", nargs="*", default=[], metavar="NAME=N", help="see vpdist train")
    parser.add_argument("--work", type=Path, default=Path("mini"))
    parser.add_argument("--into", type=Path, default=Path("vpdist/models/mini"))
    parser.add_argument("--licence", default="other", help="of the classifier; mit where all files allow that")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--heads", default="150", help="of `vpdist train`, or none: lengths of further classifiers")
    parser.add_argument("--nproc", type=int)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    virus, other = arguments.virus, arguments.other
    if arguments.without:
        virus, other = (keep_apart(files, arguments.without, arguments.work / "kept") for files in (virus, other))
    model = train(
        virus,
        other,
        arguments.work,
        oversample=arguments.oversample,
        heads=None if arguments.heads == "none" else arguments.heads,
        seed=arguments.seed,
        nproc=arguments.nproc,
        licence=arguments.licence,
    )
    copy(model, arguments.into)
    size = sum(path.stat().st_size for path in arguments.into.rglob("*") if path.is_file())
    print(f"{arguments.into}: {size:,} bytes")


if __name__ == "__main__":
    main()
