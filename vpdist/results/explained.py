"""README.txt of a run folder: what each file is and what each column means, in words for people.

Enter: the names of the files and columns that are there, and notes about this run. Leaves: text. docs/run-folder.md
says the same at more length.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from vpdist.results.object_rows import OBJECT_COLUMNS

WIDTH = 100

FILES = {
    "sequences": "one row per input sequence, in the order of the input: its call, its scores, its status",
    "chunks": "one row per chunk of a sequence",
    "fragments": "one row per fragment, which is a frame of a chunk without a stop codon",
    "virus.fna.gz": "the sequences called virus, with the headers and letters of the input, in its order",
    "virus.tsv": "the rows of sequences.tsv that are called virus, the highest virus_score first",
    "regions.bed": "where in a sequence virus was found: runs of chunks called virus by the larger score, whatever the "
    "call of the sequence; places count from 0, the end is not included. Columns: sequence, start, end, name of the "
    "region, score from 0 to 1000, strand (none), virus_score (mean over its virus chunks), chunks, 1 where it has all "
    "scored chunks of its sequence",
    "regions.gff3": "the same regions as GFF3; places count from 1, the end is included",
    "summary.tsv": "one row per input file",
    "calibration.json": "by what the scores were judged: the model's calibration, its null scores, and what was chosen",
    "prediction_results.txt": "the fragments in the form of the original VirNucPro",
    "prediction_results_highestscore.csv": "the chunks in the form of the original VirNucPro",
    "README.txt": "this text",
}
OTHER_FILES = {
    "run.json": "command, settings, versions, model, warnings, and the digests of these files",
    "status.json": "state and exit code",
    "parts/": "embeddings and logits, which `vpdist export` writes in other forms",
    "tokens/, progress.jsonl, logs/": "what resuming needs, and what the run told",
}
_SCORES = {
    "virus_score": "see `Scores`",
    "nonvirus_score": "see `Scores`",
    "prediction": "virus, non-virus, or NA where there is no score: the larger of the two scores",
    "margin": "virus_score less nonvirus_score",
    "probability": "calibrated probability that this is a virus, at the share of viruses that `prevalence` in run.json "
    "has (given, estimated or assumed); NA where the model has no calibration",
    "q_value": "expected share of false calls among this sequence and all that rank above it",
    "p_value": "share of non-viral sequences of this length that score as high",
    "call": "the call after calibration: virus, non-virus or uncertain",
    "flags": "what makes a call doubtful, in words, separated by commas",
}
COLUMNS: dict[str, dict[str, str]] = {
    "sequences": {
        "seq_name": "the first word of the header; a name that occurs again is numbered: name__2",
        "source": "the input file, - for standard input",
        "length": "bases",
        "n_chunks": "chunks that the sequence was cut into",
        "n_scored_chunks": "chunks with a score",
        "n_fragments": "open frames in all chunks",
        "n_virus_chunks": "scored chunks called virus",
        **_SCORES,
        "status": "ok; no_open_frame: every frame has a stop codon; too_short: under 3 bases; filtered: shorter than "
        "--min-length; failed: a fragment has no usable embedding",
        "description": "the rest of the header",
    },
    "chunks": {
        "seq_name": "as in sequences.tsv",
        "chunk": "number of the chunk in its sequence, from 1",
        "start": "first base on the sequence, from 1",
        "end": "last base, included",
        "n_fragments": "open frames",
        **_SCORES,
    },
    "fragments": {
        "fragment_id": "{seq_name}_chunk_{chunk}{F or R}{1 to 3}",
        "seq_name": "as in sequences.tsv",
        "chunk": "as in chunks.tsv",
        "start": "first base on the sequence, from 1, whatever the strand",
        "end": "last base, included",
        "strand": "+ or -",
        "frame": "1 to 3",
        **_SCORES,
    },
    "summary": {
        "source": "the input file as sequences.tsv has it",
        "n_sequences": "sequences in it",
        "n_bases": "their bases",
        "n_scored": "sequences with a score",
        "n_virus": "sequences called virus, whatever --min-score",
        "n_virus_bases": "their bases",
        "virus_share": "n_virus / n_scored",
        "n_ok": "sequences of this status, and so on for the others",
        "sample": "the sample, as the manifest names it",
        "status": "done, or failed: nothing of the object is in the tables",
        "reason": "why it failed",
    },
}
FLAGS = {
    "short": "short for the model",
    "few_chunks": "one or two scored chunks",
    "ambiguous_bases": "many letters other than A, C, G, T",
    "low_complexity": "mostly repeats of low complexity",
    "no_open_frame": "no open frame",
    "out_of_distribution": "unlike what the model was trained on",
    "disagreement": "its frames or chunks disagree",
}
"""What docs/flags.md says of each flag, in a few words."""
SCORES = (
    "A fragment's two scores add up to 1. A chunk's virus_score is the highest of its fragments', its nonvirus_score "
    "the highest of its fragments' too: these may be two fragments, so that both can be near 1 and their sum near 2. "
    "A sequence's scores are made of its chunks' (--consensus: mean, max or fraction). They are no probabilities. "
    "Where both scores of a chunk are high, its fragments disagree: look at the difference, not at one of them."
)
READING = (
    "Tables are tab-separated UTF-8 with a header. NA is a missing score, but also the name of a sequence that is "
    "called so: read names as text. No cell begins with a quote; where one would, each quote is written \\x22."
)
NAMES = (
    "virus.fna.gz keeps headers as they are: sequences that share a name share it there, too, while the tables and "
    "regions number them. In GFF3, letters of a name that it does not allow are percent-encoded."
)


def readme(files: Iterable[str], columns: Mapping[str, Sequence[str]], notes: Sequence[str]) -> str:
    """The text for the files of these names, and for tables with these columns."""
    lines = ["What vpdist has written here", ""]
    order = {name: number for number, name in enumerate(FILES)}
    for name in sorted(files, key=lambda name: (order.get(_known(name), len(order)), name)):
        lines += _item(name, FILES.get(_known(name), "see docs/run-folder.md of vpdist"))
    lines += [line for name, told in OTHER_FILES.items() for line in _item(name, told)]
    lines += ["", *(line for note in notes for line in textwrap.wrap(note, WIDTH))] if notes else []
    for title, text in (("Scores", SCORES), ("Reading", READING), ("Names", NAMES)):
        lines += ["", title, "", *textwrap.wrap(text, WIDTH)]
    summary = [name for name in COLUMNS["summary"] if name not in OBJECT_COLUMNS or name in columns.get("summary", ())]
    for table, names in {**columns, "summary": summary}.items():
        known_columns = COLUMNS.get(table, {})
        lines += ["", f"Columns of {table}.tsv", ""]
        for name in names:
            lines += _item(name, known_columns.get(name, "see docs/run-folder.md of vpdist"))
    return "\n".join(lines) + "\n"


def _known(name: str) -> str:
    """The key of a file in FILES: tables may be compressed."""
    return name if name in FILES else name.removesuffix(".gz").removesuffix(".tsv")


def _item(name: str, text: str) -> list[str]:
    indent = " " * 22
    head = f"{name:<20}  "
    if len(head) > len(indent):
        return [name, *textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)]
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=indent) or [name]
