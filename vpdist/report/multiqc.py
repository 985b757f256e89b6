"""A file that MultiQC shows as a section of its own report ("custom content").

Enters: what a report counts. Leaves: vpdist_mqc.json, a bar per input file. https://docs.seqera.io/multiqc has the
format ("Custom content").
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpdist.storage.atomic_files import write_file

NAME = "vpdist_mqc.json"


def write_multiqc(folder: Path, meta: Mapping[str, Any]) -> Path:
    """Write NAME into `folder`; returns its path. Raises StorageError."""
    sources = meta["sources"]
    data = {
        sample: {
            "virus": source["virus"],
            "non-virus or uncertain": source["scored"] - source["virus"],
            "not scored": source["sequences"] - source["scored"],
        }
        for sample, source in zip(_samples([source["name"] for source in sources]), sources, strict=True)
    }
    content = {
        "id": "vpdist",
        "section_name": "vpdist",
        "description": "Sequences called virus, by input file.",
        "plot_type": "bargraph",
        "pconfig": {"id": "vpdist_calls", "title": "vpdist: calls", "ylab": "sequences"},
        "data": data,
    }
    path = folder / NAME
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def _samples(sources: Sequence[str]) -> list[str]:
    """Names of samples: the files', with their folder or, if that does not help, their number where another is like it.

    MultiQC takes what stands before a slash for a folder and, at many endings, cuts what follows a dot; of samples with
    equal names that are left it keeps one without a word.
    """
    short = [_sample(source) for source in sources]
    kept = Counter(map(_kept, short))
    folders = [Path(source).parent.name for source in sources]
    alike = [kept[_kept(name)] > 1 for name in short]
    in_folders = [
        f"{folder} | {name}" if other and folder else name
        for name, folder, other in zip(short, folders, alike, strict=True)
    ]
    if len(set(map(_kept, in_folders))) == len(sources):
        return in_folders
    numbered = [f"{k} | {name}" if other else name for k, (name, other) in enumerate(zip(short, alike, strict=True), 1)]
    if len(set(map(_kept, numbered))) == len(sources):
        return numbered
    return [f"{k} | {name}" for k, name in enumerate(short, 1)]


def _kept(name: str) -> str:
    """What MultiQC keeps of a name at least."""
    return name.partition(".")[0].strip()


def _sample(source: str) -> str:
    """A sample's name: the file's, without its folder and the endings of sequence files."""
    name = source.rstrip("/").rpartition("/")[2]
    for ending in (".gz", ".bz2", ".xz", ".zst", ".fasta", ".fastq", ".fna", ".fa", ".fq"):
        name = name.removesuffix(ending)
    return name or source
