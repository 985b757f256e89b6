"""The model that `vpdist train` has fitted, written: model.json, card, train.json, metrics.json, splits.tsv.

Enters: everything that is known after a fit, on rank 0. Leaves: a folder that `predict --model` takes.
"""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import vpdist
from vpdist.commands.beside import Beside
from vpdist.commands.calibrate import Calibrated
from vpdist.commands.calibration_text import calibration_lines, calibration_metrics, interval, length_metrics
from vpdist.config import ResolvedConfig, Settings
from vpdist.distributed.runtime import Runtime
from vpdist.encoders.hub import COMMIT, local_folder, resolve_model
from vpdist.errors import InputError
from vpdist.models.bundle import encoder_entry, write_model
from vpdist.models.description import DataFile, EncoderEntry, Metric, Model, Training
from vpdist.results.classifier import Classifier
from vpdist.storage.atomic_files import write_file, write_json
from vpdist.text import printable
from vpdist.train_settings import TrainSettings
from vpdist.training.fit_state import Reached
from vpdist.training.judge import ALL, LEVELS, side_name
from vpdist.training.labelled import Labelled, Records
from vpdist.training.metrics import NAMES, TITLES
from vpdist.training.sides import SIDES, Sides
from vpdist.urls import shown

MOST_NAMES = 200
"""Letters of the sources' names in a description."""
METHOD = "VirNucPro (Li et al. 2025)"
RULE = (
    "sequences that share an accession, or a 25-mer of either strand that is no short tandem repeat, are on one "
    "side; shares are of fragments, by source"
)


@dataclass(frozen=True, slots=True)
class Trained:
    """A classifier that is fitted and judged, and from what."""

    settings: Settings
    training: TrainSettings
    labelled: Labelled
    resolved: ResolvedConfig
    kinds: tuple[str, ...]
    records: Records
    sides: Sides
    reached: Reached
    classifier: Classifier
    figures: dict[str, Any]
    confusion: dict[str, Any]
    calibrated: Calibrated | None
    by_length: dict[str, Any]
    """Figures of pieces of one length (`length_figures`)."""
    plots: list[str]
    beside: Beside

    @property
    def name(self) -> str:
        given = self.training.name or self.labelled.model.resolve().name
        return re.sub(r"[^A-Za-z0-9_.-]+", "-", given).lstrip("_.-")[:64] or "model"


def write_trained(trained: Trained, runtime: Runtime, seconds: float) -> str:
    """Write the model, last of all its model.json; returns the lines that the user reads. Raises StorageError,
    WeightsError, InputError."""
    folder, splits = trained.labelled.model, _splits(trained)
    model, encoders = _model(trained, splits)
    write_file(folder / "splits.tsv", _split_table(trained).encode())
    figures = {} if trained.calibrated is None else trained.calibrated.figures
    of_heads = {"heads": trained.beside.figures} if trained.beside.heads else {}
    write_json(
        folder / "metrics.json",
        {
            "figures": trained.figures,
            "confusion": trained.confusion,
            "calibration": figures,
            "by_length": trained.by_length,
            **of_heads,
        },
    )
    write_json(
        folder / "train.json",
        {
            "command": [shown(argument) for argument in sys.argv],
            "versions": {"vpdist": vpdist.__version__},
            "world_size": runtime.world_size,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "seconds": round(seconds, 3),
            "settings": trained.training.to_dict(),
            "embedding": trained.resolved.to_dict(),
            "epochs": trained.reached.epoch,
            "best_epoch": trained.reached.best_epoch,
            "best_validation_loss": trained.reached.best_loss,
            "data": [asdict(each) for each in (model.training or Training()).data],
            "splits": splits,
        },
    )
    text = "\n" + "\n".join(_card_lines(trained, splits)) + "\n"
    heads, summary = [head.classifier for head in trained.beside.heads], trained.beside.summary
    write_model(
        folder, model, trained.classifier, text, encoders=encoders, heads=heads, summary=summary, overwrite=True
    )
    return _summary(trained, seconds)


def _splits(trained: Trained) -> dict[str, Any]:
    shares = {name: getattr(trained.training, f"{name}_share") for name in SIDES[1:]}
    return {
        "rule": RULE,
        "groups_file": trained.labelled.groups.name if trained.labelled.groups else None,
        "annotations": [path.name for path in trained.labelled.gbff],
        "shares": shares,
        "seed": trained.training.seed,
        "digest": f"xxh3:{trained.sides.digest()}",
        "sides": trained.sides.counts(trained.labelled.sources),
    }


def _split_table(trained: Trained) -> str:
    """Name, source, side and group (the name of its first sequence) of every record, in the order of the files."""
    names, sides = [printable(name) for name in trained.records.names], trained.sides
    rows = (
        f"{name}\t{trained.labelled.sources[source]}\t{SIDES[side]}\t{names[group]}\n"
        for name, source, side, group in zip(
            names, sides.source.tolist(), sides.side.tolist(), sides.group.tolist(), strict=True
        )
    )
    return "seq_name\tsource\tside\tgroup\n" + "".join(rows)


def _model(trained: Trained, splits: dict[str, Any]) -> tuple[Model, dict[str, Path]]:
    """The description, and the folders of the encoders that are no repositories of the hub."""
    entries: dict[str, EncoderEntry] = {}
    encoders: dict[str, Path] = {}
    for kind in trained.kinds:
        given = trained.settings.models[kind]
        folder = resolve_model(given, offline=True)
        if local_folder(given) is None and COMMIT.fullmatch(folder.name):
            entries[kind] = encoder_entry(folder, kind, hub=given.partition("@")[0], revision=folder.name)
        else:
            entries[kind] = encoder_entry(folder, kind)
            encoders[kind] = folder
    counts = [int((trained.records.file == number).sum()) for number in range(len(trained.labelled.files))]
    data = tuple(
        DataFile(file=Path(file.path).name, label=file.source, digest=_digest(Path(file.path)), records=count)
        for file, count in zip(trained.labelled.files, counts, strict=True)
    )
    calibrated = trained.calibrated
    metrics = (
        *_metrics(trained.figures),
        *(calibration_metrics(calibrated) if calibrated else ()),
        *length_metrics(trained.by_length),
    )
    sequences = trained.figures[LEVELS[-1]].get(ALL, {})
    training = trained.training
    model = Model(
        name=trained.name,
        method=METHOD,
        description=training.description or f"Viruses told from {_others(trained)}, fitted by vpdist train.",
        accuracy=_accuracy(sequences),
        licence=training.licence,
        encoders=entries,
        chunk_length=trained.resolved.chunk_length,
        shortest_chunk=min(trained.resolved.chunk_length, max(3, trained.resolved.min_length)),
        calibration=calibrated.calibration if calibrated else None,
        null_scores=calibrated.null_scores if calibrated else None,
        training=Training(data=data, seed=training.seed, splits=splits, settings=training.to_dict(), metrics=metrics),
    )
    return trained.beside.described(model), encoders


def _others(trained: Trained) -> str:
    names = list(dict.fromkeys(file.source for file in trained.labelled.files if not file.virus))
    told = ", ".join(names)
    return told if len(told) <= MOST_NAMES else f"{len(names)} sources"


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=str(path)) from error


def _metrics(figures: dict[str, Any]) -> Iterator[Metric]:
    """The figures of sequences of any length and the AUROC of each length class, as the hub lists them."""
    for level, classes in figures.items():
        for length, found in classes.items():
            of = level if length == ALL else f"{level} of sequences {_class_text(length)}"
            for name in NAMES if length == ALL else NAMES[:1]:
                if found[name]["value"] is not None:
                    yield Metric(name=TITLES[name], of=of, data=side_name(), n=found["n"], **found[name])


def _class_text(length: str) -> str:
    return f"{length} bases" if length.startswith("under") else f"from {int(length):,} bases"


def _accuracy(sequences: dict[str, Any]) -> str:
    if not sequences or sequences["auroc"]["value"] is None:
        return "Not known: the test side has sequences of one label only."
    return f"AUROC {interval(sequences['auroc'])} of {sequences['n']:,} sequences, {side_name()}."


def _card_lines(trained: Trained, splits: dict[str, Any]) -> Iterator[str]:
    yield "## By length of the sequence\n\n| of | length | n | groups | " + " | ".join(TITLES.values()) + " |"
    yield "| --- | --- | ---: | ---: |" + " --- |" * len(NAMES)
    for level, classes in trained.figures.items():
        for length, found in classes.items():
            text = length if length == ALL else _class_text(length)
            known = " | ".join(interval(found[name]) for name in NAMES)
            yield f"| {level} | {text} | {found['n']:,} | {found['groups']:,} | {known} |"
    if trained.calibrated is not None:
        yield from calibration_lines(trained.calibrated)
    yield "\n## Calls by source\n\n| source | of the test side | called virus | called non-virus | no call |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for level, sources in trained.confusion.items():
        for source, counts in sources.items():
            missing = f"{counts['NA']:,}" if "NA" in counts else ""
            yield f"| {source} | {level} | {counts['virus']:,} | {counts['non-virus']:,} | {missing} |"
    yield f"\n## How the data were divided\n\n{splits['rule'].capitalize()}. Seed {splits['seed']}, digest "
    yield f"{splits['digest']}; `splits.tsv` has the side of every sequence.\n"
    yield "| source | side | sequences | groups | fragments |\n| --- | --- | ---: | ---: | ---: |"
    for source, sides in splits["sides"].items():
        for side, counts in sides.items():
            yield f"| {source} | {side} | {' | '.join(f'{count:,}' for count in counts.values())} |"
    settings, reached = trained.training, trained.reached
    yield f"\n## How it was fitted\n\n{settings.optimizer}, learning rate {settings.learning_rate:g}, batches of "
    yield f"{settings.batch_size:,} fragments, hidden width {settings.hidden}, dropout {settings.dropout:g}, class "
    yield f"weights {settings.class_weights}; epoch {reached.best_epoch} of {reached.epoch} had the lowest validation "
    yield f"loss ({reached.best_loss:.4f}), the {settings.keep} one was kept. "
    yield "`train.json` has all settings, `history.jsonl` every epoch.\n"
    if trained.plots:
        yield "## Plots\n"
        yield from (f"![{plot.replace('_', ' ')}](plots/{plot}.png)" for plot in trained.plots)


def _summary(trained: Trained, seconds: float) -> str:
    reached = trained.reached
    kept = f"the best one was {reached.best_epoch}, the {trained.training.keep} one is kept"
    lines = [f"{reached.epoch} epochs, {kept}; {seconds:.1f} s in all"]
    for level in LEVELS:
        found = trained.figures[level].get(ALL)
        if found is not None:
            figures = ", ".join(f"{TITLES[name]} {interval(found[name])}" for name in NAMES)
            lines.append(f"test side, {found['n']:,} {level} of {found['groups']:,} groups: {figures}")
    for source, counts in trained.confusion[LEVELS[-1]].items():
        lines.append(f"  {source}: " + ", ".join(f"{count:,} {call}" for call, count in counts.items()))
    lines += trained.beside.lines()
    lines.append(f"model: {trained.labelled.model}")
    return "\n".join(lines)
