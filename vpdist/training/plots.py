"""Plots of the test side as PNG and SVG: ROC, precision and recall, reliability, scores by class. Needs matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vpdist.storage.atomic_files import replacing, storage_error
from vpdist.training.judge import Scored
from vpdist.training.metrics import BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOT_INSTALLED = "no plots are drawn: matplotlib is not installed; pip install 'vpdist[plots]'"
FORMATS = ("png", "svg")
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#888888"
"""Colours that people with colour blindness tell apart (Okabe and Ito 2008)."""
COLOURS = {"fragments": GREY, "chunks": ORANGE, "sequences": BLUE}


def can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(folder: Path, scored: dict[str, Scored], name: str) -> list[str]:
    """Write the plots of model `name` into `folder`; returns the names of the files without their endings.

    The same scores give the same bytes. Raises StorageError.
    """
    import matplotlib

    matplotlib.use("agg", force=True)
    from matplotlib.figure import Figure

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    plots: dict[str, Callable[[Axes, dict[str, Scored]], None]] = {
        "roc": _roc,
        "precision_recall": _precision_recall,
        "reliability": _reliability,
        "scores": _scores,
    }
    with matplotlib.rc_context({"svg.hashsalt": "vpdist", "font.size": 10, "svg.fonttype": "none"}):
        for plot, fill in plots.items():
            figure = Figure(figsize=(5, 4.2), layout="constrained")
            axes = figure.add_subplot()
            fill(axes, scored)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_title(f"{name}: {plot.replace('_', ' ')}", loc="left")
            for kind in FORMATS:
                metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
                with replacing(folder / f"{plot}.{kind}") as file:
                    figure.savefig(file, format=kind, dpi=150, metadata=metadata)
    return list(plots)


def _curve(items: Scored) -> tuple[np.ndarray, np.ndarray]:
    """Viruses and others with at least each score, from the highest on, (t,) each, from 0."""
    order = np.argsort(-items.share, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(items.share[order])), len(order) - 1)
    virus = items.virus[order]
    viruses, others = (np.concatenate([[0], np.cumsum(of)[ends]]) for of in (virus, ~virus))
    return viruses, others


def _roc(axes: Axes, scored: dict[str, Scored]) -> None:
    for level, items in scored.items():
        virus, other = _curve(items)
        axes.plot(other / max(1, other[-1]), virus / max(1, virus[-1]), color=COLOURS[level], label=level)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="others called virus", ylabel="viruses called virus", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")


def _precision_recall(axes: Axes, scored: dict[str, Scored]) -> None:
    for level, items in scored.items():
        virus, other = (counts[1:] for counts in _curve(items))
        axes.plot(virus / max(1, virus[-1]), virus / (virus + other), color=COLOURS[level], label=level)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False, loc="lower left")


def _reliability(axes: Axes, scored: dict[str, Scored]) -> None:
    for level, items in scored.items():
        of = np.clip(np.ceil(items.share * BINS).astype(np.int64) - 1, 0, BINS - 1)
        n = np.bincount(of, minlength=BINS)
        mean, observed = (np.bincount(of, values, BINS)[n > 0] / n[n > 0] for values in (items.share, items.virus))
        axes.plot(mean, observed, color=COLOURS[level], label=level, marker="o", markersize=3)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="virus score's share", ylabel="share of viruses", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, loc="upper left")


def _scores(axes: Axes, scored: dict[str, Scored]) -> None:
    items = scored["sequences"]
    bins = np.linspace(0, 1, 41).tolist()
    for which, colour, label in ((~items.virus, BLUE, "others"), (items.virus, ORANGE, "viruses")):
        axes.hist(items.share[which], bins=bins, color=colour, alpha=0.6, label=label)
    axes.set(xlabel="virus score's share", ylabel="sequences of the test side", xlim=(0, 1))
    axes.legend(frameon=False)
