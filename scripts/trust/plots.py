"""Plots of a proof, as SVG: realised against nominal false discovery, by length and share of viruses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.trust.mixtures import NOMINAL, MixtureFigures

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9")
"""That people with colour blindness tell apart (Okabe and Ito 2008)."""
MARKERS = "os^Dv*"


def draw(folder: Path, name: str, mixtures: Mapping[int, Sequence[MixtureFigures]]) -> None:
    """Write `NAME-false-discovery.svg` and `NAME-prevalence.svg`; the same figures give the same bytes."""
    import matplotlib

    matplotlib.use("agg", force=True)
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "vpdist", "font.size": 10, "svg.fonttype": "none"}):
        figure = Figure(figsize=(5.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 0.3], [0, 0.3], color="#888888", linewidth=1)
        for number, (length, each) in enumerate(mixtures.items()):
            for share in each:
                rates = [share.false_discovery[rate] for rate in NOMINAL]
                axes.plot(
                    NOMINAL,
                    [rate.value for rate in rates],
                    color=COLOURS[number % len(COLOURS)],
                    marker=MARKERS[number % len(MARKERS)],
                    alpha=0.4 + 0.15 * list(each).index(share),
                    label=f"{length:,} bases" if share is each[0] else None,
                )
        axes.set(xlabel="nominal (q-value)", ylabel="realised share of false calls", ylim=(0, 0.3), xlim=(0, 0.11))
        axes.set_title(f"{name}: false discovery", loc="left")
        axes.legend(frameon=False)
        _save(figure, axes, folder / f"{name}-false-discovery.svg")
        figure = Figure(figsize=(5.4, 4.4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([5e-4, 1], [5e-4, 1], color="#888888", linewidth=1)
        for number, (length, each) in enumerate(mixtures.items()):
            axes.plot(
                [share.share for share in each],
                [max(5e-4, share.estimated.value) for share in each],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                label=f"{length:,} bases",
            )
        axes.set(xlabel="share of viruses", ylabel="estimated", xscale="log", yscale="log")
        axes.set_title(f"{name}: share of viruses in mixtures of 1,000", loc="left")
        axes.legend(frameon=False)
        _save(figure, axes, folder / f"{name}-prevalence.svg")


def _save(figure: object, axes: object, path: Path) -> None:
    axes.spines[["top", "right"]].set_visible(False)  # type: ignore[attr-defined]
    figure.savefig(path, format="svg", metadata={"Date": None})  # type: ignore[attr-defined]
