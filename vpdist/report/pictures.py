"""report.png: the virus scores by length and the map, for slides and papers. Needs matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vpdist.errors import UsageError
from vpdist.report.packed import NA, SCALE, Column
from vpdist.storage.atomic_files import replacing

NAME = "report.png"
BLUE, ORANGE = "#0072b2", "#d55e00"
"""Colours that people with colour blindness tell apart (Okabe and Ito 2008)."""


def check_installed() -> None:
    """Raises UsageError without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--png needs matplotlib: pip install 'vpdist[plots]'")


def write_png(path: Path, columns: Mapping[str, Column], meta: Mapping[str, Any]) -> None:
    """Write the picture; the same report gives the same bytes. Raises StorageError."""
    import matplotlib

    matplotlib.use("agg", force=True)
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    score, call = np.asarray(columns["virus"], np.float64), np.asarray(columns["call"])
    score = np.where(score == NA, np.nan, score / SCALE)
    kinds = ((call != 2, BLUE, "s", "not virus"), (call == 2, ORANGE, "o", "virus"))
    figure = Figure(figsize=(12, 4), layout="constrained")
    histogram, lengths, spread = figure.subplots(1, 3)
    for chosen, colour, _, name in kinds:
        histogram.hist(score[chosen & ~np.isnan(score)], np.linspace(0, 1, 41), color=colour, alpha=0.8, label=name)
    histogram.set(
        xlabel="virus score", ylabel="sequences", title=f"{meta['virus']:,} of {meta['sequences']:,} are virus"
    )
    histogram.legend(frameon=False)
    for chosen, colour, marker, _ in kinds:
        lengths.scatter(np.asarray(columns["length"])[chosen], score[chosen], s=6, c=colour, marker=marker, alpha=0.5)
    lengths.set(xlabel="bases", ylabel="virus score", title="length and score")
    if not np.isnan(score).all():  # matplotlib refuses a logarithmic axis on which there is nothing
        lengths.set(xscale="log")
        lengths.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        lengths.xaxis.set_major_formatter("{x:,.0f}")
        lengths.xaxis.set_minor_formatter(NullFormatter())
    if "mapi" in columns:
        of = np.asarray(columns["mapi"])
        x, y = (np.asarray(columns[f"map{axis}"]) / SCALE for axis in "xy")
        for chosen, colour, marker, _ in kinds:
            spread.scatter(x[chosen[of]], y[chosen[of]], s=6, c=colour, marker=marker, alpha=0.5)
    spread.set(xticks=[], yticks=[], xlabel="first component", ylabel="second", title="embeddings")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
