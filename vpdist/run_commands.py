"""The commands about runs that are complete: classify, export, report. Each imports what it alone needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vpdist.config import between_0_and_1, preset_of
from vpdist.environment import ending_with_launcher, launch_context
from vpdist.errors import EXIT_FAILURES_LISTED, EXIT_OK, UsageError
from vpdist.options import option
from vpdist.text import bytes_text, count_text, printable

EXPORT_HELP = "h5, npz, parquet or h5ad."


def add_to(app: typer.Typer) -> None:
    """Make the functions below commands of `app`."""
    app.command()(classify)
    app.command()(merge)
    app.command()(export)
    app.command()(report)


def classify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A complete run folder that keeps its embeddings.")],
    model: Annotated[str | None, option("model")] = None,
    classifier: Annotated[Path | None, option("classifier")] = None,
    consensus: Annotated[str | None, option("consensus", default="as in the run")] = None,
    prevalence: Annotated[float | None, option("prevalence")] = None,
    sensitive: Annotated[bool, option("sensitive")] = False,
    balanced: Annotated[bool, option("balanced")] = False,
    strict: Annotated[bool, option("strict")] = False,
    max_fdr: Annotated[float | None, option("max_fdr")] = None,
    progress: Annotated[str, option("progress")] = "auto",
    offline: Annotated[bool, option("offline")] = False,
    legacy_output: Annotated[bool, option("legacy_output")] = False,
    min_score: Annotated[float, option("min_score")] = 0.0,
    gzip_tables: Annotated[bool, option("gzip_tables")] = False,
) -> None:
    """Make new calls from a run's embeddings, in seconds."""
    from vpdist.commands.early_checks import check_classifier_file
    from vpdist.models.download_display import shown_on
    from vpdist.models.find import find_model
    from vpdist.storage.run_folder import RunFolder

    if (model is None) == (classifier is None):
        raise UsageError("name a --model or a --classifier, one of both")
    between_0_and_1("prevalence", prevalence)
    between_0_and_1("max-fdr", max_fdr)
    preset = preset_of(sensitive, balanced, strict)
    if launch_context().rank == 0:
        RunFolder(run).check_holds_run()
        if classifier is not None:
            check_classifier_file(classifier)
        if model is not None:
            find_model(model, offline=offline, listener=shown_on(sys.stderr))
    with ending_with_launcher():
        from vpdist.calibration.judgement import Choice
        from vpdist.commands.classify import classify as new_calls

    code = new_calls(
        run,
        classifier,
        model=model,
        offline=offline,
        consensus=consensus,
        legacy_output=legacy_output,
        min_score=min_score,
        gzip_tables=gzip_tables,
        progress=progress,
        choice=Choice(preset=preset, max_fdr=max_fdr, prevalence=prevalence),
    )
    tell_renewed_report(run, code)
    raise typer.Exit(code)


def merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The run folders of all shards, in any order.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="The run folder of the whole.")],
    progress: Annotated[str, option("progress")] = "auto",
) -> None:
    """Put the runs of all shards of a manifest together: the tables are those of one run."""
    from vpdist.storage.run_folder import RunFolder

    if launch_context().rank == 0:
        for run in runs:
            RunFolder(run).check_holds_run()
            if run.resolve() == output.resolve():
                raise UsageError(f"{output}: is one of the shards; name a new folder")
    with ending_with_launcher():
        from vpdist.commands.merge import merge as put_together

    raise typer.Exit(put_together(runs, output, progress=progress))


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


def tell_renewed_report(run: Path, code: int) -> None:
    """After a command that has replaced the tables of `run` and ended with `code`: its report is not of the old ones.
    On rank 0, if there is a report."""
    from vpdist.report.renewed import renew_report
    from vpdist.storage.run_folder import has_report

    if launch_context().rank != 0 or code not in (EXIT_OK, EXIT_FAILURES_LISTED) or not has_report(run):
        return
    try:
        for line in renew_report(run):
            typer.echo(line, err=True)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
