"""What the user asked for (`Settings`) and what rank 0 made of it (`Decisions`).

Both are frozen, checked where they are made, and written to run.json. Decisions are taken once, published to all
ranks, and kept when a run is resumed, because results depend on them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vpdist.encoder_kinds import CLASSIFIED, KINDS, in_files, options
from vpdist.errors import UsageError

DTYPES = ("auto", "float32", "bfloat16", "float16")
STORED_DTYPES = ("auto", "float32", "float16")
SCHEDULES = ("static", "dynamic")
CONSENSUS = ("mean", "max", "fraction")
PROGRESS_MODES = ("auto", "bars", "log", "none")
DEVICES = ("auto", "cpu", "cuda")


def one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises UsageError unless `value` is one of `choices`."""
    if value not in choices:
        raise UsageError(f"--{option} {value}: choose one of {', '.join(choices)}")


def parsed_budget(text: str) -> int | None:
    """A --token-budget: a number, or None for auto. Raises UsageError."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"--token-budget {text}: give auto or a number of tokens")
    return int(text)


def at_least(option: str, value: int | float | None, least: int | float) -> None:
    """Raises UsageError when `value` is given and below `least`."""
    if value is not None and value < least:
        raise UsageError(f"--{option} {value}: must be at least {least}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of `vpdist predict` and `vpdist embed`."""

    inputs: tuple[str, ...]
    """FASTA or FASTQ files, or '-' for standard input."""
    output: Path
    """The run folder."""
    nucleotide_model: str | None = None
    """DNABERT-S: a folder or a hub id; None leaves its embeddings out."""
    protein_model: str | None = None
    """ESM-2: a folder or a hub id; None leaves its embeddings out."""
    classifier: Path | None = None
    """A classifier file; None only embeds."""
    chunk_length: int = 500
    """Bases per chunk: the length the classifier was trained on."""
    min_length: int = 0
    """Shorter sequences are listed as filtered and not scored."""
    consensus: str = "mean"
    """How a sequence's scores follow from its chunks': mean, max, or fraction of virus chunks."""
    dtype: str = "auto"
    """Number format of the encoders."""
    embedding_dtype: str = "auto"
    """Number format of stored embeddings: float32 for float32 encoders, else float16."""
    embeddings: bool = True
    """Whether parts keep the embeddings."""
    token_budget: int | None = None
    """Tokens per batch; None chooses by device and model."""
    threads: int | None = None
    """CPU threads per rank; None divides this node's cores among its ranks."""
    device: str = "auto"
    """auto takes CUDA where there is any."""
    schedule: str = "static"
    """static deals units by cost beforehand, dynamic lets ranks draw the next one."""
    progress: str = "auto"
    """bars, log, none, or auto: bars where standard error is a terminal."""
    stall_timeout: float = 1800.0
    """Seconds after which a run ends that one silent rank holds up."""
    offline: bool = False
    """Never ask the hub."""
    restart: bool = False
    """Discard what the run folder holds."""
    legacy_output: bool = False
    """Also write the original method's two files."""
    dry_run: bool = False
    """Only count and estimate (`vpdist plan`): the models may be left out, nothing is kept."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise UsageError("no input: name FASTA or FASTQ files, or - for standard input")
        if self.inputs.count("-") > 1:
            raise UsageError("standard input (-) can be read once only")
        paths = [str(Path(name)) for name in self.inputs]
        if len(set(paths)) < len(paths):
            twice = next(name for name in paths if paths.count(name) > 1)
            raise UsageError(f"{twice} is named twice")
        if not self.models and not self.dry_run:
            raise UsageError(f"name at least one of {options(KINDS)}")
        if self.classifier is not None and not self.models.keys() >= set(CLASSIFIED):
            raise UsageError(f"a classifier needs both {options(CLASSIFIED)}")
        if not self.embeddings and self.classifier is None and not self.dry_run:
            raise UsageError("--no-embeddings without a classifier would keep nothing")
        if not 3 <= self.chunk_length <= 1_000_000:
            raise UsageError(f"--chunk-length {self.chunk_length}: must be from 3 to 1,000,000")
        at_least("min-length", self.min_length, 0)
        at_least("token-budget", self.token_budget, 1)
        at_least("threads", self.threads, 1)
        at_least("stall-timeout", self.stall_timeout, 1)
        one_of("dtype", self.dtype, DTYPES)
        one_of("embedding-dtype", self.embedding_dtype, STORED_DTYPES)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("consensus", self.consensus, CONSENSUS)
        one_of("progress", self.progress, PROGRESS_MODES)
        one_of("device", self.device, DEVICES)

    @property
    def models(self) -> dict[str, str]:
        """Folder or hub id of each encoder that runs, by kind."""
        given = {name: getattr(self, f"{name}_model") for name in KINDS}
        return {name: model for name, model in given.items() if model is not None}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "output": str(self.output),
            "classifier": str(self.classifier) if self.classifier else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What results depend on. Equal decisions and equal input give equal tables."""

    input: tuple[tuple[str, int, int, str], ...]
    """Of each input: name, bytes, modification time (ns), digest of sampled blocks."""
    chunk_length: int
    min_length: int
    models: dict[str, str]
    """Fingerprint of each encoder's files, by kind."""
    dtype: str
    embedding_dtype: str
    embeddings: bool
    token_budget: int
    threads: int
    device: str
    """cpu or cuda."""
    classifier: str | None
    """Fingerprint of the classifier's parameters."""

    def __post_init__(self) -> None:
        """Raises ValueError for what no run can have decided: decisions are read from files, too."""
        texts = (self.dtype, self.embedding_dtype, self.device)
        fingerprints = (*self.models.values(), self.classifier)
        chosen = zip(texts, (DTYPES[1:], STORED_DTYPES[1:], DEVICES[1:]), strict=True)
        if any(type(text) is not str or text not in choices for text, choices in chosen):
            raise ValueError(f"{', '.join(map(str, texts))} are not a run's number formats and device")
        if any(fingerprint is not None and type(fingerprint) is not str for fingerprint in fingerprints):
            raise ValueError("a fingerprint is not a text")
        for name, least, most in (
            ("chunk_length", 3, 1_000_000),
            ("min_length", 0, 1 << 48),
            ("token_budget", 1, 1 << 40),
            ("threads", 1, 1 << 16),
        ):
            number = getattr(self, name)
            if type(number) is not int or not least <= number <= most:
                raise ValueError(f"{name} is {number!r}, a run's is from {least} to {most}")
        if type(self.embeddings) is not bool:
            raise ValueError(f"embeddings is {self.embeddings!r}")

    def to_dict(self) -> dict[str, Any]:
        """One level of fields; of an encoder `{kind}_model`, None where files name it and it does not run."""
        fields: dict[str, Any] = {}
        for name, value in asdict(self).items():
            each = {f"{kind}_model": model for kind, model in in_files(self.models, None).items()}
            fields |= each if name == "models" else {name: value}
        return fields

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Decisions:
        """Raises TypeError or ValueError for fields that are missing, surplus, or not a run's."""
        fields = dict(fields)
        if "input" in fields:
            fields["input"] = tuple((str(n), int(s), int(t), str(d)) for n, s, t, d in fields["input"])
        found = {name: fields.pop(f"{name}_model") for name in KINDS if f"{name}_model" in fields}
        if missing := in_files({}, None).keys() - found.keys():
            raise ValueError(f"no model is named for {', '.join(sorted(missing))}")
        return cls(models={name: model for name, model in found.items() if model is not None}, **fields)

    @classmethod
    def from_json(cls, text: str | bytes) -> Decisions:
        return cls.from_dict(json.loads(text))


OPTION_OF_FIELD = {
    "input": "input",
    **{
        name: f"--{name.replace('_', '-')}"
        for name in (
            "chunk_length",
            "min_length",
            *(f"{kind}_model" for kind in KINDS),
            "dtype",
            "embedding_dtype",
            "token_budget",
            "threads",
            "device",
        )
    },
    "embeddings": "--no-embeddings",
    "classifier": "--classifier",
}


def refuse_other_configuration(old: Decisions, new: Decisions, folder: Path) -> None:
    """Raises UsageError naming the first field in which a run folder's decisions differ from this command's."""
    were, are = old.to_dict(), new.to_dict()
    for field, option in OPTION_OF_FIELD.items():
        before, now = were.get(field), are.get(field)
        if before == now:
            continue
        if field == "input":
            option, before, now = _input_difference(old.input, new.input)
        if field == "embeddings":
            before, now = not before, not now
        hint = "use another folder, or --restart to discard what it holds"
        if field == "classifier" and now is not None and old.embeddings:
            hint = "`vpdist classify` makes new calls from the embeddings there are; " + hint
        raise UsageError(f"{folder} belongs to another configuration: {option} was {before}, is now {now}; {hint}")


def _input_difference(
    old: tuple[tuple[str, int, int, str], ...], new: tuple[tuple[str, int, int, str], ...]
) -> tuple[str, str, str]:
    old_names, new_names = [entry[0] for entry in old], [entry[0] for entry in new]
    if old_names != new_names:
        return "input", " ".join(old_names), " ".join(new_names)
    for before, now in zip(old, new, strict=True):
        for what, a, b in zip(("size", "modification time", "content"), before[1:], now[1:], strict=True):
            if a != b:
                return f"input {before[0]}, its {what}", str(a), str(b)
    raise ValueError("the inputs do not differ")
