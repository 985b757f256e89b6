"""The command line: options become Settings, errors become exit codes. Commands that need torch import it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import vpdist
from vpdist.config import Settings, at_least, parsed_budget
from vpdist.environment import ending_with_launcher, place
from vpdist.errors import StorageError, VpdistError, printable, printable_lines
from vpdist.launch import launch, ranks_to_start
from vpdist.runfolder import RunFolder
from vpdist.weights import resolve_model

app = typer.Typer(
    help="Tell viral sequences from everything else in sequencing data, on as many GPUs as there are.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Inputs = Annotated[
    list[str], typer.Argument(metavar="IN...", help="FASTA or FASTQ: plain, gz, bz2, xz or zst; - for standard input.")
]
Output = Annotated[Path, typer.Option("-o", "--output", metavar="RUN", help="The run folder.")]
NucleotideModel = Annotated[
    str | None, typer.Option(help="DNABERT-S: a folder, or a hub id such as zhihan1996/DNABERT-S.")
]
ProteinModel = Annotated[
    str | None, typer.Option(help="ESM-2: a folder, or a hub id such as facebook/esm2_t36_3B_UR50D.")
]
ChunkLength = Annotated[int, typer.Option(help="Bases per chunk: what the classifier was trained on.")]
MinLength = Annotated[int, typer.Option(help="Shorter sequences are listed as filtered, not scored.")]
Consensus = Annotated[str, typer.Option(help="A sequence's scores from its chunks': mean, max or fraction.")]
Dtype = Annotated[str, typer.Option(help="Encoders: auto, float32, bfloat16 or float16.")]
EmbeddingDtype = Annotated[str, typer.Option(help="Stored embeddings: auto, float32 or float16.")]
TokenBudget = Annotated[
    str, typer.Option(metavar="auto|N", help="Tokens per batch; auto: by encoders and device, see run.json.")
]
Threads = Annotated[int | None, typer.Option(help="CPU threads per rank; by default this node's cores divided.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Nproc = Annotated[
    int | None, typer.Option(help="Without a launcher: ranks to start; by default one per visible GPU, else one.")
]
Schedule = Annotated[str, typer.Option(help="static deals work by token cost, dynamic lets ranks draw it.")]
ProgressMode = Annotated[str, typer.Option("--progress", help="auto, bars, log or none.")]
StallTimeout = Annotated[float, typer.Option(help="Seconds after which a run ends that one silent rank holds up.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never ask the hub; use what has been downloaded.")]
Restart = Annotated[bool, typer.Option("--restart", help="Discard what the run folder holds.")]
LegacyOutput = Annotated[bool, typer.Option("--legacy-output", help="Also write the original method's two files.")]


@app.command()
def predict(
    inputs: Inputs,
    output: Output,
    classifier: Annotated[Path, typer.Option(help="A vpdist classifier, or an original .pth.")],
    nucleotide_model: NucleotideModel = None,
    protein_model: ProteinModel = None,
    chunk_length: ChunkLength = 500,
    min_length: MinLength = 0,
    consensus: Consensus = "mean",
    dtype: Dtype = "auto",
    embedding_dtype: EmbeddingDtype = "auto",
    no_embeddings: Annotated[bool, typer.Option("--no-embeddings", help="Keep calls only.")] = False,
    token_budget: TokenBudget = "auto",
    threads: Threads = None,
    device: Device = "auto",
    nproc: Nproc = None,
    schedule: Schedule = "static",
    progress: ProgressMode = "auto",
    stall_timeout: StallTimeout = 1800.0,
    offline: Offline = False,
    restart: Restart = False,
    legacy_output: LegacyOutput = False,
) -> None:
    """Call every sequence virus or not, and keep the embeddings that led there."""
    settings = Settings(
        inputs=tuple(inputs),
        output=output,
        nucleotide_model=nucleotide_model,
        protein_model=protein_model,
        classifier=classifier,
        chunk_length=chunk_length,
        min_length=min_length,
        consensus=consensus,
        dtype=dtype,
        embedding_dtype=embedding_dtype,
        embeddings=not no_embeddings,
        token_budget=parsed_budget(token_budget),
        threads=threads,
        device=device,
        schedule=schedule,
        progress=progress,
        stall_timeout=stall_timeout,
        offline=offline,
        restart=restart,
        legacy_output=legacy_output,
    )
    _run(settings, nproc)


@app.command()
def embed(
    inputs: Inputs,
    output: Output,
    nucleotide_model: NucleotideModel = None,
    protein_model: ProteinModel = None,
    chunk_length: ChunkLength = 500,
    min_length: MinLength = 0,
    dtype: Dtype = "auto",
    embedding_dtype: EmbeddingDtype = "auto",
    token_budget: TokenBudget = "auto",
    threads: Threads = None,
    device: Device = "auto",
    nproc: Nproc = None,
    schedule: Schedule = "static",
    progress: ProgressMode = "auto",
    stall_timeout: StallTimeout = 1800.0,
    offline: Offline = False,
    restart: Restart = False,
) -> None:
    """Only embed: `predict` without the classifier. Either model may be left out."""
    settings = Settings(
        inputs=tuple(inputs),
        output=output,
        nucleotide_model=nucleotide_model,
        protein_model=protein_model,
        chunk_length=chunk_length,
        min_length=min_length,
        dtype=dtype,
        embedding_dtype=embedding_dtype,
        token_budget=parsed_budget(token_budget),
        threads=threads,
        device=device,
        schedule=schedule,
        progress=progress,
        stall_timeout=stall_timeout,
        offline=offline,
        restart=restart,
    )
    _run(settings, nproc)


def _run(settings: Settings, nproc: int | None) -> None:
    if place().rank == 0:
        RunFolder(settings.output).check_writable()
    ranks = ranks_to_start(nproc, settings.device)
    if ranks > 1:
        raise typer.Exit(launch(sys.argv[1:], ranks, settings.output / "status.json"))
    with ending_with_launcher():
        from vpdist.run import predict as run  # brings torch in

    raise typer.Exit(run(settings))


@app.command()
def plan(
    inputs: Inputs,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="RUN", help="Where the run would be: is there room?"),
    ] = None,
    classifier: Annotated[Path | None, typer.Option(help="Check that it fits the encoders.")] = None,
    nucleotide_model: NucleotideModel = None,
    protein_model: ProteinModel = None,
    ranks: Annotated[int | None, typer.Option(help="Ranks of the run; by default what predict would start.")] = None,
    chunk_length: ChunkLength = 500,
    min_length: MinLength = 0,
    dtype: Dtype = "auto",
    embedding_dtype: EmbeddingDtype = "auto",
    no_embeddings: Annotated[bool, typer.Option("--no-embeddings", help="Of a run that keeps calls only.")] = False,
    token_budget: TokenBudget = "auto",
    threads: Threads = None,
    device: Device = "auto",
    progress: ProgressMode = "auto",
    offline: Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Dry run: counts, balance over ranks, and what `predict` needs of disk, memory and time. Writes nothing there.

    Works in a temporary folder (TMPDIR). Without models it only counts.
    """
    settings = Settings(
        inputs=tuple(inputs),
        output=output or Path(),
        nucleotide_model=nucleotide_model,
        protein_model=protein_model,
        classifier=classifier,
        chunk_length=chunk_length,
        min_length=min_length,
        dtype=dtype,
        embedding_dtype=embedding_dtype,
        embeddings=not no_embeddings,
        token_budget=parsed_budget(token_budget),
        threads=threads,
        device=device,
        progress=progress,
        offline=offline,
        dry_run=True,
    )
    at_least("ranks", ranks, 1)
    here = place()
    if here.rank != 0:
        return  # rank 0 does it for all
    ranks = ranks or (here.world_size if here.launched else ranks_to_start(None, device))
    from vpdist.dry_run import forecast  # brings torch in

    found = forecast(settings, ranks, output)
    typer.echo(found.to_json() if as_json else "\n".join(found.lines()))


@app.command()
def classify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A complete run folder that keeps its embeddings.")],
    classifier: Annotated[Path, typer.Option(help="A vpdist classifier, or an original .pth.")],
    consensus: Annotated[str | None, typer.Option(help="mean, max or fraction; by default as in the run.")] = None,
    progress: ProgressMode = "auto",
    legacy_output: LegacyOutput = False,
) -> None:
    """Make new calls from a run's embeddings, in seconds."""
    with ending_with_launcher():
        from vpdist.classify import classify as new_calls

    raise typer.Exit(new_calls(run, classifier, consensus=consensus, legacy_output=legacy_output, progress=progress))


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
) -> None:
    """Open every file of a run, check digests and completeness; exits with 0 only if all holds, else with 6."""
    from vpdist.verify import verify as check

    found = check(run)
    for problem in found:
        typer.echo(printable(problem), err=True)
    if found:
        raise typer.Exit(StorageError.exit_code)
    typer.echo(printable(f"{run}: complete and undamaged"))


@app.command()
def download(
    models: Annotated[list[str], typer.Argument(metavar="ID...", help="Hub ids: owner/name or owner/name@revision.")],
) -> None:
    """Fetch encoders at their pinned revisions, so that --offline finds them."""
    for model in models:
        typer.echo(f"{model}: {resolve_model(model)}")


@app.command("import-classifier")
def import_classifier(
    source: Annotated[Path, typer.Argument(metavar="X.pth", help="A classifier as the original saves it.")],
    target: Annotated[Path, typer.Option("-o", "--output", help="The safetensors file to write.")],
) -> None:
    """Convert an original classifier to safetensors without running it."""
    from vpdist.classifier import load_classifier, save_classifier

    save_classifier(load_classifier(source), target, {"imported_from": source.name})
    typer.echo(printable(f"{target}: written"))


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
) -> None:
    """Draw a run's live bars in this terminal."""
    from vpdist.watch import watch as draw

    try:
        draw(run, sys.stderr)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"vpdist {vpdist.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line and exit with one of the documented codes."""
    sys.exit(_with_exit_code(app))


def _speaks() -> bool:
    """Whether this process tells people: rank 0, or one that does not know its rank."""
    try:
        return place().rank == 0
    except VpdistError:
        return True


def _with_exit_code(command: Callable[[], None]) -> int:
    """Errors found before a run folder is open: rank 0 tells them."""
    try:
        command()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0
    except VpdistError as error:
        if _speaks():
            typer.echo(f"vpdist: {printable_lines(str(error))}", err=True)
        return error.exit_code
    return 0
