"""The options of `vpdist train` beside those it shares with `embed`, frozen and checked where they are made."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from vpdist.config import Option, encodable
from vpdist.errors import UsageError
from vpdist.urls import is_url, shown

MOST_FILES = 10_000
KEPT_EPOCHS = ("best", "last")
LEARNING_RATE_SCHEDULES = ("step", "cosine")
OPTIMIZERS = ("sgd", "adamw")
CLASS_WEIGHTS = ("none", "balanced")
VIRUS, OTHER = "virus", "other"
"""Names of sources that have not been given one."""
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_.-]{0,63})=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """A file of sequences that are all viruses, or all not."""

    path: str
    virus: bool
    source: str
    """What its sequences are called in tables: virus, other, or the user's name."""


def _fraction(option: str, value: float) -> None:
    """Raises UsageError unless 0 <= value < 1."""
    if not 0 <= value < 1:
        raise UsageError(f"--{option} {value}: must be at least 0 and below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How a classifier is fitted and judged. The defaults are those of the original (Li et al. 2025)."""

    hidden: Annotated[int, Option("Width of the hidden layer.", least=1, most=1 << 16)] = 512
    dropout: Annotated[float, Option("Share of hidden units that are left out of a step.")] = 0.5
    optimizer: Annotated[str, Option("{choices}.", OPTIMIZERS)] = "sgd"
    learning_rate: Annotated[float, Option("Of the first epochs.")] = 0.0002
    momentum: Annotated[float, Option("Of sgd.")] = 0.9
    weight_decay: Annotated[float, Option("Of either optimizer.")] = 0.0
    learning_rate_schedule: Annotated[
        str, Option("{choices}; cosine: the learning rate falls to 0 over --epochs.", LEARNING_RATE_SCHEDULES)
    ] = "step"
    decay_every: Annotated[
        int, Option("Epochs after which the learning rate falls to --decay of itself.", least=1, most=1 << 20)
    ] = 10
    decay: Annotated[float, Option("1 keeps the learning rate.")] = 0.85
    epochs: Annotated[int, Option("Most epochs.", least=1, most=100_000)] = 200
    patience: Annotated[
        int, Option("Epochs without a lower validation loss after which the fit ends.", least=1, most=100_000)
    ] = 5
    keep: Annotated[
        str, Option("{choices}: the epoch with the lowest validation loss, or the one that ends the fit.", KEPT_EPOCHS)
    ] = "best"
    batch_size: Annotated[int, Option("Fragments of a step, over all ranks.", least=2, most=1 << 20)] = 32
    class_weights: Annotated[
        str, Option("{choices}; balanced: both classes weigh the same in the loss.", CLASS_WEIGHTS)
    ] = "none"
    oversample: Annotated[
        tuple[str, ...],
        Option(
            "Fragments of source NAME are N times in an epoch.",
            metavar="NAME=N...",
            typed=list[str],
            default=[],
            parse=tuple,
        ),
    ] = ()
    validation_share: Annotated[float, Option("Share of sequences by which the fit is ended.")] = 0.1
    test_share: Annotated[float, Option("Share of sequences on which the figures are made.")] = 0.1
    calibration_share: Annotated[
        float, Option("Share of sequences by which scores are calibrated; 0: the model has no calibration.")
    ] = 0.1
    heads: Annotated[
        str | None,
        Option(
            "Lengths of shorter chunks with a classifier each; =KIND: of that encoder alone.", metavar="N[=KIND],..."
        ),
    ] = None
    heads_hidden: Annotated[
        int | None,
        Option("Width of the hidden layer of --heads; by default that of --hidden.", least=1, most=1 << 16),
    ] = None
    shortest_chunk: Annotated[
        int | None,
        Option(
            "Bases below which the model gives no scores; by default 60 % of the shortest of --heads, else none.",
            least=3,
            most=1_000_000,
        ),
    ] = None
    bootstraps: Annotated[int, Option("Resamples of groups for the intervals.", least=10, most=100_000)] = 1000
    seed: Annotated[int, Option("The same seed gives the same model.", least=0, most=(1 << 63) - 1)] = 2026
    name: Annotated[str | None, Option("Name of the model; by default that of its folder.", metavar="NAME")] = None
    description: Annotated[str | None, Option("A line for the model card: what it is for, what not.")] = None
    licence: Annotated[str, Option("Of the model, as the hub names it, such as mit.")] = "unknown"

    def __post_init__(self) -> None:
        for name, option in TRAIN_OPTIONS.items():
            option.check(name, getattr(self, name))
        for word, text in (("name", self.name), ("licence", self.licence)):
            if text is not None and not WORD.fullmatch(text):
                raise UsageError(f"--{word} {text}: must have at most 64 letters, digits, -, _ and .")
        if self.description is not None and not (self.description.isprintable() and len(self.description) <= 300):
            raise UsageError("--description: must be a line of at most 300 letters")
        _fraction("dropout", self.dropout)
        _fraction("momentum", self.momentum)
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name == "learning_rate" and value == 0):
                raise UsageError(f"--{name.replace('_', '-')} {value}: must be a number above 0")
        if not 0 < self.decay <= 1:
            raise UsageError(f"--decay {self.decay}: must be above 0 and at most 1")
        for name, share in (("validation-share", self.validation_share), ("test-share", self.test_share)):
            if not 0 < share <= 0.5:
                raise UsageError(f"--{name} {share}: must be above 0 and at most 0.5")

        if not 0 <= self.calibration_share <= 0.5:
            raise UsageError(f"--calibration-share {self.calibration_share}: must be from 0 to 0.5")
        if len(self.times) != len(self.oversample):
            raise UsageError("--oversample: names a source twice")

    @property
    def times(self) -> dict[str, int]:
        """By source named in `oversample`, how often its fragments are in an epoch. Raises UsageError."""
        times = {}
        for text in self.oversample:
            name, equals, number = text.rpartition("=")
            if not equals or not (number.isascii() and number.isdigit() and len(number) < 4 and int(number)):
                raise UsageError(f"--oversample {text}: give NAME=N, N from 1 to 999")
            times[name] = int(number)
        return times

    def check_sources(self, sources: tuple[str, ...]) -> None:
        """Raises UsageError where an option names a source that no file has."""
        if unknown := self.times.keys() - set(sources):
            raise UsageError(f"--oversample {min(unknown)}: no such source; there are {', '.join(sources)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"oversample": list(self.oversample)}

    @property
    def fit(self) -> dict[str, Any]:
        """What the parameters depend on, besides the data and the sides."""
        described = {"calibration_share", "heads", "heads_hidden", "shortest_chunk", "bootstraps", "name"}
        described |= {"description", "licence"}
        return {name: value for name, value in asdict(self).items() if name not in described}


TRAIN_OPTIONS: dict[str, Option] = {
    name: declared.__metadata__[0]
    for name, declared in get_type_hints(TrainSettings, include_extras=True).items()
    if get_origin(declared) is Annotated
}
"""By field."""


def labelled_files(virus: list[str], other: list[str]) -> tuple[LabelledFile, ...]:
    """The files of both options, viruses first. A file may be given as NAME=FILE, unless that is a file's own name.

    Raises UsageError where a label has no file, a file is named twice, or a name is used for both labels.
    """
    for option, given in (("--virus", virus), ("--other", other)):
        if not given:
            raise UsageError(f"name at least one file of sequences with {option}")
        if "-" in given:
            raise UsageError(f"{option} -: labelled sequences are read several times; give a file")
    files = [*(_labelled(text, virus=True) for text in virus), *(_labelled(text, virus=False) for text in other)]
    encodable("--virus or --other", *(file.path for file in files))
    if len(files) > MOST_FILES:
        raise UsageError(f"--virus and --other name {len(files):,} files, at most {MOST_FILES:,} are taken; join some")
    if remote := [file.path for file in files if is_url(file.path)]:
        raise UsageError(f"{shown(remote[0])}: labelled sequences are read several times; download it first")
    if odd := [file.path for file in files if not Path(file.path).name.isprintable()]:
        raise UsageError(f"{odd[0]!r}: the model names its files, and this name cannot be printed; rename it")
    seen: dict[Path, LabelledFile] = {}
    for file in files:
        before = seen.setdefault(Path(file.path).resolve(), file)
        if before is not file:
            raise UsageError(f"{file.path} is named twice, as {before.source} and as {file.source}")
    if both := {file.source for file in files if file.virus} & {file.source for file in files if not file.virus}:
        raise UsageError(f"{min(both)} is the name of viruses and of others; name them differently")
    return tuple(files)


def _is_there(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # too long for a file
        return False


def _labelled(text: str, *, virus: bool) -> LabelledFile:
    named = NAMED.fullmatch(text)
    if named is None or _is_there(text):
        return LabelledFile(text, virus, VIRUS if virus else OTHER)
    return LabelledFile(named[2], virus, named[1])
