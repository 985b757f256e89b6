"""`python -m scripts.demo.show demo/run demo/sample/truth.tsv`: show results of a run on the synthetic sample.

Prints the first rows of each table, and how well the calls agree with the truth.
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from scripts.demo.metrics import accuracy, auroc

ROWS = 5
SHOWN = {
    "sequences.tsv": "seq_name length n_chunks virus_score nonvirus_score prediction status",
    "chunks.tsv": "seq_name chunk start end n_fragments virus_score nonvirus_score prediction",
    "fragments.tsv": "fragment_id start end frame virus_score nonvirus_score prediction",
}
"""Columns that fit into 80 characters."""
CALLS = ("virus", "non-virus", "NA")
Rows = list[dict[str, str]]


def read_table(path: Path) -> Rows:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def plain_table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), header_style="cyan"
    )


def first_rows(path: Path) -> Table:
    """The first rows of a result table; scores are shown with three decimals."""
    rows = read_table(path)
    columns = SHOWN[path.name].split()
    table = plain_table(f"{path}: {len(rows):,} rows of {len(rows[0]) if rows else 0} columns")
    for column in columns:
        is_text = column in ("seq_name", "fragment_id", "prediction", "status", "frame")
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    for row in rows[:ROWS]:
        table.add_row(*(formatted(column, row[column]) for column in columns))
    return table


def formatted(column: str, value: str) -> str:
    return f"{float(value):.3f}" if column.endswith("_score") and value != "NA" else value


def confusion(rows: Rows, truth: dict[str, str]) -> Table:
    counts = Counter((truth[row["seq_name"]], row["prediction"]) for row in rows)
    table = plain_table("Calls and truth")
    table.add_column("truth")
    for call in CALLS:
        table.add_column("no call (NA)" if call == "NA" else f"called {call}", justify="right")
    for kind in CALLS[:2]:
        table.add_row(kind, *(f"{counts[kind, call]:,}" for call in CALLS))
    return table


def agreement(rows: Rows, truth: dict[str, str]) -> str:
    """Accuracy and AUROC over the sequences that were called."""
    called = [row for row in rows if row["prediction"] != "NA"]
    if not called:
        return "no calls"
    positive = np.array([truth[row["seq_name"]] == "virus" for row in called])
    scores = np.array([float(row["virus_score"]) - float(row["nonvirus_score"]) for row in called])
    return (
        f"{len(called):,} of {len(rows):,} called, accuracy {accuracy(positive, scores):.3f}, "
        f"AUROC {auroc(positive, scores):.3f}"
    )


def main(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    truth_table: Annotated[Path, typer.Argument(help="truth.tsv of scripts.demo.make_sample.")],
) -> None:
    """Show results of a run on the synthetic sample, and how well they agree with the truth."""
    console = Console()
    truth = {row["seq_name"]: row["truth"] for row in read_table(truth_table)}
    sequences = read_table(run / "sequences.tsv")
    for name in SHOWN:
        console.print(first_rows(run / name), "")
    console.print(confusion(sequences, truth), "")
    for kind in ("contig", "read"):
        console.print(f"{kind}s: {agreement([row for row in sequences if row['seq_name'].startswith(kind)], truth)}")
    statuses = Counter(row["status"] for row in sequences)
    console.print("status: " + ", ".join(f"{status} {count:,}" for status, count in statuses.most_common()))
    console.print(
        Panel(
            f"[bold]{run}/sequences.tsv[/]  one row per sequence\n"
            f"[bold]{run}/chunks.tsv[/]     one row per chunk\n"
            f"[bold]{run}/fragments.tsv[/]  one row per open reading frame\n"
            f"[bold]{run}/parts/[/]         embeddings and logits (HDF5)\n"
            f"[bold]{run}/logs/[/]          a log per rank\n"
            f"[bold]{run}/run.json[/]       command, settings, versions, times\n"
            f"[bold]{truth_table}[/]   kind and organism of each sequence",
            title="Files",
            title_align="left",
            expand=False,
        )
    )
    console.print(
        "[bold yellow]These models are for trying out only.[/] Their encoders are random, their classifier has seen "
        "synthetic organisms and nothing else. For real sequences, use DNABERT-S, ESM-2 and a classifier trained on "
        "their embeddings: see README.md."
    )


if __name__ == "__main__":
    typer.run(main)
