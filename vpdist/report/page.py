"""`vpdist report`: one HTML file with everything in it.

Enters: a finished run. Leaves: report.html. Promises: the file loads nothing and sends nothing, which its content
security policy says to the browser, too; whatever a name holds, it is text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from vpdist.calibration import judging
from vpdist.calibration.bound import BORDERS
from vpdist.errors import StorageError, UsageError
from vpdist.report import pictures, sequence_columns
from vpdist.report.embedding_map import embedding_map
from vpdist.report.fragment_columns import read_fragments
from vpdist.report.methods import methods
from vpdist.report.multiqc import write_multiqc
from vpdist.report.packed import Column, packed
from vpdist.report.sequence_columns import Counted, Shown, count_sequences, read_shown
from vpdist.report.timeline import timeline
from vpdist.results.embedded_run import recorded_config
from vpdist.results.explained import FLAGS
from vpdist.storage.atomic_files import read_json, write_file
from vpdist.storage.run_folder import REPORT, RunFolder, is_report
from vpdist.text import printable, shortened, without_open_quotes

TITLE_LETTERS = 120


def write_report(
    run: Path, target: Path | None = None, *, png: bool = False, multiqc: bool = False
) -> list[tuple[Path, int]]:
    """Write the report of the run in folder `run`; returns the path and the bytes of each file.

    Args:
        target: RUN/report.html unless given.
        png: also report.png beside it.
        multiqc: also vpdist_mqc.json beside it.

    Raises UsageError where there is no finished run, no matplotlib for `png`, or another file in the way; DamagedFile,
    StorageError.
    """
    folder = RunFolder(run)
    folder.check_holds_run()
    if png:
        pictures.check_installed()
    path = folder.path / REPORT if target is None else target
    if (path.exists() or path.is_symlink()) and not is_report(path):
        raise UsageError(f"{path}: is no report of vpdist, and is not overwritten; name another file with -o")
    columns, meta = gather(folder, path)
    write_file(path, page(run, columns, meta).encode())
    written = [path]
    if png:
        written.append(path.with_name(pictures.NAME))
        pictures.write_png(written[-1], columns, meta)
    if multiqc:
        written.append(write_multiqc(path.parent, meta))
    return [(each, each.stat().st_size) for each in written]


def gather(folder: RunFolder, beside: Path) -> tuple[dict[str, Column], dict[str, Any]]:
    """The columns of a report and all else that it shows. Raises UsageError, DamagedFile, StorageError."""
    resolved, about = recorded_config(folder), read_json(folder.run) or {}
    state = (read_json(folder.status) or {}).get("state")
    if resolved is None or state not in ("done", "done_with_failures"):
        raise UsageError(
            f"{folder.path}: the run is not complete (its state is {state!r}); let it end, or resume it by its first "
            f"command"
        )
    sources = [without_open_quotes(printable(name)) for name in resolved.input_names]
    counted = count_sequences(folder.path, sources, sequence_columns.MOST_SEQUENCES)
    statuses: list[str] = []
    flags: list[str] = [""]
    shown = read_shown(folder.path, counted, statuses, flags)
    spread = embedding_map(folder, shown.record, beside)
    columns = {**shown.columns, **read_fragments(folder.path, shown), **spread.columns}
    meta = _about(folder, about, counted, shown) | {
        "chunk_length": resolved.chunk_length,
        "statuses": statuses,
        "flags": flags,
        "map": spread.told,
        "words": FLAGS,
        **_bound(about),
    }
    return columns, meta


def _bound(about: Mapping[str, Any]) -> dict[str, Any]:
    """By what it is known how many calls are false at most, from the judgement that run.json keeps: `confidence` in
    words, `most_false` of the run's calls, and `envelope` at `borders`; None where that is not known."""
    kept = about.get("judgement")
    told = kept if isinstance(kept, dict) else {}
    most, confidence, envelope = (told.get(name) for name in ("most_false", "confidence", "envelope"))
    if not isinstance(most, int) or not isinstance(confidence, float):
        return {"confidence": "", "most_false": None, "envelope": None}
    numbers = isinstance(envelope, list) and all(isinstance(number, int) for number in envelope)
    known = envelope if numbers and len(envelope or ()) == len(BORDERS) else None
    return {"confidence": f"{confidence:.0%}", "most_false": most, "envelope": known, "borders": BORDERS.tolist()}


def _about(folder: RunFolder, about: Mapping[str, Any], counted: Counted, shown: Shown) -> dict[str, Any]:
    """What a report shows beside its columns."""
    seconds = about.get("stage_seconds")
    warnings = about.get("warnings")
    told = [str(text) for text in warnings] if isinstance(warnings, list) else []
    judgement = about.get("judgement")
    told += judging.warnings(judgement) if isinstance(judgement, dict) else []
    if len(shown.names) < counted.n:
        most = len(shown.names)
        told.append(f"note: this report lists the {most:,} sequences with the highest virus scores of {counted.n:,}")
    return {
        "sequences": counted.n,
        "virus": sum(of.virus for of in counted.sources.values()),
        "sources": [asdict(of) | {"name": source} for source, of in counted.sources.items()],
        "classes": counted.classes,
        "warnings": told,
        "methods": methods(about, counted.n),
        "classified": _is_classified(about, counted),
        "calibrated": folder.calibration.exists(),
        "timeline": timeline(folder.progress),
        "seconds": {str(name): float(value) for name, value in seconds.items()} if isinstance(seconds, dict) else {},
    }


def _is_classified(about: Mapping[str, Any], counted: Counted) -> bool:
    """Whether a classifier was there; earlier versions do not say so in run.json, but have scores."""
    origin = about.get("tables_from")
    named = isinstance(origin, dict) and bool(origin.get("classifier"))
    return named or any(of.scored for of in counted.sources.values())


def page(run: Path, columns: Mapping[str, Column], meta: Mapping[str, Any]) -> str:
    """The HTML of a report. Raises StorageError where this installation lacks a file."""
    style, script, template = (_resource(f"report.{kind}") for kind in ("css", "js", "html"))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )
    title = f"vpdist: {shortened(printable(run.absolute().name), TITLE_LETTERS)}"
    called = f"{meta['virus']:,} of {meta['sequences']:,} sequences are called virus."
    sentence = called if meta["classified"] else f"{meta['sequences']:,} sequences, none of which was classified."
    parts = {"title": html.escape(title), "sentence": sentence, "policy": policy, "style": style}
    parts |= {"script": script, "data": packed(columns, meta)}
    return re.sub(r"\{(\w+)\}", lambda mark: parts[mark[1]], template)


def _hash(text: str) -> str:
    """How a content security policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _resource(name: str) -> str:
    try:
        return files("vpdist.report").joinpath(name).read_text(encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{name}: is missing in this installation of vpdist: {error}") from error
