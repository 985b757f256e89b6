"""The command line: options become Settings, errors become exit codes. Each command imports what it alone needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from vpdist import help_pages, info_command, model_commands, run_commands, watch_commands
from vpdist.config import MOST_RANKS, Settings, within
from vpdist.environment import (
    bound_spinning,
    ending_with_launcher,
    launch_context,
    unused_launcher,
)
from vpdist.errors import StorageError, UsageError, VpdistError, limit_reached
from vpdist.options import Nproc, SeveralValues, option, with_settings
from vpdist.standard_streams import open_standard_streams
from vpdist.text import MESSAGE_LETTERS, printable, printable_lines, shortened
from vpdist.train_settings import TrainSettings, labelled_files

app = typer.Typer(
    help="Tell viral sequences from everything else in sequencing data, on as many GPUs as there are.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

model_commands.add_to(app)
run_commands.add_to(app)
watch_commands.add_to(app)
info_command.add_to(app)


@app.command()
@with_settings(
    "inputs files_from manifest shard retry_failed output model classifier nucleotide_model protein_model "
    "chunk_length min_length replace_unknown allow_short consensus prevalence sensitive balanced strict max_fdr dtype "
    "embedding_dtype embeddings token_budget threads device nproc schedule progress log_interval stall_timeout "
    "offline restart reuse legacy_output min_score gzip_tables"
)
def predict(settings: Settings, nproc: Nproc = None) -> None:
    """Call every sequence virus or not, and keep the embeddings that led there."""
    if settings.models and settings.classifier is None and settings.model is None:
        raise UsageError("name a --classifier, or a --model; `vpdist embed` only embeds")
    _run(settings, nproc)


@app.command()
@with_settings(
    "inputs files_from manifest shard retry_failed output model nucleotide_model protein_model chunk_length "
    "min_length replace_unknown dtype embedding_dtype token_budget threads device nproc schedule progress "
    "log_interval stall_timeout offline restart reuse gzip_tables",
    calls=False,
)
def embed(settings: Settings, nproc: Nproc = None) -> None:
    """Only embed: `predict` without the classifier. Either model may be left out."""
    _run(settings, nproc)


@app.command(cls=SeveralValues)
@with_settings(
    "virus other folder groups gbff model nucleotide_model protein_model chunk_length min_length replace_unknown "
    "hidden dropout optimizer learning_rate momentum weight_decay learning_rate_schedule decay_every decay epochs "
    "patience keep batch_size class_weights oversample validation_share test_share calibration_share heads "
    "shortest_chunk bootstraps seed name description licence dtype embedding_dtype token_budget threads device nproc "
    "schedule progress log_interval stall_timeout offline restart reuse",
    inputs=("",),  # --virus and --other
    output=Path(),
    calls=False,
)
def train(
    settings: Settings,
    training: TrainSettings,
    virus: Annotated[list[str], typer.Option(metavar="[NAME=]FA...", help="Sequences of viruses, as predict reads.")],
    other: Annotated[list[str], typer.Option(metavar="[NAME=]FA...", help="Other sequences; NAME: see the tables.")],
    folder: Annotated[Path, typer.Option("-o", "--output", metavar="MODEL", help="The folder of the new model.")],
    groups: Annotated[
        Path | None, typer.Option(help="Lines name<TAB>group: such sequences are on one side, too.")
    ] = None,
    gbff: Annotated[
        list[Path] | None, typer.Option(help="GenBank files: only fragments inside an annotated CDS are used.")
    ] = None,
    nproc: Nproc = None,
) -> None:
    """Fit a classifier on labelled sequences, judge it on sequences kept apart, and write a model for `predict`."""
    from vpdist.training.labelled import Labelled

    labelled = Labelled(folder, labelled_files(virus, other), groups, tuple(gbff or ()))
    settings = replace(settings, inputs=labelled.inputs, output=labelled.run)
    labelled.check()
    training.check_sources(labelled.sources)

    def run(settings: Settings) -> int:
        with ending_with_launcher():
            from vpdist.commands.train import train as fit_and_judge

        return fit_and_judge(settings, training, labelled)

    _run(settings, nproc, run)


def _predict(settings: Settings) -> int:
    with ending_with_launcher():
        from vpdist.commands.predict import predict as run  # imports torch

    return run(settings)


def _run(settings: Settings, nproc: int | None, run: Callable[[Settings], int] = _predict) -> None:
    from vpdist.commands.cpu_ranks import cpu_ranks
    from vpdist.commands.early_checks import check_paths
    from vpdist.distributed.launch import launch, ranks_to_start
    from vpdist.models.choose import applied, needs_no_download
    from vpdist.models.download_display import fetch_encoders, shown_on
    from vpdist.session.before_begin import before_begin
    from vpdist.session.first_sign import first_sign
    from vpdist.storage.run_folder import RunFolder

    folder, context = RunFolder(settings.output), launch_context()
    with before_begin(folder):
        if context.rank == 0:
            folder.check_writable()
            check_paths(settings)
            if not context.store_secret and settings.progress != "none":  # else the command that has started this rank
                typer.echo(first_sign(folder, restart=settings.restart), err=True)
            if not context.launched or needs_no_download(settings):  # else ranks do so, and say where it fails
                settings = applied(settings, shown_on(sys.stderr))
                check_paths(settings)  # of the model, too
        if not context.launched:
            fetch_encoders(settings, shown_on(sys.stderr))
        if nproc is None and (note := unused_launcher()):
            typer.echo(f"vpdist: {printable(note)}", err=True)
        ranks = ranks_to_start(nproc, settings.device, lambda: cpu_ranks(settings))
        if ranks > 1:
            raise typer.Exit(launch(sys.argv[1:], ranks, folder))
        raise typer.Exit(run(settings))


@app.command()
@with_settings(
    "inputs files_from manifest shard folder model classifier nucleotide_model protein_model ranks chunk_length "
    "min_length replace_unknown dtype embedding_dtype embeddings token_budget threads device progress offline as_json",
    output=Path(),
    dry_run=True,
)
def plan(
    settings: Settings,
    folder: Annotated[Path | None, option("output")] = None,
    ranks: Annotated[int | None, typer.Option(help="Ranks of the run; by default what predict would start.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Dry run: counts, balance over ranks, and disk, memory and time that `predict` would need.

    Works in a temporary folder (TMPDIR) and writes nothing to RUN. Without models it only counts.

    With RUN it checks whether there is enough disk space for it; with a classifier, whether that fits the encoders.
    """
    from vpdist.commands.cpu_ranks import cpu_ranks
    from vpdist.commands.early_checks import check_paths
    from vpdist.distributed.launch import ranks_to_start
    from vpdist.models.choose import applied
    from vpdist.models.download_display import shown_on

    within("ranks", ranks, least=1, most=MOST_RANKS)
    context = launch_context()
    if context.rank != 0:
        return  # rank 0 does it for all
    check_paths(settings)
    settings = applied(settings, shown_on(sys.stderr))
    check_paths(settings)  # of the model, too
    if ranks is None and context.launched:
        ranks = context.world_size
    elif ranks is None:
        ranks = ranks_to_start(None, settings.device, lambda: cpu_ranks(settings))
    from vpdist.estimate.dry_run import forecast  # imports torch

    planned = forecast(settings, ranks, folder)
    typer.echo(planned.to_json() if as_json else printable_lines("\n".join(planned.lines())))


@app.command()
def verify(run: watch_commands.RunArgument) -> None:
    """Open every file of a run, check digests and completeness; exits with 0 if there is no problem, else with 6."""
    from vpdist.storage.run_folder import RunFolder

    RunFolder(run).check_holds_run()
    from vpdist.commands.verify import verify as check

    problems = check(run)
    for problem in problems:
        typer.echo(printable(shortened(problem, MESSAGE_LETTERS)), err=True)
    if problems:
        raise typer.Exit(StorageError.exit_code)
    typer.echo(printable(f"{run}: complete and undamaged"))


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("-V", "--version", help="Print the versions that matter and exit.")] = False,
) -> None:
    if version:
        typer.echo(info_command.versions_text())
        raise typer.Exit


help_pages.arrange(app)


def main() -> None:
    """Run the command line and exit with one of the documented codes. Rank 0 reports errors of before a run is open."""
    open_standard_streams()
    bound_spinning()
    try:
        _refuse_empty(sys.argv)
        app()
    except (VpdistError, MemoryError, ImportError, OSError, RuntimeError) as error:
        told = error if isinstance(error, VpdistError) else limit_reached(error)
        if told is None:
            raise
        if _is_reporting_rank():
            typer.echo(f"vpdist: {printable_lines(shortened(str(told), MESSAGE_LETTERS))}", err=True)
        sys.exit(told.exit_code)


def _refuse_empty(arguments: list[str]) -> None:
    """Raises UsageError for an empty argument, as an unset variable of a shell gives: as a path it would be the current
    folder."""
    for before, argument in pairwise(arguments):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            what = argument.rstrip("=") or (before if before.startswith("-") else "an argument")
            raise UsageError(f"{what} is empty; is it made from a variable that is not set?")


def _is_reporting_rank() -> bool:
    """Whether this process is rank 0, or does not know its rank."""
    try:
        return launch_context().rank == 0
    except VpdistError:
        return True
