"""The commands that write a finished run in other forms: export, report. Each imports what it alone needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vpdist.text import bytes_text, count_text, printable

EXPORT_HELP = "h5, npz, parquet or h5ad."


def add_to(app: typer.Typer) -> None:
    """Make the functions below commands of `app`."""
    app.command()(export)
    app.command()(report)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A complete run folder that keeps its embeddings.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help=EXPORT_HELP)],
    per: Annotated[str, typer.Option(help="A row per sequence (mean over its fragments) or fragment.")] = "sequence",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="By default beside RUN: RUN-sequences.h5 ...")
    ] = None,
) -> None:
    """Write a run's embeddings, names and calls into one file, in the order of its tables.

    Example: vpdist export RUN --to h5ad --per sequence
    """
    from vpdist.commands.export_run import export_run

    try:
        path, n = export_run(run, to, per, output, _progress)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    typer.echo(printable(f"{path}: written, {count_text(n)} {per}s"))


def _progress(done: int, of: int) -> None:
    """Parts read, on a terminal only."""
    if sys.stderr.isatty():
        typer.echo(f"\r{done:,} of {of:,} parts read" + ("\n" if done == of else ""), err=True, nl=False)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A complete run folder.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="By default RUN/report.html.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Also report.png beside it; needs matplotlib.")] = False,
    multiqc: Annotated[bool, typer.Option("--multiqc", help="Also vpdist_mqc.json, which MultiQC shows.")] = False,
) -> None:
    """Write a run as one HTML file to look at: calls, sequences, scores, map, speed, methods.

    Example: vpdist report RUN --png
    """
    from vpdist.report.page import write_report

    try:
        for path, size in write_report(run, output, png=png, multiqc=multiqc):
            typer.echo(printable(f"{path}: written, {bytes_text(size)}"))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
