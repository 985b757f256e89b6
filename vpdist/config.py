"""What the user asked for (`Settings`), and what rank 0 resolves it to (`ResolvedConfig`).

Both are frozen, checked where they are made, and written to run.json. The configuration is resolved once, published to
all ranks, and kept when a run is resumed, because results depend on it.
"""

from __future__ import annotations

import json
import operator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from vpdist.encoder_kinds import KINDS, in_files, options
from vpdist.errors import UsageError
from vpdist.option_declarations import Option, checked_shard, encodable, parsed_budget
from vpdist.option_declarations import between_0_and_1 as between_0_and_1
from vpdist.option_declarations import one_of as one_of
from vpdist.option_declarations import preset_of as preset_of
from vpdist.option_declarations import within as within
from vpdist.urls import check_publish, check_scheme, is_url, needs_network, shown

DTYPES = ("auto", "float32", "bfloat16", "float16")
STORED_DTYPES = ("auto", "float32", "float16")
SCHEDULES = ("static", "dynamic")
CONSENSUS = ("mean", "max", "fraction")
PROGRESS_MODES = ("auto", "bars", "log", "none")
DEVICES = ("auto", "cpu", "cuda")
DEFAULT_CHUNK_LENGTH = 500
"""Bases per chunk where neither an option, nor a model, nor a classifier says."""
MOST_THREADS = 1024
"""More than machines have cores; for some thousands, libraries cannot start them and end the process."""
MOST_TOKENS, MOST_BASES, MOST_SECONDS = 1 << 40, 1 << 48, 10**9
MOST_RANKS_HERE, MOST_RANKS = 1024, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of `vpdist predict` and `vpdist embed`."""

    inputs: Annotated[
        tuple[str, ...],
        Option(
            "FASTA, FASTQ; gz, bz2, xz, zst; URLs; - for stdin.",
            metavar="IN...",
            typed=list[str],
            default=[],
            parse=tuple,
        ),
    ]
    files_from: Annotated[str | None, Option("A file that names inputs, one a line; - for stdin.", metavar="LIST")] = (
        None
    )
    manifest: Annotated[Path | None, Option("Inputs as a table: path, sample, size, records.", metavar="TSV")] = None
    shard: Annotated[
        str | None,
        Option("Of the manifest: the share of the i-th of n jobs.", metavar="i/n", parse=checked_shard),
    ] = None
    retry_failed: Annotated[bool, Option("Read failed objects of the manifest again.")] = False
    output: Annotated[Path, Option("The run folder.", flags=("-o", "--output"), metavar="RUN")]
    model: Annotated[
        str | None,
        Option(
            "A name (`vpdist models`), a folder or a hub id.",
            metavar="NAME|FOLDER|ID",
        ),
    ] = None
    nucleotide_model: Annotated[str | None, Option("Of nucleotides, as DNABERT-S: a folder or a hub id.")] = None
    protein_model: Annotated[str | None, Option("Of proteins, as ESM-2: a folder or a hub id.")] = None
    classifier: Annotated[Path | None, Option("A vpdist classifier, or an original .pth.")] = None
    chunk_length: Annotated[
        int | None,
        Option(
            "Bases per chunk; else the classifier's, else 500.",
            least=3,
            most=1_000_000,
        ),
    ] = None
    min_length: Annotated[int, Option("Shorter sequences are listed, not scored.", least=0, most=MOST_BASES)] = 0
    replace_unknown: Annotated[bool, Option("Read letters that are no nucleotides as N, and count them.")] = False
    allow_short: Annotated[bool, Option("Go on where most sequences are too short.")] = False
    consensus: Annotated[str, Option("From chunks' scores: {choices}.", CONSENSUS)] = "mean"
    prevalence: Annotated[float | None, Option("Share of viruses; else estimated, or assumed.", metavar="P")] = None
    max_fdr: Annotated[float | None, Option("Call virus up to this q-value.", metavar="X")] = None
    sensitive: Annotated[bool, Option("Virus to q = 0.10; non-virus below probability 0.05.")] = False
    balanced: Annotated[bool, Option("Virus to q = 0.05; non-virus below probability 0.2.")] = False
    strict: Annotated[bool, Option("Virus to q = 0.01; non-virus below probability 0.5.")] = False
    dtype: Annotated[str, Option("Encoders: {choices}.", DTYPES)] = "auto"
    embedding_dtype: Annotated[
        str, Option("Stored embeddings: {choices}; auto: float16 unless encoders compute in float32.", STORED_DTYPES)
    ] = "auto"
    embeddings: Annotated[
        bool, Option("Keep calls only.", flags=("--no-embeddings",), default=False, parse=operator.not_)
    ] = True
    token_budget: Annotated[
        int | None,
        Option(
            "Tokens per batch; auto: by encoders and device, see run.json.",
            least=1,
            most=MOST_TOKENS,
            metavar="auto|N",
            typed=str,
            default="auto",
            parse=parsed_budget,
        ),
    ] = None
    threads: Annotated[
        int | None,
        Option("CPU threads per rank; by default the cores, or their quota, divided.", least=1, most=MOST_THREADS),
    ] = None
    device: Annotated[str, Option("{choices}; auto prefers CUDA.", DEVICES)] = "auto"
    schedule: Annotated[str, Option("static: work dealt by token cost; dynamic: drawn by ranks.", SCHEDULES)] = "static"
    progress: Annotated[str, Option("{choices}; bars need a terminal.", PROGRESS_MODES)] = "auto"
    log_interval: Annotated[
        float, Option("Seconds between log lines where there are no bars.", least=1, most=MOST_SECONDS)
    ] = 30.0
    stall_timeout: Annotated[
        float, Option("Seconds until a run ends that a silent rank holds up.", least=1, most=MOST_SECONDS)
    ] = 1800.0
    offline: Annotated[bool, Option("Never ask the network; use what has been downloaded.")] = False
    restart: Annotated[bool, Option("Discard what the run folder holds.")] = False
    reuse: Annotated[
        Path | None, Option("A run of which embeddings of the same fragments are taken over.", metavar="OLDRUN")
    ] = None
    publish: Annotated[str | None, Option("Upload finished parts here, and go on from those there.", metavar="URL")] = (
        None
    )
    legacy_output: Annotated[bool, Option("Also write the original method's two files.")] = False
    min_score: Annotated[float, Option("Least virus_score in virus.tsv and regions.", least=0, most=1)] = 0.0
    gzip_tables: Annotated[bool, Option("Write the three tables as .tsv.gz, instead of .tsv.")] = False
    calls: bool = True
    """Whether a model's classifier is used, as by every command but `vpdist embed`."""
    dry_run: bool = False
    """Only count and estimate (`vpdist plan`): the models may be left out, nothing is kept."""

    def __post_init__(self) -> None:
        if self.manifest is not None and (self.inputs or self.files_from is not None):
            raise UsageError("--manifest names all inputs; name no others beside it")
        if self.manifest is None and (self.shard is not None or self.retry_failed):
            raise UsageError(f"{'--shard' if self.shard else '--retry-failed'} needs a --manifest")
        if not self.inputs and self.files_from is None and self.manifest is None:
            raise UsageError("no input: name FASTA or FASTQ files, or - for standard input")
        if (*self.inputs, self.files_from).count("-") > 1:
            raise UsageError("standard input (-) can be read once only")
        encodable("input", *self.inputs)
        encodable("--manifest, --output or --reuse", self.manifest, self.output, self.reuse)
        encodable("model or classifier", self.model, *self.models.values(), self.classifier)
        paths: set[str] = set()
        for name in (name if is_url(name) else str(Path(name)) for name in self.inputs):
            check_scheme(name)
            if name in paths:
                raise UsageError(f"{shown(name)} is named twice")
            if self.offline and needs_network(name):
                raise UsageError(f"{shown(name)}: --offline reads no objects; download it first")
            paths.add(name)
        nothing = self.model is None and not self.models
        if nothing and not self.dry_run and (self.classifier is not None or not self.calls):
            raise UsageError(f"name at least one of {options(KINDS)}, or --model")
        if not self.embeddings and self.classifier is None and self.models and not (self.model or self.dry_run):
            raise UsageError("--no-embeddings without a classifier would keep nothing")
        for name, option in OPTIONS.items():
            option.check(name, getattr(self, name))
        if self.publish is not None:
            check_publish(self.publish, offline=self.offline)
        between_0_and_1("prevalence", self.prevalence)
        between_0_and_1("max-fdr", self.max_fdr)
        preset_of(self.sensitive, self.balanced, self.strict)

    @property
    def bases_per_chunk(self) -> int:
        """The chunk length; `models.choose.applied` has made sure that it is the classifier's."""
        return DEFAULT_CHUNK_LENGTH if self.chunk_length is None else self.chunk_length

    @property
    def preset(self) -> str:
        """One of PRESET_NAMES."""
        return preset_of(self.sensitive, self.balanced, self.strict)

    @property
    def models(self) -> dict[str, str]:
        """Folder or hub id of each encoder that runs, by kind."""
        given = {name: getattr(self, f"{name}_model") for name in KINDS}
        return {name: model for name, model in given.items() if model is not None}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "inputs": tuple(map(shown, self.inputs)),
            "publish": self.publish and shown(self.publish),
            "output": str(self.output),
            "classifier": str(self.classifier) if self.classifier else None,
            "reuse": str(self.reuse) if self.reuse else None,
            "manifest": str(self.manifest) if self.manifest else None,
        }


OPTIONS: dict[str, Option] = {
    name: declared.__metadata__[0]
    for name, declared in get_type_hints(Settings, include_extras=True).items()
    if get_origin(declared) is Annotated
}
"""By field; every field of `Settings` but `calls` and `dry_run` is one."""


InputIdentity = tuple[tuple[str, int, int, str], ...]
"""Of each input: name, bytes, modification time (ns), digest of sampled blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedConfig:
    """What results depend on. Equal configurations give equal tables."""

    input: InputIdentity
    """As it was first read; the same content may have other names and times by now."""
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
    poolings: dict[str, str] = field(default_factory=dict)
    """Pooling in words, by kind, of encoders with another one than the method's own (encoder_kinds.KINDS)."""
    shortest_chunk: int = 0
    """Bases below which the model gives no scores; 0: it judges every chunk."""
    summary: str | None = None
    """Fingerprint of the model's summary of embeddings, if it has one."""

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(name for name, *_ in self.input)

    def __post_init__(self) -> None:
        """Raises ValueError for what no run can have: configurations are read from files, too."""
        texts = (self.dtype, self.embedding_dtype, self.device)
        fingerprints = (*self.models.values(), self.classifier, self.summary, *self.poolings.values())
        chosen = zip(texts, (DTYPES[1:], STORED_DTYPES[1:], DEVICES[1:]), strict=True)
        if any(type(text) is not str or text not in choices for text, choices in chosen):
            raise ValueError(f"{', '.join(map(str, texts))} are not a run's number formats and device")
        if any(fingerprint is not None and type(fingerprint) is not str for fingerprint in fingerprints):
            raise ValueError("a fingerprint or a pooling is not a text")
        for name, least, most in (
            ("chunk_length", 3, 1_000_000),
            ("min_length", 0, MOST_BASES),
            ("shortest_chunk", 0, 1_000_000),
            ("token_budget", 1, MOST_TOKENS),
            ("threads", 1, MOST_THREADS),
        ):
            number = getattr(self, name)
            if type(number) is not int or not least <= number <= most:
                raise ValueError(f"{name} is {number!r}, a run's is from {least} to {most}")
        if type(self.embeddings) is not bool:
            raise ValueError(f"embeddings is {self.embeddings!r}")

    def to_dict(self) -> dict[str, Any]:
        """One level of fields; of an encoder `{kind}_model`, None where files name it and it does not run, and
        `{kind}_pooling` where it is not the method's own; `shortest_chunk` and `summary` where the model has them."""
        fields: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if name == "models":
                fields |= {f"{kind}_model": model for kind, model in in_files(self.models, None).items()}
            elif name == "poolings":
                fields |= {f"{kind}_pooling": pooling for kind, pooling in self.poolings.items()}
            elif name in ("shortest_chunk", "summary") and not value:
                continue  # so that the records of other runs stay as they are
            else:
                fields[name] = value
        return fields

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ResolvedConfig:
        """Raises TypeError or ValueError for fields that are missing, surplus, or not a run's."""
        fields = dict(fields)
        if "input" in fields:
            fields["input"] = tuple((str(n), int(s), int(t), str(d)) for n, s, t, d in fields["input"])
        found = {name: fields.pop(f"{name}_model") for name in KINDS if f"{name}_model" in fields}
        if missing := in_files({}, None).keys() - found.keys():
            raise ValueError(f"no model is named for {', '.join(sorted(missing))}")
        poolings = {name: fields.pop(f"{name}_pooling") for name in KINDS if f"{name}_pooling" in fields}
        models = {name: model for name, model in found.items() if model is not None}
        return cls(models=models, poolings=poolings, **fields)

    @classmethod
    def from_json(cls, text: str | bytes) -> ResolvedConfig:
        return cls.from_dict(json.loads(text))
