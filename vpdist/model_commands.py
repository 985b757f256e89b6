"""The commands about models themselves: list, download, import, check. Each imports what it alone needs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vpdist.config import OPTIONS, within
from vpdist.errors import UsageError
from vpdist.options import option
from vpdist.text import printable, printable_lines


def add_to(app: typer.Typer) -> None:
    """Make the functions below commands of `app`."""
    app.command()(models)
    app.command()(download)
    app.command("import-classifier")(import_classifier)
    app.command()(check)


def models(
    folder: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Also list the model, or the models, in this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the models that are known and those that are here: size, digest, licence, accuracy. Asks nobody."""
    from vpdist.models.listed import listed

    found = listed(folder or [])
    if as_json:
        typer.echo(json.dumps({"models": [model.to_dict() for model in found]}, indent=2))
    else:
        typer.echo(printable_lines("\n".join(line for model in found for line in model.lines())))


def download(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Models (`vpdist models`), or hub ids owner/name[@commit] of encoders."),
    ],
) -> None:
    """Fetch everything of a model, or encoders at their pinned revisions, so that --offline finds them."""
    from vpdist.models.download_display import shown_on
    from vpdist.models.find import download as fetch

    for name in names:
        typer.echo(printable(f"{name}: {fetch(name, shown_on(sys.stderr))}"))


def import_classifier(
    source: Annotated[Path, typer.Argument(metavar="X.pth", help="A classifier as the original saves it.")],
    target: Annotated[
        Path, typer.Option("-o", "--output", help="The folder of a new model, or a file NAME.safetensors.")
    ],
    chunk_length: Annotated[
        int | None, typer.Option(help="Bases per chunk that it was trained on; it is then refused at any other length.")
    ] = None,
    nucleotide_model: Annotated[
        str | None, typer.Option(help="The model's nucleotide encoder: a folder, which is copied, or a hub id.")
    ] = None,
    protein_model: Annotated[
        str | None, typer.Option(help="The model's protein encoder: a folder, which is copied, or a hub id.")
    ] = None,
    offline: Annotated[bool, option("offline")] = False,
) -> None:
    """Make a model of an original classifier, or convert it to safetensors, without running it."""
    within("chunk-length", chunk_length, least=3, most=1_000_000)
    encoders = {"nucleotide": nucleotide_model, "protein": protein_model}
    given = {slot: name for slot, name in encoders.items() if name is not None}
    if target.suffix != ".safetensors":
        from vpdist.models.download_display import shown_on
        from vpdist.models.imported import import_model

        bundle = import_model(source, target, chunk_length, given, offline=offline, listener=shown_on(sys.stderr))
        typer.echo(printable(f"{target}: written; model {bundle.model.name}, digest sha256:{bundle.digest}"))
        return
    if given:
        raise UsageError(f"-o {target}: a file holds no encoders; name a folder, for a model")
    from vpdist.results.classifier import import_classifier as convert

    known = convert(source, target, chunk_length)
    typer.echo(printable(f"{target}: written"))
    if known is None:
        advice = "give --chunk-length, so that it is not used at another one"
        typer.echo(printable(f"warning: {target}: the chunk length it was trained on is not known; {advice}"), err=True)


def check(
    model: Annotated[str, typer.Option(metavar="NAME|FOLDER|ID", help="The model.")] = "mini",
    dtype: Annotated[str, option("dtype")] = "float32",
    device: Annotated[str, option("device")] = "auto",
    threads: Annotated[int | None, option("threads")] = None,
    offline: Annotated[bool, option("offline")] = False,
    write: Annotated[bool, typer.Option(help="Only make the model's golden scores, and check nothing.")] = False,
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where runs will be: try this disk, not that of temporary files.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Whether vpdist works here, in a minute: devices, disk, the model's golden scores, launchers, network rules.

    Exits with 0 if all holds, else with the code of the first check that failed: 4 for other than the golden scores.
    """
    from vpdist.commands.check import CheckRequest
    from vpdist.commands.check import check as compare
    from vpdist.models.download_display import shown_on

    OPTIONS["dtype"].check("dtype", dtype)
    OPTIONS["device"].check("device", device)
    OPTIONS["threads"].check("threads", threads)
    request = CheckRequest(model=model, dtype=dtype, device=device, threads=threads, offline=offline, write=write)
    if write:
        if folder is not None or as_json:
            raise UsageError("--write checks nothing: --folder and --json are not for it")
        typer.echo(printable_lines(compare(request, shown_on(sys.stderr))))
        return
    from vpdist.commands import check_installation

    found = []
    for verdict in check_installation.verdicts(request, folder, shown_on(sys.stderr)):
        found.append(verdict)
        if not as_json:
            typer.echo(printable_lines(verdict.line()))
    if as_json:
        typer.echo(json.dumps(check_installation.as_json(found), indent=2))
    raise typer.Exit(check_installation.exit_code(found))
